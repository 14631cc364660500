"""What every benchmark shares: CPU time, a description of the machine, and the result file."""

import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def cpu_seconds(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what ``work()`` returns and the CPU seconds it took."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def row(path: str, peer: str, ours: float, theirs: float, unit: str, note: str = "") -> dict:
    """Return one line of a result: lower is better on both sides, ``ratio = theirs / ours``."""
    if not (ours > 0 and theirs > 0):
        raise ValueError(f"both sides must be positive, got {ours} and {theirs}")
    return {
        "path": path,
        "peer": peer,
        "ours": ours,
        "theirs": theirs,
        "unit": unit,
        "ratio": theirs / ours,
        "note": note,
    }


def machine(*packages: str) -> str:
    """Describe processor and versions; nothing that names the machine or its user."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [s for s in cpuinfo.read_text().splitlines() if s.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    python = platform.python_version()
    return f"{name}, {os.cpu_count()} cores, one thread; Python {python}, {versions}"


def save(name: str, rows: list[dict], *packages: str) -> dict:
    """Print the rows as a table, write ``results/<name>.json`` and return its content."""
    result = {
        "date": datetime.date.today().isoformat(),
        "script": f"benchmarks/{name}.py",
        "machine": machine(*packages),
        "rows": rows,
    }
    width = max(len(f"{r['path']} / {r['peer']}") for r in rows)
    for r in rows:
        label = f"{r['path']} / {r['peer']}"
        numbers = f"{r['ours']:10.4g} {r['theirs']:10.4g} {r['unit']:<16} x{r['ratio']:.2f}"
        print(f"{label:<{width}} {numbers}  {r['note']}")
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    return result
