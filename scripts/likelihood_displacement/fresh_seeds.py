"""Judge every live claim that depends on the seed under PAPERKIT_SEED = 1 .. 20 (about eight CPU minutes).

    python scripts/likelihood_displacement/fresh_seeds.py

Run by ``nox -s full -- likelihood_displacement``. Stores how many of the runs each claim passes. Finished seeds are
kept in ``build/`` and not repeated.
"""

from __future__ import annotations

import os
from typing import Any

from paperkit import claims, data, profiles, sweeps
from paperkit.likelihood_displacement import experiments

SCRIPT = "scripts/likelihood_displacement/fresh_seeds.py"
STORE = profiles.project_root() / "build" / "likelihood_displacement"
SEEDS = list(range(1, 21))


def live_claims(*, seed: int) -> list[dict[str, Any]]:
    before = os.environ.get("PAPERKIT_SEED")
    os.environ["PAPERKIT_SEED"] = str(seed)
    try:
        ledger = claims.chapter("likelihood_displacement")
        measured = experiments.stochastic_claims()
        return [
            {"claim": id, "value": value, "held": ledger.judge(id, value, interval=interval).held}
            for id, (value, interval) in measured.items()
        ]
    finally:
        os.environ.pop("PAPERKIT_SEED", None)
        if before is not None:
            os.environ["PAPERKIT_SEED"] = before


def main() -> None:
    table = sweeps.sweep(live_claims, [{}], seeds=SEEDS, store=STORE, description="fresh seeds")
    passed = table.groupby("claim")["held"].sum().astype(int).to_dict()
    data.save_stored(
        "likelihood_displacement", "fresh_seeds",
        {"passed": passed, "runs": len(SEEDS),
         "values": table.groupby("claim")["value"].apply(list).to_dict()},
        script=SCRIPT, settings={"claims": sorted(passed)}, seeds=SEEDS,
    )  # fmt: skip
    print(passed)


if __name__ == "__main__":
    main()
