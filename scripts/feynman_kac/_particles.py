"""Chains, training and cooled runs, which the two systems of particles share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from paperkit import data, profiles, sweeps
from paperkit.feynman_kac import networks
from paperkit.feynman_kac.cooling import METHODS, TRAINED_AT, Cooling
from paperkit.feynman_kac.particles import ParticleDenoiser, ParticleSystem
from paperkit.models import save_checkpoint, train

WORK = profiles.project_root() / "build" / "feynman_kac"


@dataclass(frozen=True)
class Chains:
    """How the configurations are drawn."""

    chains: int
    kept: int
    options: dict[str, Any]

    def draw(self, system: ParticleSystem, temperature: float, seed: int) -> torch.Tensor:
        """Configurations of one temperature; those that were drawn before are read."""
        file = WORK / f"{system.name}-{temperature:g}-{seed}.safetensors"
        if file.exists():
            z = load_file(file)["z"]
        else:
            generator = torch.Generator().manual_seed(seed)
            z, accepted = system.langevin(
                temperature, self.chains, self.kept, generator, **self.options
            )
            WORK.mkdir(parents=True, exist_ok=True)
            save_file({"z": z.contiguous()}, file)
            print(f"{accepted:.2f} accepted")
        level = system.energy(z).reshape(self.kept, self.chains)
        half = self.kept // 2
        print(
            f"T={temperature:g}: {len(z)} configurations, energy {level.mean():.2f} +-"
            f" {level.std():.2f}; first half {level[:half].mean():.2f}, second half"
            f" {level[half:].mean():.2f} +- {level[half:].mean(0).std() / self.chains**0.5:.2f}",
            flush=True,
        )
        return z


@dataclass(frozen=True)
class Fit:
    """Settings of the training."""

    steps: int
    batch: int
    learning_rate: float
    log_sigma: tuple[float, float]
    network: dict[str, Any]
    forces: bool = False
    sigmas: tuple[float, float] = (0.01, 15.0)
    seed: int = 0


def references(system: ParticleSystem, how: Chains, *, stored: int, seed: int, script: str) -> None:
    """Chains of their own, not those that train the network; row t has seed `seed` + t."""
    kept = {}
    for t, temperature in enumerate(system.temperatures):
        z = how.draw(system, temperature, seed + t)
        pick = torch.Generator().manual_seed(int(temperature))
        rows = torch.randperm(len(z), generator=pick)[:stored]
        kept[f"temperature_{temperature:g}"] = z[rows].float().contiguous()
    name = f"{system.name}_reference"
    file = data.FOLDER / "feynman_kac" / f"{name}.safetensors"
    save_file(kept, file)
    data.register(
        f"feynman_kac/{name}",
        file,
        source="sampled for this book by the Metropolis-adjusted Langevin algorithm",
        version=f"{how.chains} chains, {how.kept} kept of each, seeds from {seed} on",
        licence="CC0-1.0",
        script=script,
        changes=f"{stored} configurations of each temperature, single precision",
    )


def fit(system: ParticleSystem, how: Chains, settings: Fit, script: str) -> None:
    """Train the denoiser at temperature 2; an interrupted run goes on from its file in ``build``.

    With `forces`, the regression target mixes the clean configuration with what the force at it says:
    both have the right mean, and the mixture has the least variance.
    """
    clean = how.draw(system, TRAINED_AT, settings.seed)
    pull = (system.force(clean) / TRAINED_AT).float()
    variance = 1 / float(pull.square().mean())
    clean = clean.float()
    sigma_data = float(clean.std())
    torch.manual_seed(settings.seed)
    model = ParticleDenoiser(system, sigma_data, **settings.network)

    def step(i: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(clean), (settings.batch,), generator=generator)
        sigma = networks.log_normal(settings.batch, *settings.log_sigma, generator)
        sigma = sigma.clamp(*settings.sigmas)
        noise = torch.randn(settings.batch, *system.event, generator=generator)
        target = None
        if settings.forces:
            level = sigma[:, None, None]
            share = variance / (variance + level**2)
            target = clean[rows] + share * level * (noise + level * pull[rows])
        return networks.denoising_loss(model, clean[rows], sigma, noise, sigma_data, target=target)

    start = time.process_time()
    history = train(
        step,
        model.parameters(),
        n_steps=settings.steps,
        learning_rate=settings.learning_rate,
        ema_decay=0.999,
        seed=settings.seed,
        resume=WORK / f"{system.name}.safetensors",
        every=500,
        callback=lambda i, loss: print(i + 1, f"{loss:.4f}", flush=True),
    )
    history.copy_ema_to(model.parameters())
    file = data.FOLDER / "feynman_kac" / f"{system.name}.safetensors"
    record = {
        "sigma_data": sigma_data,
        **settings.network,
        **{key: value for key, value in asdict(settings).items() if key != "network"},
        "ema_decay": 0.999,
        "temperature": TRAINED_AT,
        "mean_loss_of_last_1000_steps": float(history.losses[-1000:].mean()),
        "cpu_seconds_of_last_part": round(time.process_time() - start),
    }
    save_checkpoint(
        file,
        dict(model.state_dict()),
        record={
            "script": script,
            "seed": settings.seed,
            "settings": record,
            "steps": settings.steps,
        },
    )
    data.register(
        f"feynman_kac/{system.name}",
        file,
        source="trained for this book on configurations at temperature 2 sampled by this script",
        version=f"{settings.steps} steps, seed {settings.seed}",
        licence="MIT",
        script=script,
        changes="moving average of the weights",
    )
    print(record, flush=True)


def cool(
    name: str,
    how: Cooling,
    run: Callable[..., dict[str, Any]],
    *,
    seeds: int,
    seeds_of_churn: int,
    script: str,
) -> None:
    """Run every method and store the table; churn is shown, not judged, with fewer seeds."""
    table = pd.concat(
        [
            sweeps.sweep(
                run,
                [{"method": method} for method in METHODS if ("churn" in method) == churn],
                seeds=range(seeds_of_churn if churn else seeds),
                workers=1,
                backend="sequential",
                store=WORK / name,
            )
            for churn in (False, True)[: 1 + bool(seeds_of_churn)]
        ],
        ignore_index=True,
    )
    settings = {**how.settings(), "seeds of churn": seeds_of_churn}
    data.save_stored(
        "feynman_kac", name, table, script=script, settings=settings, seeds=range(seeds)
    )
    columns = ["distances", "energies", "mean energy", "ancestors"]
    print(table.groupby("method", sort=False)[columns].mean())
