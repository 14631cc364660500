"""Break the measurements of notebooks 3 and 4 on purpose: each break turns a claim red."""

import math

import numpy as np
import pytest

from paperkit import claims, data
from paperkit.relevance_reward import lm_experiments as lab
from paperkit.relevance_reward import rl, selection
from paperkit.relevance_reward.reward import Retriever


@pytest.fixture(scope="module")
def ledger():
    return claims.chapter("relevance_reward")


def held(ledger, claim, value, interval=None):
    return ledger.judge(claim, value, interval=interval).held


def price(name, **settings):
    return lab.over_questions(lab.copy_probabilities(name, 0.01, **settings), f"test-{name}")


def test_a_reward_that_reads_another_question_does_not_pay_for_copies(ledger):
    prices = data.stored("relevance_reward", "prices")
    asked = prices["question"].tolist()
    other = lab.minilm().relevance([*asked[1:], asked[0]], asked)
    broken = price("QR", rewards=prices.assign(qr=other))
    assert held(ledger, "c2b1-price-qr", price("QR").estimate)
    assert not held(ledger, "c2b1-price-qr", broken.estimate)


def test_without_the_length_incentive_r3_is_hacked(ledger, monkeypatch):
    table = lab.pool()
    monkeypatch.setattr(
        lab, "pool", lambda query_type="open": table.assign(R3=table["qr"] * table["rp"])
    )
    prices = data.stored("relevance_reward", "prices")
    broken = price("R3", rewards=prices.assign(r3=prices["qr"]))
    assert not held(ledger, "c2b2-price-r3", broken.estimate)


def test_selection_weights_of_another_rank(ledger, monkeypatch):
    def wrong(size, n):
        return np.array([math.comb(i + 1, n) / math.comb(size, n) for i in range(size)])

    monkeypatch.setattr(selection, "best_of_n_weights", wrong)
    assert not held(ledger, "c2b5-weights", lab.weights_error())


def test_runs_under_other_rewards_fail_each_other_s_claims(ledger):
    assert not held(ledger, "c2c1-rl-copies", float(lab.last_steps("qr_shuffled", "exact").min()))
    assert not held(ledger, "c2c1-rl-copies", float(lab.last_steps("r3", "exact").min()))
    assert not held(ledger, "c2c2-rl-r3", float(lab.last_steps("qr", "exact").max()))
    assert not held(ledger, "c2c5-rl-shuffled", float(lab.last_steps("qr", "exact").max()))
    assert held(ledger, "c2c8-rl-qr-li", float(lab.last_steps("qr_li", "exact").max()))
    assert not held(ledger, "c2c8-rl-qr-li", float(lab.last_steps("qr", "exact").max()))
    changed = lab.words_change("r3")
    assert not held(ledger, "c2c6-rl-words", changed.estimate, changed)


def test_answers_that_loop_would_turn_the_row_on_repetition(ledger, monkeypatch):
    found = lab.repetition_difference("qr_li", "r3")
    assert not held(ledger, "c2c9-rl-qr-li-repeats", found.estimate, found)
    table = lab.rollouts()
    looping = table.assign(rp=table["rp"].where(table["run"] != "qr_li", 0.6))
    monkeypatch.setattr(lab, "rollouts", lambda: looping)
    found = lab.repetition_difference("qr_li", "r3")
    assert held(ledger, "c2c9-rl-qr-li-repeats", found.estimate, found)


def test_kl_as_a_mean_over_tokens_is_another_number(ledger, monkeypatch):
    table = lab.rollouts()
    broken = table.assign(log_ratio=table["log_ratio"] / table["tokens"])
    monkeypatch.setattr(lab, "rollouts", lambda: broken)
    assert not held(ledger, "c2c3-rl-price", lab.collapse_price())


def test_references_of_other_questions_select_nothing(ledger, monkeypatch):
    table = lab.pool("closed")
    rolled = table.assign(
        AR_RP=np.roll(table["AR_RP"].to_numpy(), 7), R3=np.roll(table["R3"].to_numpy(), 7)
    )
    monkeypatch.setattr(lab, "pool", lambda query_type="open": rolled)
    gap = lab.selection_difference("AR_RP", "QR", "correct", query_type="closed")
    assert not held(ledger, "c4b-selection", gap.estimate)
    assert not held(ledger, "c4c-selection-interval", gap.estimate, gap)
    gap = lab.selection_difference("R3", "none", "correct", query_type="closed")
    assert not held(ledger, "c6a-closed", gap.estimate, gap)


def test_types_that_are_all_open_cost_right_answers(ledger, monkeypatch):
    table = lab.pool("closed")
    monkeypatch.setattr(lab, "pool", lambda query_type="open": table.assign(R3=table["R3_open"]))
    gap = lab.selection_difference("R3", "R3_open", "correct", query_type="closed")
    assert not held(ledger, "c6b-types", gap.estimate, gap)


def test_adapters_that_are_left_off(ledger, monkeypatch):
    values = {"qr": 0.11, "r3": 0.11}  # the start's, for both
    assert not held(ledger, "c2c7-live", values["qr"] - values["r3"])
    share = lab.run_records().set_index("run")["log_copy_before"]["qr"].iloc[0]
    assert np.exp(share).mean() < 0.5


def test_a_retriever_without_memory(ledger, monkeypatch):
    class Forgetful(Retriever):
        def encode(self, texts):
            self._known.clear()
            rows = []
            for text in texts:
                self._known.clear()
                rows.append(super().encode([text])[0])
            return np.array(rows)

    assert held(ledger, "s2-calls", lab.encoder_calls("qr"))
    monkeypatch.setattr(lab, "Retriever", Forgetful)
    assert not held(ledger, "s2-calls", lab.encoder_calls("qr"))


def test_shuffled_types_cannot_be_learnt(ledger, monkeypatch):
    table = lab.load_prompts()
    shuffled = table.assign(query_type=np.random.default_rng(0).permutation(table["query_type"]))
    monkeypatch.setattr(lab, "load_prompts", lambda: shuffled)
    assert not held(ledger, "c10-classifier", float(lab.classify_types()["right"].mean()))


def test_copies_that_are_counted_by_letters_would_miss_the_claim():
    # a copy that lost its question mark and capitals is still a copy
    assert rl.copying(["Why do we dream?"], ["why do we dream"]).exact[0]
