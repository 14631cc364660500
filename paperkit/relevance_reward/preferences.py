"""People who like long answers, and the reward model that learns it from them.

An annotator with a known taste prefers answer a to answer b with probability

.. math:: P(a \\succ b) = \\sigma\\bigl(w_q (q_a - q_b) + w_l (\\log n_a - \\log n_b)\\bigr),

with a quality :math:`q` and the number of words :math:`n`. Two numbers measured on people fix the two weights: how
often the longer answer wins, and how often two people agree. A Bradley-Terry reward model :math:`s(x, \\hat y)` is then
fitted to such choices by maximising :math:`\\log \\sigma(s(x, \\hat y_w) - s(x, \\hat y_l))`. Both answers of a pair
belong to one question: whatever depends on the question alone cancels, and whether an answer is on the topic is never
asked.

Source: the preliminary study of Kim and Seo 2024; annotator and features are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares, minimize
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from paperkit.relevance_reward.reward import Floats, Retriever, tokenize_words

# What people did, from the evaluator table of AlpacaEval (row "humans"; Dubois et al. 2024): the share of comparisons
# won by the longer answer, and how often two people agree.
PREFER_LONGER = 0.636
AGREEMENT = 0.657


@dataclass(frozen=True)
class AnnotatorModel:
    """An annotator with a weight for quality and one for (log) length."""

    quality_weight: float
    length_weight: float

    @classmethod
    def calibrate(
        cls,
        quality_difference: Any,
        length_difference: Any,
        *,
        prefer_longer: float = PREFER_LONGER,
        agreement: float = AGREEMENT,
    ) -> AnnotatorModel:
        """Solve for the two weights.

        Parameters
        ----------
        quality_difference, length_difference : arrays of shape (P,)
            q_a - q_b and log n_a - log n_b of the pairs.
        prefer_longer : float
            Share of choices for the longer answer, in (0, 1).
        agreement : float
            Probability that two annotators choose alike, E[p^2 + (1 - p)^2], in (1/2, 1).

        Raises
        ------
        ValueError
            If no weights reach both targets on these pairs.
        """
        quality, length = _differences(quality_difference, length_difference)
        if not 0 < prefer_longer < 1:
            raise ValueError(f"prefer_longer must lie in (0, 1), got {prefer_longer!r}")
        if not 0.5 < agreement < 1:
            raise ValueError(f"agreement must lie in (0.5, 1), got {agreement!r}")
        unequal = length != 0
        if not unequal.any():
            raise ValueError("all pairs are equally long: the length weight cannot be solved for")

        def miss(weights: Floats) -> Floats:
            p = expit(weights[0] * quality + weights[1] * length)
            longer = np.where(length > 0, p, 1 - p)[unequal].mean()
            agree = np.mean(p**2 + (1 - p) ** 2)
            return np.array([longer - prefer_longer, agree - agreement])

        best = None
        for start in ([1.0, 1.0], [0.3, 0.3], [3.0, 0.5], [1.0, 0.0]):
            found = least_squares(miss, start, xtol=1e-14, ftol=1e-14, gtol=1e-14)
            # the mirror image w_q -> -w_q solves it too when quality is symmetric: keep the one that likes quality
            good = found.x[0] >= 0 and np.abs(found.fun).max() < 1e-6
            if good and (best is None or found.cost < best.cost):
                best = found
        if best is None:
            raise ValueError(
                f"no annotator prefers the longer answer in {prefer_longer:.1%} of these pairs and "
                f"agrees with a second one in {agreement:.1%}"
            )
        return cls(float(best.x[0]), float(best.x[1]))

    def probability(self, quality_difference: Any, length_difference: Any) -> Floats:
        """Return the probability that a is preferred, shape (P,)."""
        quality, length = _differences(quality_difference, length_difference)
        return expit(self.quality_weight * quality + self.length_weight * length)

    def prefer(
        self, quality_difference: Any, length_difference: Any, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw one choice for each pair: True where a is preferred, shape (P,)."""
        p = self.probability(quality_difference, length_difference)
        return rng.random(len(p)) < p


class BradleyTerryReward:
    """A reward that is linear in features, fitted to choices between two answers.

    Parameters
    ----------
    C : float
        Inverse strength of the ridge penalty; the features are taken as they are.
    """

    def __init__(self, C: float = 1.0) -> None:
        if not C > 0:
            raise ValueError(f"C must be positive, got {C!r}")
        self.C = C

    def fit(
        self, features_a: Any, features_b: Any, preferred: Any, *, choices: int = 1
    ) -> BradleyTerryReward:
        """Fit to P pairs.

        Parameters
        ----------
        features_a, features_b : arrays of shape (P, f)
        preferred : array of shape (P,)
            Whether a was preferred, or the share of annotators who did, in [0, 1].
        choices : int
            Annotators of each pair.
        """
        a, b = np.asarray(features_a, float), np.asarray(features_b, float)
        share = np.asarray(preferred, float)
        if a.shape != b.shape or a.ndim != 2 or not len(a):
            raise ValueError(f"features must be (P, f) alike, got {a.shape} and {b.shape}")
        if share.shape != (len(a),) or not ((share >= 0) & (share <= 1)).all():
            raise ValueError(f"preferred must be {len(a)} values in [0, 1]")
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ValueError("features must be finite")
        difference = a - b
        # without an intercept a choice of b is a choice of a in the swapped pair
        both = np.vstack([difference, -difference])
        weight = choices * np.concatenate([share, 1 - share])
        won = np.ones(len(both), bool)
        won[1::2] = False
        both[1::2] *= -1
        model = LogisticRegression(C=self.C, fit_intercept=False, max_iter=2000)
        self.weights = model.fit(both, won, sample_weight=weight).coef_[0]
        return self

    def score(self, features: Any) -> Floats:
        """Return s(x, answer) of N answers, shape (N,); only differences mean something."""
        return np.asarray(features, float) @ self.weights

    def choice_probability(self, features_a: Any, features_b: Any) -> Floats:
        """Return the probability that a is preferred to b, shape (P,)."""
        return expit(self.score(features_a) - self.score(features_b))


def pair_features(retriever: Retriever, queries: Sequence[str], responses: Sequence[str]) -> Floats:
    """Return the features of the reward model: products of embeddings, and log length.

    Parameters
    ----------
    queries, responses : sequences of N str
        No response may be empty.

    Returns
    -------
    ndarray, shape (N, d + 1)
        :math:`\\sqrt d \\, M(x)_k M(\\hat y)_k` of normalised embeddings, then :math:`\\log n`. Equal weights on
        the first d would be the cosine: this model *can* learn what a topic is. The factor gives the d products
        together about the spread of :math:`\\log n`, so that one ridge penalty is fair to both.
    """
    left, right = retriever.encode(queries), retriever.encode(responses)
    words = np.array([len(tokenize_words(text)) for text in responses], float)
    if (words == 0).any():
        raise ValueError(f"responses[{int(np.argmax(words == 0))}] has no words")
    product = np.sqrt(left.shape[1]) * _unit(left) * _unit(right)
    return np.column_stack([product, np.log(words)])


def length_controlled_win_rate(wins: Any, length_difference: Any) -> tuple[float, float]:
    """Return the raw win rate and the one at equal length.

    Fits logit P(win) = theta + phi tanh(difference / sd) and returns sigma(theta) as the second.

    Parameters
    ----------
    wins : array of shape (P,)
        In [0, 1]; a half is a tie.
    length_difference : array of shape (P,)
        Ours minus the other's.

    References
    ----------
    Dubois et al. (2024), "Length-controlled AlpacaEval". The model's and prompts' terms of the original are left out.
    """
    wins, difference = np.asarray(wins, float), np.asarray(length_difference, float)
    if wins.shape != difference.shape or wins.ndim != 1 or not len(wins):
        raise ValueError(f"need two arrays of one length, got {wins.shape}, {difference.shape}")
    if not ((wins >= 0) & (wins <= 1)).all():
        raise ValueError("wins must lie in [0, 1]")
    raw = float(wins.mean())
    spread = difference.std()
    if raw in (0.0, 1.0) or spread == 0:
        return raw, raw
    z = np.tanh(difference / spread)

    def loss(parameters: Floats) -> float:
        t = parameters[0] + parameters[1] * z
        return float(np.mean(np.logaddexp(0, t) - wins * t))

    found = minimize(loss, [float(logit(raw)), 0.0])
    return raw, float(expit(found.x[0]))


def _unit(rows: Floats) -> Floats:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def _differences(quality: Any, length: Any) -> tuple[Floats, Floats]:
    quality, length = np.asarray(quality, float), np.asarray(length, float)
    if quality.shape != length.shape or quality.ndim != 1 or not len(quality):
        raise ValueError(f"differences must be (P,) alike, got {quality.shape}, {length.shape}")
    if not (np.isfinite(quality).all() and np.isfinite(length).all()):
        raise ValueError("differences must be finite")
    return quality, length
