"""Samplers of a masked model, and how often they call the network.

In the reverse process every masked token is revealed at a rate that the network does not enter.
Seen on the scale of the mask probability, the d times of revealing are independent and uniform;
the network decides only *which* token appears. So the times can be drawn first, and the network
has to be called only when something is revealed: its output does not depend on the time, and its
input has not changed (Ou et al. 2025, section 3). Three ways of running the same N steps:

- ``cache="none"``: call the network in each step, for all sequences;
- ``cache="rows"``: in each step, for the sequences of the batch that reveal something;
- ``cache="rounds"``: the sequences are independent, so nothing is lost if each runs on its own
  clock. In round r every sequence reveals what its r-th distinct step reveals. The sequences
  evaluated are the same, in few large batches instead of many small ones. (This form is ours.)

Given the generator, all three return the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from paperkit.absorbing_diffusion.losses import Model, vocabulary_of
from paperkit.absorbing_diffusion.schedules import (
    NoiseSchedule,
    _check_steps,
    unmask_probabilities,
)

__all__ = [
    "SampleResult",
    "adaptive_sample",
    "expected_nfe",
    "ordered_sample",
    "reveal_law",
    "sample",
]


@dataclass(frozen=True)
class SampleResult:
    """What a sampler returned and what it cost.

    Attributes
    ----------
    tokens : Tensor
        int64 ``[batch, length]``, no mask left.
    reveal_step : Tensor
        int64 ``[batch, length]``: step (from 1) in which a token was revealed, 0 if it was given.
    rows_evaluated : int
        Sequences that the network read, counted once a call.
    forward_calls : int
        Calls of the network.
    """

    tokens: torch.Tensor
    reveal_step: torch.Tensor
    rows_evaluated: int
    forward_calls: int


def reveal_law(unmask_probs: Any) -> np.ndarray:
    """Return the probability that a free token is revealed in each step.

    Parameters
    ----------
    unmask_probs : array-like
        float ``[N]``, as :func:`~paperkit.absorbing_diffusion.schedules.unmask_probabilities`
        returns them.

    Returns
    -------
    numpy.ndarray
        float64 ``[N]`` with sum 1: ``rho_n`` times the product of ``1 - rho`` before.
    """
    rho = np.asarray(unmask_probs, dtype=np.float64)
    left = np.concatenate(([1.0], np.cumprod(1 - rho)[:-1]))
    return rho * left


def expected_nfe(
    schedule: NoiseSchedule,
    steps: int,
    length: int,
    *,
    cache: str = "lazy",
    batch_size: int = 1,
    method: str = "tweedie",
) -> float:
    """Return the expected number of network calls a sequence.

    Parameters
    ----------
    schedule : NoiseSchedule
    steps : int
        N, steps of the sampler.
    length : int
        d, free tokens.
    cache : {"lazy", "eager", "none", "whole_batch"}
        Lazy: in the steps that reveal something, ``sum_n 1 - (1 - Delta_n)^d``. Eager: at the
        start, and after each change except the last. None: N. Whole batch: in the steps in which
        any of ``batch_size`` sequences reveals something.
    batch_size : int
        Used by ``"whole_batch"``.
    method : {"tweedie", "euler"}

    Raises
    ------
    ValueError
        If a number is below 1 or ``cache`` is unknown.
    """
    _check_steps(steps)
    for name, value in (("length", length), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}")
    delta = np.clip(reveal_law(unmask_probabilities(schedule, steps, method)), 0.0, 1.0)
    with np.errstate(divide="ignore"):
        changes = -np.expm1(length * np.log1p(-delta))
    if cache == "lazy":
        return float(changes.sum())
    if cache == "eager":
        return float(1 + changes[:-1].sum())
    if cache == "none":
        return float(steps)
    if cache == "whole_batch":
        with np.errstate(divide="ignore"):
            return float(-np.expm1(length * batch_size * np.log1p(-delta)).sum())
    raise ValueError(f"cache must be 'lazy', 'eager', 'none' or 'whole_batch', got {cache!r}")


def sample(
    model: Model,
    shape: tuple[int, int],
    steps: int,
    schedule: NoiseSchedule,
    *,
    method: str = "tweedie",
    cache: str = "rounds",
    prompt: torch.Tensor | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> SampleResult:
    """Draw sequences with N steps of the reverse process.

    Parameters
    ----------
    model : callable
        Logits ``[batch, length, V]`` of tokens ``[batch, length]``. If it has ``hidden`` and
        ``head``, the vocabulary layer runs on revealed tokens only.
    shape : (int, int)
        Sequences and tokens.
    steps : int
        N, at least 1.
    schedule : NoiseSchedule
    method : {"tweedie", "euler"}
        As in :func:`~paperkit.absorbing_diffusion.schedules.unmask_probabilities`.
    cache : {"rounds", "rows", "none"}
        See the module's text. A time-conditioned model allows ``"none"`` only.
    prompt : Tensor, optional
        int64 ``[length]`` or ``[batch, length]``: tokens that stay, the mask id where one is free.
    top_p, top_k : optional
        Sample from the smallest set of tokens with this probability, or from the likeliest k; not
        both.
    temperature : float
        Positive; the logits are divided by it.
    generator : torch.Generator, optional

    Returns
    -------
    SampleResult

    Raises
    ------
    ValueError
        If a setting is out of range, the model's output has not V numbers a position or is not
        finite, a prompt does not fit, or a cache is asked for where it would be wrong (a network
        that is told the time, or with dropout switched on).
    """
    law = reveal_law(unmask_probabilities(schedule, steps, method))
    vocabulary = vocabulary_of(model)
    device = _device(model)
    x, free = _start(shape, vocabulary, prompt, device)
    pick = _Picker(vocabulary, temperature, top_p, top_k)
    if cache not in ("rounds", "rows", "none"):
        raise ValueError(f"cache must be 'rounds', 'rows' or 'none', got {cache!r}")
    timed = bool(getattr(model, "time_conditioned", False))
    if cache != "none":
        if timed:
            raise ValueError(
                "this network is told the time, so that its output changes in every step even if"
                " no token does: it cannot be cached; use cache='none'"
            )
        _refuse_dropout(model)
    u = torch.rand((2, *x.shape), generator=generator, device=device, dtype=torch.float64)
    edges = torch.as_tensor(np.cumsum(law)[:-1], device=device)
    when = torch.searchsorted(edges, u[0].contiguous(), right=True) + 1
    when = torch.where(free, when, 0)
    with torch.no_grad():
        if cache == "rounds":
            rows, calls = _in_rounds(model, x, when, u[1], pick, prompt is None)
        else:
            noise = schedule.total_noise(torch.linspace(1, 0, steps + 1, dtype=torch.float64))
            rows = calls = 0
            for n in range(1, steps + 1):
                chosen = when == n
                active = chosen.any(1)
                if cache == "none":
                    active = torch.ones_like(active)
                elif not bool(active.any()):
                    continue
                sigma = noise[n - 1].to(device).expand(int(active.sum())) if timed else None
                _reveal(model, x, active, chosen, u[1], pick, sigma)
                rows += int(active.sum())
                calls += 1
    return SampleResult(x, when, rows, calls)


def _in_rounds(
    model: Any, x: torch.Tensor, when: torch.Tensor, u: torch.Tensor, pick: _Picker, blank: bool
) -> tuple[int, int]:
    """Reveal in rounds: the r-th distinct step of every sequence at once."""
    ordered, index = when.sort(dim=1)
    new = torch.ones_like(ordered)
    new[:, 0] = (ordered[:, 0] > 0).long()
    new[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).long()
    rank = torch.empty_like(when).scatter(1, index, new.cumsum(1))  # 0 for given tokens
    rows = calls = 0
    for r in range(1, int(rank.max()) + 1):
        chosen = rank == r
        active = chosen.any(1)
        if r == 1 and blank:  # every sequence is all masks: one row does for all
            where = chosen.nonzero()
            if hasattr(model, "hidden") and hasattr(model, "head"):
                logits = model.head(model.hidden(x[:1])[0])
            else:
                logits = model(x[:1])[0]
            x[chosen] = pick(logits[where[:, 1]], u[chosen])
            rows, calls = rows + 1, calls + 1
            continue
        _reveal(model, x, active, chosen, u, pick, None)
        rows, calls = rows + int(active.sum()), calls + 1
    return rows, calls


def _reveal(
    model: Any,
    x: torch.Tensor,
    active: torch.Tensor,
    chosen: torch.Tensor,
    u: torch.Tensor,
    pick: _Picker,
    sigma: torch.Tensor | None,
) -> None:
    """Read the active rows of x and fill in the chosen positions."""
    told = {} if sigma is None else {"sigma": sigma}
    part = x if bool(active.all()) else x[active]
    spots = chosen[active]
    if hasattr(model, "hidden") and hasattr(model, "head"):
        logits = model.head(model.hidden(part, **told)[spots])
    else:
        logits = model(part, **told)[spots]
    x[chosen] = pick(logits, u[chosen])


class _Picker:
    """A draw from logits by an inverse distribution function, with one uniform number a token."""

    def __init__(
        self, vocabulary: int, temperature: float, top_p: float | None, top_k: int | None
    ) -> None:
        if not 0 < temperature < np.inf:
            raise ValueError(f"temperature must be positive, got {temperature!r}")
        if top_p is not None and top_k is not None:
            raise ValueError("give top_p or top_k, not both")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {top_p!r}")
        if top_k is not None and not 1 <= top_k <= vocabulary:
            raise ValueError(f"top_k must lie in 1..{vocabulary}, got {top_k!r}")
        self.vocabulary, self.temperature = vocabulary, temperature
        self.top_p, self.top_k = top_p, top_k

    def law(self, logits: torch.Tensor) -> torch.Tensor:
        if logits.shape[-1] != self.vocabulary:
            raise ValueError(
                f"the model gives {logits.shape[-1]} numbers a position, but has"
                f" {self.vocabulary} tokens; the mask is not a possible output"
            )
        if bool(logits.isnan().any()) or bool((logits == torch.inf).any()):
            raise ValueError("the model gives logits that are not finite")
        p = (logits.double() / self.temperature).softmax(-1)
        if self.top_k is not None:
            keep = p >= p.topk(self.top_k, dim=-1).values[..., -1:]
            p = torch.where(keep, p, 0.0)
        elif self.top_p is not None:
            ranked, order = p.sort(dim=-1, descending=True)
            before = ranked.cumsum(-1) - ranked  # keep until the mass is reached
            ranked = torch.where(before < self.top_p, ranked, 0.0)
            p = torch.zeros_like(p).scatter(-1, order, ranked)
        return p / p.sum(-1, keepdim=True)

    def __call__(self, logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        p = self.law(logits)
        token = torch.searchsorted(p.cumsum(-1), u[:, None], right=True)[:, 0]
        # rounding may leave u above the last sum: the last token with mass is then meant
        last = self.vocabulary - 1 - (p > 0).flip(-1).long().argmax(-1)
        return torch.minimum(token, last)


def _device(model: Any) -> torch.device:
    if hasattr(model, "parameters"):
        first = next(iter(model.parameters()), None)
        if first is not None:
            return first.device
    return torch.device("cpu")


def _refuse_dropout(model: Any) -> None:
    if getattr(model, "training", False) and getattr(
        getattr(model, "config", None), "dropout", 0.0
    ):
        raise ValueError("dropout is on, so that outputs are random: call eval() before caching")


def _start(
    shape: tuple[int, int], vocabulary: int, prompt: Any, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    B, d = shape
    if B < 1 or d < 1:
        raise ValueError(f"shape must be positive, got {tuple(shape)}")
    x = torch.full((B, d), vocabulary, dtype=torch.int64, device=device)
    if prompt is not None:
        given = torch.as_tensor(prompt)
        if given.is_floating_point():
            raise TypeError(f"prompt must be of integers, got {given.dtype}")
        if given.shape not in ((d,), (B, d)):
            raise ValueError(f"prompt must be [{d}] or [{B}, {d}] tokens, got {tuple(given.shape)}")
        if int(given.min()) < 0 or int(given.max()) > vocabulary:
            raise ValueError(f"prompt ids must lie in 0..{vocabulary}")
        x = given.to(device).long().expand(B, d).clone()
    return x, x == vocabulary


def ordered_sample(
    model: Model,
    shape: tuple[int, int],
    order: str | Sequence[int] = "random",
    *,
    prompt: torch.Tensor | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> SampleResult:
    """Reveal one position after the other; exact for exact conditional laws, in every order.

    Parameters
    ----------
    model, shape, prompt, top_p, top_k, temperature, generator
        As in :func:`sample`.
    order : {"forward", "backward", "random"} or sequence of int
        The positions in the order of revealing; ``"random"`` draws one for each sequence.

    Returns
    -------
    SampleResult
    """
    vocabulary = vocabulary_of(model)
    x, free = _start(shape, vocabulary, prompt, _device(model))
    _refuse_time(model)
    B, d = x.shape
    pick = _Picker(vocabulary, temperature, top_p, top_k)
    if isinstance(order, str):
        if order == "random":
            u = torch.rand((B, d), generator=generator, device=x.device, dtype=torch.float64)
            rank = u.argsort(1).argsort(1)
        elif order in ("forward", "backward"):
            rank = torch.arange(d, device=x.device).expand(B, d)
            rank = rank if order == "forward" else d - 1 - rank
        else:
            raise ValueError(f"order must be forward, backward, random or positions, got {order!r}")
    else:
        if sorted(order) != list(range(d)):
            raise ValueError(f"order must hold 0..{d - 1} once each, got {list(order)}")
        rank = torch.empty(d, dtype=torch.int64, device=x.device)
        rank[torch.as_tensor(list(order), device=x.device)] = torch.arange(d, device=x.device)
        rank = rank.expand(B, d)
    u = torch.rand((B, d), generator=generator, device=x.device, dtype=torch.float64)
    when = torch.where(free, rank + 1, 0)
    with torch.no_grad():
        rows, calls = _in_rounds(model, x, when, u, pick, prompt is None)
    return SampleResult(x, when, rows, calls)


def adaptive_sample(
    model: Model,
    shape: tuple[int, int],
    rule: str = "entropy",
    *,
    per_step: int = 1,
    prompt: torch.Tensor | None = None,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> SampleResult:
    """Reveal the positions of which the model is surest first.

    Parameters
    ----------
    model, shape, prompt, temperature, generator
        As in :func:`sample`.
    rule : {"entropy", "confidence"}
        Entropy: the position whose law has the least entropy, a function of the visible tokens
        only; one at a time, that is exact. Confidence: draw a token everywhere and keep the one
        with the largest probability (as MaskGIT does), which prefers likely values and is biased.
    per_step : int
        Positions revealed at a time.

    Returns
    -------
    SampleResult
    """
    vocabulary = vocabulary_of(model)
    x, free = _start(shape, vocabulary, prompt, _device(model))
    _refuse_time(model)
    if rule not in ("entropy", "confidence"):
        raise ValueError(f"rule must be 'entropy' or 'confidence', got {rule!r}")
    if per_step < 1:
        raise ValueError(f"per_step must be at least 1, got {per_step!r}")
    pick = _Picker(vocabulary, temperature, None, None)
    when = torch.zeros_like(x)
    rows = calls = 0
    n = 0
    with torch.no_grad():
        while bool((x == vocabulary).any()):
            n += 1
            masked = x == vocabulary
            law = pick.law(model(x))
            u = torch.rand(x.shape, generator=generator, device=x.device, dtype=torch.float64)
            token = pick(law.log().flatten(0, 1), u.flatten()).view(x.shape)
            if rule == "entropy":
                # a vanishing random term breaks ties without looking at the drawn tokens
                tie = torch.rand(x.shape, generator=generator, device=x.device)
                surest = -torch.special.entr(law).sum(-1) + 1e-9 * tie
            else:
                surest = law.gather(-1, token[..., None])[..., 0]
            surest = torch.where(masked, surest, -torch.inf)
            best = surest.topk(min(per_step, x.shape[1]), dim=1).indices
            chosen = torch.zeros_like(masked).scatter(1, best, True) & masked
            x = torch.where(chosen, token, x)
            when = torch.where(chosen, n, when)
            rows, calls = rows + len(x), calls + 1
    return SampleResult(x, torch.where(free, when, 0), rows, calls)


def _refuse_time(model: Any) -> None:
    if getattr(model, "time_conditioned", False):
        raise ValueError("this sampler has no time to tell a time-conditioned network")
