"""Score the tasks of chapter risk_scores with SmolLM2-135M-Instruct, in every way of asking.

    python scripts/risk_scores/score_smollm2.py            # everything, about 45 CPU minutes
    python scripts/risk_scores/score_smollm2.py income-chat     # one job of several processes

Writes ``notebooks/risk_scores/results/smollm2_scores.parquet``: one row per (task, row of the task), what
each way of asking returned, and a digest of the very prompts. Rows are scored in contiguous slices of the
sorted prompts (neighbours share their beginnings); finished slices lie in ``build/risk_scores`` and are not
repeated, so the script may be interrupted or run in several processes.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from paperkit import data
from paperkit.risk_scores import LMRiskScorer, TaskData, load_task
from paperkit.risk_scores.scoring import score_together

PARTS = Path(__file__).resolve().parents[2] / "build" / "risk_scores"
MODEL = "smollm2-135m"
SLICE = 128  # rows of one slice
SHOT_ROWS = 256
WAYS = {
    "choice": {},
    "numeric": {"scheme": "numeric", "decode": "expected"},
    "completion": {"scheme": "completion"},
}
# asking -> what changes in every way
ASKINGS = {"raw": {}, "chat": {"chat": True}, "shots": {"n_shots": 4}}
# (task, asking) -> ways and number of rows, None for all. Subsets are drawn once, with seed 0.
JOBS = {
    ("employment", "raw"): (("choice", "numeric", "completion"), None),
    ("income", "raw"): (("choice", "numeric", "completion"), None),
    ("employment", "chat"): (("choice", "numeric"), 256),
    ("income", "chat"): (("choice", "numeric"), 256),
    ("travel_time", "raw"): (("choice", "completion"), 256),
    ("birth_half", "raw"): (("choice", "completion"), 256),
    ("employment", "shots"): (("choice",), 256),
}


def scorers(task: TaskData, asking: str, ways: tuple[str, ...]) -> dict[str, LMRiskScorer]:
    """One estimator per way of asking; the examples of the few-shot way come from rows outside the subset."""
    built = {}
    for way in ways:
        scorer = LMRiskScorer(task.task, MODEL, **WAYS[way], **ASKINGS[asking])
        if scorer.n_shots:
            rest = task.take(np.setdiff1d(np.arange(len(task.y)), subset(task, SHOT_ROWS)))
            scorer.fit(rest.X, rest.y)
        built[way] = scorer
    return built


def subset(task: TaskData, n: int | None) -> np.ndarray:
    """Positions of the rows that are scored."""
    everyone = np.arange(len(task.y))
    if n is None:
        return everyone
    return np.sort(np.random.default_rng(0).choice(everyone, size=n, replace=False))


def digest(*prompts: str) -> str:
    """Digest of the strings that a row's scores were computed from."""
    return hashlib.sha256("\0".join(prompts).encode()).hexdigest()[:16]


def run(name: str, asking: str) -> pd.DataFrame:
    """Score one job, slice by slice."""
    ways, n = JOBS[name, asking]
    task = load_task(name)
    built = scorers(task, asking, ways)
    rows = subset(task, n)
    first = next(iter(built.values())).prompts(task.X.iloc[rows])
    rows = rows[np.argsort(first, kind="stable")]
    pieces = []
    for start in range(0, len(rows), SLICE):
        part = PARTS / f"{name}-{asking}-{start:05d}.parquet"
        if not part.exists():
            piece = rows[start : start + SLICE]
            X = task.X.iloc[piece]
            columns = {"task": name, "asking": asking, "row": piece}
            for way, details in score_together(built, X).items():
                orders = [(0, 1), (1, 0)] if way == "choice" else [(0, 1)]
                texts = zip(*(built[way].prompts(X, order) for order in orders), strict=True)
                for column in details:
                    columns[f"{way}_{column}"] = details[column].to_numpy()
                columns[f"{way}_digest"] = [digest(*strings) for strings in texts]
            PARTS.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(columns).to_parquet(part.with_suffix(".tmp"))
            part.with_suffix(".tmp").replace(part)
            print(
                f"{name}, {asking}: {min(start + SLICE, len(rows))} of {len(rows)} rows", flush=True
            )
        pieces.append(pd.read_parquet(part))
    return pd.concat(pieces, ignore_index=True)


def main() -> None:
    chosen = [job.split("-") for job in sys.argv[1:]]
    table = pd.concat([run(*job) for job in chosen or JOBS], ignore_index=True)
    if chosen:
        print("these slices are there; run without arguments to write the table")
        return
    data.save_stored(
        "risk_scores",
        "smollm2_scores",
        table.sort_values(["task", "asking", "row"]).reset_index(drop=True),
        script="scripts/risk_scores/score_smollm2.py",
        settings={"model": MODEL, "rows": {"-".join(job): n for job, (_, n) in JOBS.items()}},
        seeds=[0],
    )


if __name__ == "__main__":
    main()
