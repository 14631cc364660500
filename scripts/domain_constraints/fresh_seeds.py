"""Judge every live claim that depends on the seed under PAPERKIT_SEED = 1 .. 20 (15 CPU minutes).

    python scripts/domain_constraints/fresh_seeds.py [--minutes M]

Measurements are kept one by one under _build/ and not repeated, so the run may be stopped at any
time, or told to stop after M minutes, and started again. It stores how many of the seeds that are
complete each claim passes.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings

from paperkit import claims, data, profiles
from paperkit.domain_constraints import experiments
from paperkit.sweeps import sweep

CHAPTER = "domain_constraints"
SEEDS = range(1, 21)


def measure(*, group: str, seed: int) -> list[dict]:
    """One group of rows under one PAPERKIT_SEED."""
    before = os.environ.get("PAPERKIT_SEED")
    os.environ["PAPERKIT_SEED"] = str(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = experiments.SEEDED_ROWS[group]()
    finally:
        os.environ.pop("PAPERKIT_SEED")
        if before is not None:
            os.environ["PAPERKIT_SEED"] = before
    return [
        {"claim": claim, "value": i.estimate, "low": i.low, "high": i.high, "level": i.level}
        for claim, i in rows.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    end = time.monotonic() + 60 * parser.parse_args().minutes
    ledger = claims.chapter(CHAPTER)
    folder = profiles.project_root() / "_build" / "fresh_seeds" / CHAPTER
    passed: dict[str, int] = {}
    values: dict[str, list[float]] = {}
    done: list[int] = []
    for seed in SEEDS:
        rows: list = []
        for group in experiments.SEEDED_ROWS:
            if time.monotonic() > end:
                break
            table = sweep(measure, [{"group": group}], seeds=[seed], workers=1, store=folder)
            rows += table.itertuples()
        else:
            done.append(seed)
            for row in rows:
                interval = claims.Interval(row.value, row.low, row.high, row.level, 1, "stored")
                verdict = ledger.judge(row.claim, row.value, interval=interval)
                if verdict.held is None:  # reported, not judged
                    continue
                passed[row.claim] = passed.get(row.claim, 0) + verdict.held
                values.setdefault(row.claim, []).append(row.value)
            failed = {c: n for c, n in passed.items() if n < len(done)}
            print(f"seed {seed}: {len(passed)} claims, passed less often: {failed}", flush=True)
            continue
        print(f"stopped after {len(done)} seeds; run again to go on", flush=True)
        break
    if not done:
        return
    data.save_stored(
        CHAPTER,
        "fresh_seeds",
        {"passed": passed, "values": values, "runs": len(done)},
        script="scripts/domain_constraints/fresh_seeds.py",
        settings={"claims": sorted(passed)},
        seeds=done,
    )


if __name__ == "__main__":
    main()
