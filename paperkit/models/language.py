r"""Log-probabilities of responses, and samples, from any causal language model of transformers.

The log-probability of a response y to a prompt x is a sum over its tokens,

.. math:: \log \pi(y \mid x) = \sum_t \log \pi(y_t \mid x, y_{<t}).

:func:`sequence_logprobs` computes it with gradients, for training; :func:`generate` draws
responses and returns it with them; :class:`PrefixTreeScorer` computes it without gradients for
many prompts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from paperkit.models.loading import LanguageModel, as_language_model, forward_parameters
from paperkit.models.text import Prompt, check_ids, token_ids


def sequence_logprobs(
    model: Any,
    input_ids: torch.Tensor,
    prompt_lengths: torch.Tensor | Sequence[int],
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the log-probability of each response given its prompt: a sum over response tokens.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal language model, adapters included. Its mode (training or evaluation) is left as it
        is.
    input_ids : Tensor, shape (B, L), int64
        Prompt and response joined; see :func:`encode_pair` and :func:`pad_pairs`.
    prompt_lengths : Tensor or sequence, shape (B,)
        How many of a row's tokens, padding not counted, are its prompt's.
    attention_mask : Tensor, shape (B, L), optional
        1 at tokens, 0 at padding, which may lie on either side. Without it no row is padded.

    Returns
    -------
    Tensor, shape (B,), float32
        Natural logarithms (nats), differentiable. Float64 if the model's logits are float64.

    Raises
    ------
    ValueError
        If shapes disagree, a row's padding is not at one side, a prompt or a response is empty, a
        row is longer than the context, or ids lie outside the vocabulary. The message names the
        row.
    FloatingPointError
        If the logits of a row are not finite.

    Notes
    -----
    Logits are computed only at columns in which some row has a response token to predict.
    """
    lm = LanguageModel(model, None, "")
    device = lm.device
    input_ids = torch.as_tensor(input_ids, device=device)
    starts = torch.as_tensor(prompt_lengths, device=device)
    if input_ids.ndim != 2:
        raise ValueError(f"input_ids must have shape (B, L), got {tuple(input_ids.shape)}")
    if starts.shape != input_ids.shape[:1]:
        raise ValueError(
            f"prompt_lengths must have shape ({len(input_ids)},), got {tuple(starts.shape)}"
        )
    if attention_mask is None:
        mask = torch.ones_like(input_ids, dtype=torch.bool)
    else:
        mask = torch.as_tensor(attention_mask, device=device).bool()
        if mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask must have shape {tuple(input_ids.shape)}, got {tuple(mask.shape)}"
            )
    for b, (row, seen, start) in enumerate(zip(input_ids, mask, starts.tolist(), strict=True)):
        if int((seen[1:] != seen[:-1]).sum()) > 1:
            raise ValueError(f"row {b} of attention_mask has padding inside or at both sides")
        tokens = row[seen].tolist()
        check_ids(lm, tokens, f"row {b}")
        if start < 1:
            raise ValueError(f"row {b} has an empty prompt (prompt length {start})")
        if start >= len(tokens):
            raise ValueError(
                f"row {b} has an empty response: {len(tokens)} tokens, prompt length {start}"
            )
    rank = mask.cumsum(1) - 1  # (B, L) position among a row's own tokens
    response = mask & (rank >= starts[:, None])
    columns = response.any(0).nonzero()[:, 0] - 1  # (C,) where some response token is predicted
    accepted = forward_parameters(model)
    extra: dict[str, Any] = {}
    if "position_ids" in accepted:
        extra["position_ids"] = rank.clamp(min=0)
    if "logits_to_keep" in accepted:
        extra["logits_to_keep"] = columns
    output = model(
        input_ids=input_ids.masked_fill(~mask, 0),
        attention_mask=mask.long(),
        use_cache=False,
        **extra,
    )
    logits = output.logits if "logits_to_keep" in accepted else output.logits[:, columns]
    rows, places = response[:, columns + 1].nonzero(as_tuple=True)  # (R,), (R,)
    chosen = logits[rows, places]  # (R, V)
    chosen = chosen if chosen.dtype == torch.float64 else chosen.float()
    targets = input_ids[rows, columns[places] + 1]
    values = chosen.gather(1, targets[:, None])[:, 0] - chosen.logsumexp(1)
    bad = rows[~values.detach().isfinite()]
    if len(bad):
        raise FloatingPointError(f"the model's logits are not finite in row {int(bad[0])}")
    return values.new_zeros(len(input_ids)).index_add(0, rows, values)


@dataclass(frozen=True)
class Generations:
    """Samples of :func:`generate` for n prompts, s samples each.

    Attributes
    ----------
    texts : list of n lists of s str
        Decoded responses without special tokens.
    token_ids : list of n lists of s lists of int
        Their tokens, the first end token included where there is one.
    logprobs : ndarray, shape (n, s), float64
        Log-probability of those tokens at the temperature they were drawn with, over the whole
        vocabulary (that is, before the top-p cut).
    finished : ndarray, shape (n, s), bool
        Whether the model ended the response itself.
    """

    texts: list[list[str]]
    token_ids: list[list[list[int]]]
    logprobs: np.ndarray
    finished: np.ndarray


class _Recorder(LogitsProcessor):
    """Keep the log-probability of each sampled token, without keeping all logits."""

    def __init__(self, temperature: float, owners: Sequence[int]) -> None:
        self.temperature = temperature
        self.owners = owners
        self.previous: torch.Tensor | None = None
        self.columns: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.close(input_ids)
        self.previous = (scores.float() / self.temperature).log_softmax(-1)
        bad = self.previous.isnan().any(1).nonzero()
        if len(bad):
            owner = self.owners[int(bad[0, 0])]
            raise FloatingPointError(f"the model's logits are not finite after prompt {owner}")
        return scores

    def close(self, input_ids: torch.Tensor) -> None:
        """Read off the token that was drawn from the last logits."""
        if self.previous is not None:
            self.columns.append(self.previous.gather(1, input_ids[:, -1:])[:, 0])
            self.previous = None


def generate(
    lm: Any,
    prompts: Sequence[Prompt],
    *,
    n_samples: int = 1,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int,
    batch_size: int = 32,
) -> Generations:
    """Sample responses.

    Parameters
    ----------
    lm : LanguageModel or anything :func:`as_language_model` takes
    prompts : sequence of n texts or token-id sequences
        See :func:`chat_prompt` for models that were trained on conversations.
    n_samples : int
        Samples a prompt.
    max_new_tokens : int
        Where a response is cut off if the model does not end it.
    temperature : float
        Divides the logits; positive.
    top_p : float
        Sample from the smallest set of tokens with at least this probability, in (0, 1].
    seed : int
        The same seed, prompts and batch size give the same samples on one machine (other machines
        round differently). The global random state is left untouched.
    batch_size : int
        Rows sampled together.

    Returns
    -------
    Generations

    Raises
    ------
    ValueError
        If a prompt is empty, outside the vocabulary, or leaves no room for ``max_new_tokens`` in
        the context; or if a setting is out of range.
    FloatingPointError
        If the model's logits are not numbers; the message names the prompt.
    """
    lm = as_language_model(lm)
    for name, count in (
        ("n_samples", n_samples),
        ("max_new_tokens", max_new_tokens),
        ("batch_size", batch_size),
    ):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a positive integer, got {count!r}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite, got {temperature!r}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p!r}")
    if isinstance(prompts, str):
        raise TypeError("prompts must be a sequence of prompts, got one text")
    heads = [token_ids(lm.tokenizer, prompt) for prompt in prompts]
    for i, head in enumerate(heads):
        check_ids(lm, head, f"prompt {i}")
        if lm.context_length is not None and len(head) + max_new_tokens > lm.context_length:
            raise ValueError(
                f"prompt {i} has {len(head)} tokens; with max_new_tokens={max_new_tokens} it "
                f"exceeds the context of {lm.context_length}"
            )
    ends = _end_tokens(lm)
    config = GenerationConfig(
        do_sample=True,
        temperature=float(temperature),
        top_p=float(top_p),
        top_k=0,  # the library's default of 50 would be a silent cut
        max_new_tokens=max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )
    owners = [i for i in range(len(heads)) for _ in range(n_samples)]
    drawn: list[tuple[list[int], float, bool]] = []
    training = lm.model.training
    lm.model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(enabled=True):
            torch.manual_seed(seed)
            for start in range(0, len(owners), batch_size):
                batch = owners[start : start + batch_size]
                drawn += _sample_batch(lm, heads, batch, config, ends)
    finally:
        lm.model.train(training)
    shape = (len(heads), n_samples)
    rows = [drawn[i * n_samples : (i + 1) * n_samples] for i in range(len(heads))]
    decode = lm.tokenizer.decode if lm.tokenizer is not None else lambda ids, **_: ""
    return Generations(
        texts=[[str(decode(ids, skip_special_tokens=True)) for ids, *_ in row] for row in rows],
        token_ids=[[ids for ids, *_ in row] for row in rows],
        logprobs=np.array([logprob for _, logprob, _ in drawn], float).reshape(shape),
        finished=np.array([finished for *_, finished in drawn], bool).reshape(shape),
    )


def _end_tokens(lm: LanguageModel) -> list[int]:
    """Return the ids that end a response."""
    for owner in (lm.model.generation_config, lm.model.config, lm.tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        if ids is not None:
            return [int(i) for i in (ids if isinstance(ids, list | tuple) else [ids])]
    return []


def _sample_batch(
    lm: LanguageModel,
    heads: list[list[int]],
    batch: list[int],
    config: GenerationConfig,
    ends: list[int],
) -> list[tuple[list[int], float, bool]]:
    """Return (tokens, log-probability, finished) of one response to each prompt of the batch."""
    longest = max(len(heads[i]) for i in batch)
    ids = torch.zeros((len(batch), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, i in enumerate(batch):
        ids[row, longest - len(heads[i]) :] = torch.tensor(heads[i])
        mask[row, longest - len(heads[i]) :] = 1
    recorder = _Recorder(float(config.temperature), batch)
    output = lm.model.generate(
        input_ids=ids.to(lm.device),
        attention_mask=mask.to(lm.device),
        generation_config=config,
        logits_processor=LogitsProcessorList([recorder]),
    )
    recorder.close(output)
    logprobs = torch.stack(recorder.columns, 1).double().cpu()  # (rows, steps)
    results = []
    for tokens, values in zip(output[:, longest:].tolist(), logprobs, strict=True):
        end = next((t for t, token in enumerate(tokens) if token in ends), None)
        length = len(tokens) if end is None else end + 1
        results.append((tokens[:length], float(values[:length].sum()), end is not None))
    return results
