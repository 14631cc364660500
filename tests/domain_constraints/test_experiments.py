import pandas as pd
import pytest

from paperkit import claims
from paperkit import domain_constraints as dc
from paperkit.domain_constraints import experiments as ex
from paperkit.domain_constraints import figures
from paperkit.sweeps import sweep

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def fitted():
    sim = dc.simulate_bernoulli_sigmoid(3, n=600)
    known = ex.constraint_set("b", sim.prevalence, [1])
    return sim, dc.SelectionModel(sim.labels(), constraints=known).fit(seed=3)


def test_predictive_check_accepts_the_model_and_sees_other_data(fitted):
    sim, idata = fitted
    table = ex.predictive_check(idata, sim.labels(), bins=4)
    assert len(table) == 4 * 4 * 3
    sums = table.groupby(["feature", "bin"])["observed"].sum()
    assert sums.to_numpy() == pytest.approx(1.0)
    assert table["inside"].mean() > 0.85
    other = dc.simulate_bernoulli_sigmoid(5, n=600).labels()
    assert ex.predictive_check(idata, other, bins=4)["inside"].mean() < 0.6


def test_predictive_check_of_a_binary_feature():
    study = dc.load_free_light_chain(0)
    data = study.labels()
    idata = ex.light_chain_fits(study, "b")["b"]
    table = ex.predictive_check(idata, data)
    parts = table[table.feature == "male"].groupby("cell")["bin"].nunique()
    assert (parts <= 2).all()
    assert len(figures.predictive_shares(table).axes) == 3


def test_a_population_of_the_build_is_judged_by_every_row():
    tables = ex.live_synthetic([1, 2, 3], few=2)
    assert set(tables["right"]["constraint"]) == set("upb")
    assert len(tables["prior 6"]) == 4
    rows = ex.synthetic_rows(tables)
    ledger = claims.chapter("domain_constraints")
    for claim, interval in rows.items():
        assert ledger.judge(claim, interval.estimate, interval=interval).held is not None
    scales = {1.5: tables["prior 1.5"], 3.0: tables["right"], 6.0: tables["prior 6"]}
    axes = figures.prior_grid(scales).axes
    assert [len(ax.lines) for ax in axes] == [3, 3]  # two populations and the line of the truth


def test_gain_frames_of_every_size_have_equal_bars():
    rows = [
        {
            "set": s,
            "constraint": c,
            **{
                f"{m}_{b}": i + s + 1.0
                for m in ("width", "error")
                for b in ("beta_Y", "beta_Delta", "sigma")
            },
        }
        for s in range(4)
        for i, c in enumerate("upeb")
    ]
    gains = dc.constraint_gains(pd.DataFrame(rows), n_boot=100)
    one, two = figures.gain_frames([gains, gains])
    assert [bar.name for bar in one] == [bar.name for bar in two]
    assert all(len(bar.y) == 6 for bar in one)


def test_two_workers_of_a_cluster_give_the_same_fits():
    import distributed

    cases = [{"constraint": c, "n": 300, "draws": 100} for c in "ub"]
    expected = sweep(ex.synthetic_fit, cases, seeds=[0], backend="sequential")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        found = sweep(
            ex.synthetic_fit, cases, seeds=[0], backend=f"dask:{cluster.scheduler_address}"
        )
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
