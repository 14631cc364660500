"""Noise schedules of the absorbing process, in float64.

A token is replaced by the mask at rate ``sigma(t)`` and stays masked. With the total noise
``sigma_bar(t)``, the integral of the rate, a token is masked at time t with probability
``lambda(t) = 1 - exp(-sigma_bar(t))`` (Ou et al. 2025, section 2). Seen from the other side, a
masked token is revealed at rate ``sigma exp(-sigma_bar) / lambda``, whatever the network says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

__all__ = [
    "CosineSchedule",
    "GeometricSchedule",
    "LogLinearSchedule",
    "NoiseSchedule",
    "unmask_probabilities",
]


@runtime_checkable
class NoiseSchedule(Protocol):
    """How fast tokens are masked: four functions of the time t in [0, 1], in float64."""

    def total_noise(self, t: Any) -> torch.Tensor:
        """Return the integral of the rate from 0 to t."""

    def rate(self, t: Any) -> torch.Tensor:
        """Return the rate at which a clean token is masked."""

    def mask_probability(self, t: Any) -> torch.Tensor:
        """Return the probability that a token is masked at t."""

    def slope(self, t: Any) -> torch.Tensor:
        """Return the derivative of the mask probability, ``rate exp(-total_noise)``."""


def _time(t: Any) -> torch.Tensor:
    time = torch.as_tensor(t).double()
    if not bool(((time >= 0) & (time <= 1)).all()):
        raise ValueError("t must lie in [0, 1]")
    return time


def _check_eps(eps: float) -> None:
    if not 0 <= eps < 1:
        raise ValueError(f"eps must lie in [0, 1), got {eps!r}")


@dataclass(frozen=True)
class LogLinearSchedule:
    """The mask probability grows in proportion to time: ``lambda(t) = (1 - eps) t``.

    Attributes
    ----------
    eps : float
        Probability that a token is still clean at t = 1, in [0, 1).
    """

    eps: float = 0.0

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def total_noise(self, t: Any) -> torch.Tensor:
        """Return ``-log(1 - (1 - eps) t)``."""
        return -torch.log1p(-(1 - self.eps) * _time(t))

    def rate(self, t: Any) -> torch.Tensor:
        """Return ``(1 - eps) / (1 - (1 - eps) t)``."""
        return (1 - self.eps) / (1 - (1 - self.eps) * _time(t))

    def mask_probability(self, t: Any) -> torch.Tensor:
        """Return ``(1 - eps) t``."""
        return (1 - self.eps) * _time(t)

    def slope(self, t: Any) -> torch.Tensor:
        """Return ``1 - eps``."""
        return torch.full_like(_time(t), 1 - self.eps)


@dataclass(frozen=True)
class CosineSchedule:
    """A token is still clean with probability ``cos(pi t (1 - eps) / 2)``.

    Attributes
    ----------
    eps : float
        In [0, 1); how far from the end of the quarter turn the schedule stops.
    """

    eps: float = 0.0

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def _angle(self, t: Any) -> torch.Tensor:
        return (math.pi / 2) * (1 - self.eps) * _time(t)

    def total_noise(self, t: Any) -> torch.Tensor:
        """Return ``-log cos(pi t (1 - eps) / 2)``."""
        # cos(a) = 1 - 2 sin(a/2)^2; at eps = 0 and t = 1 nothing is left, and the noise is infinite
        return -torch.log1p(-self.mask_probability(t))

    def rate(self, t: Any) -> torch.Tensor:
        """Return ``(pi/2) (1 - eps) tan(pi t (1 - eps) / 2)``."""
        return (math.pi / 2) * (1 - self.eps) * torch.tan(self._angle(t))

    def mask_probability(self, t: Any) -> torch.Tensor:
        """Return ``1 - cos(pi t (1 - eps) / 2)``."""
        return (2 * torch.sin(self._angle(t) / 2) ** 2).clamp_max(1.0)

    def slope(self, t: Any) -> torch.Tensor:
        """Return ``(pi/2) (1 - eps) sin(pi t (1 - eps) / 2)``."""
        return (math.pi / 2) * (1 - self.eps) * torch.sin(self._angle(t))


@dataclass(frozen=True)
class GeometricSchedule:
    """The total noise grows from ``sigma_min`` to ``sigma_max`` in equal ratios.

    Attributes
    ----------
    sigma_min, sigma_max : float
        Total noise at t = 0 and t = 1; ``0 < sigma_min < sigma_max``.
    """

    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"need 0 < sigma_min < sigma_max, got {self.sigma_min!r} and {self.sigma_max!r}"
            )

    def total_noise(self, t: Any) -> torch.Tensor:
        """Return ``sigma_min^(1 - t) sigma_max^t``."""
        time = _time(t)
        return torch.exp((1 - time) * math.log(self.sigma_min) + time * math.log(self.sigma_max))

    def rate(self, t: Any) -> torch.Tensor:
        """Return the total noise times ``log(sigma_max / sigma_min)``."""
        return self.total_noise(t) * math.log(self.sigma_max / self.sigma_min)

    def mask_probability(self, t: Any) -> torch.Tensor:
        """Return ``1 - exp(-total noise)``."""
        return -torch.expm1(-self.total_noise(t))

    def slope(self, t: Any) -> torch.Tensor:
        """Return the rate times ``exp(-total noise)``."""
        return self.rate(t) * torch.exp(-self.total_noise(t))


def unmask_probabilities(
    schedule: NoiseSchedule, steps: int, method: str = "tweedie"
) -> np.ndarray:
    """Return the probability that a masked token is revealed in each step of a sampler.

    The steps go from t = 1 to t = 0 in equal times. The last one reveals what is left.

    Parameters
    ----------
    schedule : NoiseSchedule
    steps : int
        N, at least 1.
    method : {"tweedie", "euler"}
        ``(lambda_{n-1} - lambda_n) / lambda_{n-1}``, or the step length times the reverse rate
        ``sigma exp(-sigma_bar) / lambda`` at the start of the step, at most 1. For a mask
        probability proportional to time the two are the same, ``1 / (N - n + 1)``.

    Returns
    -------
    numpy.ndarray
        float64 ``[steps]``.

    Raises
    ------
    ValueError
        If ``steps`` is below 1 or ``method`` is unknown.
    """
    _check_steps(steps)
    t = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    if method == "tweedie":
        level = schedule.mask_probability(t)
        rho = (level[:-1] - level[1:]) / level[:-1]
    elif method == "euler":
        start = t[:-1]
        rho = schedule.slope(start) / schedule.mask_probability(start) / steps
    else:
        raise ValueError(f"method must be 'tweedie' or 'euler', got {method!r}")
    rho = rho.clamp(0.0, 1.0)
    rho[-1] = 1.0
    return rho.numpy()


def _check_steps(steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(f"steps must be a positive integer, got {steps!r}")
