"""Regularised relevance reward (R3): a reward one can read.

With a query :math:`x`, a reference answer :math:`y`, a response :math:`\\hat y` and a frozen sentence encoder
:math:`M`,

.. math::

   r_x = M(x) \\cdot M(\\hat y), \\quad r_y = M(y) \\cdot M(\\hat y), \\quad
   LI = \\frac{\\text{words}}{100}, \\quad RP = \\frac{\\text{distinct trigrams}}{\\text{trigrams}},

.. math:: R^3 = r_x \\, LI \\, RP \\text{ (open query)}, \\qquad R^3 = F(r_y) \\, RP \\text{ (closed query)},

with a straight line :math:`F` that brings both branches to one scale. RP is a *multiplier*, 1 for a text that repeats
nothing. The published code uses the un-normalised dot product of its retriever; the encoder here was trained with
cosine similarity, so cosine is the default and ``similarity="dot"`` the other choice.

Source: Kim and Seo 2024 (arXiv:2402.03469, version 1) and the authors' released code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from paperkit import data
from paperkit.models import distinct_n

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

RELEVANCE = ("by_type", "query", "reference", "none")
SIMILARITIES = ("cosine", "dot")
# Where the released code cuts a response before it counts words: a role that the model plays itself, or a break after
# which only filler follows.
STOPS = ("### Instruction:", "### Response:", "\n\n\n\n", "\n\n--", "\n\n____")
_WORD = re.compile(r"\w+|[^\w\s]+")


class QueryType(StrEnum):
    """Whether a query has many good answers (open) or one that is right (closed)."""

    OPEN = "open"
    CLOSED = "closed"


class Encoder(Protocol):
    """What turns texts into vectors, such as :class:`paperkit.models.SentenceEncoder`."""

    def encode(
        self, texts: Sequence[str], *, max_tokens: int, truncation_side: str
    ) -> NDArray[Any]:
        """Return the embeddings of N texts, shape (N, d)."""


def load_prompts(split: str | None = None) -> pd.DataFrame:
    """Return the chapter's prompts, written for this book.

    Parameters
    ----------
    split : {"train", "test"}, optional
        All prompts if left out.

    Returns
    -------
    DataFrame
        ``name``, ``prompt``, ``query_type`` ("open" or "closed"), ``reference`` (our own answer), ``accept`` (closed
        only: a regular expression that a right answer contains, in lower case), ``split``.
    """
    table = data.table("relevance_reward/prompts")
    table["accept"] = table["accept"].fillna("")
    if split is None:
        return table
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    return table[table.split == split].reset_index(drop=True)


# --- words ----------------------------------------------------------------------------------------------------------


def tokenize_words(text: str) -> list[str]:
    """Split a text into runs of word characters and runs of punctuation, as the released code does."""
    return _WORD.findall(text)


def truncate_response(text: str, stops: Sequence[str] = STOPS) -> str:
    """Return the part of a response before the first stop, without outer line breaks and spaces."""
    text = text.strip("\n ")
    ends = [where for stop in stops if (where := text.find(stop)) >= 0]
    return text[: min(ends)].strip("\n ") if ends else text


def length_incentive(responses: Sequence[str], *, words_per_unit: float = 100.0) -> Floats:
    """Return LI, the words of each response divided by ``words_per_unit``; shape (N,)."""
    if not words_per_unit > 0:
        raise ValueError(f"words_per_unit must be positive, got {words_per_unit!r}")
    return np.array([len(words) for words in _words(responses)], float) / words_per_unit


def repetition_penalty(responses: Sequence[str], *, n: int = 3) -> Floats:
    """Return RP, the share of distinct n-grams of words: 1 without repetition; shape (N,).

    It multiplies the reward. A response with fewer than n words has no n-gram and RP = 1.
    """
    return distinct_n(_words(responses), n)


def copy_rate(queries: Sequence[str], responses: Sequence[str], *, n: int = 3) -> Floats:
    """Return the share of each response's n-grams that its query has too (lower case); shape (N,).

    0 where the response has no n-gram.
    """
    _texts(queries, "queries")
    _equal_lengths(queries=queries, responses=responses)
    rates = []
    for query, response in zip(queries, _words(responses, lower=True), strict=True):
        known = set(_ngrams(tokenize_words(query.lower()), n))
        grams = _ngrams(response, n)
        rates.append(sum(gram in known for gram in grams) / len(grams) if grams else 0.0)
    return np.array(rates, float)


def interpolate(
    values: Any,
    *,
    input_range: tuple[float, float] = (0.0, 1.0),
    output_range: tuple[float, float],
) -> Floats:
    """Return the straight line F through two points, not clipped: inputs outside extrapolate."""
    (i0, i1), (o0, o1) = input_range, output_range
    if not i1 > i0:
        raise ValueError(f"input_range must increase, got {input_range!r}")
    return o0 + (np.asarray(values, float) - i0) / (i1 - i0) * (o1 - o0)


# --- relevance ------------------------------------------------------------------------------------------------------


class Retriever:
    """A frozen sentence encoder that remembers what it encoded.

    Parameters
    ----------
    encoder : None, str, path or Encoder
        ``None``: the packaged MiniLM. A folder or hub id: loaded with mean pooling. Or anything with an ``encode``
        method as :class:`paperkit.models.SentenceEncoder` has.
    max_tokens : int
        Longer texts lose their beginning (the released code truncates on the left).
    """

    def __init__(self, encoder: Any = None, *, max_tokens: int = 256) -> None:
        self.encoder: Encoder = _resolve(encoder)
        self.max_tokens = max_tokens
        self.encoded = 0  # texts that went through the encoder, for those who count
        self._known: dict[str, NDArray[np.float32]] = {}

    def encode(self, texts: Sequence[str]) -> Floats:
        """Embed texts, each distinct one once.

        Parameters
        ----------
        texts : sequence of N str

        Returns
        -------
        ndarray, shape (N, d)
            Not normalised. ``""`` has the embedding zero.

        Raises
        ------
        ValueError
            If the encoder returns another shape, another width than before, or numbers that are not finite.
        """
        _texts(texts, "texts")
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            rows = np.asarray(
                self.encoder.encode(new, max_tokens=self.max_tokens, truncation_side="left")
            )
            width = len(next(iter(self._known.values()))) if self._known else None
            if rows.ndim != 2 or len(rows) != len(new) or (width and rows.shape[1] != width):
                raise ValueError(
                    f"the encoder returned shape {rows.shape} for {len(new)} texts, expected "
                    f"({len(new)}, {width or 'd'})"
                )
            if not np.isfinite(rows).all():
                raise ValueError("the encoder returned numbers that are not finite")
            self.encoded += len(new)
            for text, row in zip(new, rows, strict=True):
                self._known[text] = row if text.strip() else np.zeros_like(row)
        return np.array([self._known[text] for text in texts], float)

    def remember(self, texts: Sequence[str], embeddings: Any) -> None:
        """Take embeddings that were computed before, shape (N, d), instead of computing them."""
        rows = np.asarray(embeddings, np.float32)
        if rows.ndim != 2 or len(rows) != len(texts):
            raise ValueError(f"embeddings must be ({len(texts)}, d), got {rows.shape}")
        self._known.update(zip(texts, rows, strict=True))

    def relevance(
        self, a: Sequence[str], b: Sequence[str], *, similarity: str = "cosine"
    ) -> Floats:
        """Return the similarity of a[i] and b[i], shape (N,); 0 where a text is empty."""
        _one_of(similarity, SIMILARITIES, "similarity")
        _equal_lengths(a=a, b=b)
        left, right = self.encode(a), self.encode(b)  # (N, d)
        product = (left * right).sum(axis=1)
        if similarity == "dot":
            return product
        length = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        return np.divide(product, length, out=np.zeros_like(product), where=length > 0)


class TokenVectors:
    """A second encoder without attention: a weighted mean of a model's input vectors.

    Rare tokens weigh more (smooth inverse frequency, :math:`a / (a + p)`), and the mean over a corpus is removed, so
    that unrelated texts have similarity near zero.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Whose input embeddings are read.
    tokenizer : transformers.PreTrainedTokenizerBase
    corpus : sequence of str
        Texts that give the tokens' frequencies and the mean.
    a : float
        Frequency at which the weight is one half.
    """

    def __init__(
        self, model: Any, tokenizer: Any, corpus: Sequence[str], *, a: float = 1e-3
    ) -> None:
        _texts(corpus, "corpus")
        if not a > 0:
            raise ValueError(f"a must be positive, got {a!r}")
        self.tokenizer = tokenizer
        table = model.get_input_embeddings().weight.detach().cpu().float().numpy()
        ids = [self._ids(text) for text in corpus]
        counts = np.bincount(np.concatenate(ids), minlength=len(table)).astype(float)
        self.vectors = table * (a / (a + counts / counts.sum()))[:, None]
        self.mean = np.zeros(table.shape[1], np.float32)
        self.mean = self.encode(corpus).mean(axis=0)

    def _ids(self, text: str) -> NDArray[np.int64]:
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return np.array(ids, np.int64)

    def encode(
        self, texts: Sequence[str], *, max_tokens: int = 256, truncation_side: str = "left"
    ) -> NDArray[np.float32]:
        """Return the embeddings of N texts, shape (N, d); ``""`` has the embedding zero."""
        rows = np.zeros((len(texts), self.vectors.shape[1]), np.float32)
        for row, text in zip(rows, texts, strict=True):
            ids = self._ids(text)
            ids = ids[-max_tokens:] if truncation_side == "left" else ids[:max_tokens]
            if len(ids):
                row[:] = self.vectors[ids].mean(axis=0) - self.mean
        return rows


# --- the reward -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RelevanceReward:
    """The reward, every term a switch.

    Parameters
    ----------
    retriever : Retriever
    relevance : {"by_type", "query", "reference", "none"}
        Which relevance counts: of the query where it is open and of the reference where it is closed (R3), of the
        query or of the reference everywhere, or none (relevance is 1).
    length_incentive : bool
        Multiply by LI, except where the reference counts: that branch has no LI.
    repetition_penalty : bool
        Multiply by RP.
    similarity : {"cosine", "dot"}
    max_words : float
        The reference branch is scaled to the range of LI up to this length: F maps ``reference_range`` to
        (0, ``max_words / words_per_unit``). The published value is 512; with answers of 60 words that would let the
        closed queries drown the open ones.
    reference_range : (float, float)
        Similarities that F maps to the ends. It is the encoder's: (0, 1) for a centred cosine, (0, 3.5) for the
        published dot product, about (.7, 1) for encoders of the E5 family.
    words_per_unit : float

    Raises
    ------
    ValueError
        For an unknown switch, or a length that is not positive.
    """

    retriever: Retriever
    relevance: str = "by_type"
    length_incentive: bool = True
    repetition_penalty: bool = True
    similarity: str = "cosine"
    max_words: float = 64.0
    reference_range: tuple[float, float] = (0.0, 1.0)
    words_per_unit: float = 100.0

    def __post_init__(self) -> None:
        _one_of(self.relevance, RELEVANCE, "relevance")
        _one_of(self.similarity, SIMILARITIES, "similarity")
        for name in ("max_words", "words_per_unit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        if not self.reference_range[1] > self.reference_range[0]:
            raise ValueError(f"reference_range must increase, got {self.reference_range!r}")

    def components(
        self,
        queries: Sequence[str],
        responses: Sequence[str],
        references: Sequence[str | None] | None = None,
        query_types: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Score responses and keep every term.

        Parameters
        ----------
        queries, responses : sequences of N str
            An empty response is legal: LI = 0, RP = 1, relevance 0.
        references : sequence of N str or None
            Needed where the reference counts.
        query_types : sequence of N {"open", "closed"}
            Needed for ``relevance="by_type"``.

        Returns
        -------
        DataFrame
            ``query_relevance``, ``reference_relevance`` (NaN where not used), ``length_incentive``,
            ``repetition_penalty``, ``query_type`` (of the branch that was taken), ``reward``.

        Raises
        ------
        ValueError
            For empty or unequal lists, an unknown type, or a missing reference where it counts.
        TypeError
            For a text that is not one, naming its index.
        """
        import pandas as pd

        _texts(queries, "queries")
        _texts(responses, "responses")
        _equal_lengths(
            queries=queries, responses=responses, references=references, query_types=query_types
        )
        closed = self._closed(len(queries), query_types)
        needed = self._references(closed, references)
        open_ = np.flatnonzero(~closed).tolist()

        relevance_x = np.full(len(queries), np.nan)
        relevance_y = np.full(len(queries), np.nan)
        base = np.ones(len(queries))
        if self.relevance != "none":
            if len(open_):
                relevance_x[open_] = self.retriever.relevance(
                    [queries[i] for i in open_],
                    [responses[i] for i in open_],
                    similarity=self.similarity,
                )
            if len(needed):
                where = np.flatnonzero(closed).tolist()
                relevance_y[where] = self.retriever.relevance(
                    needed, [responses[i] for i in where], similarity=self.similarity
                )
            top = self.max_words / self.words_per_unit
            scaled = interpolate(
                relevance_y, input_range=self.reference_range, output_range=(0.0, top)
            )
            base = np.where(closed, scaled, relevance_x)
        cut = [truncate_response(text) for text in responses]
        length = length_incentive(cut, words_per_unit=self.words_per_unit)
        distinct = repetition_penalty(cut)
        reward = base
        if self.length_incentive:
            reward = np.where(closed, reward, reward * length)
        if self.repetition_penalty:
            reward = reward * distinct
        return pd.DataFrame(
            {
                "query_relevance": relevance_x,
                "reference_relevance": relevance_y,
                "length_incentive": length,
                "repetition_penalty": distinct,
                "query_type": np.where(closed, str(QueryType.CLOSED), str(QueryType.OPEN)),
                "reward": reward,
            }
        )

    def __call__(
        self,
        queries: Sequence[str],
        responses: Sequence[str],
        references: Sequence[str | None] | None = None,
        query_types: Sequence[str] | None = None,
    ) -> Floats:
        """Return the rewards alone, shape (N,); see :meth:`components`."""
        table = self.components(queries, responses, references, query_types)
        return table["reward"].to_numpy()

    def as_trl_reward_func(self) -> Callable[..., list[float]]:
        """Return the reward as the trainers of TRL want it: ``f(prompts, completions, **columns)``.

        The data set's columns ``reference`` and ``query_type`` are passed on.
        """

        def relevance_reward(
            prompts: Sequence[str],
            completions: Sequence[str],
            reference: Sequence[str] | None = None,
            query_type: Sequence[str] | None = None,
            **_: Any,
        ) -> list[float]:
            return [float(r) for r in self(prompts, completions, reference, query_type)]

        return relevance_reward

    def _closed(self, n: int, types: Sequence[str] | None) -> NDArray[np.bool_]:
        """Which rows take the reference branch."""
        if types is not None:
            for i, each in enumerate(types):
                _one_of(each, tuple(QueryType), f"query_types[{i}]")
        if self.relevance != "by_type":
            return np.full(n, self.relevance == "reference")
        if types is None:
            raise ValueError("query_types is needed for relevance='by_type'")
        return np.array([each == QueryType.CLOSED for each in types])

    @staticmethod
    def _references(
        closed: NDArray[np.bool_], references: Sequence[str | None] | None
    ) -> list[str]:
        """Return the references of the closed rows, which must all be there."""
        if references is None and closed.any():
            raise ValueError(f"references is needed: query {int(np.argmax(closed))} is closed")
        needed: list[str] = []
        for i in np.flatnonzero(closed).tolist():
            text = references[i] if references is not None else None
            if text is not None and not isinstance(text, str):
                raise TypeError(f"references[{i}] must be a text, got {type(text).__name__}")
            if not text or not text.strip():
                raise ValueError(f"references[{i}] is empty, but query {i} is closed")
            needed.append(text)
        return needed


# The ladder of the paper's ablation: each step adds or removes one term.
PRESETS: dict[str, Callable[..., RelevanceReward]] = {
    "qr": partial(
        RelevanceReward, relevance="query", length_incentive=False, repetition_penalty=False
    ),
    "qr_rp": partial(RelevanceReward, relevance="query", length_incentive=False),
    "li": partial(RelevanceReward, relevance="none", repetition_penalty=False),
    "li_rp": partial(RelevanceReward, relevance="none"),
    "qr_li": partial(RelevanceReward, relevance="query", repetition_penalty=False),
    "r3_open": partial(RelevanceReward, relevance="query"),
    "ar_rp": partial(RelevanceReward, relevance="reference"),
    "r3": partial(RelevanceReward, relevance="by_type"),
}

# What figures and tables call them.
LABELS = {
    "qr": "QR",
    "qr_rp": "QR·RP",
    "li": "LI",
    "li_rp": "LI·RP",
    "qr_li": "QR·LI",
    "r3_open": "R³ (all open)",
    "ar_rp": "AR·RP",
    "r3": "R³",
}


def preset(name: str, retriever: Retriever, **settings: Any) -> RelevanceReward:
    """Return the named reward of :data:`PRESETS`."""
    _one_of(name, tuple(PRESETS), "name")
    return PRESETS[name](retriever, **settings)


# --- checks ---------------------------------------------------------------------------------------------------------


def _words(responses: Sequence[str], *, lower: bool = False) -> list[list[str]]:
    _texts(responses, "responses")
    return [tokenize_words(text.lower() if lower else text) for text in responses]


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be a positive integer, got {n!r}")
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _texts(texts: Any, name: str) -> None:
    if isinstance(texts, str):
        raise TypeError(f"{name} must be a sequence of texts, got one text")
    if len(texts) == 0:
        raise ValueError(f"{name} is empty")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{i}] must be a text, got {type(text).__name__}")


def _equal_lengths(**lists: Any) -> None:
    lengths = {name: len(each) for name, each in lists.items() if each is not None}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"lists must be equally long, got {listed}")


def _one_of(value: Any, allowed: Sequence[str], name: str) -> None:
    if value not in allowed:
        listed = ", ".join(repr(str(each)) for each in allowed)
        raise ValueError(f"{name} must be one of {listed}, got {value!r}")


def _resolve(encoder: Any) -> Any:
    if encoder is not None and hasattr(encoder, "encode"):
        return encoder
    from paperkit.models import load_sentence_encoder

    if encoder is None:
        return load_sentence_encoder()
    from pathlib import Path

    name = str(encoder)
    if Path(name).expanduser().is_dir():
        return load_sentence_encoder(Path(name).name, source=Path(name))
    return load_sentence_encoder(name, source="hub")
