"""Compare the erasers on the scene model over three seeds (about 25 CPU minutes, in resumable pieces).

    python scripts/concept_erasing/comparison.py [MINUTES [SEED ...]]

Run by ``nox -s full -- concept_erasing``. With MINUTES no new piece is begun after so many minutes of wall time; run it
again to go on. Finished pieces lie in ``build/concept_erasing`` and are not repeated. With SEED only the pieces of
these seeds are made, so that several processes can share the work; a last call without puts the tables together.

First every method gets its step size on a seed that is used for nothing else (``step_sizes``). Then each eraser is
trained with each seed, and its images and field are judged (``comparison``: one row an image, state or run). "Equal
seconds" gives a method that runs the network once a step twice the steps. The erasers of seed 0 are kept as
half-precision weights (data/concept_erasing/erased.safetensors) with a grid of their images (``grid``), for the
notebooks.
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from paperkit import data, profiles, sweeps
from paperkit.concept_erasing import experiments as ex
from paperkit.concept_erasing import trainable_parameters
from paperkit.models import save_checkpoint

SCRIPT = "scripts/concept_erasing/comparison.py"
STORE = profiles.project_root() / "build" / "concept_erasing"
WEIGHTS = Path(data.__file__).parent / "concept_erasing" / "erased.safetensors"
SETTINGS = {"states": "64 trajectories of 12 steps at guidance 3", "steps": 80, "batch": 16,
            "parameters": "cross_attention"}  # fmt: skip
BASIC = ("surgical", "Concept Ablation", "ESD", "SDD")
#: Prompts, eraser, and how many images; each with every seed.
FIRST = (
    *(
        ("bare", eraser, "long")
        for eraser in (
            "frozen",
            "surgical",
            "Concept Ablation",
            "Concept Ablation + anchor 10",
            "ESD",
        )
    ),
    ("bare", "SDD", "short"),
)
COLOURED = tuple(
    ("coloured", eraser, "coloured") for eraser in ("surgical", "Concept Ablation", "ESD")
)
VARIANTS = (
    ("bare", "Concept Ablation, equal seconds", "short"),
    ("bare", "ESD, equal seconds", "short"),
    ("bare", "surgical, λ = 1", "short"),
    ("bare", "surgical, λ = 0", "short"),
    ("to square", "surgical", "erased"),
    ("to cross", "surgical", "erased"),
    ("to nothing", "surgical", "erased"),
)
ANCHORS = (
    ("bare", "Concept Ablation + anchor 42", "short"),
    ("bare", "Concept Ablation + anchor 1", "short"),
)
PLAN = tuple(
    (*one, seed)
    for part in (FIRST, COLOURED, VARIANTS, ANCHORS)
    for seed in ex.SEEDS
    for one in part
)
GRID = (
    ("bare", "frozen"),
    ("bare", "surgical"),
    ("bare", "Concept Ablation"),
    ("bare", "ESD"),
    ("coloured", "surgical"),
    ("coloured", "ESD"),
)
START = time.monotonic()


def kept_on_disk(drawn):
    """Keep the frozen model's images for later processes."""

    def images(*key):
        file = STORE / ("frozen " + " ".join(map(str, key)) + ".safetensors")
        if not file.exists():
            STORE.mkdir(parents=True, exist_ok=True)
            save_file({"images": drawn(*key).contiguous()}, file)
        return load_file(file)["images"]

    return images


def piece(function, case, seed):
    """One stored call; stops the script when its time is up."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else float("inf")
    if time.monotonic() - START > 60 * minutes:
        print("time is up: run again", flush=True)
        sys.exit(3)
    found = sweeps.sweep(function, [case], seeds=[seed], workers=1, store=STORE)
    print(round(time.monotonic() - START), case, seed, flush=True)
    return found


def step_sizes() -> dict[str, float]:
    """The smallest step size with a rate of at most a tenth, else the best."""
    chosen, trials = {}, []
    for eraser in BASIC:
        mine = []
        for rate in ex.LEARNING_RATES:
            mine.append(piece(ex.trial, {"eraser": eraser, "learning_rate": rate}, ex.TRIAL_SEED))
            if mine[-1].rate[0] <= 0.1:
                break
        table = pd.concat(mine)
        chosen[eraser] = float(table.set_index("learning_rate").rate.idxmin())
        trials.append(table)
    table = pd.concat(trials)
    print(table.to_string(), flush=True)
    data.save_stored(
        "concept_erasing", "step_sizes",
        {"chosen": chosen, "trials": table.to_dict("list")},
        script=SCRIPT, settings=SETTINGS, seeds=[ex.TRIAL_SEED],
    )  # fmt: skip
    return chosen


def keep_table(parts) -> None:
    """Store what has been compared so far."""
    table = pd.concat(parts, ignore_index=True)
    for column in table.select_dtypes("float64"):
        if column != "learning_rate":
            table[column] = table[column].astype(np.float32)
    seeds = sorted({int(seed) for seed in table.seed})
    data.save_stored("concept_erasing", "comparison", table, script=SCRIPT, settings=SETTINGS,
                     seeds=seeds)  # fmt: skip


def keep(prompts: str, eraser: str, rate) -> None:
    """Keep the weights of an eraser that was just trained with seed 0, and some of its images."""
    file = STORE / f"{prompts} {eraser}.safetensors"
    if file.exists() or (prompts, eraser) not in GRID:
        return
    if eraser == "frozen":
        kept = {}
        for what, n in (("erased", 10), ("swapped", 10), ("kept", 15)):
            kept[f"grid/frozen {what}"] = ex.draw(what, 3.0, n, 0, 0)
    else:
        unet = ex.erase(prompts, eraser, 0, rate(eraser)).unet
        what, n = ("erased", 10) if prompts == "bare" else ("kept", 15)
        kept = {f"grid/{prompts} {eraser}": ex.draw(what, 3.0, n, 0, 0, unet)}
        if prompts == "bare":
            for name, value in trainable_parameters(unet, "cross_attention").items():
                kept[f"{eraser}/{name}"] = value.detach().half().contiguous()
    save_checkpoint(file, kept, record={"script": SCRIPT, "seed": 0, "settings": SETTINGS,
                                        "steps": 80})  # fmt: skip


def keep_weights() -> None:
    """Put together what the notebooks use."""
    tensors, grid = {}, {}
    for prompts, eraser in GRID:
        file = STORE / f"{prompts} {eraser}.safetensors"
        found = load_file(file)
        for name, value in found.items():
            if name.startswith("grid/"):
                grid[name[5:]] = (value * 255).round().to(torch.uint8).numpy()
            else:
                tensors[name] = value
    save_checkpoint(WEIGHTS, tensors, record={"script": SCRIPT, "seed": 0, "settings": SETTINGS,
                                              "steps": 80})  # fmt: skip
    data.register(
        "concept_erasing/erased", WEIGHTS,
        source="trained here from concept_erasing/base", version="1", licence="MIT", script=SCRIPT,
        changes="cross-attention weights of three erasers after 80 steps; half precision",
    )  # fmt: skip
    data.save_stored("concept_erasing", "grid", grid, script=SCRIPT, settings=SETTINGS, seeds=[0])


def main() -> None:
    ex.frozen_images = kept_on_disk(ex.frozen_images)
    chosen = step_sizes()

    def rate(eraser: str) -> float:
        return chosen.get(eraser.split(",")[0].split(" +")[0], 1e-3)

    parts: list[pd.DataFrame] = []
    mine = {int(seed) for seed in sys.argv[2:]} or set(ex.SEEDS)
    for prompts, eraser, extent, seed in PLAN:
        if seed not in mine:
            continue
        case = {
            "prompts": prompts,
            "eraser": eraser,
            "learning_rate": rate(eraser),
            "extent": extent,
        }
        parts.append(piece(ex.compare, case, seed))
        if seed == 0:
            keep(prompts, eraser, rate)
    if mine == set(ex.SEEDS):
        keep_table(parts)
        keep_weights()


if __name__ == "__main__":
    main()
