"""What every test shares: sweeps stay in the test's own process.

A test that breaks a function on purpose must break it where the work is done; worker processes
import the whole one.
"""

import pytest


@pytest.fixture(scope="session", autouse=True)
def sweeps_in_this_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAPERKIT_WORKERS", "1")
        yield
