"""Turn text into token ids, by one rule everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paperkit.models.loading import LanguageModel

Prompt = str | Sequence[int]


def token_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Return the ids of one prompt.

    The tokenizer's special tokens (a beginning-of-text token in some models) are added unless the
    text already starts with the beginning-of-text token, as a rendered chat prompt does. Ids pass
    unchanged.
    """
    if not isinstance(prompt, str):
        return [int(i) for i in prompt]
    if tokenizer is None:
        raise TypeError("this language model has no tokenizer: give prompts as token ids")
    begin = tokenizer.bos_token
    special = not (begin and prompt.startswith(begin))
    return list(tokenizer(prompt, add_special_tokens=special, verbose=False)["input_ids"])


def check_ids(lm: LanguageModel, ids: Sequence[int], name: str) -> None:
    """Raise ValueError for an empty, too long or out-of-vocabulary sequence called ``name``."""
    if len(ids) == 0:
        raise ValueError(f"{name} is empty: it has no tokens")
    limit = lm.context_length
    if limit is not None and len(ids) > limit:
        raise ValueError(f"{name} has {len(ids)} tokens, the model's context holds {limit}")
    if min(ids) < 0 or max(ids) >= lm.vocabulary_size:
        raise ValueError(
            f"{name} has token ids in [{min(ids)}, {max(ids)}], "
            f"the vocabulary is [0, {lm.vocabulary_size - 1}]"
        )
