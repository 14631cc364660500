"""Synthetic populations in which the truth, hidden outcomes included, is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from paperkit.domain_constraints.cells import Unobservable, cell_probabilities, check_family
from paperkit.domain_constraints.labels import SelectiveLabels


@dataclass(frozen=True)
class Simulation:
    """A population. ``outcome_full`` and ``z`` are for verification only.

    Attributes
    ----------
    X : ndarray, shape (N, M)
    tested : ndarray, shape (N,)
    outcome_full : ndarray, shape (N,)
        Outcomes of everybody (real-valued in the Heckman model).
    z : ndarray, shape (N,)
        The unobservable.
    truth : dict
        ``beta_Y``, ``beta_Delta``, ``alpha``, ``sigma``, ``unobservable``, ``free`` (columns with
        a free deviation).
    """

    X: np.ndarray
    tested: np.ndarray
    outcome_full: np.ndarray
    z: np.ndarray
    truth: dict = field(repr=False)

    @property
    def outcome(self) -> np.ndarray:
        """What the analyst sees: NaN where untested."""
        return np.where(self.tested == 1, self.outcome_full, np.nan)

    @property
    def prevalence(self) -> float:
        """Mean outcome of everybody, the number an outside source would give."""
        return float(self.outcome_full.mean())

    def labels(self, **settings: Any) -> SelectiveLabels:
        """Return the analyst's view (binary outcomes)."""
        return SelectiveLabels.from_arrays(self.X, self.tested, self.outcome, **settings)

    def true_risk_untested(self) -> np.ndarray:
        """p(Y=1 | X, T=0) of the untested people under the true parameters."""
        cells = self._true_cells(self.tested == 0)
        return cells.p01 / cells.untested

    def true_risk_tested(self) -> np.ndarray:
        """p(Y=1 | X, T=1) of the tested people under the true parameters."""
        cells = self._true_cells(self.tested == 1)
        return cells.p11 / (cells.p11 + cells.p10)

    def _true_cells(self, mask: Any) -> Any:
        t = self.truth
        X = self.X[mask]
        return cell_probabilities(
            X @ t["beta_Y"],
            X @ t["beta_Delta"],
            t["sigma"],
            alpha=t["alpha"],
            unobservable=t["unobservable"],
        )


def _features(rng: Any, n: Any, m: Any) -> Any:
    x = rng.standard_normal((n, m - 1))
    x = (x - x.mean(0)) / x.std(0)
    return np.column_stack([np.ones(n), x])


def _check_size(n: Any, m: Any) -> Any:
    if n < 10:
        raise ValueError(f"n must be at least 10, got {n}")
    if m < 2:
        raise ValueError(f"m must be at least 2 (intercept and one feature), got {m}")


def simulate_bernoulli_sigmoid(
    seed: int,
    n: int = 5000,
    m: int = 5,
    unobservable: Unobservable = "uniform",
    *,
    prior_scale: float | None = None,
    independent_testing: bool = False,
) -> Simulation:
    """Draw a population of the paper's synthetic study.

    Features are standard normal; ``beta_Y`` of the features ~ N(0, 1); deviations are nonzero for
    columns 0 and 1 only; intercepts ~ N(-2, .1) and N(2, .1); ``sigma`` ~ N(2, .1); ``alpha`` is 1
    for uniform and N(1, .1) for normal ``Z``.

    Parameters
    ----------
    seed : int
        Seed of ``numpy.random.default_rng``.
    n, m : int
        People, and features including the intercept.
    unobservable : {"uniform", "normal"}
        Family of ``Z``.
    prior_scale : float, optional
        Draw every parameter from the model's own prior with this scale instead (all deviations
        free): the populations of simulation-based calibration.
    independent_testing : bool
        Break the model on purpose: test with the right probabilities given ``X``, blind to ``Z``.

    Returns
    -------
    Simulation
    """
    check_family(unobservable)
    _check_size(n, m)
    rng = np.random.default_rng(seed)
    X = _features(rng, n, m)
    alpha = 1.0
    if prior_scale is not None:
        beta_y = rng.normal(0, prior_scale, m)
        beta_d = rng.normal(0, prior_scale, m)
        sigma = abs(rng.normal(0, prior_scale))
        free = np.arange(m)
    else:
        beta_y = np.concatenate([[rng.normal(-2, 0.1)], rng.standard_normal(m - 1)])
        beta_d = np.zeros(m)
        beta_d[0] = rng.normal(2, 0.1)
        beta_d[1] = rng.standard_normal()
        sigma = rng.normal(2, 0.1)
        free = np.array([0, 1])
        if unobservable == "normal":
            alpha = rng.normal(1, 0.1)
    z = sigma * (rng.random(n) if unobservable == "uniform" else rng.standard_normal(n))
    r = X @ beta_y + z
    y = (rng.random(n) < _sigmoid(r)).astype(float)
    if independent_testing:
        cells = cell_probabilities(
            X @ beta_y, X @ beta_d, sigma, alpha=alpha, unobservable=unobservable
        )
        p_test = 1.0 - cells.untested
    else:
        p_test = _sigmoid(alpha * r + X @ beta_d)
    tested = (rng.random(n) < p_test).astype(float)
    truth = {
        "beta_Y": beta_y,
        "beta_Delta": beta_d,
        "alpha": float(alpha),
        "sigma": float(sigma),
        "unobservable": unobservable,
        "free": free,
    }
    return Simulation(X, tested, y, z, truth)


def simulate_heckman(seed: int, n: int = 500, m: int = 5) -> Simulation:
    """Draw a population of the paper's Heckman study: ``Y = r``, a probit decision.

    ``rho`` ~ N(1, .1), ``sigma`` ~ N(2, .1), ``beta_T`` of intercept and column 1 from N(2, .1) and
    N(0, 1), the other ``beta_T,j = beta_Y,j rho / sigma^2`` so that their deviations are zero.
    """
    from paperkit.domain_constraints.heckman import general_from_heckman

    _check_size(n, m)
    rng = np.random.default_rng(seed)
    X = _features(rng, n, m)
    beta_y = np.concatenate([[rng.normal(-2, 0.1)], rng.standard_normal(m - 1)])
    sigma, rho = rng.normal(2, 0.1), rng.normal(1, 0.1)
    beta_t = beta_y * rho / sigma**2
    beta_t[0] = rng.normal(2, 0.1)
    beta_t[1] = rng.standard_normal()
    alpha, beta_d = general_from_heckman(beta_y, beta_t, sigma, rho)
    z = sigma * rng.standard_normal(n)
    r = X @ beta_y + z
    tested = (alpha * r + X @ beta_d + rng.standard_normal(n) > 0).astype(float)
    truth = {
        "beta_Y": beta_y,
        "beta_Delta": np.where(np.arange(m) < 2, beta_d, 0.0),
        "alpha": float(alpha),
        "sigma": float(sigma),
        "rho": float(rho),
        "beta_T": beta_t,
        "free": np.array([0, 1]),
    }
    return Simulation(X, tested, r, z, truth)


def _sigmoid(x: Any) -> Any:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
