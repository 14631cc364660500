"""Claims of the chapter turn red when the method is broken on purpose."""

import numpy as np
import pytest

from paperkit import claims
from paperkit.relevance_reward import Retriever
from paperkit.relevance_reward import experiments as ex
from paperkit.relevance_reward import preferences as pf
from paperkit.relevance_reward import reward as rr
from paperkit.relevance_reward import world as sw


@pytest.fixture(scope="module")
def ledger():
    return claims.chapter("relevance_reward")


@pytest.fixture(autouse=True)
def fresh():
    """Rewards of the worlds are remembered: forget them around every test."""
    ex.worlds_and_rewards.cache_clear()
    yield
    ex.worlds_and_rewards.cache_clear()


# ------------------------------------------------------------------------ the formula


def test_bigrams_in_place_of_trigrams(ledger, monkeypatch):
    assert ledger.judge("f1-trigrams", ex.trigram_error(n_texts=50)).ok
    original = rr.repetition_penalty
    monkeypatch.setattr(rr, "repetition_penalty", lambda texts: original(texts, n=2))
    assert not ledger.judge("f1-trigrams", ex.trigram_error(n_texts=50)).ok


def test_subtracted_penalty(ledger, monkeypatch):
    monkeypatch.setattr(
        rr, "repetition_penalty", lambda texts, n=3: rr.distinct_n(rr._words(texts), n) - 1
    )
    assert not ledger.judge("f1-trigrams", ex.trigram_error(n_texts=50)).ok


def test_padding_with_the_other_similarity(ledger, monkeypatch):
    errors = ex.padding_errors()
    assert ledger.judge("f2a-padding-dot", errors["dot"]).ok
    assert ledger.judge("f2b-padding-cosine", errors["cosine"]).ok
    original = ex.padding_gain
    other = {"dot": "cosine", "cosine": "dot"}
    monkeypatch.setattr(ex, "padding_gain", lambda similarity: original(other[similarity]))
    errors = ex.padding_errors()
    assert not ledger.judge("f2a-padding-dot", errors["dot"]).ok
    assert not ledger.judge("f2b-padding-cosine", errors["cosine"]).ok


# ------------------------------------------------------------------------ the sentence world


class AboutAnother:
    """Relevance is measured against the question of another world."""

    def __init__(self, retriever, prompts):
        self.retriever = retriever
        self.other = dict(zip(prompts, prompts[::-1], strict=True))

    def relevance(self, a, b, *, similarity="cosine"):
        return self.retriever.relevance([self.other[x] for x in a], b, similarity=similarity)


def test_relevance_to_another_question(ledger, monkeypatch, minilm):
    """The mutation of C2: x is another prompt. Copying is no longer what pays."""
    assert ledger.judge("c2a1-copy-optimum", ex.copies_on_top("cosine")).ok
    two = sw.load_worlds()[:2]
    monkeypatch.setattr(sw, "load_worlds", lambda off_topic="other": two)
    broken = AboutAnother(minilm, [world.prompt for world in two])
    assert ex.copies_on_top("cosine") == 2
    assert ex.copies_on_top("cosine", retriever=broken) == 0
    early = ex.failure("qr", "only_copy", 2.0, retriever=broken)
    assert not ledger.judge("c2a3-copy-early", early.estimate, interval=early).ok


def judged(ledger, id, name, kind, **settings):
    found = ex.failure(name, kind, **settings)
    return ledger.judge(id, found.estimate, interval=found).ok


@pytest.mark.parametrize(
    ("id", "name", "kind", "broken"),
    [
        ("c3f-r3-copies", "r3_open", "only_copy", "qr"),  # LI dropped
        ("c3f-r3-copies", "r3_open", "only_copy", "qr_rp"),
        ("c3g-r3-repeats", "r3_open", "repeats", "qr_li"),  # RP dropped
        ("c3a-qr-copies", "qr", "only_copy", "qr_li"),  # LI added
        ("c3b-li-repeats", "li", "repeats", "li_rp"),  # RP added
        ("c3c-li-rp-wanders", "li_rp", "off_topic", "r3_open"),  # QR added
        ("c3d-qr-li-repeats", "qr_li", "repeats", "r3_open"),  # RP added
    ],
)
def test_a_term_more_or_less(ledger, id, name, kind, broken):
    assert judged(ledger, id, name, kind)
    assert not judged(ledger, id, broken, kind)


def test_dot_ladder_with_rp(ledger):
    assert judged(ledger, "c3e-qr-li-repeats-dot", "qr_li", "repeats", similarity="dot")
    assert not judged(ledger, "c3e-qr-li-repeats-dot", "r3_open", "repeats", similarity="dot")


def test_wandering_without_relevance(ledger, monkeypatch):
    found = ex.wandering_saved()
    assert ledger.judge("c3h-r3-stays", found.estimate, interval=found).ok
    monkeypatch.setitem(rr.PRESETS, "r3_open", rr.PRESETS["li_rp"])
    ex.worlds_and_rewards.cache_clear()
    found = ex.wandering_saved()
    assert not ledger.judge("c3h-r3-stays", found.estimate, interval=found).ok


def test_other_embeddings_than_stored(ledger, minilm):
    class Shifted:
        dimension = 384

        def encode(self, texts, **settings):
            return minilm.encoder.encode(texts, **settings) + 0.01

    assert ledger.judge("c2a4-tables", ex.world_difference(retriever=minilm)).ok
    assert not ledger.judge("c2a4-tables", ex.world_difference(retriever=Retriever(Shifted()))).ok


@pytest.mark.parametrize("broken", ["no KL", "sign"])
def test_wrong_policy_gradient(ledger, monkeypatch, broken):
    original = sw.rloo_gradient

    def gradient(logits, log_ref, rewards, drawn, *, beta):
        if broken == "no KL":
            return original(logits, log_ref, rewards, drawn, beta=0.0)
        return -original(logits, log_ref, rewards, drawn, beta=beta)

    monkeypatch.setattr(sw, "rloo_gradient", gradient)
    assert not ledger.judge("f3-rloo", ex.rloo_share()).ok


# ------------------------------------------------------------------------ the reward model


def test_annotator_that_is_not_people(ledger):
    assert ledger.judge("c1a-annotator", ex.annotator_residual()).ok
    assert not ledger.judge("c1a-annotator", ex.annotator_residual(ex.MILDER_TASTE)).ok


def test_annotator_without_taste_for_length(ledger):
    """The mutation of C1: with w_l = 0 the long answer off the topic no longer wins."""
    plain = ex.study(4, annotator=pf.AnnotatorModel(ex.calibrated_annotator().quality_weight, 0.0))
    wrong, difference = ex.share(plain, "rm_wrong"), ex.relevance_minus_model(plain)
    assert not ledger.judge("c1b-prefers-long", wrong.estimate, interval=wrong).ok
    assert wrong.estimate < ex.share(ex.study(4), "rm_wrong").estimate - 0.2
    assert not ledger.judge("c1e-difference", difference.estimate, interval=difference).ok


def test_the_milder_the_taste_the_better():
    milder = ex.share(ex.study(4, annotator=ex.MILDER_TASTE), "rm_wrong")
    assert milder.estimate < ex.share(ex.study(4), "rm_wrong").estimate


def test_relevance_of_the_wrong_question(ledger, monkeypatch):
    original = ex.draw_triplets

    def swapped(answers, countries, rng):
        triplets = original(answers, countries, rng)
        triplets["query"] = np.roll(triplets["query"].to_numpy(), ex.DRAWS)
        return triplets

    monkeypatch.setattr(ex, "draw_triplets", swapped)
    table = ex.study(6)
    right, matched = ex.share(table, "qr_right"), ex.share(table, "matched_right")
    assert not ledger.judge("c1c-relevance-right", right.estimate, interval=right).ok
    assert not ledger.judge("c1d-length-matched", matched.estimate, interval=matched).ok


def test_reward_model_of_random_choices(ledger, monkeypatch):
    monkeypatch.setattr(
        pf.AnnotatorModel, "probability", lambda self, quality, length: np.full(len(quality), 0.5)
    )
    effect = ex.effect_of_length(ex.study(4), 4)
    assert not ledger.judge("c1g-cause", effect.estimate, interval=effect).ok


def test_negatives_with_shuffled_labels(ledger):
    curve = ex.negatives_curve(n=3).right.to_numpy()
    assert ledger.judge("c1h-negatives", curve[-1] - curve[0]).ok
    broken = ex.negatives_curve(n=3, shuffle=True).right.to_numpy()
    assert not ledger.judge("c1h-negatives", broken[-1] - broken[0]).ok


# ------------------------------------------------------------------------ inputs, second retriever


def test_a_reward_that_reads_preferences(ledger, monkeypatch):
    assert ledger.judge("c5a-inputs", ex.inputs_read()).ok
    original = rr.RelevanceReward.as_trl_reward_func

    def greedy(self):
        function = original(self)
        return lambda prompts, answers, **columns: [
            reward + (column != "")
            for reward, column in zip(
                function(prompts, answers, **columns), columns["chosen"], strict=True
            )
        ]

    monkeypatch.setattr(rr.RelevanceReward, "as_trl_reward_func", greedy)
    assert not ledger.judge("c5a-inputs", ex.inputs_read()).ok


def test_second_retriever_with_shuffled_vectors(ledger, monkeypatch):
    copies = ex.second_retriever_copies()
    assert ledger.judge("c7c-second-ladder", copies.estimate, interval=copies).ok
    broken = Retriever(ex.VectorEncoder({}))
    broken.encode = lambda texts: np.random.default_rng(len(texts)).normal(size=(len(texts), 8))
    monkeypatch.setattr(ex, "word_vectors", lambda: broken)
    right, copies = ex.second_retriever_right(n=3), ex.second_retriever_copies()
    assert not ledger.judge("c7b-second-retriever", right.estimate, interval=right).ok
    assert not ledger.judge("c7c-second-ladder", copies.estimate, interval=copies).ok
