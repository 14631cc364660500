import numpy as np
import pytest

from paperkit.information_acquisition import (
    HiringProblem,
    KernelIntervals,
    classifier_instance,
    estimate_costs,
    explore_then_commit,
    match_rules,
    minimum_payment,
    optimal_mechanism,
    principal_value,
    pure_equilibria,
    separate_noise_instance,
    shared_noise_instance,
    twin_instance,
    twin_ladder,
    v_shaped_rule,
)


def parts(problem):
    return {
        "kernel": problem.kernel.copy(),
        "costs": problem.costs,
        "utility": problem.utility,
        "payment_cap": problem.payment_cap,
    }


def moved(kernel):
    kernel = kernel.copy()
    kernel[1, 0] = kernel[1, 0][..., ::-1] * np.array([0.9, 1.1])
    return kernel


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": np.full((2, 2), 0.25)}, "kernel must have 2 n"),
        ({"kernel": lambda k: -k}, "kernel has a negative entry"),
        ({"kernel": lambda k: 2 * k}, "kernel must sum to 1"),
        ({"kernel": moved}, "same prior"),
        ({"kernel": lambda k: k * np.nan}, "kernel has entries that are not finite"),
        ({"costs": ([0, 0.1, 0.2], [0, 0.1])}, r"costs\[0\] must have shape \(2,\)"),
        ({"costs": ([0, -0.1], [0, 0.1])}, r"costs\[0\] has a negative entry"),
        ({"costs": ([0, 0.1], [0.1, 0.2])}, r"costs\[1\] has no effort that costs 0"),
        ({"utility": np.eye(3)}, "utility must have shape"),
        ({"payment_cap": 0.0}, "payment_cap must be positive"),
        ({"payment_cap": np.inf}, "payment_cap must be positive"),
    ],
)
def test_bad_problem(twin, change, message):
    arguments = parts(twin)
    for name, value in change.items():
        arguments[name] = value(arguments[name]) if callable(value) else value
    with pytest.raises(ValueError, match=message):
        HiringProblem(**arguments)


@pytest.mark.parametrize("costs", [(0.0, 0.1), 0.1, "free", ([0, "x"], [0, 1])])
def test_costs_that_are_not_arrays(twin, costs):
    with pytest.raises(TypeError, match="costs"):
        HiringProblem(twin.kernel, costs, twin.utility, 1.0)


def test_bad_arguments(twin, noisy):
    with pytest.raises(ValueError, match="recommendation must be a distribution"):
        optimal_mechanism(twin, recommendation=np.full((2, 2), 0.3))
    with pytest.raises(ValueError, match="recommendation must have shape"):
        optimal_mechanism(twin, recommendation=[1.0, 0.0])
    with pytest.raises(ValueError, match="own_report_only needs"):
        optimal_mechanism(twin, own_report_only=True)
    with pytest.raises(ValueError, match="solver"):
        optimal_mechanism(twin, solver="simplex")
    with pytest.raises(ValueError, match="bracket the centre"):
        KernelIntervals(twin.kernel + 0.1, twin.kernel, twin.kernel + 0.2)
    with pytest.raises(ValueError, match="does not fit"):
        principal_value(noisy, optimal_mechanism(separate()))
    with pytest.raises(ValueError, match="max_profiles=10"):
        pure_equilibria(twin, optimal_mechanism(twin), max_profiles=10)
    with pytest.raises(ValueError, match="two states"):
        v_shaped_rule(np.full((2, 3), 0.5), [0.5, 0.5], 0.1)
    with pytest.raises(ValueError, match="says nothing"):
        minimum_payment(np.full((2, 2), 0.5), [0.5, 0.5], 0.1)
    with pytest.raises(ValueError, match="cap / 4"):
        twin_ladder(0.75, 0.3, 0.5)
    with pytest.raises(ValueError, match="accuracy"):
        twin_instance(0.5, 0.1, 0.5)
    with pytest.raises(ValueError, match="independent_copy"):
        twin_instance(0.7, 0.1, 0.5, 1.5)


def separate():
    see = np.array([[[0.5, 0.5], [0.3, 0.3], [0.2, 0.2]], [[0.8, 0.1], [0.1, 0.2], [0.1, 0.7]]])
    return separate_noise_instance([see, see], [[0, 0.02], [0, 0.02]], [0.5, 0.5], 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exponent": 1.0}, "exponent must lie in"),
        ({"exponent": 0.0}, "exponent must lie in"),
        ({"horizon": 3}, "horizon 3 is shorter"),
        ({"method": "guess"}, "method must be"),
        ({"scale": -1.0}, "scale must be positive"),
        ({"z": -1.0}, "z must be finite"),
        ({"exploration_rules": (np.zeros((2, 2, 2)),)}, "one array per expert"),
        ({"exploration_rules": (np.ones((2, 2, 2)),) * 2}, r"must lie in \[0, 0.5\]"),
        ({"exploration_rules": (np.zeros((2, 2, 2)),) * 2}, "leave a gain"),
    ],
)
def test_bad_learning(twin, arguments, message):
    defaults = {"horizon": 1e4, "exploration_rules": match_rules(twin), "seed": 0}
    with pytest.raises(ValueError, match=message):
        explore_then_commit(twin, **(defaults | arguments))


def test_bad_classifiers():
    labels = np.array([0, 1, 1])
    good = [np.array([[0, 0, 0], [0, 1, 1]])]
    with pytest.raises(ValueError, match=r"signals\[0\] must have shape"):
        classifier_instance([np.zeros((2, 2), int)], labels, [[0, 1]], np.eye(2), 1.0)
    with pytest.raises(TypeError, match=r"signals\[0\] must be integers"):
        classifier_instance([good[0] / 2], labels, [[0, 1]], np.eye(2), 1.0)
    with pytest.raises(ValueError, match="labels has state 2"):
        classifier_instance(good, labels + 1, [[0, 1]], np.eye(2), 1.0)
    with pytest.raises(ValueError, match="non-empty"):
        classifier_instance(good, np.array([], int), [[0, 1]], np.eye(2), 1.0)


def test_no_rule_says_the_state():
    with pytest.raises(ValueError, match="no report 'is' a state"):
        match_rules(separate())


def test_kernels_are_what_they_say():
    twin = twin_instance(0.8, 0.1, 0.5, independent_copy=0.25)
    both = twin.kernel[1, 1]
    # they agree unless two independent copies differ
    assert both[0, 0].sum() + both[1, 1].sum() == pytest.approx(1 - 0.25 * 2 * 0.8 * 0.2)
    assert both[:, :, 0].sum(axis=1)[0] / 0.5 == pytest.approx(0.8)
    shared = shared_noise_instance(
        [[0, 1.0]] * 2, [[0, 0.1]] * 2, [[0.8, 0.2], [0.2, 0.8]], [0.5, 0.5], 0.5
    )
    np.testing.assert_allclose(shared.kernel[1, 1], twin_instance(0.8, 0.1, 0.5).kernel[1, 1])
    apart = separate()
    k = apart.kernel[1, 1] / apart.prior
    np.testing.assert_allclose(k, k.sum(1)[:, None] * k.sum(0)[None], atol=1e-12)


def test_classifier_kernel_counts():
    labels = np.array([0, 0, 1, 1])
    signals = [np.array([[0, 0, 0, 0], [0, 1, 1, 1]])] * 2
    problem = classifier_instance(signals, labels, [[0, 0.1]] * 2, np.eye(2), 1.0)
    assert problem.kernel[1, 1, 1, 1, 0] == 0.25
    assert problem.kernel[1, 1, 1, 1, 1] == 0.5
    assert problem.kernel[1, 1, 0, 1].sum() == 0
    np.testing.assert_allclose(problem.prior, [0.5, 0.5])


def test_unknown_costs(twin):
    exact = estimate_costs(twin, match_rules(twin), twin.kernel)
    for found, cost in zip(exact, twin.costs, strict=True):
        np.testing.assert_allclose(found, cost, atol=1e-8)
    three = three_efforts()
    found = estimate_costs(three, [three_rules()], three.kernel)[0]
    np.testing.assert_allclose(found, three.costs[0], atol=1e-8)


def three_efforts():
    see = np.array([[[0.5, 0.5]] * 2, [[0.75, 0.25], [0.25, 0.75]], [[0.9, 0.1], [0.1, 0.9]]])
    return separate_noise_instance([see], [[0, 0.02, 0.06]], [0.5, 0.5], 1.0)


def three_rules():
    # pay q for a report that matches: .75 q - .02 is best for q in (.08, .267), .9 q - .06 above
    rule = np.zeros((3, 2, 2))
    rule[1] = 0.2 * np.eye(2)
    rule[2] = 0.9 * np.eye(2)
    return rule
