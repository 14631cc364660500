"""Questions to scores: readings on known numbers, the estimator on backends with known answers."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_predict

from paperkit.risk_scores import (
    AnswerNotFound,
    Column,
    LMRiskScorer,
    Question,
    Task,
    TopLogprobsBackend,
)
from paperkit.risk_scores.scoring import (
    LETTER_TOKENS,
    letter_logits,
    read_choices,
    read_digits,
    score_together,
)

TASK = Task(
    "rain",
    "One day.",
    (Column("cloud", "cloud cover"),),
    Question("Will it rain?", ("No", "Yes"), "What is the probability of rain?"),
)
X = pd.DataFrame({"cloud": np.arange(12)}, index=np.arange(12) + 100)
Y = np.array([0, 0, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1])
BIAS = 1.7


def evidence(cloud):
    return (cloud - 5.5) / 10


class Known:
    """A backend with letter bias 1.7 and evidence that grows with the clouds."""

    def next_token_logprobs(self, prompts, tokens):
        return np.array([[self.one(p, t) for t in tokens] for p in prompts])

    def one(self, prompt, token):
        cloud = int(prompt.rsplit("cloud cover is: ", 1)[1].split(".")[0])
        if token.strip() in "AB":
            positive_at_a = prompt.rstrip().endswith("A. Yes.\nB. No.\nAnswer:")
            logit = BIAS + (1 if positive_at_a else -1) * evidence(cloud)
            share = 0.8 if token.startswith(" ") else 0.1
            p = expit(logit) if token.strip() == "A" else 1 - expit(logit)
            return np.log(share * p)
        # first digit peaks at cloud // 2, second at 7
        peak = 7 if prompt[-2:].isdigit() or prompt[-1].isdigit() else cloud // 2
        return np.log(0.5) if int(token) == peak else np.log(0.5 / 9)


@pytest.fixture
def scorer():
    return LMRiskScorer(TASK, Known())


def test_mean_logit_removes_the_letter_and_mean_probability_squeezes(scorer):
    e = evidence(X.cloud.to_numpy())
    details = scorer.score_details(X)
    assert details.letter_bias.to_numpy() == pytest.approx(BIAS, abs=1e-12)
    assert details.evidence.to_numpy() == pytest.approx(e, abs=1e-12)
    assert details.score.to_numpy() == pytest.approx(
        (expit(e - BIAS) + expit(e + BIAS)) / 2, abs=1e-12
    )
    assert details.answer_mass.to_numpy() == pytest.approx(0.8)
    assert details.index.tolist() == X.index.tolist()
    logit = scorer.set_params(order="mean_logit").predict_proba(X)[:, 1]
    assert logit == pytest.approx(expit(e), abs=1e-12)
    fixed = scorer.set_params(order="fixed").predict_proba(X)[:, 1]
    assert fixed == pytest.approx(expit(e - BIAS), abs=1e-12)


def test_rows_do_not_depend_on_each_other(scorer):
    whole = scorer.predict_proba(X)
    assert scorer.predict_proba(X.iloc[::-1])[::-1] == pytest.approx(whole, abs=1e-12)
    assert scorer.predict_proba(X.iloc[[3]]) == pytest.approx(whole[[3]], abs=1e-12)
    assert whole.sum(axis=1) == pytest.approx(1)


def test_swapping_the_meaning_gives_the_complement():
    swapped = Task("rain", "One day.", TASK.columns, Question("Will it rain?", ("Yes", "No")))
    for order in ("mean_probability", "mean_logit"):
        a = LMRiskScorer(TASK, Known(), order=order).predict_proba(X)[:, 1]
        b = LMRiskScorer(swapped, Known(), order=order).predict_proba(X)[:, 1]
        assert a + b == pytest.approx(1, abs=1e-12)


def test_greedy_and_expected_numbers_agree_with_enumeration():
    greedy = LMRiskScorer(TASK, Known(), scheme="numeric").predict_proba(X)[:, 1]
    assert greedy == pytest.approx([(10 * (c // 2) + 7) / 100 for c in range(12)])
    details = LMRiskScorer(TASK, Known(), scheme="numeric", decode="expected").score_details(X)
    for cloud, s in zip(range(12), details.score, strict=True):
        total = 0.0
        for d1 in range(10):
            for d2 in range(10):
                p1 = 0.5 if d1 == cloud // 2 else 0.5 / 9
                p2 = 0.5 if d2 == 7 else 0.5 / 9
                total += p1 * p2 * (10 * d1 + d2) / 100
        assert s == pytest.approx(total, abs=1e-12)
    assert details.greedy.to_numpy() == pytest.approx(greedy)


def test_letters_take_the_variant_with_more_mass():
    table = np.log([[0.1, 0.1, 0.5, 0.2], [0.4, 0.2, 0.1, 0.05]])
    logit, mass, p_a = letter_logits(table)
    assert logit == pytest.approx(np.log([0.5 / 0.2, 0.4 / 0.2]))
    assert mass == pytest.approx([0.7, 0.6])
    assert p_a == pytest.approx([5 / 7, 2 / 3])


def test_read_digits_renormalises_over_digits():
    first = np.log(np.full((1, 10), 0.05))
    second = np.log(np.full((1, 10, 10), 0.02))
    details = read_digits(first, second)
    assert details.expected[0] == pytest.approx(0.495)
    assert details.digit_mass[0] == pytest.approx(0.5)


def test_hosted_model_that_lists_few_tokens(scorer):
    known = Known()

    def query(prompts):
        return [{t: known.one(p, t) for t in LETTER_TOKENS[:2]} for p in prompts]

    hosted = LMRiskScorer(TASK, TopLogprobsBackend(query))
    assert hosted.predict_proba(X) == pytest.approx(scorer.predict_proba(X), abs=1e-12)
    one_letter = LMRiskScorer(TASK, TopLogprobsBackend(lambda ps: [{" A": -0.1} for _ in ps]))
    with pytest.raises(AnswerNotFound, match="prompt 0: no log-probability for the answer ' B'"):
        one_letter.predict_proba(X)
    with pytest.raises(ValueError, match="query returned 0 answers"):
        LMRiskScorer(TASK, TopLogprobsBackend(lambda ps: [])).predict_proba(X)
    with pytest.raises(ValueError, match="whole answers"):
        LMRiskScorer(TASK, TopLogprobsBackend(query), scheme="completion").predict_proba(X)
    with pytest.raises(ValueError, match="tokenizer"):
        LMRiskScorer(TASK, TopLogprobsBackend(query), chat=True).predict_proba(X)


def test_examples_come_from_the_fit_data_balanced_and_fixed():
    a = LMRiskScorer(TASK, Known(), n_shots=4, random_state=3).fit(X, Y)
    assert sorted(label for _, label in a.shots_) == [0, 0, 1, 1]
    assert all(Y[row["cloud"]] == label for row, label in a.shots_)
    again = LMRiskScorer(TASK, Known(), n_shots=4, random_state=3).fit(X, Y)
    assert a.shots_ == again.shots_
    prompt = a.prompts(pd.DataFrame({"cloud": [99]}))[0]
    assert prompt.count("Question: Will it rain?") == 5
    assert prompt.endswith("is: 99.\n\nQuestion: Will it rain?\nA. No.\nB. Yes.\nAnswer:")
    with pytest.raises(NotFittedError):
        LMRiskScorer(TASK, Known(), n_shots=2).predict_proba(X)


@pytest.mark.parametrize("method", ["platt", "isotonic", "temperature"])
def test_calibration_and_threshold_are_fitted(method):
    many = pd.DataFrame({"cloud": np.tile(np.arange(12), 40)})
    rng = np.random.default_rng(0)
    y = (rng.random(len(many)) < expit(3 * evidence(many.cloud.to_numpy()))).astype(int)
    scorer = LMRiskScorer(TASK, Known(), calibration=method, threshold="best").fit(many, y)
    s = scorer.predict_proba(many)[:, 1]
    raw = LMRiskScorer(TASK, Known()).predict_proba(many)[:, 1]
    assert np.mean((y - s) ** 2) <= np.mean((y - raw) ** 2) + 1e-9
    cuts = [np.mean((s >= c) == y) for c in np.r_[0, np.unique(s), 1.1]]
    assert scorer.score(many, y) == pytest.approx(max(cuts))


def test_temperature_flattens(scorer):
    base = scorer.predict_proba(X)[:, 1]
    flat = clone(scorer).set_params(temperature=4.0).predict_proba(X)[:, 1]
    assert (np.abs(flat - 0.5) <= np.abs(base - 0.5)).all()


def test_it_is_a_scikit_learn_classifier():
    scorer = LMRiskScorer(TASK, Known(), calibration="platt")
    assert clone(scorer).get_params()["calibration"] == "platt"
    with pytest.raises(NotFittedError):
        scorer.predict(X)
    proba = cross_val_predict(scorer, X, Y, cv=3, method="predict_proba")
    assert proba.shape == (12, 2)
    twin = pickle.loads(pickle.dumps(scorer.fit(X, Y)))
    assert twin.predict_proba(X) == pytest.approx(scorer.predict_proba(X))
    assert set(scorer.predict(X)) <= {0, 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "essay"}, "scheme must be one of"),
        ({"order": "both"}, "order must be one of"),
        ({"decode": "beam"}, "decode must be one of"),
        ({"normalise": "words"}, "normalise must be one of"),
        ({"calibration": "beta"}, "calibration must be one of"),
        ({"n_shots": -1}, "n_shots must not be negative"),
        ({"n_shots": 2, "scheme": "numeric"}, "not probabilities"),
        ({"temperature": 0}, "temperature must be positive"),
        ({"threshold": 2}, "threshold must be"),
    ],
)
def test_bad_parameters_are_named_before_any_work(options, message):
    with pytest.raises(ValueError, match=message):
        LMRiskScorer(TASK, Known(), **options).predict_proba(X)


def test_bad_data_is_named(scorer):
    with pytest.raises(TypeError, match="DataFrame"):
        scorer.predict_proba([[1]])
    with pytest.raises(ValueError, match="lacks columns of task 'rain': 'cloud'"):
        scorer.predict_proba(pd.DataFrame({"sun": [1]}))
    with pytest.raises(ValueError, match="no rows"):
        scorer.predict_proba(X.iloc[:0])
    with pytest.raises(ValueError, match="one class only"):
        scorer.fit(X, np.ones(12))
    with pytest.raises(ValueError, match="0 and 1 only"):
        scorer.fit(X, np.arange(12))
    with pytest.raises(ValueError, match="equal length"):
        scorer.fit(X, Y[:5])
    with pytest.raises(ValueError, match="needs 4 rows of each class"):
        LMRiskScorer(TASK, Known(), n_shots=8).fit(X, np.r_[np.zeros(11), 1])
    plain = Task("t", "d", TASK.columns, Question("?", ("a", "b")))
    with pytest.raises(ValueError, match="numeric_text"):
        LMRiskScorer(plain, Known(), scheme="numeric").predict_proba(X)
    with pytest.raises(TypeError, match="task must be a Task"):
        LMRiskScorer("income", Known()).predict_proba(X)


def test_not_a_number_is_never_a_score():
    class Broken:
        def next_token_logprobs(self, prompts, tokens):
            return np.full((len(prompts), len(tokens)), np.nan)

    with pytest.raises(AnswerNotFound, match=r"12 of 12|24 of 24"):
        LMRiskScorer(TASK, Broken()).predict_proba(X)
    with pytest.raises(AnswerNotFound):
        LMRiskScorer(TASK, Broken(), scheme="numeric").predict_proba(X)


def test_fixed_order_reads_one_table():
    details = read_choices(np.log([[0.6, 0.2, 0.1, 0.1]]), None, order="fixed")
    assert details.score[0] == pytest.approx(0.25)
    assert np.isnan(details.letter_bias[0])


# --- a small random language model -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    """A random Llama of two layers over characters."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate(alphabet)}
    space = vocabulary and "Ġ"
    merges = [(space, "A"), (space, "B")]
    for a, b in merges:
        vocabulary[a + b] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_scores_of_a_local_model_are_those_of_plain_forward_passes(tiny):
    import torch

    model, tokenizer = tiny
    scorer = LMRiskScorer(TASK, tiny)
    few = X.iloc[:4]
    details = scorer.score_details(few)
    ids = [tokenizer(t, add_special_tokens=False)["input_ids"][0] for t in LETTER_TOKENS]
    for order, column in (((0, 1), "logit_order1"), ((1, 0), "logit_order2")):
        for prompt, value in zip(scorer.prompts(few, order), details[column], strict=True):
            with torch.inference_mode():
                logits = (
                    model(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1].double()
                )
            expected = letter_logits(logits.log_softmax(-1)[ids].numpy()[None])[0][0]
            assert value == pytest.approx(expected, abs=1e-4)


def test_asking_together_changes_nothing(tiny):
    ways = {
        "choice": LMRiskScorer(TASK, tiny),
        "number": LMRiskScorer(TASK, tiny, scheme="numeric", decode="expected"),
        "whole": LMRiskScorer(TASK, tiny, scheme="completion"),
    }
    with pytest.raises(ValueError, match="same model"):
        score_together(ways, X)
    from paperkit.risk_scores import as_backend

    shared = as_backend(tiny)
    ways = {name: scorer.set_params(model=shared) for name, scorer in ways.items()}
    few = X.iloc[:5]
    for name, details in score_together(ways, few).items():
        alone = ways[name].score_details(few)
        assert list(details) == list(alone)
        assert details.to_numpy() == pytest.approx(alone.to_numpy(), abs=1e-3)
    greedy = score_together({"n": LMRiskScorer(TASK, shared, scheme="numeric")}, few)["n"]
    expected = score_together(
        {"n": LMRiskScorer(TASK, shared, scheme="numeric", decode="expected")}, few
    )["n"]
    assert list(greedy) == ["score", "digit_mass"]
    assert greedy["score"].tolist() == expected["greedy"].tolist()

    class Asked:
        """The same model behind an interface that is asked for one digit after the other."""

        next_token_logprobs = staticmethod(shared.next_token_logprobs)

    twice = LMRiskScorer(TASK, Asked(), scheme="numeric").score_details(few)
    assert twice["score"].tolist() == greedy["score"].tolist()
    assert twice["digit_mass"].to_numpy() == pytest.approx(greedy["digit_mass"].to_numpy(), 1e-3)
    with pytest.raises(ValueError, match="empty"):
        score_together({}, few)


def test_prior_shifts_all_logits_by_one_constant(tiny):
    none = LMRiskScorer(TASK, tiny, scheme="completion", normalise="none").predict_proba(X.iloc[:4])
    prior = LMRiskScorer(TASK, tiny, scheme="completion", normalise="prior").predict_proba(
        X.iloc[:4]
    )
    length = LMRiskScorer(TASK, tiny, scheme="completion", normalise="length").predict_proba(
        X.iloc[:4]
    )
    shift = np.log(none[:, 1] / none[:, 0]) - np.log(prior[:, 1] / prior[:, 0])
    assert shift == pytest.approx(shift[0], abs=1e-3)
    assert np.isfinite(length).all()


def test_answers_must_be_single_tokens_and_prompts_fit(tiny):
    from paperkit.risk_scores import as_backend

    with pytest.raises(ValueError, match="' AB' is not a single token"):
        as_backend(tiny).token_id(" AB")
    long = pd.DataFrame({"cloud": ["grey " * 400]})
    with pytest.raises(ValueError, match=r"1024|context"):
        LMRiskScorer(TASK, tiny).predict_proba(long)
