"""The ledger of claims: what a paper says, what we measured, and whether that agrees.

A chapter declares its claims in ``notebooks/<chapter>/claims.yml`` before anything is measured::

    abstract:
      - {id: a1, says: our paraphrase of one sentence that claims something}
    claims:
      - id: c1-factorisation           # lower case, words joined by hyphens
        covers: [a1]                   # sentences of the abstract that this row is about
        statement: The concrete score is a conditional of clean data times a scalar of t.
        source: abstract; Theorem 1    # or "ours" for what goes beyond the paper
        paper: exact                   # the paper's number or words, or null
        measure: largest relative error over 256 states and five noise levels
        passes: "< 1e-12"              # the condition, see below
        scope: as stated               # or: smaller scale; shown instead: ...; not tested: ...
        kind: live                     # measured in this build; or: stored (a versioned long run)
        expect: not supported          # optional, and then with the explanation:
        because: why honest experiments do not support the statement

A notebook then measures and records; the condition and the verdict come from the file alone::

    from paperkit import claims
    ledger = claims.chapter("absorbing_diffusion")
    ledger.record("c1-factorisation", error, seeds=[0])

**Conditions** (``passes``) are comparisons joined by ``and``. Each has a subject (``value``, or
the ``lower`` or ``upper`` end of the interval; ``value`` if left out) and one of ``< number``,
``<= number``, ``> number``, ``>= number``, ``== integer``, ``in [a, b]`` (both ends included).
Quote them: YAML gives a bare ``>`` another meaning. The one word ``reported`` stands for a finite
number with an interval that is shown but not judged, and never counted as held. NaN and infinity
never pass.

**Scopes**: ``as stated`` and ``smaller scale`` (each may go on with ``: detail``),
``shown instead: what``, and ``not tested: reason``. A row that is not tested has no ``passes``,
``kind`` or ``expect``, is never recorded, and is counted apart.

**Rows.** :meth:`ChapterClaims.record` shows a card and puts a *row* into the metadata of that
output under the key ``paperkit_claim``: a dict of plain JSON values with the keys
:data:`ROW_KEYS`. The ledger page of the book is made of these rows.
"""

from __future__ import annotations

import difflib
import html
import math
import numbers
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import yaml

from paperkit import profiles

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "METADATA_KEY",
    "ROW_KEYS",
    "VERDICTS",
    "AbstractSentence",
    "ChapterClaims",
    "Claim",
    "ClaimFailed",
    "ClaimsFile",
    "ClaimsFileError",
    "Condition",
    "Interval",
    "Verdict",
    "bootstrap",
    "card",
    "chapter",
    "chapters",
    "loglog_slope",
    "read",
    "wilson",
]

METADATA_KEY = "paperkit_claim"
"""Key of the row in the metadata of the output that shows the card."""

ROW_KEYS = (
    "chapter",  # str: the chapter's short name
    "id",  # str: the claim's id, unique within its chapter
    "statement",  # str
    "source",  # str: where the paper says it, or "ours"
    "paper",  # str | float | int | None: the paper's number or words
    "measure",  # str | None: what number is measured; None only for a row that is not tested
    "passes",  # str | None: the condition as written in the file
    "scope",  # str
    "kind",  # "live" | "stored" | None (not tested)
    "expect",  # "holds" | "not supported" | None (reported, not tested)
    "because",  # str | None: the explanation that goes with expect: not supported
    "covers",  # list[str]: ids of sentences of the abstract
    "value",  # float | int | None: None if not recorded or not finite
    "low",  # float | None: lower end of the interval
    "high",  # float | None: upper end of the interval
    "level",  # float | None: its level, for example .95
    "n",  # int | None: independent units behind it
    "method",  # str | None: how it was made
    "ours",  # str: value and interval as text, "" if not recorded
    "seeds",  # list[int] | None
    "note",  # str
    "held",  # bool | None: whether the condition is met; None if there is nothing to judge
    "ok",  # bool | None: whether that is what the file expects; None if not recorded or not tested
    "verdict",  # one of VERDICTS
)
"""Keys of a row, in this order; the source lists the type of each."""

VERDICTS: dict[str, tuple[str, str]] = {
    "holds": ("✓", "holds"),
    "fails": ("✗", "fails"),
    "not supported": ("○", "not supported, as declared"),
    "flipped": ("✗", "holds although declared as not supported"),
    "not finite": ("✗", "not a finite number"),
    "reported": ("·", "measured, not judged"),
    "not tested": ("–", "not tested"),
    "not recorded": ("✗", "declared, never recorded"),
}
"""Verdict -> (sign, words for the reader)."""

Number = int | float


class ClaimsFileError(ValueError):
    """A ``claims.yml`` breaks the rules; the message lists every fault.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    faults : list of str
        One line each.
    """

    def __init__(self, path: Path, faults: Sequence[str]) -> None:
        self.path = path
        self.faults = list(faults)
        lines = "\n".join(f"  - {fault}" for fault in self.faults)
        super().__init__(f"{path}: {len(self.faults)} fault(s)\n{lines}")


class ClaimFailed(AssertionError):
    """A recorded claim did not come out as its file expects.

    Attributes
    ----------
    verdict : Verdict
        The numbers.
    """

    def __init__(self, message: str, verdict: Verdict) -> None:
        self.verdict = verdict
        super().__init__(message)


# ------------------------------------------------------------------------------------- intervals


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes
    ----------
    estimate, low, high : float or ndarray
        The estimate and the ends of the interval, in the units of the estimate. Arrays (all of one
        shape) hold many intervals at once.
    level : float
        Coverage that the interval aims at, in (0, 1]; 1 for a number that is counted exactly.
    n : int or ndarray
        Independent units behind the estimate (clusters, where whole clusters are resampled).
    method : str
        How the interval was made.
    """

    estimate: Any
    low: Any
    high: Any
    level: float
    n: Any
    method: str

    def __post_init__(self) -> None:
        if not 0 < self.level <= 1:
            raise ValueError(f"level must be in (0, 1], got {self.level}")
        shapes = {np.shape(part) for part in (self.estimate, self.low, self.high)}
        if len(shapes) > 1:
            raise ValueError(f"estimate, low and high have different shapes: {sorted(shapes)}")
        if np.any(np.asarray(self.low) > np.asarray(self.high)):
            raise ValueError(f"low is above high: low={self.low}, high={self.high}")

    @classmethod
    def exact(cls, value: float, *, n: int = 1) -> Interval:
        """Return the interval of width zero around a number that carries no sampling error."""
        return cls(value, value, value, 1.0, n, "exact")

    def __str__(self) -> str:
        if np.ndim(self.estimate):
            return f"{np.size(self.estimate)} intervals of level {self.level:g}, {self.method}"
        return _with_interval(self.estimate, self)


def bootstrap(
    statistic: Callable[..., Any],
    *samples: ArrayLike,
    groups: ArrayLike | None = None,
    level: float = 0.95,
    n_draws: int = 2000,
    method: Literal["bca", "percentile"] = "bca",
    rng: np.random.Generator | int,
) -> Interval:
    """Bootstrap interval of a statistic of paired samples.

    A wrapper of :func:`scipy.stats.bootstrap` (Efron and Tibshirani, *An Introduction to the
    Bootstrap*, 1993, chapters 13-14) that resamples rows, or whole clusters of rows.

    Parameters
    ----------
    statistic : callable
        ``statistic(*samples) -> float``; called with the resampled arrays.
    *samples : array_like, shape (N, ...)
        One or more samples of equal length. Row i of all of them is drawn together.
    groups : array_like, shape (N,), optional
        Cluster of each row. Whole clusters are drawn, for example all answers to one prompt.
    level : float
        Coverage, in (0, 1).
    n_draws : int
        Bootstrap draws, at least 100.
    method : {"bca", "percentile"}
        Bias-corrected and accelerated, or plain percentiles. Where BCa is undefined (all draws on
        one side of the estimate, or all equal) percentiles are used and `Interval.method` says so.
    rng : numpy.random.Generator or int
        Source of the draws, or a seed.

    Returns
    -------
    Interval
        `n` is the number of rows, or of clusters.

    Raises
    ------
    ValueError
        If lengths differ, there are fewer than two rows (or clusters), or the statistic is not one
        finite number on the samples or on a draw.
    """
    if not samples:
        raise ValueError("bootstrap needs at least one sample")
    arrays = [np.asarray(sample) for sample in samples]
    if any(array.ndim == 0 for array in arrays):
        raise ValueError("a sample must be an array of at least one dimension, got a single number")
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise ValueError(f"samples are paired and need one length, got lengths {lengths}")
    _check_level(level)
    if n_draws < 100:
        raise ValueError(f"n_draws must be at least 100, got {n_draws}")
    if method not in ("bca", "percentile"):
        raise ValueError(f"method must be 'bca' or 'percentile', got {method!r}")
    random = _generator(rng)

    members: list[NDArray[np.intp]] | None = None
    units = lengths[0]
    if groups is not None:
        labels = np.asarray(groups)
        if labels.shape != (lengths[0],):
            raise ValueError(f"groups must have shape ({lengths[0]},), got {labels.shape}")
        _, inverse = np.unique(labels, return_inverse=True)
        units = int(inverse.max()) + 1 if len(inverse) else 0
        order = np.argsort(inverse, kind="stable")
        members = np.split(order, np.cumsum(np.bincount(inverse, minlength=units))[:-1])
    what = "rows" if members is None else "clusters"
    if units < 2:
        raise ValueError(f"bootstrap needs at least two {what}, got {units}")

    def of_units(drawn: NDArray[Any]) -> float:
        drawn = drawn.astype(np.intp, copy=False)
        rows = drawn if members is None else np.concatenate([members[unit] for unit in drawn])
        result = np.asarray(statistic(*(array[rows] for array in arrays)))
        if result.size != 1:
            raise ValueError(f"statistic must return one number, got shape {result.shape}")
        return float(result.reshape(()))

    estimate = of_units(np.arange(units))
    if not math.isfinite(estimate):
        raise ValueError(f"statistic is {estimate} on the samples")

    import warnings

    from scipy import stats

    # Resamples are index matrices: bound their size, BCa makes one of (units, units - 1).
    batch = max(1, min(n_draws, 2**22 // units))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", category=RuntimeWarning)
        result = stats.bootstrap(
            (np.arange(units),),
            of_units,
            vectorized=False,
            n_resamples=n_draws,
            batch=batch,
            confidence_level=level,
            method="BCa" if method == "bca" else "percentile",
            rng=random,
        )
    draws = result.bootstrap_distribution
    bad = int(np.sum(~np.isfinite(draws)))
    if bad:
        raise ValueError(
            f"statistic is not finite on {bad} of {n_draws} draws: define it for every resample"
            " (for example for one in which a class is missing)"
        )
    low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    label: str = method
    if not (math.isfinite(low) and math.isfinite(high)):
        tail = 50 * (1 - level)
        low, high = (float(end) for end in np.percentile(draws, [tail, 100 - tail]))
        label = "percentile, as bca is undefined here"
    unit = "" if members is None else " of whole clusters"
    return Interval(
        estimate, low, high, level, units, f"bootstrap{unit} ({label}, {n_draws} draws)"
    )


def wilson(
    successes: ArrayLike,
    n: ArrayLike,
    *,
    level: float | None = None,
    z: float | None = None,
) -> Interval:
    """Wilson score interval of a proportion (E. B. Wilson, JASA 22, 1927).

    A wrapper of statsmodels' ``proportion_confint``.

    Parameters
    ----------
    successes, n : array_like of int
        Successes and trials; they broadcast against each other.
    level : float, optional
        Coverage, in (0, 1).
    z : float, optional
        Half width in standard errors, > 0. Exactly one of `level` and `z` must be given.

    Returns
    -------
    Interval
        Floats if both arguments are numbers, else arrays of the broadcast shape.

    Raises
    ------
    ValueError
        If a count is not a whole number, ``n < 1``, or successes are not in ``0 .. n``.
    """
    if (level is None) == (z is None):
        raise ValueError(f"give exactly one of level and z, got level={level}, z={z}")
    k, trials = (
        np.array(part)
        for part in np.broadcast_arrays(np.asarray(successes, float), np.asarray(n, float))
    )
    if not (np.all(k == np.floor(k)) and np.all(trials == np.floor(trials))):
        raise ValueError("successes and n must be whole numbers")
    if np.any(trials < 1) or np.any(k < 0) or np.any(k > trials):
        raise ValueError("n must be at least 1 and successes must lie between 0 and n")

    from scipy import stats

    if z is not None:
        if not (math.isfinite(z) and z > 0):
            raise ValueError(f"z must be a finite number > 0, got {z}")
        alpha = 2 * float(stats.norm.sf(z))
    else:
        assert level is not None
        _check_level(level)
        alpha = 1 - level

    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(k, trials, alpha=alpha, method="wilson")
    # Wilson's ends lie in [0, 1] and reach 0 and 1 with no and with all successes; the last bit of
    # the floating-point result may not.
    low = np.where(k == 0, 0.0, np.clip(low, 0, 1))
    high = np.where(k == trials, 1.0, np.clip(high, 0, 1))
    estimate = k / trials
    label = "Wilson score" if z is None else f"Wilson score (z={z:g})"
    if np.ndim(estimate) == 0:
        return Interval(float(estimate), float(low), float(high), 1 - alpha, int(trials[()]), label)
    return Interval(estimate, low, high, 1 - alpha, trials.astype(int), label)


def loglog_slope(
    x: ArrayLike,
    y: ArrayLike,
    *,
    level: float = 0.95,
    n_draws: int = 2000,
    rng: np.random.Generator | int,
) -> Interval:
    """Slope of ``log mean(y)`` on ``log x``: the exponent of a power law, with its interval.

    Parameters
    ----------
    x : array_like, shape (P,)
        Positive, at least two different values: sample sizes, step counts.
    y : array_like, shape (S, P)
        S independent replicates of a quantity >= 0, such as an error. They are averaged *before*
        the logarithm, because the logarithm of a noisy error is biased.
    level : float
        Coverage, in (0, 1).
    n_draws : int
        Bootstrap draws.
    rng : numpy.random.Generator or int
        Source of the draws, or a seed.

    Returns
    -------
    Interval
        Percentile bootstrap over the S rows; whole rows are drawn, so that points of one replicate
        may be correlated.

    Raises
    ------
    ValueError
        For wrong shapes, a value that is not positive where its logarithm is needed, or S < 2.
    """
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    if xs.ndim != 1 or ys.ndim != 2 or ys.shape[1] != len(xs):
        raise ValueError(f"x must have shape (P,) and y (S, P), got {xs.shape} and {ys.shape}")
    if not np.all(np.isfinite(xs)) or np.any(xs <= 0) or len(np.unique(xs)) < 2:
        raise ValueError("x must be finite and positive, with at least two different values")
    if not np.all(np.isfinite(ys)) or np.any(ys < 0):
        raise ValueError("y must be finite and not negative")
    if np.any(ys.mean(axis=0) <= 0):
        raise ValueError("the mean of y is 0 in a column: its logarithm does not exist")
    log_x = np.log(xs) - np.log(xs).mean()
    weights = log_x / np.sum(log_x**2)

    def slope(rows: NDArray[np.float64]) -> float:
        with np.errstate(divide="ignore"):
            return float(np.log(rows.mean(axis=0)) @ weights)

    return bootstrap(slope, ys, level=level, n_draws=n_draws, method="percentile", rng=rng)


# ------------------------------------------------------------------------------------ conditions

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_COMPARISON = re.compile(
    rf"(?:(?P<subject>value|lower|upper)\b\s*)?"
    rf"(?:(?P<op><=|>=|<|>)\s*(?P<number>{_NUMBER})"
    rf"|==\s*(?P<integer>[+-]?\d+)"
    rf"|in\s*\[\s*(?P<a>{_NUMBER})\s*,\s*(?P<b>{_NUMBER})\s*\])"
)
_TESTS: dict[str, Callable[[float, float, float], bool]] = {
    "<": lambda x, a, _: x < a,
    "<=": lambda x, a, _: x <= a,
    ">": lambda x, a, _: x > a,
    ">=": lambda x, a, _: x >= a,
    "==": lambda x, a, _: x == a,
    "in": lambda x, a, b: a <= x <= b,
}


@dataclass(frozen=True)
class Condition:
    """A parsed ``passes``; make one with :meth:`parse`.

    Attributes
    ----------
    text : str
        As written.
    comparisons : tuple of (subject, operator, a, b)
        All must be true. Empty for ``reported``.
    """

    text: str
    comparisons: tuple[tuple[str, str, float, float], ...]

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Parse the grammar in the module's documentation; ValueError if it does not fit."""
        text = text.strip()
        if text == "reported":
            return cls(text, ())
        comparisons = []
        for part in re.split(r"\s+and\s+", text):
            match = _COMPARISON.fullmatch(part.strip())
            if match is None:
                raise ValueError(
                    f"{part!r} is not a comparison: write [value|lower|upper] with < <= > >= and a"
                    " number, == and an integer, or in [a, b]; join them by 'and'; or: reported"
                )
            subject = match["subject"] or "value"
            if match["op"]:
                op, a, b = match["op"], float(match["number"]), math.nan
            elif match["integer"]:
                op, a, b = "==", float(int(match["integer"])), math.nan
            else:
                op, a, b = "in", float(match["a"]), float(match["b"])
                if a > b:
                    raise ValueError(f"{part!r}: the first end is above the second")
            if math.isinf(a) or math.isinf(b):
                raise ValueError(f"{part!r}: a number is too large")
            comparisons.append((subject, op, a, b))
        return cls(text, tuple(comparisons))

    @property
    def reported(self) -> bool:
        """Whether the number is shown but not judged."""
        return not self.comparisons

    @property
    def needs_interval(self) -> bool:
        """Whether a number alone is not enough."""
        return self.reported or any(subject != "value" for subject, *_ in self.comparisons)

    def met(self, value: float, interval: Interval | None = None) -> bool:
        """Whether all comparisons are true; False for NaN and infinity and for ``reported``."""
        numbers_ = {"value": float(value)}
        if interval is not None:
            numbers_ |= {"lower": float(interval.low), "upper": float(interval.high)}
        if self.reported or not all(math.isfinite(number) for number in numbers_.values()):
            return False
        return all(_TESTS[op](numbers_[subject], a, b) for subject, op, a, b in self.comparisons)


@dataclass(frozen=True)
class Verdict:
    """The outcome of one claim.

    Attributes
    ----------
    id : str
        The claim.
    value : int or float
        What was measured.
    interval : Interval or None
        Its interval.
    condition : str
        ``passes`` as written.
    held : bool or None
        Whether the condition is met; None where it is ``reported``.
    expected : bool or None
        What the file expects of `held`.
    kind : {"live", "stored"}
        Where the number comes from.
    shown : bool
        Whether a card has shown it, so that a notebook need not show it again.
    """

    id: str
    value: Number
    interval: Interval | None
    condition: str
    held: bool | None
    expected: bool | None
    kind: str
    shown: bool = field(default=False, repr=False, compare=False)

    def _ipython_display_(self) -> None:
        # The last expression of a cell is displayed: a recorded claim already has its card.
        if not self.shown:
            print(self)

    @property
    def finite(self) -> bool:
        """Whether the value and the ends of its interval are finite numbers."""
        ends = [] if self.interval is None else [self.interval.low, self.interval.high]
        return all(math.isfinite(number) for number in (self.value, *ends))

    @property
    def ok(self) -> bool:
        """Whether the outcome is the expected one. A number that is not finite never is."""
        return self.finite and self.held == self.expected

    @property
    def verdict(self) -> str:
        """One of :data:`VERDICTS`."""
        if not self.finite:
            return "not finite"
        if self.held is None:
            return "reported"
        if self.expected:
            return "holds" if self.held else "fails"
        return "flipped" if self.held else "not supported"


# ------------------------------------------------------------------------------------- the files


@dataclass(frozen=True)
class AbstractSentence:
    """One sentence of an abstract that claims something, in our words."""

    id: str
    says: str


@dataclass(frozen=True)
class Claim:
    """One declared row; the module's documentation explains the fields.

    `condition`, `kind` and `measure` are None for a row that is not tested, and `expected` is None
    for one that is not tested or only reported.
    """

    chapter: str
    id: str
    statement: str
    source: str
    paper: str | Number | None
    measure: str | None
    condition: Condition | None
    scope: str
    kind: str | None
    expected: bool | None
    because: str | None
    covers: tuple[str, ...]

    @property
    def tested(self) -> bool:
        """False for ``scope: not tested: ...``."""
        return self.condition is not None

    @property
    def anchor(self) -> str:
        """The ``id`` of the claim's card in the page."""
        return f"claim-{self.chapter}-{self.id}"

    def row(
        self,
        verdict: Verdict | None = None,
        *,
        seeds: Sequence[int] | None = None,
        note: str = "",
    ) -> dict[str, Any]:
        """Return the row of this claim, with the keys :data:`ROW_KEYS`.

        Parameters
        ----------
        verdict : Verdict, optional
            Without one the row says ``not tested`` or ``not recorded``.
        seeds : sequence of int, optional
            Seeds behind the value.
        note : str
            A sentence for the reader.
        """
        expect = None if self.expected is None else "holds" if self.expected else "not supported"
        interval = None if verdict is None else verdict.interval
        values: dict[str, Any] = {
            "chapter": self.chapter,
            "id": self.id,
            "statement": self.statement,
            "source": self.source,
            "paper": self.paper,
            "measure": self.measure,
            "passes": None if self.condition is None else self.condition.text,
            "scope": self.scope,
            "kind": self.kind,
            "expect": expect,
            "because": self.because,
            "covers": list(self.covers),
            "value": None if verdict is None else _finite(verdict.value),
            "low": None if interval is None else _finite(interval.low),
            "high": None if interval is None else _finite(interval.high),
            "level": None if interval is None else float(interval.level),
            "n": None if interval is None else int(interval.n),
            "method": None if interval is None else interval.method,
            "ours": "" if verdict is None else _with_interval(verdict.value, interval),
            "seeds": None if seeds is None else [int(seed) for seed in seeds],
            "note": note,
            "held": None if verdict is None else verdict.held,
            "ok": None if verdict is None else verdict.ok,
            "verdict": verdict.verdict
            if verdict is not None
            else "not recorded"
            if self.tested
            else "not tested",
        }
        return {key: values[key] for key in ROW_KEYS}


@dataclass(frozen=True)
class ClaimsFile:
    """A chapter's ``claims.yml``: the sentences of its abstract and its rows, in file order."""

    chapter: str
    path: Path
    abstract: tuple[AbstractSentence, ...]
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class ChapterClaims:
    """The ledger of one chapter; make one with :func:`chapter`.

    Attributes
    ----------
    file : ClaimsFile
        What is declared.
    recorded : dict of str to Verdict
        What this process has recorded so far.
    """

    file: ClaimsFile
    recorded: dict[str, Verdict] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The chapter."""
        return self.file.chapter

    def __getitem__(self, id: str) -> Claim:
        for claim in self.file.claims:
            if claim.id == id:
                return claim
        ids = [claim.id for claim in self.file.claims]
        near = difflib.get_close_matches(str(id), ids, n=1, cutoff=0)
        raise KeyError(f"{self.name} declares no claim {id!r}; the nearest is {near[0]!r}")

    def judge(self, id: str, value: Number, *, interval: Interval | None = None) -> Verdict:
        """Compare a value with the condition of a claim; show nothing, whatever the outcome.

        Parameters
        ----------
        id : str
            A claim of this chapter.
        value : int or float
            The measured number. Booleans count as 0 and 1; arrays of one element are accepted.
        interval : Interval, optional
            Needed where the condition names ``lower`` or ``upper``, or is ``reported``. Its
            estimate must be `value`.

        Returns
        -------
        Verdict

        Raises
        ------
        KeyError
            If the chapter has no such claim; the message names the nearest one.
        TypeError
            If `value` is not a number or `interval` not an :class:`Interval`.
        ValueError
            If the claim is not tested, a needed interval is missing, or the two disagree.
        """
        claim = self[id]
        if claim.condition is None or claim.kind is None:
            raise ValueError(f"{id} is declared as {claim.scope!r}: there is nothing to record")
        number = _number(value)
        if interval is None:
            if claim.condition.needs_interval:
                raise ValueError(f"{id}: the condition {claim.condition.text!r} needs an interval")
        else:
            _check_interval(id, number, interval)
        held = None if claim.condition.reported else claim.condition.met(number, interval)
        return Verdict(
            id=id,
            value=number,
            interval=interval,
            condition=claim.condition.text,
            held=held,
            expected=claim.expected,
            kind=claim.kind,
        )

    def record(
        self,
        id: str,
        value: Number,
        *,
        interval: Interval | None = None,
        seeds: Iterable[int] | None = None,
        note: str = "",
    ) -> Verdict:
        """Judge a claim, show its card, and put its row into the metadata of the output.

        Parameters
        ----------
        id, value, interval
            As in :meth:`judge`.
        seeds : iterable of int, optional
            Seeds behind the value, shown on the card.
        note : str
            A sentence for the reader, such as what the number was measured on.

        Returns
        -------
        Verdict
            What the card shows.

        Raises
        ------
        ClaimFailed
            If a claim that should hold fails, if one that is declared as not supported holds, or if
            a number is not finite. The card is shown first.
        KeyError, TypeError, ValueError
            As :meth:`judge`.
        """
        verdict = replace(self.judge(id, value, interval=interval), shown=True)
        row = self[id].row(
            verdict,
            seeds=None if seeds is None else [int(seed) for seed in seeds],
            note=str(note),
        )
        self.recorded[id] = verdict
        _show(row)
        if not verdict.ok:
            raise ClaimFailed(_failure(row), verdict)
        return verdict


def chapter(name: str) -> ChapterClaims:
    """Open the ledger of a chapter.

    Parameters
    ----------
    name : str
        The chapter's short name, for example ``"risk_scores"``.

    Returns
    -------
    ChapterClaims

    Raises
    ------
    FileNotFoundError
        If there is no clone to read from.
    KeyError
        If no such chapter has a ``claims.yml``; the message lists those that have.
    ClaimsFileError
        If the file breaks the rules; the message lists every fault.
    """
    known = chapters()
    if name not in known:
        raise KeyError(f"no chapter {name!r} with a claims.yml; there is: {', '.join(known)}")
    return ChapterClaims(read(profiles.project_root() / "notebooks" / name / "claims.yml"))


def chapters() -> list[str]:
    """Return the names of all chapters that have a ``claims.yml``, in alphabetical order."""
    folder = profiles.project_root() / "notebooks"
    return sorted(path.parent.name for path in folder.glob("*/claims.yml"))


def read(path: str | Path) -> ClaimsFile:
    """Read and check a ``claims.yml``; the chapter is the name of its folder.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    ClaimsFile

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ClaimsFileError
        If the file breaks the rules; the message lists every fault.
    """
    path = Path(path)
    faults: list[str] = []
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        hint = "quote every `passes`: a bare > has another meaning in YAML"
        raise ClaimsFileError(
            path, [f"not YAML: {' '.join(str(error).split())} ({hint})"]
        ) from None
    if not isinstance(content, dict):
        raise ClaimsFileError(path, ["must be a mapping with the lists 'abstract' and 'claims'"])
    faults += _unknown_keys("the file", content, ("abstract", "claims"))
    entries: dict[str, list[Any]] = {}
    for key in ("abstract", "claims"):
        entries[key] = []
        if isinstance(content.get(key), list) and content[key]:
            entries[key] = content[key]
        else:
            faults.append(f"{key}: must be a list with at least one entry")
    sentences = [_sentence(i, entry, faults) for i, entry in enumerate(entries["abstract"], 1)]
    known = [sentence.id for sentence in sentences if sentence is not None]
    name = path.resolve().parent.name
    rows = [_claim(name, i, entry, known, faults) for i, entry in enumerate(entries["claims"], 1)]
    for what, ids in (("abstract", known), ("claims", [row.id for row in rows if row])):
        for id in sorted({id for id in ids if ids.count(id) > 1}):
            faults.append(f"{what}: the id {id!r} is used {ids.count(id)} times")
    covered = {id for row in rows if row is not None for id in row.covers}
    faults += [f"abstract {id}: no row covers it" for id in known if id not in covered]
    if faults:
        raise ClaimsFileError(path, faults)
    return ClaimsFile(
        name, path, tuple(s for s in sentences if s is not None), tuple(r for r in rows if r)
    )


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice instead of keeping the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (key_node, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
        return super().construct_mapping(node, deep=deep)


_ID = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_FIELDS = (
    "id",
    "covers",
    "statement",
    "source",
    "paper",
    "measure",
    "passes",
    "scope",
    "kind",
    "expect",
    "because",
)
_SCOPE = re.compile(r"(as stated|smaller scale)(: *\S.*)?|(shown instead|not tested): *\S.*", re.S)


def _sentence(index: int, entry: Any, faults: list[str]) -> AbstractSentence | None:
    where = f"abstract, entry {index}"
    if not isinstance(entry, dict):
        faults.append(f"{where}: must be a mapping {{id: ..., says: ...}}")
        return None
    faults += _unknown_keys(where, entry, ("id", "says"))
    id, says = entry.get("id"), entry.get("says")
    if not isinstance(id, str) or not _ID.fullmatch(id):
        faults.append(f"{where}: id must be lower-case letters, digits and hyphens, got {id!r}")
        return None
    if not isinstance(says, str) or not says.strip():
        faults.append(f"abstract {id}: says must be a sentence, got {says!r}")
    return AbstractSentence(id, str(says).strip())


def _claim(
    name: str, index: int, entry: Any, sentences: Sequence[str], faults: list[str]
) -> Claim | None:
    if not isinstance(entry, dict):
        faults.append(f"claims, entry {index}: must be a mapping, got {entry!r}")
        return None
    id = entry.get("id")
    if not isinstance(id, str) or not _ID.fullmatch(id):
        faults.append(
            f"claims, entry {index}: id must be lower-case letters, digits and hyphens, got {id!r}"
        )
        id = ""
    where = f"claim {id or f'number {index}'}"
    faults += _unknown_keys(where, entry, _FIELDS)

    def text(key: str, *, required: bool = True) -> str | None:
        value = entry.get(key)
        if value is None and not required:
            return None
        if not isinstance(value, str) or not value.strip():
            faults.append(f"{where}: {key} must be text, got {value!r}")
            return None
        return value.strip()

    statement, source, scope = text("statement"), text("source"), text("scope")
    if scope is not None and not _SCOPE.fullmatch(scope):
        faults.append(
            f"{where}: scope must be 'as stated', 'smaller scale' (each may go on with ': detail'),"
            f" 'shown instead: what' or 'not tested: reason', got {scope!r}"
        )
    paper = entry.get("paper")
    if isinstance(paper, bool) or not (paper is None or isinstance(paper, str | int | float)):
        faults.append(f"{where}: paper must be a number, text or null, got {paper!r}")
    if isinstance(paper, float) and not math.isfinite(paper):
        faults.append(f"{where}: paper must be finite; write {paper!r} as text")

    covers = entry.get("covers", [])
    if not isinstance(covers, list) or not all(isinstance(c, str) for c in covers):
        faults.append(f"{where}: covers must be a list of ids from 'abstract', got {covers!r}")
        covers = []
    faults += [
        f"{where}: covers {cover!r}, which 'abstract' does not have"
        for cover in covers
        if cover not in sentences
    ]
    if source is not None and source.lower().startswith("abstract") and not covers:
        faults.append(f"{where}: its source is the abstract, so covers must name a sentence of it")

    tested = scope is None or not scope.startswith("not tested")
    if not tested:
        faults += [
            f"{where}: is not tested, so it cannot have {key!r}"
            for key in ("passes", "kind", "expect", "because")
            if entry.get(key) is not None
        ]
        measure, condition, kind, expected, because = (
            text("measure", required=False), None, None, None, None,
        )  # fmt: skip
    else:
        measure, because = text("measure"), text("because", required=False)
        condition = _condition(where, entry.get("passes"), faults)
        kind = entry.get("kind")
        if kind not in ("live", "stored"):
            faults.append(f"{where}: kind must be 'live' or 'stored', got {kind!r}")
        expect = entry.get("expect")
        if expect not in (None, "not supported"):
            faults.append(f"{where}: expect can only be 'not supported', got {expect!r}")
        if expect is not None and because is None and entry.get("because") is None:
            faults.append(f"{where}: expect: {expect} needs 'because' with the explanation")
        if expect is None and entry.get("because") is not None:
            faults.append(f"{where}: 'because' goes with 'expect: not supported' only")
        reported = condition is not None and condition.reported
        if reported and expect is not None:
            faults.append(f"{where}: a reported number is not judged, so it has no 'expect'")
        expected = None if reported else expect is None
    return Claim(
        chapter=name,
        id=id,
        statement=statement or "",
        source=source or "",
        paper=paper.strip() if isinstance(paper, str) else paper,
        measure=measure,
        condition=condition,
        scope=scope or "",
        kind=kind,
        expected=expected,
        because=because,
        covers=tuple(covers),
    )


def _condition(where: str, passes: Any, faults: list[str]) -> Condition | None:
    if not isinstance(passes, str) or not passes.strip():
        faults.append(f"{where}: passes must be a condition in quotes, got {passes!r}")
        return None
    try:
        return Condition.parse(passes)
    except ValueError as error:
        faults.append(f"{where}: passes: {error}")
        return None


def _unknown_keys(where: str, entry: dict[Any, Any], allowed: Sequence[str]) -> list[str]:
    faults = []
    for key in entry:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; allowed: {', '.join(allowed)}"
            faults.append(f"{where}: unknown key {key!r}{hint}")
    return faults


# --------------------------------------------------------------------------------------- numbers


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")


def _generator(rng: Any) -> np.random.Generator:
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, numbers.Integral) and not isinstance(rng, bool):
        return np.random.default_rng(int(rng))
    raise TypeError(f"rng must be a numpy Generator or an integer seed, got {rng!r}")


def _number(value: Any) -> Number:
    """Any scalar as a Python number; whole-number types stay exact."""
    if hasattr(value, "item") and math.prod(getattr(value, "shape", (0,))) == 1:
        value = value.item()  # numpy and torch
    if isinstance(value, numbers.Integral):  # a bool too
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"value must be one number, got {value!r}")


def _check_interval(id: str, value: Number, interval: Any) -> None:
    if not isinstance(interval, Interval):
        raise TypeError(f"{id}: interval must be a paperkit.claims.Interval, got {interval!r}")
    if np.ndim(interval.estimate):
        raise ValueError(f"{id}: interval holds {np.size(interval.estimate)} intervals, not one")
    estimate = float(interval.estimate)
    if not np.isclose(value, estimate, rtol=1e-6, atol=1e-12, equal_nan=True):
        raise ValueError(f"{id}: value {value!r} is not the estimate of its interval, {estimate!r}")


def _finite(value: Any) -> Number | None:
    number = _number(value)
    return number if math.isfinite(number) else None


def _text(value: Number) -> str:
    if isinstance(value, int) and abs(value) < 10**12:
        return str(value)
    return f"{value:.4g}"


def _with_interval(value: Any, interval: Interval | None) -> str:
    text = _text(_number(value))
    if interval is None or interval.method == "exact":
        return text
    ends = f"{_text(_number(interval.low))}, {_text(_number(interval.high))}"
    return f"{text} [{ends}]"


# ----------------------------------------------------------------------------------------- cards

# Dark enough for white letters (contrast of at least 4.5) and for a border on light and dark pages.
_COLOURS = {
    "holds": "#1a7a4a",
    "not supported": "#8a5a00",
    "reported": "#52606d",
    "not tested": "#52606d",
}
_RED = "#b3261e"


def card(row: dict[str, Any]) -> str:
    """Return the HTML card of a row.

    Its ``id`` is ``claim-<chapter>-<id>``. Colours can be changed through the CSS variables
    ``--pk-claim-<verdict>`` (spaces as hyphens) and ``--pk-claim-border``; all else inherits from
    the page, so that the card is readable on light and dark ground.

    Parameters
    ----------
    row : dict
        As :meth:`Claim.row` returns it.
    """
    verdict = row["verdict"]
    sign, words = VERDICTS[verdict]
    slug = verdict.replace(" ", "-")
    colour = f"var(--pk-claim-{slug}, {_COLOURS.get(verdict, _RED)})"
    where = html.escape(f"claim-{row['chapter']}-{row['id']}")
    lines = "".join(
        f'<dt style="opacity:.8;font-weight:600;margin:0">{html.escape(term)}</dt>'
        f'<dd style="margin:0;min-width:0">{_inline(detail)}</dd>'
        for term, detail in _details(row)
    )
    return (
        f'<div class="pk-claim pk-claim-{slug}" id="{where}" role="group"'
        f' aria-label="Claim {html.escape(row["id"])}: {html.escape(words)}"'
        ' style="border:1px solid var(--pk-claim-border, rgba(128,128,128,.5));'
        f"border-left:.4rem solid {colour};border-radius:.25rem;padding:.6rem .9rem;"
        'margin:.8rem 0;color:inherit;overflow-wrap:anywhere">'
        '<div class="pk-claim-head" style="display:flex;flex-wrap:wrap;gap:.5rem;'
        'align-items:baseline">'
        f'<span class="pk-claim-verdict" style="background:{colour};color:#fff;border-radius:.2rem;'
        f'padding:.05rem .5rem;font-weight:600">{sign} {html.escape(words)}</span>'
        f'<code class="pk-claim-id" style="color:inherit;background:none;border:0;padding:0">'
        f"{html.escape(row['id'])}</code></div>"
        '<div class="pk-claim-statement" style="font-weight:600;margin:.4rem 0">'
        f"{_inline(row['statement'])}</div>"
        '<dl class="pk-claim-details" style="display:grid;grid-template-columns:max-content 1fr;'
        f'gap:.1rem .9rem;margin:0;font-size:.92em">{lines}</dl></div>'
    )


def _details(row: dict[str, Any]) -> list[tuple[str, str]]:
    """What a card says below the statement, as (term, detail)."""
    paper = row["paper"]
    interval = ""
    if row["method"] not in (None, "exact"):
        parts = f"{row['level'] * 100:.4g} % interval", f"n = {row['n']}", row["method"]
        interval = "; " + ", ".join(part for part in parts if part)
    lines = [
        (
            "Paper",
            "no number" if paper is None else paper if isinstance(paper, str) else _text(paper),
        ),
        ("Ours", f"{row['ours']}{interval}" if row["ours"] else ""),
        ("Measure", row["measure"] or ""),
        ("Passes if", "" if row["passes"] in (None, "reported") else row["passes"]),
        ("Scope", row["scope"]),
        ("Source", row["source"]),
        ("Kind", _KINDS.get(row["kind"], "")),
        ("Seeds", _runs(row["seeds"]) if row["seeds"] else ""),
        ("Declared", "not supported" if row["expect"] == "not supported" else ""),
        ("Because", row["because"] or ""),
        ("Note", row["note"]),
    ]
    return [(term, str(detail)) for term, detail in lines if detail != ""]


_KINDS = {"live": "live: measured in this build", "stored": "stored: from a versioned long run"}


def _runs(seeds: Sequence[int]) -> str:
    """Seeds as text, with runs of neighbours joined: 0-19, 25."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    parts = [f"{r[0]}-{r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs]
    if len(parts) > 8:
        return f"{len(seeds)} seeds: {', '.join(parts[:3])}, …"
    return ", ".join(parts)


def _inline(text: str) -> str:
    """Escaped text, with `code` between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _plain(row: dict[str, Any]) -> str:
    sign, words = VERDICTS[row["verdict"]]
    lines = [f"{sign} {row['chapter']} / {row['id']}: {words}", f"  {row['statement']}"]
    lines += [f"  {term}: {detail}" for term, detail in _details(row)]
    return "\n".join(lines)


def _failure(row: dict[str, Any]) -> str:
    _, words = VERDICTS[row["verdict"]]
    expected = "measured" if row["expect"] is None else f"declared to be: {row['expect']}"
    return (
        f"{row['chapter']} / {row['id']} {words}: {row['ours']}, condition {row['passes']!r},"
        f" {expected}. {row['statement']}"
    )


def _show(row: dict[str, Any]) -> None:
    """Display the card in a notebook, print it elsewhere."""
    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        print(_plain(row))
        return
    from IPython.display import display

    bundle = {"text/html": card(row), "text/plain": _plain(row)}
    display(bundle, raw=True, metadata={METADATA_KEY: row})
