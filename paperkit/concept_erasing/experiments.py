"""One function per claim of the chapter: settings in, value or interval out.

Notebooks, scripts, mutation tests and the runs over twenty seeds call the same functions. The long comparison on
images has seeds of its own (0, 1, 2; 100 for choosing step sizes) and is stored; everything that is measured live and
depends on chance takes its randomness from ``PAPERKIT_SEED`` through :mod:`paperkit.profiles`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import evaluation, sampling, scenes
from .erasing import ErasureResult, States, erase_concept, record_states
from .guidance import Replacement, guidance_term, mean_square

SCALES = (1.0, 3.0, 7.5)
SEEDS = (0, 1, 2)
TRIAL_SEED = 100  # step sizes were chosen on it, and nothing else was measured

BARE = Replacement("a circle", "a triangle", paraphrases=("disc", "round shape"))
PROMPTS: dict[str, tuple[Replacement, ...]] = {
    "bare": (BARE,),
    "coloured": (
        Replacement("a red circle", "a red triangle"),
        Replacement("a green circle", "a green triangle"),
    ),
    "to square": (Replacement("a circle", "a square"),),
    "to cross": (Replacement("a circle", "a cross"),),
    "to nothing": (Replacement("a circle"),),
}

#: Every eraser of the comparison: what differs from the defaults of ``erase_concept``.
ERASERS: dict[str, dict[str, Any]] = {
    "surgical": {"method": "surgical", "drift_weight": 10.0},
    "surgical, λ = 1": {"method": "surgical", "drift_weight": 1.0},
    "surgical, λ = 0": {"method": "surgical", "drift_weight": 0.0},
    "Concept Ablation": {"method": "concept_ablation"},
    "ESD": {"method": "esd"},
    "SDD": {"method": "sdd"},
    "Concept Ablation + anchor 10": {"method": "anchored_ablation", "drift_weight": 10.0},
    "Concept Ablation + anchor 42": {"method": "anchored_ablation", "drift_weight": 42.0},
    "Concept Ablation + anchor 1": {"method": "anchored_ablation", "drift_weight": 1.0},
    "Concept Ablation, equal seconds": {"method": "concept_ablation", "n_steps": 160},
    "ESD, equal seconds": {"method": "esd", "n_steps": 160},
}
LEARNING_RATES = (3e-4, 1e-3, 3e-3)


# ------------------------------------------------------------------------------ images: making them


@lru_cache(maxsize=1)
def pipeline() -> scenes.ScenePipeline:
    """Load the scene model once."""
    return scenes.load_pipeline()


@lru_cache(maxsize=2)
def recorded(prompts: str, seed: int) -> States:
    """Record 64 trajectories of 12 steps for a set of fine-tuning prompts."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return record_states(pipeline(), PROMPTS[prompts], generator=generator)


@lru_cache(maxsize=2)
def erase(prompts: str, eraser: str, seed: int, learning_rate: float = 1e-3) -> ErasureResult:
    """Fine-tune one eraser of the comparison; 80 steps of 16 states unless it says otherwise."""
    return erase_concept(
        pipeline(),
        PROMPTS[prompts],
        states=recorded(prompts, seed),
        generator=torch.Generator().manual_seed(2000 + seed),
        learning_rate=learning_rate,
        **ERASERS[eraser],
    )


def words(what: str, n: int) -> list[str]:
    """List n prompts of a kind, in all five colours in turn."""
    nouns = {
        "erased": ["circle"],
        "paraphrase": ["disc", "round shape"],
        "kept": ["square", "triangle", "cross"],
        "swapped": ["triangle"],
        "empty": [],
    }[what]
    if what == "empty":
        return [""] * n
    colours = list(scenes.COLOURS)
    return [f"a {colours[i % 5]} {nouns[i // 5 % len(nouns)]}" for i in range(n)]


#: Kinds of images, guidance scale, number, and seed of the first image. Equal first seeds share their noise.
SETS = (
    ("erased", 3.0, 90, 0),
    ("erased", 7.5, 45, 0),
    ("paraphrase", 3.0, 50, 10_000),
    ("kept", 3.0, 45, 20_000),
    ("kept", 7.5, 60, 30_000),
    ("empty", 1.0, 24, 40_000),
)
SHORT_SETS = (("erased", 3.0, 45, 0), ("kept", 3.0, 45, 20_000), ("kept", 7.5, 60, 30_000))
SWAPS = (("swapped", 3.0, 90, 0), ("swapped", 7.5, 45, 0))


def draw(what: str, scale: float, n: int, first: int, seed: int, unet: Any = None) -> Tensor:
    """Draw one set of images with the noise of a seed of the comparison."""
    start = 1_000_000 * (seed + 1) + first
    return sampling.generate(
        pipeline(), words(what, n), unet=unet, guidance_scale=scale, seeds=range(start, start + n)
    )


@lru_cache(maxsize=16)
def _frozen(what: str, scale: float, n: int, first: int, seed: int) -> Tensor:
    return draw(what, scale, n, first, seed)


def _image_rows(what: str, scale: float, images: Tensor, before: Tensor) -> list[dict[str, Any]]:
    seen = scenes.analyse(images)
    columns = ["shape", "colour", "background", "cx", "cy", "clean"]
    rmse = evaluation.image_rmse(images, before)
    return [
        {"what": what, "scale": scale, "i": i, "rmse": float(rmse[i]), **row}
        for i, row in enumerate(seen[columns].to_dict("records"))
    ]


def _state_rows(unet: Any, states: States, prompts: str) -> list[dict[str, Any]]:
    """Squared errors of the field at every state of the first 16 trajectories."""
    at = torch.arange(len(states)) % 64 < 16
    some = replace(
        states,
        **{
            name: getattr(states, name)[at]
            for name in ("x", "t", "index", "eps_uncond", "eps_erase", "eps_alternative")
        },
    )
    e0, ec = evaluation.student_predictions(pipeline(), unet, some)
    u = e0 - some.eps_uncond
    d = guidance_term(e0, ec) - guidance_term(some.eps_uncond, some.eps_alternative)
    columns = {"u2": u, "d2": d, "r2": u + d} | {f"error {s:g}": u + s * d for s in SCALES}
    values = {name: mean_square(x).tolist() for name, x in columns.items()}
    return [
        {"what": "state", "i": i % 16, "t": int(t), **{k: v[i] for k, v in values.items()}}
        for i, t in enumerate(some.t.tolist())
    ]


def compare(
    prompts: str, eraser: str, learning_rate: float, short: bool, *, seed: int
) -> list[dict[str, Any]]:
    """Fine-tune one eraser and judge it: one row an image, one a state, one for the run.

    Parameters
    ----------
    prompts : str
        A key of ``PROMPTS``.
    eraser : str
        A key of ``ERASERS``, or ``"frozen"`` for the model before.
    learning_rate : float
        Of Adam.
    short : bool
        Draw fewer kinds of images.
    seed : int
        Of states, minibatches and the noise of the images.

    Returns
    -------
    list of dict
        ``what`` is a kind of image ("erased", "paraphrase", "kept", "empty", "swapped"), "state" or
        "run". Images have the oracle's columns and ``rmse`` to the frozen model's image of the same
        seed; states have mean squares ``u2``, ``d2``, ``r2`` and ``error <scale>``; the run has
        ``seconds`` and ``loss``.
    """
    rows: list[dict[str, Any]] = []
    sets = SHORT_SETS if short else SETS
    if eraser == "frozen":
        for one in sets:
            rows += _image_rows(*one[:2], _frozen(*one, seed), _frozen(*one, seed))
        for one in SWAPS:
            before = _frozen("erased", *one[1:], seed)
            rows += _image_rows(*one[:2], draw(*one, seed), before)
        return rows
    result = erase(prompts, eraser, seed, learning_rate)
    for one in sets:
        longest = next(s for s in SETS if (s[0], s[1]) == (one[0], one[1]))
        before = _frozen(*longest, seed)[: one[2]]
        rows += _image_rows(*one[:2], draw(*one, seed, result.unet), before)
    rows += _state_rows(result.unet, result.states, prompts)
    last = float(result.history.loss.iloc[-10:].mean())
    rows.append({"what": "run", "seconds": result.seconds, "loss": last})
    return rows


def trial(eraser: str, learning_rate: float, *, seed: int = TRIAL_SEED) -> dict[str, float]:
    """Rate of the erased concept after one choice of step size, on the seed for choosing."""
    unet = erase("bare", eraser, seed, learning_rate).unet
    images = draw("erased", 3.0, 45, 0, seed, unet)
    return {"rate": float((scenes.analyse(images)["shape"] == "circle").mean())}
