"""What experts gain by shirking or lying, how they then behave, and which equilibria there are.

A pure strategy of expert i says, for each told effort, what he plays and how he maps signals to
reports. Everything here is exact expectation over the kernel; nothing is simulated.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from .problem import NEVER, Array, HiringProblem, Mechanism


@dataclass(frozen=True, eq=False)
class Strategy:
    """What one expert does after each recommendation.

    Attributes
    ----------
    actions : int array, shape (k,)
        Played effort for each told effort.
    reports : int array, shape (k, m)
        Reported signal for each told effort and seen signal.
    """

    actions: Array
    reports: Array


@dataclass(frozen=True)
class Deviation:
    """Best misbehaviour of one expert after one recommendation, for one played effort.

    ``gain`` is ex ante, weighted with the probability of the recommendation, in utility units.
    ``report_map[s]`` is what is reported on seeing signal s.
    """

    agent: int
    told: int
    played: int
    report_map: tuple[int, ...]
    gain: float


def obedience(problem: HiringProblem) -> tuple[Strategy, ...]:
    """Every expert plays what he is told and reports what he sees."""
    return tuple(
        Strategy(np.arange(k), np.tile(np.arange(m), (k, 1)))
        for k, m in zip(problem.n_actions, problem.n_signals, strict=True)
    )


def _behaviour(
    problem: HiringProblem, strategies: tuple[Strategy, ...], skip: int | None = None
) -> Array:
    """Kernel of reports given recommendations; ``skip`` keeps played effort and seen signal."""
    n = problem.n_agents
    kernel = problem.kernel
    for i, strategy in enumerate(strategies):
        if i == skip:
            continue
        m = problem.n_signals[i]
        kernel = np.take(kernel, strategy.actions, axis=i)
        maps = np.eye(m)[strategy.reports]  # (k told, m seen, m reported)
        moved = np.moveaxis(kernel, (i, n + i), (0, -1))  # (k, .., m)
        shape = moved.shape
        moved = (moved.reshape(shape[0], -1, m) @ maps).reshape(shape)
        kernel = np.moveaxis(moved, (0, -1), (i, n + i))
    return kernel


def _check(
    problem: HiringProblem, mechanism: Mechanism, strategies: tuple[Strategy, ...] | None
) -> tuple[Strategy, ...]:
    if mechanism.recommendation.shape != problem.n_actions or any(
        p.shape != problem.kernel.shape for p in mechanism.payments
    ):
        raise ValueError(
            f"mechanism does not fit the problem: recommendation {mechanism.recommendation.shape}, "
            f"payments {[p.shape for p in mechanism.payments]}, kernel {problem.kernel.shape}"
        )
    if strategies is None:
        return obedience(problem)
    if len(strategies) != problem.n_agents:
        raise ValueError(
            f"strategies must have one entry per expert ({problem.n_agents}), got {len(strategies)}"
        )
    return strategies


def principal_value(
    problem: HiringProblem, mechanism: Mechanism, strategies: tuple[Strategy, ...] | None = None
) -> float:
    """Principal's expected utility per round, decisions minus payments.

    Parameters
    ----------
    problem : HiringProblem
        With the true kernel.
    mechanism : Mechanism
    strategies : tuple of n Strategy, optional
        Default: obedience.

    Returns
    -------
    float
    """
    strategies = _check(problem, mechanism, strategies)
    n = problem.n_agents
    mu = mechanism.recommendation.reshape(problem.n_actions + (1,) * (n + 1))
    weight = mu * _behaviour(problem, strategies)  # (k.., m reported.., t)
    utility = problem.utility[mechanism.decision]  # (k.., m.., t)
    return float((weight * (utility - sum(mechanism.payments))).sum())


def agent_values(
    problem: HiringProblem, mechanism: Mechanism, strategies: tuple[Strategy, ...] | None = None
) -> Array:
    """Each expert's expected payment minus cost per round, shape (n,).

    Parameters
    ----------
    problem, mechanism, strategies
        As in :func:`principal_value`.
    """
    strategies = _check(problem, mechanism, strategies)
    n = problem.n_agents
    mu = mechanism.recommendation
    weight = mu.reshape(mu.shape + (1,) * (n + 1)) * _behaviour(problem, strategies)
    values = []
    for i, pay in enumerate(mechanism.payments):
        told = mu.sum(axis=tuple(j for j in range(n) if j != i))
        values.append((weight * pay).sum() - told @ problem.costs[i][strategies[i].actions])
    return np.array(values)


def _options(
    problem: HiringProblem, mechanism: Mechanism, strategies: tuple[Strategy, ...], agent: int
) -> tuple[Array, Array, Array]:
    """Payoff for each told and played effort with the best report map, and the current one.

    Returns ``best (k told, k played)``, ``maps (k told, k played, m)``, ``current (k told,)``; all
    ex ante.
    """
    n, k, m = problem.n_agents, problem.n_actions[agent], problem.n_signals[agent]
    mu = mechanism.recommendation
    weighted = mu.reshape(mu.shape + (1,) * (n + 1)) * mechanism.payments[agent]
    pay = np.moveaxis(weighted, (agent, n + agent), (0, 1)).reshape(k, m, -1)
    seen = _behaviour(problem, strategies, skip=agent)
    seen = np.moveaxis(seen, (agent, n + agent), (0, 1)).reshape(k, m, -1)
    worth = np.einsum("trx,psx->tpsr", pay, seen)  # told, played, seen, reported
    told = mu.sum(axis=tuple(j for j in range(n) if j != agent))
    cost = told[:, None] * problem.costs[agent][None, :]
    # Ties go to the truth, so that an indifferent expert does not lie.
    truth = np.arange(m)
    maps = worth.argmax(axis=-1)
    top = worth.max(axis=-1)
    maps = np.where(worth[:, :, truth, truth] >= top - 1e-15, truth, maps)
    best = top.sum(axis=-1) - cost
    now = strategies[agent]
    rows = np.arange(k)
    current = worth[rows[:, None], now.actions[:, None], truth[None, :], now.reports].sum(axis=-1)
    return best, maps, current - cost[rows, now.actions]


def deviation_gains(
    problem: HiringProblem, mechanism: Mechanism, strategies: tuple[Strategy, ...] | None = None
) -> list[Deviation]:
    """Gain of every unilateral deviation in effort, each with its best report map, largest first.

    Parameters
    ----------
    problem, mechanism, strategies
        As in :func:`principal_value`; the others keep to ``strategies``.

    Returns
    -------
    list of Deviation
        One per expert, told effort and played effort. The mechanism is incentive compatible if no
        gain is positive (beyond the solver's tolerance, 1e-8).
    """
    strategies = _check(problem, mechanism, strategies)
    found = []
    for i in range(problem.n_agents):
        best, maps, current = _options(problem, mechanism, strategies, i)
        for told, played in np.ndindex(best.shape):
            report_map = tuple(int(r) for r in maps[told, played])
            gain = float(best[told, played] - current[told])
            found.append(Deviation(i, told, played, report_map, gain))
    return sorted(found, key=lambda d: -d.gain)


def gain_table(
    problem: HiringProblem, mechanism: Mechanism, agent: int, told: int
) -> tuple[Array, list[tuple[int, ...]]]:
    """Gain of one expert for every played effort and every report map, after one recommendation.

    Returns
    -------
    gains : array, shape (k, m ** m)
        Ex ante, 0 for obedience.
    maps : list of tuple of int
        The report maps of the columns.
    """
    base = _check(problem, mechanism, None)
    m = problem.n_signals[agent]
    maps = list(product(range(m), repeat=m))
    before = agent_values(problem, mechanism)[agent]
    gains = np.empty((problem.n_actions[agent], len(maps)))
    for played, column in np.ndindex(gains.shape):
        actions, reports = base[agent].actions.copy(), base[agent].reports.copy()
        actions[told], reports[told] = played, maps[column]
        strategies = tuple(
            Strategy(actions, reports) if i == agent else s for i, s in enumerate(base)
        )
        gains[played, column] = agent_values(problem, mechanism, strategies)[agent] - before
    return gains, maps


def largest_gain(
    problem: HiringProblem, mechanism: Mechanism, strategies: tuple[Strategy, ...] | None = None
) -> float:
    """Largest gain of any unilateral deviation, 0 or less at an equilibrium."""
    strategies = _check(problem, mechanism, strategies)
    gains = []
    for i in range(problem.n_agents):
        best, _, current = _options(problem, mechanism, strategies, i)
        gains.append((best.max(axis=1) - current).max())
    return float(max(gains))


def best_response_dynamics(
    problem: HiringProblem, mechanism: Mechanism, tol: float = 1e-9, max_rounds: int = 50
) -> tuple[tuple[Strategy, ...], bool]:
    """Where experts go from obedience if each in turn plays a best response.

    This is a model of behaviour, and a choice: other dynamics may end in other equilibria.

    Parameters
    ----------
    problem : HiringProblem
        With the true kernel.
    mechanism : Mechanism
    tol : float
        An expert moves only if that gains more than this (ex ante, utility units).
    max_rounds : int
        Rounds in which every expert may move once.

    Returns
    -------
    strategies : tuple of n Strategy
    converged : bool
        False if somebody still wanted to move after ``max_rounds``.
    """
    strategies = list(_check(problem, mechanism, None))
    for _ in range(max_rounds):
        moved = False
        for i in range(problem.n_agents):
            best, maps, current = _options(problem, mechanism, tuple(strategies), i)
            actions, reports = strategies[i].actions.copy(), strategies[i].reports.copy()
            for told in np.flatnonzero(best.max(axis=1) - current > tol):
                actions[told] = played = int(best[told].argmax())
                reports[told] = maps[told, played]
                moved = True
            strategies[i] = Strategy(actions, reports)
        if not moved:
            return tuple(strategies), True
    return tuple(strategies), False


def pure_equilibria(
    problem: HiringProblem,
    mechanism: Mechanism,
    max_profiles: int = 10_000,
    *,
    tol: float = 1e-9,
) -> list[tuple[Strategy, ...]]:
    """Enumerate the pure equilibria among experts who are told something they are paid for.

    Experts obey recommendations that are never given or never paid (doing nothing is then a best
    response whatever they report).

    Parameters
    ----------
    problem, mechanism
        As in :func:`principal_value`.
    max_profiles : int
        Refuse to enumerate more profiles than this.
    tol : float
        Largest gain that still counts as none.

    Returns
    -------
    list of tuples of n Strategy
        In lexicographic order; obedience, if it is an equilibrium, is among them.

    Raises
    ------
    ValueError
        If there are more than ``max_profiles`` profiles.
    """
    base = _check(problem, mechanism, None)
    n = problem.n_agents
    choices: list[tuple[int, int]] = []  # (agent, told) that vary
    for i in range(n):
        others = tuple(j for j in range(n) if j != i)
        told_mu = mechanism.recommendation.sum(axis=others)
        paid = (
            np.moveaxis(mechanism.payments[i], i, 0).reshape(problem.n_actions[i], -1).max(axis=1)
        )
        choices += [
            (i, told)
            for told in range(problem.n_actions[i])
            if told_mu[told] > NEVER and paid[told] > NEVER
        ]
    options = [
        list(
            product(
                range(problem.n_actions[i]),
                product(range(problem.n_signals[i]), repeat=problem.n_signals[i]),
            )
        )
        for i, _ in choices
    ]
    n_profiles = int(np.prod([len(o) for o in options], dtype=float))
    if n_profiles > max_profiles:
        raise ValueError(f"there are {n_profiles} profiles, more than max_profiles={max_profiles}")
    found = []
    for profile in product(*options):
        actions = [s.actions.copy() for s in base]
        reports = [s.reports.copy() for s in base]
        for (i, told), (played, report_map) in zip(choices, profile, strict=True):
            actions[i][told] = played
            reports[i][told] = report_map
        strategies = tuple(Strategy(a, r) for a, r in zip(actions, reports, strict=True))
        if largest_gain(problem, mechanism, strategies) <= tol:
            found.append(strategies)
    return found
