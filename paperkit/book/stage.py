"""The staged copy: what is executed and rendered, with the outputs that still hold."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from paperkit.book.digest import Sources, notebook_digest
from paperkit.book.layout import BookError, Layout, Page

Cell = dict[str, Any]
Notebook = dict[str, Any]

_IMAGES = {".png", ".svg", ".webp", ".jpg", ".gif"}
_IGNORED = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".DS_Store")


@dataclass(frozen=True)
class Staged:
    """A staged notebook.

    Attributes
    ----------
    page : Page
        Its page.
    path : Path
        The ``.ipynb``.
    current : bool
        Whether it holds the outputs of this code, these data and this library, complete and without
        an error.
    seconds : float
        How long the last execution took; 0 if there was none.
    needs_models : bool
        Whether it reaches ``paperkit.models`` (the weights are then unpacked before the run).
    """

    page: Page
    path: Path
    current: bool
    seconds: float
    needs_models: bool


def stage(layout: Layout) -> list[Staged]:
    """Bring the staged copy in line with the sources.

    Unchanged notebooks are left alone to the byte; a notebook in which only prose changed keeps its
    outputs; one whose digest changed loses them. Files whose source is gone are deleted.

    Parameters
    ----------
    layout : Layout
        The book.

    Returns
    -------
    list of Staged
        All notebooks, in the order of the book.

    Raises
    ------
    BookError
        If the table of contents and the files disagree, or a notebook cannot be read.
    """
    pages = layout.pages
    staged = layout.staged
    staged.mkdir(parents=True, exist_ok=True)
    kept = {staged / "_toc.yml", staged / "_config.yml", staged / "ledger.json"}
    _copy(layout.root / "_toc.yml", staged / "_toc.yml")
    _write(staged / "_config.yml", _without_execution(layout.root / "_config.yml"))
    kept |= set(_copy_tree(layout.root / "book", staged / "book"))
    for page in pages:
        if page.is_notebook:
            continue
        target = layout.staged_path(page)
        kept.add(target)
        _copy(page.source, target)
    for chapter in layout.chapters:
        folder = layout.root / "notebooks" / chapter
        if (folder / "claims.yml").is_file():
            target = staged / "notebooks" / chapter / "claims.yml"
            _copy(folder / "claims.yml", target)
            kept.add(target)
        for image in sorted(folder.rglob("*")):
            if image.suffix in _IMAGES:
                target = staged / image.relative_to(layout.root)
                _copy(image, target)
                kept.add(target)

    sources = Sources(layout.root)
    seconds = recorded_seconds(layout)
    results: list[Staged] = []
    faults: list[str] = []
    for page in layout.notebooks:
        kept.add(layout.staged_path(page))
        try:
            results.append(_stage_notebook(layout, page, sources, seconds))
        except BookError as error:
            faults += error.faults
    if faults:
        raise BookError(faults)
    _delete_others(staged, kept)
    return results


def _stage_notebook(
    layout: Layout, page: Page, sources: Sources, seconds: dict[str, float]
) -> Staged:
    target = layout.staged_path(page)
    text = page.source.read_bytes()
    source_sum = hashlib.sha256(text).hexdigest()
    old = read_notebook(target)
    mark = _mark(old)
    new = old if mark.get("source") == source_sum else _convert(page)
    assert new is not None
    cells = [
        (cell_source(cell), cell["metadata"].get("tags", []))
        for cell in new["cells"]
        if cell["cell_type"] == "code"
    ]
    digest = notebook_digest(layout, page, cells, sources)
    same_digest = mark.get("digest") == digest
    if new is not old:
        if old is not None and same_digest:
            _carry_outputs(old, new)
    elif not same_digest:
        for cell in new["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"], cell["execution_count"] = [], None
                cell["metadata"].pop("execution", None)
    if new is not old or not same_digest:
        new["metadata"]["paperkit"] = {"digest": digest, "source": source_sum}
        _write(target, json.dumps(new, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    modules, _ = sources.reach([source for source, _ in cells])
    taken = seconds.get(page.name) or execution_seconds(new)
    return Staged(page, target, not faults_of(new), taken, "paperkit.models" in modules)


def _seconds_file(layout: Layout) -> Path:
    return layout.staged.with_name(f"{layout.staged.name}-seconds.json")


def recorded_seconds(layout: Layout) -> dict[str, float]:
    """How long each notebook took when it was last executed, from kernel start to kernel end.

    Parameters
    ----------
    layout : Layout
        The book.

    Returns
    -------
    dict of str to float
        Page name -> seconds; empty before the first run.
    """
    try:
        return json.loads(_seconds_file(layout).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def record_seconds(layout: Layout, new: dict[str, float]) -> None:
    """Keep the seconds of a run for the next one, beside those of the other notebooks.

    Parameters
    ----------
    layout : Layout
        The book.
    new : dict of str to float
        Page name -> seconds.
    """
    both = recorded_seconds(layout) | new
    known = {page.name for page in layout.notebooks}
    kept = {name: both[name] for name in sorted(both) if name in known}
    _write(_seconds_file(layout), json.dumps(kept, indent=1) + "\n")


def _convert(page: Page) -> Notebook:
    """Text notebook -> notebook without outputs, the same bytes for the same text."""
    import jupytext
    import nbformat

    try:
        notebook = jupytext.read(page.source, fmt="md:myst")
    except Exception as error:
        raise BookError(f"{page.name}.md cannot be read as a MyST notebook: {error}") from error
    if not any(cell.cell_type == "code" for cell in notebook.cells):
        raise BookError(
            f"{page.name}.md has a jupytext header and no code cell: remove one or add the other."
        )
    # jupytext draws random cell ids; with them every staging would change every file
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"c{number:03d}"
    # JupyterLab is reported to refuse a download that carries jupytext's own metadata
    notebook.metadata.pop("jupytext", None)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return json.loads(nbformat.writes(notebook))


def _carry_outputs(old: Notebook, new: Notebook) -> None:
    """Copy outputs, counts and timings cell by cell; equal digests mean equal code cells."""
    code_of = [[cell for cell in nb["cells"] if cell["cell_type"] == "code"] for nb in (old, new)]
    for before, after in zip(*code_of, strict=True):
        after["outputs"] = before["outputs"]
        after["execution_count"] = before["execution_count"]
        if "execution" in before["metadata"]:
            after["metadata"]["execution"] = before["metadata"]["execution"]
    if "language_info" in old["metadata"]:
        new["metadata"]["language_info"] = old["metadata"]["language_info"]


def read_notebook(path: Path) -> Notebook | None:
    """A staged notebook, or None if there is none that can be read.

    Parameters
    ----------
    path : Path
        An ``.ipynb``.

    Returns
    -------
    dict or None
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return notebook if isinstance(notebook, dict) and "cells" in notebook else None


def cell_source(cell: Cell) -> str:
    """Source of a cell as one string, however it is stored.

    Parameters
    ----------
    cell : dict
        A cell of a notebook.

    Returns
    -------
    str
    """
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def faults_of(notebook: Notebook | None) -> list[str]:
    """Why the outputs of a notebook are not complete; empty if they are.

    nbmake writes the file on failure too, so that a file with outputs proves nothing.

    Parameters
    ----------
    notebook : dict or None
        A staged notebook.

    Returns
    -------
    list of str
    """
    if notebook is None:
        return ["not staged"]
    faults = []
    for number, cell in enumerate(notebook["cells"]):
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] != "code" or not cell_source(cell).strip() or "skip-execution" in tags:
            continue
        if cell.get("execution_count") is None:
            faults.append(f"cell {number} was not executed")
        if "raises-exception" not in tags:
            faults += [
                f"cell {number} raised {output.get('ename', 'an error')}"
                for output in cell["outputs"]
                if output["output_type"] == "error"
            ]
    return faults


def cell_seconds(cell: Cell) -> float:
    """Seconds a code cell ran, from the time stamps that nbclient leaves; 0 without them.

    Parameters
    ----------
    cell : dict
        A code cell.

    Returns
    -------
    float
    """
    from datetime import datetime

    stamps = cell["metadata"].get("execution", {})
    start = stamps.get("iopub.execute_input") or stamps.get("iopub.status.busy")
    end = stamps.get("shell.execute_reply") or stamps.get("iopub.status.idle")
    if not start or not end:
        return 0.0
    # "Z" is read by fromisoformat since Python 3.11
    return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())


def execution_seconds(notebook: Notebook | None) -> float:
    """Seconds that the cells of a notebook ran.

    Parameters
    ----------
    notebook : dict or None
        A staged notebook.

    Returns
    -------
    float
    """
    cells = notebook["cells"] if notebook else []
    return sum(cell_seconds(cell) for cell in cells if cell["cell_type"] == "code")


def _mark(notebook: Notebook | None) -> dict[str, Any]:
    return notebook["metadata"].get("paperkit", {}) if notebook else {}


def _without_execution(config: Path) -> str:
    """The book's configuration with execution switched off, every other key as it is."""
    text = config.read_text(encoding="utf-8")
    # quoted: a bare off is a boolean in YAML
    changed, count = re.subn(r"(?m)^([^#\n]*\bexecute_notebooks\s*:\s*)[^\s,}#]+", r'\1"off"', text)
    before, after = yaml.safe_load(text), yaml.safe_load(changed)
    if count == 1 and isinstance(before.get("execute"), dict):
        before["execute"]["execute_notebooks"] = "off"
        if before == after:
            return changed
    raise BookError("_config.yml must set execute.execute_notebooks exactly once.")


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all; leave it alone if it has this text already."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _copy(source: Path, target: Path) -> None:
    stat = source.stat()
    if target.is_file():
        there = target.stat()
        if (there.st_size, there.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def _copy_tree(source: Path, target: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(source):
        ignored = _IGNORED(folder, names + files)
        names[:] = sorted(set(names) - ignored)
        for name in sorted(set(files) - ignored):
            path = Path(folder, name)
            goal = target / path.relative_to(source)
            _copy(path, goal)
            yield goal


def _delete_others(folder: Path, kept: set[Path]) -> None:
    """Delete files of the staged copy that no source stands for, then empty folders."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() or path.is_symlink():
            if path not in kept and "__pycache__" not in path.parts:
                path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()
