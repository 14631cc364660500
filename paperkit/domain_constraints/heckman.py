"""The Heckman correction as a special case: ``Y = r`` and a probit decision.

``Z ~ N(0, sigma^2)`` and ``T = 1[alpha r + X'beta_Delta + e > 0]``, ``e ~ N(0, 1)``. For a selected
person ``Z = Y - X'beta_Y`` is seen, so with ``k = sqrt(1 + alpha^2 sigma^2)``::

    T = 1:  log N(Y; X'beta_Y, sigma) + log Phi(alpha Y + X'beta_Delta)
    T = 0:  log Phi(-X'(alpha beta_Y + beta_Delta) / k)

Econometrics writes the same model with ``beta_T = (alpha beta_Y + beta_Delta) / k`` and the
covariance ``rho = alpha sigma^2 / k`` of the two errors.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_ndtr, ndtr

from paperkit.domain_constraints.laplace import NestedLaplace, nested_laplace
from paperkit.domain_constraints.nuts import (
    ApproximationWarning,
    quiet_arviz,
    ridge_nuts,
    run_settings,
    with_diagnostics,
)

_LOG_2PI = np.log(2 * np.pi)


def heckman_from_general(beta_Y: Any, beta_Delta: Any, alpha: float, sigma: float) -> Any:
    """``(beta_T, rho)`` of the Heckman form; ``rho`` is a covariance, ``|rho| < sigma``."""
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    k = np.sqrt(1.0 + (alpha * sigma) ** 2)
    return (alpha * np.asarray(beta_Y) + np.asarray(beta_Delta)) / k, alpha * sigma**2 / k


def general_from_heckman(beta_Y: Any, beta_T: Any, sigma: float, rho: float) -> Any:
    """``(alpha, beta_Delta)`` of the general form from a Heckman model.

    Raises
    ------
    ValueError
        ``|rho| >= sigma``: a covariance with a unit-variance error cannot be that large.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    if not abs(rho) < sigma:
        raise ValueError(f"|rho| must be below sigma, got rho={rho}, sigma={sigma}")
    alpha = rho / (sigma * np.sqrt(sigma**2 - rho**2))
    k = 1.0 / np.sqrt(1.0 - (rho / sigma) ** 2)
    return float(alpha), np.asarray(beta_T) * k - alpha * np.asarray(beta_Y)


def heckman_loglik(
    beta_Y: Any,
    beta_T: Any,
    sigma: float,
    rho: float,
    X_Y: Any,
    X_T: Any,
    outcome: Any,
    tested: Any,
) -> Any:
    """Log likelihood per person of the Heckman form, shape (N,).

    Parameters
    ----------
    beta_Y, beta_T : array_like
        Coefficients of outcome and selection.
    sigma, rho : float
        Scale of the outcome's error; its covariance with the unit-variance selection error.
    X_Y, X_T : array_like, shapes (N, M_Y), (N, M_T)
        The two design matrices, which may differ.
    outcome, tested : array_like, shape (N,)
        ``outcome`` is read only where ``tested`` is 1.
    """
    tested = np.asarray(tested) == 1
    y = np.where(tested, np.asarray(outcome, float), 0.0)
    mean = np.asarray(X_Y) @ beta_Y
    score = np.asarray(X_T) @ beta_T
    e = np.where(tested, y - mean, 0.0)
    slope = np.sqrt(1.0 - (rho / sigma) ** 2)
    chosen = (
        -0.5 * (e / sigma) ** 2
        - np.log(sigma)
        - 0.5 * _LOG_2PI
        + log_ndtr((score + rho / sigma**2 * e) / slope)
    )
    return np.where(tested, chosen, log_ndtr(-score))


def general_loglik(
    beta_Y: Any, beta_Delta: Any, alpha: float, sigma: float, X: Any, outcome: Any, tested: Any
) -> Any:
    """Log likelihood per person of the general form with a probit decision, shape (N,)."""
    tested = np.asarray(tested) == 1
    X = np.asarray(X)
    y = np.where(tested, np.asarray(outcome, float), 0.0)
    mean, d = X @ beta_Y, X @ beta_Delta
    k = np.sqrt(1.0 + (alpha * sigma) ** 2)
    chosen = (
        -0.5 * ((y - mean) / sigma) ** 2 - np.log(sigma) - 0.5 * _LOG_2PI + log_ndtr(alpha * y + d)
    )
    return np.where(tested, chosen, log_ndtr(-(alpha * mean + d) / k))


@dataclass(frozen=True)
class HeckmanFit:
    """Maximum likelihood fit of the Heckman form."""

    beta_Y: np.ndarray
    beta_T: np.ndarray
    sigma: float
    correlation: float
    loglik: float


def fit_heckman_mle(X_Y: Any, X_T: Any, outcome: Any, tested: Any) -> HeckmanFit:
    """Maximise the Heckman likelihood; the correlation may have either sign.

    Columns are scaled inside, so squares of ages do no harm.
    """
    X_Y, X_T = np.asarray(X_Y, float), np.asarray(X_T, float)
    tested = np.asarray(tested, float)
    s_y, s_t = np.abs(X_Y).max(0), np.abs(X_T).max(0)
    A, B = X_Y / s_y, X_T / s_t
    m, on = A.shape[1], tested == 1
    ols = np.linalg.lstsq(A[on], np.asarray(outcome, float)[on], rcond=None)[0]
    spread = float(np.std(np.asarray(outcome, float)[on] - A[on] @ ols))

    def negative(v: Any) -> Any:
        sigma, corr = np.exp(v[-2]), np.tanh(v[-1])
        return -heckman_loglik(v[:m], v[m:-2], sigma, corr * sigma, A, B, outcome, tested).sum()

    v = np.concatenate([ols, np.zeros(B.shape[1]), [np.log(spread), 0.0]])
    for _ in range(4):
        v = minimize(negative, v, method="BFGS", options={"gtol": 1e-7, "maxiter": 2000}).x
    sigma, corr = float(np.exp(v[-2])), float(np.tanh(v[-1]))
    return HeckmanFit(v[:m] / s_y, v[m:-2] / s_t, sigma, corr, -float(negative(v)))


def mills_condition_number(half_range: float, *, centre: float = 0.5, n: int = 2001) -> float:
    """Condition number of ``[1, s, phi(s)/Phi(s)]`` for ``s`` within ``centre +- half_range``.

    Columns are scaled to unit length. Without an exclusion restriction this is the design from
    which the Heckman model is identified: only the curvature of the inverse Mills ratio tells
    selection and outcome apart.
    """
    if not half_range > 0:
        raise ValueError(f"half_range must be positive, got {half_range}")
    s = np.linspace(centre - half_range, centre + half_range, n)
    mills = np.exp(-0.5 * s**2) / np.sqrt(2 * np.pi) / ndtr(s)
    design = np.column_stack([np.ones(n), s, mills])
    return float(np.linalg.cond(design / np.linalg.norm(design, axis=0)))


class HeckmanModel:
    """Bayesian Heckman model in the general parametrisation, with both constraints.

    Parameters
    ----------
    X : array_like, shape (N, M)
        Features, column 0 is 1.
    tested, outcome : array_like, shape (N,)
        ``outcome`` is real, NaN where untested.
    mean_outcome : float, optional
        Known mean of ``Y`` over everybody: the prevalence constraint, here exactly a constraint
        on ``mean(X)'beta_Y``.
    mean_sd : float
        Its standard deviation.
    deviation_features : sequence of int, optional
        Columns whose ``beta_Delta`` is free (0 always is); ``None`` frees all.
    prior_scale : float
        Scale of the priors N(0, s^2) on coefficients, half-normal on ``sigma`` and ``alpha``.

    Notes
    -----
    The published code puts the half-normal prior on ``rho``; here it is on ``alpha``, the
    parameter of the general model.
    """

    def __init__(
        self,
        X: Any,
        tested: Any,
        outcome: Any,
        *,
        mean_outcome: float | None = None,
        mean_sd: float = 0.0022,
        deviation_features: Any = None,
        prior_scale: float = 3.0,
    ) -> None:
        self.X = np.asarray(X, float)
        self.on = np.asarray(tested) == 1
        outcome = np.asarray(outcome, float)
        if self.X.ndim != 2 or not np.isfinite(self.X).all():
            raise ValueError("X must be a finite matrix")
        if not (self.X[:, 0] == 1).all():
            raise ValueError("column 0 of X must be 1 for everybody (the intercept)")
        if self.on.shape != (len(self.X),) or outcome.shape != (len(self.X),):
            raise ValueError("X, tested and outcome must have the same length")
        if np.isfinite(outcome[~self.on]).any():
            raise ValueError("outcome is given for an untested person; pass NaN")
        if not np.isfinite(outcome[self.on]).all():
            raise ValueError("outcome is missing for a tested person")
        if not mean_sd > 0 or not prior_scale > 0:
            raise ValueError("mean_sd and prior_scale must be positive")
        m = self.X.shape[1]
        free = range(m) if deviation_features is None else {0, *deviation_features}
        self.free = np.array(sorted(free), int)
        if self.free.min() < 0 or self.free.max() >= m:
            raise ValueError(f"deviation_features must lie in 0..{m - 1}")
        self.X1, self.y1, self.X0 = self.X[self.on], outcome[self.on], self.X[~self.on]
        self.mean_outcome, self.mean_sd, self.s2 = mean_outcome, mean_sd, prior_scale**2
        self.x_bar = self.X.mean(0)

    def logp_and_grad(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Log posterior density up to a constant, and its gradient.

        Parameters
        ----------
        theta : ndarray, shape (M + F + 2,)
            ``beta_Y``, the free entries of ``beta_Delta``, ``log sigma``, ``log alpha`` (both
            Jacobians are included).
        """
        m = self.X.shape[1]
        beta_y, beta_d, log_sigma, t = theta[:m], theta[m:-2], theta[-2], theta[-1]
        sigma, alpha = np.exp(log_sigma), np.exp(t)
        k = np.sqrt(1.0 + (alpha * sigma) ** 2)
        e = self.y1 - self.X1 @ beta_y
        c = alpha * self.y1 + self.X1[:, self.free] @ beta_d
        u = -(self.X0 @ (alpha * beta_y) + self.X0[:, self.free] @ beta_d) / k
        lc, lu = log_ndtr(c), log_ndtr(u)
        mills_c = np.exp(-0.5 * c**2 - 0.5 * _LOG_2PI - lc)
        mills_u = np.exp(-0.5 * u**2 - 0.5 * _LOG_2PI - lu)
        value = (
            -0.5 * (e @ e) / sigma**2
            - len(e) * log_sigma
            + lc.sum()
            + lu.sum()
            - 0.5 * (beta_y @ beta_y + beta_d @ beta_d + sigma**2 + alpha**2) / self.s2
            + log_sigma
            + t
        )
        g0 = self.X0.T @ mills_u
        grad = np.empty_like(theta)
        grad[:m] = self.X1.T @ e / sigma**2 - alpha / k * g0 - beta_y / self.s2
        grad[m:-2] = self.X1[:, self.free].T @ mills_c - g0[self.free] / k - beta_d / self.s2
        dk = (alpha * sigma) ** 2 / k**2  # d log k / d log sigma, and / d log alpha
        grad[-2] = e @ e / sigma**2 - len(e) - (mills_u @ u) * dk - sigma**2 / self.s2 + 1.0
        du = -alpha * (self.X0 @ beta_y) / k - u * dk
        grad[-1] = alpha * (mills_c @ self.y1) + mills_u @ du - alpha**2 / self.s2 + 1.0
        if self.mean_outcome is not None:
            gap = (self.x_bar @ beta_y - self.mean_outcome) / self.mean_sd
            value -= 0.5 * gap**2
            grad[:m] -= gap / self.mean_sd * self.x_bar
        return float(value), grad

    def _inner(self, x: np.ndarray, t: float) -> tuple[float, np.ndarray]:
        value, grad = self.logp_and_grad(np.append(x, t))
        return value, grad[:-1]

    def hessian(self, x: np.ndarray, t: float) -> np.ndarray:
        """Second derivatives in ``theta[:-1]``: central differences of the exact gradient."""
        h = np.empty((len(x), len(x)))
        for i in range(len(x)):
            step = np.zeros(len(x))
            step[i] = 1e-5
            h[i] = (self._inner(x + step, t)[1] - self._inner(x - step, t)[1]) / 2e-5
        return 0.5 * (h + h.T)

    def fit(
        self,
        *,
        method: Literal["nested_laplace", "nuts"] = "nested_laplace",
        draws: int = 1000,
        tune: int = 500,
        chains: int = 2,
        seed: int = 0,
        cores: int | None = None,
        progress: bool | None = None,
        straighten: bool = True,
    ) -> Any:
        """Sample the posterior; arguments as in :meth:`SelectionModel.fit`.

        Returns
        -------
        arviz.InferenceData
            ``beta_Y``, ``beta_Delta``, ``beta_Delta_free``, ``sigma``, ``alpha``; ``pareto_k``, or
            ``r_hat`` and ``divergences``, in the attributes.

        Raises
        ------
        ValueError
            Unknown method, or fewer than one draw, chain or core.

        Warns
        -----
        ApproximationWarning
            ``pareto_k > 0.7``, ``r-hat > 1.01`` or divergences.
        """
        if method not in ("nested_laplace", "nuts"):
            raise ValueError(f"method must be nested_laplace or nuts, got {method!r}")
        run = run_settings(draws, tune, chains, cores, progress)
        result = self._laplace(draws if method == "nested_laplace" else 50, seed)
        if method == "nuts":
            trace = ridge_nuts(self.logp_and_grad, result, straighten=straighten, seed=seed, **run)
            idata = self._inference_data(trace.posterior["theta"].values, method)
            names = ["beta_Y", "beta_Delta_free", "sigma", "alpha"]
            return with_diagnostics(idata, trace.sample_stats, names)
        idata = self._inference_data(result.theta[None], method)
        idata.posterior.attrs.update(pareto_k=result.pareto_k, n_eff=result.n_eff)
        if result.pareto_k > 0.7:
            warnings.warn(
                f"pareto_k is {result.pareto_k:.2f} > 0.7: use method='nuts'",
                ApproximationWarning,
                stacklevel=2,
            )
        return idata

    def _laplace(self, draws: int, seed: int) -> NestedLaplace:
        m = self.X.shape[1]
        start = np.zeros(m + len(self.free) + 1)
        start[:m] = np.linalg.lstsq(self.X1, self.y1, rcond=None)[0]
        start[-1] = np.log(np.std(self.y1 - self.X1 @ start[:m]))
        return nested_laplace(
            self._inner,
            self.hessian,
            start,
            lower=np.log(0.01),
            upper=np.log(10.0),
            draws=draws,
            rng=np.random.default_rng(seed),
        )

    def _inference_data(self, theta: np.ndarray, method: str) -> Any:
        m = self.X.shape[1]
        beta_d = np.zeros((*theta.shape[:-1], m))
        beta_d[..., self.free] = theta[..., m:-2]
        idata = quiet_arviz().from_dict(
            posterior={
                "beta_Y": theta[..., :m],
                "beta_Delta": beta_d,
                "beta_Delta_free": theta[..., m:-2],
                "sigma": np.exp(theta[..., -2]),
                "alpha": np.exp(theta[..., -1]),
            },
            coords={"feature": list(range(m)), "deviation": self.free.tolist()},
            dims={
                "beta_Y": ["feature"],
                "beta_Delta": ["feature"],
                "beta_Delta_free": ["deviation"],
            },
        )
        idata.posterior.attrs["method"] = method
        return idata
