r"""The losses of direct preference learning, as functions of one number.

With the margin :math:`u(\theta) = \ln \pi_\theta(y^+|x) - \ln \pi_\theta(y^-|x)` and its value :math:`u_{ref}`
under the frozen reference model, every loss of the family is :math:`\ell(u)` with :math:`\ell'(u_{ref}) < 0`:

===========  ==========================================================  =================================
kind         loss :math:`\ell(u)`                                         stops moving
===========  ==========================================================  =================================
``dpo``      :math:`-\ln \sigma(\beta (u - u_{ref}))`                     never
``ipo``      :math:`(u - u_{ref} - 1/(2\tau))^2`, ``beta`` is the tau     at :math:`u_{ref} + 1/(2\tau)`
``hinge``    :math:`\max(0, \delta - \beta (u - u_{ref}))`                at :math:`u_{ref} + \delta/\beta`
===========  ==========================================================  =================================

Sources: DPO, Rafailov et al. 2023; IPO, Azar et al. 2024; hinge (SLiC), Zhao et al. 2023; the family and its
assumptions, Razin et al. 2025, section 2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    import torch

LossKind = Literal["dpo", "ipo", "hinge"]
LOSSES: tuple[str, ...] = get_args(LossKind)


def check_loss(kind: str, beta: float, delta: float = 1.0) -> None:
    """Raise ``ValueError`` unless ``kind`` is known and ``beta`` and ``delta`` are positive and finite."""
    if kind not in LOSSES:
        raise ValueError(f"kind must be one of {', '.join(LOSSES)}; got {kind!r}")
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be positive and finite; got {beta!r}")
    if not (math.isfinite(delta) and delta > 0):
        raise ValueError(f"delta must be positive and finite; got {delta!r}")


def preference_loss(
    margin: torch.Tensor,
    reference_margin: torch.Tensor,
    kind: LossKind = "dpo",
    beta: float = 0.1,
    *,
    delta: float = 1.0,
) -> torch.Tensor:
    r"""Loss of each preference pair.

    Parameters
    ----------
    margin, reference_margin
        :math:`u` under the model that is trained and under the reference, both of shape (B,), in nats;
        log-probabilities are *sums* over the response's tokens.
    kind
        ``"dpo"``, ``"ipo"`` or ``"hinge"``.
    beta
        The inverse temperature (the paper's :math:`\tau` for ``"ipo"``), positive.
    delta
        The margin at which the hinge is satisfied is ``delta / beta``.

    Returns
    -------
    Tensor of shape (B,), differentiable in ``margin``.

    Raises
    ------
    ValueError
        Unknown kind, non-positive beta or delta, shapes that differ, or a margin that is not finite.
    """
    import torch
    from torch.nn import functional as F

    check_loss(kind, beta, delta)
    if margin.shape != reference_margin.shape:
        raise ValueError(
            f"margin and reference_margin must have one shape; got {tuple(margin.shape)} "
            f"and {tuple(reference_margin.shape)}"
        )
    for name, values in (("margin", margin), ("reference_margin", reference_margin)):
        if not torch.isfinite(values).all():
            raise ValueError(f"{name} holds a value that is not finite")
    gain = margin - reference_margin
    if kind == "dpo":
        return -F.logsigmoid(beta * gain)
    if kind == "ipo":
        return (gain - 1.0 / (2.0 * beta)) ** 2
    return torch.clamp(delta - beta * gain, min=0.0)


def loss_slope(
    gain: np.ndarray | float, kind: LossKind, beta: float, *, delta: float = 1.0
) -> np.ndarray:
    r""":math:`\ell'(u)` at :math:`u - u_{ref}` = ``gain`` (any shape): never positive before the loss stops.

    The hinge has no derivative at its corner; 0 is returned there.

    Raises
    ------
    ValueError
        As :func:`preference_loss`.
    """
    from scipy.special import expit

    check_loss(kind, beta, delta)
    gain = np.asarray(gain, dtype=float)
    if kind == "dpo":
        return -beta * expit(-beta * gain)
    if kind == "ipo":
        return 2.0 * (gain - 1.0 / (2.0 * beta))
    return np.where(beta * gain < delta, -beta, 0.0)
