r"""Factor models: everything in closed form.

Source: Ge, Tang, Fan, Jin, "On the Provable Advantage of Unsupervised Pretraining", ICLR 2024
(arXiv:2303.01566); the factor model is one of its three examples. The constants are derived here.

The world is

.. math:: x = B z + \mu, \quad y = \beta^\top z + \nu, \qquad
          z \sim N(0, I_r),\ \mu \sim N(0, I_d),\ \nu \sim N(0, \varepsilon^2),

with :math:`\Sigma = B B^\top + I`, singular values :math:`\lambda_j` of B and
:math:`l_j = 1 + \lambda_j^2`. The first phase fits B by maximum likelihood on m unlabelled rows
(the top r eigenvectors of the second moment), the second regresses y on the fitted factors with n
labelled rows. The best predictor has weights :math:`w^* = \Sigma^{-1} B \beta` and risk
:math:`\tau^2 = \varepsilon^2 + \sum_j \beta_j^2 / l_j`; a predictor w has the excess squared risk
:math:`q = (w - w^*)^\top \Sigma (w - w^*)`, so no test set is needed. To first order

.. math:: E\,q \approx \frac{(d - r)\,Q}{m} + \frac{\tau^2 r}{n - r - 1},
          \qquad Q = \sum_j \frac{\beta_j^2}{\lambda_j^2 (1 + \lambda_j^2)} .
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from paperkit.unsupervised_pretraining._validate import (
    FloatArray,
    count,
    float_array,
    one_of,
    positive,
)

LOSSES = ("squared", "absolute", "clipped")
METHODS = ("pretrained", "ols", "ridge", "pcr")
RIDGE_PATH = np.logspace(-4, 4, 26)


@dataclass(frozen=True, eq=False)
class FactorTask:
    """A factor model and a linear task on its factors.

    Parameters
    ----------
    loadings : ndarray, shape (d, r)
        B, of full column rank, with 1 <= r < d. The noise of x has variance 1.
    coefficients : ndarray, shape (r,)
        beta, the head.
    noise_variance : float
        epsilon squared, the variance of the label noise; must be positive.

    Raises
    ------
    ValueError
        For r >= d, rank-deficient loadings, non-finite input or ``noise_variance <= 0``.
    """

    loadings: FloatArray
    coefficients: FloatArray
    noise_variance: float = 0.25

    def __post_init__(self) -> None:
        loadings = float_array("loadings", self.loadings, ndim=2)
        coefficients = float_array("coefficients", self.coefficients, ndim=1)
        d, r = loadings.shape
        if not 1 <= r < d:
            raise ValueError(f"loadings must have 1 <= r < d, got d={d}, r={r}")
        if coefficients.shape != (r,):
            raise ValueError(f"coefficients must have shape ({r},), got {coefficients.shape}")
        if np.linalg.matrix_rank(loadings) < r:
            raise ValueError(f"loadings must have full column rank {r}")
        object.__setattr__(self, "loadings", loadings)
        object.__setattr__(self, "coefficients", coefficients)
        object.__setattr__(self, "noise_variance", positive("noise_variance", self.noise_variance))

    @classmethod
    def diagonal(
        cls,
        signal: Sequence[float],
        coefficients: Sequence[float],
        *,
        dimension: int,
        noise_variance: float = 0.25,
    ) -> FactorTask:
        """Task whose factors are the first axes: ``signal`` holds lambda_j squared (all > 0)."""
        signal_ = float_array("signal", signal, ndim=1)
        if (signal_ <= 0).any():
            raise ValueError("signal must be positive in every entry")
        d = count("dimension", dimension)
        if d <= len(signal_):
            raise ValueError(f"dimension must exceed the number of factors {len(signal_)}, got {d}")
        loadings = np.zeros((d, len(signal_)))
        np.fill_diagonal(loadings, np.sqrt(signal_))
        return cls(loadings, np.asarray(coefficients), noise_variance)

    @property
    def dimension(self) -> int:
        """d, the number of columns of x."""
        return self.loadings.shape[0]

    @property
    def n_factors(self) -> int:
        """r, the number of factors."""
        return self.loadings.shape[1]

    @cached_property
    def _rotated(self) -> tuple[FloatArray, FloatArray]:
        """lambda_j^2 and the coefficients in the basis where B^T B is diagonal; both (r,)."""
        _, singular, v_t = np.linalg.svd(self.loadings, full_matrices=False)
        return singular**2, v_t @ self.coefficients

    @property
    def signal(self) -> FloatArray:
        """Squared singular values of B, largest first, shape (r,)."""
        return self._rotated[0]

    @cached_property
    def covariance(self) -> FloatArray:
        """Sigma = B B^T + I, shape (d, d)."""
        return self.loadings @ self.loadings.T + np.eye(self.dimension)

    @cached_property
    def joint_covariance(self) -> FloatArray:
        """Covariance of (x, y), shape (d + 1, d + 1)."""
        cross = self.loadings @ self.coefficients
        variance = self.coefficients @ self.coefficients + self.noise_variance
        return np.block(
            [[self.covariance, cross[:, None]], [cross[None, :], np.array([[variance]])]]
        )

    @cached_property
    def optimal_weights(self) -> FloatArray:
        """w* = Sigma^{-1} B beta, shape (d,)."""
        return predictor_weights(self.loadings, self.coefficients)

    @cached_property
    def squared_bayes_risk(self) -> float:
        """tau^2 = epsilon^2 + sum beta_j^2 / (1 + lambda_j^2)."""
        signal, beta = self._rotated
        return float(self.noise_variance + (beta**2 / (1 + signal)).sum())

    def bayes_risk(self, loss: str = "squared", clip: float | None = None) -> float:
        """Risk of the best predictor under ``loss`` (``clip`` is the cap of the clipped loss)."""
        return float(gaussian_risk(self.squared_bayes_risk, loss, clip))

    @cached_property
    def head_variance(self) -> float:
        """Q = sum beta_j^2 / (lambda_j^2 (1 + lambda_j^2)), the price of one wrong direction."""
        signal, beta = self._rotated
        return float((beta**2 / (signal * (1 + signal))).sum())

    @property
    def pretraining_constant(self) -> float:
        """(d - r) Q: the excess at n = infinity is this number over m, to first order."""
        return (self.dimension - self.n_factors) * self.head_variance

    @property
    def exchange_rate(self) -> float:
        """Q / tau^2: unlabelled points that buy as much as one label, for large n."""
        return self.head_variance / self.squared_bayes_risk

    def law(self, m: Any, n: Any) -> FloatArray:
        """First-order excess (d - r) Q / m + tau^2 r / (n - r - 1); arrays broadcast."""
        m_, n_, r = np.asarray(m, float), np.asarray(n, float), self.n_factors
        if (m_ < 1).any():
            raise ValueError("m must be at least 1")
        if (n_ <= r + 1).any():
            raise ValueError(f"n must exceed r + 1 = {r + 1} for the mean excess to be finite")
        return self.pretraining_constant / m_ + self.squared_bayes_risk * r / (n_ - r - 1)

    def least_squares_excess(self, n: Any) -> FloatArray:
        """Exact mean excess tau^2 d / (n - d - 1) of least squares on the raw x."""
        n_, d = np.asarray(n, float), self.dimension
        if (n_ <= d + 1).any():
            raise ValueError(f"n must exceed d + 1 = {d + 1} for least squares")
        return self.squared_bayes_risk * d / (n_ - d - 1)

    def crossover(self, n: Any) -> FloatArray:
        """m*(n): unlabelled rows from which pretraining beats least squares on n labelled rows."""
        head = (
            self.squared_bayes_risk * self.n_factors / (np.asarray(n, float) - self.n_factors - 1)
        )
        return self.pretraining_constant / (self.least_squares_excess(n) - head)


def gaussian_risk(variance: Any, loss: str = "squared", clip: float | None = None) -> FloatArray:
    """Risk of a centred Gaussian error of this variance under a loss of `excess_risk`."""
    one_of("loss", loss, LOSSES)
    variance = np.asarray(variance, float)
    if loss == "squared":
        return variance
    if loss == "absolute":
        return np.sqrt(2 / np.pi * variance)
    if clip is None:
        raise ValueError("clip is required for the clipped loss")
    cap = positive("clip", clip)
    a = np.sqrt(cap / variance)
    inside = variance * (2 * stats.norm.cdf(a) - 1 - 2 * a * stats.norm.pdf(a))
    return inside + 2 * cap * stats.norm.sf(a)


def excess_risk(
    task: FactorTask, weights: Any, loss: str = "squared", clip: float | None = None
) -> FloatArray:
    """Excess risk of linear predictors, exactly.

    Parameters
    ----------
    task : FactorTask
    weights : ndarray, shape (..., d)
        Predictors ``x -> x @ weights``.
    loss : {"squared", "absolute", "clipped"}
        Clipped is ``min(error**2, clip)``.
    clip : float, optional
        Cap of the clipped loss, in squared units of y.

    Returns
    -------
    ndarray, shape (...)
        Risk minus Bayes risk, in squared units of y (units of y for "absolute").
    """
    weights_ = float_array("weights", weights)
    if weights_.shape[-1] != task.dimension:
        raise ValueError(f"weights must end in an axis of {task.dimension}, got {weights_.shape}")
    one_of("loss", loss, LOSSES)
    gap = weights_ - task.optimal_weights
    q = np.einsum("...i,ij,...j->...", gap, task.covariance, gap)
    if loss == "squared":
        return q
    tau2 = task.squared_bayes_risk
    return gaussian_risk(tau2 + q, loss, clip) - gaussian_risk(tau2, loss, clip)


def fit_ppca(second_moment: Any, n_factors: int, noise_variance: float = 1.0) -> FloatArray:
    """Maximum-likelihood loadings of a factor model with known noise variance.

    Closed form (Tipping and Bishop 1999): the top eigenvectors of the second moment, scaled by
    ``sqrt(max(eigenvalue - noise_variance, 0))``. The mean is known to be zero, so the data are not
    centred; pass a covariance to centre.

    Parameters
    ----------
    second_moment : ndarray, shape (..., d, d)
        ``X.T @ X / m``; leading axes are a batch.
    n_factors : int
        r, from 1 to d - 1.
    noise_variance : float

    Returns
    -------
    ndarray, shape (..., d, r)
    """
    moment = float_array("second_moment", second_moment)
    if moment.ndim < 2 or moment.shape[-1] != moment.shape[-2]:
        raise ValueError(f"second_moment must end in a square matrix, got {moment.shape}")
    noise = positive("noise_variance", noise_variance)
    d = moment.shape[-1]
    r = count("n_factors", n_factors)
    if r >= d:
        raise ValueError(f"n_factors must be in 1..d-1 = 1..{d - 1}, got {r}")
    if not np.allclose(moment, np.swapaxes(moment, -1, -2), rtol=1e-8, atol=1e-10):
        raise ValueError("second_moment must be symmetric")
    values, vectors = np.linalg.eigh(moment)
    scale = np.sqrt(np.maximum(values[..., ::-1][..., :r] - noise, 0.0))
    return vectors[..., ::-1][..., :r] * scale[..., None, :]


def fit_factors(X: Any, n_factors: int, noise_variance: float = 1.0) -> FloatArray:
    """`fit_ppca` on rows; warns when there are fewer rows than free parameters d r - r(r-1)/2."""
    rows = float_array("X", X, ndim=2)
    m, d = rows.shape
    count("number of rows of X", m)
    free = d * n_factors - n_factors * (n_factors - 1) // 2
    if m < free:
        warnings.warn(
            f"X has {m} rows for {free} free parameters: the fit follows the noise", stacklevel=2
        )
    return fit_ppca(rows.T @ rows / m, n_factors, noise_variance)


def predictor_weights(loadings: Any, coefficients: Any) -> FloatArray:
    """Weights Sigma^{-1} B beta (..., d) of ``x -> beta^T E[z | x]``, beta (..., r)."""
    b = float_array("loadings", loadings)
    beta = float_array("coefficients", coefficients)
    inner = np.eye(b.shape[-1]) + np.swapaxes(b, -1, -2) @ b  # (..., r, r)
    beta = np.broadcast_to(beta, (*inner.shape[:-2], b.shape[-1]))
    return (b @ np.linalg.solve(inner, beta[..., None]))[..., 0]


def posterior_mean(loadings: Any, X: Any) -> FloatArray:
    """E[z | x] = (I + B^T B)^{-1} B^T x for rows X (m, d); returns (m, r)."""
    b = float_array("loadings", loadings, ndim=2)
    rows = float_array("X", X, ndim=2)
    if rows.shape[1] != b.shape[0]:
        raise ValueError(f"X must have {b.shape[0]} columns, got {rows.shape[1]}")
    return rows @ b @ np.linalg.inv(np.eye(b.shape[1]) + b.T @ b)


def sample_second_moments(
    covariance: Any, n_samples: int, n_draws: int, rng: np.random.Generator
) -> FloatArray:
    """Draw second moments ``X.T @ X / n_samples`` without drawing X.

    They are sufficient for every linear method of this chapter, and their law is Wishart
    (Bartlett's decomposition), so a draw costs O(p^3) whatever ``n_samples`` is. Below p samples
    rows are drawn.

    Parameters
    ----------
    covariance : ndarray, shape (p, p)
    n_samples, n_draws : int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, shape (n_draws, p, p)
    """
    sigma = float_array("covariance", covariance, ndim=2)
    n, draws = count("n_samples", n_samples), count("n_draws", n_draws)
    p = sigma.shape[0]
    root = np.linalg.cholesky(sigma)
    if n < p:
        rows = rng.standard_normal((draws, n, p)) @ root.T
        return np.swapaxes(rows, 1, 2) @ rows / n
    triangle = np.tril(rng.standard_normal((draws, p, p)), -1)
    diagonal = np.sqrt(rng.chisquare(n - np.arange(p), size=(draws, p)))
    triangle[:, np.arange(p), np.arange(p)] = diagonal
    factor = root @ triangle
    return factor @ np.swapaxes(factor, 1, 2) / n


def _top_subspace(moments: FloatArray, r: int) -> FloatArray:
    """Top r eigenvectors of a batch of second moments, (..., d, r)."""
    return np.linalg.eigh(moments)[1][..., ::-1][..., :r]


def regress_on_subspace(subspaces: Any, moments: Any, cross: Any) -> FloatArray:
    """Least squares of y on ``x @ U``, mapped back to weights on x.

    ``subspaces`` (..., d, k), ``moments`` (..., d, d) the second moment of x and ``cross`` (..., d)
    the mean of x y on the labelled rows; returns (..., d). A rank-deficient fit (fewer rows than k)
    takes the minimum-norm solution.
    """
    u = np.asarray(subspaces, float)
    u_t = np.swapaxes(u, -1, -2)
    inner = u_t @ moments @ u
    right = u_t @ np.asarray(cross, float)[..., None]
    return (u @ np.linalg.pinv(inner, rcond=1e-12, hermitian=True) @ right)[..., 0]


def subspace_excess(covariance: Any, cross: Any, subspaces: Any) -> FloatArray:
    """Excess squared risk at n = infinity of the best linear predictor through ``x @ U``.

    Works for any second moments: ``covariance`` (d, d) of x, ``cross`` (d,) the mean of x y,
    ``subspaces`` (..., d, k); any basis of the same subspace gives the same number, shape (...).
    """
    sigma = float_array("covariance", covariance, ndim=2)
    u = float_array("subspaces", subspaces)
    if u.ndim < 2 or u.shape[-2] != len(sigma):
        raise ValueError(f"subspaces must have shape (..., {len(sigma)}, k), got {u.shape}")
    gap = regress_on_subspace(u, sigma, cross) - np.linalg.solve(sigma, cross)
    return np.einsum("...i,ij,...j->...", gap, sigma, gap)


def representation_excess(task: FactorTask, subspaces: Any) -> FloatArray:
    """Excess squared risk of a task at n = infinity, given the subspaces (..., d, k) that are kept."""
    return subspace_excess(task.covariance, task.loadings @ task.coefficients, subspaces)


def fit_factor_analysis(
    second_moment: Any, n_factors: int, *, tol: float = 1e-7, max_iter: int = 2000
) -> tuple[FloatArray, FloatArray]:
    """Maximum-likelihood factor analysis (one noise variance a coordinate) of a second moment.

    scikit-learn's ``FactorAnalysis`` does the work. Its likelihood sees the rows only through
    their second moment, so it is given 2 d rows that have exactly this one and mean zero: the
    cost does not depend on the number of observations.

    Parameters
    ----------
    second_moment : ndarray, shape (d, d)
        Positive definite. Pass a covariance to centre.
    n_factors : int
        From 1 to d - 1.

    Returns
    -------
    loadings : ndarray, shape (d, n_factors)
    noise : ndarray, shape (d,)
    """
    from sklearn.decomposition import FactorAnalysis

    moment = float_array("second_moment", second_moment, ndim=2)
    d = len(moment)
    if moment.shape != (d, d) or not np.allclose(moment, moment.T):
        raise ValueError(f"second_moment must be square and symmetric, got {moment.shape}")
    if not 1 <= count("n_factors", n_factors) < d:
        raise ValueError(f"n_factors must be in 1..d-1 = 1..{d - 1}, got {n_factors}")
    try:
        root = np.linalg.cholesky(moment).T * np.sqrt(d)
    except np.linalg.LinAlgError:
        raise ValueError("second_moment must be positive definite: too few rows?") from None
    model = FactorAnalysis(n_factors, svd_method="lapack", tol=tol, max_iter=max_iter)
    model.fit(np.vstack([root, -root]))
    return model.components_.T, model.noise_variance_


def pretraining_draws(
    task: FactorTask,
    m: int,
    n_draws: int,
    rng: np.random.Generator,
    *,
    n_factors: int | None = None,
) -> FloatArray:
    """Subspaces (n_draws, d, k) that the first phase finds on m unlabelled rows."""
    k = task.n_factors if n_factors is None else count("n_factors", n_factors)
    if k >= task.dimension:
        raise ValueError(f"n_factors must be below d = {task.dimension}, got {k}")
    return _top_subspace(sample_second_moments(task.covariance, m, n_draws, rng), k)


def downstream_excess(
    task: FactorTask,
    n: int,
    n_draws: int,
    rng: np.random.Generator,
    *,
    methods: Sequence[str] = METHODS,
    subspaces: FloatArray | None = None,
) -> dict[str, FloatArray]:
    """Excess squared risk of several methods on the same ``n_draws`` labelled samples of n rows.

    Parameters
    ----------
    task : FactorTask
    n, n_draws : int
    rng : numpy.random.Generator
    methods : sequence of str
        "pretrained" regresses on ``subspaces`` (n_draws, d, k), which it requires; "ols" uses the
        raw x (n > d + 1); "ridge" takes for each sample the penalty with the smallest true excess
        out of 26 (an oracle: no real method is that good); "pcr" finds the subspace on the
        labelled rows.

    Returns
    -------
    dict
        Method to excess, shape (n_draws,).
    """
    for method in methods:
        one_of("methods", method, METHODS)
    n, n_draws, d = count("n", n), count("n_draws", n_draws), task.dimension
    if "ols" in methods and n <= d + 1:
        raise ValueError(f"ols needs n > d + 1 = {d + 1}, got n = {n}")
    if "pretrained" in methods and (subspaces is None or len(subspaces) != n_draws):
        raise ValueError("pretrained needs subspaces of shape (n_draws, d, k)")
    joint = sample_second_moments(task.joint_covariance, n, n_draws, rng)
    moments, cross = joint[:, :d, :d], joint[:, :d, d]
    result: dict[str, FloatArray] = {}
    if subspaces is not None and "pretrained" in methods:
        result["pretrained"] = excess_risk(task, regress_on_subspace(subspaces, moments, cross))
    if "ols" in methods:
        weights = np.linalg.solve(moments, cross[..., None])[..., 0]
        result["ols"] = excess_risk(task, weights)
    if "ridge" in methods or "pcr" in methods:
        values, vectors = np.linalg.eigh(moments)
        scores = np.einsum("sij,si->sj", vectors, cross)  # U^T (mean of x y)
        if "ridge" in methods:
            shrunk = scores[:, None, :] / (np.maximum(values, 0)[:, None, :] + RIDGE_PATH[:, None])
            path = np.einsum("sij,spj->spi", vectors, shrunk)
            result["ridge"] = excess_risk(task, path).min(axis=1)
        if "pcr" in methods:
            own = vectors[..., ::-1][..., : task.n_factors]
            result["pcr"] = excess_risk(task, regress_on_subspace(own, moments, cross))
    return {method: result[method] for method in methods}


def factor_cell(
    task: FactorTask,
    m: int,
    n: int,
    n_draws: int,
    methods: Sequence[str] = ("pretrained", "ridge", "pcr"),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One cell of `factor_sweep`: records ``m, n, method, draw, excess``."""
    rng = np.random.default_rng([seed, m, n])
    subspaces = pretraining_draws(task, m, n_draws, rng) if "pretrained" in methods else None
    excess = downstream_excess(task, n, n_draws, rng, methods=methods, subspaces=subspaces)
    return [
        {"m": m, "n": n, "method": method, "draw": draw, "excess": float(value)}
        for method, values in excess.items()
        for draw, value in enumerate(values)
    ]


def factor_sweep(
    task: FactorTask,
    m_values: Sequence[int],
    n_values: Sequence[int],
    n_draws: int,
    methods: Sequence[str] = ("pretrained", "ols", "ridge", "pcr"),
    seed: int = 0,
) -> pd.DataFrame:
    """Simulate both phases on a grid of sample sizes.

    Runs through `paperkit.sweeps.sweep`, so ``PAPERKIT_WORKERS`` and ``PAPERKIT_BACKEND`` (joblib
    or Dask) decide where the cells are computed; the numbers do not depend on it. "ols" is left
    out of the cells with n <= d + 1, where its mean risk is infinite.

    Returns
    -------
    pandas.DataFrame
        Columns m, n, method, draw, excess.
    """
    for method in methods:
        one_of("methods", method, METHODS)
    m_values = [count("m_values", m) for m in m_values]
    n_values = [count("n_values", n) for n in n_values]
    count("n_draws", n_draws)
    cases = []
    for m in m_values:
        for n in n_values:
            kept = tuple(k for k in methods if k != "ols" or n > task.dimension + 1)
            cases.append({"task": task, "m": m, "n": n, "n_draws": n_draws, "methods": kept})
    from paperkit.sweeps import sweep

    frame = sweep(factor_cell, cases, seeds=(seed,), description="excess over (m, n)")
    return frame[["m", "n", "method", "draw", "excess"]]
