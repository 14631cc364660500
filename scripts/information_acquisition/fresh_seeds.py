"""Judge every live claim that depends on the seed under PAPERKIT_SEED = 1 .. 20 (about 8 CPU minutes).

Run by ``nox -s full -- information_acquisition``. Stores how many of the runs each claim passes.
"""

from __future__ import annotations

import os

from paperkit import claims, data
from paperkit.information_acquisition import experiments, readers

SEEDS = range(1, 21)


def main() -> None:
    ledger = claims.chapter("information_acquisition")
    pair = readers.diabetes_readers()
    runs: dict[str, list[float]] = {}
    held: dict[str, int] = {}
    before = os.environ.get("PAPERKIT_SEED")
    try:
        for seed in SEEDS:
            os.environ["PAPERKIT_SEED"] = str(seed)
            for id, (value, interval) in experiments.stochastic_claims(pair).items():
                verdict = ledger.judge(id, value, interval=interval)
                runs.setdefault(id, []).append(value)
                held[id] = held.get(id, 0) + bool(verdict.held)
            failed = [id for id, n in held.items() if n < len(runs[id])]
            print(
                f"seed {seed}: {len(held) - len(failed)} of {len(held)} claims never failed",
                failed,
                flush=True,
            )
    finally:
        os.environ.pop("PAPERKIT_SEED", None)
        if before is not None:
            os.environ["PAPERKIT_SEED"] = before
    data.save_stored(
        "information_acquisition",
        "fresh_seeds",
        {"passed": held, "values": runs, "runs": len(SEEDS)},
        script="scripts/information_acquisition/fresh_seeds.py",
        settings={"claims": sorted(held)},
        seeds=SEEDS,
    )


if __name__ == "__main__":
    main()
