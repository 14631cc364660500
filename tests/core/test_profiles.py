"""Scale, device, workers and the derivation of seeds."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paperkit import profiles

VARIABLES = ["PROFILE", "SEED", "DEVICE", "WORKERS", "ROOT", "BOOK"]


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(f"PAPERKIT_{name}", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_defaults():
    import joblib

    found = profiles.current()
    assert (found.name, found.device) == ("quick", "cpu")
    assert found.workers == found.threads == joblib.cpu_count()
    assert found.interactive is False
    assert profiles.base_seed() == 0


def test_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("PAPERKIT_PROFILE", "full")
    monkeypatch.setenv("PAPERKIT_DEVICE", "cpu")
    monkeypatch.setenv("PAPERKIT_WORKERS", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    assert profiles.current() == profiles.Profile("full", "cpu", 3, 2, False)
    assert profiles.pick(quick=1, full=[2]) == [2]
    monkeypatch.setenv("PAPERKIT_PROFILE", "quick")
    assert profiles.pick(quick=1, full=[2]) == 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PAPERKIT_PROFILE", "fast"),
        ("PAPERKIT_DEVICE", "gpu"),
        ("PAPERKIT_DEVICE", "cuda:x"),
        ("PAPERKIT_DEVICE", "cuda:99"),
        ("PAPERKIT_DEVICE", "cpu:0"),
        ("PAPERKIT_WORKERS", "0"),
        ("PAPERKIT_WORKERS", "-1"),
        ("PAPERKIT_WORKERS", "two"),
        ("PAPERKIT_WORKERS", "²"),
        ("OMP_NUM_THREADS", "many"),
    ],
)
def test_unknown_values_are_errors_that_name_the_variable(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=variable):
        profiles.current()


def test_pick_checks_the_profile_too(monkeypatch):
    monkeypatch.setenv("PAPERKIT_PROFILE", "Full")
    with pytest.raises(ValueError, match="PAPERKIT_PROFILE"):
        profiles.pick(quick=1, full=2)


@pytest.mark.parametrize("there", [True, False])
def test_full_uses_a_gpu_if_there_is_one(monkeypatch, there):
    import torch

    monkeypatch.setenv("PAPERKIT_PROFILE", "full")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert profiles.current().device == ("cuda" if there else "cpu")
    monkeypatch.setenv("PAPERKIT_DEVICE", "cuda:1")
    if there:
        assert profiles.current().device == "cuda:1"
    else:
        with pytest.raises(ValueError, match="0 cuda"):
            profiles.current()


@pytest.mark.parametrize("value", ["-1", "1.5", "x", "١"])
def test_bad_seeds(monkeypatch, value):
    monkeypatch.setenv("PAPERKIT_SEED", value)
    with pytest.raises(ValueError, match="PAPERKIT_SEED"):
        profiles.rng("a")


def test_the_derivation_of_seeds_never_changes():
    # Stored results and committed figures depend on these numbers.
    assert profiles.seeds(3, "risk_scores", "permutation") == SEEDS
    assert profiles.rng("risk_scores", 1).integers(10**9) == RNG
    assert profiles.generator("risk_scores", 1).initial_seed() == GENERATOR


SEEDS = [466976886, 1261411507, 269539983]
RNG = 633506756
GENERATOR = 3035443465000115184


def test_streams_belong_to_their_key(monkeypatch):
    def draw(*key):
        return profiles.rng(*key).normal(size=4).tolist()

    assert draw("a", 1) == draw("a", 1) == draw("a", np.int64(1))
    keys = [("a", 1), ("a", 2), ("b", 1), ("a1",), ("a", "1"), ("a", 1.0), ("a", 1, 0)]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)
    before = draw("a", 1)
    monkeypatch.setenv("PAPERKIT_SEED", "1")
    assert draw("a", 1) != before


def test_streams_are_the_same_in_another_process():
    code = "from paperkit import profiles; print(profiles.rng('x', 2).integers(10**9))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) == profiles.rng("x", 2).integers(10**9)


def test_torch_generator():
    import torch

    a, b = (torch.randn(3, generator=profiles.generator("x")) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, torch.randn(3, generator=profiles.generator("y")))


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.text(max_size=5))
def test_seeds_differ_and_longer_lists_begin_with_shorter_ones(m, n, key):
    long, short = profiles.seeds(max(m, n), key), profiles.seeds(min(m, n), key)
    assert len(set(long)) == len(long)
    assert long[: len(short)] == short
    assert all(0 <= seed < 2**31 for seed in long)


def test_bad_keys_and_counts():
    for call in (profiles.rng, profiles.generator, lambda: profiles.seeds(2)):
        with pytest.raises(ValueError, match="empty"):
            call()
    for part in (None, True, float("nan"), float("inf"), ("a",), b"a"):
        with pytest.raises(TypeError, match="key"):
            profiles.rng(part)
    with pytest.raises(ValueError, match="at least 1"):
        profiles.seeds(0, "a")
    for n in (1.0, True, "2"):
        with pytest.raises(TypeError, match="integer"):
            profiles.seeds(n, "a")


def test_the_project_root(monkeypatch, tmp_path):
    assert (profiles.project_root() / "paperkit" / "profiles.py").is_file()
    monkeypatch.setenv("PAPERKIT_ROOT", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="clone"):
        profiles.project_root()
    (tmp_path / "notebooks").mkdir()
    assert profiles.project_root() == tmp_path


def test_progress_is_for_those_who_watch(monkeypatch):
    assert profiles.current().interactive is False
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setattr(sys, "stderr", type("Terminal", (), {"isatty": lambda self: True})())
    assert profiles.current().interactive is True
    monkeypatch.setenv("PAPERKIT_BOOK", "1")
    assert profiles.current().interactive is False
