"""Scores and samples of language models equal the one-prompt, no-padding forward pass."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import VOCABULARY, CharacterTokenizer, one_by_one, tiny_gpt2, tiny_llama

from paperkit import models
from paperkit.models import LanguageModel, text

PAIRS = [
    ("what is it", " a cat"),
    ("who", " me"),
    ("a much longer question than these", "!"),
    ("why", " because of the rain"),
]


@pytest.fixture(scope="module")
def llama():
    return tiny_llama()


@pytest.fixture(scope="module")
def pairs():
    return [models.encode_pair(CharacterTokenizer(), p, r) for p, r in PAIRS]


def response_logprob(lm, ids, start):
    rows = one_by_one(lm, ids)
    return sum(float(rows[t - 1, ids[t]]) for t in range(start, len(ids)))


# --- sequence_logprobs ---------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_on_either_side_changes_nothing(make, side, pairs):
    lm = make()
    batch = models.pad_pairs(pairs, side=side, pad_id=77)
    found = models.sequence_logprobs(lm.model, *batch)
    assert found.shape == (4,)
    expected = [response_logprob(lm, ids, n) for ids, n in pairs]
    np.testing.assert_allclose(found.detach(), expected, atol=1e-4)


def test_no_mask_means_no_padding(llama, pairs):
    ids, n = pairs[0]
    found = models.sequence_logprobs(llama.model, torch.tensor([ids]), [n])
    assert found.item() == pytest.approx(response_logprob(llama, ids, n), abs=1e-4)


def test_responses_of_one_token_are_a_distribution(llama):
    ids = torch.tensor([[*b"abc", t] for t in range(VOCABULARY)])
    found = models.sequence_logprobs(llama.model, ids, [3] * VOCABULARY)
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_gradient_equals_that_of_single_rows(pairs):
    lm = tiny_llama()
    models.sequence_logprobs(lm.model, *models.pad_pairs(pairs, side="left")).sum().backward()
    found = [p.grad.clone() for p in lm.model.parameters()]
    lm.model.zero_grad()
    for ids, n in pairs:
        logits = lm.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        logits[range(n - 1, len(ids) - 1), ids[n:]].sum().backward()
    for a, p in zip(found, lm.model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, atol=2e-4, rtol=1e-3)


def test_logits_only_where_a_response_token_is_predicted(llama, monkeypatch):
    seen = []
    forward = type(llama.model).forward

    @functools.wraps(forward)
    def spy(self, **kwargs):
        output = forward(self, **kwargs)
        seen.append(output.logits.shape)
        return output

    monkeypatch.setattr(type(llama.model), "forward", spy)
    ids = torch.randint(3, 100, (2, 30))
    models.sequence_logprobs(llama.model, ids, [25, 27])
    assert seen == [(2, 5, VOCABULARY)]


def test_adapter_and_model_without_positions(pairs):
    from peft import LoraConfig, get_peft_model
    from transformers import BloomConfig, BloomForCausalLM

    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = LanguageModel(get_peft_model(tiny_llama().model, config).eval(), None, "")
    torch.manual_seed(0)
    bloom = BloomForCausalLM(
        BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)
    )
    for lm in (adapted, LanguageModel(bloom.eval(), None, "")):
        found = models.sequence_logprobs(lm.model, *models.pad_pairs(pairs)).detach()
        expected = [response_logprob(lm, ids, n) for ids, n in pairs]
        np.testing.assert_allclose(found, expected, atol=1e-4)


GOOD = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 8]])


@pytest.mark.parametrize(
    ("ids", "lengths", "mask", "message"),
    [
        (GOOD[0], [1, 1], None, r"input_ids must have shape \(B, L\)"),
        (GOOD, [1], None, r"prompt_lengths must have shape \(2,\)"),
        (GOOD, [1, 1], torch.ones(2, 3), r"attention_mask must have shape \(2, 4\)"),
        (GOOD, [2, 0], None, r"row 1 has an empty prompt"),
        (GOOD, [2, 4], None, r"row 1 has an empty response"),
        (GOOD, [2, 3], torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]), r"row 1 has an empty response"),
        (GOOD, [2, 1], torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0]]), r"row 1 of attention_mask"),
        (GOOD, [2, 1], torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]), r"row 1 is empty"),
        (GOOD + 122, [1, 1], None, r"row 0 has token ids in \[127, 130\]"),
        (-GOOD, [1, 1], None, r"row 0 has token ids"),
        (torch.ones(1, 129, dtype=torch.long), [4], None, r"row 0 has 129 tokens"),
    ],
)
def test_sequence_logprobs_refuses(llama, ids, lengths, mask, message):
    with pytest.raises(ValueError, match=message):
        models.sequence_logprobs(llama.model, ids, lengths, mask)


def test_ids_under_padding_do_not_matter(llama, pairs):
    ids, lengths, mask = models.pad_pairs(pairs)
    a = models.sequence_logprobs(llama.model, ids, lengths, mask)
    b = models.sequence_logprobs(llama.model, ids.masked_fill(mask == 0, -100), lengths, mask)
    torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_non_finite_logits_name_the_row(pairs):
    lm = tiny_llama()
    with torch.no_grad():
        lm.model.model.embed_tokens.weight[ord("w")] = math.nan
    ids, lengths, mask = models.pad_pairs([pairs[2], pairs[1]])
    with pytest.raises(FloatingPointError, match="row 1"):
        models.sequence_logprobs(lm.model, ids, lengths, mask)


# --- generate ------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.6, 0.8)])
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2], ids=["llama", "gpt2"])
def test_logprobs_of_samples_equal_recomputed(make, temperature, top_p):
    lm = make()
    prompts = ["a", "what is it", "who are"]
    drawn = models.generate(
        lm,
        prompts,
        n_samples=3,
        max_new_tokens=12,
        temperature=temperature,
        top_p=top_p,
        seed=0,
        batch_size=4,
    )
    assert drawn.logprobs.shape == drawn.finished.shape == (3, 3)
    for i, prompt in enumerate(prompts):
        for j, ids in enumerate(drawn.token_ids[i]):
            whole = [*map(ord, prompt), *ids]
            with torch.no_grad():
                logits = lm.model(input_ids=torch.tensor([whole])).logits[0].double()
            rows = (logits / temperature).log_softmax(-1)
            expected = sum(float(rows[len(prompt) - 1 + t, token]) for t, token in enumerate(ids))
            assert drawn.logprobs[i, j] == pytest.approx(expected, abs=1e-4)
            assert drawn.finished[i, j] == (ids[-1] == 2)
            assert 2 not in ids[:-1]
            assert len(ids) == 12 or drawn.finished[i, j]
            assert drawn.texts[i][j] == CharacterTokenizer().decode(ids, skip_special_tokens=True)


def test_samples_that_end_are_marked_and_cut():
    lm = tiny_llama()
    with torch.no_grad():  # make the end token likely
        lm.model.lm_head.weight[2] = lm.model.lm_head.weight.mean(0) * 0
        lm.model.lm_head.weight.mul_(0.2)
    drawn = models.generate(lm, ["abc"], n_samples=200, max_new_tokens=40, seed=1, batch_size=200)
    assert 0 < drawn.finished.mean() < 1
    assert {ids[-1] for ids, f in zip(drawn.token_ids[0], drawn.finished[0], strict=True) if f} == {
        2
    }


def test_sampling_follows_the_distribution_and_is_not_cut_at_fifty(llama):
    """First-token frequencies over the whole vocabulary: chi-square against the exact ones."""
    from scipy.stats import chisquare

    exact = one_by_one(llama, b"abc")[-1].div(3).log_softmax(-1).exp().numpy()
    drawn = models.generate(
        llama,
        ["abc"],
        n_samples=20_000,
        max_new_tokens=1,
        temperature=3.0,
        seed=3,
        batch_size=20_000,
    )
    counts = np.bincount([ids[0] for ids in drawn.token_ids[0]], minlength=VOCABULARY)
    assert (counts > 0).sum() > 60
    assert exact.min() * 20_000 > 5
    assert chisquare(counts, 20_000 * exact / exact.sum()).pvalue > 1e-6


def test_top_p_keeps_the_smallest_sufficient_set(llama):
    exact = one_by_one(llama, b"abc")[-1].exp()
    order = exact.argsort(descending=True)
    size = int((exact[order].cumsum(0) < 0.6).sum()) + 1
    drawn = models.generate(
        llama, ["abc"], n_samples=500, max_new_tokens=1, top_p=0.6, seed=0, batch_size=500
    )
    assert {ids[0] for ids in drawn.token_ids[0]} <= set(order[:size].tolist())


def test_seed_decides_and_global_state_is_left_alone(llama):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    draws = [
        models.generate(llama, ["ab", "c"], n_samples=2, max_new_tokens=8, seed=s).token_ids
        for s in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_generate_leaves_training_mode(llama):
    lm = tiny_llama(attention_dropout=0.5)
    lm.model.train()
    drawn = models.generate(lm, ["abc"], max_new_tokens=4, seed=0)
    assert lm.model.training
    same = models.generate(llama, ["abc"], max_new_tokens=4, seed=0)
    assert drawn.token_ids == same.token_ids


@pytest.mark.parametrize(
    ("prompts", "changes", "message"),
    [
        (["a", ""], {}, "prompt 1 is empty"),
        (["a"], {"temperature": 0}, "temperature must be positive"),
        (["a"], {"temperature": math.nan}, "temperature must be positive"),
        (["a"], {"top_p": 0}, r"top_p must lie in \(0, 1\]"),
        (["a"], {"top_p": 1.1}, "top_p"),
        (["a"], {"n_samples": 0}, "n_samples"),
        (["a"], {"max_new_tokens": 0}, "max_new_tokens"),
        (["a"], {"batch_size": 0}, "batch_size"),
        (["a", "b" * 120], {"max_new_tokens": 9}, "prompt 1 has 120 tokens"),
        ([[128]], {}, "prompt 0 has token ids"),
    ],
)
def test_generate_refuses(llama, prompts, changes, message):
    with pytest.raises(ValueError, match=message):
        models.generate(llama, prompts, **({"max_new_tokens": 3, "seed": 0} | changes))


def test_generate_names_the_prompt_of_non_finite_logits():
    lm = tiny_llama()
    with torch.no_grad():
        lm.model.model.embed_tokens.weight[ord("z")] = math.nan
    with pytest.raises(FloatingPointError, match="prompt 1"):
        models.generate(lm, ["a", "z", "b"], n_samples=2, max_new_tokens=1, seed=0)
    with pytest.raises(TypeError, match="got one text"):
        models.generate(lm, "abc", max_new_tokens=1, seed=0)


# --- prompts -------------------------------------------------------------------------------


class ChatTokenizer(CharacterTokenizer):
    """Renders a template with jinja2, as transformers does."""

    def __init__(self, template, bos_token=None):
        self.chat_template, self.bos_token = template, bos_token

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        import jinja2

        def refuse(message):
            raise jinja2.TemplateError(message)

        rendered = jinja2.Environment().from_string(self.chat_template)
        return rendered.render(
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            bos_token=self.bos_token,
            raise_exception=refuse,
        )


TURNS = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}[/]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
DEFAULT = "{% if messages[0]['role'] != 'system' %}[system]be kind[/]{% endif %}"
PLAIN = ChatTokenizer(TURNS)
WITH_DEFAULT = ChatTokenizer(DEFAULT + TURNS, bos_token="[")
WITH_BEGIN = ChatTokenizer("{{ bos_token }}" + DEFAULT + TURNS, bos_token="<s>")


@pytest.mark.parametrize(
    ("tokenizer", "begin"), [(PLAIN, ""), (WITH_DEFAULT, ""), (WITH_BEGIN, "<s>")]
)
def test_three_kinds_of_system_prompt(tokenizer, begin):
    user = "[user]hello[/][assistant]"
    assert models.chat_prompt(tokenizer, "hello", system=None) == begin + user
    assert models.chat_prompt(tokenizer, "hello", system="") == begin + "[system][/]" + user
    assert models.chat_prompt(tokenizer, "hello", system="Sy") == begin + "[system]Sy[/]" + user
    filled = models.chat_prompt(tokenizer, "hello", system=None, prefill="Sure")
    assert filled == begin + user + "Sure"


def test_chat_prompt_refuses():
    with pytest.raises(ValueError, match="has no chat template"):
        models.chat_prompt(CharacterTokenizer(), "a", system=None)
    no_system = ChatTokenizer(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + TURNS
    )
    assert models.chat_prompt(no_system, "a", system=None) == "[user]a[/][assistant]"
    with pytest.raises(ValueError, match="takes no system message"):
        models.chat_prompt(no_system, "a", system="b")
    first_only = ChatTokenizer("{{ messages[0]['content'] }}{{ messages | length }}")
    with pytest.raises(ValueError, match="cannot separate"):
        models.chat_prompt(first_only, "a", system=None)
    with pytest.raises(TypeError, match="system"):
        models.chat_prompt(PLAIN, "a")


def test_encode_pair_joins_at_a_token_boundary():
    tokenizer = CharacterTokenizer()
    ids, n = models.encode_pair(tokenizer, "a q", "uick", end=True)
    assert (ids, n) == ([*b"a quick", 2], 3)
    assert tokenizer("a quick")["input_ids"] != ids[:-1]
    with pytest.raises(ValueError, match="prompt is empty"):
        models.encode_pair(tokenizer, "", "a")
    with pytest.raises(ValueError, match="response is empty"):
        models.encode_pair(tokenizer, "a", "", end=True)
    endless = CharacterTokenizer()
    endless.eos_token_id = None
    with pytest.raises(ValueError, match="no end-of-text token"):
        models.encode_pair(endless, "a", "b", end=True)


def test_pad_pairs():
    ids, lengths, mask = models.pad_pairs([([5, 6, 7], 1), ([8, 9], 1)], side="left", pad_id=3)
    assert ids.tolist() == [[5, 6, 7], [3, 8, 9]]
    assert (lengths.tolist(), mask.tolist()) == ([1, 1], [[1, 1, 1], [0, 1, 1]])
    with pytest.raises(ValueError, match="side"):
        models.pad_pairs([([5], 1)], side="both")
    with pytest.raises(ValueError, match="pairs is empty"):
        models.pad_pairs([])


# --- repetition ----------------------------------------------------------------------------


def test_distinct_n_by_hand():
    rows = [["a", "b", "a", "b", "a"], ["a", "b", "c"], ["a"], [], "aaaa"]
    np.testing.assert_array_equal(models.distinct_n(rows, 2), [0.5, 1, 1, 1, 1 / 3])
    np.testing.assert_array_equal(models.distinct_n(rows, 1), [0.4, 1, 1, 1, 0.25])


@given(st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=5), st.integers(1, 4))
def test_distinct_n_equals_counting(rows, n):
    found = models.distinct_n(rows, n)
    for row, share in zip(rows, found, strict=True):
        grams = [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]
        assert share == (len(set(grams)) / len(grams) if grams else 1.0)


def test_distinct_n_refuses():
    with pytest.raises(ValueError, match="n must be"):
        models.distinct_n([[1]], 0)
    with pytest.raises(TypeError, match="got one text"):
        models.distinct_n("abc", 1)


def test_token_ids_pass_unchanged():
    assert text.token_ids(None, (3, 4)) == [3, 4]


# --- the real model ------------------------------------------------------------------------


@pytest.mark.model
def test_smollm2_prompts_pairs_and_samples():
    lm = models.as_language_model("smollm2")
    user = "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    prompt = models.chat_prompt(lm.tokenizer, "What is 2 + 2?", system=None)
    assert prompt == user
    empty = models.chat_prompt(lm.tokenizer, "What is 2 + 2?", system="")
    assert empty == "<|im_start|>system\n<|im_end|>\n" + user
    drawn = models.generate(lm, [prompt], n_samples=2, max_new_tokens=6, temperature=0.7, seed=0)
    head = lm.tokenizer(prompt).input_ids
    for ids, logprob in zip(drawn.token_ids[0], drawn.logprobs[0], strict=True):
        with torch.no_grad():
            logits = lm.model(torch.tensor([head + ids])).logits[0].double() / 0.7
        rows = logits.log_softmax(-1)
        expected = sum(float(rows[len(head) - 1 + t, token]) for t, token in enumerate(ids))
        assert logprob == pytest.approx(expected, abs=1e-3)
    pairs = [models.encode_pair(lm.tokenizer, p, " four.", end=True) for p in (prompt, empty)]
    with torch.no_grad():
        found = models.sequence_logprobs(lm.model, *models.pad_pairs(pairs))
    expected = [response_logprob(lm, ids, n) for ids, n in pairs]
    np.testing.assert_allclose(found, expected, atol=1e-3)
