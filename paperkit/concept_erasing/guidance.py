r"""The mathematics of the chapter: guidance, the surgical loss, and the targets of its rivals.

Notation: :math:`\epsilon(x_t, c)` is what a denoiser predicts for a prompt c, :math:`\epsilon(0)`
for the empty prompt; a star marks the frozen model, :math:`\theta` the one that is fine-tuned;
:math:`c_e` is the prompt to erase, :math:`c_a` its alternative, s the guidance scale.

.. math::

   g(c) = \epsilon(c) - \epsilon(0), \qquad \tilde\epsilon_s(c) = \epsilon(0) + s\, g(c).

For exact scores g is, up to a factor that depends on t only, the gradient of a classifier:
:math:`g(x_t, c) = -\sqrt{1 - \bar\alpha_t}\, \nabla \log p(c \mid x_t)` (Ho and Salimans 2021).
Our reading of the surgical update of Hong, Lee and Woo (AAAI 2024) replaces the classifier of
:math:`c_e` by the one of :math:`c_a` and holds the unconditional part,

.. math::

   L = \lVert g_\theta(c_e) - g^*(c_a) \rVert^2
       + \lambda \lVert \epsilon_\theta(0) - \epsilon^*(0) \rVert^2 .

With :math:`u = \epsilon_\theta(0) - \epsilon^*(0)`, :math:`d = g_\theta(c_e) - g^*(c_a)` and
:math:`r = \epsilon_\theta(c_e) - \epsilon^*(c_a) = d + u`, for every x, t and s,

.. math::

   \tilde\epsilon_{\theta,s}(c_e) - \tilde\epsilon^*_s(c_a) = u + s\, d = (1 - s)\, u + s\, r ,
   \qquad
   \lVert u + s\, d \rVert^2 \le (s^2 + 1/\lambda) (\lVert d \rVert^2 + \lambda \lVert u \rVert^2).

Everything also holds for models that predict v: at one x_t, differences of v and of epsilon are
proportional. All functions are pure; tensors of one call have one shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

__all__ = [
    "METHODS",
    "Replacement",
    "ablation_target",
    "classifier_free_guidance",
    "error_bound",
    "esd_target",
    "guidance_term",
    "method_loss",
    "needs_unconditional",
    "surgical_loss",
]

METHODS = ("surgical", "esd", "concept_ablation", "anchored_ablation", "sdd")


@dataclass(frozen=True)
class Replacement:
    """What to erase, and what to put there.

    Attributes
    ----------
    erase : str
        The prompt that names the concept. Other things that it names are erased, too.
    alternative : str or None
        The prompt to show instead; ``None`` replaces the guidance term by zero.
    paraphrases : tuple of str
        Other prompts for the concept, for evaluation only: nothing is trained on them.
    """

    erase: str
    alternative: str | None = None
    paraphrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("erase", "alternative"):
            text = getattr(self, name)
            if name == "alternative" and text is None:
                continue
            if not isinstance(text, str):
                raise TypeError(f"{name} must be a text, got {type(text).__name__}")
            if not text.strip():
                raise ValueError(f"{name} is empty: the empty prompt belongs to the anchor")
        if self.alternative is not None and self.erase.strip() == self.alternative.strip():
            raise ValueError(f"erase and alternative are equal: {self.erase!r}")


def _same_shape(**tensors: Tensor) -> None:
    (first, one), *others = tensors.items()
    for name, other in others:
        if other.shape != one.shape:
            raise ValueError(
                f"{name} must have the shape of {first}, {tuple(one.shape)}, "
                f"got {tuple(other.shape)}"
            )


def guidance_term(eps_uncond: Tensor, eps_cond: Tensor) -> Tensor:
    """Return g = eps_cond - eps_uncond, the implicit classifier's gradient.

    Parameters
    ----------
    eps_uncond, eps_cond : Tensor
        Predictions for the empty prompt and for a prompt, of one shape.

    Returns
    -------
    Tensor
    """
    _same_shape(eps_uncond=eps_uncond, eps_cond=eps_cond)
    return eps_cond - eps_uncond


def classifier_free_guidance(eps_uncond: Tensor, eps_cond: Tensor, guidance_scale: float) -> Tensor:
    """Return eps_uncond + s (eps_cond - eps_uncond); s = 1 is the conditional model.

    Parameters
    ----------
    eps_uncond, eps_cond : Tensor
        Predictions for the empty prompt and for a prompt, of one shape.
    guidance_scale : float
        s, in the convention of `diffusers`. (Papers that write 1 + w mean w = s - 1.)

    Returns
    -------
    Tensor
    """
    if not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale must be finite, got {guidance_scale!r}")
    return eps_uncond + guidance_scale * guidance_term(eps_uncond, eps_cond)


def surgical_loss(
    eps_cond: Tensor,
    eps_uncond: Tensor,
    target_guidance: Tensor,
    target_uncond: Tensor,
    drift_weight: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the surgical loss and its two terms.

    Parameters
    ----------
    eps_cond, eps_uncond : Tensor
        The student's predictions for the erased and for the empty prompt. Gradients flow through
        both, in both terms.
    target_guidance : Tensor
        The frozen model's guidance term of the alternative; zeros without an alternative.
    target_uncond : Tensor
        The frozen model's unconditional prediction.
    drift_weight : float
        lambda, the weight of the anchor.

    Returns
    -------
    loss : Tensor, scalar
    terms : dict
        ``"guidance"`` and ``"unconditional"``, each the mean square, not weighted.
    """
    if not 0 <= drift_weight < math.inf:
        raise ValueError(f"drift_weight must be finite and not negative, got {drift_weight!r}")
    _same_shape(eps_cond=eps_cond, target_guidance=target_guidance, target_uncond=target_uncond)
    guidance = mse_loss(guidance_term(eps_uncond, eps_cond), target_guidance)
    drift = mse_loss(eps_uncond, target_uncond)
    return guidance + drift_weight * drift, {"guidance": guidance, "unconditional": drift}


def esd_target(eps_uncond: Tensor, eps_erase: Tensor, eta: float = 1.0) -> Tensor:
    """Return what ESD (Gandikota et al. 2023) makes of the erased prompt.

    Parameters
    ----------
    eps_uncond, eps_erase : Tensor
        The frozen model's predictions.
    eta : float
        Negative guidance: the target is eps_uncond - eta g(c_e).

    Returns
    -------
    Tensor
    """
    return classifier_free_guidance(eps_uncond, eps_erase, -eta)


def ablation_target(eps_alternative: Tensor) -> Tensor:
    """Return what Concept Ablation (Kumari et al. 2023) makes of the erased prompt.

    Parameters
    ----------
    eps_alternative : Tensor
        The frozen model's prediction for the alternative. (The original takes the student's own
        prediction without its gradient; the frozen one is the same at the start and cannot drift.)

    Returns
    -------
    Tensor
    """
    return eps_alternative.detach()


def error_bound(d_squared: Tensor, u_squared: Tensor, scale: float, drift_weight: float) -> Tensor:
    r"""Return :math:`(s^2 + 1/\lambda)(|d|^2 + \lambda |u|^2)`, at least the sampled field's error."""
    if not drift_weight > 0:
        raise ValueError(f"drift_weight must be positive, got {drift_weight!r}")
    return (scale**2 + 1 / drift_weight) * (d_squared + drift_weight * u_squared)


def needs_unconditional(method: str) -> bool:
    """Say whether a training step of the method runs the student on the empty prompt, too."""
    check_method(method)
    return method in ("surgical", "anchored_ablation", "sdd")


def check_method(method: str) -> None:
    """Raise a ValueError unless the method is one of ``METHODS``."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")


def method_loss(
    method: str,
    eps_cond: Tensor,
    eps_uncond: Tensor | None,
    *,
    target_uncond: Tensor,
    target_erase: Tensor,
    target_alternative: Tensor,
    drift_weight: float = 1.0,
    negative_guidance: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the training loss of a method on equal terms: same states, same cached targets.

    Parameters
    ----------
    method : {"surgical", "esd", "concept_ablation", "anchored_ablation", "sdd"}
        ``anchored_ablation`` is Concept Ablation plus lambda times the anchor of the surgical
        loss; ``sdd`` (Kim et al. 2023) pulls the erased prompt to the student's own unconditional
        prediction.
    eps_cond, eps_uncond : Tensor
        The student's predictions; the second may be ``None`` if the method does not need it.
    target_uncond, target_erase, target_alternative : Tensor
        The frozen model's predictions at the same states.
    drift_weight : float
        lambda of ``surgical`` and ``anchored_ablation``.
    negative_guidance : float
        eta of ``esd``.

    Returns
    -------
    loss : Tensor, scalar
    terms : dict of str to Tensor
    """
    if needs_unconditional(method) and eps_uncond is None:
        raise ValueError(f"method {method!r} needs eps_uncond")
    if method == "surgical":
        assert eps_uncond is not None
        wanted = guidance_term(target_uncond, target_alternative)
        return surgical_loss(eps_cond, eps_uncond, wanted, target_uncond, drift_weight)
    if method == "esd":
        loss = mse_loss(eps_cond, esd_target(target_uncond, target_erase, negative_guidance))
        return loss, {"conditional": loss}
    if method == "sdd":
        assert eps_uncond is not None
        loss = mse_loss(eps_cond, eps_uncond.detach())
        return loss, {"conditional": loss}
    loss = mse_loss(eps_cond, ablation_target(target_alternative))
    if method == "concept_ablation":
        return loss, {"conditional": loss}
    assert eps_uncond is not None
    drift = mse_loss(eps_uncond, target_uncond)
    return loss + drift_weight * drift, {"conditional": loss, "unconditional": drift}


def mean_square(x: Tensor) -> Tensor:
    """Return the mean square of each item, (B, ...) to (B,)."""
    return torch.as_tensor(x).flatten(1).square().mean(1)
