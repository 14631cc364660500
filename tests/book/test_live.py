"""Refusals of the live book and of the PDF; that they work is tested in the browser."""

import socket

import pytest

from paperkit.book import live, pdf
from paperkit.book.layout import BookError, Layout


@pytest.fixture
def unbuilt(tmp_path):
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/intro\n")
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "intro.md").write_text("# A book\n")
    return Layout.of(tmp_path)


def test_without_pages_there_is_nothing_to_serve_or_print(unbuilt):
    with pytest.raises(BookError, match="build it first"):
        live.server(unbuilt, port=live.free_port(), token="t")
    with pytest.raises(BookError, match=r"intro.html is missing"):
        pdf.print_book(unbuilt, unbuilt.root / "x.pdf")
    assert not (unbuilt.root / "x.pdf").exists()


def test_a_taken_port_is_refused_and_a_free_one_is_found():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        with pytest.raises(BookError, match=f"port {taken} is taken"):
            live.free_port(taken)
        assert live.free_port() != taken


def test_a_missing_browser_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BookError, match="no browser found; install one of chromium"):
        pdf.browser()
