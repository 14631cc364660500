"""The training loop: right updates, interruptions without a trace, records that survive."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from paperkit import models


def regression(seed=0, dropout=0.3):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 1))

    def step(i, generator):
        x = torch.randn(32, 3, generator=generator)
        return (net(x) - x.prod(1, keepdim=True)).square().mean()

    return net, step


def run(tmp=None, n_steps=30, stop=None, **changes):
    net, step = regression()

    def interrupted(i, generator):
        if i == stop:
            raise KeyboardInterrupt
        return step(i, generator)

    settings = {"learning_rate": 0.01, "seed": 4, "every": 7, "resume": tmp} | changes
    history = models.train(interrupted, net.parameters(), n_steps=n_steps, **settings)
    return net, history


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "cosine", "ema_decay": 0.9},
        {"schedule": "linear", "optimizer": "rmsprop", "clip_norm": None},
        {"schedule": "onecycle", "weight_decay": 0.1},
        {"schedule": "onecycle", "optimizer": "sgd"},
        {"schedule": "constant", "optimizer": "sgd"},
    ],
    ids=["cosine-ema", "linear-rmsprop", "onecycle-adamw", "onecycle-sgd", "constant-sgd"],
)
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, changes):
    path = tmp_path / "run.safetensors"
    expected, whole = run(**changes)
    for stop in (9, 23):  # two interruptions, each after the last written state
        with pytest.raises(KeyboardInterrupt):
            run(path, stop=stop, **changes)
    torch.manual_seed(99)  # another global state must not matter
    found, resumed = run(path, **changes)
    for a, b in zip(expected.parameters(), found.parameters(), strict=True):
        assert torch.equal(a, b)
    np.testing.assert_array_equal(whole.losses, resumed.losses)
    np.testing.assert_array_equal(whole.learning_rates, resumed.learning_rates)
    if whole.ema is None:
        assert resumed.ema is None
    else:
        assert all(torch.equal(a, b) for a, b in zip(whole.ema, resumed.ema, strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]
    again, finished = run(path, stop=0, **changes)  # nothing is left to do
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), found.parameters(), strict=True)
    )
    np.testing.assert_array_equal(finished.losses, whole.losses)


def test_equals_a_loop_by_hand():
    net, step = regression(dropout=0.0)
    twin, twin_step = regression(dropout=0.0)
    history = models.train(
        step, net.parameters(), n_steps=20, learning_rate=0.02, schedule="constant", seed=1
    )
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.02, weight_decay=0.0)
    losses = []
    for i in range(20):
        optimizer.zero_grad()
        loss = twin_step(i, generator)
        loss.backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    np.testing.assert_array_equal(history.losses, losses)
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_schedules():
    n = 40
    rates = {
        s: run(n_steps=n, schedule=s)[1].learning_rates / 0.01
        for s in ("cosine", "linear", "onecycle", "constant")
    }
    t = np.arange(n) / n
    np.testing.assert_allclose(rates["cosine"], (1 + np.cos(math.pi * t)) / 2, atol=1e-12)
    np.testing.assert_allclose(rates["linear"], 1 - t, atol=1e-12)
    np.testing.assert_array_equal(rates["constant"], 1)
    peak = rates["onecycle"].argmax()
    assert 0 < peak < n - 1
    assert (np.diff(rates["onecycle"][: peak + 1]) > 0).all()
    assert (np.diff(rates["onecycle"][peak:]) < 0).all()


def test_clipping_bounds_the_update():
    x = nn.Parameter(torch.zeros(2))
    settings = {"n_steps": 1, "learning_rate": 1.0, "optimizer": "sgd", "seed": 0}
    models.train(lambda i, g: 100 * x.sum(), [x], clip_norm=0.5, schedule="constant", **settings)
    assert float(x.norm()) == pytest.approx(0.5, rel=1e-5)


def test_moving_average_is_diffusers_and_can_be_copied():
    """EMAModel warms up: after k updates its decay is min(decay, (1 + k - 1) / (10 + k - 1))."""
    x = nn.Parameter(torch.zeros(1))
    seen = []
    history = models.train(
        lambda i, g: -x.sum(),
        [x],
        n_steps=5,
        learning_rate=1.0,
        optimizer="sgd",
        schedule="constant",
        clip_norm=None,
        ema_decay=0.999,
        seed=0,
        every=1,
        callback=lambda i, loss: seen.append((i, loss)),
    )
    average = 0.0
    for k in range(1, 6):
        decay = 0.0 if k == 1 else min(0.999, k / (9 + k))
        average = decay * average + (1 - decay) * k
    assert float(history.ema[0]) == pytest.approx(average, rel=1e-5)
    assert [i for i, _ in seen] == list(range(5))
    history.copy_ema_to([x])
    assert float(x) == pytest.approx(average, rel=1e-5)
    with pytest.raises(ValueError, match="1 averages, but 2 parameters"):
        history.copy_ema_to([x, x])
    with pytest.raises(ValueError, match="kept no moving averages"):
        run(n_steps=1)[1].copy_ema_to([])


def test_global_random_state_is_left_alone():
    torch.manual_seed(3)
    net, step = regression()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    models.train(step, net.parameters(), n_steps=3, learning_rate=0.01, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_non_finite_loss_and_gradient_stop_before_the_update(tmp_path):
    x = nn.Parameter(torch.ones(1))
    path = tmp_path / "run.safetensors"
    settings = {"n_steps": 9, "learning_rate": 0.1, "optimizer": "sgd", "seed": 0, "every": 2}

    def diverge(i, generator):
        return x.sum() * (math.inf if i == 5 else 1)

    with pytest.raises(FloatingPointError, match="the loss is inf at step 5"):
        models.train(diverge, [x], resume=path, **settings)
    left = float(x)
    y = nn.Parameter(torch.ones(1))
    with pytest.raises(FloatingPointError, match="at step 5"):
        models.train(lambda i, g: y.sum() * (math.nan if i == 5 else 1), [y], **settings)
    assert float(y) == left
    z = nn.Parameter(torch.zeros(1))
    with pytest.raises(FloatingPointError, match=r"gradient norm is .* at step 0"):
        models.train(lambda i, g: z.sqrt().sum(), [z], **settings)
    assert float(z) == 0


def test_resume_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    run(path, n_steps=8)
    with pytest.raises(ValueError, match=r"another run \(n_steps: 8 there, 9 here; seed: 4"):
        run(path, n_steps=9, seed=5)
    x = nn.Parameter(torch.zeros(2))
    settings = {"n_steps": 8, "learning_rate": 0.01, "seed": 4, "resume": path}
    with pytest.raises(ValueError, match=r"another run \(shapes: .*\[\[2\]\] here\)"):
        models.train(lambda i, g: x.sum(), [x], **settings)
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match="not a file that train wrote"):
        run(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_steps": 0}, "n_steps"),
        ({"n_steps": 2.0}, "n_steps"),
        ({"every": 0}, "every"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"schedule": "step"}, "schedule must be one of cosine, linear"),
        ({"optimizer": "adam"}, "optimizer must be one of adamw"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"ema_decay": 1.0}, "ema_decay"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        run(**changes)


def test_bad_parameters_and_losses():
    settings = {"n_steps": 1, "learning_rate": 0.1, "seed": 0}
    with pytest.raises(ValueError, match="parameters is empty"):
        models.train(lambda i, g: None, [], **settings)
    with pytest.raises(ValueError, match=r"parameters\[0\] is not a leaf"):
        models.train(lambda i, g: None, [torch.zeros(1)], **settings)
    x = nn.Parameter(torch.zeros(2))
    for loss in (1.0, x * 2):
        with pytest.raises(TypeError, match="scalar tensor"):
            models.train(lambda i, g, loss=loss: loss, [x], **settings)


# --- checkpoints ---------------------------------------------------------------------------

RECORD = {"script": "scripts/a/train.py", "seed": 0, "settings": {"d": 3}, "steps": 10}


def test_checkpoint_round_trip(tmp_path):
    path = tmp_path / "deep" / "net.safetensors"
    tensors = {
        "half": torch.tensor([1.5, -2.25], dtype=torch.float16),
        "whole": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
        "ids": torch.tensor([1, 2]),
    }
    models.save_checkpoint(path, tensors, record=RECORD | {"data_sha256": "ab"})
    found, record = models.load_checkpoint(path)
    assert record == RECORD | {"data_sha256": "ab"}
    assert {k: t.dtype for k, t in found.items()} == {
        "half": torch.float32,
        "whole": torch.float32,
        "ids": torch.int64,
    }
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor.to(found[name].dtype))
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]


def test_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    from paperkit.models import training

    path = tmp_path / "net.safetensors"
    models.save_checkpoint(path, {"a": torch.zeros(1)}, record=RECORD)

    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(training, "save_file", full)
    with pytest.raises(OSError, match="disk full"):
        models.save_checkpoint(path, {"a": torch.ones(1)}, record=RECORD)
    assert models.load_checkpoint(path)[0]["a"].item() == 0
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize(
    ("name", "tensors", "record", "message"),
    [
        ("net.pt", {"a": torch.zeros(1)}, RECORD, r"must end in \.safetensors"),
        ("n.safetensors", {"a": torch.zeros(1)}, {"seed": 0}, "record lacks script, settings"),
        ("n.safetensors", {}, RECORD, "tensors is empty"),
        ("n.safetensors", {"a": [1.0]}, RECORD, "is not a tensor but list"),
        ("n.safetensors", {"a": torch.tensor([math.nan])}, RECORD, "not finite"),
        ("n.safetensors", {"a": torch.zeros(1)}, RECORD | {"x": {1}}, "not JSON"),
        ("n.safetensors", {"a": torch.zeros(1)}, RECORD | {"x": math.inf}, "not JSON"),
    ],
)
def test_bad_checkpoints(tmp_path, name, tensors, record, message):
    with pytest.raises(ValueError, match=message):
        models.save_checkpoint(tmp_path / name, tensors, record=record)
    assert list(tmp_path.iterdir()) == []


def test_reading_what_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 'a\.safetensors'"):
        models.load_checkpoint(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(json.dumps({}).encode())
    with pytest.raises(ValueError, match="not a safetensors file"):
        models.load_checkpoint(tmp_path / "b.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="has no record"):
        models.load_checkpoint(tmp_path / "c.safetensors")
