r"""Small learned denoisers of handwritten digits, with the preconditioning of EDM.

.. math::

   D(y, \sigma) = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2}\, y + \frac{\sigma \sigma_d}{\sqrt{\sigma^2
   + \sigma_d^2}}\, F\Big(\frac{y}{\sqrt{\sigma^2 + \sigma_d^2}}, \log \sigma\Big),

trained on :math:`|D(x + \sigma n, \sigma) - x|^2` with the weight that makes the error of F count
equally at every noise level (Karras, Aittala, Aila and Laine, "Elucidating the Design Space of
Diffusion-Based Generative Models", NeurIPS 2022, table 1).

The images are the 1,797 scans of 8 x 8 pixels that scikit-learn ships, scaled to [-1, 1]; sixty in a
hundred train the denoisers, the others train and test what judges them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

N_CLASSES = 10
N_INKS = 3


@dataclass(frozen=True)
class Digits:
    """Handwritten digits with two labels.

    Attributes
    ----------
    images : Tensor, shape (n, 64), float32
        Pixels in [-1, 1].
    classes : Tensor, shape (n,), int64
        The digit.
    inks : Tensor, shape (n,), int64
        Third of the mean pixel, by the terciles of the images that train the denoisers.
    edges : (float, float)
        Those terciles.
    """

    images: Tensor
    classes: Tensor
    inks: Tensor
    edges: tuple[float, float]


@functools.lru_cache(maxsize=1)
def load_digit_parts() -> tuple[Digits, Digits]:
    """Return the digits for training denoisers (60 %) and those for judging them (40 %).

    The split is stratified by class and fixed. Data: E. Alpaydin and C. Kaynak, Optical Recognition
    of Handwritten Digits, UCI (CC BY 4.0), as shipped by scikit-learn.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    images = (raw.data / 8.0 - 1.0).astype(np.float32)
    train, judge = train_test_split(
        np.arange(len(images)), train_size=0.6, stratify=raw.target, random_state=0
    )
    low, high = (float(each) for each in np.quantile(images[train].mean(1), [1 / 3, 2 / 3]))
    parts = []
    for rows in (train, judge):
        pixels = torch.from_numpy(images[rows])
        parts.append(
            Digits(
                pixels,
                torch.from_numpy(raw.target[rows].astype(np.int64)),
                ink_of(pixels, (low, high)),
                (low, high),
            )
        )
    return parts[0], parts[1]


def ink_of(images: Tensor, edges: tuple[float, float]) -> Tensor:
    """Return 0, 1 or 2: the third in which the mean pixel of each image (n, 64) lies."""
    mean = images.mean(-1)
    return (mean > edges[0]).long() + (mean > edges[1]).long()


def sigma_features(sigma: Tensor, n: int) -> Tensor:
    """Return n/2 cosines and sines of log sigma, shape (len(sigma), n)."""
    phase = (
        sigma.log()[:, None] / 2 * torch.linspace(0.5, 4.0, n // 2, device=sigma.device)
    ).float()
    return torch.cat([phase.cos(), phase.sin()], -1)


class ImageDenoiser(nn.Module):
    """Residual network on flat images with a label, preconditioned as in EDM.

    Parameters
    ----------
    n_labels : int
        Labels 0 .. n_labels - 1; the label `n_labels` stands for "any".
    sigma_data : float
        Standard deviation of a pixel.
    n_pixels, width, blocks : int
        Size.
    """

    def __init__(
        self,
        n_labels: int,
        sigma_data: float,
        *,
        n_pixels: int = 64,
        width: int = 256,
        blocks: int = 3,
    ) -> None:
        super().__init__()
        self.n_labels = n_labels
        self.sigma_data = sigma_data
        self.enter = nn.Linear(n_pixels, width)
        self.level = nn.Linear(32, width)
        self.label = nn.Embedding(n_labels + 1, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
            )
            for _ in range(blocks)
        )
        self.leave = nn.Linear(width, n_pixels)
        nn.init.zeros_(self.leave.weight)

    def forward(self, y: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """Return E[clean | y, label] for y (n, n_pixels), sigma (n,), labels (n,)."""
        level = sigma.float()[:, None]
        total = level**2 + self.sigma_data**2
        hidden = self.enter(y.float() / total.sqrt())
        context = self.level(sigma_features(sigma, 32)) + self.label(labels)
        for block in self.blocks:
            hidden = hidden + block(hidden + context)
        out = self.leave(hidden)
        return (self.sigma_data**2 / total * y + level * self.sigma_data / total.sqrt() * out).to(
            y.dtype
        )

    def conditioned(self, label: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the denoiser of one label (`n_labels` for "any")."""
        if not 0 <= label <= self.n_labels:
            raise ValueError(f"label must lie in 0 .. {self.n_labels}, got {label}")

        def denoiser(y: Tensor, sigma: Tensor) -> Tensor:
            return self(y, sigma, torch.full((len(y),), label, device=y.device))

        return denoiser


def denoising_loss(
    model: Callable[..., Tensor],
    clean: Tensor,
    sigma: Tensor,
    noise: Tensor,
    sigma_data: float,
    *conditions: Tensor,
    target: Tensor | None = None,
) -> Tensor:
    """Return the mean loss of a preconditioned denoiser, every noise level weighted alike.

    Parameters
    ----------
    model : callable
        ``model(y, sigma, *conditions)``.
    clean, noise : Tensor, shape (n, ...)
    sigma : Tensor, shape (n,)
    sigma_data : float
    *conditions : Tensor
    target : Tensor, shape (n, ...), optional
        What to regress on instead of `clean`: something with the same mean given the noisy input.

    Returns
    -------
    Tensor, shape ()
    """
    level = sigma.reshape(-1, *(1,) * (clean.ndim - 1))
    guess = model(clean + level * noise, sigma, *conditions)
    weight = (level**2 + sigma_data**2) / (level * sigma_data) ** 2
    return (weight * (guess - (clean if target is None else target)) ** 2).mean()


def load_digit_denoiser(which: str) -> ImageDenoiser:
    """Return a trained denoiser of the digits.

    Parameters
    ----------
    which : {"class", "ink"}
        Conditional on the digit (labels 0 to 9, 10 for any), or on the third of the ink (0 to 2, 3
        for any).

    Returns
    -------
    ImageDenoiser
        In evaluation mode, without gradients.
    """
    from paperkit import data
    from paperkit.models import load_checkpoint

    if which not in ("class", "ink"):
        raise ValueError(f"which must be 'class' or 'ink', got {which!r}")
    tensors, record = load_checkpoint(data.path(f"feynman_kac/digits_{which}"))
    settings = record["settings"]
    model = ImageDenoiser(settings["n_labels"], settings["sigma_data"])
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class DigitJudge:
    """Judges generated digits: a classifier that has not seen the denoisers' data.

    Attributes
    ----------
    classifier : sklearn estimator
        A network of one hidden layer of 64 units.
    accuracy : float
        On a third of the judging part, which it has not seen either.
    mean, covariance : ndarray, shapes (64,), (64, 64)
        Of its hidden units on real images.
    """

    classifier: Any
    accuracy: float
    mean: np.ndarray
    covariance: np.ndarray

    def classes(self, images: Tensor) -> Tensor:
        """Return the digit that it sees in each image (n, 64), shape (n,)."""
        return torch.from_numpy(self.classifier.predict(images.double().numpy()))

    def features(self, images: Tensor) -> np.ndarray:
        """Return its hidden units, shape (n, 64)."""
        pixels = images.double().numpy()
        return np.maximum(pixels @ self.classifier.coefs_[0] + self.classifier.intercepts_[0], 0)

    def frechet(self, images: Tensor) -> float:
        """Return the Fréchet distance between features of `images` and of real images."""
        seen = self.features(images)
        gap = seen.mean(0) - self.mean
        here = np.cov(seen.T)
        values, vectors = np.linalg.eigh(self.covariance)
        root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
        cross = np.sqrt(np.linalg.eigvalsh(root @ here @ root).clip(min=0)).sum()
        return float(gap @ gap + np.trace(here) + np.trace(self.covariance) - 2 * cross)


@functools.lru_cache(maxsize=1)
def digit_judge() -> DigitJudge:
    """Train the judge on two thirds of the judging part; one second."""
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    _, part = load_digit_parts()
    pixels, labels = part.images.double().numpy(), part.classes.numpy()
    fit, test = train_test_split(
        np.arange(len(labels)), train_size=2 / 3, stratify=labels, random_state=0
    )
    model = MLPClassifier((64,), alpha=1e-2, max_iter=200, random_state=0, tol=1e-3)
    model.fit(pixels[fit], labels[fit])
    judge = DigitJudge(model, model.score(pixels[test], labels[test]), np.zeros(64), np.eye(64))
    seen = judge.features(part.images)
    return DigitJudge(model, judge.accuracy, seen.mean(0), np.cov(seen.T))


def digit_moments(part: Digits) -> tuple[float, float]:
    """Mean and standard deviation of a pixel."""
    return float(part.images.mean()), float(part.images.std())


def log_normal(n: int, mean: float, sd: float, generator: torch.Generator) -> Tensor:
    """Draw n noise levels whose logarithm is normal."""
    return torch.exp(mean + sd * torch.randn(n, generator=generator)).clamp(1e-3, math.exp(5))
