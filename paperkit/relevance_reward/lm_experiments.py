"""The real language model: one function per claim of notebooks 3 and 4, and the runs behind them.

Notebooks, scripts, mutation tests and the runs over twenty seeds call the same functions. Everything here is about
SmolLM2-135M-Instruct with 4-bit weights, at temperature 1, without a system prompt.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rapidfuzz.distance import LCSseq
from scipy.stats import spearmanr

from paperkit import data, models, profiles
from paperkit.claims import Interval
from paperkit.relevance_reward import experiments, price, rl, selection
from paperkit.relevance_reward.experiments import minilm, over_questions
from paperkit.relevance_reward.policy import LanguageModelPolicy
from paperkit.relevance_reward.preferences import pair_features
from paperkit.relevance_reward.reward import (
    RelevanceReward,
    Retriever,
    TokenVectors,
    load_prompts,
    preset,
    tokenize_words,
)

CHAPTER = "relevance_reward"
WATCHED = ("volcanoes", "sleep", "machine_learning", "music")  # decide when the warm start ends
# The prompts of the RL runs. The warm start restates the question about machine learning in one answer of 600, which
# 200 draws would hardly meet; before any run it made room for another one.
TRAINED = ("volcanoes", "sleep", "solar", "music")

WARM: dict[str, Any] = {
    "target": 0.06, "weight": 0.2, "own_samples": 2, "max_new_tokens": 16, "learning_rate": 1e-3,
    "seed": 0,
}  # fmt: skip
RUN: dict[str, Any] = {
    "steps": 20, "group_size": 8, "max_new_tokens": 16, "beta": 0.02, "learning_rate": 1e-3,
}  # fmt: skip
ADAPTER: dict[str, Any] = {"top_blocks": 8, "rank": 16, "alpha": 16.0}

# name of a run -> (preset, starts warm, shift of the prompts that the reward sees)
RUNS: dict[str, tuple[str, bool, int]] = {
    "qr": ("qr", True, 0),
    "r3": ("r3", True, 0),
    "qr_li": ("qr_li", True, 0),
    "qr_shuffled": ("qr", True, 1),
    "qr_cold": ("qr", False, 0),
}
SHORT = {"qr_shuffled": 12, "qr_cold": 12}  # updates of two controls
LAST_STEPS = 5


@cache
def smollm2() -> models.LanguageModel:
    """Return the packaged language model, loaded once."""
    return models.load_language_model("smollm2-135m")


def chat(questions: Sequence[str], lm: Any = None) -> list[str]:
    """The questions as the model sees them."""
    tokenizer = (lm or smollm2()).tokenizer
    return [models.chat_prompt(tokenizer, question, system=None) for question in questions]


def copy_tokens(questions: Sequence[str], lm: Any = None) -> list[list[int]]:
    """Token ids of the answer that repeats the question and ends."""
    lm = lm or smollm2()
    pairs = [
        models.encode_pair(lm.tokenizer, prompt, question, end=True)
        for prompt, question in zip(chat(questions, lm), questions, strict=True)
    ]
    return [ids[start:] for ids, start in pairs]


def questions(*, query_type: str = "open", split: str | None = None) -> pd.DataFrame:
    """The chapter's prompts of one type, indexed by name."""
    table = load_prompts().set_index("name")
    table = table[table["query_type"] == query_type]
    return table if split is None else table[table["split"] == split]


def trained_questions() -> list[str]:
    """Return the questions of the RL runs."""
    return questions().loc[list(TRAINED), "prompt"].tolist()


def watched_questions() -> list[str]:
    """Return the questions that decide when the warm start ends."""
    return questions().loc[list(WATCHED), "prompt"].tolist()


def warm_questions() -> list[str]:
    """Sixteen other training questions, on which the warm start learns to restate."""
    table = questions(split="train")
    return table.drop(index=list(WATCHED))["prompt"].tolist()[:16]


# ------------------------------------------------------------------------------------------------- RL runs


def train_warm_start() -> tuple[LanguageModelPolicy, pd.DataFrame]:
    """Make the policy that restates now and then, from the packaged model."""
    lm = smollm2()
    policy = LanguageModelPolicy(lm, **ADAPTER, seed=WARM["seed"])
    asked, watched = warm_questions(), watched_questions()
    table = rl.warm_start(
        policy, chat(asked), copy_tokens(asked), (chat(watched), copy_tokens(watched)), **WARM
    )
    return policy, table


def starting_policy(adapter: dict[str, torch.Tensor] | None) -> models.LanguageModel:
    """The reference of a run: the packaged model, or the one with the warm start merged in."""
    if adapter is None:
        return smollm2()
    policy = LanguageModelPolicy(smollm2(), **ADAPTER, seed=0)
    policy.load_adapter(adapter)
    return policy.merged()


def run_reward(name: str, scale: float = 1.0) -> rl.Reward:
    """The reward of a run of :data:`RUNS`, times a scale."""
    which, _, shift = RUNS[name]
    reward = preset(which, minilm())
    return shifted(reward, trained_questions(), shift, scale)


def shifted(
    reward: RelevanceReward, asked: Sequence[str], shift: int, scale: float = 1.0
) -> rl.Reward:
    """A reward that sees question i + shift in the place of question i; all questions are open."""
    other = {q: asked[(i + shift) % len(asked)] for i, q in enumerate(asked)}

    def value(queries: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        seen = [other[query] for query in queries]
        return scale * reward(seen, responses, query_types=["open"] * len(seen))

    return value


def measures(queries: Sequence[str], responses: Sequence[str]) -> pd.DataFrame:
    """Terms of the reward, whatever the run was rewarded for."""
    table = preset("r3_open", minilm()).components(queries, responses)
    named = {
        "query_relevance": "qr", "length_incentive": "li", "repetition_penalty": "rp",
        "reward": "r3",
    }  # fmt: skip
    table = table[list(named)].rename(columns=named)
    return table.assign(words=[len(text.split()) for text in responses])


def reward_scale(start: models.LanguageModel, name: str, *, samples: int = 16) -> float:
    """Spread of QR over the spread of another reward, within prompts, on the starting policy.

    A price of ``beta`` a nat then means the same for both. The first moment of the reward plays no part: advantages
    are differences within a prompt.
    """
    policy = LanguageModelPolicy(start, **ADAPTER, seed=0)
    asked = trained_questions()
    generator = torch.Generator().manual_seed(12345)
    drawn = policy.sample(
        chat(asked), samples, max_new_tokens=RUN["max_new_tokens"], generator=generator
    )
    repeated = [question for question in asked for _ in range(samples)]

    def spread(which: str) -> float:
        values = preset(which, minilm())(
            repeated, drawn.flat_texts, query_types=["open"] * len(repeated)
        )
        return float(np.sqrt(values.reshape(len(asked), samples).var(1, ddof=1).mean()))

    return spread("qr") / spread(RUNS[name][0])


def rl_run(
    name: str,
    seed: int,
    start: models.LanguageModel,
    *,
    scale: float = 1.0,
    steps: int | None = None,
    store: Path | None = None,
    callback: Callable[[int, pd.DataFrame], Any] | None = None,
) -> tuple[LanguageModelPolicy, pd.DataFrame]:
    """One run of :data:`RUNS`.

    Parameters
    ----------
    name : str
        Key of :data:`RUNS`.
    seed : int
        Of adapters and samples.
    start : LanguageModel
        From :func:`starting_policy`; the reference.
    scale : float
        Factor of the reward, see :func:`reward_scale`.
    steps : int, optional
        Instead of those of :data:`RUN` or :data:`SHORT`.
    store : path, optional
        Folder of a run that can be interrupted.

    Returns
    -------
    policy : LanguageModelPolicy
        After the run.
    table : DataFrame
        Of :func:`paperkit.relevance_reward.rl.rloo`.
    """
    asked = trained_questions()
    policy = LanguageModelPolicy(start, **ADAPTER, seed=seed)
    settings = RUN | {"steps": steps or SHORT.get(name, RUN["steps"])}
    table = rl.rloo(
        policy, asked, chat(asked), run_reward(name, scale), seed=seed, store=store,
        callback=callback, measure=measures, **settings,
    )  # fmt: skip
    return policy, table


@torch.no_grad()
def copy_logprobs(lm: Any, asked: Sequence[str], *, request: str = "") -> np.ndarray:
    """Log-probability of answering each question with itself and ending, shape (N,), nats.

    ``request`` is added to what the model is asked, not to the copy.
    """
    policy = (
        lm if isinstance(lm, LanguageModelPolicy) else LanguageModelPolicy(lm, **ADAPTER, seed=0)
    )
    prompts = chat([question + request for question in asked], policy.lm)
    rollout = policy.teacher_forced(prompts, copy_tokens(asked, policy.lm))
    return rollout.logprobs.double().cpu().numpy()


def run_seeds() -> tuple[int, ...]:
    """Return the seeds of the stored runs."""
    return profiles.pick(quick=(0, 1, 2), full=(0, 1, 2, 3, 4))


# --------------------------------------------------------------------------------------------- pool of answers

REQUEST = " Answer in one short sentence."  # so that answers end; the reward does not see it
POOL: dict[str, dict[str, int]] = {
    "open": {"n": 64, "max_new_tokens": 24},
    "closed": {"n": 16, "max_new_tokens": 14},
}


def pool_questions(query_type: str) -> pd.DataFrame:
    """The test questions with answers to select from: 16 open ones or all 36 closed ones."""
    return questions(query_type=query_type, split="test").head(16 if query_type == "open" else 36)


def draw_answers(name: str, *, n: int, max_new_tokens: int, seed: int) -> pd.DataFrame:
    """Answers of the packaged model to one question: ``sample``, ``text``, ``tokens``, ``logprob``, ``finished``."""
    question = str(load_prompts().set_index("name").loc[name, "prompt"])
    policy = LanguageModelPolicy(smollm2(), top_blocks=1, rank=1, seed=0)
    drawn = policy.sample(
        chat([question + REQUEST]), n, max_new_tokens=max_new_tokens,
        generator=torch.Generator().manual_seed(_named_seed(name, seed)),
    )  # fmt: skip
    return pd.DataFrame(
        {
            "sample": np.arange(n),
            "text": drawn.flat_texts,
            "tokens": drawn.response.sum(1).tolist(),
            "logprob": drawn.logprobs.double().tolist(),
            "finished": drawn.finished.tolist(),
        }
    )


def _named_seed(name: str, seed: int) -> int:
    return int(np.random.SeedSequence([seed, *name.encode()]).generate_state(1)[0])


@cache
def second_encoder() -> Retriever:
    """Judges what MiniLM rewarded: weighted means of SmolLM2's input vectors, no attention, other training."""
    lm, texts = smollm2(), load_prompts()
    corpus = [*texts["prompt"], *texts["reference"]]
    return Retriever(TokenVectors(lm.model, lm.tokenizer, corpus))


def rouge_l(references: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """F-score of the longest common subsequence of lower-cased words (ROUGE-L), shape (N,)."""
    values = []
    for reference, response in zip(references, responses, strict=True):
        x, y = (tokenize_words(text.lower()) for text in (reference, response))
        values.append(2 * LCSseq.similarity(x, y) / max(len(x) + len(y), 1))
    return np.array(values)


def score_answers(names: Sequence[str], texts: Sequence[str]) -> pd.DataFrame:
    """Every number about an answer that needs no other answer.

    Parameters
    ----------
    names : sequence of N str
        Names of the chapter's prompts.
    texts : sequence of N str

    Returns
    -------
    DataFrame
        ``qr``, ``ar`` (MiniLM, to the question and to its reference), ``li``, ``rp``; ``second``: similarity to the
        reference by :func:`second_encoder`; ``overlap``: ROUGE-L; ``correct`` (closed questions, else NaN); ``words``,
        ``exact``, ``coverage``.
    """
    table = load_prompts().set_index("name").loc[list(names)].astype(str)
    asked, references = table["prompt"].tolist(), table["reference"].tolist()
    terms = preset("r3_open", minilm()).components(asked, texts)
    copied = rl.copying(asked, texts)
    correct = [
        float(re.search(pattern, text, re.IGNORECASE) is not None) if kind == "closed" else np.nan
        for pattern, text, kind in zip(table["accept"], texts, table["query_type"], strict=True)
    ]
    return pd.DataFrame(
        {
            "qr": terms["query_relevance"],
            "ar": minilm().relevance(references, texts),
            "li": terms["length_incentive"],
            "rp": terms["repetition_penalty"],
            "second": second_encoder().relevance(references, texts),
            "overlap": rouge_l(references, texts),
            "correct": correct,
            "words": [len(text.split()) for text in texts],
            "exact": copied.exact,
            "coverage": copied.coverage,
        }
    )


def score_pool(pool: pd.DataFrame) -> pd.DataFrame:
    """Join the answers of :func:`draw_answers` and their scores."""
    scores = score_answers(pool["name"].tolist(), pool["text"].tolist())
    return pd.concat([pool.reset_index(drop=True), scores], axis=1)


def reward_model_scores(names: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """Scores of the reward model of notebook 2, fitted to a calibrated annotator's preferences, shape (N,)."""
    asked = load_prompts().set_index("name").loc[list(names), "prompt"].astype(str).tolist()
    return experiments.reward_model().score(pair_features(minilm(), asked, texts))


def copy_prices() -> pd.DataFrame:
    """What the copy of each open test question costs, and what it is worth.

    Returns
    -------
    DataFrame
        ``name``, ``question``, ``log_copy`` (nats, unmodified model, with :data:`REQUEST`), ``qr``, ``qr_li`` and
        ``r3``: the rewards of the copy.
    """
    table = pool_questions("open")
    asked = table["prompt"].tolist()
    terms = preset("r3_open", minilm()).components(asked, asked)
    return pd.DataFrame(
        {
            "name": table.index,
            "question": asked,
            "log_copy": copy_logprobs(smollm2(), asked, request=REQUEST),
            "qr": terms["query_relevance"],
            "qr_li": terms["query_relevance"] * terms["length_incentive"],
            "r3": terms["reward"],
        }
    )


# ------------------------------------------------------------------------------------- policies on held-out questions

HELD_OUT: dict[str, Any] = {"samples": 2, "max_new_tokens": 16, "seed": 7}


def held_out_answers(policy: LanguageModelPolicy) -> pd.DataFrame:
    """Answers to every test question, two each, from the same random numbers for every policy, with scores."""
    parts = []
    for query_type in ("open", "closed"):
        table = questions(query_type=query_type, split="test")
        drawn = policy.sample(
            chat(table["prompt"].tolist()), HELD_OUT["samples"],
            max_new_tokens=HELD_OUT["max_new_tokens"],
            generator=torch.Generator().manual_seed(HELD_OUT["seed"]),
        )  # fmt: skip
        names = [str(name) for name in table.index for _ in range(HELD_OUT["samples"])]
        parts.append(
            pd.DataFrame(
                {"name": names, "query_type": query_type, "text": drawn.flat_texts,
                 "finished": drawn.finished.tolist()}
            )
        )  # fmt: skip
    return score_pool(pd.concat(parts, ignore_index=True))


# ------------------------------------------------------------------------------------- claims: the price of a copy


@cache
def pool(query_type: str = "open") -> pd.DataFrame:
    """The stored answers to the test questions of one type, with the rewards to select by.

    Columns besides those of :func:`score_answers`: ``QR``, ``LI``, ``QR_LI``, ``R3`` (by type), ``R3_open`` (every
    question treated as open), ``AR_RP``, ``RM``.
    """
    table = data.stored(CHAPTER, "pool")
    table = table[table["name"].isin(questions(query_type=query_type).index)]
    table = table.reset_index(drop=True)
    by_reference = table["ar"] * table["rp"]  # the scale of F does not change the order
    by_question = table["qr"] * table["li"] * table["rp"]
    return table.assign(
        QR=table["qr"],
        LI=table["li"],
        QR_LI=table["qr"] * table["li"],
        R3_open=by_question,
        AR_RP=by_reference,
        R3=by_question if query_type == "open" else by_reference,
        RM=table["rm"],
    )


def matched_betas(beta: float) -> dict[str, float]:
    """The same price of a nat for each reward: beta times its mean over that of QR."""
    table = pool()
    return {name: beta * table[name].mean() / table["QR"].mean() for name in ("QR", "QR_LI", "R3")}


def copy_probabilities(
    name: str, beta: float, *, n: int | None = None, rewards: pd.DataFrame | None = None
) -> np.ndarray:
    """Probability of the copied question under the optimum of one reward, one a question.

    Parameters
    ----------
    name : {"QR", "QR_LI", "R3"}
    beta : float
        In units of QR; see :func:`matched_betas`.
    n : int, optional
        Use only the first n samples of each question.
    rewards : DataFrame, optional
        Instead of the stored prices: ``name``, ``log_copy`` and the rewards of the copy.
    """
    samples = pool()
    prices = data.stored(CHAPTER, "prices") if rewards is None else rewards
    scale = matched_betas(beta)[name]
    values = []
    for row in prices.to_dict("records"):
        drawn = samples.loc[samples["name"] == row["name"], name].to_numpy()[:n]
        values.append(price.hack_probability(row["log_copy"], row[name.lower()], drawn, scale))
    return np.array(values)


def copy_price(name: str, beta: float = 0.01) -> Interval:
    """Mean over questions of :func:`copy_probabilities`."""
    return over_questions(copy_probabilities(name, beta), f"price-{name}-{beta}")


def price_curve(betas: Sequence[float]) -> pd.DataFrame:
    """Mean probability of the copy against beta (in units of QR) for each reward."""
    return pd.DataFrame(
        [
            {"beta": beta, "reward": name, "p": float(copy_probabilities(name, beta).mean())}
            for name in ("QR", "QR_LI", "R3")
            for beta in betas
        ]
    )


def recheck_prices() -> float:
    """Largest difference between the stored log-probabilities of the copies and those of this build."""
    stored = data.stored(CHAPTER, "prices")
    now = copy_logprobs(smollm2(), stored["question"].tolist(), request=REQUEST)
    return float(np.abs(now - stored["log_copy"]).max())


# ----------------------------------------------------------------------------------------------- claims: selection


def selected(reward: str, metric: str, n: int, *, query_type: str = "open") -> np.ndarray:
    """Expected metric of the best of n answers by a reward, exactly, one a question."""
    groups = pool(query_type).groupby("name", sort=False)
    return np.array([selection.best_of_n(g[reward], g[metric].astype(float), n) for _, g in groups])


def selection_difference(
    first: str, second: str, metric: str, *, n: int = 16, query_type: str = "open"
) -> Interval:
    """Best of n by one reward minus best of n by another, paired by question; ``"none"`` is the plain mean."""
    a, b = (
        selected("QR", metric, 1, query_type=query_type)
        if name == "none"
        else selected(name, metric, n, query_type=query_type)
        for name in (first, second)
    )
    return over_questions(a - b, f"selection-{first}-{second}-{metric}-{query_type}")


def selection_curves(
    rewards: Sequence[str], metric: str, sizes: Sequence[int], *, query_type: str = "open"
) -> pd.DataFrame:
    """Best of n against n: ``reward``, ``n``, and mean and interval over questions."""
    rows = []
    for reward in rewards:
        for n in sizes:
            values = selected(reward, metric, n, query_type=query_type)
            interval = over_questions(values, f"curve-{reward}-{metric}-{n}-{query_type}")
            rows.append({"reward": reward, "n": n, "interval": interval})
    return pd.DataFrame(rows)


def weights_error() -> float:
    """Largest distance between :func:`~.selection.best_of_n_weights` and the count over subsets, N = 7."""
    worst = 0.0
    for n in range(1, 8):
        best = [max(subset) for subset in itertools.combinations(range(7), n)]
        counted = np.bincount(best, minlength=7) / len(best)
        worst = max(worst, float(np.abs(selection.best_of_n_weights(7, n) - counted).max()))
    return worst


# ----------------------------------------------------------------------------------------------- claims: the RL runs


@cache
def rollouts() -> pd.DataFrame:
    """Every answer of every stored run."""
    return data.stored(CHAPTER, "rl_rollouts")


def run_records() -> pd.DataFrame:
    """One row a stored run: ``run``, ``seed``, ``scale``, ``cpu_seconds``, and log-probabilities of the copies."""
    return pd.DataFrame(data.stored(CHAPTER, "rl_runs")["runs"])


def last_steps(run: str, column: str) -> pd.Series:
    """Mean of a column over the last steps of a run, one a seed."""
    table = rollouts()
    table = table[table["run"] == run]
    return table[table["step"] > table["step"].max() - LAST_STEPS].groupby("seed")[column].mean()


def copies_at_the_end(run: str) -> Interval:
    """Share of exact copies in the last steps, all seeds, with an interval over prompts and runs."""
    table = rollouts()
    table = table[table["run"] == run]
    table = table[table["step"] > table["step"].max() - LAST_STEPS]
    cells = table.groupby(["seed", "query"])["exact"].mean().to_numpy()
    return over_questions(cells, f"copies-{run}")


def start_copies() -> pd.DataFrame:
    """How often the starting policy of the runs gives a question back: exactly, and drawn before the first update.

    Returns
    -------
    DataFrame
        ``question``, ``probability`` and ``drawn``, the share of exact copies in the QR runs; the last row is the mean.
    """
    table = rollouts()
    first = table[(table["run"] == "qr") & (table["step"] == 0)]
    asked = trained_questions()
    records = run_records()
    start = records[records["run"] == "qr"].to_dict("records")[0]
    exact = np.exp(np.array(start["log_copy_before"], float))
    drawn = first.groupby("query")["exact"].mean().loc[asked].to_numpy(float)
    return pd.DataFrame(
        {
            "question": [*asked, "mean"],
            "probability": [*exact, exact.mean()],
            "drawn": [*drawn, drawn.mean()],
        }
    )


def control_table(
    runs: Sequence[str] = ("qr", "qr_shuffled", "qr_cold", "qr_li", "r3"),
) -> pd.DataFrame:
    """Share of exact copies before the first update and in the last steps of the short runs, all seeds of each run."""
    end = SHORT["qr_shuffled"]
    rows = []
    for run in runs:
        table = rollouts()
        table = table[table["run"] == run]
        late = table["step"].between(end - LAST_STEPS + 1, end)
        rows.append(
            {"run": run, "runs": table["seed"].nunique(), "update 0": table.loc[table["step"] == 0, "exact"].mean(),
             f"updates {end - LAST_STEPS + 1} to {end}": table.loc[late, "exact"].mean()}
        )  # fmt: skip
    return pd.DataFrame(rows)


def premium_of_form() -> pd.DataFrame:
    """What the reward that reads another question pays for copies and for other answers, by question."""
    table = rollouts()
    table = table[table["run"] == "qr_shuffled"]
    kind = np.where(table["exact"], "a copy", "another answer")
    means = table.groupby(["query", kind])["reward"].mean().unstack().loc[trained_questions()]
    return means.assign(difference=means["a copy"] - means["another answer"])


def copy_worth(seed: int) -> float:
    """What a copy costs the starting policy of a QR run, mean of its questions, nats."""
    table = run_records()
    row = table[(table["run"] == "qr") & (table["seed"] == seed)].to_dict("records")[0]
    return -float(np.mean(row["log_copy_before"]))


def collapse_price() -> float:
    """Largest distance, over the QR runs, between the KL at the end and -mean log pi_ref(copy)."""
    kl = last_steps("qr", "log_ratio")
    seeds, values = kl.index.to_numpy(int), kl.to_numpy(float)
    return max(abs(v - copy_worth(int(seed))) for seed, v in zip(seeds, values, strict=True))


def words_change(run: str = "qr") -> Interval:
    """Words an answer, last steps minus the first two, with an interval over prompts and runs."""
    table = rollouts()
    table = table[table["run"] == run]
    last = table[table["step"] > table["step"].max() - LAST_STEPS]
    cells = [
        part.groupby(["seed", "query"])["words"].mean() for part in (last, table[table["step"] < 2])
    ]
    return over_questions((cells[0] - cells[1]).to_numpy(), f"words-{run}")


def repetition_difference(first: str, second: str) -> Interval:
    """Share of repeated trigrams in the last steps of one run minus another, interval over prompts and runs."""
    cells = []
    for run in (first, second):
        table = rollouts()
        table = table[table["run"] == run]
        table = table[table["step"] > table["step"].max() - LAST_STEPS]
        cells.append(1 - table.groupby(["seed", "query"])["rp"].mean())
    return over_questions((cells[0] - cells[1]).to_numpy(), f"repetition-{first}-{second}")


def proxy_correlation(run: str) -> pd.Series:
    """Rank correlation over steps of a run's reward and a measure it does not see, one a seed.

    The measure is the similarity of the answers to the reference by :func:`second_encoder`.
    """
    table = rollouts()
    table = table[table["run"] == run]
    reward = {"qr": "qr", "r3": "r3"}[run]
    references = load_prompts().set_index("prompt")["reference"]
    unseen = second_encoder().relevance(
        references.loc[table["query"]].astype(str).tolist(), table["text"].tolist()
    )
    means = table.assign(unseen=unseen).groupby(["seed", "step"])[[reward, "unseen"]].mean()
    return means.groupby("seed").apply(lambda t: float(spearmanr(t[reward], t["unseen"])[0]))


def held_out_difference(
    first: str, second: str, metric: str, *, query_type: str = "open"
) -> Interval:
    """Policies on the test questions, first minus second, paired by question, runs averaged.

    Parameters
    ----------
    first, second : str
        ``"packaged"``, ``"start"``, ``"qr"`` or ``"r3"``; the last two are means over their runs.
    metric : str
        Column of :func:`score_answers`.
    """
    table = data.stored(CHAPTER, "held_out")
    table = table[table["query_type"] == query_type]
    kind = table["policy"].str.replace(r"-\d+$", "", regex=True)
    means = table.assign(kind=kind).groupby(["kind", "name"])[metric].mean()
    return over_questions(
        (means.loc[first] - means.loc[second]).to_numpy(), f"held-out-{first}-{second}-{metric}"
    )


def trained_policy(run: str, start: models.LanguageModel) -> LanguageModelPolicy:
    """The stored policy of a run (``"qr"`` or ``"r3"``, seed 0), on the model it started from."""
    policy = LanguageModelPolicy(start, **ADAPTER, seed=0)
    policy.load_adapter(_adapter(f"adapter_{run}"))
    return policy


def stored_start() -> models.LanguageModel:
    """The model with the stored warm start."""
    return starting_policy(_adapter("adapter_warm"))


def _adapter(name: str) -> dict[str, torch.Tensor]:
    tensors = data.stored(CHAPTER, name)
    return {key: torch.as_tensor(value).float() for key, value in tensors.items()}


def fresh_answers(policy: LanguageModelPolicy, run: str, *, k: int = 8) -> pd.DataFrame:
    """New answers of a policy to the questions of the runs, under PAPERKIT_SEED."""
    asked = trained_questions()
    generator = torch.Generator().manual_seed(profiles.seeds(1, CHAPTER, "fresh", run)[0])
    drawn = policy.sample(chat(asked), k, max_new_tokens=RUN["max_new_tokens"], generator=generator)
    repeated = [question for question in asked for _ in range(k)]
    copied = rl.copying(repeated, drawn.flat_texts)
    return pd.DataFrame(
        {"run": run, "question": repeated, "answer": drawn.flat_texts, "exact": copied.exact}
    )


def encoder_calls(run: str = "qr", seed: int = 0) -> float:
    """Texts that go through the encoder over texts that the reward compares, in the log of a run."""
    table = rollouts()
    table = table[(table["run"] == run) & (table["seed"] == seed)]
    cached = Retriever(CountingEncoder())
    for _, rows in table.groupby("step"):
        cached.relevance(rows["query"].tolist(), rows["text"].tolist())
    return cached.encoded / (2 * len(table))


class CountingEncoder:
    """An encoder that embeds nothing: each text is its length."""

    def encode(self, texts: Sequence[str], **_: Any) -> np.ndarray:
        """Return (N, 1) lengths."""
        return np.array([[1.0 + len(text)] for text in texts])


def copies_now(start: models.LanguageModel | None = None) -> dict[str, float]:
    """Mean probability of the exact copy under the stored QR and R3 policies, computed again, without sampling."""
    start = stored_start() if start is None else start
    asked = trained_questions()
    return {
        run: float(np.exp(copy_logprobs(trained_policy(run, start), asked)).mean())
        for run in ("qr", "r3")
    }


# -------------------------------------------------------------------------------------------- notebook 4: query types


def held_out_mean(policy: str, metric: str, *, query_type: str = "open") -> Interval:
    """Mean of a policy on the test questions of one type, see :func:`held_out_difference`."""
    table = data.stored(CHAPTER, "held_out")
    table = table[table["query_type"] == query_type]
    kind = table["policy"].str.replace(r"-\d+$", "", regex=True)
    means = table.assign(kind=kind).groupby(["kind", "name"])[metric].mean()
    return over_questions(means.loc[policy].to_numpy(), f"held-out-{policy}-{metric}-{query_type}")


def classify_types() -> pd.DataFrame:
    """Leave-one-out probability that a question is closed, from its embedding.

    Returns
    -------
    DataFrame
        ``name``, ``prompt``, ``query_type``, ``p_closed``, ``right``.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import LeaveOneOut, cross_val_predict

    table = load_prompts()
    vectors = minilm().encode(table["prompt"].astype(str).tolist())
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    closed = (table["query_type"] == "closed").to_numpy()
    p = cross_val_predict(
        LogisticRegression(C=10.0, max_iter=1000),
        vectors,
        closed,
        cv=LeaveOneOut(),
        method="predict_proba",
    )[:, 1]
    return table[["name", "prompt", "query_type"]].assign(p_closed=p, right=(p > 0.5) == closed)


def type_error_curve(shares: Sequence[float], *, n: int = 16) -> pd.DataFrame:
    """Right answers to closed questions when a share of them is taken for open: exact, because it is a mixture."""
    known, mistaken = (
        selected(name, "correct", n, query_type="closed") for name in ("R3", "R3_open")
    )
    return pd.DataFrame(
        {
            "flipped": shares,
            "interval": [
                over_questions((1 - share) * known + share * mistaken, f"types-{share}")
                for share in shares
            ],
        }
    )


def encoder_reads() -> dict[str, np.ndarray]:
    """Texts read by the encoder up to each update: without memory, and with it in a QR and an R3 run (seed 0)."""
    table = rollouts()
    table = table[table["seed"] == 0]
    reads = {}
    for run, label in (("qr", "QR run"), ("r3", "R³ run")):
        retriever, counts = Retriever(CountingEncoder()), []
        for _, rows in table[table["run"] == run].groupby("step"):
            retriever.relevance(rows["query"].tolist(), rows["text"].tolist())
            counts.append(retriever.encoded)
        reads[label] = np.array(counts)
        rows_a_step = len(rows)
    return {"without memory": 2 * rows_a_step * np.arange(1, len(counts) + 1), **reads}
