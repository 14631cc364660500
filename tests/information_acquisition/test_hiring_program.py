import numpy as np
import pytest
from hiring_instances import random_shared
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from paperkit.information_acquisition import (
    HiringProblem,
    KernelIntervals,
    build_lp,
    fixed_mechanism,
    largest_gain,
    minimum_payment,
    optimal_mechanism,
    predicted_nonzeros,
    principal_value,
    separate_noise_instance,
    smallest_cap,
    solve_definition,
    total_variation,
    twin_instance,
    twin_ladder,
    uncorrelated_mechanism,
    v_shaped_rule,
    worst_case_gain,
)
from paperkit.information_acquisition.definition import enumerated_gain
from paperkit.information_acquisition.program import solve_lp


def one_expert(rng, n_signals, cost, cap=50.0):
    see = rng.dirichlet(np.ones(n_signals), size=2).T  # (m, 2)
    prior = np.array([0.3, 0.7])
    idle = np.full((n_signals, 2), 1 / n_signals)
    problem = separate_noise_instance([np.stack([idle, see])], [[0, cost]], prior, cap)
    return problem, see, prior


@pytest.mark.parametrize("n_signals", [2, 3, 4, 5])
def test_single_expert_closed_form(rng, n_signals):
    problem, see, prior = one_expert(rng, n_signals, 0.02)
    work = optimal_mechanism(problem, recommendation=[0, 1])
    paid = work.expected_payments(problem)[0]
    assert paid == pytest.approx(minimum_payment(see, prior, 0.02), abs=1e-8)
    rule = v_shaped_rule(see, prior, 0.02)
    assert (see * prior * rule).sum() == pytest.approx(paid, abs=1e-8)
    cap = smallest_cap(see, prior, 0.02)
    tight = one_expert(np.random.default_rng(0), n_signals, 0.02, cap * 1.001)[0]
    short = one_expert(np.random.default_rng(0), n_signals, 0.02, cap * 0.999)[0]
    assert optimal_mechanism(tight, recommendation=[0, 1]).status == "optimal"
    none = optimal_mechanism(short, recommendation=[0, 1])
    assert none.status == "infeasible"
    assert none.value == -np.inf


@pytest.mark.parametrize("accuracy", [0.65, 0.75, 0.9])
@pytest.mark.parametrize("cap", [0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("share", [0.05, 0.15, 0.25])
def test_twin_closed_form(accuracy, cap, share):
    cost = cap * share
    problem = twin_instance(accuracy, cost, cap)
    ladder = twin_ladder(accuracy, cost, cap)
    assert optimal_mechanism(problem).value == pytest.approx(ladder.optimal, abs=1e-8)
    assert uncorrelated_mechanism(problem).value == pytest.approx(
        max(ladder.uncorrelated, 0.5), abs=1e-8
    )


def test_twin_recommendations(twin):
    best = optimal_mechanism(twin)
    both = twin_ladder(0.75, 0.08, 0.5).both
    np.testing.assert_allclose(
        best.recommendation, [[0, (1 - both) / 2], [(1 - both) / 2, both]], atol=1e-8
    )
    always = optimal_mechanism(twin, recommendation=[[0, 0], [0, 1]])
    assert always.value == pytest.approx(0.75 - 4 * 0.08, abs=1e-8)
    q = 0.32
    independent = optimal_mechanism(twin, recommendation=[[0, 0], [1 - q, q]])
    assert independent.value == pytest.approx(0.5388, abs=1e-8)


def test_payments_grow_without_a_cap():
    values = [optimal_mechanism(twin_instance(0.75, 0.08, cap)).value for cap in (0.4, 0.5, 1, 2)]
    np.testing.assert_allclose(values, [0.55, 0.55952381, 0.57608696, 0.58333333], atol=1e-7)
    assert optimal_mechanism(twin_instance(0.75, 0.08, 1e4)).value == pytest.approx(0.59, abs=1e-5)


ORACLE = [(0, 2, 2, 2), (1, 2, 2, 2), (2, 2, 3, 2), (3, 2, 2, 3), (4, 2, 3, 3), (5, 3, 2, 2)]
ORACLE += [(6, 1, 3, 3), (7, 1, 4, 2)]


@pytest.mark.parametrize(("seed", "n", "k", "m"), ORACLE)
def test_equals_the_definition(seed, n, k, m):
    problem = random_shared(seed, n, k, m)
    best = optimal_mechanism(problem)
    assert best.expected_payments(problem).sum() > 1e-4  # otherwise equality means nothing
    assert best.value == pytest.approx(solve_definition(problem).value, abs=1e-7)
    assert enumerated_gain(problem, best) <= 1e-8


@pytest.mark.parametrize(("n", "k", "m"), [(2, 2, 2), (3, 2, 2), (2, 3, 2), (2, 2, 4), (4, 2, 2)])
def test_predicted_nonzeros(n, k, m):
    problem = random_shared(9, n, k, m)
    full = build_lp(problem, presolve=False)
    assert full.nnz == predicted_nonzeros(n, k, m, 2)
    short = build_lp(problem)
    assert short.nnz < full.nnz
    assert solve_lp(problem, short).value == pytest.approx(solve_lp(problem, full).value, abs=1e-8)


def test_brute_force_over_payments():
    """No payments on a grid of 21^4 beat the program for one expert (accuracy .8, cost .05)."""
    see = np.array([[0.8, 0.2], [0.2, 0.8]])
    problem = separate_noise_instance(
        [np.stack([np.full((2, 2), 0.5), see])], [[0, 0.05]], [0.5, 0.5], 0.5
    )
    best = optimal_mechanism(problem, recommendation=[0, 1]).expected_payments(problem)[0]
    grid = np.linspace(0, 0.5, 21)
    g = np.stack(np.meshgrid(*[grid] * 4, indexing="ij"), -1).reshape(-1, 2, 2)  # report, state
    truth = 0.5 * np.einsum("st,gst->g", see, g)
    constant = 0.5 * g.sum(axis=2)  # idle, report s
    flipped = 0.5 * np.einsum("st,gst->g", see[::-1], g)
    honest = (truth - 0.05 >= constant.max(axis=1) - 1e-12) & (truth >= flipped - 1e-12)
    assert best == pytest.approx(0.05 * (1 + 1 / 0.6), abs=1e-8)
    assert truth[honest].min() == pytest.approx(0.14, abs=1e-12)
    assert truth[honest].min() >= best


def test_mechanism_is_feasible(noisy):
    best = optimal_mechanism(noisy)
    assert best.recommendation.sum() == pytest.approx(1)
    for pay in best.payments:
        assert pay.min() >= 0
        assert pay.max() <= noisy.payment_cap
    assert principal_value(noisy, best) == pytest.approx(best.value, abs=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_uncorrelated_is_the_best_own_report_program(seed):
    problem = random_shared(seed, 2, 3, 2)
    made = uncorrelated_mechanism(problem)
    values = []
    for profile in np.ndindex(problem.n_actions):
        mu = np.zeros(problem.n_actions)
        mu[profile] = 1
        whole = optimal_mechanism(problem, recommendation=mu, own_report_only=True)
        values.append(whole.value)
        for pay in whole.payments:  # nobody is paid by what another reports
            own = pay[profile]
            assert np.ptp(own, axis=1).max() < 1e-9 or np.ptp(own, axis=0).max() < 1e-9
    assert made.value == pytest.approx(max(values), abs=1e-8)
    assert principal_value(problem, made) == pytest.approx(made.value, abs=1e-8)
    assert largest_gain(problem, made) <= 1e-8
    assert made.expected_payments(problem).sum() > 1e-4


def test_order_of_classes(noisy):
    nobody = float((noisy.prior @ noisy.utility.T).max())
    values = [m.value for m in (uncorrelated_mechanism(noisy), fixed_mechanism(noisy))]
    values = [nobody, *values, optimal_mechanism(noisy).value]
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.01


def test_monotone_in_cap_and_cost():
    caps = [optimal_mechanism(twin_instance(0.8, 0.05, m)).value for m in (0.1, 0.2, 0.4, 0.8)]
    costs = [optimal_mechanism(twin_instance(0.8, c, 0.5)).value for c in (0, 0.02, 0.05, 0.1)]
    assert np.all(np.diff(caps) >= -1e-9)
    assert np.all(np.diff(costs) <= 1e-9)
    assert caps[-1] > caps[0]
    assert costs[-1] < costs[0]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.1, 10))
def test_relabelling_and_scaling(seed, factor):
    problem = random_shared(seed, 2, 2, 3)
    value = optimal_mechanism(problem).value
    rng = np.random.default_rng(seed)
    k = problem.kernel
    kernel = k[:, :, rng.permutation(3)][:, :, :, rng.permutation(3)]
    order = rng.permutation(2)
    relabelled = HiringProblem(
        kernel[..., order], problem.costs, problem.utility[:, order], problem.payment_cap
    )
    assert optimal_mechanism(relabelled).value == pytest.approx(value, abs=1e-7)
    swapped = HiringProblem(
        k.transpose(1, 0, 3, 2, 4), problem.costs[::-1], problem.utility, problem.payment_cap
    )
    assert optimal_mechanism(swapped).value == pytest.approx(value, abs=1e-7)
    efforts = HiringProblem(
        k[::-1], (problem.costs[0][::-1], problem.costs[1]), problem.utility, problem.payment_cap
    )
    assert optimal_mechanism(efforts).value == pytest.approx(value, abs=1e-7)
    scaled = HiringProblem(
        k,
        tuple(factor * c for c in problem.costs),
        factor * problem.utility,
        factor * problem.payment_cap,
    )
    assert optimal_mechanism(scaled).value == pytest.approx(factor * value, abs=1e-6 * factor)


def test_half_probability_copies_change_nothing(noisy):
    split = np.repeat(noisy.kernel, [1, 2], axis=2)
    split[:, :, 1:] /= 2
    doubled = HiringProblem(split, noisy.costs, noisy.utility, noisy.payment_cap)
    assert optimal_mechanism(doubled).value == pytest.approx(
        optimal_mechanism(noisy).value, abs=1e-8
    )


def intervals_around(kernel, width):
    return KernelIntervals(np.maximum(kernel - width, 0), kernel, np.minimum(kernel + width, 1))


def test_interval_program(noisy, rng):
    exact = optimal_mechanism(noisy).value
    widths = [0.0, 1e-4, 5e-4, 1e-3, 2e-3, 1e-2]
    made = [optimal_mechanism(noisy, intervals=intervals_around(noisy.kernel, w)) for w in widths]
    values = [m.value for m in made]
    assert values[0] == pytest.approx(exact, abs=1e-8)
    assert np.all(np.diff(values) <= 1e-9)
    assert values[2] > values[-1]
    chosen = intervals_around(noisy.kernel, 5e-4)
    assert worst_case_gain(noisy, made[2], chosen) <= 1e-8
    assert made[2].expected_payments(noisy).sum() > 1e-3
    # kernels at the corners of the box; masses need not sum to 1 for the argument
    for _ in range(50):
        corner = np.where(rng.random(noisy.kernel.shape) < 0.5, chosen.low, chosen.high)
        fake = object.__new__(HiringProblem)
        for name in ("costs", "utility", "payment_cap"):
            object.__setattr__(fake, name, getattr(noisy, name))
        object.__setattr__(fake, "kernel", corner)
        assert largest_gain(fake, made[2]) <= 1e-8


def test_relaxed_program_is_optimistic(noisy):
    box = intervals_around(noisy.kernel, 1e-3)
    relaxed = optimal_mechanism(noisy, intervals=box, relaxed=True)
    strict = optimal_mechanism(noisy, intervals=box)
    assert relaxed.value > optimal_mechanism(noisy).value + 1e-6 > strict.value
    assert worst_case_gain(noisy, relaxed, box) > 1e-6


def test_cost_intervals(twin):
    low = tuple(np.maximum(c - 0.005, 0) for c in twin.costs)
    high = tuple(np.where(c > 0, c + 0.005, 0) for c in twin.costs)
    careful = solve_lp(twin, build_lp(twin, cost_low=low, cost_high=high))
    assert careful.value < optimal_mechanism(twin).value
    dearer = twin_instance(0.75, 0.085, 0.5)
    assert largest_gain(dearer, careful) <= 1e-8
    with pytest.raises(ValueError, match="must not exceed"):
        build_lp(twin, cost_low=high, cost_high=low)


def test_optimum_against_random_mechanisms(twin, rng):
    """Random perturbations of the optimum that stay incentive compatible are no better."""
    best = optimal_mechanism(twin)
    checked = 0
    for _ in range(400):
        mu = np.abs(best.recommendation + rng.normal(0, 0.03, (2, 2)))
        pay = tuple(
            np.clip(p + np.abs(rng.normal(0, 0.02, p.shape)) * (p > 0), 0, 0.5)
            for p in best.payments
        )
        other = type(best)(mu / mu.sum(), pay, best.decision, 0.0)
        if largest_gain(twin, other) <= 1e-9:
            checked += 1
            assert principal_value(twin, other) <= best.value + 1e-9
    assert checked >= 5


def test_total_variation():
    assert total_variation([[0.8, 0.3], [0.2, 0.7]]) == pytest.approx(0.5)


def test_solver_is_scipys(noisy):
    lp = build_lp(noisy)
    bounds = np.column_stack([np.zeros(len(lp.c)), lp.upper])
    found = linprog(lp.c, lp.A_ub, lp.b_ub, lp.A_eq, lp.b_eq, bounds=bounds)
    assert -found.fun == pytest.approx(optimal_mechanism(noisy).value, abs=1e-8)
