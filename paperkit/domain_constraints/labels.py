"""What the analyst sees, and what the analyst knows beyond the data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


class SeparationWarning(UserWarning):
    """A feature splits the tested positives from the tested negatives perfectly."""


def _numeric_matrix(X: Any) -> tuple[np.ndarray, tuple[str, ...] | None]:
    names = None
    if hasattr(X, "columns"):
        bad = [str(c) for c in X.columns if X[c].dtype.kind not in "biuf"]
        if bad:
            raise TypeError(f"X has non-numeric columns: {', '.join(bad)}")
        names = tuple(str(c) for c in X.columns)
    matrix = np.asarray(X, dtype=float)
    if matrix.ndim != 2:
        raise ValueError(f"X must have two dimensions (people, features), got {matrix.ndim}")
    if not np.isfinite(matrix).all():
        raise ValueError("X contains missing or infinite values; impute or drop them first")
    return matrix, names


def _warn_if_separated(X: np.ndarray, tested: np.ndarray, outcome: np.ndarray, names: Any) -> None:
    positive = X[(tested == 1) & (outcome == 1)]
    negative = X[(tested == 1) & (outcome == 0)]
    if len(positive) == 0 or len(negative) == 0:
        warnings.warn(
            "all tested people have the same outcome: coefficients rest on the prior alone",
            SeparationWarning,
            stacklevel=3,
        )
        return
    for j in range(1, X.shape[1]):
        if (
            positive[:, j].min() > negative[:, j].max()
            or positive[:, j].max() < negative[:, j].min()
        ):
            warnings.warn(
                f"feature {names[j]!r} separates tested positives from tested negatives "
                "perfectly: its coefficient rests on the prior",
                SeparationWarning,
                stacklevel=3,
            )


@dataclass(frozen=True)
class SelectiveLabels:
    """Sufficient statistics of a selectively labelled data set: one row per distinct ``X``.

    The class has no room for the outcome of an untested person, so a model built from it cannot
    see one.

    Attributes
    ----------
    X : ndarray, shape (G, M)
        Distinct feature rows; column 0 is 1.
    n11, n10, n0 : ndarray, shape (G,)
        People tested and positive, tested and negative, untested.
    names : tuple of str
        Feature names, length M.
    inverse : ndarray of int, shape (N,)
        Row of each person.
    """

    X: np.ndarray
    n11: np.ndarray
    n10: np.ndarray
    n0: np.ndarray
    names: tuple[str, ...]
    inverse: np.ndarray

    @classmethod
    def from_arrays(
        cls,
        X: Any,
        tested: Any,
        outcome: Any,
        names: Sequence[str] | None = None,
        group: bool = True,
    ) -> SelectiveLabels:
        """Build from one row per person.

        Parameters
        ----------
        X : array_like or DataFrame, shape (N, M)
            Features; column 0 must be 1 for everybody.
        tested : array_like, shape (N,)
            0 or 1.
        outcome : array_like, shape (N,)
            0 or 1 where tested, NaN where not. A number for an untested person is refused.
        names : sequence of str, optional
            Names of the features (default: the data frame's columns, or ``x0``, ``x1``, ...).
        group : bool
            Merge people with equal features. This loses nothing: the likelihood depends on the
            counts alone.

        Raises
        ------
        ValueError
            Wrong shapes, missing values, a constant column besides column 0, ``tested`` or
            ``outcome`` outside {0, 1}, an outcome for an untested person, nobody tested.
        TypeError
            A data frame with a non-numeric column.

        Warns
        -----
        SeparationWarning
            A feature separates tested positives from tested negatives.
        """
        matrix, frame_names = _numeric_matrix(X)
        n, m = matrix.shape
        if n == 0:
            raise ValueError("X has no rows")
        tested = np.asarray(tested, dtype=float)
        outcome = np.asarray(outcome, dtype=float)
        if tested.shape != (n,) or outcome.shape != (n,):
            raise ValueError(
                f"lengths differ: X has {n} rows, tested {tested.shape}, outcome {outcome.shape}"
            )
        names = tuple(names) if names is not None else frame_names
        names = names if names is not None else tuple(f"x{j}" for j in range(m))
        if len(names) != m or len(set(names)) != m:
            raise ValueError(f"names must be {m} different strings, got {list(names)}")
        if not (matrix[:, 0] == 1).all():
            raise ValueError("column 0 of X must be 1 for everybody (the intercept)")
        for j in range(1, m):
            if (matrix[:, j] == matrix[0, j]).all():
                raise ValueError(f"feature {names[j]!r} is constant: the intercept already has it")
        if not np.isin(tested, (0.0, 1.0)).all():
            raise ValueError("tested must be 0 or 1 for everybody")
        if np.isfinite(outcome[tested == 0]).any():
            where = int(np.flatnonzero((tested == 0) & np.isfinite(outcome))[0])
            raise ValueError(
                f"outcome is given for an untested person (row {where}); the model must not see "
                "it: pass NaN"
            )
        if not np.isin(outcome[tested == 1], (0.0, 1.0)).all():
            raise ValueError("outcome must be 0 or 1 for every tested person")
        if not (tested == 1).any():
            raise ValueError("nobody is tested: there is no outcome to learn from")
        _warn_if_separated(matrix, tested, outcome, names)
        if group:
            rows, inverse = np.unique(matrix, axis=0, return_inverse=True)
            inverse = inverse.reshape(-1)
        else:
            rows, inverse = matrix.copy(), np.arange(n)

        def count(mask):
            return np.bincount(inverse[mask], minlength=len(rows)).astype(float)

        return cls(
            rows,
            count((tested == 1) & (outcome == 1)),
            count((tested == 1) & (outcome == 0)),
            count(tested == 0),
            names,
            inverse,
        )

    @property
    def n(self) -> np.ndarray:
        """People in each row, shape (G,)."""
        return self.n11 + self.n10 + self.n0

    @property
    def n_people(self) -> int:
        """Number of people."""
        return int(self.n.sum())

    def column(self, feature: str | int) -> int:
        """Index of a feature given by name or index.

        Raises
        ------
        ValueError
            Unknown name or an index out of range.
        """
        m = len(self.names)
        if isinstance(feature, str):
            if feature not in self.names:
                raise ValueError(f"unknown feature {feature!r}; known: {', '.join(self.names)}")
            return self.names.index(feature)
        if not 0 <= int(feature) < m:
            raise ValueError(f"feature index {feature} is out of range for {m} features")
        return int(feature)


@dataclass(frozen=True)
class DomainConstraints:
    """What an expert knows, besides the data.

    Attributes
    ----------
    prevalence : float or None
        Overall share of positives, tested or not, from a source other than this data set.
        ``None``: no prevalence constraint.
    prevalence_sd : float
        Standard deviation of the normal pseudo-observation of the implied prevalence. It equals
        the paper's penalty ``lambda (P - pi)^2`` with ``lambda = 1 / (2 sd^2)``.
    deviation_features : sequence of str or int, or None
        Features along which testing may deviate from risk; the others have ``beta_Delta = 0``.
        The intercept is always free. ``None``: no expertise constraint.
    subgroup_prevalence : mapping, optional
        ``{feature: (threshold, below, above)}``: the prevalence among people whose feature is at
        most, and above, the threshold. Each adds two pseudo-observations with the same sd.
    """

    prevalence: float | None = None
    prevalence_sd: float = 0.0022
    deviation_features: Sequence[str | int] | None = None
    subgroup_prevalence: Mapping[str | int, tuple[float, float, float]] | None = None

    def __post_init__(self) -> None:
        """Check the numbers that need no data."""
        shares = [] if self.prevalence is None else [self.prevalence]
        for _, below, above in (self.subgroup_prevalence or {}).values():
            shares += [below, above]
        for share in shares:
            if not 0 < share < 1:
                raise ValueError(f"prevalence must lie strictly between 0 and 1, got {share}")
        if not self.prevalence_sd > 0:
            raise ValueError(f"prevalence_sd must be positive, got {self.prevalence_sd}")

    def free_columns(self, data: SelectiveLabels) -> np.ndarray:
        """Columns of ``X`` whose ``beta_Delta`` is free, sorted, always with column 0."""
        if self.deviation_features is None:
            return np.arange(len(data.names))
        if isinstance(self.deviation_features, str):
            raise ValueError("deviation_features must be a sequence of features, not one string")
        return np.unique([0, *(data.column(f) for f in self.deviation_features)]).astype(int)

    def targets(self, data: SelectiveLabels) -> tuple[np.ndarray, np.ndarray]:
        """Rows of weights ``(C, G)`` and their target shares ``(C,)``.

        Raises
        ------
        ValueError
            A prevalence that no assignment of outcomes to the untested can reach.
        """
        n = data.n
        weights, shares = [], []
        if self.prevalence is not None:
            weights.append(n)
            shares.append(self.prevalence)
        for feature, (threshold, below, above) in (self.subgroup_prevalence or {}).items():
            low = data.X[:, data.column(feature)] <= threshold
            if low.all() or not low.any():
                raise ValueError(f"the threshold {threshold} does not split feature {feature!r}")
            weights += [np.where(low, n, 0.0), np.where(low, 0.0, n)]
            shares += [below, above]
        for weight, share in zip(weights, shares, strict=True):
            inside = weight > 0
            total = weight.sum()
            least = data.n11[inside].sum() / total
            most = least + data.n0[inside].sum() / total
            if not least <= share <= most:
                raise ValueError(
                    f"prevalence {share:g} is impossible: the tested positives alone are "
                    f"{least:.4g} of the people, and with every untested person positive it "
                    f"would be {most:.4g}"
                )
        if not weights:
            return np.zeros((0, len(n))), np.zeros(0)
        matrix = np.array(weights)
        return matrix / matrix.sum(1, keepdims=True), np.array(shares)
