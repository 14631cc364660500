"""Judge every live claim that depends on the seed under twenty values of PAPERKIT_SEED (about 15 CPU minutes).

    python scripts/information_acquisition/fresh_seeds.py          # every seed
    python scripts/information_acquisition/fresh_seeds.py 21 30    # these seeds only, as one of several pieces

Run by ``nox -s full -- information_acquisition``. Seeds 1 to 20; 21 to 40 for the claim whose experiment was revised
after a look at the first twenty; 41 to 60 for those that were revised twice. Seeds that are done lie in
``build/information_acquisition`` and are not repeated: delete that folder after a change of the code. The stored table
has the claims whose twenty runs are done.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from paperkit import claims, data
from paperkit.information_acquisition import experiments, readers

PARTS = Path(__file__).resolve().parents[2] / "build" / "information_acquisition"
FIRST, SECOND, THIRD = range(1, 21), range(21, 41), range(41, 61)


def judged(seed: int) -> dict[str, dict[str, float | bool]]:
    """Value and verdict of every claim under one seed."""
    part = PARTS / f"fresh-seed-{seed:02d}.json"
    if not part.exists():
        ledger = claims.chapter("information_acquisition")
        pair = readers.diabetes_readers()
        os.environ["PAPERKIT_SEED"] = str(seed)
        if seed in FIRST:
            measured = experiments.stochastic_claims(pair)
        elif seed in SECOND:
            measured = experiments.revised_claims(pair)
        else:
            measured = experiments.exponent_claims()
        found = {
            id: {"value": value, "held": bool(ledger.judge(id, value, interval=interval).held)}
            for id, (value, interval) in measured.items()
        }
        PARTS.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(found))
        failed = [id for id, row in found.items() if not row["held"]]
        print(f"seed {seed}: {len(found) - len(failed)} of {len(found)} hold", failed, flush=True)
    return json.loads(part.read_text())


def main() -> None:
    first, last = map(int, sys.argv[1:] or (FIRST[0], THIRD[-1]))
    before = os.environ.get("PAPERKIT_SEED")
    try:
        done = {seed: judged(seed) for seed in range(first, last + 1)}
    finally:
        os.environ.pop("PAPERKIT_SEED", None)
        if before is not None:
            os.environ["PAPERKIT_SEED"] = before
    table: dict[str, dict[str, object]] = {}
    stored: list[int] = []
    for seeds in (FIRST, SECOND, THIRD):
        if not all((PARTS / f"fresh-seed-{seed:02d}.json").exists() for seed in seeds):
            continue
        stored += seeds
        runs = [done[seed] if seed in done else judged(seed) for seed in seeds]
        for id in runs[0]:
            table[id] = {
                "seeds": f"{seeds[0]} to {seeds[-1]}",
                "runs": len(runs),
                "passed": sum(run[id]["held"] for run in runs),
                "values": [run[id]["value"] for run in runs],
            }
    if not table:
        return
    data.save_stored(
        "information_acquisition",
        "fresh_seeds",
        dict(sorted(table.items())),
        script="scripts/information_acquisition/fresh_seeds.py",
        settings={"claims": sorted(table)},
        seeds=stored,
    )


if __name__ == "__main__":
    main()
