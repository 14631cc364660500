r"""The theorem on a factor model: distances between laws, informativeness, the chain of the proof.

Source: Ge, Tang, Fan, Jin (ICLR 2024, arXiv:2303.01566). The condition (Assumption 3.2, weakened in
Assumption 3.6 to a total variation against a Hellinger distance) asks that for every fitted model
some symmetry T brings the law of (x, z) as close to the truth as the law of x is:

.. math:: TV\big(P_{T\phi}(x, z), P_{\phi^*}(x, z)\big)
          \le \kappa\, H\big(P_\phi(x), P_{\phi^*}(x)\big).

The excess risk of the second phase is then at most :math:`4 L\,TV(x, z) \le 4 L \kappa H(x)`, and
maximum likelihood makes :math:`H(x)` of order :math:`\sqrt{C_\Phi/m}`. Here
:math:`H^2 = 1 - \int\sqrt{pq}`, so :math:`H^2 \le TV \le \sqrt{H^2 (2 - H^2)}`. The local constant
for factor models (H on both sides) is derived here:

.. math:: \kappa_H^2 = \max\Big\{ \frac{1+\lambda_{\min}^2}{\lambda_{\min}^2},\
          \max_{j,k} \frac{l_j l_k}{\lambda_j^2 + \lambda_k^2} \Big\}, \quad l_j = 1 + \lambda_j^2 .
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import optimize

from paperkit.unsupervised_pretraining._validate import FloatArray, count, float_array, positive
from paperkit.unsupervised_pretraining.factor import (
    FactorTask,
    excess_risk,
    gaussian_risk,
    predictor_weights,
)


def hellinger_gaussian(cov1: Any, cov2: Any) -> FloatArray:
    """Hellinger distance of centred Gaussians, ``H^2 = 1 - integral sqrt(p q)``.

    Parameters
    ----------
    cov1, cov2 : ndarray, shape (..., d, d)
        Positive definite; leading axes broadcast.

    Returns
    -------
    ndarray, shape (...)
        In [0, 1].
    """
    a, b = float_array("cov1", cov1), float_array("cov2", cov2)
    if a.shape[-2:] != b.shape[-2:] or a.shape[-1] != a.shape[-2]:
        raise ValueError(f"cov1 and cov2 must be square and alike, got {a.shape} and {b.shape}")
    sign1, log1 = np.linalg.slogdet(a)
    sign2, log2 = np.linalg.slogdet(b)
    if (sign1 <= 0).any() or (sign2 <= 0).any():
        raise ValueError("cov1 and cov2 must be positive definite")
    log_middle = np.linalg.slogdet((a + b) / 2)[1]
    log_affinity = np.minimum((log1 + log2) / 4 - log_middle / 2, 0.0)
    return np.sqrt(-np.expm1(log_affinity))


def total_variation_bound(hellinger: Any) -> FloatArray:
    """Upper bound ``sqrt(H^2 (2 - H^2))`` of the total variation; it is an upper bound, not TV."""
    h2 = np.asarray(hellinger, float) ** 2
    return np.sqrt(h2 * (2 - h2))


def align(loadings: Any, reference: Any) -> FloatArray:
    """Rotate loadings (..., d, r) within the latent space to lie closest to ``reference`` (d, r).

    Orthogonal Procrustes: the law of x does not change under ``B -> B Q``, the law of (x, z) does.
    """
    b = float_array("loadings", loadings)
    target = float_array("reference", reference, ndim=2)
    if b.shape[-2:] != target.shape:
        raise ValueError(f"loadings must end in shape {target.shape}, got {b.shape}")
    left, _, right = np.linalg.svd(np.swapaxes(b, -1, -2) @ target)
    return b @ left @ right


def joint_covariance(loadings: Any) -> FloatArray:
    """Covariance of (x, z), shape (..., d + r, d + r)."""
    b = np.asarray(loadings, float)
    d, r = b.shape[-2:]
    result = np.zeros((*b.shape[:-2], d + r, d + r))
    result[..., :d, :d] = b @ np.swapaxes(b, -1, -2) + np.eye(d)
    result[..., :d, d:] = b
    result[..., d:, :d] = np.swapaxes(b, -1, -2)
    result[..., d:, d:] = np.eye(r)
    return result


def local_kappa(loadings: Any) -> float:
    """Exact local informativeness constant kappa_H of a factor model (see the module text)."""
    b = float_array("loadings", loadings, ndim=2)
    signal = np.linalg.svd(b, compute_uv=False) ** 2
    if signal[-1] <= 1e-12 * signal[0]:
        raise ValueError("loadings must have full column rank")
    ell = 1 + signal
    pairs = np.outer(ell, ell) / (signal[:, None] + signal[None, :])
    return float(np.sqrt(max(ell[-1] / signal[-1], pairs.max())))


def free_parameters(dimension: int, n_factors: int) -> int:
    """Free parameters of loadings up to rotation, d r - r (r - 1) / 2."""
    return dimension * n_factors - n_factors * (n_factors - 1) // 2


def bound_chain(task: FactorTask, loadings: Any, clip: float) -> dict[str, FloatArray]:
    """Every term of the proof's chain for fitted loadings, in the order in which it must grow.

    Parameters
    ----------
    task : FactorTask
    loadings : ndarray, shape (..., d, r)
        Fitted B; it is rotated to the truth first (the symmetry T of the condition).
    clip : float
        L, the cap of the loss.

    Returns
    -------
    dict
        ``excess`` (the clipped excess of the frozen head), ``law_xy`` and ``law_xz`` (4 L times the
        upper bound of the total variation), ``law_x`` (4 L sqrt(2) kappa_H H(x)), each of shape
        (...); and the bare distances ``hellinger_xy``, ``hellinger_xz``, ``hellinger_x``.
    """
    cap = positive("clip", clip)
    fitted = align(loadings, task.loadings)
    beta, d = task.coefficients, task.dimension
    excess = excess_risk(task, predictor_weights(fitted, beta), "clipped", cap)
    joint = joint_covariance(fitted)
    h_x = hellinger_gaussian(joint[..., :d, :d], task.covariance)
    h_xz = hellinger_gaussian(joint, joint_covariance(task.loadings))
    cov_xy = np.empty((*fitted.shape[:-2], d + 1, d + 1))
    cov_xy[..., :d, :d] = joint[..., :d, :d]
    cov_xy[..., :d, d] = cov_xy[..., d, :d] = fitted @ beta
    cov_xy[..., d, d] = task.joint_covariance[d, d]
    h_xy = hellinger_gaussian(cov_xy, task.joint_covariance)
    return {
        "excess": excess,
        "law_xy": 4 * cap * total_variation_bound(h_xy),
        "law_xz": 4 * cap * total_variation_bound(h_xz),
        "law_x": 4 * cap * np.sqrt(2) * local_kappa(task.loadings) * h_x,
        "hellinger_xy": h_xy,
        "hellinger_xz": h_xz,
        "hellinger_x": h_x,
    }


def theorem_bound(
    task: FactorTask, m: float, n: float, *, clip: float, confidence: float = 0.95
) -> dict[str, float]:
    """The theorem's right side for a factor model, with its constants.

    ``12 kappa L sqrt(log(2 N / delta) / m) + 2 R_n + 2 L sqrt(2 log(4 / delta) / n)`` with the
    log bracketing number log N taken as ``p log m``, kappa as ``sqrt(2) kappa_H`` (a local
    value), and the Rademacher term bounded for ``|beta|`` at its true size: ``2 R_n <= 4 sqrt(L)
    |beta| sqrt(r / n)``.

    Returns
    -------
    dict
        ``pretraining``, ``head``, ``confidence`` and their sum ``total``, in squared units of y.
    """
    if m < 2 or n < 1:
        raise ValueError(f"m must be at least 2 and n at least 1, got m={m}, n={n}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    cap, delta = positive("clip", clip), 1 - confidence
    kappa = np.sqrt(2) * local_kappa(task.loadings)
    p = free_parameters(task.dimension, task.n_factors)
    pretraining = 12 * kappa * cap * np.sqrt((p * np.log(m) + np.log(2 / delta)) / m)
    norm = np.linalg.norm(task.coefficients)
    head = 4 * np.sqrt(cap) * norm * np.sqrt(task.n_factors / n)
    tail = 2 * cap * np.sqrt(2 * np.log(4 / delta) / n)
    terms = {"pretraining": pretraining, "head": head, "confidence": tail}
    return {key: float(value) for key, value in (terms | {"total": sum(terms.values())}).items()}


def informative_from(task: FactorTask, *, clip: float) -> float:
    """Smallest m from which the theorem's m-term says more than predicting zero does.

    The m-term is ``12 kappa L sqrt(p log m / m)``; it is compared with the clipped excess risk of
    the predictor 0, which needs no data.
    """
    cap = positive("clip", clip)
    trivial = float(task.coefficients @ task.coefficients) + task.noise_variance
    target = float(gaussian_risk(trivial, "clipped", cap)) - task.bayes_risk("clipped", cap)
    kappa = np.sqrt(2) * local_kappa(task.loadings)
    p = free_parameters(task.dimension, task.n_factors)

    def gap(log_m: float) -> float:
        return 12 * kappa * cap * np.sqrt(p * log_m * np.exp(-log_m)) - target

    return float(np.exp(optimize.brentq(gap, 1.0, 80.0)))


def worst_signal_excess(strength: Any, m: int, dimension: int) -> FloatArray:
    """Asymptotic excess of one factor at signal strength lambda^2 (beta = 1, n = infinity).

    ``q = (1 - cos^2) lambda^2 / ((1 + lambda^2)(1 + lambda^2 cos^2))`` with the limit of the
    squared cosine between the top principal component and the factor (Baik, Ben Arous, Peche
    2005; Paul 2007): ``(1 - g / lambda^4) / (1 + g / lambda^2)`` above ``lambda^2 = sqrt(g)``,
    ``g = d / m``, else 0.
    """
    s = float_array("strength", strength)
    if (s <= 0).any():
        raise ValueError("strength must be positive")
    g = count("dimension", dimension) / count("m", m)
    cos2 = np.where(s**2 > g, (1 - g / s**2) / (1 + g / s), 0.0)
    return s * (1 - cos2) / ((1 + s) * (1 + s * cos2))
