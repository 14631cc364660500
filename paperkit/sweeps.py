"""Many independent fits: one function, many cases, several seeds, on whatever runs them.

The same call works on one core, on all cores of a machine and on a cluster, and returns the same
table in the same order. What carries out the work is a backend of joblib: processes (``loky``) by
default, or ``threading``, ``sequential``, and ``dask:<address of a scheduler>`` for a cluster. The
environment variable ``PAPERKIT_BACKEND`` sets it for everything, so a chapter never mentions it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import numbers
import os
import re
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paperkit import profiles

if TYPE_CHECKING:
    import pandas as pd

    from paperkit.claims import Interval

__all__ = ["SweepError", "judged_under_seeds", "sweep"]

BACKENDS = ("loky", "threading", "sequential")

Record = dict[str, Any]


class SweepError(RuntimeError):
    """One case failed; the message has the case, the seed and the worker's traceback.

    Attributes
    ----------
    case : dict
        The arguments.
    seed : int
        The seed.
    """

    def __init__(self, message: str, case: Mapping[str, Any], seed: int) -> None:
        self.case = dict(case)
        self.seed = seed
        super().__init__(message)


def sweep(
    function: Callable[..., Record | list[Record]],
    cases: Iterable[Mapping[str, Any]],
    *,
    seeds: Iterable[int] = (0,),
    workers: int | None = None,
    backend: str | None = None,
    store: str | Path | None = None,
    description: str = "",
) -> pd.DataFrame:
    """Call a function for each case and seed, and collect what it returns as a table.

    Parameters
    ----------
    function : callable
        ``function(**case, seed=seed) -> dict`` or a list of dicts, of numbers, text, None, or lists
        of these. It takes all its randomness from `seed`, and must be importable by the workers or
        defined in the notebook.
    cases : iterable of mappings
        Keyword arguments of the calls.
    seeds : iterable of int
        Every case is run with every seed.
    workers : int, optional
        Workers that run at once; ``PAPERKIT_WORKERS`` or the number of cores if left out, and all
        cores of the cluster with dask. Each worker computes with one thread.
    backend : str, optional
        ``"loky"``, ``"threading"``, ``"sequential"``, ``"dask:<address>"``, or the name of a backend
        that is registered with joblib; ``PAPERKIT_BACKEND`` or ``"loky"`` if left out.
    store : str or pathlib.Path, optional
        A folder. Each finished call is kept there as a parquet file, named after the function, the
        case and the seed, and is not repeated by a later sweep. Use another folder when the function
        has changed.
    description : str
        Shown beside the progress bar, which appears in interactive sessions only.

    Returns
    -------
    pandas.DataFrame
        One row for each returned dict: the case's arguments, ``seed``, and the dict's entries, in
        the order of cases, then seeds. Neither rows nor values depend on the backend, on the number
        of workers, or on what came out of the store.

    Raises
    ------
    ValueError
        Before any work: if there is no case or no seed, a case is not a mapping of keyword
        arguments that `function` takes, two calls are the same, or the backend is unknown.
    ConnectionError
        If no dask scheduler answers at the address.
    SweepError
        If a call fails or returns something else. Calls that were finished stay in `store`.
    """
    if not callable(function):
        raise TypeError(f"function must be callable, got {function!r}")
    calls = _calls(function, cases, seeds)
    name, address = _backend(backend)
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int)):
        raise TypeError(f"workers must be an integer, got {workers!r}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    profile = profiles.current()
    folder = None if store is None else Path(store)
    if folder is not None:
        keys = [_key(function, call) for call in calls]
        folder.mkdir(parents=True, exist_ok=True)
        if len(set(keys)) < len(keys):
            raise ValueError("two calls have the same case and seed")

    finished: dict[int, list[Record]] = {}
    if folder is not None:
        for i, key in enumerate(keys):
            kept = _load(folder, key)
            if kept is not None:
                finished[i] = kept

    waiting = [i for i in range(len(calls)) if i not in finished]
    if waiting:
        number = workers or (-1 if name == "dask" else profile.workers)
        number = number if name == "dask" else min(number, len(waiting))
        progress = _progress(len(calls), len(finished), description, profile.interactive)
        with progress as step, _running(name, address, number) as parallel:
            outcomes = parallel(
                _delayed(_call)(function, i, calls[i].case, calls[i].seed) for i in waiting
            )
            for i, records, failure in outcomes:
                if failure is not None:
                    call = calls[i]
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # that waiting calls are dropped
                        outcomes.close()
                    raise SweepError(
                        f"{_named(function)} failed for case {call.case!r}, seed {call.seed}:\n"
                        f"{failure}",
                        call.case,
                        call.seed,
                    )
                if folder is not None:
                    records = _save(folder, keys[i], records, calls[i])
                finished[i] = records
                step()
    return _frame(calls, finished)


def judged_under_seeds(
    chapter: str,
    measure: Callable[[], Mapping[str, tuple[float, Interval | None]]],
    *,
    seeds: Iterable[int] = range(1, 21),
    store: str | Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure claims again under other values of ``PAPERKIT_SEED`` and count how often each holds.

    A claim that holds by luck under the default seed shows here. Rows that are measured but not
    judged are left out.

    Parameters
    ----------
    chapter : str
        The chapter whose ``claims.yml`` judges.
    measure : callable
        ``measure() -> {id: (value, interval or None)}``: the measurements of the notebooks, all of
        whose randomness comes from :mod:`paperkit.profiles`.
    seeds : iterable of int
        Values of ``PAPERKIT_SEED``, each non-negative and given once.
    store : str or pathlib.Path, optional
        A folder in which what was measured under each seed is kept, under the name of `measure`,
        and not measured again by a later call. The default is ``build/<chapter>/fresh_seeds`` of
        the clone. Delete it when the experiments have changed; a changed condition judges what was
        measured anew.

    Returns
    -------
    dict
        For each claim ``{"seeds": "1 to 20", "runs": 20, "passed": ..., "values": [...]}``, as
        :func:`paperkit.data.save_stored` takes it.

    Raises
    ------
    ValueError
        Before any work: if there is no seed, or one that is negative or given twice.
    KeyError
        If `measure` returns a claim that the chapter does not declare.
    """
    from paperkit import claims

    ledger = claims.chapter(chapter)
    chosen = _checked_seeds(seeds)
    if min(chosen) < 0:
        raise ValueError(f"seeds must not be negative, got {min(chosen)}")
    folder = Path(store) if store else profiles.project_root() / "build" / chapter / "fresh_seeds"
    folder.mkdir(parents=True, exist_ok=True)
    consecutive = chosen == list(range(chosen[0], chosen[-1] + 1))
    tried = f"{chosen[0]} to {chosen[-1]}" if consecutive else ", ".join(map(str, chosen))
    table: dict[str, dict[str, Any]] = {}
    for seed in chosen:
        file = folder / f"{measure.__name__}-{seed}.json"
        if not file.exists():
            _write_measured(file, _measured(measure, seed))
        failed = []
        for id, row in json.loads(file.read_text(encoding="utf-8")).items():
            interval = None if row["interval"] is None else claims.Interval(**row["interval"])
            verdict = ledger.judge(id, row["value"], interval=interval)
            if verdict.held is None:
                continue
            entry = table.setdefault(id, {"seeds": tried, "runs": 0, "passed": 0, "values": []})
            entry["runs"] += 1
            entry["passed"] += int(verdict.held)
            entry["values"].append(row["value"])
            if not verdict.held:
                failed.append(id)
        print(f"seed {seed}: {', '.join(failed) or 'none'} failed", flush=True)
    return dict(sorted(table.items()))


def _measured(
    measure: Callable[[], Mapping[str, tuple[float, Interval | None]]], seed: int
) -> dict[str, Any]:
    """What `measure` returns under one PAPERKIT_SEED, as JSON values."""
    before = os.environ.get("PAPERKIT_SEED")
    os.environ["PAPERKIT_SEED"] = str(seed)
    try:
        return {
            id: {
                "value": _plain(value, id),
                "interval": None
                if interval is None
                else {name: _plain(end, id) for name, end in vars(interval).items()},
            }
            for id, (value, interval) in measure().items()
        }
    finally:
        os.environ.pop("PAPERKIT_SEED", None)
        if before is not None:
            os.environ["PAPERKIT_SEED"] = before


def _write_measured(file: Path, rows: dict[str, Any]) -> None:
    """Write a seed's measurements, whole or not at all."""
    draft = file.with_suffix(f".draft-{os.getpid()}")
    draft.write_text(json.dumps(rows), encoding="utf-8")
    os.replace(draft, file)


@dataclass(frozen=True)
class _Call:
    """One call: a case with a seed."""

    case: dict[str, Any]
    seed: int


def _calls(
    function: Callable[..., Any], cases: Iterable[Mapping[str, Any]], seeds: Iterable[int]
) -> list[_Call]:
    """All calls, cases outside and seeds inside; errors as :func:`sweep`."""
    if isinstance(cases, Mapping):
        raise ValueError("cases must be a list of mappings, got one mapping: write [{...}]")
    kept = list(cases)
    if not kept:
        raise ValueError("there is no case")
    numbers_ = _checked_seeds(seeds)
    signature = inspect.signature(function)
    for case in kept:
        if not isinstance(case, Mapping) or not all(
            isinstance(key, str) and key.isidentifier() for key in case
        ):
            raise ValueError(f"a case must be a mapping of keyword arguments, got {case!r}")
        if "seed" in case:
            raise ValueError(f"a case cannot hold 'seed', which `seeds` gives: {case!r}")
        try:
            signature.bind(**case, seed=0)
        except TypeError as error:
            raise ValueError(
                f"{_named(function)} cannot be called with {case!r}: {error}"
            ) from None
    return [_Call(dict(case), seed) for case in kept for seed in numbers_]


def _checked_seeds(seeds: Iterable[int]) -> list[int]:
    """The seeds as a list; errors as :func:`sweep`."""
    kept = list(seeds)
    if not kept:
        raise ValueError("there is no seed")
    for seed in kept:
        if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
            raise ValueError(f"a seed must be an integer, got {seed!r}")
    if len(set(kept)) < len(kept):
        raise ValueError(f"a seed is given twice: {kept}")
    return [int(seed) for seed in kept]


def _backend(backend: str | None) -> tuple[str, str]:
    """The name of the backend and, for dask, the scheduler's address."""
    where = "backend" if backend is not None else "PAPERKIT_BACKEND"
    wanted = backend if backend is not None else os.environ.get("PAPERKIT_BACKEND") or "loky"
    name, _, address = wanted.partition(":")
    if name == "dask":
        if not address:
            raise ValueError(f"{where}={wanted!r}: needs an address, dask:<scheduler address>")
        return name, address
    import joblib.parallel

    if wanted not in {*BACKENDS, *joblib.parallel.BACKENDS}:
        allowed = ", ".join([*BACKENDS, "dask:<address>"])
        raise ValueError(f"{where}={wanted!r}: must be one of {allowed}")
    return wanted, ""


@contextmanager
def _running(name: str, address: str, workers: int) -> Iterator[Any]:
    """A joblib Parallel that yields outcomes as they come."""
    import joblib

    options: dict[str, Any] = {"n_jobs": workers}
    if name == "loky":
        options["inner_max_num_threads"] = 1
    client = None
    if name == "dask":
        try:
            from distributed import Client
        except ModuleNotFoundError as error:
            raise ConnectionError(
                "dask needs the extra 'cluster': pip install 'paperkit[cluster]'"
            ) from error
        try:
            client = Client(address, timeout="10s", set_as_default=True)
        except (OSError, ValueError) as error:
            raise ConnectionError(f"no dask scheduler answers at {address!r}: {error}") from error
    try:
        if client is None and workers == 1:
            name, options = "sequential", {"n_jobs": 1}
        with joblib.parallel_config(backend=name, **options):
            parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1)
            yield parallel
    finally:
        if client is not None:
            client.close()


def _delayed(function: Callable[..., Any]) -> Any:
    import joblib

    return joblib.delayed(function)


def _call(
    function: Callable[..., Any], index: int, case: dict[str, Any], seed: int
) -> tuple[int, list[Record], str | None]:
    """Run one call where the worker is; never raises, so that the caller knows which one failed."""
    from threadpoolctl import threadpool_limits

    try:
        with threadpool_limits(limits=1):
            result = function(**case, seed=seed)
        records = result if isinstance(result, list) else [result]
        if not all(isinstance(record, Mapping) for record in records):
            raise TypeError(f"the function must return a dict or a list of dicts, got {result!r}")
        return index, [_plain_record(record, case, seed) for record in records], None
    except Exception:
        return index, [], traceback.format_exc()


def _plain_record(record: Mapping[str, Any], case: dict[str, Any], seed: int) -> Record:
    plain: Record = {}
    for key, value in record.items():
        if not isinstance(key, str):
            raise TypeError(f"keys of a record must be text, got {key!r}")
        plain[key] = _plain(value, key)
        if key in {**case, "seed": seed} and not _same(plain[key], {**case, "seed": seed}[key]):
            raise ValueError(f"the record has {key}={value!r}, but the call had another {key}")
    return plain


def _plain(value: Any, key: str) -> Any:
    """The value in Python's own types, the same wherever it was computed."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(each, key) for each in value]
    raise TypeError(f"{key}: a {type(value).__name__} cannot stand in a table")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return bool(a == _plain(b, ""))


def _frame(calls: list[_Call], finished: dict[int, list[Record]]) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {**call.case, "seed": call.seed, **record}
        for i, call in enumerate(calls)
        for record in finished[i]
    ]
    columns = dict.fromkeys([*(key for call in calls for key in call.case), "seed"])
    columns.update(dict.fromkeys(key for row in rows for key in row))
    return pd.DataFrame(
        [{key: row.get(key) for key in columns} for row in rows], columns=[*columns]
    )


def _named(function: Callable[..., Any]) -> str:
    inner = getattr(function, "func", function)  # functools.partial
    name = getattr(inner, "__qualname__", type(inner).__name__)
    return f"{getattr(inner, '__module__', '')}.{name}"


@contextmanager
def _progress(total: int, done: int, text: str, shown: bool) -> Iterator[Callable[[], Any]]:
    from tqdm.auto import tqdm

    with tqdm(total=total, initial=done, desc=text or None, disable=not shown) as bar:
        yield bar.update


# ------------------------------------------------------------------------------------------ store


def _key(function: Callable[..., Any], call: _Call) -> str:
    """What a stored call is known by: the function, the case and the seed, as JSON."""
    try:
        case = {name: _plain(value, name) for name, value in call.case.items()}
        fixed = getattr(function, "keywords", {})
        args = [_plain(value, "") for value in getattr(function, "args", ())]
        bound = [args, {name: _plain(value, name) for name, value in fixed.items()}]
    except TypeError as error:
        raise ValueError(f"with a store, arguments must be plain values: {error}") from None
    return json.dumps([_named(function), bound, case, call.seed], sort_keys=True)


def _file(folder: Path, key: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9_]+", "-", json.loads(key)[0].rsplit(".", 1)[-1])
    return folder / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.parquet"


def _save(folder: Path, key: str, records: list[Record], call: _Call) -> list[Record]:
    """Keep a finished call; return what a later sweep will read."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = list(dict.fromkeys(name for record in records for name in record))
    rows = [{name: record.get(name) for name in columns} for record in records]
    try:
        # Rows without columns would lose their number; the column of positions keeps it.
        table = pa.Table.from_pydict(
            {"": range(len(rows)), **{name: [row[name] for row in rows] for name in columns}}
        )
    except pa.ArrowException as error:
        raise SweepError(
            f"the records of case {call.case!r}, seed {call.seed} do not fit a table: {error}",
            call.case,
            call.seed,
        ) from None
    table = table.replace_schema_metadata({"paperkit_call": key})
    file = _file(folder, key)
    handle, draft = tempfile.mkstemp(dir=folder, suffix=".draft")
    os.close(handle)
    try:
        parquet.write_table(table, draft)
        os.replace(draft, file)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return _rows(table)


def _load(folder: Path, key: str) -> list[Record] | None:
    """The records of a finished call, None if there are none."""
    import pyarrow as pa
    from pyarrow import parquet

    file = _file(folder, key)
    if not file.exists():
        return None
    try:
        table = parquet.read_table(file)
        found = (table.schema.metadata or {}).get(b"paperkit_call", b"").decode()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is damaged ({error}); delete it to compute it again") from None
    if found != key:
        raise ValueError(f"{file} holds another call: {found}; use another store")
    return _rows(table)


def _rows(table: Any) -> list[Record]:
    return [{k: v for k, v in row.items() if k != ""} for row in table.to_pylist()]
