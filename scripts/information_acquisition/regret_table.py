"""Regret of four learners over horizons and seeds, as shown in the chapter (about 2 CPU minutes).

Run by ``nox -s full -- information_acquisition``. ``PAPERKIT_BACKEND=dask:<address>`` spreads the same cells over a
cluster, ``PAPERKIT_PROFILE=full`` takes 200 seeds and horizons to 10^12.
"""

from __future__ import annotations

import numpy as np

from paperkit import data, profiles, sweeps
from paperkit.information_acquisition import experiments

METHODS = (
    {"method": "interval", "z": 2.0},
    {"method": "interval", "z": 0.0},  # the union bound's multiplier
    {"method": "mix", "z": 2.0},
    {"method": "plugin", "z": 2.0},
)


def main() -> None:
    seeds = list(range(profiles.pick(quick=100, full=200)))
    horizons = 10 ** np.arange(5.5, profiles.pick(quick=10.1, full=12.1), 0.5)
    cases = [{"horizon": float(T), **m} for m in METHODS for T in horizons]
    table = sweeps.sweep(experiments.regret_cell, cases, seeds=seeds, description="regret")
    kept = ["horizon", "method", "z", "seed", "regret", "incentive_compatible", "realised"]
    data.save_stored(
        "information_acquisition",
        "regret_table",
        table[kept],
        script="scripts/information_acquisition/regret_table.py",
        settings={
            "instance": experiments.LEARN,
            "exponent": 2 / 3,
            "methods": [dict(m) for m in METHODS],
            "horizons": horizons.tolist(),
        },
        seeds=seeds,
    )


if __name__ == "__main__":
    main()
