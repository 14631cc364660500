"""Train the autoencoder and the latent denoisers of molecules (about 20 CPU minutes).

    pip download --no-deps molsets==0.3.1
    python scripts/feynman_kac/train_molecules.py molsets-0.3.1-py3-none-any.whl
    python scripts/feynman_kac/train_molecules.py molsets-0.3.1-py3-none-any.whl autoencoder 9

Reads ``train.csv.gz`` in the wheel of molsets 0.3.1 (Polykovskiy et al., "Molecular Sets (MOSES)",
Frontiers in Pharmacology 2020; MIT), which was drawn from ZINC. Nothing is installed, nothing else of
the wheel is used. Parts are ``data``, ``autoencoder``, ``latents`` and ``denoisers``. Two of them,
``autoencoder`` and ``denoisers``, stop after so many minutes if asked to, and a later call goes on
from their files in ``build/feynman_kac``. The last part writes
``paperkit/data/feynman_kac/molecules.safetensors``.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import time
import zipfile
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from paperkit import data, profiles
from paperkit.feynman_kac import molecules, networks
from paperkit.models import save_checkpoint, train

SCRIPT = "scripts/feynman_kac/train_molecules.py"
CANDIDATES, KEPT, SEED = 320_000, 200_000, 0
STEPS, BATCH, RATE, WIDTH = 6_000, 128, 3e-3, 160
KL_WEIGHT, PROPERTY_WEIGHT = 0.1, 1.0
# The first latents have narrow spreads with holes between them, where the writer does not listen to the
# properties; a second, short run with a stronger pull to the prior lets them overlap.
WIDE_STEPS, WIDE_RATE, WIDE_KL_WEIGHT, WIDE_PROPERTY_WEIGHT = 2_000, 1e-3, 0.6, 3.0
DENOISER_STEPS, DENOISER_BATCH, DENOISER_RATE, DENOISER_WIDTH, DROPOUT = 6_000, 256, 2e-3, 128, 0.2
MEAN, SD = -0.5, 1.2
EVERY, EXAMPLES = 200, 1500
WORK = profiles.project_root() / "build" / "feynman_kac"


class TimeIsUp(Exception):
    """The state of the run has been written; another call goes on from there."""


def within(minutes: float, step: Callable) -> Callable:
    """Stop at a step whose state has just been written, once the time is up."""
    start: list[float] = []

    def limited(i: int, generator: torch.Generator) -> torch.Tensor:
        if not start:
            start.append(time.monotonic())
        if i % EVERY == 0 and time.monotonic() > start[0] + 60 * minutes:
            raise TimeIsUp(f"stopped before step {i}: call again to go on")
        return step(i, generator)

    return limited


def prepare(wheel: str) -> None:
    """Choose molecules of at most 36 symbols; write symbol numbers and properties."""
    import selfies

    with zipfile.ZipFile(wheel) as archive:
        raw = archive.read("moses/dataset/data/train.csv.gz")
    every = pd.read_csv(io.BytesIO(gzip.decompress(raw)))["SMILES"]
    kept, properties, marks = [], [], []
    for smiles in every.sample(CANDIDATES, random_state=SEED):
        symbols = list(selfies.split_selfies(selfies.encoder(smiles)))
        if len(symbols) > molecules.LONGEST:
            continue
        described = molecules.describe(smiles)
        if described is None:
            continue
        kept.append(symbols)
        properties.append(described[1:])
        marks.append(molecules.fingerprint(described[0]))
        if len(kept) == KEPT:
            break
    alphabet = sorted({symbol for symbols in kept for symbol in symbols})
    number = {symbol: i + 1 for i, symbol in enumerate(alphabet)}
    tokens = np.zeros((len(kept), molecules.LONGEST + 1), dtype=np.uint8)
    for row, symbols in zip(tokens, kept, strict=True):
        row[: len(symbols)] = [number[symbol] for symbol in symbols]
    save_file(
        {
            "tokens": torch.from_numpy(tokens),
            "properties": torch.tensor(properties),
            "fingerprints": torch.tensor(marks),
        },
        WORK / "molecules_data.safetensors",
        metadata={"alphabet": json.dumps(alphabet)},
    )
    print(f"data done: {len(kept)} molecules, {len(alphabet)} symbols", flush=True)


def load() -> tuple[dict[str, torch.Tensor], list[str]]:
    with safe_open(WORK / "molecules_data.safetensors", framework="pt") as file:
        alphabet = json.loads(file.metadata()["alphabet"])
        return {name: file.get_tensor(name) for name in file.keys()}, alphabet  # noqa: SIM118


def fit_autoencoder(
    minutes: float, name: str, start: str | None, steps: int, rate: float, weights: tuple
) -> None:
    tensors, alphabet = load()
    tokens, properties = tensors["tokens"], tensors["properties"].float()
    standard = (properties - properties.mean(0)) / properties.std(0)
    torch.manual_seed(SEED)
    model = molecules.MoleculeAutoencoder(len(alphabet), width=WIDTH)
    if start is not None:
        model.load_state_dict(load_file(WORK / f"molecules_{start}.safetensors"))
    parts: dict[str, float] = {}

    def step(i: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(tokens), (BATCH,), generator=generator)
        noise = torch.randn(BATCH, model.n_latent, generator=generator)
        # at full weight at once, z would be ignored
        warm = 1.0 if start else min(1.0, (i + 1) / (0.2 * steps))
        loss, seen = molecules.autoencoder_loss(
            model, tokens[rows].long(), standard[rows], noise, warm * weights[0], weights[1]
        )
        parts.update(seen)
        return loss

    def say(i: int, loss: float) -> None:
        print(i + 1, *(f"{name} {value:.3f}" for name, value in parts.items()), flush=True)

    history = train(
        within(minutes, step),
        model.parameters(),
        n_steps=steps,
        learning_rate=rate,
        ema_decay=0.999,
        seed=SEED,
        resume=WORK / f"molecules_{name}_run.safetensors",
        every=EVERY,
        callback=say,
    )
    history.copy_ema_to(model.parameters())
    save_file(model.state_dict(), WORK / f"molecules_{name}.safetensors")
    print(f"{name} done, mean loss of the last 1000: {history.losses[-1000:].mean():.3f}")


def autoencoder(minutes: float) -> None:
    first = (KL_WEIGHT, PROPERTY_WEIGHT)
    fit_autoencoder(minutes, "autoencoder", None, STEPS, RATE, first)
    second = (WIDE_KL_WEIGHT, WIDE_PROPERTY_WEIGHT)
    fit_autoencoder(minutes, "wide", "autoencoder", WIDE_STEPS, WIDE_RATE, second)


def encode() -> None:
    """Mean and spread of the latents of every molecule, kept for the denoisers."""
    tensors, alphabet = load()
    model = molecules.MoleculeAutoencoder(len(alphabet), width=WIDTH)
    model.load_state_dict(load_file(WORK / "molecules_wide.safetensors"))
    parts = []
    with torch.no_grad():
        for rows in tensors["tokens"].split(2000):
            parts.append(torch.cat(model.encode(rows.long()), -1))
    mean, spread = torch.cat(parts).chunk(2, -1)
    centre = mean.mean(0)
    scale = (mean.var(0) + spread.square().mean(0)).sqrt()
    latents = {
        "mean": (mean - centre) / scale,
        "sd": spread / scale,
        "centre": centre,
        "scale": scale,
    }
    save_file(latents, WORK / "molecules_latents.safetensors")
    print("latents done, mean spread", float(latents["sd"].mean()), flush=True)


def denoisers(minutes: float) -> None:
    tensors, alphabet = load()
    properties = tensors["properties"].double().numpy()
    latents = load_file(WORK / "molecules_latents.safetensors")
    found = {
        f"autoencoder.{name}": each
        for name, each in load_file(WORK / "molecules_wide.safetensors").items()
    }
    found |= {name: latents[name] for name in ("centre", "scale")}
    edges, losses = {}, {}
    for place, name in enumerate(molecules.PROPERTIES):
        edges[name] = np.quantile(properties[:, place], [1 / 3, 2 / 3]).tolist()
        labels = torch.from_numpy(np.digitize(properties[:, place], edges[name], right=True))
        torch.manual_seed(SEED)
        model = molecules.latent_denoiser(DENOISER_WIDTH)

        def step(i: int, generator: torch.Generator, model=model, labels=labels) -> torch.Tensor:
            rows = torch.randint(len(labels), (DENOISER_BATCH,), generator=generator)
            shape = (DENOISER_BATCH, molecules.N_LATENT)
            clean = latents["mean"][rows]
            clean = clean + latents["sd"][rows] * torch.randn(shape, generator=generator)
            sigma = networks.log_normal(DENOISER_BATCH, MEAN, SD, generator)
            noise = torch.randn(shape, generator=generator)
            hide = torch.rand(DENOISER_BATCH, generator=generator) < DROPOUT
            label = torch.where(hide, len(molecules.THIRDS), labels[rows])
            return networks.denoising_loss(model, clean, sigma, noise, 1.0, label)

        history = train(
            within(minutes, step),
            model.parameters(),
            n_steps=DENOISER_STEPS,
            learning_rate=DENOISER_RATE,
            weight_decay=1e-2,
            ema_decay=0.999,
            seed=SEED,
            resume=WORK / f"molecules_{name}.safetensors",
            every=EVERY,
            callback=lambda i, loss, name=name: print(name, i + 1, f"{loss:.4f}", flush=True),
        )
        history.copy_ema_to(model.parameters())
        losses[name] = float(history.losses[-1000:].mean())
        found |= {f"denoiser.{name}.{key}": each for key, each in model.state_dict().items()}
        groups = [labels == third for third in range(len(molecules.THIRDS))]
        groups.append(torch.ones_like(labels, dtype=torch.bool))
        found[f"mean.{name}"] = torch.stack([latents["mean"][rows].mean(0) for rows in groups])
        found[f"variance.{name}"] = torch.stack(
            [latents["mean"][rows].var(0) + latents["sd"][rows].square().mean(0) for rows in groups]
        )
    found = {name: each.half() for name, each in found.items()}
    found["examples"] = tensors["properties"][:EXAMPLES].half()
    found["seen"] = tensors["fingerprints"].sort().values
    settings = {
        "alphabet": alphabet,
        "width": WIDTH,
        "molecules": len(properties),
        "edges": edges,
        "batch": BATCH,
        "learning_rate": RATE,
        "kl_weight": KL_WEIGHT,
        "property_weight": PROPERTY_WEIGHT,
        "second_run": [WIDE_STEPS, WIDE_RATE, WIDE_KL_WEIGHT, WIDE_PROPERTY_WEIGHT],
        "denoiser_width": DENOISER_WIDTH,
        "denoiser_steps": DENOISER_STEPS,
        "denoiser_batch": DENOISER_BATCH,
        "denoiser_learning_rate": DENOISER_RATE,
        "label_dropout": DROPOUT,
        "log_sigma": [MEAN, SD],
        "ema_decay": 0.999,
        "mean_loss_of_last_1000_steps": losses,
        "share_with_both": float(
            np.mean([(row > [e[1] for e in edges.values()]).all() for row in properties])
        ),
    }
    file = data.FOLDER / "feynman_kac" / "molecules.safetensors"
    save_checkpoint(
        file,
        found,
        record={"script": SCRIPT, "seed": SEED, "settings": settings, "steps": STEPS + WIDE_STEPS},
    )
    data.register(
        "feynman_kac/molecules",
        file,
        source=(
            f"trained for this book on {KEPT:,} molecules of MOSES (D. Polykovskiy et al., MIT; drawn"
            " from ZINC), as in the Python package molsets"
        ),
        version=f"molsets 0.3.1, {STEPS} and {WIDE_STEPS} steps, seed {SEED}",
        licence="MIT",
        script=SCRIPT,
        changes="networks in half precision, and 63-bit fingerprints of the training molecules",
    )
    print("denoisers done", settings, flush=True)


def main() -> None:
    if len(sys.argv) == 1:
        print(__doc__)  # so `nox -s full` goes on to the next script
        return
    wheel, *rest = sys.argv[1:]
    part = rest[0] if rest else "all"
    minutes = float(rest[1]) if len(rest) > 1 else float("inf")
    steps = {
        "data": lambda: prepare(wheel),
        "autoencoder": lambda: autoencoder(minutes),
        "latents": encode,
        "denoisers": lambda: denoisers(minutes),
    }
    if part != "all" and part not in steps:
        raise SystemExit(f"part must be all, {', '.join(steps)}; got {part}")
    WORK.mkdir(parents=True, exist_ok=True)
    for name, step in steps.items():
        if part in ("all", name):
            step()


if __name__ == "__main__":
    main()
