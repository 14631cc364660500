r"""A two-dimensional text-to-image model in which every field is known exactly.

The first coordinate of a point is *what* it shows, the second one *where*: four classes
:math:`N(\mu_c, 0.25^2)` with means -3, -1, 1, 3 along x, and a layout y from N(0, 1) that no class
says anything about. The field separates, so for exact fields y depends on the noise alone: a
perfect eraser changes the class and leaves y to the last digit.

:func:`sample_ideal` samples the field that each eraser *aims at*; :class:`Student` is a small
network, and :func:`fine_tune` the same erasers with gradients, as on images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paperkit.models import GaussianMixture, train

from .guidance import (
    ablation_target,
    classifier_free_guidance,
    esd_target,
    guidance_term,
    method_loss,
    needs_unconditional,
)

__all__ = [
    "IDEALS",
    "MEANS",
    "Points",
    "Student",
    "alphas_cumprod",
    "classes_of",
    "ddim",
    "exact_eps",
    "fine_tune",
    "load_student",
    "off_support",
    "record_points",
    "sample_ideal",
    "sample_student",
    "times",
]

MEANS = (-3.0, -1.0, 1.0, 3.0)
SPREAD = 0.25
EMPTY = len(MEANS)  # the class index that stands for the empty prompt
IDEALS = ("frozen", "surgical", "surgical, no alternative", "ESD", "negative prompt")
Field = Callable[[Tensor, int], Tensor]


@lru_cache(maxsize=1)
def alphas_cumprod() -> Tensor:
    """Return the signal shares of Stable Diffusion's 1,000 noise levels, (1000,) float64."""
    root = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
    return (1 - root**2).cumprod(0)


def times(n_steps: int = 50) -> list[int]:
    """Return the noise levels that a sampler visits, from 999 down to 0."""
    return [int(t) for t in np.round(np.linspace(999, 0, n_steps))]


@lru_cache(maxsize=16)
def _mixture(condition: int, layout_slope: float) -> GaussianMixture:
    which = range(len(MEANS)) if condition == EMPTY else [condition]
    means = [[MEANS[k], layout_slope * k] for k in which]
    return GaussianMixture([1 / len(means)] * len(means), means, [[SPREAD**2, 1.0]] * len(means))


def exact_eps(x: Tensor, t: Any, condition: int, *, layout_slope: float = 0.0) -> Tensor:
    """Return the exact noise prediction.

    Parameters
    ----------
    x : Tensor, shape (B, 2)
    t : int or Tensor of shape (B,)
    condition : int
        A class, or ``EMPTY`` for the empty prompt.
    layout_slope : float
        Mean of y in class k is `layout_slope` times k; 0 in the main text.

    Returns
    -------
    Tensor, shape (B, 2), float64
    """
    if not 0 <= condition <= EMPTY:
        raise ValueError(f"condition must be in 0 .. {EMPTY}, got {condition!r}")
    abar = alphas_cumprod()[t]
    sigma = ((1 - abar) / abar).sqrt()
    y = x.double() / abar.sqrt().reshape(-1, 1)
    mixture = _mixture(condition, layout_slope)
    return (y - mixture.denoise(y, sigma.expand(len(x)))) / sigma.reshape(-1, 1)


def ddim(
    field: Field, noise: Tensor, *, n_steps: int = 50, visit: Callable[[Tensor, int], Any] | None = None
) -> Tensor:  # fmt: skip
    """Integrate a field of noise predictions from noise to points.

    Parameters
    ----------
    field : callable
        ``field(x, t) -> (B, 2)``.
    noise : Tensor, shape (B, 2)
    n_steps : int
        Steps on the grid of :func:`times`.
    visit : callable, optional
        ``visit(x, t)`` before each step.

    Returns
    -------
    Tensor, shape (B, 2)
    """
    grid = times(n_steps)
    one = torch.ones((), dtype=torch.float64)
    x = noise
    for k, t in enumerate(grid):
        if visit is not None:
            visit(x, t)
        now = alphas_cumprod()[t]
        then = alphas_cumprod()[grid[k + 1]] if k + 1 < len(grid) else one
        eps = field(x, t)
        clean = (x - (1 - now).sqrt() * eps) / now.sqrt()
        x = then.sqrt() * clean + (1 - then).sqrt() * eps
    return x


def ideal_field(
    name: str,
    scale: float,
    *,
    erase: int = 1,
    alternative: int = 2,
    eta: float = 1.0,
    layout_slope: float = 0.0,
) -> Field:
    """Build the guided field that a method would sample for the erased class if its loss were zero.

    Parameters
    ----------
    name : {"frozen", "surgical", "surgical, no alternative", "ESD", "negative prompt"}
        ``frozen`` is the model before erasing. (Concept Ablation aims at the same field as
        ``surgical`` if its unconditional part stays; that is what its loss does not ask for.)
    scale : float
        Guidance scale of sampling.
    erase, alternative : int
        Classes.
    eta : float
        Of ESD.
    layout_slope : float
        See :func:`exact_eps`.
    """
    if name not in IDEALS:
        raise ValueError(f"name must be one of {', '.join(IDEALS)}, got {name!r}")

    def field(x: Tensor, t: int) -> Tensor:
        def eps(condition: int) -> Tensor:
            return exact_eps(x, t, condition, layout_slope=layout_slope)

        e0, ee = eps(EMPTY), eps(erase)
        if name == "negative prompt":  # asked for nothing in particular, away from the concept
            return classifier_free_guidance(ee, e0, scale)
        if name == "frozen":
            return classifier_free_guidance(e0, ee, scale)
        if name == "ESD":
            return classifier_free_guidance(e0, esd_target(e0, ee, eta), scale)
        if name == "surgical":
            wanted = guidance_term(e0, ablation_target(eps(alternative)))
            return e0 + scale * wanted
        return e0

    return field


def sample_ideal(
    name: str, scale: float, noise: Tensor, *, n_steps: int = 50, **settings: Any
) -> Tensor:
    """Sample an ideal field; see :func:`ideal_field` for the names and settings."""
    return ddim(ideal_field(name, scale, **settings), noise.double(), n_steps=n_steps)


def classes_of(points: Tensor) -> Tensor:
    """Return the nearest class of each point, (B, 2) to (B,)."""
    return (points[:, :1].double() - torch.tensor(MEANS)).abs().argmin(1)


def off_support(points: Tensor) -> Tensor:
    """Say which points lie further than four standard deviations from every class mean."""
    return (points[:, :1].double() - torch.tensor(MEANS)).abs().amin(1) > 4 * SPREAD


# ------------------------------------------------------------------------------- small networks


class Student(nn.Module):
    """A noise predictor for points: three layers of 64, and a learned vector for each prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt = nn.Embedding(EMPTY + 1, 24)
        self.layers = nn.Sequential(
            nn.Linear(2 + 9 + 24, 64),
            nn.SiLU(),
            nn.Linear(64, 64),
            nn.SiLU(),
            nn.Linear(64, 64),
            nn.SiLU(),
            nn.Linear(64, 2),
        )

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predict noise: points (B, 2), times (B,), prompts (B,) to (B, 2)."""
        phase = t[:, None] / 1000 * math.pi * 2.0 ** torch.arange(4)
        level = alphas_cumprod().float()[t.long()][:, None].sqrt()
        features = [x, level, phase.sin(), phase.cos(), self.prompt(condition)]
        return self.layers(torch.cat(features, 1))


def train_student(n_steps: int = 4000, seed: int = 0) -> Student:
    """Train a student on the exact predictions for random classes, the empty prompt and times."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = Student()
    mixtures = _mixture(EMPTY, 0.0)

    def step(i: int, draw: torch.Generator) -> Tensor:
        clean, classes = mixtures.sample(512, draw, return_components=True)
        t = torch.randint(1000, (512,), generator=draw)
        abar = alphas_cumprod()[t][:, None]
        noise = torch.randn(512, 2, generator=draw, dtype=torch.float64)
        x = abar.sqrt() * clean + (1 - abar).sqrt() * noise
        condition = torch.where(torch.rand(512, generator=draw) < 0.25, EMPTY, classes)
        wanted = torch.empty_like(x)
        for c in range(EMPTY + 1):
            at = condition == c
            wanted[at] = exact_eps(x[at], t[at], c)
        return (student(x.float(), t, condition) - wanted.float()).square().mean()

    train(step, student.parameters(), n_steps=n_steps, learning_rate=4e-3, seed=seed)
    return student.requires_grad_(False)


def load_student() -> Student:
    """Load the student that ``scripts/concept_erasing/train_student.py`` trained."""
    from paperkit import data
    from paperkit.models import load_checkpoint

    student = Student()
    student.load_state_dict(load_checkpoint(data.path("concept_erasing/student"))[0])
    return student.requires_grad_(False)


def student_field(student: Student, condition: int, scale: float) -> Field:
    """Build the guided field of a student for one class."""

    def field(x: Tensor, t: int) -> Tensor:
        n = len(x)
        when = torch.full((2 * n,), float(t))
        which = torch.tensor([EMPTY, condition]).repeat_interleave(n)
        points = x.float().repeat(2, 1)
        with torch.no_grad():
            e0, ec = student(points, when, which).double().chunk(2)
        return classifier_free_guidance(e0, ec, scale)

    return field


def sample_student(
    student: Student, condition: int, scale: float, noise: Tensor, *, n_steps: int = 50
) -> Tensor:
    """Sample points of a class (or of ``EMPTY``) from a student."""
    return ddim(student_field(student, condition, scale), noise.double(), n_steps=n_steps)


@dataclass(frozen=True)
class Points:
    """Recorded states of a frozen student and its predictions: the 2-D twin of ``States``."""

    x: Tensor  # (M, 2)
    t: Tensor  # (M,)
    uncond: Tensor  # (M, 2)
    erase: Tensor  # (M, 2)
    alternative: Tensor  # (M, 2)


@torch.no_grad()
def record_points(
    student: Student,
    *,
    erase: int = 1,
    alternative: int | None = 2,
    scale: float = 3.0,
    n: int = 256,
    generator: torch.Generator,
) -> Points:
    """Record trajectories of the frozen student and its predictions for three prompts."""
    xs: list[Tensor] = []
    ts: list[int] = []

    def visit(x: Tensor, t: int) -> None:
        xs.append(x.float())
        ts.append(t)

    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    ddim(student_field(student, erase, scale), noise, visit=visit)
    x, t = torch.cat(xs), torch.tensor(ts, dtype=torch.float32).repeat_interleave(n)
    kept = [
        student(x, t, torch.full((len(x),), c))
        for c in (EMPTY, erase, EMPTY if alternative is None else alternative)
    ]
    return Points(x, t, *kept)


def fine_tune(
    student: Student,
    points: Points,
    method: str,
    *,
    erase: int = 1,
    parameters: Sequence[str] | None = None,
    n_steps: int = 200,
    batch_size: int = 256,
    learning_rate: float = 3e-4,
    drift_weight: float = 1.0,
    negative_guidance: float = 1.0,
    seed: int,
) -> Student:
    """Erase a class from a copy of a student, with the losses that the UNet is trained with.

    Parameters
    ----------
    student : Student
        Frozen; not changed.
    points : Points
        From :func:`record_points`.
    method : str
        As in :func:`paperkit.concept_erasing.guidance.method_loss`.
    erase : int
        The class that ``points`` were recorded for.
    parameters : sequence of str, optional
        Beginnings of the names of what is trained; default everything.
    n_steps, batch_size, learning_rate, drift_weight, negative_guidance, seed
        Of Adam, of the loss, and of the minibatches.

    Returns
    -------
    Student
    """
    both = needs_unconditional(method)
    copied = copy.deepcopy(student)
    chosen = [
        p
        for name, p in copied.named_parameters()
        if parameters is None or name.startswith(tuple(parameters))
    ]
    for p in chosen:
        p.requires_grad_(True)

    def step(i: int, draw: torch.Generator) -> Tensor:
        pick = torch.randint(len(points.x), (batch_size,), generator=draw)
        x, t = points.x[pick], points.t[pick]
        which = torch.full((batch_size,), erase)
        e0 = copied(x, t, torch.full_like(which, EMPTY)) if both else None
        loss, _ = method_loss(
            method,
            copied(x, t, which),
            e0,
            target_uncond=points.uncond[pick],
            target_erase=points.erase[pick],
            target_alternative=points.alternative[pick],
            drift_weight=drift_weight,
            negative_guidance=negative_guidance,
        )
        return loss

    train(
        step,
        chosen,
        n_steps=n_steps,
        learning_rate=learning_rate,
        schedule="constant",
        clip_norm=None,
        seed=seed,
        every=n_steps,
    )
    return copied.requires_grad_(False)
