"""Learning the mechanism: explore with safe payments, bound what was learnt, commit to what stays
honest.

The experts' signal distribution is unknown. For ``K`` rounds every profile of efforts is
recommended equally often and paid by known rules that make work and truth strictly best whatever
the others do; the counts give Wilson intervals for every cell of the kernel; the interval linear
program gives a mechanism that is incentive compatible for every kernel inside them; it is played
for the rest. With ``K = T^a`` exploration costs ``T^a`` and the slack ``T K^(-1/2)``: exponent
``max(a, 1 - a/2)``, smallest at ``a = 2/3``. This is our reconstruction; the paper's algorithm has
the same rate and may differ in detail. That strict rules are known is the assumption of Chen, Wu,
Wu and Yang (2023, arXiv:2303.08613) for one expert.

Rounds are not simulated one by one: the counts are multinomial and everything after is an exact
expectation, so that a horizon of 10^10 costs as much as one of 10^3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .. import claims
from .incentives import (
    Strategy,
    _behaviour,
    _check,
    best_response_dynamics,
    largest_gain,
    principal_value,
)
from .problem import Array, HiringProblem, Mechanism, _like, point_mass
from .program import KernelIntervals, _expert_first, optimal_mechanism

#: Gains below this are the solver's tolerance, not violations.
GAIN_TOLERANCE = 1e-8

Method = Literal["interval", "mix", "plugin"]


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a learner ends with.

    Attributes
    ----------
    regret : float
        ``T OPT`` minus the expected utility of all rounds, given the counts that were seen.
    mechanism : Mechanism
        What is committed to.
    incentive_compatible : bool
        Whether nobody gains by deviating from it under the true kernel.
    n_explore : int
        Rounds of exploration.
    realised_value : float
        Principal's value per round after committing, with the behaviour of
        :func:`.best_response_dynamics` where the mechanism is not incentive compatible.
    """

    regret: float
    mechanism: Mechanism
    incentive_compatible: bool
    n_explore: int
    realised_value: float


def confidence_multiplier(n_cells: int, horizon: float) -> float:
    """Multiplier z with which all ``n_cells`` intervals hold with probability ``1 - T^(-1/3)``.

    A union bound with Gaussian tails, ``sqrt(2 log(2 C T^(1/3)))``; that failure rate is rare
    enough not to change the order of the regret.
    """
    if n_cells < 1 or not horizon >= 1:
        raise ValueError(f"n_cells and horizon must be at least 1, got {n_cells} and {horizon}")
    return float(np.sqrt(2 * np.log(2 * n_cells * float(horizon) ** (1 / 3))))


def kernel_intervals(counts: ArrayLike, n_agents: int, z: float) -> KernelIntervals:
    """Wilson intervals of every cell of the kernel.

    Parameters
    ----------
    counts : int array, shape of the kernel
        How often each (signals, state) came up for each profile of efforts; every profile at least
        once.
    n_agents : int
    z : float
        Half width in standard errors; 0 gives the plug-in estimate without slack.

    Returns
    -------
    KernelIntervals
    """
    counts = np.asarray(counts)
    total = counts.sum(axis=tuple(range(n_agents, counts.ndim)), keepdims=True)
    if (counts < 0).any() or (total < 1).any():
        raise ValueError("counts must be non-negative with every profile of efforts seen once")
    if not (np.isfinite(z) and z >= 0):
        raise ValueError(f"z must be finite and at least 0, got {z}")
    centre = counts / total
    if z == 0:
        return KernelIntervals(centre, centre, centre)
    bounds = claims.wilson(counts, np.broadcast_to(total, counts.shape).copy(), z=z)
    # The last bit of a bound at 0 or 1 may fall on the wrong side of the estimate.
    return KernelIntervals(np.minimum(bounds.low, centre), centre, np.maximum(bounds.high, centre))


def worst_case_gain(
    problem: HiringProblem, mechanism: Mechanism, intervals: KernelIntervals
) -> float:
    """Largest gain of a deviation if truth is paid at the lower and deviations at the upper bounds.

    At most 0 exactly if the mechanism passes the constraints of the interval program, and then it
    is incentive compatible for every kernel inside the intervals.
    """
    _check(problem, mechanism, None)
    n, mu = problem.n_agents, mechanism.recommendation
    worst = -np.inf
    for i in range(n):
        k, m = problem.n_actions[i], problem.n_signals[i]
        weighted = mu.reshape(mu.shape + (1,) * (n + 1)) * mechanism.payments[i]
        pay = _expert_first(weighted, i, n)
        low, high = _expert_first(intervals.low, i, n), _expert_first(intervals.high, i, n)
        truth = np.einsum("tsx,tsx->ts", pay, low)
        lie = np.einsum("trx,psx->tpsr", pay, high)  # told, played, seen, reported
        told = mu.sum(axis=tuple(j for j in range(n) if j != i))
        gain = lie.max(axis=-1).sum(axis=-1) - truth.sum(axis=-1)[:, None]
        gain += told[:, None] * (problem.costs[i][:, None] - problem.costs[i][None, :])
        own = lie[np.arange(k), np.arange(k)]  # (told, seen, reported)
        own = np.where(np.eye(m, dtype=bool), -np.inf, own).max(axis=-1)
        gain[np.arange(k), np.arange(k)] = np.maximum(own - truth, 0).sum(axis=-1)
        worst = max(worst, float(gain.max()))
    return worst


def match_rules(problem: HiringProblem) -> tuple[Array, ...]:
    """Pay the cap if the report equals the state, after every effort but those that cost nothing.

    Strict on the twin instance; needs as many signals as states.

    Returns
    -------
    tuple of n arrays, shapes (k_i, m_i, t)
        Payment for told effort, report and state.
    """
    rules = []
    for i, (k, m) in enumerate(zip(problem.n_actions, problem.n_signals, strict=True)):
        if m != problem.n_states:
            raise ValueError(
                f"expert {i} has {m} signals for {problem.n_states} states: no report 'is' a state"
            )
        rule = np.zeros((k, m, m))
        rule[problem.costs[i] > 0] = problem.payment_cap * np.eye(m)
        rules.append(rule)
    return tuple(rules)


def rules_mechanism(
    problem: HiringProblem, rules: Sequence[ArrayLike], recommendation: Array
) -> Mechanism:
    """Mechanism that pays by own-report rules and decides by the prior alone.

    Parameters
    ----------
    problem : HiringProblem
    rules : sequence of n arrays (k_i, m_i, t)
    recommendation : array (k_1, .., k_n)

    Returns
    -------
    Mechanism
        ``value`` is the principal's value under obedience with the problem's kernel.
    """
    n, shape = problem.n_agents, problem.kernel.shape
    if len(rules) != n:
        raise ValueError(
            f"exploration_rules must have one array per expert ({n}), got {len(rules)}"
        )
    payments = []
    for i, rule in enumerate(rules):
        own = _like(rule, np.empty((shape[i], shape[n + i], shape[-1])), f"exploration_rules[{i}]")
        if (own < 0).any() or (own > problem.payment_cap + 1e-12).any():
            raise ValueError(
                f"exploration_rules[{i}] must lie in [0, {problem.payment_cap}], got "
                f"[{own.min():g}, {own.max():g}]"
            )
        view = [1] * len(shape)
        view[i], view[n + i], view[-1] = own.shape
        payments.append(np.broadcast_to(own.reshape(view), shape))
    decision = np.full(shape[:-1], int((problem.utility @ problem.prior).argmax()))
    mechanism = Mechanism(recommendation, tuple(payments), decision, 0.0)
    return replace(mechanism, value=principal_value(problem, mechanism))


def explore_then_commit(
    problem: HiringProblem,
    horizon: float,
    exploration_rules: Sequence[ArrayLike],
    *,
    exponent: float = 2 / 3,
    scale: float = 1.0,
    z: float = 2.0,
    method: Method = "interval",
    seed: int | np.random.Generator,
    optimum: float | None = None,
) -> RunResult:
    """Play ``horizon`` rounds against experts whose kernel is unknown (costs are known).

    Parameters
    ----------
    problem : HiringProblem
        The truth: it generates the counts and says what the committed mechanism brings.
    horizon : float
        Number of rounds T.
    exploration_rules : sequence of n arrays (k_i, m_i, t)
        Own-report payments under which obedience is best in every profile, such as
        :func:`match_rules`.
    exponent, scale : float
        ``scale * T ** exponent`` rounds of exploration, split evenly over the profiles of efforts.
    z : float
        Half width of the intervals in standard errors.
    method : {"interval", "mix", "plugin"}
        ``"interval"``: the interval program. ``"mix"``: relax the program by the intervals, then
        mix in just enough of the exploration rules (the classical proof device). ``"plugin"``: take
        the estimate for the truth.
    seed : int or numpy Generator
        Source of the counts.
    optimum : float, optional
        Value of the optimal mechanism, if known already.

    Returns
    -------
    RunResult

    Raises
    ------
    ValueError
        For an exponent outside (0, 1), a horizon too short for the exploration, rules outside the
        cap, or rules that leave somebody a profitable deviation.
    """
    if not 0 < exponent < 1:
        raise ValueError(f"exponent must lie in (0, 1), got {exponent}")
    if not (scale > 0 and np.isfinite(scale)):
        raise ValueError(f"scale must be positive and finite, got {scale}")
    if method not in ("interval", "mix", "plugin"):
        raise ValueError(f"method must be interval, mix or plugin, got {method!r}")
    n_profiles = int(np.prod(problem.n_actions))
    each = max(1, int(np.ceil(scale * float(horizon) ** exponent / n_profiles)))
    n_explore = each * n_profiles
    if n_explore > horizon:
        raise ValueError(
            f"horizon {horizon:g} is shorter than the {n_explore} exploration rounds "
            f"({each} for each of {n_profiles} profiles)"
        )
    uniform = np.full(problem.n_actions, 1 / n_profiles)
    exploration = rules_mechanism(problem, exploration_rules, uniform)
    for profile in np.ndindex(problem.n_actions):
        gain = largest_gain(
            problem, replace(exploration, recommendation=point_mass(problem, profile))
        )
        if gain > GAIN_TOLERANCE:
            raise ValueError(
                f"exploration_rules leave a gain of {gain:.3g} to somebody when {profile} is "
                "recommended: reports from such rounds would not be truthful"
            )
    counts = explore(problem, each, seed)
    intervals = kernel_intervals(counts, problem.n_agents, 0.0 if method == "plugin" else z)
    if method == "mix":
        mechanism = _relax_then_mix(problem, intervals, exploration_rules)
    else:
        mechanism = optimal_mechanism(problem, intervals=intervals)
    honest = largest_gain(problem, mechanism) <= GAIN_TOLERANCE
    behaviour = None if honest else best_response_dynamics(problem, mechanism)[0]
    realised = principal_value(problem, mechanism, behaviour)
    best = optimal_mechanism(problem).value if optimum is None else optimum
    regret = n_explore * (best - exploration.value) + (horizon - n_explore) * (best - realised)
    return RunResult(float(regret), mechanism, honest, n_explore, realised)


def explore(problem: HiringProblem, rounds_each: int, seed: int | np.random.Generator) -> Array:
    """Counts of (signals, state) after recommending every profile ``rounds_each`` times.

    Returns
    -------
    int array, shape of the kernel
    """
    if rounds_each < 1:
        raise ValueError(f"rounds_each must be at least 1, got {rounds_each}")
    rng = np.random.default_rng(seed)
    n_profiles = int(np.prod(problem.n_actions))
    cells = problem.kernel.reshape(n_profiles, -1)
    # Sums are 1 up to rounding, which the sampler does not forgive.
    return rng.multinomial(rounds_each, cells / cells.sum(axis=1, keepdims=True)).reshape(
        problem.kernel.shape
    )


def _relax_then_mix(
    problem: HiringProblem, intervals: KernelIntervals, rules: Sequence[ArrayLike]
) -> Mechanism:
    relaxed = optimal_mechanism(problem, intervals=intervals, relaxed=True)
    strict = rules_mechanism(problem, rules, relaxed.recommendation)

    def mixed(alpha: float) -> Mechanism:
        payments = tuple(
            (1 - alpha) * pay + alpha * safe
            for pay, safe in zip(relaxed.payments, strict.payments, strict=True)
        )
        return replace(relaxed, payments=payments)

    if worst_case_gain(problem, mixed(1.0), intervals) > GAIN_TOLERANCE:
        # Not even the safe rules are provably safe yet: hire nobody, pay nothing.
        cheapest = tuple(int(c.argmin()) for c in problem.costs)
        nothing = tuple(np.zeros(problem.kernel.shape) for _ in rules)
        return replace(relaxed, recommendation=point_mass(problem, cheapest), payments=nothing)
    low, high = 0.0, 1.0  # gains are convex in alpha, so the safe ones are [alpha*, 1]
    if worst_case_gain(problem, relaxed, intervals) <= 0:
        high = 0.0
    for _ in range(40):
        if high == 0.0:
            break
        middle = (low + high) / 2
        if worst_case_gain(problem, mixed(middle), intervals) <= 0:
            high = middle
        else:
            low = middle
    return mixed(high)


def simulate(
    problem: HiringProblem,
    mechanism: Mechanism,
    n_rounds: int,
    seed: int | np.random.Generator,
    strategies: tuple[Strategy, ...] | None = None,
) -> Array:
    """Principal's utility, payments deducted, in each of ``n_rounds`` simulated rounds.

    Returns
    -------
    array, shape (n_rounds,)
    """
    if n_rounds < 1:
        raise ValueError(f"n_rounds must be at least 1, got {n_rounds}")
    strategies = _check(problem, mechanism, strategies)
    rng = np.random.default_rng(seed)
    mu = mechanism.recommendation
    weight = mu.reshape(mu.shape + (1,) * (problem.n_agents + 1)) * _behaviour(problem, strategies)
    worth = problem.utility[mechanism.decision] - sum(mechanism.payments)
    return rng.choice(worth.ravel(), size=n_rounds, p=weight.ravel() / weight.sum())


def estimate_costs(
    problem: HiringProblem,
    exploration_rules: Sequence[ArrayLike],
    kernel: ArrayLike,
    *,
    n_bisections: int = 30,
) -> tuple[Array, ...]:
    """Recover costs from the payments at which an expert changes his effort.

    Expert i is offered the mixture ``lambda rule[b] + (1 - lambda) rule[cheapest]``. Where his
    *observed* effort switches he is indifferent, so that the difference of two costs is the
    difference of two expected payments, which the estimated kernel gives. Needs efforts to be
    observable in this phase (ours).

    Parameters
    ----------
    problem : HiringProblem
        The truth, which answers the offers; others stay at their cheapest effort.
    exploration_rules : sequence of n arrays (k_i, m_i, t)
    kernel : array
        Estimated kernel.
    n_bisections : int

    Returns
    -------
    tuple of n arrays (k_i,)
        Estimated costs, 0 for the cheapest effort.
    """
    if n_bisections < 1:
        raise ValueError(f"n_bisections must be at least 1, got {n_bisections}")
    n = problem.n_agents
    estimate = _like(kernel, problem.kernel, "kernel")
    uniform = np.full(problem.n_actions, 1 / np.prod(problem.n_actions))
    rules_mechanism(problem, exploration_rules, uniform)  # checks the rules
    cheapest = [int(c.argmin()) for c in problem.costs]
    found = []
    for i in range(n):
        rules = np.asarray(exploration_rules[i], dtype=float)
        others = tuple(slice(None) if j == i else cheapest[j] for j in range(n))
        # axes after fixing the others' efforts: own effort, signals 1..n, state
        drop = tuple(1 + j for j in range(n) if j != i)
        true_own = problem.kernel[others].sum(axis=drop)  # (k, m, t)
        own = estimate[others].sum(axis=drop)

        def pay(table: Array, rule: Array) -> Array:
            return np.einsum("kst,rt->ksr", table, rule).max(axis=-1).sum(axis=-1)

        def offer(target: int, lam: float, rules: Array = rules, idle: int = cheapest[i]) -> Array:
            return lam * rules[target] + (1 - lam) * rules[idle]

        def played(
            target: int, lam: float, table: Array = true_own, cost: Array = problem.costs[i]
        ) -> int:
            return int((pay(table, offer(target, lam)) - cost).argmax())

        costs = np.full(problem.n_actions[i], np.nan)
        costs[cheapest[i]] = 0.0
        for target in range(problem.n_actions[i]):
            now, lam = played(target, 0.0), 0.0
            while now != target and np.isnan(costs[target]):
                low, high = lam, 1.0
                if played(target, high) == now:
                    break  # the rule for this effort does not buy it
                for _ in range(n_bisections):
                    middle = (low + high) / 2
                    low, high = (middle, high) if played(target, middle) == now else (low, middle)
                after, lam = played(target, high), high
                worth = pay(own, offer(target, (low + high) / 2))
                if np.isnan(costs[after]):
                    costs[after] = costs[now] + worth[after] - worth[now]
                now = after
        found.append(costs)
    return tuple(found)
