r"""Contrastive learning on small images: encoder, augmentation, the paper's logistic pair loss.

Two augmentations of one image are a pair with t = +1, of two images a pair with t = -1; the loss
is ``mean softplus(-f.f')`` over the first kind plus ``mean softplus(f.f')`` over the second, the
logistic likelihood of Ge, Tang, Fan, Jin (ICLR 2024) with P(t = 1) = 1/2. What differs from the
paper: the pairs are not independent, z has no noise, f is unbounded and the head has ten classes.

This file imports torch; the rest of the chapter does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paperkit.unsupervised_pretraining._validate import FloatArray, count, float_array

IMAGE_SIZE = 8


class ConvEncoder(nn.Module):
    """Two convolutions and one hidden layer: images (B, 1, 8, 8) to features (B, n_features)."""

    def __init__(self, n_features: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 64),
            nn.ReLU(),
            nn.Linear(64, count("n_features", n_features)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features of a batch."""
        return self.layers(images)


class PairLoss(nn.Module):
    """The logistic pair loss on two views: features (B, k) twice to a scalar."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Row i of both views is the same image; all other combinations are negative pairs."""
        if first.shape != second.shape or len(first) < 2:
            raise ValueError(f"two equal views of at least 2 images needed, got {first.shape}")
        logits = first @ second.T
        positive = functional.softplus(-logits.diagonal()).mean()
        off = ~torch.eye(len(first), dtype=torch.bool, device=first.device)
        return positive + functional.softplus(logits[off]).mean()


def augment(
    images: Tensor,
    generator: torch.Generator,
    *,
    degrees: float = 8.0,
    scale: float = 0.08,
    shift: float = 0.8,
    noise: float = 0.08,
) -> Tensor:
    """Random rotation, scaling, shift and noise of images (B, 1, 8, 8) with values in [0, 1].

    Angle, relative scale and shift (pixels, along each axis) are uniform between minus and plus
    ``degrees``, ``scale`` and ``shift``; ``noise`` is the standard deviation of the pixels' noise.
    """
    if images.ndim != 4:
        raise ValueError(f"images must have shape (B, 1, H, W), got {tuple(images.shape)}")
    if min(degrees, scale, shift, noise) < 0:
        raise ValueError("degrees, scale, shift and noise must not be negative")
    batch, size = len(images), images.shape[-1]
    draws = 2 * torch.rand(4, batch, generator=generator, dtype=images.dtype) - 1
    angle, zoom = draws[0] * degrees * torch.pi / 180, 1 + draws[1] * scale
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    moved = draws[2:] * shift * 2 / size  # grid coordinates run from -1 to 1
    matrices = torch.stack(
        [torch.stack([cosine, -sine, moved[0]], -1), torch.stack([sine, cosine, moved[1]], -1)], 1
    )
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    views = functional.grid_sample(images, grid, align_corners=False)
    return views + noise * torch.randn(views.shape, generator=generator, dtype=views.dtype)


def to_images(X: Any) -> Tensor:
    """Rows (N, 64) of scikit-learn's digits, divided by 16, as float32 images (N, 1, 8, 8)."""
    rows = float_array("X", X, ndim=2)
    if rows.shape[1] != IMAGE_SIZE**2:
        raise ValueError(f"X must have {IMAGE_SIZE**2} columns, got {rows.shape[1]}")
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 1, IMAGE_SIZE, IMAGE_SIZE)


def contrastive_step(
    encoder: nn.Module, images: Tensor, *, batch_size: int = 128, **augmentation: float
) -> Callable[[int, torch.Generator], Tensor]:
    """Step function for `paperkit.models.train`: pair loss on a random batch of images.

    ``augmentation`` are keywords of `augment`.
    """
    loss = PairLoss()

    def step(_: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(images), (min(batch_size, len(images)),), generator=generator)
        # An image must not be its own negative.
        batch = images[torch.unique(chosen)]
        views = [augment(batch, generator, **augmentation) for _ in range(2)]
        return loss(encoder(views[0]), encoder(views[1]))

    return step


def supervised_step(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    batch_size: int = 128,
    **augmentation: float,
) -> Callable[[int, torch.Generator], Tensor]:
    """Step function for end-to-end training: cross entropy on augmented labelled images.

    ``augmentation`` are keywords of `augment`.
    """

    def step(_: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(images), (min(batch_size, len(images)),), generator=generator)
        logits = network(augment(images[chosen], generator, **augmentation))
        return functional.cross_entropy(logits, labels[chosen])

    return step


@torch.no_grad()
def encode(encoder: nn.Module, X: Any) -> FloatArray:
    """Features of unaugmented rows (N, 64), float64, shape (N, k)."""
    encoder.eval()
    return encoder(to_images(X)).double().numpy()


def load_encoder(tensors: dict[str, Tensor], n_features: int = 32) -> ConvEncoder:
    """ConvEncoder with these weights (see `paperkit.models.load_checkpoint`)."""
    encoder = ConvEncoder(n_features)
    encoder.load_state_dict(tensors)
    return encoder.eval()


def nearest(features: FloatArray, queries: FloatArray, k: int = 5) -> np.ndarray:
    """Indices (Q, k) of the rows of ``features`` with the largest cosine to each query."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    asked = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return np.argsort(-asked @ unit.T, axis=1)[:, : count("k", k)]
