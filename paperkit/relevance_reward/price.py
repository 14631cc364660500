r"""The price of a hack: whether the optimum of a reward uses it, without any training.

The policy that maximises :math:`E[R] - \beta\, KL(\pi \| \pi_{ref})` is
:math:`\pi^*(y) \propto \pi_{ref}(y)\, e^{R(y)/\beta}`. A hack h, for example the question said again, is bought with
its log-probability: reading it once gives :math:`\log \pi_{ref}(h)`, and answers drawn from the reference give the
rest of the normaliser,

.. math:: P^*(h) = \sigma\Big( \log \pi_{ref}(h) + \frac{R(h)}{\beta}
          - \log \frac1N \sum_i e^{R(\hat y_i)/\beta} \Big).

For small :math:`\beta` the best sample dominates that mean; more samples find better ones, so the estimate is too high
for the hack. Look at it for N and 2N.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import expit, logsumexp

from paperkit.models import LanguageModel
from paperkit.models.text import Prompt, check_ids, token_ids


def hack_probability(
    log_ref_hack: float,
    reward_hack: float,
    sample_rewards: ArrayLike,
    beta: float,
    *,
    log_weights: ArrayLike | None = None,
) -> float:
    """Probability of a hack under the KL-regularised optimum.

    Parameters
    ----------
    log_ref_hack : float
        Log-probability of the hack under the reference policy, at most 0.
    reward_hack : float
    sample_rewards : array_like, shape (N,)
        Rewards of answers that are not the hack, drawn from the reference policy.
    beta : float
        Price of a nat, in units of the reward; positive.
    log_weights : array_like, shape (N,), optional
        Log of the weight of each sample instead of 1/N; with all answers and their probabilities the result is exact.

    Raises
    ------
    ValueError
        If beta is not positive, a log-probability is positive, there are no samples, or a number is not finite.
    """
    rewards = np.atleast_1d(np.asarray(sample_rewards, float))
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta!r}")
    if not log_ref_hack <= 0:
        raise ValueError(f"log_ref_hack must be at most 0, got {log_ref_hack!r}")
    if rewards.ndim != 1 or not len(rewards):
        raise ValueError(f"sample_rewards must have shape (N,), got {rewards.shape}")
    if not (np.isfinite(rewards).all() and np.isfinite([log_ref_hack, reward_hack]).all()):
        raise ValueError("rewards and log_ref_hack must be finite")
    weights = -np.log(len(rewards)) if log_weights is None else np.asarray(log_weights, float)
    others = logsumexp(rewards / beta + weights)
    return float(expit(log_ref_hack + reward_hack / beta - others))


def critical_beta(
    log_ref_hack: float, reward_hack: float, log_ref_answer: float, reward_answer: float
) -> float:
    """The beta below which the optimum prefers a hack to one answer; infinite if it always does.

    Raises
    ------
    ValueError
        If the hack is neither better rewarded nor likelier: then no beta makes it preferred.
    """
    gain, price = reward_hack - reward_answer, log_ref_answer - log_ref_hack
    if gain <= 0:
        raise ValueError(f"the hack gains nothing over the answer: {gain!r}")
    return float("inf") if price <= 0 else gain / price


@torch.no_grad()
def token_prices(lm: Any, prompt: Prompt, response: list[int]) -> np.ndarray:
    """Return -log pi(token | what came before) of each token of a response, shape (T,), nats.

    Parameters
    ----------
    lm : LanguageModel
    prompt : text or token ids
    response : list of int
        Token ids, the end token included if it counts.
    """
    if not isinstance(lm, LanguageModel):
        raise TypeError(f"lm must be a LanguageModel, got {type(lm).__name__}")
    head = token_ids(lm.tokenizer, prompt)
    check_ids(lm, head, "prompt")
    check_ids(lm, response, "response")
    ids = torch.tensor([[*head, *response]], device=lm.device)
    logits = lm.model(input_ids=ids).logits[0, len(head) - 1 : -1].float()
    chosen = logits.log_softmax(-1).gather(1, ids[0, len(head) :, None])[:, 0]
    return -chosen.double().cpu().numpy()
