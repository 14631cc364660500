"""Train the denoiser of the four-particle system at temperature 2, and store reference configurations.

Run by ``nox -s full -- feynman_kac`` (about 8 CPU minutes). Writes two files of
``paperkit/data/feynman_kac``. An interrupted run goes on from its file in ``build/feynman_kac``.
"""

from __future__ import annotations

import sys
import time

import torch
from safetensors.torch import save_file

from paperkit import data, profiles
from paperkit.feynman_kac import double_well, networks
from paperkit.models import save_checkpoint, train

SCRIPT = "scripts/feynman_kac/train_double_well.py"
CHAINS, KEPT, STORED = 2000, 25, 5000
STEPS, BATCH, RATE, MEAN, SD, SEED, WIDTH = 28_000, 256, 2e-3, -1.0, 1.3, 0, 64


def configurations(temperature: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    z, accepted = double_well.langevin(temperature, CHAINS, KEPT, generator)
    level = double_well.energy(z)
    print(
        f"T={temperature:g}: {len(z)} configurations, {accepted:.2f} accepted, energy"
        f" {level.mean():.2f} +- {level.std():.2f}",
        flush=True,
    )
    return z


def references() -> None:
    """Chains of their own, not those that train the network."""
    stored = {}
    for temperature in (1, 2):
        z = configurations(float(temperature), 100 + temperature)
        pick = torch.Generator().manual_seed(temperature)
        rows = torch.randperm(len(z), generator=pick)[:STORED]
        stored[f"temperature_{temperature}"] = z[rows].float().contiguous()
    file = data.FOLDER / "feynman_kac" / "double_well_reference.safetensors"
    save_file(stored, file)
    data.register(
        "feynman_kac/double_well_reference",
        file,
        source="sampled for this book by the Metropolis-adjusted Langevin algorithm",
        version=f"{CHAINS} chains, {KEPT} kept of each, seeds 101 and 102",
        licence="CC0-1.0",
        script=SCRIPT,
        changes=f"{STORED} configurations of each temperature, single precision",
    )


def fit() -> None:
    clean = configurations(2.0, SEED).float()
    sigma_data = float(clean.std())
    torch.manual_seed(SEED)
    model = double_well.ParticleDenoiser(sigma_data, width=WIDTH)

    def step(i: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(clean), (BATCH,), generator=generator)
        sigma = networks.log_normal(BATCH, MEAN, SD, generator).clamp(0.01, 15.0)
        noise = torch.randn(BATCH, 3, 2, generator=generator)
        return networks.denoising_loss(model, clean[rows], sigma, noise, sigma_data)

    work = profiles.project_root() / "build" / "feynman_kac"
    work.mkdir(parents=True, exist_ok=True)
    start = time.process_time()
    history = train(
        step,
        model.parameters(),
        n_steps=STEPS,
        learning_rate=RATE,
        ema_decay=0.999,
        seed=SEED,
        resume=work / "double_well.safetensors",
        every=1000,
        callback=lambda i, loss: print(i + 1, f"{loss:.4f}", flush=True),
    )
    history.copy_ema_to(model.parameters())
    file = data.FOLDER / "feynman_kac" / "double_well.safetensors"
    settings = {
        "sigma_data": sigma_data,
        "width": WIDTH,
        "batch": BATCH,
        "learning_rate": RATE,
        "log_sigma": [MEAN, SD],
        "ema_decay": 0.999,
        "temperature": 2.0,
        "mean_loss_of_last_1000_steps": float(history.losses[-1000:].mean()),
        "cpu_seconds": round(time.process_time() - start),
    }
    save_checkpoint(
        file,
        dict(model.state_dict()),
        record={"script": SCRIPT, "seed": SEED, "settings": settings, "steps": STEPS},
    )
    data.register(
        "feynman_kac/double_well",
        file,
        source="trained for this book on configurations at temperature 2 sampled by this script",
        version=f"{STEPS} steps, seed {SEED}",
        licence="MIT",
        script=SCRIPT,
        changes="moving average of the weights",
    )
    print(settings, flush=True)


if __name__ == "__main__":
    parts = sys.argv[1:] or ["references", "fit"]
    if "references" in parts:
        references()
    if "fit" in parts:
        fit()
