"""Turn text into token ids, by one rule everywhere, and measure repetition."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paperkit.models.loading import LanguageModel

if TYPE_CHECKING:
    import torch

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


def chat_prompt(tokenizer: Any, user: str, *, system: str | None, prefill: str = "") -> str:
    """Render one user turn with the tokenizer's chat template, ready for the answer.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        With a chat template.
    user : str
        What the user says.
    system : str or None
        The system message. Three different prompts: a text; ``""``, an empty system block;
        ``None``, no system block at all, also where the template would put in a default one.
    prefill : str
        The first words of the answer.

    Returns
    -------
    str
        Special tokens included; :class:`PrefixTreeScorer`, :func:`encode_pair` and :func:`generate`
        do not add them again.

    Raises
    ------
    ValueError
        If the tokenizer has no chat template, the template takes no system message, or its default
        system block cannot be told from the user's turn.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"{type(tokenizer).__name__} has no chat template")

    def render(messages: list[tuple[str, str]], answer: bool = True) -> str:
        turns = [{"role": role, "content": content} for role, content in messages]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer)
        return str(text)

    if system is not None:
        try:
            return render([("system", system), ("user", user)]) + prefill
        except Exception as error:  # the template's own exception type is not public
            raise ValueError(f"the chat template takes no system message: {error}") from error
    # A template may put a default system block before a first user turn, never before a later one:
    # what a later turn adds to a conversation is the turn itself.
    first = render([("user", user)])
    before = [("user", "a"), ("assistant", "b")]
    earlier, longer = render(before, answer=False), render([*before, ("user", user)])
    turn = longer[len(earlier) :]
    if not (longer.startswith(earlier) and turn and first.endswith(turn)):
        raise ValueError("cannot separate the default system block of this chat template")
    begin = tokenizer.bos_token or ""
    # in some models the beginning-of-text token is also what opens a turn
    opens_text = bool(begin) and first.startswith(begin) and not turn.startswith(begin)
    return (begin if opens_text else "") + turn + prefill


def encode_pair(
    tokenizer: Any, prompt: str, response: str, *, end: bool = False
) -> tuple[list[int], int]:
    """Tokenise a prompt and a response apart and join them, as in sampling.

    A model that answers a prompt sees the prompt's tokens and adds its own: the seam between the
    two is always a token boundary. (For options of a cloze question, where the whole text is read
    at once, see :meth:`PrefixTreeScorer.completion_logprobs`.)

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    prompt, response : str
        Neither may be empty.
    end : bool
        Append the tokenizer's end-of-text token to the response.

    Returns
    -------
    ids : list of int
        Tokens of prompt and response.
    prompt_length : int
        How many of them are the prompt's.

    Raises
    ------
    ValueError
        If prompt or response has no tokens, or ``end`` is asked of a tokenizer without such a
        token.
    """
    head = token_ids(tokenizer, prompt)
    if not head:
        raise ValueError("prompt is empty: it has no tokens")
    tail = list(tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"])
    if not tail:
        raise ValueError("response is empty: it has no tokens")
    if end:
        if tokenizer.eos_token_id is None:
            raise ValueError(f"{type(tokenizer).__name__} has no end-of-text token")
        tail.append(int(tokenizer.eos_token_id))
    return head + tail, len(head)


def pad_pairs(
    pairs: Sequence[tuple[Sequence[int], int]], *, side: str = "right", pad_id: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Stack pairs of :func:`encode_pair` into the arguments of :func:`sequence_logprobs`.

    Parameters
    ----------
    pairs : sequence of B (ids, prompt length)
    side : {"right", "left"}
        Where shorter rows are padded.
    pad_id : int
        What stands there; it is masked and never scored.

    Returns
    -------
    input_ids : Tensor, shape (B, L), int64
    prompt_lengths : Tensor, shape (B,), int64
    attention_mask : Tensor, shape (B, L), int64
    """
    import torch

    if side not in ("right", "left"):
        raise ValueError(f"side must be 'right' or 'left', got {side!r}")
    if not pairs:
        raise ValueError("pairs is empty")
    longest = max(len(ids) for ids, _ in pairs)
    input_ids = torch.full((len(pairs), longest), pad_id)
    mask = torch.zeros_like(input_ids)
    for b, (ids, _) in enumerate(pairs):
        where = slice(0, len(ids)) if side == "right" else slice(longest - len(ids), longest)
        input_ids[b, where] = torch.as_tensor(list(ids))
        mask[b, where] = 1
    return input_ids, torch.tensor([length for _, length in pairs]), mask


def distinct_n(sequences: Sequence[Sequence[Hashable]], n: int) -> np.ndarray:
    """Return the share of distinct n-grams in each sequence.

    Parameters
    ----------
    sequences : sequence of N sequences of hashable items
        Words (``text.split()``), token ids, characters of a string.
    n : int
        Length of an n-gram, at least 1.

    Returns
    -------
    ndarray, shape (N,)
        Distinct n-grams divided by n-grams; 1.0 for a sequence shorter than n.

    References
    ----------
    Li et al. (2016), "A Diversity-Promoting Objective Function for Neural Conversation Models",
    NAACL, section 5.3 (their distinct-1 and distinct-2, here per sequence).
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be a positive integer, got {n!r}")
    if isinstance(sequences, str):
        raise TypeError("sequences must be a sequence of sequences, got one text")
    shares = []
    for sequence in sequences:
        window: deque[Hashable] = deque(maxlen=n)
        total, seen = 0, set()
        for item in sequence:
            window.append(item)
            if len(window) == n:
                total += 1
                seen.add(tuple(window))
        shares.append(len(seen) / total if total else 1.0)
    return np.array(shares, float)
