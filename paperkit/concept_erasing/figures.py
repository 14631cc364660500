"""The chapter's figures; each takes what :mod:`.experiments` measured and returns a figure.

Drawing only: no number is made here. The interactive ones work in a page without server or network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paperkit import data, plotting
from paperkit.claims import Interval
from paperkit.plotting import METHOD_COLOURS as COLOURS

from . import exact, experiments

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: One colour an eraser, in both worlds.
ERASER_COLOURS = {
    "frozen": COLOURS["black"],
    "surgical": COLOURS["blue"],
    "surgical, λ = 1": COLOURS["sky"],
    "surgical, λ = 0": COLOURS["purple"],
    "Concept Ablation": COLOURS["vermillion"],
    "Concept Ablation + anchor": COLOURS["green"],
    "Concept Ablation + anchor 10": COLOURS["green"],
    "ESD": COLOURS["orange"],
    "SDD": COLOURS["grey"],
    "negative prompt": COLOURS["purple"],
}


def _axes(
    columns: int = 1, rows: int = 1, width: float = 6.4, height: float = 3.6, **options: Any
) -> Any:
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=(width, height), **options)


# ------------------------------------------------------------------------------------ notebook 1


def ideal_fields(scale: float = 3.0, n: int = 500) -> Figure:
    """Samples of what four methods aim at; concept across, layout up."""
    names = ("frozen", "surgical", "ESD", "negative prompt")
    figure, axes = _axes(2, 2, width=6.6, height=4.6, sharex=True, sharey=True)
    noise = experiments.ideal_noise()[:n]
    for ax, name in zip(axes.flat, names, strict=True):
        points = exact.sample_ideal(name, scale, noise).numpy()
        for mean in exact.MEANS:
            ax.axvspan(mean - 0.5, mean + 0.5, color=COLOURS["grey"], alpha=0.15, lw=0)
        ax.scatter(points[:, 0], points[:, 1], s=4, color=ERASER_COLOURS[name], alpha=0.6)
        ax.set(title=name, xlim=(-18, 18), ylim=(-3.5, 3.5))
        ax.label_outer()
    for ax in axes[1]:
        ax.set_xlabel("concept")
    for ax in axes[:, 0]:
        ax.set_ylabel("layout")
    return figure


def scale_slider(n: int = 150, scales: Sequence[float] = tuple(np.arange(0, 9.1, 0.75))) -> Any:
    """The same four methods while the guidance scale moves."""
    import plotly.graph_objects as go

    names = ("frozen", "surgical", "ESD", "negative prompt")
    noise = experiments.ideal_noise()[:n]
    frames = []
    for scale in scales:
        traces = []
        for k, name in enumerate(names):
            points = exact.sample_ideal(name, float(scale), noise).numpy()
            traces.append(
                go.Scatter(
                    x=np.clip(points[:, 0], -30, 30),
                    y=points[:, 1] / 8 + (3 - k),
                    mode="markers",
                    name=name,
                    marker={"color": ERASER_COLOURS[name], "size": 5, "opacity": 0.6},
                )
            )
        frames.append(traces)
    bands = [
        {"type": "rect", "x0": mean - 0.5, "x1": mean + 0.5, "yref": "paper", "y0": 0, "y1": 1,
         "fillcolor": COLOURS["grey"], "opacity": 0.15, "line": {"width": 0}, "layer": "below"}
        for mean in exact.MEANS
    ]  # fmt: skip
    layout = {
        "height": 440,
        "shapes": bands,
        "xaxis": {"title": {"text": "concept"}, "range": [-31, 31]},
        "yaxis": {"tickvals": [3, 2, 1, 0], "ticktext": list(names), "range": [-0.6, 3.6]},
        "showlegend": False,
    }  # fmt: skip
    return plotting.slider(
        frames, [f"{s:.3g}" for s in scales], name="guidance scale s", start=4, layout=layout,
        alt="Four rows of points. Frozen stays on the erased class, surgical on its alternative, at every guidance "
        "scale. ESD and the negative prompt leave the four classes sideways as the scale grows, to plus or minus 30.",
    )  # fmt: skip


def ideal_bars(table: pd.DataFrame) -> Figure:
    """Share off the data for each ideal field and guidance scale."""
    figure, ax = _axes(width=6.4, height=3.2)
    names = list(dict.fromkeys(table.field))
    for k, scale in enumerate(experiments.SCALES):
        values = [
            table[(table.field == n) & (table.s == scale)]["off the data"].iloc[0] for n in names
        ]
        ax.barh(np.arange(len(names)) + 0.26 * (k - 1), values, 0.24, label=f"s = {scale:g}",
                color=COLOURS[("sky", "blue", "black")[k]])  # fmt: skip
    ax.set(yticks=range(len(names)), yticklabels=names, xlabel="share of samples off the data")
    ax.invert_yaxis()
    ax.legend(loc="upper right")
    return figure


def drift_bars(table: pd.DataFrame) -> Figure:
    """Drift, layout change and kept accuracy of the trained erasers in 2-D."""
    figure, axes = _axes(1, 3, width=6.4, height=6.6)
    names = list(table.index)
    colours = [ERASER_COLOURS[n] for n in names]
    for ax, column, label, log in zip(
        axes,
        ("u2", "layout", "kept"),
        ("drift of the unconditional part", "change of the layout", "kept classes right"),
        (True, True, False),
        strict=True,
    ):
        ax.barh(range(len(names)), table[column], color=colours)
        ax.set(xlabel=label, yticks=range(len(names)), yticklabels=names)
        if log:
            ax.set_xscale("log")
        ax.invert_yaxis()
    return figure


def error_curves(scales: Sequence[float], curves: Mapping[str, np.ndarray]) -> Figure:
    """Squared error of the sampled field against the guidance scale."""
    figure, ax = _axes(height=3.8)
    styles = ["-", "--", "-.", ":"]
    for k, (name, values) in enumerate(curves.items()):
        ax.plot(scales, values, styles[k % 4], color=ERASER_COLOURS[name], label=name)
    ax.set(xlabel="guidance scale s", ylabel="squared error of the sampled field", yscale="log")
    ax.legend()
    return figure


# ------------------------------------------------------------------------------------ notebook 2


def _stack(images: Any) -> np.ndarray:
    array = images.numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.dtype == np.uint8:
        array = array / 255
    return np.moveaxis(array, 1, -1)


def image_grid(
    rows: Mapping[str, Any], columns: Sequence[str] | None = None, *, width: float = 8.6
) -> Figure:
    """Rows of images with their names."""
    n = min(len(v) for v in rows.values())
    cell = width / (n + 2.2)
    figure, axes = _axes(n, len(rows), width=width, height=cell * len(rows) + 0.35, squeeze=False)
    for r, (name, images) in enumerate(rows.items()):
        for c, image in enumerate(_stack(images)[:n]):
            ax = axes[r, c]
            ax.imshow(np.clip(image, 0, 1), interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            for spine in ax.spines.values():
                spine.set_visible(False)
            if r == 0 and columns is not None:
                ax.set_title(columns[c], fontsize=9, fontweight="normal", loc="center")
        axes[r, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def stored_grid(live: Tensor | None = None) -> Figure:
    """One column a seed, one row a model: before, the frozen model's own triangle, and three erasers."""
    grid = data.stored("concept_erasing", "grid")
    return image_grid(
        {
            "frozen: circle": grid["frozen erased"],
            "frozen: triangle": grid["frozen swapped"],
            "surgical": grid["bare surgical"] if live is None else live[:10],
            "Concept Ablation": grid["bare Concept Ablation"],
            "ESD": grid["bare ESD"],
        }
    )


def shapes_and_colours(images: Mapping[str, Any]) -> Figure:
    """Images of the 15 kept prompts: a column for each colour; rows for the shapes, one for each model."""
    asked = [words.split()[1:] for words in experiments.words("kept", 15)]
    rows = {}
    for k in range(3):
        for name, found in images.items():
            shape = asked[5 * k][1]
            rows[f"{shape}: {name}" if name else shape] = found[5 * k : 5 * k + 5]
    return image_grid(rows, [colour for colour, _ in asked[:5]], width=5.4)


def coloured_grid() -> Figure:
    """Kept prompts after erasing with prompts that name a colour."""
    grid = data.stored("concept_erasing", "grid")
    return shapes_and_colours(
        {
            "frozen": grid["frozen kept"],
            "surgical": grid["coloured surgical"],
            "ESD": grid["coloured ESD"],
        }
    )


def forest(intervals: Mapping[str, Interval], label: str, *, mark: float | None = None) -> Figure:
    """Estimates with intervals, one line each."""
    figure, ax = _axes(height=0.8 + 0.36 * len(intervals))
    for k, (name, i) in enumerate(intervals.items()):
        colour = ERASER_COLOURS.get(name.split(" (")[0], COLOURS["black"])
        ax.plot([i.low, i.high], [k, k], color=colour)
        ax.plot(i.estimate, k, "o", color=colour)
    if mark is not None:
        ax.axvline(mark, color=COLOURS["grey"], ls="--", lw=1)
    ax.set(yticks=range(len(intervals)), yticklabels=list(intervals), xlabel=label)
    ax.invert_yaxis()
    return figure


def drift_and_error(prompts: str = "bare") -> Figure:
    """Drift for each seed, and error of the sampled field against s."""
    figure, (above, below) = _axes(1, 2, width=6.4, height=6.0, height_ratios=[1, 1.5])
    names = ["surgical", "Concept Ablation + anchor 10", "Concept Ablation", "ESD"]
    if prompts != "bare":
        names.remove("Concept Ablation + anchor 10")
    for k, name in enumerate(names):
        states = experiments.select(prompts, name, "state")
        drift = states.groupby("seed").u2.mean()
        above.plot(drift, [k] * len(drift), "o", color=ERASER_COLOURS[name])
        errors = [float(states[f"error {s:g}"].mean()) for s in experiments.SCALES]
        below.plot(experiments.SCALES, errors, "o-", color=ERASER_COLOURS[name], label=name)
    above.set(xscale="log", yticks=range(len(names)), yticklabels=names,
             xlabel="mean squared drift", ylim=(len(names) - 0.5, -0.5))  # fmt: skip
    below.set(yscale="log", xlabel="guidance scale s", ylabel="squared error of the sampled field")
    below.legend(fontsize=8.5, loc="lower right")
    return figure


def sampled_slider(
    unets: Mapping[str, Any], scales: Sequence[float] = (1, 2, 3, 4.5, 6, 7.5, 9), n: int = 8
) -> Any:
    """Images of the same seeds while the guidance scale moves."""
    frames = []
    for scale in scales:
        rows = [
            _stack(experiments.draw("erased", float(scale), n, 0, 0, unet))
            for unet in unets.values()
        ]
        gap = np.ones((2, n * 26, 3))
        lines = []
        for row in rows:
            padded = np.pad(row, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1.0)
            lines += [np.concatenate(list(padded), 1), gap]
        frames.append((np.clip(np.concatenate(lines[:-1]), 0, 1) * 255).astype(np.uint8))
    return plotting.image_slider(
        frames, [f"{s:g}" for s in scales], name="guidance scale s", start=2,
        alt="Rows of images for " + ", ".join(unets) + ", one column a seed. Circles in the first row, triangles "
        "of the same colour at about the same place below, at every guidance scale; edges get rough when it is strong.",
    )  # fmt: skip


# ------------------------------------------------------------------------------------ notebook 3


def purified_grid(ways: Sequence[str], unet: Any, n: int = 10) -> Figure:
    """Given images above, and what each way of purifying makes of them."""
    drawn, images = experiments.rendered_circles(64)
    drawn, images = drawn.iloc[:n], images[:n]
    rows: dict[str, Any] = {"given": images}
    for way in ways:
        rows[way] = experiments.purified(way, drawn, images, unet)
    return image_grid(rows)


def step_curves(table: pd.DataFrame, xlabel: str, ylabel: str = "share of circles") -> Figure:
    """Circle rate against steps, one line an eraser, with Wilson intervals."""
    from paperkit.claims import wilson

    figure, ax = _axes(height=3.4)
    for name, rows in table.groupby("eraser", sort=False):
        steps = rows.step.to_numpy()
        intervals = [
            wilson(round(experiments.N_ATTACK * r), experiments.N_ATTACK, level=0.95)
            for r in rows.rate
        ]
        plotting.band(ax, steps, intervals, label=str(name), colour=ERASER_COLOURS[str(name)])
    ax.set(xlabel=xlabel, ylabel=ylabel, ylim=(-0.03, 1.03))
    ax.legend()
    return figure


def at_a_glance() -> Figure:
    """The chapter in one picture: what is aimed at, and what it does to images."""
    import matplotlib.pyplot as plt

    grid = data.stored("concept_erasing", "grid")
    figure = plt.figure(figsize=(9.6, 3.4))
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.25])
    axes = left.subplots(2, 1, sharex=True)
    noise = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for ax, name in zip(axes, ("surgical", "ESD"), strict=True):
        points = exact.sample_ideal(name, 3.0, noise).numpy()
        for mean in exact.MEANS:
            ax.axvspan(mean - 0.5, mean + 0.5, color=COLOURS["grey"], alpha=0.15, lw=0)
        ax.scatter(points[:, 0], points[:, 1], s=4, color=ERASER_COLOURS[name], alpha=0.6)
        ax.set(title=name, xlim=(-18, 18), ylabel="layout", yticks=[])
    axes[1].set_xlabel("concept; grey: the data")
    rows = {
        "before": grid["frozen erased"],
        "surgical": grid["bare surgical"],
        "ESD": grid["bare ESD"],
    }
    cells = right.subplots(3, 6)
    for r, (name, images) in enumerate(rows.items()):
        for c in range(6):
            cells[r, c].imshow(_stack(images)[c], interpolation="nearest")
            cells[r, c].set(xticks=[], yticks=[])
            cells[r, c].grid(visible=False)
            for spine in cells[r, c].spines.values():
                spine.set_visible(False)
        cells[r, 0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure
