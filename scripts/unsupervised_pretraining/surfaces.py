"""Simulate the excess-risk surfaces of the first notebook's slider.

    python scripts/unsupervised_pretraining/surfaces.py

24 tasks (r = 1, 2, 4, 8 and six signal strengths, d = 40) on a grid of (m, n), 30 draws a cell; under
a minute on one core. Writes results/surfaces.
"""

import numpy as np

from paperkit import data
from paperkit.unsupervised_pretraining import figures

SCRIPT = "scripts/unsupervised_pretraining/surfaces.py"


def main() -> None:
    m_values = [int(m) for m in np.geomspace(30, 100_000, 9).round()]
    n_values = [int(n) for n in np.geomspace(20, 2000, 9).round()]
    table = figures.surface_table(m_values, n_values, 30, seed=0)
    settings = {"m_values": m_values, "n_values": n_values, "n_draws": 30}
    data.save_stored(
        "unsupervised_pretraining", "surfaces", table, script=SCRIPT, settings=settings, seeds=[0]
    )
    print(table.describe())


if __name__ == "__main__":
    main()
