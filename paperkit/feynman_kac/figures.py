"""The chapter's figures; each takes what was measured and returns a figure.

Drawing only. The interactive ones work in a page without server or network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from paperkit import plotting, profiles
from paperkit.plotting import METHOD_COLOURS as COLOURS

from . import composition as compositions
from . import cooling, experiments, networks, sampler, studies
from .experiments import SIGMA_MIN, line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _axes(columns: int = 1, rows: int = 1, width: float = 6.4, height: float = 3.6) -> Any:
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=(width, height))


def _centres(edges: np.ndarray) -> np.ndarray:
    return (edges[1:] + edges[:-1]) / 2


def _log(ax: Any, **ticks: Any) -> None:
    """Make axes logarithmic with few plain tick labels, those of `ticks` that are in view."""
    from matplotlib.ticker import NullLocator

    for name, wanted in ticks.items():
        ax.set(**{f"{name}scale": "log"})
        axis = getattr(ax, f"{name}axis")
        low, high = sorted(axis.get_view_interval())
        inside = [each for each in wanted if low <= each <= high]
        axis.set_ticks(inside, [f"{each:g}" for each in inside])
        axis.set_minor_locator(NullLocator())


def glance(target: str = "guidance 3") -> Figure:
    """The whole idea: added scores miss, particles carry weights, corrected samples follow."""
    figure, axes = _axes(3, width=10.0, height=3.5)
    world = line(target)
    x, p, _ = world.density()
    edges, _ = experiments.target_bins(world)
    width = edges[1] - edges[0]
    for ax, correct, role, title in (
        (axes[0], False, "baseline", "Added scores alone"),
        (axes[2], True, "method", "Weighted and resampled"),
    ):
        ax.fill_between(x, p, color=COLOURS["grey"], alpha=0.35, label="what is wanted")
        tables, _ = experiments.line_tables(experiments.line_run(target, correct=correct), world)
        ax.step(
            _centres(edges),
            tables.mean(0) / width,
            where="mid",
            color=COLOURS[role],
            label="what comes out",
        )
        ax.set(xlim=(-3.2, 3.8), ylim=(0, 1.15), yticks=[], title=title, xlabel="x")
        ax.legend(fontsize=9, loc="upper left")
    seen: list[tuple[float, torch.Tensor, torch.Tensor]] = []
    experiments.run_line(
        target,
        "glance",
        populations=1,
        size=45,
        steps=140,
        resample=None,
        callback=lambda k, s, y, w: seen.append((s, y[0, :, 0].clone(), w[0].clone())),
    )
    for sigma, y, w in seen[19::10]:
        share = torch.softmax(w, 0) * len(w)
        axes[1].scatter(
            y, [sigma] * len(y), s=14 * share, color=COLOURS["method"], alpha=0.6, linewidths=0
        )
    axes[1].set(ylabel="noise level", xlabel="x", xlim=(-9, 9))
    _log(axes[1], y=(0.1, 1, 3))
    axes[1].set_title("A weight on every particle")
    return figure


def histograms(target: str = "guidance 3") -> Figure:
    """Mixed and corrected samples against quadrature."""
    runs = {correct: experiments.line_run(target, correct=correct) for correct in (False, True)}
    return _against(line(target), runs, target.capitalize())


def rewarded() -> Figure:
    """The same for a mixture that is tilted by a reward."""
    runs = {correct: experiments.rewarded(correct)[0] for correct in (False, True)}
    return _against(experiments.rewarded()[1], runs, "Reward for being near 1")


def _against(world: experiments.Line, runs: dict[bool, Any], title: str) -> Figure:
    figure, ax = _axes()
    x, p, _ = world.density()
    ax.fill_between(x, p, color=COLOURS["grey"], alpha=0.3, label="wanted (quadrature)")
    edges, _ = experiments.target_bins(world)
    width = edges[1] - edges[0]
    for correct, name, role in ((False, "added scores", "baseline"), (True, "corrected", "method")):
        tables, _ = experiments.line_tables(runs[correct], world)
        ax.step(
            _centres(edges), tables.mean(0) / width, where="mid", color=COLOURS[role], label=name
        )
    ax.set(xlim=(-4, 4), xlabel="x", ylabel="density", title=title)
    ax.set_ylim(0, 1.45 * ax.get_ylim()[1])
    ax.legend(loc="upper left")
    return figure


def path(target: str = "guidance 3") -> Figure:
    """Samples and the wanted density at five noise levels."""
    stations = experiments.path_tables(target)
    levels = sorted(stations[True], reverse=True)
    figure, axes = _axes(len(levels), width=7.6, height=2.3)
    for ax, sigma in zip(axes, levels, strict=True):
        edges = stations[True][sigma].edges
        x, p, _ = line(target).density(sigma)
        inner = slice(1, -1)  # the outer bins are open
        where = _centres(edges)[inner]
        ax.fill_between(x, p, color=COLOURS["grey"], alpha=0.3)
        for correct, role in ((False, "baseline"), (True, "method")):
            drawn = stations[correct][sigma].drawn[inner] / (edges[1] - edges[0])
            ax.step(where, drawn, where="mid", color=COLOURS[role], lw=1.3)
        ax.set_title(f"noise {sigma:.2g}")
        ax.set(yticks=[], xlabel="y", xlim=(edges[0], edges[-1]))
    axes[0].set_ylabel("density")
    return figure


def variances(table: pd.DataFrame) -> Figure:
    """Closed forms of the uncorrected variance, and measurements."""
    figure, ax = _axes()
    beta = np.linspace(1, 4, 100)
    ax.plot(beta, 1 / beta, color=COLOURS["truth"], label="wanted: 1/exponent")
    curves = {
        "target score": ([experiments.closed_variance(b, 1.0) for b in beta], "baseline"),
        "tempered noise": ([experiments.closed_variance(b, b**-0.5) for b in beta], "orange"),
        "churn": ([experiments.closed_variance(b, 2**0.5) for b in beta], "green"),
    }
    for name, (values, role) in curves.items():
        ax.plot(beta, values, color=COLOURS[role], label=name)
        rows = table[table["noise"] == name]
        ax.plot(rows["exponent"], rows["measured"], "o", color=COLOURS[role])
    ax.set(xlabel="exponent (inverse temperature)", ylabel="variance", ylim=(0, 1.05))
    ax.legend()
    return figure


def bars(table: pd.DataFrame) -> Figure:
    """Total variation without and with weights, for each target."""
    figure, ax = _axes(height=3.8)
    place = np.arange(len(table))
    ax.barh(
        place - 0.2, table["mixed scores"], 0.4, color=COLOURS["baseline"], label="added scores"
    )
    ax.barh(place + 0.2, table["corrected"], 0.4, color=COLOURS["method"], label="corrected")
    ax.set_yticks(place, table["target"])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="total variation from the wanted density")
    ax.legend()
    return figure


def more_particles(table: pd.DataFrame) -> Figure:
    """Root mean square error against the number of particles (stored runs)."""
    figure, ax = _axes()
    for target, rows in table.groupby("target", sort=False):
        error = rows.groupby("particles")["error"].apply(lambda e: float(np.sqrt((e**2).mean())))
        ax.plot(error.index, error.to_numpy(), "o-", label=str(target))
    sizes = np.array([32, 8192])
    ax.plot(sizes, 0.4 * sizes**-0.5, "k:", label="inverse root")
    ax.set(xlabel="particles", ylabel="root mean square error")
    _log(ax, x=sorted(set(table["particles"])), y=(0.003, 0.01, 0.03, 0.1, 0.3))
    ax.legend(fontsize=9)
    return figure


def more_steps(table: pd.DataFrame) -> Figure:
    """Error of P(x > .75) against the number of steps."""
    figure, ax = _axes()
    for correct, name, role in ((False, "added scores", "baseline"), (True, "corrected", "method")):
        rows = table[table["corrected"] == correct]
        ax.errorbar(
            rows["steps"],
            rows["error"],
            2 * rows["standard error"],
            fmt="o-",
            color=COLOURS[role],
            label=name,
            capsize=3,
        )
    ax.axhline(0, color="k", lw=1)
    ax.set(xlabel="steps", ylabel="error of P(x > .75)")
    _log(ax, x=sorted(set(table["steps"])))
    ax.legend()
    return figure


def ess_trace(targets: tuple[str, ...] = ("guidance 2", "guidance 4", "annealing 4")) -> Figure:
    """Effective sample size along the way."""
    figure, ax = _axes()
    for target in targets:
        result = experiments.run_line(target, "trace", populations=1)
        ax.plot(result.sigmas[1:], result.ess[:, 0] / 1000, label=target)
    ax.axhline(0.5, color="k", ls=":", lw=1)
    ax.set(xlabel="noise level (the sampler runs from right to left)", ylim=(0, 1.05))
    _log(ax, x=(0.03, 0.1, 0.3, 1, 3, 10))
    ax.set_ylabel("effective share of particles")
    ax.legend(fontsize=9)
    return figure


def strength_slider() -> plotting.HTML:
    """Guidance strength 1 to 5: wanted density, mixed and corrected samples."""
    import plotly.graph_objects as go

    frames, labels = [], []
    edges = np.linspace(-4, 4, 65)
    for strength in np.linspace(1, 5, 9):
        models = (experiments.UNCONDITIONAL, experiments.CONDITIONAL)
        powers = (1 - strength, strength)
        world = compositions.Composition(
            experiments.stack_mixtures(*models), powers, log_densities=[m.log_prob for m in models]
        )
        moments = [experiments.mixture_moments(m) for m in models]
        prior = compositions.composed_prior(
            powers, [m for m, _ in moments], [v for _, v in moments], 10.0
        )
        x, p, _ = experiments.Line(world, prior).density(points=1801)
        keep = np.abs(x) <= 4
        traces = [
            go.Scatter(x=x[keep][::4], y=p[keep][::4], name="wanted", fill="tozeroy",
                       line={"color": COLOURS["grey"]})
        ]  # fmt: skip
        for correct, name, role in ((False, "added", "baseline"), (True, "corrected", "method")):
            result = sampler.sample(
                world,
                (8, 500, 1),
                sampler.sigma_schedule(150, 10.0, SIGMA_MIN),
                correct=correct,
                initial=prior,
                generator=profiles.generator("feynman_kac", "slider", float(strength)),
                dtype=torch.float32,
            )
            table = experiments.histogram_weights(
                result.particles[..., 0], result.log_weights, edges
            ).mean(0)
            traces.append(
                go.Scatter(
                    x=_centres(edges),
                    y=table / (edges[1] - edges[0]),
                    name=name,
                    line={"color": COLOURS[role], "shape": "hvh"},
                )
            )
        frames.append(traces)
        labels.append(f"{strength:g}")
    return plotting.slider(
        frames,
        labels,
        name="guidance strength",
        alt="Density on a line for guidance strengths 1 to 5. At strength 1 all three curves agree;"
        " with growing strength added scores put too much mass on the right mode, corrected samples"
        " follow the wanted density.",
        layout={"xaxis": {"title": "x"}, "yaxis": {"title": "density"}},
        start=4,
    )


# ------------------------------------------------------------------------------- notebooks 2 and 3


def forty(seed: int = 0) -> Figure:
    """Exact density of the third power of forty modes, and two samplers."""
    figure, axes = _axes(3, width=7.6, height=3.0)
    exact, _ = studies.forty_exact()
    box = studies.FORTY_BOX
    extent = (-box, box, -box, box)
    size = studies.FORTY_BINS
    axes[0].imshow(exact.reshape(size, size).T ** 0.5, origin="lower", extent=extent, cmap="Greys")
    axes[0].set_title("wanted")
    for ax, method, role in (
        (axes[1], "target score, no weights", "baseline"),
        (axes[2], "target score, every step", "method"),
    ):
        y = studies.forty_particles(method, seed).particles[0]
        ax.plot(y[:, 0], y[:, 1], ".", ms=1.5, color=COLOURS[role], alpha=0.5)
        ax.set(xlim=(-box, box), ylim=(-box, box), aspect="equal", yticklabels=[])
        ax.set_title("no weights" if role == "baseline" else "corrected")
    for ax in axes:
        ax.set_xlabel("first coordinate")
        ax.grid(visible=False)
    axes[0].set_ylabel("second coordinate")
    return figure


def forty_table(table: pd.DataFrame) -> Figure:
    """Total variation of each sampler over seeds (stored)."""
    plain = {name for name in table["method"] if "no weights" in name}
    figure, ax = _dots(table, "total variation", plain)
    ax.set(xlabel="total variation, 32 x 32 bins")
    return figure


def _dots(table: pd.DataFrame, column: str, plain: set[str], height: float = 4.2) -> Any:
    """A line of dots for each method and a diamond at their mean; `plain` are the uncorrected ones."""
    figure, ax = _axes(height=height)
    names = list(dict.fromkeys(table["method"]))
    for place, name in enumerate(names):
        values = table.loc[table["method"] == name, column]
        colour = COLOURS["baseline" if name in plain else "method"]
        ax.plot(values, [place] * len(values), ".", color=colour, alpha=0.45)
        ax.plot(values.mean(), place, "D", color=colour)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    return figure, ax


def cooled(how: cooling.Cooling, table: pd.DataFrame) -> Figure:
    """Pair distances and energies of particles at the cold temperature (stored)."""
    figure, axes = _axes(2, width=7.4, height=3.2)
    width = how.edges[1] - how.edges[0]
    where = _centres(how.edges)
    chains = how.system.reference(how.temperature)
    axes[0].fill_between(where, how.histogram(chains) / width, color=COLOURS["grey"], alpha=0.35)
    energies = how.system.energy(chains).numpy()
    low, high = np.quantile(energies, [0.0005, 0.9995])
    bins = np.linspace(low - 0.1 * (high - low), high + 0.1 * (high - low), 39)
    axes[1].hist(energies, bins, density=True, color=COLOURS["grey"], alpha=0.35, label="chains")
    for method, role, name in (
        ("target score, plain", "baseline", "plain"),
        ("target score, corrected", "method", "corrected"),
    ):
        rows = table[table["method"] == method]
        mean = np.mean([list(each) for each in rows["histogram"]], axis=0)
        axes[0].plot(where, mean / width, color=COLOURS[role])
        drawn = np.concatenate([list(each) for each in rows["some energies"]])
        axes[1].hist(
            drawn, bins, density=True, histtype="step", color=COLOURS[role], lw=1.6, label=name
        )
    axes[0].set(xlabel="distance of two particles", ylabel="density", xlim=(0.5, 8))
    axes[1].set(xlabel="energy", ylabel="density")
    axes[1].locator_params(axis="x", nbins=5)
    axes[1].set_ylim(0, 1.4 * axes[1].get_ylim()[1])
    axes[1].legend(loc="upper left", ncols=2)
    return figure


def well_slider() -> plotting.HTML:
    """Temperature of the four-particle system: distances of quick corrected runs."""
    import plotly.graph_objects as go

    frames, labels = [], []
    four = cooling.four
    for beta in (1.0, 1.25, 1.5, 1.75, 2.0):
        traces = []
        for correct, name, role in ((False, "plain", "baseline"), (True, "corrected", "method")):
            result = four.sample(
                beta,
                2**0.5,
                correct,
                profiles.generator("feynman_kac", "wells", beta),
                size=500,
                steps=60,
            )
            drawn = four.histogram(result.particles[0], torch.softmax(result.log_weights[0], 0))
            traces.append(
                go.Scatter(
                    x=_centres(four.edges),
                    y=drawn / (four.edges[1] - four.edges[0]),
                    name=name,
                    line={"color": COLOURS[role]},
                )
            )
        frames.append(traces)
        labels.append(f"{2 / beta:.2f}")
    return plotting.slider(
        frames,
        labels,
        name="temperature",
        alt="Density of pair distances of four particles at temperatures 2 to 1: two humps near 2.5"
        " and 5.5 that become narrower as the temperature falls.",
        layout={"xaxis": {"title": "distance of two particles"}, "yaxis": {"title": "density"}},
        start=4,
    )


def image_grid(images: torch.Tensor, columns: int) -> np.ndarray:
    """Tile images (n, 64) in [-1, 1] into one array of bytes, dark ink on white."""
    n = len(images) // columns * columns
    tiles = images[:n].float().clamp(-1, 1).reshape(n // columns, columns, 8, 8)
    tiles = torch.nn.functional.pad(tiles, (1, 1, 1, 1), value=-1.0)
    grid = tiles.permute(0, 2, 1, 3).reshape(n // columns * 10, columns * 10)
    pixels = (255 * (1 - (grid + 1) / 2)).round().to(torch.uint8).numpy()
    return np.kron(pixels, np.ones((4, 4), np.uint8))


def guidance_images() -> plotting.HTML:
    """Ten digits, ten images each, for five strengths of plain guidance."""
    frames = []
    strengths = (0.0, 1.0, 2.0, 4.0, 8.0)
    for strength in strengths:
        rows = []
        for label in range(networks.N_CLASSES):
            generator = profiles.generator("feynman_kac", "images", label)
            result = studies.guided_images(label, strength, False, generator, size=10, steps=40)
            rows.append(result.particles[0])
        frames.append(image_grid(torch.cat(rows), 10))
    return plotting.image_slider(
        frames,
        [f"{s:g}" for s in strengths],
        name="guidance strength",
        alt="A grid of ten rows of handwritten digits, one row a class. At strength 0 the rows do"
        " not differ, at 1 each shows its digit, at 8 all images of a row look alike.",
    )


def guided_pairs(label: int = 5, strength: float = 2.0) -> Figure:
    """Plain and corrected guidance of one digit, one population of 32 each."""
    figure, axes = _axes(2, width=7.2, height=2.6)
    for ax, correct, name in ((axes[0], False, "plain"), (axes[1], True, "corrected")):
        generator = profiles.generator("feynman_kac", "pairs", label)
        result = studies.guided_images(label, strength, correct, generator, size=32)
        drawn = result.resample(generator=generator)[0]
        ax.imshow(image_grid(drawn, 8), cmap="gray")
        ancestors = int(result.n_unique_ancestors[0])
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"{name}: {ancestors} ancestors")
        ax.grid(visible=False)
    return figure


def growth_lines(table: pd.DataFrame) -> Figure:
    """Measured and closed growth of the log-weight's variance with dimension."""
    figure, ax = _axes()
    ax.plot(
        table["dimensions"], table["closed form"], "-", color=COLOURS["truth"], label="closed form"
    )
    ax.plot(table["dimensions"], table["measured"], "o", color=COLOURS["method"], label="simulated")
    ax.set(xlabel="dimensions")
    _log(ax, x=table["dimensions"], y=(0.1, 0.3, 1, 3, 10))
    ax.set_ylabel("growth of Var log w per factor e")
    ax.legend()
    return figure


def dimensions(table: pd.DataFrame, column: str = "shift") -> Figure:
    """Distance from exact guidance, and ancestors, against the number of principal components."""
    figure, axes = _axes(2, width=7.4, height=3.2)
    for correct, name, role in ((False, "plain", "baseline"), (True, "corrected", "method")):
        rows = table[table["correct"] == correct].groupby("d")
        mean, sd = rows[column].mean(), rows[column].std()
        axes[0].errorbar(mean.index, mean, sd, fmt="o-", color=COLOURS[role], label=name, capsize=3)
    left = table[table["correct"]].groupby("d")["ancestors"]
    axes[1].errorbar(
        left.mean().index, left.mean(), left.std(), fmt="o-", color=COLOURS["method"], capsize=3
    )
    for ax in axes:
        ax.set(xlabel="principal components")
        _log(ax, x=sorted(set(table["d"])))
    axes[0].set(ylabel="distance of class means from exact", ylim=(0, None))
    axes[1].set(ylabel="ancestors of 256 particles", ylim=(0, None))
    axes[0].legend()
    return figure


def image_table(table: pd.DataFrame) -> Figure:
    """Fréchet distance of every method that was tried (stored)."""
    plain = {name for name in table["method"] if "corrected" not in name}
    figure, ax = _dots(table, "Frechet distance", plain, height=4.4)
    ax.set(xlabel="Fréchet distance from real digits")
    _log(ax, x=(0.5, 1, 2, 5, 10, 20))
    return figure


def products(table: pd.DataFrame) -> Figure:
    """Share of images with both properties, by combination (stored)."""
    figure, axes = _axes(2, width=7.4, height=3.2)
    names = [f"{d}, {('light', 'medium', 'heavy')[i]}" for d, i in studies.COMBINATIONS]
    for ax, conditional, title in (
        (axes[0], False, "product of both"),
        (axes[1], True, "product over the unconditional"),
    ):
        rows = table[table["conditional"] == conditional]
        for shift, correct, role, name in (
            (-0.2, False, "baseline", "plain"),
            (0.2, True, "method", "corrected"),
        ):
            each = rows[rows["correct"] == correct].groupby("combination")["both"]
            error = 1.96 * each.std() / each.count() ** 0.5
            ax.bar(
                each.mean().index + shift,
                each.mean(),
                0.4,
                yerr=error,
                color=COLOURS[role],
                label=name,
            )
        ax.set_xticks(range(len(names)), names, rotation=35, ha="right")
        ax.set(title=title, ylim=(0, 1.3), yticks=[0, 0.25, 0.5, 0.75, 1])
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel("share with both properties")
    axes[0].legend(fontsize=9, ncols=2, loc="upper left")
    return figure


def lineages(table: pd.DataFrame) -> Figure:
    """Ancestors that are left at the end against the number of particles."""
    figure, ax = _axes()
    sizes = table["particles"].to_numpy()
    for target, role in (("guidance 3", "method"), ("annealing 2", "green")):
        ax.plot(sizes, table[target], "o-", color=COLOURS[role], label=target)
    ax.plot(sizes, sizes, "k:", label="every particle has its own")
    ax.set(xlabel="particles", ylabel="ancestors at the end")
    _log(ax, x=sizes, y=sizes)
    ax.legend(fontsize=9)
    return figure
