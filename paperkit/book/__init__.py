"""The build runner of the book: stage, execute once, check the ledger, render, check links.

Run it as ``python -m paperkit.book COMMAND``. No chapter and no notebook imports this package.

``stage``
    Converts the text notebooks that ``_toc.yml`` lists to ``build/book``, keeping outputs that
    still hold.
``run``
    Executes the stale ones through nbmake, in place: the outputs that readers see are the ones that
    were tested.
``ledger``
    Compares what the notebooks recorded with what ``claims.yml`` declares, and writes the ledger
    page.
``render``, ``links``
    Make the HTML with warnings as errors, and check every reference in it without a network.
"""

from paperkit.book.layout import BookError, Layout, Page

__all__ = ["BookError", "Layout", "Page"]
