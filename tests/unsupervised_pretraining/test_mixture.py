"""Mixtures and linear contrastive encoders: oracles, invariances, bad input."""

import numpy as np
import pytest
from scipy import integrate, optimize, stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from paperkit.unsupervised_pretraining import (
    MixtureTask,
    contrastive_excess,
    encoder_excess,
    fit_linear_encoder,
    fit_mixture,
    fit_symmetric_mixture,
    labelled_excess,
    labelling_erm,
    pair_information,
    pair_loss,
    regret,
    responsibilities,
    sample_pairs,
    symmetric_excess,
    tanh_information,
    unlabelled_excess,
    voting_excess,
)


@pytest.fixture
def task():
    return MixtureTask.simplex(4, dimension=6, distance=4.0)


def test_simplex_has_equal_distances(task):
    gaps = np.linalg.norm(task.means[:, None] - task.means[None], axis=-1)
    np.testing.assert_allclose(gaps[~np.eye(4, dtype=bool)], 4.0)


def test_em_raises_the_likelihood_and_agrees_with_scikit_learn(task):
    X, _ = task.sample(20_000, np.random.default_rng(0))
    fit = fit_mixture(X, task.means + 0.3, tol=1e-8)
    assert fit.converged
    assert (np.diff(fit.log_likelihood) >= -1e-7).all()
    peer = GaussianMixture(
        4, covariance_type="spherical", means_init=task.means, random_state=0
    ).fit(X)
    np.testing.assert_allclose(fit.means, peer.means_, atol=0.03)


def test_em_from_a_common_point_never_splits(task):
    X, _ = task.sample(500, np.random.default_rng(1))
    fit = fit_mixture(X, np.tile(X.mean(axis=0), (4, 1)))
    assert np.ptp(fit.means, axis=0).max() < 1e-9


def test_unfinished_em_says_so(task):
    X, _ = task.sample(500, np.random.default_rng(2))
    with pytest.warns(ConvergenceWarning):
        fit = fit_mixture(X, task.means, max_iter=1, tol=0.0)
    assert not fit.converged


@pytest.mark.parametrize("s", [0.6, 1.0, 2.0])
def test_two_components_against_a_general_optimiser(s):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((2000, 4))
    X[:, 0] += s * rng.choice((-1, 1), 2000)

    def negative(u):
        t = X @ u
        return u @ u / 2 - np.logaddexp(t, -t).mean()

    def slope(u):
        return u - (X * np.tanh(X @ u)[:, None]).mean(axis=0)

    found = optimize.minimize(
        negative, np.eye(4)[0], jac=slope, method="BFGS", options={"gtol": 1e-9}
    ).x
    own = fit_symmetric_mixture(X)
    own *= np.sign(own[0] * found[0])
    np.testing.assert_allclose(own, found, atol=1e-6)


@pytest.mark.parametrize("s", [0.3, 1.0, 2.5])
def test_information_against_quadrature(s):
    value = integrate.quad(
        lambda t: np.tanh(s * t) ** 2 * stats.norm.pdf(t, loc=s), s - 12, s + 12, limit=300
    )[0]
    assert float(tanh_information(s)) == pytest.approx(value, abs=1e-8)


def test_exchange_rate_is_the_ratio_of_both_laws():
    s, noise = 1.0, 0.2
    rate = float(unlabelled_excess(s, 100, 10, noise) / labelled_excess(s, 100, 10, noise))
    assert rate == pytest.approx((1 - 2 * noise) ** 2 / float(tanh_information(s)))
    assert rate == pytest.approx(0.654, abs=1e-3)


def test_symmetric_excess_by_simulation():
    rng = np.random.default_rng(4)
    u = np.array([1.2, 0.7, 0.0])
    truth = np.array([1.5, 0.0, 0.0])
    z = rng.choice((-1, 1), 400_000)
    X = rng.standard_normal((len(z), 3)) + z[:, None] * truth
    y = z * np.where(rng.random(len(z)) < 0.1, -1, 1)
    simulated = (np.sign(X @ u) != y).mean() - (np.sign(X @ truth) != y).mean()
    assert float(symmetric_excess(u, truth, 0.1)) == pytest.approx(simulated, abs=2e-3)
    assert float(symmetric_excess(-u, truth)) == float(symmetric_excess(u, truth))
    assert float(symmetric_excess(truth, truth)) == 0


def test_labelling_is_the_best_of_all_labelings(task):
    rng = np.random.default_rng(5)
    X, y = task.sample(12, rng)
    r = responsibilities(X, task.means)
    names = labelling_erm(r, y)
    errors = [
        ((r @ np.eye(2)[[(code >> k) & 1 for k in range(4)]]).argmax(axis=1) != y).sum()
        for code in range(16)
    ]
    assert ((r @ np.eye(2)[names]).argmax(axis=1) != y).sum() == min(errors)


def test_permuting_components_permutes_labels(task):
    rng = np.random.default_rng(6)
    X, y = task.sample(200, rng)
    order = rng.permutation(4)
    for method in ("exact", "vote"):
        a = labelling_erm(responsibilities(X, task.means), y, method=method)
        b = labelling_erm(responsibilities(X, task.means[order]), y, method=method)
        np.testing.assert_array_equal(a[order], b)
    X_eval, _ = task.sample(2000, rng)
    assert regret(task, task.means[order], task.labels[order], X_eval) == 0
    assert regret(task, task.means, 1 - task.labels, X_eval) > 0.5


def test_many_classes_and_empty_components():
    r = np.eye(3)[[0, 0, 1]]
    names = labelling_erm(r, np.array([2, 2, 0]), n_classes=3)
    assert names[0] == 2
    assert names[1] == 0
    vote = labelling_erm(r, np.array([2, 2, 0]), n_classes=3, method="vote")
    assert vote[2] == 2  # no label at all: the most frequent class


def test_pair_loss_gradient_and_symmetry():
    rng = np.random.default_rng(7)
    a = rng.standard_normal((2, 5))
    X, Y, t = sample_pairs(a, 40, rng)
    _, gradient = pair_loss(a, X, Y, t)
    numeric = optimize.approx_fprime(
        a.ravel(), lambda flat: pair_loss(flat.reshape(2, 5), X, Y, t)[0], 1e-6
    )
    np.testing.assert_allclose(gradient.ravel(), numeric, atol=1e-6)
    q = np.linalg.qr(rng.standard_normal((2, 2)))[0]
    assert pair_loss(q @ a, X, Y, t)[0] == pytest.approx(pair_loss(a, X, Y, t)[0])


def test_linear_encoder_finds_the_row_space():
    rng = np.random.default_rng(8)
    truth = np.eye(2, 6)
    fitted = fit_linear_encoder(*sample_pairs(truth, 20_000, rng), 2)
    assert encoder_excess(fitted, truth, [0.5, 0.5]) < 0.01
    assert encoder_excess(truth, truth, [0.5, 0.5]) == pytest.approx(0, abs=1e-15)
    q = np.linalg.qr(rng.standard_normal((2, 2)))[0]
    a, b = (encoder_excess(x, truth, [0.5, 0.5]) for x in (fitted, q @ fitted))
    assert a == pytest.approx(b)


def test_pair_information_against_simulation():
    rng = np.random.default_rng(9)
    u, w = rng.standard_normal((2, 400_000, 2))
    p = 1 / (1 + np.exp(-(u * w).sum(axis=1)))
    assert pair_information(1.0, 2) == pytest.approx((p * (1 - p) * w[:, 0] ** 2).mean(), rel=0.02)
    assert pair_information(1.0, 2) == pytest.approx(0.16123, abs=1e-5)
    assert float(contrastive_excess(1.0, 10, [1.0, 1.0], 100)) == pytest.approx(
        8 * 2 / (2 * 0.16123 * 100), rel=1e-4
    )


PAIRS = (np.ones((3, 2)), np.ones((3, 2)))


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda: MixtureTask(np.eye(2), [0, 2]), ValueError, "labels must be 0 or 1"),
        (lambda: MixtureTask(np.eye(2), [0, 1, 1]), ValueError, "shape"),
        (lambda: MixtureTask(np.eye(2), [0, 1], 0.5), ValueError, "label_noise"),
        (lambda: MixtureTask(np.eye(2), [0, 1], "low"), TypeError, "label_noise"),
        (lambda: MixtureTask.simplex(5, dimension=3, distance=1), ValueError, "dimension"),
        (lambda: fit_mixture(np.ones((3, 2)), np.ones((2, 3))), ValueError, "columns"),
        (lambda: fit_mixture(np.full((3, 2), np.inf), np.ones((2, 2))), ValueError, "finite"),
        (lambda: fit_symmetric_mixture(np.ones((3, 2)), start=np.ones(3)), ValueError, "start"),
        (lambda: symmetric_excess(np.ones(2), np.zeros(2)), ValueError, "u_true"),
        (lambda: tanh_information(0.0), ValueError, "positive"),
        (lambda: labelling_erm(np.ones((2, 2)), [0, 1]), ValueError, "sum to 1"),
        (lambda: labelling_erm(np.eye(2), [0, 3]), ValueError, "classes 0..1"),
        (lambda: labelling_erm(np.eye(2), [0]), ValueError, "shape"),
        (lambda: labelling_erm(np.eye(13), np.zeros(13, int)), ValueError, "method='vote'"),
        (lambda: labelling_erm(np.eye(2), [0, 1], method="best"), ValueError, "exact, vote"),
        (lambda: pair_loss(np.ones((1, 2)), *PAIRS, [1, 0, 1]), ValueError, "sign"),
        (lambda: pair_loss(np.ones((1, 3)), *PAIRS, [1, 1, 1]), ValueError, "columns"),
        (lambda: fit_linear_encoder(*PAIRS, [1, 1, 1], 2), ValueError, "rank"),
        (lambda: pair_information(-1.0, 2), ValueError, "scale"),
        (lambda: voting_excess(0, 5, 0.1), ValueError, "n_components"),
        (lambda: sample_pairs(np.ones((1, 2)), 2.5, np.random.default_rng()), TypeError, "m must"),
    ],
)
def test_bad_input_is_refused(call, error, word):
    with pytest.raises(error, match=word):
        call()


def test_fewer_rows_than_parameters_warns():
    with pytest.warns(UserWarning, match="free parameters"):
        fit_mixture(np.random.default_rng(0).standard_normal((5, 3)), np.eye(3), max_iter=50)
