"""Preference training against hand-made steps, and the refusal world against its own exact law."""

import copy

import numpy as np
import pytest
import torch

from paperkit.likelihood_displacement.pairs import TokenPair
from paperkit.likelihood_displacement.refusal_world import KINDS, RefusalLanguage, RefusalWorld
from paperkit.likelihood_displacement.training import (
    pair_logprobs,
    train_preferences,
    trained_parameters,
)

PAIRS = [TokenPair((1, 2, 3), (4, 5, 6), (4, 7)), TokenPair((9, 2), (4,), (5,))]


def test_pair_logprobs_equal_a_loop(tiny_llama):
    got = pair_logprobs(tiny_llama, PAIRS).detach()
    assert torch.allclose(got, pair_logprobs(tiny_llama, PAIRS, batch_size=1).detach(), atol=1e-9)
    for i, pair in enumerate(PAIRS):
        for j, side in enumerate((pair.chosen, pair.rejected)):
            logits = tiny_llama(torch.tensor([[*pair.prompt, *side]])).logits[0]
            log_p = torch.log_softmax(logits, -1)
            first = len(pair.prompt) - 1
            expected = sum(log_p[first + k, token] for k, token in enumerate(side)).item()
            assert got[i, j].item() == pytest.approx(expected, abs=1e-5)


def test_first_step_raises_the_margin_as_asked(tiny_llama):
    trace = train_preferences(tiny_llama, PAIRS, n_steps=1, first_step_margin=0.02)
    assert trace.mean()["gain"].iloc[-1] == pytest.approx(0.02, rel=0.25)


def test_the_model_that_comes_in_is_left_alone(tiny_llama):
    before = copy.deepcopy(tiny_llama.state_dict())
    trace = train_preferences(tiny_llama, PAIRS, n_steps=2, watch=(4, 5))
    for name, value in tiny_llama.state_dict().items():
        assert torch.equal(value, before[name])
    assert any(
        not torch.equal(a, b)
        for a, b in zip(trace.model.state_dict().values(), before.values(), strict=True)
    )
    assert trace.pairs["step"].unique().tolist() == [0, 1, 2]
    assert trace.tokens.shape == (3, 3)
    assert (trace.pairs.query("step == 0")["gain"].abs() < 1e-9).all()


@pytest.mark.parametrize("loss", ["dpo", "ipo", "hinge"])
def test_margin_losses_widen_the_margin(tiny_llama, loss):
    trace = train_preferences(tiny_llama, PAIRS, loss=loss, n_steps=4, first_step_margin=0.05)
    assert (np.diff(trace.mean()["gain"]) > 0).all()


def test_cross_entropy_raises_the_chosen_response(tiny_llama):
    trace = train_preferences(
        tiny_llama, PAIRS, loss="cross_entropy", n_steps=3, optimizer="rmsprop", learning_rate=1e-4
    )
    assert (trace.change()["log_chosen"] > 0).all()


def test_only_the_named_parameters_move(tiny_llama):
    for train, moved in (
        ("head", {"lm_head.weight"}),
        (1, {"model.layers.1"}),
        ("blocks", {"model.layers", "model.norm"}),
    ):
        trace = train_preferences(tiny_llama, PAIRS, n_steps=1, train=train, first_step_margin=0.1)
        for name, value in trace.model.state_dict().items():
            changed = not torch.equal(value, tiny_llama.state_dict()[name])
            assert changed == any(name.startswith(prefix) for prefix in moved), (train, name)


def test_a_tied_head_becomes_a_copy(tiny_gpt2):
    model = copy.deepcopy(tiny_gpt2)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    (head,) = trained_parameters(model, "head")
    assert head is not model.get_input_embeddings().weight
    assert torch.equal(head, model.get_input_embeddings().weight)


def test_minibatches_are_reproducible(tiny_llama):
    settings = {"n_steps": 5, "batch_size": 1, "optimizer": "rmsprop", "learning_rate": 1e-4}
    one = train_preferences(tiny_llama, PAIRS, seed=3, **settings)
    two = train_preferences(tiny_llama, PAIRS, seed=3, **settings)
    others = [train_preferences(tiny_llama, PAIRS, seed=seed, **settings) for seed in range(4, 10)]
    assert one.pairs.equals(two.pairs)
    assert not all(one.pairs.equals(other.pairs) for other in others)


def test_largest_drop_is_between_any_two_steps(tiny_llama):
    trace = train_preferences(tiny_llama, PAIRS, n_steps=6, first_step_margin=0.5)
    p = np.exp(trace.pairs.pivot_table(index="step", columns="pair", values="log_chosen"))
    worst = max(p[0].iloc[i] - p[0].iloc[j] for i in range(len(p)) for j in range(i, len(p)))
    assert trace.largest_drop()[0] == pytest.approx(worst, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "kto"}, "kind"),
        ({"beta": 0.0}, "beta"),
        ({"sft": -0.1}, "sft"),
        ({"n_steps": 0}, "n_steps"),
        ({"batch_size": -1}, "batch_size"),
        ({"optimizer": "rmsprop"}, "learning_rate"),
        ({"first_step_margin": 0.0}, "first_step_margin"),
        ({"train": "tail"}, "train"),
        ({"train": 3}, "blocks of the model"),
    ],
)
def test_bad_settings(tiny_llama, options, message):
    with pytest.raises(ValueError, match=message):
        train_preferences(tiny_llama, PAIRS, **{"n_steps": 1, **options})


def test_a_loss_that_is_not_finite_is_an_error(tiny_llama):
    with pytest.raises((FloatingPointError, ValueError), match="finite"):
        train_preferences(tiny_llama, PAIRS, n_steps=30, learning_rate=1e30)


# ------------------------------------------------------------------------------- refusal world


@pytest.fixture(scope="module")
def small_world():
    return RefusalWorld.pretrain(seed=0, n_steps=30)


def test_language_follows_its_law():
    language = RefusalLanguage()
    rows, lengths = language.sample(20_000, np.random.default_rng(0))
    assert set(lengths) <= set(range(5, 9))
    assert (rows[np.arange(len(rows)), lengths - 1] == language.end).all()
    for severity in range(language.n_severities):
        mine = rows[rows[:, 0] == severity]
        kinds = np.array([language.kind_of((opener,)) for opener in mine[:, 2]])
        share = np.bincount(kinds, minlength=3) / len(kinds)
        np.testing.assert_allclose(share, language.kind_probabilities(severity), atol=0.03)
    assert language.kind_probabilities(3).argmax() == 1


def test_exact_mass_equals_sampling(small_world):
    mass = small_world.kind_mass(severity=3, held_out=False)
    assert mass["comply"] + mass["refuse"] + mass["other"] == pytest.approx(1)
    language = small_world.language
    prompts = torch.tensor([language.prompt(3, t) for t in range(16)]).repeat(1250, 1)
    responses = small_world.sample_responses(prompts, torch.Generator().manual_seed(0))
    kinds = [language.kind_of(response) for response in responses]
    for k, kind in enumerate(KINDS):
        share = np.mean([found == k for found in kinds])
        error = np.sqrt(mass[kind] * (1 - mass[kind]) / len(kinds))
        assert abs(share - mass[kind]) < 4 * error + 1e-9


def test_judges_differ_only_between_refusals(small_world):
    language = small_world.language
    tables = {}
    for judge in ("soft", "hard", "random"):
        pairs, table = small_world.preference_pairs(judge=judge, repeats=8, seed=1)
        tables[judge] = table
        mixed = table.query("category == 'mixed'")
        assert (mixed["chosen_kind"] != "comply").all()
        assert all(pair.chosen != pair.rejected for pair in pairs)
        assert all(language.kind_of(pair.chosen) is not None for pair in pairs)
    softer = tables["soft"].query("chosen_kind != rejected_kind and category == 'both-refuse'")
    assert (softer["chosen_kind"] == "soft").all()
    harder = tables["hard"].query("chosen_kind != rejected_kind and category == 'both-refuse'")
    assert (harder["chosen_kind"] == "hard").all()
    assert len(tables["soft"]) == len(tables["random"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: w.preference_pairs(judge="kind"), "judge"),
        (lambda w: w.preference_pairs(repeats=0), "repeats"),
        (lambda w: w.language.prompt(9, 0), "severity"),
        (lambda w: RefusalWorld.pretrain(seed=0, n_steps=0), "n_steps"),
    ],
)
def test_bad_world_settings(small_world, call, message):
    with pytest.raises(ValueError, match=message):
        call(small_world)
