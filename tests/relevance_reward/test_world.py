"""The sentence world: enumeration, the Gibbs policy and RLOO against each other."""

import numpy as np
import pytest

from paperkit.relevance_reward import experiments as ex
from paperkit.relevance_reward import world as sw

WORLD = sw.load_worlds()[0]


def test_the_reference_policy_is_a_distribution():
    assert len(WORLD.texts) == len(set(WORLD.sequences)) == 155
    assert np.exp(WORLD.log_ref).sum() == pytest.approx(1, abs=1e-12)
    failures = np.exp(WORLD.log_ref) @ WORLD.failures().to_numpy(float)
    np.testing.assert_allclose(failures, [0.05275, 0.18922, 0.34597, 0.1125], atol=1e-5)


def test_worlds_differ_in_the_off_topic_sentence_only():
    for name in sw.OFF_TOPIC:
        worlds = sw.load_worlds(name)
        assert len(worlds) == 16
        assert all(world.sentences[4] not in world.sentences[:4] for world in worlds)
    assert len(sw.tokenize_words(sw.SHORT_OFF)) == 9 + 1  # nine words and the full stop
    with pytest.raises(ValueError, match="off_topic must be one of"):
        sw.load_worlds("near")
    with pytest.raises(ValueError, match="'third' is empty"):
        sw.SentenceWorld("q", ("q", "a", "b", " ", "c"))


@pytest.mark.parametrize("beta", [0.02, 0.3, 5.0])
def test_gibbs_beats_random_policies(beta):
    rng = np.random.default_rng(0)
    log_ref = np.log(rng.dirichlet(np.ones(20)))
    rewards = rng.normal(size=20)

    def value(p):
        return p @ rewards - beta * np.sum(p * (np.log(p) - log_ref))

    best = value(sw.gibbs_policy(log_ref, rewards, beta=beta))
    others = rng.dirichlet(np.full(20, 0.3), size=1000) + 1e-12
    near = sw.gibbs_policy(log_ref, rewards + 0.01 * rng.normal(size=20), beta=beta)
    assert best >= max(value(p / p.sum()) for p in others)
    assert best >= value(near)
    normaliser = np.log(np.sum(np.exp(log_ref + (rewards - rewards.max()) / beta)))
    assert best == pytest.approx(beta * normaliser + rewards.max(), abs=1e-9)


def test_target_kl_is_met_and_buys_reward():
    rewards = WORLD.rewards("r3_open", ex.known_relevance())
    kls = [0.0, 0.1, 1.0, 2.0, 3.0]
    policies = [sw.gibbs_policy(WORLD.log_ref, rewards, target_kl=kl) for kl in kls]
    found = [sw.kl_divergence(np.log(p), WORLD.log_ref) for p in policies]
    np.testing.assert_allclose(found, kls, atol=1e-6)
    assert np.all(np.diff([p @ rewards for p in policies]) > 0)
    far = sw.gibbs_policy(WORLD.log_ref, rewards, beta=1e6)
    np.testing.assert_allclose(far, np.exp(WORLD.log_ref), atol=1e-6)
    beta = ex.beta_at(WORLD.log_ref, rewards, 2.0)
    np.testing.assert_allclose(
        sw.gibbs_policy(WORLD.log_ref, rewards, beta=beta), policies[3], atol=1e-9
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one"),
        ({"beta": 1.0, "target_kl": 1.0}, "exactly one"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"beta": -0.1}, "beta must be positive"),
        ({"target_kl": -1.0}, "target_kl must lie in"),
        ({"target_kl": 3.0}, r"target_kl must lie in \[0, 0.6931\)"),
    ],
)
def test_gibbs_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        sw.gibbs_policy(np.log([0.5, 0.5]), np.array([0.0, 1.0]), **settings)


def test_gibbs_refuses_rewards_that_are_not_finite():
    with pytest.raises(ValueError, match="finite"):
        sw.gibbs_policy(np.log([0.5, 0.5]), np.array([0.0, np.nan]), beta=1.0)


def exact_gradient(logits, log_ref, rewards, beta):
    log_pi = logits - np.log(np.exp(logits).sum())
    pi = np.exp(log_pi)
    value = rewards - beta * (log_pi - log_ref)
    return pi * (value - pi @ value)


def test_rloo_gradient_is_unbiased():
    rng = np.random.default_rng(1)
    logits, log_ref = rng.normal(size=6), np.log(rng.dirichlet(np.ones(6)))
    rewards = rng.normal(size=6)
    pi = np.exp(logits) / np.exp(logits).sum()
    draws = rng.choice(6, size=(4000, 4), p=pi)
    groups = np.array([sw.rloo_gradient(logits, log_ref, rewards, d, beta=0.3) for d in draws])
    error = groups.std(axis=0) / np.sqrt(len(groups))
    exact = exact_gradient(logits, log_ref, rewards, 0.3)
    assert np.all(np.abs(groups.mean(axis=0) - exact) < 4 * error)


def test_a_baseline_that_includes_the_answer_is_biased(monkeypatch):
    """The mutation: the group mean as baseline shrinks the gradient by (K - 1) / K."""
    rng = np.random.default_rng(2)
    logits, rewards = np.zeros(3), np.array([0.0, 1.0, 3.0])
    draws = rng.choice(3, size=(4000, 2))

    def mean_gradient():
        return np.mean(
            [sw.rloo_gradient(logits, logits, rewards, d, beta=0.1) for d in draws], axis=0
        )

    right = mean_gradient()
    monkeypatch.setattr(sw, "leave_one_out", lambda r: r - r.mean(-1)[..., None])
    np.testing.assert_allclose(mean_gradient(), right / 2, atol=1e-12)


def test_leave_one_out_by_hand_and_in_torch():
    import torch

    values = np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    by_hand = [[1 - 4, 2 - 3.5, 6 - 1.5], [-1.5, -1.5, 3]]
    np.testing.assert_allclose(sw.leave_one_out(values), by_hand)
    np.testing.assert_allclose(sw.leave_one_out(torch.tensor(values)).numpy(), by_hand)
    with pytest.raises(ValueError, match="at least 2"):
        sw.leave_one_out(np.ones((3, 1)))


def test_rloo_finds_the_optimum():
    runs = ex.rloo_runs(steps=1000)
    last = runs[runs.step == 1000]
    assert last.share.min() >= 0.99
    assert last.kl_to_optimum.max() <= 0.02
    with pytest.raises(ValueError, match="group_size"):
        sw.rloo_tabular(
            WORLD.log_ref, np.arange(155.0), beta=1, group_size=1, rng=np.random.default_rng(0)
        )


def test_policy_at_takes_the_best_answer_where_it_is_cheaper():
    log_ref, rewards = np.log([0.2, 0.3, 0.5]), np.array([1.0, 0.5, 0.0])
    np.testing.assert_allclose(ex.policy_at(log_ref, rewards, 3.0), [1, 0, 0])
    assert ex.policy_at(log_ref, rewards, 1.0)[0] < 1


def test_known_relevance_has_no_embeddings():
    with pytest.raises(TypeError):
        ex.known_relevance().encode(["a"])
