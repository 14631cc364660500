"""Preference pairs as token ids, and what can be read off them without training.

The centred hidden embedding similarity (CHES) of a pair, with :math:`h` the final hidden states at the positions that
*predict* the response's tokens (the last prompt token up to the second-to-last response token),

.. math:: CHES = \\langle S^+, S^- \\rangle - |S^+|^2, \\qquad S^\\pm = \\sum_{k=1}^{|y^\\pm|} h_{x, y^\\pm_{<k}} ,

and its length-normalised form, :math:`\\langle \\bar h^+, \\bar h^- - \\bar h^+ \\rangle` with means in place of sums.
The higher, the more the rejected response looks like the chosen one to the model, relative to the chosen one's own
size.

Source: Razin et al. 2025, Definition 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

MEASURES: tuple[str, ...] = ("ln_ches", "ches", "last_hidden", "neg_edit_distance")
SIDES: tuple[str, ...] = ("chosen", "rejected")
#: Tokens in one forward pass: more multiply larger matrices, but attention grows with the square.
ROW_TOKENS = 384


@dataclass(frozen=True)
class TokenPair:
    """A prompt and two responses as token ids; responses include the end token where the data has one.

    Raises
    ------
    ValueError
        An empty prompt or response, equal responses, or a negative id.
    """

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("prompt", "chosen", "rejected"):
            ids = tuple(int(token) for token in getattr(self, name))
            if not ids:
                raise ValueError(f"{name} is empty")
            if min(ids) < 0:
                raise ValueError(f"{name} holds a negative token id: {min(ids)}")
            object.__setattr__(self, name, ids)
        if self.chosen == self.rejected:
            raise ValueError(f"chosen and rejected are the same response: {self.chosen}")

    def swapped(self) -> TokenPair:
        """The pair with the preference turned round."""
        return TokenPair(self.prompt, self.rejected, self.chosen)


def encode_pairs(
    tokenizer: Any, frame: pd.DataFrame, *, system: str | None = "", end: bool = False
) -> list[TokenPair]:
    """Tokenise a preference table with the chat template.

    Parameters
    ----------
    frame
        Columns ``prompt`` (the user's turn), ``chosen`` and ``rejected``; text.
    system
        The system message; ``""`` is an empty block, ``None`` leaves the block out where the template allows it.
    end
        Append the tokenizer's end token to both responses.

    Raises
    ------
    ValueError
        A missing column, no rows, an empty text or equal responses; the message names the row.
    """
    from paperkit import models

    missing = [name for name in ("prompt", "chosen", "rejected") if name not in frame]
    if missing:
        raise ValueError(f"the preference table lacks the columns {missing}")
    if frame.empty:
        raise ValueError("the preference table has no rows")
    pairs = []
    for index, row in frame.iterrows():
        prompt = models.chat_prompt(tokenizer, row["prompt"], system=system)
        try:
            chosen, n = models.encode_pair(tokenizer, prompt, row["chosen"], end=end)
            rejected, m = models.encode_pair(tokenizer, prompt, row["rejected"], end=end)
            pairs.append(TokenPair(tuple(chosen[:n]), tuple(chosen[n:]), tuple(rejected[m:])))
        except ValueError as error:
            raise ValueError(f"row {index!r}: {error}") from error
    return pairs


def _check_pairs(model: Any, pairs: Sequence[TokenPair], batch_size: int = 1) -> None:
    if not pairs:
        raise ValueError("pairs is empty")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    vocabulary = model.get_input_embeddings().num_embeddings
    context = getattr(model.config, "max_position_embeddings", None)
    for i, pair in enumerate(pairs):
        largest = max(max(pair.prompt), max(pair.chosen), max(pair.rejected))
        if largest >= vocabulary:
            raise ValueError(
                f"pair {i} holds token {largest}; the model's vocabulary has {vocabulary}"
            )
        length = len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
        if context is not None and length > context:
            raise ValueError(f"pair {i} is {length} tokens long; the model's context is {context}")


def hidden_sums(
    model: Any, pairs: Sequence[TokenPair], *, batch_size: int = 64, include_last: bool = False
) -> dict[str, np.ndarray]:
    """Sums of the hidden states that CHES needs; a beginning that several sequences share is computed once.

    Both responses of a pair read the states of one prompt, prompts those of the chat template and of whatever else
    their texts have in common. The last response token is not fed, because its state predicts nothing; no vocabulary
    logits are computed.

    Parameters
    ----------
    model
        Any transformers causal language model; see :func:`paperkit.models.shared_states`.
    batch_size
        Pairs whose states are held at once, neighbours in the order of their prompts.
    include_last
        Feed the last response token too and add its state (one term more), as the authors' experiment script does;
        the definition has as many terms as the response has tokens.

    Returns
    -------
    dict with ``chosen`` and ``rejected`` (N, d) float64 sums, ``n_chosen`` and ``n_rejected`` (N,) numbers of terms,
    ``last_chosen`` and ``last_rejected`` (N, d) the state that predicts the last token.
    """
    import torch

    from paperkit import models

    _check_pairs(model, pairs, batch_size)
    width = model.config.hidden_size
    out = {
        key: np.zeros((len(pairs), width))
        for key in ("chosen", "rejected", "last_chosen", "last_rejected")
    }
    order = sorted(range(len(pairs)), key=lambda i: pairs[i].prompt)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        fed = {(i, side): _fed(pairs[i], side, include_last) for i in rows for side in SIDES}
        h, paths = models.shared_states(model, list(fed.values()), max_tokens=ROW_TOKENS)
        if not torch.isfinite(h).all():
            raise ValueError(f"hidden states are not finite among the pairs {rows}")
        for (i, side), sequence in fed.items():
            states = h[_predicting(paths[sequence], pairs[i])].double()  # (n, d)
            out[side][i] = states.sum(0).cpu().numpy()
            out[f"last_{side}"][i] = states[-1].cpu().numpy()
    out["n_chosen"] = np.array([len(pair.chosen) + include_last for pair in pairs])
    out["n_rejected"] = np.array([len(pair.rejected) + include_last for pair in pairs])
    return out


def _fed(pair: TokenPair, side: str, include_last: bool) -> tuple[int, ...]:
    """The tokens of prompt and response that go through the model."""
    response = getattr(pair, side)
    return pair.prompt + (response if include_last else response[:-1])


def _predicting(path: np.ndarray, pair: TokenPair) -> np.ndarray:
    """Of the states along a sequence those that enter the sum, from the last prompt token on."""
    return path[len(pair.prompt) - 1 :]


def ches_score(
    chosen: np.ndarray,
    rejected: np.ndarray,
    n_chosen: np.ndarray,
    n_rejected: np.ndarray,
    *,
    length_normalize: bool = False,
) -> np.ndarray:
    """CHES of N pairs from the sums (N, d) and the numbers of terms (N,); (N,) float64.

    Raises
    ------
    ValueError
        Shapes that do not fit, a number of terms below 1, or sums that are not finite.
    """
    chosen, rejected = np.asarray(chosen, dtype=float), np.asarray(rejected, dtype=float)
    n_chosen, n_rejected = np.asarray(n_chosen), np.asarray(n_rejected)
    if chosen.ndim != 2 or chosen.shape != rejected.shape:
        raise ValueError(f"the sums must both be (N, d); got {chosen.shape} and {rejected.shape}")
    if n_chosen.shape != (len(chosen),) or n_rejected.shape != (len(chosen),):
        raise ValueError(f"the numbers of terms must be ({len(chosen)},)")
    if (n_chosen < 1).any() or (n_rejected < 1).any():
        raise ValueError("every response needs at least one term")
    if not (np.isfinite(chosen).all() and np.isfinite(rejected).all()):
        raise ValueError("the sums must be finite")
    if length_normalize:
        chosen, rejected = chosen / n_chosen[:, None], rejected / n_rejected[:, None]
    return (chosen * rejected).sum(1) - (chosen**2).sum(1)


def normalized_edit_distance(a: Sequence[int], b: Sequence[int]) -> float:
    """Levenshtein distance of two token sequences over the longer one's length, in [0, 1]."""
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.normalized_distance(list(a), list(b)))


def score_pairs(
    model: Any, pairs: Sequence[TokenPair], *, batch_size: int = 64, include_last: bool = False
) -> pd.DataFrame:
    """All similarity measures of a preference set, one row a pair; higher means more similar.

    Returns
    -------
    DataFrame with ``ches``, ``ln_ches``, ``last_hidden`` (inner product of the states that predict the last tokens),
    ``neg_edit_distance``, ``n_chosen`` and ``n_rejected`` (tokens).

    Raises
    ------
    ValueError
        No pairs, a token outside the vocabulary, a pair longer than the context, states that are not finite.
    """
    sums = hidden_sums(model, pairs, batch_size=batch_size, include_last=include_last)
    terms = (sums["chosen"], sums["rejected"], sums["n_chosen"], sums["n_rejected"])
    return pd.DataFrame(
        {
            "ches": ches_score(*terms),
            "ln_ches": ches_score(*terms, length_normalize=True),
            "last_hidden": (sums["last_chosen"] * sums["last_rejected"]).sum(1),
            "neg_edit_distance": [
                -normalized_edit_distance(pair.chosen, pair.rejected) for pair in pairs
            ],
            "n_chosen": [len(pair.chosen) for pair in pairs],
            "n_rejected": [len(pair.rejected) for pair in pairs],
        }
    )


def filter_pairs(
    scores: pd.DataFrame, *, keep: float = 0.05, by: str = "ln_ches", which: str = "lowest"
) -> np.ndarray:
    """Row positions of the share ``keep`` with the lowest (or highest) score, in rank order; at least one row.

    The paper trains on the lowest 5 % by length-normalised CHES (section 6).

    Raises
    ------
    ValueError
        ``keep`` outside (0, 1], an unknown column, scores that are not finite, or an unknown ``which``.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must lie in (0, 1]; got {keep!r}")
    if by not in scores:
        raise ValueError(
            f"by must be a column of scores ({', '.join(map(str, scores))}); got {by!r}"
        )
    if which not in ("lowest", "highest"):
        raise ValueError(f"which must be 'lowest' or 'highest'; got {which!r}")
    values = scores[by].to_numpy(dtype=float)
    if not np.isfinite(values).all():
        raise ValueError(f"the scores {by!r} must be finite")
    order = np.argsort(values if which == "lowest" else -values, kind="stable")
    return order[: max(1, round(keep * len(order)))]
