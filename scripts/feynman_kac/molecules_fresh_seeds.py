"""Judge the rows about molecules under PAPERKIT_SEED = 1 .. 20 (about 6 CPU minutes).

    python scripts/feynman_kac/molecules_fresh_seeds.py          # every seed
    python scripts/feynman_kac/molecules_fresh_seeds.py 10       # seeds 1 .. 10 only; a later call goes on

Run by ``nox -s full -- feynman_kac``. Seeds that are done lie in ``build/feynman_kac/fresh_seeds`` and are not
repeated. What the seed draws: every particle, and the resampling of intervals; the networks stay.
"""

from __future__ import annotations

import sys

from paperkit import data
from paperkit.feynman_kac import molecules
from paperkit.sweeps import judged_under_seeds


def main(last: int = 20) -> None:
    seeds = range(1, last + 1)
    table = judged_under_seeds("feynman_kac", molecules.stochastic_molecule_claims, seeds=seeds)
    data.save_stored(
        "feynman_kac",
        "fresh_seeds_molecules",
        table,
        script="scripts/feynman_kac/molecules_fresh_seeds.py",
        settings={"claims": sorted(table)},
        seeds=seeds,
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
