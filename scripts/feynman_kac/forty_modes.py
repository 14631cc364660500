"""The paper's annealing table at our scale: forty modes, eleven samplers, ten seeds (about 2 CPU minutes).

Run by ``nox -s full -- feynman_kac``.
"""

from __future__ import annotations

from paperkit import data, profiles, sweeps
from paperkit.feynman_kac import studies

SEEDS = range(10)


def main() -> None:
    table = sweeps.sweep(
        studies.forty_run,
        [{"method": method} for method in studies.FORTY_METHODS],
        seeds=SEEDS,
        workers=1,
        backend="sequential",
        store=profiles.project_root() / "build" / "feynman_kac" / "forty",
    )
    data.save_stored(
        "feynman_kac",
        "forty_modes",
        table,
        script="scripts/feynman_kac/forty_modes.py",
        settings={
            "exponent": studies.FORTY_BETA,
            "sigmas": list(studies.FORTY_SIGMAS),
            "steps": 300,
            "particles": 3000,
            "bins": studies.FORTY_BINS,
        },
        seeds=SEEDS,
    )
    print(table.groupby("method", sort=False)["total variation"].agg(["mean", "std"]))


if __name__ == "__main__":
    main()
