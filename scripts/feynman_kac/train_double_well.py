"""Train the denoiser of the four-particle system at temperature 2, and store reference configurations.

Run by ``nox -s full -- feynman_kac`` (about 8 CPU minutes). Writes two files of
``paperkit/data/feynman_kac``. An interrupted run goes on from its file in ``build/feynman_kac``.
"""

from __future__ import annotations

import sys

from _particles import Chains, Fit, fit, references

from paperkit.feynman_kac.particles import double_well

SCRIPT = "scripts/feynman_kac/train_double_well.py"
CHAINS = Chains(chains=2000, kept=25, options={})
FIT = Fit(steps=28_000, batch=256, learning_rate=2e-3, log_sigma=(-1.0, 1.3), network={"width": 64})


if __name__ == "__main__":
    parts = sys.argv[1:] or ["references", "fit"]
    if "references" in parts:
        references(double_well, CHAINS, stored=5000, seed=101, script=SCRIPT)
    if "fit" in parts:
        fit(double_well, CHAINS, FIT, SCRIPT)
