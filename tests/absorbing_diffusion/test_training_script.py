"""The script that trains the text models: its batches, and runs that are interrupted."""

import importlib.util
import json

import pytest
import torch

from paperkit import profiles
from paperkit.absorbing_diffusion import NETWORKS, TransformerConfig

TINY = TransformerConfig(vocab_size=7, width=8, depth=1, heads=2)


@pytest.fixture
def script(tmp_path, monkeypatch):
    file = profiles.project_root() / "scripts" / "absorbing_diffusion" / "train_text.py"
    spec = importlib.util.spec_from_file_location("train_text", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "train_text", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "BUILD", tmp_path)
    return module


def test_an_epoch_reads_every_window_once(script):
    tokens = torch.arange(12)[:, None].expand(12, 3)
    for epoch in (0, 1):
        seen = [script.batch(tokens, 3 * epoch + k, 5, 4)[:, 0] for k in range(3)]
        assert sorted(torch.cat(seen).tolist()) == list(range(12))
    other = script.batch(tokens, 0, 6, 4)[:, 0]
    assert other.tolist() != script.batch(tokens, 0, 5, 4)[:, 0].tolist()


@pytest.mark.parametrize("kind", NETWORKS)
def test_an_interrupted_run_ends_where_the_other_does(script, kind):
    tokens = torch.randint(0, 7, (40, 8), generator=torch.Generator().manual_seed(0))
    finished = []
    for name, stops in (("whole", (4, 6)), ("cut", (1, 3, 4, 5, 6))):
        run = script.Run(kind, 0, script.Plan(TINY, batch=4, length=8, name=name))
        for until in stops:
            run.train(until, 4, 2, 2, tokens, tokens[:8])
        model = run.network()
        run.load(model, run.cooling)
        finished.append(torch.cat([p.flatten() for p in model.parameters()]))
        assert run.steps() == 6
        curve = json.loads(run.curve_file.read_text())
        assert [point["cooldown"] for point in curve][-1]
        assert curve[-1]["tokens"] == 6 * 4 * 8
    torch.testing.assert_close(*finished, rtol=0, atol=0)
