"""The four-particle system, cooled from temperature 2 to 1 at inference time (about 4 CPU minutes).

Run by ``nox -s full -- feynman_kac``, after ``train_double_well.py``.
"""

from __future__ import annotations

import pandas as pd

from paperkit import data, profiles, sweeps
from paperkit.feynman_kac import studies

SEEDS, FEWER_SEEDS = range(10), range(3)  # churn is shown, not judged


def main() -> None:
    parts = [
        sweeps.sweep(
            studies.well_run,
            [{"method": method} for method in studies.WELL_METHODS if ("churn" in method) == churn],
            seeds=FEWER_SEEDS if churn else SEEDS,
            workers=1,
            backend="sequential",
            store=profiles.project_root() / "build" / "feynman_kac" / "well",
        )
        for churn in (False, True)
    ]
    table = pd.concat(parts, ignore_index=True)
    data.save_stored(
        "feynman_kac",
        "four_particles",
        table,
        script="scripts/feynman_kac/four_particles.py",
        settings={
            "sigmas": list(studies.WELL_SIGMAS),
            "steps": studies.WELL_STEPS,
            "particles": studies.WELL_SIZE,
            "trained at": 2.0,
            "seeds of churn": len(FEWER_SEEDS),
        },
        seeds=SEEDS,
    )
    columns = ["distances", "energies", "mean energy", "ancestors"]
    print(table.groupby("method", sort=False)[columns].mean())


if __name__ == "__main__":
    main()
