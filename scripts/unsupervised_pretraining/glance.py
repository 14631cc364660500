"""Draw the picture of the chapter's first page, notebooks/unsupervised_pretraining/glance.png.

python scripts/unsupervised_pretraining/glance.py
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from paperkit import plotting
from paperkit.unsupervised_pretraining import experiments

TARGET = Path(__file__).parents[2] / "notebooks" / "unsupervised_pretraining" / "glance.png"


def main() -> None:
    plotting.use_style()
    task, rng = experiments.base_task(), np.random.default_rng(0)
    n = [20, 30, 50, 100, 200, 400, 1000, 3000, 10_000]
    fig, ax = plt.subplots(figsize=(7.2, 4.0))
    baselines = experiments.against_baselines(task, 1000, n, 60, rng)
    for method, label, colour in [
        ("ols", "least squares, labels only", "vermillion"),
        ("ridge", "best possible ridge, labels only", "orange"),
    ]:
        mean = baselines[baselines.method == method].groupby("n").excess.mean()
        ax.plot(mean.index, mean, label=label, color=plotting.METHOD_COLOURS[colour])
    for m, style in [(1000, ":"), (10_000, "--"), (100_000, "-")]:
        excess = experiments.both_terms(task, [m], n, 60, rng)[:, 0].mean(axis=0)
        ax.plot(n, excess, style, color=plotting.METHOD_COLOURS["method"],
                label=f"pretrained on {m:,} unlabelled points")  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="labels n", ylabel="excess risk")
    ax.legend(fontsize="small")
    fig.savefig(TARGET, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
