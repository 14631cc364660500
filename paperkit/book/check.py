"""Checks of the sources that need no execution: notebooks, bibliography, spelling."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from paperkit.book.layout import BookError, Layout, Page
from paperkit.book.stage import cell_source, read_notebook, stage

#: Longest line of notebook code: the text column of a page shows about 80 characters.
LINE_LENGTH = 79

#: Folders whose words are read by codespell; tests misspell on purpose.
_SPELLED = ("book", "notebooks", "paperkit", "scripts", "benchmarks")
_SPELLED_ENDINGS = {".md", ".py", ".yml", ".toml", ".cff", ".css", ".js"}
_CITE = re.compile(r"\{cite(?::[a-z]+)*\}`([^`]+)`")
#: The line under the names of a table's columns.
_RULE = re.compile(r"\s*\|(?:\s*:?-+:?\s*\|)+\s*")
_INSTALLS = re.compile(r"^\s*[%!]\s*(?:pip|conda|mamba|uv)\b", re.M)


def check(layout: Layout) -> None:
    """Check everything that can be checked without running a notebook.

    Parameters
    ----------
    layout : Layout
        The book. It is staged, since ruff reads the notebooks as ``.ipynb``.

    Raises
    ------
    BookError
        Listing all faults.
    """
    faults: list[str] = []
    staged = stage(layout)
    for item in staged:
        faults += _round_trip(layout, item.page)
        faults += _cells(item.page, item.path)
    faults += _tables(layout.root)
    faults += _bibliography(layout)
    faults += _ruff([str(item.path) for item in staged])
    faults += _spelling(layout.root)
    if faults:
        raise BookError(faults)
    print(f"sources: {len(staged)} notebooks, bibliography and spelling hold")


def _round_trip(layout: Layout, page: Page) -> Iterator[str]:
    """A notebook reads and writes back to the same bytes, so that saving makes no spurious diff."""
    import jupytext
    from jupytext.config import load_jupytext_config

    config = load_jupytext_config(str(layout.root / "notebooks"))
    text = page.source.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="md:myst", config=config)
    again = jupytext.writes(notebook, fmt="md:myst", config=config)
    if again == text:
        return
    lines = zip_longest(text.splitlines(), again.splitlines(), fillvalue="")
    different = ((n, *pair) for n, pair in enumerate(lines, 1) if pair[0] != pair[1])
    number, old, new = next(different, (0, "the end of the file", ""))
    yield (
        f"{page.name}.md, line {number}: jupytext would write {new!r} for {old!r};"
        f" run: jupytext --to md:myst {page.name}.md"
    )


def _cells(page: Page, path: Path) -> Iterator[str]:
    """House rules for the code cells of one notebook."""
    notebook = read_notebook(path)
    assert notebook is not None
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            continue
        source, where = cell_source(cell), f"{page.label}, cell {number}"
        for line in source.splitlines():
            if len(line) > LINE_LENGTH:
                yield f"{where}: {LINE_LENGTH} characters fit in a line: {line.strip()}"
        if _INSTALLS.search(source):
            yield f"{where} installs a package; dependencies belong in pyproject.toml."
        if "skip-execution" in cell["metadata"].get("tags", []):
            yield f"{where} is skipped; what is not executed is not tested."
        shown = cell["metadata"].get("mystnb", {})
        figure = shown.get("figure")
        if figure is None:
            continue
        prefix = f"fig-{page.chapter}-"
        if not str(figure.get("name", "")).startswith(prefix):
            yield f"{where}: the name of its figure must begin with {prefix}"
        if not str(figure.get("caption", "")).strip():
            yield f"{where}: its figure has no caption."
        if not str(shown.get("image", {}).get("alt", "")).strip():
            yield f"{where}: its figure has no text for those who cannot see it (image: alt)."


def _tables(root: Path) -> Iterator[str]:
    """Every column of a table has a name, which a screen reader says before each of its cells."""
    for folder in ("book", "notebooks"):
        for path in sorted((root / folder).rglob("*.md")):
            lines = path.read_text(encoding="utf-8").splitlines()
            for number, (head, rule) in enumerate(itertools.pairwise(lines), 1):
                if not _RULE.fullmatch(rule) or "|" not in head:
                    continue
                if any(not name.strip() for name in head.strip().strip("|").split("|")):
                    yield f"{path.relative_to(root)}, line {number}: a column has no name."


def _bibliography(layout: Layout) -> Iterator[str]:
    """The file parses, no key is double, every cited key exists."""
    from pybtex.database import parse_file
    from pybtex.exceptions import PybtexError

    path = layout.root / "book" / "references.bib"
    known: set[str] = set()
    if path.is_file():
        try:
            known = set(parse_file(str(path), bib_format="bibtex").entries)
        except PybtexError as error:
            yield f"book/references.bib: {error}"
            return
    for page in layout.pages:
        for keys in _CITE.findall(page.source.read_text(encoding="utf-8")):
            for key in keys.split(","):
                if key.strip() not in known:
                    yield f"{page.name}.md cites {key.strip()}, which book/references.bib lacks."


def _ruff(paths: Sequence[str]) -> Iterator[str]:
    if paths:
        done = _tool("ruff", "check", "--output-format", "concise", *paths)
        yield from _lines(done, "Found ")


def _spelling(root: Path) -> Iterator[str]:
    paths = [path for path in root.glob("*") if path.suffix in _SPELLED_ENDINGS]
    for folder in _SPELLED:
        for path in sorted((root / folder).rglob("*")):
            below = path.relative_to(root).parts
            if path.suffix in _SPELLED_ENDINGS and not {"vendor", "data", "results"} & set(below):
                paths.append(path)
    if paths:
        done = _tool("codespell_lib", *map(str, paths))
        yield from (line.replace(f"{root}/", "") for line in _lines(done, "Used config"))


def _tool(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _lines(done: subprocess.CompletedProcess[str], noise: str) -> list[str]:
    """Output of a tool that failed; a tool that failed silently is a fault too."""
    if not done.returncode:
        return []
    lines = [line for line in done.stdout.splitlines() if line.strip() and noise not in line]
    return lines or [f"{done.args[2]} failed with exit code {done.returncode}."]
