"""Bounds on the likelihood with errors, comparisons on equal masks, generated text, infilling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from paperkit import claims
from paperkit.absorbing_diffusion.losses import (
    Model,
    _check_clean,
    any_order_loss,
    autoregressive_loss,
    lambda_dce_loss,
    logits_at,
    vocabulary_of,
)

__all__ = [
    "BoundEstimate",
    "generative_nll",
    "infilling",
    "nll_bound",
    "paired_difference",
    "unigram_entropy",
]

ESTIMATORS = ("any_order", "lambda_dce", "exact")


@dataclass(frozen=True)
class BoundEstimate:
    """An upper bound on the negative log-likelihood of a data set.

    Attributes
    ----------
    nats_per_token : float
        Mean over sequences.
    stderr : float
        Its standard error: sequences and masks both vary; with one sequence, 0.
    per_sequence : numpy.ndarray
        ``[sequences]``, nats per token of each, averaged over repeats.
    characters_per_token : float or None
        What the bits per character are computed with.
    """

    nats_per_token: float
    stderr: float
    per_sequence: np.ndarray
    characters_per_token: float | None = None

    @property
    def perplexity(self) -> float:
        """Exponential of the nats per token."""
        return float(np.exp(self.nats_per_token))

    @property
    def bits_per_char(self) -> float:
        """Bits per character, which compares texts and tokenizers.

        Raises
        ------
        ValueError
            If the characters per token were not given.
        """
        if self.characters_per_token is None:
            raise ValueError("give characters_per_token to nll_bound for bits per character")
        return self.nats_per_token / np.log(2) / self.characters_per_token


def nll_bound(
    model: Model,
    x0: torch.Tensor,
    *,
    estimator: str = "any_order",
    repeats: int = 4,
    batch_size: int = 64,
    normalized: bool = True,
    characters_per_token: float | None = None,
    generator: torch.Generator | None = None,
) -> BoundEstimate:
    """Estimate the bound on the negative log-likelihood.

    Two models that are called with equal generators, data, repeats and batch sizes see the same
    masks, so that their difference has a small error (:func:`paired_difference`).

    Parameters
    ----------
    model : callable
    x0 : Tensor
        int64 ``[sequences, length]``, clean.
    estimator : {"any_order", "lambda_dce", "exact"}
        The two estimators of the bound, or the exact likelihood of a left-to-right model.
    repeats : int
        Masks a sequence; not used by ``"exact"``.
    batch_size : int
        The numbers of masked positions are spread evenly over each batch.
    normalized : bool
        See :func:`~paperkit.absorbing_diffusion.losses.any_order_loss`.
    characters_per_token : float, optional
    generator : torch.Generator, optional

    Returns
    -------
    BoundEstimate
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    for name, value in (("repeats", repeats), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}")
    _check_clean(x0, vocabulary_of(model))
    was_training = bool(getattr(model, "training", False))
    if was_training:
        model.eval()  # type: ignore[attr-defined]
    total = np.zeros(len(x0))
    rounds = 1 if estimator == "exact" else repeats
    with torch.no_grad():
        for _ in range(rounds):
            parts = []
            for x in x0.split(batch_size):
                if estimator == "exact":
                    parts.append(autoregressive_loss(model, x))
                elif estimator == "any_order":
                    parts.append(
                        any_order_loss(model, x, normalized=normalized, generator=generator)
                    )
                else:
                    parts.append(
                        lambda_dce_loss(model, x, normalized=normalized, generator=generator)
                    )
            total += torch.cat(parts).double().cpu().numpy()
    if was_training:
        model.train()  # type: ignore[attr-defined]
    each = total / rounds / x0.shape[1]
    error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else 0.0
    return BoundEstimate(float(each.mean()), error, each, characters_per_token)


def paired_difference(
    a: BoundEstimate, b: BoundEstimate, *, rng: np.random.Generator | int, n_draws: int = 2000
) -> claims.Interval:
    """Return the difference a - b in nats per token with a 95 % bootstrap interval over sequences.

    Raises
    ------
    ValueError
        If the two were not estimated on the same number of sequences.
    """
    if len(a.per_sequence) != len(b.per_sequence):
        raise ValueError(
            f"different sequences: {len(a.per_sequence)} and {len(b.per_sequence)} of them"
        )
    difference = a.per_sequence - b.per_sequence
    return claims.bootstrap(np.mean, difference, method="percentile", n_draws=n_draws, rng=rng)


def unigram_entropy(tokens: Any) -> float:
    """Return the entropy in nats of the token frequencies of a sample."""
    ids = np.asarray(tokens).ravel()
    if not ids.size or ids.dtype.kind not in "iu":
        raise TypeError("tokens must be integers, at least one")
    share = np.unique(ids, return_counts=True)[1] / ids.size
    return float(-(share * np.log(share)).sum())


def generative_nll(tokens: torch.Tensor, scorer: Any) -> np.ndarray:
    """Return the nats per token that a judge gives to generated sequences.

    Parameters
    ----------
    tokens : Tensor
        int64 ``[batch, length]``, clean.
    scorer : object
        A language with ``log_prob`` (exact), or a left-to-right model.

    Returns
    -------
    numpy.ndarray
        ``[batch]``. A low value alone is not quality: look at :func:`unigram_entropy` beside it.
    """
    with torch.no_grad():
        if hasattr(scorer, "log_prob"):
            nats = -torch.as_tensor(scorer.log_prob(tokens))
        else:
            nats = autoregressive_loss(scorer, tokens)
    return nats.double().cpu().numpy() / tokens.shape[1]


def infilling(
    model: Model,
    x0: torch.Tensor,
    hidden: slice,
    *,
    orders: int = 4,
    generator: torch.Generator | None = None,
) -> dict[str, np.ndarray]:
    """Score the true tokens of a gap, given the text around it.

    A masked model sees both sides and fills the gap in random orders; a left-to-right model
    (``causal`` is true) sees what comes before.

    Parameters
    ----------
    model : callable
    x0 : Tensor
        int64 ``[batch, length]``, clean.
    hidden : slice
        Positions of the gap.
    orders : int
        Random orders to average over, for masked models.
    generator : torch.Generator, optional

    Returns
    -------
    dict of numpy.ndarray
        ``nats``: ``[batch]`` nats per hidden token, given the earlier revealed ones of the gap;
        ``first_correct``: ``[batch]``, share of the gap's tokens that are the likeliest one when
        each is asked for first (masked models), or next (left-to-right).
    """
    vocabulary = vocabulary_of(model)
    _check_clean(x0, vocabulary)
    B, d = x0.shape
    spots = torch.arange(d)[hidden]
    if not len(spots) or orders < 1:
        raise ValueError("the gap must hold a position, and orders must be at least 1")
    if getattr(model, "time_conditioned", False):
        raise ValueError("a time-conditioned network needs a time; infilling has none")
    gap = torch.zeros(d, dtype=torch.bool)
    gap[spots] = True
    with torch.no_grad():
        if getattr(model, "causal", False):
            law = model(x0)[:, gap].log_softmax(-1)
            right = law.argmax(-1) == x0[:, gap]
            nats = -law.gather(-1, x0[:, gap][..., None])[..., 0].mean(1)
            return {"nats": nats.double().numpy(), "first_correct": right.double().mean(1).numpy()}
        everything = gap.expand(B, d)
        masked = torch.where(everything, vocabulary, x0)
        guess = logits_at(model, masked, everything, None).argmax(-1).view(B, -1)
        right = (guess == x0[:, gap]).double().mean(1)
        total = torch.zeros(B, dtype=torch.float64)
        for _ in range(orders):
            u = torch.rand((B, len(spots)), generator=generator, dtype=torch.float64)
            rank = u.argsort(1).argsort(1)
            for r in range(len(spots)):
                hidden_now = torch.zeros((B, d), dtype=torch.bool)
                hidden_now[:, spots] = rank >= r
                ask = torch.zeros((B, d), dtype=torch.bool)
                ask[:, spots] = rank == r
                logits = logits_at(model, torch.where(hidden_now, vocabulary, x0), ask, None)
                law = logits.log_softmax(-1)
                total -= law.gather(1, x0[ask][:, None])[:, 0].double()
    return {
        "nats": (total / orders / len(spots)).numpy(),
        "first_correct": right.numpy(),
    }
