"""Cooling of particles at inference time: a model of temperature 2 sampled colder, against long chains."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import composition as compositions
from . import sampler
from .composition import composed_prior
from .particles import ParticleDenoiser, ParticleSystem, double_well, lennard_jones
from .sampler import DegeneracyWarning, FKCResult, sigma_schedule

TRAINED_AT = 2.0
OWN = "model at T=2"
# name -> (noise, correct); all but the first are cooled
METHODS: dict[str, tuple[float, bool]] = {
    OWN: (1.0, False),
    "target score, plain": (1.0, False),
    "target score, corrected": (1.0, True),
    "churn, plain": (2**0.5, False),
    "churn, corrected": (2**0.5, True),
}


@dataclass(frozen=True, eq=False)
class Cooling:
    """A system of particles, and how its model is cooled.

    Attributes
    ----------
    system : ParticleSystem
    temperature : float
        Cold one.
    sigmas : (float, float)
        First and last noise level.
    steps, size : int
        Steps, and particles of the sampler (configurations).
    edges : ndarray
        Bins of distances.
    first_seed : int
        Of the sampler's random stream.
    """

    system: ParticleSystem
    temperature: float
    sigmas: tuple[float, float]
    steps: int
    size: int
    edges: np.ndarray
    first_seed: int

    @functools.cached_property
    def model(self) -> ParticleDenoiser:
        """The denoiser of temperature 2."""
        return self.system.load_denoiser()

    def sample(
        self,
        beta: float,
        noise: float,
        correct: bool,
        generator: torch.Generator,
        *,
        size: int | None = None,
        steps: int | None = None,
    ) -> FKCResult:
        """Sample at temperature 2 / `beta`; a last call of the denoiser takes away the noise left."""
        size = size or self.size
        prior = composed_prior([beta], [0.0], [self.model.sigma_data**2], self.sigmas[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DegeneracyWarning)
            result = sampler.sample(
                compositions.annealed(self.model, beta),
                (1, size, *self.system.event),
                sigma_schedule(steps or self.steps, *self.sigmas, "karras"),
                noise=noise,
                correct=correct,
                initial=prior,
                generator=generator,
                dtype=torch.float32,
            )
        with torch.no_grad():
            flat = result.particles[0]
            result.particles = self.model(flat, torch.full((size,), self.sigmas[1]))[None]
        return result

    def histogram(self, z: Tensor, weights: Tensor | None = None) -> np.ndarray:
        """Histogram of the pair distances of configurations, sum 1; the last bin is open."""
        d = self.system.pair_distances(z.double())
        w = torch.full((len(z),), 1 / len(z)) if weights is None else weights
        each = w[:, None].expand(-1, d.shape[1]).numpy()
        inside = d.numpy().clip(0, self.edges[-1] - 1e-3)
        table: np.ndarray = np.histogram(inside, self.edges, weights=each)[0] / d.shape[1]
        return table

    def energy_distance(self, z: Tensor, weights: Tensor, temperature: float) -> float:
        """Wasserstein distance of energies from long chains at that temperature."""
        from scipy.stats import wasserstein_distance

        return float(
            wasserstein_distance(
                self.system.energy(z.double()).numpy(),
                self.system.energy(self.system.reference(temperature)).numpy(),
                weights.numpy(),
            )
        )

    def run(
        self, method: str, seed: int, *, size: int | None = None, steps: int | None = None
    ) -> dict[str, Any]:
        """One run: distances from long chains at the temperature that is meant, and the histograms."""
        temperature = TRAINED_AT if method == OWN else self.temperature
        generator = torch.Generator().manual_seed(self.first_seed + seed)
        result = self.sample(
            TRAINED_AT / temperature, *METHODS[method], generator, size=size, steps=steps
        )
        z, weights = result.particles[0], torch.softmax(result.log_weights[0], 0)
        exact = self.histogram(self.system.reference(temperature))
        mine = self.histogram(z, weights)
        order = torch.multinomial(
            weights, 200, replacement=True, generator=torch.Generator().manual_seed(seed)
        )
        energy = self.system.energy(z.double())
        return {
            "distances": float(0.5 * np.abs(mine - exact).sum()),
            "energies": self.energy_distance(z, weights, temperature),
            "mean energy": float((weights * energy).sum()),
            "ancestors": int(result.n_unique_ancestors[0]),
            "histogram": mine.tolist(),
            "some energies": energy[order].tolist(),
        }

    def settings(self) -> dict[str, Any]:
        """What a stored table says about its runs."""
        return {
            "sigmas": list(self.sigmas),
            "steps": self.steps,
            "particles": self.size,
            "trained at": TRAINED_AT,
            "cooled to": self.temperature,
        }

    def reweighting_ess(self) -> float:
        """Effective share of the chains at temperature 2 when they are reweighted to the cold one."""
        energy = self.system.energy(self.system.reference(TRAINED_AT))
        log_w = energy / TRAINED_AT - energy / self.temperature
        return float(sampler.effective_sample_size(log_w)) / len(energy)


four = Cooling(
    double_well,
    temperature=1.0,
    sigmas=(10.0, 0.03),
    steps=200,
    size=1000,
    edges=np.linspace(0.0, 9.0, 46),
    first_seed=2000,
)
thirteen = Cooling(
    lennard_jones,
    temperature=1.5,
    sigmas=(4.0, 0.01),
    steps=300,
    size=500,
    edges=np.linspace(0.0, 9.0, 91),
    first_seed=4000,
)


def four_particles_run(method: str, seed: int) -> dict[str, Any]:
    """One run of the four particles."""
    return four.run(method, seed)


def thirteen_particles_run(method: str, seed: int) -> dict[str, Any]:
    """One run of the thirteen."""
    return thirteen.run(method, seed)
