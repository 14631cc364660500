r"""What an eraser did: the error of the sampled field, and a report on images with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paperkit import claims
from paperkit.claims import Interval

from .erasing import States, _conditions
from .guidance import classifier_free_guidance, error_bound, guidance_term, mean_square

__all__ = ["cfg_error", "erasure_report", "image_rmse", "median_shift", "student_predictions"]


@torch.no_grad()
def student_predictions(
    pipe: Any, unet: Any, states: States, *, batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Predict with a fine-tuned UNet at recorded states.

    Parameters
    ----------
    pipe : pipeline
    unet : UNet
    states : States

    Returns
    -------
    eps_uncond, eps_erase : Tensor, shape (M, C, H, W)
    """
    uncond, erase, _ = _conditions(pipe, states.replacements)
    found: list[list[Tensor]] = [[], []]
    for i in range(0, len(states), batch_size):
        part = slice(i, i + batch_size)
        for k, condition in enumerate((uncond.expand_as(erase), erase)):
            cond = condition[states.index[part]]
            out = unet(states.x[part], states.t[part], encoder_hidden_states=cond).sample
            found[k].append(out)
    return torch.cat(found[0]), torch.cat(found[1])


def cfg_error(
    pipe: Any,
    unet: Any,
    states: States,
    scales: Sequence[float] = (1.0, 3.0, 7.5),
    *,
    drift_weight: float = 1.0,
) -> pd.DataFrame:
    """Compare the field that a fine-tuned UNet samples with the frozen one of the alternative.

    Parameters
    ----------
    pipe : pipeline
    unet : UNet
    states : States
        Recorded from the frozen model.
    scales : sequence of float
        Guidance scales s.
    drift_weight : float
        lambda of the bound.

    Returns
    -------
    DataFrame
        One row for each s and time: ``scale``, ``t``, mean squares per element ``u2`` (drift of the
        unconditional part), ``d2`` (guidance), ``r2`` (conditional), ``error`` (the sampled field),
        ``bound``, and ``identity`` (largest deviation of the error from u + s d).
    """
    e0, ec = student_predictions(pipe, unet, states)
    u = e0 - states.eps_uncond
    d = guidance_term(e0, ec) - guidance_term(states.eps_uncond, states.eps_alternative)
    rows = []
    for scale in scales:
        ours = classifier_free_guidance(e0, ec, scale)
        wanted = classifier_free_guidance(states.eps_uncond, states.eps_alternative, scale)
        error = ours - wanted
        for t in states.t.unique().tolist():
            at = states.t == t
            u2, d2 = mean_square(u[at]).mean(), mean_square(d[at]).mean()
            rows.append(
                {
                    "scale": float(scale),
                    "t": int(t),
                    "u2": float(u2),
                    "d2": float(d2),
                    "r2": float(mean_square((d + u)[at]).mean()),
                    "error": float(mean_square(error[at]).mean()),
                    "bound": float(error_bound(d2, u2, scale, drift_weight)),
                    "identity": float((error - u - scale * d)[at].abs().max()),
                }
            )
    return pd.DataFrame(rows)


def image_rmse(first: Tensor, second: Tensor) -> np.ndarray:
    """Root mean square difference of each pair of images, (B, 3, H, W) twice to (B,)."""
    if first.shape != second.shape:
        raise ValueError(f"two equal stacks needed, got {first.shape} and {second.shape}")
    return mean_square(first - second).sqrt().cpu().numpy()


def median_shift(before: pd.DataFrame, after: pd.DataFrame) -> np.ndarray:
    """Distance in pixels between the objects of each pair of images; nan where there is none."""
    return np.hypot(
        after.cx.to_numpy() - before.cx.to_numpy(), after.cy.to_numpy() - before.cy.to_numpy()
    )


def _rate(hits: Any) -> Interval:
    hits = np.asarray(hits, bool)
    return claims.wilson(int(hits.sum()), len(hits), level=0.95)


def erasure_report(
    original: Tensor,
    erased: Tensor,
    kept_original: Tensor,
    kept_erased: Tensor,
    *,
    concept: str,
    alternative: str | None,
    oracle: Callable[[Tensor], pd.DataFrame],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Judge an eraser on images drawn from the same seeds before and after.

    Parameters
    ----------
    original, erased : Tensor, shape (B, 3, H, W)
        Images for the prompt that was erased, by the frozen and by the fine-tuned model.
    kept_original, kept_erased : Tensor, shape (K, 3, H, W)
        Images for prompts that should be left alone.
    concept, alternative : str
        The oracle's names of the two shapes; the second may be ``None``.
    oracle : callable
        Images to a table with ``shape``, ``colour``, ``background``, ``cx``, ``cy``, ``clean``:
        :func:`paperkit.concept_erasing.scenes.analyse`.
    rng : numpy.random.Generator
        For the bootstrap.

    Returns
    -------
    DataFrame
        ``measure``, ``estimate``, ``low``, ``high``, ``n``, ``method``; rates with Wilson
        intervals, medians and means with bootstrap intervals over images, all 95 %.
    """
    if original.shape != erased.shape or kept_original.shape != kept_erased.shape:
        raise ValueError("images before and after must be as many and of one size")
    from skimage.metrics import structural_similarity

    a, b = oracle(original), oracle(erased)
    kept_a, kept_b = oracle(kept_original), oracle(kept_erased)
    shift = median_shift(a, b)
    found: dict[str, Interval] = {"concept still there": _rate(b["shape"] == concept)}
    if alternative is not None:
        found["alternative there"] = _rate(b["shape"] == alternative)
    found |= {
        "one whole object": _rate(b.clean),
        "colour as before": _rate(a.colour == b.colour),
        "background as before": _rate(a.background == b.background),
    }
    moved = shift[np.isfinite(shift)]
    if len(moved) > 1:
        found["median shift, pixels"] = claims.bootstrap(
            np.median, moved, method="percentile", rng=rng
        )
    same = (kept_a["shape"] == kept_b["shape"]) & (kept_a.colour == kept_b.colour)
    found["kept prompts: same shape and colour"] = _rate(same)
    found["kept prompts: RMSE, same seed"] = claims.bootstrap(
        np.mean, image_rmse(kept_original, kept_erased), method="percentile", rng=rng
    )
    similar = [
        structural_similarity(
            x.permute(1, 2, 0).numpy(), y.permute(1, 2, 0).numpy(), channel_axis=2, data_range=1.0
        )
        for x, y in zip(kept_original.cpu(), kept_erased.cpu(), strict=True)
    ]
    found["kept prompts: SSIM, same seed"] = claims.bootstrap(
        np.mean, np.array(similar), method="percentile", rng=rng
    )
    return pd.DataFrame(
        [
            {
                "measure": name,
                "estimate": i.estimate,
                "low": i.low,
                "high": i.high,
                "n": i.n,
                "method": i.method,
            }
            for name, i in found.items()
        ]
    )
