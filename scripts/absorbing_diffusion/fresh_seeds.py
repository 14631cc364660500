"""Judge every live claim that depends on the seed under PAPERKIT_SEED = 1 .. 20.

Run by ``nox -s full -- absorbing_diffusion``; about six CPU minutes, and ten more with
``--training``, which trains the networks of the Markov language under each seed. A run that is cut
off is taken up again from ``build/absorbing_diffusion``.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from paperkit import claims, data
from paperkit.absorbing_diffusion import experiments

SEEDS = range(1, 21)
BUILD = Path(__file__).resolve().parents[2] / "build" / "absorbing_diffusion"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--training", action="store_true", help="train networks as well")
    chosen = parser.parse_args()
    ledger = claims.chapter("absorbing_diffusion")
    state = BUILD / f"fresh_seeds{'_training' * chosen.training}.json"
    BUILD.mkdir(parents=True, exist_ok=True)
    done = json.loads(state.read_text()) if state.exists() else {}
    before = os.environ.get("PAPERKIT_SEED")
    try:
        for seed in SEEDS:
            if str(seed) in done:
                continue
            os.environ["PAPERKIT_SEED"] = str(seed)
            made = experiments.stochastic_claims(training=chosen.training)
            done[str(seed)] = {
                id: [float(value), bool(ledger.judge(id, value, interval=interval).held)]
                for id, (value, interval) in made.items()
            }
            state.write_text(json.dumps(done))
            failed = [id for id, (_, held) in done[str(seed)].items() if not held]
            print(f"seed {seed}: {len(made) - len(failed)} of {len(made)} hold", failed, flush=True)
    finally:
        os.environ.pop("PAPERKIT_SEED", None)
        if before is not None:
            os.environ["PAPERKIT_SEED"] = before
    names = list(done[str(SEEDS[0])])
    data.save_stored(
        "absorbing_diffusion",
        "fresh_seeds",
        {
            "passed": {id: sum(run[id][1] for run in done.values()) for id in names},
            "values": {id: [run[id][0] for run in done.values()] for id in names},
            "runs": len(SEEDS),
        },
        script="scripts/absorbing_diffusion/fresh_seeds.py",
        settings={"claims": sorted(names), "training": chosen.training},
        seeds=SEEDS,
    )


if __name__ == "__main__":
    main()
