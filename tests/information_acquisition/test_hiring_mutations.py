"""Every claim that the chapter makes turns red when the method is broken on purpose."""

import dataclasses
from itertools import product

import numpy as np
import pytest
from scipy import sparse

from paperkit import claims
from paperkit.information_acquisition import experiments, online, program, twin_instance
from paperkit.information_acquisition.readers import Readers


@pytest.fixture(scope="module")
def ledger():
    return claims.chapter("information_acquisition")


@pytest.fixture(scope="module")
def pair() -> Readers:
    """Two readers who copy one noisy source: stands in for classifiers."""
    rng = np.random.default_rng(0)
    labels = (rng.random(500) < 0.4).astype(int)
    nothing = np.zeros(500, int)

    def noisy(truth, share):
        return np.where(rng.random(500) < share, 1 - truth, truth)

    source = noisy(labels, 0.15)
    readers = [np.stack([nothing, noisy(source, 0.25), noisy(source, 0.02)]) for _ in range(2)]
    return Readers(tuple(readers), labels, ("one", "two"), ("nothing", "cheap", "full"))


def without_lies(problem, **options):
    """Program whose experts cannot lie: only the truthful rows are kept."""
    lp = ORIGINAL(problem, **options)
    keep = np.ones(lp.A_ub.shape[0], bool)
    for i, m in enumerate(problem.n_signals):
        keep[lp.slices[f"truth{i}"]] = False
        rows = np.arange(lp.slices[f"report{i}"].start, lp.slices[f"report{i}"].stop)
        keep[rows.reshape(-1, m, m)[:, ~np.eye(m, dtype=bool)].ravel()] = False
    return dataclasses.replace(lp, A_ub=lp.A_ub[keep], b_ub=lp.b_ub[keep])


ORIGINAL = program.build_lp
SMALL = ((2, 2, 2), (2, 2, 3))


def test_no_rows_about_lies(ledger, monkeypatch):
    table = experiments.against_definition(SMALL)
    gap = experiments.largest_difference(table["program"], table["definition"])
    assert ledger.judge("c1a-equals-definition", gap).ok
    assert ledger.judge("c1b-no-profitable-deviation", table["gain"].max()).ok
    monkeypatch.setattr(program, "build_lp", without_lies)
    table = experiments.against_definition(SMALL)
    gap = experiments.largest_difference(table["program"], table["definition"])
    assert not ledger.judge("c1a-equals-definition", gap).ok
    assert not ledger.judge("c1b-no-profitable-deviation", table["gain"].max()).ok
    ladder = experiments.ladder()
    gap = experiments.largest_difference(ladder["program"], ladder["closed form"])
    assert not ledger.judge("c3a-twin-ladder", gap).ok


def test_signals_of_the_told_effort(ledger):
    broken = experiments.broken_programs()
    closed = experiments.twin_ladder(**experiments.LADDER).optimal
    values = {name: value for name, (value, _) in broken.items()}
    assert values["as it should be"] == pytest.approx(closed, abs=1e-8)
    assert values["nobody can lie"] == pytest.approx(0.67, abs=1e-8)
    assert values["signals of the told effort"] == pytest.approx(0.5, abs=1e-8)
    gap = abs(values["signals of the told effort"] - closed)
    assert not ledger.judge("c3a-twin-ladder", gap).ok


def test_vacuous_instances(ledger, monkeypatch):
    """Costs that nobody can be paid for make the equalities trivial."""
    monkeypatch.setattr(
        experiments,
        "random_shared_instance",
        lambda rng, n, k, m: twin_instance(0.6, 0.4, 0.5),
    )
    table = experiments.against_definition(SMALL[:1])
    assert not ledger.judge("c1c-payments-are-positive", table["payments"].min()).ok


def with_a_row_for_every_lie(problem, **options):
    """Program that lists every map from seen to reported signal instead of using ``z``."""
    lp = ORIGINAL(problem, **options)
    kept = np.ones(lp.A_ub.shape[0], bool)
    sums = []
    for i, m in enumerate(problem.n_signals):
        report = np.arange(lp.slices[f"report{i}"].start, lp.slices[f"report{i}"].stop)
        obey = np.arange(lp.slices[f"obey{i}"].start, lp.slices[f"obey{i}"].stop)
        kept[report] = kept[obey] = False
        # obedience with z, plus what bounds z from below for one map: z cancels
        for row, bounds in zip(obey, report.reshape(-1, m, m), strict=True):
            sums += [[row, *bounds[np.arange(m), phi]] for phi in product(range(m), repeat=m)]
    add = sparse.csr_array(
        (
            np.ones(sum(map(len, sums))),
            np.concatenate(sums),
            np.cumsum([0, *map(len, sums)]),
        ),
        shape=(len(sums), len(kept)),
    )
    rows = sparse.vstack([lp.A_ub[kept], add @ lp.A_ub]).tocsr()
    rows.eliminate_zeros()
    return dataclasses.replace(lp, A_ub=rows, b_ub=np.zeros(rows.shape[0]))


def test_rows_for_every_lie(ledger, monkeypatch):
    def judged():
        sizes = experiments.growth(experts=(2, 3), signals=(2, 3, 4, 5))
        return (
            ledger.judge("c2c-enumeration-explodes", experiments.enumeration_factor(sizes)).ok,
            ledger.judge(
                "c2b-polynomial-growth", max(experiments.growth_exponents(sizes).values())
            ).ok,
        )

    problem = twin_instance(**experiments.LADDER)
    best = program.optimal_mechanism(problem).value
    assert judged() == (True, True)
    monkeypatch.setattr(program, "build_lp", with_a_row_for_every_lie)
    # the same optimum, at the price of a program that outgrows its input
    assert program.optimal_mechanism(problem).value == pytest.approx(best, abs=1e-8)
    assert judged() == (False, False)


def test_lost_block_of_rows(ledger, monkeypatch):
    monkeypatch.setattr(program, "build_lp", without_lies)
    sizes = experiments.growth(experts=(2,), signals=(2, 3))
    gap = experiments.largest_difference(sizes["nonzeros"], sizes["predicted"])
    assert not ledger.judge("c2a-predicted-size", gap).ok


def test_recommendations_that_are_not_correlated(ledger, monkeypatch):
    original = program.optimal_mechanism

    def drawn_apart(problem, *, recommendation=None, **options):
        """Every expert's recommendation is drawn from its own margin."""
        made = original(problem, recommendation=recommendation, **options)
        if recommendation is not None:
            return made
        mu = made.recommendation
        apart = np.outer(mu.sum(axis=1), mu.sum(axis=0))
        return original(problem, recommendation=apart, **options)

    assert ledger.judge("c3b-correlation-pays", experiments.correlation_gap()).ok
    monkeypatch.setattr(program, "optimal_mechanism", drawn_apart)
    gap = experiments.correlation_gap()
    assert np.isfinite(gap)
    assert not ledger.judge("c3b-correlation-pays", gap).ok
    ladder = experiments.ladder()
    worst = experiments.largest_difference(ladder["program"], ladder["closed form"])
    assert not ledger.judge("c3a-twin-ladder", worst).ok


def test_shared_noise(ledger):
    def gap(table):
        return experiments.largest_difference(table["optimum"], table["decoupled"])

    assert ledger.judge("c4a-independence-decouples", gap(experiments.independence(4))).ok
    broken = experiments.independence(4, shared_noise=True)
    assert not ledger.judge("c4a-independence-decouples", gap(broken)).ok


def test_independent_twin(ledger, monkeypatch):
    """Readers of separate papers leave nothing for correlation to do."""
    assert ledger.judge("c4b-dependence-does-not", experiments.dependence()).ok
    monkeypatch.setattr(experiments, "LADDER", experiments.LADDER | {"independent_copy": 1.0})
    assert not ledger.judge("c4b-dependence-does-not", experiments.dependence()).ok


def test_paying_on_the_state_only(ledger):
    twin = twin_instance(**experiments.LADDER)
    best = program.optimal_mechanism(twin)
    found = experiments.equilibria(twin, best)
    assert ledger.judge("c5b-it-is-not-the-only-one", len(found)).ok
    lazy = found[found["kind"] == "lazy"]
    assert ledger.judge("c5c-lazy-pays-better", lazy["expert 1"].mean()).ok
    assert not ledger.judge("c5d-own-report-control", len(lazy)).ok
    alone = experiments.equilibria(twin, experiments.own_report_mechanism(twin))
    assert not ledger.judge("c5b-it-is-not-the-only-one", len(alone)).ok
    assert ledger.judge("c5d-own-report-control", int((alone["kind"] == "lazy").sum())).ok


def test_underpaid_experts(ledger):
    twin = twin_instance(**experiments.LADDER)
    best = program.optimal_mechanism(twin)
    stingy = dataclasses.replace(best, payments=tuple(0.99 * p for p in best.payments))
    assert not ledger.judge(
        "c5a-truth-is-an-equilibrium", experiments.largest_gain(twin, stingy)
    ).ok


def test_own_report_payments_have_no_externality(ledger, monkeypatch):
    assert ledger.judge("c5e-externality", experiments.externality()).ok
    control = experiments.own_report_mechanism(twin_instance(**experiments.LADDER))
    monkeypatch.setattr(program, "optimal_mechanism", lambda problem: control)
    assert not ledger.judge("c5e-externality", experiments.externality()).ok


FEW = 10 ** np.array([6.0, 7.0, 8.0])


def test_no_slack(ledger):
    safe = experiments.regret_table("interval", horizons=FEW, n_seeds=6)
    assert ledger.judge("c6a-regret-slope", safe.slope().estimate, interval=safe.slope()).ok
    assert ledger.judge("c6b-regret-bounded", safe.scaled.max() / safe.scaled[0]).ok
    assert ledger.judge("c6c-incentive-compatible", safe.incentive_compatible.mean()).ok
    assert not ledger.judge(
        "c6d-no-slack-is-linear", safe.slope().estimate, interval=safe.slope()
    ).ok
    bare = experiments.regret_table("plugin", horizons=FEW, n_seeds=6)
    assert not ledger.judge("c6a-regret-slope", bare.slope().estimate, interval=bare.slope()).ok
    assert not ledger.judge("c6b-regret-bounded", bare.scaled.max() / bare.scaled[0]).ok
    assert not ledger.judge("c6c-incentive-compatible", bare.incentive_compatible.mean()).ok
    assert not ledger.judge("c6e-many-seeds", bare.slope().estimate, interval=bare.slope()).ok


def test_exploring_a_fixed_share(ledger, monkeypatch):
    original = online.explore_then_commit

    def share(*args, **options):
        return original(*args, **(options | {"exponent": 0.98}))

    monkeypatch.setattr(online, "explore_then_commit", share)
    curve = experiments.exponent_curve(n_seeds=3, exponents=(0.5, 2 / 3))
    gap = experiments.largest_difference(curve["slope"], curve["theory"])
    assert not ledger.judge("c7b-exponent-curve", gap).ok
    assert not ledger.judge("c7a-best-exponent", experiments.best_exponent(curve)).ok


def test_a_learner_that_forgets(ledger, monkeypatch):
    """Of n reports only the square root is remembered: longer exploration is best then."""
    exponents = (0.6, 2 / 3, 0.75, 0.85)
    good = experiments.exponent_curve(n_seeds=6, exponents=exponents)
    assert ledger.judge("c7a-best-exponent", experiments.best_exponent(good)).ok
    original = online.explore

    def forgetful(problem, rounds_each, seed):
        return original(problem, int(np.sqrt(rounds_each)), seed)

    monkeypatch.setattr(online, "explore", forgetful)
    curve = experiments.exponent_curve(n_seeds=6, exponents=exponents)
    assert not ledger.judge("c7a-best-exponent", experiments.best_exponent(curve)).ok
    gap = experiments.largest_difference(curve["slope"], curve["theory"])
    assert not ledger.judge("c7b-exponent-curve", gap).ok


def test_own_report_learner(ledger, monkeypatch):
    table = experiments.regret_table(horizons=FEW[1:], n_seeds=3)
    ratio = experiments.against_uncorrelated(table)
    assert ledger.judge("c8a-beats-uncorrelated", ratio.max()).ok
    assert ledger.judge("c8b-by-far", ratio[-1]).ok

    def own_report(problem, **options):
        return program.uncorrelated_mechanism(problem)

    monkeypatch.setattr(online, "optimal_mechanism", own_report)
    ratio = experiments.against_uncorrelated(experiments.regret_table(horizons=FEW[1:], n_seeds=3))
    assert not ledger.judge("c8a-beats-uncorrelated", ratio.max()).ok
    assert not ledger.judge("c8b-by-far", ratio[-1]).ok


def test_judging_on_the_design_sample(ledger, monkeypatch, pair):
    options = {"sizes": (500, 4000), "draws": 3, "multipliers": (0.0, 2.0)}
    honest = experiments.fragility(pair, **options).groupby("z")["incentive_compatible"].mean()
    assert ledger.judge("c9b-plug-in-breaks", honest[0.0]).ok
    assert ledger.judge("c9c-interval-holds", honest[2.0]).ok
    # without intervals the careful program is the careless one
    assert not ledger.judge("c9c-interval-holds", honest[0.0]).ok
    original = experiments._used
    monkeypatch.setattr(experiments, "_used", lambda seen, truth, n, z: original(seen, seen, n, z))
    same = experiments.fragility(pair, **options).groupby("z")["incentive_compatible"].mean()
    assert not ledger.judge("c9b-plug-in-breaks", same[0.0]).ok


def test_readers_whose_errors_are_their_own(ledger, pair):
    """Without a shared source there is nothing to coordinate (claim c4), in samples as well."""
    rng = np.random.default_rng(1)

    def blur(share):
        return np.where(rng.random(500) < share, 1 - pair.labels, pair.labels)

    signals = tuple(np.stack([np.zeros(500, int), blur(0.35), blur(0.15)]) for _ in range(2))
    apart = dataclasses.replace(pair, signals=signals)
    found = experiments.real_correlation(apart, n_draws=100)
    assert not ledger.judge("c9a-real-correlation-pays", found.estimate, interval=found).ok


def test_rent_forgotten(ledger, monkeypatch):
    monkeypatch.setattr(experiments, "minimum_payment", lambda see, prior, cost: cost)
    table = experiments.single_expert(2)
    gap = experiments.largest_difference(table["program"], table["closed form"])
    assert not ledger.judge("c0-single-expert", gap).ok


def test_biased_costs(ledger, monkeypatch):
    original = online.estimate_costs
    slope, _ = experiments.cost_errors(repetitions=20)
    assert ledger.judge("c10-unknown-costs", slope.estimate, interval=slope).ok
    monkeypatch.setattr(online, "estimate_costs", lambda *a: tuple(c + 0.01 for c in original(*a)))
    slope, _ = experiments.cost_errors(repetitions=20)
    assert not ledger.judge("c10-unknown-costs", slope.estimate, interval=slope).ok


def test_rows_of_readers(pair):
    whole = pair.problem(0.02, 1.0)
    assert whole.kernel.sum() == pytest.approx(9)
    some = pair.problem(0.02, 1.0, rows=np.arange(100))
    counts = np.zeros((2, 2, 2))
    np.add.at(counts, (pair.signals[0][2][:100], pair.signals[1][1][:100], pair.labels[:100]), 1)
    np.testing.assert_allclose(some.kernel[2, 1] * 100, counts, atol=1e-9)
    assert pair.problem(0.02, 1.0, efforts=(0, 2)).n_actions == (2, 2)
    with pytest.raises(ValueError, match="efforts must be"):
        pair.problem(0.02, 1.0, efforts=(1, 2))
