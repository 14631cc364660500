r"""Record states of the frozen model once, then fine-tune a copy of its UNet.

The states x_t lie on DDIM trajectories of the *frozen* model for the prompt to erase, and the
three targets at a state come from the frozen model, too. Neither depends on the student, so they
are recorded once, in large batches, and every training step is one forward and backward pass of the
student. (The published loop of ESD samples a fresh trajectory for every step instead; the
chapter's benchmark compares the two.)
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from paperkit.models import train

from .guidance import Replacement, check_method, method_loss, needs_unconditional
from .sampling import check_sampling, copy_scheduler, denoise, encode_prompts, initial_noise

__all__ = ["SUBSETS", "ErasureResult", "States", "erase_concept", "record_states",
           "trainable_parameters"]  # fmt: skip

SUBSETS = ("cross_attention", "non_cross_attention", "all")
TRAJECTORIES = ("erase", "alternative", "unconditional")


@dataclass(frozen=True)
class States:
    """States of the frozen model, with its predictions for three prompts.

    Attributes
    ----------
    replacements : tuple of R Replacement
    x : Tensor, shape (M, C, H, W)
        What the UNet sees (already scaled, where the scheduler scales).
    t : Tensor, shape (M,)
        Time steps.
    index : Tensor, shape (M,)
        Which replacement a state belongs to.
    eps_uncond, eps_erase, eps_alternative : Tensor, shape (M, C, H, W)
        The frozen UNet's native output (epsilon or v) for the empty prompt, the prompt to erase and
        the alternative (the empty prompt again where there is none).
    """

    replacements: tuple[Replacement, ...]
    x: Tensor
    t: Tensor
    index: Tensor
    eps_uncond: Tensor
    eps_erase: Tensor
    eps_alternative: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class ErasureResult:
    """A fine-tuned UNet and how it came about.

    Attributes
    ----------
    unet : UNet
        A copy of the pipeline's, fine-tuned; in evaluation mode, without gradients.
    history : DataFrame
        One row a step: ``loss`` and the method's terms.
    states : States
        What it was trained on; pass it to another call for a comparison on equal terms.
    seconds : float
        Processor seconds of the training steps, without the recording of the states.
    """

    unet: Any
    history: pd.DataFrame
    states: States
    seconds: float


def _replacements(replacements: Replacement | Sequence[Replacement]) -> tuple[Replacement, ...]:
    found = (replacements,) if isinstance(replacements, Replacement) else tuple(replacements)
    if not found:
        raise ValueError("replacements is empty: there is nothing to erase")
    for item in found:
        if not isinstance(item, Replacement):
            raise TypeError(f"replacements must hold Replacement, got {type(item).__name__}")
    return found


def _check_unet(unet: Any) -> None:
    if not hasattr(unet, "config") or getattr(unet.config, "cross_attention_dim", None) is None:
        raise ValueError("the pipeline's unet has no cross-attention: no prompt can steer it")


def _conditions(pipe: Any, replacements: tuple[Replacement, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """States of the empty (1, L, D), erased (R, L, D) and alternative (R, L, D) prompts."""
    uncond = encode_prompts(pipe, [""])
    erase = encode_prompts(pipe, [r.erase for r in replacements])
    alternative = encode_prompts(pipe, [r.alternative or "" for r in replacements])
    return uncond, erase, alternative


@torch.no_grad()
def record_states(
    pipe: Any,
    replacements: Replacement | Sequence[Replacement],
    *,
    n_trajectories: int = 64,
    num_inference_steps: int = 12,
    guidance_scale: float = 3.0,
    trajectory: str = "erase",
    generator: torch.Generator,
    batch_size: int = 64,
) -> States:
    """Sample trajectories of the frozen model and predict all targets on them.

    Parameters
    ----------
    pipe : pipeline
    replacements : Replacement or sequence of R Replacement
        Trajectory i belongs to replacement i modulo R.
    n_trajectories : int
        n; M = n times the number of steps.
    num_inference_steps : int
        Steps of a trajectory, by the pipeline's scheduler: the one that images are sampled with.
    guidance_scale : float
        Of the trajectories.
    trajectory : {"erase", "alternative", "unconditional"}
        Which prompt they follow.
    generator : torch.Generator
        Draws one seed for each trajectory.
    batch_size : int
        Items at a time.

    Returns
    -------
    States
    """
    found = _replacements(replacements)
    check_sampling(guidance_scale, num_inference_steps)
    if trajectory not in TRAJECTORIES:
        raise ValueError(f"trajectory must be one of {TRAJECTORIES}, got {trajectory!r}")
    if isinstance(n_trajectories, bool) or not isinstance(n_trajectories, int):
        raise TypeError(f"n_trajectories must be an integer, got {n_trajectories!r}")
    if n_trajectories < len(found):
        raise ValueError(
            f"n_trajectories={n_trajectories} leaves one of {len(found)} replacements without any"
        )
    _check_unet(pipe.unet)
    uncond, erase, alternative = _conditions(pipe, found)
    follow = {"erase": erase, "alternative": alternative, "unconditional": uncond}[trajectory]
    seeds = torch.randint(2**31, (n_trajectories,), generator=generator).tolist()
    scheduler = copy_scheduler(pipe)
    scheduler.set_timesteps(num_inference_steps)
    noise = initial_noise(pipe, seeds) * scheduler.init_noise_sigma
    owner = torch.arange(n_trajectories, device=noise.device) % len(found)
    xs: list[Tensor] = []
    ts: list[int] = []
    owners: list[Tensor] = []
    for i in range(0, n_trajectories, batch_size):
        mine = owner[i : i + batch_size]

        def visit(x: Tensor, t: int, mine: Tensor = mine) -> None:
            xs.append(x)
            ts.extend([t] * len(x))
            owners.append(mine)

        cond = follow[mine % len(follow)]
        denoise(
            pipe,
            pipe.unet,
            noise[i : i + batch_size],
            cond,
            uncond.expand_as(cond),
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            visit=visit,
        )
    x, index = torch.cat(xs), torch.cat(owners)
    t = torch.tensor(ts, device=x.device)
    predictions = [
        torch.cat(
            [
                pipe.unet(
                    x[i : i + batch_size],
                    t[i : i + batch_size],
                    encoder_hidden_states=states[index[i : i + batch_size] % len(states)],
                ).sample
                for i in range(0, len(x), batch_size)
            ]
        )
        for states in (uncond, erase, alternative)
    ]
    return States(found, x, t, index, *predictions)


def trainable_parameters(unet: Any, subset: str) -> dict[str, torch.nn.Parameter]:
    """Select the parameters that an eraser may change.

    Parameters
    ----------
    unet : torch.nn.Module
    subset : {"cross_attention", "non_cross_attention", "all"}
        ``cross_attention``: every ``attn2``, the layers that read the prompt (the "-x" of ESD);
        ``non_cross_attention``: everything but these, the time embedding and the last convolution
        (its "-u").

    Returns
    -------
    dict of str to Parameter

    Raises
    ------
    ValueError
        If the subset is unknown or holds nothing.
    """
    if subset not in SUBSETS:
        raise ValueError(f"parameters must be one of {', '.join(SUBSETS)}, got {subset!r}")

    def chosen(name: str) -> bool:
        if subset == "cross_attention":
            return "attn2" in name
        if subset == "non_cross_attention":
            return not any(part in name for part in ("attn2", "time_embedding", "conv_out"))
        return True

    found = {name: p for name, p in unet.named_parameters() if chosen(name)}
    if not found:
        raise ValueError(f"the unet has no parameter in the subset {subset!r}")
    return found


def erase_concept(
    pipe: Any,
    replacements: Replacement | Sequence[Replacement],
    method: str = "surgical",
    *,
    parameters: str = "cross_attention",
    n_steps: int = 80,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    drift_weight: float = 1.0,
    negative_guidance: float = 1.0,
    states: States | None = None,
    generator: torch.Generator,
    callback: Callable[[int, Any], Any] | None = None,
    **recording: Any,
) -> ErasureResult:
    """Fine-tune a copy of the pipeline's UNet so that it no longer knows a concept.

    Parameters
    ----------
    pipe : pipeline
        Never changed.
    replacements : Replacement or sequence of Replacement
    method : {"surgical", "esd", "concept_ablation", "anchored_ablation", "sdd"}
        See :func:`paperkit.concept_erasing.guidance.method_loss`. ``sdd`` here is its loss on the
        states of the frozen model; its published form samples from, and returns, a moving average.
    parameters : {"cross_attention", "non_cross_attention", "all"}
        See :func:`trainable_parameters`.
    n_steps, batch_size : int
        Updates, and states in each.
    learning_rate : float
        Of Adam, constant.
    drift_weight : float
        lambda, the weight of the anchor (``surgical``, ``anchored_ablation``).
    negative_guidance : float
        eta of ``esd``.
    states : States, optional
        From :func:`record_states` with the same replacements; recorded here if left out.
    generator : torch.Generator
        Draws states and minibatches: the same generator, the same result.
    callback : callable, optional
        ``callback(step, unet)`` after every step.
    **recording
        Settings of :func:`record_states`.

    Returns
    -------
    ErasureResult

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range, the UNet reads no prompt, or ``states`` belong to other
        replacements. Everything is checked before any work.
    """
    found = _replacements(replacements)
    check_method(method)
    _check_unet(pipe.unet)
    for name, value in (("n_steps", n_steps), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    for name, number, least in (
        ("learning_rate", learning_rate, 0.0),
        ("drift_weight", drift_weight, None),
        ("negative_guidance", negative_guidance, None),
    ):
        if not 0 <= number < float("inf") or number == least:
            raise ValueError(f"{name} must be finite and positive, got {number!r}")
    trainable_parameters(pipe.unet, parameters)
    if states is not None and recording:
        raise ValueError(f"states are given, so {', '.join(recording)} cannot be used")
    if states is not None and states.replacements != found:
        raise ValueError("states were recorded for other replacements")
    if states is None:
        states = record_states(pipe, found, generator=generator, **recording)

    unet = copy.deepcopy(pipe.unet).requires_grad_(False)
    chosen = trainable_parameters(unet, parameters)
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    uncond, erase, _ = _conditions(pipe, found)
    both = needs_unconditional(method)
    recorded = states
    rows: list[dict[str, float]] = []

    def step(i: int, draw: torch.Generator) -> Tensor:
        pick = torch.randint(len(recorded), (batch_size,), generator=draw).to(recorded.x.device)
        x, t, cond = recorded.x[pick], recorded.t[pick], erase[recorded.index[pick]]
        e0: Tensor | None = None
        if both:  # one forward pass for both branches
            conditions = torch.cat([uncond.expand_as(cond), cond])
            e0, ec = unet(
                torch.cat([x, x]), torch.cat([t, t]), encoder_hidden_states=conditions
            ).sample.chunk(2)
        else:
            ec = unet(x, t, encoder_hidden_states=cond).sample
        loss, terms = method_loss(
            method,
            ec,
            e0,
            target_uncond=recorded.eps_uncond[pick],
            target_erase=recorded.eps_erase[pick],
            target_alternative=recorded.eps_alternative[pick],
            drift_weight=drift_weight,
            negative_guidance=negative_guidance,
        )
        now = {"loss": loss} | terms
        rows.append({name: float(value.detach()) for name, value in now.items()})
        return loss

    seed = int(torch.randint(2**62, (1,), generator=generator))
    start = time.process_time()
    train(
        step,
        list(chosen.values()),
        n_steps=n_steps,
        learning_rate=learning_rate,
        schedule="constant",
        clip_norm=None,
        seed=seed,
        every=1 if callback else n_steps,
        callback=None if callback is None else (lambda i, _: callback(i, unet)),
    )
    seconds = time.process_time() - start
    return ErasureResult(unet.requires_grad_(False), pd.DataFrame(rows), recorded, seconds)
