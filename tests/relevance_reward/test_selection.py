"""Best of n and the price of a hack against brute force and enumeration."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paperkit.relevance_reward import price, selection
from paperkit.relevance_reward.world import gibbs_policy


@pytest.mark.parametrize("n", range(1, 8))
def test_weights_count_subsets(n):
    best = [max(subset) for subset in itertools.combinations(range(7), n)]
    counted = np.bincount(best, minlength=7) / len(best)
    np.testing.assert_allclose(selection.best_of_n_weights(7, n), counted, atol=1e-12)


@given(
    st.lists(st.integers(0, 3), min_size=3, max_size=6),
    st.integers(1, 3),
    st.integers(0, 1000),
)
def test_expectation_is_the_mean_over_all_subsets(rewards, n, seed):
    metric = np.random.default_rng(seed).normal(size=len(rewards))
    values = []
    for subset in itertools.combinations(range(len(rewards)), n):
        top = max(rewards[i] for i in subset)
        values.append(np.mean([metric[i] for i in range(len(rewards)) if rewards[i] == top
                               and i in subset]))  # fmt: skip
    assert selection.best_of_n(rewards, metric, n) == pytest.approx(np.mean(values), abs=1e-12)


def test_one_is_the_mean_and_all_is_the_best():
    rng = np.random.default_rng(0)
    rewards, metric = rng.normal(size=(2, 64))
    assert selection.best_of_n(rewards, metric, 1) == pytest.approx(metric.mean(), abs=1e-12)
    assert selection.best_of_n(rewards, metric, 64) == pytest.approx(metric[rewards.argmax()])
    assert selection.best_of_n_weights(64, 16).sum() == pytest.approx(1, abs=1e-12)


def test_kl_bound_is_the_divergence_without_ties():
    n, size = 4, 2000
    w = selection.best_of_n_weights(size, n)
    kl = np.sum(w[w > 0] * np.log(w[w > 0] * size))
    assert kl == pytest.approx(selection.best_of_n_kl(n), abs=0.01)
    assert selection.best_of_n_kl(64) == pytest.approx(math.log(64) - 63 / 64)


@pytest.mark.parametrize("n", [0, 8])
def test_selection_refuses(n):
    with pytest.raises(ValueError, match=r"n must lie in 1\.\.7"):
        selection.best_of_n_weights(7, n)


def test_selection_refuses_bad_rewards():
    with pytest.raises(ValueError, match="finite"):
        selection.best_of_n([1.0, np.nan], [0.0, 1.0], 1)
    with pytest.raises(ValueError, match="shapes"):
        selection.best_of_n([1.0, 2.0], [0.0], 1)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_price_is_exact_when_every_answer_is_listed(beta):
    rng = np.random.default_rng(1)
    log_ref = np.log(rng.dirichlet(np.ones(30)))
    rewards = rng.uniform(0, 1, 30)
    exact = gibbs_policy(log_ref, rewards, beta=beta)
    found = price.hack_probability(
        log_ref[3], rewards[3], np.delete(rewards, 3), beta, log_weights=np.delete(log_ref, 3)
    )
    assert found == pytest.approx(exact[3], abs=1e-9)


def test_price_falls_with_samples_that_reach_further():
    rewards = np.random.default_rng(0).normal(0.6, 0.1, 64)
    few, many = (price.hack_probability(-10.0, 1.0, rewards[:n], 0.03) for n in (8, 64))
    assert 0 < many < few < 1


def test_critical_beta_is_where_the_optimum_is_indifferent():
    beta = price.critical_beta(-12.0, 1.0, -8.0, 0.8)
    assert beta == pytest.approx(0.05)
    pi = gibbs_policy(np.log([math.exp(-12), math.exp(-8), 1 - math.exp(-12) - math.exp(-8)]),
                      np.array([1.0, 0.8, -5.0]), beta=beta)  # fmt: skip
    assert pi[0] == pytest.approx(pi[1])
    assert price.critical_beta(-3.0, 1.0, -8.0, 0.8) == math.inf
    with pytest.raises(ValueError, match="gains nothing"):
        price.critical_beta(-12.0, 0.5, -8.0, 0.8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((-1.0, 1.0, [0.5], 0.0), "beta must be positive"),
        ((1.0, 1.0, [0.5], 0.1), "at most 0"),
        ((-1.0, 1.0, [], 0.1), "shape"),
        ((-1.0, 1.0, [np.inf], 0.1), "finite"),
    ],
)
def test_price_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        price.hack_probability(*arguments)
