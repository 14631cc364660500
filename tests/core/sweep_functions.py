"""Functions for the tests of sweeps: workers must be able to import them."""

import os
import time
from pathlib import Path

import numpy as np


def noisy(n, scale=1.0, *, seed):
    """A record of every kind of value."""
    draws = np.random.default_rng(seed).normal(scale=scale, size=n)
    return {
        "mean": draws.mean(),
        "single": np.float32(draws.std()),
        "count": np.int64(n),
        "all": draws[:2],
        "text": f"n={n}",
        "none": None,
        "positive": bool(draws.mean() > 0),
    }


def several(n, *, seed):
    """n records, each with an entry of its own."""
    return [{"i": i, f"only_{i}": seed} for i in range(n)]


def product(a, *, seed):
    """A sum whose last bits depend on how many threads add it up."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(300, 300))
    return {"trace": float(np.trace(x @ x @ x)), "a": a}


def slow_first(i, *, seed):
    """Later cases end first."""
    time.sleep(0.2 if i == 0 else 0)
    return {"square": i * i}


def counting(folder, i, *, fail=-1, seed):
    """Leave a mark for each call, and fail for one case."""
    with (Path(folder) / f"call-{i}-{seed}").open("a") as stream:
        stream.write(".")
    if i == fail:
        raise ZeroDivisionError(f"case {i} is hard")
    return {"x": i + 0.5 * seed}


def threads(*, seed):
    """Threads that the libraries of this process may use."""
    from threadpoolctl import threadpool_info

    return {"threads": max(each["num_threads"] for each in threadpool_info()), "pid": os.getpid()}


def give(value, *, seed):
    """Return the argument."""
    return value


def table_of(kind, *, seed):
    """Records that do not fit a table."""
    return [{"x": 1}, {"x": "a"}] if kind == "mixed" else {"x": object()}
