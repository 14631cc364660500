"""The experiments whose results are stored: forty modes, digits (:mod:`.cooling` has the particles).

Each function is one run with one seed and returns plain numbers; the scripts of the chapter sweep them.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paperkit import claims, profiles
from paperkit.claims import Interval
from paperkit.models.mixture import GaussianMixture

from . import composition as compositions
from . import networks, sampler
from .analytic import KernelDensity, stack_mixtures
from .composition import Composition, composed_prior
from .experiments import mean_interval, mixture_moments, size_ratio
from .sampler import DegeneracyWarning, FKCResult, sigma_schedule

# ------------------------------------------------------------------------------------ forty modes

FORTY_BETA = 3.0
FORTY_SIGMAS = (60.0, 0.1)
FORTY_BINS = 32
FORTY_BOX = 48.0
# name -> (noise, correct, resample)
FORTY_METHODS: dict[str, tuple[float | str, bool, str | None]] = {
    "target score, no weights": ("target_score", False, None),
    "target score, weights only": ("target_score", True, None),
    "target score, ESS < K/2": ("target_score", True, "ess"),
    "target score, every step": ("target_score", True, "every"),
    "target score, birth-death": ("target_score", True, "birth_death"),
    "tempered noise, no weights": ("tempered_noise", False, None),
    "tempered noise, every step": ("tempered_noise", True, "every"),
    "tempered noise, birth-death": ("tempered_noise", True, "birth_death"),
    "churn, no weights": (2**0.5, False, None),
    "churn, every step": (2**0.5, True, "every"),
    "churn, birth-death": (2**0.5, True, "birth_death"),
}


@functools.lru_cache(maxsize=1)
def forty_modes() -> GaussianMixture:
    """Return the mixture of 40 equal modes in [-40, 40]^2 of the paper's example."""
    means = 40 * (2 * torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) - 1)
    sd = math.log1p(math.e)  # softplus(1)
    return GaussianMixture([1 / 40] * 40, means.double(), torch.full((40, 2), sd**2))


@functools.lru_cache(maxsize=1)
def forty_exact() -> tuple[np.ndarray, float]:
    """Return the probability of each of 32 x 32 bins under q^3, and the mean energy, by quadrature."""
    cells = FORTY_BINS * 12
    middle = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 * FORTY_BOX - FORTY_BOX
    grid = torch.cartesian_prod(middle, middle)
    log_q = torch.cat([forty_modes().log_prob(part, FORTY_SIGMAS[1]) for part in grid.split(20000)])
    p = torch.softmax(FORTY_BETA * log_q, 0)
    table = p.reshape(FORTY_BINS, 12, FORTY_BINS, 12).sum((1, 3))
    return table.ravel().numpy(), float((p * -FORTY_BETA * log_q).sum())


def forty_particles(method: str, seed: int, size: int = 3000, steps: int = 300) -> FKCResult:
    """Sample the third power of the forty modes."""
    noise, correct, resample = FORTY_METHODS[method]
    mixture = forty_modes()
    mean, variance = mixture_moments(mixture)
    prior = composed_prior([FORTY_BETA], [mean], [variance], FORTY_SIGMAS[0])
    world = Composition(stack_mixtures(mixture), [FORTY_BETA], log_densities=[mixture.log_prob])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegeneracyWarning)
        return sampler.sample(
            world,
            (1, size, 2),
            sigma_schedule(steps, *FORTY_SIGMAS),
            noise=noise,
            correct=correct,
            resample=resample,
            initial=prior,
            generator=torch.Generator().manual_seed(1000 + seed),
            dtype=torch.float32,
        )


def forty_run(method: str, seed: int, size: int = 3000, steps: int = 300) -> dict[str, float]:
    """One cell of the table: total variation on 32 x 32 bins, error of the mean energy."""
    result = forty_particles(method, seed, size, steps)
    exact, energy = forty_exact()
    y = result.particles[0].double()
    place = ((y + FORTY_BOX) / (2 * FORTY_BOX) * FORTY_BINS).long().clamp(0, FORTY_BINS - 1)
    weights = torch.softmax(result.log_weights[0], 0)
    table = torch.zeros(FORTY_BINS**2, dtype=torch.float64)
    table.scatter_add_(0, place[:, 0] * FORTY_BINS + place[:, 1], weights)
    mean = float((weights * -FORTY_BETA * forty_modes().log_prob(y, FORTY_SIGMAS[1])).sum())
    return {
        "total variation": float(0.5 * np.abs(table.numpy() - exact).sum()),
        "energy error": mean - energy,
        "ancestors": int(result.n_unique_ancestors[0]),
        "ESS": float(result.ess[-1, 0]),
    }


# ------------------------------------------------------------------- guidance with exact samples

GUIDED_CLASSES, GUIDED_SCALE, BANDWIDTH = (3, 5, 8), 3.0, 0.5


@functools.lru_cache(maxsize=4)
def principal_digits(d: int) -> tuple[Tensor, Tensor]:
    """Digits 3, 5 and 8 in their first d principal components, and labels 0, 1, 2."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    raw = load_digits()
    rows = np.isin(raw.target, GUIDED_CLASSES)
    parts = PCA(d, svd_solver="full").fit_transform(raw.data[rows] / 8.0 - 1.0)
    labels = np.searchsorted(GUIDED_CLASSES, raw.target[rows])
    return torch.from_numpy(parts), torch.from_numpy(labels)


def exact_guided(
    conditional: Any,
    unconditional: Any,
    share: float,
    scale: float,
    n: int,
    generator: torch.Generator,
    sigma: float,
) -> Tensor:
    """Draw from q_c (q_c / q_u)^(scale-1) by rejection: accept with probability q(c|x)^(scale-1).

    `share` is the conditional model's weight in the unconditional one, which must contain it; then
    ``share * q_c / q_u`` is a probability.
    """
    kept: list[Tensor] = []
    while sum(len(part) for part in kept) < n:
        x = conditional.sample(n, generator)
        x = x + sigma * torch.randn(x.shape, dtype=x.dtype, generator=generator)
        level = torch.full((len(x),), sigma, dtype=x.dtype)
        log_share = (
            math.log(share) + conditional.log_prob(x, level) - unconditional.log_prob(x, level)
        )
        coin = torch.rand(len(x), dtype=x.dtype, generator=generator)
        kept.append(x[coin.log() < (scale - 1) * log_share])
    return torch.cat(kept)[:n]


def guided_digits_run(
    d: int,
    correct: bool,
    seed: int,
    *,
    size: int = 256,
    populations: int = 3,
    steps: int = 100,
    active: float = 0.0,
    swap: bool = False,
) -> dict[str, float]:
    """Guidance between kernel densities of digits, against exact samples.

    Parameters
    ----------
    d : int
        Principal components.
    correct : bool
    seed : int
    size, populations, steps : int
    active : float
        Weights are gathered at noise levels from here on.
    swap : bool
        Exchange the two models (a mutation).

    Returns
    -------
    dict
        ``membership``: mean over classes of the distance of mean q(c|x) from that of exact samples;
        ``shift``: of the distance of class means; ``variance``: mean ratio of total variances.
    """
    data, labels = principal_digits(d)
    everything = KernelDensity(data, BANDWIDTH)
    sigma_max, sigma_min = 10.0, 0.05
    out: dict[str, list[float]] = {"membership": [], "shift": [], "variance": [], "ancestors": []}
    for label in range(len(GUIDED_CLASSES)):
        rows = labels == label
        own = KernelDensity(data[rows], BANDWIDTH)
        share = float(rows.double().mean())
        generator = torch.Generator().manual_seed(3000 + 10 * seed + label)
        exact = exact_guided(own, everything, share, GUIDED_SCALE, 4000, generator, sigma_min)
        models = [own, everything] if swap else [everything, own]
        exponents = [1 - GUIDED_SCALE, GUIDED_SCALE]
        moments = [(m.data.mean(0), m.data.var(0, correction=0) + BANDWIDTH**2) for m in models]
        try:
            prior = composed_prior(
                exponents, [m for m, _ in moments], [v for _, v in moments], sigma_max
            )
        except ValueError:
            prior = (moments[0][0], torch.full((d,), sigma_max**2, dtype=torch.float64))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DegeneracyWarning)
            result = sampler.sample(
                Composition(
                    [m.denoise for m in models],
                    exponents,
                    log_densities=[m.log_prob for m in models],
                ),
                (populations, size, d),
                sigma_schedule(steps, sigma_max, sigma_min),
                correct=correct,
                active=(active, math.inf),
                initial=prior,
                generator=generator,
                dtype=torch.float32,
            )
        x = result.particles.flatten(0, 1).double()
        w = torch.softmax(result.log_weights, -1).ravel() / populations

        def belongs(points: Tensor, own: Any = own, share: float = share) -> Tensor:
            return share * torch.exp(
                own.log_prob(points, sigma_min) - everything.log_prob(points, sigma_min)
            )

        mean = w @ x
        spread = float((w @ (x - mean) ** 2).sum())
        out["membership"].append(float(abs(w @ belongs(x) - belongs(exact).mean())))
        out["shift"].append(float((mean - exact.mean(0)).norm()))
        out["variance"].append(spread / float(exact.var(0).sum()))
        out["ancestors"].append(float(result.n_unique_ancestors.double().mean()))
    return {name: float(np.mean(values)) for name, values in out.items()}


# ------------------------------------------------------------------------- learned digit denoisers

IMAGE_SIGMAS, IMAGE_STEPS = (20.0, 0.05), 60
COMBINATIONS = ((0, 0), (1, 2), (3, 1), (4, 0), (7, 2), (8, 1))


@functools.lru_cache(maxsize=2)
def _denoisers() -> tuple[networks.ImageDenoiser, networks.ImageDenoiser]:
    return networks.load_digit_denoiser("class"), networks.load_digit_denoiser("ink")


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    images = networks.load_digit_parts()[0].images[rows].double()
    return images.mean(0), images.var(0, correction=0) + 1e-3


def guided_images(
    label: int,
    scale: float,
    correct: bool,
    generator: torch.Generator,
    *,
    populations: int = 1,
    size: int = 64,
    active: tuple[float, float] = (0.0, math.inf),
    steps: int = IMAGE_STEPS,
    noise: float = 1.0,
) -> FKCResult:
    """Guide the class denoiser towards a digit; images are denoised at the end."""
    part, _ = networks.load_digit_parts()
    model = _denoisers()[0]
    stack = compositions.stack_denoisers(model, [networks.N_CLASSES, label])
    exponents = [1 - scale, scale]
    every, own = (
        _moments(torch.ones(len(part.images), dtype=torch.bool)),
        _moments(part.classes == label),
    )
    prior = composed_prior(exponents, [every[0], own[0]], [every[1], own[1]], IMAGE_SIGMAS[0])
    return _images(
        Composition(stack, exponents),
        model.conditioned(label),
        (populations, size, 64),
        prior,
        generator,
        correct=correct,
        active=active,
        steps=steps,
        noise=noise,
    )


def _images(
    world: Composition,
    last: Callable[[Tensor, Tensor], Tensor],
    shape: tuple[int, ...],
    prior: tuple[Tensor, Tensor],
    generator: torch.Generator,
    *,
    steps: int = IMAGE_STEPS,
    **options: Any,
) -> FKCResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegeneracyWarning)
        result = sampler.sample(
            world,
            shape,
            sigma_schedule(steps, *IMAGE_SIGMAS, "karras"),
            initial=prior,
            generator=generator,
            dtype=torch.float32,
            **options,
        )
    with torch.no_grad():
        flat = result.particles.flatten(0, 1)
        clean = last(flat, torch.full((len(flat),), IMAGE_SIGMAS[1]))
        result.particles = clean.reshape(result.particles.shape)
    return result


IMAGES_A_CLASS = 64
IMAGE_METHODS: dict[str, dict[str, Any]] = {
    "conditional": {"scale": 1.0, "correct": False},
    "guidance 2": {"scale": 2.0, "correct": False},
    "guidance 2, corrected": {"scale": 2.0, "correct": True},
    "guidance 2, corrected from 1 on": {
        "scale": 2.0,
        "correct": True,
        "active": (1.0, math.inf),
    },
    "guidance 2, corrected from 3 on": {
        "scale": 2.0,
        "correct": True,
        "active": (3.0, math.inf),
    },
    "guidance 2, corrected, 8 x 8": {
        "scale": 2.0,
        "correct": True,
        "active": (1.0, math.inf),
        "populations": 8,
        "size": 8,
    },
    "guidance 2, corrected from 1 on, 64 of 256": {
        "scale": 2.0,
        "correct": True,
        "active": (1.0, math.inf),
        "size": 256,
    },
    "guidance 1.5": {"scale": 1.5, "correct": False},
    "guidance 1.5, corrected": {"scale": 1.5, "correct": True},
    "guidance 1.5, corrected from 1 on": {
        "scale": 1.5,
        "correct": True,
        "active": (1.0, math.inf),
    },
    "guidance 4": {"scale": 4.0, "correct": False},
    "guidance 4, corrected from 1 on": {
        "scale": 4.0,
        "correct": True,
        "active": (1.0, math.inf),
    },
}


def guided_images_run(method: str, seed: int) -> dict[str, float]:
    """All ten digits with one method: what the judge says of 640 images."""
    _, judging = networks.load_digit_parts()
    judge = networks.digit_judge()
    images, right, shifts, ancestors = [], [], [], []
    for label in range(networks.N_CLASSES):
        generator = torch.Generator().manual_seed(4000 + 100 * seed + label)
        result = guided_images(label, generator=generator, **IMAGE_METHODS[method])
        each = IMAGES_A_CLASS // len(result.particles)  # the same number for every method
        drawn = result.resample(each, generator).flatten(0, 1)
        images.append(drawn)
        right.append(float((judge.classes(drawn) == label).double().mean()))
        real = judging.images[judging.classes == label].mean(0)
        shifts.append(float((drawn.mean(0) - real).norm()))
        ancestors.append(float(result.n_unique_ancestors.double().mean()))
    return {
        "Frechet distance": judge.frechet(torch.cat(images)),
        "accuracy": float(np.mean(right)),
        "shift": float(np.mean(shifts)),
        "ancestors": float(np.mean(ancestors)),
    }


def product_images(
    label: int,
    ink: int,
    conditional: bool,
    correct: bool,
    generator: torch.Generator,
    *,
    populations: int = 6,
    size: int = 32,
    active: tuple[float, float] = (0.0, math.inf),
) -> FKCResult:
    """Combine the class denoiser and the ink denoiser, over the unconditional one if asked."""
    part, _ = networks.load_digit_parts()
    by_class, by_ink = _denoisers()
    experts = [by_class.conditioned(label), by_ink.conditioned(ink)]
    exponents = [1.0, 1.0]
    moments = [_moments(part.classes == label), _moments(part.inks == ink)]
    if conditional:
        experts.append(by_class.conditioned(networks.N_CLASSES))
        exponents.append(-1.0)
        moments.append(_moments(torch.ones(len(part.images), dtype=torch.bool)))
    prior = composed_prior(
        exponents, [m for m, _ in moments], [v for _, v in moments], IMAGE_SIGMAS[0]
    )
    return _images(
        Composition(experts, exponents),
        experts[0],
        (populations, size, 64),
        prior,
        generator,
        correct=correct,
        active=active,
    )


def product_run(
    combination: int, conditional: bool, correct: bool, seed: int
) -> list[dict[str, float]]:
    """One combination of digit and ink: a row for each population."""
    label, ink = COMBINATIONS[combination]
    part, _ = networks.load_digit_parts()
    judge = networks.digit_judge()
    generator = torch.Generator().manual_seed(5000 + 100 * seed + combination)
    result = product_images(label, ink, conditional, correct, generator)
    drawn = result.resample(generator=generator)
    rows = []
    for place, images in enumerate(drawn):
        digit = judge.classes(images) == label
        right_ink = networks.ink_of(images, part.edges) == ink
        rows.append(
            {
                "population": place,
                "class": float(digit.double().mean()),
                "ink": float(right_ink.double().mean()),
                "both": float((digit & right_ink).double().mean()),
                "variance": float(images.var(0).sum()),
                "ancestors": int(result.n_unique_ancestors[place]),
            }
        )
    return rows


# --------------------------------------------------------------------------------- of stored runs


def paired_gain(
    table: pd.DataFrame,
    column: str,
    worse: str | bool,
    better: str | bool,
    *,
    by: str = "method",
) -> Interval:
    """Mean over seeds of `column` in rows `worse` minus rows `better`, interval by Student's t."""
    wide = table.pivot(index="seed", columns=by, values=column)
    return mean_interval(wide[worse] - wide[better])


def mean_of(table: pd.DataFrame, column: str, method: str) -> Interval:
    """Mean over seeds of `column` in the rows of one method, interval by Student's t."""
    return mean_interval(table.loc[table["method"] == method, column])


def kernel_gain(table: pd.DataFrame, d: int, column: str) -> Interval:
    """Distance of plain guidance from exact samples minus that of corrected guidance, d components."""
    return paired_gain(table[table["d"] == d], column, False, True, by="correct")


def particle_errors(table: pd.DataFrame, target: str) -> dict[int, np.ndarray]:
    """Errors of every population in the stored runs: number of particles -> array."""
    rows = table[table["target"] == target]
    return {
        size: rows.loc[rows["particles"] == size, "error"].to_numpy()
        for size in sorted(set(rows["particles"].tolist()))
    }


def most_particles_ratio(table: pd.DataFrame) -> Interval:
    """Claim f3a: error with 512 particles over that with 32, the target with the highest upper end."""
    targets = dict.fromkeys(table["target"])
    return max(
        (size_ratio(particle_errors(table, target)) for target in targets),
        key=lambda each: each.high,
    )


def forty_replicate(table: pd.DataFrame, method: str = "target score, no weights") -> float:
    """Claim f6e: distance of one run, repeated now, from its stored total variation."""
    rows = table[(table["method"] == method) & (table["seed"] == 0)]
    now = forty_run(method, 0)["total variation"]
    return abs(now - float(rows["total variation"].iloc[0]))


def population_gain(table: pd.DataFrame, conditional: bool, column: str = "both") -> Interval:
    """Corrected minus plain share of success, bootstrap over populations."""
    rows = table[table["conditional"] == conditional].sort_values(["combination", "population"])
    ours = rows.loc[rows["correct"], column].to_numpy()
    plain = rows.loc[~rows["correct"], column].to_numpy()
    return claims.bootstrap(
        lambda a, b: float(a.mean() - b.mean()),
        ours,
        plain,
        rng=profiles.rng("feynman_kac", "product"),
    )
