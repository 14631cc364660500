"""Factor models: closed forms, oracles, invariances, bad input."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats
from sklearn.decomposition import PCA, FactorAnalysis

from paperkit.unsupervised_pretraining import (
    FactorTask,
    downstream_excess,
    excess_risk,
    factor_sweep,
    fit_factor_analysis,
    fit_factors,
    fit_ppca,
    gaussian_risk,
    posterior_mean,
    predictor_weights,
    pretraining_draws,
    regress_on_subspace,
    representation_excess,
    sample_second_moments,
    subspace_excess,
)
from paperkit.unsupervised_pretraining.experiments import base_task


def random_task(seed: int, d: int = 9, r: int = 3) -> FactorTask:
    rng = np.random.default_rng(seed)
    return FactorTask(rng.standard_normal((d, r)), rng.standard_normal(r), 0.3)


@pytest.mark.parametrize("seed", range(5))
def test_optimal_weights_and_bayes_risk_solve_the_joint_gaussian(seed):
    task = random_task(seed)
    joint, d = task.joint_covariance, task.dimension
    weights = np.linalg.solve(joint[:d, :d], joint[:d, d])
    risk = joint[d, d] - joint[:d, d] @ weights
    np.testing.assert_allclose(task.optimal_weights, weights, atol=1e-10)
    assert task.bayes_risk() == pytest.approx(risk, abs=1e-10)


@pytest.mark.parametrize("loss", ["absolute", "clipped"])
def test_losses_against_quadrature(loss):
    variance, clip = 1.7, 1.1

    def value(e):
        return (abs(e) if loss == "absolute" else min(e * e, clip)) * stats.norm.pdf(
            e, scale=np.sqrt(variance)
        )

    points = [-np.sqrt(clip), np.sqrt(clip)]
    expected = integrate.quad(value, -12, 12, points=[*points, 0.0], limit=400)[0]
    assert float(gaussian_risk(variance, loss, clip)) == pytest.approx(expected, abs=1e-8)


def test_base_task_has_the_constants_of_the_chapter():
    task = base_task()
    assert task.squared_bayes_risk == pytest.approx(0.570833, abs=1e-6)
    assert task.head_variance == pytest.approx(0.2)
    assert task.pretraining_constant == pytest.approx(7.2)
    assert task.exchange_rate == pytest.approx(0.2 / 0.5708333)
    n = np.array([60, 100, 400, 4000])
    assert (np.diff(task.crossover(n)) > 0).all()
    # For many labels the crossover is the exchange rate a label, up to the factor (d - r)/d.
    assert task.crossover(1e7) / 1e7 == pytest.approx(task.exchange_rate, rel=1e-3)


def test_without_label_noise_and_equal_signal_the_exchange_rate_is_one_over_signal():
    task = FactorTask.diagonal([2.0] * 3, [0.5] * 3, dimension=20, noise_variance=1e-12)
    assert task.exchange_rate == pytest.approx(1 / 2.0)


@given(
    d=st.integers(3, 8),
    data=st.data(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_excess_is_a_squared_distance(d, data, seed):
    r = data.draw(st.integers(1, d - 1))
    signal = data.draw(st.lists(st.floats(0.1, 10), min_size=r, max_size=r))
    task = FactorTask.diagonal(signal, [0.7] * r, dimension=d)
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((5, d))
    for loss in ("squared", "absolute", "clipped"):
        assert (excess_risk(task, weights, loss, clip=1.0) >= 0).all()
        assert float(excess_risk(task, task.optimal_weights, loss, clip=1.0)) == pytest.approx(0)
    # The representation that holds the truth loses nothing; rotating B with beta changes nothing.
    assert float(representation_excess(task, task.loadings)) == pytest.approx(0, abs=1e-12)
    q = np.linalg.qr(rng.standard_normal((r, r)))[0]
    turned = FactorTask(task.loadings @ q, q.T @ task.coefficients, task.noise_variance)
    np.testing.assert_allclose(excess_risk(turned, weights), excess_risk(task, weights))
    assert turned.head_variance == pytest.approx(task.head_variance)


def test_regression_depends_on_the_subspace_only():
    task, rng = random_task(1), np.random.default_rng(0)
    u = rng.standard_normal((task.dimension, 3))
    change = rng.standard_normal((3, 3))
    joint = sample_second_moments(task.joint_covariance, 50, 1, rng)[0]
    moments, cross = joint[:-1, :-1], joint[:-1, -1]
    a, b = (regress_on_subspace(x, moments, cross) for x in (u, u @ change))
    np.testing.assert_allclose(a, b, atol=1e-9)


def test_predictor_is_the_head_on_the_posterior_mean():
    task, rng = random_task(2), np.random.default_rng(0)
    X = rng.standard_normal((7, task.dimension))
    direct = posterior_mean(task.loadings, X) @ task.coefficients
    np.testing.assert_allclose(X @ predictor_weights(task.loadings, task.coefficients), direct)


def test_ppca_beats_a_general_optimiser():
    rng = np.random.default_rng(3)
    task = FactorTask.diagonal([3.0, 1.5], [1.0, 1.0], dimension=5)
    moment = sample_second_moments(task.covariance, 60, 1, rng)[0]

    def negative(flat):
        covariance = flat.reshape(5, 2) @ flat.reshape(5, 2).T + np.eye(5)
        return np.linalg.slogdet(covariance)[1] + np.trace(np.linalg.solve(covariance, moment))

    own = negative(fit_ppca(moment, 2).ravel())
    found = min(optimize.minimize(negative, rng.standard_normal(10)).fun for _ in range(20))
    assert own <= found + 1e-8
    assert own == pytest.approx(found, abs=1e-6)


def test_subspace_is_uncentred_pca():
    X = np.random.default_rng(4).standard_normal((300, 6)) @ np.diag([3, 2, 1, 1, 1, 1])
    loadings = fit_factors(X, 2)
    centred = PCA(2).fit(np.vstack([X, -X])).components_
    projector = loadings @ np.linalg.pinv(loadings)
    np.testing.assert_allclose(projector, centred.T @ centred, atol=1e-8)


def test_sufficient_statistics_have_the_law_of_raw_rows():
    task, rng = base_task(12), np.random.default_rng(5)
    fast = representation_excess(task, pretraining_draws(task, 200, 400, rng))
    root = np.linalg.cholesky(task.covariance)
    raw = []
    for _ in range(400):
        X = rng.standard_normal((200, 12)) @ root.T
        raw.append(float(representation_excess(task, PCA(4).fit(np.vstack([X, -X])).components_.T)))
    assert stats.ks_2samp(fast, raw).pvalue > 1e-3
    spread = np.sqrt(np.var(fast) / 400 + np.var(raw) / 400)
    assert abs(fast.mean() - np.mean(raw)) < 4 * spread


def test_few_samples_are_drawn_as_rows():
    moments = sample_second_moments(np.eye(6), 3, 5, np.random.default_rng(0))
    assert (np.linalg.matrix_rank(moments) == 3).all()


def test_factor_analysis_equals_scikit_learn_on_rows():
    rng = np.random.default_rng(6)
    X = rng.standard_normal((400, 2)) @ rng.standard_normal((2, 7))
    X += rng.standard_normal((400, 7)) * np.linspace(0.5, 2, 7)
    X -= X.mean(axis=0)
    loadings, noise = fit_factor_analysis(X.T @ X / 400, 2, tol=1e-10, max_iter=5000)
    model = FactorAnalysis(2, svd_method="lapack", tol=1e-8, max_iter=5000).fit(X)
    fitted = loadings @ loadings.T + np.diag(noise)
    np.testing.assert_allclose(fitted, model.get_covariance(), atol=2e-3)


def test_sweep_gives_one_row_a_draw_and_skips_undefined_least_squares():
    task = base_task(10)
    frame = factor_sweep(task, [200], [8, 40], 3, seed=1)
    assert list(frame.columns) == ["m", "n", "method", "draw", "excess"]
    assert not ((frame.method == "ols") & (frame.n == 8)).any()
    assert len(frame) == 3 * (3 + 4)
    again = factor_sweep(task, [200], [8, 40], 3, seed=1)
    np.testing.assert_array_equal(frame.excess, again.excess)


def test_a_cluster_gives_the_same_surface(monkeypatch):
    distributed = pytest.importorskip("distributed")
    task = base_task(10)
    monkeypatch.setenv("PAPERKIT_BACKEND", "sequential")
    expected = factor_sweep(task, [200, 2000], [40], 3, seed=1)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as running:
        monkeypatch.setenv("PAPERKIT_BACKEND", f"dask:{running.scheduler_address}")
        found = factor_sweep(task, [200, 2000], [40], 3, seed=1)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_unlabelled_data_help_and_oracle_ridge_is_no_straw_man():
    task, rng = base_task(), np.random.default_rng(7)
    u = pretraining_draws(task, 100_000, 100, rng)
    found = downstream_excess(task, 100, 100, rng, subspaces=u)
    means = {name: values.mean() for name, values in found.items()}
    assert means["pretrained"] < means["ridge"] < means["ols"]


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda: FactorTask(np.eye(3), np.ones(3)), ValueError, "r < d"),
        (lambda: FactorTask(np.ones((4, 2)), np.ones(2)), ValueError, "rank"),
        (lambda: FactorTask(np.eye(4, 2), np.ones(3)), ValueError, "coefficients"),
        (lambda: FactorTask(np.eye(4, 2), np.ones(2), 0.0), ValueError, "noise_variance"),
        (lambda: FactorTask(np.full((4, 2), np.nan), np.ones(2)), ValueError, "finite"),
        (lambda: FactorTask(np.array([["a"]] * 3), np.ones(1)), TypeError, "loadings"),
        (lambda: FactorTask.diagonal([1, -1], [1, 1], dimension=4), ValueError, "signal"),
        (lambda: FactorTask.diagonal([1, 1], [1, 1], dimension=2), ValueError, "dimension"),
        (lambda: fit_ppca(np.eye(4), 4), ValueError, "n_factors"),
        (lambda: fit_ppca(np.eye(4), 0), ValueError, "n_factors"),
        (lambda: fit_ppca(np.triu(np.ones((4, 4))), 2), ValueError, "symmetric"),
        (lambda: fit_ppca(np.eye(4), 2, -1.0), ValueError, "noise_variance"),
        (lambda: fit_factor_analysis(np.zeros((4, 4)), 2), ValueError, "positive definite"),
        (lambda: excess_risk(base_task(), np.zeros(3)), ValueError, "weights"),
        (lambda: excess_risk(base_task(), np.zeros(40), "hinge"), ValueError, "squared, absolute"),
        (lambda: excess_risk(base_task(), np.zeros(40), "clipped"), ValueError, "clip"),
        (lambda: excess_risk(base_task(), np.zeros(40), "clipped", -1), ValueError, "clip"),
        (lambda: base_task().crossover(41), ValueError, "d \\+ 1"),
        (lambda: base_task().law(10, 5), ValueError, "n must exceed"),
        (lambda: base_task().law(0, 50), ValueError, "m must"),
        (
            lambda: sample_second_moments(np.eye(3), 0, 1, np.random.default_rng()),
            ValueError,
            "n_s",
        ),
        (
            lambda: downstream_excess(
                base_task(), 41, 2, np.random.default_rng(), methods=("ols",)
            ),
            ValueError,
            "ols needs",
        ),
        (
            lambda: downstream_excess(
                base_task(), 41, 2, np.random.default_rng(), methods=("lasso",)
            ),
            ValueError,
            "pretrained, ols, ridge, pcr",
        ),
        (
            lambda: downstream_excess(
                base_task(), 50, 2, np.random.default_rng(), methods=("pretrained",)
            ),
            ValueError,
            "subspaces",
        ),
        (lambda: factor_sweep(base_task(), [0], [50], 2), ValueError, "m_values"),
        (lambda: subspace_excess(np.eye(3), np.ones(3), np.eye(4, 2)), ValueError, "subspaces"),
        (lambda: pretraining_draws(base_task(5), 100, 2, None, n_factors=5), ValueError, "below d"),
    ],
)
def test_bad_input_is_refused(call, error, word):
    with pytest.raises(error, match=word):
        call()


def test_fewer_rows_than_parameters_warns():
    with pytest.warns(UserWarning, match="free parameters"):
        fit_factors(np.random.default_rng(0).standard_normal((5, 4)), 2)
