"""The definition of an optimal mechanism, written out without any simplification.

Slow on purpose: every expert, every told and played effort and **every** map from seen to reported
signal is one constraint, decisions are variables, nothing is presolved. It is the oracle of the
tests and the peer of the benchmark, and shares no code with :mod:`.program`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from .problem import Array, HiringProblem, Mechanism


@dataclass(frozen=True)
class Definition:
    """Optimal value with the size of the program that found it."""

    value: float
    n_rows: int


def cheapest_payments(
    signal_given_state: Array, prior: Array, cost: float, cap: float
) -> tuple[float, Array]:
    """Cheapest payments that make one expert work and tell the truth; idle says nothing.

    The whole idea in one small program: ``pay[r, t]`` for report r in state t.
    """
    import cvxpy as cp

    joint = signal_given_state * prior  # P(s, t) of an expert who works
    m = len(joint)
    pay = cp.Variable(joint.shape)
    expected = cp.sum(cp.multiply(joint, pay))
    rules = [pay >= 0, pay <= cap]
    for report in product(range(m), repeat=m):  # every way to lie after working
        rules.append(expected >= cp.sum(cp.multiply(joint, pay[list(report)])))
    for r in range(m):  # idle, always say r, save the cost
        rules.append(expected - cost >= pay[r] @ prior)
    program = cp.Problem(cp.Minimize(expected), rules)
    program.solve(solver=cp.HIGHS)
    return float(program.value), np.asarray(pay.value)


def count_rows(problem: HiringProblem) -> int:
    """Inequality rows of the definition: report maps per told and played effort, and caps."""
    maps = sum(k * k * m**m for k, m in zip(problem.n_actions, problem.n_signals, strict=True))
    return maps + problem.n_agents * problem.kernel.size


def solve_definition(problem: HiringProblem) -> Definition:
    """Optimal value by enumeration of report maps, with cvxpy.

    Parameters
    ----------
    problem : HiringProblem
        Small: expert i brings ``k_i ** 2 * m_i ** m_i`` constraints.

    Returns
    -------
    Definition
    """
    import cvxpy as cp

    P, n = problem.kernel, problem.n_agents
    profiles, reports = list(np.ndindex(problem.n_actions)), list(np.ndindex(problem.n_signals))
    shape = (len(profiles), len(reports), problem.n_states)
    mu = cp.Variable(len(profiles), nonneg=True)
    y = [cp.Variable((len(reports), len(problem.utility)), nonneg=True) for _ in profiles]
    x = [cp.Variable(int(np.prod(shape)), nonneg=True) for _ in range(n)]
    p = P.reshape(shape)
    profile_of_cell = np.repeat(np.arange(len(profiles)), shape[1] * shape[2])
    rules = [cp.sum(mu) == 1]
    value = -sum(p.ravel() @ xi for xi in x)
    for b in range(len(profiles)):
        rules.append(cp.sum(y[b], axis=1) == mu[b])
        value += cp.sum(cp.multiply(p[b] @ problem.utility.T, y[b]))
    for i in range(n):
        rules.append(x[i] <= problem.payment_cap * mu[profile_of_cell])
        rows, costs = [], []
        for told, played in product(range(problem.n_actions[i]), repeat=2):
            for phi in product(range(problem.n_signals[i]), repeat=problem.n_signals[i]):
                pay, cost = np.zeros(shape), np.zeros(len(profiles))
                for b, profile in enumerate(profiles):
                    if profile[i] != told:
                        continue
                    cost[b] = problem.costs[i][told] - problem.costs[i][played]
                    other = profiles.index((*profile[:i], played, *profile[i + 1 :]))
                    pay[b] -= p[b]
                    for s, seen in enumerate(reports):
                        said = reports.index((*seen[:i], phi[seen[i]], *seen[i + 1 :]))
                        pay[b, said] += p[other, s]
                rows.append(pay.ravel())
                costs.append(cost)
        rules.append(np.array(rows) @ x[i] + np.array(costs) @ mu <= 0)
    program = cp.Problem(cp.Maximize(value), rules)
    program.solve(solver=cp.HIGHS)
    if program.status != cp.OPTIMAL:
        raise RuntimeError(f"the solver stopped with status {program.status}")
    return Definition(float(program.value), count_rows(problem))


def enumerated_gain(problem: HiringProblem, mechanism: Mechanism) -> float:
    """Largest gain over every told effort, played effort and report map, one after the other.

    The slow counterpart of :func:`.incentives.largest_gain`.
    """
    n, worst = problem.n_agents, -np.inf
    mu = mechanism.recommendation.reshape(problem.n_actions + (1,) * (n + 1))
    for i in range(n):
        pay = mu * mechanism.payments[i]
        told_mu = mechanism.recommendation.sum(axis=tuple(j for j in range(n) if j != i))
        signals = range(problem.n_signals[i])
        for told, played in product(range(problem.n_actions[i]), repeat=2):
            truth = (problem.kernel * pay).take(told, axis=i).sum()
            for phi in product(signals, repeat=len(signals)):
                lied = pay.take(told, axis=i).take(phi, axis=n - 1 + i)
                gets = (problem.kernel.take(played, axis=i) * lied).sum()
                saved = problem.costs[i][told] - problem.costs[i][played]
                worst = max(worst, float(gets - truth + told_mu[told] * saved))
    return worst
