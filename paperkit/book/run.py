"""Execution: every stale notebook once, through nbmake, in place."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from paperkit.book.layout import BookError, Layout
from paperkit.book.stage import Staged, faults_of, read_notebook, record_seconds, stage

#: Seconds after which a cell / a notebook is taken to hang and its kernel is killed. They are no
#: budget: a slow machine must be able to finish. `BUDGET` is what a notebook should need at most;
#: more is pointed out.
CELL_TIMEOUT = {"quick": 300, "full": 6 * 3600}
NOTEBOOK_TIMEOUT = {"quick": 600, "full": 12 * 3600}
BUDGET = 180

#: Lines of the tools that say nothing about the notebooks, and terminal colours of tracebacks.
_NOISE = ("Learn more about nbmake", "bringing up nodes", "running over TCP without encryption")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

#: pytest's exit code for "no tests collected"; to the runner a failure like any other.
NOTHING_COLLECTED = 5


def environment(layout: Layout, *, parallel: bool) -> dict[str, str]:
    """Environment variables under which notebooks are executed.

    Parameters
    ----------
    layout : Layout
        The book.
    parallel : bool
        Whether two notebooks run side by side, with one thread each.

    Returns
    -------
    dict of str to str
        A complete environment for a child process.
    """
    env = dict(os.environ)
    # ipykernel draws into the notebook only if no backend is named; "agg" would leave every figure
    # out
    env.pop("MPLBACKEND", None)
    env |= {
        "PAPERKIT_BOOK": "1",
        "PAPERKIT_ROOT": str(layout.root),
        "PAPERKIT_PROFILE": layout.profile,
        "PAPERKIT_SEED": layout.seed,
        "PAPERKIT_WORKERS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        # a progress bar that asks for widgets has no place on a page; it falls back to text
        "PYTHONWARNINGS": "ignore:IProgress not found",
    }
    if parallel:
        env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # the library of this root, whatever is installed
    paths = [str(layout.root), *filter(None, [os.environ.get("PYTHONPATH")])]
    env["PYTHONPATH"] = os.pathsep.join(paths)
    return env


def order(stale: Sequence[Staged], workers: int) -> list[Staged]:
    """Slowest first, dealt out so that each worker starts with its slowest.

    xdist's ``worksteal`` gives each worker one stretch of the list. A notebook never run before
    counts as slow.

    Parameters
    ----------
    stale : sequence of Staged
        What is to be run.
    workers : int
        Number of processes.

    Returns
    -------
    list of Staged
    """
    by_time = sorted(stale, key=lambda item: item.seconds or float("inf"), reverse=True)
    return [item for first in range(workers) for item in by_time[first::workers]]


def run(
    layout: Layout,
    chapters: Sequence[str] = (),
    *,
    force: bool = False,
    workers: int = 2,
    cell_timeout: int | None = None,
    notebook_timeout: int | None = None,
    say: Callable[[str], None] = print,
) -> list[Staged]:
    """Stage the book and execute what is stale.

    Parameters
    ----------
    layout : Layout
        The book.
    chapters : sequence of str
        Only these chapters or notebooks; all if empty.
    force : bool
        Also execute what is up to date.
    workers : int
        Notebooks side by side, if more than one is stale.
    cell_timeout, notebook_timeout : int, optional
        Seconds after which a kernel is killed. Defaults: `CELL_TIMEOUT`, `NOTEBOOK_TIMEOUT`.
    say : callable
        Takes one line for the person who waits.

    Returns
    -------
    list of Staged
        The selected notebooks after the run; all are current.

    Raises
    ------
    BookError
        If a notebook fails, runs too long, or is not executed although it is stale.
    """
    chosen = {page.name for page in layout.select(chapters)}
    staged = [item for item in stage(layout) if item.page.name in chosen]
    stale = [item for item in staged if force or not item.current]
    fresh = len(staged) - len(stale)
    if not stale:
        say(f"notebooks: all {fresh} up to date, nothing to run")
        return staged
    workers = max(1, min(workers, len(stale), os.cpu_count() or 1))
    say(
        f"notebooks: {len(stale)} to run, {fresh} up to date"
        f" (profile {layout.profile}, seed {layout.seed}, {workers} at a time)"
    )
    env = environment(layout, parallel=workers > 1)
    _warm_up(layout, stale, env, say)
    if force:
        for item in stale:
            _forget(item.path)
    started = time.monotonic()
    code = _pytest(
        layout,
        order(stale, workers),
        env,
        workers,
        cell_timeout or CELL_TIMEOUT[layout.profile],
        notebook_timeout or NOTEBOOK_TIMEOUT[layout.profile],
    )
    after = {item.page.name: item for item in stage(layout) if item.page.name in chosen}
    faults = _failures(after, code)
    if faults:
        raise BookError(faults)
    say(f"notebooks: {len(stale)} run in {time.monotonic() - started:.0f} s")
    for item in sorted(after.values(), key=lambda item: -item.seconds)[:5]:
        over = f"  over the budget of {BUDGET} s" if item.seconds > BUDGET else ""
        say(f"    {item.seconds:7.1f} s  {item.page.label}{over}")
    return list(after.values())


def _failures(after: dict[str, Staged], code: int) -> list[str]:
    faults = []
    for item in after.values():
        if not item.current:
            reasons = faults_of(read_notebook(item.path))
            faults.append(f"{item.page.label} did not run to its end: {'; '.join(reasons[:3])}.")
    if code == NOTHING_COLLECTED:
        faults.append(
            "nbmake collected no notebook, although some are stale: nothing was executed."
        )
    elif code and not faults:
        faults.append(f"the run of the notebooks ended with pytest's exit code {code}.")
    return faults


def _pytest(
    layout: Layout,
    items: Sequence[Staged],
    env: dict[str, str],
    workers: int,
    cell_timeout: int,
    notebook_timeout: int,
) -> int:
    # an empty configuration of its own: the one of the unit tests has other time limits
    config = layout.staged.parent / "pytest-notebooks.ini"
    config.write_text("[pytest]\n", encoding="utf-8")
    taken = layout.staged.parent / "seconds-of-this-run.json"
    taken.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-c", str(config), "--rootdir", str(layout.staged)]
    command += ["-p", "nbmake.pytest_plugin", "-p", "pytest_timeout", "-p", "no:cacheprovider"]
    command += ["-p", "paperkit_progress", "--no-header", "--no-summary", "-q", "-q"]
    command += ["--nbmake", "--overwrite", f"--nbmake-timeout={cell_timeout}"]
    command += [f"--timeout={notebook_timeout}", "--color=no"]
    if workers > 1:
        command += ["-p", "xdist.plugin", "-n", str(workers), "--dist", "worksteal"]
    command += [str(item.path.relative_to(layout.staged)) for item in items]
    # a copy outside of the package: where the book has another root, so has its paperkit
    plugins = layout.staged.parent / "plugins"
    plugins.mkdir(exist_ok=True)
    shutil.copyfile(Path(__file__).with_name("progress.py"), plugins / "paperkit_progress.py")
    env = env | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PAPERKIT_NOTEBOOKS": str(len(items)),
        "PAPERKIT_SECONDS": str(taken),
        "PYTHONPATH": os.pathsep.join([env["PYTHONPATH"], str(plugins)]),
    }
    env.pop("PYTEST_ADDOPTS", None)
    with subprocess.Popen(
        command,
        cwd=layout.staged,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() and not any(noise in line for noise in _NOISE):
                print(_COLOUR.sub("", line), end="", flush=True)
    if taken.is_file():
        record_seconds(layout, json.loads(taken.read_text(encoding="utf-8")))
        taken.unlink()
    return process.returncode


def _warm_up(
    layout: Layout, stale: Sequence[Staged], env: dict[str, str], say: Callable[[str], None]
) -> None:
    """Make what two kernels would otherwise make twice, inside somebody's time limit."""
    code = "import matplotlib.font_manager"
    if any(item.needs_models for item in stale):
        say("notebooks: unpacking the model weights, if this is the first time")
        code += "; from paperkit import models; models.warm_cache()"
    done = subprocess.run([sys.executable, "-c", code], cwd=layout.root, env=env, check=False)
    if done.returncode:
        raise BookError("the fonts and model weights could not be prepared; the reason is above.")


def _forget(path: Path) -> None:
    """Remove outputs, so that a forced run that stops half-way does not look complete."""
    notebook = read_notebook(path)
    assert notebook is not None
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    path.write_text(json.dumps(notebook, indent=1, sort_keys=True) + "\n", encoding="utf-8")
