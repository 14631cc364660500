import pytest

from paperkit.relevance_reward import Retriever


@pytest.fixture(scope="session")
def minilm():
    """The packaged encoder, loaded once."""
    return Retriever()
