"""One function per claim of the chapter: settings in, value or interval out.

Notebooks, scripts, mutation tests and the runs over twenty seeds call the same functions. The long comparison on
images has seeds of its own (0, 1, 2; 100 for choosing step sizes) and is stored; everything that is measured live and
depends on chance takes its randomness from ``PAPERKIT_SEED`` through :mod:`paperkit.profiles`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paperkit import data, profiles
from paperkit.claims import Interval, bootstrap, wilson
from paperkit.models import load_checkpoint, train

from . import evaluation, exact, sampling, scenes
from .erasing import ErasureResult, States, erase_concept, record_states, trainable_parameters
from .guidance import Replacement, guidance_term, mean_square
from .tiny import tiny_stable_diffusion

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


def held_out_accuracy(n: int = 256) -> list[dict[str, Any]]:
    """Judge the frozen model on captions that its training never saw, guidance 3."""
    table = scenes.captions()
    drawn = table[table.held_out].sample(n, replace=True, random_state=0).reset_index(drop=True)
    seen = scenes.analyse(sampling.generate(pipeline(), list(drawn.text), seeds=range(n)))
    hits = {"shape": seen["shape"] == drawn["shape"], "clean": seen.clean}
    for name in ("colour", "background"):
        hits[name] = (seen[name] == drawn[name])[drawn[name] != ""]
    return [
        {"of": name, "right": int(hit.sum()), "asked": len(hit), "share": float(hit.mean())}
        for name, hit in hits.items()
    ]


@lru_cache(maxsize=2)
def recorded(prompts: str, seed: int) -> States:
    """Record 64 trajectories of 12 steps for a set of fine-tuning prompts."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return record_states(pipeline(), PROMPTS[prompts], generator=generator)


@lru_cache(maxsize=8)
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
    }[what]
    colours = list(scenes.COLOURS)
    return [f"a {colours[i % 5]} {nouns[i // 5 % len(nouns)]}" for i in range(n)]


#: Kinds of images, guidance scale, number for each seed of the comparison, and seed of the first image. Equal first
#: seeds share their noise.
SETS = (
    ("erased", 3.0, 90, 0),
    ("erased", 7.5, 90, 0),
    ("paraphrase", 3.0, 90, 10_000),
    ("kept", 3.0, 90, 20_000),
    ("kept", 7.5, 90, 30_000),
)
SHORT_SETS = (SETS[0], SETS[3], SETS[4])
SWAPS = (("swapped", 3.0, 90, 0), ("swapped", 7.5, 90, 0))


def draw(what: str, scale: float, n: int, first: int, seed: int, unet: Any = None) -> Tensor:
    """Draw one set of images with the noise of a seed of the comparison."""
    start = 1_000_000 * (seed + 1) + first
    return sampling.generate(
        pipeline(), words(what, n), unet=unet, guidance_scale=scale, seeds=range(start, start + n)
    )


@lru_cache(maxsize=16)
def frozen_images(what: str, scale: float, n: int, first: int, seed: int) -> Tensor:
    """Draw one set of images with the frozen model; drawn once."""
    return draw(what, scale, n, first, seed)


def _image_rows(what: str, scale: float, images: Tensor, before: Tensor) -> list[dict[str, Any]]:
    seen = scenes.analyse(images)
    columns = ["shape", "colour", "background", "cx", "cy", "clean"]
    rmse = evaluation.image_rmse(images, before)
    return [
        {"what": what, "scale": scale, "i": i, "rmse": float(rmse[i])}
        | {str(name): value for name, value in row.items()}
        for i, row in enumerate(seen[columns].to_dict("records"))
    ]


def _some(states: States) -> States:
    """Keep the states of the first 8 of 64 trajectories."""
    at = torch.arange(len(states)) % 64 < 8
    names = ("x", "t", "index", "eps_uncond", "eps_erase", "eps_alternative")
    return replace(states, **{name: getattr(states, name)[at] for name in names})


def _state_rows(unet: Any, states: States, prompts: str) -> list[dict[str, Any]]:
    """Squared errors of the field at every state of the first 8 trajectories."""
    some = _some(states)
    e0, ec = evaluation.student_predictions(pipeline(), unet, some)
    u = e0 - some.eps_uncond
    d = guidance_term(e0, ec) - guidance_term(some.eps_uncond, some.eps_alternative)
    columns = {"u2": u, "d2": d, "r2": u + d} | {f"error {s:g}": u + s * d for s in SCALES}
    values = {name: mean_square(x).tolist() for name, x in columns.items()}
    return [
        {"what": "state", "i": i % 8, "t": int(t), **{k: v[i] for k, v in values.items()}}
        for i, t in enumerate(some.t.tolist())
    ]


def compare(
    prompts: str, eraser: str, learning_rate: float, extent: str, *, seed: int
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
    extent : {"long", "short", "coloured", "erased"}
        Which images to draw.
    seed : int
        Of states, minibatches and the noise of the images.

    Returns
    -------
    list of dict
        ``what`` is a kind of image ("erased", "paraphrase", "kept", "swapped"), "state" or
        "run". Images have the oracle's columns and ``rmse`` to the frozen model's image of the same
        seed; states have mean squares ``u2``, ``d2``, ``r2`` and ``error <scale>``; the run has
        ``seconds`` and ``loss``.
    """
    rows: list[dict[str, Any]] = []
    sets = {
        "long": SETS,
        "short": SHORT_SETS,
        "coloured": SHORT_SETS[:2],
        "erased": SETS[:1],
    }[extent]
    if eraser == "frozen":
        for one in sets:
            rows += _image_rows(*one[:2], frozen_images(*one, seed), frozen_images(*one, seed))
        for one in SWAPS:
            before = frozen_images("erased", *one[1:], seed)
            rows += _image_rows(*one[:2], draw(*one, seed), before)
        return rows
    result = erase(prompts, eraser, seed, learning_rate)
    for one in sets:
        rows += _image_rows(*one[:2], draw(*one, seed, result.unet), frozen_images(*one, seed))
    rows += _state_rows(result.unet, result.states, prompts)
    last = float(result.history.loss.iloc[-10:].mean())
    rows.append({"what": "run", "seconds": result.seconds, "loss": last})
    return rows


def trial(eraser: str, learning_rate: float, *, seed: int = TRIAL_SEED) -> dict[str, float]:
    """Rate of the erased concept after one choice of step size, on the seed for choosing."""
    unet = erase("bare", eraser, seed, learning_rate).unet
    images = draw("erased", 3.0, 40, 0, seed, unet)
    return {"rate": float((scenes.analyse(images)["shape"] == "circle").mean())}


# ----------------------------------------------------------------------- images: reading the comparison


@lru_cache(maxsize=1)
def comparison() -> pd.DataFrame:
    """Load the stored comparison; see :func:`compare` for its rows."""
    return data.stored("concept_erasing", "comparison")


def select(
    prompts: str, eraser: str, what: str, scale: float | None = None, seed: int | None = None
) -> pd.DataFrame:
    """Select rows of the comparison, in the order of seeds and images."""
    table = comparison()
    own = "bare" if eraser == "frozen" else prompts
    keep = (table.prompts == own) & (table.eraser == eraser) & (table.what == what)
    if scale is not None:
        keep &= table.scale == scale
    if seed is not None:
        keep &= table.seed == seed
    found = table[keep].sort_values(["seed", "t", "i"] if what == "state" else ["seed", "i"])
    if found.empty:
        raise KeyError(f"no {what!r} of {eraser!r} with {prompts!r} prompts at {scale} is stored")
    return found.reset_index(drop=True)


def rate(
    eraser: str,
    what: str = "erased",
    *,
    prompts: str = "bare",
    scale: float = 3.0,
    shape: str = "circle",
) -> Interval:
    """Share of images with a shape, over all seeds, with a Wilson interval."""
    seen = select(prompts, eraser, what, scale)["shape"] == shape
    return wilson(int(seen.sum()), len(seen), level=0.95)


def _pairs(
    first: str, second: str, what: str, scale: float, prompts: str, second_what: str | None = None
) -> pd.DataFrame:
    a = select(prompts, first, what, scale)
    b = select(prompts, second, second_what or what, scale)
    return a.merge(b, on=["seed", "i"], suffixes=("", "_2"), validate="one_to_one")


def _score(table: pd.DataFrame, column: str, suffix: str = "") -> np.ndarray:
    if column == "right":  # shape and colour as the prompt says
        n = len(table)
        asked = [words("kept", int(i) + 1)[-1].split()[1:] for i in table.i]
        colour, shape = (np.array([a[k] for a in asked]) for k in (0, 1))
        values = (table["shape" + suffix] == shape) & (table["colour" + suffix] == colour)
        return values.to_numpy().astype(float).reshape(n)
    values = table[column + suffix]
    if column == "shape":
        return (values == "circle").to_numpy().astype(float)
    return values.to_numpy().astype(float)


def difference(
    first: str,
    second: str,
    column: str,
    what: str,
    *,
    scale: float = 3.0,
    prompts: str = "bare",
    second_what: str | None = None,
) -> Interval:
    """Mean paired difference, first minus second, with a bootstrap interval over images.

    Parameters
    ----------
    first, second : str
        Erasers, or ``"frozen"``.
    column : {"rmse", "clean", "shape", "right"}
        ``shape`` counts circles; ``right`` counts kept prompts with shape and colour as asked.
    what, second_what : str
        Kind of images (of the second, if it is another one).
    scale : float
        Guidance scale.
    prompts : str
        Of fine-tuning.
    """
    table = _pairs(first, second, what, scale, prompts, second_what)
    values = _score(table, column) - _score(table, column, "_2")
    rng = np.random.default_rng(0)
    return bootstrap(np.mean, values, method="percentile", rng=rng)


def clean_gap() -> float:
    """Return clean images after the surgical update less those of the frozen model's triangles."""
    gaps = [
        difference("surgical", "frozen", "clean", "erased", scale=s, second_what="swapped").estimate
        for s in (3.0, 7.5)
    ]
    return min(gaps)


def shifts(
    eraser: str, *, prompts: str = "bare", scale: float = 3.0, exchange: bool = False
) -> np.ndarray:
    """Distances between an image's object and that of the frozen model's image, in pixels.

    Parameters
    ----------
    eraser : str
        Or ``"frozen"``: the frozen model with the prompt of the alternative.
    prompts : str
        Of fine-tuning.
    scale : float
        Guidance scale.
    exchange : bool
        Compare with the image of the next seed instead: what chance would give.
    """
    what = "swapped" if eraser == "frozen" else "erased"
    table = _pairs(eraser, "frozen", what, scale, prompts, "erased")
    x, y = table.cx_2.to_numpy(), table.cy_2.to_numpy()
    if exchange:
        x, y = np.roll(x, 1), np.roll(y, 1)
    found = np.hypot(table.cx.to_numpy() - x, table.cy.to_numpy() - y).astype(float)
    return found[np.isfinite(found)]


def shift_gap(first: str, second: str) -> Interval:
    """Mean paired difference of the shifts of two erasers, in pixels."""
    tables = [_pairs(e, "frozen", "erased", 3.0, "bare") for e in (first, second)]
    a, b = (np.hypot(*(t[["cx", "cy"]].to_numpy(float) - t[["cx_2", "cy_2"]].to_numpy(float)).T)
            for t in tables)  # fmt: skip
    both = np.isfinite(a) & np.isfinite(b)
    rng = np.random.default_rng(0)
    return bootstrap(np.mean, (a - b)[both], method="percentile", rng=rng)


def same_attribute(
    eraser: str, column: str, *, prompts: str = "bare", scale: float = 3.0
) -> Interval:
    """Share of images whose colour or background is that of the frozen model's image."""
    table = _pairs(eraser, "frozen", "erased", scale, prompts)
    same = table[column] == table[f"{column}_2"]
    return wilson(int(same.sum()), len(same), level=0.95)


def field_ratios(column: str, first: str, second: str, *, prompts: str = "bare") -> np.ndarray:
    """Ratio of a mean square over states, first over second, for each seed.

    ``column`` is ``u2``, ``d2``, ``r2`` or ``error <scale>``.
    """
    means = [select(prompts, e, "state").groupby("seed")[column].mean() for e in (first, second)]
    return (means[0] / means[1]).to_numpy().astype(float)


def field_ratio(column: str, first: str, second: str, *, prompts: str = "bare") -> Interval:
    """The same over all seeds, with a bootstrap interval over trajectories."""
    a, b = (
        select(prompts, e, "state").groupby(["seed", "i"])[column].mean().to_numpy(float)
        for e in (first, second)
    )
    rng = np.random.default_rng(0)
    return bootstrap(lambda x, y: x.mean() / y.mean(), a, b, method="percentile", rng=rng)


def by_seed() -> pd.DataFrame:
    """Compare Concept Ablation with the surgical update for each fine-tuning seed: one column a seed."""
    pair = ("Concept Ablation", "surgical")
    rows: dict[str, Any] = {
        f"circles left, {e}": select("bare", e, "erased", 3.0)
        .assign(circle=lambda t: t["shape"] == "circle")
        .groupby("seed")
        .circle.mean()
        for e in ("surgical", "Concept Ablation", "ESD")
    }
    rows["drift, ratio"] = field_ratios("u2", *pair)
    rows["error at s = 1, ratio"] = field_ratios("error 1", *pair)
    rows["error at s = 7.5, ratio"] = field_ratios("error 7.5", *pair)
    rows["RMSE of kept images at s = 7.5, difference"] = rmse_by_seed(*pair)
    return pd.DataFrame(rows).T.rename_axis(None).rename(columns="seed {}".format)


def rmse_by_seed(first: str, second: str) -> np.ndarray:
    """Mean difference of the RMSE of kept images at guidance 7.5, first minus second, for each seed."""
    table = _pairs(first, second, "kept", 7.5, "bare")
    return (table.rmse - table.rmse_2).groupby(table.seed).mean().to_numpy(float)


def step_size_trials() -> pd.DataFrame:
    """Share of circles left for each step size that was tried, and the one that was chosen."""
    stored = data.stored("concept_erasing", "step_sizes")
    table = pd.DataFrame(stored["trials"]).pivot(
        index="eraser", columns="learning_rate", values="rate"
    )
    table = table.rename(columns="{:g}".format).rename_axis(columns=None)
    table["chosen"] = pd.Series(stored["chosen"]).map("{:g}".format)
    return table.loc[list(stored["chosen"])]


def growth() -> float:
    """By how much the advantage over Concept Ablation grows from s = 1 to 7.5, the least of the seeds."""
    ratios = [field_ratios(f"error {s}", "Concept Ablation", "surgical") for s in ("7.5", "1")]
    return float((ratios[0] / ratios[1]).min())


def smallest_alternative() -> float:
    """Return the smallest rate of the named alternative over triangle, square and cross."""
    return min(
        rate("surgical", prompts=prompts, shape=shape).estimate
        for prompts, shape in (
            ("bare", "triangle"), ("to square", "square"), ("to cross", "cross"),
        )
    )  # fmt: skip


def overview(prompts: str = "bare", erasers: Sequence[str] | None = None) -> pd.DataFrame:
    """One row an eraser: what the comparison measured, as means."""
    table = comparison()
    names = erasers or list(dict.fromkeys(table[table.prompts == prompts].eraser))
    rows = []
    for name in names:
        row: dict[str, Any] = {"eraser": name}
        if name != "frozen" or prompts == "bare":
            row["circles"] = rate(name, prompts=prompts).estimate
        kept = select(prompts, name, "kept", 3.0)
        row["kept right"] = float(_score(kept, "right").mean())
        if prompts == "bare":
            row["kept RMSE, s = 7.5"] = float(select(prompts, name, "kept", 7.5).rmse.mean())
        else:
            row["kept RMSE, s = 3"] = float(kept.rmse.mean())
        if name != "frozen":
            row["colour kept"] = same_attribute(name, "colour", prompts=prompts).estimate
            row["shift, px"] = float(np.median(shifts(name, prompts=prompts)))
            states = select(prompts, name, "state")
            row["drift"] = float(states.u2.mean())
            row["error, s = 7.5"] = float(states["error 7.5"].mean())
        rows.append(row)
    return pd.DataFrame(rows).set_index("eraser")


def learning_rate(eraser: str) -> float:
    """Return the step size that was chosen for an eraser of the comparison."""
    basic = eraser.split(",")[0].split(" +")[0]
    return float(data.stored("concept_erasing", "step_sizes")["chosen"][basic])


# ------------------------------------------------------------------------------- images: live


def surgical_again() -> ErasureResult:
    """Train the surgical eraser of seed 0 once more."""
    return erase("bare", "surgical", 0, learning_rate("surgical"))


def replicate_difference(unet: Any, n: int = 40) -> float:
    """Share of images in which the oracle reads another shape than in the stored run."""
    now = scenes.analyse(draw("erased", 3.0, n, 0, 0, unet))["shape"]
    then = select("bare", "surgical", "erased", 3.0, 0)["shape"][:n]
    return float((now.to_numpy() != then.to_numpy()).mean())


def field_check(result: ErasureResult) -> dict[str, float]:
    """Largest deviation from the identity, and largest ratio of error to bound."""
    weight = ERASERS["surgical"]["drift_weight"]
    table = evaluation.cfg_error(
        pipeline(), result.unet, _some(result.states), SCALES, drift_weight=weight
    )
    return {
        "identity": float(table.identity.max()),
        "bound": float((table.error / table.bound).max()),
    }


@lru_cache(maxsize=4)
def stored_eraser(eraser: str) -> Any:
    """Load a UNet of seed 0 of the comparison: "surgical", "Concept Ablation" or "ESD"."""
    tensors, _ = load_checkpoint(data.path("concept_erasing/erased"))
    mine = {k.split("/", 1)[1]: v for k, v in tensors.items() if k.startswith(f"{eraser}/")}
    if not mine:
        known = sorted({k.split("/", 1)[0] for k in tensors})
        raise KeyError(f"no stored eraser {eraser!r}; there is: {', '.join(known)}")
    unet = copy.deepcopy(pipeline().unet)
    unet.load_state_dict(mine, strict=False)
    return unet.requires_grad_(False)


def rendered_circles(n: int = 64) -> tuple[pd.DataFrame, Tensor]:
    """Render circles of random colour, place and size."""
    drawn = scenes.sample_scenes(profiles.rng("concept_erasing", "circles"), n)
    drawn["shape"] = "circle"
    return drawn, scenes.render(drawn)


PURIFICATIONS: dict[str, dict[str, Any]] = {
    "frozen, there and back": {"invert": "frozen", "draw": "frozen", "scale": 1.0},
    "frozen, then erased": {"invert": "frozen", "draw": "erased", "scale": 3.0},
    "erased, there and back": {"invert": "erased", "draw": "erased", "scale": 1.0},
    "erased, then erased": {"invert": "erased", "draw": "erased", "scale": 3.0},
    "fresh noise": {"invert": "noise", "draw": "erased", "scale": 3.0},
}


def purified(way: str, drawn: pd.DataFrame, images: Tensor, unet: Any) -> Tensor:
    """Invert given circles and draw them again; the prompt names each one's colour.

    Parameters
    ----------
    way : str
        A key of ``PURIFICATIONS``: which model inverts, which one draws, and with how much guidance.
    drawn : DataFrame
        The scenes.
    images : Tensor, shape (B, 3, H, W)
    unet : UNet
        The erased model.
    """
    how = PURIFICATIONS[way]
    pipe = pipeline()
    models = {"frozen": pipe.unet, "erased": unet}
    noise = None
    if how["invert"] == "noise":
        noise = sampling.initial_noise(
            pipe, profiles.seeds(len(images), "concept_erasing", "noise")
        )
    return sampling.purify(
        pipe,
        images,
        [f"a {colour} circle" for colour in drawn.colour],
        models[how["draw"]],
        invert_unet=models.get(how["invert"]),
        guidance_scale=how["scale"],
        noise=noise,
    )


def purification(
    unet: Any, n: int = 64, ways: Sequence[str] = tuple(PURIFICATIONS)
) -> pd.DataFrame:
    """One row a way of purifying: what became of the circles."""
    drawn, images = rendered_circles(n)
    before = scenes.analyse(images)
    rows = []
    for way in ways:
        after_images = purified(way, drawn, images, unet)
        after = scenes.analyse(after_images)
        shift = evaluation.median_shift(before, after)
        rows.append(
            {
                "way": way,
                "circles": float((after["shape"] == "circle").mean()),
                "triangles": float((after["shape"] == "triangle").mean()),
                "same colour": float((after.colour == before.colour).mean()),
                "same background": float((after.background == before.background).mean()),
                "shift, px": float(np.nanmedian(shift)),
                "RMSE": float(evaluation.image_rmse(images, after_images).mean()),
            }
        )
    return pd.DataFrame(rows).set_index("way")


def round_trips(
    scales: Sequence[float] = (1.0,), steps: Sequence[int] = (12, 24, 48), n: int = 16
) -> pd.DataFrame:
    """RMSE after inverting circles and drawing them, frozen model: a row a scale, a column a number of steps."""
    drawn, images = rendered_circles(n)
    pipe = pipeline()
    prompts = [f"a {colour} circle" for colour in drawn.colour]
    rows = {}
    for scale in scales:
        row = {}
        for k in steps:
            back = sampling.purify(
                pipe, images, prompts, pipe.unet, guidance_scale=scale, num_inference_steps=k
            )
            row[f"{k} steps"] = float(evaluation.image_rmse(images, back).mean())
        rows[scale] = row
    return pd.DataFrame(rows).T.rename_axis("guidance")


def stable_diffusion_check(n_steps: int = 3) -> dict[str, float]:
    """Run sampler and eraser on a randomly initialised Stable Diffusion pipeline."""
    pipe = tiny_stable_diffusion()
    prompts = ["a picture of pig", "a picture of laptop"]
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    ours = sampling.generate(
        pipe, prompts, noise=noise, guidance_scale=7.5, num_inference_steps=10, output="latent"
    )
    theirs = pipe(
        prompts, latents=noise, guidance_scale=7.5, num_inference_steps=10, output_type="latent"
    ).images
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    result = erase_concept(
        pipe,
        Replacement("a picture of pig", "a picture of cow"),
        n_steps=n_steps,
        batch_size=64,
        learning_rate=1e-4,
        n_trajectories=16,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(0),
    )
    after = pipe.unet.state_dict()
    return {
        "latents": float((ours - theirs).abs().max()),
        "changed": float(sum(int((after[k] != v).sum()) for k, v in before.items())),
        "first loss": float(result.history.loss.iloc[0]),
        "last loss": float(result.history.loss.iloc[-1]),
    }


# ------------------------------------------------------------------------------------ 2-D: exact


def classifier_error(n: int = 200) -> float:
    """Largest difference between the guidance term and the gradient of the implicit classifier."""
    generator = profiles.generator("concept_erasing", "classifier")
    worst = 0.0
    for t in (20, 250, 500, 750, 980):
        abar = exact.alphas_cumprod()[t]
        x = 2 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
        for condition in range(exact.EMPTY):
            g = exact.exact_eps(x, t, condition) - exact.exact_eps(x, t, exact.EMPTY)
            worst = max(worst, float((g + (1 - abar).sqrt() * _slope(x, t, condition)).abs().max()))
    return worst


def _slope(x: Tensor, t: int, condition: int) -> Tensor:
    """Gradient of ln p(condition | x_t) by automatic differentiation of the densities."""
    abar = exact.alphas_cumprod()[t]
    means = torch.tensor(exact.MEANS, dtype=torch.float64) * abar.sqrt()
    variance = abar * exact.SPREAD**2 + 1 - abar
    x = x.clone().requires_grad_(True)
    logits = -((x[:, :1] - means) ** 2) / (2 * variance)
    (slope,) = torch.autograd.grad(logits.log_softmax(1)[:, condition].sum(), x)
    return slope


def ideal_noise(n: int = 2000) -> Tensor:
    """Noise of n seeds in the 2-D model."""
    generator = profiles.generator("concept_erasing", "ideal")
    return torch.randn(n, 2, generator=generator, dtype=torch.float64)


def off_support(name: str, scale: float, **settings: Any) -> Interval:
    """Share of an ideal eraser's samples that lie off the data."""
    off = exact.off_support(exact.sample_ideal(name, scale, ideal_noise(), **settings))
    return wilson(int(off.sum()), len(off), level=0.95)


def ideal_esd() -> Interval:
    """Return the smaller share off the data of ESD's objective, s = 3 and 7.5."""
    return min((off_support("ESD", s) for s in (3.0, 7.5)), key=lambda i: i.estimate)


def ideal_surgical_off() -> int:
    """Count samples off the data over three guidance scales."""
    found = [exact.off_support(exact.sample_ideal("surgical", s, ideal_noise())) for s in SCALES]
    return int(sum(int(off.sum()) for off in found))


def ideal_layout_change(**settings: Any) -> float:
    """Largest change of the layout under a perfect surgical eraser."""
    noise = ideal_noise()
    changes = [
        exact.sample_ideal("surgical", s, noise, **settings)[:, 1]
        - exact.sample_ideal("frozen", s, noise, **settings)[:, 1]
        for s in SCALES
    ]
    return max(float(change.abs().max()) for change in changes)


def ideal_rate(name: str, wanted: int, scale: float, **settings: Any) -> float:
    """Share of an ideal eraser's samples in a class."""
    points = exact.sample_ideal(name, scale, ideal_noise(), **settings)
    return float((exact.classes_of(points) == wanted).double().mean())


def ideal_alternatives() -> float:
    """Return the smallest rate of a named alternative over the three other classes."""
    return min(ideal_rate("surgical", c, 3.0, alternative=c) for c in (0, 2, 3))


def ideal_table() -> pd.DataFrame:
    """One row for each ideal field and scale: rate of the erased class, share off the data."""
    rows = []
    for name in exact.IDEALS:
        for scale in SCALES:
            points = exact.sample_ideal(name, scale, ideal_noise())
            rows.append(
                {
                    "field": name,
                    "s": scale,
                    "erased class": float((exact.classes_of(points) == 1).double().mean()),
                    "off the data": float(exact.off_support(points).double().mean()),
                    "mean x": float(points[:, 0].mean()),
                }
            )
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------ 2-D: small networks

#: Weights of a student that read the prompt, as the cross-attention of a UNet does.
READERS = ("prompt", "layers.0")
POINT_ERASERS: dict[str, dict[str, Any]] = {
    "surgical": {"method": "surgical", "drift_weight": 1.0},
    "surgical, λ = 0": {"method": "surgical", "drift_weight": 0.0},
    "Concept Ablation": {"method": "concept_ablation"},
    "Concept Ablation + anchor": {"method": "anchored_ablation", "drift_weight": 10.0},
    "ESD": {"method": "esd"},
    "SDD": {"method": "sdd"},
}
N_POINTS = 400


@lru_cache(maxsize=1)
def _student() -> exact.Student:
    return exact.load_student()


@lru_cache(maxsize=128)
def point_run(
    eraser: str, all_weights: bool, learning_rate: float, seed: int, scale: float = 3.0
) -> dict[str, float]:
    """Erase class 1 from the small network once, and judge it.

    Parameters
    ----------
    eraser : str
        A key of ``POINT_ERASERS``.
    all_weights : bool
        Train everything, or only what reads the prompt.
    learning_rate : float
        Of Adam; 200 steps of 256.
    seed : int
        Of states, minibatches and the noise of the samples.
    scale : float
        Guidance of the samples.

    Returns
    -------
    dict
        ``erased`` and ``alternative`` (rates of class 1 and 2), ``kept`` (mean accuracy of the other
        classes), ``layout`` (root mean square change), ``u2``, and ``error <scale>``.
    """
    student = _student()
    points = exact.record_points(student, generator=torch.Generator().manual_seed(seed))
    tuned = exact.fine_tune(
        student,
        points,
        parameters=None if all_weights else READERS,
        learning_rate=learning_rate,
        seed=seed,
        **POINT_ERASERS[eraser],
    )
    noise = torch.randn(
        N_POINTS, 2, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64
    )
    before = exact.sample_student(student, 1, scale, noise)
    after = exact.sample_student(tuned, 1, scale, noise)
    classes = exact.classes_of(after)
    kept = [
        (exact.classes_of(exact.sample_student(tuned, c, scale, noise)) == c).double().mean()
        for c in (0, 2, 3)
    ]
    errors = point_errors(tuned, points, SCALES)
    return {
        "erased": float((classes == 1).double().mean()),
        "alternative": float((classes == 2).double().mean()),
        "kept": float(sum(kept) / 3),
        "layout": float((after[:, 1] - before[:, 1]).square().mean().sqrt()),
        "off the data": float(exact.off_support(after).double().mean()),
    } | errors


@torch.no_grad()
def point_errors(
    tuned: exact.Student, points: exact.Points, scales: Sequence[float]
) -> dict[str, float]:
    """Mean squared drift, and mean squared error of the sampled field at each scale."""
    n = len(points.x)
    e0 = tuned(points.x, points.t, torch.full((n,), exact.EMPTY))
    ec = tuned(points.x, points.t, torch.full((n,), 1))
    u = e0 - points.uncond
    d = guidance_term(e0, ec) - guidance_term(points.uncond, points.alternative)
    found = {"u2": float(u.square().mean())}
    return found | {f"error {s:g}": float((u + s * d).square().mean()) for s in scales}


def point_seeds(n: int = 3) -> list[int]:
    """Seeds of the fine-tuning runs in 2-D."""
    return profiles.seeds(n, "concept_erasing", "points")


def point_runs(
    eraser: str, *, all_weights: bool = False, learning_rate: float = 1e-3, n: int = 3
) -> pd.DataFrame:
    """Several runs of :func:`point_run`, one row each."""
    return pd.DataFrame(
        [point_run(eraser, all_weights, learning_rate, seed) for seed in point_seeds(n)]
    )


def point_ratios(column: str, first: str, second: str) -> np.ndarray:
    """Ratio of a column of :func:`point_runs`, first eraser over second, for each run."""
    return (point_runs(first)[column] / point_runs(second)[column]).to_numpy()


def fixed_all_weights_run() -> float:
    """Accuracy of the kept classes after one fixed run with all weights free."""
    return point_run("surgical", True, 3e-4, 100)["kept"]


def point_table(*, all_weights: bool = False, learning_rate: float = 1e-3) -> pd.DataFrame:
    """One row an eraser, means over three runs."""
    return pd.DataFrame(
        {
            name: point_runs(name, all_weights=all_weights, learning_rate=learning_rate).mean()
            for name in POINT_ERASERS
        }
    ).T


def point_curve(eraser: str, scales: Sequence[float]) -> np.ndarray:
    """Error of the sampled field at many scales, mean over three runs."""
    student = _student()
    found = []
    for seed in point_seeds():
        points = exact.record_points(student, generator=torch.Generator().manual_seed(seed))
        tuned = exact.fine_tune(
            student, points, parameters=READERS, learning_rate=1e-3, seed=seed,
            **POINT_ERASERS[eraser],
        )  # fmt: skip
        errors = point_errors(tuned, points, scales)
        found.append([errors[f"error {s:g}"] for s in scales])
    return np.mean(found, 0)


# ------------------------------------------------------------------------------------ attacks


N_ATTACK = 30  # images behind each rate of this part


def _noised(images: Tensor, t: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy latents and the velocity to predict, for ordinary training."""
    pipe = pipeline()
    x0 = pipe.encode(images)
    a = pipe.scheduler.alphas_cumprod[t][:, None, None, None]
    noise = torch.randn(x0.shape, generator=generator)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * x0


def _attack_circles(seed: int) -> tuple[pd.DataFrame, Tensor]:
    drawn = scenes.sample_scenes(np.random.default_rng(seed), 32)
    drawn["shape"] = "circle"
    return drawn, scenes.render(drawn)


def relearn(
    eraser: str, n_steps: int, learning_rate: float, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Train an erased model on 32 circles again, and watch the concept come back.

    Returns
    -------
    list of dict
        ``step`` and ``rate``, the circle rate of ``N_ATTACK`` images.
    """
    pipe = pipeline()
    unet = copy.deepcopy(stored_eraser(eraser))
    chosen = list(trainable_parameters(unet, "cross_attention").values())
    for p in chosen:
        p.requires_grad_(True)
    drawn, images = _attack_circles(seed)
    states = sampling.encode_prompts(pipe, [f"a {c} circle" for c in drawn.colour])
    rows: list[dict[str, Any]] = []

    def watch(step: int) -> None:
        seen = scenes.analyse(draw("erased", 3.0, N_ATTACK, 50_000, seed, unet))
        rows.append({"step": step, "rate": float((seen["shape"] == "circle").mean())})

    def step(i: int, draw_: torch.Generator) -> Tensor:
        pick = torch.randint(32, (16,), generator=draw_)
        t = torch.randint(1000, (16,), generator=draw_)
        x, v = _noised(images[pick], t, draw_)
        return (unet(x, t, states[pick]).sample - v).square().mean()

    def after(i: int, loss: float) -> None:
        if i + 1 in (5, 10, 20, 40):
            watch(i + 1)

    watch(0)
    train(step, chosen, n_steps=n_steps, learning_rate=learning_rate, schedule="constant",
          clip_norm=None, seed=seed, every=1, callback=after)  # fmt: skip
    return rows


def embedding_attack(eraser: str, n_steps: int, *, seed: int = 0) -> dict[str, float]:
    """Learn one token state that makes an erased model draw circles, its weights untouched.

    The state stands where the noun of "a <colour> circle" stands; it starts at that of the
    square. Returns the circle rate before and after.
    """
    pipe = pipeline()
    unet = pipe.unet if eraser == "frozen" else stored_eraser(eraser)
    drawn, images = _attack_circles(seed)
    colours = list(scenes.COLOURS)
    base = dict(
        zip(colours, sampling.encode_prompts(pipe, [f"a {c} square" for c in colours]), strict=True)
    )
    noun = 3  # [CLS] a <colour> <noun> [SEP]
    token = base["red"][noun].clone().requires_grad_(True)

    def states(names: Sequence[str]) -> Tensor:
        kept = torch.stack([base[name] for name in names])
        return torch.cat([kept[:, :noun], token.expand(len(names), 1, -1), kept[:, noun + 1 :]], 1)

    def measured() -> float:
        names = [colours[i % 5] for i in range(N_ATTACK)]
        start = 1_000_000 * (seed + 1) + 60_000
        noise = sampling.initial_noise(pipe, range(start, start + N_ATTACK))
        with torch.no_grad():
            cond = states(names)
            empty = sampling.encode_prompts(pipe, [""]).expand_as(cond)
            latents = sampling.denoise(
                pipe, unet, noise, cond, empty, guidance_scale=3.0, num_inference_steps=12
            )
        return float((scenes.analyse(pipe.decode(latents))["shape"] == "circle").mean())

    def step(i: int, draw_: torch.Generator) -> Tensor:
        pick = torch.randint(32, (16,), generator=draw_)
        t = torch.randint(1000, (16,), generator=draw_)
        x, v = _noised(images[pick], t, draw_)
        names = [drawn.colour[int(k)] for k in pick]
        return (unet(x, t, states(names)).sample - v).square().mean()

    before = measured()
    train(step, [token], n_steps=n_steps, learning_rate=3e-2, schedule="constant", clip_norm=None,
          seed=seed, every=n_steps)  # fmt: skip
    return {"before": before, "after": measured()}


def steps_needed(eraser: str, *, seed: int = 0) -> list[dict[str, Any]]:
    """Circle rate after 5, 10, 20 and 40 training steps, ``N_ATTACK`` images each."""
    rows: list[dict[str, Any]] = []

    def watch(step: int, unet: Any) -> None:
        if step + 1 in (5, 10, 20, 40):
            seen = scenes.analyse(draw("erased", 3.0, N_ATTACK, 0, seed, unet))
            hits = int((seen["shape"] == "circle").sum())
            rows.append({"step": step + 1, "circles": hits, "rate": hits / N_ATTACK})

    erase_concept(
        pipeline(), PROMPTS["bare"], states=recorded("bare", seed),
        generator=torch.Generator().manual_seed(2000 + seed),
        n_steps=40, learning_rate=learning_rate(eraser), callback=watch, **ERASERS[eraser],
    )  # fmt: skip
    return rows


# ------------------------------------------------------------------------------------ other seeds

Measured = dict[str, tuple[float, Interval | None]]


def point_claims() -> Measured:
    """Measure the live claims of the 2-D model that depend on the seed."""
    esd, negative = ideal_esd(), off_support("negative prompt", 3.0)
    all_weights = point_runs("ESD", all_weights=True, learning_rate=3e-4)
    ablation = "Concept Ablation"
    return {
        "c0a-classifier": (classifier_error(), None),
        "c2a-ideal-support": (ideal_surgical_off(), None),
        "c2b-ideal-esd": (esd.estimate, esd),
        "c2c-ideal-negative": (negative.estimate, negative),
        "c3a-ideal-layout": (ideal_layout_change(), None),
        "c6c-points": (ideal_alternatives(), None),
        "c6d-points-none": (ideal_rate("surgical, no alternative", 1, 7.5), None),
        "c1a-points": (point_runs("surgical")["erased"].max(), None),
        "c1b-points-esd": (all_weights["erased"].min(), None),
        "c3b-points-ablation": (point_ratios("layout", "surgical", ablation).max(), None),
        "c3c-points-esd": (point_ratios("layout", "surgical", "ESD").max(), None),
        "c4b-points-drift": (point_ratios("u2", ablation, "surgical").min(), None),
        "c5h-points-kept": (point_runs("surgical")["kept"].min(), None),
        "c5i-points-ablation": (point_runs(ablation)["kept"].max(), None),
        "c7b-points-scale": (point_ratios("error 7.5", "surgical", ablation).max(), None),
    }


#: Row of the ledger, way of purifying, and what is read from it.
PURIFIED = {
    "c8a-purified": ("frozen, then erased", "triangles"),
    "c8b-shift": ("frozen, then erased", "shift, px"),
    "c8c-background": ("frozen, then erased", "same background"),
    "c8d-round-trip": ("frozen, there and back", "RMSE"),
    "c8e-same-model": ("erased, there and back", "circles"),
}


def purified_values(table: pd.DataFrame) -> dict[str, float]:
    """Read the claims about purification from the table of :func:`purification`."""
    values = {id: float(table[column][way]) for id, (way, column) in PURIFIED.items()}
    return values | {"c8f-control": float(table["shift, px"]["fresh noise"]) / values["c8b-shift"]}


def purification_claims() -> Measured:
    """Measure the live claims about purification."""
    ways = [way for way in PURIFICATIONS if way != "erased, then erased"]
    found = purification(stored_eraser("surgical"), ways=ways)
    return {id: (value, None) for id, value in purified_values(found).items()}
