"""Real data with provenance, and the stored outputs of long runs.

Two places, one rule. What a *library function* needs (tables, texts, prompts, tokenizers,
checkpoints) lies beside this file, under ``<chapter>/``, and has a row in ``SOURCES.csv`` with its
source, licence and sum. What a *script measured* and pages show lies under
``notebooks/<chapter>/results/``, each file with a record of the script, settings and seeds behind
it. Both are read by name, never by a path, and their sums are checked.

Files are csv, parquet, json, txt, md or safetensors: nothing here can execute code when it is read.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import math
import numbers
import os
import platform
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from paperkit import profiles

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = [
    "COLUMNS",
    "DataCorrupt",
    "StoredResultMissing",
    "arrays",
    "path",
    "register",
    "save_stored",
    "sources",
    "stored",
    "stored_record",
    "table",
    "text",
]

COLUMNS = (
    "name",
    "file",
    "sha256",
    "source",
    "version",
    "licence",
    "licence_file",
    "script",
    "changes",
)
"""Columns of ``SOURCES.csv``. Paths are relative to this folder, `script` to the clone."""

LIMIT = 10_000_000  # bytes a committed file may have

FOLDER = Path(__file__).resolve().parent
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_DATA_NAME = re.compile(rf"{_NAME.pattern}(/{_NAME.pattern})+")
_FORMATS = (".parquet", ".json", ".safetensors")
_checked: dict[tuple[Path, str], None] = {}


class DataCorrupt(RuntimeError):
    """A file is missing, or its content is not what its row or record says."""


class StoredResultMissing(FileNotFoundError):
    """There is no stored result of that name."""


# ---------------------------------------------------------------------------------- data sets


def sources() -> pd.DataFrame:
    """Return where every file comes from, one row each.

    Returns
    -------
    pandas.DataFrame
        The columns :data:`COLUMNS`, all text; empty where nothing is known.

    Raises
    ------
    DataCorrupt
        If ``SOURCES.csv`` has other columns, an empty required field, or a name twice.
    """
    import pandas as pd

    return pd.DataFrame(list(_sources().values()), columns=list(COLUMNS))


def path(name: str) -> Path:
    """Return the path of a file after its sum was checked (once per process).

    Parameters
    ----------
    name : str
        ``"<chapter>/<file stem>"``, as in the first column of ``SOURCES.csv``.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    KeyError
        If there is no such name; the message lists the names there are.
    DataCorrupt
        If the file is missing or its sha256 is not the one in ``SOURCES.csv``.
    """
    rows = _sources()
    if name not in rows:
        near = difflib.get_close_matches(str(name), list(rows), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"no data {name!r}{hint} There is: {', '.join(sorted(rows)) or 'nothing'}")
    row = rows[name]
    file = FOLDER / row["file"]
    _verify(file, row["sha256"], f"data {name!r}")
    return file


def table(name: str) -> pd.DataFrame:
    """Read a table, csv or parquet; errors as :func:`path`, and ValueError for another format.

    Parameters
    ----------
    name : str
        ``"<chapter>/<file stem>"``.
    """
    import pandas as pd

    file = _of_format(name, ".csv", ".parquet")
    return pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)


def text(name: str) -> str:
    """Read a text (txt, md, json); errors as :func:`path`, ValueError for another format.

    Parameters
    ----------
    name : str
        ``"<chapter>/<file stem>"``.
    """
    return _of_format(name, ".txt", ".md", ".json").read_text(encoding="utf-8")


def arrays(name: str) -> dict[str, np.ndarray]:
    """Read named arrays (safetensors); errors as :func:`path`, ValueError for another format.

    Parameters
    ----------
    name : str
        ``"<chapter>/<file stem>"``.
    """
    from safetensors.numpy import load_file

    return load_file(_of_format(name, ".safetensors"))


def register(
    name: str,
    file: str | Path,
    *,
    source: str,
    version: str,
    licence: str,
    licence_file: str = "",
    script: str,
    changes: str = "",
) -> None:
    """Write the row of a file into ``SOURCES.csv``, in place of an earlier row of that name.

    Scripts that extract data call this at their end, so that no sum is typed by hand.

    Parameters
    ----------
    name : str
        ``"<chapter>/<file stem>"``.
    file : str or pathlib.Path
        The file, already in its place below this folder.
    source : str
        Where it comes from: an address or a full citation.
    version : str
        Version or date of the source.
    licence : str
        As the source declares it, an SPDX name where there is one.
    licence_file : str
        The licence's text below this folder, where one must go with the data.
    script : str
        The script that made the file, relative to the clone.
    changes : str
        What was changed, for example columns that were left out.

    Raises
    ------
    ValueError
        If a required field is empty, the name does not fit the file, the file is larger than 10 MB,
        or a named file does not exist.
    """
    file = Path(file).resolve()
    required = {"source": source, "version": version, "licence": licence, "script": script}
    for field, value in required.items():
        if not value.strip():
            raise ValueError(f"{field} must not be empty")
    if not _DATA_NAME.fullmatch(name):
        raise ValueError(f"name must look like 'chapter/file_stem', got {name!r}")
    if not file.is_file() or FOLDER not in file.parents:
        raise ValueError(f"file must lie below {FOLDER}, got {file}")
    relative = file.relative_to(FOLDER).as_posix()
    if str(PurePosixPath(relative).with_suffix("")) != name:
        raise ValueError(f"name {name!r} does not fit the file {relative!r}")
    if file.stat().st_size > LIMIT:
        raise ValueError(f"{relative} has {file.stat().st_size:,} bytes; {LIMIT:,} are allowed")
    if licence_file and not (FOLDER / licence_file).is_file():
        raise ValueError(f"licence_file {licence_file!r} does not exist below {FOLDER}")
    _check_script(script)
    rows = _sources()
    rows[name] = {
        "name": name,
        "file": relative,
        "sha256": _sum(file),
        **required,
        "licence_file": licence_file,
        "changes": changes,
    }
    lines = [{key: rows[each][key] for key in COLUMNS} for each in sorted(rows)]
    with _replacing(FOLDER / "SOURCES.csv") as draft, draft.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


# ---------------------------------------------------------------------------- stored results


def stored(chapter: str, name: str) -> Any:
    """Read what a long run left in ``notebooks/<chapter>/results/``.

    Parameters
    ----------
    chapter, name : str
        As given to :func:`save_stored`.

    Returns
    -------
    pandas.DataFrame, dict or list
        A table; JSON values; or a dict of numpy arrays: whatever was saved.

    Raises
    ------
    StoredResultMissing
        If there is none, or no clone to read from.
    DataCorrupt
        If the file does not have the sum of its record.
    """
    file, _ = _stored_file(chapter, name)
    if file.suffix == ".parquet":
        import pandas as pd

        return pd.read_parquet(file)
    if file.suffix == ".json":
        return json.loads(file.read_text(encoding="utf-8"))
    from safetensors.numpy import load_file

    return load_file(file)


def stored_record(chapter: str, name: str) -> dict[str, Any]:
    """Return how a stored result was made; errors as :func:`stored`.

    Returns
    -------
    dict
        ``file``, ``sha256``, ``script``, ``settings``, ``seeds``, ``profile``, ``seed`` (the
        ``PAPERKIT_SEED`` of the run) and ``versions``.
    """
    return _stored_file(chapter, name)[1]


def save_stored(
    chapter: str,
    name: str,
    value: Any,
    *,
    script: str,
    settings: Mapping[str, Any],
    seeds: Sequence[int] | Iterable[int],
) -> Path:
    """Keep the outcome of a long run, with the record of how it was made.

    Parameters
    ----------
    chapter : str
        The chapter's short name.
    name : str
        Lower-case letters, digits, ``_`` and ``-``.
    value : pandas.DataFrame, dict of numpy arrays or torch tensors, or JSON values
        Becomes parquet, safetensors or json. Numbers of numpy are accepted in JSON values; NaN and
        infinity are not, because JSON has none: say what is missing with None.
    script : str
        The script that measured it, relative to the clone, for example
        ``"scripts/risk_scores/tables.py"``.
    settings : mapping
        Everything that a second run needs besides the script, as JSON values.
    seeds : iterable of int
        The seeds that were used; empty for a deterministic result.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    StoredResultMissing
        If there is no clone to write to.
    ValueError
        If a name is malformed, the script does not exist, the value is none of the above or larger
        than 10 MB. An earlier result of that name is then still there.
    """
    folder = _results(chapter)
    if not _NAME.fullmatch(name):
        raise ValueError(f"name must be lower-case letters, digits, _ and -, got {name!r}")
    _check_script(script)
    record: dict[str, Any] = {
        "script": script,
        "settings": _json(dict(settings), "settings"),
        "seeds": [int(seed) for seed in seeds],
        "profile": os.environ.get("PAPERKIT_PROFILE") or "quick",
        "seed": profiles.base_seed(),
        "versions": _versions(),
    }
    suffix, write = _writer(value)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}{suffix}"
    with _replacing(file) as draft:
        write(draft)
        if draft.stat().st_size > LIMIT:
            raise ValueError(f"{name} has {draft.stat().st_size:,} bytes; {LIMIT:,} are allowed")
        record = {"file": file.name, "sha256": _sum(draft), **record}
    with _replacing(folder / f"{name}.record.json") as draft:
        draft.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for other in _FORMATS:
        if other != suffix:
            (folder / f"{name}{other}").unlink(missing_ok=True)
    return file


# ----------------------------------------------------------------------------------- helpers


def _sources() -> dict[str, dict[str, str]]:
    """The rows of SOURCES.csv by name."""
    file = FOLDER / "SOURCES.csv"
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, strict=True)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise DataCorrupt(f"{file}: the columns must be {', '.join(COLUMNS)}")
        rows: dict[str, dict[str, str]] = {}
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            if None in row or None in row.values():
                raise DataCorrupt(f"{where}: must have {len(COLUMNS)} fields")
            empty = [key for key in ("name", "file", "sha256", "source", "licence") if not row[key]]
            if empty:
                raise DataCorrupt(f"{where}: {', '.join(empty)} must not be empty")
            if row["name"] in rows:
                raise DataCorrupt(f"{where}: the name {row['name']!r} is used twice")
            rows[row["name"]] = row
    return rows


def _of_format(name: str, *suffixes: str) -> Path:
    file = path(name)
    if file.suffix not in suffixes:
        raise ValueError(f"data {name!r} is a {file.suffix} file, not {' or '.join(suffixes)}")
    return file


def _results(chapter: str) -> Path:
    if not _NAME.fullmatch(chapter):
        raise ValueError(f"chapter must be lower-case letters, digits and _, got {chapter!r}")
    try:
        return profiles.project_root() / "notebooks" / chapter / "results"
    except FileNotFoundError as error:
        raise StoredResultMissing(str(error)) from None


def _stored_file(chapter: str, name: str) -> tuple[Path, dict[str, Any]]:
    folder = _results(chapter)
    record_file = folder / f"{name}.record.json"
    if not record_file.is_file():
        suffix = ".record.json"
        there = sorted(file.name.removesuffix(suffix) for file in folder.glob(f"*{suffix}"))
        raise StoredResultMissing(
            f"no stored result {name!r} of {chapter} (there is: {', '.join(there) or 'nothing'});"
            f" run `nox -s full -- {chapter}`, or work from a clone that has it"
        )
    try:
        record = json.loads(record_file.read_text(encoding="utf-8"))
        file = folder / record["file"]
        wanted = record["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataCorrupt(f"{record_file}: not a record ({error!r})") from None
    _verify(file, wanted, f"stored result {name!r} of {chapter}")
    return file, record


def _verify(file: Path, wanted: str, what: str) -> None:
    if (file, wanted) in _checked:
        return
    if not file.is_file():
        raise DataCorrupt(f"{what}: the file {file} is missing")
    found = _sum(file)
    if found != wanted:
        raise DataCorrupt(
            f"{what}: {file} has sha256 {found}, expected {wanted}; restore the file from version"
            " control, or make it anew with its script"
        )
    _checked[file, wanted] = None


def _sum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_script(script: str) -> None:
    pure = PurePosixPath(script)
    if pure.is_absolute() or ".." in pure.parts or not (profiles.project_root() / pure).is_file():
        raise ValueError(f"script must be a file of the clone, relative to it, got {script!r}")


class _replacing:
    """A draft beside `target` that takes its place when the block ends well."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        handle, name = tempfile.mkstemp(dir=self.target.parent, suffix=self.target.suffix)
        os.close(handle)
        self.draft = Path(name)
        return self.draft

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.draft.chmod(0o644)
            os.replace(self.draft, self.target)
        else:
            self.draft.unlink(missing_ok=True)


def _writer(value: Any) -> tuple[str, Any]:
    """Suffix of the format that fits the value, and the function that writes it to a path."""
    import numpy as np
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        if not all(isinstance(column, str) for column in value.columns):
            raise ValueError(f"columns must be named by text, got {list(value.columns)}")
        return ".parquet", lambda file: value.to_parquet(file, index=_keeps_index(value))
    is_mapping = isinstance(value, Mapping) and len(value) > 0
    if is_mapping and all(_is_array(each) for each in value.values()):
        from safetensors.numpy import save_file

        named = {str(key): np.ascontiguousarray(_to_numpy(value[key])) for key in value}
        refused = {key: each.dtype for key, each in named.items() if each.dtype.kind not in "biuf"}
        if refused:
            raise ValueError(f"arrays must hold numbers, got {refused}")
        return ".safetensors", lambda file: save_file(named, file)
    if isinstance(value, Mapping | list | tuple):
        lines = json.dumps(_json(value, "value"), indent=1, allow_nan=False) + "\n"
        return ".json", lambda file: file.write_text(lines, encoding="utf-8")
    raise ValueError(
        "value must be a DataFrame, a dict of arrays, or a dict or list of JSON values, got"
        f" {type(value).__name__}"
    )


def _keeps_index(frame: pd.DataFrame) -> bool:
    import pandas as pd

    return not isinstance(frame.index, pd.RangeIndex)


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and getattr(value, "ndim", 0) > 0


def _to_numpy(value: Any) -> Any:
    import numpy as np

    if hasattr(value, "detach"):  # a torch tensor
        value = value.detach().cpu()
    return np.asarray(value)


def _json(value: Any, where: str) -> Any:
    """The value in JSON's own types; ValueError naming the place that has none."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str | int) for key in value):
            raise ValueError(f"{where}: keys must be text, got {list(value)}")
        return {str(key): _json(each, f"{where}[{key!r}]") for key, each in value.items()}
    if hasattr(value, "tolist"):  # arrays and numbers of numpy and torch
        return _json(value.tolist(), where)
    if isinstance(value, list | tuple):
        return [_json(each, f"{where}[{i}]") for i, each in enumerate(value)]
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}: JSON has no such number, use None")
        return float(value)
    if isinstance(value, Path):
        raise ValueError(f"{where} is a path: a record must not depend on one machine")
    raise ValueError(f"{where} is a {type(value).__name__}, which JSON has no form for")


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in ("paperkit", "numpy", "torch", "transformers", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
