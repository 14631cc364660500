"""The chapter's figures; each takes what :mod:`.experiments` measured and returns a figure.

Drawing only: no number is made here. The interactive ones work in a page without server or network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from paperkit import plotting
from paperkit.plotting import METHOD_COLOURS as COLOURS

from . import experiments, program
from .closed_forms import minimum_payment, twin_ladder
from .definition import cheapest_payments
from .instances import twin_instance
from .problem import Array, HiringProblem, Mechanism
from .readers import Readers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROFILES = ("nobody", "only 2", "only 1", "both")


def _axes(columns: int = 1, width: float = 6.4, height: float = 3.8) -> tuple[Figure, Any]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=(width, height))
    return figure, axes


def single_expert_payment(costs: Sequence[float] = (0.02, 0.05, 0.1)) -> Figure:
    """Least expected payment against accuracy: closed form (lines) and program (dots)."""
    figure, ax = _axes()
    fine, coarse = np.linspace(0.55, 1, 91), np.linspace(0.55, 1, 7)
    half = np.array([0.5, 0.5])
    for colour, cost in enumerate(costs):
        see = [np.array([[a, 1 - a], [1 - a, a]]) for a in fine]
        line = [minimum_payment(s, half, cost) for s in see]
        ax.plot(fine, line, color=COLOURS[colour], label=f"effort costs {cost:g}")
        dots = [
            cheapest_payments(np.array([[a, 1 - a], [1 - a, a]]), half, cost, 10)[0] for a in coarse
        ]
        ax.plot(coarse, dots, "o", color=COLOURS[colour])
    ax.set(xlabel="accuracy of the expert", ylabel="expected payment (utility units)", ylim=(0, 1))
    ax.set_title("An expert who knows little is expensive")
    ax.legend()
    return figure


def v_shape(accuracy: float = 0.8, cost: float = 0.05) -> Figure:
    """What an expert expects to be paid as a function of what he believes."""
    figure, ax = _axes()
    rent = cost / (2 * accuracy - 1)
    belief = np.linspace(0, 1, 201)
    ax.plot(belief, 2 * rent * (1 - belief), ":", color=COLOURS["grey"], label="says 0")
    ax.plot(belief, 2 * rent * belief, "--", color=COLOURS["grey"], label="says 1")
    ax.plot(
        belief,
        2 * rent * np.maximum(belief, 1 - belief),
        color=COLOURS["method"],
        label="says the likelier",
    )
    for at, text in ((0.5, "idle"), (accuracy, "worked, saw 1"), (1 - accuracy, "worked, saw 0")):
        high = 2 * rent * max(at, 1 - at)
        ax.plot([at], [high], "o", color=COLOURS["vermillion"])
        ax.annotate(
            text, (at, high), textcoords="offset points", xytext=(0, 10), ha="center", fontsize=9
        )
    ax.set(xlabel="belief that the state is 1", ylabel="expected payment (utility units)")
    ax.set_title("The kink pays for the effort")
    ax.legend(loc="lower right", fontsize=9)
    return figure


def ladder_bars(ladder: pd.DataFrame) -> Figure:
    """Values of five classes of mechanism on the twin instance."""
    figure, ax = _axes(height=3.2)
    table = ladder.iloc[::-1]
    colours = [COLOURS["method"] if "optimal" in m else COLOURS["grey"] for m in table["mechanism"]]
    ax.barh(table["mechanism"], table["program"], color=colours)
    ax.plot(
        table["closed form"], range(len(table)), "k|", markersize=16, label="closed form", ls="none"
    )
    for y, value in enumerate(table["program"]):
        ax.text(value + 0.003, y, f"{value:.4f}", va="center", fontsize=9)
    ax.set(xlim=(0.4, 0.6), xlabel="principal's value per round (axis starts at .4)")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper right")
    return figure


def audits(points: int = 26) -> Figure:
    """Value of telling expert 2 to work with probability q, independently of expert 1."""
    figure, ax = _axes()
    problem, closed = twin_instance(**experiments.LADDER), twin_ladder(**experiments.LADDER)
    grid = np.union1d(np.linspace(0, 1, points), [closed.audit])
    for first, colour in ((1.0, "method"), (0.9, "variant"), (0.7, "baseline")):
        made = [
            program.optimal_mechanism(
                problem, recommendation=experiments.product_recommendation(first, q)
            ).value
            for q in grid
        ]
        value = np.where(np.isfinite(made), made, np.nan)
        ax.plot(
            grid, value, color=COLOURS[colour], label=f"expert 1 works with probability {first:g}"
        )
    ax.axhline(closed.optimal, color="k", ls="--", lw=1)
    ax.text(1, closed.optimal + 0.004, "best correlated recommendation", ha="right", fontsize=9)
    ax.set(
        xlabel="probability that expert 2 is told to work",
        ylabel="principal's value",
        ylim=(0.36, 0.58),
    )
    ax.set_title("No independent recommendation gets there")
    ax.legend(fontsize=9, loc="lower left")
    return figure


def cap_curve() -> Figure:
    """Optimal value and probability of the joint recommendation against the payment cap."""
    figure, (left, right) = _axes(2, 7.4, 3.4)
    caps = np.logspace(np.log10(0.25), 3, 33)
    made = [program.optimal_mechanism(twin_instance(0.75, 0.08, float(m))) for m in caps]
    left.plot(caps, [m.value for m in made], color=COLOURS["method"])
    left.axhline(0.59, color="k", ls="--", lw=1)
    left.text(0.3, 0.586, "limit, never reached", fontsize=9, va="top")
    left.set(xscale="log", xlabel="payment cap M", ylabel="optimal value")
    right.plot(caps, [m.recommendation[1, 1] for m in made], color=COLOURS["vermillion"])
    right.set(xscale="log", xlabel="payment cap M", ylabel="probability that both work")
    return figure


def cost_slider(caps: Sequence[float] = (0.3, 0.5, 1.0, 2.0), steps: int = 31) -> plotting.HTML:
    """Recommendations of the twin optimum while the cost of effort moves, for four caps."""
    import plotly.graph_objects as go

    costs = np.linspace(0, 0.15, steps)
    made = [
        [program.optimal_mechanism(twin_instance(0.75, float(c), m)) for m in caps] for c in costs
    ]
    alone = [
        program.uncorrelated_mechanism(twin_instance(0.75, float(c), max(caps))).value
        for c in costs
    ]
    names = [f"M = {m:g}" for m in caps]
    frames = []
    for j, c in enumerate(costs):
        traces: list[Any] = []
        for p, label in enumerate(PROFILES):
            share = [m.recommendation.ravel()[p] for m in made[j]]
            traces.append(go.Bar(x=names, y=share, name=label, marker_color=_shade(p)))
        traces += [
            go.Scatter(
                x=costs,
                y=[row[1].value for row in made],
                mode="lines",
                name="value, M = 0.5",
                line={"color": COLOURS["blue"]},
                xaxis="x2",
                yaxis="y2",
            ),
            go.Scatter(
                x=costs,
                y=alone,
                mode="lines",
                name="value, uncorrelated",
                line={"color": COLOURS["vermillion"], "dash": "dash"},
                xaxis="x2",
                yaxis="y2",
            ),
            go.Scatter(
                x=[c],
                y=[made[j][1].value],
                mode="markers",
                showlegend=False,
                marker={"color": COLOURS["black"], "size": 11},
                xaxis="x2",
                yaxis="y2",
            ),
        ]
        frames.append(traces)
    layout = {
        "barmode": "stack",
        "height": 460,
        "xaxis": {"domain": [0, 0.46], "title": {"text": "payment cap"}},
        "yaxis": {"title": {"text": "probability"}, "range": [0, 1]},
        "xaxis2": {
            "domain": [0.6, 1],
            "title": {"text": "principal's value<br>against cost of effort"},
            "anchor": "y2",
        },
        "yaxis2": {"anchor": "x2"},
        "legend": {"orientation": "h", "y": 1.12, "x": 0},
    }
    return plotting.slider(
        frames,
        [f"{c:.3f}" for c in costs],
        name="cost of effort",
        start=16,
        layout=layout,
        alt="Left: stacked bars with the probability that nobody, one or both experts are told to work, for "
        "four payment caps. Right: the optimal value falls with the cost of effort and stays above one "
        "half after the uncorrelated mechanism has stopped hiring. Moving the slider raises the cost.",
    )


def _shade(profile: int) -> str:
    return [COLOURS["grey"], COLOURS["sky"], COLOURS["blue"], COLOURS["vermillion"]][profile]


def gain_map(problem: HiringProblem, mechanism: Mechanism) -> Figure:
    """Gain of expert 1, told to work, for every effort and report map."""
    from .incentives import gain_table

    gains, maps = gain_table(problem, mechanism, 0, 1)
    figure, ax = _axes(height=2.6)
    image = ax.imshow(gains, cmap="PuOr_r", vmin=-0.1, vmax=0.1, aspect="auto")
    for row, column in np.ndindex(gains.shape):
        binding = abs(gains[row, column]) < 1e-9
        text = f"{gains[row, column]:+.3f}" if not binding else "0, binding"
        ink = "w" if gains[row, column] < -0.06 else "k"
        ax.text(column, row, text, ha="center", va="center", fontsize=9, color=ink)
    names = ["always say 0", "tell the truth", "say the opposite", "always say 1"]
    order = [names[int(a) * 2 + int(b)] for a, b in maps]
    ax.set_xticks(range(len(maps)), order, fontsize=9)
    ax.set_yticks([0, 1], ["idle", "work"])
    ax.grid(visible=False)
    figure.colorbar(image, label="gain")
    return figure


def size_growth(sizes: pd.DataFrame) -> Figure:
    """Rows of the compact program and of the definition over the number of signals."""
    figure, ax = _axes()
    part = sizes[sizes["over"] == "signals"]
    ax.plot(part["signals"], part["rows"], "o-", color=COLOURS["method"], label="compact program")
    ax.plot(
        part["signals"],
        part["explicit rows"],
        "s--",
        color=COLOURS["baseline"],
        label="one row per way of lying",
    )
    ax.set(yscale="log", xlabel="signals of each of two experts", ylabel="inequality rows")
    ax.legend()
    return figure


def independence_scatter(table: pd.DataFrame, twin: tuple[float, float]) -> Figure:
    """Decoupled value against optimum: on the diagonal unless signals share their noise."""
    figure, ax = _axes(height=4.0)
    ends = [0.49, float(table["optimum"].max()) + 0.02]
    ax.plot(ends, ends, color=COLOURS["grey"], lw=1)
    ax.plot(
        table["decoupled"],
        table["optimum"],
        "o",
        color=COLOURS["method"],
        label="independent signals",
    )
    ax.plot([twin[0]], [twin[1]], "D", color=COLOURS["baseline"], label="twin instance", ms=8)
    ax.set(xlabel="best value without coordination", ylabel="optimal value")
    ax.legend()
    return figure


def regret_panels(tables: dict[str, Any]) -> Figure:
    """Regret, regret over T^(2/3) and honesty of several learners against the horizon."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.6))
    for j, (name, table) in enumerate(tables.items()):
        T, mean = table.horizons, table.regret.mean(axis=0)
        low, high = np.percentile(table.regret, [5, 95], axis=0)
        scale = T ** (2 / 3)
        style = {"color": COLOURS[j], "marker": "osD^"[j % 4]}
        axes[0].plot(T, mean, label=name, **style)
        axes[0].fill_between(T, low, high, color=COLOURS[j], alpha=0.2, lw=0)
        axes[1].plot(T, mean / scale, **style)
        axes[2].plot(T, table.incentive_compatible.mean(axis=0), **style)
    first = next(iter(tables.values()))
    T = first.horizons
    start = first.regret.mean(axis=0)[0]
    axes[0].plot(T, start * (T / T[0]) ** (2 / 3), "k--", lw=1, label="slope 2/3")
    axes[0].plot(T, start * 3 * T / T[0], "k:", lw=1, label="slope 1")
    axes[0].set(xscale="log", yscale="log", xlabel="horizon T", title="regret")
    axes[1].set(xscale="log", yscale="log", xlabel="horizon T", title="regret / T$^{2/3}$")
    axes[2].set(
        xscale="log", xlabel="horizon T", ylim=(-0.05, 1.05), title="share that stays honest"
    )
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9
    )
    return figure


def exponent_plot(curve: pd.DataFrame) -> Figure:
    """Slope of regret against the exploration exponent, with theory."""
    figure, ax = _axes()
    a = np.linspace(0.35, 0.9, 200)
    ax.plot(a, np.maximum(a, 1 - a / 2), color=COLOURS["grey"], label="max(a, 1 - a/2)")
    ax.errorbar(
        curve["exponent"],
        curve["slope"],
        yerr=[curve["slope"] - curve["low"], curve["high"] - curve["slope"]],
        fmt="o",
        color=COLOURS["method"],
        label="measured, 95 % interval",
    )
    ax.set(xlabel="exploration exponent a (explore T^a rounds)", ylabel="log-log slope of regret")
    ax.legend()
    return figure


def path_plot(path: pd.DataFrame) -> Figure:
    """One simulated run on top of its exact expectation."""
    figure, ax = _axes()
    thousands = path["round"] / 1000
    ax.fill_between(
        thousands,
        (path["expected"] - 2 * path["error"]) / 1000,
        (path["expected"] + 2 * path["error"]) / 1000,
        color=COLOURS["grey"],
        alpha=0.25,
        lw=0,
        label="expectation ± 2 standard errors",
    )
    ax.plot(thousands, path["expected"] / 1000, color=COLOURS["truth"], label="exact expectation")
    ax.plot(thousands, path["simulated"] / 1000, color=COLOURS["method"], label="simulated rounds")
    ax.set(xlabel="round (thousands)", ylabel="cumulative regret (thousands)")
    ax.legend()
    return figure


def learning_slider(steps: int = 25) -> plotting.HTML:
    """What the learner knows and recommends as the horizon grows."""
    import plotly.graph_objects as go

    horizons = np.logspace(3.5, 9.5, steps)
    names = [f"({a}, {b}), state {t}" for a in (0, 1) for b in (0, 1) for t in (0, 1)]
    frames = []
    for frame in experiments.learning_frames(horizons.tolist()):
        frames.append(
            [
                go.Scatter(
                    x=names,
                    y=frame["centre"],
                    mode="markers",
                    name="estimate with interval",
                    marker={"color": COLOURS["blue"], "size": 9},
                    error_y={
                        "type": "data",
                        "symmetric": False,
                        "array": frame["high"] - frame["centre"],
                        "arrayminus": frame["centre"] - frame["low"],
                    },
                ),
                go.Scatter(
                    x=names,
                    y=frame["truth"],
                    mode="markers",
                    name="truth",
                    marker={"color": COLOURS["black"], "symbol": "line-ew-open", "size": 16},
                ),
                go.Bar(
                    x=list(PROFILES),
                    y=frame["recommendation"],
                    showlegend=False,
                    marker_color=[_shade(p) for p in range(4)],
                    xaxis="x2",
                    yaxis="y2",
                ),
            ]
        )
    layout = {
        "height": 460,
        "xaxis": {
            "domain": [0, 0.52],
            "title": {"text": "reports and state,<br>both told to work"},
        },
        "yaxis": {"title": {"text": "probability"}, "range": [0, 0.6]},
        "xaxis2": {
            "domain": [0.66, 1],
            "title": {"text": "who is told<br>to work"},
            "anchor": "y2",
        },
        "yaxis2": {"range": [0, 1], "anchor": "x2"},
        "legend": {"orientation": "h", "y": 1.1, "x": 0},
    }
    return plotting.slider(
        frames,
        [f"10^{np.log10(T):.2f}" for T in horizons],
        name="horizon T",
        start=8,
        layout=layout,
        alt="Left: estimated probabilities of reports and state with intervals that shrink as the horizon grows. "
        "Right: the recommendation, at first nobody, then the correlated mixture of one worker or both. "
        "Moving the slider lengthens the horizon.",
    )


def confusion(readers: Readers) -> Figure:
    """How often the two readers say yes together, healthy and sick, with the full chart."""
    figure, axes = _axes(2, 6.6, 3.2)
    for ax, state, name in zip(axes, (0, 1), ("healthy", "sick"), strict=True):
        keep = readers.labels == state
        table = np.zeros((2, 2))
        np.add.at(table, (readers.signals[0][2][keep], readers.signals[1][2][keep]), 1)
        ax.imshow(table / table.sum(), cmap="Blues", vmin=0, vmax=1)
        for r, c in np.ndindex(2, 2):
            share = table[r, c] / table.sum()
            ax.text(
                c,
                r,
                f"{int(table[r, c])}",
                ha="center",
                va="center",
                color="w" if share > 0.5 else "k",
            )
        ax.set_xticks([0, 1], ["no", "yes"])
        ax.set_yticks([0, 1], ["no", "yes"])
        ax.set(xlabel=readers.names[1], title=f"{name} ({int(keep.sum())})")
        ax.grid(visible=False)
    axes[0].set_ylabel(readers.names[0])
    return figure


def class_lines(tables: dict[str, pd.DataFrame]) -> Figure:
    """Values of four classes of mechanism over the cost, one panel per population."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(tables), figsize=(3.7 * len(tables), 3.6), squeeze=False)
    looks = {
        "optimal, correlated": ("method", "-"),
        "best fixed profile": ("variant", "--"),
        "uncorrelated": ("baseline", "-."),
        "hire nobody": ("muted", ":"),
    }
    for ax, (name, table) in zip(axes[0], tables.items(), strict=True):
        for column, (colour, line) in looks.items():
            ax.plot(table["cost"], table[column], ls=line, color=COLOURS[colour], label=column)
        ax.set(xlabel="cost of the full chart", title=name)
    axes[0, 0].set_ylabel("principal's value")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9
    )
    return figure


def fragility_lines(
    table: pd.DataFrame, optimum: float, uncorrelated: float, nobody: float
) -> Figure:
    """Realised value on the population against the number of patients seen, by width of interval."""
    figure, ax = _axes()
    for j, (z, part) in enumerate(table.groupby("z")):
        by = part.groupby("patients")["realised"]
        label = "plug-in (z = 0)" if z == 0 else f"interval program, z = {z:g}"
        ax.plot(by.mean().index, by.mean(), "o-", color=COLOURS[[1, 2, 0][j]], label=label)
        ax.plot(
            part["patients"], part["realised"], ".", color=COLOURS[[1, 2, 0][j]], alpha=0.35, ms=6
        )
    for value, name in (
        (optimum, "optimum, kernel known"),
        (uncorrelated, "uncorrelated, kernel known"),
        (nobody, "hire nobody"),
    ):
        ax.axhline(value, color=COLOURS["grey"], lw=1, ls="--")
        ax.text(260, value + 0.002, name, fontsize=8)
    ax.set(xscale="log", xlabel="patients seen", ylabel="realised value on the population")
    ax.legend(fontsize=9, loc="lower right")
    return figure


def reader_slider(readers: Readers, cap: float = 1.0, steps: int = 25) -> plotting.HTML:
    """Which efforts are recommended to two readers, and what each is paid, over the cost."""
    import plotly.graph_objects as go

    costs = np.linspace(0.001, 0.045, steps)
    short = ("nothing", "cheap", "full")
    frames = []
    for c in costs:
        problem = readers.problem(float(c), cap)
        best = program.optimal_mechanism(problem)
        paid = best.expected_payments(problem)
        cells: Array = best.recommendation
        frames.append(
            [
                go.Heatmap(
                    z=cells,
                    x=list(short),
                    y=list(short),
                    zmin=0,
                    zmax=1,
                    colorscale="Blues",
                    showscale=False,
                    text=[[f"{v:.2f}" for v in row] for row in cells],
                    texttemplate="%{text}",
                ),
                go.Bar(
                    x=["paid to 1", "paid to 2"],
                    y=paid,
                    marker_color=[COLOURS["blue"], COLOURS["vermillion"]],
                    showlegend=False,
                    xaxis="x2",
                    yaxis="y2",
                ),
            ]
        )
    layout = {
        "height": 430,
        "xaxis": {"domain": [0, 0.5], "title": {"text": f"2: {readers.names[1]}"}},
        "yaxis": {"title": {"text": f"1: {readers.names[0]}"}},
        "xaxis2": {"domain": [0.68, 1], "title": {"text": "expected<br>payment"}, "anchor": "y2"},
        "yaxis2": {"range": [0, 0.06], "anchor": "x2"},
    }
    return plotting.slider(
        frames,
        [f"{c:.3f}" for c in costs],
        name="cost of the full chart",
        start=10,
        layout=layout,
        alt="Left: table of the probability of each pair of efforts that is recommended to the two readers. Right: "
        "what each reader is paid in expectation. Moving the slider raises the cost of the full chart.",
    )
