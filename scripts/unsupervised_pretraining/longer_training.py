"""Do more unlabelled digits help when the encoder is trained eight times as long?

    python scripts/unsupervised_pretraining/longer_training.py [SPLIT ...]

The rows of `train_encoders.py` find no clear gain from m = 150 to m = 1297 after 500 steps. This script
repeats these two encoders, same starts and splits, with 4,000 steps. About two minutes a split on one core;
finished encoders are kept in build/longer_training and not repeated. With split numbers only these are
trained; a last call without arguments collects all five and stores the accuracies (results/digits_longer).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from train_encoders import AUGMENTATION, SETTINGS, SPLITS, seeded_encoder

from paperkit import data
from paperkit.models import train
from paperkit.sweeps import sweep
from paperkit.unsupervised_pretraining import experiments, images, real

SCRIPT = "scripts/unsupervised_pretraining/longer_training.py"
STORE = Path(__file__).parents[2] / "build/longer_training"
LONGER = SETTINGS | {"n_steps": 4000}
M_VALUES, N_VALUES = (150, 1297), (20, 50, 100)


def probes(split: int, m: int, seed: int) -> list[dict[str, Any]]:
    """Probe accuracies of one encoder on one split: method, n, draw, accuracy, last loss."""
    X, _ = real.load_digits()
    _, pool = real.digits_split(split)
    start = 1000 * split + m  # as in train_encoders.py
    encoder = seeded_encoder(start)
    step = images.contrastive_step(encoder, images.to_images(X)[pool[:m]], **AUGMENTATION)
    history = train(step, encoder.parameters(), seed=start, **LONGER)
    table = experiments.probe_table({m: images.encode(encoder, X)}, split, N_VALUES)
    rows = table[table["m"] == m].assign(method=f"contrastive m={m}")
    rows["last loss"] = sum(history.losses[-50:]) / 50
    return rows.drop(columns=["split", "m"]).to_dict("records")


def main(splits: list[int]) -> None:
    cases = [{"split": k, "m": m} for k in splits or SPLITS for m in M_VALUES]
    table = sweep(probes, cases, workers=1, store=STORE).drop(columns="seed")
    print(table.groupby(["method", "n"])[["accuracy", "last loss"]].mean().unstack().round(3))
    if not splits:
        found = experiments.digits_difference(
            table, f"contrastive m={M_VALUES[1]}", f"contrastive m={M_VALUES[0]}", 100
        )
        print(found)
        data.save_stored(
            "unsupervised_pretraining", "digits_longer", table, script=SCRIPT, seeds=list(SPLITS),
            settings=LONGER | {"augmentation": AUGMENTATION, "m_values": list(M_VALUES)},
        )  # fmt: skip


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
