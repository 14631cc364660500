"""Models whose score is known: a kernel density estimate of real data.

The Gaussian mixture is :class:`paperkit.models.GaussianMixture`. Both are denoisers
(``model.denoise``) and log-densities (``model.log_prob``) of a
:class:`~paperkit.feynman_kac.composition.Composition`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from paperkit.models.mixture import GaussianMixture

from .composition import StackedDenoiser


class KernelDensity:
    r"""Equal mixture of Gaussians of one width around data, seen through Gaussian noise.

    :math:`q(y, \sigma) = \frac{1}{N} \sum_j N(y; x_j, (h^2 + \sigma^2) I)`: a model of real data that
    answers exactly at every noise level. Distances come from one matrix product, in the precision of
    the points.

    Parameters
    ----------
    data : Tensor, shape (N, d)
    bandwidth : float
        h > 0, in the units of the data.
    """

    def __init__(self, data: Any, bandwidth: float) -> None:
        self.data = torch.as_tensor(data, dtype=torch.float64)  # (N, d)
        if self.data.ndim != 2 or len(self.data) == 0:
            raise ValueError(f"data must have shape (N, d), got {tuple(self.data.shape)}")
        if not bool(torch.isfinite(self.data).all()):
            raise ValueError("data must be finite")
        if not (math.isfinite(bandwidth) and bandwidth > 0):
            raise ValueError(f"bandwidth must be a positive number, got {bandwidth}")
        self.bandwidth = float(bandwidth)
        self._squares = (self.data**2).sum(-1)

    def __repr__(self) -> str:
        n, d = self.data.shape
        return f"KernelDensity(N={n}, d={d}, bandwidth={self.bandwidth:g})"

    def _joint(self, y: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Return y, -distance^2 / (2 variance) (n, N) and the variance (n, 1)."""
        points = torch.as_tensor(y)
        if points.ndim != 2 or points.shape[1] != self.data.shape[1]:
            raise ValueError(
                f"y must have shape (n, {self.data.shape[1]}), got {tuple(points.shape)}"
            )
        level = torch.as_tensor(sigma, dtype=points.dtype, device=points.device)
        variance = (self.bandwidth**2 + level**2).reshape(-1, 1)
        data = self.data.to(points)
        squares = (points**2).sum(-1, keepdim=True) + self._squares.to(points)
        distance = squares - 2 * points @ data.T
        return points, -distance / (2 * variance), variance

    def log_prob(self, y: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """Return the log-density of clean + sigma * noise at y (n, d), shape (n,)."""
        points, exponent, variance = self._joint(y, sigma)
        d = points.shape[1]
        constant = math.log(len(self.data)) + 0.5 * d * torch.log(2 * math.pi * variance[:, 0])
        return exponent.logsumexp(-1) - constant

    def denoise(self, y: Tensor, sigma: Tensor | float) -> Tensor:
        """Return the mean of the clean point given y (n, d), shape (n, d)."""
        points, exponent, variance = self._joint(y, sigma)
        centre = exponent.softmax(-1) @ self.data.to(points)
        return centre + self.bandwidth**2 / variance * (points - centre)

    def score(self, y: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """Return the gradient of the log-density at y (n, d), shape (n, d)."""
        points, exponent, variance = self._joint(y, sigma)
        return (exponent.softmax(-1) @ self.data.to(points) - points) / variance

    def sample(self, n: int, generator: torch.Generator, sigma: float = 0.0) -> Tensor:
        """Draw n points of clean + sigma * noise, shape (n, d)."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise ValueError(f"n must be a non-negative integer, got {n!r}")
        which = torch.randint(len(self.data), (n,), generator=generator)
        noise = torch.randn(n, self.data.shape[1], dtype=torch.float64, generator=generator)
        return self.data[which] + math.hypot(self.bandwidth, sigma) * noise


def stack_mixtures(*mixtures: GaussianMixture) -> StackedDenoiser:
    """Return the denoisers of several Gaussian mixtures in one pass over all their components.

    Parameters
    ----------
    *mixtures : paperkit.models.GaussianMixture
        Of one dimension d.

    Returns
    -------
    StackedDenoiser
        For particles of shape (n, d) that share one noise level. The results are those of
        ``mixture.denoise``, several times faster, and in the precision of the particles.
    """
    if not mixtures:
        raise ValueError("no mixture given")
    if len({m.means.shape[1] for m in mixtures}) > 1:
        raise ValueError("the mixtures differ in dimension")
    sizes = [len(m.weights) for m in mixtures]
    log_weights = torch.cat([m.weights for m in mixtures]).log()
    means, variances = (
        torch.cat([getattr(m, n) for m in mixtures]) for n in ("means", "variances")
    )

    def joint(y: Tensor, sigma: Tensor) -> Tensor:
        # |y - m|^2 / v = y^2 a - 2 y b + c, matrix products over all components; particles lie along
        # the last axis, where sums over few components are fast
        total = variances + float(sigma[0]) ** 2  # (K, d)
        constant = log_weights - 0.5 * ((means**2 / total) + total.log()).sum(-1)
        a, b, keep, rest, constant = (
            each.to(y.device, y.dtype)
            for each in (
                1 / total,
                means / total,
                variances / total,
                means * (1 - variances / total),
                constant,
            )
        )
        points = y.T  # (d, n)
        exponent = b @ points - 0.5 * (a @ points**2) + constant[:, None]  # (K, n)
        answers = []
        for part, m, k in zip(
            exponent.split(sizes), rest.split(sizes), keep.split(sizes), strict=True
        ):
            posterior = part.softmax(0)
            answers.append((m.T @ posterior + points * (k.T @ posterior)).T)
        return torch.stack(answers)

    return StackedDenoiser(joint, len(mixtures))
