"""Judge every live claim that depends on the seed under PAPERKIT_SEED = 1 .. 20 (about 6 CPU minutes).

    python scripts/risk_scores/fresh_seeds.py          # every seed, and the stored table
    python scripts/risk_scores/fresh_seeds.py 1 10     # seeds 1 .. 10 only, as one of several pieces

Run by ``nox -s full -- risk_scores``. Seeds that are done lie in ``build/risk_scores`` and are not repeated. What
the seed draws: folds, resamples, shuffled labels, labelled people, and the people whose scores are computed again.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from paperkit import claims, data
from paperkit.risk_scores import experiments

PARTS = Path(__file__).resolve().parents[2] / "build" / "risk_scores"
SEEDS = range(1, 21)


def values_of(seed: int) -> dict[str, dict[str, float | bool]]:
    """Value and verdict of every claim under one seed."""
    part = PARTS / f"fresh-seed-{seed:02d}.json"
    if not part.exists():
        ledger = claims.chapter("risk_scores")
        os.environ["PAPERKIT_SEED"] = str(seed)
        found = {
            id: {
                "value": value,
                "held": bool(ledger.judge(id, value, interval=interval).held),
            }
            for id, (value, interval) in experiments.stochastic_claims().items()
        }
        PARTS.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(found))
        failed = [id for id, row in found.items() if not row["held"]]
        print(
            f"seed {seed}: {len(found) - len(failed)} of {len(found)} claims hold",
            failed,
            flush=True,
        )
    return json.loads(part.read_text())


def main() -> None:
    if sys.argv[1:]:
        first, last = map(int, sys.argv[1:])
        for seed in range(first, last + 1):
            values_of(seed)
        return
    before = os.environ.get("PAPERKIT_SEED")
    try:
        runs = [values_of(seed) for seed in SEEDS]
    finally:
        os.environ.pop("PAPERKIT_SEED", None)
        if before is not None:
            os.environ["PAPERKIT_SEED"] = before
    data.save_stored(
        "risk_scores",
        "fresh_seeds",
        {
            id: {
                "seeds": f"{SEEDS[0]} to {SEEDS[-1]}",
                "runs": len(runs),
                "passed": sum(run[id]["held"] for run in runs),
                "values": [run[id]["value"] for run in runs],
            }
            for id in sorted(runs[0])
        },
        script="scripts/risk_scores/fresh_seeds.py",
        settings={"claims": sorted(runs[0])},
        seeds=SEEDS,
    )


if __name__ == "__main__":
    main()
