"""Answers on paper, against which the linear program is checked.

The single-expert rule is the known V-shaped optimal scoring rule; the values on the twin instance
are derived in the chapter (ours).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .problem import Array


def _one_expert(
    signal_given_state: ArrayLike, prior: ArrayLike, cost: float
) -> tuple[Array, Array]:
    p = np.asarray(signal_given_state, dtype=float)
    prior = np.asarray(prior, dtype=float)
    if p.ndim != 2 or p.shape[1] != 2:
        raise ValueError(f"signal_given_state must be (signals, 2): two states, got {p.shape}")
    if (p < 0).any() or np.abs(p.sum(axis=0) - 1).max() > 1e-9:
        raise ValueError("signal_given_state must be a distribution over signals in each state")
    if prior.shape != (2,) or (prior <= 0).any() or abs(prior.sum() - 1) > 1e-9:
        raise ValueError(f"prior must be two positive numbers that sum to 1, got {prior}")
    if cost < 0 or not np.isfinite(cost):
        raise ValueError(f"cost must be non-negative and finite, got {cost}")
    if total_variation(p) == 0:
        raise ValueError("signal_given_state says nothing about the state: no payment is enough")
    return p, prior


def total_variation(signal_given_state: ArrayLike) -> float:
    """Total variation distance of the two signal distributions (Youden's J for two signals)."""
    p = np.asarray(signal_given_state, dtype=float)
    return float(np.abs(p[:, 0] - p[:, 1]).sum() / 2)


def v_shaped_rule(signal_given_state: ArrayLike, prior: ArrayLike, cost: float) -> Array:
    """Cheapest payments that make one expert work and tell the truth (idle says nothing).

    Parameters
    ----------
    signal_given_state : array (m, 2)
    prior : array (2,)
    cost : float
        Cost of working, utility units.

    Returns
    -------
    array (m, 2)
        ``r / prior[1]`` for reporting a signal that makes state 1 likelier, if state 1 comes true;
        ``r / prior[0]`` for the other signals, if state 0 does; ``r = cost / TV``.
    """
    p, prior = _one_expert(signal_given_state, prior, cost)
    rent = cost / total_variation(p)
    up = p[:, 1] > p[:, 0]
    return np.column_stack([~up * rent / prior[0], up * rent / prior[1]])


def minimum_payment(signal_given_state: ArrayLike, prior: ArrayLike, cost: float) -> float:
    """Expected payment of :func:`v_shaped_rule`, ``cost (1 + 1 / TV)``."""
    p, prior = _one_expert(signal_given_state, prior, cost)
    return float(cost * (1 + 1 / total_variation(p)))


def smallest_cap(signal_given_state: ArrayLike, prior: ArrayLike, cost: float) -> float:
    """Smallest payment cap at which one expert can be made to work, ``cost / (TV min(prior))``."""
    p, prior = _one_expert(signal_given_state, prior, cost)
    return float(cost / (total_variation(p) * prior.min()))


@dataclass(frozen=True)
class TwinLadder:
    """Values of five classes of mechanism on the twin instance without independent copies.

    ``-inf`` where a class has no mechanism within the cap. ``audit`` is the probability ``2 c /
    M`` of the independent audit, ``both`` the probability ``c / (M - c)`` that both are told to
    work.
    """

    nobody: float
    uncorrelated: float
    both_always: float
    independent: float
    optimal: float
    audit: float
    both: float


def twin_ladder(accuracy: float, cost: float, cap: float) -> TwinLadder:
    """Closed-form values on :func:`.instances.twin_instance` (ours; for cost <= cap / 4).

    Parameters
    ----------
    accuracy, cost, cap : float
        As in :func:`.instances.twin_instance`.

    Returns
    -------
    TwinLadder

    Raises
    ------
    ValueError
        For ``cost > cap / 4``, where the optimum also uses the state and the form does not hold.
    """
    if not 0.5 < accuracy <= 1:
        raise ValueError(f"accuracy must lie in (1/2, 1], got {accuracy}")
    if not 0 <= cost <= cap / 4 + 1e-12:
        raise ValueError(f"cost must lie in [0, cap / 4 = {cap / 4:g}], got {cost}")
    youden = 2 * accuracy - 1
    uncorrelated = accuracy - cost * (1 + 1 / youden) if cap >= 2 * cost / youden else -np.inf
    audit, both = 2 * cost / cap, cost / (cap - cost)
    correlated = accuracy - 2 * cost * cap / (cap - cost)
    return TwinLadder(
        nobody=0.5,
        uncorrelated=uncorrelated,
        both_always=accuracy - 4 * cost,
        independent=accuracy - 2 * cost * (1 + audit),
        optimal=max(0.5, uncorrelated, correlated),
        audit=audit,
        both=both,
    )
