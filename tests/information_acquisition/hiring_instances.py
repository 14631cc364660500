"""Random instances that hire somebody, and deviation gains by enumeration."""

from itertools import product

import numpy as np

from paperkit.information_acquisition import shared_noise_instance


def random_shared(seed, n, k, m):
    rng = np.random.default_rng(seed)
    accuracies = [np.sort(np.r_[0, rng.uniform(0.6, 0.97, k - 1)]) for _ in range(n)]
    costs = [np.sort(np.r_[0, rng.uniform(0.005, 0.03, k - 1)]) for _ in range(n)]
    source = 0.75 * np.eye(m)[:, [0, m - 1]] + 0.25 * rng.dirichlet(np.ones(m), 2).T
    return shared_noise_instance(accuracies, costs, source, [0.45, 0.55], 0.8)


def enumerated_gain(problem, mechanism):
    """Largest gain over all (told, played, report map), from the definition."""
    n, worst = problem.n_agents, -np.inf
    mu = mechanism.recommendation.reshape(problem.n_actions + (1,) * (n + 1))
    for i in range(n):
        k, m = problem.n_actions[i], problem.n_signals[i]
        pay = mu * mechanism.payments[i]
        told_mu = mechanism.recommendation.sum(axis=tuple(j for j in range(n) if j != i))
        for told, played in product(range(k), repeat=2):
            truth = (problem.kernel * pay).take(told, axis=i).sum()
            for phi in product(range(m), repeat=m):
                lied = pay.take(told, axis=i).take(phi, axis=n - 1 + i)
                gets = (problem.kernel.take(played, axis=i) * lied).sum()
                saved = problem.costs[i][told] - problem.costs[i][played]
                worst = max(worst, gets - truth + told_mu[told] * saved)
    return worst
