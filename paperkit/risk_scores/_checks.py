"""Argument checks that several modules of the chapter use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scheme = Literal["multiple_choice", "numeric", "completion"]
Floats = NDArray[np.float64]


def check_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def check_scores(s: ArrayLike, name: str = "s") -> Floats:
    """Scores as a float64 vector in [0, 1]."""
    scores = np.asarray(s, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"{name} must be a non-empty vector, got shape {scores.shape}")
    bad = ~((scores >= 0) & (scores <= 1))  # catches NaN too
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{name} must lie in [0, 1]; {bad.sum()} of {scores.size} do not, first {name}[{row}] = {scores[row]}"
        )
    return scores


def check_labels(y: ArrayLike, *, both: bool = False) -> NDArray[np.int64]:
    """Labels as a vector of 0 and 1; with ``both`` each class must occur."""
    labels = np.asarray(y)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"y must be a non-empty vector, got shape {labels.shape}")
    if not np.isin(labels, (0, 1)).all():
        strange = [
            value for value in np.unique(labels.astype(object).astype(str)) if value not in "01"
        ]
        raise ValueError(f"y must hold 0 and 1 only, found also {', '.join(strange[:5])}")
    if both and len(np.unique(labels)) < 2:
        raise ValueError(f"y holds one class only ({labels[0]}); both are needed")
    return labels.astype(np.int64)


def check_pair(y: ArrayLike, s: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    """Labels and scores of equal length."""
    labels, scores = check_labels(y), check_scores(s)
    if len(labels) != len(scores):
        raise ValueError(f"y and s must have equal length, got {len(labels)} and {len(scores)}")
    return labels, scores
