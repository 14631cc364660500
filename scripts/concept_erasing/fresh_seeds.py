"""Judge every live claim that depends on chance under PAPERKIT_SEED = 1 .. 20 (about fifteen CPU minutes).

    python scripts/concept_erasing/fresh_seeds.py [LAST]

Run by ``nox -s full -- concept_erasing``. Finished seeds are kept in ``build/`` and not repeated; with LAST it measures
the seeds up to that one, and stores the result once all twenty are there.
"""

import sys

from paperkit import data, sweeps
from paperkit.concept_erasing import experiments

SCRIPT = "scripts/concept_erasing/fresh_seeds.py"
SEEDS = range(1, 21)


def main() -> None:
    last = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS[-1]
    points = sweeps.judged_under_seeds(
        "concept_erasing", experiments.point_claims, seeds=range(1, last + 1)
    )
    images = sweeps.judged_under_seeds(
        "concept_erasing", experiments.purification_claims, seeds=range(1, last + 1)
    )
    table = {**points, **images}
    print({id: row["passed"] for id, row in table.items()})
    if last == SEEDS[-1]:
        data.save_stored(
            "concept_erasing", "fresh_seeds", table,
            script=SCRIPT, settings={"claims": sorted(table)}, seeds=list(SEEDS),
        )  # fmt: skip


if __name__ == "__main__":
    main()
