"""The four-particle system, cooled from temperature 2 to 1 at inference time (about 4 CPU minutes).

Run by ``nox -s full -- feynman_kac``, after ``train_double_well.py``. Runs that are done lie in
``build/feynman_kac/four_particles`` and are not repeated.
"""

from __future__ import annotations

from _particles import cool

from paperkit.feynman_kac import cooling

if __name__ == "__main__":
    cool(
        "four_particles",
        cooling.four,
        cooling.four_particles_run,
        seeds=10,
        seeds_of_churn=3,
        script="scripts/feynman_kac/four_particles.py",
    )
