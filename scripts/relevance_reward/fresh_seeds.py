"""Judge every live claim that depends on the seed under PAPERKIT_SEED = 1 .. 20 (about 10 CPU minutes).

    python scripts/relevance_reward/fresh_seeds.py [FIRST LAST]

Run by ``nox -s full -- relevance_reward``. What the seed draws: texts, the question that is encoded again, sampled
gradients, splits of the countries, choices, triplets and resamples.
With FIRST and LAST only these seeds are measured; what was measured is kept for a later call with more of them, and the
result says which seeds it has.
"""

from __future__ import annotations

import argparse

from paperkit import data
from paperkit.relevance_reward import experiments
from paperkit.sweeps import judged_under_seeds

SEEDS = range(1, 21)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ends", type=int, nargs="*", help="first and last seed")
    ends = parser.parse_args().ends or [SEEDS[0], SEEDS[-1]]
    seeds = range(ends[0], ends[1] + 1)
    table = judged_under_seeds("relevance_reward", experiments.stochastic_claims, seeds=seeds)
    data.save_stored(
        "relevance_reward",
        "fresh_seeds",
        table,
        script="scripts/relevance_reward/fresh_seeds.py",
        settings={"claims": sorted(table)},
        seeds=seeds,
    )


if __name__ == "__main__":
    main()
