"""The reward: facts of the released code, an oracle for every switch, and bad input."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paperkit.relevance_reward import reward as rr


class Letters:
    """An encoder of letter counts: fast, deterministic, nothing learned."""

    def encode(self, texts, *, max_tokens=256, truncation_side="left"):
        rows = [[text.lower().count(letter) for letter in "abcdefghij"] for text in texts]
        return np.array(rows, float)


class Seven:
    """An encoder that changes its mind about the width."""

    calls = 0

    def encode(self, texts, **_):
        self.calls += 1
        return np.ones((len(texts), 6 + self.calls))


@pytest.mark.parametrize(
    ("text", "length", "distinct"),
    [
        ("The capital of France is Paris.", 0.07, 1.0),
        ("yes " * 10, 0.10, 0.125),
        ("the cat sat on the mat. " * 5, 0.35, 7 / 33),
        ("", 0.0, 1.0),
        ("two words", 0.02, 1.0),
        ("It's a test-case, isn't it? 3.14", 0.16, 1.0),
    ],
)
def test_length_and_repetition_of_known_texts(text, length, distinct):
    assert rr.length_incentive([text])[0] == pytest.approx(length, abs=1e-12)
    assert rr.repetition_penalty([text])[0] == pytest.approx(distinct, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("\n  good\n\n\n\nbad", "good"),
        ("good\n\n--\nbad", "good"),
        ("good ### Response: bad", "good"),
        ("good\n\nalso good", "good\n\nalso good"),
        ("### Instruction: bad", ""),
    ],
)
def test_text_after_a_stop_is_not_counted(text, kept):
    assert rr.truncate_response(text) == kept


def test_line_of_the_reference_branch_is_not_clipped():
    line = rr.interpolate([0, 3.5, 2, -0.2], input_range=(0, 3.5), output_range=(0, 5.12))
    np.testing.assert_allclose(line, [0, 5.12, 2 * 5.12 / 3.5, -0.2 * 5.12 / 3.5], rtol=1e-12)


@given(
    words=st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=3, max_size=40),
)
def test_length_times_repetition_counts_distinct_trigrams(words):
    text = " ".join(words)
    n, distinct = len(words), len(set(zip(words, words[1:], words[2:], strict=False)))
    product = rr.length_incentive([text]) * rr.repetition_penalty([text])
    assert product[0] == pytest.approx(distinct / 100 * n / (n - 2), abs=1e-12)


TEXT = st.text(alphabet="abcdefghij .", max_size=40)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(TEXT, TEXT, TEXT, st.sampled_from(["open", "closed"])), min_size=1),
    relevance=st.sampled_from(rr.RELEVANCE),
    li=st.booleans(),
    rp=st.booleans(),
    similarity=st.sampled_from(rr.SIMILARITIES),
)
def test_every_switch_against_a_direct_oracle(rows, relevance, li, rp, similarity):
    x, answers, y, types = (list(column) for column in zip(*rows, strict=True))
    y = [text.strip() or "a" for text in y]
    retriever = rr.Retriever(Letters())
    ours = rr.RelevanceReward(retriever, relevance, li, rp, similarity)(x, answers, y, types)

    def alike(a, b):
        a, b = Letters().encode([a.strip() and a, b.strip() and b])
        norm = np.linalg.norm(a) * np.linalg.norm(b)
        return a @ b if similarity == "dot" else (a @ b / norm if norm else 0.0)

    for i, kind in enumerate(types):
        text = rr.truncate_response(answers[i])
        closed = relevance == "reference" or (relevance == "by_type" and kind == "closed")
        value = 1.0 if relevance == "none" else alike(x[i], answers[i])
        value = 0.64 * alike(y[i], answers[i]) if closed else value
        value *= rr.length_incentive([text])[0] if li and not closed else 1
        value *= rr.repetition_penalty([text])[0] if rp else 1
        assert ours[i] == pytest.approx(value, abs=1e-12)

    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = [[column[i] for i in order] for column in (x, answers, y, types)]
    again = rr.RelevanceReward(retriever, relevance, li, rp, similarity)(*shuffled)
    np.testing.assert_allclose(again, ours[order], atol=1e-12)


def test_an_empty_response_is_legal():
    reward = rr.preset("r3", rr.Retriever(Letters()))
    row = reward.components(["abc"], [""], query_types=["open"]).iloc[0]
    assert (row.query_relevance, row.length_incentive, row.repetition_penalty) == (0, 0, 1)
    assert row.reward == 0


def test_a_text_is_encoded_once():
    retriever = rr.Retriever(Letters())
    reward = rr.preset("qr", retriever)
    reward(["abc"] * 5, ["a", "a", "b", "b", "c"])
    reward(["abc"] * 5, ["a", "a", "b", "b", "c"])
    assert retriever.encoded == 4


def test_trl_interface():
    reward = rr.preset("r3", rr.Retriever(Letters()))
    function = reward.as_trl_reward_func()
    given = function(
        ["ab", "cd"], ["ab c d", "c"], reference=["", "c"], query_type=["open", "closed"]
    )
    np.testing.assert_allclose(
        given, reward(["ab", "cd"], ["ab c d", "c"], ["", "c"], ["open", "closed"])
    )
    assert all(type(each) is float for each in given)


def test_copy_rate():
    rates = rr.copy_rate(["How do magnets work?"] * 3, ["how do magnets work?", "no idea", ""])
    np.testing.assert_allclose(rates, [1, 0, 0])


R3 = rr.preset("r3", rr.Retriever(Letters()))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], [], None, []), ValueError, "queries is empty"),
        ((["a"], ["b", "c"], None, ["open"]), ValueError, "equally long"),
        ((["a"], ["b"], None, ["closed"]), ValueError, "references is needed"),
        ((["a"], ["b"], [" "], ["closed"]), ValueError, r"references\[0\] is empty"),
        ((["a"], ["b"], [None], ["closed"]), ValueError, r"references\[0\] is empty"),
        ((["a"], ["b"], [3], ["closed"]), TypeError, r"references\[0\]"),
        ((["a"], ["b"], None, ["OPENENDED"]), ValueError, r"query_types\[0\] must be one of"),
        ((["a"], ["b"], None, None), ValueError, "query_types is needed"),
        ((["a", "b"], ["b", None], None, ["open"] * 2), TypeError, r"responses\[1\]"),
        (("a", ["b"], None, ["open"]), TypeError, "got one text"),
    ],
)
def test_bad_input_is_refused_before_any_work(arguments, error, message):
    before = R3.retriever.encoded
    with pytest.raises(error, match=message):
        R3(*arguments)
    assert R3.retriever.encoded == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"relevance": "both"}, "relevance must be one of"),
        ({"similarity": "euclid"}, "similarity must be one of"),
        ({"max_words": -1}, "max_words must be positive"),
        ({"words_per_unit": 0}, "words_per_unit must be positive"),
        ({"reference_range": (1, 0)}, "reference_range must increase"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        rr.RelevanceReward(rr.Retriever(Letters()), **settings)


def test_an_encoder_of_other_width_is_refused():
    retriever = rr.Retriever(Seven())
    retriever.encode(["a"])
    with pytest.raises(ValueError, match=r"expected \(1, 7\)"):
        retriever.encode(["b"])
    with pytest.raises(ValueError, match="must be one of"):
        rr.preset("r4", retriever)


def test_prompts_are_complete():
    prompts = rr.load_prompts()
    closed = prompts[prompts.query_type == "closed"]
    held_out = closed[closed.split == "test"]
    assert len(prompts) >= 60
    assert len(held_out) >= 30
    for row in closed.itertuples():
        assert re.search(row.accept, row.reference.lower())
        assert not re.search(row.accept, row.prompt.lower())
    with pytest.raises(ValueError, match="split must be"):
        rr.load_prompts("dev")


def test_minilm_relevance(minilm):
    """Self-similarity is one, batches do not matter, and another folder of weights may be given."""
    texts = ["How do magnets work?", "Equal poles push each other away.", "Bread needs yeast."]
    np.testing.assert_allclose(minilm.relevance(texts, texts), 1, atol=1e-6)
    alone = rr.Retriever(minilm.encoder)
    together = minilm.relevance([texts[0]] * 2, texts[1:])
    single = [alone.relevance([texts[0]], [text])[0] for text in texts[1:]]
    np.testing.assert_allclose(together, single, atol=1e-5)
    assert together[0] > together[1] + 0.2
