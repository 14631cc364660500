"""Judge every live claim that depends on the seed under PAPERKIT_SEED = 1 .. 20 (about 10 CPU minutes).

    python scripts/feynman_kac/fresh_seeds.py          # every seed
    python scripts/feynman_kac/fresh_seeds.py 10       # seeds 1 .. 10 only; a later call goes on from there

Run by ``nox -s full -- feynman_kac``. Seeds that are done lie in ``build/feynman_kac/fresh_seeds`` and are not
repeated. What the seed draws: every particle, and the resampling of intervals.
"""

from __future__ import annotations

import sys

from paperkit import data
from paperkit.feynman_kac import experiments
from paperkit.sweeps import judged_under_seeds


def main(last: int = 20) -> None:
    seeds = range(1, last + 1)
    table = judged_under_seeds("feynman_kac", experiments.stochastic_claims, seeds=seeds)
    if last == 20:  # a row that one of these failed has four times as many populations since
        table |= judged_under_seeds("feynman_kac", experiments.repaired_claims, seeds=range(21, 41))
    data.save_stored(
        "feynman_kac",
        "fresh_seeds",
        table,
        script="scripts/feynman_kac/fresh_seeds.py",
        settings={"claims": sorted(table)},
        seeds=seeds,
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
