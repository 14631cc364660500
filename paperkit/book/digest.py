"""What the outputs of a notebook depend on, as one digest.

A notebook is executed again when its digest changes. In it: the code cells with their tags; every
``paperkit`` module that the code imports, directly or through other modules; the data, results and
claims of its chapter; the lock file; profile, seed, device and Python version. Prose is not in it.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from paperkit.book.layout import Layout, Page

PACKAGE = "paperkit"
_IGNORED = {"__pycache__", ".DS_Store", ".ipynb_checkpoints"}


class Sources:
    """The package's files as a graph of imports; each file is read once.

    Parameters
    ----------
    root : Path
        Folder that holds the ``paperkit`` package.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sums: dict[Path, str] = {}
        self._scans: dict[Path, tuple[frozenset[str], frozenset[str]]] = {}

    def file_of(self, module: str) -> Path | None:
        """File of a module, or None if the package has no such module.

        Parameters
        ----------
        module : str
            Dotted name, e.g. ``paperkit.risk_scores``.

        Returns
        -------
        Path or None
        """
        base = self.root.joinpath(*module.split("."))
        for path in (base / "__init__.py", base.with_suffix(".py")):
            if path.is_file():
                return path
        return None

    def checksum(self, path: Path) -> str:
        """Sha256 of a file.

        Parameters
        ----------
        path : Path
            An existing file.

        Returns
        -------
        str
            Hexadecimal digits.
        """
        if path not in self._sums:
            with path.open("rb") as file:
                self._sums[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._sums[path]

    def closure(self, code: Iterable[str]) -> tuple[dict[str, Path], set[str]]:
        """All modules of the package that some code reaches through imports.

        Parameters
        ----------
        code : iterable of str
            Python sources.

        Returns
        -------
        modules : dict of str to Path
            Module name -> file.
        strings : set of str
            String constants of the code and of those modules that contain a slash: names of data
            files.
        """
        waiting: list[str] = []
        strings: set[str] = set()
        for source in code:
            names, texts = _scan(source, package=None)
            waiting += names
            strings |= texts
        found: dict[str, Path] = {}
        while waiting:
            module = waiting.pop()
            # importing a.b.c runs a and a.b first
            parts = module.split(".")
            for end in range(1, len(parts) + 1):
                name = ".".join(parts[:end])
                path = None if name in found else self.file_of(name)
                if path is None:
                    continue
                found[name] = path
                if path not in self._scans:
                    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
                    text = path.read_text(encoding="utf-8")
                    imported, texts = _scan(text, package=package)
                    self._scans[path] = frozenset(imported), frozenset(texts)
                imported_there, texts_there = self._scans[path]
                waiting += imported_there
                if path.name == "__init__.py" and f"{name}.__getattr__" in imported_there:
                    # a package that loads its modules on first use: all of them may be reached
                    waiting += [f"{name}.{file.stem}" for file in path.parent.glob("*.py")]
                strings |= texts_there
        return found, strings

    def reach(self, cells: Iterable[str]) -> tuple[dict[str, Path], set[str]]:
        """Like `closure`, for the cells of a notebook; a cell that is not Python reaches
        everything.

        Parameters
        ----------
        cells : iterable of str
            Sources of code cells, with or without magics.

        Returns
        -------
        modules, strings
            As for `closure`.
        """
        try:
            return self.closure([plain_python(cell) for cell in cells])
        except SyntaxError:
            return self.everything(), set()

    def everything(self) -> dict[str, Path]:
        """All modules of the package: what a cell that cannot be parsed is taken to import.

        Returns
        -------
        dict of str to Path
        """
        found = {}
        for path in sorted((self.root / PACKAGE).rglob("*.py")):
            parts = path.relative_to(self.root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        return found


def _scan(source: str, package: str | None) -> tuple[set[str], set[str]]:
    """Names of `PACKAGE` modules imported in `source`, and its string constants with a slash."""
    names: set[str] = set()
    texts: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                if package is None:
                    continue
                parts = package.split(".")
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            # "from a import b": b is a module or a name in a; file_of tells them apart
            names.add(base)
            names |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))  # "import paperkit" and then "paperkit.claims.chapter"
        elif isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
            names.add(f"{package}.__getattr__")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "/" in node.value:
            texts.add(node.value)
    return {name for name in names if name.split(".")[0] == PACKAGE}, texts


def plain_python(cell: str) -> str:
    """Code of a cell without IPython's own syntax (magics, shell lines).

    Parameters
    ----------
    cell : str
        Source of a code cell.

    Returns
    -------
    str
        Python that :mod:`ast` can read.

    Raises
    ------
    SyntaxError
        If it is not Python even then.
    """
    try:
        ast.parse(cell)
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager

        cell = TransformerManager().transform_cell(cell)
        ast.parse(cell)
    return cell


def notebook_digest(
    layout: Layout, page: Page, cells: Sequence[tuple[str, Sequence[str]]], sources: Sources
) -> str:
    """Digest of everything that the outputs of a notebook depend on.

    Parameters
    ----------
    layout : Layout
        The book.
    page : Page
        The notebook.
    cells : sequence of (str, sequence of str)
        Source and tags of each code cell.
    sources : Sources
        The package; share one between notebooks.

    Returns
    -------
    str
        Hexadecimal digits.
    """
    total = hashlib.sha256()
    for part in _parts(layout, page, cells, sources):
        total.update(part.encode())
        total.update(b"\0")
    return total.hexdigest()


def _parts(
    layout: Layout, page: Page, cells: Sequence[tuple[str, Sequence[str]]], sources: Sources
) -> Iterator[str]:
    root = layout.root
    yield "1"  # of this list: raise it when the list below changes
    yield f"python {sys.version_info[0]}.{sys.version_info[1]}"
    yield f"profile {layout.profile}"
    yield f"seed {layout.seed}"
    yield f"device {os.environ.get('PAPERKIT_DEVICE', '')}"
    for source, tags in cells:
        yield f"cell {','.join(sorted(tags))}\n{source}"
    modules, strings = sources.reach([source for source, _ in cells])

    files: set[Path] = set(modules.values())
    for name, path in modules.items():
        if path.name == "__init__.py" and name not in (PACKAGE, f"{PACKAGE}.data"):
            files |= {file for file in _files(path.parent) if file.suffix != ".py"}
    owners = {name.split(".")[1] for name in modules if "." in name}
    owners |= {text.split("/")[0] for text in strings}
    if page.chapter:
        owners.add(page.chapter)
        files |= set(_files(root / "notebooks" / page.chapter / "results"))
        files.add(root / "notebooks" / page.chapter / "claims.yml")
    data = root / PACKAGE / "data"
    # any string of the code may be an owner, docstrings included: look for the folders that exist
    for folder in sorted(data.iterdir()) if data.is_dir() else ():
        if folder.is_dir() and folder.name in owners:
            files |= set(_files(folder))
    files.add(root / "constraints.txt")
    if f"{PACKAGE}.models" in modules:
        files.add(root / "models.txt")
    for file in sorted(file for file in files if file.is_file()):
        yield f"file {file.relative_to(root).as_posix()} {sources.checksum(file)}"
    table = data / "SOURCES.csv"
    if table.is_file():
        for line in table.read_text(encoding="utf-8").splitlines():
            if line.strip('"').split("/")[0] in owners:
                yield f"source {line}"


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not _IGNORED.intersection(path.parts):
                yield path
