"""Asking a language model for risk scores.

:class:`LMRiskScorer` is the estimator; below it lie three small layers that can be used alone: a
*backend* (anything that gives next-token log-probabilities), the *readings* that turn those into
scores, and the prompts of :mod:`paperkit.risk_scores.tasks`.

Multiple choice. With the positive answer at B (order 1) and at A (order 2), let :math:`l_1, l_2` be
the logit of A against B. Write :math:`l_1 = b - e` and :math:`l_2 = b + e`: *letter bias* b and
*evidence* e for the positive answer. The paper averages probabilities, :math:`s = (\\sigma(e - b) +
\\sigma(e + b)) / 2`; averaging logits,
:math:`s = \\sigma(e)`, removes an additive bias exactly.

Numeric. The model completes ``0.`` by two digits: ``greedy`` takes the likeliest digit twice,
``expected`` the mean over all hundred numbers.

Completion. The two answers in full are compared as continuations, :math:`s = \\sigma(\\log p(pos) -
\\log p(neg))`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, Literal, Protocol, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit, logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError

from paperkit.risk_scores._checks import Floats, Scheme, check_choice, check_labels
from paperkit.risk_scores.polarisation import temper
from paperkit.risk_scores.recalibration import Method, ScoreCalibrator
from paperkit.risk_scores.tasks import LETTERS, Task, records_of

Order = Literal["mean_probability", "mean_logit", "fixed"]
Decode = Literal["greedy", "expected"]
Normalise = Literal["none", "length", "prior"]

DIGITS = tuple("0123456789")
# The answer letter with and without a leading space; the variant with more mass counts, prompt by
# prompt.
LETTER_TOKENS = tuple(f"{space}{letter}" for space in (" ", "") for letter in LETTERS)


class AnswerNotFound(ValueError):
    """The backend gave no probability to an answer that the reading needs."""


# --- backends -------------------------------------------------------------------------------------


class Backend(Protocol):
    """Anything that gives log-probabilities of the next token."""

    def next_token_logprobs(self, prompts: Sequence[str], tokens: Sequence[str]) -> ArrayLike:
        """Log-probabilities, shape (prompts, tokens); NaN where a token's probability is
        unknown."""


class LocalBackend:
    """A causal language model on this machine, with its tokenizer.

    Parameters
    ----------
    lm : LanguageModel
        From :func:`paperkit.models.as_language_model`.
    max_tokens : int
        New tokens per forward pass of :class:`paperkit.models.PrefixTreeScorer`.
    """

    def __init__(self, lm: Any, *, max_tokens: int = 512):
        from paperkit.models import PrefixTreeScorer

        self.lm = lm
        self.scorer = PrefixTreeScorer(lm, max_tokens=max_tokens)

    def token_id(self, token: str) -> int:
        """Id of a string that is one token for this tokenizer."""
        ids = self.lm.tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            pieces = self.lm.tokenizer.convert_ids_to_tokens(ids)
            raise ValueError(
                f"answer {token!r} is not a single token of this tokenizer but {pieces}"
            )
        return int(ids[0])

    def next_token_logprobs(self, prompts: Sequence[str], tokens: Sequence[str]) -> Floats:
        """Log-probabilities over the whole vocabulary, shape (prompts, tokens)."""
        return self.scorer.next_token_logprobs(prompts, [self.token_id(token) for token in tokens])

    def completion_logprobs(self, prompts: Sequence[str], completions: Sequence[str]) -> Floats:
        """Summed log-probabilities of every completion after every prompt, (prompts,
        completions)."""
        return self.scorer.completion_logprobs(prompts, completions)

    def n_tokens(self, text: str) -> int:
        """Length of a text in tokens."""
        return len(self.lm.tokenizer(text, add_special_tokens=False)["input_ids"])

    def chat(self, user: str, system: str, prefill: str) -> str:
        """Prompt of a chat that ends inside the assistant's answer, after ``prefill``."""
        from paperkit.models import chat_prompt

        return chat_prompt(self.lm.tokenizer, user, system=system, prefill=prefill)


class TopLogprobsBackend:
    """A hosted model that reports only the likeliest next tokens.

    Parameters
    ----------
    query : callable
        From a list of prompts to one dict per prompt, token -> log-probability, as web interfaces
        return them ("top_logprobs"). Tokens that are not listed count as unknown.
    """

    def __init__(self, query: Callable[[list[str]], Sequence[Mapping[str, float]]]):
        self.query = query

    def next_token_logprobs(self, prompts: Sequence[str], tokens: Sequence[str]) -> Floats:
        """Log-probabilities of the listed tokens, NaN for the others."""
        unique = list(dict.fromkeys(prompts))
        answers = list(self.query(unique))
        if len(answers) != len(unique):
            raise ValueError(f"query returned {len(answers)} answers to {len(unique)} prompts")
        known = dict(zip(unique, answers, strict=True))
        return np.array(
            [[known[p].get(t, np.nan) for t in tokens] for p in prompts], dtype=np.float64
        )


_LOADED: dict[Any, LocalBackend] = {}


def as_backend(model: Any, *, device: str | None = None) -> Any:
    """Backend of a model.

    Parameters
    ----------
    model : str, pair, or backend
        A name of :mod:`paperkit.models` (``"smollm2-135m"``), a hub id, a local path (also of a
        GGUF file), a pair (model, tokenizer), or any object with a method ``next_token_logprobs``.
    device : str, optional
        Where a model given by name is put.

    Notes
    -----
    A model given by name is loaded once per process and shared.
    """
    if hasattr(model, "next_token_logprobs"):
        return model
    from paperkit.models import as_language_model

    if not isinstance(model, str):
        return LocalBackend(as_language_model(model))
    if (model, device) not in _LOADED:
        lm = as_language_model(model)
        if device is not None:
            lm.model.to(device)
        _LOADED[model, device] = LocalBackend(lm)
    return _LOADED[model, device]


# --- readings: from log-probabilities to scores ---------------------------------------------------


def _known(table: Floats, tokens: Sequence[str]) -> Floats:
    """``table`` if every entry is known; otherwise an error that names the first gap."""
    table = np.asarray(table, dtype=np.float64)
    bad = np.isnan(table) | (table > 1e-6)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise AnswerNotFound(
            f"prompt {row}: no log-probability for the answer {tokens[column]!r} "
            f"({int(bad.any(axis=1).sum())} of {len(table)} prompts have such a gap). A backend that lists only "
            "its likeliest tokens must list all answers: ask it for more tokens."
        )
    return table


def letter_logits(logprobs: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Logit of A against B, answer mass and p(A), from the four letter tokens.

    Parameters
    ----------
    logprobs : array of shape (n, 4)
        Log-probabilities of ``" A"``, ``" B"``, ``"A"``, ``"B"``; NaN where unknown.

    Returns
    -------
    logit, mass, p_a : arrays of shape (n,)
        Taken from the variant (with or without space) that carries more mass, prompt by prompt;
        p(A) is normalised over the two letters.

    Raises
    ------
    AnswerNotFound
        If for some prompt no variant has both letters.
    """
    table = np.asarray(logprobs, dtype=np.float64).reshape(-1, 2, 2)  # (n, variant, letter)
    mass = np.exp(table).sum(axis=2)
    missing = np.isnan(mass).all(axis=1)
    if missing.any():
        _known(table[:, 0], LETTER_TOKENS[:2])
    best = np.nanargmax(mass, axis=1)
    pick = np.arange(len(table))
    chosen = _known(table[pick, best], LETTER_TOKENS[:2])
    logit = chosen[:, 0] - chosen[:, 1]
    return logit, mass[pick, best], expit(logit)


def read_choices(order1: ArrayLike, order2: ArrayLike | None, *, order: Order) -> pd.DataFrame:
    """Scores from the letter tables of both answer orders.

    Parameters
    ----------
    order1, order2 : arrays of shape (n, 4)
        Tables for :func:`letter_logits`: positive answer at B, and at A. ``order2`` is None for
        ``order="fixed"``.
    order : {"mean_probability", "mean_logit", "fixed"}
        How the two are put together.

    Returns
    -------
    DataFrame
        ``score``, ``logit_order1``, ``logit_order2`` (A against B), ``letter_bias``, ``evidence``,
        ``answer_mass``.
    """
    l1, mass, _ = letter_logits(order1)
    if order2 is None:
        nan = np.full(len(l1), np.nan)
        columns = {"logit_order2": nan, "letter_bias": nan, "evidence": nan, "answer_mass": mass}
        return pd.DataFrame({"score": expit(-l1), "logit_order1": l1, **columns})
    l2, mass2, _ = letter_logits(order2)
    bias, evidence = (l1 + l2) / 2, (l2 - l1) / 2
    score = expit(evidence) if order == "mean_logit" else (expit(-l1) + expit(l2)) / 2
    return pd.DataFrame(
        {
            "score": score,
            "logit_order1": l1,
            "logit_order2": l2,
            "letter_bias": bias,
            "evidence": evidence,
            "answer_mass": (mass + mass2) / 2,
        }
    )


def read_digits(first: ArrayLike, second: ArrayLike) -> pd.DataFrame:
    """Scores from the digit tables of a verbalised probability ``0.d1d2``.

    Parameters
    ----------
    first : array of shape (n, 10)
        Log-probabilities of the first digit.
    second : array of shape (n, 10, 10)
        Of the second digit, for every first digit.

    Returns
    -------
    DataFrame
        ``greedy`` (the likeliest digit, then the likeliest after it), ``expected`` (mean over the
        hundred numbers, digits renormalised) and ``digit_mass`` (probability that the first token
        is a digit at all).
    """
    first = _known(np.asarray(first), DIGITS)
    second = np.asarray(second, dtype=np.float64)
    _known(second.reshape(-1, 10), DIGITS)
    d1 = first.argmax(axis=1)
    d2 = second[np.arange(len(first)), d1].argmax(axis=1)
    p1 = np.exp(first - logsumexp(first, axis=1, keepdims=True))
    p2 = np.exp(second - logsumexp(second, axis=2, keepdims=True))
    mean2 = p2 @ np.arange(10)  # (n, 10): mean second digit after each first digit
    return pd.DataFrame(
        {
            "greedy": (10 * d1 + d2) / 100,
            "expected": (p1 * (np.arange(10) / 10 + mean2 / 100)).sum(axis=1),
            "digit_mass": np.exp(logsumexp(first, axis=1)),
        }
    )


# --- the estimator --------------------------------------------------------------------------------


class LMRiskScorer(ClassifierMixin, BaseEstimator):
    """A language model as a scikit-learn classifier of table rows.

    Without examples and calibration it is zero-shot: ``predict_proba`` works without ``fit``.

    Parameters
    ----------
    task : Task
        Columns and question in words.
    model : str, pair or backend
        See :func:`as_backend`.
    scheme : {"multiple_choice", "numeric", "completion"}
        The way of asking, see :mod:`paperkit.risk_scores.tasks`.
    chat : bool
        Put the prompt through the model's chat template, the answer line prefilled.
    system_prompt : str, optional
        System message of the chat; default that of ``task.template``.
    order : {"mean_probability", "mean_logit", "fixed"}
        Multiple choice: average probabilities over both answer orders (the paper's way), average
        logits, or ask once with the positive answer at B.
    decode : {"greedy", "expected"}
        Numeric: likeliest digits, or the mean over all numbers.
    n_shots : int
        Solved examples before every row, drawn from the fit data, half of each class, the same for
        all rows.
    temperature : float
        Divides the logit of the score.
    normalise : {"none", "length", "prior"}
        Completion: compare summed log-probabilities as they are, per token, or after subtracting
        what each answer has without any information about the person (a constant shift of the
        logit).
    calibration : {None, "platt", "isotonic", "temperature"}
        Fitted on the fit data, see :class:`~paperkit.risk_scores.recalibration.ScoreCalibrator`.
    threshold : float or "best"
        Where ``predict`` says 1; "best" maximises accuracy on the fit data.
    device : str, optional
        Where a model given by name is put.
    random_state : int
        Choice and order of the examples.

    Attributes
    ----------
    shots_ : list of (dict, int)
        The examples, after ``fit``.
    calibrator_ : ScoreCalibrator
        After ``fit`` with ``calibration``.
    threshold_ : float
        After ``fit``.
    """

    def __init__(
        self,
        task: Task,
        model: Any = "smollm2-135m",
        *,
        scheme: Scheme = "multiple_choice",
        chat: bool = False,
        system_prompt: str | None = None,
        order: Order = "mean_probability",
        decode: Decode = "greedy",
        n_shots: int = 0,
        temperature: float = 1.0,
        normalise: Normalise = "prior",
        calibration: Method | None = None,
        threshold: float | Literal["best"] = 0.5,
        device: str | None = None,
        random_state: int = 0,
    ):
        self.task = task
        self.model = model
        self.scheme = scheme
        self.chat = chat
        self.system_prompt = system_prompt
        self.order = order
        self.decode = decode
        self.n_shots = n_shots
        self.temperature = temperature
        self.normalise = normalise
        self.calibration = calibration
        self.threshold = threshold
        self.device = device
        self.random_state = random_state

    @property
    def classes_(self) -> np.ndarray:
        """The labels 0 and 1."""
        return np.array([0, 1])

    @property
    def n_features_in_(self) -> int:
        """Number of columns that the prompt reads."""
        return len(self.task.columns)

    def __sklearn_is_fitted__(self) -> bool:
        needs_labels = self.n_shots > 0 or self.calibration is not None or self.threshold == "best"
        return not needs_labels or hasattr(self, "threshold_")

    def _check(self, X: pd.DataFrame) -> None:
        if not isinstance(self.task, Task):
            raise TypeError(f"task must be a Task, got {type(self.task).__name__}")
        check_choice("scheme", self.scheme, get_args(Scheme))
        check_choice("order", self.order, get_args(Order))
        check_choice("decode", self.decode, get_args(Decode))
        check_choice("normalise", self.normalise, get_args(Normalise))
        check_choice("calibration", self.calibration, (None, *get_args(Method)))
        if self.n_shots < 0:
            raise ValueError(f"n_shots must not be negative, got {self.n_shots}")
        if self.n_shots and self.scheme == "numeric":
            raise ValueError(
                "solved examples have labels, not probabilities: use n_shots=0 with 'numeric'"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature!r}")
        if self.threshold != "best" and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be 'best' or lie in [0, 1], got {self.threshold!r}")
        self.task.check(X)
        self.task.ask(self.scheme)  # raises if the numeric question is missing

    def fit(self, X: pd.DataFrame, y: ArrayLike) -> LMRiskScorer:
        """Draw the examples, fit calibration and threshold. The model's weights stay as they are.

        Parameters
        ----------
        X : DataFrame of shape (n, columns)
            Rows.
        y : array of {0, 1}, shape (n,)
            Outcomes.
        """
        self._check(X)
        labels = check_labels(y, both=True)
        if len(labels) != len(X):
            raise ValueError(f"X and y must have equal length, got {len(X)} and {len(labels)}")
        if min(np.bincount(labels)) < (self.n_shots + 1) // 2:
            raise ValueError(
                f"n_shots={self.n_shots} needs {(self.n_shots + 1) // 2} rows of each class"
            )
        rng = np.random.default_rng(self.random_state)
        picks = [rng.permutation(np.flatnonzero(labels == label)) for label in (0, 1)]
        chosen = rng.permutation([picks[i % 2][i // 2] for i in range(self.n_shots)]).astype(int)
        records = records_of(X.iloc[chosen])
        self.shots_ = [(row, int(labels[i])) for row, i in zip(records, chosen, strict=True)]
        self.threshold_ = 0.5 if self.threshold == "best" else float(self.threshold)
        self.calibrator_: ScoreCalibrator | None = None
        if self.calibration is None and self.threshold != "best":
            return self
        # An example must not teach its own calibration.
        rest = np.setdiff1d(np.arange(len(X)), chosen)
        scores = self._raw_details(X.iloc[rest])["score"].to_numpy()
        if self.calibration is not None:
            self.calibrator_ = ScoreCalibrator(self.calibration).fit(scores, labels[rest])
            scores = self.calibrator_.predict(scores)
        if self.threshold == "best":
            self.threshold_ = _best_threshold(labels[rest], scores)
        return self

    def predict_proba(self, X: pd.DataFrame) -> Floats:
        """Scores as probabilities of (0, 1), shape (n, 2)."""
        positive = self.score_details(X)["score"].to_numpy()
        return np.column_stack([1 - positive, positive])

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Labels, shape (n,): 1 where the score reaches the threshold."""
        scores = self.predict_proba(X)[:, 1]
        threshold: Any = getattr(self, "threshold_", self.threshold)
        return (scores >= threshold).astype(int)

    def score_details(self, X: pd.DataFrame) -> pd.DataFrame:
        """Scores and what they were read from.

        Returns
        -------
        DataFrame
            Index of ``X``; ``score`` first. Multiple choice adds ``logit_order1``, ``logit_order2``
            (A against B), ``letter_bias``, ``evidence``, ``answer_mass``; numeric ``digit_mass``
            and, when decoded as expectation, ``greedy`` and ``expected``; completion
            ``logprob_negative``, ``logprob_positive``.
        """
        self._check(X)
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                "n_shots, calibration and threshold='best' need labels: call fit first"
            )
        details = self._raw_details(X)
        calibrator = getattr(self, "calibrator_", None)
        if calibrator is not None:
            details["score"] = calibrator.predict(details["score"])
        return details

    def prompts(self, X: pd.DataFrame, order: Sequence[int] = (0, 1)) -> list[str]:
        """The very strings that the model reads, one per row."""
        backend = as_backend(self.model, device=self.device) if self.chat else None
        return self._prompts(records_of(X), order, backend)

    # -- private
    # ----------------------------------------------------------------------------------------

    def _prompts(
        self, records: Sequence[Mapping[str, Any] | None], order: Sequence[int], backend: Any
    ) -> list[str]:
        shots = getattr(self, "shots_", []) if self.n_shots else []
        texts = [self.task.render(r, scheme=self.scheme, order=order, shots=shots) for r in records]
        if not self.chat:
            return texts
        if not hasattr(backend, "chat"):
            raise ValueError("chat=True needs a model with a tokenizer; this backend has none")
        template = self.task.template
        system = self.system_prompt
        if system is None:
            system = {
                "multiple_choice": template.system_choice,
                "numeric": template.system_numeric,
                "completion": template.system_completion,
            }[self.scheme]
        stub = self.task.stub(self.scheme)
        return [backend.chat(text.removesuffix(stub).rstrip("\n"), system, stub) for text in texts]

    def _raw_details(self, X: pd.DataFrame) -> pd.DataFrame:
        backend = as_backend(self.model, device=self.device)
        records = records_of(X)
        read = {
            "multiple_choice": self._choices,
            "numeric": self._numeric,
            "completion": self._completion,
        }[self.scheme]
        details = read(records, backend)
        details.index = X.index
        if self.temperature != 1:
            details["score"] = temper(details["score"], self.temperature)
        return details

    def _choices(self, records: list[Any], backend: Any) -> pd.DataFrame:
        orders = [(0, 1)] if self.order == "fixed" else [(0, 1), (1, 0)]
        prompts = [p for order in orders for p in self._prompts(records, order, backend)]
        # One call for both orders: they share everything up to the question.
        table = np.asarray(backend.next_token_logprobs(prompts, LETTER_TOKENS))
        first, *second = np.split(table, len(orders))
        return read_choices(first, second[0] if second else None, order=self.order)

    def _numeric(self, records: list[Any], backend: Any) -> pd.DataFrame:
        prompts = self._prompts(records, (0, 1), backend)
        n = len(prompts)
        if self.decode == "expected" or isinstance(backend, LocalBackend | _Pool):
            # A local model computes the shared prompt once: ten branches cost less than asking twice.
            branches = [prompt + digit for prompt in prompts for digit in DIGITS]
            table = np.asarray(backend.next_token_logprobs([*prompts, *branches], DIGITS))
            details = read_digits(table[:n], table[n:].reshape(n, 10, 10))
            details.insert(0, "score", details[self.decode])
            return details if self.decode == "expected" else details[["score", "digit_mass"]]
        first = np.asarray(backend.next_token_logprobs(prompts, DIGITS))
        d1 = _likeliest(first)
        second = np.asarray(
            backend.next_token_logprobs(
                [p + DIGITS[d] for p, d in zip(prompts, d1, strict=True)], DIGITS
            )
        )
        d2 = _likeliest(second)
        mass = np.nansum(np.exp(first), axis=1)
        return pd.DataFrame({"score": (10 * d1 + d2) / 100, "digit_mass": mass})

    def _completion(self, records: list[Any], backend: Any) -> pd.DataFrame:
        if not hasattr(backend, "completion_logprobs"):
            raise ValueError(
                "scheme 'completion' needs log-probabilities of whole answers; this backend has only next tokens"
            )
        answers = [self.task.answer(label, scheme="completion") for label in (0, 1)]
        prompts = self._prompts(records, (0, 1), backend)
        table = np.asarray(backend.completion_logprobs(prompts, answers))
        compared = table
        if self.normalise == "length":
            compared = table / [backend.n_tokens(answer) for answer in answers]
        elif self.normalise == "prior":
            nobody = self._prompts([None], (0, 1), backend)
            compared = table - np.asarray(backend.completion_logprobs(nobody, answers))
        return pd.DataFrame(
            {
                "score": expit(compared[:, 1] - compared[:, 0]),
                "logprob_negative": table[:, 0],
                "logprob_positive": table[:, 1],
            }
        )


def _likeliest(table: Floats) -> np.ndarray:
    """Likeliest digit; digits that a top-k backend does not list are less likely than those it
    lists."""
    if np.isnan(table).all(axis=1).any():
        _known(table, DIGITS)
    return np.nanargmax(table, axis=1)


def _best_threshold(y: np.ndarray, s: Floats) -> float:
    """Cut that maximises accuracy, midway between neighbouring scores."""
    values = np.unique(s)
    cuts = np.r_[0.0, (values[1:] + values[:-1]) / 2, 1.0]
    order = np.argsort(s)
    negatives_below = np.r_[0, np.cumsum(1 - y[order])]
    positives_above = y.sum() - np.r_[0, np.cumsum(y[order])]
    position = np.searchsorted(s[order], cuts, side="left")
    return float(cuts[np.argmax(negatives_below[position] + positives_above[position])])


# --- several ways at once ----------------------------------------------------------------------------------


class _Pool:
    """Backend that first collects what is asked and then answers everything from one computation."""

    def __init__(self, backend: LocalBackend):
        self.backend = backend
        self.asked: dict[tuple[int, ...], None] = {}
        self.tokens: dict[int, None] = {}
        self.known: dict[tuple[int, ...], Floats] | None = None
        self.chat, self.n_tokens = backend.chat, backend.n_tokens

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.backend.lm.tokenizer(text)["input_ids"])

    def _values(self, prefixes: list[tuple[int, ...]], tokens: list[int]) -> Floats:
        if self.known is None:
            self.asked |= dict.fromkeys(prefixes)
            self.tokens |= dict.fromkeys(tokens)
            return np.full((len(prefixes), len(tokens)), -1.0)
        column = {token: i for i, token in enumerate(self.tokens)}
        pick = [column[token] for token in tokens]
        return np.array([self.known[prefix][pick] for prefix in prefixes])

    def next_token_logprobs(self, prompts: Sequence[str], tokens: Sequence[str]) -> Floats:
        ids = [self.backend.token_id(token) for token in tokens]
        return self._values([self._ids(prompt) for prompt in prompts], ids)

    def completion_logprobs(self, prompts: Sequence[str], completions: Sequence[str]) -> Floats:
        table = np.empty((len(prompts), len(completions)))
        for i, prompt in enumerate(prompts):
            start = len(self._ids(prompt))
            for j, completion in enumerate(completions):
                ids = self._ids(prompt + completion)
                if ids[:start] != self._ids(prompt):
                    raise ValueError(
                        f"the tokens of prompt {i} do not begin those of it with {completion!r}"
                    )
                values = [self._values([ids[:t]], [ids[t]]) for t in range(start, len(ids))]
                table[i, j] = np.sum(values)
        return table

    def compute(self) -> None:
        prefixes, tokens = list(self.asked), list(self.tokens)
        table = self.backend.scorer.next_token_logprobs(prefixes, tokens)
        self.known = dict(zip(prefixes, table, strict=True))


def score_together(scorers: Mapping[str, LMRiskScorer], X: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Score the same rows in several ways, computing the text that the ways share only once.

    Parameters
    ----------
    scorers : mapping from a name to LMRiskScorer
        All with the same local model.
    X : DataFrame
        Rows.

    Returns
    -------
    dict
        The details (:meth:`LMRiskScorer.score_details`) of every scorer.
    """
    if not scorers:
        raise ValueError("scorers is empty")
    # a list keeps them alive: the identity of an object that is gone may be given to the next one
    backends = [as_backend(s.model, device=s.device) for s in scorers.values()]
    if any(other is not backends[0] for other in backends):
        raise ValueError("all scorers must have the same model")
    backend = backends[0]
    if not isinstance(backend, LocalBackend):
        return {name: scorer.score_details(X) for name, scorer in scorers.items()}
    pool = _Pool(backend)
    pooled = {}
    for name, scorer in scorers.items():
        twin = copy(scorer)
        twin.model = pool
        pooled[name] = twin
        twin.score_details(X)
    pool.compute()
    return {name: twin.score_details(X) for name, twin in pooled.items()}
