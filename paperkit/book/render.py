"""Rendering: the executed copy to HTML, with every warning an error."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time

from paperkit.book.layout import BookError, Layout
from paperkit.book.stage import faults_of, read_notebook

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FAULT = re.compile(r"\b(WARNING|ERROR|CRITICAL|Traceback|Exception)\b")


def render(layout: Layout) -> None:
    """Write the HTML of the staged copy.

    Parameters
    ----------
    layout : Layout
        The book, staged and executed.

    Raises
    ------
    BookError
        If a notebook is not executed, or Sphinx warns about anything.
    """
    faults = [
        f"{page.label} cannot be rendered: {reason}."
        for page in layout.notebooks
        for reason in faults_of(read_notebook(layout.staged_path(page)))[:1]
    ]
    if faults:
        raise BookError(faults)
    started = time.monotonic()
    print(f"book: rendering {len(layout.pages)} pages ...", flush=True)
    # pages of sources that are gone must not stay
    shutil.rmtree(layout.html, ignore_errors=True)
    layout.output.mkdir(parents=True, exist_ok=True)
    # always all pages: an incremental build shows the warnings of changed pages only
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
    command += [str(layout.staged), "--path-output", str(layout.output)]
    command += ["--all", "-n", "-W", "--keep-going"]
    done = subprocess.run(
        command,
        cwd=layout.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    log = _COLOUR.sub("", done.stdout)
    (layout.staged.parent / "sphinx.log").write_text(log, encoding="utf-8")
    if done.returncode or not (layout.html / "index.html").is_file():
        # a fault and what follows it, else the end of the log
        lines = log.splitlines()
        shown = [line for line in lines if _FAULT.search(line)][:40] or lines[-30:]
        raise BookError([line.replace(str(layout.staged) + "/", "") for line in shown])
    ledger = layout.staged / "ledger.json"
    if ledger.is_file():
        shutil.copyfile(ledger, layout.html / "ledger.json")
    print(f"book: {len(layout.pages)} pages in {time.monotonic() - started:.0f} s, no warning")
