"""The ledger: what the notebooks recorded against what ``claims.yml`` declares, and its pages.

A claim that is declared and never recorded, recorded and never declared, recorded twice, or judged
otherwise than the file demands stops the build. The pages are made from the rows that the executed
notebooks carry in the metadata of their outputs, so that they show what was tested.
"""

from __future__ import annotations

import html
import json
import platform
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from paperkit import claims
from paperkit.book.layout import BookError, Layout, Page
from paperkit.book.stage import (
    cell_seconds,
    execution_seconds,
    faults_of,
    read_notebook,
    recorded_seconds,
)

#: Distributions whose versions the ledger names.
PACKAGES = (
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "torch",
    "transformers",
    "diffusers",
    "pymc",
    "arviz",
    "matplotlib",
    "plotly",
    "jupyter-book",
    "jupytext",
    "nbmake",
)

_MARKER = re.compile(r"<!--\s*([a-z-]+)\s*-->")


@dataclass(frozen=True)
class Record:
    """One recorded claim.

    Attributes
    ----------
    page : Page
        The notebook that recorded it.
    seconds : float
        How long its cell ran.
    row : dict
        What :meth:`paperkit.claims.ChapterClaims.record` left in the output.
    """

    page: Page
    seconds: float
    row: dict[str, Any]


@dataclass(frozen=True)
class Chapter:
    """One chapter of the ledger.

    Attributes
    ----------
    name, title : str
        Short name, and the heading of its first page.
    file : ClaimsFile
        What is declared.
    rows : list of dict
        One for each declared claim, in the order of the file; see `paperkit.claims.ROW_KEYS`, and
        ``page`` (name of the page with the card, or None) and ``seconds``.
    seconds : float
        What executing its notebooks took.
    """

    name: str
    title: str
    file: claims.ClaimsFile
    rows: list[dict[str, Any]]
    seconds: float


def collect(layout: Layout) -> list[Record]:
    """All recorded claims of the staged notebooks, in the order of the book.

    Parameters
    ----------
    layout : Layout
        The book, executed.

    Returns
    -------
    list of Record

    Raises
    ------
    BookError
        If a notebook is not executed to its end.
    """
    records: list[Record] = []
    faults: list[str] = []
    for page in layout.notebooks:
        notebook = read_notebook(layout.staged_path(page))
        reasons = faults_of(notebook)
        if reasons or notebook is None:
            faults.append(f"{page.label} has no results: {'; '.join(reasons[:3])}.")
            continue
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                row = output.get("metadata", {}).get(claims.METADATA_KEY)
                if row is not None:
                    records.append(Record(page, cell_seconds(cell), row))
    if faults:
        raise BookError(faults)
    return records


def audit(layout: Layout, records: Sequence[Record]) -> list[Chapter]:
    """Compare records with declarations.

    Parameters
    ----------
    layout : Layout
        The book.
    records : sequence of Record
        From :func:`collect`.

    Returns
    -------
    list of Chapter
        The chapters that have claims.

    Raises
    ------
    BookError
        Listing every disagreement.
    """
    faults: list[str] = []
    chapters: list[Chapter] = []
    taken = recorded_seconds(layout)
    for name in layout.chapters:
        path = layout.root / "notebooks" / name / "claims.yml"
        mine = [record for record in records if record.page.chapter == name]
        if not path.is_file():
            faults += [
                f"{r.page.label} records {_id(r)}, but {name} has no claims.yml." for r in mine
            ]
            continue
        try:
            file = claims.read(path)
        except claims.ClaimsFileError as error:
            faults += [f"notebooks/{name}/claims.yml: {fault}" for fault in error.faults]
            continue
        faults += _disagreements(file, mine)
        by_id = {record.row.get("id"): record for record in mine}
        rows = []
        for claim in file.claims:
            record = by_id.get(claim.id)
            row = claim.row() | (record.row if record else {})
            row["page"] = record.page.name if record else None
            row["seconds"] = round(record.seconds, 2) if record else None
            rows.append(row)
        notebooks = [page for page in layout.notebooks if page.chapter == name]
        seconds = sum(_seconds_of(layout, page, taken) for page in notebooks)
        chapters.append(Chapter(name, _title(layout, name), file, rows, seconds))
    if faults:
        raise BookError(faults)
    return chapters


def _id(record: Record) -> str:
    return f"{record.row.get('chapter')}/{record.row.get('id')}"


def _disagreements(file: claims.ClaimsFile, records: Sequence[Record]) -> Iterator[str]:
    """Say where the records of one chapter do not fit its file."""
    declared = {claim.id: claim for claim in file.claims}
    seen: dict[str, Record] = {}
    for record in records:
        row, where = record.row, record.page.label
        id = str(row.get("id"))
        if row.get("chapter") != file.chapter or id not in declared:
            yield f"{where} records {_id(record)}, which no claims.yml of its chapter declares."
            continue
        if id in seen:
            yield f"{id} is recorded twice: in {seen[id].page.label} and in {where}."
            continue
        seen[id] = record
        claim = declared[id]
        if claim.condition is None:
            yield f"{where} records {id}, which is declared as not tested."
            continue
        # judged again from the file: what the notebook says of itself is not enough
        value = float("nan") if row.get("value") is None else row["value"]
        low, high = row.get("low"), row.get("high")
        interval = None
        if low is not None and high is not None:
            interval = claims.Interval(
                value, low, high, row.get("level") or 1.0, row.get("n"), str(row.get("method"))
            )
        elif claim.condition.needs_interval:
            needed = claim.condition.text
            yield f"{id} ({where}) was recorded without the interval that {needed!r} needs."
            continue
        held = None if claim.condition.reported else claim.condition.met(value, interval)
        verdict = claims.Verdict(
            id, value, interval, claim.condition.text, held, claim.expected, str(claim.kind)
        )
        if not verdict.ok:
            words = claims.VERDICTS[verdict.verdict][1]
            yield f"{id} ({where}) {words}: {row.get('ours')}, condition {claim.condition.text!r}."
        elif row.get("passes") != claim.condition.text or row.get("verdict") != verdict.verdict:
            judged = row.get("passes")
            yield f"{id} ({where}) was judged by {judged!r}, not by claims.yml; run it again."
    for id, claim in declared.items():
        if claim.tested and id not in seen:
            yield f"{file.chapter} declares {id}, and no notebook records it."


def _seconds_of(layout: Layout, page: Page, taken: dict[str, float]) -> float:
    return taken.get(page.name) or execution_seconds(read_notebook(layout.staged_path(page)))


def _title(layout: Layout, chapter: str) -> str:
    index = layout.root / "notebooks" / chapter / "index.md"
    if index.is_file():
        for line in index.read_text(encoding="utf-8").splitlines():
            if line.startswith("# "):
                return line[2:].strip()
    return chapter.replace("_", " ").capitalize()


def ledger(layout: Layout) -> list[Chapter]:
    """Check the claims, then fill the marked places of the staged pages and write ``ledger.json``.

    The marked places are lines of their own: ``<!-- ledger -->``, ``<!-- ledger-summary -->``,
    ``<!-- performance -->`` and, in the pages of a chapter, ``<!-- claims-table -->``.

    Parameters
    ----------
    layout : Layout
        The book, executed.

    Returns
    -------
    list of Chapter

    Raises
    ------
    BookError
        If records and declarations disagree, or a chapter's claims are shown on none of its pages.
    """
    chapters = audit(layout, collect(layout))
    by_name = {chapter.name: chapter for chapter in chapters}
    shown: set[str] = set()
    faults: list[str] = []
    for page in layout.pages:
        if page.is_notebook:
            continue
        path = layout.staged_path(page)
        lines = path.read_text(encoding="utf-8").splitlines()
        filled: list[str] = []
        for line in lines:
            match = _MARKER.fullmatch(line.strip())
            marker = match[1] if match else None
            if marker == "ledger":
                filled.append(ledger_page(layout, chapters, page))
            elif marker == "ledger-summary":
                filled.append(summary(chapters))
            elif marker == "performance":
                filled.append(performance(layout.root / "benchmarks" / "results"))
            elif marker == "claims-table":
                chapter = by_name.get(page.chapter or "")
                if chapter is None:
                    faults.append(f"{page.label} asks for a table of claims and has no claims.yml.")
                    continue
                shown.add(chapter.name)
                filled.append(claims_table(chapter, page))
            else:
                filled.append(line)
        if filled != lines:
            path.write_text("\n".join(filled) + "\n", encoding="utf-8")
    faults += [
        f"{name}: no page has the line <!-- claims-table -->."
        for name in by_name
        if name not in shown
    ]
    if faults:
        raise BookError(faults)
    (layout.staged / "ledger.json").write_text(
        json.dumps(as_json(layout, chapters), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    for line in overview(chapters):
        print(line)
    for name in layout.in_preparation:
        print(f"ledger: {name} has declared its claims and is not in the book yet")
    return chapters


# ------------------------------------------------------------------------------------- counting


def counts(rows: Sequence[dict[str, Any]]) -> Counter[str]:
    """How many rows have each verdict, plus ``live`` and ``stored``.

    Parameters
    ----------
    rows : sequence of dict
        Rows of the ledger.

    Returns
    -------
    collections.Counter
    """
    total: Counter[str] = Counter(row["verdict"] for row in rows)
    total.update(row["kind"] for row in rows if row["kind"])
    return total


def overview(chapters: Sequence[Chapter]) -> list[str]:
    """The counts of each chapter as lines for a terminal.

    Parameters
    ----------
    chapters : sequence of Chapter
        The ledger.

    Returns
    -------
    list of str
    """
    heads = ["claims", "hold", "not supported", "measured", "not tested", "live", "stored", "s"]
    keys = ["holds", "not supported", "reported", "not tested", "live", "stored"]
    lines = ["ledger: " + f"{'chapter':<28}" + "".join(f"{head:>15}" for head in heads)]
    for chapter in chapters:
        found = counts(chapter.rows)
        cells = [len(chapter.rows), *(found[key] for key in keys), round(chapter.seconds)]
        lines.append("        " + f"{chapter.name:<28}" + "".join(f"{cell:>15}" for cell in cells))
    return lines if chapters else ["ledger: no chapter declares claims yet"]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on.

    Returns
    -------
    dict of str to str
    """
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def as_json(layout: Layout, chapters: Sequence[Chapter]) -> dict[str, Any]:
    """The whole ledger for machines.

    Parameters
    ----------
    layout : Layout
        The book.
    chapters : sequence of Chapter
        Its ledger.

    Returns
    -------
    dict
        JSON values only.
    """
    taken = recorded_seconds(layout)
    return {
        "profile": layout.profile,
        "seed": layout.seed,
        "versions": versions(),
        "counts": dict(sorted(counts([row for c in chapters for row in c.rows]).items())),
        "chapters": {
            chapter.name: {
                "title": chapter.title,
                "seconds": round(chapter.seconds, 1),
                "abstract": [{"id": s.id, "says": s.says} for s in chapter.file.abstract],
                "claims": chapter.rows,
            }
            for chapter in chapters
        },
        "notebooks": {
            page.name: round(_seconds_of(layout, page, taken), 1) for page in layout.notebooks
        },
    }


# ---------------------------------------------------------------------------------------- pages


def _text(value: Any) -> str:
    """Text for HTML, with `code` between backticks, on one line."""
    plain = html.escape(" ".join(str(value).split()))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", plain)


def _link(row: dict[str, Any], page: Page) -> str | None:
    """Reference from a page to the card of a row."""
    if not row["page"]:
        return None
    path = posixpath.relpath(f"{row['page']}.html", posixpath.dirname(page.name) or ".")
    return f"{path}#claim-{row['chapter']}-{row['id']}"


def _verdict(row: dict[str, Any]) -> str:
    sign, words = claims.VERDICTS[row["verdict"]]
    slug = row["verdict"].replace(" ", "-")
    return f'<span class="pk-verdict pk-verdict-{slug}">{sign} {html.escape(words)}</span>'


def _table(
    label: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    ids: Sequence[str] = (),
    *,
    kind: str = "pk-claims",
) -> str:
    """HTML table that scrolls by itself where it is too wide.

    `rows` holds HTML, `kind` is the class that sets the widths of the columns.
    """
    lines = [
        f'<div class="pk-table" role="region" tabindex="0" aria-label="{html.escape(label)}">',
        f'<table class="table pk-ledger {kind}">',
        "<thead><tr>" + "".join(f'<th scope="col">{head}</th>' for head in heads) + "</tr></thead>",
        "<tbody>",
    ]
    for number, row in enumerate(rows):
        mark = f' id="{ids[number]}"' if ids else ""
        cells = "".join(
            f'<td data-label="{html.escape(head)}">{cell}</td>'
            for head, cell in zip(heads, row, strict=True)
        )
        lines.append(f"<tr{mark}>{cells}</tr>")
    return "\n".join([*lines, "</tbody></table></div>", ""])


def claims_table(chapter: Chapter, page: Page) -> str:
    """Table of a chapter's rows, linked to their cards.

    Parameters
    ----------
    chapter : Chapter
        The chapter.
    page : Page
        Where the table will stand.

    Returns
    -------
    str
        HTML.
    """
    rows = []
    for row in chapter.rows:
        link = _link(row, page)
        statement = _text(row["statement"])
        facts = [f"<code>{html.escape(row['id'])}</code>", _text(row["scope"])]
        if row["kind"]:
            facts.append(row["kind"])
        if row["seconds"]:
            facts.append(f"{row['seconds']:.1f} s")
        facts.append(f"source: {_text(row['source'])}")
        claim = f'<a href="{html.escape(link)}">{statement}</a>' if link else statement
        claim += f'<br><small class="pk-row-facts">{" · ".join(facts)}</small>'
        passes = row["passes"]
        if row["because"]:
            claim += f'<br><small class="pk-row-facts">{_text(row["because"])}</small>'
        rows.append(
            [
                claim,
                "–" if row["paper"] is None else _text(row["paper"]),
                _text(row["ours"]) if row["ours"] else "–",
                "–" if passes in (None, "reported") else f"<code>{_text(passes)}</code>",
                _verdict(row),
            ]
        )
    heads = ["Claim", "Paper", "Ours", "Passes if", "Verdict"]
    prefix = "row" if page.chapter is None else "here"
    ids = [f"{prefix}-{chapter.name}-{row['id']}" for row in chapter.rows]
    return _table(f"Claims of {chapter.title}", heads, rows, ids)


def summary(chapters: Sequence[Chapter]) -> str:
    """The counts of the whole book as a definition list.

    Parameters
    ----------
    chapters : sequence of Chapter
        The ledger.

    Returns
    -------
    str
        HTML; empty before the first chapter.
    """
    if not chapters:
        return ""
    found = counts([row for chapter in chapters for row in chapter.rows])
    entries = [
        ("chapters", len(chapters)),
        ("claims", sum(len(chapter.rows) for chapter in chapters)),
        ("hold", found["holds"]),
        ("not supported, as declared", found["not supported"]),
        ("measured, not judged", found["reported"]),
        ("not tested", found["not tested"]),
    ]
    cells = "".join(f"<div><dt>{term}</dt><dd>{number}</dd></div>" for term, number in entries)
    return f'<dl class="pk-counts">{cells}</dl>\n'


def ledger_page(layout: Layout, chapters: Sequence[Chapter], page: Page) -> str:
    """Body of the ledger page.

    Parameters
    ----------
    layout : Layout
        The book.
    chapters : sequence of Chapter
        Its ledger.
    page : Page
        Where the body will stand.

    Returns
    -------
    str
        Markdown with HTML blocks.
    """
    parts = [summary(chapters)]
    heads = ["Chapter", "Claims", "Hold", "Not supported", "Measured", "Not tested", "Stored", "s"]
    keys = ["holds", "not supported", "reported", "not tested", "stored"]
    rows = []
    for chapter in chapters:
        found = counts(chapter.rows)
        path = posixpath.relpath(
            f"notebooks/{chapter.name}/index.html", posixpath.dirname(page.name) or "."
        )
        rows.append(
            [f'<a href="{path}">{_text(chapter.title)}</a>', str(len(chapter.rows))]
            + [str(found[key]) for key in keys]
            + [f"{chapter.seconds:.0f}"]
        )
    parts.append(_table("Counts of each chapter", heads, rows))
    for chapter in chapters:
        parts.append(f"## {chapter.title}\n")
        parts.append(claims_table(chapter, page))
        parts.append("What the abstract says, and the rows that answer:\n")
        parts.append(_coverage(chapter))
    parts.append("## Execution\n")
    parts.append(
        "Seconds from the start of a notebook's kernel to its end, two notebooks side by side.\n"
    )
    taken = recorded_seconds(layout)
    times = [
        [
            f'<a href="{posixpath.relpath(p.name + ".html", posixpath.dirname(page.name) or ".")}">'
            f"{_text(p.label)}</a>",
            f"{_seconds_of(layout, p, taken):.1f}",
            "ran to its end",
        ]
        for p in layout.notebooks
    ]
    parts.append(_table("Execution of the notebooks", ["Notebook", "Seconds", "Status"], times))
    parts.append("## This build\n")
    facts = {"Profile": layout.profile, "Seed": layout.seed} | versions()
    parts.append(
        _table(
            "Versions",
            ["What", "Version"],
            [[_text(name), f"<code>{_text(value)}</code>"] for name, value in facts.items()],
        )
    )
    up = posixpath.relpath("ledger.json", posixpath.dirname(page.name) or ".")
    parts.append(f'<p>The same for machines: <a href="{up}">ledger.json</a>.</p>\n')
    return "\n".join(parts)


def _coverage(chapter: Chapter) -> str:
    rows = []
    for sentence in chapter.file.abstract:
        covering = [row for row in chapter.rows if sentence.id in row["covers"]]
        answers = "<br>".join(
            f'<a href="#row-{chapter.name}-{row["id"]}"><code>{row["id"]}</code></a>'
            f" {_verdict(row)}"
            for row in covering
        )
        rows.append([_text(sentence.says), answers])
    return _table(f"Abstract of {chapter.title}", ["The abstract says", "Rows"], rows)


def performance(folder: Path) -> str:
    """Tables of the committed benchmark results.

    Parameters
    ----------
    folder : Path
        Folder with one JSON file for each benchmark.

    Returns
    -------
    str
        Markdown with HTML blocks.

    Raises
    ------
    BookError
        If a file does not hold what it should.
    """
    parts: list[str] = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            rows = [
                [
                    _text(row["path"]),
                    _text(row["peer"]),
                    f"{row['ours']:.3g} {_text(row['unit'])}",
                    f"{row['theirs']:.3g} {_text(row['unit'])}",
                    f"<strong>{row['ratio']:.2g}</strong>"
                    + (f"<br><small>{_text(row['note'])}</small>" if row.get("note") else ""),
                ]
                for row in result["rows"]
            ]
            intro = f"Measured on {result['date']} by `{result['script']}`: {result['machine']}.\n"
        except (KeyError, TypeError, ValueError) as error:
            raise BookError(
                f"benchmarks/results/{path.name} cannot be shown: {error!r}."
            ) from error
        parts.append(f"## {path.stem.replace('_', ' ').capitalize()}\n")
        parts.append(intro)
        heads = ["What", "Peer", "Ours", "Peer's", "Ratio"]
        parts.append(_table(f"Benchmark {path.stem}", heads, rows, kind="pk-benchmark"))
    return "\n".join(parts) or "No benchmark has been recorded yet.\n"
