"""Judge every live claim that depends on chance under PAPERKIT_SEED = 1 .. 20 (about twelve CPU minutes).

    python scripts/concept_erasing/fresh_seeds.py [points] [purification]

Run by ``nox -s full -- concept_erasing``. With names only these claims are judged, and the others are kept as stored.
Finished seeds are kept in ``build/`` and not repeated. What is stored says for each claim how many seeds were run.
"""

import sys

from paperkit import data, sweeps
from paperkit.concept_erasing import experiments

SCRIPT = "scripts/concept_erasing/fresh_seeds.py"
MEASURES = {
    "points": experiments.point_claims,
    "purification": experiments.purification_claims,
}


def main() -> None:
    names = sys.argv[1:] or list(MEASURES)
    table = data.stored("concept_erasing", "fresh_seeds") if sys.argv[1:] else {}
    for name in names:
        table |= sweeps.judged_under_seeds("concept_erasing", MEASURES[name])
    print({id: (row["passed"], row["runs"]) for id, row in table.items()}, flush=True)
    data.save_stored(
        "concept_erasing", "fresh_seeds", dict(sorted(table.items())),
        script=SCRIPT, settings={"claims": sorted(table)}, seeds=list(range(1, 21)),
    )  # fmt: skip


if __name__ == "__main__":
    main()
