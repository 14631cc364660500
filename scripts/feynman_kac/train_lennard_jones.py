"""Train the denoiser of thirteen Lennard-Jones particles at temperature 2, and store reference chains.

Run by ``nox -s full -- feynman_kac`` (about 10 CPU minutes). Writes two files of
``paperkit/data/feynman_kac``. An interrupted run goes on from its files in ``build/feynman_kac``.
"""

from __future__ import annotations

import sys

from _particles import Chains, Fit, fit, references

from paperkit.feynman_kac.particles import lennard_jones

SCRIPT = "scripts/feynman_kac/train_lennard_jones.py"
CHAINS = Chains(chains=1000, kept=20, options={"n_burn": 10_000, "spacing": 500, "start": 4.0})
TRAINING = Chains(chains=500, kept=20, options={"n_burn": 6_000, "spacing": 300, "start": 4.0})
FIT = Fit(
    steps=6_000,
    batch=128,
    learning_rate=2e-3,
    log_sigma=(-1.0, 1.5),
    network={"width": 32, "layers": 2, "bumps": 31, "logarithmic": True, "core": 0.8},
    forces=True,
    sigmas=(0.005, 15.0),
)


if __name__ == "__main__":
    parts = sys.argv[1:] or ["references", "fit"]
    if "references" in parts:
        references(lennard_jones, CHAINS, stored=5000, seed=201, script=SCRIPT)
    if "fit" in parts:
        fit(lennard_jones, TRAINING, FIT, SCRIPT)
