"""The chapter's figures. Each function draws one and returns it."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import expit

from paperkit import plotting
from paperkit.plotting import METHOD_COLOURS
from paperkit.risk_scores import judging, polarisation, published
from paperkit.risk_scores._checks import Floats

BASE, TUNED = METHOD_COLOURS["blue"], METHOD_COLOURS["vermillion"]


def _diagonal(ax: Any) -> None:
    ax.plot([0, 1], [0, 1], color=METHOD_COLOURS["muted"], lw=1, ls="--", zorder=0)


def _reliability(ax: Any, y: np.ndarray, s: Floats, *, colour: str, label: str) -> None:
    table = judging.reliability(y, s)
    ax.errorbar(
        table.score,
        table.rate,
        yerr=1.96 * table.sd,
        fmt="o-",
        color=colour,
        label=label,
        ms=5,
        lw=1.4,
        capsize=2,
    )


def at_a_glance(y: np.ndarray, base: Floats, polarised: Floats) -> Figure:
    """Two reliability diagrams of the same ranking: calibrated, and polarised."""
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.7), sharey=True)
    for ax, s, colour, title in (
        (axes[0], base, BASE, "says what it knows"),
        (axes[1], polarised, TUNED, "same ranking, sounds certain"),
    ):
        _diagonal(ax)
        _reliability(ax, y, s, colour=colour, label="")
        error = judging.expected_calibration_error(y, s)
        ax.set(title=title, xlabel="risk score", xlim=(0, 1), ylim=(0, 1))
        facts = f"AUC {judging.auc(y, s):.2f}\ncalibration error {error:.2f}"
        ax.text(0.97, 0.06, facts, ha="right", transform=ax.transAxes)
    axes[0].set_ylabel("share employed")
    return figure


def optima(betas: tuple[float, ...] = (1.0, 0.5, 0.25)) -> Figure:
    """Best score against the true frequency: log-likelihood, and tuning at several beta."""
    eta = np.linspace(0.001, 0.999, 400)
    figure, ax = plt.subplots(figsize=(5.2, 4.2))
    ax.plot(eta, eta, color=METHOD_COLOURS["truth"], label="log-likelihood (calibrated)")
    for i, beta in enumerate(betas):
        ax.plot(
            eta,
            polarisation.polarise(eta, beta),
            color=METHOD_COLOURS[i],
            label=f"tuned, β = {beta:g}",
        )
    ax.set(xlabel="true frequency η", ylabel="best score s", xlim=(0, 1), ylim=(0, 1))
    ax.legend(loc="upper left")
    return figure


def beta_slider(y: np.ndarray, s: Floats, *, steps: int = 21, outcome: str) -> plotting.HTML:
    """Reliability diagram with a slider over 1/beta; the numbers stand in the figure."""
    import plotly.graph_objects as go

    strengths = np.linspace(0, 6, steps)
    frames = []
    for strength in strengths:
        p = s if strength == 0 else polarisation.polarise(s, 1 / strength)
        table = judging.reliability(y, p)
        accuracy = np.mean((p >= 0.5) == y)
        error = judging.expected_calibration_error(y, p)
        facts = (
            f"AUC {judging.auc(y, p):.3f}<br>accuracy {accuracy:.3f}<br>"
            f"Brier {np.mean((y - p) ** 2):.3f}<br>calibration error {error:.3f}"
        )
        # Ten points in every frame, so that points move instead of appearing.
        grid = np.interp(np.linspace(0, 1, 10), np.linspace(0, 1, len(table)), table.score)
        rate = np.interp(np.linspace(0, 1, 10), np.linspace(0, 1, len(table)), table.rate)
        frames.append(
            [
                go.Scatter(
                    x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dash", "color": "#7a8490"}
                ),
                go.Scatter(
                    x=grid,
                    y=rate,
                    mode="lines+markers",
                    line={"color": TUNED if strength else BASE},
                ),
                go.Scatter(
                    x=[0.98], y=[0.16], mode="text", text=[facts], textposition="middle left"
                ),
            ]
        )
    layout = {
        "xaxis": {"title": "risk score", "range": [0, 1]},
        "yaxis": {"title": outcome, "range": [0, 1.02]},
        "showlegend": False,
        "height": 430,
    }
    return plotting.slider(
        frames,
        [f"{strength:.1f}" for strength in strengths],
        name="tuning strength 1/β",
        alt=(
            "Reliability diagram with a slider. As tuning gets stronger the points leave the diagonal and the "
            "calibration error grows, while AUC and accuracy stay the same."
        ),
        layout=layout,
        start=steps // 2,
    )


def null_band(sizes: tuple[int, ...] = (50, 100, 200, 400, 800, 1600, 3200)) -> Figure:
    """Calibration error of a perfect score against the sample size."""
    rng = np.random.default_rng(0)
    mean, high = [], []
    for n in sizes:
        draws = np.concatenate(
            [judging.ece_null(rng.beta(2, 3, n), n_draws=20, random_state=i) for i in range(20)]
        )
        mean.append(draws.mean())
        high.append(np.quantile(draws, 0.95))
    figure, ax = plt.subplots(figsize=(5.6, 3.4))
    ax.plot(sizes, mean, "o-", color=BASE, label="mean")
    ax.plot(sizes, high, "--", color=BASE, label="95 % quantile")
    ax.fill_between(sizes, 0, high, color=BASE, alpha=0.12, lw=0)
    ax.set(
        xscale="log",
        xlabel="people n",
        ylabel="calibration error of a perfect score",
        ylim=(0, None),
    )
    ax.legend()
    return figure


# --- the authors' table ------------------------------------------------------------------------------------


def signal_and_error(results: pd.DataFrame) -> Figure:
    """AUC against calibration error, one panel per task."""
    rows = results[results.scheme == "multiple_choice"]
    baselines = published.load_published_baselines()
    figure, axes = plt.subplots(2, 3, figsize=(7.4, 5.0), sharex=True, sharey=True)
    for ax, (task, label) in zip(axes.flat, published.TASK_LABELS.items(), strict=False):
        for tuned, colour, marker, name in (
            (False, BASE, "o", "base"),
            (True, TUNED, "^", "instruct"),
        ):
            part = rows[(rows.task == task) & (rows.instruct == tuned)]
            ax.scatter(
                part.auc, part.ece, color=colour, marker=marker, s=26, label=name, alpha=0.85
            )
        part = baselines[baselines.task == task]
        ax.scatter(
            part.auc,
            part.ece,
            color=METHOD_COLOURS["black"],
            marker="*",
            s=60,
            label="trained on labels",
        )
        ax.set_title(label)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[-1].axis("off")
    axes.flat[-1].legend(handles, labels, loc="center")
    figure.supxlabel("AUC", fontsize=10.5)
    figure.supylabel("calibration error", fontsize=10.5)
    return figure


def uncertainty_arrows(results: pd.DataFrame) -> Figure:
    """Base to instruction-tuned in the plane of claimed uncertainty and calibration error."""
    pairs = published.family_pairs(results)
    present = published.present_uncertainty()
    figure, axes = plt.subplots(2, 3, figsize=(7.4, 5.0), sharex=True, sharey=True)
    for ax, (task, label) in zip(axes.flat, published.TASK_LABELS.items(), strict=False):
        ax.axvline(present[task], color=METHOD_COLOURS["black"], ls="--", lw=1.2)
        for _, row in pairs[pairs.task == task].iterrows():
            start = (row.claimed_uncertainty_base, row.ece_base)
            end = (row.claimed_uncertainty_instruct, row.ece_instruct)
            ax.annotate(
                "",
                xy=end,
                xytext=start,
                arrowprops={"arrowstyle": "->", "color": "#7a8490", "lw": 1},
            )
            ax.plot(*start, "o", color=BASE, ms=4)
            ax.plot(*end, "^", color=TUNED, ms=5)
        ax.set_title(label)
    axes.flat[-1].axis("off")
    text = "blue: base model\norange: its tuned version\ndashed: uncertainty\nthat is there"
    axes.flat[-1].text(0.1, 0.5, text, va="center", transform=axes.flat[-1].transAxes)
    figure.supxlabel("claimed uncertainty E[s(1 − s)]", fontsize=10.5)
    figure.supylabel("calibration error", fontsize=10.5)
    return figure


def gap_map(results: pd.DataFrame) -> Figure:
    """Uncertainty gap of every model on every task."""
    rows = published.uncertainty_gaps(results)
    table = rows.pivot(index="model", columns="task", values="gap")[list(published.TASK_LABELS)]
    tuned = rows.drop_duplicates("model").set_index("model").instruct
    table = table.loc[sorted(table.index, key=lambda m: (tuned[m], m))]
    figure, ax = plt.subplots(figsize=(6.6, 5.6))
    image = ax.imshow(table.to_numpy(dtype=float), cmap="PuOr", vmin=-0.2, vmax=0.2, aspect="auto")
    ax.set_xticks(range(5), [t.replace("_", "\n") for t in table.columns])
    ax.set_yticks(range(len(table)), list(table.index))
    values = table.to_numpy(dtype=float)
    for (i, j), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.13 else METHOD_COLOURS["black"]
        ax.text(j, i, f"{value:+.2f}", ha="center", va="center", fontsize=8.5, color=colour)
    ax.axhline((~tuned).sum() - 0.5, color=METHOD_COLOURS["black"], lw=1.5)
    ax.grid(False)
    figure.colorbar(image, ax=ax, label="claimed minus present uncertainty")
    return figure


def scheme_slopes(results: pd.DataFrame) -> Figure:
    """Calibration error by letters and by number, one line per (model, task)."""
    pairs = published.scheme_pairs(results)
    figure, axes = plt.subplots(1, 2, figsize=(6.8, 3.9), sharey=True)
    for ax, tuned, title, colour in (
        (axes[0], False, "base", BASE),
        (axes[1], True, "instruct", TUNED),
    ):
        part = pairs[pairs.instruct == tuned]
        for _, row in part.iterrows():
            ax.plot([0, 1], [row.ece_choice, row.ece_numeric], color=colour, alpha=0.3, lw=1)
        means = [part.ece_choice.mean(), part.ece_numeric.mean()]
        ax.plot([0, 1], means, "o-", color=METHOD_COLOURS["black"], lw=2.4)
        for x, value in enumerate(means):
            ax.annotate(f"{value:.2f}", (x, value), (0, 8), textcoords="offset points", ha="center")
        ax.set(title=title, xticks=[0, 1], xlim=(-0.25, 1.25))
        ax.set_xticklabels(["letters", "number"])
    axes[0].set_ylabel("calibration error")
    return figure


def table_browser(results: pd.DataFrame) -> plotting.HTML:
    """AUC against calibration error with a button per task; hover for the model."""
    import plotly.graph_objects as go

    rows = results[results.scheme == "multiple_choice"]
    figure = go.Figure()
    groups = ((False, BASE, "circle", "base"), (True, TUNED, "triangle-up", "instruct"))
    for i, task in enumerate(published.TASK_LABELS):
        for tuned, colour, symbol, name in groups:
            part = rows[(rows.task == task) & (rows.instruct == tuned)]
            figure.add_scatter(
                x=part.auc,
                y=part.ece,
                text=part.model,
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 10},
                name=name,
                visible=i == 0,
                hovertemplate="%{text}<br>AUC %{x:.2f}<br>calibration error %{y:.2f}<extra></extra>",
            )
    buttons = [
        {
            "label": label,
            "method": "update",
            "args": [{"visible": [j // 2 == i for j in range(2 * len(published.TASK_LABELS))]}],
        }
        for i, label in enumerate(published.TASK_LABELS.values())
    ]
    figure.update_layout(
        updatemenus=[{"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.2, "yanchor": "top"}],
        xaxis={"title": "AUC", "range": [0.4, 0.95]},
        yaxis={"title": "calibration error", "range": [0, 0.7]},
        height=430,
    )
    alt = (
        "Seventeen models in the plane of AUC and calibration error; a menu chooses the task, hovering names "
        "the model."
    )
    return plotting.interactive(figure, alt=alt)


# --- the small model ---------------------------------------------------------------------------------------


def letters(scores: pd.DataFrame) -> Figure:
    """p(A) when A is the negative and when A is the positive answer."""
    figure, axes = plt.subplots(1, 2, figsize=(7.0, 3.3), sharey=True)
    for ax, task in zip(axes, ("income", "employment"), strict=True):
        rows = scores[(scores.task == task) & (scores.asking == "raw")]
        bins = np.linspace(0.5, 1, 101)
        ax.hist(
            expit(rows.choice_logit_order1),
            bins=bins,
            color=BASE,
            alpha=0.7,
            label="A says no",
            density=True,
        )
        ax.hist(
            expit(rows.choice_logit_order2),
            bins=bins,
            color=TUNED,
            alpha=0.7,
            label="A says yes",
            density=True,
        )
        ax.set(title=task, xlabel="p(A)", xlim=(0.5, 1))
    axes[0].set_ylabel("density of people")
    axes[0].legend(loc="upper left")
    return figure


def bias_and_evidence(scores: pd.DataFrame) -> Figure:
    """Letter bias against evidence, one dot per person."""
    figure, ax = plt.subplots(figsize=(5.8, 3.6))
    for task, colour in (("income", BASE), ("employment", TUNED)):
        rows = scores[(scores.task == task) & (scores.asking == "raw")]
        ax.scatter(
            rows.choice_evidence, rows.choice_letter_bias, s=5, alpha=0.4, color=colour, label=task
        )
    ax.axvline(0, color=METHOD_COLOURS["muted"], lw=1)
    ax.set(
        xlim=(-1, 1),
        ylim=(0, 3),
        xlabel="evidence e for the positive answer",
        ylabel="letter bias b",
    )
    ax.legend()
    return figure


def forest(verdicts: pd.DataFrame, baselines: dict[str, tuple[float, float]]) -> Figure:
    """AUC with interval for every way of asking, one panel per task, trained baselines as lines."""
    tasks = [
        t for t in ("income", "employment", "travel_time", "birth_half") if t in set(verdicts.task)
    ]
    heights = [int((verdicts.task == t).sum()) for t in tasks]
    figure, axes = plt.subplots(
        len(tasks),
        1,
        figsize=(6.8, 0.34 * sum(heights) + 0.9 * len(tasks)),
        sharex=True,
        height_ratios=heights,
    )
    colours = {
        "above": METHOD_COLOURS["green"],
        "below": TUNED,
        "not shown": METHOD_COLOURS["muted"],
    }
    for ax, task in zip(np.atleast_1d(axes), tasks, strict=True):
        rows = verdicts[verdicts.task == task].reset_index(drop=True)
        for i, row in rows.iterrows():
            ax.plot([row.low, row.high], [i, i], color=colours[row.verdict], lw=2)
            ax.plot(row.auc, i, "o", color=colours[row.verdict])
        names = [
            reading if asking == "raw" else f"{reading} ({asking})"
            for reading, asking in zip(rows.reading, rows.asking, strict=True)
        ]
        ax.set_yticks(
            range(len(rows)), [f"{n}, n = {k}" for n, k in zip(names, rows.n, strict=True)]
        )
        ax.axvline(0.5, color=METHOD_COLOURS["black"], lw=1)
        if task in baselines:
            for value, style in zip(baselines[task], ("-", "--"), strict=True):
                ax.axvline(value, color=METHOD_COLOURS["purple"], ls=style, lw=1.4)
        ax.set(title=task.replace("_", " "), ylim=(len(rows) - 0.5, -0.5))
        ax.grid(axis="y", visible=False)
    np.atleast_1d(axes)[-1].set(xlabel="AUC", xlim=(0.3, 0.9))
    return figure


def people_browser(people: pd.DataFrame) -> plotting.HTML:
    """Bars of the scores of one person at a time, chosen by a slider."""
    import plotly.graph_objects as go

    columns = [c for c in people.columns if c not in ("who", "y")]
    frames, labels = [], []
    for i, (_, row) in enumerate(people.iterrows()):
        values = [float(row[c]) for c in columns]
        truth = "employed" if row.y else "not employed"
        frames.append(
            [
                go.Bar(
                    x=values,
                    y=columns,
                    orientation="h",
                    marker={"color": BASE},
                    text=[f"{v:.2f}" for v in values],
                ),
                go.Scatter(
                    x=[0.02],
                    y=[len(columns)],
                    mode="text",
                    text=[f"{row.who}: {truth}"],
                    textposition="middle right",
                ),
            ]
        )
        labels.append(str(i + 1))
    layout = {
        "xaxis": {"title": "score: probability of being employed", "range": [0, 1]},
        "yaxis": {"range": [-0.6, len(columns) + 0.4], "automargin": True},
        "showlegend": False,
        "height": 380,
    }
    alt = (
        "Bars of the scores that each way of asking gives one person, and of gradient boosting; moving the slider "
        "changes the person: boosting moves, most readings of the language model do not."
    )
    return plotting.slider(frames, labels, name="person", alt=alt, layout=layout)


def repair_curves(curves: dict[str, pd.DataFrame], before: float) -> Figure:
    """Calibration error after recalibration against the number of labels."""
    figure, ax = plt.subplots(figsize=(5.8, 3.6))
    ax.axhline(before, color=METHOD_COLOURS["black"], ls="--", lw=1.2, label="before")
    for i, (name, table) in enumerate(curves.items()):
        ax.plot(table.labels, table["mean"], "o-", color=METHOD_COLOURS[i], label=name)
        ax.fill_between(
            table.labels, table.low, table.high, color=METHOD_COLOURS[i], alpha=0.15, lw=0
        )
    ax.set(xscale="log", xlabel="labels", ylabel="calibration error", ylim=(0, None))
    ax.set_xticks([20, 50, 100, 200], ["20", "50", "100", "200"])
    ax.minorticks_off()
    ax.legend()
    return figure


def subgroup_errors(report: pd.DataFrame, title: str) -> Figure:
    """Mean score minus rate, by group, with interval."""
    rows = report
    figure, ax = plt.subplots(figsize=(5.8, 0.4 * len(rows) + 1.2))
    gap = rows.mean_score - rows.base_rate
    half = 1.96 * np.sqrt(rows.base_rate * (1 - rows.base_rate) / rows.n)
    ax.errorbar(gap, range(len(rows)), xerr=half, fmt="o", color=BASE, capsize=3)
    ax.axvline(0, color=METHOD_COLOURS["black"], lw=1)
    ax.set_yticks(
        range(len(rows)), [f"{g} (n = {n:.0f})" for g, n in zip(rows.index, rows.n, strict=True)]
    )
    ax.set(xlabel="mean score minus share of positives", title=title, ylim=(len(rows) - 0.5, -0.5))
    return figure
