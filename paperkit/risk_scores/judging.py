"""Judging risk scores against outcomes: ranking, calibration, and claimed uncertainty.

With score :math:`s(x)`, outcome :math:`y`, and :math:`\\eta(x) = P(y = 1 | x)`:

* ranking: AUC, the chance that a random positive scores above a random negative;
* calibration: expected calibration error, :math:`\\sum_k (n_k / n) |\\bar y_k - \\bar s_k|` over
  bins of the score, always beside its *null band*, because a perfect score has an error above zero
  on a finite sample;
* claimed uncertainty :math:`U(s) = E[s (1 - s)]` against the uncertainty that is there,
  :math:`U^* = E[\\eta (1 - \\eta)]`, the Brier score of the Bayes predictor.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn.metrics import balanced_accuracy_score, log_loss

from paperkit.risk_scores._checks import (
    Floats,
    check_choice,
    check_labels,
    check_pair,
    check_scores,
)

Strategy = Literal["uniform", "quantile"]


# --- ranking --------------------------------------------------------------------------------------


def auc(y: ArrayLike, s: ArrayLike) -> float:
    """Area under the ROC curve, by ranks (ties count one half).

    Equal to :func:`sklearn.metrics.roc_auc_score` and about ten times faster, which the thousands
    of draws of the intervals and tests of this chapter need. NaN if one class is absent.
    """
    labels, scores = check_pair(y, s)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    ranks = rankdata(scores)
    return float(
        (ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    )


def auc_p_value(y: ArrayLike, s: ArrayLike) -> float:
    """Two-sided p-value of "the score does not rank": AUC under permuted labels.

    Mean and variance of the rank sum over all permutations of the labels are exact, ties included;
    their distribution is taken as normal (Mann-Whitney test). At the sample sizes of this chapter
    (hundreds) that is accurate far into the tail, where drawing permutations would need millions.

    Returns
    -------
    float
        p in [0, 1]; 1 for a constant score.
    """
    labels, scores = check_pair(y, s)
    check_labels(labels, both=True)
    if np.ptp(scores) == 0:
        return 1.0
    from scipy.stats import mannwhitneyu

    test = mannwhitneyu(scores[labels == 1], scores[labels == 0], method="asymptotic")
    return float(test.pvalue)


# --- calibration ----------------------------------------------------------------------------------


def assign_bins(s: ArrayLike, *, n_bins: int = 10, strategy: Strategy = "uniform") -> np.ndarray:
    """Bin of every score.

    Parameters
    ----------
    s : array of shape (n,)
        Scores in [0, 1].
    n_bins : int
        Number of bins; some may stay empty.
    strategy : {"uniform", "quantile"}
        Bins of equal width, closed on the left (a verbalised score of 0.3 lies *on* an edge, so the
        rule decides), or of about equal mass, which never split tied scores.

    Returns
    -------
    array of int, shape (n,)
        0 <= bin < n_bins.
    """
    scores = check_scores(s)
    if not isinstance(n_bins, int | np.integer) or n_bins < 1:
        raise ValueError(f"n_bins must be a positive integer, got {n_bins!r}")
    check_choice("strategy", strategy, ("uniform", "quantile"))
    if strategy == "uniform":
        # Rounding first: 10 * 0.7 must fall into the bin that starts at 0.7.
        return np.minimum(np.floor(np.round(n_bins * scores, 9)).astype(int), n_bins - 1)
    # Tied scores share their mean rank, hence their bin.
    return np.floor(n_bins * (rankdata(scores) - 0.5) / len(scores)).astype(int)


def reliability(
    y: ArrayLike, s: ArrayLike, *, n_bins: int = 10, strategy: Strategy = "uniform"
) -> pd.DataFrame:
    """Reliability diagram as a table: one row per non-empty bin.

    Returns
    -------
    DataFrame
        Columns ``n``, ``score`` (mean score), ``rate`` (share of positives), ``sd`` (standard
        deviation of the rate if the scores were calibrated).
    """
    labels, scores = check_pair(y, s)
    bins = assign_bins(scores, n_bins=n_bins, strategy=strategy)
    frame = pd.DataFrame({"bin": bins, "y": labels, "s": scores, "v": scores * (1 - scores)})
    table = frame.groupby("bin").agg(
        n=("y", "size"), score=("s", "mean"), rate=("y", "mean"), v=("v", "mean")
    )
    table["sd"] = np.sqrt(table.pop("v") / table["n"])
    return table


def expected_calibration_error(
    y: ArrayLike, s: ArrayLike, *, n_bins: int = 10, strategy: Strategy = "uniform"
) -> float:
    """Mean distance between score and rate over bins, weighted by their size.

    Parameters
    ----------
    y : array of {0, 1}, shape (n,)
        Outcomes.
    s : array of shape (n,)
        Scores in [0, 1].
    n_bins, strategy
        See :func:`assign_bins`.

    Returns
    -------
    float
        In [0, 1]. Compare with :func:`ece_null`: on few rows a perfect score has a large error.
    """
    labels, scores = check_pair(y, s)
    bins = assign_bins(scores, n_bins=n_bins, strategy=strategy)
    return float(np.abs(np.bincount(bins, weights=labels - scores)).sum() / len(scores))


def ece_null(
    s: ArrayLike,
    *,
    n_bins: int = 10,
    strategy: Strategy = "uniform",
    n_draws: int = 500,
    random_state: int | np.random.Generator = 0,
) -> Floats:
    """Calibration errors that these very scores would show if they were perfectly calibrated.

    Outcomes are drawn from the scores, :math:`y^* \\sim` Bernoulli(s), and the error is computed
    again.

    Returns
    -------
    array of shape (n_draws,)
        Draws of the error; its 95 % quantile is the upper end of the null band. A score is called
        miscalibrated in this chapter only when its error lies above that.
    """
    scores = check_scores(s)
    if n_draws < 1:
        raise ValueError(f"n_draws must be positive, got {n_draws}")
    rng = np.random.default_rng(random_state)
    bins = assign_bins(scores, n_bins=n_bins, strategy=strategy)
    order = np.argsort(bins, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(bins[order]) > 0])
    sorted_scores = scores[order]
    errors = np.empty(n_draws)
    for draw in range(n_draws):
        residual = (rng.random(len(scores)) < sorted_scores) - sorted_scores
        errors[draw] = np.abs(np.add.reduceat(residual, starts)).sum() / len(scores)
    return errors


def brier_decomposition(
    y: ArrayLike, s: ArrayLike, *, n_bins: int = 10, strategy: Strategy = "uniform"
) -> dict[str, float]:
    """Brier score as reliability - resolution + uncertainty + within-bin terms (Murphy; Stephenson
    et al.).

    Returns
    -------
    dict
        ``brier``, ``reliability``, ``resolution``, ``uncertainty`` and ``within``, which is 0 when
        all scores in a bin are equal; ``brier = reliability - resolution + uncertainty + within``
        exactly.
    """
    labels, scores = check_pair(y, s)
    bins = assign_bins(scores, n_bins=n_bins, strategy=strategy)
    n = np.bincount(bins)
    filled = n > 0
    mean_s = np.bincount(bins, weights=scores)[filled] / n[filled]
    mean_y = np.bincount(bins, weights=labels)[filled] / n[filled]
    weight = n[filled] / len(scores)
    brier = float(np.mean((labels - scores) ** 2))
    parts = {
        "brier": brier,
        "reliability": float(weight @ (mean_s - mean_y) ** 2),
        "resolution": float(weight @ (mean_y - labels.mean()) ** 2),
        "uncertainty": float(labels.mean() * (1 - labels.mean())),
    }
    parts["within"] = brier - parts["reliability"] + parts["resolution"] - parts["uncertainty"]
    return parts


# --- claimed uncertainty --------------------------------------------------------------------------


def claimed_uncertainty(s: ArrayLike) -> float:
    """Outcome uncertainty that the scores claim, :math:`U(s) = E[s (1 - s)]`, in [0, 1/4]."""
    scores = check_scores(s)
    return float(np.mean(scores * (1 - scores)))


def uncertainty_from_moments(mean: ArrayLike, sd: ArrayLike) -> Floats:
    """The same from a published mean and standard deviation: :math:`U = m - m^2 - sd^2`."""
    m, deviation = np.asarray(mean, dtype=float), np.asarray(sd, dtype=float)
    return m - m**2 - deviation**2


def uncertainty_gap(s: ArrayLike, bayes_brier: float) -> float:
    """Claimed minus present uncertainty, :math:`D = U(s) - U^*`.

    Parameters
    ----------
    s : array of shape (n,)
        Scores.
    bayes_brier : float
        Estimate of :math:`U^* = E[\\eta (1 - \\eta)]`: the Brier score of a good, cross-fitted
        learner. It is an upper estimate.

    Returns
    -------
    float
        Above 0: the scores claim more uncertainty than there is; below 0: less (over-confident).

    Notes
    -----
    :math:`E[s (1 - s)] - Brier(s)` looks similar but is 0 for the constant score 1/2 too: it cannot
    see hedging.
    """
    if not 0 <= bayes_brier <= 1:
        raise ValueError(f"bayes_brier must lie in [0, 1], got {bayes_brier!r}")
    return claimed_uncertainty(s) - bayes_brier


def confidence_gap(y: ArrayLike, s: ArrayLike) -> float:
    """Mean confidence minus accuracy at threshold 1/2: above 0 over-confident, below 0
    under-confident."""
    labels, scores = check_pair(y, s)
    accuracy = np.mean((scores >= 0.5) == (labels == 1))
    return float(np.mean(np.maximum(scores, 1 - scores)) - accuracy)


# --- the report -----------------------------------------------------------------------------------


def _judge(
    y: np.ndarray, s: Floats, bayes_brier: float | None, threshold: float
) -> dict[str, float]:
    one_class = len(np.unique(y)) < 2
    claimed = claimed_uncertainty(s)
    clipped = np.clip(s, 1e-12, 1 - 1e-12)
    return {
        "auc": float("nan") if one_class else auc(y, s),
        "accuracy": float(np.mean((s >= threshold) == (y == 1))),
        "balanced_accuracy": (
            float("nan") if one_class else float(balanced_accuracy_score(y, s >= threshold))
        ),
        "brier": float(np.mean((y - s) ** 2)),
        "log_loss": float(log_loss(y, clipped, labels=[0, 1])),
        "ece": expected_calibration_error(y, s),
        "base_rate": float(np.mean(y)),
        "mean_score": float(np.mean(s)),
        "claimed_uncertainty": claimed,
        "uncertainty_gap": float("nan") if bayes_brier is None else claimed - bayes_brier,
        "confidence_gap": confidence_gap(y, s),
    }


def evaluate(
    y: ArrayLike,
    s: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    bayes_brier: float | None = None,
    threshold: float = 0.5,
    n_boot: int = 0,
    level: float = 0.95,
    random_state: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Report on scores, for all rows and for every group.

    Parameters
    ----------
    y : array of {0, 1}, shape (n,)
        Outcomes.
    s : array of shape (n,)
        Scores in [0, 1].
    groups : array of shape (n,), optional
        Group of every row.
    bayes_brier : float, optional
        See :func:`uncertainty_gap`; without it that column is NaN.
    threshold : float
        Scores from here on count as predictions of 1.
    n_boot : int
        Bootstrap draws of rows; above 0 every measure ``m`` gets percentile limits ``m_low`` and
        ``m_high``.
    level : float
        Level of these limits.
    random_state : int or Generator
        Randomness of the null band and the bootstrap.

    Returns
    -------
    DataFrame
        Index ``"all"`` and the groups; columns ``n``, ``auc``, ``accuracy``, ``balanced_accuracy``,
        ``brier``, ``log_loss``, ``ece``, ``ece_null_95``, ``base_rate``, ``mean_score``,
        ``claimed_uncertainty``, ``uncertainty_gap``, ``confidence_gap``. A group with one class has
        NaN where both are needed, with a warning.
    """
    labels, scores = check_pair(y, s)
    rng = np.random.default_rng(random_state)
    selections: dict[object, np.ndarray] = {"all": np.ones(len(labels), dtype=bool)}
    if groups is not None:
        membership = pd.Series(np.asarray(groups, dtype=object))
        if len(membership) != len(labels):
            raise ValueError(
                f"groups and y must have equal length, got {len(membership)} and {len(labels)}"
            )
        for group in sorted(membership.dropna().unique(), key=str):
            selections[group] = (membership == group).to_numpy()
    rows = {}
    for group, chosen in selections.items():
        y_group, s_group = labels[chosen], scores[chosen]
        if len(np.unique(y_group)) < 2:
            warnings.warn(
                f"group {group!r} holds one class only: its AUC is not defined", stacklevel=2
            )
        row = {"n": len(y_group), **_judge(y_group, s_group, bayes_brier, threshold)}
        row["ece_null_95"] = float(np.quantile(ece_null(s_group, random_state=rng), 0.95))
        if n_boot:
            draws = pd.DataFrame(
                _judge(y_group[pick], s_group[pick], bayes_brier, threshold)
                for pick in rng.integers(len(y_group), size=(n_boot, len(y_group)))
            )
            tail = (1 - level) / 2
            row |= {f"{name}_low": float(draws[name].quantile(tail)) for name in draws}
            row |= {f"{name}_high": float(draws[name].quantile(1 - tail)) for name in draws}
        rows[group] = row
    report = pd.DataFrame.from_dict(rows, orient="index")
    first = ["n", "auc", "accuracy", "balanced_accuracy", "brier", "log_loss", "ece", "ece_null_95"]
    return report[first + [column for column in report if column not in first]]
