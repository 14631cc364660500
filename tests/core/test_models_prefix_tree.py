"""The packed prefix tree equals one pass per prompt, and computes each shared token once."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import VOCABULARY, CharacterTokenizer, one_by_one, tiny_gpt2, tiny_llama

from paperkit import models
from paperkit.models import LanguageModel, PrefixTreeScorer, prefix_tree

TOKENS = [3, 0, 127]
PROMPTS = [
    "the cat sat on the mat",
    "the cat sat on the hat",
    "the cat sat",
    "the dog ran",
    "a bird",
    "the cat sat on the mat",
    "zebra",
]


def oracle(lm, prompts, tokens):
    ids = [lm.tokenizer(p)["input_ids"] if isinstance(p, str) else p for p in prompts]
    return np.array([one_by_one(lm, i)[-1, tokens].numpy() for i in ids])


@pytest.fixture(scope="module")
def llama():
    return tiny_llama()


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("max_tokens", [2, 7, 512])
def test_tree_equals_one_prompt_at_a_time(make, attention, max_tokens):
    lm = make(attn_implementation=attention)
    scorer = PrefixTreeScorer(lm, max_tokens=max_tokens)
    found = scorer.next_token_logprobs(PROMPTS, TOKENS)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, oracle(lm, PROMPTS, TOKENS), atol=1e-5)
    assert scorer.counts.method == "tree"


def test_all_columns_are_a_distribution(llama):
    found = PrefixTreeScorer(llama).next_token_logprobs(PROMPTS, range(VOCABULARY))
    np.testing.assert_allclose(np.exp(found).sum(1), 1, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=8),
    max_tokens=st.integers(1, 12),
)
def test_any_tree_equals_the_naive_path(llama, prompts, max_tokens):
    tree = PrefixTreeScorer(llama, max_tokens=max_tokens)
    plain = PrefixTreeScorer(llama, naive=True)
    np.testing.assert_allclose(
        tree.next_token_logprobs(prompts, TOKENS),
        plain.next_token_logprobs(prompts, TOKENS),
        atol=1e-5,
    )
    prefixes = {tuple(p[: k + 1]) for p in prompts for k in range(len(p))}
    assert tree.counts.computed_tokens == len(prefixes)
    assert tree.counts == tree.plan(prompts)
    assert plain.counts.method == "plain"


def test_order_duplicates_and_splitting_change_nothing(llama):
    scorer = PrefixTreeScorer(llama)
    whole = scorer.next_token_logprobs(PROMPTS, TOKENS)
    order = [6, 2, 0, 0, 4, 1, 3, 5]
    shuffled = scorer.next_token_logprobs([PROMPTS[i] for i in order], TOKENS)
    np.testing.assert_allclose(shuffled, whole[order], atol=1e-5)
    halves = [scorer.next_token_logprobs(PROMPTS[s], TOKENS) for s in (slice(3), slice(3, None))]
    np.testing.assert_allclose(np.concatenate(halves), whole, atol=1e-5)
    np.testing.assert_array_equal(whole[0], whole[5])


def test_counts_are_those_of_the_forward_passes(llama, monkeypatch):
    seen = []
    forward = type(llama.model).forward
    scorer = PrefixTreeScorer(llama, max_tokens=10)
    scorer.next_token_logprobs(PROMPTS, TOKENS)  # the probe runs here

    def spy(self, *args, input_ids=None, **kwargs):
        output = forward(self, *args, input_ids=input_ids, **kwargs)
        seen.append((input_ids.numel(), output.logits.shape[1]))
        return output

    monkeypatch.setattr(type(llama.model), "forward", spy)
    scorer.next_token_logprobs(PROMPTS, TOKENS)
    nodes = len({p[: k + 1] for p in PROMPTS for k in range(len(p))})
    assert scorer.counts.computed_tokens == sum(n for n, _ in seen) == nodes
    assert scorer.counts.forward_passes == len(seen) == -(-nodes // 10)
    assert scorer.counts.sequence_tokens == sum(map(len, PROMPTS))
    assert scorer.counts.sequences == 7
    assert scorer.counts.distinct_sequences == scorer.counts.vocabulary_rows == 6
    assert scorer.counts.token_ratio == sum(map(len, PROMPTS)) / nodes


def test_sharing_saves_what_it_should(llama):
    prompts = ["a long description of the task. " * 3 + f"row {i}" for i in range(20)]
    scorer = PrefixTreeScorer(llama)
    scorer.next_token_logprobs(prompts, TOKENS)
    assert scorer.counts.token_ratio > 10


def test_completions_equal_one_by_one(llama):
    completions = [" yes", " yes sir", " no"]
    scorer = PrefixTreeScorer(llama, max_tokens=6)
    found = scorer.completion_logprobs(PROMPTS, completions)
    for i, prompt in enumerate(PROMPTS):
        for j, completion in enumerate(completions):
            ids = [ord(c) for c in prompt + completion]
            rows = one_by_one(llama, ids)
            expected = sum(float(rows[t - 1, ids[t]]) for t in range(len(prompt), len(ids)))
            assert found[i, j] == pytest.approx(expected, abs=1e-4)
    naive = PrefixTreeScorer(llama, naive=True).completion_logprobs(PROMPTS, completions)
    np.testing.assert_allclose(found, naive, atol=1e-4)


def test_each_prompt_may_have_its_own_completions(llama):
    scorer = PrefixTreeScorer(llama)
    rows = [[f" {p[:3]}", f" {p[-2:]}!"] for p in PROMPTS]
    found = scorer.completion_logprobs(PROMPTS, rows)
    assert found.shape == (7, 2)
    again = [scorer.completion_logprobs([p], r)[0] for p, r in zip(PROMPTS, rows, strict=True)]
    np.testing.assert_allclose(found, again, atol=1e-4)


def test_completion_over_a_merged_seam_is_refused(llama):
    with pytest.raises(ValueError, match=r"prompt 1 with completion 0 .*not a prefix"):
        PrefixTreeScorer(llama).completion_logprobs(["a ", "a q"], ["uick"])


def test_probability_of_all_completions_of_one_token_is_one(llama):
    letters = [chr(i) for i in range(VOCABULARY) if i != 1]
    found = PrefixTreeScorer(llama).completion_logprobs(["abc"], letters)
    rest = PrefixTreeScorer(llama).next_token_logprobs(["abc"], [1])
    assert np.exp(found).sum() + np.exp(rest).sum() == pytest.approx(1, abs=1e-9)


def test_a_mask_that_shows_siblings_is_caught(llama, monkeypatch):
    """The probe must notice a broken mask; without the probe the values must be visibly wrong."""

    def causal_only(lm, tree, wanted, max_tokens):
        output = lm.model(
            input_ids=torch.as_tensor(tree.token)[None],
            position_ids=torch.as_tensor(tree.depth)[None],
            attention_mask=torch.ones(1, len(tree.token), dtype=torch.long),
        )
        yield len(tree.token), [int(n) for n in wanted], output.logits[0, wanted]

    monkeypatch.setattr(prefix_tree, "_run_tree", causal_only)
    scorer = PrefixTreeScorer(llama)
    with pytest.warns(RuntimeWarning, match="without sharing prefixes"):
        found = scorer.next_token_logprobs(PROMPTS, TOKENS)
    assert scorer.counts.method == "plain"
    np.testing.assert_allclose(found, oracle(llama, PROMPTS, TOKENS), atol=1e-5)
    scorer._tree_is_exact = True
    wrong = scorer.next_token_logprobs(PROMPTS, TOKENS)
    assert np.abs(wrong - found).max() > 0.1


def test_sliding_window_falls_back_beyond_the_window():
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=12,
        initializer_range=0.3,
    )
    lm = LanguageModel(MistralForCausalLM(config).eval(), CharacterTokenizer(), "tiny Mistral")
    scorer = PrefixTreeScorer(lm, max_tokens=5)
    for prompts, method in ((["abcdef", "abcxyz"], "tree"), (PROMPTS, "plain")):
        found = scorer.next_token_logprobs(prompts, TOKENS)
        assert scorer.counts.method == method
        np.testing.assert_allclose(found, oracle(lm, prompts, TOKENS), atol=1e-5)


def test_model_without_position_ids_is_scored_plainly():
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    config = BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)
    lm = LanguageModel(BloomForCausalLM(config).eval(), CharacterTokenizer(), "tiny Bloom")
    scorer = PrefixTreeScorer(lm)
    with pytest.warns(RuntimeWarning, match="BloomForCausalLM"):
        found = scorer.next_token_logprobs(PROMPTS, TOKENS)
    np.testing.assert_allclose(found, oracle(lm, PROMPTS, TOKENS), atol=1e-5)


def test_softcapped_logits_are_kept():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=1.0,
        initializer_range=0.3,
        attn_implementation="eager",
    )
    lm = LanguageModel(Gemma2ForCausalLM(config).eval(), CharacterTokenizer(), "tiny Gemma 2")
    scorer = PrefixTreeScorer(lm)
    found = scorer.next_token_logprobs(PROMPTS, TOKENS)
    assert scorer.counts.method == "tree"
    np.testing.assert_allclose(found, oracle(lm, PROMPTS, TOKENS), atol=1e-5)


def test_adapter_model_is_scored_by_the_tree():
    from peft import LoraConfig, get_peft_model

    lm = tiny_llama()
    adapted = get_peft_model(
        lm.model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    wrapped = LanguageModel(adapted.eval(), lm.tokenizer, "adapted")
    scorer = PrefixTreeScorer(wrapped)
    found = scorer.next_token_logprobs(PROMPTS, TOKENS)
    assert scorer.counts.method == "tree"
    np.testing.assert_allclose(found, oracle(wrapped, PROMPTS, TOKENS), atol=1e-5)


def test_training_mode_and_gradients_are_left_alone():
    lm = tiny_llama(attention_dropout=0.5)
    expected = oracle(lm, PROMPTS, TOKENS)
    lm.model.train()
    found = PrefixTreeScorer(lm).next_token_logprobs(PROMPTS, TOKENS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert lm.model.training
    lm.model(input_ids=torch.tensor([[1, 2]]), labels=torch.tensor([[1, 2]])).loss.backward()


def test_special_tokens_are_added_once(llama):
    class WithBegin(CharacterTokenizer):
        bos_token = "<s>"

        def __call__(self, text, add_special_tokens=True, verbose=True):
            ids = [ord(c) for c in text.replace("<s>", "\x03")]
            return {"input_ids": [3, *ids] if add_special_tokens else ids}

    lm = LanguageModel(llama.model, WithBegin(), "")
    found = PrefixTreeScorer(lm).next_token_logprobs(["abc", "<s>abc", [3, 97, 98, 99]], [5])
    assert np.ptp(found) == 0


def test_no_prompts_give_no_rows(llama):
    scorer = PrefixTreeScorer(llama)
    assert scorer.next_token_logprobs([], [1, 2]).shape == (0, 2)
    assert scorer.completion_logprobs([], ["a"]).shape[0] == 0


@pytest.mark.parametrize(
    ("prompts", "tokens", "message"),
    [
        (["abc", ""], [1], r"prompt 1 is empty"),
        (["abc", "x" * 129], [1], r"prompt 1 has 129 tokens, the model's context holds 128"),
        ([[5], [128]], [1], r"prompt 1 has token ids in \[128, 128\]"),
        ([[-1]], [1], r"prompt 0 has token ids"),
        (["abc"], [], r"tokens is empty"),
        (["abc"], [128], r"tokens must lie in \[0, 127\]"),
    ],
)
def test_bad_prompts_and_tokens(llama, prompts, tokens, message):
    with pytest.raises(ValueError, match=message):
        PrefixTreeScorer(llama).next_token_logprobs(prompts, tokens)


@pytest.mark.parametrize(
    ("prompts", "completions", "error", "message"),
    [
        (["abc"], ["d", ""], ValueError, r"completion 1 \(''\): the completion adds no token"),
        (["abc"], [], ValueError, r"completions is empty"),
        (["abc", "d"], [["e"]], ValueError, r"one equally long"),
        (["abc", "d"], [["e"], ["f", "g"]], ValueError, r"one equally long"),
        (["abc"], "d", TypeError, r"got one text"),
        ([[1, 2]], ["d"], TypeError, r"must be texts"),
        (["x" * 128], ["y"], ValueError, r"129 tokens"),
    ],
)
def test_bad_completions(llama, prompts, completions, error, message):
    with pytest.raises(error, match=message):
        PrefixTreeScorer(llama).completion_logprobs(prompts, completions)


def test_one_text_is_not_a_list_of_prompts(llama):
    with pytest.raises(TypeError, match="got one text"):
        PrefixTreeScorer(llama).next_token_logprobs("abc", [1])
    with pytest.raises(TypeError, match="got one text"):
        PrefixTreeScorer(llama).completion_logprobs("abc", ["d"])


@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_bad_max_tokens(llama, value):
    with pytest.raises(ValueError, match="max_tokens"):
        PrefixTreeScorer(llama, max_tokens=value)


@pytest.mark.parametrize("naive", [False, True])
def test_non_finite_logits_name_the_prompt(naive):
    lm = tiny_llama()
    with torch.no_grad():
        lm.model.model.embed_tokens.weight[ord("z")] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FloatingPointError, match="not finite after prompt 6"):
            PrefixTreeScorer(lm, naive=naive).next_token_logprobs(PROMPTS, TOKENS)


@pytest.mark.model
def test_smollm2_equals_one_prompt_at_a_time():
    lm = models.as_language_model("smollm2")
    prompts = [f"The capital of {c} is" for c in ("France", "Italy", "Norway")] + ["The capital"]
    scorer = PrefixTreeScorer(lm)
    tokens = list(range(0, lm.vocabulary_size, 97))
    found = scorer.next_token_logprobs(prompts, tokens)
    np.testing.assert_allclose(
        found, [one_by_one(lm, lm.tokenizer(p).input_ids)[-1, tokens] for p in prompts], atol=1e-4
    )
    assert scorer.counts.computed_tokens < scorer.counts.sequence_tokens
    (best,) = lm.tokenizer(" Paris").input_ids
    assert scorer.next_token_logprobs(prompts[:1], range(lm.vocabulary_size)).argmax() == best


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("max_tokens", [2, 5, 512])
def test_shared_states_are_those_of_single_passes(make, max_tokens):
    lm = make()
    sequences = [(1, 2, 3), (1, 2, 4, 5), (1, 2), (7,), (1, 2, 3)]
    states, paths = models.shared_states(lm.model, sequences, max_tokens=max_tokens)
    assert len(states) == 6  # nodes of the tree
    for sequence in sequences:
        with torch.no_grad():
            alone = lm.model.base_model(input_ids=torch.tensor([sequence])).last_hidden_state[0]
        torch.testing.assert_close(states[paths[sequence]], alone, atol=1e-5, rtol=1e-5)


def test_states_are_not_shared_where_a_window_hides_the_beginning(monkeypatch):
    lm = tiny_llama()
    sequences = [(1, 2, 3), (1, 2, 4, 5)]
    shared, paths = models.shared_states(lm.model, sequences)
    monkeypatch.setattr(prefix_tree, "_attention_window", lambda config: 3)
    alone, places = models.shared_states(lm.model, sequences)
    assert (len(shared), len(alone)) == (5, 7)
    for s in sequences:
        torch.testing.assert_close(shared[paths[s]], alone[places[s]], atol=1e-5, rtol=1e-5)
