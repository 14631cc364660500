"""Hiring problems: the twin instance, shared or separate noise, and real classifiers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .problem import Array, HiringProblem


def _probability(value: float, name: str, low: float = 0.0, high: float = 1.0) -> float:
    value = float(value)
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}], got {value}")
    return value


def _arrays(costs: Sequence[ArrayLike]) -> tuple[Array, ...]:
    return tuple(np.asarray(c) for c in costs)


def _guess_or(utility: ArrayLike | None, n_states: int) -> Array:
    """Return the utility, by default 1 for guessing the state and 0 otherwise."""
    return np.eye(n_states) if utility is None else np.asarray(utility)


def twin_instance(
    accuracy: float, cost: float, cap: float, independent_copy: float = 0.0
) -> HiringProblem:
    """Two experts who read the same source, or leave it (ours).

    Values in closed form are in :mod:`.closed_forms`. The state is a fair coin and the principal
    guesses it (utility 1 if right). A source equals the state with probability ``accuracy``.
    Effort 0 is idle (cost 0, signal 0 always), effort 1 reads the source at ``cost``.

    Parameters
    ----------
    accuracy : float
        In (1/2, 1].
    cost : float
        Cost of reading, utility units.
    cap : float
        Largest payment to one expert.
    independent_copy : float
        Probability that two readers get two independent copies of the source.

    Returns
    -------
    HiringProblem
        Kernel of shape (2, 2, 2, 2, 2).
    """
    accuracy = _probability(accuracy, "accuracy", 0.5)
    if accuracy == 0.5:
        raise ValueError("accuracy must exceed 1/2: the source would say nothing")
    eta = _probability(independent_copy, "independent_copy")
    read = np.array([[accuracy, 1 - accuracy], [1 - accuracy, accuracy]])  # (signal, state)
    idle = np.array([[1.0, 1.0], [0.0, 0.0]])
    kernel = np.zeros((2, 2, 2, 2, 2))
    kernel[0, 0] = idle[:, None, :] * idle[None, :, :]
    kernel[0, 1] = idle[:, None, :] * read[None, :, :]
    kernel[1, 0] = read[:, None, :] * idle[None, :, :]
    same = np.eye(2)[:, :, None] * read[:, None, :]
    kernel[1, 1] = (1 - eta) * same + eta * read[:, None, :] * read[None, :, :]
    costs = np.array([0.0, cost])
    return HiringProblem(kernel / 2, (costs, costs), np.eye(2), cap)


def shared_noise_instance(
    accuracies: Sequence[ArrayLike],
    costs: Sequence[ArrayLike],
    source: ArrayLike,
    prior: ArrayLike,
    cap: float,
    utility: ArrayLike | None = None,
) -> HiringProblem:
    """Experts who copy one noisy source; effort raises the chance of a faithful copy.

    Parameters
    ----------
    accuracies : sequence of n arrays (k_i,)
        Expert i with effort b reads the source with probability ``accuracies[i][b]`` and sees a
        uniform random signal otherwise.
    costs : sequence of n arrays (k_i,)
    source : array (m, t)
        Probability of each value of the source in each state.
    prior : array (t,)
    cap : float
    utility : array (A, t), optional
        Default: guess the state.

    Returns
    -------
    HiringProblem
        Strictly positive kernel if every accuracy is below 1.
    """
    source = np.asarray(source, dtype=float)
    prior = np.asarray(prior, dtype=float)
    if source.ndim != 2 or prior.shape != source.shape[1:]:
        raise ValueError(f"source must be (m, t) and prior (t,), got {source.shape}, {prior.shape}")
    if len(accuracies) != len(costs):
        raise ValueError(f"accuracies has {len(accuracies)} experts, costs {len(costs)}")
    m, t = source.shape
    n = len(accuracies)
    levels = [np.asarray(a, dtype=float) for a in accuracies]
    for i, a in enumerate(levels):
        if (a < 0).any() or (a > 1).any():
            raise ValueError(f"accuracies[{i}] must lie in [0, 1], got {a}")
    # see[i][b, s, z]: probability of signal s when the source says z
    see = [a[:, None, None] * np.eye(m) + (1 - a[:, None, None]) / m for a in levels]
    kernel = np.zeros((*[len(a) for a in levels], *[m] * n, t))
    for z in range(m):
        joint = np.ones(())
        for i in range(n):
            joint = np.multiply.outer(joint, see[i][:, :, z])  # (k_1, m, k_2, m, ..)
        order = [*range(0, 2 * n, 2), *range(1, 2 * n, 2)]
        kernel += joint.transpose(order)[..., None] * (source[z] * prior)
    return HiringProblem(kernel, _arrays(costs), _guess_or(utility, t), cap)


def separate_noise_instance(
    signal_given_state: Sequence[ArrayLike],
    costs: Sequence[ArrayLike],
    prior: ArrayLike,
    cap: float,
    utility: ArrayLike | None = None,
) -> HiringProblem:
    """Experts whose signals are independent given the state and the efforts.

    Parameters
    ----------
    signal_given_state : sequence of n arrays (k_i, m_i, t)
        ``P_i(s | theta, b)``.
    costs : sequence of n arrays (k_i,)
    prior : array (t,)
    cap : float
    utility : array (A, t), optional
        Default: guess the state.

    Returns
    -------
    HiringProblem
    """
    prior = np.asarray(prior, dtype=float)
    tables = [np.asarray(p, dtype=float) for p in signal_given_state]
    n, t = len(tables), len(prior)
    for i, p in enumerate(tables):
        if p.ndim != 3 or p.shape[2] != t or np.abs(p.sum(axis=1) - 1).max() > 1e-9:
            raise ValueError(
                f"signal_given_state[{i}] must be (efforts, signals, {t}) and sum to 1 over the "
                f"signals, got shape {p.shape}"
            )
    kernel = np.ones((*[p.shape[0] for p in tables], *[p.shape[1] for p in tables], t)) * prior
    for i, p in enumerate(tables):
        shape = [1] * (2 * n + 1)
        shape[i], shape[n + i], shape[-1] = p.shape
        kernel = kernel * p.reshape(shape)
    return HiringProblem(kernel, _arrays(costs), _guess_or(utility, t), cap)


def classifier_instance(
    signals: Sequence[ArrayLike],
    labels: ArrayLike,
    costs: Sequence[ArrayLike],
    utility: ArrayLike,
    cap: float,
) -> HiringProblem:
    """Experts who are classifiers: the kernel is how often they say what on the same cases.

    Parameters
    ----------
    signals : sequence of n int arrays (k_i, N)
        What expert i says about each of N cases with each effort; make them out of fold.
    labels : int array (N,)
        The state of each case.
    costs : sequence of n arrays (k_i,)
    utility : array (A, t)
    cap : float

    Returns
    -------
    HiringProblem
        With empirical frequencies as kernel; resample the cases to see how uncertain they are.
    """
    labels = np.asarray(labels)
    tables = [np.asarray(s) for s in signals]
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"labels must be a non-empty 1-D array, got shape {labels.shape}")
    for name, a in [("labels", labels), *((f"signals[{i}]", s) for i, s in enumerate(tables))]:
        if a.dtype.kind not in "iub":
            raise TypeError(f"{name} must be integers, got {a.dtype}")
        if a.min() < 0:
            raise ValueError(f"{name} must be non-negative, got {a.min()}")
    for i, s in enumerate(tables):
        if s.ndim != 2 or s.shape[1] != len(labels):
            raise ValueError(
                f"signals[{i}] must have shape (efforts, {len(labels)}), got {s.shape}"
            )
    utility = np.asarray(utility, dtype=float)
    t = utility.shape[-1]
    if labels.max() >= t:
        raise ValueError(f"labels has state {labels.max()}, utility has only {t}")
    return HiringProblem(
        empirical_kernel(tables, labels.astype(int), t), _arrays(costs), utility, cap
    )


def empirical_kernel(signals: Sequence[Array], labels: Array, n_states: int) -> Array:
    """Frequencies of (signals, state) for each profile of efforts, shape (k.., m.., t)."""
    n_actions = [s.shape[0] for s in signals]
    n_signals = [int(s.max()) + 1 for s in signals]
    kernel = np.zeros((*n_actions, *n_signals, n_states))
    for profile in np.ndindex(*n_actions):
        index = tuple(s[b].astype(int) for s, b in zip(signals, profile, strict=True))
        np.add.at(kernel[profile], (*index, labels), 1)
    return kernel / len(labels)
