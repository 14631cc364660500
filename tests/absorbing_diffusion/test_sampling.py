"""Schedules, counts of network calls, and the samplers against the exact law."""

import numpy as np
import pytest
import torch
from scipy import stats

from paperkit.absorbing_diffusion import (
    CosineSchedule,
    GeometricSchedule,
    LogLinearSchedule,
    MarkovLanguage,
    MaskedTransformer,
    NoiseSchedule,
    TableModel,
    TabularJoint,
    TimeConditionedTransformer,
    TransformerConfig,
    adaptive_sample,
    expected_nfe,
    ordered_sample,
    reveal_law,
    sample,
    unmask_probabilities,
)

SCHEDULES = [LogLinearSchedule(), LogLinearSchedule(1e-3), CosineSchedule(), GeometricSchedule()]
TINY = TransformerConfig(vocab_size=7, width=16, depth=2, heads=2)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules(schedule):
    assert isinstance(schedule, NoiseSchedule)
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    torch.testing.assert_close(
        schedule.mask_probability(t), -torch.expm1(-schedule.total_noise(t)), rtol=1e-12, atol=0
    )
    h = 1e-6
    slope = (schedule.total_noise(t + h) - schedule.total_noise(t - h)) / (2 * h)
    torch.testing.assert_close(slope, schedule.rate(t), rtol=1e-6, atol=1e-9)
    product = schedule.rate(t) * torch.exp(-schedule.total_noise(t))
    torch.testing.assert_close(schedule.slope(t), product, rtol=1e-10, atol=0)
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            schedule.total_noise(bad)


@pytest.mark.parametrize("eps", [-0.1, 1.0])
def test_bad_schedules(eps):
    for kind in (LogLinearSchedule, CosineSchedule):
        with pytest.raises(ValueError, match="eps"):
            kind(eps)
    with pytest.raises(ValueError, match="sigma_min"):
        GeometricSchedule(2.0, 1.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("method", ["tweedie", "euler"])
@pytest.mark.parametrize("steps", [1, 2, 16, 300])
def test_reveal_laws(schedule, method, steps):
    rho = unmask_probabilities(schedule, steps, method)
    assert rho.shape == (steps,)
    assert (rho >= 0).all()
    assert (rho <= 1).all()
    assert rho[-1] == 1
    assert reveal_law(rho).sum() == pytest.approx(1)
    nfe = expected_nfe(schedule, steps, 64, method=method)
    assert nfe <= min(steps, 64) + 1e-9
    assert expected_nfe(schedule, steps, 1, method=method) == pytest.approx(1)
    eager = expected_nfe(schedule, steps, 64, cache="eager", method=method)
    assert nfe <= eager + 1e-9 <= steps + 2e-9
    assert expected_nfe(schedule, steps, 64, cache="none", method=method) == steps


def test_euler_and_tweedie():
    for eps in (0.0, 1e-3):
        both = [unmask_probabilities(LogLinearSchedule(eps), 50, m) for m in ("tweedie", "euler")]
        np.testing.assert_allclose(both[0][:-1], both[1][:-1], rtol=0, atol=1e-12)
        np.testing.assert_allclose(both[0], 1 / np.arange(50, 0, -1), rtol=1e-9)
    both = [unmask_probabilities(CosineSchedule(), 16, m) for m in ("tweedie", "euler")]
    assert np.abs(both[0] - both[1])[:-1].max() > 1e-3
    assert both[1][0] == pytest.approx(np.pi / 2 / 16)


@pytest.mark.parametrize(
    ("steps", "length", "log_linear", "cosine"),
    [(64, 64, 40.641, None), (256, 64, 56.725, 55.249), (1024, 1024, 647.475, 598.05)],
)
def test_expected_calls(steps, length, log_linear, cosine):
    closed = steps * (1 - (1 - 1 / steps) ** length)
    assert expected_nfe(LogLinearSchedule(), steps, length) == pytest.approx(closed)
    assert closed == pytest.approx(log_linear, abs=1e-3)
    if cosine:
        assert expected_nfe(CosineSchedule(), steps, length) == pytest.approx(cosine, abs=4e-3)
    whole = expected_nfe(LogLinearSchedule(), steps, length, cache="whole_batch", batch_size=8)
    assert whole == pytest.approx(steps * (1 - (1 - 1 / steps) ** (8 * length)))


@pytest.mark.parametrize("schedule", [LogLinearSchedule(), CosineSchedule()])
@pytest.mark.parametrize("method", ["tweedie", "euler"])
def test_three_caches_give_the_same_tokens(schedule, method):
    model = MaskedTransformer(TINY, seed=1).eval()
    prompt = torch.full((6, 10), 7)
    prompt[:, 3] = 2
    prompt[0, :9] = 1
    prompt[1] = 4  # nothing to do
    for given in (None, prompt):
        results = [
            sample(
                model,
                (6, 10),
                12,
                schedule,
                method=method,
                cache=cache,
                prompt=given,
                generator=seeded(5),
            )
            for cache in ("rounds", "rows", "none")
        ]
        rounds, rows, none = results
        for other in (rows, none):
            assert torch.equal(rounds.tokens, other.tokens)
            assert torch.equal(rounds.reveal_step, other.reveal_step)
        assert int(rounds.tokens.max()) < 7
        pairs = {(b, int(n)) for b, steps in enumerate(rows.reveal_step) for n in steps if n > 0}
        assert rows.rows_evaluated == len(pairs)
        saved = 5 if given is None else 0  # without a prompt the first round reads one row
        assert rounds.rows_evaluated == len(pairs) - saved
        assert rounds.forward_calls <= rows.forward_calls <= none.forward_calls == 12
        assert none.rows_evaluated == 72
        if given is not None:
            kept = given < 7
            assert torch.equal(rounds.tokens[kept], given[kept])
            assert (rounds.reveal_step[kept] == 0).all()


@pytest.mark.parametrize("cache", ["rounds", "rows", "none"])
@pytest.mark.parametrize("schedule", [LogLinearSchedule(), CosineSchedule()])
def test_law_of_the_samples(cache, schedule):
    joint = TabularJoint.random(3, 4, np.random.default_rng(2))
    model = joint.as_model()
    law = joint.sampler_law(unmask_probabilities(schedule, 3)).ravel()
    drawn = sample(model, (30_000, 4), 3, schedule, cache=cache, generator=seeded(1)).tokens
    counts = np.bincount(np.ravel_multi_index(tuple(drawn.numpy().T), (3,) * 4), minlength=81)
    big = law * len(drawn) > 5
    observed = np.append(counts[big], counts[~big].sum())
    expected = np.append(law[big], law[~big].sum()) * len(drawn)
    keep = expected > 0
    assert stats.chisquare(observed[keep], expected[keep]).pvalue > 1e-4


def test_ordered_and_adaptive_samplers_are_exact():
    joint = TabularJoint.random(3, 3, np.random.default_rng(3))
    model = joint.as_model()
    truth = joint.probs.ravel() * 30_000
    results = [
        ordered_sample(model, (30_000, 3), order, generator=seeded(k))
        for k, order in enumerate(("forward", "backward", "random", [1, 0, 2]))
    ]
    results.append(adaptive_sample(model, (30_000, 3), generator=seeded(9)))
    for result in results:
        x = result.tokens.numpy()
        counts = np.bincount(np.ravel_multi_index(tuple(x.T), (3,) * 3), minlength=27)
        assert stats.chisquare(counts, truth).pvalue > 1e-4
    assert results[0].reveal_step[0].tolist() == [1, 2, 3]
    biased = adaptive_sample(model, (30_000, 3), "confidence", generator=seeded(9)).tokens.numpy()
    counts = np.bincount(np.ravel_multi_index(tuple(biased.T), (3,) * 3), minlength=27)
    assert stats.chisquare(counts, truth).pvalue < 1e-6


def test_top_k_top_p_temperature():
    model = TableModel.random(5, 3, 0, scale=2.0)
    best = ordered_sample(model, (50, 3), "forward", top_k=1, generator=seeded(0)).tokens
    assert len(best.unique(dim=0)) == 1
    cold = ordered_sample(model, (50, 3), "forward", temperature=1e-3, generator=seeded(0)).tokens
    assert torch.equal(best, cold)
    first = model(torch.full((1, 3), 5))[0, 0].softmax(-1)
    nucleus = first.sort(descending=True)
    kept = int((nucleus.values.cumsum(0) < 0.7).sum()) + 1
    drawn = ordered_sample(model, (2000, 3), "forward", top_p=0.7, generator=seeded(0)).tokens
    assert set(drawn[:, 0].tolist()) == set(nucleus.indices[:kept].tolist())


def test_vocabulary_layer_runs_on_revealed_tokens_only(monkeypatch):
    model = MaskedTransformer(TINY).eval()
    seen = []
    head = model.head
    monkeypatch.setattr(model, "head", lambda h: (seen.append(len(h)), head(h))[1])
    sample(model, (4, 10), 50, LogLinearSchedule(), generator=seeded(0))
    first = seen[0]
    assert first == 10  # the shared first row is read whole, the rest once a token
    assert 40 - 10 <= sum(seen[1:]) < 40


class Wrong:
    vocab_size = 4

    def __init__(self, width=4, value=0.0):
        self.width, self.value = width, value

    def __call__(self, x):
        return torch.full((*x.shape, self.width), self.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"top_p": 0.9, "top_k": 3}, "not both"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": 9}, "top_k"),
        ({"temperature": 0.0}, "temperature"),
        ({"cache": "all"}, "cache"),
        ({"method": "heun"}, "method"),
        ({"shape": (0, 3)}, "shape"),
        ({"prompt": torch.zeros(4, dtype=torch.int64)}, "prompt must be"),
        ({"prompt": torch.full((3,), 5)}, "prompt ids"),
        ({"model": Wrong(5)}, "not a possible output"),
        ({"model": Wrong(value=float("nan"))}, "not finite"),
    ],
)
def test_bad_settings(change, match):
    settings = {"model": Wrong(), "shape": (2, 3), "steps": 4, "schedule": LogLinearSchedule()}
    with pytest.raises(ValueError, match=match):
        sample(**{**settings, **change})


def test_floating_prompt():
    with pytest.raises(TypeError, match="integers"):
        sample(Wrong(), (2, 3), 4, LogLinearSchedule(), prompt=torch.zeros(3))


def test_a_network_that_knows_the_time_is_not_cached():
    model = TimeConditionedTransformer(TINY).eval()
    for cache in ("rounds", "rows"):
        with pytest.raises(ValueError, match="cannot be cached"):
            sample(model, (2, 5), 4, LogLinearSchedule(), cache=cache)
    result = sample(model, (2, 5), 4, LogLinearSchedule(), cache="none", generator=seeded(0))
    assert result.rows_evaluated == 8
    with pytest.raises(ValueError, match="time"):
        ordered_sample(model, (2, 5))


def test_dropout_is_not_cached():
    model = MaskedTransformer(TransformerConfig(7, 16, 1, 2, dropout=0.1))
    with pytest.raises(ValueError, match="dropout"):
        sample(model, (2, 5), 4, LogLinearSchedule())
    sample(model.eval(), (2, 5), 4, LogLinearSchedule())


def test_bad_orders():
    model = MarkovLanguage.example()
    for order in ("sideways", [0, 0, 1]):
        with pytest.raises(ValueError, match="order"):
            ordered_sample(model, (2, 3), order)
    with pytest.raises(ValueError, match="rule"):
        adaptive_sample(model, (2, 3), "luck")
    with pytest.raises(ValueError, match="per_step"):
        adaptive_sample(model, (2, 3), per_step=0)


def test_bad_counts():
    for bad in ({"length": 0}, {"batch_size": 0}, {"cache": "some"}, {"steps": 0}):
        settings = {"steps": 4, "length": 4, **bad}
        with pytest.raises(ValueError):
            expected_nfe(LogLinearSchedule(), **settings)
