"""Baselines that learn from labels, and repairing scores with a few labels."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from paperkit.risk_scores._checks import (
    Floats,
    check_choice,
    check_labels,
    check_pair,
    check_scores,
)

Method = Literal["platt", "isotonic", "temperature"]


class ScoreCalibrator(RegressorMixin, BaseEstimator):
    """Map from scores to calibrated scores, fitted on a few labelled rows.

    Parameters
    ----------
    method : {"platt", "isotonic", "temperature"}
        ``"platt"`` fits two numbers, :math:`\\sigma(a\\, logit\\, s + b)`; ``"temperature"`` one, b
        = 0; ``"isotonic"`` any non-decreasing map. The first two can only undo a stretched or
        shifted logit, the third needs more labels.

    Notes
    -----
    Isotonic regression gives the same result after any strictly increasing map of the scores, so
    whatever :func:`~paperkit.risk_scores.polarisation.polarise` did to a calibrated score it undoes exactly:
    polarising loses no information.
    """

    def __init__(self, method: Method = "platt"):
        self.method = method

    def fit(self, s: ArrayLike, y: ArrayLike) -> ScoreCalibrator:
        """Fit on scores ``s`` (n,) and outcomes ``y`` (n,)."""
        check_choice("method", self.method, get_args(Method))
        labels, scores = check_pair(y, s)
        check_labels(labels, both=True)
        if self.method == "isotonic":
            self.map_ = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(
                scores, labels
            )
        elif self.method == "platt":
            z = _finite_logit(scores)
            # Standardised, because the logits of a language model may differ in the fourth digit
            # only.
            self.center_, self.scale_ = float(z.mean()), float(z.std()) or 1.0
            line = LogisticRegression(C=1e6).fit(
                ((z - self.center_) / self.scale_)[:, None], labels
            )
            self.slope_, self.shift_ = float(line.coef_[0, 0]), float(line.intercept_[0])
        else:
            z = _finite_logit(scores)
            losses = minimize_scalar(
                lambda log_t: np.mean(
                    np.logaddexp(0, np.where(labels == 1, -z, z) * np.exp(-log_t))
                ),
                bounds=(-6, 6),
                method="bounded",
            )
            self.temperature_ = float(np.exp(losses.x))
        return self

    def predict(self, s: ArrayLike) -> Floats:
        """Calibrated scores (n,)."""
        scores = check_scores(s)
        if self.method == "isotonic":
            return np.asarray(self.map_.predict(scores), dtype=np.float64)
        z = _finite_logit(scores)
        if self.method == "platt":
            return expit(self.slope_ * (z - self.center_) / self.scale_ + self.shift_)
        return expit(z / self.temperature_)


def _finite_logit(s: Floats) -> Floats:
    return logit(np.clip(s, 1e-12, 1 - 1e-12))


def make_baseline(X: pd.DataFrame, kind: Literal["gbm", "lr"] = "gbm") -> BaseEstimator:
    """Classifier for a table of numbers and words.

    Gradient boosting takes words as categories and missing values as they are; logistic regression
    gets standardised numbers (median where missing, with an indicator) and one-hot words.
    """
    check_choice("kind", kind, ("gbm", "lr"))
    numbers = [c for c in X.columns if pd.api.types.is_numeric_dtype(X[c])]
    words = [c for c in X.columns if c not in numbers]
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    if kind == "gbm":
        return make_pipeline(
            make_column_transformer(("passthrough", numbers), (one_hot, words)),
            HistGradientBoostingClassifier(
                max_iter=60,
                learning_rate=0.06,
                max_leaf_nodes=8,
                early_stopping=False,
                random_state=0,
            ),
        )
    scaled = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    return make_pipeline(
        make_column_transformer((scaled, numbers), (one_hot, words)),
        LogisticRegression(max_iter=1000),
    )


def crossfit_baseline(
    X: pd.DataFrame,
    y: ArrayLike,
    kind: Literal["gbm", "lr"] = "gbm",
    *,
    n_folds: int = 5,
    random_state: int = 0,
) -> Floats:
    """Scores of a learner that has seen labels, each row scored by a model fitted without it.

    Parameters
    ----------
    X : DataFrame of shape (n, columns)
        Numbers and words.
    y : array of {0, 1}, shape (n,)
        Outcomes.
    kind : {"gbm", "lr"}
        Gradient boosting (60 trees of 8 leaves) or logistic regression.
    n_folds, random_state : int
        Stratified folds and their shuffle.

    Returns
    -------
    array of shape (n,)
        Its Brier score is this chapter's upper estimate of the uncertainty that the columns leave.
    """
    if not isinstance(X, pd.DataFrame):
        raise TypeError(f"X must be a pandas DataFrame, got {type(X).__name__}")
    labels = check_labels(y, both=True)
    if len(X) != len(labels):
        raise ValueError(f"X and y must have equal length, got {len(X)} and {len(labels)}")
    X = X.where(X.notna(), np.nan)
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=random_state)
    scores = cross_val_predict(make_baseline(X, kind), X, labels, cv=folds, method="predict_proba")[
        :, 1
    ]
    return np.asarray(scores, dtype=np.float64)
