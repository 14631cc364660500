"""One function per claim of the chapter: settings in, value or interval out.

Notebooks, scripts, mutation tests and the runs over twenty seeds call the same functions. The randomness of every
live number comes from ``PAPERKIT_SEED`` through :mod:`paperkit.profiles`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import spearmanr, wilcoxon
from statsmodels.stats.multitest import multipletests

from paperkit import data, profiles
from paperkit.claims import Interval, bootstrap, wilson
from paperkit.risk_scores import judging, polarisation, published, scoring
from paperkit.risk_scores._checks import Floats
from paperkit.risk_scores.recalibration import Method, ScoreCalibrator, crossfit_baseline
from paperkit.risk_scores.tasks import ANALOGUES, Column, Question, Task, TaskData, load_task

BETAS = (1.0, 0.5, 0.25)


def _rng(*key: str | int) -> np.random.Generator:
    return profiles.rng("risk_scores", *key)


# --- notebook 1: where the answer is known -----------------------------------------------------------------


def calibrated_scores(
    name: str, label: str = "outcome", seed: int | None = None
) -> tuple[np.ndarray, Floats]:
    """Outcomes of a task and cross-fitted boosting, the stand-in for a calibrated base model.

    Parameters
    ----------
    name : str
        Task of :func:`paperkit.risk_scores.tasks.load_task`.
    label : {"outcome", "older_than_40"}
        The task's own outcome, or a *realizable* question about the same people: the age is in the columns.
    seed : int, optional
        Of the folds; default from ``PAPERKIT_SEED``.

    Returns
    -------
    y, s : arrays of shape (n,)
    """
    folds = profiles.seeds(1, "risk_scores", "folds")[0] if seed is None else seed
    return _crossfitted(name, label, folds)


@lru_cache(maxsize=64)
def _crossfitted(name: str, label: str, folds: int) -> tuple[np.ndarray, Floats]:
    task = load_task(name)
    y = task.y.to_numpy() if label == "outcome" else (task.X["age"] > 40).astype(int).to_numpy()
    return y, crossfit_baseline(task.X, y, random_state=folds)


def error_ratio(name: str, *, beta: float = 0.25, n_folds: int = 5, n_draws: int = 400) -> Interval:
    """Calibration error after polarising over the error before, with a bootstrap interval over people.

    Both errors are means over ``n_folds`` shuffles of the folds: the error of one cross-fitted score, about 0.03,
    is half noise of that shuffle.
    """
    folds = profiles.seeds(n_folds, "risk_scores", "folds")
    y = calibrated_scores(name)[0]
    base = np.column_stack(
        [calibrated_scores(name, seed=seed)[1] for seed in folds]
    )  # (n, n_folds)
    after = np.column_stack([polarisation.polarise(s, beta) for s in base.T])
    scores = np.column_stack([base, after])  # (n, 2 n_folds)
    # Ten bins for each column, so that one count of bins gives all errors of a resample.
    bins = np.column_stack([judging.assign_bins(s) + 10 * j for j, s in enumerate(scores.T)])

    def ratio(labels: np.ndarray, s: Floats, b: np.ndarray) -> float:
        residual = (labels[:, None] - s).ravel()
        gaps = np.bincount(b.ravel(), weights=residual, minlength=10 * s.shape[1])
        before, polarised = np.abs(gaps).reshape(2, -1).sum(axis=1)
        return float(polarised / before)

    rng = _rng("error-ratio", name)
    # BCa, because resampled people make every calibration error larger, the small one most.
    return bootstrap(ratio, y, scores, bins, n_draws=n_draws, rng=rng)


def realizable_change(*, betas: Sequence[float] = BETAS) -> dict[str, float]:
    """What polarising does on a realizable question (employment rows, "older than 40").

    Returns
    -------
    dict
        ``error``: calibration error at the smallest beta minus that of the base; ``accuracy``: largest change.
    """
    y, s = calibrated_scores("employment", "older_than_40")
    polarised = [polarisation.polarise(s, beta) for beta in betas]
    error = judging.expected_calibration_error
    base = np.mean((s >= 0.5) == y)
    return {
        "error": error(y, polarised[int(np.argmin(betas))]) - error(y, s),
        "accuracy": float(max(abs(np.mean((p >= 0.5) == y) - base) for p in polarised)),
    }


def blindness(
    *,
    names: Sequence[str] = ("income", "employment", "travel_time"),
    betas: Sequence[float] = BETAS,
) -> dict[str, float]:
    """Largest change of AUC and number of changed predictions when calibrated scores are polarised."""
    change, flips = 0.0, 0
    for name in names:
        y, s = calibrated_scores(name)
        for beta in betas:
            polarised = polarisation.polarise(s, beta)
            change = max(change, abs(judging.auc(y, polarised) - judging.auc(y, s)))
            flips += int(np.sum((polarised >= 0.5) != (s >= 0.5)))
    return {"auc": change, "predictions": flips}


def formula_error(*, n: int = 200) -> float:
    """Largest distance between the formula of polarisation and a numerical maximiser of the objective."""
    rng = _rng("formula")
    eta, s0 = rng.uniform(0.05, 0.95, (2, n))
    beta = rng.uniform(0.2, 2, n)
    worst = 0.0
    for e, s, b in zip(eta, s0, beta, strict=True):
        best = minimize_scalar(
            lambda x, e=e, s=s, b=b: -polarisation.tuning_objective(x, e, s, b),
            bounds=(1e-9, 1 - 1e-9),
            method="bounded",
            options={"xatol": 1e-10},
        )
        worst = max(worst, abs(best.x - polarisation.polarise([s], b, [e])[0]))
    return worst


def polarisation_table(
    name: str, *, betas: Sequence[float] = BETAS, label: str = "outcome"
) -> pd.DataFrame:
    """AUC, accuracy, Brier, calibration error, claimed uncertainty and confidence gap along beta."""
    y, s = calibrated_scores(name, label)
    columns = ["auc", "accuracy", "brier", "ece", "claimed_uncertainty", "confidence_gap"]
    scores = {"base": s} | {f"beta = {beta:g}": polarisation.polarise(s, beta) for beta in betas}
    scores["hedged"] = 0.5 + 0.1 * (s - 0.5)
    rows = {key: judging.evaluate(y, value).loc["all", columns] for key, value in scores.items()}
    return pd.DataFrame(rows).T.astype(float)


def control_tracking() -> pd.DataFrame:
    """Claimed uncertainty of boosting and Brier score of logistic regression, one row per table."""
    rows = []
    folds = profiles.seeds(1, "risk_scores", "folds")[0]
    for name in (
        "income",
        "employment",
        "travel_time",
        "disability",
        "birth_half",
        "insurance",
        "hmda",
    ):
        y, s = calibrated_scores(name)
        linear = crossfit_baseline(load_task(name).X, y, "lr", random_state=folds)
        brier = float(np.mean((y - linear) ** 2))
        rows.append({"task": name, "claimed": judging.claimed_uncertainty(s), "present": brier})
    return pd.DataFrame(rows)


def correlation(table: pd.DataFrame) -> float:
    """Spearman correlation of claimed and present uncertainty."""
    return float(spearmanr(table.claimed, table.present)[0])


# --- notebook 2: the authors' table ------------------------------------------------------------------------


def count(condition: Any) -> Interval:
    """Share of rows for which a condition holds, with Wilson's interval."""
    hits = np.asarray(condition, dtype=bool)
    return wilson(int(hits.sum()), len(hits), level=0.95)


def signal_shares(results: pd.DataFrame) -> tuple[Interval, Interval]:
    """Shares of multiple-choice rows with AUC above 0.8: income, and the four other tasks."""
    rows = results[results.scheme == "multiple_choice"]
    income = rows.task == "income"
    return count(rows[income].auc > 0.8), count(rows[~income].auc > 0.8)


def miscalibrated_share(results: pd.DataFrame, *, baseline: str = "LR") -> Interval:
    """Share of multiple-choice rows whose calibration error exceeds that of a trained baseline."""
    rows = results[results.scheme == "multiple_choice"]
    table = published.load_published_baselines()
    limit = table[table.model == baseline].set_index("task").ece
    return count(rows.ece > rows.task.map(limit))


def gap_shares(results: pd.DataFrame, *, baseline: str = "XGBoost") -> tuple[Interval, Interval]:
    """Shares of base rows with a positive and of instruction-tuned rows with a negative uncertainty gap."""
    rows = published.uncertainty_gaps(results, baseline=baseline)
    return count(rows[~rows.instruct].gap > 0), count(rows[rows.instruct].gap < 0)


def tuning_lowers_share(results: pd.DataFrame) -> Interval:
    """Share of (family, task) pairs whose tuned version claims less uncertainty than its base."""
    pairs = published.family_pairs(results)
    return count(pairs.claimed_uncertainty_instruct < pairs.claimed_uncertainty_base)


def median_tracking(results: pd.DataFrame, *, instruct: bool = True) -> Interval:
    """Median over models of the correlation of claimed with present uncertainty, bootstrap over models."""
    rows = published.tracking(results)
    values = rows[rows.instruct == instruct].correlation.to_numpy()
    return bootstrap(np.median, values, method="percentile", rng=0)


def numeric_effect(results: pd.DataFrame, *, instruct: bool) -> tuple[Interval, float]:
    """Share of pairs that the numeric question calibrates better, and Wilcoxon's p-value."""
    pairs = published.scheme_pairs(results)
    pairs = pairs[pairs.instruct == instruct]
    difference = pairs.ece_choice - pairs.ece_numeric
    p = float(wilcoxon(difference).pvalue) if difference.any() else 1.0
    return count(difference > 0), p


# --- notebook 3: a real model reads the census -------------------------------------------------------------

TASK_FACTS = {
    "income": (888, 0.260),
    "employment": (1565, 0.536),
    "travel_time": (781, 0.426),
    "insurance": (8802, 0.801),
    "birth_half": (1585, 0.515),
}


def tasks_as_stated() -> int:
    """Number of the paper's five tasks whose analogue has the stated rows and base rate."""
    right = 0
    for name in ANALOGUES.values():
        task = load_task(name)
        rows, rate = TASK_FACTS[name]
        right += len(task.y) == rows and abs(task.y.mean() - rate) < 5e-4
    return right


def stored_scores() -> pd.DataFrame:
    """Scores of SmolLM2 by ``scripts/risk_scores/score_smollm2.py``, with outcomes ``y``."""
    table = data.stored("risk_scores", "smollm2_scores")
    y = pd.concat(
        [
            load_task(name).y.iloc[rows.row].set_axis(rows.index)
            for name, rows in table.groupby("task", sort=False)
        ]
    )
    return table.assign(y=y)


READINGS: dict[str, tuple[str, Callable[[pd.DataFrame], Any]]] = {
    "choice, A negative": ("choice", lambda t: expit(-t.choice_logit_order1)),
    "choice, A positive": ("choice", lambda t: expit(t.choice_logit_order2)),
    "choice, mean probability": ("choice", lambda t: t.choice_score),
    "choice, mean logit": ("choice", lambda t: expit(t.choice_evidence)),
    "number, greedy": ("numeric", lambda t: t.numeric_greedy),
    "number, expected": ("numeric", lambda t: t.numeric_expected),
    "whole answers": ("completion", lambda t: t.completion_score),
}
"""Name -> the way of asking that it needs, and the score read from its columns."""


def readings(scores: pd.DataFrame) -> dict[tuple[str, str, str], tuple[np.ndarray, Floats]]:
    """Outcomes and scores of every (task, asking, reading) in the stored table."""
    found = {}
    for (task, asking), rows in scores.groupby(["task", "asking"], sort=False):
        for name, (way, read) in READINGS.items():
            if f"{way}_digest" in rows and rows[f"{way}_digest"].notna().all():
                found[str(task), str(asking), name] = (
                    rows.y.to_numpy(),
                    read(rows).to_numpy(dtype=float),
                )
    return found


def auc_interval(y: np.ndarray, s: Floats, *, level: float = 0.95, n_draws: int = 300) -> Interval:
    """AUC with a percentile bootstrap interval over people."""
    rng = np.random.default_rng(0)
    draws = []
    for pick in rng.integers(len(y), size=(n_draws, len(y))):
        draws.append(judging.auc(y[pick], s[pick]))
    tail = (1 - level) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    method = f"bootstrap (percentile, {n_draws} draws)"
    return Interval(judging.auc(y, s), float(low), float(high), level, len(y), method)


def verdicts(scores: pd.DataFrame) -> pd.DataFrame:
    """Does each reading rank? AUC with interval, p-value, Holm's adjustment, calibration and its null.

    Readings in one fixed answer order are shown by :func:`readings` but not judged: an order is half a question.

    Returns
    -------
    DataFrame
        One row per (task, asking, reading): ``n, auc, low, high, p, p_holm, verdict`` ("above", "below" or "not
        shown"), ``ece, ece_null_95, mean, sd``.
    """
    rows = []
    for (task, asking, name), (y, s) in readings(scores).items():
        if name.startswith("choice, A"):
            continue
        interval = auc_interval(y, s)
        rows.append(
            {
                "task": task,
                "asking": asking,
                "reading": name,
                "n": len(y),
                "auc": interval.estimate,
                "low": interval.low,
                "high": interval.high,
                "p": judging.auc_p_value(y, s),
                "ece": judging.expected_calibration_error(y, s),
                "ece_null_95": float(np.quantile(judging.ece_null(s), 0.95)),
                "mean": s.mean(),
                "sd": s.std(),
            }
        )
    table = pd.DataFrame(rows)
    table["p_holm"] = multipletests(table.p, method="holm")[1]
    ranks = table.p_holm < 0.05
    table["verdict"] = np.where(
        ranks & (table.auc > 0.5), "above", np.where(ranks, "below", "not shown")
    )
    return table


def shuffled_p(scores: pd.DataFrame) -> float:
    """Smallest Holm-adjusted p-value when outcomes are shuffled within every task."""
    rng = _rng("shuffled")
    shuffled = {}
    p = []
    for (task, asking, name), (y, s) in readings(scores).items():
        if name.startswith("choice, A"):
            continue
        if (task, asking) not in shuffled:
            shuffled[task, asking] = rng.permutation(y)
        p.append(judging.auc_p_value(shuffled[task, asking], s))
    return float(multipletests(p, method="holm")[1].min())


def digest(*prompts: str) -> str:
    """Digest of the strings that a row's scores were computed from, as in the stored table."""
    return hashlib.sha256("\0".join(prompts).encode()).hexdigest()[:16]


def recheck(
    scores: pd.DataFrame, *, task: str = "employment", n: int = 32, model: Any = "smollm2-135m"
) -> float:
    """Largest difference between stored and re-computed multiple-choice scores of ``n`` rows.

    The rows are neighbours in the sorted list of prompts, so that little is computed; which ones is drawn. A
    prompt that is not the stored one, by digest, is an error.
    """
    stored = scores[(scores.task == task) & (scores.asking == "raw")].reset_index(drop=True)
    rows = load_task(task)
    scorer = scoring.LMRiskScorer(rows.task, model)
    first = scorer.prompts(rows.X.iloc[stored.row])
    order = np.argsort(first, kind="stable")
    start = int(_rng("recheck").integers(len(order) - n + 1))
    picked = stored.iloc[order[start : start + n]]
    X = rows.X.iloc[picked.row]
    prompts = zip(scorer.prompts(X), scorer.prompts(X, (1, 0)), strict=True)
    if [digest(*pair) for pair in prompts] != picked.choice_digest.tolist():
        raise ValueError(
            "the prompts are not those of the stored scores: run scripts/risk_scores/score_smollm2.py"
        )
    now = scorer.score_details(X)
    difference = np.abs(now.score.to_numpy() - picked.choice_score.to_numpy()).max()
    evidence = np.abs(
        expit(now.evidence.to_numpy()) - expit(picked.choice_evidence.to_numpy())
    ).max()
    return float(max(difference, evidence))


def letter_effect(scores: pd.DataFrame, task: str) -> dict[str, float]:
    """Letter bias of a task's raw multiple-choice answers.

    Returns
    -------
    dict
        ``p_a_order1``, ``p_a_order2`` (mean p(A)), ``bias`` (mean b), ``evidence_sd`` (sd of e), ``ratio``
        (bias over evidence_sd), ``squeeze_predicted`` and ``squeeze_measured`` (sd of the score from averaged
        logits over that from averaged probabilities).
    """
    rows = scores[(scores.task == task) & (scores.asking == "raw")]
    bias, evidence = rows.choice_letter_bias, rows.choice_evidence
    return {
        "p_a_order1": float(expit(rows.choice_logit_order1).mean()),
        "p_a_order2": float(expit(rows.choice_logit_order2).mean()),
        "bias": float(bias.mean()),
        "evidence_sd": float(evidence.std()),
        "ratio": float(bias.mean() / evidence.std()),
        "squeeze_predicted": 1 / polarisation.squeeze_factor(float(bias.mean())),
        "squeeze_measured": float(expit(evidence).std() / rows.choice_score.std()),
    }


def employment_tokens(model: Any = "smollm2-135m") -> float:
    """Tokens of all employment prompts, both orders, over tokens that the prefix tree computes."""
    task = load_task("employment")
    prompts = [*task.prompts(), *task.prompts(order=(1, 0))]
    plan = scoring.as_backend(model).scorer.plan(prompts)
    return plan.sequence_tokens / plan.computed_tokens


# Questions that everybody can answer: (question, right, wrong).
TRIVIA = (
    ("What is the capital of France?", "Paris", "Rome"),
    ("What is the capital of Japan?", "Tokyo", "Madrid"),
    ("What is the capital of Italy?", "Rome", "Oslo"),
    ("How many legs does a dog have?", "Four", "Nine"),
    ("How many days are there in a week?", "Seven", "Twelve"),
    ("Which animal barks?", "A dog", "A fish"),
    ("Which animal gives milk?", "A cow", "A snake"),
    ("Which animal can fly?", "A bird", "A horse"),
    ("What colour is grass?", "Green", "Purple"),
    ("What colour is snow?", "White", "Black"),
    ("What colour is the sky on a clear day?", "Blue", "Brown"),
    ("What do bees make?", "Honey", "Paper"),
    ("What falls from clouds?", "Rain", "Sand"),
    ("What is frozen water called?", "Ice", "Steam"),
    ("What is the opposite of hot?", "Cold", "Loud"),
    ("What is the opposite of up?", "Down", "Green"),
    ("Which season is the coldest?", "Winter", "Summer"),
    ("Where do fish live?", "In water", "In trees"),
    ("Where does the sun rise?", "In the east", "In the west"),
    ("What do people read?", "Books", "Spoons"),
    ("What is used to cut paper?", "Scissors", "A pillow"),
    ("What do you wear on your feet?", "Shoes", "Gloves"),
    ("Which one is a fruit?", "An apple", "A hammer"),
    ("Which one is a musical instrument?", "A piano", "A window"),
)


@dataclass(frozen=True)
class TriviaResult:
    """Answers to :data:`TRIVIA`.

    Attributes
    ----------
    right_at_a, right_at_b : arrays of bool, shape (24,)
        Whether the letter of the right answer won, with the right answer listed as A and as B.
    completion : array of shape (24,)
        Score of the right answer when whole answers are compared per token.
    """

    right_at_a: np.ndarray
    right_at_b: np.ndarray
    completion: Floats


TRIVIA_INTRODUCTION = "Answer the question."


def trivia(model: Any = "smollm2-135m") -> TriviaResult:
    """Ask the easy questions by letters, in both orders, and by whole answers."""
    backend = scoring.as_backend(model)
    letters = [
        f"{TRIVIA_INTRODUCTION}\n\nQuestion: {question}\nA. {first}.\nB. {second}.\nAnswer:"
        for question, right, wrong in TRIVIA
        for first, second in ((right, wrong), (wrong, right))
    ]
    table = backend.next_token_logprobs(letters, scoring.LETTER_TOKENS)
    logit = scoring.letter_logits(table)[0].reshape(-1, 2)
    return TriviaResult(logit[:, 0] > 0, logit[:, 1] < 0, trivia_answers(backend))


def trivia_answers(model: Any = "smollm2-135m") -> Floats:
    """Score of the right answer to every easy question, whole answers compared per token, (24,)."""
    backend = scoring.as_backend(model)
    wholes = [f"{TRIVIA_INTRODUCTION}\n\nQuestion: {q}\nAnswer:" for q, _, _ in TRIVIA]
    answers = [[f" {right}.", f" {wrong}."] for _, right, wrong in TRIVIA]
    lengths = np.array([[backend.n_tokens(answer) for answer in pair] for pair in answers])
    compared = backend.completion_logprobs(wholes, answers) / lengths  # (24, 2)
    return expit(compared[:, 0] - compared[:, 1])


def reference_scores() -> dict[str, Any]:
    """What the authors' classifier returned for our prompts (``scripts/risk_scores/reference_scores.py``)."""
    return data.stored("risk_scores", "reference_scores")


def reference_difference(model: Any = "smollm2-135m") -> dict[str, float]:
    """Compare with the authors' classifier on identical strings.

    Returns
    -------
    dict
        ``choice``: largest difference of the averaged score; ``numeric``: rows whose digits differ although the
        best two digits of both steps differ by 1e-3 or more in probability.
    """
    stored = reference_scores()
    backend = scoring.as_backend(model)
    worst, digits = 0.0, 0
    for name, facts in stored.items():
        task = load_task(name).take(facts["rows"])
        scorer = scoring.LMRiskScorer(task.task, backend)
        texts = [*scorer.prompts(task.X), *scorer.prompts(task.X, (1, 0))]
        if digest(*texts) != facts["digest"]:
            raise ValueError(f"{name}: the prompts are not those that the authors' software scored")
        ways = {
            "choice": scorer,
            "numeric": scoring.LMRiskScorer(task.task, backend, scheme="numeric"),
        }
        ours = {
            way: details.score.to_numpy()
            for way, details in scoring.score_together(ways, task.X).items()
        }
        worst = max(worst, float(np.abs(ours["choice"] - facts["choice"]).max()))
        differ = np.abs(ours["numeric"][: len(facts["numeric"])] - facts["numeric"]) > 1e-9
        digits += int(np.sum(differ & (np.array(facts["margin"]) >= 1e-3)))
    return {"choice": worst, "numeric": digits}


class TopTokens:
    """A hosted model that lists only its likeliest tokens, played by a local one."""

    def __init__(self, backend: scoring.LocalBackend, k: int = 10):
        self.backend, self.k = backend, k

    def __call__(self, prompts: list[str]) -> list[dict[str, float]]:
        """One dict per prompt: token text to log-probability."""
        scorer, tokenizer = self.backend.scorer, self.backend.lm.tokenizer
        table = scorer.next_token_logprobs(prompts, range(self.backend.lm.vocabulary_size))
        answers = []
        for row in table:
            top = np.argsort(row)[::-1][: self.k]
            answers.append({tokenizer.decode([int(t)]): float(row[t]) for t in top})
        return answers


def web_difference(*, n: int = 4, k: int = 10, model: Any = "smollm2-135m") -> float:
    """Largest score difference between a backend that lists ``k`` tokens and the whole vocabulary."""
    task = load_task("employment").take(range(n))
    backend = scoring.as_backend(model)
    hosted = scoring.TopLogprobsBackend(TopTokens(backend, k))
    full = scoring.LMRiskScorer(task.task, backend).predict_proba(task.X)
    top = scoring.LMRiskScorer(task.task, hosted).predict_proba(task.X)
    return float(np.abs(full - top).max())


def working_schemes(*, n: int = 2, model: Any = "smollm2-135m") -> dict[str, bool]:
    """Which ways of asking return a finite score in [0, 1] for every row."""
    task = load_task("employment")
    rows, rest = task.take(range(n)), task.take(range(n, 60))
    ways: dict[str, dict[str, Any]] = {
        "multiple choice": {},
        "multiple choice, chat": {"chat": True},
        "multiple choice, two examples": {"n_shots": 2},
        "number": {"scheme": "numeric"},
        "number, chat": {"scheme": "numeric", "chat": True},
        "whole answers": {"scheme": "completion"},
        "whole answers, chat": {"scheme": "completion", "chat": True},
    }
    scorers = {}
    for name, options in ways.items():
        scorers[name] = scoring.LMRiskScorer(task.task, model, **options)
        if options.get("n_shots"):
            scorers[name].fit(rest.X, rest.y)
    found = scoring.score_together(scorers, rows.X)
    return {name: bool(details.score.between(0, 1).all()) for name, details in found.items()}


def code_lines(source: str) -> int:
    """Lines of code: not empty, not a comment."""
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") for line in source.splitlines()
    )


# --- notebook 4: beyond the paper --------------------------------------------------------------------------


def isotonic_difference(name: str = "employment", *, beta: float = 0.25) -> float:
    """Largest difference between isotonic regression of the base score and of the polarised one."""
    y, s = calibrated_scores(name)
    polarised = polarisation.polarise(s, beta)
    before = ScoreCalibrator("isotonic").fit(s, y).predict(s)
    after = ScoreCalibrator("isotonic").fit(polarised, y).predict(polarised)
    return float(np.abs(before - after).max())


def repair(
    y: np.ndarray,
    s: Floats,
    *,
    n_labels: int,
    method: Method,
    n_draws: int = 40,
    key: str = "repair",
) -> np.ndarray:
    """Calibration error before and after fitting a map on a few labels, judged on the other rows.

    Returns
    -------
    array of shape (n_draws, 2)
        Error before and after, one row per draw of the labelled rows.
    """
    rng = _rng(key, method, n_labels)
    errors: list[list[float]] = []
    while len(errors) < n_draws:
        order = rng.permutation(len(y))
        few, rest = order[:n_labels], order[n_labels:]
        if len(np.unique(y[few])) < 2:
            continue
        repaired = ScoreCalibrator(method).fit(s[few], y[few]).predict(s[rest])
        error = judging.expected_calibration_error
        errors.append([error(y[rest], s[rest]), error(y[rest], repaired)])
    return np.array(errors)


def repair_gain(errors: np.ndarray) -> Interval:
    """Mean reduction of the calibration error over draws, with a bootstrap interval."""
    gain = errors[:, 0] - errors[:, 1]
    return bootstrap(np.mean, gain, method="percentile", rng=_rng("repair-gain"))


def polarised_employment(beta: float = 0.25) -> tuple[np.ndarray, Floats]:
    """Outcomes and polarised calibrated scores of the employment task."""
    y, s = calibrated_scores("employment")
    return y, polarisation.polarise(s, beta)


def trivia_temperature(answers: Floats) -> float:
    """Temperature that maximises the likelihood of the easy questions, each seen from both answers.

    ``answers`` are the scores of the right answers, from :func:`trivia_answers`.
    """
    s = np.r_[answers, 1 - answers]
    y = np.r_[np.ones(len(answers), int), np.zeros(len(answers), int)]
    return ScoreCalibrator("temperature").fit(s, y).temperature_


def tempered_change(
    y: np.ndarray, s: Floats, temperature: float, *, n_draws: int = 300
) -> Interval:
    """Change of the calibration error when scores are tempered, with a bootstrap interval over people."""
    after = polarisation.temper(s, temperature)

    def change(labels: np.ndarray, before: Floats, tempered: Floats) -> float:
        error = judging.expected_calibration_error
        return error(labels, tempered) - error(labels, before)

    return bootstrap(
        change, y, s, after, n_draws=n_draws, method="percentile", rng=_rng("tempered")
    )


# A mortgage task in words, for tests; the notebook writes it out.
MORTGAGE_QUESTION = Question("Was the mortgage granted or denied?", ("Granted", "Denied"))


def mortgage_task() -> TaskData:
    """Mortgage applications as a custom task."""
    table = data.table("risk_scores/hmda")
    columns = [
        Column("pirat", "ratio of payments to income", "{:.0%}".format),
        Column("phist", "public record of bad credit", {"yes": "Yes", "no": "No"}),
    ]
    return Task.from_frame(
        table,
        target="deny",
        positive="yes",
        question=MORTGAGE_QUESTION,
        description="The following describes one application for a mortgage.",
        columns=columns,
        name="mortgage",
    )


def repair_curve(
    y: np.ndarray, s: Floats, *, method: Method, labels: Sequence[int] = (20, 50, 100, 200)
) -> pd.DataFrame:
    """Calibration error after repair: columns ``labels, mean, low, high`` (5 % and 95 % of the draws)."""
    rows = []
    for n in labels:
        after = repair(y, s, n_labels=n, method=method)[:, 1]
        low, high = np.quantile(after, [0.05, 0.95])
        rows.append({"labels": n, "mean": after.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def error_of(y: np.ndarray, s: Floats) -> float:
    """Calibration error with ten bins of equal width."""
    return judging.expected_calibration_error(y, s)


def group_report(y: Any, s: Any, groups: pd.Series, *, smallest: float = 0.04) -> pd.DataFrame:
    """Report for the groups of one attribute that hold at least a share ``smallest`` of the people."""
    shares = groups.value_counts(normalize=True)
    kept = groups.where(groups.map(shares) >= smallest).to_numpy()
    names = pd.Series(kept).map(lambda g: f"{groups.name}: {g}", na_action="ignore")
    return judging.evaluate(np.asarray(y), np.asarray(s), groups=names).drop(index="all")


def baseline_aucs(name: str) -> tuple[float, float]:
    """AUC of cross-fitted boosting and logistic regression."""
    y, s = calibrated_scores(name)
    folds = profiles.seeds(1, "risk_scores", "folds")[0]
    linear = crossfit_baseline(load_task(name).X, y, "lr", random_state=folds)
    return judging.auc(y, s), judging.auc(y, linear)


def people(scores: pd.DataFrame, *, task: str = "employment", n: int = 12) -> pd.DataFrame:
    """Scores of a few people under every reading, with boosting: columns ``who``, ``y`` and the readings."""
    rows = scores[(scores.task == task) & (scores.asking == "raw")].reset_index(drop=True)
    picked = rows.iloc[np.linspace(0, len(rows) - 1, n).astype(int)]
    X = load_task(task).X
    boosted = calibrated_scores(task)[1]
    table = pd.DataFrame(
        {
            "who": [
                f"{X.gender[r]}, {X.age[r]}, {X.edu[r]}, {'married' if X.married[r] == 'yes' else 'not married'}"
                for r in picked.row
            ],
            "y": picked.y.to_numpy(),
            "boosting (trained)": boosted[picked.row],
        }
    )
    for name, (_, read) in reversed(READINGS.items()):
        table[name] = np.asarray(read(picked), dtype=float)
    return table


def stored_speed() -> dict[str, Any]:
    """Seconds per row of the usual way of asking over ours, from ``benchmarks/risk_scores.py``."""
    result = data.stored("risk_scores", "speed")
    note = f"{result['usual']:.2f} against {result['tree']:.2f} CPU seconds a row, timed on {result['rows']}"
    return {"ratio": result["ratio"], "note": note}


# --- other seeds -------------------------------------------------------------------------------------------


def stochastic_claims(*, model: Any = "smollm2-135m") -> dict[str, tuple[float, Interval | None]]:
    """Value and interval of every judged live claim that depends on ``PAPERKIT_SEED``, as in the notebooks."""
    change, blind = realizable_change(), blindness()
    scores = stored_scores()
    gains = {}
    for id, key, (y, s) in (
        ("r15b-few-labels", "repair", polarised_employment()),
        (
            "r15c-few-labels-lm",
            "repair-lm",
            readings(scores)["income", "raw", "choice, mean probability"],
        ),
    ):
        gain = repair_gain(repair(y, s, n_labels=100, method="platt", key=key))
        gains[id] = (gain.estimate, gain)
    ratios = {
        f"r7{letter}-unrealizable-{name}": error_ratio(name)
        for letter, name in (("a", "income"), ("b", "employment"))
    }
    return {
        **{id: (ratio.estimate, ratio) for id, ratio in ratios.items()},
        "r7d-realizable-error": (change["error"], None),
        "r7e-realizable-accuracy": (change["accuracy"], None),
        "r7f-optimum": (formula_error(), None),
        "r8a-auc-blind": (blind["auc"], None),
        "r8b-accuracy-blind": (float(blind["predictions"]), None),
        "r5b-control": (correlation(control_tracking()), None),
        "r9a-shuffled": (shuffled_p(scores), None),
        "r9b-recheck": (recheck(scores, model=model), None),
        "r15a-isotonic": (isotonic_difference(), None),
        **gains,
    }
