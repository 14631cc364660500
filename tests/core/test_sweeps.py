"""Many independent fits, on any backend, with a memory."""

import functools
import json
import math
import os
import textwrap

import numpy as np
import pandas as pd
import pytest
import sweep_functions as functions

from paperkit import profiles
from paperkit.claims import Interval
from paperkit.sweeps import SweepError, judged_under_seeds, sweep

CASES = [{"n": n, "scale": s} for n in (5, 9) for s in (1.0, 2.0)]


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in ("PAPERKIT_BACKEND", "PAPERKIT_WORKERS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def cluster():
    import distributed

    # Plain processes without a dashboard: the least that is a cluster.
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as running:
        yield running.scheduler_address


def equal(a, b):
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_rows_columns_and_values():
    found = sweep(functions.noisy, CASES, seeds=[3, 1], backend="sequential")
    assert list(found.columns) == [
        "n",
        "scale",
        "seed",
        "mean",
        "single",
        "count",
        "all",
        "text",
        "none",
        "positive",
    ]
    expected = [(c["n"], c["scale"], s) for c in CASES for s in (3, 1)]
    assert list(found[["n", "scale", "seed"]].itertuples(index=False, name=None)) == expected
    for row in found.itertuples():
        direct = functions.noisy(row.n, row.scale, seed=row.seed)
        assert row.mean == direct["mean"]
        assert row.single == float(direct["single"])
        assert row.all == list(direct["all"])
        assert row.count == row.n
    assert found["none"].isna().all()
    assert found["positive"].dtype == bool
    assert found["count"].dtype == np.int64


@pytest.mark.parametrize("backend", ["loky", "threading", "sequential"])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stored", [False, True])
def test_the_table_does_not_depend_on_who_computes_it(tmp_path, backend, workers, stored):
    expected = sweep(functions.noisy, CASES, seeds=range(2), backend="sequential")
    options = {"store": tmp_path / "parts"} if stored else {}
    found = sweep(
        functions.noisy, CASES, seeds=range(2), backend=backend, workers=workers, **options
    )
    equal(found, expected)


def test_the_order_is_that_of_the_cases():
    found = sweep(
        functions.slow_first, [{"i": i} for i in range(4)], backend="threading", workers=4
    )
    assert found["square"].tolist() == [0, 1, 4, 9]


def test_values_do_not_depend_on_threads():
    cases = [{"a": 1}, {"a": 2}]
    values = [
        sweep(functions.product, cases, backend=backend, workers=workers)["trace"].tolist()
        for backend, workers in (("sequential", 1), ("threading", 2), ("loky", 2))
    ]
    assert values[0] == values[1] == values[2]


@pytest.mark.parametrize("backend", ["loky", "threading", "sequential"])
def test_one_thread_a_worker(backend):
    found = sweep(functions.threads, [{}], seeds=range(3), backend=backend, workers=2)
    assert set(found["threads"]) == {1}


def test_loky_uses_processes_and_takes_functions_of_a_notebook():
    import os

    offset = 7
    found = sweep(
        lambda a, seed: {"b": a + offset, "pid": __import__("os").getpid()},
        [{"a": 1}, {"a": 2}],
        workers=2,
    )
    assert found["b"].tolist() == [8, 9]
    assert os.getpid() not in set(found["pid"])


def test_several_records_a_call():
    found = sweep(functions.several, [{"n": 0}, {"n": 2}, {"n": 1}], seeds=[5])
    assert found["n"].tolist() == [2, 2, 1]
    assert found["i"].tolist() == [0, 1, 0]
    assert found["only_0"].tolist()[::2] == [5, 5]
    assert math.isnan(found["only_1"][0])
    nothing = sweep(functions.several, [{"n": 0}], seeds=[5])
    assert list(nothing.columns) == ["n", "seed"]
    assert len(nothing) == 0


def test_a_store_keeps_rows_without_columns(tmp_path):
    for _ in range(2):
        found = sweep(functions.give, [{"value": []}], store=tmp_path, backend="sequential")
        assert len(found) == 0
    cases = [{"n": 0}, {"n": 2}]
    fresh = sweep(functions.several, cases, backend="sequential")
    for _ in range(2):
        equal(sweep(functions.several, cases, store=tmp_path, backend="sequential"), fresh)


# ---------------------------------------------------------------------------------------- resuming


def calls_made(folder):
    return {file.name: len(file.read_text()) for file in folder.glob("call-*")}


@pytest.mark.parametrize("backend", ["sequential", "loky", "threading"])
def test_finished_calls_are_not_repeated(tmp_path, backend):
    cases = [{"folder": str(tmp_path), "i": i} for i in range(3)]
    store = tmp_path / "parts"
    first = sweep(functions.counting, cases[:2], seeds=[0, 1], store=store, backend=backend)
    again = sweep(functions.counting, cases, seeds=[0, 1], store=store, backend=backend)
    equal(again.iloc[:4].reset_index(drop=True), first)
    made = calls_made(tmp_path)
    assert len(made) == 6
    assert set(made.values()) == {1}
    fresh = sweep(functions.counting, cases, seeds=[0, 1], backend=backend)
    equal(again, fresh)


@pytest.mark.parametrize("backend", ["sequential", "loky"])
def test_a_failure_names_the_call_and_keeps_what_is_done(tmp_path, backend):
    cases = [{"folder": str(tmp_path), "i": i, "fail": 2} for i in range(4)]
    store = tmp_path / "parts"
    with pytest.raises(SweepError, match=r"(?s)'i': 2.*seed 7.*case 2 is hard") as caught:
        sweep(functions.counting, cases, seeds=[7], store=store, backend=backend, workers=1)
    assert caught.value.seed == 7
    assert caught.value.case == cases[2]
    assert "ZeroDivisionError" in str(caught.value)
    assert len(list(store.glob("*.parquet"))) == 2
    good = [case | {"fail": -1} for case in cases]
    sweep(functions.counting, good, seeds=[7], store=store, backend=backend)
    with pytest.raises(SweepError):
        sweep(functions.counting, cases, seeds=[7], store=store, backend=backend, workers=1)
    assert calls_made(tmp_path) == {
        "call-0-7": 2,
        "call-1-7": 2,
        "call-2-7": 3,
        "call-3-7": 1,
    }


def test_the_store_tells_calls_apart(tmp_path):
    one = sweep(functions.noisy, [{"n": 3, "scale": 1.0}], store=tmp_path, backend="sequential")
    two = sweep(functions.noisy, [{"n": 3, "scale": 2.0}], store=tmp_path, backend="sequential")
    assert one["mean"][0] != two["mean"][0]
    bound = functools.partial(functions.noisy, scale=3.0)
    three = sweep(bound, [{"n": 3}], store=tmp_path, backend="sequential")
    four = sweep(
        functools.partial(functions.noisy, scale=4.0),
        [{"n": 3}],
        store=tmp_path,
        backend="sequential",
    )
    assert len({frame["mean"][0] for frame in (one, two, three, four)}) == 4
    assert len(list(tmp_path.glob("noisy-*.parquet"))) == 4


def test_a_damaged_or_foreign_part_is_an_error(tmp_path):
    arguments = (functions.noisy, [{"n": 3}])
    sweep(*arguments, store=tmp_path, backend="sequential")
    (part,) = tmp_path.glob("*.parquet")
    content = part.read_bytes()
    part.write_bytes(content[:50])
    with pytest.raises(ValueError, match="damaged"):
        sweep(*arguments, store=tmp_path, backend="sequential")
    other = tmp_path / "other"
    sweep(functions.noisy, [{"n": 4}], store=other, backend="sequential")
    part.write_bytes(next(other.glob("*.parquet")).read_bytes())
    with pytest.raises(ValueError, match="another call"):
        sweep(*arguments, store=tmp_path, backend="sequential")


def test_nothing_is_left_of_a_failed_write(tmp_path, monkeypatch):
    from pyarrow import parquet

    def full_disk(*_):
        raise OSError("no space")

    monkeypatch.setattr(parquet, "write_table", full_disk)
    with pytest.raises(OSError, match="no space"):
        sweep(functions.noisy, [{"n": 3}], store=tmp_path, backend="sequential")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("cases", "options", "message"),
    [
        ([], {}, "no case"),
        ([{"n": 1}], {"seeds": []}, "no seed"),
        ([{"n": 1}], {"seeds": [0, 0]}, "twice"),
        ([{"n": 1}], {"seeds": [0.5]}, "integer"),
        ([{"n": 1}], {"seeds": [True]}, "integer"),
        ([3], {}, "keyword"),
        ([{1: 2}], {}, "keyword"),
        ([{"not a name": 2}], {}, "keyword"),
        ({"n": 1}, {}, "one mapping"),
        ([{"m": 1}], {}, "cannot be called"),
        ([{}], {}, "cannot be called"),
        ([{"n": 1, "seed": 0}], {}, "seed"),
        ([{"n": 1}], {"workers": 0}, "workers"),
        ([{"n": 1}], {"backend": "slurm"}, "dask:<address>"),
        ([{"n": 1}], {"backend": "dask"}, "address"),
        ([{"n": 1}], {"backend": "dask:"}, "address"),
        ([{"n": object()}], {"store": "parts"}, "plain values"),
        ([{"n": 1}, {"n": 1}], {"store": "parts"}, "same case"),
    ],
)
def test_errors_before_any_work(tmp_path, monkeypatch, cases, options, message):
    monkeypatch.chdir(tmp_path)
    called = []

    def function(n, *, seed):
        called.append(n)
        return {}

    with pytest.raises(ValueError, match=message):
        sweep(function, cases, **({"backend": "sequential"} | options))
    assert called == []


def test_other_errors_before_any_work(monkeypatch):
    with pytest.raises(TypeError, match="callable"):
        sweep(3, [{}])
    for workers in (1.5, True, "2"):
        with pytest.raises(TypeError, match="workers"):
            sweep(functions.threads, [{}], workers=workers)
    monkeypatch.setenv("PAPERKIT_BACKEND", "slurm")
    with pytest.raises(ValueError, match="PAPERKIT_BACKEND='slurm'"):
        sweep(functions.threads, [{}])


@pytest.mark.parametrize("value", [3, "text", None, [3], [{"x": 1}, 3], {"x": object()}, {1: 2}])
def test_what_a_function_may_not_return(value):
    with pytest.raises(SweepError):
        sweep(lambda seed: value, [{}], backend="sequential")


def test_records_that_contradict_their_call():
    agree = sweep(lambda a, seed: {"a": a, "seed": seed}, [{"a": 1}], backend="sequential")
    assert list(agree.columns) == ["a", "seed"]
    with pytest.raises(SweepError, match="another a"):
        sweep(lambda a, seed: {"a": 2}, [{"a": 1}], backend="sequential")
    with pytest.raises(SweepError, match="another seed"):
        sweep(lambda a, seed: {"seed": 2}, [{"a": 1}], backend="sequential")


def test_records_that_fit_no_table(tmp_path):
    with pytest.raises(SweepError, match="do not fit"):
        sweep(functions.table_of, [{"kind": "mixed"}], store=tmp_path, backend="sequential")
    with pytest.raises(SweepError, match="object"):
        sweep(functions.table_of, [{"kind": "object"}], backend="sequential")


# --------------------------------------------------------------------------------------- defaults


def test_the_environment_chooses(monkeypatch):
    import os

    monkeypatch.setenv("PAPERKIT_WORKERS", "2")
    pids = set(sweep(functions.threads, [{}], seeds=range(4))["pid"])
    assert os.getpid() not in pids
    monkeypatch.setenv("PAPERKIT_BACKEND", "threading")
    assert set(sweep(functions.threads, [{}], seeds=range(4))["pid"]) == {os.getpid()}
    monkeypatch.setenv("PAPERKIT_BACKEND", "loky")
    monkeypatch.setenv("PAPERKIT_WORKERS", "1")
    assert set(sweep(functions.threads, [{}], seeds=range(4))["pid"]) == {os.getpid()}


def test_progress_only_for_those_who_watch(monkeypatch, capsys):
    arguments = {"seeds": range(3), "backend": "sequential", "description": "fits"}
    sweep(functions.threads, [{}], **arguments)
    assert capsys.readouterr().err == ""
    from paperkit import profiles

    watched = profiles.Profile("quick", "cpu", 1, 1, True)
    monkeypatch.setattr(profiles, "current", lambda: watched)
    sweep(functions.threads, [{}], **arguments)
    assert "fits" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- dask


def test_a_cluster_gives_the_same_table(cluster, monkeypatch, tmp_path):
    expected = sweep(functions.noisy, CASES, seeds=range(2), backend="sequential")
    monkeypatch.setenv("PAPERKIT_BACKEND", f"dask:{cluster}")
    equal(sweep(functions.noisy, CASES, seeds=range(2)), expected)
    equal(sweep(functions.noisy, CASES, seeds=range(2), store=tmp_path), expected)
    assert len(list(tmp_path.glob("*.parquet"))) == 8
    found = sweep(functions.threads, [{}], seeds=range(20))
    import os

    assert os.getpid() not in set(found["pid"])
    assert set(found["threads"]) == {1}


def test_a_failure_on_a_cluster(cluster, tmp_path):
    cases = [{"folder": str(tmp_path), "i": i, "fail": 1} for i in range(3)]
    with pytest.raises(SweepError, match=r"(?s)'i': 1.*case 1 is hard"):
        sweep(functions.counting, cases, backend=f"dask:{cluster}", workers=1)


def test_no_cluster_there():
    with pytest.raises(ConnectionError, match=r"tcp://127\.0\.0\.1:1"):
        sweep(functions.threads, [{}], backend="dask:tcp://127.0.0.1:1")


# ---------------------------------------------------------------------------------- other seeds

LEDGER = """
abstract:
  - {id: a1, says: It is small.}
claims:
  - {id: c1-small, covers: [a1], statement: It is small., source: ours, paper: null, measure: a draw,
     passes: "upper < 0.5", scope: as stated, kind: live}
  - {id: c2-seen, statement: It is seen., source: ours, paper: null, measure: a draw,
     passes: reported, scope: as stated, kind: live}
"""


@pytest.fixture
def tiny_chapter(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks" / "tiny"
    folder.mkdir(parents=True)
    (folder / "claims.yml").write_text(textwrap.dedent(LEDGER))
    monkeypatch.setenv("PAPERKIT_ROOT", str(tmp_path))
    monkeypatch.setenv("PAPERKIT_SEED", "9")
    return tmp_path


def drawn():
    """One uniform number, which depends on nothing but PAPERKIT_SEED."""
    drawn.calls.append(profiles.base_seed())
    u = float(profiles.rng("tiny").uniform())
    return {"c1-small": (u, Interval(u, u, u, 1.0, 1, "exact")), "c2-seen": (u, Interval.exact(u))}


def test_claims_are_counted_under_other_seeds(tiny_chapter):
    drawn.calls = []
    table = judged_under_seeds("tiny", drawn)
    assert drawn.calls == list(range(1, 21))
    assert os.environ["PAPERKIT_SEED"] == "9"
    assert set(table) == {"c1-small"}  # what is only reported passes nothing
    row = table["c1-small"]
    assert row["seeds"] == "1 to 20"
    assert len(set(row["values"])) == row["runs"] == 20
    assert row["passed"] == sum(value < 0.5 for value in row["values"])
    assert 0 < row["passed"] < 20
    json.dumps(table, allow_nan=False)


def test_a_seed_is_measured_once_and_judged_by_the_present_condition(tiny_chapter):
    drawn.calls = []
    first = judged_under_seeds("tiny", drawn, seeds=[4, 2])
    file = tiny_chapter / "notebooks" / "tiny" / "claims.yml"
    file.write_text(file.read_text().replace("< 0.5", "< 2"))
    again = judged_under_seeds("tiny", drawn, seeds=[4, 2, 3])
    assert drawn.calls == [4, 2, 3]
    assert first["c1-small"]["seeds"] == "4, 2"
    assert again["c1-small"]["values"][:2] == first["c1-small"]["values"]
    assert again["c1-small"]["passed"] == 3


def test_a_failing_seed_restores_the_environment_and_keeps_the_others(tiny_chapter):
    def fails_at_two():
        if profiles.base_seed() == 2:
            raise RuntimeError("broken")
        return {"c1-small": (0.1, Interval.exact(0.1))}

    store = tiny_chapter / "kept"
    with pytest.raises(RuntimeError, match="broken"):
        judged_under_seeds("tiny", fails_at_two, seeds=[1, 2], store=store)
    assert os.environ["PAPERKIT_SEED"] == "9"
    assert [file.name for file in store.iterdir()] == ["fails_at_two-1.json"]


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1], [0.5]])
def test_bad_seeds_are_refused_before_any_measurement(tiny_chapter, seeds):
    drawn.calls = []
    with pytest.raises(ValueError, match="seed"):
        judged_under_seeds("tiny", drawn, seeds=seeds)
    assert drawn.calls == []


def test_an_undeclared_claim_is_an_error(tiny_chapter):
    with pytest.raises(KeyError, match="c9"):
        judged_under_seeds("tiny", lambda: {"c9": (1.0, None)}, seeds=[1])
