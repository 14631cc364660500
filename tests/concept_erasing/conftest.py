import pytest
import torch

from paperkit.concept_erasing.tiny import tiny_stable_diffusion


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Networks this small are slower on several threads, much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny():
    return tiny_stable_diffusion(seed=0)
