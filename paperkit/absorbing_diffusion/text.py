"""The texts of the chapter as tokens: the King James Bible, and five texts outside it.

The Bible is split by whole books, because its verses repeat. A verse of the validation books that
also stands, word for word, in a training book is left out of validation. Text is cut into windows
of a fixed number of tokens inside one book.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from paperkit import data

if TYPE_CHECKING:
    import torch

__all__ = [
    "VALIDATION_BOOKS",
    "VOCABULARY",
    "ZERO_SHOT",
    "TextWindows",
    "bigram_nats",
    "decode",
    "encode",
    "load_kjv",
    "load_tokenizer",
    "load_zero_shot_texts",
    "unigram_nats",
]

VOCABULARY = 1024
"""Tokens of the byte-level tokenizer; the mask is one more symbol, with this number as its id."""

VALIDATION_BOOKS = (
    "Ruth",
    "1 Samuel",
    "Ecclesiastes",
    "Jonah",
    "Mark",
    "Galatians",
    "1 Corinthians",
)
"""Books that no model, and not the tokenizer either, has seen."""

ZERO_SHOT = {
    "persuasion": "Persuasion (Austen)",
    "devil": "The Devil's Dictionary (Bierce)",
    "python": "Python language reference",
    "jargon": "The Jargon File",
    "sklearn": "scikit-learn data set notes",
}
"""Names and titles of the five texts on which nothing was trained."""


@dataclass(frozen=True)
class TextWindows:
    """Pieces of one text, all of the same number of tokens.

    Attributes
    ----------
    tokens : numpy.ndarray
        int64 ``[windows, length]``, ids below :data:`VOCABULARY`.
    characters : numpy.ndarray
        int64 ``[windows]``: characters that each window stands for.
    source : numpy.ndarray
        ``[windows]``: the book or text of each window.
    """

    tokens: np.ndarray
    characters: np.ndarray
    source: np.ndarray

    @property
    def characters_per_token(self) -> float:
        """Mean number of characters of a token."""
        return float(self.characters.sum() / self.tokens.size)

    def tensor(self) -> torch.Tensor:
        """Return the tokens as an int64 tensor ``[windows, length]``."""
        import torch

        return torch.as_tensor(self.tokens, dtype=torch.int64)

    def select(self, rows: Any) -> TextWindows:
        """Return the windows with these indices, or where this mask is true."""
        return TextWindows(self.tokens[rows], self.characters[rows], self.source[rows])

    def __len__(self) -> int:
        return len(self.tokens)


@functools.cache
def load_tokenizer() -> Any:
    """Return the byte-level BPE tokenizer that was learned on the training books.

    Returns
    -------
    tokenizers.Tokenizer
    """
    from tokenizers import Tokenizer

    return Tokenizer.from_str(data.text("absorbing_diffusion/kjv_tokenizer"))


def encode(text: str) -> np.ndarray:
    """Return the token ids of a text, int64 ``[n]``; white space is collapsed to single blanks."""
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, got {type(text).__name__}")
    return np.asarray(load_tokenizer().encode(" ".join(text.split())).ids, dtype=np.int64)


def decode(tokens: Any) -> str:
    """Return the text of token ids; the mask is written as a low line.

    Parameters
    ----------
    tokens : array-like of int
        ``[n]``, ids from 0 to :data:`VOCABULARY` (the mask).
    """
    ids = np.asarray(tokens)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise TypeError(f"tokens must be one row of integers, got {ids.dtype} {ids.shape}")
    if ids.size and (ids.min() < 0 or ids.max() > VOCABULARY):
        raise ValueError(f"token ids must lie in 0..{VOCABULARY}")
    tokenizer = load_tokenizer()
    pieces, start = [], 0
    masked = ids == VOCABULARY
    for k in range(len(ids) + 1):  # runs of clean tokens, so that multi-byte characters hold
        if k == len(ids) or masked[k]:
            pieces.append(tokenizer.decode(ids[start:k].tolist()))
            if k < len(ids):
                pieces.append("_")
            start = k + 1
    return "".join(pieces)


def load_kjv(split: str = "validation", *, length: int = 64) -> TextWindows:
    """Return the windows of the King James Bible.

    Parameters
    ----------
    split : {"train", "validation"}
        Seven whole books are for validation (:data:`VALIDATION_BOOKS`), 59 for training.
    length : int
        Tokens of a window; windows follow each other without overlap.

    Returns
    -------
    TextWindows
        ``source`` is the book.

    Raises
    ------
    ValueError
        If ``split`` is another word or ``length`` is below 1.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"split must be 'train' or 'validation', got {split!r}")
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    parts = [_windows(ids, length, book) for book, ids in _books(split).items()]
    return TextWindows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@functools.cache
def _books(split: str) -> dict[str, np.ndarray]:
    """Token ids of each book of a split."""
    verses = data.table("absorbing_diffusion/kjv")
    held_out = verses["book"].isin(VALIDATION_BOOKS)
    if split == "train":
        chosen = verses[~held_out]
    else:
        chosen = verses[held_out & ~verses["text"].isin(set(verses["text"][~held_out]))]
    books = {str(name): " ".join(rows["text"]) for name, rows in chosen.groupby("book", sort=False)}
    coded = load_tokenizer().encode_batch(list(books.values()))
    return {name: np.asarray(c.ids, dtype=np.int64) for name, c in zip(books, coded, strict=True)}


def _windows(ids: np.ndarray, length: int, source: str) -> tuple[np.ndarray, ...]:
    n = len(ids) // length
    tokens = ids[: n * length].reshape(n, length)
    texts = load_tokenizer().decode_batch(tokens.tolist())
    characters = np.array([len(t) for t in texts], dtype=np.int64)
    return tokens, characters, np.full(n, source, dtype=object)


def load_zero_shot_texts(*, length: int = 64) -> dict[str, TextWindows]:
    """Return the windows of five texts that are not in the Bible.

    Parameters
    ----------
    length : int
        Tokens of a window.

    Returns
    -------
    dict of str to TextWindows
        By the names of :data:`ZERO_SHOT`.

    Raises
    ------
    ValueError
        If ``length`` is below 1.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    return {
        name: TextWindows(*_windows(encode(data.text(f"absorbing_diffusion/{name}")), length, name))
        for name in ZERO_SHOT
    }


@functools.cache
def _counts() -> tuple[np.ndarray, np.ndarray]:
    unigram = np.zeros(VOCABULARY)
    bigram = np.zeros((VOCABULARY, VOCABULARY))
    for ids in _books("train").values():
        unigram += np.bincount(ids, minlength=VOCABULARY)
        np.add.at(bigram, (ids[:-1], ids[1:]), 1.0)
    return unigram, bigram


def unigram_nats(windows: TextWindows) -> float:
    """Return nats per token under the token frequencies of the training books (plus one)."""
    counts = _counts()[0] + 1.0
    return float(-np.log(counts / counts.sum())[windows.tokens].mean())


def bigram_nats(windows: TextWindows, *, weight: float = 0.9) -> float:
    """Return nats per token under the pair frequencies of the training books.

    The first token of a window is scored by its frequency, every other one by ``weight`` times the
    conditional pair frequency plus ``1 - weight`` times its frequency (all of the latter after a
    token without a successor).

    Parameters
    ----------
    windows : TextWindows
    weight : float
        In [0, 1].
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must lie in [0, 1], got {weight}")
    unigram, bigram = _counts()
    frequency = (unigram + 1.0) / (unigram + 1.0).sum()
    left, right = windows.tokens[:, :-1], windows.tokens[:, 1:]
    total = bigram.sum(axis=1)[left]
    pair = np.where(total > 0, bigram[left, right] / np.maximum(total, 1.0), frequency[right])
    mixed = weight * pair + (1 - weight) * frequency[right]
    nats = -np.log(frequency[windows.tokens[:, 0]]).sum() - np.log(mixed).sum()
    return float(nats / windows.tokens.size)
