"""Guidance on digits with exact samples (kernel densities) and on learned denoisers (4 CPU minutes).

Run by ``nox -s full -- feynman_kac``, after ``train_digits.py``. Parts: ``kernel``, ``learned``,
``product``; all of them by default.
"""

from __future__ import annotations

import sys

import pandas as pd

from paperkit import data, profiles, sweeps
from paperkit.feynman_kac import studies

SCRIPT = "scripts/feynman_kac/guided_digits.py"
KERNEL_SEEDS, LEARNED_SEEDS, FEWER_SEEDS = range(12), range(6), range(3)


def sweep(function, cases, seeds, name):
    return sweeps.sweep(
        function,
        cases,
        seeds=seeds,
        workers=1,
        backend="sequential",
        store=profiles.project_root() / "build" / "feynman_kac" / name,
    )


def kernel() -> None:
    def cases(dimensions):
        return [{"d": d, "correct": correct} for d in dimensions for correct in (False, True)]

    table = pd.concat(
        [
            sweep(studies.guided_digits_run, cases((4, 16)), KERNEL_SEEDS, "kernel"),
            sweep(studies.guided_digits_run, cases((8, 64)), FEWER_SEEDS, "kernel"),
        ],
        ignore_index=True,
    )
    data.save_stored(
        "feynman_kac",
        "guided_kernel",
        table,
        script=SCRIPT,
        settings={
            "scale": studies.GUIDED_SCALE,
            "bandwidth": studies.BANDWIDTH,
            "particles": 256,
            "populations": 3,
            "steps": 100,
        },
        seeds=KERNEL_SEEDS,
    )
    print(table.groupby(["d", "correct"])[["membership", "shift", "variance", "ancestors"]].mean())


def learned() -> None:
    judged = [{"method": name} for name in ("guidance 2", "guidance 2, corrected from 1 on")]
    others = [{"method": name} for name in studies.IMAGE_METHODS if {"method": name} not in judged]
    table = pd.concat(
        [
            sweep(studies.guided_images_run, judged, LEARNED_SEEDS, "learned"),
            sweep(studies.guided_images_run, others, FEWER_SEEDS, "learned"),
        ],
        ignore_index=True,
    )
    order = list(studies.IMAGE_METHODS)
    table = table.sort_values("method", key=lambda c: c.map(order.index), kind="stable")
    table = table.reset_index(drop=True)
    data.save_stored(
        "feynman_kac",
        "guided_images",
        table,
        script=SCRIPT,
        settings={
            "sigmas": list(studies.IMAGE_SIGMAS),
            "steps": studies.IMAGE_STEPS,
            "seeds of methods that are not judged": len(FEWER_SEEDS),
        },
        seeds=LEARNED_SEEDS,
    )
    columns = ["Frechet distance", "accuracy", "shift", "ancestors"]
    print(table.groupby("method", sort=False)[columns].mean())


def product() -> None:
    cases = [
        {"combination": i, "conditional": conditional, "correct": correct}
        for i in range(len(studies.COMBINATIONS))
        for conditional in (False, True)
        for correct in (False, True)
    ]
    table = sweep(studies.product_run, cases, [0], "product")
    data.save_stored(
        "feynman_kac",
        "product_images",
        table,
        script=SCRIPT,
        settings={
            "combinations": [list(pair) for pair in studies.COMBINATIONS],
            "populations": 6,
            "particles": 32,
            "sigmas": list(studies.IMAGE_SIGMAS),
            "steps": studies.IMAGE_STEPS,
        },
        seeds=[0],
    )
    columns = ["class", "ink", "both", "variance", "ancestors"]
    print(table.groupby(["conditional", "correct"])[columns].mean())


if __name__ == "__main__":
    for part in sys.argv[1:] or ("kernel", "learned", "product"):
        {"kernel": kernel, "learned": learned, "product": product}[part]()
