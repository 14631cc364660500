"""Break the method on purpose: each break must turn a claim red."""

import numpy as np
import pytest
from scipy.special import expit, logit

from paperkit import claims, profiles
from paperkit.risk_scores import (
    LMRiskScorer,
    experiments,
    judging,
    load_published_results,
    polarisation,
    published,
    recalibration,
    scoring,
)


@pytest.fixture(scope="module")
def ledger():
    return claims.chapter("risk_scores")


@pytest.fixture(scope="module")
def results():
    return load_published_results()


def held(ledger, row, value, interval=None):
    return ledger.judge(row, value, interval=interval).held


# --- the authors' table ------------------------------------------------------------------------------------


def swapped(results):
    other = {"multiple_choice": "numeric", "numeric": "multiple_choice"}
    return results.assign(scheme=results.scheme.map(other))


def test_swapping_letters_and_numbers(ledger, results):
    good, _ = experiments.signal_shares(results)
    bad, _ = experiments.signal_shares(swapped(results))
    assert held(ledger, "r2a-signal", good.estimate, good)
    assert not held(ledger, "r2a-signal", bad.estimate, bad)
    share, _ = experiments.numeric_effect(swapped(results), instruct=True)
    assert not held(ledger, "r6a-numeric-better", share.estimate)


def test_calibrated_scores_would_not_count_as_miscalibrated(ledger, results):
    assert held(ledger, "r2b-miscalibrated", experiments.miscalibrated_share(results).estimate)
    fair = experiments.miscalibrated_share(results.assign(ece=results.ece / 10))
    assert not held(ledger, "r2b-miscalibrated", fair.estimate)


def test_gap_against_the_brier_score_of_the_score_itself(ledger, results, monkeypatch):
    good, _ = experiments.gap_shares(results)
    assert held(ledger, "r3a-base-over", good.estimate)

    def own(rows, *, baseline="XGBoost"):
        rows = rows[rows.scheme == "multiple_choice"].copy()
        rows["gap"] = rows.claimed_uncertainty - rows.brier
        return rows

    monkeypatch.setattr(published, "uncertainty_gaps", own)
    bad, _ = experiments.gap_shares(results)
    assert not held(ledger, "r3a-base-over", bad.estimate)


def test_wrong_sign_of_the_variance(ledger, monkeypatch):
    monkeypatch.setattr(published, "uncertainty_from_moments", lambda m, sd: m - m**2 + sd**2)
    _, tuned = experiments.gap_shares(load_published_results())
    assert not held(ledger, "r4a-instruct-under", tuned.estimate)


def test_pairing_by_row_order(ledger, results, monkeypatch):
    good = experiments.tuning_lowers_share(results)
    assert held(ledger, "r4b-tuning-lowers", good.estimate)

    def by_row(rows):
        rows = rows[rows.scheme == "multiple_choice"]
        pairs = rows[: len(rows) // 2 * 2]
        first, second = pairs.iloc[::2], pairs.iloc[1::2]
        return first.assign(
            claimed_uncertainty_base=first.claimed_uncertainty,
            claimed_uncertainty_instruct=second.claimed_uncertainty.to_numpy(),
        )

    monkeypatch.setattr(published, "family_pairs", by_row)
    assert not held(ledger, "r4b-tuning-lowers", experiments.tuning_lowers_share(results).estimate)


def test_a_calibrated_learner_tracks_the_task(ledger, results):
    assert held(ledger, "r5a-no-tracking", experiments.median_tracking(results).estimate)
    learner = results.assign(
        claimed_uncertainty=results.task.map(published.present_uncertainty("GBM"))
    )
    assert not held(ledger, "r5a-no-tracking", experiments.median_tracking(learner).estimate)
    reversed_table = experiments.pd.DataFrame({"claimed": [3, 2, 1], "present": [1, 2, 3]})
    assert not held(ledger, "r5b-control", experiments.correlation(reversed_table))


def test_the_same_scores_for_both_questions(ledger, results):
    choice = results[results.scheme == "multiple_choice"]
    same = experiments.pd.concat([choice, choice.assign(scheme="numeric")])
    share, p = experiments.numeric_effect(same, instruct=True)
    assert not held(ledger, "r6a-numeric-better", share.estimate)
    assert not held(ledger, "r6b-numeric-test", p)
    _, p_base = experiments.numeric_effect(results, instruct=False)
    assert held(ledger, "r6c-numeric-base", p_base)
    better = results.assign(ece=np.where(results.scheme == "numeric", results.ece / 2, results.ece))
    assert not held(
        ledger, "r6c-numeric-base", experiments.numeric_effect(better, instruct=False)[1]
    )


def test_keeping_the_entries_that_the_authors_leave_out(ledger):
    everything = load_published_results(exclude=())
    assert len(everything) == 210
    assert everything.groupby("model").size().eq(10).all()
    assert not held(ledger, "r12b-models", everything.model.nunique())
    with pytest.raises(ValueError, match="not in the table: nobody"):
        load_published_results(exclude=("nobody",))


# --- polarisation ------------------------------------------------------------------------------------------


def test_wrong_sign_of_the_strength(ledger, monkeypatch):
    assert held(ledger, "r7d-realizable-error", experiments.realizable_change()["error"])
    monkeypatch.setattr(
        polarisation,
        "polarise",
        lambda s, beta, eta=None: expit(logit(s) - (2 * np.asarray(s) - 1) / beta),
    )
    assert not held(ledger, "r7d-realizable-error", experiments.realizable_change()["error"])
    assert not held(
        ledger, "r8b-accuracy-blind", experiments.blindness(names=("income",))["predictions"]
    )
    monkeypatch.setattr(polarisation, "polarise", lambda s, beta, eta=None: 1 - np.asarray(s))
    assert not held(ledger, "r7e-realizable-accuracy", experiments.realizable_change()["accuracy"])
    assert not held(ledger, "r7f-optimum", experiments.formula_error(n=5))
    assert not held(ledger, "r8a-auc-blind", experiments.blindness(names=("income",))["auc"])


def test_no_polarisation_is_no_factor(ledger, monkeypatch):
    monkeypatch.setattr(polarisation, "polarise", lambda s, beta, eta=None: np.asarray(s))
    ratio = experiments.error_ratio("income", n_folds=1, n_draws=100)
    assert not held(ledger, "r7a-unrealizable-income", ratio.estimate)
    assert not held(ledger, "r7b-unrealizable-employment", ratio.estimate)


def test_a_transform_that_is_not_monotone_is_seen_by_isotonic_regression(ledger, monkeypatch):
    assert held(ledger, "r15a-isotonic", experiments.isotonic_difference())
    monkeypatch.setattr(
        polarisation, "polarise", lambda s, beta, eta=None: np.abs(2 * np.asarray(s) - 1)
    )
    assert not held(ledger, "r15a-isotonic", experiments.isotonic_difference())
    assert not held(ledger, "r8a-auc-blind", experiments.blindness(names=("income",))["auc"])


def test_a_repair_that_does_nothing(ledger, monkeypatch):
    y, s = experiments.polarised_employment()
    monkeypatch.setattr(
        recalibration.ScoreCalibrator, "predict", lambda self, scores: np.asarray(scores)
    )
    gain = experiments.repair_gain(
        experiments.repair(y, s, n_labels=100, method="platt", n_draws=20)
    )
    assert not held(ledger, "r15b-few-labels", gain.estimate, gain)
    assert not held(ledger, "r15c-few-labels-lm", gain.estimate, gain)


# --- the stored scores of the small model ------------------------------------------------------------------


@pytest.fixture(scope="module")
def scores():
    return experiments.stored_scores()


def test_labels_that_are_not_shuffled(ledger, scores, monkeypatch):
    assert held(ledger, "r9a-shuffled", experiments.shuffled_p(scores))

    class Lazy:
        def permutation(self, y):
            return y

    monkeypatch.setattr(experiments, "_rng", lambda *key: Lazy())
    assert not held(ledger, "r9a-shuffled", experiments.shuffled_p(scores))


def test_a_stored_score_that_is_a_little_off(scores, monkeypatch):
    with pytest.raises(ValueError, match="not those of the stored scores"):
        experiments.recheck(scores.assign(choice_digest="0"), n=2, model=_Silent())


class _Silent:
    def next_token_logprobs(self, prompts, tokens):
        return np.full((len(prompts), len(tokens)), -3.0)


def test_a_model_that_is_another_one(ledger, scores):
    assert not held(ledger, "r9b-recheck", experiments.recheck(scores, n=4, model=_Silent()))


def test_averaging_the_letter_instead_of_the_answer(ledger, scores):
    effect = experiments.letter_effect(scores, "income")
    squeeze = effect["squeeze_predicted"] / effect["squeeze_measured"]
    assert held(ledger, "r10c-squeeze", squeeze)
    assert held(ledger, "r10b-bias-evidence", effect["ratio"])
    letter = (expit(scores.choice_logit_order1) + expit(scores.choice_logit_order2)) / 2
    wrong = experiments.letter_effect(scores.assign(choice_score=letter), "income")
    assert not held(ledger, "r10c-squeeze", wrong["squeeze_predicted"] / wrong["squeeze_measured"])
    fair = scores.assign(choice_letter_bias=0.1, choice_logit_order1=-0.1, choice_logit_order2=0.1)
    unbiased = experiments.letter_effect(fair, "income")
    assert not held(ledger, "r10a-letter", min(unbiased["p_a_order1"], unbiased["p_a_order2"]))
    assert not held(ledger, "r10b-bias-evidence", unbiased["ratio"])


def test_no_signal_without_the_person(ledger, scores):
    y, s = experiments.readings(scores)["employment", "raw", "whole answers"]
    rng = np.random.default_rng(0)
    interval = experiments.auc_interval(y, rng.permutation(s))
    assert not held(ledger, "r9f-whole-answers", interval.estimate, interval)
    perfect = experiments.auc_interval(y, y.astype(float))
    for row in ("r9c-income-signal", "r9d-employment-signal"):
        assert not ledger.judge(row, interval.estimate, interval=interval).held
        assert not ledger.judge(row, perfect.estimate, interval=perfect).ok  # a flip is news


def test_counts_of_the_interface(ledger):
    assert held(ledger, "r11a-custom-task", experiments.code_lines("a = 1\n\n# why\nb = 2"))
    assert not held(ledger, "r11a-custom-task", experiments.code_lines("a = 1\n" * 13))
    assert held(ledger, "r12a-tasks", experiments.tasks_as_stated())


def test_a_row_filter_that_is_off_by_one(ledger, monkeypatch):
    whole = experiments.load_task
    monkeypatch.setattr(experiments, "load_task", lambda name: whole(name).take(range(100)))
    assert not held(ledger, "r12a-tasks", experiments.tasks_as_stated())


# --- the real model ----------------------------------------------------------------------------------------


@pytest.mark.model
def test_reading_the_answers_otherwise_than_the_authors(ledger, monkeypatch):
    one = {
        name: facts
        for name, facts in experiments.reference_scores().items()
        if name == "employment"
    }
    one["employment"] = one["employment"] | {"numeric": one["employment"]["numeric"][:1]}
    one["employment"] |= {"margin": one["employment"]["margin"][:1]}
    monkeypatch.setattr(experiments, "reference_scores", lambda: one)
    assert held(ledger, "r1a-choice-equal", experiments.reference_difference()["choice"])

    with monkeypatch.context() as patch:  # forget one of the two orders
        patch.setattr(scoring, "read_choices", lambda a, b, order: _fixed(a))
        assert not held(ledger, "r1a-choice-equal", experiments.reference_difference()["choice"])
    with monkeypatch.context() as patch:  # the letter without its space
        patch.setattr(scoring, "LETTER_TOKENS", ("A", "B", "A", "B"))
        assert not held(ledger, "r1a-choice-equal", experiments.reference_difference()["choice"])
    with monkeypatch.context() as patch:  # drop the last line of the prompt
        plain = LMRiskScorer.prompts
        patch.setattr(
            LMRiskScorer,
            "prompts",
            lambda self, *a: [p[: -len("Answer:")] for p in plain(self, *a)],
        )
        with pytest.raises(ValueError, match="not those that the authors' software scored"):
            experiments.reference_difference()


def _fixed(table):
    import pandas as pd

    return pd.DataFrame({"score": expit(-scoring.letter_logits(table)[0])})


def test_seeds_come_from_the_environment(monkeypatch):
    first = experiments._rng("x").random()
    monkeypatch.setenv("PAPERKIT_SEED", "7")
    assert profiles.base_seed() == 7
    assert experiments._rng("x").random() != first
    assert judging.auc([0, 1], [0.1, 0.2]) == 1
