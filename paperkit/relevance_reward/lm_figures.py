"""The figures of the chapter's last two notebooks. Each function draws one and returns it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from paperkit import plotting
from paperkit.plotting import METHOD_COLOURS as COLOURS
from paperkit.relevance_reward import lm_experiments as lab

# One colour, line and name a reward, in every figure.
REWARDS = {
    "QR": ("relevance (QR)", COLOURS["vermillion"], "-"),
    "QR_LI": ("relevance × length (QR·LI)", COLOURS["orange"], "--"),
    "R3": ("R³", COLOURS["green"], "-."),
    "RM": ("reward model", COLOURS["grey"], ":"),
    "LI": ("length (LI)", COLOURS["purple"], (0, (3, 1, 1, 1))),
    "AR_RP": ("similarity to the reference (AR·RP)", COLOURS["blue"], "--"),
    "R3_open": ("R³, every question open", COLOURS["sky"], ":"),
}
RUN_NAMES = {
    "qr": ("relevance (QR)", COLOURS["vermillion"], "-"),
    "r3": ("R³", COLOURS["green"], "-."),
    "qr_li": ("relevance × length (QR·LI)", COLOURS["orange"], "--"),
    "qr_shuffled": ("QR of another question", COLOURS["purple"], ":"),
    "qr_cold": ("QR, unmodified start", COLOURS["grey"], "--"),
}


def token_prices(words: Sequence[Sequence[str]], prices: Sequence[np.ndarray]) -> Figure:
    """What each token of a copied question costs, one panel a question."""
    figure, axes = plt.subplots(len(prices), 1, figsize=(7.2, 2.1 * len(prices)))
    for ax, tokens, values in zip(np.atleast_1d(axes), words, prices, strict=True):
        colours = [COLOURS["vermillion"], *[COLOURS["grey"]] * (len(values) - 1)]
        ax.bar(np.arange(len(values)), values, color=colours, width=0.75)
        ax.set_xticks(np.arange(len(values)), tokens)
        ax.set_ylabel("price (nats)")
        ax.set_title(f"together {values.sum():.1f} nats: one answer in {np.exp(values.sum()):,.0f}",
                     loc="left", fontsize=10)  # fmt: skip
    return figure


def price_curves(curve: pd.DataFrame) -> Figure:
    """Probability of the copy under the optimum of each reward, against beta."""
    figure, ax = plt.subplots(figsize=(6.4, 3.6))
    for name, rows in curve.groupby("reward", sort=False):
        label, colour, style = REWARDS[str(name)]
        ax.plot(rows["beta"], rows["p"], linestyle=style, color=colour, label=label)
    ax.set(xscale="log", xlabel="price β of a nat (in units of relevance)",
           ylabel="probability of the copy", ylim=(-0.03, 1.03))  # fmt: skip
    ax.invert_xaxis()
    ax.legend(loc="upper left", frameon=False)
    return figure


def price_samples(sizes: Sequence[int], betas: Sequence[float]) -> Figure:
    """How the plug-in estimate depends on the number of samples."""
    figure, ax = plt.subplots(figsize=(6.4, 3.2))
    colours = (COLOURS["black"], COLOURS["blue"], COLOURS["sky"])
    for beta, colour in zip(betas, colours, strict=False):
        means = [lab.copy_probabilities("QR", beta, n=n).mean() for n in sizes]
        ax.plot(sizes, means, "o-", color=colour, label=f"β = {beta:g}")
    ax.set(xscale="log", xlabel="samples a question", ylabel="probability of the copy, QR",
           ylim=(-0.03, 1.03))  # fmt: skip
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.minorticks_off()
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def selection(
    rewards: Sequence[str],
    metrics: dict[str, str],
    sizes: Sequence[int],
    *,
    query_type: str = "open",
) -> Figure:
    """Best of n by several rewards, one panel a measure below the other, with intervals over questions."""
    n = len(metrics)
    figure, axes = plt.subplots(n, 1, figsize=(6.2, 1.0 + 2.5 * n), sharex=True)
    for ax, (metric, name) in zip(np.atleast_1d(axes), metrics.items(), strict=True):
        curves = lab.selection_curves(rewards, metric, sizes, query_type=query_type)
        for reward, rows in curves.groupby("reward", sort=False):
            label, colour, style = REWARDS[str(reward)]
            middle = [each.estimate for each in rows["interval"]]
            ax.fill_between(rows["n"], [each.low for each in rows["interval"]],
                            [each.high for each in rows["interval"]], color=colour, alpha=0.13,
                            linewidth=0)  # fmt: skip
            ax.plot(rows["n"], middle, linestyle=style, color=colour, label=label)
        ax.set(xscale="log", ylabel=name)
        ax.set_xticks(sizes[::2], [str(n) for n in sizes[::2]])
        ax.minorticks_off()
    np.atleast_1d(axes)[-1].set_xlabel("answers to choose from, n")
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=3 if n > 1 else 1, frameon=False
    )
    return figure


def run_shares(runs: Sequence[str] = ("qr", "r3")) -> Figure:
    """What the answers are during training (above) and how long they are (below), one column a reward."""
    table = lab.rollouts()
    figure, axes = plt.subplots(2, len(runs), figsize=(3.7 * len(runs), 4.6), sharex=True, sharey="row",
                                height_ratios=(2, 1))  # fmt: skip
    for column, run in enumerate(runs):
        rows = table[table["run"] == run]
        steps = rows.groupby("step")[["exact", "restates", "words", "tokens"]].mean()
        exact = steps["exact"].to_numpy()
        close = np.maximum(steps["restates"] - exact, 0).to_numpy()
        top = axes[0, column]
        top.stackplot(
            steps.index, exact, close, 1 - exact - close,
            labels=["the question itself", "nearly the question", "something else"],
            colors=[COLOURS["vermillion"], COLOURS["orange"], COLOURS["sky"]],
        )  # fmt: skip
        top.set(ylim=(0, 1), xlim=(0, steps.index.max()), title=RUN_NAMES[run][0])
        for _, one in rows.groupby("seed"):
            axes[1, column].plot(one.groupby("step")["words"].mean(), color=RUN_NAMES[run][1],
                                 linewidth=1)  # fmt: skip
        axes[1, column].set_xlabel("updates")
    axes[0, 0].set_ylabel("share of answers")
    axes[1, 0].set_ylabel("words an answer")
    axes[1, 0].set_ylim(bottom=0)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def run_paths(
    runs: Sequence[str] = ("qr", "r3", "qr_li", "qr_shuffled", "qr_cold"),
) -> Figure:
    """Share of exact copies against the distance from the start, one line a run."""
    table = lab.rollouts()
    figure, axes = plt.subplots(1, 2, figsize=(8.2, 3.7), sharey=True)
    for run in runs:
        label, colour, style = RUN_NAMES[run]
        for seed, rows in table[table["run"] == run].groupby("seed"):
            means = rows.groupby("step")[["exact", "log_ratio"]].mean()
            smooth = means.rolling(3, center=True, min_periods=1).mean()
            name = label if seed == 0 else None
            axes[0].plot(smooth.index, smooth["exact"], color=colour, linestyle=style, label=name)
            axes[1].plot(smooth["log_ratio"], smooth["exact"], color=colour, linestyle=style)
    axes[0].set(xlabel="updates", ylabel="share of exact copies", ylim=(-0.03, 1.03))
    axes[1].set(xlabel="KL from the start (nats)")
    worth = lab.copy_worth(0)
    axes[1].axvline(worth, color=COLOURS["black"], linewidth=1, linestyle=":")
    axes[1].text(worth + 0.1, 0.5, "price of\nthe copy", fontsize=8, va="center")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def run_prompts(run: str = "qr") -> Figure:
    """Share of exact copies for each question of a run's seeds."""
    table = lab.rollouts()
    table = table[table["run"] == run]
    figure, axes = plt.subplots(2, 2, figsize=(7.4, 4.4), sharex=True, sharey=True)
    for ax, question in zip(axes.flat, lab.trained_questions(), strict=True):
        for _, rows in table[table["query"] == question].groupby("seed"):
            share = (
                rows.groupby("step")["exact"].mean().rolling(3, center=True, min_periods=1).mean()
            )
            ax.plot(share, color=RUN_NAMES[run][1])
        ax.set_title(question, fontsize=9)
        ax.set_ylim(-0.03, 1.03)
    figure.supxlabel("updates")
    figure.supylabel("share of exact copies")
    return figure


def held_out(metrics: dict[str, tuple[str, str]]) -> Figure:
    """Policies on held-out questions; ``metrics``: label -> (query type, column)."""
    policies = {
        "packaged": "as packaged",
        "start": "warm start",
        "qr": "after QR",
        "r3": "after R³",
    }
    colours = [COLOURS["grey"], COLOURS["black"], COLOURS["vermillion"], COLOURS["green"]]
    rows = -(-len(metrics) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(6.6, 2.5 * rows), sharey=True)
    for ax, (label, (query_type, column)) in zip(axes.flat, metrics.items(), strict=True):
        for i, name in enumerate(policies):
            each = lab.held_out_mean(name, column, query_type=query_type)
            ax.errorbar(each.estimate, i, xerr=[[each.estimate - each.low], [each.high - each.estimate]],
                        fmt="o", color=colours[i], capsize=3)  # fmt: skip
        ax.set_xlabel(label)
        ax.margins(x=0.15)
    axes.flat[0].set_yticks(range(len(policies)), list(policies.values()))
    axes.flat[0].invert_yaxis()
    return figure


def text_slider(
    runs: Sequence[str] = ("qr", "r3"), *, sample: int = 0, every: int = 1
) -> plotting.HTML:
    """Step through training and read what the policy answers under each reward."""
    import plotly.graph_objects as go

    table = lab.rollouts()
    asked = lab.trained_questions()
    steps = sorted(table["step"].unique())[::every]
    frames = []
    for step in steps:
        traces = []
        for run in runs:
            label, colour, _ = RUN_NAMES[run]
            rows = table[(table["run"] == run) & (table["seed"] == 0) & (table["step"] == step)]
            said = rows[rows["sample"] == sample].set_index("query")["text"]
            lines = ["<br>".join(textwrap.wrap(said[q].strip() or "(nothing)", 44)) for q in asked]
            at = [-4 * i - (1.0 if run == runs[0] else 2.5) for i in range(len(asked))]
            traces.append(
                go.Scatter(x=[0.0] * len(asked), y=at, mode="text", text=lines, name=label,
                           textposition="middle right", textfont={"color": colour, "size": 12},
                           hoverinfo="skip", showlegend=False)
            )  # fmt: skip
        frames.append(traces)
    titles = [
        {"x": 0, "y": -4 * i + 0.1, "text": f"<b>{q}</b>", "showarrow": False, "xanchor": "left",
         "font": {"size": 12}}
        for i, q in enumerate(asked)
    ]  # fmt: skip
    hidden = {"visible": False, "fixedrange": True}
    return plotting.slider(
        frames,
        [str(step) for step in steps],
        name="updates",
        alt="Four questions with one answer of the policy trained on bare relevance (above) and one of that trained on "
        "R3 (below). At first both answer. With more updates the first repeats the questions; the second goes on "
        "answering and fills the space it has.",
        layout={"xaxis": hidden | {"range": [-0.02, 1]}, "yaxis": hidden | {"range": [-15.6, 0.8]},
                "height": 520, "annotations": titles, "margin": {"l": 4, "r": 4, "t": 8, "b": 8}},
        start=len(steps) - 1,
    )  # fmt: skip


def type_errors(curve: pd.DataFrame) -> Figure:
    """Right answers against the share of questions whose type is mistaken."""
    figure, ax = plt.subplots(figsize=(5.8, 3.3))
    plotting.band(
        ax, curve["flipped"].to_numpy(), list(curve["interval"]), label="best of 16 by R³"
    )
    ax.set(xlabel="share of closed questions taken for open", ylabel="right answers", ylim=(0, 1))
    ax.legend(frameon=False)
    return figure


def type_map(table: pd.DataFrame) -> Figure:
    """Each prompt's score under the classifier that did not see it."""
    figure, ax = plt.subplots(figsize=(6.8, 2.8))
    rng = np.random.default_rng(0)
    for level, (kind, colour) in enumerate(
        (("open", COLOURS["green"]), ("closed", COLOURS["blue"]))
    ):
        rows = table[table["query_type"] == kind]
        ax.scatter(
            rows["p_closed"], level + rng.uniform(-0.25, 0.25, len(rows)), color=colour, s=16
        )
    ax.axvline(0.5, color=COLOURS["black"], linewidth=1, linestyle=":")
    ax.set_yticks([0, 1], ["open", "closed"])
    ax.set(
        xlabel="probability of 'closed', by a classifier that has not seen the question",
        xlim=(0, 1),
    )
    return figure


def encoder_calls(curve: dict[str, Any]) -> Figure:
    """Texts the encoder reads in a run, with and without memory."""
    figure, ax = plt.subplots(figsize=(5.8, 3.0))
    for (label, values), colour in zip(curve.items(), (COLOURS["grey"], COLOURS["vermillion"], COLOURS["green"]),
                                       strict=False):  # fmt: skip
        ax.plot(values, color=colour, label=label)
    ax.set(xlabel="updates", ylabel="texts read by the encoder")
    ax.legend(frameon=False)
    return figure
