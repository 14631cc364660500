"""The three transformers, bounds with errors, and the texts."""

import numpy as np
import pytest
import torch

from paperkit import claims
from paperkit.absorbing_diffusion import (
    NETWORKS,
    LogLinearSchedule,
    MarkovLanguage,
    MaskedTransformer,
    TableModel,
    TransformerConfig,
    any_order_loss,
    autoregressive_loss,
    dse_loss,
    exact_any_order_nll,
    generative_nll,
    infilling,
    lambda_dce_loss,
    load_kjv,
    load_zero_shot_texts,
    mask_tokens,
    nll_bound,
    paired_difference,
    t_dce_loss,
    time_conditioning_parameters,
    unigram_entropy,
)
from paperkit.absorbing_diffusion.text import (
    VALIDATION_BOOKS,
    VOCABULARY,
    ZERO_SHOT,
    bigram_nats,
    decode,
    encode,
    unigram_nats,
)

TINY = TransformerConfig(vocab_size=7, width=16, depth=2, heads=2, neighbours=4.0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shaken(kind: str, config: TransformerConfig = TINY):
    """A network whose projections into the residual stream are not zero."""
    model = NETWORKS[kind](config, seed=2).eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(4)
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("kind", NETWORKS)
def test_shapes_and_seeds(kind):
    x = torch.randint(0, 8, (3, 9), generator=seeded(0))
    told = {"sigma": torch.ones(3)} if kind == "time" else {}
    a, b, c = (NETWORKS[kind](TINY, seed=s)(x, **told) for s in (1, 1, 2))
    assert a.shape == (3, 9, 7)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    with pytest.raises(TypeError, match="integers"):
        NETWORKS[kind](TINY)(x.double(), **told)


def test_parameters_saved_without_a_time():
    for config in (TINY, TransformerConfig(1024, 96, 3, 4), TransformerConfig(50, 64, 5, 4)):
        counts = {k: NETWORKS[k](config).parameter_count() for k in NETWORKS}
        assert counts["radd"] == counts["ar"]
        assert counts["time"] - counts["radd"] == time_conditioning_parameters(config)
    assert MaskedTransformer(TransformerConfig(1024, 96, 3, 4)).parameter_count() == 533_440


def test_causal_network_sees_the_past_only():
    model = shaken("ar")
    x = torch.randint(0, 7, (1, 9), generator=seeded(0))
    y = x.clone()
    y[0, 5] = (y[0, 5] + 1) % 7
    a, b = model(x), model(y)
    torch.testing.assert_close(a[0, :6], b[0, :6])
    assert not torch.allclose(a[0, 6:], b[0, 6:])


def test_masked_network_sees_both_sides():
    model = shaken("radd")
    x = torch.full((1, 9), 7)
    x[0, 8] = 1
    y = x.clone()
    y[0, 8] = 2
    assert not torch.allclose(model(x)[0, 0], model(y)[0, 0])


def test_twin_depends_on_the_noise_and_starts_uniform():
    x = torch.full((2, 9), 7)
    start = NETWORKS["time"](TransformerConfig(50, 16, 1, 2))
    out = start(x, sigma=torch.tensor([0.1, 9.0]))
    assert float(out.detach().exp().sum(-1).sub(1).abs().max()) < 0.3
    model = shaken("time")
    a, b = model(x, sigma=torch.tensor([0.1, 3.0]))
    assert not torch.allclose(a, b)
    with pytest.raises(ValueError, match="sigma"):
        model(x, sigma=torch.ones(3))


@pytest.mark.parametrize("causal", [False, True])
def test_heads_begin_at_their_neighbours(causal):
    config = TransformerConfig(7, 32, 1, 4, rotary_base=100.0, neighbours=60.0)
    model = NETWORKS["ar" if causal else "radd"](config)
    attention = model.blocks[0].attention
    bias = attention.qkv.bias.detach().view(3, 4, 8)
    cos, sin = model._angles(12, torch.zeros(1))
    half = 4

    def turned(v, position):
        a, b = v[:half], v[half:]
        c, s = cos[position, 0], sin[position, 0]
        return torch.cat((a * c - b * s, b * c + a * s))

    for h in range(4):
        score = [float(turned(bias[0, h], 6) @ turned(bias[1, h], p)) for p in range(12)]
        wanted = 6 - (h + 1) if causal else 6 + (-1 if h % 2 == 0 else 1) * (h // 2 + 1)
        assert int(np.argmax(score)) == wanted


@pytest.mark.parametrize(
    "settings",
    [
        {"width": 15},
        {"vocab_size": 0},
        {"dropout": 1.0},
        {"rotary_base": 1.0},
        {"neighbours": -1.0},
        {"depth": True},
    ],
)
def test_bad_configs(settings):
    with pytest.raises(ValueError):
        TransformerConfig(**{"vocab_size": 7, "width": 16, "depth": 1, "heads": 2, **settings})


def test_masking():
    x = torch.randint(0, 7, (500, 9), generator=seeded(0))
    counts = torch.randint(1, 10, (500,), generator=seeded(1))
    y = mask_tokens(x, 7, count=counts, generator=seeded(2))
    assert torch.equal((y == 7).sum(1), counts)
    assert torch.equal(y[y != 7], x[y != 7])
    assert (mask_tokens(x, 7, prob=1.0) == 7).all()
    share = (mask_tokens(x, 7, prob=0.3, generator=seeded(3)) == 7).float().mean()
    assert abs(float(share) - 0.3) < 4 * (0.21 / 4500) ** 0.5
    for bad in (
        {},
        {"prob": 0.1, "count": 1},
        {"count": 0},
        {"count": 10},
        {"count": 1.5},
        {"prob": 1.2},
    ):
        with pytest.raises(ValueError):
            mask_tokens(x, 7, **bad)


@pytest.mark.parametrize(
    "loss",
    [
        lambda m, x: dse_loss(m, x, LogLinearSchedule()),
        lambda m, x: t_dce_loss(m, x, LogLinearSchedule()),
        lambda_dce_loss,
        any_order_loss,
        exact_any_order_nll,
        autoregressive_loss,
        nll_bound,
    ],
)
def test_losses_refuse_bad_tokens(loss):
    model = TableModel.random(3, 4, 0)
    with pytest.raises(ValueError, match="mask id"):
        loss(model, torch.tensor([[0, 1, 3, 2]]))
    with pytest.raises(ValueError, match=r"0\.\.2"):
        loss(model, torch.tensor([[0, 1, -1, 2]]))
    with pytest.raises(TypeError, match="integer"):
        loss(model, torch.zeros(1, 4))
    with pytest.raises(ValueError, match="batch"):
        loss(model, torch.zeros(4, dtype=torch.int64))


def test_losses_refuse_bad_models():
    x = torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        lambda_dce_loss(TableModel.random(3, 4, 0), x, probability=0.0)
    broken = TableModel.random(3, 4, 0)
    broken.logits[:] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        any_order_loss(broken, x)
    with pytest.raises(TypeError, match="vocab_size"):
        any_order_loss(lambda x: x, x)
    with pytest.raises(ValueError, match="at most 12"):
        exact_any_order_nll(MarkovLanguage.example(), torch.zeros(1, 13, dtype=torch.int64))


def test_time_conditioned_any_order_is_lambda_dce():
    """Telling the noise at which the k-th token is masked has the mean of the lambda integral."""

    class Told:
        vocab_size = 3
        time_conditioned = True

        def __call__(self, x, *, sigma):
            base = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
            return (base * (1 - torch.exp(-sigma))[:, None])[:, None].expand(*x.shape, 3)

    x = torch.tensor([[0, 1, 2]]).expand(60_000, 3)
    a = any_order_loss(Told(), x, generator=seeded(0))
    b = lambda_dce_loss(Told(), x, generator=seeded(1))
    error = float((a.var() / len(a) + b.var() / len(b)).sqrt())
    assert abs(float(a.mean() - b.mean())) < 4.5 * error
    assert float(a.std()) < float(b.std())


def test_bounds_and_pairs():
    language = MarkovLanguage.example()
    x = language.sample(256, 8, generator=seeded(0))
    exact = nll_bound(language, x, repeats=8, generator=seeded(1), characters_per_token=2.0)
    truth = -language.log_prob(x).numpy() / 8
    assert abs(exact.nats_per_token - truth.mean()) < 0.1
    assert exact.perplexity == pytest.approx(np.exp(exact.nats_per_token))
    assert exact.bits_per_char == pytest.approx(exact.nats_per_token / np.log(2) / 2)
    same = nll_bound(language, x, repeats=8, generator=seeded(1))
    gap = paired_difference(exact, same, rng=0)
    assert isinstance(gap, claims.Interval)
    assert (gap.low, gap.estimate, gap.high) == (0, 0, 0)
    flat = TableModel(torch.zeros(9**2, 2, 8, dtype=torch.float64))
    worse = nll_bound(flat, x[:, :2], generator=seeded(1))
    assert worse.nats_per_token == pytest.approx(np.log(8))
    with pytest.raises(ValueError, match="sequences"):
        paired_difference(exact, nll_bound(language, x[:9], generator=seeded(1)), rng=0)
    with pytest.raises(ValueError, match="characters_per_token"):
        _ = same.bits_per_char
    for bad in ({"estimator": "t"}, {"repeats": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError):
            nll_bound(language, x, **bad)


def test_evaluation_leaves_the_mode_of_the_network():
    model = MaskedTransformer(TINY).train()
    nll_bound(model, torch.zeros(2, 4, dtype=torch.int64), repeats=1)
    assert model.training


def test_generated_text_measures():
    language = MarkovLanguage.example()
    x = language.sample(64, 16, generator=seeded(0))
    np.testing.assert_allclose(generative_nll(x, language), -language.log_prob(x).numpy() / 16)
    model = shaken("ar", TransformerConfig(8, 16, 1, 2))
    np.testing.assert_allclose(
        generative_nll(x, model), autoregressive_loss(model, x).detach().numpy() / 16, rtol=1e-6
    )
    assert unigram_entropy(np.array([[0, 1], [2, 3]])) == pytest.approx(np.log(4))
    with pytest.raises(TypeError):
        unigram_entropy(np.array([0.5]))


def test_infilling_uses_both_sides():
    language = MarkovLanguage.example()
    x = language.sample(64, 6, generator=seeded(0))
    got = infilling(language, x, slice(2, 4), orders=2, generator=seeded(1))
    # with exact conditionals every order gives log p(gap | the rest)
    log_all = language.log_prob(x)
    total = torch.zeros(64, dtype=torch.float64)
    for a in range(8):
        for b in range(8):
            y = x.clone()
            y[:, 2], y[:, 3] = a, b
            total += language.log_prob(y).exp()
    np.testing.assert_allclose(got["nats"], -(log_all - total.log()).numpy() / 2, atol=1e-10)
    assert ((got["first_correct"] >= 0) & (got["first_correct"] <= 1)).all()
    causal = infilling(shaken("ar", TransformerConfig(8, 16, 1, 2)), x, slice(2, 4))
    assert causal["nats"].shape == (64,)
    with pytest.raises(ValueError, match="gap"):
        infilling(language, x, slice(6, 6))


def test_the_bible_is_split_by_books():
    train, held_out = load_kjv("train"), load_kjv()
    assert set(held_out.source) == set(VALIDATION_BOOKS)
    assert not set(train.source) & set(held_out.source)
    assert len(set(train.source)) == 59
    assert train.tokens.shape[1] == 64
    assert 0 <= held_out.tokens.min() <= held_out.tokens.max() < VOCABULARY
    assert 3 < held_out.characters_per_token < 3.2
    assert 5.6 < unigram_nats(held_out) < 5.9
    assert 3.6 < bigram_nats(held_out) < 4.1
    assert len(held_out.select(held_out.source == "Mark")) > 100
    assert held_out.tensor().dtype == torch.int64
    with pytest.raises(ValueError, match="split"):
        load_kjv("test")
    with pytest.raises(ValueError, match="length"):
        load_kjv(length=0)


def test_text_and_tokens():
    ids = encode("In the  beginning\nGod created ÿ.")
    assert decode(ids) == "In the beginning God created ÿ."
    masked = ids.copy()
    masked[2] = VOCABULARY
    assert "_" in decode(masked)
    with pytest.raises(ValueError, match="ids"):
        decode(np.array([VOCABULARY + 1]))
    with pytest.raises(TypeError, match="integers"):
        decode(np.array([0.5]))
    with pytest.raises(TypeError, match="string"):
        encode(b"bytes")


def test_five_texts_outside_the_bible():
    texts = load_zero_shot_texts()
    assert list(texts) == list(ZERO_SHOT)
    held_out = load_kjv()
    for windows in texts.values():
        assert len(windows) > 150
        assert windows.tokens.shape[1] == 64
        assert 1.3 < windows.characters_per_token < held_out.characters_per_token
        assert unigram_nats(windows) > unigram_nats(held_out)
    with pytest.raises(ValueError, match="length"):
        load_zero_shot_texts(length=0)
