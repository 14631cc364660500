"""Command line of the build runner: ``python -m paperkit.book COMMAND [OPTIONS]``."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from paperkit.book.layout import BookError, Layout


def _stage(layout: Layout, options: argparse.Namespace) -> None:
    from paperkit.book.stage import stage

    items = stage(layout)
    stale = [item.page.label for item in items if not item.current]
    print(f"staged {len(layout.pages)} pages, {len(items)} of them notebooks, in {layout.staged}")
    print(f"to be run: {', '.join(stale) or 'none'}")


def _run(layout: Layout, options: argparse.Namespace) -> None:
    from paperkit.book.run import run

    run(
        layout,
        options.chapters,
        force=options.force,
        workers=options.workers,
        cell_timeout=options.cell_timeout,
        notebook_timeout=options.notebook_timeout,
    )


def _ledger(layout: Layout, options: argparse.Namespace) -> None:
    from paperkit.book.ledger import ledger
    from paperkit.book.pages import fill

    ledger(layout)
    try:
        fill(layout.root, layout.staged)
    except ValueError as error:
        raise BookError(f"{error}.") from error


def _render(layout: Layout, options: argparse.Namespace) -> None:
    from paperkit.book.render import render

    render(layout)


def _links(layout: Layout, options: argparse.Namespace) -> None:
    from paperkit.book.links import check_site

    check_site(layout.html)


def _build(layout: Layout, options: argparse.Namespace) -> None:
    if options.chapters:
        raise BookError("build makes the whole book; to execute one chapter use run.")
    for step in (_run, _ledger, _render, _links):
        step(layout, options)
    print(f"\nThe book is ready. Open {layout.html / 'index.html'}")


def _check(layout: Layout, options: argparse.Namespace) -> None:
    from paperkit.book.check import check

    check(layout)


def _clean(layout: Layout, options: argparse.Namespace) -> None:
    for folder in (layout.staged, layout.html):
        shutil.rmtree(folder, ignore_errors=True)
        print(f"removed {folder}")


COMMANDS = {
    "stage": (_stage, "convert the notebooks and copy the pages to build/book"),
    "run": (_run, "stage, then execute the notebooks that are not up to date"),
    "ledger": (_ledger, "compare records with claims.yml and write the ledger page"),
    "render": (_render, "make the HTML; every warning is an error"),
    "links": (_links, "check every reference of the HTML without a network"),
    "build": (_build, "run, ledger, render and links"),
    "check": (_check, "check the sources: round trip, line length, bibliography"),
    "clean": (_clean, "delete the staged copy and the HTML"),
}

#: Commands with options of their own, each a module of this package with ``main(argv, root=...)``.
DELEGATED = {"live": "serve the book with cells that run here", "pdf": "print the book to one PDF"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m paperkit.book", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--root", type=Path, help="the repository (default: this one)")
        command.add_argument(
            "--profile", choices=["quick", "full"], help="default: PAPERKIT_PROFILE, else quick"
        )
        if name in ("run", "build"):
            command.add_argument(
                "chapters", nargs="*", metavar="CHAPTER", help="only these (run), e.g. risk_scores"
            )
            command.add_argument(
                "--force", action="store_true", help="also execute what is up to date"
            )
            command.add_argument(
                "--workers", type=int, default=2, help="notebooks side by side (default 2)"
            )
            command.add_argument("--cell-timeout", type=int, metavar="SECONDS")
            command.add_argument("--notebook-timeout", type=int, metavar="SECONDS")
    for name, text in DELEGATED.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default: those of the process.

    Returns
    -------
    int
        0, or 1 with the faults on standard error.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in DELEGATED:
            module = importlib.import_module(f"paperkit.book.{arguments[0]}")
            return int(module.main(arguments[1:], root=Layout.of().root) or 0)
        options = _parser().parse_args(arguments)
        layout = Layout.of(options.root, options.profile)
        os.environ["PAPERKIT_PROFILE"] = layout.profile
        COMMANDS[options.command][0](layout, options)
    except BookError as error:
        print(f"\nThe book was not built; {len(error.faults)} fault(s):", file=sys.stderr)
        for fault in error.faults:
            print(f"  - {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
