"""Judge every live claim that depends on the seed under PAPERKIT_SEED = 1 .. 20 (about four CPU minutes).

    python scripts/likelihood_displacement/fresh_seeds.py

Run by ``nox -s full -- likelihood_displacement``. What the seed draws: random models, and a refusal world from its
first weight on with its samples and ties.
"""

from __future__ import annotations

from paperkit import data
from paperkit.likelihood_displacement import experiments
from paperkit.sweeps import judged_under_seeds

CHAPTER = "likelihood_displacement"
SEEDS = range(1, 21)


def main() -> None:
    table = judged_under_seeds(CHAPTER, experiments.stochastic_claims, seeds=SEEDS)
    data.save_stored(
        CHAPTER,
        "fresh_seeds",
        table,
        script="scripts/likelihood_displacement/fresh_seeds.py",
        settings={"claims": sorted(table)},
        seeds=SEEDS,
    )


if __name__ == "__main__":
    main()
