"""Two diagnostic readers: classifiers as experts whose effort is which charts they look at.

Effort 0 says nothing, effort 1 looks at the cheap part of a patient's chart (a third of the cost),
effort 2 at all of it. A signal is an out-of-fold yes or no, so that no reader has seen the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from paperkit import data

from .instances import classifier_instance
from .problem import Array, HiringProblem

#: Utility of (do not treat, treat) for a healthy and for a sick patient.
UTILITY = np.array([[1.0, 0.0], [0.6, 1.0]])


@dataclass(frozen=True, eq=False)
class Readers:
    """What each reader says about each patient.

    Attributes
    ----------
    signals : tuple of two int arrays, shape (3, N)
        Yes (1) or no (0) for every effort and patient; effort 0 always says no.
    labels : int array, shape (N,)
        1 if the patient is sick.
    names : tuple of str
        The two classifiers.
    charts : tuple of str
        What the three efforts look at.
    """

    signals: tuple[Array, ...]
    labels: Array
    names: tuple[str, ...]
    charts: tuple[str, ...]

    def problem(
        self,
        cost: float,
        cap: float,
        *,
        rows: Array | None = None,
        efforts: tuple[int, ...] = (0, 1, 2),
        utility: Array = UTILITY,
    ) -> HiringProblem:
        """Hiring problem in which the patients (or the given rows of them) are the population.

        Parameters
        ----------
        cost : float
            Cost of the full chart; the cheap chart costs a third.
        cap : float
        rows : int array, optional
            Patients to count, with repetition.
        efforts : tuple of int
            Efforts that exist; (0, 2) leaves out the cheap chart.
        utility : array (A, 2)

        Returns
        -------
        HiringProblem
        """
        if 0 not in efforts or not set(efforts) <= {0, 1, 2}:
            raise ValueError(f"efforts must be among 0, 1, 2 and hold 0, got {efforts}")
        keep = np.arange(len(self.labels)) if rows is None else np.asarray(rows)
        # One patient of each kind keeps every signal and state in the table, with weight zero.
        costs = np.array([0.0, cost / 3, cost])[list(efforts)]
        signals = [s[list(efforts)][:, keep] for s in self.signals]
        whole = classifier_instance(
            [np.column_stack([s, np.ones(len(efforts), int)]) for s in signals],
            np.append(self.labels[keep], 0),
            [costs, costs],
            utility,
            cap,
        )
        extra = np.zeros(whole.kernel.shape)
        extra[..., 1, 1, 0] = 1
        kernel = whole.kernel * (len(keep) + 1) - extra
        return HiringProblem(
            np.round(kernel) / len(keep), whole.costs, whole.utility, whole.payment_cap
        )


def _signals(model: Any, features: Array, labels: Array) -> Array:
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    chance = cross_val_predict(model, features, labels, cv=folds, method="predict_proba")
    return (chance[:, 1] > 0.5).astype(int)


def _readers(cheap: Array, full: Array, labels: Array, charts: tuple[str, ...]) -> Readers:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    nothing = np.zeros(len(labels), int)
    models = (
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(200, min_samples_leaf=5, random_state=0),
    )
    signals = tuple(
        np.stack([nothing, *(_signals(model, part, labels) for part in (cheap, full))])
        for model in models
    )
    return Readers(signals, labels, ("logistic regression", "random forest"), charts)


@lru_cache(maxsize=1)
def diabetes_readers() -> Readers:
    """Two readers of 532 women's charts; the full chart adds the glucose test (Smith et al. 1988).

    Returns
    -------
    Readers
        Folds and forest have seed 0: one fixed pair of readers.
    """
    table = data.table("information_acquisition/pima")
    cheap = ["npreg", "bp", "skin", "bmi", "ped", "age"]
    return _readers(
        table[cheap].to_numpy(float),
        table[[*cheap, "glu"]].to_numpy(float),
        table["diabetic"].to_numpy(int),
        ("nothing", "chart without glucose", "chart with glucose"),
    )


@lru_cache(maxsize=1)
def breast_cancer_readers() -> Readers:
    """Two readers of scikit-learn's 569 breast tumours; the cheap chart has the first three means.

    Returns
    -------
    Readers
        A contrast: both readers are nearly always right.
    """
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    return _readers(
        table.data[:, :3],
        table.data,
        1 - table.target,  # 1 is malignant
        ("nothing", "radius, texture, perimeter", "all thirty measurements"),
    )
