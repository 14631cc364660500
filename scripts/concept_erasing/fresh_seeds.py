"""Judge every live claim that depends on chance under PAPERKIT_SEED = 1 .. 20 (about eight CPU minutes).

    python scripts/concept_erasing/fresh_seeds.py

Run by ``nox -s full -- concept_erasing``. Finished seeds are kept in ``build/`` and not repeated. What is stored says
for each claim how many seeds were run.
"""

from paperkit import data, sweeps
from paperkit.concept_erasing import experiments

SCRIPT = "scripts/concept_erasing/fresh_seeds.py"
LAST = (5, 10, 20)


def main() -> None:
    table = {}
    for measure in (experiments.point_claims, experiments.purification_claims):
        for last in LAST:
            table |= sweeps.judged_under_seeds("concept_erasing", measure, seeds=range(1, last + 1))
            data.save_stored(
                "concept_erasing", "fresh_seeds", table,
                script=SCRIPT, settings={"claims": sorted(table)},
                seeds=list(range(1, max(row["runs"] for row in table.values()) + 1)),
            )  # fmt: skip
            print({id: (row["passed"], row["runs"]) for id, row in table.items()}, flush=True)


if __name__ == "__main__":
    main()
