"""The chapter's figures, drawn from the records of :mod:`~paperkit.domain_constraints.experiments`.

Each function takes results and returns a matplotlib figure or plotly traces; nothing is measured
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from paperkit.claims import wilson
from paperkit.domain_constraints.cells import cell_probabilities
from paperkit.domain_constraints.tables import AGE_BINS
from paperkit.plotting import METHOD_COLOURS

NAMES = {
    "u": "no constraint",
    "p": "prevalence",
    "e": "expertise",
    "b": "both",
    "tested_only": "tested only",
    "recentred": "tested only, recentred",
    "negative": "untested = negative",
}
COLOURS = {
    "u": METHOD_COLOURS["vermillion"],
    "p": METHOD_COLOURS["sky"],
    "e": METHOD_COLOURS["orange"],
    "b": METHOD_COLOURS["blue"],
    "tested_only": METHOD_COLOURS["purple"],
    "recentred": METHOD_COLOURS["green"],
    "negative": METHOD_COLOURS["grey"],
}


def _axes(*shape: int, **settings: Any) -> Any:
    import matplotlib.pyplot as plt

    return plt.subplots(*shape, layout="constrained", **settings)


def _grid(panels: int, *, columns: int, **settings: Any) -> Any:
    """Return a figure and one axis a panel, in rows that a phone can show."""
    rows = -(-panels // columns)
    size = (7, 0.6 + 2.2 * rows)
    figure, axes = _axes(rows, columns, figsize=size, squeeze=False, **settings)
    for ax in axes.flat[panels:]:
        ax.remove()
    return figure, axes.flat[:panels]


def symbol(name: str) -> str:
    """``beta_Delta_1`` as it is written in the text: ``β_Δ, 1``."""
    letter = name.replace("beta_", "β_").replace("Delta", "Δ").replace("sigma", "σ")
    head, _, index = letter.rpartition("_")
    return f"{head}, {index}" if index.isdigit() else letter


def who_is_tested(sim: Any, *, show: int = 1500) -> Any:
    """Scatter of the recorded risk against the unobservable, tested people marked."""
    figure, ax = _axes(figsize=(7, 4))
    a = (sim.X @ sim.truth["beta_Y"])[:show]
    tested = sim.tested[:show] == 1
    for mask, label, colour in (
        (~tested, "untested", METHOD_COLOURS["grey"]),
        (tested, "tested", METHOD_COLOURS["blue"]),
    ):
        ax.scatter(a[mask], sim.z[:show][mask], s=9, alpha=0.6, color=colour, label=label)
    ax.set(xlabel="recorded part of the risk, X'β (log-odds)", ylabel="unobservable Z (log-odds)")
    figure.legend(loc="outside upper center", ncols=2, markerscale=3)
    return figure


def testing_curves() -> Any:
    """p(T=1) against p(Y=1) for several steepnesses and deviations (the model's two knobs)."""
    figure, axes = _axes(1, 2, figsize=(9, 3.8), sharey=True)
    a = np.linspace(-8, 5, 120)
    for alpha, colour in zip((0.5, 1.0, 2.0), ("sky", "blue", "green"), strict=True):
        cells = cell_probabilities(a, 1.0, 2.0, alpha=alpha)
        axes[0].plot(
            cells.positive, 1 - cells.untested, label=f"α = {alpha:g}", color=METHOD_COLOURS[colour]
        )
    for d, colour in zip((-1.0, 0.0, 1.0), ("vermillion", "grey", "blue"), strict=True):
        cells = cell_probabilities(a, 1.0 + d, 2.0)
        axes[1].plot(
            cells.positive,
            1 - cells.untested,
            label=f"deviation {d:+g}",
            color=METHOD_COLOURS[colour],
        )
    axes[0].set(xlabel="risk p(Y=1 | X)", ylabel="p(tested | X)", title="steepness α")
    axes[1].set(xlabel="risk p(Y=1 | X)", title="deviation X'β_Δ")
    for ax in axes:
        ax.legend(loc="lower right")
    return figure


def ridge(grid: Mapping[str, np.ndarray], constrained: Mapping[str, np.ndarray]) -> Any:
    """Joint posterior of intercept and sigma without and with a known prevalence."""
    figure, ax = _axes(figsize=(7, 4))
    sigma = np.exp(grid["log_sigma"])
    for source, colour, label in (
        (grid, COLOURS["u"], NAMES["u"]),
        (constrained, COLOURS["b"], "prevalence known"),
    ):
        p = source["mass"].sum(1)
        ordered = np.sort(p.ravel())[::-1]
        level = ordered[np.searchsorted(np.cumsum(ordered), 0.9)]
        ax.contourf(
            grid["beta_Y"],
            sigma,
            p.T,
            levels=[level, p.max() + 1],
            colors=[colour],
            alpha=0.45,
        )
        ax.plot([], [], color=colour, linewidth=8, alpha=0.45, label=label)
    ax.set(
        xlabel="intercept of the risk β_Y (log-odds)",
        ylabel="spread σ of the unobservable",
        xlim=(-6.5, 0.5),
        ylim=(0, 8),
    )
    ax.legend(loc="upper right")
    return figure


def gains(table: pd.DataFrame, *, blocks: Sequence[str] = ("beta_Y", "beta_Delta", "sigma")) -> Any:
    """Bars of median percent change against the unconstrained model, widths and errors."""
    labels = {"beta_Y": "β_Y", "beta_Delta": "β_Δ", "sigma": "σ", "alpha": "α"}
    figure, axes = _axes(1, 2, figsize=(9, 3.8), sharey=True)
    for ax, measure, title in (
        (axes[0], "width", "95 % interval width"),
        (axes[1], "error", "error of the posterior mean"),
    ):
        for i, constraint in enumerate("peb"):
            part = table[(table.measure == measure) & (table.constraint == constraint)]
            part = part.set_index("block").loc[list(blocks)]
            x = np.arange(len(blocks)) + 0.26 * (i - 1)
            spread = [part["median"] - part["low"], part["high"] - part["median"]]
            ax.bar(
                x,
                part["median"],
                0.24,
                yerr=spread,
                capsize=2,
                color=COLOURS[constraint],
                label=NAMES[constraint],
            )
        ax.set_xticks(range(len(blocks)), [labels[b] for b in blocks])
        ax.axhline(0, color=METHOD_COLOURS["grey"], linewidth=1)
        ax.set_title(title)
    axes[0].set_ylabel("median change against no constraint (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def gain_frames(tables: Sequence[pd.DataFrame]) -> list[list[Any]]:
    """Plotly bars of :func:`~paperkit.domain_constraints.rivals.constraint_gains`, a list a table.

    Parameters
    ----------
    tables : sequence of DataFrame
        One table of gains for each step of a slider.
    """
    import plotly.graph_objects as go

    symbols = {"beta_Y": "β_Y", "beta_Delta": "β_Δ", "sigma": "σ"}
    frames = []
    for table in tables:
        bars = []
        for constraint in "peb":
            rows = table[table.constraint == constraint]
            rows = rows.sort_values("measure", ascending=False, kind="stable")
            bars.append(
                go.Bar(
                    x=[
                        [f"{m} of" for m in rows["measure"]],
                        [symbols[b] for b in rows["block"]],
                    ],
                    y=rows["median"].round(1),
                    error_y={
                        "array": (rows["high"] - rows["median"]).round(1),
                        "arrayminus": (rows["median"] - rows["low"]).round(1),
                    },
                    name=NAMES[constraint],
                    marker={"color": COLOURS[constraint]},
                )
            )
        frames.append(bars)
    return frames


def prior_grid(tables: Mapping[float, pd.DataFrame]) -> Any:
    """Mean inferred risk of the untested against the scale of the prior, one line a population.

    Parameters
    ----------
    tables : mapping of float to DataFrame
        Prior scale to records with ``set``, ``constraint``, ``untested_risk`` and
        ``true_untested_risk``.
    """
    figure, axes = _axes(1, 2, figsize=(8, 3.6), sharey=True)
    scales = sorted(tables)
    for ax, constraint in zip(axes, "ub", strict=True):
        parts = []
        for scale in scales:
            table = tables[scale]
            rows = table[table.constraint == constraint].set_index("set")
            parts.append(rows["untested_risk"] / rows["true_untested_risk"])
        lines = pd.concat(parts, axis=1, join="inner").to_numpy()
        ax.plot(scales, lines.T, marker="o", color=COLOURS[constraint], alpha=0.7)
        ax.axhline(1, color=METHOD_COLOURS["grey"], linewidth=1)
        ax.set_xscale("log")
        ax.set_xticks(scales, [f"{scale:g}" for scale in scales])
        ax.minorticks_off()
        ax.set(title=NAMES[constraint], xlabel="standard deviation of the priors")
    axes[0].set_ylabel("mean risk of the untested,\ninferred / true")
    return figure


def predictive_shares(table: pd.DataFrame) -> Any:
    """Observed shares of the visible cells by feature over the replicates' 95 % intervals."""
    features = list(dict.fromkeys(table["feature"]))
    figure, axes = _grid(len(features), columns=2, sharey=True)
    colours = dict(zip(table["cell"].unique(), ("vermillion", "blue", "grey"), strict=True))
    for ax, feature in zip(axes, features, strict=True):
        for i, (cell, colour) in enumerate(colours.items()):
            rows = table[(table.feature == feature) & (table.cell == cell)]
            x = rows["bin"] + 1 + 0.22 * (i - 1)
            ax.vlines(
                x, rows["low"], rows["high"], color=METHOD_COLOURS[colour], linewidth=4, alpha=0.4
            )
            ax.plot(x, rows["observed"], "o", color=METHOD_COLOURS[colour], label=cell, ms=3)
        ax.set_xticks(sorted(table["bin"].unique() + 1))
        ax.set(title=feature, xlabel="fifth of the people")
    axes[0].set(ylim=(0, None))
    figure.supylabel("share of the people", fontsize="medium")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def risk_scatter(truth: np.ndarray, risks: Mapping[str, np.ndarray]) -> Any:
    """Inferred against true risk of untested people, one panel a method."""
    figure, axes = _axes(1, len(risks), figsize=(9, 3.4), sharex=True, sharey=True)
    for ax, (name, risk) in zip(np.atleast_1d(axes), risks.items(), strict=True):
        ax.scatter(truth, risk, s=6, alpha=0.4, color=COLOURS[name])
        ax.plot([0, 1], [0, 1], color=METHOD_COLOURS["black"], linewidth=1)
        ax.set(title=NAMES[name], xlabel="true risk")
    np.atleast_1d(axes)[0].set_ylabel("inferred risk, p(Y=1 | X, untested)")
    return figure


def rank_histograms(ranks: pd.DataFrame, *, draws: int = 99, bins: int = 10) -> Any:
    """Histograms of the ranks of simulation-based calibration with a 99 % band."""
    from scipy.stats import binom

    names = [c for c in ranks.columns if c.startswith("beta_") or c == "sigma"]
    figure, axes = _grid(len(names), columns=4, sharey=True)
    n = len(ranks)
    low, high = binom.ppf([0.005, 0.995], n, 1 / bins)
    for ax, name in zip(axes, names, strict=True):
        ax.axhspan(low, high, color=METHOD_COLOURS["grey"], alpha=0.3)
        ax.hist(
            ranks[name].dropna(),
            bins=np.linspace(0, draws + 1, bins + 1),
            color=METHOD_COLOURS["blue"],
        )
        ax.set(title=symbol(name), xlabel="rank")
    figure.supylabel("populations", fontsize="medium")
    return figure


def calibration(table: pd.DataFrame, names: Sequence[str]) -> Any:
    """Real rate of untested people by age with 95 % intervals, and inferred risks."""
    figure, ax = _axes(figsize=(8, 4.4))
    x = np.arange(len(table))
    interval = wilson(table["positives"].to_numpy(), table["n"].to_numpy(), level=0.95)
    ax.errorbar(
        x,
        interval.estimate,
        yerr=[interval.estimate - interval.low, interval.high - interval.estimate],
        fmt="s",
        color=METHOD_COLOURS["black"],
        label="real rate, 95 % interval",
        capsize=3,
        zorder=5,
    )
    for name in names:
        ax.plot(x, table[name], marker="o", color=COLOURS[name], label=NAMES[name])
    ax.set_xticks(x, AGE_BINS)
    ax.set(xlabel="age (years)", ylabel="p(positive) among the untested", ylim=(0, None))
    ax.legend(loc="upper left")
    return figure


def deviations(table: pd.DataFrame, truth: Mapping[str, float]) -> Any:
    """Forest of inferred deviations over policy draws, with the truth."""
    figure, ax = _axes(figsize=(8, 3.6))
    labels = {"intercept": "overall", "age65": "age ≥ 65", "male": "men"}
    for row, feature in enumerate(labels):
        for offset, name in ((0.16, "u"), (-0.16, "b")):
            y = row + offset + np.linspace(-0.1, 0.1, len(table))
            middle = table[f"delta_{name}_{feature}"]
            ax.errorbar(
                middle,
                y,
                xerr=[
                    middle - table[f"delta_{name}_{feature}_low"],
                    table[f"delta_{name}_{feature}_high"] - middle,
                ],
                fmt=".",
                color=COLOURS[name],
                linewidth=1,
                label=NAMES[name] if row == 0 else None,
            )
        ax.plot(
            [truth[feature]] * 2,
            [row - 0.4, row + 0.4],
            color=METHOD_COLOURS["black"],
            label="truth" if row == 0 else None,
        )
    ax.set_yticks(range(3), list(labels.values()))
    ax.set(xlabel="deviation from risk-based testing (log-odds), 95 % intervals")
    ax.legend(loc="lower right")
    return figure


def step(table: pd.DataFrame) -> Any:
    """Inferred deviation by age bin under the step policy, one line a draw."""
    figure, ax = _axes(figsize=(7, 3.8))
    bins = AGE_BINS[1:]
    for i, (_, row) in enumerate(table.iterrows()):
        middle = np.array([row[f"delta_{b}"] for b in bins])
        low = np.array([row[f"delta_{b}_low"] for b in bins])
        high = np.array([row[f"delta_{b}_high"] for b in bins])
        x = np.arange(len(bins)) + 0.06 * i
        ax.errorbar(
            x, middle, yerr=[middle - low, high - middle], marker="o", color=COLOURS["b"], alpha=0.6
        )
    ax.plot(
        range(len(bins)),
        [0, 0, 1.5, 1.5, 1.5, 1.5],
        drawstyle="steps-mid",
        color=METHOD_COLOURS["black"],
        label="true policy",
    )
    ax.set_xticks(range(len(bins)), bins)
    ax.set(xlabel="age (years)", ylabel="deviation against ages 50-54 (log-odds)")
    ax.legend(loc="upper left")
    return figure


def equal_risk(prediction: Any, data: Any) -> Any:
    """p(tested) against risk for each distinct kind of person, by sex and age group."""
    figure, ax = _axes(figsize=(7, 4))
    male = data.X[:, data.column("male")] == 1
    old = data.X[:, data.column("age65")] == 1
    risk = prediction.risk.sel(statistic="mean").values
    tested = prediction.p_tested.sel(statistic="mean").values
    for sex, mask, colour in (
        ("women", ~male, METHOD_COLOURS["blue"]),
        ("men", male, METHOD_COLOURS["vermillion"]),
    ):
        for age, group, marker in (("65 or more", old, "o"), ("under 65", ~old, "^")):
            use = mask & group
            ax.scatter(
                risk[use], tested[use], s=18, marker=marker, color=colour, label=f"{sex}, {age}"
            )
    ax.set(xlabel="inferred risk p(Y=1 | X)", ylabel="inferred p(tested | X)")
    ax.legend(loc="lower right")
    return figure


def swaps(curves: Mapping[str, np.ndarray], ks: Sequence[int]) -> Any:
    """Positives gained by moving k tests, for several rankings."""
    figure, ax = _axes(figsize=(7, 3.8))
    for name, values in curves.items():
        ax.plot(
            ks,
            values,
            marker="o",
            color=COLOURS.get(name, METHOD_COLOURS["black"]),
            label=NAMES.get(name, name),
        )
    ax.axhline(0, color=METHOD_COLOURS["grey"], linewidth=1)
    ax.set(xlabel="tests moved, k", ylabel="positives found minus positives given up")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def stages(table: pd.DataFrame, truth: pd.DataFrame) -> Any:
    """Wilms' tumour: risk of unflagged patients by stage against the truth, one panel a sigma."""
    sigmas = sorted(table["sigma"].unique())
    figure, axes = _grid(len(sigmas), columns=2, sharey=True)
    for ax, sigma in zip(axes, sigmas, strict=True):
        for offset, name in ((-0.25, "u"), (0.0, "e"), (0.25, "b")):
            row = table[(table.sigma == sigma) & (table.constraint == name)].iloc[0]
            middle = np.array([row[f"risk_{i}"] for i in range(1, 5)])
            low = np.array([row[f"risk_{i}_low"] for i in range(1, 5)])
            high = np.array([row[f"risk_{i}_high"] for i in range(1, 5)])
            ax.errorbar(
                np.arange(1, 5) + offset,
                middle,
                yerr=[middle - low, high - middle],
                fmt="o",
                capsize=2,
                color=COLOURS[name],
                label=NAMES[name],
            )
        ax.plot(truth.index, truth["risk"], "_", markersize=22, color="black", label="real rate")
        check = table[(table.sigma == sigma) & (table.constraint == "b")].iloc[0]["check_p"]
        ax.set(title=f"σ = {sigma:g}, check p = {check:.2g}", xlabel="stage", ylim=(0, 0.5))
        ax.set_xticks(range(1, 5))
    figure.supylabel("p(unfavourable | not flagged)", fontsize="medium")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def growth(table: pd.DataFrame) -> Any:
    """Seconds of a gradient against the number of people, grouped and one row a person."""
    figure, ax = _axes(figsize=(7, 3.8))
    for name, label, colour in (
        ("ungrouped", "one row for each person", COLOURS["u"]),
        ("grouped", "one row for each kind of person", COLOURS["b"]),
    ):
        seconds = np.array(table[name].tolist()) * 1e3
        ax.loglog(table["people"], seconds.mean(1), marker="o", color=colour, label=label)
        ax.fill_between(table["people"], seconds.min(1), seconds.max(1), color=colour, alpha=0.3)
    ax.set(xlabel="people", ylabel="CPU time of a gradient (ms)")
    ax.legend()
    return figure
