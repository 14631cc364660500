"""The policies of the RL runs on questions they were not trained on (about a quarter of a CPU minute a policy).

    python scripts/relevance_reward/held_out.py

Run by ``nox -s full -- relevance_reward`` after ``rl_runs.py``. Stores ``results/held_out``: two answers of each
policy to each test question, with scores. Finished policies are kept in ``build/`` and not repeated.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from paperkit import data, models, profiles, sweeps
from paperkit.relevance_reward import lm_experiments as lab
from paperkit.relevance_reward.policy import LanguageModelPolicy

SCRIPT = "scripts/relevance_reward/held_out.py"
RUNS = profiles.project_root() / "build" / "relevance_reward" / "rl"
STORE = profiles.project_root() / "build" / "relevance_reward" / "held_out"


@cache
def start() -> models.LanguageModel:
    return lab.starting_policy(models.load_checkpoint(RUNS / "warm.safetensors")[0])


def answers(*, policy: str, seed: int) -> list[dict[str, Any]]:
    made = LanguageModelPolicy(
        lab.smollm2() if policy == "packaged" else start(), **lab.ADAPTER, seed=0
    )
    if policy not in ("packaged", "start"):
        made.load_adapter(models.load_checkpoint(RUNS / policy / "adapter.safetensors")[0])
    return lab.held_out_answers(made).to_dict("records")


def main() -> None:
    torch.set_num_threads(1)
    names = [f"{name}-{s}" for s in lab.run_seeds() for name in ("qr", "r3")]
    done = [name for name in names if (RUNS / name / "adapter.safetensors").exists()]
    cases = [{"policy": name} for name in ("packaged", "start", *done)]
    table = sweeps.sweep(answers, cases, store=STORE, workers=1, description="held-out answers")
    data.save_stored(
        "relevance_reward", "held_out", table.drop(columns="seed"), script=SCRIPT,
        settings={"model": "SmolLM2-135M-Instruct, 4-bit weights", **lab.HELD_OUT},
        seeds=[lab.HELD_OUT["seed"]],
    )  # fmt: skip
    print(
        table.groupby(["policy", "query_type"])[
            ["qr", "second", "correct", "words", "exact"]
        ].mean()
    )


if __name__ == "__main__":
    main()
