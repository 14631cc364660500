r"""Gaussian mixtures: the representation is the component, the head names the components.

Source: Ge, Tang, Fan, Jin (ICLR 2024), Theorem 5.3; the constants are derived here. z is uniform
on K components, x | z ~ N(u_z, I), y = psi(z) flipped with probability eps, 0-1 loss, and the
head class is all labelings of the components. For two components at +u and -u, s = \|u\|,
everything is closed: the maximum-likelihood u solves ``u = mean(x tanh(u^T x))``; each direction
orthogonal to u has Fisher information :math:`J(s) = E \tanh^2(s t),\ t \sim N(s, 1)`, so that to
first order

.. math:: E\,\text{excess} = (1-2\varepsilon)\,\frac{\varphi(s)\,(d-1)}{2\,m\,s\,J(s)}
          \quad\text{(unlabelled)},\qquad
          \frac{\varphi(s)\,(d-1)}{2\,n\,s\,(1-2\varepsilon)}\quad\text{(labelled mean difference)},

and one label is worth :math:`m^*/n = (1-2\varepsilon)^2 / J(s)` unlabelled points.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats
from sklearn.exceptions import ConvergenceWarning

from paperkit.unsupervised_pretraining._validate import (
    FloatArray,
    count,
    flip_probability,
    float_array,
    one_of,
)


@dataclass(frozen=True, eq=False)
class MixtureTask:
    """Equal mixture of identity-covariance Gaussians with a binary label on each component.

    Parameters
    ----------
    means : ndarray, shape (K, d)
    labels : ndarray of {0, 1}, shape (K,)
    label_noise : float
        Probability in [0, 1/2) that a label is flipped.
    """

    means: FloatArray
    labels: np.ndarray
    label_noise: float = 0.0

    def __post_init__(self) -> None:
        means = float_array("means", self.means, ndim=2)
        labels = np.asarray(self.labels)
        if labels.shape != (len(means),):
            raise ValueError(f"labels must have shape ({len(means)},), got {labels.shape}")
        if not np.isin(labels, (0, 1)).all():
            raise ValueError("labels must be 0 or 1")
        object.__setattr__(self, "means", means)
        object.__setattr__(self, "labels", labels.astype(int))
        noise = flip_probability("label_noise", self.label_noise)
        object.__setattr__(self, "label_noise", noise)

    @classmethod
    def simplex(
        cls, n_components: int, *, dimension: int, distance: float, label_noise: float = 0.0
    ) -> MixtureTask:
        """K means at equal pairwise distance (corners of a simplex), labels alternating 0, 1."""
        k, d = count("n_components", n_components, at_least=2), count("dimension", dimension)
        if d < k:
            raise ValueError(f"dimension must be at least n_components = {k}, got {d}")
        corners = np.eye(k, d) * distance / np.sqrt(2)
        return cls(corners - corners.mean(axis=0), np.arange(k) % 2, label_noise)

    @cached_property
    def n_components(self) -> int:
        """K."""
        return len(self.means)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[FloatArray, np.ndarray]:
        """Draw rows X (n, d) and noisy labels y (n,)."""
        z = rng.integers(self.n_components, size=count("n", n))
        X = self.means[z] + rng.standard_normal((n, self.means.shape[1]))
        return X, self.labels[z] ^ (rng.random(n) < self.label_noise)


class MixtureFit(NamedTuple):
    """Result of `fit_mixture`: means (K, d), iterations, whether they sufficed, likelihoods."""

    means: FloatArray
    n_iter: int
    converged: bool
    log_likelihood: FloatArray


def _log_joint(X: FloatArray, means: FloatArray) -> FloatArray:
    """log p(x | k) up to a term that depends on x only, (n, K)."""
    return X @ means.T - 0.5 * (means**2).sum(axis=1)


def responsibilities(X: Any, means: Any) -> FloatArray:
    """P(z = k | x) for rows X (n, d) under equal weights and identity covariances; (n, K)."""
    rows, centres = float_array("X", X, ndim=2), float_array("means", means, ndim=2)
    if rows.shape[1] != centres.shape[1]:
        raise ValueError(f"X has {rows.shape[1]} columns, means have {centres.shape[1]}")
    return special.softmax(_log_joint(rows, centres), axis=1)


def fit_mixture(X: Any, means_init: Any, *, max_iter: int = 500, tol: float = 1e-6) -> MixtureFit:
    """Means of an equal mixture of unit Gaussians by expectation-maximisation.

    scikit-learn cannot hold the covariance at the identity and the weights equal, which the model
    of the paper does.

    Parameters
    ----------
    X : ndarray, shape (m, d)
    means_init : ndarray, shape (K, d)
        Components that start at one common point stay there.
    max_iter : int
    tol : float
        Stop when no mean moves by more than this.

    Returns
    -------
    MixtureFit
        A fit that has not converged carries ``converged=False`` and warns (ConvergenceWarning).
    """
    rows, means = float_array("X", X, ndim=2), float_array("means_init", means_init, ndim=2)
    if rows.shape[1] != means.shape[1]:
        raise ValueError(f"X has {rows.shape[1]} columns, means_init has {means.shape[1]}")
    if rows.size == 0:
        raise ValueError("X must have at least one row")
    count("max_iter", max_iter)
    free = means.size
    if len(rows) < free:
        warnings.warn(f"X has {len(rows)} rows for {free} free parameters", stacklevel=2)
    constant = -0.5 * (rows**2).sum() - len(rows) * (
        np.log(len(means)) + rows.shape[1] * np.log(2 * np.pi) / 2
    )
    history: list[float] = []
    for iteration in range(1, max_iter + 1):
        logits = _log_joint(rows, means)
        top = logits.max(axis=1, keepdims=True)
        weights = np.exp(logits - top)
        total = weights.sum(axis=1, keepdims=True)
        history.append(float((np.log(total) + top).sum() + constant))
        weights /= total
        mass = weights.sum(axis=0)
        # A component without mass keeps its mean: dividing by zero would lose it.
        updated = np.where(
            mass[:, None] > 1e-12, weights.T @ rows / np.maximum(mass, 1e-300)[:, None], means
        )
        moved = float(np.abs(updated - means).max())
        means = updated
        if moved <= tol:
            return MixtureFit(means, iteration, True, np.array(history))
    warnings.warn(
        f"EM moved by {moved:.2g} in its last of {max_iter} steps", ConvergenceWarning, stacklevel=2
    )
    return MixtureFit(means, max_iter, False, np.array(history))


def labelling_erm(
    responsibilities: Any,
    y: Any,
    label_noise: float = 0.0,
    *,
    n_classes: int = 2,
    method: str = "exact",
) -> np.ndarray:
    """Name the components with few labels, by empirical risk minimisation over all labelings.

    Parameters
    ----------
    responsibilities : ndarray, shape (n, K)
        P(z = k | x) on the labelled rows; rows sum to 1.
    y : ndarray of int, shape (n,)
        Classes 0 .. n_classes - 1.
    label_noise : float
        In [0, 1/2). Symmetric flips do not change the minimiser; the value is only checked.
    n_classes : int
    method : {"exact", "vote"}
        "exact" tries all n_classes^K labelings of the posterior vote (at most 4096; ties go to the
        labelling that agrees with the vote most). "vote" gives each component the class of its
        weighted labels, with a prior of 1e-9 from the overall frequencies, which decides for
        components without labels.

    Returns
    -------
    ndarray of int, shape (K,)
    """
    r = float_array("responsibilities", responsibilities, ndim=2)
    flip_probability("label_noise", label_noise)
    one_of("method", method, ("exact", "vote"))
    labels = np.asarray(y)
    if labels.shape != (len(r),):
        raise ValueError(f"y must have shape ({len(r)},), got {labels.shape}")
    if labels.dtype.kind not in "iub" or not np.isin(labels, np.arange(n_classes)).all():
        raise ValueError(f"y must hold classes 0..{n_classes - 1}")
    if (r < 0).any() or not np.allclose(r.sum(axis=1), 1, atol=1e-6):
        raise ValueError("responsibilities must be non-negative with rows that sum to 1")
    k = r.shape[1]
    classes = np.eye(n_classes)[labels.astype(int)]  # (n, C)
    votes = r.T @ classes + 1e-9 * classes.mean(axis=0)  # (K, C)
    if method == "vote":
        return votes.argmax(axis=1)
    if n_classes**k > 4096:
        raise ValueError(
            f"{n_classes}^{k} labelings are too many for method='exact'; use method='vote'"
        )
    best: tuple[float, float] = (np.inf, np.inf)
    chosen = votes.argmax(axis=1)
    for candidate in product(range(n_classes), repeat=k):
        named = np.eye(n_classes)[list(candidate)]  # (K, C)
        errors = float(((r @ named).argmax(axis=1) != labels).sum())
        agreement = -float((votes * named).sum())
        if (errors, agreement) < best:
            best, chosen = (errors, agreement), np.array(candidate)
    return chosen


def regret(task: MixtureTask, means: Any, labels: Any, X_eval: Any) -> float:
    """Excess error rate of fitted means and labels, by the true posterior on rows X_eval.

    The average of ``|2 eta(x) - 1|`` over the rows where the prediction differs from the best one
    (eta the true probability of class 1 given x, label noise included): no label is drawn, so
    small numbers can be measured.
    """
    rows = float_array("X_eval", X_eval, ndim=2)
    centres = float_array("means", means, ndim=2)
    names = np.asarray(labels)
    if names.shape != (len(centres),) or not np.isin(names, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1 with shape ({len(centres)},)")
    eta = responsibilities(rows, task.means) @ task.labels
    predicted = responsibilities(rows, centres) @ names > 0.5
    margin = (1 - 2 * task.label_noise) * np.abs(2 * eta - 1)
    return float((margin * (predicted != (eta > 0.5))).mean())


def fit_symmetric_mixture(
    X: Any, start: Any = None, *, em_steps: int = 5, max_iter: int = 300, tol: float = 1e-9
) -> FloatArray:
    """Maximum-likelihood u of the mixture of N(u, I) and N(-u, I), shape (d,), sign arbitrary.

    A few EM steps ``u <- mean(x tanh(u^T x))`` and then Newton steps, shortened where they do not
    raise the likelihood and replaced by an EM step if that does not help. Starts at the leading direction of the second
    moment.

    Raises
    ------
    ValueError
        For bad input. Not reaching ``tol`` warns (ConvergenceWarning).
    """
    rows = float_array("X", X, ndim=2)
    m, d = rows.shape
    if m == 0:
        raise ValueError("X must have at least one row")
    if start is None:
        values, vectors = np.linalg.eigh(rows.T @ rows / m)
        u = vectors[:, -1] * np.sqrt(max(values[-1] - 1, 0.05))
    else:
        u = float_array("start", start, ndim=1).copy()
        if u.shape != (d,):
            raise ValueError(f"start must have shape ({d},), got {u.shape}")

    def value(v: FloatArray, t: FloatArray) -> float:
        # log cosh t = |t| + log1p(exp(-2|t|)) - log 2, stable for large t.
        size = np.abs(t)
        return float((size + np.log1p(np.exp(-2 * size))).mean() - v @ v / 2)

    t = rows @ u
    reached = value(u, t)
    for iteration in range(max_iter):
        tanh = np.tanh(t)
        em = rows.T @ tanh / m
        gradient = em - u
        if np.abs(gradient).max() <= tol:
            return u
        if iteration >= em_steps:
            hessian = (rows * (1 - tanh**2)[:, None]).T @ rows / m - np.eye(d)
            # Where the likelihood is not concave, |eigenvalues| still give a direction of ascent.
            curvature, axes = np.linalg.eigh(hessian)
            direction = axes @ (axes.T @ gradient / np.maximum(np.abs(curvature), 1e-3))
            for fraction in (1.0, 0.25, 0.0625):
                newton = u + fraction * direction
                t_newton = rows @ newton
                proposed = value(newton, t_newton)
                if proposed >= reached:
                    break
            if proposed >= reached:
                u, t, reached = newton, t_newton, proposed
                continue
        u = em
        t = rows @ u
        reached = value(u, t)
    warnings.warn("the fit has not reached its tolerance", ConvergenceWarning, stacklevel=2)
    return u


def symmetric_excess(u: Any, u_true: Any, label_noise: float = 0.0) -> FloatArray:
    """Excess error ``(1 - 2 eps)(Phi(-s |cos|) - Phi(-s))`` of the boundary orthogonal to u (..., d).

    The head chooses the sign, hence the absolute cosine.
    """
    fitted, truth = float_array("u", u), float_array("u_true", u_true, ndim=1)
    noise = flip_probability("label_noise", label_noise)
    s = np.linalg.norm(truth)
    if s == 0:
        raise ValueError("u_true must not be zero")
    size = np.linalg.norm(fitted, axis=-1)
    cosine = np.abs(fitted @ truth) / np.maximum(size * s, 1e-300)
    rate = stats.norm.cdf(-s * np.minimum(cosine, 1.0)) - stats.norm.cdf(-s)
    return (1 - 2 * noise) * np.maximum(rate, 0.0)


def tanh_information(s: Any) -> FloatArray:
    """J(s) = E tanh^2(s t), t ~ N(s, 1): Fisher information of a direction orthogonal to u."""
    separation = float_array("s", s)
    if (separation <= 0).any():
        raise ValueError("s must be positive")
    # The trapezoidal rule is exponentially accurate for a smooth function times a Gaussian.
    grid = np.linspace(-9.0, 9.0, 1801)
    weights = stats.norm.pdf(grid) * (grid[1] - grid[0])
    t = separation[..., None] + grid
    return (np.tanh(separation[..., None] * t) ** 2 * weights).sum(axis=-1)


def unlabelled_excess(s: Any, m: Any, dimension: int, label_noise: float = 0.0) -> FloatArray:
    """First-order excess (1-2eps) phi(s)(d-1)/(2 m s J(s)) of components found without labels."""
    noise, s_ = flip_probability("label_noise", label_noise), np.asarray(s, float)
    scale = stats.norm.pdf(s_) * (dimension - 1) / (2 * s_ * np.asarray(m, float))
    return (1 - 2 * noise) * scale / tanh_information(s_)


def labelled_excess(s: Any, n: Any, dimension: int, label_noise: float = 0.0) -> FloatArray:
    """First-order excess phi(s)(d-1)/(2 n s (1-2eps)) of the labelled mean difference."""
    noise, s_ = flip_probability("label_noise", label_noise), np.asarray(s, float)
    return stats.norm.pdf(s_) * (dimension - 1) / (2 * s_ * np.asarray(n, float) * (1 - 2 * noise))


def majority_wrong(n: int, share: float, right: Any) -> FloatArray:
    """Probability that the majority of k ~ Bin(n, share) votes is wrong, shape of ``right``.

    Every vote is right with probability ``right``, and a tie is decided by a coin. Exact.
    """
    k = np.arange(n + 1)
    weight = stats.binom.pmf(k, n, share)
    kept = weight > 1e-18
    k, weight = k[kept], weight[kept]
    p = np.asarray(right, float)[..., None]
    less = stats.binom.cdf(np.ceil(k / 2) - 1, k, p)
    tie = np.where(k % 2 == 0, stats.binom.pmf(k // 2, k, p), 0.0)
    return (weight * (less + tie / 2)).sum(axis=-1)


def voting_excess(n_components: int, n: int, delta: Any) -> FloatArray:
    """Exact excess of naming K known components by majority with n labels, right w.p. 1/2 + delta.

    ``2 delta sum_k Bin(k; n, 1/K) (P(minority right) + P(tie)/2)``; the sum over K equal components
    cancels their weight 1/K. ``delta`` may be an array in (0, 1/2].
    """
    k_comp, n = count("n_components", n_components), count("n", n)
    quality = float_array("delta", delta)
    if ((quality <= 0) | (quality > 0.5)).any():
        raise ValueError("delta must lie in (0, 0.5]")
    return 2 * quality * majority_wrong(n, 1 / k_comp, 0.5 + quality)
