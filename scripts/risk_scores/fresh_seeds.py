"""Judge every live claim that depends on the seed under PAPERKIT_SEED = 1 .. 20 (about 6 CPU minutes).

    python scripts/risk_scores/fresh_seeds.py

Run by ``nox -s full -- risk_scores``. What the seed draws: folds, resamples, shuffled labels, labelled people, and the
people whose scores are computed again.
"""

from __future__ import annotations

from paperkit import data
from paperkit.risk_scores import experiments
from paperkit.sweeps import judged_under_seeds

SEEDS = range(1, 21)


def main() -> None:
    table = judged_under_seeds("risk_scores", experiments.stochastic_claims, seeds=SEEDS)
    data.save_stored(
        "risk_scores",
        "fresh_seeds",
        table,
        script="scripts/risk_scores/fresh_seeds.py",
        settings={"claims": sorted(table)},
        seeds=SEEDS,
    )


if __name__ == "__main__":
    main()
