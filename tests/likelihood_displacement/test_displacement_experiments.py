"""Saved worlds, and the small parts of the experiments."""

import numpy as np
import pandas as pd
import pytest
import torch

from paperkit import data
from paperkit.likelihood_displacement import RefusalWorld
from paperkit.likelihood_displacement import experiments as ex


def test_bad_input():
    with pytest.raises(ValueError, match="seed"):
        ex.shipped_world(7)
    with pytest.raises(KeyError, match="no arm"):
        ex.arm(pd.DataFrame({"arm": ["before"], "seed": [0], "comply": [0.1]}), "after")


def test_saved_world_is_the_same_world(tmp_path):
    world = RefusalWorld.pretrain(seed=3, n_steps=3)
    record = {"script": "here", "seed": 3, "settings": {}, "steps": 3}
    world.save(tmp_path / "world.safetensors", record=record)
    again = RefusalWorld.load(tmp_path / "world.safetensors")
    assert again.kind_mass() == world.kind_mass()


def test_pretraining_leaves_the_global_random_state(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    RefusalWorld.pretrain(seed=1, n_steps=1)
    assert torch.equal(torch.rand(3), expected)


def test_requests_are_disjoint_and_mild():
    requests = data.table("likelihood_displacement/requests")["request"]
    assert requests.is_unique
    assert len(requests) == 24


def test_mixed_set_has_the_wanted_share():
    table = pd.DataFrame({"category": ["both-refuse"] * 85 + ["mixed"] * 40 + ["both-comply"]})
    rows = ex.mixed_set(table, np.random.default_rng(0))
    assert (table["category"][rows] == "mixed").sum() == 15
    assert (table["category"][rows] == "both-refuse").sum() == 85
    assert len(set(rows)) == 100


def test_groups_are_disjoint_and_extreme():
    table = pd.DataFrame(
        {"pair": np.repeat(range(24), 2), "order": ["a > b", "b > a"] * 24,
         "ln_ches": np.arange(48.0)}
    )  # fmt: skip
    groups = ex.extreme_groups(table)
    low = {i for group in groups["lowest"] for i, _ in group}
    high = {i for group in groups["highest"] for i, _ in group}
    assert low == set(range(9))
    assert high == set(range(15, 24))
    with pytest.raises(ValueError, match="groups of"):
        ex.extreme_groups(table, n_groups=5)


def test_change_at_margin_interpolates_and_refuses_to_extrapolate():
    rows = [
        {"kind": kind, "group": 0, "step": step, "pair": 0, "gain": 4.0 * step,
         "log_chosen": slope * step}
        for kind, slope in (("lowest", 2.0), ("highest", 1.0)) for step in range(4)
    ]  # fmt: skip
    assert ex.change_at_margin(pd.DataFrame(rows)) == {"highest": 2.0, "lowest": 4.0}
    short = pd.DataFrame([row for row in rows if row["step"] < 2])
    assert np.isnan(list(ex.change_at_margin(short).values())).all()
