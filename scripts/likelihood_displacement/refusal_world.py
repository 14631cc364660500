"""Refusal worlds, each with every arm of preference training (about a CPU minute a world).

    python scripts/likelihood_displacement/refusal_world.py [FIRST LAST | fifths]

Run by ``nox -s full -- likelihood_displacement``. Finished worlds are kept in ``build/`` and not repeated. Ships the
pretrained world of seed 0 as a checkpoint, stores the arms of all (``results/refusal_world``), and the
map of judges and the filter's curve for the shipped ones (``results/judge_map``, ``results/filter_curve``), and
trainings on fifths by ln-CHES in five worlds (``results/ches_fifths``).
"""

from __future__ import annotations

import sys
from typing import Any

from paperkit import data, profiles, sweeps
from paperkit.likelihood_displacement import experiments
from paperkit.likelihood_displacement.refusal_world import RefusalWorld

SCRIPT = "scripts/likelihood_displacement/refusal_world.py"
STORE = profiles.project_root() / "build" / "likelihood_displacement"
SEEDS = profiles.pick(quick=[0, 5, 6, 7, 8], full=list(range(50)))
PRETRAINING = {"n_steps": 500, "batch_size": 64, "learning_rate": 2e-3}


def one_world(*, seed: int) -> list[dict[str, Any]]:
    world = RefusalWorld.pretrain(seed=seed)
    if seed in experiments.SHIPPED_WORLDS:
        name = f"likelihood_displacement/world_{seed}"
        path = data.FOLDER / f"{name}.safetensors"
        record = {"script": SCRIPT, "seed": seed, "settings": PRETRAINING, "steps": 500}
        world.save(path, record=record)
        data.register(
            name, path, source="Trained for this book on a synthetic language", version="1",
            licence="MIT", script=SCRIPT, changes="two-block transformer, 500 steps",
        )  # fmt: skip
    return experiments.world_arms(world, seed)


def one_map(*, seed: int) -> list[dict[str, float]]:
    return experiments.judge_map(experiments.shipped_world(seed), seed)


def one_curve(*, seed: int) -> list[dict[str, Any]]:
    return experiments.filter_curve(experiments.shipped_world(seed), seed)


def fifths(*, seed: int) -> list[dict[str, Any]]:
    shipped = seed in experiments.SHIPPED_WORLDS
    world = experiments.shipped_world(seed) if shipped else RefusalWorld.pretrain(seed=seed)
    return experiments.train_fifths(world, seed)


def main() -> None:
    if sys.argv[1:] == ["fifths"]:
        store_fifths()
        return
    first, last = (int(x) for x in sys.argv[1:3]) if len(sys.argv) > 2 else (0, len(SEEDS))
    sweeps.sweep(one_world, [{}], seeds=SEEDS[first:last], store=STORE, description="worlds")
    if last < len(SEEDS):
        return
    table = sweeps.sweep(one_world, [{}], seeds=SEEDS, store=STORE, description="worlds")
    settings = {
        "pretraining": PRETRAINING, "training": experiments.TRAINING, "severity": 3,
        "repeats": 24, "sft": experiments.SFT_WEIGHTS,
    }  # fmt: skip
    data.save_stored(
        "likelihood_displacement", "refusal_world", table,
        script=SCRIPT, settings=settings, seeds=SEEDS,
    )  # fmt: skip
    shipped = list(experiments.SHIPPED_WORLDS)
    for name, function in (("judge_map", one_map), ("filter_curve", one_curve)):
        table = sweeps.sweep(function, [{}], seeds=shipped, store=STORE, description=name)
        data.save_stored(
            "likelihood_displacement", name, table,
            script=SCRIPT, settings=settings, seeds=shipped,
        )  # fmt: skip
    store_fifths()


def store_fifths() -> None:
    seeds = list(range(5))
    table = sweeps.sweep(fifths, [{}], seeds=seeds, store=STORE, description="fifths")
    data.save_stored(
        "likelihood_displacement", "ches_fifths", table, script=SCRIPT,
        settings={"pretraining": PRETRAINING, "training": experiments.TRAINING}, seeds=seeds,
    )  # fmt: skip


if __name__ == "__main__":
    main()
