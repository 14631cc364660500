"""Error against the number of particles: four targets, 32 to 8,192 particles (about 1 CPU minute).

Run by ``nox -s full -- feynman_kac``.
"""

from __future__ import annotations

import pandas as pd

from paperkit import data
from paperkit.feynman_kac import experiments

TARGETS = ("guidance 2", "guidance 3", "annealing 2", "geometric 1/2")
SIZES = (32, 128, 512, 2048, 8192)
SPLIT = 2048  # populations of larger runs are computed in parts, to bound memory


def main() -> None:
    rows = []
    for target in TARGETS:
        for size in SIZES:
            parts = 1 if size < SPLIT else size // SPLIT * 2
            for part in range(parts):
                errors = experiments.tail_errors(target, size, populations=64 // parts, seed=part)
                start = part * (64 // parts)
                rows += [
                    {"target": target, "particles": size, "population": start + i, "error": e}
                    for i, e in enumerate(errors.tolist())
                ]
            print(target, size, flush=True)
    data.save_stored(
        "feynman_kac",
        "particles",
        pd.DataFrame(rows),
        script="scripts/feynman_kac/particles.py",
        settings={"steps": 150, "populations": 64},
        seeds=[0],
    )


if __name__ == "__main__":
    main()
