r"""RLOO on a language model, and what its answers copy.

With K responses :math:`\hat y_1..\hat y_K` to one prompt and :math:`\tilde R_i = R_i - \beta \log(\pi/\pi_{ref})`, held
constant, each response is judged against the others of its prompt (Ahmadian et al., 2024, *Back to Basics*),

.. math:: A_i = \tilde R_i - \frac{1}{K-1} \sum_{j \ne i} \tilde R_j, \qquad
          \nabla J \approx \frac1K \sum_i A_i \nabla \log \pi(\hat y_i \mid x).

A baseline that includes :math:`\tilde R_i` itself would shrink the gradient by (K-1)/K; leaving it out keeps it
unbiased.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rapidfuzz.distance import LCSseq

from paperkit.models import train
from paperkit.models.text import Prompt
from paperkit.relevance_reward.policy import LanguageModelPolicy
from paperkit.relevance_reward.world import leave_one_out

Reward = Callable[[Sequence[str], Sequence[str]], np.ndarray]
"""``reward(queries, responses) -> (N,)``, one finite number a response."""

MIN_SPREAD = 0.02
"""Advantages are divided by their standard deviation over the batch, but by no less than this."""


def rloo_loss(logprobs: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """Return the loss whose gradient is minus the RLOO estimate, both of shape (B,)."""
    return -(advantages.detach() * logprobs).mean()


@dataclass(frozen=True)
class Copying:
    """How much of each query its response repeats; all of shape (N,), on lower-cased words.

    Attributes
    ----------
    exact : ndarray of bool
        The response has exactly the words of the query.
    restates : ndarray of bool
        A common subsequence of at least 70 % of the query, in at most 1.5 times its length.
    coverage : ndarray of float
        Longest common subsequence over the words of the query.
    """

    exact: np.ndarray
    restates: np.ndarray
    coverage: np.ndarray


def copying(queries: Sequence[str], responses: Sequence[str]) -> Copying:
    """Compare each response with its query, row by row; punctuation is not counted."""
    if len(queries) != len(responses):
        raise ValueError(f"{len(queries)} queries and {len(responses)} responses")
    exact, restates, coverage = [], [], []
    for query, response in zip(queries, responses, strict=True):
        x, y = (re.findall(r"\w+", text.lower()) for text in (query, response))
        if not x:
            raise ValueError("a query has no words")
        common = LCSseq.similarity(x, y)
        exact.append(x == y)
        coverage.append(common / len(x))
        restates.append(common >= 0.7 * len(x) and len(y) <= 1.5 * len(x))
    return Copying(np.array(exact), np.array(restates), np.array(coverage, float))


def rloo(
    policy: LanguageModelPolicy,
    queries: Sequence[str],
    prompts: Sequence[Prompt],
    reward: Reward,
    *,
    steps: int,
    group_size: int = 8,
    max_new_tokens: int = 16,
    beta: float = 0.0,
    temperature: float = 1.0,
    learning_rate: float = 1e-3,
    seed: int,
    store: Path | None = None,
    every: int = 5,
    measure: Callable[[Sequence[str], Sequence[str]], pd.DataFrame] | None = None,
    callback: Callable[[int, pd.DataFrame], Any] | None = None,
) -> pd.DataFrame:
    """Train the policy's adapters by RLOO: in each step fresh responses, one update.

    Parameters
    ----------
    policy : LanguageModelPolicy
        Changed in place. Its reference is the model without the adapters.
    queries : sequence of P str
        What the reward sees.
    prompts : sequence of P texts or token ids
        What the model sees: the queries in their chat template.
    reward : callable
        ``reward(queries, responses) -> (P K,)``.
    steps, group_size, max_new_tokens : int
        Updates, responses a prompt (K >= 2), where a response is cut.
    beta : float
        Price of a nat of log-ratio to the reference, in units of the reward; not negative.
    temperature : float
        Of sampling and of log-probabilities.
    learning_rate : float
        Constant, AdamW without decay, gradient norm clipped at 1.
    seed : int
        Of the samples.
    store : path, optional
        A folder. The run is kept there every `every` steps and goes on from there.
    measure : callable, optional
        ``measure(queries, responses) -> DataFrame`` of further columns to keep.
    callback : callable, optional
        ``callback(step, rows of this step)``.

    Returns
    -------
    DataFrame
        One row for each response drawn: ``step`` (number of updates before it was drawn), ``query``, ``sample``,
        ``text``, ``reward``, ``log_ratio`` (log pi - log pi_ref of this response; its mean is an unbiased estimate
        of the KL divergence), ``tokens``, ``finished``, ``exact``, ``restates``, ``coverage``. The last ``step`` is
        drawn from the final policy, without an update.

    Raises
    ------
    ValueError
        If a setting is out of range, or the reward has another length or is not finite.
    """
    if not queries or len(queries) != len(prompts):
        raise ValueError(f"{len(queries)} queries and {len(prompts)} prompts")
    if group_size < 2:
        raise ValueError(f"group_size must be at least 2, got {group_size}")
    if not 0 <= beta < float("inf"):
        raise ValueError(f"beta must not be negative, got {beta!r}")
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    log = None if store is None else Path(store) / "rollouts.jsonl"
    rows: list[dict[str, Any]] = []
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]

    def draw(i: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        rollout = policy.sample(
            prompts, group_size, max_new_tokens=max_new_tokens, temperature=temperature,
            generator=generator,
        )  # fmt: skip
        asked = [query for query in queries for _ in range(group_size)]
        texts = rollout.flat_texts
        values = np.asarray(reward(asked, texts), float)
        if values.shape != (len(texts),) or not np.isfinite(values).all():
            raise ValueError(f"the reward must be {len(texts)} finite numbers, got {values!r}")
        logprobs = policy.logprobs(rollout, temperature=temperature)
        with torch.no_grad(), policy.reference():
            reference = policy.logprobs(rollout, temperature=temperature)
        ratio = (logprobs.detach() - reference).double().cpu()
        net = torch.as_tensor(values) - beta * ratio  # (B,) the reward after the price of leaving
        advantages = leave_one_out(net.reshape(len(queries), group_size)).reshape(-1)
        advantages = advantages / advantages.std().clamp(min=MIN_SPREAD)
        copied = copying(asked, texts)
        new = [
            {
                "step": i,
                "query": asked[b],
                "sample": b % group_size,
                "text": texts[b],
                "reward": float(values[b]),
                "log_ratio": float(ratio[b]),
                "tokens": int(rollout.response[b].sum()),
                "finished": bool(rollout.finished[b]),
                "exact": bool(copied.exact[b]),
                "restates": bool(copied.restates[b]),
                "coverage": float(copied.coverage[b]),
            }
            for b in range(len(texts))
        ]
        if measure is not None:
            further = measure(asked, texts).to_dict("records")
            for row, other in zip(new, further, strict=True):
                row.update({str(name): value for name, value in other.items()})
        rows[:] = [row for row in rows if row["step"] < i] + new
        if callback is not None:
            callback(i, pd.DataFrame(new))
        return logprobs, advantages.to(logprobs)

    def step(i: int, generator: torch.Generator) -> torch.Tensor:
        return rloo_loss(*draw(i, generator))

    def keep(i: int, loss: float) -> None:
        if log is not None:
            text = "".join(json.dumps(row) + "\n" for row in rows)
            log.with_suffix(".draft").write_text(text, encoding="utf-8")
            log.with_suffix(".draft").replace(log)

    train(
        step, policy.parameters, n_steps=steps, learning_rate=learning_rate, schedule="constant",
        clip_norm=1.0, seed=seed, every=every, callback=keep,
        resume=None if store is None else Path(store) / "training.safetensors",
    )  # fmt: skip
    draw(steps, torch.Generator(device=policy.lm.device).manual_seed(seed + 1))
    return pd.DataFrame(rows)


def warm_start(
    policy: LanguageModelPolicy,
    prompts: Sequence[Prompt],
    copies: Sequence[Sequence[int]],
    watched: tuple[Sequence[Prompt], Sequence[Sequence[int]]],
    *,
    target: float,
    weight: float = 0.2,
    own_samples: int = 2,
    max_new_tokens: int = 16,
    learning_rate: float = 1e-3,
    max_steps: int = 15,
    seed: int,
) -> pd.DataFrame:
    """Teach the policy to restate a question now and then, on other questions than those of the RL run.

    The loss is ``weight`` times the mean negative log-probability of a copy plus the rest times that of the model's own
    answers, both divided by ten tokens. Training stops when the mean probability of a copy at the watched prompts
    reaches ``target``.

    Parameters
    ----------
    policy : LanguageModelPolicy
        Changed in place.
    prompts, copies : sequences
        Prompts to train on, and for each the token ids of its own question, end token included.
    watched : tuple of (prompts, copies)
        Where the probability of a copy is looked at, without training on it.
    target : float
        Mean probability at which to stop, in (0, 1).

    Returns
    -------
    DataFrame
        ``step``, ``loss`` and one column ``p0, p1, ...`` a watched prompt.
    """
    if not 0 < target < 1 or not 0 < weight < 1:
        raise ValueError(f"target and weight must lie in (0, 1), got {target!r}, {weight!r}")
    generator = torch.Generator(device=policy.lm.device).manual_seed(seed)
    own = policy.sample(prompts, own_samples, max_new_tokens=max_new_tokens, generator=generator)
    taught = policy.teacher_forced(prompts, copies)
    seen = policy.teacher_forced(*watched)
    update = torch.optim.Adam(policy.parameters, lr=learning_rate)
    rows = []
    for step in range(max_steps + 1):
        with torch.no_grad():
            p = policy.logprobs(seen).exp().double()
        rows.append({"step": step, **{f"p{i}": float(value) for i, value in enumerate(p)}})
        if float(p.mean()) >= target or step == max_steps:
            break
        update.zero_grad()
        loss_copy = -weight * policy.logprobs(taught).mean() / 10
        loss_own = -(1 - weight) * policy.logprobs(own).mean() / 10
        (loss_copy + loss_own).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters, 1.0)
        update.step()
        rows[-1]["loss"] = float(loss_copy.detach() + loss_own.detach())
    return pd.DataFrame(rows)
