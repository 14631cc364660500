import pytest

from paperkit.concept_erasing.tiny import tiny_stable_diffusion


@pytest.fixture(scope="session")
def tiny():
    return tiny_stable_diffusion(seed=0)
