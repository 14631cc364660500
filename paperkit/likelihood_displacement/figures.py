"""The chapter's figures; each takes what :mod:`.experiments` measured and returns a figure.

Drawing only: no number is made here. The interactive ones work in a page without server or network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from paperkit import plotting
from paperkit.likelihood_displacement import experiments, features
from paperkit.plotting import METHOD_COLOURS as COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: One colour a token of the canonical instance.
TOKEN_COLOURS = {
    "No": COLOURS["blue"],
    "Never": COLOURS["grey"],
    "Yes": COLOURS["vermillion"],
    "Sure": COLOURS["orange"],
    "The": COLOURS["green"],
}
KIND_COLOURS = {
    "refuse": COLOURS["blue"],
    "comply": COLOURS["vermillion"],
    "other": COLOURS["grey"],
}
MEASURE_NAMES = {
    "ln_ches": "ln-CHES",
    "ches": "CHES",
    "last_hidden": "last hidden states",
    "neg_edit_distance": "edit distance (minus)",
}


def _axes(columns: int = 1, width: float = 6.4, height: float = 3.8, **options: Any) -> Any:
    import matplotlib.pyplot as plt

    return plt.subplots(1, columns, figsize=(width, height), **options)


# ------------------------------------------------------------------------------------ notebook 1


def puzzle(c: float = 2.0) -> Figure:
    """Loss, margin and three probabilities while the canonical instance is trained by DPO in time."""
    figure, (left, right) = _axes(2, 8.6, 3.6)
    times, log_p, margin = experiments.variant_path("dpo", c=c)
    loss = np.logaddexp(0, -0.1 * (margin - margin[0]))
    left.plot(times, loss, color=COLOURS["black"])
    left.set(xlabel="training time", ylabel="DPO loss (nats)", ylim=(0, 0.75))
    left.set_title("The loss falls")
    for token, name in enumerate(("No", "Never", "Yes")):
        role = ("preferred", "dispreferred", "neither")[token]
        right.plot(
            times, np.exp(log_p[:, token]), color=TOKEN_COLOURS[name], label=f"{name} ({role})"
        )
    right.set(xlabel="training time", ylabel="probability", ylim=(0, 1.02))
    right.set_title("And so does the preferred answer")
    right.legend(fontsize=9)
    return figure


def path_slider(steps: int = 17) -> plotting.HTML:
    """Probabilities of the five tokens against the margin, while the scale of the unembeddings moves."""
    import plotly.graph_objects as go

    scales = np.linspace(1, 3, steps)
    frames = []
    for c in scales:
        table = experiments.canonical_path(float(c), points=121, until=3.4)
        model = features.canonical_instance()[0].rescaled(float(c))
        times = np.linspace(0, 60 / c, 25)
        log_p, margin = model.train_in_time(0, 1, times, loss="dpo", beta=0.1)
        traces = []
        shown = margin <= 18
        for token, (name, colour) in enumerate(TOKEN_COLOURS.items()):
            traces.append(
                go.Scatter(
                    x=table["margin"], y=table[name], mode="lines", name=name,
                    line={"color": colour, "width": 3},
                )
            )  # fmt: skip
            dots = np.where(shown, np.exp(log_p[:, token]), np.exp(log_p[shown][-1, token]))
            traces.append(
                go.Scatter(
                    x=np.where(shown, margin, margin[shown][-1]), y=dots, mode="markers",
                    showlegend=False, marker={"color": colour, "size": 6},
                )
            )  # fmt: skip
        frames.append(traces)
    layout = {
        "height": 420,
        "xaxis": {"title": {"text": "margin ln p(No) - ln p(Never), nats"}, "range": [-0.3, 18]},
        "yaxis": {"title": {"text": "probability"}, "range": [0, 1.02]},
        "legend": {"orientation": "h", "y": 1.14, "x": 0},
    }
    return plotting.slider(
        frames, [f"{c:.3g}" for c in scales], name="scale c of the unembeddings",
        start=8, layout=layout,
        alt="Probabilities of No, Never, Yes, Sure and The against the margin, closed form as lines and a solver as "
        "dots. At c = 1 No rises from the start; from about c = 2 Yes takes nearly all of the probability before No "
        "comes back.",
    )  # fmt: skip


def phase_map() -> Figure:
    """Initial rate of the preferred token by cosine of the preferences and size of the hidden vector."""
    figure, ax = _axes(height=4)
    cosines, norms = np.linspace(-0.9, 0.99, 120), np.linspace(0.02, 0.8, 100)
    table = features.rate_map(cosines, norms)
    bound = 0.5
    mesh = ax.pcolormesh(cosines, norms, table, cmap="RdBu_r", vmin=-bound, vmax=bound)
    ax.contour(cosines, norms, table, levels=[0.0], colors="black")
    figure.colorbar(mesh, label="initial rate of ln p(preferred)", extend="max")
    ax.set(
        xlabel="cosine of the two preferences' unembeddings",
        ylabel="length of h (unembeddings have length 1)",
    )
    ax.grid(visible=False)
    ax.set_title("Displaced below the black line")
    return figure


def identity_lines(times: Sequence[float] = (0.3, 1.0, 1.4)) -> Figure:
    """Change of ln p of every token against its alignment with the movement of h."""
    figure, ax = _axes()
    model, tokens = features.canonical_instance()
    model = model.rescaled(2.0)
    W, h = model.flow(0, 1, times)
    for k, s in enumerate(times):
        logits = W[k] @ h[k]
        change = logits - np.logaddexp.reduce(logits) - model.log_probs()
        aligned = model.W @ (h[k] - model.h)
        colour = COLOURS[k]
        offset = float(np.mean((change - aligned)[2:]))
        ends = np.array([aligned.min(), aligned.max()])
        ax.plot(ends, ends + offset, color=colour, lw=1, label=f"s = {s:g}, slope 1")
        ax.plot(aligned[2:], change[2:], "o", color=colour)
        ax.plot(aligned[:2], change[:2], "x", color=colour)
        for z in (0, 1, 2):
            if k == len(times) - 1:
                ax.annotate(
                    tokens[z], (aligned[z], change[z]), textcoords="offset points",
                    xytext=(5, -12), fontsize=9,
                )  # fmt: skip
    ax.set(xlabel="alignment of the token with the movement of h", ylabel="change of ln p (nats)")
    ax.margins(y=0.12)
    ax.set_title("Who gains: dots on the lines, the two preferences (crosses) off")
    ax.legend()
    return figure


def losses_time_and_margin() -> Figure:
    """p(No) under three losses and with a cross-entropy term, against time and against the margin."""
    figure, (left, right) = _axes(2, 8.6, 3.6, sharey=True)
    styles = {"dpo": ("blue", "-"), "ipo": ("green", "--"), "hinge": ("purple", ":")}
    for loss, (colour, dash) in styles.items():
        times, log_p, margin = experiments.variant_path(loss)
        name = loss.upper() if loss != "hinge" else "hinge"
        left.plot(times / times[-1], np.exp(log_p[:, 0]), dash, color=COLOURS[colour], label=name)
        keep = margin < 28
        right.plot(margin[keep], np.exp(log_p[keep, 0]), dash, color=COLOURS[colour], lw=2.5)
    times, log_p, margin = experiments.variant_path("dpo", sft=0.001)
    left.plot(
        times / times[-1], np.exp(log_p[:, 0]), color=COLOURS["orange"],
        label="DPO + .001 cross-entropy",
    )  # fmt: skip
    keep = margin < 28
    right.plot(margin[keep], np.exp(log_p[keep, 0]), color=COLOURS["orange"])
    left.set(xlabel="share of the training time", ylabel="p(No)", xlim=(0, 1), ylim=(0, 0.4))
    right.set(xlabel="margin (nats)")
    left.set_title("Different in time")
    right.set_title("One curve in the margin")
    left.legend(fontsize=8)
    return figure


# ------------------------------------------------------------------------------------ notebook 2


def cosine_maps(raw: pd.DataFrame, centred: pd.DataFrame) -> Figure:
    """Cosines of answers' unembeddings, as they are and with the mean row taken out."""
    figure, axes = _axes(2, 9.4, 4.4)
    for ax, table, title in zip(axes, (raw, centred), ("as they are", "centred"), strict=True):
        image = ax.imshow(table, cmap="RdBu_r", vmin=-1, vmax=1)
        ax.set_xticks(range(len(table)), table.columns, rotation=90, fontsize=8)
        ax.set_yticks(range(len(table)), table.index, fontsize=8)
        ax.grid(visible=False)
        ax.set_title(title)
    figure.colorbar(image, ax=list(axes), label="cosine", shrink=0.8)
    return figure


def rate_maps(table: pd.DataFrame) -> Figure:
    """Initial rates of the preferred answer by what is trained, one cell an ordered pair."""
    figure, axes = _axes(2, 9.4, 4.6)
    answers = list(experiments.ANSWERS)
    for ax, column, title in zip(
        axes, ("blocks", "head"), ("blocks trained", "head trained"), strict=True
    ):
        square = table.pivot_table(index="chosen", columns="rejected", values=column)
        cells = square.loc[answers, answers].to_numpy() / 1000
        bound = 6.0
        image = ax.imshow(cells, cmap="RdBu_r", vmin=-bound, vmax=bound)
        for i, j in np.argwhere(cells < 0):
            ax.add_patch(_box(j, i))
        ax.set_xticks(range(len(answers)), answers, rotation=90, fontsize=8)
        ax.set_yticks(range(len(answers)), answers, fontsize=8)
        ax.set(xlabel="dispreferred", ylabel="preferred" if column == "blocks" else "")
        ax.grid(visible=False)
        ax.set_title(title)
    figure.colorbar(
        image, ax=list(axes), label="rate of ln p(preferred), thousands", shrink=0.8, extend="max"
    )
    return figure


def _box(x: float, y: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2)


def share_forest(shares: pd.DataFrame) -> Figure:
    """Share of prompts at which the preferred answer starts by falling, with Wilson intervals."""
    figure, ax = _axes(height=2.8)
    for y, row in enumerate(shares.iloc[::-1].to_dict("records")):
        close = tuple(row["pair"].split(" > ")) in experiments.CLOSE
        colour = COLOURS["vermillion"] if close else COLOURS["blue"]
        interval = row["interval"]
        ax.plot([interval.low, interval.high], [y, y], color=colour, lw=2)
        ax.plot([row["share"]], [y], "o", color=colour)
    ax.set_yticks(range(len(shares)), list(shares["pair"].iloc[::-1]))
    ax.axvline(0.5, color=COLOURS["grey"], lw=1, ls="--")
    ax.set(xlim=(-0.03, 1.03), xlabel="share of 12 prompts with a falling preferred answer")
    ax.grid(axis="y", visible=False)
    return figure


def runs_by_margin(runs: pd.DataFrame) -> Figure:
    """Change of both log-probabilities of every run against the margin gained, one panel a pair."""
    keys = (*experiments.CLOSE, experiments.CONTROLS[0])
    figure, axes = _axes(len(keys), 10.4, 3.3, sharey=True, sharex=True)
    for ax, (chosen, rejected) in zip(axes, keys, strict=True):
        some = runs[(runs["chosen"] == chosen) & (runs["rejected"] == rejected)]
        for _, run in some.groupby("statement"):
            run = run.sort_values("step")
            for column, colour in (("log_chosen", "blue"), ("log_rejected", "grey")):
                change = run[column] - run[column].iloc[0]
                ax.plot(run["gain"], change, color=COLOURS[colour], lw=1, alpha=0.8)
        ax.axhline(0, color=COLOURS["black"], lw=0.8)
        ax.set_title(f"{chosen} > {rejected}", fontsize=11)
        ax.set_xlabel("margin gained (nats)", fontsize=9)
    axes[0].set_ylabel("change of ln p (nats)")
    axes[0].plot([], [], color=COLOURS["blue"], label="preferred")
    axes[0].plot([], [], color=COLOURS["grey"], label="dispreferred")
    axes[0].legend(fontsize=8, loc="lower left")
    return figure


def yes_dumbbells(runs: pd.DataFrame) -> Figure:
    """p(Yes), p(No) and p(Never) before and after eight steps of No over Never, one line a prompt."""
    figure, axes = _axes(3, 9.4, 3.6, sharey=True)
    table = runs[(runs["chosen"] == "No") & (runs["rejected"] == "Never")].sort_values("step")
    for ax, answer in zip(axes, ("No", "Never", "Yes"), strict=True):
        ends = table.groupby("statement")[answer].agg(["first", "last"])
        for y, (before, after) in enumerate(ends.to_numpy()):
            ax.annotate(
                "", (after, y), (before, y),
                arrowprops={"arrowstyle": "->", "color": TOKEN_COLOURS[answer], "lw": 1.8},
            )  # fmt: skip
        ax.plot(ends["first"], range(len(ends)), "o", ms=4, color=TOKEN_COLOURS[answer])
        ax.set(xscale="log", xlabel=f"p({answer}), before and after")
        low, high = ends.to_numpy().min(), ends.to_numpy().max()
        ax.set_xlim(low / 1.6, min(high * 1.6, 1.2))
        ax.grid(axis="y", visible=False)
    axes[0].set_ylabel("prompt")
    axes[0].set_yticks(range(table["statement"].nunique()), [""] * table["statement"].nunique())
    return figure


def loss_curves(runs: pd.DataFrame) -> Figure:
    """ln p of the preferred answer against the margin for three losses in the real model."""
    figure, ax = _axes(height=3.4)
    marks = {"dpo": ("blue", "o-"), "ipo": ("green", "s--"), "hinge": ("purple", "^:")}
    for loss, (colour, mark) in marks.items():
        run = runs[runs["loss"] == loss]
        change = run["log_chosen"] - run["log_chosen"].iloc[0]
        ax.plot(run["gain"], change, mark, color=COLOURS[colour], ms=5, label=loss)
    ax.axhline(0, color=COLOURS["black"], lw=0.8)
    ax.set(xlabel="margin gained (nats)", ylabel="change of ln p(preferred)")
    ax.legend()
    return figure


# ------------------------------------------------------------------------------------ notebook 3


def positions_diagram() -> Figure:
    """Which hidden states enter the score: from the last prompt token to the second-to-last response token."""
    figure, ax = _axes(width=8.6, height=2.6)
    words = ["Can", "I", "?", "No", ",", "never", "."]
    for x, word in enumerate(words):
        inside = 2 <= x < len(words) - 1
        colour = COLOURS["vermillion"] if inside else COLOURS["grey"]
        ax.add_patch(_cell(x, 0, COLOURS["sky"] if x > 2 else "#d5dae0"))
        ax.text(x + 0.45, 0.3, word, ha="center", va="center", fontsize=11, color="black")
        ax.add_patch(_cell(x, 1.1, colour))
        ax.text(x + 0.45, 1.4, "h", ha="center", va="center", fontsize=11, color="white")
        if inside:
            ax.annotate(
                "", (x + 1.45, 2.3), (x + 0.45, 1.75),
                arrowprops={"arrowstyle": "->", "color": COLOURS["black"]},
            )  # fmt: skip
            ax.text(x + 1.5, 2.45, words[x + 1], ha="center", fontsize=10)
    ax.text(-0.25, 0.3, "token", ha="right", va="center", fontsize=10)
    ax.text(-0.25, 1.4, "last state", ha="right", va="center", fontsize=10)
    ax.text(-0.25, 2.5, "predicts", ha="right", va="center", fontsize=10)
    ax.set(xlim=(-1.6, 7.2), ylim=(-0.2, 2.9))
    ax.axis("off")
    return figure


def _cell(x: float, y: float, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 0.9, 0.6, facecolor=colour, edgecolor="none")


def measure_scatter(table: pd.DataFrame) -> Figure:
    """Every similarity measure against the exact relative rate, one dot a pair and order."""
    figure, axes = _axes(len(MEASURE_NAMES), 11, 3.2, sharey=True)
    for ax, (measure, name) in zip(axes, MEASURE_NAMES.items(), strict=True):
        ax.plot(table[measure], table["relative"], "o", ms=4, color=COLOURS["blue"], alpha=0.8)
        ax.axhline(0, color=COLOURS["vermillion"], lw=1)
        ax.set_xlabel(name, fontsize=10)
        ax.locator_params(axis="x", nbins=4)
        ax.tick_params(axis="x", labelsize=8)
    axes[0].set_ylabel("relative rate of ln π(preferred)")
    return figure


def correlation_forest(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Spearman correlations with intervals; ``found`` maps a set of pairs to measure: interval."""
    figure, ax = _axes(height=3.2)
    offsets = np.linspace(0.14, -0.14, len(found))
    names = list(MEASURE_NAMES)
    for (label, intervals), offset, colour in zip(
        found.items(), offsets, ("blue", "orange"), strict=True
    ):
        for y, measure in enumerate(reversed(names)):
            interval = intervals[measure]
            ax.plot([interval.low, interval.high], [y + offset] * 2, color=COLOURS[colour], lw=2)
            ax.plot(
                [interval.estimate], [y + offset], "o", color=COLOURS[colour],
                label=label if y == 0 else None,
            )  # fmt: skip
    ax.set_yticks(range(len(names)), [MEASURE_NAMES[m] for m in reversed(names)])
    ax.axvline(0, color=COLOURS["black"], lw=0.8)
    ax.set(xlabel="Spearman correlation with minus the relative rate", xlim=(-0.75, 1))
    ax.legend(fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    ax.grid(axis="y", visible=False)
    return figure


def alpha_histogram(alpha: np.ndarray) -> Figure:
    """The coefficients that CHES sets to one."""
    figure, ax = _axes(height=3)
    ax.hist(alpha, bins=np.linspace(-1.5, 2, 71), color=COLOURS["blue"])
    ax.axvline(1, color=COLOURS["vermillion"], lw=2, label="what CHES assumes")
    ax.axvline(float(alpha.mean()), color=COLOURS["black"], ls="--", label="mean")
    ax.set(
        xlabel=r"coefficient $\alpha^{+-}_{kk'}$", ylabel="pairs of positions (log)", yscale="log"
    )
    ax.legend()
    return figure


def group_curves(runs: pd.DataFrame) -> Figure:
    """Mean change of the preferred log-probability against the mean margin gained, by group."""
    figure, ax = _axes()
    for kind, colour in (("lowest", "blue"), ("highest", "vermillion")):
        for g, run in runs[runs["kind"] == kind].groupby("group"):
            mean = run.groupby("step")[["gain", "log_chosen"]].mean()
            change = mean["log_chosen"] - mean["log_chosen"].iloc[0]
            label = f"{kind} ln-CHES" if g == 0 else None
            ax.plot(mean["gain"], change, "o-", ms=3, color=COLOURS[colour], label=label)
    ax.axhline(0, color=COLOURS["black"], lw=0.8)
    ax.axvline(8, color=COLOURS["grey"], lw=1, ls="--")
    ax.set(xlabel="mean margin gained (nats)", ylabel="mean change of ln π(preferred) (nats)")
    ax.legend()
    return figure


# ------------------------------------------------------------------------------------ notebook 4


def mass_curves(traces: Mapping[str, pd.DataFrame]) -> Figure:
    """Where the probability is on held-out topics, step by step, one panel an arm."""
    figure, axes = _axes(len(traces), 2.7 * len(traces), 3.2, sharey=True)
    for ax, (name, trace) in zip(np.atleast_1d(axes), traces.items(), strict=True):
        for kind, colour in KIND_COLOURS.items():
            ax.plot(trace["step"], trace[kind], color=colour, label=kind)
        ax.set_title(name, fontsize=11)
        ax.set(xlabel="training step", ylim=(0, 1))
    np.atleast_1d(axes)[0].set_ylabel("probability, held-out topics")
    np.atleast_1d(axes)[0].legend(fontsize=9)
    return figure


def similarity_histogram(table: pd.DataFrame) -> Figure:
    """ln-CHES of the pairs of one world by category."""
    figure, ax = _axes(height=3)
    bins = np.linspace(table["ln_ches"].min(), table["ln_ches"].max(), 41)
    for category, colour in (("both-refuse", "vermillion"), ("mixed", "blue")):
        some = table.loc[table["category"] == category, "ln_ches"]
        ax.hist(some, bins=bins, color=COLOURS[colour], alpha=0.7, label=category)
    ax.set(xlabel="ln-CHES under the model before training", ylabel="pairs")
    ax.legend()
    return figure


def arm_forest(table: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Refusal and compliance after every arm: mean and all worlds."""
    figure, ax = _axes(height=0.34 * len(arms) + 1.2, width=7.4)
    for y, name in enumerate(reversed(arms)):
        for kind, shift in (("refuse", 0.13), ("comply", -0.13)):
            values = experiments.arm(table, name, kind)
            interval = experiments.mean_interval(values, "forest", name, kind)
            colour = KIND_COLOURS[kind]
            ax.plot(values, [y + shift] * len(values), "|", color=colour, alpha=0.5, ms=7)
            ax.plot([interval.low, interval.high], [y + shift] * 2, color=colour, lw=2.5)
            label = kind if y == 0 else None
            ax.plot([interval.estimate], [y + shift], "o", color=colour, ms=5, label=label)
    ax.set_yticks(range(len(arms)), list(reversed(arms)))
    ax.set(xlim=(-0.02, 1.02), xlabel="probability on held-out topics")
    ax.grid(axis="y", visible=False)
    ax.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.4, 1.12), ncols=2)
    return figure


def fifths_curves(table: pd.DataFrame) -> Figure:
    """Change of the preferred responses after training on each fifth by ln-CHES, one line a world."""
    figure, ax = _axes(height=3)
    for _, rows in table.groupby("seed"):
        ax.plot(rows["fifth"], rows["change"], "-", color=COLOURS["blue"], alpha=0.35, lw=1.2)
    mean = table.groupby("fifth")["change"].mean()
    ax.plot(mean.index, mean, "o-", color=COLOURS["vermillion"], lw=2.2, label="mean")
    ax.axhline(0, color=COLOURS["black"], lw=0.8)
    ax.set_xticks(range(1, 6), ["lowest", "2", "3", "4", "highest"])
    ax.set(xlabel="fifth of the pairs by ln-CHES", ylabel=r"change of $\ln \pi(y^+)$, nats")
    ax.legend(fontsize=9)
    return figure


def refusal_bars(table: pd.DataFrame, arms: Mapping[str, str]) -> Figure:
    """Kinds of SmolLM2's responses, one bar a training; ``arms`` maps the stored name to the label."""
    figure, ax = _axes(height=0.42 * len(arms) + 1.3, width=7.4)
    shown = list(arms)[::-1]
    kinds = {"soft": COLOURS["blue"], "hard": COLOURS["black"], "answer": COLOURS["orange"]}
    left = np.zeros(len(shown))
    for kind, colour in kinds.items():
        share = np.array([(table.loc[table["arm"] == a, "kind"] == kind).mean() for a in shown])
        label = kind if kind == "answer" else f"{kind} refusal"
        ax.barh(range(len(shown)), share, left=left, color=colour, height=0.7, label=label)
        left += share
    ax.set_yticks(range(len(shown)), [arms[a] for a in shown])
    ax.set(xlim=(0, 1), xlabel="share of sampled responses")
    ax.grid(axis="y", visible=False)
    ax.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.4, 1.14), ncols=3)
    return figure


def filter_slider(curve: pd.DataFrame, pairs_of_world: pd.DataFrame) -> plotting.HTML:
    """What is kept at each filter, and what training on it does, by share kept."""
    import plotly.graph_objects as go

    shares = sorted(curve["share"].unique())
    means = curve.groupby("share")[["refuse", "comply", "other", "clear"]].mean()
    first = curve[curve["seed"] == curve["seed"].min()].set_index("share")
    edges = np.linspace(pairs_of_world["ln_ches"].min(), pairs_of_world["ln_ches"].max(), 31)
    centres = (edges[1:] + edges[:-1]) / 2
    counts = {
        category: np.histogram(rows["ln_ches"], edges)[0]
        for category, rows in pairs_of_world.groupby("category")
    }
    frames = []
    for share in shares:
        traces: list[Any] = [
            go.Bar(
                x=centres, y=counts[category], name=f"pairs: {category}",
                marker={"color": colour},
            )
            for category, colour in (
                ("mixed", COLOURS["blue"]), ("both-refuse", COLOURS["vermillion"])
            )
        ]  # fmt: skip
        threshold = float(first.loc[share, "threshold"])
        height = float(max(c.max() for c in counts.values()))
        traces.append(
            go.Scatter(
                x=[threshold, threshold], y=[0, height], mode="lines", name="kept: left of this",
                line={"color": COLOURS["black"], "dash": "dash"},
            )
        )  # fmt: skip
        kinds = ["refuse", "comply", "other"]
        traces.append(
            go.Bar(
                x=kinds, y=[float(means.loc[share, k]) for k in kinds], showlegend=False,
                marker={"color": [KIND_COLOURS[k] for k in kinds]}, xaxis="x2", yaxis="y2",
            )
        )  # fmt: skip
        frames.append(traces)
    layout = {
        "height": 430, "barmode": "stack",
        "xaxis": {"domain": [0, 0.55], "title": {"text": "ln-CHES"}},
        "yaxis": {"title": {"text": "pairs of one world"}},
        "xaxis2": {"domain": [0.67, 1], "title": {"text": "probability<br>after training"}, "anchor": "y2"},
        "yaxis2": {"range": [0, 1], "anchor": "x2"},
        "legend": {"orientation": "h", "y": 1.16, "x": 0},
    }  # fmt: skip
    return plotting.slider(
        frames, [f"{share:.0%}" for share in shares], name="share of the pairs kept",
        start=1, layout=layout,
        alt="Left, a histogram of ln-CHES: mixed pairs far to the left, pairs of two refusals near zero, and a line at "
        "the filter. Right, bars with the probability of refusing, complying and something else after training. With "
        "few pairs kept compliance is gone; with a fifth or two kept half of the probability is neither; with all "
        "pairs kept compliance has risen.",
    )  # fmt: skip


def judge_heat(table: pd.DataFrame) -> Figure:
    """Compliance after training, by share of mixed pairs and consistency of the judge."""
    figure, ax = _axes(height=3.4)
    cells = table.pivot_table(index="mixed", columns="consistency", values="comply").sort_index(
        ascending=False
    )
    image = ax.imshow(cells, cmap="magma_r", vmin=0, vmax=1, aspect="auto")
    for i, row in enumerate(cells.to_numpy()):
        for j, value in enumerate(row):
            ax.text(
                j, i, f"{value:.2f}", ha="center", va="center",
                color="white" if value > 0.5 else "black",
            )  # fmt: skip
    ax.set_xticks(range(cells.shape[1]), [f"{c:g}" for c in cells.columns])
    ax.set_yticks(range(cells.shape[0]), [f"{m:.0%}" for m in cells.index])
    ax.set(xlabel="consistency of the judge (0: random ties)", ylabel="mixed pairs in the set")
    ax.grid(visible=False)
    figure.colorbar(image, label="compliance after training")
    return figure
