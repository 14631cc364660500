"""The parts of pages that are made from files: the cards of the chapters, and the credits.

A page holds a marker such as ``<!-- credits -->`` where its part belongs; :func:`fill` replaces the
markers in the staged copy. Parts that need the ledger are made by :mod:`paperkit.book.ledger`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

ROMAN = ("I", "II", "III", "IV", "V")


def fill(root: Path, staged: Path) -> list[Path]:
    """Replace the markers in the staged pages.

    Parameters
    ----------
    root : Path
        The repository.
    staged : Path
        The staged copy, with its ``_toc.yml`` and its pages under ``book``.

    Returns
    -------
    list of Path
        The pages that were changed.

    Raises
    ------
    ValueError
        If a file that a part is made from is malformed; the message names it.
    """
    parts: dict[str, tuple[str, Callable[[], str]]] = {
        "intro": ("<!-- chapters -->", lambda: chapter_cards(root, staged)),
        "credits": ("<!-- credits -->", lambda: credits(root)),
    }
    changed = []
    for page, (marker, part) in parts.items():
        path = staged / "book" / f"{page}.md"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if marker in text:
            path.write_text(text.replace(marker, part()), encoding="utf-8")
            changed.append(path)
    return changed


def table(columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]], *, caption: str) -> str:
    """An HTML table that turns into labelled blocks on a phone.

    Parameters
    ----------
    columns : mapping of str to str
        Key in a row -> heading.
    rows : iterable of mapping
        Values are text; one that starts with ``<`` is HTML already, one that is a web address
        becomes a link.
    caption : str
        What the table shows.

    Returns
    -------
    str
        One line of HTML.
    """

    def cell(key: str, value: Any) -> str:
        text = "" if value is None else str(value)
        if re.fullmatch(r"https?://\S+", text):
            text = f'<a href="{escape(text)}">{escape(text.split("://")[1].rstrip("/"))}</a>'
        elif not text.startswith("<"):
            text = re.sub(r"(?<=[\w.])/(?=\w)", "/<wbr>", escape(text))
        return f'<td data-label="{escape(columns[key])}">{text}</td>'

    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in columns.values())
    body = "".join(
        f"<tr>{''.join(cell(key, row.get(key)) for key in columns)}</tr>" for row in rows
    )
    return (
        f'<div class="pk-table" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f'<table class="table pk-credits"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def chapter_cards(root: Path, staged: Path) -> str:
    """The nine chapters as cards with their pictures; only chapters in the book are links.

    Parameters
    ----------
    root, staged : Path
        As for :func:`fill`.

    Returns
    -------
    str
        HTML.
    """
    toc = (staged / "_toc.yml").read_text(encoding="utf-8")
    present = set(re.findall(r"^[^#\n]*\bnotebooks/(\w+)/index\b", toc, flags=re.M))
    out = []
    parts = yaml.safe_load((root / "book" / "chapters.yml").read_text(encoding="utf-8"))
    for numeral, part in zip(ROMAN, parts, strict=False):
        cards = "".join(_card(root, chapter, present) for chapter in part["chapters"])
        out.append(
            f'<section class="pk-part" aria-label="Part {numeral}: {escape(part["part"])}">'
            f'<h3><span class="pk-roman">{numeral}</span> {escape(part["part"])}</h3>'
            f'<ul class="pk-cards">{cards}</ul></section>'
        )
    return "\n".join(out)


def _card(root: Path, chapter: Mapping[str, str], present: set[str]) -> str:
    name = chapter["name"]
    picture = (root / "book" / "_static" / "chapters" / f"{name}.svg").read_text(encoding="utf-8")
    picture = picture.strip().replace(
        "<svg ", f'<svg role="img" aria-label="{escape(chapter["picture"])}" ', 1
    )
    title = escape(chapter["title"])
    if name in present:
        title = f'<a class="pk-card-link" href="../notebooks/{name}/index.html">{title}</a>'
        state = '<p class="pk-card-state" aria-hidden="true">Read the chapter</p>'
    else:
        state = '<p class="pk-card-state">In preparation</p>'
    return (
        f'<li class="{"pk-ready" if name in present else "pk-planned"}">{picture}'
        f'<p class="pk-card-title">{title}</p><p>{escape(chapter["idea"])}</p>'
        f'<p class="pk-card-paper">{escape(chapter["authors"])}, '
        f"<cite>{escape(chapter['paper'])}</cite>, {escape(chapter['venue'])}</p>{state}</li>"
    )


def _read_csv(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file; no rows if there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = set(required) - set(reader.fieldnames or required)
        if missing:
            raise ValueError(f"{path.name}: the columns {sorted(missing)} are missing")
        return list(reader)


def credits(root: Path) -> str:
    """Data sets, model weights and vendored assets with source and licence.

    Parameters
    ----------
    root : Path
        The repository.

    Returns
    -------
    str
        HTML and Markdown headings.
    """
    columns = {
        "name": "Name",
        "source": "Source",
        "version": "Version",
        "licence": "Licence",
        "changes": "What we changed",
    }
    data = _read_csv(
        root / "paperkit" / "data" / "SOURCES.csv", ["name", "source", "version", "licence"]
    )
    weights = _read_csv(root / "book" / "weights.csv", ["package", *columns])
    assets = _read_csv(root / "book" / "_static" / "vendor" / "assets.csv", ["name", "licence"])
    shipped = (
        table(
            columns,
            data,
            caption="Every file under paperkit/data, those that we wrote or trained too.",
        )
        if data
        else "No data set is shipped yet."
    )
    packaged = table(
        {"name": "Model", "package": "Package", **dict(list(columns.items())[1:])},
        weights,
        caption="Weights that the set-up installs as packages, each pinned to its SHA-256 sum.",
    )
    vendored = table(
        {"name": "Name", "source": "Source", "version": "Version", "licence": "Licence"}
        | {"role": "What it does"},
        assets,
        caption="Files under book/_static/vendor, as published; pages load nothing from outside.",
    )
    return (
        f"## Data sets and texts\n\n{shipped}\n\n## Model weights\n\n{packaged}\n\n"
        f"## Assets of the pages\n\n{vendored}\n\n"
        "The interactive figures use plotly.js (MIT licence), copied from the installed plotly "
        "when the pages are made."
    )
