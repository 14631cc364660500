"""Simpler rivals, the comparison with them, and the use of risk to move tests."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from paperkit.domain_constraints.labels import SelectiveLabels, SeparationWarning


@dataclass(frozen=True)
class LogisticRisk:
    """A logistic regression: ``risk(X) = sigmoid(X'coef)``, intercept in column 0."""

    coef: np.ndarray

    def risk(self, X: Any) -> np.ndarray:
        """Risk of each row, shape (R,)."""
        return 0.5 * (1.0 + np.tanh(0.5 * (np.asarray(X, float) @ self.coef)))


def _weighted_logistic(X: Any, positive: Any, negative: Any) -> LogisticRisk:
    from sklearn.linear_model import LogisticRegression

    if positive.sum() == 0 or negative.sum() == 0:
        raise ValueError("a logistic regression needs positives and negatives")
    features = np.vstack([X, X])[:, 1:]
    label = np.repeat([1, 0], len(X))
    weight = np.concatenate([positive, negative])
    keep = weight > 0
    fitted = LogisticRegression(C=np.inf, max_iter=2000, tol=1e-8).fit(
        features[keep], label[keep], sample_weight=weight[keep]
    )
    score = fitted.decision_function(features[keep])
    if (np.sign(score) == np.where(label[keep] == 1, 1, -1)).all():
        warnings.warn(
            "the features separate positives from negatives perfectly: coefficients diverge",
            SeparationWarning,
            stacklevel=3,
        )
    return LogisticRisk(np.append(fitted.intercept_, fitted.coef_.ravel()))


def logistic_tested_only(
    data: SelectiveLabels, *, recentre_to: float | None = None
) -> LogisticRisk:
    """Logistic regression fitted to tested people, unpenalised.

    Parameters
    ----------
    data : SelectiveLabels
    recentre_to : float, optional
        Known prevalence. The intercept is shifted until the mean risk of the untested is
        ``(prevalence - share of tested positives) / share of untested``: the cheap way to use it.

    Raises
    ------
    ValueError
        All tested outcomes equal, or an impossible prevalence.
    """
    fit = _weighted_logistic(data.X, data.n11, data.n10)
    if recentre_to is None:
        return fit
    n = data.n.sum()
    target = (recentre_to - data.n11.sum() / n) / (data.n0.sum() / n)
    if not 0 < target < 1:
        raise ValueError(f"prevalence {recentre_to} is impossible for these data")
    share = data.n0 / data.n0.sum()

    def gap(shift: Any) -> Any:
        moved = LogisticRisk(fit.coef + shift * np.eye(len(fit.coef))[0])
        return float(share @ moved.risk(data.X)) - target

    shift = brentq(gap, -30.0, 30.0)
    return LogisticRisk(fit.coef + shift * np.eye(len(fit.coef))[0])


def logistic_untested_negative(data: SelectiveLabels) -> LogisticRisk:
    """Logistic regression that calls every untested person negative."""
    return _weighted_logistic(data.X, data.n11, data.n10 + data.n0)


def parameter_report(idata: Any, truth: dict) -> dict[str, float]:
    """Widths and errors of one fit, by block of parameters.

    Parameters
    ----------
    idata : arviz.InferenceData
    truth : dict
        ``beta_Y``, ``beta_Delta``, ``free``, ``sigma``, ``alpha``.

    Returns
    -------
    dict
        For the blocks ``beta_Y``, ``beta_Delta`` (the truly free columns), ``sigma`` and
        ``alpha``: ``width_<block>`` mean width of the 95 % interval, ``error_<block>`` mean of
        ``|posterior mean - truth|``, ``cover_<block>`` share of intervals containing the truth.
    """
    post = idata.posterior
    free = np.asarray(truth["free"])
    blocks = {
        "beta_Y": (post["beta_Y"].values, truth["beta_Y"]),
        "beta_Delta": (post["beta_Delta"].values[..., free], truth["beta_Delta"][free]),
        "sigma": (post["sigma"].values[..., None], np.array([truth["sigma"]])),
        "alpha": (post["alpha"].values[..., None], np.array([truth["alpha"]])),
    }
    out = {}
    for name, (draws, true) in blocks.items():
        flat = draws.reshape(-1, draws.shape[-1])
        low, high = np.quantile(flat, [0.025, 0.975], axis=0)
        out[f"width_{name}"] = float((high - low).mean())
        out[f"error_{name}"] = float(np.abs(flat.mean(0) - true).mean())
        out[f"cover_{name}"] = float(((low <= true) & (true <= high)).mean())
    return out


def constraint_gains(
    reports: pd.DataFrame,
    *,
    against: str = "u",
    blocks: Any = ("beta_Y", "beta_Delta", "sigma"),
    measures: Any = ("width", "error"),
    n_boot: int = 1000,
    rng: np.random.Generator | None = None,
) -> pd.DataFrame:
    """Median percent change of widths and errors over data sets, with bootstrap intervals.

    Parameters
    ----------
    reports : DataFrame
        One row per ``(set, constraint)`` with the columns of :func:`parameter_report`.
    against : str
        The constraint that others are compared with, set by set.
    blocks : sequence of str
        Parameter blocks.
    measures : sequence of {"width", "error"}
        What is compared.
    n_boot : int
        Bootstrap draws over data sets.

    Returns
    -------
    DataFrame
        Columns ``constraint, block, measure, median, low, high, n``. Negative is better.

    Raises
    ------
    ValueError
        A set that lacks one of the constraints.
    """
    from paperkit import claims

    rng = rng or np.random.default_rng(0)
    rows = []
    for measure in measures:
        for block in blocks:
            wide = reports.pivot(index="set", columns="constraint", values=f"{measure}_{block}")
            if wide.isna().any().any():
                raise ValueError("every set needs every constraint")
            for constraint in wide.columns:
                if constraint == against:
                    continue
                change = 100.0 * (wide[constraint] / wide[against] - 1.0).to_numpy()
                interval = claims.bootstrap(
                    np.median, change, method="percentile", n_draws=n_boot, rng=rng
                )
                rows.append(
                    {
                        "constraint": constraint,
                        "block": block,
                        "measure": measure,
                        "median": interval.estimate,
                        "low": interval.low,
                        "high": interval.high,
                        "n": len(change),
                    }
                )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Reallocation:
    """Tests moved from the least to the most at risk; indices of people."""

    dropped: np.ndarray
    added: np.ndarray


def reallocation(
    risk_tested: Any, risk_untested: Any, tested: Any, k: int, *, seed: int = 0
) -> Reallocation:
    """Move ``k`` tests from tested people of lowest to untested people of highest risk.

    Parameters
    ----------
    risk_tested, risk_untested : array_like, shape (N,)
        Inferred p(Y=1|X,T=1) and p(Y=1|X,T=0) of everybody.
    tested : array_like, shape (N,)
    k : int
        Tests to move.
    seed : int
        People with equal features have equal risk; ties are broken at random.

    Raises
    ------
    ValueError
        ``k`` below 1 or larger than either group.
    """
    tested = np.asarray(tested) == 1
    on, off = np.flatnonzero(tested), np.flatnonzero(~tested)
    if not 1 <= k <= min(len(on), len(off)):
        raise ValueError(f"k must lie in 1..{min(len(on), len(off))}, got {k}")
    rng = np.random.default_rng(seed)
    on, off = rng.permutation(on), rng.permutation(off)
    low = on[np.argsort(np.asarray(risk_tested)[on], kind="stable")[:k]]
    high = off[np.argsort(-np.asarray(risk_untested)[off], kind="stable")[:k]]
    return Reallocation(low, high)
