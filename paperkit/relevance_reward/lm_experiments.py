"""The real language model: one function per claim of notebooks 3 and 4, and the runs behind them.

Notebooks, scripts, mutation tests and the runs over twenty seeds call the same functions. Everything here is about
SmolLM2-135M-Instruct with 4-bit weights, at temperature 1, without a system prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rapidfuzz.distance import LCSseq

from paperkit import models, profiles
from paperkit.relevance_reward import rl
from paperkit.relevance_reward.experiments import minilm
from paperkit.relevance_reward.policy import LanguageModelPolicy
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
    "steps": 25, "group_size": 8, "max_new_tokens": 16, "beta": 0.02, "learning_rate": 1e-3,
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
        Instead of those of :data:`RUN`.
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
    settings: dict[str, Any] = RUN | ({} if steps is None else {"steps": steps})
    table = rl.rloo(
        policy, asked, chat(asked), run_reward(name, scale), seed=seed, store=store,
        callback=callback, measure=measures, **settings,
    )  # fmt: skip
    return policy, table


@torch.no_grad()
def copy_logprobs(lm: Any, asked: Sequence[str]) -> np.ndarray:
    """Log-probability of answering each question with itself and ending, shape (N,), nats."""
    policy = (
        lm if isinstance(lm, LanguageModelPolicy) else LanguageModelPolicy(lm, **ADAPTER, seed=0)
    )
    rollout = policy.teacher_forced(chat(asked, policy.lm), copy_tokens(asked, policy.lm))
    return rollout.logprobs.double().cpu().numpy()


def run_seeds() -> tuple[int, ...]:
    """Return the seeds of the stored runs."""
    return profiles.pick(quick=(0, 1, 2), full=(0, 1, 2, 3, 4))


# --------------------------------------------------------------------------------------------- pool of answers

REQUEST = " Answer in one short sentence."  # so that answers end; the reward does not see it
POOL: dict[str, dict[str, int]] = {
    "open": {"n": 64, "max_new_tokens": 32},
    "closed": {"n": 16, "max_new_tokens": 20},
}


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


# ------------------------------------------------------------------------------------- policies on held-out questions

HELD_OUT: dict[str, Any] = {"samples": 4, "max_new_tokens": 16, "seed": 7}


def held_out_answers(policy: LanguageModelPolicy) -> pd.DataFrame:
    """Answers to every test question, four each, from the same random numbers for every policy, with scores."""
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
