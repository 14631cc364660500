import numpy as np
import pytest
from hiring_instances import random_shared

from paperkit.information_acquisition import (
    Strategy,
    agent_values,
    best_response_dynamics,
    deviation_gains,
    explore,
    explore_then_commit,
    kernel_intervals,
    largest_gain,
    match_rules,
    obedience,
    optimal_mechanism,
    principal_value,
    pure_equilibria,
    simulate,
    twin_instance,
)
from paperkit.information_acquisition.definition import enumerated_gain
from paperkit.information_acquisition.online import confidence_multiplier, rules_mechanism


def broken(mechanism, rng):
    payments = tuple(np.clip(p + rng.uniform(0, 0.2, p.shape), 0, None) for p in mechanism.payments)
    return type(mechanism)(mechanism.recommendation, payments, mechanism.decision, 0.0)


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 3, 2), (2, 2, 3), (3, 2, 2)])
def test_best_report_per_signal_equals_enumeration(shape, rng):
    problem = random_shared(3, *shape)
    bad = broken(optimal_mechanism(problem), rng)
    gains = deviation_gains(problem, bad)
    assert gains[0].gain > 1e-3
    assert gains[0].gain == pytest.approx(enumerated_gain(problem, bad), abs=1e-12)
    assert largest_gain(problem, bad) == pytest.approx(gains[0].gain, abs=1e-12)
    assert [d.gain for d in gains] == sorted((d.gain for d in gains), reverse=True)


def test_gain_is_what_the_deviator_gets(rng):
    problem = random_shared(5, 2, 2, 2)
    bad = broken(optimal_mechanism(problem), rng)
    top = deviation_gains(problem, bad)[0]
    strategies = list(obedience(problem))
    actions, reports = strategies[top.agent].actions.copy(), strategies[top.agent].reports.copy()
    actions[top.told], reports[top.told] = top.played, top.report_map
    strategies[top.agent] = Strategy(actions, reports)
    before = agent_values(problem, bad)[top.agent]
    after = agent_values(problem, bad, tuple(strategies))[top.agent]
    assert after - before == pytest.approx(top.gain, abs=1e-12)


def test_dynamics_stop_at_an_equilibrium(rng):
    problem = random_shared(5, 2, 2, 2)
    honest = optimal_mechanism(problem)
    stay, converged = best_response_dynamics(problem, honest, tol=1e-8)
    assert converged
    for strategy, obey in zip(stay, obedience(problem), strict=True):
        assert (strategy.actions == obey.actions).all()
    twin = twin_instance(0.75, 0.04, 0.4, 0.05)
    plug_in = explore_then_commit(twin, 1e6, match_rules(twin), method="plugin", seed=0).mechanism
    there, converged = best_response_dynamics(twin, plug_in)
    assert converged
    assert largest_gain(twin, plug_in) > 1e-6
    assert largest_gain(twin, plug_in, there) <= 1e-9
    # nobody has to settle: these payments make the experts chase each other
    bad = broken(honest, rng)
    there, converged = best_response_dynamics(problem, bad, max_rounds=20)
    assert converged == (largest_gain(problem, bad, there) <= 1e-9)


def test_equilibria_of_the_twin(twin):
    best = optimal_mechanism(twin)
    found = pure_equilibria(twin, best)
    assert len(found) == 10
    payoffs = [agent_values(twin, best, e) for e in found]
    principal = sorted({round(principal_value(twin, best, e), 4) for e in found})
    assert principal == [0.0595, 0.3095, 0.5595]
    lazy = [p for p, e in zip(payoffs, found, strict=True) if e[0].actions[1] == 0]
    assert len(lazy) == 8
    np.testing.assert_allclose(lazy, 0.0952381, atol=1e-6)
    for e in found:
        assert largest_gain(twin, best, e) <= 1e-9


def test_monte_carlo_agrees(twin, rng):
    best = optimal_mechanism(twin)
    drawn = simulate(twin, best, 200_000, rng)
    error = drawn.std() / np.sqrt(len(drawn))
    assert abs(drawn.mean() - best.value) < 4 * error
    lazy = pure_equilibria(twin, best)[0]
    drawn = simulate(twin, best, 200_000, rng, lazy)
    assert abs(drawn.mean() - principal_value(twin, best, lazy)) < 4 * drawn.std() / 447


def test_regret_is_the_expectation_of_rounds():
    """Exact regret against simulated rounds of exploration and commitment."""
    problem = twin_instance(0.75, 0.04, 0.4, 0.05)
    optimum = optimal_mechanism(problem).value
    horizon = 200_000
    run = explore_then_commit(problem, horizon, match_rules(problem), seed=3)
    rng = np.random.default_rng(0)
    uniform = rules_mechanism(problem, match_rules(problem), np.full((2, 2), 0.25))
    rounds = np.concatenate(
        [
            simulate(problem, uniform, run.n_explore, rng),
            simulate(problem, run.mechanism, horizon - run.n_explore, rng),
        ]
    )
    error = rounds.std() * np.sqrt(horizon)
    assert abs(optimum * horizon - rounds.sum() - run.regret) < 4 * error
    again = explore_then_commit(problem, horizon, match_rules(problem), seed=3)
    assert again.regret == run.regret


def test_infinite_data_leaves_the_exploration_cost(monkeypatch):
    problem = twin_instance(0.75, 0.04, 0.4, 0.05)

    def exact(problem, rounds_each, seed):
        return np.round(problem.kernel * 1e12).astype(np.int64)

    monkeypatch.setattr("paperkit.information_acquisition.online.explore", exact)
    run = explore_then_commit(problem, 1e6, match_rules(problem), seed=0)
    optimum = optimal_mechanism(problem).value
    uniform = rules_mechanism(problem, match_rules(problem), np.full((2, 2), 0.25))
    assert run.incentive_compatible
    assert run.regret == pytest.approx(run.n_explore * (optimum - uniform.value), rel=1e-3)


@pytest.mark.parametrize("method", ["interval", "mix"])
def test_safe_methods_stay_incentive_compatible(method):
    problem = twin_instance(0.75, 0.04, 0.4, 0.05)
    rules = match_rules(problem)
    for seed in range(5):
        run = explore_then_commit(problem, 1e7, rules, method=method, z=3, seed=seed)
        assert run.incentive_compatible
        assert run.realised_value > 0.51
    plug_in = explore_then_commit(problem, 1e7, match_rules(problem), method="plugin", seed=0)
    assert not plug_in.incentive_compatible


def test_intervals():
    problem = twin_instance(0.75, 0.04, 0.4)
    counts = explore(problem, 100, 0)
    assert counts.sum() == 400
    box = kernel_intervals(counts, 2, 2.0)
    k, n, z = counts[1, 1, 0, 0, 0], 100, 2.0
    middle = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    assert box.low[1, 1, 0, 0, 0] == pytest.approx(middle - half)
    assert box.high[1, 1, 0, 0, 0] == pytest.approx(middle + half)
    with pytest.raises(ValueError, match="every profile"):
        kernel_intervals(counts * 0, 2, 2.0)
    assert confidence_multiplier(32, 1e6) == pytest.approx(np.sqrt(2 * np.log(6400)))
    with pytest.raises(ValueError, match="at least 1"):
        confidence_multiplier(0, 10)
