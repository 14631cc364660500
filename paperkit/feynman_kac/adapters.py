r"""Denoisers out of networks that predict noise, velocity or clean data, and out of diffusers models.

A variance-preserving model knows :math:`x = \sqrt{\bar\alpha}\, x_0 + \sqrt{1-\bar\alpha}\,
\epsilon`. In the coordinates of this package :math:`y = x / \sqrt{\bar\alpha}` and
:math:`\sigma^2 = (1 - \bar\alpha) / \bar\alpha`, hence :math:`\bar\alpha = 1/(1+\sigma^2)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .composition import Denoiser

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def timestep_of(sigma: Tensor, alphas_cumprod: Tensor, timesteps: str = "interpolated") -> Tensor:
    """Return the time of a discrete diffusion at noise level sigma.

    Parameters
    ----------
    sigma : Tensor, shape (n,)
    alphas_cumprod : Tensor, shape (T,)
        Falling.
    timesteps : {"interpolated", "nearest"}
        A fractional time, linear in log sigma between two neighbours; or the integer whose log
        sigma is nearest. Levels outside the table are those of its ends.

    Returns
    -------
    Tensor, shape (n,)
        Floating point, or int64 for ``"nearest"``.
    """
    table = (((1 - alphas_cumprod) / alphas_cumprod).log() / 2).to(sigma.device, torch.float64)
    wanted = sigma.double().log().clamp(float(table[0]), float(table[-1]))
    right = torch.searchsorted(table, wanted).clamp(1, len(table) - 1)
    part = (wanted - table[right - 1]) / (table[right] - table[right - 1])
    time = right - 1 + part
    return time.round().long() if timesteps == "nearest" else time


def from_epsilon_model(
    model: Callable[[Tensor, Tensor], Tensor],
    alphas_cumprod: Tensor,
    *,
    prediction_type: str = "epsilon",
    timesteps: str = "interpolated",
    dtype: torch.dtype | None = None,
) -> Denoiser:
    """Make a denoiser of a variance-preserving network.

    Parameters
    ----------
    model : callable
        ``model(x, t) -> Tensor of the shape of x``, x of shape (n, ...) in the network's own
        scale and t of shape (n,).
    alphas_cumprod : Tensor, shape (T,)
        The share of the signal's variance at each time, strictly falling in (0, 1).
    prediction_type : {"epsilon", "v_prediction", "sample"}
        What the network predicts: the noise, ``sqrt(a) noise - sqrt(1-a) clean``, or clean data.
    timesteps : {"interpolated", "nearest"}
        See :func:`timestep_of`. Take ``"nearest"`` for networks that embed whole numbers only.
    dtype : torch.dtype, optional
        Of the network's input; that of the particles by default.

    Returns
    -------
    callable
        ``denoiser(y, sigma)``, see :data:`paperkit.feynman_kac.composition.Denoiser`.
    """
    if not callable(model):
        raise TypeError(f"model must be callable, got {type(model).__name__}")
    if prediction_type not in PREDICTIONS:
        raise ValueError(
            f"prediction_type must be one of {', '.join(PREDICTIONS)}, got {prediction_type!r}"
        )
    if timesteps not in ("interpolated", "nearest"):
        raise ValueError(f"timesteps must be 'interpolated' or 'nearest', got {timesteps!r}")
    table = torch.as_tensor(alphas_cumprod, dtype=torch.float64)
    if table.ndim != 1 or len(table) < 2 or not bool((table.diff() < 0).all()):
        raise ValueError("alphas_cumprod must be one strictly falling row of at least two numbers")
    if not bool(((table > 0) & (table < 1)).all()):
        raise ValueError("alphas_cumprod must lie strictly between 0 and 1")

    def denoiser(y: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.reshape(-1, *(1,) * (y.ndim - 1)).to(y.dtype)
        signal = (1 + level**2) ** -0.5  # sqrt(alpha bar)
        x = signal * y
        time = timestep_of(sigma, table, timesteps)
        if time.is_floating_point():
            time = time.to(dtype or y.dtype)
        out = model(x.to(dtype or y.dtype), time).to(y.dtype)
        if prediction_type == "epsilon":
            return y - level * out
        if prediction_type == "v_prediction":
            return signal * x - level * signal * out
        return out

    return denoiser


def from_diffusers(
    unet: Any,
    scheduler: Any,
    *,
    class_labels: Any = None,
    encoder_hidden_states: Tensor | None = None,
    timesteps: str = "interpolated",
) -> Denoiser:
    """Make a denoiser of a diffusers model and the scheduler that it was trained with.

    Parameters
    ----------
    unet : diffusers.ModelMixin
        Called as ``unet(x, t, ...)`` and read at ``.sample``.
    scheduler : diffusers.SchedulerMixin
        One with ``alphas_cumprod`` (DDPM, DDIM, Euler and most others), or an EDM scheduler, whose
        noise level is sigma itself.
    class_labels : int or Tensor, optional
        One label for all particles.
    encoder_hidden_states : Tensor (n_tokens, n_features), optional
        One text for all particles.
    timesteps : {"interpolated", "nearest"}
        See :func:`timestep_of`.

    Returns
    -------
    callable
        See :data:`paperkit.feynman_kac.composition.Denoiser`.

    Raises
    ------
    TypeError
        If the scheduler has neither ``alphas_cumprod`` nor the settings of EDM.
    ValueError
        If its prediction type is unknown.
    """
    if not callable(unet):
        raise TypeError(f"unet must be callable, got {type(unet).__name__}")
    config = getattr(scheduler, "config", {})
    kind = config.get("prediction_type", "epsilon") if hasattr(config, "get") else "epsilon"
    parameter = next(unet.parameters(), None) if hasattr(unet, "parameters") else None
    dtype = torch.float32 if parameter is None else parameter.dtype

    def network(x: Tensor, time: Tensor) -> Tensor:
        options: dict[str, Any] = {}
        if class_labels is not None:
            label = torch.as_tensor(class_labels, device=x.device)
            options["class_labels"] = label.expand(len(x))
        if encoder_hidden_states is not None:
            text = encoder_hidden_states.to(x.device, dtype)
            options["encoder_hidden_states"] = text.expand(len(x), *text.shape[-2:])
        return unet(x, time, **options).sample

    if hasattr(scheduler, "alphas_cumprod"):
        return from_epsilon_model(
            network,
            scheduler.alphas_cumprod,
            prediction_type=kind,
            timesteps=timesteps,
            dtype=dtype,
        )
    if not (hasattr(config, "get") and config.get("sigma_data")):
        raise TypeError(
            f"{type(scheduler).__name__} has neither alphas_cumprod nor sigma_data: write a "
            "denoiser(y, sigma) by hand"
        )
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"an EDM scheduler with prediction_type {kind!r} is not known")
    data = float(config["sigma_data"])
    sign = 1.0 if kind == "epsilon" else -1.0

    def denoiser(y: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.reshape(-1, *(1,) * (y.ndim - 1)).to(y.dtype)
        total = level**2 + data**2
        out = network((y / total.sqrt()).to(dtype), (sigma.log() / 4).to(dtype)).to(y.dtype)
        return data**2 / total * y + sign * level * data / total.sqrt() * out

    return denoiser
