"""Draw the picture of the chapter's first page from the canonical instance and the stored refusal worlds.

python scripts/likelihood_displacement/glance.py
"""

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt

from paperkit import plotting, profiles
from paperkit.likelihood_displacement import experiments, figures

TARGET = profiles.project_root() / "notebooks" / "likelihood_displacement" / "glance.png"


def main() -> None:
    plotting.use_style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.6))
    path = experiments.canonical_path(2.0, points=600, until=3.2)
    shown = path[path["margin"] < 16]
    for name in ("No", "Never", "Yes"):
        colour = figures.TOKEN_COLOURS[name]
        left.plot(shown["margin"], shown[name], color=colour, lw=3, label=f"p({name})")
    left.set(xlabel="margin of No over Never (what is trained)", ylabel="probability")
    left.legend(loc="center right", fontsize=11)
    left.set_title("Prefer No over Never, get Yes")
    worlds = experiments.stored_worlds()
    arms = ("before", "both-refuse", "lowest tenth")
    labels = (
        "before\ntraining",
        "trained on pairs\nof refusals",
        "trained on pairs\nwith low CHES",
    )
    low = [0.0] * len(arms)
    for kind in ("refuse", "comply", "other"):
        values = [experiments.arm(worlds, arm, kind).mean() for arm in arms]
        right.bar(labels, values, bottom=low, color=figures.KIND_COLOURS[kind], label=kind)
        low = [a + b for a, b in zip(low, values, strict=True)]
    right.set(ylabel="probability", ylim=(0, 1))
    right.set_title("Reward refusals, get compliance")
    right.legend(ncols=3, fontsize=10, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    right.grid(axis="x", visible=False)
    figure.savefig(TARGET, dpi=160)


if __name__ == "__main__":
    main()
