"""Small hiring problems that pay somebody."""

import numpy as np
import pytest

from paperkit.information_acquisition import (
    HiringProblem,
    shared_noise_instance,
    twin_instance,
)


@pytest.fixture
def twin() -> HiringProblem:
    return twin_instance(0.75, 0.08, 0.5)


@pytest.fixture
def noisy() -> HiringProblem:
    """Strictly positive kernel, two experts, distinct costs."""
    return shared_noise_instance(
        [[0.0, 0.9], [0.0, 0.8]],
        [[0.0, 0.02], [0.0, 0.03]],
        [[0.85, 0.2], [0.15, 0.8]],
        [0.4, 0.6],
        0.6,
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
