r"""Simulation of a weighted diffusion by sequential Monte Carlo.

Particles follow the proposal of :mod:`paperkit.feynman_kac.composition`, carry log-weights, and are
drawn anew in proportion to them when the weights have become too unequal (systematic resampling),
or jump one by one at the times of exponential clocks (birth and death). One step from
:math:`\sigma_k` to :math:`\sigma_{k+1}`, with :math:`\Delta = \sigma_k^2 - \sigma_{k+1}^2`::

    s_i   = (D_i(y) - y) / sigma_k^2                       one call of each network
    log w += Delta/2 (|S|^2 - sum_i beta_i |s_i|^2)        no further call
    y     += (1 + zeta^2)/2 Delta S + zeta sqrt(Delta) noise
    if ESS(w) < threshold: log Z += log mean w; resample; w = 1

Populations are independent of each other and run in one batch.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .composition import Composition, log_weight_rate

SCHEMES = ("systematic", "stratified", "multinomial")
RESAMPLING = ("ess", "every", "birth_death")
NOISES = ("target_score", "tempered_noise")


class DegeneracyWarning(UserWarning):
    """Few particles carry the result: the effective sample or the number of ancestors is tiny."""


def sigma_schedule(
    n_steps: int, sigma_max: float, sigma_min: float, kind: str = "log", rho: float = 7.0
) -> Tensor:
    """Return n_steps + 1 falling noise levels.

    Parameters
    ----------
    n_steps : int
    sigma_max, sigma_min : float
        First and last level, ``sigma_max > sigma_min > 0``.
    kind : {"log", "karras", "linear"}
        Equal ratios; equal steps of sigma^(1/rho) (Karras et al., NeurIPS 2022, equation 5); equal
        steps of sigma.
    rho : float
        Exponent of ``"karras"``.

    Returns
    -------
    Tensor, shape (n_steps + 1,), float64
    """
    if isinstance(n_steps, bool) or not isinstance(n_steps, int) or n_steps < 1:
        raise ValueError(f"n_steps must be a positive integer, got {n_steps!r}")
    if not (math.isfinite(sigma_max) and sigma_max > sigma_min > 0):
        raise ValueError(f"need sigma_max > sigma_min > 0, got {sigma_max} and {sigma_min}")
    where = torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)
    if kind == "log":
        return torch.exp(math.log(sigma_max) * (1 - where) + math.log(sigma_min) * where)
    if kind == "karras":
        if not rho > 0:
            raise ValueError(f"rho must be positive, got {rho}")
        ends = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
        return (ends[0] * (1 - where) + ends[1] * where) ** rho
    if kind == "linear":
        return sigma_max * (1 - where) + sigma_min * where
    raise ValueError(f"kind must be 'log', 'karras' or 'linear', got {kind!r}")


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""Return :math:`1 / \sum_k \bar w_k^2` of normalised weights.

    Parameters
    ----------
    log_weights : Tensor, shape (..., K)

    Returns
    -------
    Tensor, shape (...)
        Between 1 and K.
    """
    return 1 / torch.softmax(log_weights, -1).square().sum(-1)


def resample_indices(
    log_weights: Tensor,
    scheme: str = "systematic",
    generator: torch.Generator | None = None,
    *,
    n: int | None = None,
) -> Tensor:
    """Draw ancestors in proportion to weights.

    Parameters
    ----------
    log_weights : Tensor, shape (K,) or (P, K)
        A row is a population; each row has random numbers of its own.
    scheme : {"systematic", "stratified", "multinomial"}
        One random number a row; one in each of n equal strata; independent draws.
    generator : torch.Generator, optional
    n : int, optional
        Number of draws in each row, K by default.

    Returns
    -------
    Tensor, shape (n,) or (P, n), int64

    Raises
    ------
    ValueError
        If a weight is NaN or +inf, all weights of a row are zero, or the scheme is unknown.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    if log_weights.ndim not in (1, 2):
        raise ValueError(f"log_weights must have shape (K,) or (P, K), got {log_weights.ndim} axes")
    rows = log_weights.reshape(-1, log_weights.shape[-1]).double()
    if bool(torch.isnan(rows).any()) or not bool(torch.isfinite(rows.amax(-1)).all()):
        raise ValueError("log_weights hold NaN or +inf, or a population of zero weights only")
    n = rows.shape[1] if n is None else n
    shape, device = (len(rows), n), rows.device
    if scheme == "systematic":
        one = torch.rand(len(rows), 1, dtype=torch.float64, generator=generator, device=device)
        points = (torch.arange(n, device=device) + one) / n
    elif scheme == "stratified":
        each = torch.rand(shape, dtype=torch.float64, generator=generator, device=device)
        points = (torch.arange(n, device=device) + each) / n
    else:
        points = torch.rand(shape, dtype=torch.float64, generator=generator, device=device)
    edges = torch.softmax(rows, -1).cumsum(-1)
    edges = edges / edges[:, -1:]
    # a point that rounding puts on the last edge belongs to the last particle of positive weight
    chosen = torch.searchsorted(edges, points.contiguous(), right=True)
    last = (edges < 1).sum(-1, keepdim=True)
    return torch.minimum(chosen, last).reshape(*log_weights.shape[:-1], n)


@dataclass
class FKCResult:
    """What :func:`sample` returns, for P populations of K particles.

    Attributes
    ----------
    particles : Tensor, shape (P, K, ...)
    log_weights : Tensor, shape (P, K), float64
        Belong to the particles; all zero right after a resampling and without correction.
    log_z_ratio : Tensor, shape (P,), float64
        Estimate of the log of the last normalising constant over the first; of the last alone, if
        the composition has log-densities.
    ess : Tensor, shape (n_steps, P), float64
        Effective sample size after each step's weighting, before resampling.
    ancestors : Tensor, shape (P, K), int64
        Index of each particle's ancestor at the start.
    n_resampled : Tensor, shape (P,), int64
        How often each population was resampled (particles that jumped, for birth and death).
    sigmas : Tensor, shape (n_steps + 1,)
    """

    particles: Tensor
    log_weights: Tensor
    log_z_ratio: Tensor
    ess: Tensor
    ancestors: Tensor
    n_resampled: Tensor
    sigmas: Tensor

    def mean(self, function: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
        """Return the weighted mean of ``function(particles)`` in each population, shape (P, ...)."""
        values = function(self.particles)
        weights = torch.softmax(self.log_weights, -1)
        return (values * weights.reshape(*weights.shape, *(1,) * (values.ndim - 2))).sum(1)

    def resample(self, n: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Return equally weighted particles, shape (P, n, ...), by systematic resampling."""
        chosen = resample_indices(self.log_weights, "systematic", generator, n=n)
        return _gather(self.particles, chosen)

    @property
    def n_unique_ancestors(self) -> Tensor:
        """Number of starting particles that have descendants, shape (P,)."""
        ordered = self.ancestors.sort(-1).values
        return (ordered.diff(dim=-1) != 0).sum(-1) + 1


def zeta_of(noise: float | str, composition: Composition) -> float:
    r"""Return the noise level :math:`\zeta` that a name stands for.

    ``"target_score"`` is 1. ``"tempered_noise"``, for one model to the power :math:`\beta`, is
    :math:`1/\sqrt\beta`: the paper's other sampler for annealing, whose weight is the same.
    """
    if isinstance(noise, str):
        if noise not in NOISES:
            raise ValueError(f"noise must be a number or one of {', '.join(NOISES)}, got {noise!r}")
        if noise == "target_score":
            return 1.0
        if len(composition.exponents) != 1 or composition.is_scheduled:
            raise ValueError("'tempered_noise' is defined for one model with a constant exponent")
        beta = composition.exponents_at(1.0)[0]
        if beta <= 0:
            raise ValueError(f"'tempered_noise' needs a positive exponent, got {beta}")
        return beta**-0.5
    if isinstance(noise, bool) or not isinstance(noise, int | float):
        raise TypeError(f"noise must be a number or a name, got {noise!r}")
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise must be at least 0, got {noise}")
    return float(noise)


def sample(
    composition: Composition,
    shape: tuple[int, ...],
    sigmas: Tensor,
    *,
    noise: float | str = 1.0,
    correct: bool = True,
    resample: str | None = "ess",
    scheme: str = "systematic",
    ess_threshold: float = 0.5,
    active: tuple[float, float] = (0.0, math.inf),
    initial: Tensor | tuple[Any, Any] | None = None,
    generator: torch.Generator | None = None,
    callback: Callable[[int, float, Tensor, Tensor], Any] | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
) -> FKCResult:
    r"""Sample a composition with Feynman-Kac weights.

    Parameters
    ----------
    composition : Composition
        The target.
    shape : tuple of int
        ``(P, K, ...)``: independent populations, particles in each, shape of a particle.
    sigmas : Tensor, shape (n_steps + 1,)
        Falling positive noise levels, see :func:`sigma_schedule`. The result follows the target at
        the last of them.
    noise : float or {"target_score", "tempered_noise"}
        :math:`\zeta`: 0 is the ODE, 1 the usual reverse SDE, more is "churn". The weight is the same.
    correct : bool
        Without it this is the heuristic sampler: same drift, no weights.
    resample : {"ess", "every", "birth_death"} or None
        When the effective sample size falls below ``ess_threshold * K``; after every step; one
        particle at a time by exponential clocks; never (annealed importance sampling).
    scheme : {"systematic", "stratified", "multinomial"}
        How, for the first two.
    ess_threshold : float
        In (0, 1].
    active : (float, float)
        Weights are gathered only for noise levels in this closed interval.
    initial : Tensor or (mean, variance), optional
        Starting particles of that shape, or a Gaussian (:func:`.composed_prior`). By default
        :math:`N(0, \sigma_0^2/B)`, B the sum of the exponents.
    generator : torch.Generator, optional
        Source of all randomness, on the device.
    callback : callable, optional
        ``callback(step, sigma, particles, log_weights)`` after each step, before resampling.
    batch_size : int, optional
        Largest number of particles in one call of a denoiser; all at once by default.
    dtype : torch.dtype
        Of the particles, if `initial` does not hold them. Weights are always float64.
    device : str or torch.device
        Likewise.

    Returns
    -------
    FKCResult

    Raises
    ------
    ValueError
        If an argument is out of range (before any work), or a score is not finite (the message has
        the step and the noise level).
    TypeError
        If an argument has the wrong type.

    Warns
    -----
    DegeneracyWarning
        Once, if at the end a population has fewer than two effective particles, or descends from
        fewer than 5 % of its starting particles.
    """
    zeta = _check(composition, shape, sigmas, noise, correct, resample, scheme, ess_threshold)
    levels = [float(each) for each in sigmas]
    populations, size, *event = shape
    y = _start(composition, shape, levels[0], initial, generator, dtype, device)
    here = y.device
    log_weights = torch.zeros(populations, size, dtype=torch.float64, device=here)
    log_z = torch.zeros(populations, dtype=torch.float64, device=here)
    ancestors = torch.arange(size, device=here).repeat(populations, 1)
    n_resampled = torch.zeros(populations, dtype=torch.int64, device=here)
    clocks: tuple[Tensor, Tensor] | None = None
    trace = []

    with torch.no_grad():
        if correct and composition.log_densities is not None and not torch.is_tensor(initial):
            log_weights = _importance(composition, y, levels[0], initial)
        if correct and resample == "birth_death":
            clocks = torch.zeros_like(log_weights), _exponential(log_weights, generator)
            if bool((log_weights != 0).any()):
                log_z += _log_mean(log_weights)
                chosen = resample_indices(log_weights, scheme, generator)
                y, ancestors = _gather(y, chosen), ancestors.gather(1, chosen)
                log_weights = torch.zeros_like(log_weights)
        for k, (sigma, after) in enumerate(itertools.pairwise(levels)):
            flat = y.reshape(populations * size, *event)
            step, gain = _move(composition, flat, sigma, after, zeta, correct, batch_size)
            if not bool(torch.isfinite(step).all()):
                raise ValueError(f"a score is not finite at step {k}, sigma = {sigma:.6g}")
            spread = zeta * math.sqrt(sigma**2 - after**2)
            y = y + step.reshape(y.shape)
            if spread > 0:
                kick = torch.randn(y.shape, dtype=y.dtype, generator=generator, device=here)
                y = y + spread * kick
            if correct:
                working = active[0] <= sigma <= active[1]
                gain = gain.reshape(populations, size)
                if working and clocks is None:
                    log_weights = log_weights + gain
                trace.append(effective_sample_size(log_weights))
                if callback is not None:
                    callback(k, after, y, log_weights)
                if working and clocks is not None:
                    log_z += _log_mean(gain)
                    chosen, clocks, jumps = _birth_death(gain, *clocks, generator)
                    n_resampled += jumps
                    y, ancestors = _gather(y, chosen), ancestors.gather(1, chosen)
                elif working and resample is not None:
                    if resample == "every":
                        due = torch.ones(populations, dtype=torch.bool, device=here)
                    else:
                        due = trace[-1] < ess_threshold * size
                    if bool(due.any()):
                        rows = due.nonzero()[:, 0]
                        chosen = resample_indices(log_weights[rows], scheme, generator)
                        log_z[rows] += _log_mean(log_weights[rows])
                        y[rows] = _gather(y[rows], chosen)
                        ancestors[rows] = ancestors[rows].gather(1, chosen)
                        log_weights[rows] = _renewed(log_weights[rows], chosen)
                        n_resampled += due
            else:
                trace.append(torch.full_like(log_z, float(size)))
                if callback is not None:
                    callback(k, after, y, log_weights)
        log_z = log_z + _log_mean(log_weights)
    result = FKCResult(
        y, log_weights, log_z, torch.stack(trace), ancestors, n_resampled, sigmas.clone()
    )
    if correct:
        _warn(result)
    return result


# ------------------------------------------------------------------------------------------ parts


def _move(
    composition: Composition,
    y: Tensor,
    sigma: float,
    after: float,
    zeta: float,
    correct: bool,
    batch_size: int | None,
) -> tuple[Tensor, Tensor]:
    """Deterministic part of a step and the gain in log-weight, shapes (n, ...) and (n,)."""
    parts = y.split(batch_size) if batch_size else (y,)
    moves, gains = [], []
    delta = sigma**2 - after**2
    beta = composition.exponents_at(sigma)
    for part in parts:
        scores = composition.scores(part, sigma)
        total = torch.tensordot(torch.tensor(beta, dtype=y.dtype, device=y.device), scores, dims=1)
        move = 0.5 * (1 + zeta**2) * delta * total
        extra: dict[str, Any] = {}
        gain = torch.zeros(len(part), dtype=torch.float64, device=y.device)
        if composition.reward is not None and composition.reward_schedule is not None:
            weight = float(composition.reward_schedule(sigma))
            reward, gradient = _reward(composition, part)
            move = move + 0.5 * zeta**2 * delta * weight * gradient
            slope = float(composition.reward_schedule(after)) - weight
            extra = {"reward_gradient": gradient, "reward_weight": weight}
            if correct and slope:
                gain = gain + slope * reward.double()
        if correct:
            gain = gain + delta * log_weight_rate(scores, beta, **extra)
            if composition.is_scheduled and composition.log_densities is not None:
                level = torch.full((len(part),), sigma, dtype=y.dtype, device=y.device)
                later = composition.exponents_at(after)
                for now, then, density in zip(beta, later, composition.log_densities, strict=True):
                    if then != now:
                        gain = gain + (then - now) * density(part, level)
        moves.append(move)
        gains.append(gain)
    return (moves[0], gains[0]) if len(moves) == 1 else (torch.cat(moves), torch.cat(gains))


def _reward(composition: Composition, y: Tensor) -> tuple[Tensor, Tensor]:
    assert composition.reward is not None
    with torch.enable_grad():
        points = y.detach().requires_grad_(True)
        reward = composition.reward(points)
        if not torch.is_tensor(reward) or reward.shape != (len(y),):
            raise ValueError(f"reward must return a tensor of shape ({len(y)},)")
        gradient = torch.autograd.grad(reward.sum(), points)[0]
    return reward.detach(), gradient


def _birth_death(
    gain: Tensor, spent: Tensor, limit: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """Ancestors after one step of the clocks, the clocks, and how many particles jumped."""
    excess = gain - gain.mean(-1, keepdim=True)
    spent = spent + (-excess).clamp(min=0)
    dying = spent > limit
    chosen = torch.arange(gain.shape[1], device=gain.device).repeat(len(gain), 1)
    rows = dying.any(-1).nonzero()[:, 0]
    if len(rows):
        births = excess[rows].clamp(min=0)
        drawn = torch.multinomial(births, gain.shape[1], replacement=True, generator=generator)
        chosen[rows] = torch.where(dying[rows], drawn, chosen[rows])
        spent = torch.where(dying, 0.0, spent)
        limit = torch.where(dying, _exponential(limit, generator), limit)
    return chosen, (spent, limit), dying.sum(-1)


def _exponential(like: Tensor, generator: torch.Generator | None) -> Tensor:
    uniform = torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=generator)
    return -torch.log1p(-uniform)


def _log_mean(log_weights: Tensor) -> Tensor:
    return torch.logsumexp(log_weights, -1) - math.log(log_weights.shape[-1])


def _renewed(log_weights: Tensor, chosen: Tensor) -> Tensor:
    """Log-weights right after a resampling: what they said is now said by the numbers of copies."""
    return torch.zeros_like(log_weights)


def _gather(particles: Tensor, chosen: Tensor) -> Tensor:
    rows = torch.arange(len(particles), device=particles.device)[:, None]
    return particles[rows, chosen]


def _gaussian(
    composition: Composition, sigma: float, initial: Any, event: list[int], y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the starting Gaussian, each of shape (...)."""
    if initial is None:
        total = sum(composition.exponents_at(sigma))
        if not total > 0:
            raise ValueError(
                f"the exponents sum to {total:g}: they give a start that cannot be normalised; "
                "pass initial"
            )
        mean, variance = torch.zeros(()), torch.tensor(sigma**2 / total)
    else:
        mean, variance = (torch.as_tensor(each) for each in initial)
    out = []
    for name, each in (("mean", mean), ("variance", variance)):
        try:
            out.append(each.double().broadcast_to(tuple(event)))
        except RuntimeError:
            raise ValueError(
                f"the {name} of initial has shape {tuple(each.shape)}, particles {tuple(event)}"
            ) from None
    if not bool((out[1] > 0).all()):
        raise ValueError("the variance of initial must be positive")
    return out[0], out[1]


def _start(
    composition: Composition,
    shape: tuple[int, ...],
    sigma: float,
    initial: Any,
    generator: torch.Generator | None,
    dtype: torch.dtype,
    device: str | torch.device,
) -> Tensor:
    if torch.is_tensor(initial):
        if tuple(initial.shape) != tuple(shape):
            raise ValueError(f"initial has shape {tuple(initial.shape)}, expected {tuple(shape)}")
        if not initial.is_floating_point() or not bool(torch.isfinite(initial).all()):
            raise ValueError("initial must hold finite floating-point numbers")
        return initial.clone()
    if initial is not None and (not isinstance(initial, tuple | list) or len(initial) != 2):
        raise TypeError("initial must be a tensor or a pair (mean, variance)")
    mean, variance = _gaussian(composition, sigma, initial, list(shape[2:]))
    noise = torch.randn(shape, dtype=dtype, generator=generator, device=device)
    return mean.to(device, dtype) + variance.sqrt().to(device, dtype) * noise


def _importance(composition: Composition, y: Tensor, sigma: float, initial: Any) -> Tensor:
    """Log-weights of the start: target over the Gaussian that was drawn from."""
    event = list(y.shape[2:])
    mean, variance = (each.to(y.device) for each in _gaussian(composition, sigma, initial, event))
    gap = ((y.double() - mean) ** 2 / variance + torch.log(2 * math.pi * variance)).flatten(2)
    target = composition.log_density(y.flatten(0, 1), sigma).reshape(y.shape[:2])
    return target.double() + 0.5 * gap.sum(-1)


def _check(
    composition: Composition,
    shape: tuple[int, ...],
    sigmas: Tensor,
    noise: float | str,
    correct: bool,
    resample: str | None,
    scheme: str,
    ess_threshold: float,
) -> float:
    """Refuse bad settings before any work; return zeta."""
    if not isinstance(composition, Composition):
        raise TypeError(f"composition must be a Composition, got {type(composition).__name__}")
    if not isinstance(sigmas, torch.Tensor):
        raise TypeError(f"sigmas must be a tensor, got {type(sigmas).__name__}")
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(f"sigmas must be one row of at least two levels, got {sigmas.shape}")
    if not bool(torch.isfinite(sigmas).all()) or not bool((sigmas > 0).all()):
        raise ValueError("sigmas must be finite and positive")
    if not bool((sigmas.diff() < 0).all()):
        raise ValueError("sigmas must fall strictly")
    if len(shape) < 2 or any(isinstance(n, bool) or not isinstance(n, int) for n in shape):
        raise ValueError(f"shape must be (populations, particles, *event), got {shape}")
    if any(n < 1 for n in shape):
        raise ValueError(f"every number in shape must be at least 1, got {shape}")
    if correct and shape[1] < 2:
        raise ValueError("a corrected population needs at least two particles")
    if resample is not None and resample not in RESAMPLING:
        raise ValueError(f"resample must be None or one of {RESAMPLING}, got {resample!r}")
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    if not 0 < ess_threshold <= 1:
        raise ValueError(f"ess_threshold must lie in (0, 1], got {ess_threshold}")
    return zeta_of(noise, composition)


def _warn(result: FKCResult) -> None:
    size = result.log_weights.shape[1]
    least = float(result.ess[-1].min())
    few = int(result.n_unique_ancestors.min())
    if least < 2 or few < 0.05 * size:
        warnings.warn(
            f"a population of {size} particles ends with an effective sample of {least:.1f} and "
            f"{few} ancestors: its estimates are dominated by few particles",
            DegeneracyWarning,
            stacklevel=3,
        )
