r"""Products of powers of diffusion models, and the weight that makes their simulation exact.

Noisy versions :math:`q_i(y, \sigma)` of several models, y = clean + sigma * noise, are combined into

.. math::

   p(y, \sigma) \propto \exp L, \qquad
   L = \sum_i \beta_i \log q_i(y, \sigma) + \beta_r(\sigma)\, r(y).

With scores :math:`s_i`, their sum :math:`S = \sum_i \beta_i s_i` and the falling variance
:math:`\sigma^2` as clock, the process

.. math::

   dy = \left[\tfrac{1}{2}(1+\zeta^2) S + \tfrac{1}{2} \zeta^2 \beta_r \nabla r\right] d\tau
        + \zeta\, dW, \qquad d \log w = g\, d\tau, \qquad d\tau = -d\sigma^2,

.. math::

   g = \tfrac{1}{2} \Big(|S|^2 - \sum_i \beta_i |s_i|^2\Big)
       + \tfrac{1}{2} \beta_r \langle S, \nabla r\rangle + \dot\beta_r\, r

has :math:`p(y, \sigma)` as its *weighted* marginals, for every noise level :math:`\zeta \ge 0`: all
divergences and Laplacians cancel. This is the content of Propositions 3.1 to 3.4 of Skreta,
Akhound-Sadegh, Ohanesian et al., "Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and
Product of Experts", ICML 2025, in the coordinates in which the forward process has no drift.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""``denoiser(y, sigma) -> E[clean | y]`` for y of shape (n, ...) and sigma of shape (n,)."""

Exponent = float | Callable[[float], float]
"""A number, or a function of sigma (which needs log-densities)."""


class StackedDenoiser:
    """Several denoisers that answer in one call, so that a network runs once a step.

    Parameters
    ----------
    function : callable
        ``function(y, sigma) -> Tensor of shape (n_experts, n, ...)``.
    n_experts : int
        How many denoisers it holds.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], n_experts: int) -> None:
        if not callable(function):
            raise TypeError(f"function must be callable, got {type(function).__name__}")
        if n_experts < 1:
            raise ValueError(f"n_experts must be at least 1, got {n_experts}")
        self.function = function
        self.n_experts = n_experts

    def __len__(self) -> int:
        return self.n_experts

    def __call__(self, y: Tensor, sigma: Tensor) -> Tensor:
        """Return the clean points that each expert expects, shape (n_experts, n, ...)."""
        return self.function(y, sigma)


def stack_denoisers(model: Callable[..., Tensor], conditions: Sequence[Any]) -> StackedDenoiser:
    """Make one batched denoiser out of one conditional model and several conditions.

    Parameters
    ----------
    model : callable
        ``model(y, sigma, condition) -> Tensor (m, ...)`` for y (m, ...), sigma (m,) and a
        condition with m rows.
    conditions : sequence
        One for each expert: a number (a class label), or a tensor of shape (n_features, ...) that
        is repeated for every particle.

    Returns
    -------
    StackedDenoiser
        Calls ``model`` once on the particles of all experts together.
    """
    if not callable(model):
        raise TypeError(f"model must be callable, got {type(model).__name__}")
    rows = [torch.as_tensor(each) for each in conditions]
    if not rows:
        raise ValueError("conditions is empty")
    if len({each.shape for each in rows}) > 1:
        raise ValueError(f"conditions differ in shape: {[tuple(each.shape) for each in rows]}")

    def joint(y: Tensor, sigma: Tensor) -> Tensor:
        n, m = len(y), len(rows)
        condition = torch.stack(rows).to(y.device).repeat_interleave(n, dim=0)
        copies = y.repeat(m, *(1,) * (y.ndim - 1))
        return model(copies, sigma.repeat(m), condition).reshape(m, *y.shape)

    return StackedDenoiser(joint, len(rows))


@dataclass(frozen=True)
class Composition:
    r"""A target :math:`\prod_i q_i^{\beta_i} \exp(\beta_r r)` made of diffusion models.

    Attributes
    ----------
    denoisers : sequence of callable, or StackedDenoiser
        One for each model, see :data:`Denoiser`.
    exponents : sequence of float or callable
        One for each model. A function of sigma makes the exponent change along the way, which needs
        `log_densities`.
    reward : callable, optional
        ``reward(y) -> Tensor (n,)``, differentiable: its gradient is taken by autograd.
    reward_schedule : callable, optional
        ``reward_schedule(sigma) -> float``, the weight of the reward at noise level sigma.
    log_densities : sequence of callable, optional
        ``log_density(y, sigma) -> Tensor (n,)`` for each model. With them the start is weighted
        exactly and log-normalising constants are absolute.

    Raises
    ------
    ValueError
        If lengths differ, a number is not finite, a reward comes without schedule (or the reverse),
        or exponents are functions and there are no log-densities.
    TypeError
        If a denoiser, reward, schedule or density is not callable.
    """

    denoisers: Sequence[Denoiser] | StackedDenoiser
    exponents: Sequence[Exponent]
    reward: Callable[[Tensor], Tensor] | None = None
    reward_schedule: Callable[[float], float] | None = None
    log_densities: Sequence[Callable[[Tensor, Tensor], Tensor]] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.denoisers, StackedDenoiser):
            if callable(self.denoisers):
                raise TypeError("denoisers must be a sequence; wrap a single one in a list")
            for i, each in enumerate(self.denoisers):
                if not callable(each):
                    raise TypeError(f"denoisers[{i}] must be callable, got {type(each).__name__}")
        if len(self.denoisers) == 0:
            raise ValueError("denoisers is empty")
        if len(self.denoisers) != len(self.exponents):
            raise ValueError(
                f"{len(self.denoisers)} denoisers, but {len(self.exponents)} exponents"
            )
        for i, power in enumerate(self.exponents):
            if callable(power):
                if self.log_densities is None:
                    raise ValueError(f"exponents[{i}] is a function: it needs log_densities")
            elif isinstance(power, bool) or not isinstance(power, numbers.Real):
                raise TypeError(f"exponents[{i}] must be a number or a function, got {power!r}")
            elif not math.isfinite(power):
                raise ValueError(f"exponents[{i}] must be finite, got {power}")
        if (self.reward is None) != (self.reward_schedule is None):
            raise ValueError("reward and reward_schedule go together: one of them is missing")
        for name in ("reward", "reward_schedule"):
            each = getattr(self, name)
            if each is not None and not callable(each):
                raise TypeError(f"{name} must be callable, got {type(each).__name__}")
        if self.log_densities is not None:
            if len(self.log_densities) != len(self.denoisers):
                raise ValueError(
                    f"{len(self.log_densities)} log_densities, but {len(self.denoisers)} denoisers"
                )
            for i, density in enumerate(self.log_densities):
                if not callable(density):
                    raise TypeError(f"log_densities[{i}] must be callable")

    def exponents_at(self, sigma: float) -> list[float]:
        """Return the exponents at noise level `sigma`."""
        return [float(b(sigma)) if callable(b) else float(b) for b in self.exponents]

    @property
    def is_scheduled(self) -> bool:
        """Whether an exponent changes with sigma."""
        return any(callable(each) for each in self.exponents)

    def scores(self, y: Tensor, sigma: float) -> Tensor:
        r"""Return the scores :math:`(D_i(y, \sigma) - y) / \sigma^2` of all models.

        Parameters
        ----------
        y : Tensor, shape (n, ...)
        sigma : float

        Returns
        -------
        Tensor, shape (n_models, n, ...)

        Raises
        ------
        ValueError
            If a denoiser returns another shape than that of `y`.
        """
        level = torch.full((len(y),), sigma, dtype=y.dtype, device=y.device)
        if isinstance(self.denoisers, StackedDenoiser):
            clean = self.denoisers(y, level).to(y.dtype)
            if clean.shape != (len(self.denoisers), *y.shape):
                raise ValueError(
                    f"the stacked denoiser returned shape {tuple(clean.shape)}, expected "
                    f"{(len(self.denoisers), *y.shape)}"
                )
            return (clean - y) / sigma**2
        scores = []
        for i, denoiser in enumerate(self.denoisers):
            clean = denoiser(y, level)
            if clean.shape != y.shape:
                raise ValueError(
                    f"denoisers[{i}] returned shape {tuple(clean.shape)} for particles of shape "
                    f"{tuple(y.shape)}"
                )
            scores.append((clean.to(y.dtype) - y) / sigma**2)
        return torch.stack(scores)

    def log_density(self, y: Tensor, sigma: float) -> Tensor:
        """Return L(y, sigma), the unnormalised log-density of the target, shape (n,).

        Raises
        ------
        ValueError
            If there are no `log_densities`.
        """
        if self.log_densities is None:
            raise ValueError("this composition has no log_densities")
        level = torch.full((len(y),), sigma, dtype=y.dtype, device=y.device)
        total = torch.zeros(len(y), dtype=torch.float64, device=y.device)
        for exponent, density in zip(self.exponents_at(sigma), self.log_densities, strict=True):
            total = total + exponent * density(y, level)
        if self.reward is not None and self.reward_schedule is not None:
            total = total + float(self.reward_schedule(sigma)) * self.reward(y)
        return total


def annealed(denoiser: Denoiser, beta: Exponent, **options: Any) -> Composition:
    r"""Return the target :math:`q^\beta`, a model at the temperature 1/beta (Proposition 3.2).

    `options` are further fields of :class:`Composition`.
    """
    return Composition([denoiser], [beta], **options)


def guided(unconditional: Denoiser, conditional: Denoiser, scale: float, **options: Any) -> Any:
    r"""Return the target :math:`q_u^{1-\beta} q_c^{\beta}` of classifier-free guidance.

    `scale` is :math:`\beta`: 1 is the conditional model, more is guidance, and between 0 and 1 the
    geometric average of both models (Proposition 3.1). `options` are fields of :class:`Composition`.
    """
    return Composition([unconditional, conditional], [1.0 - scale, scale], **options)


def product(
    *denoisers: Denoiser, exponents: Sequence[Exponent] | None = None, **options: Any
) -> Composition:
    r"""Return the target :math:`\prod_i q_i^{\beta_i}`, exponents 1 by default (Proposition 3.3)."""
    powers = [1.0] * len(denoisers) if exponents is None else exponents
    return Composition(list(denoisers), powers, **options)


def tilted(
    denoiser: Denoiser,
    reward: Callable[[Tensor], Tensor],
    schedule: Callable[[float], float],
    **options: Any,
) -> Composition:
    r"""Return the target :math:`q \exp(\beta_r r)` (Proposition 3.4); `schedule` is a function of sigma."""
    return Composition([denoiser], [1.0], reward, schedule, **options)


def log_weight_rate(
    scores: Tensor,
    exponents: Sequence[float],
    *,
    noise_variance: float | Tensor = 1.0,
    divergence: float | Tensor = 0.0,
    reward: Tensor | None = None,
    reward_gradient: Tensor | None = None,
    reward_weight: float = 0.0,
    reward_slope: float = 0.0,
    forward_drift: Tensor | None = None,
) -> Tensor:
    r"""Return g, the rate at which log-weights grow: the paper's formulas in one.

    .. math::

       g = (B-1)\, \mathrm{div} f + \tfrac{1}{2} \nu^2 \Big(|S|^2 - \sum_i \beta_i |s_i|^2\Big)
           - \beta_r \langle f, \nabla r \rangle + \tfrac{1}{2} \nu^2 \beta_r
           \langle S, \nabla r\rangle + \dot\beta_r\, r,

    with :math:`B = \sum_i \beta_i`. It does not depend on the noise of the sampler. The defaults are
    the coordinates of this package (no forward drift, the variance as clock).

    Parameters
    ----------
    scores : Tensor, shape (n_models, n, ...)
    exponents : sequence of n_models float
    noise_variance : float or Tensor (n,)
        :math:`\nu^2`, the squared noise coefficient of the forward process.
    divergence : float or Tensor (n,)
        :math:`\mathrm{div} f` of the forward drift.
    reward : Tensor (n,), optional
    reward_gradient : Tensor (n, ...), optional
    reward_weight, reward_slope : float
        :math:`\beta_r` and its derivative in reverse time.
    forward_drift : Tensor (n, ...), optional
        :math:`f(y)`, needed only with a reward.

    Returns
    -------
    Tensor, shape (n,), float64

    Raises
    ------
    ValueError
        If the number of scores and exponents differ, or there is a reward weight and no gradient.
    """
    if len(scores) != len(exponents):
        raise ValueError(f"{len(scores)} scores, but {len(exponents)} exponents")
    if reward_weight and reward_gradient is None:
        raise ValueError("reward_weight needs reward_gradient")
    if reward_slope and reward is None:
        raise ValueError("reward_slope needs reward")
    flat = scores.flatten(2).double() if scores.ndim > 2 else scores[..., None].double()
    beta = torch.as_tensor(exponents, dtype=torch.float64, device=flat.device)
    total = torch.tensordot(beta, flat, dims=1)  # S, (n, D)
    squares = torch.tensordot(beta, (flat**2).sum(-1), dims=1)
    rate = 0.5 * noise_variance * ((total**2).sum(-1) - squares)
    rate = rate + (float(beta.sum()) - 1) * divergence
    if reward_weight and reward_gradient is not None:
        gradient = reward_gradient.reshape(total.shape).double()
        rate = rate + 0.5 * noise_variance * reward_weight * (total * gradient).sum(-1)
        if forward_drift is not None:
            rate = rate - reward_weight * (forward_drift.reshape(total.shape) * gradient).sum(-1)
    if reward_slope and reward is not None:
        rate = rate + reward_slope * reward.double()
    return rate


def generic_weight_rate(
    log_target: Callable[[Tensor, Tensor], Tensor],
    drift: Callable[[Tensor, Tensor], Tensor],
    noise: float,
    y: Tensor,
    tau: float,
) -> Tensor:
    r"""Return the weight rate of *any* proposal for *any* path of densities, by autograd.

    .. math::

       g = \partial_\tau L + \mathrm{div}\, v + \langle v, \nabla L \rangle
           - \tfrac{1}{2} \nu^2 (\Delta L + |\nabla L|^2).

    It costs second derivatives in every dimension, and it is what the closed form is checked
    against.

    Parameters
    ----------
    log_target : callable
        ``L(y, tau) -> Tensor (n,)``, differentiable in both.
    drift : callable
        ``v(y, tau) -> Tensor (n, d)``, differentiable in y.
    noise : float
        :math:`\nu`, the noise coefficient of the proposal.
    y : Tensor, shape (n, d)
    tau : float
        Reverse time.

    Returns
    -------
    Tensor, shape (n,)
    """
    with torch.enable_grad():
        points = y.detach().clone().requires_grad_(True)
        clock = torch.full((len(y),), tau, dtype=y.dtype, requires_grad=True)
        level = log_target(points, clock)
        along, gradient = torch.autograd.grad(level.sum(), (clock, points), create_graph=True)
        velocity = drift(points, clock)
        laplacian = torch.zeros(len(y), dtype=y.dtype)
        divergence = torch.zeros(len(y), dtype=y.dtype)
        for axis in range(y.shape[1]):
            for values, store in ((gradient, laplacian), (velocity, divergence)):
                one = torch.autograd.grad(
                    values[:, axis].sum(), points, retain_graph=True, allow_unused=True
                )[0]
                if one is not None:
                    store += one[:, axis].detach()
        inner = (velocity * gradient).sum(-1)
        spread = laplacian + (gradient**2).sum(-1)
        return (along + divergence + inner - 0.5 * noise**2 * spread).detach()


def composed_prior(
    exponents: Sequence[float],
    means: Sequence[Any],
    variances: Sequence[Any],
    sigma: float,
) -> tuple[Tensor, Tensor]:
    r"""Return mean and variance of the composition at a high noise level, where models are Gaussian.

    Each model is close to :math:`N(m_i, c_i + \sigma^2)`; their composition has the precision
    :math:`\Lambda = \sum_i \beta_i / (c_i + \sigma^2)`. For one model to the power
    :math:`\beta` that is a variance of :math:`(c + \sigma^2)/\beta`, not the model's own.

    Parameters
    ----------
    exponents : sequence of float
    means, variances : sequences of array_like, shape () or (...)
        Mean and variance of the clean data of each model, along each coordinate.
    sigma : float
        The noise level of the start, > 0.

    Returns
    -------
    mean, variance : Tensor, float64

    Raises
    ------
    ValueError
        If lengths differ, or the precision is not positive in every coordinate: then the exponents
        give a start that cannot be normalised.
    """
    if not len(exponents) == len(means) == len(variances):
        raise ValueError(
            f"{len(exponents)} exponents, {len(means)} means and {len(variances)} variances"
        )
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be a positive number, got {sigma}")
    precision = torch.zeros((), dtype=torch.float64)
    pull = torch.zeros((), dtype=torch.float64)
    for beta, mean, variance in zip(exponents, means, variances, strict=True):
        one = float(beta) / (torch.as_tensor(variance, dtype=torch.float64) + sigma**2)
        precision = precision + one
        pull = pull + one * torch.as_tensor(mean, dtype=torch.float64)
    if not bool((precision > 0).all()):
        raise ValueError(
            f"the exponents {[float(b) for b in exponents]} give a start that cannot be normalised: "
            f"the smallest precision is {float(precision.min()):.3g}"
        )
    return pull / precision, 1 / precision
