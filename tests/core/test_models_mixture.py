"""The Gaussian mixture against scipy, differences, quadrature and its own samples."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from paperkit.models import GaussianMixture

WEIGHTS = [0.5, 0.2, 0.3]
MEANS = [[0.0, 1.0], [2.0, -1.0], [-1.5, -2.0]]
VARIANCES = [[0.3, 0.1], [0.2, 0.6], [0.05, 0.4]]


@pytest.fixture(scope="module")
def mixture():
    return GaussianMixture(WEIGHTS, MEANS, VARIANCES)


@pytest.fixture(scope="module")
def points():
    return torch.as_tensor(np.random.default_rng(0).normal(0, 2, (40, 2)))


@pytest.mark.parametrize("sigma", [0.0, 0.1, 3.0])
def test_log_density_and_posterior_equal_scipy(mixture, points, sigma):
    parts = np.stack(
        [
            np.log(w) + multivariate_normal(m, np.diag(np.array(v) + sigma**2)).logpdf(points)
            for w, m, v in zip(WEIGHTS, MEANS, VARIANCES, strict=True)
        ],
        1,
    )
    found = mixture.log_prob(points, sigma)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, logsumexp(parts, 1), rtol=1e-12)
    expected = np.exp(parts - logsumexp(parts, 1, keepdims=True))
    np.testing.assert_allclose(mixture.posterior(points, sigma), expected, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("sigma", [0.0, 0.4, 2.0])
def test_score_equals_central_differences_and_autograd(mixture, points, sigma):
    found = mixture.score(points, sigma)
    h = 1e-5
    for axis in range(2):
        shift = torch.eye(2, dtype=torch.float64)[axis] * h
        slope = mixture.log_prob(points + shift, sigma) - mixture.log_prob(points - shift, sigma)
        np.testing.assert_allclose(found[:, axis], slope / (2 * h), rtol=1e-6, atol=1e-6)
    y = points.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(mixture.log_prob(y, sigma).sum(), y)
    torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(st.floats(-8, 8), st.floats(-8, 8), st.floats(0.01, 5))
def test_denoiser_is_tweedies_formula(a, b, sigma):
    mixture = GaussianMixture(WEIGHTS, MEANS, VARIANCES)
    y = torch.tensor([a, b], dtype=torch.float64)
    tweedie = y + sigma**2 * mixture.score(y, sigma)
    torch.testing.assert_close(mixture.denoise(y, sigma), tweedie, rtol=1e-9, atol=1e-8)


def test_denoiser_is_the_posterior_mean_by_quadrature():
    mixture = GaussianMixture([0.4, 0.6], [[-1.0], [1.5]], [[0.2], [0.5]])
    y, sigma = 0.3, 0.8

    def joint(x):
        clean = float(mixture.log_prob([x]))
        return np.exp(clean - (y - x) ** 2 / (2 * sigma**2))

    mean = quad(lambda x: x * joint(x), -12, 12)[0] / quad(joint, -12, 12)[0]
    assert float(mixture.denoise([y], sigma)[0]) == pytest.approx(mean, abs=1e-7)


def test_point_masses_are_found_again():
    mixture = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[0.0], [0.0]])
    np.testing.assert_allclose(mixture.denoise([[0.9], [-0.8]], 0.05), [[1], [-1]], atol=1e-12)
    with pytest.raises(ValueError, match="no density at sigma = 0"):
        mixture.log_prob([[0.0]])


def test_sample_moments_and_component_shares(mixture):
    n = 200_000
    x, k = mixture.sample(n, torch.Generator().manual_seed(1), return_components=True)
    assert (x.shape, x.dtype) == ((n, 2), torch.float64)
    w, m, v = map(np.array, (WEIGHTS, MEANS, VARIANCES))
    shares = np.bincount(k, minlength=3) / n
    assert np.abs(shares - w).max() < 5 * np.sqrt(0.25 / n)
    mean = w @ m
    variance = w @ (v + m**2) - mean**2
    assert (np.abs(x.mean(0).numpy() - mean) < 5 * np.sqrt(variance / n)).all()
    np.testing.assert_allclose(x.var(0), variance, rtol=0.02)
    for c in range(3):
        np.testing.assert_allclose(x[k == c].var(0), v[c], rtol=0.05)
        np.testing.assert_allclose(x[k == c].mean(0), m[c], atol=0.02)


def test_sampling_takes_its_randomness_from_the_generator(mixture):
    torch.manual_seed(0)
    a, b, c = (mixture.sample(5, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert mixture.sample(0, torch.Generator()).shape == (0, 2)


def test_sigma_may_differ_between_points(mixture, points):
    sigma = torch.linspace(0.1, 2, len(points))
    for method in (mixture.log_prob, mixture.score, mixture.denoise, mixture.posterior):
        whole = method(points, sigma)
        single = [method(y, s) for y, s in zip(points, sigma, strict=True)]
        torch.testing.assert_close(whole, torch.stack(single), rtol=1e-12, atol=1e-12)


def test_far_points_stay_finite(mixture):
    y = torch.tensor([[1e4, -1e4]])
    assert mixture.score(y).isfinite().all()
    assert mixture.posterior(y).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": [0.5, 0.5]}, r"weights must have shape \(K,\)"),
        ({"means": [0.0, 1.0, 2.0]}, r"means \(K, d\)"),
        ({"variances": [[1.0, 1.0]]}, "variances must have the shape of means"),
        ({"weights": [0.5, 0.5, 0.5]}, "positive with sum 1"),
        ({"weights": [1.0, 0.5, -0.5]}, "positive with sum 1"),
        ({"variances": [[0.1, -0.1]] * 3}, "must not be negative"),
        ({"means": [[0.0, np.nan]] * 3}, "means must be finite"),
    ],
)
def test_bad_mixtures(changes, message):
    good = {"weights": WEIGHTS, "means": MEANS, "variances": VARIANCES}
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**(good | changes))


def test_bad_arguments(mixture):
    with pytest.raises(ValueError, match=r"y must have shape \(\.\.\., 2\)"):
        mixture.log_prob([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="sigma must be finite"):
        mixture.score([1.0, 2.0], -0.1)
    with pytest.raises(ValueError, match="n must be"):
        mixture.sample(-1, torch.Generator())
    with pytest.raises(TypeError, match="generator must be"):
        mixture.sample(1, 0)
