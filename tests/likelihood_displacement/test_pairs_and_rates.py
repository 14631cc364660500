"""CHES against a loop over single sequences, exact rates against automatic differentiation."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from paperkit.likelihood_displacement.pairs import (
    TokenPair,
    ches_score,
    filter_pairs,
    hidden_sums,
    normalized_edit_distance,
    score_pairs,
)
from paperkit.likelihood_displacement.rates import displacement_rates, token_rates

PAIRS = [
    TokenPair((1, 2, 3), (4, 5, 6), (4, 7)),
    TokenPair((9, 2), (4,), (5,)),
    TokenPair((1, 2, 3, 8, 8), (10, 11), (12, 13, 14, 15, 16)),
    TokenPair((3,), (20, 21, 22), (20, 21, 23)),
]


def loop_sums(model, pair, side, extra=0):
    """The definition: states from the last prompt token to the second-to-last response token."""
    response = getattr(pair, side)
    ids = torch.tensor([[*pair.prompt, *response]])
    states = model(ids, output_hidden_states=True).hidden_states[-1][0]
    first = len(pair.prompt) - 1
    return states[first : first + len(response) + extra].sum(0).detach().numpy()


@pytest.mark.parametrize("model_name", ["tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("include_last", [False, True])
def test_hidden_sums_equal_the_loop(model_name, batch_size, include_last, request):
    model = request.getfixturevalue(model_name)
    sums = hidden_sums(model, PAIRS, batch_size=batch_size, include_last=include_last)
    for i, pair in enumerate(PAIRS):
        for side in ("chosen", "rejected"):
            expected = loop_sums(model, pair, side, int(include_last))
            np.testing.assert_allclose(sums[side][i], expected, rtol=1e-9, atol=1e-9)


def test_single_tokens_use_the_last_prompt_state_and_score_zero(tiny_llama):
    scores = score_pairs(tiny_llama, PAIRS)
    assert scores["ches"][1] == pytest.approx(0, abs=1e-9)
    assert scores["ln_ches"][1] == pytest.approx(0, abs=1e-9)


def test_ches_identities(tiny_llama):
    forward = score_pairs(tiny_llama, PAIRS)
    backward = score_pairs(tiny_llama, [pair.swapped() for pair in PAIRS])
    sums = hidden_sums(tiny_llama, PAIRS)
    gap = ((sums["chosen"] - sums["rejected"]) ** 2).sum(1)
    np.testing.assert_allclose(forward["ches"] + backward["ches"], -gap, rtol=1e-9, atol=1e-9)
    n = sums["n_chosen"]
    equal = ches_score(sums["chosen"], sums["chosen"], n, n)
    np.testing.assert_allclose(equal, 0, atol=1e-9)


def test_last_response_token_does_not_count_but_the_prompt_does(tiny_llama):
    base = score_pairs(tiny_llama, [PAIRS[2]])
    other_end = score_pairs(tiny_llama, [TokenPair(PAIRS[2].prompt, (10, 30), PAIRS[2].rejected)])
    other_prompt = score_pairs(
        tiny_llama, [TokenPair((5, *PAIRS[2].prompt[1:]), PAIRS[2].chosen, PAIRS[2].rejected)]
    )
    assert other_end["ches"][0] == pytest.approx(base["ches"][0], rel=1e-12)
    assert abs(other_prompt["ches"][0] - base["ches"][0]) > 1e-6


def autograd_rows(model, pairs):
    """Gradients of every log-probability by automatic differentiation, split into the groups."""
    model = copy.deepcopy(model)
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())  # its own copy if it was tied
    groups = {"head": [], "blocks": [], "embedding": []}
    for name, parameter in model.named_parameters():
        if parameter is head.weight:
            groups["head"].append(parameter)
        elif parameter is model.get_input_embeddings().weight:
            groups["embedding"].append(parameter)
        elif "wpe" not in name:
            groups["blocks"].append(parameter)
    rows = []
    for pair in pairs:
        row = {}
        gradients = {}
        for side in ("chosen", "rejected"):
            response = getattr(pair, side)
            logits = model(torch.tensor([[*pair.prompt, *response]])).logits[0]
            log_p = torch.log_softmax(logits, -1)
            first = len(pair.prompt) - 1
            value = sum(log_p[first + k, token] for k, token in enumerate(response))
            for group, parameters in groups.items():
                gradients[side, group] = torch.autograd.grad(value, parameters, retain_graph=True)
        for group in groups:
            plus, minus = gradients["chosen", group], gradients["rejected", group]
            row[f"rate_{group}"] = sum(
                (g * g).sum() - (g * k).sum() for g, k in zip(plus, minus, strict=True)
            ).item()
        rows.append(row)
    return pd.DataFrame(rows)


@pytest.mark.parametrize("model_name", ["tiny_llama", "tiny_gpt2"])
def test_displacement_rates_equal_autograd(model_name, request):
    model = request.getfixturevalue(model_name)
    got = displacement_rates(model, PAIRS, groups=("head", "blocks", "embedding"))
    expected = autograd_rows(model, PAIRS)
    for column in expected:
        np.testing.assert_allclose(got[column], expected[column], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(got["rate"], expected.sum(axis=1), rtol=1e-8)
    np.testing.assert_allclose(got["relative"], 1 - got["gpm"] / got["gpp"])


def test_one_small_step_moves_as_the_rate_says(tiny_llama):
    pair = PAIRS[0]
    rate = displacement_rates(tiny_llama, [pair], groups=("head", "blocks", "embedding"))
    model = copy.deepcopy(tiny_llama)

    def log_prob(response):
        log_p = torch.log_softmax(model(torch.tensor([[*pair.prompt, *response]])).logits[0], -1)
        first = len(pair.prompt) - 1
        return sum(log_p[first + k, token] for k, token in enumerate(response))

    before = log_prob(pair.chosen).item()
    (log_prob(pair.chosen) - log_prob(pair.rejected)).backward()
    ds = 1e-7
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += ds * parameter.grad
    assert (log_prob(pair.chosen).item() - before) / ds == pytest.approx(rate["rate"][0], rel=1e-2)


def test_token_rates_equal_displacement_rates(tiny_llama):
    prompt, tokens = (1, 2, 3), [4, 7, 11]
    table = token_rates(tiny_llama, prompt, tokens)
    for i, a in enumerate(tokens):
        for j, b in enumerate(tokens):
            if a == b:
                assert table["blocks"][i, j, i] == 0
                continue
            exact = displacement_rates(tiny_llama, [TokenPair(prompt, (a,), (b,))])
            assert table["blocks"][i, j, i] == pytest.approx(exact["rate_blocks"][0], rel=1e-5)
            assert table["head"][i, j, i] == pytest.approx(exact["rate_head"][0], rel=1e-5)
    assert table["head"][0, 1, 0] > 0
    assert table["head"][1, 0, 1] > 0


def test_edit_distance_and_filter():
    assert normalized_edit_distance((1, 2, 3), (1, 3)) == pytest.approx(1 / 3)
    assert normalized_edit_distance((1,), (2,)) == 1
    scores = pd.DataFrame({"ln_ches": [3.0, -1.0, 2.0, 0.0]})
    assert filter_pairs(scores, keep=0.5).tolist() == [1, 3]
    assert filter_pairs(scores, keep=0.01, which="highest").tolist() == [0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: TokenPair((1,), (2,), (2,)), "same response"),
        (lambda m: TokenPair((), (2,), (3,)), "prompt is empty"),
        (lambda m: TokenPair((1,), (), (3,)), "chosen is empty"),
        (lambda m: TokenPair((1,), (-2,), (3,)), "negative"),
        (lambda m: score_pairs(m, []), "pairs is empty"),
        (lambda m: score_pairs(m, PAIRS, batch_size=0), "batch_size"),
        (lambda m: score_pairs(m, [TokenPair((1,), (99,), (3,))]), "vocabulary"),
        (lambda m: score_pairs(m, [TokenPair((1,) * 70, (9,), (3,))]), "context"),
        (lambda m: ches_score(np.ones((2, 3)), np.ones((2, 3)), [0, 1], [1, 1]), "one term"),
        (lambda m: ches_score(np.ones((2, 3)), np.ones((2, 2)), [1, 1], [1, 1]), "sums"),
        (lambda m: ches_score(np.full((1, 3), np.nan), np.ones((1, 3)), [1], [1]), "finite"),
        (lambda m: filter_pairs(pd.DataFrame({"ln_ches": [1.0]}), keep=0), "keep"),
        (lambda m: filter_pairs(pd.DataFrame({"ln_ches": [1.0]}), by="x"), "by must be"),
        (lambda m: filter_pairs(pd.DataFrame({"ln_ches": [1.0]}), which="middle"), "which"),
        (lambda m: filter_pairs(pd.DataFrame({"ln_ches": [np.nan]})), "finite"),
        (lambda m: displacement_rates(m, PAIRS, groups=("tail",)), "groups"),
        (lambda m: token_rates(m, (1,), [3]), "two different"),
        (lambda m: token_rates(m, (), [3, 4]), "prompt is empty"),
        (lambda m: token_rates(m, (1,), [3, 400]), "vocabulary"),
    ],
)
def test_bad_input(call, message, tiny_llama):
    with pytest.raises(ValueError, match=message):
        call(tiny_llama)


def test_states_that_are_not_finite_are_refused(tiny_llama):
    broken = copy.deepcopy(tiny_llama)
    with torch.no_grad():
        broken.model.norm.weight[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        score_pairs(broken, PAIRS)
