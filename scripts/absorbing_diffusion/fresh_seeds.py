"""Judge the live claims that depend on the seed under PAPERKIT_SEED = 1 .. 20.

    python scripts/absorbing_diffusion/fresh_seeds.py            # everything, and the stored table
    python scripts/absorbing_diffusion/fresh_seeds.py 1 10       # seeds 1 .. 10 only, as a piece

Run by ``nox -s full -- absorbing_diffusion``; about six CPU minutes, and ten more for the networks
that are trained on the Markov language under each seed. A run that is cut off is taken up again from
``build/absorbing_diffusion/fresh_seeds``; delete that folder after a change of the experiments.
"""

from __future__ import annotations

import sys

import torch

from paperkit import data
from paperkit.absorbing_diffusion import experiments
from paperkit.sweeps import judged_under_seeds

CHAPTER = "absorbing_diffusion"
SEEDS = range(1, 21)


def main() -> None:
    torch.set_num_threads(1)
    seeds = SEEDS
    if sys.argv[1:]:
        first, last = map(int, sys.argv[1:])
        seeds = range(first, last + 1)
    table = judged_under_seeds(CHAPTER, experiments.stochastic_claims, seeds=seeds)
    table |= judged_under_seeds(CHAPTER, experiments.trained_claims, seeds=seeds)
    if sys.argv[1:]:
        return
    data.save_stored(
        CHAPTER,
        "fresh_seeds",
        dict(sorted(table.items())),
        script="scripts/absorbing_diffusion/fresh_seeds.py",
        settings={"claims": sorted(table)},
        seeds=SEEDS,
    )


if __name__ == "__main__":
    main()
