"""The chapter's figures; each takes what :mod:`.experiments` measured and returns a figure.

Drawing only: no number is made here. The interactive one works in a page without server or network.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from paperkit import plotting
from paperkit.absorbing_diffusion import experiments, sampling
from paperkit.absorbing_diffusion.evaluation import BoundEstimate
from paperkit.absorbing_diffusion.known import MarkovLanguage
from paperkit.absorbing_diffusion.schedules import LogLinearSchedule
from paperkit.absorbing_diffusion.text import VOCABULARY, ZERO_SHOT, decode, encode
from paperkit.plotting import METHOD_COLOURS as COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERSE = (
    "In the beginning God created the heaven and the earth. And the earth was without form, and"
    " void; and darkness was upon the face of the deep."
)


def _axes(columns: int = 1, width: float = 6.4, height: float = 3.6) -> tuple[Figure, Any]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=(width, height))
    return figure, axes


def masking_slider(steps: int = 21) -> plotting.HTML:
    """Show a verse being masked as time grows: one row of words a schedule."""
    import plotly.graph_objects as go

    ids = encode(VERSE)
    words = [decode(ids[i : i + 1]).strip() or "·" for i in range(len(ids))]
    u = torch.rand(len(ids), generator=torch.Generator().manual_seed(2)).numpy()
    columns = 9
    column, row = np.arange(len(ids)) % columns, np.arange(len(ids)) // columns
    times = np.linspace(0, 1, steps)
    frames, labels = [], []
    for t in times:
        level = float(LogLinearSchedule().mask_probability(t))
        masked = u < level
        shown = ["▇▇▇" if m else w for m, w in zip(masked, words, strict=True)]
        frames.append(
            [
                go.Scatter(
                    x=column,
                    y=-row,
                    mode="text",
                    text=shown,
                    textfont={"size": 15, "color": "#1c2430"},
                    showlegend=False,
                    hoverinfo="skip",
                )
            ]
        )
        labels.append(f"t = {t:.2f}: {masked.sum()} of {len(ids)} tokens masked")
    layout = go.Layout(
        xaxis={"visible": False, "range": [-0.6, columns - 0.4]},
        yaxis={"visible": False, "range": [-row.max() - 0.7, 0.7]},
        height=300,
        margin={"l": 5, "r": 5, "t": 10, "b": 5},
    )
    return plotting.slider(
        frames,
        labels,
        name="time",
        alt="The first verses of Genesis in tokens; moving the time from 0 to 1 turns more and more"
        " of them into masks, each at a moment of its own, and none comes back.",
        layout=layout,
        start=10,
    )


def factorisation(scores: pd.DataFrame) -> Figure:
    """True ratios against the formula, and the same after division by the scalar."""
    figure, (left, right) = _axes(2, 7.6, 3.6)
    rng = np.random.default_rng(0)
    for k, noise in enumerate(experiments.NOISE):
        part = scores[scores["noise"] == noise]
        few = part.iloc[rng.choice(len(part), 150, replace=False)]
        left.loglog(few["formula"], few["ratio"], "o", ms=3, color=COLOURS[k], label=f"{noise:g}")
        share = few["formula"] * np.expm1(noise)
        right.plot(share, few["conditional"], "o", ms=3, color=COLOURS[k], alpha=0.7)
    ends = [scores["ratio"].min(), scores["ratio"].max()]
    left.plot(ends, ends, color=COLOURS["grey"], lw=1, zorder=0)
    right.plot([0, 1], [0, 1], color=COLOURS["grey"], lw=1, zorder=0)
    left.set(xlabel="formula", ylabel="ratio of noisy marginals", title="The score")
    left.legend(title="total noise", fontsize=8, title_fontsize=8)
    right.set(
        xlabel="conditional law of clean data",
        ylabel="score / scalar of time",
        title="One law at all times",
    )
    return figure


def four_losses(table: pd.DataFrame) -> Figure:
    """Quadrature of the four losses under three schedules, with random draws."""
    figure, ax = _axes(height=3.4)
    names = {
        "dse": "score entropy",
        "t_dce": "integral over time",
        "lambda_dce": "integral over masks",
        "any_order": "any order",
    }
    groups = list(table["schedule"].unique())
    for k, loss in enumerate(names):
        part = table[table["loss"] == loss].set_index("schedule").loc[groups]
        at = np.arange(len(groups)) + 0.2 * (k - 1.5)
        ax.bar(at, part["exact"], width=0.18, color=COLOURS[k], label=names[loss])
        if part["mean"].notna().any():
            ax.errorbar(at, part["mean"], 2 * part["stderr"], fmt="k.", ms=4, capsize=2, lw=1)
    ax.set_xticks(range(len(groups)), groups)
    ax.set(ylabel="nats per text", ylim=(0, 1.35 * table["exact"].max()))
    ax.legend(ncols=2, fontsize=8)
    return figure


def jensen(gap: pd.DataFrame, exact: pd.DataFrame) -> Figure:
    """Bound against the negative log-likelihood, for a random and for the exact model."""
    figure, ax = _axes(width=4.6, height=4.0)
    ax.plot(
        gap["likelihood"],
        gap["bound"],
        "o",
        ms=4,
        color=COLOURS["vermillion"],
        label="random model",
    )
    ax.plot(
        exact["likelihood"], exact["bound"], "s", ms=3, color=COLOURS["blue"], label="exact laws"
    )
    ends = [exact["likelihood"].min(), exact["likelihood"].max()]
    ax.plot(ends, ends, color=COLOURS["grey"], lw=1, zorder=0)
    ax.set(xlabel="negative log-likelihood (nats per text)", ylabel="bound (nats per text)")
    ax.legend()
    return figure


def distance(table: pd.DataFrame) -> Figure:
    """Steps times total variation to the data law: flat where the error falls like 1/N."""
    figure, ax = _axes()
    styles = {"tweedie": "-", "euler": "--"}
    colours = {"log-linear": "blue", "cosine": "orange"}
    for schedule, method in itertools.product(colours, styles):
        part = table[(table["schedule"] == schedule) & (table["method"] == method)]
        ax.semilogx(
            part["steps"],
            part["steps"] * part["tv"],
            styles[method],
            marker="o",
            ms=3,
            color=COLOURS[colours[schedule]],
            label=f"{schedule}, {method}",
        )
    ax.set(xlabel="steps N", ylabel="N x total variation", ylim=(0, None))
    ax.legend(fontsize=8)
    return figure


def quality(table: pd.DataFrame, entropy: float) -> Figure:
    """Likelihood and diversity of generated text against the number of steps."""
    figure, (left, right) = _axes(2, 7.6, 3.4)
    made = table[table["steps"] > 0]
    left.errorbar(made["steps"], made["nats"], 2 * made["stderr"], marker="o", ms=4)
    left.axhline(entropy, color=COLOURS["grey"], ls="--", lw=1)
    left.text(1, entropy - 0.06, "entropy of the language", fontsize=8, va="top")
    left.set(xscale="log", xlabel="steps N", ylabel="nats per token under the true law")
    left.set_ylim(0.85, None)
    right.plot(made["steps"], made["unigram"], "o-", ms=4, color=COLOURS["green"])
    truth = float(table.loc[table["steps"] == 0, "unigram"].iloc[0])
    right.axhline(truth, color=COLOURS["grey"], ls="--", lw=1)
    right.set(xscale="log", xlabel="steps N", ylabel="unigram entropy (nats)", ylim=(1.5, 2.1))
    return figure


def calls(counted: pd.DataFrame) -> Figure:
    """Expected network calls against N for three lengths, with simulated counts."""
    figure, (left, right) = _axes(2, 7.6, 3.6)
    steps = np.unique(np.round(np.logspace(0, 4, 60)).astype(int))
    schedule = LogLinearSchedule()
    for k, d in enumerate((16, 64, 1024)):
        made = [sampling.expected_nfe(schedule, int(n), d) for n in steps]
        left.loglog(steps, made, color=COLOURS[k], label=f"d = {d}")
        left.axhline(d, color=COLOURS[k], lw=0.7, ls=":")
    left.loglog(steps, steps, color=COLOURS["grey"], lw=1, ls="--", label="no cache")
    part = counted[counted["schedule"] == "log-linear"]
    left.plot(part["steps"], part["counted"], "ko", ms=4, label="counted, d = 64")
    left.set(xlabel="steps N", ylabel="network calls a text", ylim=(1, 3000))
    left.legend(fontsize=8)
    batches = 2 ** np.arange(0, 9)
    for k, n in enumerate((64, 256, 1024)):
        whole = [
            sampling.expected_nfe(schedule, n, 64, cache="whole_batch", batch_size=int(b)) / n
            for b in batches
        ]
        right.semilogx(batches, whole, "o-", ms=3, color=COLOURS[k], label=f"whole batch, N = {n}")
        right.axhline(sampling.expected_nfe(schedule, n, 64) / n, color=COLOURS[k], ls=":", lw=1)
    right.set(xlabel="texts in a batch", ylabel="calls / N", ylim=(0, 1.05))
    right.legend(fontsize=8)
    return figure


def raster_slider(steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)) -> plotting.HTML:
    """Show for each N when every token is revealed, and in which steps the network is called."""
    import plotly.graph_objects as go

    language = MarkovLanguage.example()
    frames, labels = [], []
    for n in steps:
        result = sampling.sample(
            language,
            (1, 32),
            n,
            LogLinearSchedule(),
            generator=torch.Generator().manual_seed(5),
        )
        when = result.reveal_step[0].numpy()
        start = (when - 0.5) / n
        called = np.unique(when)
        frames.append(
            [
                go.Scatter(
                    x=np.arange(32),
                    y=start,
                    mode="markers",
                    marker={"size": 10, "color": COLOURS["blue"], "symbol": "square"},
                    name="token revealed",
                ),
                go.Scatter(
                    x=np.full(len(called), -2.0),
                    y=(called - 0.5) / n,
                    mode="markers",
                    marker={"size": 9, "color": COLOURS["vermillion"], "symbol": "triangle-right"},
                    name="network called",
                ),
            ]
        )
        labels.append(f"N = {n}: {len(called)} calls for 32 tokens")
    layout = go.Layout(
        xaxis={"title": "position", "range": [-3.5, 32]},
        yaxis={"title": "progress of the sampler (step / N)", "range": [1.03, -0.03]},
        height=420,
        legend={"orientation": "h", "y": 1.12},
    )
    return plotting.slider(
        frames,
        labels,
        name="steps",
        alt="A raster of 32 positions over the progress of the sampler. With few steps many tokens"
        " are revealed at once; with many, nearly each at a time of its own, and a triangle marks"
        " the steps in which the network is called, at most 32.",
        layout=layout,
        start=4,
    )


def training_curves(curves: dict[str, np.ndarray], entropy: float) -> Figure:
    """Loss during training on the Markov language."""
    figure, ax = _axes()
    for k, (kind, values) in enumerate(curves.items()):
        smooth = np.convolve(values, np.ones(15) / 15, mode="valid")
        ax.plot(
            np.arange(len(smooth)) + 15,
            smooth,
            color=COLOURS[k],
            label=experiments.KINDS[kind],
        )
    ax.axhline(entropy, color=COLOURS["grey"], ls="--", lw=1)
    ax.text(20, entropy - 0.02, "entropy of the language", fontsize=8, va="top")
    ax.set(xlabel="updates", ylabel="training loss (nats per token)", ylim=(1.0, 2.4))
    ax.legend()
    return figure


def known_answer(bounds: dict[str, BoundEstimate], entropy: float) -> Figure:
    """Bounds of the trained networks above the exact entropy."""
    figure, ax = _axes(height=2.6)
    names = {**experiments.KINDS, "exact law": "exact law"}
    for y, bound in enumerate(bounds.values()):
        ax.errorbar(
            bound.nats_per_token, y, xerr=2 * bound.stderr, fmt="o", color=COLOURS[y], capsize=3
        )
    ax.axvline(entropy, color=COLOURS["grey"], ls="--", lw=1)
    ax.set_yticks(range(len(bounds)), [names[k] for k in bounds])
    ax.set(xlabel="bound on held-out texts (nats per token; dashed: exact entropy)")
    ax.invert_yaxis()
    return figure


def spread(table: pd.DataFrame) -> Figure:
    """Standard deviation of four estimators of one bound."""
    figure, ax = _axes(height=2.8)
    order = ["any order", "integral over masks", "integral over time", "with the score"]
    for y, name in enumerate(order):
        part = table[table["estimator"] == name]["std"]
        ax.plot(part, [y] * len(part), "o", color=COLOURS[y])
    ax.set_yticks(range(len(order)), order)
    ax.set(xlabel="standard deviation of one draw (nats per token)", xlim=(0, None))
    ax.invert_yaxis()
    return figure


def learning_curves(curves: dict[str, list[dict]], unigram: float, bigram: float) -> Figure:
    """Bounds on held-out books while the text models were trained."""
    figure, ax = _axes()
    for k, (kind, points) in enumerate(curves.items()):
        ax.plot(
            [p["tokens"] / 1e6 for p in points],
            [p["nats_per_token"] for p in points],
            "o-",
            ms=4,
            color=COLOURS[k],
            label=experiments.KINDS[kind],
        )
    for level, text in ((unigram, "word frequencies"), (bigram, "word pairs")):
        ax.axhline(level, color=COLOURS["grey"], ls="--", lw=1)
        ax.annotate(
            text,
            (0.99, level),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            va="bottom",
            ha="right",
        )
    ax.set(xlabel="tokens seen (million)", ylabel="held-out books (nats per token)")
    ax.legend()
    return figure


def zero_shot(stored: dict[str, Any]) -> Figure:
    """Paired differences of RADD and the twin, and bits per character of all three."""
    figure, (left, right) = _axes(2, 8.0, 3.6)
    texts = ["bible", *ZERO_SHOT]
    names = ["held-out books", *ZERO_SHOT.values()]
    for y, text in enumerate(texts):
        entry = stored["differences"][f"{text}: radd - time"]
        left.errorbar(
            entry["estimate"],
            y,
            xerr=[
                [entry["estimate"] - entry["low"]],
                [entry["high"] - entry["estimate"]],
            ],
            fmt="o",
            color=COLOURS["blue"],
            capsize=3,
        )
    left.axvline(0, color=COLOURS["grey"], lw=1)
    left.set_yticks(range(len(texts)), names)
    left.invert_yaxis()
    left.set(xlabel="RADD - twin (nats per token)\nleft of 0: RADD is better")
    rows = pd.DataFrame(stored["bounds"])
    for k, kind in enumerate(experiments.KINDS):
        part = rows[rows["kind"] == kind].set_index("text").loc[texts]
        right.plot(
            part["bits_per_char"],
            range(len(texts)),
            "o",
            color=COLOURS[k],
            label=experiments.KINDS[kind],
        )
    right.set_yticks(range(len(texts)), [""] * len(texts))
    right.invert_yaxis()
    right.set(xlabel="bits per character")
    right.legend(fontsize=8)
    return figure


def text_quality(stored: dict[str, Any]) -> Figure:
    """Generated text against steps and against CPU seconds."""
    figure, (left, right) = _axes(2, 7.6, 3.4)
    rows = pd.DataFrame(stored["rows"])
    for k, (cache, part) in enumerate(rows.groupby("cache", sort=False)):
        label = "in rounds" if cache == "rounds" else "no cache"
        left.errorbar(
            part["rows"] / 64,
            part["nats"],
            2 * part["stderr"],
            marker="o",
            ms=4,
            color=COLOURS[k],
            label=label,
        )
        right.errorbar(
            part["seconds"], part["nats"], 2 * part["stderr"], marker="o", ms=4, color=COLOURS[k]
        )
    for ax in (left, right):
        ax.axhline(stored["true_text"], color=COLOURS["grey"], ls="--", lw=1)
        ax.set(xscale="log", ylabel="judge's nats per token")
        ax.xaxis.set_minor_formatter("")  # the labels of minor ticks would overlap
    left.set(xlabel="texts read by the network, a text")
    right.set(xlabel="CPU seconds for 64 texts")
    left.legend(fontsize=8)
    return figure


def race(bits: int = 8) -> Figure:
    """Suppression of rare tokens in a race of coarse random numbers."""
    figure, ax = _axes()
    p = 2.0**-bits * np.array([0.5, 1, 2, 3, 5, 10, 20])
    made = [experiments.coarse_race(bits, float(q), 1_000_000) for q in p]
    fine = np.logspace(np.log10(p[0]), np.log10(p[-1]), 100)
    z = (1 - fine) / (2**bits * fine)
    ax.semilogx(fine * 2**bits, z / np.expm1(z), label="z / (exp z - 1)")
    share = np.array([m["observed"] / m["asked"] for m in made])
    error = np.array([2 / np.sqrt(m["observed"] * 1e6) for m in made]) * share
    ax.errorbar(p * 2**bits, share, error, fmt="ko", ms=4, capsize=2, label="counted")
    ax.axhline(1, color=COLOURS["grey"], lw=1, ls="--")
    ax.set(
        xlabel="probability asked for, in units of 2^-b", ylabel="observed / asked", ylim=(0, 1.1)
    )
    ax.legend()
    return figure


def parallel(steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)) -> Figure:
    """Cost of revealing together: information bound and divergence."""
    figure, ax = _axes()
    made = np.array([experiments.parallel_cost(n) for n in steps])
    ax.loglog(steps, made[:, 0], "o-", label="information revealed together")
    ax.loglog(steps, made[:, 1], "o-", label="divergence of the sampler")
    ax.set(xlabel="steps N", ylabel="nats per text")
    ax.legend()
    return figure


def verse_marks(ids: np.ndarray, hidden: slice) -> str:
    """Return a text with a gap, masked tokens as low lines."""
    shown = np.asarray(ids).copy()
    shown[hidden] = VOCABULARY
    return decode(shown)
