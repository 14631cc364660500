"""The compact program against the definition in cvxpy: same optimum, CPU time of assembly and solution.

Prints the ratios, writes ``benchmarks/results/information_acquisition.json`` for the performance page
and the stored result behind claim c2d. Times are CPU seconds of one process, the best of a few repetitions.
"""

from __future__ import annotations

import datetime
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from paperkit import data
from paperkit.information_acquisition import definition, experiments, program

RESULT = Path(__file__).with_name("results") / "information_acquisition.json"
SCRIPT = "benchmarks/information_acquisition.py"


def cpu(function: Callable[[], Any], repetitions: int) -> tuple[float, Any]:
    best, outcome = np.inf, None
    for _ in range(repetitions):
        start = time.process_time()
        outcome = function()
        best = min(best, time.process_time() - start)
    return best, outcome


def main() -> None:
    rows, growth = [], []
    warm = experiments.random_shared_instance(np.random.default_rng(0), 2, 2, 2)
    definition.solve_definition(warm), program.optimal_mechanism(warm)
    for signals in (2, 3, 4):
        problem = experiments.random_shared_instance(np.random.default_rng(signals), 2, 2, signals)
        ours, made = cpu(lambda p=problem: program.optimal_mechanism(p), 5)
        few = 3 if signals < 4 else 1
        theirs, peer = cpu(lambda p=problem: definition.solve_definition(p), few)
        if abs(made.value - peer.value) > 1e-7:
            raise SystemExit(f"optima differ: {made.value} and {peer.value}")
        rows.append(
            {
                "path": f"optimal mechanism, 2 experts, 2 efforts, {signals} signals",
                "peer": "every misreport as a constraint, cvxpy with HiGHS",
                "ours": 1000 * ours,
                "theirs": 1000 * theirs,
                "unit": "ms CPU",
                "ratio": theirs / ours,
                "note": f"optima agree to {abs(made.value - peer.value):.0e}",
            }
        )
        print(
            f"{signals} signals: {1000 * ours:.1f} ms, peer {1000 * theirs:.0f} ms, {theirs / ours:.1f} x"
        )
    for n, k, m in [
        (2, 2, 2),
        (3, 2, 2),
        (4, 2, 2),
        (5, 2, 2),
        (6, 2, 2),
        (2, 3, 2),
        (2, 4, 2),
        (2, 2, 4),
        (2, 2, 8),
    ]:
        problem = experiments.random_shared_instance(np.random.default_rng(0), n, k, m)
        assembly, lp = cpu(lambda p=problem: program.build_lp(p, presolve=False), 1)
        solve, made = cpu(lambda p=problem: program.optimal_mechanism(p), 1)
        growth.append(
            {
                "experts": n,
                "efforts": k,
                "signals": m,
                "input": problem.kernel.size,
                "nonzeros": lp.nnz,
                "predicted": program.predicted_nonzeros(n, k, m, 2),
                "assembly": assembly,
                "assembly and solution": solve,
            }
        )
        print(growth[-1])
    result = {
        "date": datetime.date.today().isoformat(),
        "script": SCRIPT,
        "machine": f"{platform.machine()}, Python {platform.python_version()}, one thread",
        "rows": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    data.save_stored(
        "information_acquisition",
        "benchmark",
        {"rows": rows, "growth": growth},
        script=SCRIPT,
        settings={"repetitions": 5},
        seeds=[0, 2, 3, 4],
    )


if __name__ == "__main__":
    main()
