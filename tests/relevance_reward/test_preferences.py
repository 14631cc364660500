"""The annotator and the reward model: planted truths, and bad input."""

import numpy as np
import pytest
from scipy.special import expit

from paperkit.relevance_reward import Retriever
from paperkit.relevance_reward.preferences import (
    AnnotatorModel,
    BradleyTerryReward,
    length_controlled_win_rate,
    pair_features,
)

RNG = np.random.default_rng(0)
QUALITY, LENGTH = RNG.normal(size=3000), RNG.normal(size=3000)


def test_calibration_meets_both_numbers():
    found = AnnotatorModel.calibrate(QUALITY, LENGTH)
    p = found.probability(QUALITY, LENGTH)
    assert np.where(LENGTH > 0, p, 1 - p).mean() == pytest.approx(0.636, abs=1e-6)
    assert np.mean(p**2 + (1 - p) ** 2) == pytest.approx(0.657, abs=1e-6)
    assert found.quality_weight > 0
    assert found.length_weight > 0


def test_calibration_recovers_an_annotator():
    truth = AnnotatorModel(1.3, 0.4)
    p = truth.probability(QUALITY, LENGTH)
    found = AnnotatorModel.calibrate(
        QUALITY,
        LENGTH,
        prefer_longer=np.where(LENGTH > 0, p, 1 - p).mean(),
        agreement=np.mean(p**2 + (1 - p) ** 2),
    )
    assert (found.quality_weight, found.length_weight) == pytest.approx((1.3, 0.4), abs=1e-4)


@pytest.mark.parametrize(
    ("quality", "length", "settings", "message"),
    [
        (QUALITY, LENGTH, {"prefer_longer": 0.95, "agreement": 0.51}, "no annotator"),
        (QUALITY, LENGTH, {"prefer_longer": 1.0}, "prefer_longer must lie"),
        (QUALITY, LENGTH, {"agreement": 0.5}, "agreement must lie"),
        (QUALITY, 0 * LENGTH, {}, "equally long"),
        (QUALITY, LENGTH[:5], {}, "alike"),
        (QUALITY * np.nan, LENGTH, {}, "finite"),
    ],
)
def test_calibration_refuses(quality, length, settings, message):
    with pytest.raises(ValueError, match=message):
        AnnotatorModel.calibrate(quality, length, **settings)


def test_bradley_terry_recovers_planted_weights():
    rng = np.random.default_rng(3)
    weights = np.array([1.0, -0.5, 0.2, 0.0])
    a, b = rng.normal(size=(2, 20000, 4))
    labels = rng.random(20000) < expit((a - b) @ weights)
    model = BradleyTerryReward(C=100).fit(a, b, labels)
    found = model.weights
    assert found @ weights / np.linalg.norm(found) / np.linalg.norm(weights) > 0.99
    np.testing.assert_allclose(found, weights, atol=0.05)
    # what depends on the question alone cancels
    shift = rng.normal(size=(20000, 1)) * [[0, 0, 0, 5.0]]
    again = BradleyTerryReward(C=100).fit(a + shift, b + shift, labels)
    np.testing.assert_allclose(again.weights, model.weights, atol=1e-4)


def test_the_order_of_a_pair_says_nothing():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 200, 3))
    labels = rng.random(200) < 0.7
    model = BradleyTerryReward().fit(a, b, labels)
    swapped = BradleyTerryReward().fit(b, a, ~labels)
    np.testing.assert_allclose(model.weights, swapped.weights, atol=1e-4)
    one, other = model.choice_probability(a, b), model.choice_probability(b, a)
    np.testing.assert_allclose(one + other, 1)


@pytest.mark.parametrize(
    ("a", "b", "labels", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 2)), [True, False], "alike"),
        (np.ones((2, 3)), np.zeros((2, 3)), [True], "2 values"),
        (np.ones((2, 3)), np.zeros((2, 3)), [0.5, 1.5], r"in \[0, 1\]"),
        (np.ones((2, 3)), np.full((2, 3), np.inf), [True, False], "finite"),
    ],
)
def test_bradley_terry_refuses(a, b, labels, message):
    with pytest.raises(ValueError, match=message):
        BradleyTerryReward().fit(a, b, labels)


def test_shares_are_several_choices():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(2, 50, 3))
    counts = rng.integers(0, 5, size=50)
    shares = BradleyTerryReward().fit(a, b, counts / 4, choices=4)
    rows = np.repeat(np.arange(50), 4)
    single = np.concatenate([np.arange(4) < k for k in counts])
    one_by_one = BradleyTerryReward().fit(a[rows], b[rows], single)
    np.testing.assert_allclose(shares.weights, one_by_one.weights, atol=1e-4)


def test_penalty_must_be_positive():
    with pytest.raises(ValueError, match="C must be positive"):
        BradleyTerryReward(C=-1)


def test_equal_weights_on_the_features_are_the_cosine(minilm):
    queries = ["How do magnets work?"] * 2
    texts = ["Equal poles push each other away.", "Bread needs yeast and time."]
    features = pair_features(minilm, queries, texts)
    np.testing.assert_allclose(
        features[:, :-1].sum(axis=1) / np.sqrt(384), minilm.relevance(queries, texts), atol=1e-6
    )
    np.testing.assert_allclose(features[:, -1], np.log([7, 6]))
    with pytest.raises(ValueError, match=r"responses\[1\] has no words"):
        pair_features(minilm, queries, ["yes", ""])


def test_stored_embeddings_must_fit():
    with pytest.raises(ValueError, match=r"embeddings must be \(1, d\)"):
        Retriever(object.__new__(type("E", (), {"encode": None}))).remember(["a"], np.ones((2, 3)))


def test_length_controlled_win_rate():
    """Wins that come from length alone leave one half; wins that do not stay."""
    rng = np.random.default_rng(5)
    difference = rng.normal(1.0, 1.0, size=4000)
    from_length = (rng.random(4000) < expit(2 * np.tanh(difference / difference.std()))) * 1.0
    raw, controlled = length_controlled_win_rate(from_length, difference)
    assert raw > 0.7
    assert controlled == pytest.approx(0.5, abs=0.04)
    raw, controlled = length_controlled_win_rate(
        (rng.random(4000) < 0.7) * 1.0, rng.normal(size=4000)
    )
    assert controlled == pytest.approx(raw, abs=0.02)
    assert length_controlled_win_rate([1, 1], [0, 3]) == (1.0, 1.0)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        length_controlled_win_rate([2.0], [0.0])
    with pytest.raises(ValueError, match="one length"):
        length_controlled_win_rate([1.0, 0.0], [0.0])
