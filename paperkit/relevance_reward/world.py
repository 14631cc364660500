"""A world of 155 answers, in which the optimum of every reward is known.

An answer is one to three sentences, each one of five: a copy of the question, one of three good sentences, or one that
belongs to another question. A reference policy picks them at random. For any reward :math:`R` the policy that
maximises :math:`E_\\pi[R] - \\beta \\, KL(\\pi \\| \\pi_{ref})` is the Gibbs policy

.. math:: \\pi^*(\\hat y) \\propto \\pi_{ref}(\\hat y) \\, e^{R(\\hat y) / \\beta} ,

and here it can be written down. Sampling finds it too: REINFORCE with a leave-one-out baseline (RLOO) over groups of
:math:`K` answers uses

.. math::

   A_i = \\tilde R_i - \\frac{1}{K-1} \\sum_{j \\ne i} \\tilde R_j, \\qquad
   \\tilde R = R - \\beta \\log \\frac{\\pi}{\\pi_{ref}} .

Source: ours; the objective is the one of Kim and Seo 2024, RLOO is Kool et al. 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp, softmax

from paperkit import data
from paperkit.relevance_reward.reward import Floats, Retriever, preset, tokenize_words

if TYPE_CHECKING:
    import pandas as pd

ACTIONS = ("copy", "first", "second", "third", "off")
PROBABILITIES = (0.10, 0.225, 0.225, 0.225, 0.225)
STOP = 0.5  # after each sentence; certain after the third
LONGEST = 3

# What the off-topic sentence is. The choice decides how well R3 seems to hold off padding, so all three are kept.
OFF_TOPIC = ("other", "short", "long")
SHORT_OFF = "My neighbour painted the old garden fence dark green."
LONG_OFF = (
    "Last summer my neighbour painted the old garden fence dark green, and because the paint was cheap and the weather "
    "turned wet he had to paint it again in autumn, which took him three full weekends and two ladders."
)
FAILURES = ("only_copy", "repeats", "off_topic", "contains_copy")


@dataclass(frozen=True)
class SentenceWorld:
    """All answers to one question, and how often the reference policy gives each.

    Attributes
    ----------
    prompt : str
    sentences : tuple of 5 str
        In the order of :data:`ACTIONS`.
    """

    prompt: str
    sentences: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.sentences) != len(ACTIONS):
            raise ValueError(f"sentences must be {len(ACTIONS)}, got {len(self.sentences)}")
        for name, text in zip(ACTIONS, self.sentences, strict=True):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"the sentence {name!r} is empty")

    @property
    def sequences(self) -> list[tuple[int, ...]]:
        """The 155 answers as tuples of actions, the shortest first."""
        return SEQUENCES

    @property
    def texts(self) -> list[str]:
        """The answers as text, sentences joined by one space."""
        return [" ".join(self.sentences[a] for a in sequence) for sequence in SEQUENCES]

    @property
    def log_ref(self) -> Floats:
        """Log-probability of each answer under the reference policy, shape (155,)."""
        return LOG_REF

    @property
    def words(self) -> Floats:
        """Words of each answer, shape (155,)."""
        return np.array([len(tokenize_words(text)) for text in self.texts], float)

    def rewards(self, name: str, retriever: Any, **settings: Any) -> Floats:
        """Return the rewards of a preset (every question is open here), shape (155,)."""
        texts = self.texts
        types = ["open"] * len(texts)
        reward = preset(name, retriever, **settings)
        return reward([self.prompt] * len(texts), texts, query_types=types)

    def failures(self) -> pd.DataFrame:
        """Return for each answer whether it fails, and how.

        Returns
        -------
        DataFrame, 155 rows of bool
            ``only_copy`` (nothing but copies of the question), ``repeats`` (some sentence twice), ``off_topic``
            (contains the off-topic sentence), ``contains_copy`` (a copy beside something else).
        """
        import pandas as pd

        copies = np.array([sequence.count(0) for sequence in SEQUENCES])
        length = np.array([len(sequence) for sequence in SEQUENCES])
        return pd.DataFrame(
            {
                "only_copy": copies == length,
                "repeats": [len(set(sequence)) < len(sequence) for sequence in SEQUENCES],
                "off_topic": [4 in sequence for sequence in SEQUENCES],
                "contains_copy": (copies > 0) & (copies < length),
            }
        )


def _enumerate() -> tuple[list[tuple[int, ...]], Floats]:
    sequences, logs = [], []
    for length in range(1, LONGEST + 1):
        stop = (1 - STOP) ** (length - 1) * (STOP if length < LONGEST else 1.0)
        for sequence in product(range(len(ACTIONS)), repeat=length):
            sequences.append(sequence)
            logs.append(np.log(stop) + np.log([PROBABILITIES[a] for a in sequence]).sum())
    return sequences, np.array(logs)


SEQUENCES, LOG_REF = _enumerate()


def load_worlds(off_topic: str = "other") -> list[SentenceWorld]:
    """Return the sixteen worlds of the chapter.

    Parameters
    ----------
    off_topic : {"other", "short", "long"}
        The off-topic sentence: a good sentence of another question, or one and the same unrelated sentence of 9 or 36
        words in every world.
    """
    if off_topic not in OFF_TOPIC:
        raise ValueError(f"off_topic must be one of {', '.join(OFF_TOPIC)}, got {off_topic!r}")
    table = data.table("relevance_reward/world")
    good = table[["first", "second", "third"]].to_numpy()
    worlds = []
    for i, prompt in enumerate(table.prompt):
        other = good[(i + 7) % len(good), i % 3]
        off = {"other": other, "short": SHORT_OFF, "long": LONG_OFF}[off_topic]
        worlds.append(SentenceWorld(prompt, (prompt, *good[i], off)))
    return worlds


class KnownRelevance(Retriever):
    """Looks relevance up instead of computing it; in place of a :class:`Retriever`.

    Parameters
    ----------
    table : DataFrame
        ``query``, ``response``, and a column for each similarity ("cosine", "dot").
    """

    def __init__(self, table: pd.DataFrame) -> None:
        pairs = list(zip(table["query"], table["response"], strict=True))
        self.known = {
            similarity: dict(zip(pairs, table[similarity], strict=True))
            for similarity in ("cosine", "dot")
        }

    def encode(self, texts: Sequence[str]) -> Floats:
        """Refuse: only the similarities are known."""
        raise TypeError("this retriever knows similarities, not embeddings")

    def relevance(
        self, a: Sequence[str], b: Sequence[str], *, similarity: str = "cosine"
    ) -> Floats:
        """Return the known similarity of a[i] and b[i], shape (N,)."""
        known = self.known[similarity]
        return np.array([known[pair] for pair in zip(a, b, strict=True)], float)


# --- the optimum ----------------------------------------------------------------------------------------------------


def kl_divergence(log_p: Any, log_q: Any) -> float:
    """Return KL(p || q) of two distributions given by log-probabilities (-inf allowed in p), in nats."""
    log_p, log_q = np.asarray(log_p, float), np.asarray(log_q, float)
    there = log_p > -np.inf
    return float(np.sum(np.exp(log_p[there]) * (log_p[there] - log_q[there])))


def gibbs_policy(
    log_ref: Any, rewards: Any, *, beta: float | None = None, target_kl: float | None = None
) -> Floats:
    """Return the policy that maximises E[R] - beta KL, on a finite set of answers.

    Parameters
    ----------
    log_ref : array of shape (N,)
        Log-probabilities of the reference policy; normalised here.
    rewards : array of shape (N,)
    beta : float, optional
        Price of a nat of KL, positive.
    target_kl : float, optional
        Instead of beta: the KL(pi || pi_ref) that the policy shall have, in nats. Exactly one of the two is given.

    Returns
    -------
    ndarray, shape (N,)
        Probabilities.

    Raises
    ------
    ValueError
        If neither or both are given, one is out of range, or no beta reaches ``target_kl``: at most, the policy gives
        the best answers only, at KL = -log pi_ref(best answers).
    """
    log_ref, rewards = np.asarray(log_ref, float), np.asarray(rewards, float)
    if log_ref.shape != rewards.shape or log_ref.ndim != 1 or not len(log_ref):
        raise ValueError(f"log_ref and rewards must be (N,), got {log_ref.shape}, {rewards.shape}")
    if not (np.isfinite(rewards).all() and np.isfinite(log_ref).all()):
        raise ValueError("log_ref and rewards must be finite")
    if (beta is None) == (target_kl is None):
        raise ValueError("give exactly one of beta and target_kl")
    log_ref = log_ref - logsumexp(log_ref)
    if beta is not None:
        if not beta > 0:
            raise ValueError(f"beta must be positive, got {beta!r}")
        return softmax(log_ref + (rewards - rewards.max()) / beta)
    assert target_kl is not None
    top = float(-logsumexp(log_ref[rewards >= rewards.max() - 1e-12]))
    if not 0 <= target_kl < top:
        raise ValueError(f"target_kl must lie in [0, {top:.4g}), got {target_kl!r}")
    spread = float(rewards.max() - rewards.min())
    if target_kl == 0 or spread == 0:
        return np.exp(log_ref)
    relative = (rewards - rewards.max()) / spread

    def excess(log_strength: float) -> float:
        log_p = log_ref + relative * np.exp(log_strength)
        return kl_divergence(log_p - logsumexp(log_p), log_ref) - target_kl

    high = 0.0
    while excess(high) < 0:
        high += 2.0
        if high > 60:
            raise ValueError(f"target_kl={target_kl!r} is too near to its maximum {top:.6g}")
    low = min(high, 0.0)
    while excess(low) > 0:
        low -= 2.0
    strength = np.exp(brentq(excess, low, high, xtol=1e-12))
    return softmax(log_ref + relative * strength)


# --- the optimum by sampling ----------------------------------------------------------------------------------------


def leave_one_out(rewards: Any) -> Any:
    """Return each reward minus the mean of the *others* in its group (last axis, K of them); same shape and type."""
    k = rewards.shape[-1]
    if k < 2:
        raise ValueError(f"a group must have at least 2 answers, got {k}")
    return (rewards - rewards.mean(-1)[..., None]) * (k / (k - 1))


def rloo_gradient(
    logits: Floats, log_ref: Floats, rewards: Floats, drawn: Any, *, beta: float
) -> Floats:
    """Return the RLOO estimate of the gradient of E[R] - beta KL with respect to a policy's logits.

    Parameters
    ----------
    logits, log_ref, rewards : arrays of shape (N,)
    drawn : int array, shape (K,)
        Answers sampled from the policy.
    beta : float

    Returns
    -------
    ndarray, shape (N,)
    """
    log_pi = logits - logsumexp(logits)
    advantage = leave_one_out((rewards - beta * (log_pi - log_ref))[drawn])  # (K,)
    # the gradient of log pi(i) is e_i - pi, and advantages of a group sum to zero
    return np.bincount(drawn, weights=advantage, minlength=len(logits)) / len(drawn)


def rloo_tabular(
    log_ref: Any,
    rewards: Any,
    *,
    beta: float,
    group_size: int = 16,
    steps: int = 1000,
    learning_rate: float = 0.1,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Optimise a policy with one logit per answer by RLOO and Adam, from the reference policy.

    Parameters
    ----------
    log_ref, rewards : arrays of shape (N,)
    beta : float
        Positive.
    group_size : int
        Answers sampled per step, at least 2.
    steps : int
    learning_rate : float
        Of Adam, falling to zero along a half cosine.
    rng : numpy Generator

    Returns
    -------
    DataFrame
        One row a step: ``step``, ``objective`` (exact, not sampled), ``kl_to_optimum`` (KL(pi || pi*)).
    """
    import pandas as pd

    log_ref, rewards = np.asarray(log_ref, float), np.asarray(rewards, float)
    optimum = np.log(gibbs_policy(log_ref, rewards, beta=beta))
    if group_size < 2:
        raise ValueError(f"group_size must be at least 2, got {group_size!r}")
    logits = log_ref.copy()
    first, second = np.zeros_like(logits), np.zeros_like(logits)
    rows = []
    for step in range(steps + 1):
        log_pi = logits - logsumexp(logits)
        kl = kl_divergence(log_pi, log_ref)
        rows.append((step, np.exp(log_pi) @ rewards - beta * kl, kl_divergence(log_pi, optimum)))
        drawn = rng.choice(len(logits), size=group_size, p=np.exp(log_pi))
        gradient = rloo_gradient(logits, log_ref, rewards, drawn, beta=beta)
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        rate = learning_rate * 0.5 * (1 + np.cos(np.pi * step / steps))
        corrected = first / (1 - 0.9 ** (step + 1))
        scale = np.sqrt(second / (1 - 0.99 ** (step + 1)))
        logits = logits + rate * corrected / (scale + 1e-8)
    return pd.DataFrame(rows, columns=["step", "objective", "kl_to_optimum"])
