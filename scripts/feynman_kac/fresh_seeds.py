"""Judge every live claim that depends on the seed under PAPERKIT_SEED = 1 .. 20 (about 10 CPU minutes).

    python scripts/feynman_kac/fresh_seeds.py          # every seed, and the stored table
    python scripts/feynman_kac/fresh_seeds.py 1 10     # seeds 1 .. 10 only, as one of several pieces

Run by ``nox -s full -- feynman_kac``. Seeds that are done lie in ``build/feynman_kac/fresh_seeds`` and are not
repeated. What the seed draws: every particle, and the resampling of intervals.
"""

from __future__ import annotations

import sys

from paperkit import data
from paperkit.feynman_kac import experiments
from paperkit.sweeps import judged_under_seeds

SEEDS = range(1, 21)


def main(first: int = SEEDS[0], last: int = SEEDS[-1]) -> None:
    table = judged_under_seeds(
        "feynman_kac", experiments.stochastic_claims, seeds=range(first, last + 1)
    )
    if (first, last) == (SEEDS[0], SEEDS[-1]):
        data.save_stored(
            "feynman_kac",
            "fresh_seeds",
            table,
            script="scripts/feynman_kac/fresh_seeds.py",
            settings={"claims": sorted(table)},
            seeds=SEEDS,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
