"""Contrastive pretraining on digits against supervised baselines, over five splits.

    python scripts/unsupervised_pretraining/train_encoders.py

For each split: an encoder by the paper's logistic pair loss on m = 150, 450, 1297 images without
labels, probed by logistic regression; the same network trained end to end with the same augmentation;
an untrained encoder; logistic regression on the pixels. Writes the accuracies (results/digits), the
encoders of the first split (data/unsupervised_pretraining/encoder_m*.safetensors) and their rows in
SOURCES.csv. About five minutes on one core.

Splits 0 to 4 served a first run, whose augmentation drew angles, scales and shifts from normal laws
with the given sizes as deviations, far stronger than the recipe, where they are the ends of uniform
laws. The corrected recipe is judged on splits that no earlier run has used.
"""

import os
import time
from pathlib import Path

import pandas as pd
import torch

from paperkit import data
from paperkit.models import save_checkpoint, train
from paperkit.unsupervised_pretraining import experiments, images, real

SCRIPT = "scripts/unsupervised_pretraining/train_encoders.py"
FOLDER = Path(data.__file__).parent / "unsupervised_pretraining"
M_VALUES = (150, 450, 1297)
N_VALUES = (20, 50, 100, 450)
SETTINGS = {
    "n_steps": int(os.environ.get("STEPS", "500")),
    "learning_rate": 6e-3,
    "schedule": "onecycle",
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "clip_norm": None,
}
AUGMENTATION = {"degrees": 8.0, "scale": 0.08, "shift": 0.8, "noise": 0.08}
SPLITS = range(5, 10)


def seeded_encoder(seed: int, n_features: int = 32) -> images.ConvEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return images.ConvEncoder(n_features)


def main() -> None:
    X, y = real.load_digits()
    pixels, labels = images.to_images(X), torch.tensor(y)
    records, histories = [], []
    for split in SPLITS:
        test, pool = real.digits_split(split)
        features = {}
        for m in M_VALUES:
            seed = 1000 * split + m
            encoder = seeded_encoder(seed)
            start = time.process_time()
            step = images.contrastive_step(encoder, pixels[pool[:m]], **AUGMENTATION)
            history = train(step, encoder.parameters(), seed=seed, **SETTINGS)
            features[m] = images.encode(encoder, X)
            histories.append(
                {"split": split, "m": m, "first loss": history.losses[0],
                 "last loss": sum(history.losses[-50:]) / 50,
                 "cpu seconds": time.process_time() - start}
            )  # fmt: skip
            print(histories[-1], flush=True)
            if split == SPLITS[0]:
                path = FOLDER / f"encoder_m{m}.safetensors"
                record = {"script": SCRIPT, "seed": seed, "settings": SETTINGS | {"m": m}}
                steps = SETTINGS["n_steps"]
                save_checkpoint(path, encoder.state_dict(), record=record | {"steps": steps})
                data.register(
                    f"unsupervised_pretraining/encoder_m{m}",
                    path,
                    source="trained here on the digits of scikit-learn (UCI, CC BY 4.0)",
                    version="1",
                    licence="MIT",
                    script=SCRIPT,
                    changes=f"{m} images without labels, {steps} steps",
                )
        table = experiments.probe_table(features, split, N_VALUES)
        names = {0: "pixels"} | {m: f"contrastive m={m}" for m in M_VALUES}
        records.append(table.assign(method=table.pop("m").map(names)))
        untrained = images.encode(seeded_encoder(split), X)
        rows = []
        for n in (50, 100, 450):
            for draw in range(2 if n <= 150 else 1):
                labelled = real.digits_labelled(split, n, draw)
                accuracy = real.probe_accuracy(untrained, y, labelled, test)
                rows.append({"split": split, "method": "untrained encoder", "n": n, "draw": draw,
                             "accuracy": accuracy})  # fmt: skip
                seed = 100_000 + 1000 * split + 10 * n + draw
                network = seeded_encoder(seed, 10)
                step = images.supervised_step(
                    network, pixels[labelled], labels[labelled], **AUGMENTATION
                )
                train(step, network.parameters(), seed=seed, **SETTINGS)
                guess = images.encode(network, X[test]).argmax(axis=1)
                rows.append({"split": split, "method": "end to end", "n": n, "draw": draw,
                             "accuracy": float((guess == y[test]).mean())})  # fmt: skip
        records.append(pd.DataFrame(rows))
        found = pd.concat(records)
        print(found.groupby(["method", "n"]).accuracy.mean().unstack().round(3), flush=True)
    columns = ["split", "method", "n", "draw", "accuracy"]
    table = pd.concat(records, ignore_index=True)[columns]
    settings = SETTINGS | {
        "m_values": list(M_VALUES),
        "n_values": list(N_VALUES),
        "augmentation": {**AUGMENTATION, "law": "uniform; noise normal"},
    }
    chapter = "unsupervised_pretraining"
    seeds = list(SPLITS)
    data.save_stored(chapter, "digits", table, script=SCRIPT, settings=settings, seeds=seeds)
    data.save_stored(
        chapter, "digits_training", pd.DataFrame(histories),
        script=SCRIPT, settings=settings, seeds=seeds,
    )  # fmt: skip


if __name__ == "__main__":
    main()
