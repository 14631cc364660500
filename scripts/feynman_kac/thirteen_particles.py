"""Thirteen Lennard-Jones particles, cooled from temperature 2 to 1.5 (about 5 CPU minutes).

Run by ``nox -s full -- feynman_kac``, after ``train_lennard_jones.py``. Runs that are done lie in
``build/feynman_kac/thirteen_particles`` and are not repeated.
"""

from __future__ import annotations

from _particles import cool

from paperkit.feynman_kac import cooling

if __name__ == "__main__":
    cool(
        "thirteen_particles",
        cooling.thirteen,
        cooling.thirteen_particles_run,
        seeds=5,
        seeds_of_churn=0,
        script="scripts/feynman_kac/thirteen_particles.py",
    )
