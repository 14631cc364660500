"""The built book as one PDF: every page printed by Chromium, in the order of the book, and merged.

LaTeX is not needed, and the pages look as they do on screen, with folded solutions opened.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from paperkit.book.layout import BookError, Layout

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def browser() -> str:
    """Path of the system's Chromium or Chrome.

    Raises
    ------
    BookError
        If there is none.
    """
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    raise BookError(f"no browser found; install one of {', '.join(BROWSERS)}.")


def print_book(layout: Layout, target: Path) -> Path:
    """Print the built pages into one PDF with bookmarks.

    Parameters
    ----------
    layout : Layout
        The book, built.
    target : Path
        The file to write.

    Returns
    -------
    Path
        `target`.

    Raises
    ------
    BookError
        If a page is not built, or no browser is found.
    """
    from playwright.sync_api import sync_playwright
    from pypdf import PdfReader, PdfWriter

    files = [layout.html / f"{page.name}.html" for page in layout.pages]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise BookError([f"{file} is missing; run python3 noxfile.py -s book" for file in missing])
    parts = target.parent / "pdf"
    parts.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser(), args=list(FLAGS))
        tab = chromium.new_page(color_scheme="light")
        titles = []
        for number, file in enumerate(files):
            print(f"[{number + 1}/{len(files)}] {file.relative_to(layout.html)}", flush=True)
            tab.goto(file.as_uri(), wait_until="load")
            tab.evaluate(
                """async () => {
                    document.querySelectorAll("details").forEach((d) => (d.open = true));
                    document.querySelectorAll(".toggle-button-hidden").forEach((b) => b.click());
                    if (window.MathJax?.startup) await window.MathJax.startup.promise;
                    await document.fonts.ready;
                }"""
            )
            titles.append(tab.title().split(" — ")[0])
            tab.pdf(
                path=parts / f"{number:03d}.pdf",
                format="A4",
                print_background=True,
                outline=True,
                tagged=True,
                margin={"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"},
            )
        chromium.close()
    writer = PdfWriter()
    for number, title in enumerate(titles):
        writer.append(PdfReader(parts / f"{number:03d}.pdf"), outline_item=title)
    unfinished = target.with_suffix(".part")
    writer.write(unfinished)
    writer.close()
    unfinished.replace(target)
    shutil.rmtree(parts)
    return target


def main(argv: Sequence[str] | None = None, *, root: Path | None = None) -> int:
    """Print the book.

    Parameters
    ----------
    argv : sequence of str, optional
        The file to write; default: the arguments of the process.
    root : Path, optional
        The repository; default: the one that this package lies in.

    Returns
    -------
    int
        0.
    """
    layout = Layout.of(root)
    parser = argparse.ArgumentParser(prog="pdf", description=__doc__)
    parser.add_argument(
        "target",
        nargs="?",
        type=Path,
        default=layout.html.parent / "nine_papers_that_run.pdf",
        help="default: _build/nine_papers_that_run.pdf",
    )
    options = parser.parse_args(argv)
    target = print_book(layout, options.target)
    print(f"The book as one file: {target} ({target.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
