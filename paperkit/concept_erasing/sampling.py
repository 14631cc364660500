r"""Sampling from any text-to-image pipeline of `diffusers`, and inverting images into noise.

A *pipeline* here is any object with ``unet``, ``text_encoder``, ``tokenizer`` and ``scheduler``:
``diffusers.StableDiffusionPipeline`` and :class:`paperkit.concept_erasing.scenes.ScenePipeline`
both are. Images come from its ``decode``, or from its ``vae``. Nothing here changes the pipeline;
schedulers, which keep state, are copied for every run.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DDIMInverseScheduler
from torch import Tensor

from .guidance import classifier_free_guidance

__all__ = ["encode_prompts", "generate", "initial_noise", "invert", "purify"]


def encode_prompts(pipe: Any, prompts: Sequence[str]) -> Tensor:
    """Encode prompts as the pipeline's cross-attention states.

    Parameters
    ----------
    pipe : pipeline
    prompts : sequence of B str
        ``""`` is the empty prompt of guidance.

    Returns
    -------
    Tensor, shape (B, L, D)

    Raises
    ------
    TypeError
        For a single text.
    ValueError
        For an empty sequence.

    Warns
    -----
    UserWarning
        If a prompt is longer than the tokenizer's limit and is cut.
    """
    if isinstance(prompts, str):
        raise TypeError(f"prompts must be a list of texts, got one text: [{prompts!r}]?")
    prompts = list(prompts)
    if not prompts:
        raise ValueError("prompts is empty")
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise TypeError(f"prompts[{i}] must be a text, got {type(prompt).__name__}")
    limit = pipe.tokenizer.model_max_length
    lengths = [len(ids) for ids in pipe.tokenizer(prompts, truncation=False).input_ids]
    if max(lengths) > limit:
        longest = prompts[lengths.index(max(lengths))]
        warnings.warn(
            f"a prompt has {max(lengths)} tokens and is cut to {limit}: {longest!r}", stacklevel=2
        )
    encoded = pipe.tokenizer(
        prompts, padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
    )
    device = next(pipe.unet.parameters()).device
    uses_mask = getattr(pipe.text_encoder.config, "use_attention_mask", False)
    mask = encoded.attention_mask.to(device) if uses_mask else None
    with torch.no_grad():
        return pipe.text_encoder(encoded.input_ids.to(device), attention_mask=mask)[0]


def initial_noise(pipe: Any, seeds: Sequence[int]) -> Tensor:
    """Draw the noise of each seed with a generator of its own.

    Parameters
    ----------
    pipe : pipeline
    seeds : sequence of B int

    Returns
    -------
    Tensor, shape (B, C, H, W)
        Item i depends on seed i only, not on its batch.
    """
    size = pipe.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    shape = (pipe.unet.config.in_channels, height, width)
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(int(s))) for s in seeds]
    return torch.stack(rows).to(next(pipe.unet.parameters()).device)


def copy_scheduler(pipe: Any) -> Any:
    """Return a fresh scheduler of the same kind: schedulers keep state."""
    return type(pipe.scheduler).from_config(pipe.scheduler.config)


def step_options(pipe: Any, scheduler: Any) -> dict[str, Any]:
    """Return what the pipeline wants passed to ``scheduler.step``."""
    wanted = getattr(pipe, "step_options", {})
    known = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in wanted.items() if name in known}


def guided(
    unet: Any, x: Tensor, t: Any, cond: Tensor | None, uncond: Tensor | None, scale: float
) -> Tensor:
    """Predict with guidance; one branch only where scale is 0 or 1."""
    if scale == 1 or uncond is None:
        return unet(x, t, encoder_hidden_states=cond).sample
    if scale == 0 or cond is None:
        return unet(x, t, encoder_hidden_states=uncond).sample
    both = unet(torch.cat([x, x]), t, encoder_hidden_states=torch.cat([uncond, cond])).sample
    eps_uncond, eps_cond = both.chunk(2)
    return classifier_free_guidance(eps_uncond, eps_cond, scale)


@torch.no_grad()
def denoise(
    pipe: Any,
    unet: Any,
    x: Tensor,
    cond: Tensor,
    uncond: Tensor,
    *,
    guidance_scale: float,
    num_inference_steps: int,
    skip: int = 0,
    visit: Callable[[Tensor, int], Any] | None = None,
) -> Tensor:
    """Run the pipeline's scheduler from x; ``visit(x, t)`` sees every state before its step."""
    scheduler = copy_scheduler(pipe)
    scheduler.set_timesteps(num_inference_steps)
    options = step_options(pipe, scheduler)
    for t in scheduler.timesteps[skip:]:
        scaled = scheduler.scale_model_input(x, t)
        if visit is not None:
            visit(scaled, int(t))
        out = guided(unet, scaled, t, cond, uncond, guidance_scale)
        x = scheduler.step(out, t, x, **options).prev_sample
    return x


def decode(pipe: Any, latents: Tensor) -> Tensor:
    """Turn latents into images (B, 3, H, W) in [0, 1]."""
    if hasattr(pipe, "decode"):
        return pipe.decode(latents)
    with torch.no_grad():
        images = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    return (images / 2 + 0.5).clamp(0, 1)


def check_sampling(guidance_scale: float, num_inference_steps: int) -> None:
    """Raise a ValueError unless the sampling settings are usable."""
    if not 0 <= guidance_scale < float("inf"):
        raise ValueError(f"guidance_scale must be finite and not negative, got {guidance_scale!r}")
    if isinstance(num_inference_steps, bool) or not isinstance(num_inference_steps, int):
        raise TypeError(f"num_inference_steps must be an integer, got {num_inference_steps!r}")
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps must be positive, got {num_inference_steps}")


def generate(
    pipe: Any,
    prompts: Sequence[str],
    *,
    unet: Any = None,
    guidance_scale: float = 3.0,
    num_inference_steps: int = 12,
    negative_prompt: str | None = None,
    seeds: Sequence[int] | None = None,
    noise: Tensor | None = None,
    output: str = "images",
    batch_size: int = 64,
) -> Tensor:
    """Draw one image for each prompt.

    Parameters
    ----------
    pipe : pipeline
    prompts : sequence of B str
    unet : optional
        Another UNet in the pipeline's place, such as the one of an
        :class:`~paperkit.concept_erasing.erasing.ErasureResult`.
    guidance_scale : float
        s; 1 switches guidance off, 0 ignores the prompt.
    num_inference_steps : int
        Steps of the pipeline's scheduler.
    negative_prompt : str, optional
        Takes the place of the empty prompt.
    seeds : sequence of B int, optional
        One seed an image; default 0 .. B-1. Image i does not depend on its batch.
    noise : Tensor, shape (B, C, H, W), optional
        The initial noise instead of seeds.
    output : {"images", "latent"}
        What to return.
    batch_size : int
        Images at a time.

    Returns
    -------
    Tensor
        Images (B, 3, H, W), float32 in [0, 1]; or latents.
    """
    check_sampling(guidance_scale, num_inference_steps)
    if output not in ("images", "latent"):
        raise ValueError(f"output must be 'images' or 'latent', got {output!r}")
    if seeds is not None and noise is not None:
        raise ValueError("give seeds or noise, not both")
    cond = encode_prompts(pipe, prompts)
    uncond = encode_prompts(pipe, [negative_prompt or ""])
    if noise is None:
        noise = initial_noise(pipe, range(len(cond)) if seeds is None else list(seeds))
    if len(noise) != len(cond):
        raise ValueError(f"{len(cond)} prompts, but {len(noise)} seeds or noises")
    if not noise.isfinite().all():
        raise ValueError("noise holds values that are not finite")
    scheduler = copy_scheduler(pipe)
    scheduler.set_timesteps(num_inference_steps)
    x = noise.to(cond) * scheduler.init_noise_sigma
    done = [
        denoise(
            pipe,
            unet or pipe.unet,
            x[i : i + batch_size],
            cond[i : i + batch_size],
            uncond.expand_as(cond[i : i + batch_size]),
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
        )
        for i in range(0, len(x), batch_size)
    ]
    latents = torch.cat(done)
    return latents if output == "latent" else decode(pipe, latents).float()


def _encode_images(pipe: Any, images: Tensor) -> Tensor:
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError("images must be a tensor of shape (B, 3, H, W)")
    if not images.isfinite().all():
        raise ValueError("images holds values that are not finite")
    if images.min() < 0 or images.max() > 1:
        raise ValueError("images must lie in [0, 1]")
    device = next(pipe.unet.parameters()).device
    if hasattr(pipe, "encode"):
        return pipe.encode(images.to(device))
    with torch.no_grad():
        latents = pipe.vae.encode(2 * images.to(device) - 1).latent_dist.mode()
    return latents * pipe.vae.config.scaling_factor


def _skipped(pipe: Any, num_inference_steps: int) -> int:
    """Count the leading steps at which no signal is left, where nothing can be inverted."""
    scheduler = copy_scheduler(pipe)
    scheduler.set_timesteps(num_inference_steps)
    signal = scheduler.alphas_cumprod[scheduler.timesteps.cpu()]
    return int((signal < 1e-6).sum())


def _noise_of(scheduler: Any, out: Tensor, t: Any, x: Tensor) -> Tensor:
    """Turn the network's output for time t into the noise that it predicts in x."""
    kind, abar = scheduler.config.prediction_type, scheduler.alphas_cumprod[t]
    if kind == "epsilon":
        return out
    if kind == "v_prediction":
        return abar.sqrt() * out + (1 - abar).sqrt() * x
    return (x - abar.sqrt() * out) / (1 - abar).sqrt()  # "sample"


@torch.no_grad()
def invert(
    pipe: Any,
    images: Tensor,
    prompts: Sequence[str],
    *,
    unet: Any = None,
    guidance_scale: float = 1.0,
    num_inference_steps: int = 12,
) -> Tensor:
    """Run DDIM backwards, from images to the noise that the sampler would make them from.

    A step of the sampler goes from x_t to the less noisy x_s along the noise that is predicted in x_t. Backwards
    only x_s is known, so the noise is predicted there, for time t: a first-order method. An output of the network
    that is not noise (v, or the image) is turned into noise with the levels of that same t. ``DDIMInverseScheduler``
    takes those of s, about which the network was not asked; so only its steps along predicted noise are used here.

    Parameters
    ----------
    pipe : pipeline
        With a DDIM scheduler.
    images : Tensor, shape (B, 3, H, W), in [0, 1]
    prompts : sequence of B str
    unet : optional
        Another UNet in the pipeline's place.
    guidance_scale : float
        Of the inversion; above 1 the inversion is inaccurate.
    num_inference_steps : int
        Of the sampler that is inverted. Where its first step has no signal left, the inversion
        stops one level earlier, and :func:`purify` starts there.

    Returns
    -------
    Tensor, shape (B, C, H, W)
    """
    check_sampling(guidance_scale, num_inference_steps)
    x = _encode_images(pipe, images)
    cond = encode_prompts(pipe, prompts)
    if len(cond) != len(x):
        raise ValueError(f"{len(x)} images, but {len(cond)} prompts")
    uncond = encode_prompts(pipe, [""]).expand_as(cond)
    scheduler = DDIMInverseScheduler.from_config(
        pipe.scheduler.config, prediction_type="epsilon", clip_sample=False
    )
    scheduler.set_timesteps(num_inference_steps)
    steps = scheduler.timesteps
    for t in steps[: len(steps) - _skipped(pipe, num_inference_steps)]:
        out = guided(unet or pipe.unet, x, t, cond, uncond, guidance_scale)
        x = scheduler.step(_noise_of(pipe.scheduler, out, t, x), t, x).prev_sample
    return x


def purify(
    pipe: Any,
    images: Tensor,
    prompts: str | Sequence[str],
    unet: Any,
    *,
    invert_prompts: str | Sequence[str] | None = None,
    invert_unet: Any = None,
    guidance_scale: float = 3.0,
    num_inference_steps: int = 12,
    noise: Tensor | None = None,
) -> Tensor:
    """Remove a concept from given images: invert them, and draw them again with the erased model.

    Parameters
    ----------
    pipe : pipeline
    images : Tensor, shape (B, 3, H, W), in [0, 1]
    prompts : str or sequence of B str
        What to draw with: the erased prompt; one text stands for all images.
    unet : UNet
        The erased model.
    invert_prompts : str or sequence of B str, optional
        The same for the inversion; default `prompts`.
    invert_unet : UNet, optional
        The model of the inversion; default the pipeline's own. With the erased model and
        ``guidance_scale=1`` the two directions undo each other and nothing is removed.
    guidance_scale : float
        Of the drawing; the inversion is not guided.
    num_inference_steps : int
        Steps in either direction.
    noise : Tensor, optional
        Start the drawing here instead of inverting: the control experiment.

    Returns
    -------
    Tensor, shape (B, 3, H, W), float32 in [0, 1]
    """
    check_sampling(guidance_scale, num_inference_steps)

    def one_each(said: str | Sequence[str]) -> list[str]:
        return [said] * len(images) if isinstance(said, str) else list(said)

    x = noise
    if x is None:
        said = one_each(prompts if invert_prompts is None else invert_prompts)
        x = invert(pipe, images, said, unet=invert_unet, num_inference_steps=num_inference_steps)
    cond = encode_prompts(pipe, one_each(prompts))
    if len(cond) != len(images):
        raise ValueError(f"{len(images)} images, but {len(cond)} prompts")
    latents = denoise(
        pipe,
        unet,
        x,
        cond,
        encode_prompts(pipe, [""]).expand_as(cond),
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        skip=_skipped(pipe, num_inference_steps),
    )
    return decode(pipe, latents).float()
