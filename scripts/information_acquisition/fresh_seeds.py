"""Judge every live claim that depends on the seed under twenty values of PAPERKIT_SEED (about 15 CPU minutes).

    python scripts/information_acquisition/fresh_seeds.py

Run by ``nox -s full -- information_acquisition``. Seeds 1 to 20; 21 to 40 for the claim whose experiment was revised
after a look at the first twenty; 41 to 60 for those that were revised twice.
"""

from __future__ import annotations

from paperkit import data
from paperkit.information_acquisition import experiments, readers
from paperkit.sweeps import judged_under_seeds

CHAPTER = "information_acquisition"
FIRST, SECOND, THIRD = range(1, 21), range(21, 41), range(41, 61)


def main() -> None:
    pair = readers.diabetes_readers()

    def first() -> dict:
        return experiments.stochastic_claims(pair)

    def revised() -> dict:
        return experiments.revised_claims(pair)

    table = judged_under_seeds(CHAPTER, first, seeds=FIRST)
    table |= judged_under_seeds(CHAPTER, revised, seeds=SECOND)
    table |= judged_under_seeds(CHAPTER, experiments.exponent_claims, seeds=THIRD)
    data.save_stored(
        CHAPTER,
        "fresh_seeds",
        dict(sorted(table.items())),
        script="scripts/information_acquisition/fresh_seeds.py",
        settings={"claims": sorted(table)},
        seeds=[*FIRST, *SECOND, *THIRD],
    )


if __name__ == "__main__":
    main()
