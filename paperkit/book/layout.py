"""Where the parts of the book lie, and which pages it has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml


class BookError(Exception):
    """The book cannot be built.

    Parameters
    ----------
    faults : sequence of str
        All faults found, each a complete sentence for the person who has to mend it.
    """

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))


@dataclass(frozen=True)
class Page:
    """One page of the table of contents.

    Attributes
    ----------
    name : str
        Path below the root without its ending, e.g. ``notebooks/risk_scores/01_idea``.
    source : Path
        The file it comes from.
    is_notebook : bool
        Whether the source is a text notebook (has a ``jupytext`` header).
    """

    name: str
    source: Path
    is_notebook: bool

    @property
    def chapter(self) -> str | None:
        """Short name of the chapter the page belongs to, or None."""
        parts = self.name.split("/")
        return parts[1] if parts[0] == "notebooks" and len(parts) > 2 else None

    @property
    def label(self) -> str:
        """Name for messages: ``risk_scores/01_idea``."""
        return self.name.removeprefix("notebooks/")


def front_matter(text: str) -> dict[str, Any]:
    """YAML header of a Markdown file; an empty dict if there is none.

    Parameters
    ----------
    text : str
        The whole file.

    Returns
    -------
    dict
        The parsed header.
    """
    if not text.startswith("---\n"):
        return {}
    head, found, _ = text[4:].partition("\n---")
    header = yaml.safe_load(head) if found else None
    return header if isinstance(header, dict) else {}


@dataclass(frozen=True)
class Layout:
    """Paths of one book, and its pages.

    Parameters
    ----------
    root : Path
        The repository.
    profile : str
        ``quick`` or ``full``. The two have separate staged copies, so that a long run of the one is
        not thrown away by the other.
    """

    root: Path
    profile: str = "quick"

    @classmethod
    def of(cls, root: Path | str | None = None, profile: str | None = None) -> Layout:
        """Layout of `root` (default: the repository that this package lies in).

        Parameters
        ----------
        root : path, optional
            Folder with ``_toc.yml``.
        profile : str, optional
            Default: ``PAPERKIT_PROFILE``, else ``quick``.

        Returns
        -------
        Layout

        Raises
        ------
        BookError
            If `root` has no ``_toc.yml`` or the profile is unknown.
        """
        where = Path(root) if root is not None else Path(__file__).parents[2]
        where = where.resolve()
        if not (where / "_toc.yml").is_file():
            raise BookError(f"{where} holds no _toc.yml: this is not the root of the book.")
        profile = profile or os.environ.get("PAPERKIT_PROFILE") or "quick"
        if profile not in ("quick", "full"):
            raise BookError(f"profile must be quick or full, got {profile!r}.")
        return cls(where, profile)

    @property
    def seed(self) -> str:
        """``PAPERKIT_SEED`` of this build."""
        return os.environ.get("PAPERKIT_SEED") or "0"

    @property
    def staged(self) -> Path:
        """Folder of the staged copy that is executed and rendered.

        Never ``_build``: nbmake refuses every path with a part of that name.
        """
        return self.root / "build" / ("book" if self.profile == "quick" else f"book-{self.profile}")

    @property
    def output(self) -> Path:
        """What ``jupyter-book build --path-output`` gets: it writes ``_build/html`` below it."""
        return self.root if self.profile == "quick" else self.root / "build" / self.profile

    @property
    def html(self) -> Path:
        """Folder of the rendered pages."""
        return self.output / "_build" / "html"

    @cached_property
    def pages(self) -> tuple[Page, ...]:
        """All pages in the order of ``_toc.yml``.

        Raises
        ------
        BookError
            Listing everything that is wrong: entries without a file, notebooks without an entry,
            chapters with claims and no notebook.
        """
        toc = yaml.safe_load((self.root / "_toc.yml").read_text(encoding="utf-8"))
        faults: list[str] = []
        pages: list[Page] = []
        for name in _toc_files(toc):
            name = name.removesuffix(".md")
            if any(page.name == name for page in pages):
                faults.append(f"_toc.yml lists {name} twice.")
                continue
            source = self.root / f"{name}.md"
            if not source.is_file():
                faults.append(f"_toc.yml lists {name}, but there is no {name}.md.")
                continue
            header = front_matter(source.read_text(encoding="utf-8"))
            pages.append(Page(name, source, "jupytext" in header))
        faults += self._forgotten(pages)
        if faults:
            raise BookError(faults)
        return tuple(pages)

    def _forgotten(self, pages: Sequence[Page]) -> Iterator[str]:
        listed = {page.name for page in pages}
        for path in sorted((self.root / "notebooks").glob("*/*.md")):
            name = path.relative_to(self.root).with_suffix("").as_posix()
            if name not in listed and "jupytext" in front_matter(path.read_text(encoding="utf-8")):
                yield f"{name}.md is a notebook that _toc.yml does not list: it would never run."
        for chapter in dict.fromkeys(page.chapter for page in pages if page.chapter):
            declares = (self.root / "notebooks" / chapter / "claims.yml").is_file()
            if declares and not any(p.chapter == chapter and p.is_notebook for p in pages):
                yield f"{chapter} has a claims.yml, but _toc.yml lists no notebook of that chapter."

    @property
    def in_preparation(self) -> tuple[str, ...]:
        """Chapters with declared claims and neither a page nor a notebook yet."""
        folders = sorted(path.parent.name for path in self.root.glob("notebooks/*/claims.yml"))
        return tuple(name for name in folders if name not in self.chapters)

    @property
    def notebooks(self) -> tuple[Page, ...]:
        """The pages that are executed."""
        return tuple(page for page in self.pages if page.is_notebook)

    @property
    def chapters(self) -> tuple[str, ...]:
        """Chapters with at least one page, in the order of the book."""
        return tuple(dict.fromkeys(page.chapter for page in self.pages if page.chapter))

    def staged_path(self, page: Page) -> Path:
        """Where the staged copy of a page lies.

        Parameters
        ----------
        page : Page
            A page of this book.

        Returns
        -------
        Path
            An ``.ipynb`` for notebooks, else an ``.md``.
        """
        return self.staged / (page.name + (".ipynb" if page.is_notebook else ".md"))

    def select(self, chapters: Sequence[str]) -> tuple[Page, ...]:
        """Notebooks of the given chapters; all notebooks if none is given.

        Parameters
        ----------
        chapters : sequence of str
            Chapter names (``risk_scores``) or single notebooks (``risk_scores/01_idea``).

        Returns
        -------
        tuple of Page

        Raises
        ------
        BookError
            If a name is neither.
        """
        chosen: list[Page] = []
        faults: list[str] = []
        for wanted in chapters:
            wanted = wanted.removeprefix("notebooks/").removesuffix(".md").strip("/")
            match = [page for page in self.notebooks if wanted in (page.chapter, page.label)]
            if not match:
                known = ", ".join(self.chapters) or "none yet"
                faults.append(
                    f"no chapter or notebook is called {wanted!r}; the chapters are: {known}."
                )
            chosen += [page for page in match if page not in chosen]
        if faults:
            raise BookError(faults)
        return tuple(chosen) if chapters else self.notebooks


def _toc_files(node: Any) -> Iterator[str]:
    """All ``file`` and ``root`` entries of a parsed table of contents, in reading order."""
    if isinstance(node, dict):
        for key in ("root", "file"):
            if key in node:
                yield str(node[key])
        for value in node.values():
            if isinstance(value, list):
                yield from _toc_files(value)
    elif isinstance(node, list):
        for item in node:
            yield from _toc_files(item)
