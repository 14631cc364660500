"""The game: a principal, experts with hidden effort and hidden signals, and a mechanism.

Source: Cacciamani, Castiglioni and Gatti, "Online Information Acquisition: Hiring Multiple Agents",
ICLR 2024 (arXiv:2307.06210). Notation is ours, written from the abstract and the standard model.

Experts ``i = 1..n`` choose efforts ``b_i`` (cost ``c_i(b_i)``), see signals ``s_i`` and report
them; the state ``theta`` is revealed at the end. The principal recommends ``b`` with probability
``mu(b)``, tells expert ``i`` only ``b_i``, decides ``a`` and pays ``gamma_i[b, s, theta]`` in
``[0, M]``. If everybody obeys and tells the truth she gets::

    sum_b mu(b) sum_{s, theta} P(s, theta | b) [ u(a(b, s), theta) - sum_i gamma_i[b, s, theta] ].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

#: Recommendations below this probability count as never given: payments are ``x / mu``.
NEVER = 1e-12


def _numeric(value: ArrayLike, name: str) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numeric, got an array of type {array.dtype}")
    array = array.astype(float)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has entries that are not finite")
    return array


@dataclass(frozen=True, eq=False)
class HiringProblem:
    """A principal who hires experts.

    Parameters
    ----------
    kernel : array, shape (k_1, .., k_n, m_1, .., m_n, t)
        ``P(s, theta | b)``: probability of signals and state for every profile of efforts. Its sum
        over the signals, the prior of the states, is the same for every profile.
    costs : tuple of n arrays, shapes (k_1,), .., (k_n,)
        Cost of each effort in units of the principal's utility. One effort of each expert costs 0.
    utility : array, shape (A, t)
        ``u(a, theta)``, what decision ``a`` is worth in state ``theta``.
    payment_cap : float
        ``M``, the largest payment to one expert in one round; the smallest is 0.

    Raises
    ------
    ValueError, TypeError
        If an argument has the wrong shape, sign, sum or type; the message names it.
    """

    kernel: Array
    costs: tuple[Array, ...]
    utility: Array
    payment_cap: float

    def __post_init__(self) -> None:
        costs = self.costs
        if isinstance(costs, np.ndarray) and costs.ndim == 2:
            costs = tuple(costs)
        if not isinstance(costs, (tuple, list)) or not costs:
            raise TypeError(
                f"costs must be a tuple with one array per expert, got {type(costs).__name__}"
            )
        if any(isinstance(c, (int, float, str)) for c in costs):
            raise TypeError("costs must hold one 1-D array per expert, got a scalar")
        costs = tuple(_numeric(c, f"costs[{i}]") for i, c in enumerate(costs))
        n = len(costs)
        kernel = _numeric(self.kernel, "kernel")
        if kernel.ndim != 2 * n + 1:
            raise ValueError(
                f"kernel must have 2 n + 1 = {2 * n + 1} axes for the {n} experts in costs "
                f"(efforts, signals, state), got {kernel.ndim}"
            )
        if 0 in kernel.shape:
            raise ValueError(f"kernel has an empty axis: shape {kernel.shape}")
        for i, c in enumerate(costs):
            if c.shape != (kernel.shape[i],):
                raise ValueError(
                    f"costs[{i}] must have shape ({kernel.shape[i]},) like axis {i} of kernel, "
                    f"got {c.shape}"
                )
            if (c < 0).any():
                raise ValueError(f"costs[{i}] has a negative entry: {c}")
            if c.min() > 0:
                raise ValueError(f"costs[{i}] has no effort that costs 0: {c}")
        if (kernel < 0).any():
            raise ValueError(f"kernel has a negative entry: {kernel.min()}")
        prior = kernel.sum(axis=tuple(range(n, 2 * n)))
        first = prior.reshape(-1, kernel.shape[-1])[0]
        if abs(first.sum() - 1) > 1e-9:
            raise ValueError(
                f"kernel must sum to 1 over signals and states for every profile of efforts, "
                f"got {first.sum()}"
            )
        if np.abs(prior - first).max() > 1e-9:
            raise ValueError(
                "kernel must have the same prior of the states for every profile of efforts "
                f"(efforts do not change the state); the largest difference is "
                f"{np.abs(prior - first).max():.2g}"
            )
        utility = _numeric(self.utility, "utility")
        if utility.ndim != 2 or utility.shape[1] != kernel.shape[-1]:
            raise ValueError(
                f"utility must have shape (decisions, {kernel.shape[-1]}), the last axis being the "
                f"states of kernel, got {utility.shape}"
            )
        cap = float(self.payment_cap)
        if not np.isfinite(cap) or cap <= 0:
            raise ValueError(f"payment_cap must be positive and finite, got {self.payment_cap}")
        object.__setattr__(self, "kernel", kernel)
        object.__setattr__(self, "costs", costs)
        object.__setattr__(self, "utility", utility)
        object.__setattr__(self, "payment_cap", cap)

    @property
    def n_agents(self) -> int:
        """Number of experts n."""
        return len(self.costs)

    @property
    def n_actions(self) -> tuple[int, ...]:
        """Numbers of efforts (k_1, .., k_n)."""
        return self.kernel.shape[: self.n_agents]

    @property
    def n_signals(self) -> tuple[int, ...]:
        """Numbers of signals (m_1, .., m_n)."""
        return self.kernel.shape[self.n_agents : -1]

    @property
    def n_states(self) -> int:
        """Number of states t."""
        return int(self.kernel.shape[-1])

    @property
    def prior(self) -> Array:
        """Prior probability of each state, shape (t,)."""
        signals = self.kernel.reshape(-1, int(np.prod(self.n_signals)), self.n_states)
        return signals[0].sum(axis=0)

    def values(self, kernel: Array | None = None) -> Array:
        """Value ``V(b)`` of deciding with truthful signals, payments apart.

        Parameters
        ----------
        kernel : array, optional
            Another kernel of the same shape, for example an estimate.

        Returns
        -------
        array, shape (k_1, .., k_n)
            ``sum_s max_a sum_theta P(s, theta | b) u(a, theta)``.
        """
        kernel = self.kernel if kernel is None else _like(kernel, self.kernel, "kernel")
        gain = kernel @ self.utility.T  # (k.., m.., A)
        return gain.max(axis=-1).sum(axis=tuple(range(self.n_agents, 2 * self.n_agents)))

    def decision_rule(self, kernel: Array | None = None) -> Array:
        """Bayes decision for every recommendation and every profile of reports.

        Parameters
        ----------
        kernel : array, optional
            Another kernel of the same shape, for example an estimate.

        Returns
        -------
        int array, shape (k_1, .., k_n, m_1, .., m_n)
        """
        kernel = self.kernel if kernel is None else _like(kernel, self.kernel, "kernel")
        return (kernel @ self.utility.T).argmax(axis=-1)


def _like(value: ArrayLike, like: Array, name: str) -> Array:
    array = _numeric(value, name)
    if array.shape != like.shape:
        raise ValueError(f"{name} must have shape {like.shape}, got {array.shape}")
    return array


@dataclass(frozen=True, eq=False)
class Mechanism:
    """Recommendations, payments and decisions, with the value if everybody obeys.

    Attributes
    ----------
    recommendation : array, shape (k_1, .., k_n)
        ``mu``, the distribution of the recommended profile.
    payments : tuple of n arrays, each shaped like the kernel
        ``gamma_i[b, s, theta]``, payment to expert i after recommendation b,
        reports s and state theta.
    decision : int array, shape (k_1, .., k_n, m_1, .., m_n)
        Decision after recommendation and reports.
    value : float
        Objective of the program that made it: the principal's expected value under obedience;
        ``-inf`` if the program was infeasible.
    status : str
        ``"optimal"`` or ``"infeasible"``.
    """

    recommendation: Array
    payments: tuple[Array, ...]
    decision: Array
    value: float
    status: str = "optimal"

    def expected_payments(self, problem: HiringProblem) -> Array:
        """Expected payment to each expert under obedience, shape (n,), in utility units."""
        mu = self.recommendation.reshape(
            self.recommendation.shape + (1,) * (problem.kernel.ndim - problem.n_agents)
        )
        return np.array([float((mu * problem.kernel * pay).sum()) for pay in self.payments])


def check_recommendation(problem: HiringProblem, recommendation: ArrayLike) -> Array:
    """Return a distribution over profiles of efforts as an array, or raise ValueError."""
    mu = _numeric(recommendation, "recommendation")
    if mu.shape != problem.n_actions:
        raise ValueError(
            f"recommendation must have shape {problem.n_actions} (a probability for every "
            f"profile of efforts), got {mu.shape}"
        )
    if (mu < -1e-12).any() or abs(mu.sum() - 1) > 1e-9:
        raise ValueError(
            f"recommendation must be a distribution: smallest entry {mu.min():.3g}, "
            f"sum {mu.sum():.12g}"
        )
    return np.clip(mu, 0, None)


def point_mass(problem: HiringProblem, profile: tuple[int, ...]) -> Array:
    """Recommend one profile of efforts for certain, shape (k_1, .., k_n)."""
    mu = np.zeros(problem.n_actions)
    mu[profile] = 1
    return mu
