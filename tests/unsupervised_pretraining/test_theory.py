"""Distances, informativeness, the chain of the proof, and the small counter-example worlds."""

import numpy as np
import pytest
from scipy import integrate, linalg, stats

from paperkit.unsupervised_pretraining import (
    FactorTask,
    align,
    bound_chain,
    broken_invariance_excess,
    coin_excess,
    fit_ppca,
    halfspace_excess,
    hellinger_gaussian,
    informative_from,
    joint_covariance,
    local_kappa,
    pretraining_draws,
    representation_excess,
    sample_second_moments,
    theorem_bound,
    total_variation_bound,
    two_squares_excess,
    two_squares_wrong,
    voting_excess,
    worst_signal_excess,
)
from paperkit.unsupervised_pretraining.experiments import base_task, voting_constant

SPECTRA = [(4.0, 3.0, 2.0, 1.0), (0.5,), (0.2, 0.2), (6.0, 0.3), (1.0, 1.0, 0.25)]


def test_hellinger_in_one_dimension_against_quadrature():
    a, b = 1.0, 2.5
    affinity = integrate.quad(
        lambda x: np.sqrt(stats.norm.pdf(x, scale=a**0.5) * stats.norm.pdf(x, scale=b**0.5)),
        -20,
        20,
    )[0]
    tv = 0.5 * integrate.quad(
        lambda x: abs(stats.norm.pdf(x, scale=a**0.5) - stats.norm.pdf(x, scale=b**0.5)),
        -20, 20, points=[-1.5, 1.5], limit=200,
    )[0]  # fmt: skip
    h = float(hellinger_gaussian([[a]], [[b]]))
    assert h == pytest.approx(np.sqrt(1 - affinity), abs=1e-9)
    assert h**2 <= tv <= float(total_variation_bound(h)) <= np.sqrt(2) * h


def test_hellinger_is_a_symmetric_distance_in_the_unit_interval():
    rng = np.random.default_rng(0)
    a, b = (x @ x.T + np.eye(4) for x in rng.standard_normal((2, 4, 4)))
    assert hellinger_gaussian(a, b) == pytest.approx(hellinger_gaussian(b, a))
    assert 0 < hellinger_gaussian(a, b) < 1
    assert hellinger_gaussian(a, a) == 0


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_kappa_is_the_largest_generalised_eigenvalue(spectrum):
    """Finite differences of both squared distances over all directions, rotations projected out."""
    r = len(spectrum)
    d = r + 2
    b = FactorTask.diagonal(spectrum, [1.0] * r, dimension=d).loadings
    step = 1e-4

    def second_derivative(distance):
        size = d * r
        form = np.zeros((size, size))
        for i in range(size):
            for j in range(i, size):
                total = 0.0
                for si, sj in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                    change = np.zeros(size)
                    change[i] += si * step
                    change[j] += sj * step
                    total += si * sj * distance(b + change.reshape(d, r)) ** 2
                form[i, j] = form[j, i] = total / (8 * step**2)
        return form

    base = b @ b.T + np.eye(d)
    joint0 = joint_covariance(b)
    marginal = second_derivative(lambda x: float(hellinger_gaussian(x @ x.T + np.eye(d), base)))
    joint = second_derivative(lambda x: float(hellinger_gaussian(joint_covariance(x), joint0)))
    turns = []
    for j in range(r):
        for k in range(j):
            omega = np.zeros((r, r))
            omega[j, k], omega[k, j] = 1, -1
            turns.append((b @ omega).ravel())
    keep = linalg.null_space(np.array(turns)) if turns else np.eye(d * r)
    values = linalg.eigh(keep.T @ joint @ keep, keep.T @ marginal @ keep, eigvals_only=True)
    assert np.sqrt(values[-1]) == pytest.approx(local_kappa(b), rel=2e-3)


def test_alignment_undoes_a_rotation():
    task, rng = base_task(10), np.random.default_rng(1)
    q = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    np.testing.assert_allclose(align(task.loadings @ q, task.loadings), task.loadings, atol=1e-12)


def test_chain_is_ordered_for_200_random_fits():
    task, rng = base_task(12), np.random.default_rng(2)
    for m in (100, 10_000):
        loadings = fit_ppca(sample_second_moments(task.covariance, m, 100, rng), 4)
        terms = bound_chain(task, loadings, 2.0)
        order = [terms[name] for name in ("excess", "law_xy", "law_xz", "law_x")]
        assert (order[0] <= order[1]).all()
        assert (order[1] <= order[2] + 1e-12).all()
        assert (order[2] <= order[3]).all()


def test_theorem_bound_adds_up_and_falls():
    task = base_task()
    small, large = (theorem_bound(task, m, 100, clip=2.0) for m in (1e4, 1e6))
    assert small["total"] == pytest.approx(
        small["pretraining"] + small["head"] + small["confidence"]
    )
    assert large["pretraining"] < small["pretraining"]
    assert large["head"] == small["head"]
    m = informative_from(task, clip=2.0)
    trivial = 1.25
    from paperkit.unsupervised_pretraining import free_parameters, gaussian_risk

    p = free_parameters(40, 4)
    assert p == 154
    term = 12 * np.sqrt(2) * local_kappa(task.loadings) * 2.0 * np.sqrt(p * np.log(m) / m)
    target = float(gaussian_risk(trivial, "clipped", 2.0)) - task.bayes_risk("clipped", 2.0)
    assert term == pytest.approx(target, rel=1e-6)


def test_worst_signal_curve_is_continuous_at_the_transition():
    s = np.sqrt(20 / 2000)
    below, above = worst_signal_excess([s * 0.9999, s * 1.0001], 2000, 20)
    assert above == pytest.approx(below, rel=1e-3)
    assert below == pytest.approx(s / (1 + s), rel=1e-3)


@pytest.mark.parametrize("strength", [0.05, 0.5])
def test_worst_signal_curve_against_simulation(strength):
    """Below the transition the factor is lost, above it found as well as the limit says (d = 80)."""
    m, d = 20_000, 80  # transition at 0.063
    task = FactorTask.diagonal([strength], [1.0], dimension=d)
    draws = pretraining_draws(task, m, 60, np.random.default_rng(5))
    found = representation_excess(task, draws).mean()
    assert found == pytest.approx(float(worst_signal_excess([strength], m, d)[0]), rel=0.12)


@pytest.mark.parametrize("m", [1, 2, 5, 8])
def test_two_squares_against_enumeration(m):
    delta = 0.2
    # Quadrants: right-bottom, left-top (the models disagree), the two where they agree.
    probability = {"true": (1 + 2 * delta) / 4, "false": (1 - 2 * delta) / 4, "rest": 0.5}
    wrong = 0.0
    for code in range(3**m):
        names = [("true", "false", "rest")[code // 3**k % 3] for k in range(m)]
        weight = np.prod([probability[name] for name in names])
        score = names.count("true") - names.count("false")
        wrong += weight * (score < 0) + weight * 0.5 * (score == 0)
    assert two_squares_wrong(m, delta) == pytest.approx(wrong, abs=1e-9)
    assert two_squares_excess(m, delta, 0.1) == pytest.approx(0.8 * 0.3 * wrong, abs=1e-9)


@pytest.mark.parametrize(("k", "n"), [(1, 5), (2, 4), (3, 4)])
def test_voting_against_enumeration(k, n):
    delta = 0.15
    expected = 0.0
    for code in range((2 * k) ** n):
        draws = [code // (2 * k) ** i % (2 * k) for i in range(n)]
        components, right = [x // 2 for x in draws], [x % 2 for x in draws]
        weight = np.prod([(0.5 + delta if x else 0.5 - delta) / k for x in right])
        for component in range(k):
            score = sum(2 * r - 1 for c, r in zip(components, right, strict=True) if c == component)
            lost = 1.0 if score < 0 else 0.5 if score == 0 else 0.0
            expected += weight * lost * 2 * delta / k
    assert float(voting_excess(k, n, delta)) == pytest.approx(expected, abs=1e-9)


def test_voting_constant():
    assert voting_constant() == pytest.approx(0.16997, abs=1e-5)


def test_halfspace_world_does_not_depend_on_m():
    rng = np.random.default_rng(3)
    few, many = (halfspace_excess(m, 2, 0.0, 4000, rng).mean() for m in (10, 10**6))
    assert few == pytest.approx(0.25, abs=0.01)  # uniform angle in [0, pi/2]
    assert many == pytest.approx(0.25, abs=0.01)


def test_broken_invariance_loses_half_of_the_explained_variance():
    rng = np.random.default_rng(4)
    equal = broken_invariance_excess(10**5, [3.0, 3.0], 10, 2000, rng).mean()
    assert equal == pytest.approx(0.375, rel=0.06)


def test_coin_world_in_closed_form():
    for n in (1, 10, 100):
        assert coin_excess(n, 0.01) == pytest.approx(0.49 * (1 - 0.99**n), abs=1e-12)
    assert coin_excess(1000, 0.01, rule="erm") < 1e-12


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: hellinger_gaussian(np.eye(2), np.eye(3)), "alike"),
        (lambda: hellinger_gaussian(np.eye(2), np.diag([1.0, -1.0])), "positive definite"),
        (lambda: align(np.eye(3, 2), np.eye(4, 2)), "shape"),
        (lambda: local_kappa(np.ones((4, 2))), "rank"),
        (lambda: bound_chain(base_task(), base_task().loadings, 0.0), "clip"),
        (lambda: theorem_bound(base_task(), 1, 10, clip=1.0), "m must"),
        (lambda: theorem_bound(base_task(), 10, 10, clip=1.0, confidence=1.0), "confidence"),
        (lambda: worst_signal_excess([0.0], 100, 10), "strength"),
        (lambda: two_squares_wrong(0, 0.1), "m must"),
        (lambda: two_squares_wrong(10, 0.6), "delta"),
        (lambda: two_squares_excess(10, 0.1, 0.5), "label_noise"),
        (lambda: voting_excess(2, 10, [0.0]), "delta"),
        (lambda: halfspace_excess(10, 1, 0.0, 5, np.random.default_rng()), "dimension"),
        (lambda: coin_excess(10, 0.5), "eta"),
        (lambda: coin_excess(10, 0.1, rule="map"), "mle, erm"),
        (lambda: coin_excess(10, 0.1, likelihood_floor=0.7), "likelihood_floor"),
    ],
)
def test_bad_input_is_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call()
