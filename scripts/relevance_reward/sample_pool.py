"""Answers of SmolLM2 to held-out questions, to select from (about three CPU minutes).

    python scripts/relevance_reward/sample_pool.py

Run by ``nox -s full -- relevance_reward``. Stores ``results/pool``: 64 answers to each of 16 open and 16 to each
closed test question, at temperature 1, with every term of the reward, and ``results/prices``: what copying a question
costs. Finished questions are kept in ``build/`` and not repeated.
"""

from __future__ import annotations

from typing import Any

import torch

from paperkit import data, profiles, sweeps
from paperkit.relevance_reward import lm_experiments as lab

SCRIPT = "scripts/relevance_reward/sample_pool.py"
STORE = profiles.project_root() / "build" / "relevance_reward" / "pool"


def answers(*, name: str, n: int, max_new_tokens: int, seed: int) -> list[dict[str, Any]]:
    return lab.draw_answers(name, n=n, max_new_tokens=max_new_tokens, seed=seed).to_dict("records")


def main() -> None:
    torch.set_num_threads(1)
    cases = [
        {"name": name, **lab.POOL[query_type]}
        for query_type in ("closed", "open")
        for name in lab.pool_questions(query_type).index
    ]
    table = sweeps.sweep(answers, cases, store=STORE, workers=1, description="answers")
    table = lab.score_pool(table.drop(columns=["n", "max_new_tokens", "seed"]))
    table["rm"] = lab.reward_model_scores(table["name"].tolist(), table["text"].tolist())
    keep = {"script": SCRIPT, "seeds": [0], "settings": {
        "model": "SmolLM2-135M-Instruct, 4-bit weights", "temperature": 1.0,
        "request": lab.REQUEST, **lab.POOL}}  # fmt: skip
    data.save_stored("relevance_reward", "pool", table, **keep)
    data.save_stored("relevance_reward", "prices", lab.copy_prices(), **keep)


if __name__ == "__main__":
    main()
