"""The authors' released results, re-read.

The table of the paper's results (MIT, see ``paperkit.data.sources()``) has one row per model, task
and way of asking; from its means and standard deviations of the scores follows how much outcome
uncertainty each model claims. Everything below is arithmetic on that table: the findings about
large models in this book are recomputed, not re-run.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from paperkit import data
from paperkit.risk_scores._checks import check_choice
from paperkit.risk_scores.judging import uncertainty_from_moments

# The released table has 21 entries, the paper speaks of 17 models. The authors' analysis notebook
# drops the four entries whose name begins with "Gemma 2 " before a size of 9B or 27B, because their
# results look wrong; 17 remain.
LEFT_OUT = ("Gemma 2 9B", "Gemma 2 9B (it)", "Gemma 2 27B", "Gemma 2 27B (it)")
TASK_LABELS = {
    "income": "ACSIncome",
    "employment": "ACSEmployment",
    "travel_time": "ACSTravelTime",
    "public_coverage": "ACSPublicCoverage",
    "mobility": "ACSMobility",
}


def load_published_results(*, exclude: tuple[str, ...] = LEFT_OUT) -> pd.DataFrame:
    """Load the authors' aggregate results, one row per (model, task, scheme).

    Parameters
    ----------
    exclude : tuple of str
        Models left out; default those that the authors leave out, ``()`` gives all 21 entries (210
        rows).

    Returns
    -------
    DataFrame
        ``model, family, instruct, task, scheme, n, base_rate, auc, accuracy, brier, log_loss, ece,
        score_mean, score_sd`` as published, and ``claimed_uncertainty`` :math:`= m - m^2 - sd^2`,
        computed here. ``family`` joins a base model to its instruction-tuned version.
    """
    table = data.table("risk_scores/published_results")
    unknown = set(exclude) - set(table.model)
    if unknown:
        raise ValueError(
            f"exclude names models that are not in the table: {', '.join(sorted(unknown))}"
        )
    table = table[~table.model.isin(exclude)].reset_index(drop=True)
    table["claimed_uncertainty"] = uncertainty_from_moments(table.score_mean, table.score_sd)
    return table


def load_published_baselines() -> pd.DataFrame:
    """Load the authors' learners trained on labels (LR, GBM, XGBoost), one row per (model,
    task)."""
    return data.table("risk_scores/published_baselines")


def present_uncertainty(baseline: str = "XGBoost") -> pd.Series:
    """Outcome uncertainty per task, estimated by the Brier score of a trained learner."""
    table = load_published_baselines()
    check_choice("baseline", baseline, tuple(sorted(table.model.unique())))
    return table[table.model == baseline].set_index("task").brier


def uncertainty_gaps(results: pd.DataFrame, *, baseline: str = "XGBoost") -> pd.DataFrame:
    """Multiple-choice rows with ``gap``: claimed minus present uncertainty.

    Parameters
    ----------
    results : DataFrame
        From :func:`load_published_results`.
    baseline : {"LR", "GBM", "XGBoost"}
        Whose Brier score stands for the uncertainty that is there.
    """
    rows = results[results.scheme == "multiple_choice"].copy()
    rows["gap"] = rows.claimed_uncertainty - rows.task.map(present_uncertainty(baseline))
    return rows


def family_pairs(results: pd.DataFrame) -> pd.DataFrame:
    """Base and instruction-tuned version side by side, multiple choice.

    Returns
    -------
    DataFrame
        One row per (family, task) that has both; columns ``<measure>_base`` and
        ``<measure>_instruct`` for ``auc, ece, score_mean, score_sd, claimed_uncertainty``.
    """
    rows = results[results.scheme == "multiple_choice"]
    measures = ["auc", "ece", "score_mean", "score_sd", "claimed_uncertainty"]
    wide = rows.pivot(index=["family", "task"], columns="instruct", values=measures).dropna()
    wide.columns = pd.Index(
        [f"{c[0]}_{'instruct' if c[1] else 'base'}" for c in wide.columns.to_flat_index()]
    )
    return wide.reset_index()


def tracking(results: pd.DataFrame) -> pd.DataFrame:
    """Does a model claim more uncertainty where there is more? Spearman correlation over the five
    tasks.

    Returns
    -------
    DataFrame
        One row per model: ``model, instruct, correlation`` between its claimed uncertainty and the
        uncertainty that is there (XGBoost's Brier score).
    """
    rows = results[results.scheme == "multiple_choice"]
    present = present_uncertainty()
    return pd.DataFrame(
        {
            "model": model,
            "instruct": bool(tuned),
            "correlation": float(spearmanr(group.claimed_uncertainty, group.task.map(present))[0]),
        }
        for (model, tuned), group in rows.groupby(["model", "instruct"])
    )


def scheme_pairs(results: pd.DataFrame) -> pd.DataFrame:
    """Multiple choice and verbalised probability side by side, one row per (model, task).

    Returns
    -------
    DataFrame
        ``model, instruct, task`` and ``ece, brier, auc`` with the endings ``_choice`` and
        ``_numeric``.
    """
    keys = ["model", "instruct", "task"]
    columns = [*keys, "ece", "brier", "auc"]
    choice = results[results.scheme == "multiple_choice"][columns]
    numeric = results[results.scheme == "numeric"][columns]
    return choice.merge(numeric, on=keys, suffixes=("_choice", "_numeric"), validate="one_to_one")


def median_by(rows: pd.DataFrame, value: str, by: list[str]) -> pd.DataFrame:
    """Median of a measure per group, as a small table."""
    return rows.groupby(by)[value].median().unstack().round(3)


def share(condition: pd.Series | np.ndarray) -> float:
    """Share of rows for which a condition holds."""
    return float(np.mean(np.asarray(condition, dtype=bool)))
