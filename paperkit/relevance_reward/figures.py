"""The figures of the chapter's first two notebooks. Each function draws one and returns it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from paperkit import plotting
from paperkit.plotting import METHOD_COLOURS
from paperkit.relevance_reward import experiments as ex
from paperkit.relevance_reward import reward as rr
from paperkit.relevance_reward import world as sw

FAILURE_LABELS = {
    "only_copy": "only copies",
    "repeats": "repeats a sentence",
    "off_topic": "off the topic",
    "contains_copy": "copy and content",
}
FAILURE_STYLES = {
    "only_copy": (METHOD_COLOURS["vermillion"], "-"),
    "repeats": (METHOD_COLOURS["orange"], "--"),
    "off_topic": (METHOD_COLOURS["purple"], "-."),
    "contains_copy": (METHOD_COLOURS["sky"], ":"),
}
# What an answer of the world is, each in one class only, in this order of precedence.
CLASSES = ("only copies", "repeats a sentence", "off the topic", "on the topic, once")


def at_a_glance(kl: float = 2.9) -> Figure:
    """What the optimum of four rewards says in the sentence world, in shares of answers."""
    presets = ("qr", "li", "qr_li", "r3_open")
    names = ["before training", *("relevance", "length", "relevance × length", "R³: all three")]
    shares = [_class_shares("r3_open", 0.0), *(_class_shares(name, kl) for name in presets)]
    colours = [
        METHOD_COLOURS["vermillion"],
        METHOD_COLOURS["orange"],
        METHOD_COLOURS["purple"],
        METHOD_COLOURS["green"],
    ]
    figure, ax = plt.subplots(figsize=(7.2, 3.3))
    left = np.zeros(len(names))
    for k, label in enumerate(CLASSES):
        width = np.array([each[k] for each in shares])
        ax.barh(names, width, left=left, color=colours[k], label=label, height=0.7)
        left += width
    ax.invert_yaxis()
    ax.set(xlabel="share of answers", xlim=(0, 1))
    ax.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.4, 1.0), frameon=False, fontsize=8)
    return figure


def _class_shares(name: str, kl: float) -> np.ndarray:
    """Mean probability of each of CLASSES over the questions."""
    totals = np.zeros(4)
    worlds = ex.worlds_and_rewards(name, "cosine", "other")
    for world, rewards in worlds:
        policy = ex.policy_at(world.log_ref, rewards, kl)
        table = world.failures()
        copies = table.only_copy.to_numpy()
        repeats = table.repeats.to_numpy() & ~copies
        off = table.off_topic.to_numpy() & ~copies & ~repeats
        parts = [policy[mask].sum() for mask in (copies, repeats, off)]
        totals += [*parts, 1 - sum(parts)]
    return totals / len(worlds)


def candidate_map(table: pd.DataFrame) -> Figure:
    """Rewards of six answers under each preset; the winner of a column is framed."""
    figure, ax = plt.subplots(figsize=(6.4, 3.6))
    # each column on its own scale: what matters is who wins it
    values = table.to_numpy(float)
    scaled = values / values.max(axis=0)
    ax.imshow(scaled, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        colour = "w" if scaled[i, j] > 0.85 else "k"
        ax.text(j, i, f"{value:.3f}", ha="center", va="center", color=colour)
    for j, i in enumerate(values.argmax(axis=0)):
        ax.add_patch(plt.Rectangle((j - 0.48, i - 0.46), 0.96, 0.92, fill=False, ec="k", lw=2))
    ax.set_xticks(range(table.shape[1]), table.columns)
    ax.set_yticks(range(len(table)), table.index)
    ax.tick_params(length=0)
    ax.grid(False)
    ax.xaxis.tick_top()
    for spine in ax.spines.values():
        spine.set_visible(False)
    return figure


def padding(n: int = 12) -> Figure:
    """Gain of padding by tokens that say nothing, for both similarities."""
    figure, ax = plt.subplots(figsize=(5.4, 3.2))
    for similarity, colour in (("cosine", "baseline"), ("dot", "method")):
        gain = ex.padding_gain(similarity, n=n)
        ax.plot(np.arange(len(gain)) / n, gain, color=METHOD_COLOURS[colour], label=similarity)
    ax.axhline(np.sqrt(2), color=METHOD_COLOURS["muted"], lw=1, ls="--")
    ax.text(3, np.sqrt(2) + 0.01, "√2", ha="right")
    ax.set(xlabel="padding words per word on the topic", ylabel="reward / reward unpadded")
    ax.legend()
    return figure


def failure_curves(kls: Sequence[float] | None = None, *, similarity: str = "cosine") -> Figure:
    """Failure rates of six rewards' optima against the KL they spend."""
    grid = np.linspace(0, 3, 13) if kls is None else np.asarray(kls)
    figure, axes = plt.subplots(2, 3, figsize=(8.6, 5.0), sharex=True, sharey=True)
    for ax, name in zip(axes.flat, ex.LADDER, strict=True):
        means = pd.DataFrame(
            [ex.failure_rates(name, kl, similarity=similarity).mean() for kl in grid]
        )
        for kind, (colour, style) in FAILURE_STYLES.items():
            ax.plot(grid, means[kind], color=colour, ls=style, lw=1.8, label=FAILURE_LABELS[kind])
        ax.set(title=rr.LABELS[name], ylim=(-0.02, 1.02))
    for ax in axes[:, 0]:
        ax.set_ylabel("probability")
    for ax in axes[1]:
        ax.set_xlabel("KL from reference (nats)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=4, loc="outside upper center", frameon=False)
    return figure


def designs(kl: float = 3.0) -> Figure:
    """Off-topic rates under three kinds of off-topic sentence, three policies each."""
    names = {
        "short": "9 unrelated words",
        "other": "a sentence of\nanother question",
        "long": "36 unrelated words",
    }
    policies = (
        ("r3_open", 0.0, "reference policy", "muted"),
        ("li_rp", kl, "LI·RP", "baseline"),
        ("r3_open", kl, "R³", "method"),
    )
    figure, ax = plt.subplots(figsize=(6.6, 3.4))
    for k, (name, at, label, colour) in enumerate(policies):
        found = [ex.failure(name, "off_topic", at, off_topic=off) for off in names]
        heights = [each.estimate for each in found]
        error = [
            [each.estimate - each.low for each in found],
            [each.high - each.estimate for each in found],
        ]
        ax.bar(
            np.arange(3) + 0.27 * (k - 1),
            heights,
            width=0.25,
            yerr=np.maximum(error, 0),
            color=METHOD_COLOURS[colour],
            label=label,
            capsize=3,
        )
    ax.set_xticks(range(3), list(names.values()))
    ax.set(ylabel="answers off the topic", ylim=(0, 1.05))
    ax.legend(loc="upper left")
    return figure


def rloo_curves(runs: pd.DataFrame) -> Figure:
    """Share of the possible gain against steps of RLOO; the exact optimum is the dashed line."""
    figure, ax = plt.subplots(figsize=(5.8, 3.2))
    for i, (name, run) in enumerate(runs.groupby("preset", sort=False)):
        ax.plot(run.step, run.share, color=METHOD_COLOURS[i], label=name)
    ax.axhline(1, color=METHOD_COLOURS["truth"], ls="--", lw=1)
    ax.set(xlabel="step (16 sampled answers each)", ylabel="share of the possible gain")
    ax.set_ylim(-0.05, 1.1)
    ax.legend(loc="lower right")
    return figure


def answer_slider(question: int = 0, *, shown: int = 6) -> plotting.HTML:
    """Show the likeliest answers of three optima, with a slider over the KL they may spend."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    world = sw.load_worlds()[question]
    parts = ("question", "good 1", "good 2", "good 3", "off topic")
    names = [" + ".join(parts[a] for a in sequence) for sequence in world.sequences]
    texts = ["<br>".join(_wrapped(text)) for text in world.texts]
    presets = ("qr", "qr_li", "r3_open")
    titles = ["relevance (QR)", "relevance × length (QR·LI)", "R³"]
    kls = np.round(np.linspace(0, 2.95, 21), 2)
    all_rewards = [world.rewards(name, ex.known_relevance()) for name in presets]
    template = make_subplots(rows=3, cols=1, subplot_titles=titles, vertical_spacing=0.09)
    frames = []
    for kl in kls:
        traces = []
        for i, rewards in enumerate(all_rewards):
            policy = ex.policy_at(world.log_ref, rewards, float(kl))
            order = np.argsort(-policy, kind="stable")[:shown][::-1]
            axis = "" if i == 0 else str(i + 1)
            traces.append(
                go.Bar(
                    x=policy[order],
                    y=np.arange(shown),
                    orientation="h",
                    text=[names[j] for j in order],
                    customdata=[texts[j] for j in order],
                    hovertemplate="%{customdata}<br>probability %{x:.3f}<extra></extra>",
                    textposition="outside",
                    cliponaxis=False,
                    marker={"color": METHOD_COLOURS[("vermillion", "orange", "green")[i]]},
                    xaxis=f"x{axis}",
                    yaxis=f"y{axis}",
                    showlegend=False,
                )
            )
        frames.append(traces)
    layout: dict[str, Any] = template.to_plotly_json()["layout"]
    for axis in ("", "2", "3"):
        layout[f"yaxis{axis}"] |= {
            "showticklabels": False,
            "ticks": "",
            "range": [-0.6, shown - 0.4],
        }
        layout[f"xaxis{axis}"] |= {"range": [0, 1.45], "tickvals": [0, 0.5, 1]}
    layout["xaxis3"]["title"] = {"text": "probability of the answer"}
    layout |= {"height": 640}
    return plotting.slider(
        frames,
        [f"{kl:.2f}" for kl in kls],
        name="KL from the reference policy (nats)",
        alt="Three bar charts of the six most probable answers to one question. As KL grows, bare relevance gives all "
        "probability to the question itself, relevance times length to answers that repeat a good sentence, and R3 "
        "to answers of three different sentences, some with the question or an off-topic one among them.",
        layout=layout,
        start=16,
    )


def _wrapped(text: str, width: int = 60) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)


# --- notebook 2 -----------------------------------------------------------------------------------------------------


def leaderboard(found: dict[str, Any]) -> Figure:
    """Mean win rate of eight groups of models by mean length, raw and at controlled length."""
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.3))
    for ax, version in zip(axes, ("AlpacaEval 1", "AlpacaEval 2"), strict=True):
        rows = found[version]
        ax.plot(
            rows["length"],
            rows["win_rate"],
            "o-",
            color=METHOD_COLOURS["baseline"],
            label=f"raw, ρ = {rows['raw']:.2f}",
        )
        ax.plot(
            rows["length"],
            rows["controlled_rate"],
            "s--",
            color=METHOD_COLOURS["method"],
            label=f"length-controlled, ρ = {rows['controlled']:.2f}",
        )
        ax.set(title=f"{version} ({rows['models']} models)", xlabel="mean length (characters)")
        ax.set_ylim(0, 118)
        ax.legend(loc="upper left", fontsize=8)
    axes[0].set_ylabel("win rate (%)")
    return figure


def triplet_scores(table: pd.DataFrame) -> Figure:
    """Scores of the short answer on the topic against the long one off it, reward model and relevance."""
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 4.2))
    panels = (
        ("reward model of preferences", "score_short", "score_long"),
        ("relevance", "relevance_short", "relevance_long"),
    )
    for ax, (title, short, long) in zip(axes, panels, strict=True):
        wrong = table[long] > table[short]
        for mask, colour, marker, label in (
            (~wrong, "method", "o", "short one first"),
            (wrong, "baseline", "x", "long one first"),
        ):
            ax.scatter(
                table[short][mask],
                table[long][mask],
                s=16,
                color=METHOD_COLOURS[colour],
                marker=marker,
                alpha=0.7,
                label=f"{label}: {float(mask.mean()):.0%}",
            )
        both = table[[short, long]]
        ends = [both.min().min(), both.max().max()]
        ax.plot(ends, ends, color=METHOD_COLOURS["muted"], lw=1, ls="--", zorder=0)
        ax.set(title=title, xlabel="short answer, on the topic")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    axes[0].set_ylabel("long answer, off the topic")
    return figure


def _curve(ax: Any, x: Any, table: pd.DataFrame, column: str, colour: str) -> None:
    error = [table[column] - table.low, table.high - table[column]]
    ax.errorbar(x, table[column], yerr=error, fmt="o-", color=METHOD_COLOURS[colour], capsize=3)


def causes(taste: pd.DataFrame, negatives: pd.DataFrame, calibrated: float) -> Figure:
    """Wrong triplets against the taste for length, and right ones against pairs with an answer off the topic."""
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.3), sharey=True)
    _curve(axes[0], taste.ratio, taste, "wrong", "baseline")
    axes[0].axvline(calibrated, color=METHOD_COLOURS["muted"], ls="--", lw=1)
    axes[0].text(calibrated, 1.02, " people", ha="left", va="bottom", fontsize=8)
    axes[0].set(
        xlabel="taste for length over taste for quality",
        ylabel="share of triplets wrong",
        ylim=(0, 1),
    )
    wrong = negatives.assign(wrong=1 - negatives.right, low=1 - negatives.high)
    wrong["high"] = 1 - negatives.low
    _curve(axes[1], negatives.off_topic_share, wrong, "wrong", "method")
    axes[1].set(xlabel="share of pairs with an answer off the topic")
    return figure


def break_even(table: pd.DataFrame) -> Figure:
    """Length ratio against relevance ratio: above the line R3 prefers the short answer."""
    figure, ax = plt.subplots(figsize=(5.8, 4.8))
    groups = (
        ("another country", "length_ratio", "relevance_ratio", "r3_right", "baseline", "o"),
        ("a thing", "length_ratio_far", "relevance_ratio_far", "r3_far_right", "method", "s"),
    )
    top = 30.0
    for label, length, relevance, right, colour, marker in groups:
        ratio = table[relevance].where(table[relevance] > 0, top).clip(upper=top)
        name = f"long answer about {label}: {float(table[right].mean()):.0%} right"
        ax.scatter(
            table[length],
            ratio,
            s=18,
            alpha=0.6,
            color=METHOD_COLOURS[colour],
            marker=marker,
            label=name,
        )
    ends = np.array([1.0, table[["length_ratio", "length_ratio_far"]].max().max() * 1.05])
    ax.plot(ends, ends, color=METHOD_COLOURS["truth"], lw=1.2, label="break-even")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="length: long over short",
        ylabel="relevance: short over long",
    )
    figure.legend(loc="outside lower center", frameon=False)
    return figure
