"""The link checker: broken references, foreign loads and budgets, each by one page."""

import pytest

from paperkit.book import links
from paperkit.book.layout import BookError

GOOD = """<html><head><link rel="stylesheet" href="_static/a.css">
<link rel="canonical" href="https://example.org/x"></head>
<body><h1 id="top-of-page">T</h1><a href="sub/b.html#here">b</a> <a href="#top-of-page">up</a>
<a href="https://example.org/paper">paper</a> <a href="mailto:a@b.c">m</a> <a href="#">none</a>
<img src="data:image/png;base64,AA" alt=""><a href="sub/">folder</a>
<a href="with%20space.txt">s</a></body></html>"""


@pytest.fixture
def site(tmp_path):
    root = tmp_path / "html"
    (root / "sub").mkdir(parents=True)
    (root / "_static").mkdir()
    (root / "index.html").write_text(GOOD)
    (root / "with space.txt").write_text("")
    (root / "sub" / "b.html").write_text('<p id="here"><a href="../index.html?x=1">i</a></p>')
    (root / "sub" / "index.html").write_text("<a name='old'></a><a href='#old'>o</a>")
    (root / "_static" / "a.css").write_text("p { background: url('a.png') }")
    (root / "_static" / "template.html").write_text('<a href="{{ nowhere }}">x</a>')
    return root


def test_a_sound_site_passes_and_foreign_links_are_listed_not_loaded(site):
    found = links.check_site(site)
    assert found["pages"] == 3
    assert found["external"] == 2
    listed = (site.parent / "external-links.txt").read_text()
    assert "https://example.org/paper" in listed


@pytest.mark.parametrize(
    ("html", "words"),
    [
        ('<a href="gone.html">x</a>', "gone.html, which does not exist"),
        ('<a href="sub/b.html#gone">x</a>', "no place of that name"),
        ('<a href="#gone">x</a>', "no place of that name"),
        ('<a href="../outside.html">x</a>', "does not exist"),
        ('<a href="/index.html">x</a>', "from the root of a server"),
        ('<a href="file:///etc/hosts">x</a>', "on one machine only"),
        ('<img src="gone.png">', "gone.png, which does not exist"),
        ('<img srcset="gone.png 2x">', "gone.png, which does not exist"),
        ('<script src="https://cdn.example.org/a.js"></script>', "from outside"),
        ('<script src="//cdn.example.org/a.js"></script>', "from outside"),
        ('<link rel="preload stylesheet" href="https://x.example/a.css">', "from outside"),
        ('<iframe src="https://x.example"></iframe>', "from outside"),
        ('<p style="background: url(https://x.example/a.png)">', "from outside"),
        ("<style>@import 'https://x.example/a.css';</style>", "from outside"),
        ('<meta http-equiv="refresh" content="0; url=gone.html">', "does not exist"),
        ("<p>" + "x" * links.PAGE_BUDGET + "</p>", "1,500,000 are allowed"),
    ],
)
def test_each_fault_is_found(site, html, words):
    (site / "page.html").write_text(f"<html><body>{html}</body></html>")
    with pytest.raises(BookError) as error:
        links.check_site(site)
    (fault,) = error.value.faults
    assert fault.startswith("page.html ")
    assert words in fault


def test_style_sheets_and_pictures_are_checked(site):
    (site / "_static" / "b.css").write_text("@font-face { src: url(https://x.example/f.woff2) }")
    (site / "big.png").write_bytes(b"0" * (links.IMAGE_BUDGET + 1))
    with pytest.raises(BookError) as error:
        links.check_site(site)
    assert len(error.value.faults) == 2


def test_there_must_be_a_site(tmp_path):
    with pytest.raises(BookError, match="no rendered book"):
        links.check_site(tmp_path)
