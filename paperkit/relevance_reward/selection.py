r"""Best of n, exactly: what selecting by a reward is worth, without drawing again.

Draw n answers, keep the one with the highest reward. From a pool of N answers the expectation over all subsets of size
n has a closed form: with rewards sorted upwards, the i-th (from 0) is the best of a random subset with probability

.. math:: w_i = \binom{i}{n-1} \Big/ \binom{N}{n}.

How far selection can move a policy is bounded: :math:`KL \le \log n - (n-1)/n` (Beirami et al., 2024), 3.2 nats for
n = 64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def best_of_n_weights(pool_size: int, n: int) -> np.ndarray:
    """Probability that each rank of a pool is the best of n drawn without replacement.

    Parameters
    ----------
    pool_size : int
        N answers.
    n : int
        From 1 to N.

    Returns
    -------
    ndarray, shape (N,)
        For rewards sorted upwards; sums to 1.

    Raises
    ------
    ValueError
        If n is not in 1..N.
    """
    if not 1 <= n <= pool_size:
        raise ValueError(f"n must lie in 1..{pool_size}, got {n!r}")
    total = math.comb(pool_size, n)
    return np.array([math.comb(i, n - 1) / total for i in range(pool_size)])


def best_of_n(rewards: ArrayLike, metric: ArrayLike, n: int) -> float:
    """Return the expected metric of the answer with the highest reward among n of a pool.

    Parameters
    ----------
    rewards, metric : array_like, shape (N,)
        One number an answer; of answers with equal reward each is kept equally often.
    n : int
        From 1 (the mean) to N (the best).

    Raises
    ------
    ValueError
        If shapes differ, a number is not finite, or n is not in 1..N.
    """
    rewards, metric = np.asarray(rewards, float), np.asarray(metric, float)
    if rewards.ndim != 1 or rewards.shape != metric.shape:
        raise ValueError(f"rewards and metric have shapes {rewards.shape} and {metric.shape}")
    if not (np.isfinite(rewards).all() and np.isfinite(metric).all()):
        raise ValueError("rewards and metric must be finite")
    _, tied = np.unique(rewards, return_inverse=True)  # ranks of distinct rewards, upwards
    share = np.bincount(tied, weights=metric) / np.bincount(tied)
    return float(best_of_n_weights(len(rewards), n) @ share[np.sort(tied)])


def best_of_n_curve(rewards: ArrayLike, metric: ArrayLike, sizes: Sequence[int]) -> np.ndarray:
    """Return :func:`best_of_n` for several n, shape (len(sizes),)."""
    return np.array([best_of_n(rewards, metric, n) for n in sizes])


def best_of_n_kl(n: int) -> float:
    """Largest KL divergence, in nats, between the best of n and the policy it is drawn from."""
    if n < 1:
        raise ValueError(f"n must be positive, got {n!r}")
    return math.log(n) - (n - 1) / n
