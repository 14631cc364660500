"""Judge every live claim that depends on the seed under PAPERKIT_SEED = 1 .. 20 (10 CPU minutes).

Run by ``nox -s full -- feynman_kac``. Stores how many of the runs each claim passes. A finished seed is
kept in ``build/feynman_kac`` and not repeated.
"""

from __future__ import annotations

import json
import os
import sys

from paperkit import claims, data, profiles
from paperkit.feynman_kac import experiments

SEEDS = range(1, 21)


def main(seeds: list[int]) -> None:
    ledger = claims.chapter("feynman_kac")
    work = profiles.project_root() / "build" / "feynman_kac" / "fresh"
    work.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("PAPERKIT_SEED")
    try:
        for seed in seeds:
            file = work / f"{seed}.json"
            if file.exists():
                continue
            os.environ["PAPERKIT_SEED"] = str(seed)
            rows = {}
            for id, (value, interval) in experiments.stochastic_claims().items():
                verdict = ledger.judge(id, value, interval=interval)
                rows[id] = [value, bool(verdict.held)]
            file.write_text(json.dumps(rows))
            print(seed, [id for id, (_, held) in rows.items() if not held], flush=True)
    finally:
        os.environ.pop("PAPERKIT_SEED", None)
        if before is not None:
            os.environ["PAPERKIT_SEED"] = before
    done = {
        s: json.loads((work / f"{s}.json").read_text())
        for s in SEEDS
        if (work / f"{s}.json").exists()
    }
    ids = sorted({id for rows in done.values() for id in rows})
    data.save_stored(
        "feynman_kac",
        "fresh_seeds",
        {
            "runs": len(done),
            "passed": {id: sum(rows[id][1] for rows in done.values()) for id in ids},
            "values": {id: [rows[id][0] for rows in done.values()] for id in ids},
        },
        script="scripts/feynman_kac/fresh_seeds.py",
        settings={"claims": ids},
        seeds=sorted(done),
    )


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]] or list(SEEDS))
