"""Refusals of SmolLM2: as it comes, taught, and after preference training on its own refusals (ten CPU minutes).

    python scripts/likelihood_displacement/smollm2_refusals.py [teach]

Run by ``nox -s full -- likelihood_displacement``. With ``teach`` it stops after the model has learnt to refuse, and
prints how often it does. Finished arms are kept in ``build/`` and not repeated. Stores the kinds of all sampled
responses (``results/smollm2_refusals``) and the pairs' kinds and ln-CHES (``results/smollm2_pairs``); no text of a
response is kept.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from functools import lru_cache
from typing import Any

import pandas as pd
from safetensors.torch import load_file, save_file

from paperkit import data, profiles, sweeps
from paperkit.likelihood_displacement import experiments, training
from paperkit.likelihood_displacement import smollm2_refusals as refusals

CHAPTER = "likelihood_displacement"
SCRIPT = "scripts/likelihood_displacement/smollm2_refusals.py"
STORE = profiles.project_root() / "build" / CHAPTER
SEED = 0


@lru_cache(maxsize=1)
def taught() -> Any:
    """The taught model; its trained blocks are kept in ``build/``."""
    lm = experiments.smollm2()
    file = STORE / f"taught-{SEED}.safetensors"
    if not file.exists():
        found = refusals.teach_refusals(lm, seed=SEED)
        parameters = training.trained_parameters(found.model, refusals.TEACHING["train"])
        STORE.mkdir(parents=True, exist_ok=True)
        tensors = {f"{i}": p.detach().contiguous() for i, p in enumerate(parameters)}
        save_file(tensors, file)
        return found
    model = copy.deepcopy(lm.model)
    parameters = training.trained_parameters(model, refusals.TEACHING["train"])
    for i, tensor in load_file(file).items():
        parameters[int(i)].data.copy_(tensor)
    return dataclasses.replace(lm, model=model)


@lru_cache(maxsize=1)
def own_pairs() -> Any:
    return refusals.own_pairs(taught(), seed=SEED)


def as_it_comes(*, seed: int) -> list[dict[str, Any]]:
    table = refusals.before_teaching(experiments.smollm2(), seed=seed)
    arm = table["system"].map({"none": "as it comes", "safety": "as it comes, safety message"})
    return table.assign(arm=arm).drop(columns="system").to_dict("records")


def after(*, arm: str, seed: int) -> list[dict[str, Any]]:
    if arm == "taught":
        table = refusals.held_out_kinds(taught(), seed=seed)
        return table.assign(n_pairs=0, change=0.0).to_dict("records")
    model, record = refusals.train_arm(taught(), arm, *own_pairs(), seed=seed)
    return refusals.held_out_kinds(model, seed=seed).assign(**record).to_dict("records")


def main() -> None:
    parts = [sweeps.sweep(as_it_comes, [{}], seeds=[SEED], store=STORE)]
    parts.append(sweeps.sweep(after, [{"arm": "taught"}], seeds=[SEED], store=STORE))
    for part in parts:
        print(part.groupby("arm")["kind"].value_counts(normalize=True).round(3).to_string())
    rate = (parts[1]["kind"] != "answer").mean()
    if not 0.5 <= rate <= 0.95:
        raise SystemExit(f"taught, it refuses {rate:.0%}: nothing to lose, or nowhere to go")
    if sys.argv[1:] == ["teach"]:
        return
    _, table = own_pairs()
    print(table.groupby("category")["ln_ches"].describe().round(2).to_string(), flush=True)
    keep("smollm2_pairs", table)
    for arm in refusals.ARMS:
        parts.append(sweeps.sweep(after, [{"arm": arm}], seeds=[SEED], store=STORE))
        print(arm, parts[-1]["kind"].value_counts(normalize=True).round(3).to_dict(), flush=True)
        keep("smollm2_refusals", pd.concat(parts, ignore_index=True).drop(columns="seed"))


def keep(name: str, table: pd.DataFrame) -> None:
    settings = {
        "model": "SmolLM2-135M-Instruct, 4-bit weights", "teaching": refusals.TEACHING,
        "sampling": refusals.SAMPLING, "training": refusals.TRAINING,
        "evaluation": refusals.EVALUATION, "sft": refusals.SFT_WEIGHT,
    }  # fmt: skip
    data.save_stored(CHAPTER, name, table, script=SCRIPT, settings=settings, seeds=[SEED])


if __name__ == "__main__":
    main()
