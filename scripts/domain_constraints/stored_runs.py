"""Long runs of the chapter; writes notebooks/domain_constraints/results/.

    python scripts/domain_constraints/stored_runs.py [synthetic] [sizes] [heckman] [normal]
        [normal_larger] [sbc]

Without arguments all six. About ten CPU minutes.
"""

import sys
import warnings

import pandas as pd

from paperkit import data
from paperkit.domain_constraints import experiments as ex

CHAPTER = "domain_constraints"
SCRIPT = "scripts/domain_constraints/stored_runs.py"
CONSTRAINTS = ("u", "p", "e", "b")


def synthetic() -> None:
    """60 populations of 5,000 people, uniform Z, four constraint sets, and the rivals."""
    seeds = list(range(60))
    rows = [
        ex.synthetic_fit(seed=s, constraint=c, n=5000, n_nodes=12)
        for s in seeds
        for c in CONSTRAINTS
    ]
    settings = {"n": 5000, "unobservable": "uniform", "draws": 500, "n_nodes": 12}
    data.save_stored(
        CHAPTER, "synthetic", pd.DataFrame(rows), script=SCRIPT, settings=settings, seeds=seeds
    )
    rivals = pd.DataFrame([ex.synthetic_rivals(seed=s, n=5000) for s in seeds])
    data.save_stored(
        CHAPTER, "synthetic_rivals", rivals, script=SCRIPT, settings={"n": 5000}, seeds=seeds
    )


def sizes() -> None:
    """The same with 60 populations of 250 and of 1,000 people: widths, errors and coverage."""
    seeds = list(range(60))
    rows = []
    for n in (250, 1000):
        for s in seeds:
            for c in CONSTRAINTS:
                record = ex.synthetic_fit(seed=s, constraint=c, n=n)
                kept = {k: v for k, v in record.items() if not k.startswith(("mean_", "sd_"))}
                rows.append({"n": n, **kept})
    settings = {"n": [250, 1000], "unobservable": "uniform", "draws": 500}
    data.save_stored(
        CHAPTER, "sizes", pd.DataFrame(rows), script=SCRIPT, settings=settings, seeds=seeds
    )


def heckman() -> None:
    """20 Heckman populations of 500 people, four constraint sets."""
    seeds = list(range(20))
    rows = [ex.heckman_fit(seed=s, constraint=c, n=500) for s in seeds for c in CONSTRAINTS]
    data.save_stored(
        CHAPTER, "heckman", pd.DataFrame(rows), script=SCRIPT, settings={"n": 500}, seeds=seeds
    )


def normal() -> None:
    """10 populations of 1,000 people, normal Z, alpha fixed and sigma fixed."""
    seeds = list(range(10))
    settings = {"n": 1000, "unobservable": "normal", "draws": 500, "n_nodes": 64}
    rows = []
    for fixed in ("alpha", "sigma"):
        for s in seeds:
            for c in CONSTRAINTS:
                record = ex.synthetic_fit(
                    seed=s, constraint=c, fixed=fixed, with_risk=False, **settings
                )
                rows.append({"fixed": fixed, **record})
    data.save_stored(
        CHAPTER,
        "normal",
        pd.DataFrame(rows),
        script=SCRIPT,
        settings=settings,
        seeds=seeds,
    )


def normal_larger() -> None:
    """20 further populations of 2,000 people, normal Z, alpha fixed: what ten small ones left open."""
    seeds = list(range(100, 120))
    settings = {"n": 2000, "unobservable": "normal", "draws": 500, "n_nodes": 64}
    rows = [
        ex.synthetic_fit(seed=s, constraint=c, fixed="alpha", with_risk=False, **settings)
        for s in seeds
        for c in CONSTRAINTS
    ]
    data.save_stored(
        CHAPTER,
        "normal_larger",
        pd.DataFrame(rows),
        script=SCRIPT,
        settings={**settings, "fixed": "alpha"},
        seeds=seeds,
    )


def sbc() -> None:
    """Simulation-based calibration: 500 populations of 300 people, three features."""
    seeds = list(range(500))
    rows = [ex.sbc_ranks(seed=s) for s in seeds]
    data.save_stored(
        CHAPTER,
        "sbc",
        pd.DataFrame(rows),
        script=SCRIPT,
        settings={"n": 300, "m": 3, "draws": 99, "prior_scale": 1.0},
        seeds=seeds,
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    runs = (synthetic, sizes, heckman, normal, normal_larger, sbc)
    steps = {run.__name__: run for run in runs}
    for name in sys.argv[1:] or steps:
        if name not in steps:
            raise SystemExit(f"unknown run {name!r}; known: {', '.join(steps)}")
        steps[name]()
        print(f"{name}: done", flush=True)
