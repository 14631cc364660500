"""CHES against measured displacement in SmolLM2 (about 12 CPU minutes).

    python scripts/likelihood_displacement/ches.py

Run by ``nox -s full -- likelihood_displacement``. Stores ``results/ches_table`` (all measures and the exact relative
rate of 24 authored pairs and of pairs that the model sampled itself, both orders), ``results/alignment`` (the
coefficients that CHES takes as one) and ``results/group_runs`` (training on the pairs with the lowest and the highest
ln-CHES). Finished cells are kept in ``build/`` and not repeated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from paperkit import data, models, profiles, sweeps
from paperkit.likelihood_displacement import experiments, pairs

SCRIPT = "scripts/likelihood_displacement/ches.py"
STORE = profiles.project_root() / "build" / "likelihood_displacement"
MODEL = "SmolLM2-135M-Instruct, 4-bit weights"
SAMPLING = {"temperature": 1.0, "max_new_tokens": 16, "samples": 2, "seed": 0}


def authored(*, seed: int) -> list[dict[str, Any]]:
    found = experiments.authored_pairs(experiments.smollm2().tokenizer)
    return (
        experiments.both_orders(experiments.smollm2(), found)
        .assign(set="authored")
        .to_dict("records")
    )


def on_policy(*, seed: int) -> list[dict[str, Any]]:
    lm = experiments.smollm2()
    prompts = [pair.prompt for pair in experiments.authored_pairs(lm.tokenizer)]
    drawn = models.generate(
        lm, prompts, n_samples=2, max_new_tokens=SAMPLING["max_new_tokens"],
        temperature=SAMPLING["temperature"], seed=seed,
    )  # fmt: skip
    found = [
        pairs.TokenPair(prompt, tuple(a), tuple(b))
        for prompt, (a, b) in zip(prompts, drawn.token_ids, strict=True)
        if a != b
    ]
    return experiments.both_orders(lm, found).assign(set="on-policy").to_dict("records")


def group(*, kind: str, group: int, entries: list[Any], seed: int) -> list[dict[str, Any]]:
    table = experiments.group_run(
        experiments.smollm2(), [(int(i), str(order)) for i, order in entries]
    )
    return table.to_dict("records")


def main() -> None:
    tables = [sweeps.sweep(function, [{}], store=STORE) for function in (authored, on_policy)]
    table = pd.concat(tables, ignore_index=True).drop(columns="seed")
    data.save_stored(
        "likelihood_displacement", "ches_table", table, script=SCRIPT,
        settings={"model": MODEL, "on-policy": SAMPLING}, seeds=[0],
    )  # fmt: skip
    coefficients = experiments.alignment_coefficients(experiments.smollm2())
    data.save_stored(
        "likelihood_displacement", "alignment", {"alpha": np.asarray(coefficients, "float32")},
        script=SCRIPT, settings={"model": MODEL}, seeds=[],
    )  # fmt: skip
    extremes = experiments.extreme_groups(experiments.stored_scores())
    cases = [
        {"kind": kind, "group": g, "entries": [[int(i), order] for i, order in entries]}
        for kind, several in extremes.items()
        for g, entries in enumerate(several)
    ]
    runs = sweeps.sweep(group, cases, store=STORE).drop(columns=["seed", "entries"])
    data.save_stored(
        "likelihood_displacement", "group_runs", runs, script=SCRIPT,
        settings={"model": MODEL, "groups": cases, "loss": "dpo", "beta": 0.1}, seeds=[],
    )  # fmt: skip


if __name__ == "__main__":
    main()
