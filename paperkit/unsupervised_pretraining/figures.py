"""The chapter's moving figures: traces for `paperkit.plotting.slider`, and one animation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from paperkit.claims import Interval
from paperkit.plotting import METHOD_COLOURS
from paperkit.unsupervised_pretraining import counterexamples, mixture
from paperkit.unsupervised_pretraining.factor import FactorTask, factor_sweep
from paperkit.unsupervised_pretraining.theory import worst_signal_excess

SURFACE_RANKS = (1, 2, 4, 8)
SURFACE_SIGNALS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def surface_task(r: int, signal: float) -> FactorTask:
    """Task of one panel: d = 40, r equal factors of strength ``signal``, coefficients 1/2."""
    return FactorTask.diagonal([signal] * r, [0.5] * r, dimension=40)


def surface_table(m_values: Any, n_values: Any, n_draws: int, seed: int) -> pd.DataFrame:
    """Simulated mean excess over (m, n) for every rank and signal: r, signal, m, n, excess."""
    rows = []
    for r in SURFACE_RANKS:
        for signal in SURFACE_SIGNALS:
            frame = factor_sweep(
                surface_task(r, signal), m_values, n_values, n_draws, ("pretrained",), seed
            )
            mean = frame.groupby(["m", "n"], as_index=False)["excess"].mean()
            rows.append(mean.assign(r=r, signal=signal))
    return pd.concat(rows, ignore_index=True)


def surface_frames(table: pd.DataFrame) -> tuple[list[list[Any]], list[str]]:
    """Traces of the four-panel surface, one step a signal strength, and the steps' labels.

    Each panel is a heat map of log10 excess over log10 n and log10 m with the predicted crossover
    with least squares as a white line.
    """
    import plotly.graph_objects as go

    frames, labels = [], []
    for strength in sorted(float(value) for value in table["signal"].unique()):
        step, traces = table[table["signal"] == strength], []
        for k, rank in enumerate(sorted(int(value) for value in table["r"].unique())):
            part = step[step["r"] == rank]
            axes = {"xaxis": f"x{k + 1 if k else ''}", "yaxis": f"y{k + 1 if k else ''}"}
            grid = part.pivot(index="m", columns="n", values="excess")
            x = np.log10(grid.columns.to_numpy(float))
            y = np.log10(grid.index.to_numpy(float))
            traces.append(
                go.Heatmap(
                    x=x,
                    y=y,
                    z=np.log10(grid.to_numpy()),
                    zmin=-4.5,
                    zmax=0,
                    colorscale="Viridis",
                    showscale=k == 0,
                    colorbar={
                        "title": {"text": "excess risk", "side": "top"},
                        "tickvals": [-4, -3, -2, -1, 0],
                        "ticktext": ["10⁻⁴", "10⁻³", "10⁻²", "10⁻¹", "1"],
                        "orientation": "h",
                        "yanchor": "bottom",
                        "y": 1.07,
                        "thickness": 12,
                    },
                    **axes,
                )
            )
            n = np.geomspace(60, float(10 ** x.max()), 40)
            star = np.log10(surface_task(rank, strength).crossover(n))
            traces.append(
                go.Scatter(
                    x=np.log10(n),
                    y=np.clip(star, y.min(), y.max()),
                    mode="lines",
                    line={"color": "white", "width": 3},
                    name="m*(n)",
                    **axes,
                )
            )
        frames.append(traces)
        labels.append(f"{strength:g}")
    return frames, labels


def surface_layout(ranks: Sequence[int] = SURFACE_RANKS) -> Any:
    """Layout of `surface_frames`: two rows of panels, the scale above them, ticks in plain numbers."""
    from plotly.subplots import make_subplots

    layout = make_subplots(
        2, 2, subplot_titles=[f"r = {r}" for r in ranks], shared_xaxes=True, shared_yaxes=True,
        vertical_spacing=0.1, horizontal_spacing=0.06,
    ).layout  # fmt: skip
    layout.update(height=600, showlegend=False, margin={"l": 10, "r": 10, "t": 110, "b": 10})
    layout.xaxis3.title = layout.xaxis4.title = "labels n"
    layout.yaxis.title = layout.yaxis3.title = "unlabelled rows m"
    for k in ("", "2", "3", "4"):
        layout[f"xaxis{k}"].update(_decades(2, 3))
        layout[f"yaxis{k}"].update(_decades(2, 5))
    return layout


def two_panels(titles: Sequence[str], x_titles: Sequence[str]) -> Any:
    """Layout of two panels whose vertical axes are named above them, where a phone has room."""
    from plotly.subplots import make_subplots

    layout = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.14).layout
    layout.update(height=380, showlegend=False)
    layout.xaxis.title, layout.xaxis2.title = x_titles
    for title in layout.annotations:
        title.font.size = 13
    return layout


def _decades(first: int, last: int) -> dict[str, Any]:
    """Ticks of an axis in log10 units, written as numbers."""
    texts = {1: "10", 2: "100", 3: "1,000", 4: "10⁴", 5: "10⁵"}
    exponents = list(range(first, last + 1))
    return {"tickvals": exponents, "ticktext": [texts[k] for k in exponents], "tickangle": 0}


def dots(ax: Any, x: Any, intervals: Sequence[Interval], *, label: str) -> Any:
    """Draw estimates as dots with their intervals as bars; returns the colour."""
    middle, low, high = np.array([(f.estimate, f.low, f.high) for f in intervals]).T
    bars = np.maximum([middle - low, high - middle], 0)
    return ax.errorbar(x, middle, bars, fmt="o", label=label).lines[0].get_color()


def envelope_animation(m_values: Any, dimension: int) -> Any:
    """Matplotlib animation of `theory.worst_signal_excess`: one frame for each m, worst case marked.

    Curves of earlier frames stay as thin grey lines; the dashed line joins the worst cases so far.
    """
    import matplotlib.pyplot as plt
    from matplotlib.animation import FuncAnimation

    strength = np.geomspace(0.003, 10, 400)
    curves = [worst_signal_excess(strength, int(m), dimension) for m in m_values]
    worst = np.array([(strength[c.argmax()], c.max()) for c in curves])
    # Margins and major ticks only: the automatic layout is solved again for every frame.
    fig, ax = plt.subplots(layout="none")
    fig.subplots_adjust(left=0.14, right=0.97, bottom=0.15, top=0.9)
    ax.set(xscale="log", yscale="log", xlim=(strength[0], strength[-1]), ylim=(1e-5, 1),
           xlabel="signal strength λ²", ylabel="excess risk (units of y²)")  # fmt: skip
    ax.minorticks_off()
    (now,) = ax.plot([], [], color=METHOD_COLOURS["method"], label="excess risk at this m")
    (trail,) = ax.plot([], [], "--", color=METHOD_COLOURS["truth"], label="worst case so far")
    (point,) = ax.plot([], [], "o", color=METHOD_COLOURS["baseline"], label="worst case")
    ax.legend(loc="lower left")

    def draw(i: int) -> list[Any]:
        if i:
            ax.plot(strength, curves[i - 1], color="0.85", linewidth=1, zorder=1)
        now.set_data(strength, curves[i])
        trail.set_data(*worst[: i + 1].T)
        point.set_data(*worst[i : i + 1].T)
        ax.set_title(f"m = {int(m_values[i]):,}")
        return [now, trail, point]

    return FuncAnimation(fig, draw, frames=len(curves), init_func=lambda: [], interval=400)


def tilt_layout() -> Any:
    """Layout of `tilt_frames`."""
    layout = two_panels(["density", "excess error rate"], ["x1", "points m"])
    layout.xaxis2.update(_decades(1, 4))
    return layout


def tilt_frames(deltas: Any, label_noise: float = 0.0) -> tuple[list[list[Any]], list[str]]:
    """Traces of the two-squares figure: the density across the square, and the excess against m."""
    import plotly.graph_objects as go

    m = np.unique(np.geomspace(10, 10_000, 25).astype(int))
    frames, labels = [], []
    for delta in deltas:
        density = [1 - 2 * delta, 1 - 2 * delta, 1 + 2 * delta, 1 + 2 * delta]
        excess = [counterexamples.two_squares_excess(int(k), float(delta), label_noise) for k in m]
        frames.append(
            [
                go.Scatter(x=[0, 0.5, 0.5, 1], y=density, mode="lines", fill="tozeroy",
                           name="density along the true axis", xaxis="x", yaxis="y"),
                go.Scatter(x=np.log10(m), y=excess, mode="lines+markers", name="excess error",
                           xaxis="x2", yaxis="y2"),
            ]
        )  # fmt: skip
        labels.append(f"{delta:g} (kappa {1 / (2 * delta):.0f})")
    return frames, labels


def separation_layout() -> Any:
    """Layout of `separation_frames`."""
    layout = two_panels(["density", "boundaries found"], ["along u", "along u"])
    layout.xaxis2.range, layout.yaxis2.range = [-4, 4], [-2, 2]
    return layout


def separation_frames(
    separations: Any, m: int, n_fits: int, rng: np.random.Generator
) -> tuple[list[list[Any]], list[str]]:
    """Traces of the two-component figure: both densities, and boundaries fitted without labels.

    The boundary's angle to the best one is drawn as a line through the origin of the plane of the
    first two coordinates.
    """
    import plotly.graph_objects as go

    x = np.linspace(-5, 5, 81)
    frames, labels = [], []
    for s in separations:
        ends = []
        for _ in range(n_fits):
            rows = rng.standard_normal((m, 2))
            rows[:, 0] += s * rng.choice((-1.0, 1.0), m)
            u = mixture.fit_symmetric_mixture(rows, em_steps=2, tol=1e-6)
            u = u / np.linalg.norm(u)
            reach = min(2.0 / max(abs(u[0]), 1e-9), 4.0 / max(abs(u[1]), 1e-9))
            ends.append((np.array([-u[1], u[1]]) * reach, np.array([u[0], -u[0]]) * reach))
        traces = [
            go.Scatter(x=x, y=0.5 * stats.norm.pdf(x - sign * s), mode="lines", name=name,
                       fill="tozeroy", xaxis="x", yaxis="y")
            for sign, name in ((-1, "component A"), (1, "component B"))
        ]  # fmt: skip
        traces += [
            go.Scatter(x=a, y=b, xaxis="x2", yaxis="y2", showlegend=False, mode="lines",
                       line={"width": 1, "color": METHOD_COLOURS["blue"]}, opacity=0.6)
            for a, b in ends
        ]  # fmt: skip
        frames.append(traces)
        information = float(mixture.tanh_information(s))
        labels.append(f"{s:.2f} (J = {information:.2f})")
    return frames, labels


def confusion_frames(tables: dict[int, dict[str, np.ndarray]]) -> tuple[list[list[Any]], list[str]]:
    """Traces of confusion matrices side by side, one step a number of labels.

    ``tables`` maps n to method to a (C, C) matrix of row shares. `confusion_layout` makes the axes.
    """
    import plotly.graph_objects as go

    frames, labels = [], []
    for n, methods in tables.items():
        traces = []
        for k, matrix in enumerate(methods.values()):
            suffix = str(k + 1) if k else ""
            traces.append(
                go.Heatmap(z=matrix, zmin=0, zmax=1, colorscale="Blues", showscale=False,
                           text=np.round(100 * matrix), texttemplate="%{text:.0f}",
                           textfont={"size": 12}, xaxis=f"x{suffix}", yaxis=f"y{suffix}")
            )  # fmt: skip
        frames.append(traces)
        labels.append(str(n))
    return frames, labels


def confusion_layout(methods: Sequence[str], classes: Sequence[str]) -> Any:
    """Layout of `confusion_frames`: a panel a method, titles broken at spaces to fit a phone."""
    from plotly.subplots import make_subplots

    titles = [name.replace(" ", "<br>") for name in methods]
    layout = make_subplots(1, len(titles), subplot_titles=titles, horizontal_spacing=0.03).layout
    ticks = {"tickvals": list(range(len(classes))), "ticktext": list(classes)}
    for k in range(1, len(titles) + 1):
        layout[f"xaxis{k}"].update(ticks | {"tickangle": 0})
        layout[f"yaxis{k}"].update(ticks | {"autorange": "reversed", "showticklabels": k == 1})
    layout.update(height=330, margin={"l": 10, "r": 10, "t": 50, "b": 10})
    for title in layout.annotations:
        title.font.size = 13
    layout.yaxis.title = "true species"
    layout[f"xaxis{(len(titles) + 1) // 2}"].title = "predicted species"
    return layout
