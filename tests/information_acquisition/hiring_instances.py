"""Random instances that hire somebody."""

import numpy as np

from paperkit.information_acquisition import shared_noise_instance


def random_shared(seed, n, k, m):
    rng = np.random.default_rng(seed)
    accuracies = [np.sort(np.r_[0, rng.uniform(0.6, 0.97, k - 1)]) for _ in range(n)]
    costs = [np.sort(np.r_[0, rng.uniform(0.005, 0.03, k - 1)]) for _ in range(n)]
    source = 0.75 * np.eye(m)[:, [0, m - 1]] + 0.25 * rng.dirichlet(np.ones(m), 2).T
    return shared_noise_instance(accuracies, costs, source, [0.45, 0.55], 0.8)
