"""The regret table does not depend on what runs its cells."""

import pandas as pd
import pytest

from paperkit.information_acquisition import experiments
from paperkit.sweeps import sweep

CASES = [
    {"horizon": horizon, "method": method, "z": 2.0}
    for method in ("interval", "plugin")
    for horizon in (1e6, 1e7)
]


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as running:
        yield running.scheduler_address


def test_a_cluster_of_two_gives_the_same_regret_table(cluster, monkeypatch):
    monkeypatch.delenv("PAPERKIT_WORKERS", raising=False)
    monkeypatch.setenv("PAPERKIT_BACKEND", "loky")
    here = sweep(experiments.regret_cell, CASES, seeds=(0, 1), workers=2)
    monkeypatch.setenv("PAPERKIT_BACKEND", f"dask:{cluster}")
    there = sweep(experiments.regret_cell, CASES, seeds=(0, 1))
    pd.testing.assert_frame_equal(there, here, check_exact=True)
    # both learners, at both horizons, and the random draws differ from seed to seed
    assert len(here) == 8
    assert here["regret"].nunique() == 8
    table = experiments.from_rows(here, "interval", 2.0)
    assert table.regret.shape == (2, 2)
