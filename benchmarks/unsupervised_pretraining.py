"""Many small factor-model fits: one batch against a loop over scikit-learn, at equal estimates.

    python benchmarks/unsupervised_pretraining.py

Both sides get the same centred data sets (m = 200 unlabelled rows, n = 40 labelled, d = 10, r = 2) and
return the weights of the two-phase predictor. Prints CPU-time ratios and stores them (here and in the
chapter's results). A second ratio compares drawing second moments with drawing rows.
"""

import datetime
import json
import platform
import time
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from paperkit import data
from paperkit.unsupervised_pretraining import (
    regress_on_subspace,
    representation_excess,
)
from paperkit.unsupervised_pretraining.experiments import base_task
from paperkit.unsupervised_pretraining.factor import pretraining_draws

SCRIPT = "benchmarks/unsupervised_pretraining.py"
RESULT = Path(__file__).parent / "results" / "unsupervised_pretraining.json"
FITS, M, N, D, R = 2000, 200, 40, 10, 2


def batch(unlabelled: np.ndarray, labelled: np.ndarray, y: np.ndarray) -> np.ndarray:
    moments = np.swapaxes(unlabelled, 1, 2) @ unlabelled / M
    subspaces = np.linalg.eigh(moments)[1][..., ::-1][..., :R]
    inner = np.swapaxes(labelled, 1, 2) @ labelled / N
    return regress_on_subspace(subspaces, inner, (labelled * y[..., None]).mean(axis=1))


def loop(unlabelled: np.ndarray, labelled: np.ndarray, y: np.ndarray) -> np.ndarray:
    weights = []
    for rows, some, targets in zip(unlabelled, labelled, y, strict=True):
        components = PCA(R, svd_solver="covariance_eigh").fit(rows).components_
        head = LinearRegression(fit_intercept=False).fit(some @ components.T, targets)
        weights.append(head.coef_ @ components)
    return np.array(weights)


def seconds(function, *arguments, repeats: int) -> tuple[float, np.ndarray]:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = function(*arguments)
        times.append(time.process_time() - start)
    return float(np.median(times)), result


def from_rows(task, m: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    root = np.linalg.cholesky(task.covariance)
    kept = [
        PCA(task.n_factors, svd_solver="covariance_eigh")
        .fit(rng.standard_normal((m, task.dimension)) @ root.T)
        .components_.T
        for _ in range(draws)
    ]
    return representation_excess(task, np.array(kept))


def from_moments(task, m: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    return representation_excess(task, pretraining_draws(task, m, draws, rng))


def main() -> None:
    rng = np.random.default_rng(0)
    scale = np.sqrt(np.r_[5.0, 3.0, np.ones(D - R)])
    unlabelled = rng.standard_normal((FITS, M, D)) * scale
    unlabelled -= unlabelled.mean(axis=1, keepdims=True)
    labelled = rng.standard_normal((FITS, N, D)) * scale
    y = labelled[..., 0] + 0.5 * rng.standard_normal((FITS, N))
    fast, own = seconds(batch, unlabelled, labelled, y, repeats=5)
    slow, peer = seconds(loop, unlabelled, labelled, y, repeats=3)
    difference = float(np.abs(own - peer).max())
    if difference > 1e-6:
        raise AssertionError(f"estimates differ by {difference:.1e}")
    task, draws = base_task(), 20
    moments, _ = seconds(from_moments, task, 20_000, draws, rng, repeats=5)
    rows, _ = seconds(from_rows, task, 20_000, draws, rng, repeats=3)
    result = {
        "date": datetime.date.today().isoformat(),
        "script": SCRIPT,
        "machine": f"{platform.machine()}, one thread, numpy {np.__version__}",
        "rows": [
            {
                "path": f"{FITS} two-phase fits in one batch (m = {M}, n = {N}, d = {D}, r = {R})",
                "peer": "a loop over scikit-learn's PCA and LinearRegression",
                "ours": fast,
                "theirs": slow,
                "unit": "CPU s",
                "ratio": slow / fast,
                "note": f"largest difference of the weights {difference:.0e}",
            },
            {
                "path": f"{draws} pretraining fits on 20,000 rows (d = 40), sampling included",
                "peer": "drawing the rows, then scikit-learn's PCA",
                "ours": moments,
                "theirs": rows,
                "unit": "CPU s",
                "ratio": rows / moments,
                "note": "second moments are drawn from their own law",
            },
        ],
    }
    for row in result["rows"]:
        print(f"{row['path']}: {row['ratio']:.1f} times faster than {row['peer']}")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    data.save_stored(
        "unsupervised_pretraining",
        "benchmark",
        {"batch_ratio": slow / fast, "largest_difference": difference, "fits": FITS},
        script=SCRIPT,
        settings={"fits": FITS, "m": M, "n": N, "d": D, "r": R, "threads": 1},
        seeds=[0],
    )


if __name__ == "__main__":
    main()
