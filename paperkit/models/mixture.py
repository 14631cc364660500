r"""A Gaussian mixture seen through Gaussian noise: a model whose every answer is known exactly.

Clean data x has density :math:`\sum_k w_k N(x; m_k, \mathrm{diag}(v_k))`. With :math:`y = x +
\sigma n`, n standard normal, the noisy density is the same mixture with variances :math:`v_k +
\sigma^2`, and

.. math::

   \nabla_y \log p_\sigma(y) = \sum_k r_k(y) \frac{m_k - y}{v_k + \sigma^2}, \qquad
   E[x \mid y] = y + \sigma^2 \nabla_y \log p_\sigma(y),

where :math:`r_k` are the posterior probabilities of the components. The second identity is
Tweedie's formula (Robbins 1956; Efron 2011, "Tweedie's formula and selection bias", JASA 106).
"""

from __future__ import annotations

import math
from typing import Any

import torch


class GaussianMixture:
    """Mixture of K axis-aligned Gaussians in d dimensions, in float64.

    Parameters
    ----------
    weights : array_like, shape (K,)
        Positive, sum 1.
    means : array_like, shape (K, d)
    variances : array_like, shape (K, d)
        Variance along each axis, not negative. A zero (a point mass) needs ``sigma > 0``.

    Raises
    ------
    ValueError
        If shapes disagree, or a value is not finite or out of range.

    Notes
    -----
    Points ``y`` have shape (..., d) and ``sigma`` broadcasts against (...). Results are float64 on
    the device of ``y`` and differentiable. With :math:`\\bar\\alpha`, the noise scale of a
    variance-preserving diffusion, :math:`x_t = \\sqrt{\\bar\\alpha}\\, y` and :math:`\\sigma^2 =
    (1 - \\bar\\alpha)/\\bar\\alpha`, and the noise prediction is ``(y - denoise(y, sigma)) /
    sigma``.
    """

    def __init__(self, weights: Any, means: Any, variances: Any) -> None:
        self.weights = torch.as_tensor(weights, dtype=torch.float64)  # (K,)
        self.means = torch.as_tensor(means, dtype=torch.float64)  # (K, d)
        self.variances = torch.as_tensor(variances, dtype=torch.float64)  # (K, d)
        if self.weights.ndim != 1 or self.means.ndim != 2 or len(self.means) != len(self.weights):
            raise ValueError(
                "weights must have shape (K,) and means (K, d), got "
                f"{tuple(self.weights.shape)} and {tuple(self.means.shape)}"
            )
        if self.variances.shape != self.means.shape:
            raise ValueError(
                f"variances must have the shape of means {tuple(self.means.shape)}, "
                f"got {tuple(self.variances.shape)}"
            )
        for name in ("weights", "means", "variances"):
            if not getattr(self, name).isfinite().all():
                raise ValueError(f"{name} must be finite")
        if (self.weights <= 0).any() or abs(float(self.weights.sum()) - 1) > 1e-6:
            raise ValueError(f"weights must be positive with sum 1, got {self.weights.tolist()}")
        if (self.variances < 0).any():
            raise ValueError("variances must not be negative")

    def __repr__(self) -> str:
        k, d = self.means.shape
        return f"GaussianMixture(K={k}, d={d})"

    def log_prob(self, y: Any, sigma: Any = 0.0) -> torch.Tensor:
        """Return the log-density of y = clean + sigma * noise.

        Parameters
        ----------
        y : array_like, shape (..., d)
        sigma : float or array_like broadcasting against (...)

        Returns
        -------
        Tensor, shape (...), float64
        """
        return self._joint(y, sigma)[1].logsumexp(-1)

    def posterior(self, y: Any, sigma: Any = 0.0) -> torch.Tensor:
        """Return the probability that y came from each component.

        Parameters
        ----------
        y : array_like, shape (..., d)
        sigma : float or array_like broadcasting against (...)

        Returns
        -------
        Tensor, shape (..., K), float64
        """
        return self._joint(y, sigma)[1].softmax(-1)

    def score(self, y: Any, sigma: Any = 0.0) -> torch.Tensor:
        """Return the gradient of the log-density with respect to y.

        Parameters
        ----------
        y : array_like, shape (..., d)
        sigma : float or array_like broadcasting against (...)

        Returns
        -------
        Tensor, shape (..., d), float64
        """
        points, joint, variances = self._joint(y, sigma)
        pull = (self.means.to(points.device) - points[..., None, :]) / variances  # (..., K, d)
        return (joint.softmax(-1)[..., None] * pull).sum(-2)

    def denoise(self, y: Any, sigma: Any) -> torch.Tensor:
        """Return the mean of the clean point given y, the ideal denoiser.

        Parameters
        ----------
        y : array_like, shape (..., d)
        sigma : float or array_like broadcasting against (...)

        Returns
        -------
        Tensor, shape (..., d), float64
        """
        points, joint, variances = self._joint(y, sigma)
        # given a component, a weighted mean of y and the component's mean: exact also for v = 0
        keep = self.variances.to(points.device) / variances  # (..., K, d)
        means = self.means.to(points.device)
        return (joint.softmax(-1)[..., None] * (means + keep * (points[..., None, :] - means))).sum(
            -2
        )

    def sample(self, n: int, generator: torch.Generator, *, return_components: bool = False) -> Any:
        """Draw clean points.

        Parameters
        ----------
        n : int
            How many.
        generator : torch.Generator
            On the CPU.
        return_components : bool
            Also return the component of each point.

        Returns
        -------
        Tensor, shape (n, d), float64
            With ``return_components`` a pair of it and a Tensor of shape (n,), int64.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise ValueError(f"n must be a non-negative integer, got {n!r}")
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
        d = self.means.shape[1]
        if n == 0:
            component = torch.empty(0, dtype=torch.long)
        else:
            component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, d, dtype=torch.float64, generator=generator)
        points = self.means[component] + self.variances[component].sqrt() * noise
        return (points, component) if return_components else points

    def _joint(self, y: Any, sigma: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return y, log(weight * component density) (..., K) and noisy variances (..., K, d)."""
        points = torch.as_tensor(y)
        points = points.to(torch.float64)
        d = self.means.shape[1]
        if points.ndim < 1 or points.shape[-1] != d:
            raise ValueError(f"y must have shape (..., {d}), got {tuple(points.shape)}")
        scale = torch.as_tensor(sigma, dtype=torch.float64, device=points.device)
        if (scale < 0).any() or not scale.isfinite().all():
            raise ValueError("sigma must be finite and not negative")
        variances = self.variances.to(points.device) + scale[..., None, None] ** 2  # (..., K, d)
        if (variances == 0).any():
            raise ValueError("a component of variance zero has no density at sigma = 0")
        gap = points[..., None, :] - self.means.to(points.device)  # (..., K, d)
        exponent = (gap**2 / variances + variances.log() + math.log(2 * math.pi)).sum(-1)
        return points, self.weights.to(points.device).log() - exponent / 2, variances
