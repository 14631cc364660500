"""Offline check of the rendered pages: every reference resolves, nothing is loaded from outside."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from paperkit.book.layout import BookError

#: Largest size in bytes of one page, one picture, and the whole site.
PAGE_BUDGET = 1_500_000
IMAGE_BUDGET = 400_000
SITE_BUDGET = 75_000_000  # shared parts 20 MB, and about 5 MB a chapter with its downloads

_IMAGES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg"}
# attributes through which a browser loads something as soon as it sees the element
_LOADING = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "track": ("src",),
    "iframe": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "input": ("src",),
    "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
}
_LOADING_LINKS = {
    "stylesheet",
    "icon",
    "shortcut",
    "apple-touch-icon",
    "mask-icon",
    "manifest",
    "preload",
    "prefetch",
    "modulepreload",
    "preconnect",
    "dns-prefetch",
}
_IN_STYLE = re.compile(r"""url\(\s*['"]?([^'")]+)['"]?\s*\)|@import\s+['"]([^'"]+)['"]""")


@dataclass
class PageLinks(HTMLParser):
    """What one HTML file refers to, and which places in it can be referred to.

    Attributes
    ----------
    ids : set of str
        Values of ``id`` and ``name``.
    links : list of str
        References that are followed on a click.
    loads : list of str
        References that a browser loads by itself.
    """

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the references of one element."""
        values = {name: value.strip() for name, value in attrs if value is not None}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        self._in_style = tag == "style"
        if "style" in values:
            self.loads += in_style(values["style"])
        if tag in ("a", "area") and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and "href" in values:
            kinds = set(values.get("rel", "").lower().split())
            (self.loads if kinds & _LOADING_LINKS else self.links).append(values["href"])
        elif tag == "meta" and values.get("http-equiv", "").lower() == "refresh":
            target = values.get("content", "").partition("url=")[2].strip("'\" ")
            self.loads += [target] if target else []
        for name in _LOADING.get(tag, ()):
            if name == "srcset":
                parts = values.get(name, "").split(",")
                self.loads += [part.split()[0] for part in parts if part.strip()]
            elif values.get(name):
                self.loads.append(values[name])

    def handle_data(self, data: str) -> None:
        """Collect the references of a style element."""
        if self._in_style:
            self.loads += in_style(data)

    def handle_endtag(self, tag: str) -> None:
        """Leave a style element."""
        self._in_style = False


def in_style(text: str) -> list[str]:
    """References in CSS.

    Parameters
    ----------
    text : str
        A style sheet or the value of a ``style`` attribute.

    Returns
    -------
    list of str
    """
    return [first or second for first, second in _IN_STYLE.findall(text)]


def read_page(path: Path) -> PageLinks:
    """Parse one HTML file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    PageLinks
    """
    page = PageLinks()
    page.feed(path.read_text(encoding="utf-8", errors="replace"))
    page.close()
    return page


def is_external(reference: str) -> bool:
    """Whether a reference leaves the site.

    Parameters
    ----------
    reference : str
        Value of an attribute.

    Returns
    -------
    bool
    """
    parts = urlsplit(reference)
    return bool(parts.netloc) or parts.scheme in ("http", "https", "ftp", "ws", "wss")


def check_site(site: Path) -> dict[str, int]:
    """Check all pages of a rendered book.

    Parameters
    ----------
    site : Path
        Folder with ``index.html``.

    Returns
    -------
    dict of str to int
        ``pages``, ``references`` and ``external`` (links to other sites: listed in
        ``external-links.txt`` beside the site, never fetched).

    Raises
    ------
    BookError
        Listing broken references and fragments, everything that is loaded from outside, and files
        over their budget.
    """
    started = time.monotonic()
    if not (site / "index.html").is_file():
        raise BookError(f"there is no rendered book in {site}.")
    site = site.resolve()
    # the theme leaves templates of its own among the static files
    unread = {"_static", "_sources"}
    pages = {
        path: read_page(path)
        for path in sorted(site.rglob("*.html"))
        if not unread.intersection(path.relative_to(site).parts)
    }
    external: set[str] = set()
    faults: list[str] = []
    count = 0
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()
        for reference in page.loads:
            count += 1
            if is_external(reference):
                faults.append(f"{name} loads {reference} from outside.")
            else:
                faults += _broken(site, path, reference, pages)
        for reference in page.links:
            count += 1
            if is_external(reference):
                external.add(reference)
            else:
                faults += _broken(site, path, reference, pages)
    for path in sorted(site.rglob("*.css")):
        for reference in in_style(path.read_text(encoding="utf-8", errors="replace")):
            count += 1
            if is_external(reference):
                faults.append(
                    f"{path.relative_to(site).as_posix()} loads {reference} from outside."
                )
    faults += _over_budget(site)
    (site.parent / "external-links.txt").write_text(
        "".join(f"{link}\n" for link in sorted(external)), encoding="utf-8"
    )
    if faults:
        raise BookError(list(dict.fromkeys(faults)))
    print(
        f"links: {count} references on {len(pages)} pages hold, nothing is loaded from outside,"
        f" {len(external)} links to other sites ({time.monotonic() - started:.1f} s)"
    )
    return {"pages": len(pages), "references": count, "external": len(external)}


def _broken(
    site: Path, path: Path, reference: str, pages: Mapping[Path, PageLinks]
) -> Iterator[str]:
    """Say what is wrong with a reference inside the site."""
    parts = urlsplit(reference)
    if parts.scheme in ("data", "mailto", "javascript", "blob", "about"):
        return
    name = path.relative_to(site).as_posix()
    if parts.scheme:
        yield f"{name} refers to {reference}, which is on one machine only."
        return
    target = path
    if parts.path:
        base = site if parts.path.startswith("/") else path.parent
        target = (base / unquote(parts.path).lstrip("/")).resolve()
        if target.is_dir():
            target = target / "index.html"
        if not target.is_relative_to(site) or not target.is_file():
            yield f"{name} refers to {reference}, which does not exist."
            return
        if parts.path.startswith("/"):
            yield f"{name} refers to {reference} from the root of a server."
            return
    fragment = unquote(parts.fragment)
    if (
        fragment
        and fragment != "top"
        and target in pages
        and fragment not in pages[target].ids
        and not fragment.startswith(":~:")
    ):
        yield f"{name} refers to {reference}, but there is no place of that name."


def _over_budget(site: Path) -> Iterator[str]:
    total = 0
    for path in sorted(site.rglob("*")):
        if not path.is_file():
            continue
        size = path.stat().st_size
        total += size
        limit = {".html": PAGE_BUDGET}.get(path.suffix) or (
            IMAGE_BUDGET if path.suffix in _IMAGES else None
        )
        if limit and size > limit:
            name = path.relative_to(site).as_posix()
            yield f"{name} has {size:,} bytes; {limit:,} are allowed."
    if total > SITE_BUDGET:
        yield f"the site has {total:,} bytes; {SITE_BUDGET:,} are allowed."
