"""Four losses of one model, all upper bounds on ``-log p(x)`` in nats per sequence.

With the mask set m, the clean sequence x and the model's conditional law c of a clean token given
the visible ones (Ou et al. 2025, section 4):

- denoising score entropy (DSE), the loss of SEDD: an integral over time of the score's entropy;
- t-DCE: ``integral over t of sigma / (exp(sigma_bar) - 1) x E sum_{i in m} -log c_i(x_i)``;
- lambda-DCE: ``integral over the mask probability of (1 / lambda) E sum_{i in m} -log c_i(x_i)``;
- any-order: ``E over k of (d / k) E over sets of k positions of sum_{i in m} -log c_i(x_i)``, the
  expected negative log-likelihood of an autoregressive model in a random order.

A model is any callable from tokens ``[batch, length]`` to logits ``[batch, length, V]``; V is the
mask id. If it has ``hidden`` and ``head``, the vocabulary layer runs on the masked positions only.
If its ``time_conditioned`` is true it is called with the total noise as ``sigma``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from paperkit.absorbing_diffusion.schedules import NoiseSchedule

__all__ = [
    "any_order_loss",
    "autoregressive_loss",
    "concrete_score",
    "conditional_from_score",
    "dse_loss",
    "exact_any_order_nll",
    "exact_losses",
    "lambda_dce_loss",
    "mask_tokens",
    "t_dce_loss",
]

Model = Callable[..., torch.Tensor]


# --------------------------------------------------------------------------- the score


def concrete_score(log_conditional: torch.Tensor, sigma_bar: Any) -> torch.Tensor:
    """Return the log concrete score of a conditional law (Theorem 1).

    ``s(x, t)[i, v] = p(v | visible tokens) / (exp(sigma_bar) - 1)``.

    Parameters
    ----------
    log_conditional : Tensor
        ``[..., V]`` log-probabilities of the clean token.
    sigma_bar : float or Tensor
        Total noise, positive; broadcast against all but the last axis.

    Returns
    -------
    Tensor
        ``[..., V]``.
    """
    return log_conditional - _log_expm1(sigma_bar, log_conditional)


def conditional_from_score(log_score: torch.Tensor, sigma_bar: Any) -> torch.Tensor:
    """Return the log conditional law behind a log concrete score; see :func:`concrete_score`."""
    return log_score + _log_expm1(sigma_bar, log_score)


def _log_expm1(sigma_bar: Any, like: torch.Tensor) -> torch.Tensor:
    noise = torch.as_tensor(sigma_bar, dtype=torch.float64)
    if not bool((noise > 0).all()):
        raise ValueError("sigma_bar must be positive: without noise there is no masked token")
    value = noise + torch.log(-torch.expm1(-noise))
    return (value[..., None] if noise.ndim else value).to(like)


# ----------------------------------------------------------------------------- masking


def mask_tokens(
    x0: torch.Tensor,
    mask_id: int,
    *,
    prob: Any = None,
    count: Any = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Replace random tokens by the mask.

    Parameters
    ----------
    x0 : Tensor
        int64 ``[batch, length]``, clean.
    mask_id : int
    prob : float or Tensor ``[batch]``, optional
        Each token is masked with this probability, independently.
    count : int or Tensor ``[batch]``, optional
        Exactly so many are masked, 1 to length. Exactly one of the two must be given.
    generator : torch.Generator, optional

    Returns
    -------
    Tensor
        int64 ``[batch, length]``.

    Raises
    ------
    ValueError
        If both or neither of prob and count are given, one is out of range, or ``x0`` holds the
        mask.
    TypeError
        If ``x0`` is not of integers.
    """
    _check_clean(x0, mask_id)
    if (prob is None) == (count is None):
        raise ValueError("give exactly one of prob and count")
    u = torch.rand(x0.shape, generator=generator, device=x0.device, dtype=torch.float64)
    if prob is not None:
        p = torch.as_tensor(prob, dtype=torch.float64, device=x0.device)
        if not bool(((p >= 0) & (p <= 1)).all()):
            raise ValueError("prob must lie in [0, 1]")
        mask = u < (p[:, None] if p.ndim else p)
    else:
        mask, _ = _smallest(u, _counts(count, x0))
    return torch.where(mask, mask_id, x0)


def _smallest(u: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` smallest of each row as a mask, and the largest of these."""
    ranked = u.sort(dim=1).values
    level = ranked.gather(1, count[:, None] - 1)
    return u <= level, level[:, 0]


def _counts(count: Any, x0: torch.Tensor) -> torch.Tensor:
    k = torch.as_tensor(count, device=x0.device)
    if k.is_floating_point() or not bool(((k >= 1) & (k <= x0.shape[1])).all()):
        raise ValueError(f"count must be integers in 1..{x0.shape[1]}")
    return k.long().expand(x0.shape[0])


def _check_clean(x0: torch.Tensor, vocabulary: int) -> None:
    if not isinstance(x0, torch.Tensor) or x0.is_floating_point() or x0.dtype == torch.bool:
        raise TypeError(f"tokens must be an integer tensor, got {getattr(x0, 'dtype', type(x0))}")
    if x0.ndim != 2 or 0 in x0.shape:
        raise ValueError(f"tokens must be [batch, length], got {tuple(x0.shape)}")
    low, high = int(x0.min()), int(x0.max())
    if high == vocabulary:
        raise ValueError(f"clean data must not contain the mask id {vocabulary}")
    if low < 0 or high > vocabulary:
        raise ValueError(f"token ids must lie in 0..{vocabulary - 1}, got {low}..{high}")


def vocabulary_of(model: Any) -> int:
    """Return V of a model: its config's ``vocab_size``, or its attribute of that name."""
    holder = getattr(model, "config", model)
    size = getattr(holder, "vocab_size", None)
    if size is None:
        raise TypeError("the model must say its vocab_size, itself or in its config")
    return int(size)


def logits_at(
    model: Model, x: torch.Tensor, chosen: torch.Tensor, sigma: torch.Tensor | None
) -> torch.Tensor:
    """Return the logits ``[n, V]`` of a model at the chosen positions of ``x``.

    Parameters
    ----------
    model : callable
    x : Tensor
        ``[batch, length]`` tokens, masks included.
    chosen : Tensor
        bool ``[batch, length]``.
    sigma : Tensor or None
        ``[batch]`` total noise, used by a time-conditioned model only.
    """
    timed = bool(getattr(model, "time_conditioned", False))
    if timed and sigma is None:
        raise ValueError("a time-conditioned model needs the total noise")
    told = {"sigma": sigma} if timed else {}
    if hasattr(model, "hidden") and hasattr(model, "head"):
        logits = model.head(model.hidden(x, **told)[chosen])
    else:
        logits = model(x, **told)[chosen]
    vocabulary = vocabulary_of(model)
    if logits.shape[-1] != vocabulary:
        raise ValueError(
            f"the model gives {logits.shape[-1]} numbers a position, but has {vocabulary} tokens;"
            " the mask is not a possible output"
        )
    return logits


# ------------------------------------------------------------------------------- losses


def _masked_sum(
    model: Model,
    x0: torch.Tensor,
    mask: torch.Tensor,
    sigma: torch.Tensor | None,
    normalized: bool,
) -> torch.Tensor:
    """Sum over the masked positions of -log c, or of (sum c - 1 - log c); ``[batch]``."""
    vocabulary = vocabulary_of(model)
    logits = logits_at(model, torch.where(mask, vocabulary, x0), mask, sigma)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if not bool(logits.detach().isfinite().any(-1).all()) or bool(logits.detach().isnan().any()):
        raise ValueError("the model gives logits that are not finite")
    target = x0[mask]
    if normalized:
        each = F.cross_entropy(logits, target, reduction="none")
    else:
        own = logits.gather(1, target[:, None])[:, 0]
        each = torch.logsumexp(logits, dim=1).exp() - 1 - own
    rows = mask.nonzero()[:, 0]
    return torch.zeros(len(x0), dtype=each.dtype, device=each.device).index_add(0, rows, each)


def _times(x0: torch.Tensor, stratified: bool, generator: torch.Generator | None) -> torch.Tensor:
    """One number in (0, 1] a sequence; one in each of B equal parts if stratified."""
    B = len(x0)
    u = torch.rand(B, generator=generator, device=x0.device, dtype=torch.float64)
    if stratified:
        part = torch.randperm(B, generator=generator, device=x0.device)
        u = (part + u) / B
    return 1.0 - u


def dse_loss(
    model: Model,
    x0: torch.Tensor,
    schedule: NoiseSchedule,
    *,
    normalized: bool = True,
    stratified: bool = True,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return one draw of the denoising score entropy, term by term as SEDD defines it.

    Parameters
    ----------
    model : callable
        Logits; with ``normalized=False`` their exponential is taken as the conditional law as is.
    x0 : Tensor
        int64 ``[batch, length]``, clean.
    schedule : NoiseSchedule
    normalized : bool
        Whether the softmax is applied first.
    stratified : bool
        One time in each of B equal parts of [0, 1], instead of independent times.
    generator : torch.Generator, optional

    Returns
    -------
    Tensor
        ``[batch]``, nats per sequence.
    """
    vocabulary = vocabulary_of(model)
    _check_clean(x0, vocabulary)
    t = _times(x0, stratified, generator)
    noise = schedule.total_noise(t)
    u = torch.rand(x0.shape, generator=generator, device=x0.device, dtype=torch.float64)
    mask = u < schedule.mask_probability(t)[:, None]
    logits = logits_at(model, torch.where(mask, vocabulary, x0), mask, noise).double()
    if normalized:
        logits = logits.log_softmax(-1)
    rows = mask.nonzero()[:, 0]
    log_ratio = -(noise + torch.log(-torch.expm1(-noise)))[rows]  # log of 1 / (exp(noise) - 1)
    log_score = logits + log_ratio[:, None]
    ratio = log_ratio.exp()
    own = log_score.gather(1, x0[mask][:, None])[:, 0]
    entropy = log_score.exp().sum(-1) - ratio * own + ratio * (log_ratio - 1)
    each = schedule.rate(t)[rows] * entropy
    return torch.zeros(len(x0), dtype=each.dtype, device=each.device).index_add(0, rows, each)


def t_dce_loss(
    model: Model,
    x0: torch.Tensor,
    schedule: NoiseSchedule,
    *,
    ratio_form: bool = False,
    stratified: bool = True,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return one draw of the denoising cross-entropy in time.

    Parameters
    ----------
    model, x0, schedule, stratified, generator
        As in :func:`dse_loss`.
    ratio_form : bool
        Take ``-log`` of the score instead of ``-log`` of the conditional law. The two differ by a
        term of mean zero over the whole range of noise, which adds variance.

    Returns
    -------
    Tensor
        ``[batch]``, nats per sequence.
    """
    vocabulary = vocabulary_of(model)
    _check_clean(x0, vocabulary)
    t = _times(x0, stratified, generator)
    noise, level = schedule.total_noise(t), schedule.mask_probability(t)
    u = torch.rand(x0.shape, generator=generator, device=x0.device, dtype=torch.float64)
    mask = u < level[:, None]
    log_expm1 = noise + torch.log(-torch.expm1(-noise))
    weight = schedule.rate(t) * torch.exp(-log_expm1)
    total = _masked_sum(model, x0, mask, noise, True)
    if ratio_form:
        total = total + (mask.sum(1) * log_expm1).to(total.dtype)
    return weight.to(total.dtype) * total


def lambda_dce_loss(
    model: Model,
    x0: torch.Tensor,
    *,
    stratified: bool = True,
    probability: Any = None,
    normalized: bool = True,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return one draw of the denoising cross-entropy over mask probabilities.

    Parameters
    ----------
    model, x0, stratified, normalized, generator
        As in :func:`dse_loss`.
    probability : Tensor ``[batch]``, optional
        Mask probabilities to use instead of random ones, in (0, 1].

    Returns
    -------
    Tensor
        ``[batch]``, nats per sequence.

    Raises
    ------
    ValueError
        If a probability is not in (0, 1]: at 0 nothing is masked and the weight is infinite.
    """
    vocabulary = vocabulary_of(model)
    _check_clean(x0, vocabulary)
    if probability is None:
        level = _times(x0, stratified, generator)
    else:
        level = torch.as_tensor(probability, dtype=torch.float64, device=x0.device)
        level = level.expand(len(x0))
        if not bool(((level > 0) & (level <= 1)).all()):
            raise ValueError("probability must lie in (0, 1]")
    u = torch.rand(x0.shape, generator=generator, device=x0.device, dtype=torch.float64)
    mask = u < level[:, None]
    total = _masked_sum(model, x0, mask, -torch.log1p(-level), normalized)
    return total / level.to(total.dtype)


def any_order_loss(
    model: Model,
    x0: torch.Tensor,
    *,
    stratified: bool = True,
    count: Any = None,
    normalized: bool = True,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return one draw of the any-order loss: ``d / k`` times the sum over k masked positions.

    The masked positions are those of the k smallest of d uniform numbers. A time-conditioned model
    is told the noise at which the k-th of them is masked; this has the law that the mask
    probability has given k masked positions under the weight ``1 / lambda``, so that the mean is
    that of :func:`lambda_dce_loss` for such a model too.

    Parameters
    ----------
    model, x0, normalized, generator
        As in :func:`dse_loss`. With ``normalized=False`` the mean is the denoising score entropy.
    stratified : bool
        k in B equal parts of 1..d, instead of independent.
    count : int or Tensor ``[batch]``, optional
        k to use instead of random ones.

    Returns
    -------
    Tensor
        ``[batch]``, nats per sequence.
    """
    vocabulary = vocabulary_of(model)
    _check_clean(x0, vocabulary)
    d = x0.shape[1]
    if count is None:
        count = (_times(x0, stratified, generator) * d).ceil().long().clamp(1, d)
    k = _counts(count, x0)
    u = torch.rand(x0.shape, generator=generator, device=x0.device, dtype=torch.float64)
    mask, level = _smallest(u, k)
    total = _masked_sum(model, x0, mask, -torch.log1p(-level), normalized)
    return d / k.to(total.dtype) * total


def autoregressive_loss(model: Model, x0: torch.Tensor) -> torch.Tensor:
    """Return ``-log p(x)`` of a left-to-right model, nats per sequence ``[batch]``."""
    _check_clean(x0, vocabulary_of(model))
    logits = model(x0)
    each = F.cross_entropy(logits.flatten(0, 1), x0.flatten(), reduction="none")
    return each.view(x0.shape).sum(1)


def exact_any_order_nll(model: Model, x0: torch.Tensor) -> torch.Tensor:
    """Return the any-order loss without sampling, by a sum over all mask sets.

    A set of k of d positions has the weight ``(k-1)! (d-k)! / d!``, so that ``2^d`` sets do the
    work of ``d!`` orders.

    Parameters
    ----------
    model : callable
        Not time-conditioned.
    x0 : Tensor
        int64 ``[batch, length]`` with length at most 12.

    Returns
    -------
    Tensor
        ``[batch]``, nats per sequence.

    Raises
    ------
    ValueError
        If the sequences are longer than 12 or the model is time-conditioned.
    """
    _check_clean(x0, vocabulary_of(model))
    d = x0.shape[1]
    if d > 12:
        raise ValueError(f"length must be at most 12 to sum over all mask sets, got {d}")
    if getattr(model, "time_conditioned", False):
        raise ValueError("a time-conditioned model has no any-order likelihood")
    total = None
    for k in range(1, d + 1):
        weight = math.factorial(k - 1) * math.factorial(d - k) / math.factorial(d)
        for chosen in itertools.combinations(range(d), k):
            mask = torch.zeros(d, dtype=torch.bool, device=x0.device)
            mask[list(chosen)] = True
            term = weight * _masked_sum(model, x0, mask.expand(x0.shape), None, True)
            total = term if total is None else total + term
    assert total is not None
    return total


def exact_losses(
    model: Model,
    x0: torch.Tensor,
    schedule: NoiseSchedule,
    *,
    nodes: int = 400,
) -> dict[str, torch.Tensor]:
    """Return the four losses without sampling: all mask sets, and quadrature over the noise.

    The three integrals run over the schedule's own range of mask probabilities; ``"any_order"``
    is the whole bound, so that the others miss what lies outside that range.

    Parameters
    ----------
    model : callable
        Not time-conditioned; its logits are normalised first.
    x0 : Tensor
        int64 ``[batch, length]`` with length at most 12.
    schedule : NoiseSchedule
    nodes : int
        Points of the Gauss-Legendre rule.

    Returns
    -------
    dict of Tensor
        ``dse``, ``t_dce``, ``lambda_dce`` and ``any_order``: float64 ``[batch]``.
    """
    import numpy as np

    _check_clean(x0, vocabulary_of(model))
    B, d = x0.shape
    if d > 12:
        raise ValueError(f"length must be at most 12 to sum over all mask sets, got {d}")
    # for each number k of masks: sums over the sets of the cross-entropy and of the score's parts
    entropy = torch.zeros(d + 1, B, dtype=torch.float64)
    mass = torch.zeros(d + 1, B, dtype=torch.float64)
    count = torch.zeros(d + 1, B, dtype=torch.float64)
    vocabulary = vocabulary_of(model)
    for k in range(1, d + 1):
        for chosen in itertools.combinations(range(d), k):
            mask = torch.zeros(B, d, dtype=torch.bool)
            mask[:, list(chosen)] = True
            logits = logits_at(model, torch.where(mask, vocabulary, x0), mask, None)
            log_c = logits.double().log_softmax(-1)
            own = log_c.gather(1, x0[mask][:, None])[:, 0]
            entropy[k] -= own.view(B, k).sum(1)
            mass[k] += log_c.exp().sum(-1).view(B, k).sum(1)
            count[k] += k
    sizes = torch.arange(d + 1, dtype=torch.float64)[:, None]

    point, weight = np.polynomial.legendre.leggauss(nodes)
    t = torch.from_numpy((point + 1) / 2)
    dt = torch.from_numpy(weight / 2)
    noise, level, rate = schedule.total_noise(t), schedule.mask_probability(t), schedule.rate(t)
    log_ratio = -(noise + torch.log(-torch.expm1(-noise)))
    ratio = log_ratio.exp()
    sets = level**sizes * torch.exp(-noise * (d - sizes))  # (d + 1, nodes): chance of one such set
    # the entropy of the score at each time: sum s - r log s + r (log r - 1), summed over masks
    inner = (
        ratio[None, :, None] * mass[:, None]
        - ratio[None, :, None] * (count[:, None] * log_ratio[None, :, None] - entropy[:, None])
        + (ratio * (log_ratio - 1))[None, :, None] * count[:, None]
    )
    dse = torch.einsum("kt,ktb,t->b", sets, inner, dt * rate)
    t_dce = torch.einsum("kt,kb,t->b", sets, entropy, dt * rate * ratio)

    ends = schedule.mask_probability([0.0, 1.0])
    span = ends[1] - ends[0]
    lam = ends[0] + span * t
    polynomial = lam ** (sizes - 1).clamp_min(0) * (1 - lam) ** (d - sizes)
    polynomial[0] = 0.0
    lambda_dce = torch.einsum("kt,kb,t->b", polynomial, entropy, dt * span)

    coefficient = torch.tensor(
        [0.0]
        + [
            math.factorial(k - 1) * math.factorial(d - k) / math.factorial(d)
            for k in range(1, d + 1)
        ],
        dtype=torch.float64,
    )
    any_order = coefficient @ entropy
    return {"dse": dse, "t_dce": t_dce, "lambda_dce": lambda_dce, "any_order": any_order}
