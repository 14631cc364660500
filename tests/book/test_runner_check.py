"""Checks of the sources: each house rule is broken once."""

import shutil
from pathlib import Path

import pytest

from paperkit.book.check import check
from paperkit.book.layout import BookError, Layout

ROOT = Path(__file__).parents[2]
FIGURE = """---
mystnb:
  figure:
    name: {name}
    caption: What to see.
  image:
    alt: {alt}
---
1"""


@pytest.fixture
def clean(book):
    shutil.copy(ROOT / "jupytext.toml", book.root)
    book.write("book/references.bib", "@book{one2020word, title={T}, author={A}, year={2020}}\n")
    for name in ("apples/01_count", "pears/01_weigh"):
        book.notebook(name, "1 + 1", prose="See {cite:t}`one2020word`.")
    check(Layout.of(book.root))
    return book


def faults(book):
    with pytest.raises(BookError) as error:
        check(Layout.of(book.root))
    return "\n".join(error.value.faults)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("x = '" + "a" * 80 + "'", "79 characters fit in a line"),
        ("%pip install numpy", "installs a package"),
        # a notebook that skips a cell is refused: this cell is never run
        (":tags: [skip-execution]\n\n1", "is skipped"),
        (FIGURE.format(name="fig-pears-x", alt="Text."), "must begin with fig-apples-"),
        (FIGURE.format(name="fig-apples-x", alt="''"), "cannot see it"),
        ("import os", "F401"),
        ("x = undefined_name", "F821"),
    ],
)
def test_a_rule_of_notebook_code(clean, cell, words):
    clean.notebook("apples/01_count", cell)
    assert words in faults(clean)


def test_a_good_figure_passes(clean):
    clean.notebook("apples/01_count", FIGURE.format(name="fig-apples-x", alt="Text."))
    check(Layout.of(clean.root))


def test_a_header_that_jupytext_would_write_otherwise(clean):
    myst = "format_name: myst"
    saved = f"{myst}\n    jupytext_version: 1.19.6"
    clean.edit("notebooks/apples/01_count.md", myst, saved)
    assert "apples/01_count.md, line 6: jupytext would write" in faults(clean)


def test_citations_and_the_bibliography(clean):
    clean.edit("book/intro.md", "# Fruit", "# Fruit\n\n{cite}`one2020word, two2021word`")
    assert "book/intro.md cites two2021word" in faults(clean)
    clean.write("book/references.bib", "@book{one2020word, title={T}}\n@book{one2020word, a={b}}\n")
    assert "references.bib" in faults(clean)


def test_spelling(clean):
    clean.edit("book/intro.md", "# Fruit", "# Fruit\n\nThey recieve it.")
    assert "recieve ==> receive" in faults(clean)


def test_every_column_of_a_table_has_a_name(clean):
    table = "| fruit | count |\n| :-- | --: |\n| pear | 3 |\n|  | 4 |"
    clean.edit("book/intro.md", "# Fruit", f"# Fruit\n\n{table}")
    check(Layout.of(clean.root))
    clean.edit("book/intro.md", "| fruit |", "|  |")
    assert "book/intro.md, line 3: a column has no name" in faults(clean)
