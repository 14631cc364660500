"""Judge every live claim that depends on the seed under twenty other seeds (about 15 CPU minutes).

    python scripts/domain_constraints/fresh_seeds.py [--minutes M]

Run by ``nox -s full -- domain_constraints``. Seeds that are done are kept under ``build/`` and not repeated, so the
run may be stopped, or told to begin no further seed after M minutes, and started again. What the seed draws:
synthetic populations, testing policies, parameters at which formulas are compared, posterior draws.
"""

import argparse
import time
import warnings

from paperkit import data
from paperkit.domain_constraints.experiments import (
    revised_claims,
    stochastic_claims,
    wrong_prevalence_claims,
)
from paperkit.sweeps import judged_under_seeds

CHAPTER = "domain_constraints"
SEEDS = range(1, 21)
REVISED = range(21, 41)  # for the three rows that were revised after SEEDS had been seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    end = time.monotonic() + 60 * parser.parse_args().minutes
    warnings.simplefilter("ignore")
    for seed in SEEDS:
        if time.monotonic() > end:
            print("stopped; run again to go on")
            return
        judged_under_seeds(CHAPTER, stochastic_claims, seeds=[seed])
    table = judged_under_seeds(CHAPTER, stochastic_claims, seeds=SEEDS)
    for revised in (revised_claims, wrong_prevalence_claims):
        table |= judged_under_seeds(CHAPTER, revised, seeds=REVISED)
    data.save_stored(
        CHAPTER,
        "fresh_seeds",
        table,
        script="scripts/domain_constraints/fresh_seeds.py",
        settings={"claims": sorted(table)},
        seeds=[*SEEDS, *REVISED],
    )


if __name__ == "__main__":
    main()
