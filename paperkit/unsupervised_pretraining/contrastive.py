r"""Contrastive learning with a linear encoder: side information in place of a density of x.

Source: Ge, Tang, Fan, Jin (ICLR 2024); the linear instance and its constant are derived here. Pairs
(x, x') are independent, and a sign t = +1 or -1 says whether they match:

.. math:: P(t = 1 \mid x, x') = \sigma\big(f(x)^\top f(x')\big), \quad z = f(x) + \mu, \quad
          y = \beta^\top z + \nu .

Here f(x) = A x with A A^T = a^2 I_r and x ~ N(0, I_d). Only the row space of A matters
downstream, and

.. math:: E\,q \approx \frac{(d-r)\,|\beta|^2}{2 a^2 v m}, \qquad
          v = E\big[\sigma'(a^2 u^\top u')\,u_1'^2\big],\quad u, u' \sim N(0, I_r).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy import integrate, optimize, special, stats
from sklearn.exceptions import ConvergenceWarning

from paperkit.unsupervised_pretraining._validate import FloatArray, count, float_array, positive


def _check_pairs(X: Any, X_pair: Any, sign: Any) -> tuple[FloatArray, FloatArray, FloatArray]:
    rows, partners = float_array("X", X, ndim=2), float_array("X_pair", X_pair, ndim=2)
    t = float_array("sign", sign, ndim=1)
    if rows.shape != partners.shape:
        raise ValueError(f"X and X_pair must have equal shapes, got {rows.shape}, {partners.shape}")
    if t.shape != (len(rows),):
        raise ValueError(f"sign must have shape ({len(rows)},), got {t.shape}")
    if not np.isin(t, (-1, 1)).all():
        raise ValueError("sign must be -1 or +1 in every entry")
    return rows, partners, t


def pair_loss(encoder_weights: Any, X: Any, X_pair: Any, sign: Any) -> tuple[float, FloatArray]:
    """Mean logistic loss ``softplus(-t f(x).f(x'))`` of a linear encoder, and its gradient.

    Parameters
    ----------
    encoder_weights : ndarray, shape (r, d)
        A, the encoder is ``x -> A x``.
    X, X_pair : ndarray, shape (m, d)
    sign : ndarray of -1, +1, shape (m,)

    Returns
    -------
    tuple of float and ndarray (r, d)
    """
    a = float_array("encoder_weights", encoder_weights, ndim=2)
    rows, partners, t = _check_pairs(X, X_pair, sign)
    if a.shape[1] != rows.shape[1]:
        raise ValueError(f"encoder_weights must have {rows.shape[1]} columns, got {a.shape[1]}")
    return _loss_and_gradient(a, rows, partners, t)


def _loss_and_gradient(
    a: FloatArray, rows: FloatArray, partners: FloatArray, t: FloatArray
) -> tuple[float, FloatArray]:
    f, g = rows @ a.T, partners @ a.T  # (m, r)
    margin = t * (f * g).sum(axis=1)
    slope = -t * special.expit(-margin) / len(t)
    gradient = (g * slope[:, None]).T @ rows + (f * slope[:, None]).T @ partners
    return float(np.logaddexp(0, -margin).mean()), gradient


def fit_linear_encoder(
    X: Any, X_pair: Any, sign: Any, rank: int, *, max_iter: int = 200, gtol: float = 1e-7
) -> FloatArray:
    """Maximum-likelihood linear encoder from signed pairs, shape (rank, d), up to a rotation.

    L-BFGS from the top eigenvectors of the symmetrised mean of ``t x x'^T``. Warns
    (ConvergenceWarning) if the optimiser stops early.
    """
    rows, partners, t = _check_pairs(X, X_pair, sign)
    m, d = rows.shape
    r = count("rank", rank)
    if r >= d:
        raise ValueError(f"rank must be below d = {d}, got {r}")
    if m < d * r:
        warnings.warn(f"{m} pairs for {d * r} parameters: the fit follows the noise", stacklevel=2)
    cross = (rows * t[:, None]).T @ partners / m
    values, vectors = np.linalg.eigh((cross + cross.T) / 2)
    start = vectors[:, ::-1][:, :r].T * np.sqrt(np.maximum(2 * values[::-1][:r], 0.01))[:, None]

    def objective(flat: FloatArray) -> tuple[float, FloatArray]:
        loss, gradient = _loss_and_gradient(flat.reshape(r, d), rows, partners, t)
        return loss, gradient.ravel()

    result = optimize.minimize(
        objective, start.ravel(), jac=True, method="L-BFGS-B",
        options={"maxiter": max_iter, "gtol": gtol, "ftol": 1e-14},
    )  # fmt: skip
    if result.nit >= max_iter:
        warnings.warn(f"L-BFGS stopped after {max_iter} steps", ConvergenceWarning, stacklevel=2)
    return result.x.reshape(r, d)


def sample_pairs(
    encoder_weights: Any, m: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Draw m independent pairs with logistic signs: X (m, d), X_pair (m, d), sign (m,)."""
    a = float_array("encoder_weights", encoder_weights, ndim=2)
    m = count("m", m)
    rows, partners = rng.standard_normal((2, m, a.shape[1]))
    chance = special.expit(((rows @ a.T) * (partners @ a.T)).sum(axis=1))
    return rows, partners, np.where(rng.random(m) < chance, 1.0, -1.0)


def encoder_excess(fitted: Any, truth: Any, coefficients: Any) -> float:
    """Excess squared risk, at n = infinity, of the best linear head on a fitted encoder.

    x ~ N(0, I): the excess is the squared length of the part of ``A^T beta`` outside the row space.
    """
    a, a_true = float_array("fitted", fitted, ndim=2), float_array("truth", truth, ndim=2)
    weights = a_true.T @ float_array("coefficients", coefficients, ndim=1)
    basis, _ = np.linalg.qr(a.T)
    outside = weights - basis @ (basis.T @ weights)
    return float(outside @ outside)


def pair_information(scale: float, rank: int) -> float:
    """v = E[sigma'(a^2 u.u') u_1'^2] for u, u' ~ N(0, I_r); v(a=1, r=2) = .16123.

    Given u' the inner product is normal with variance ``|u'|^2``, and u_1'^2 averages to ``|u'|^2 / r``, so
    the expectation is a double integral over the radius of u' and one normal variable.
    """
    a2 = positive("scale", scale) ** 2
    r = count("rank", rank)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def integrand(radius: float) -> float:
        p = special.expit(a2 * radius * nodes)
        density = stats.chi.pdf(radius, r)
        return float(density * radius**2 / r * (weights * p * (1 - p)).sum())

    return float(integrate.quad(integrand, 0, 12, limit=200)[0])


def contrastive_excess(scale: float, dimension: int, coefficients: Any, m: Any) -> FloatArray:
    """First-order excess (d - r)|beta|^2 / (2 a^2 v m) of the linear encoder at n = infinity."""
    beta = float_array("coefficients", coefficients, ndim=1)
    r = len(beta)
    v = pair_information(scale, r)
    return (dimension - r) * float(beta @ beta) / (2 * scale**2 * v * np.asarray(m, float))
