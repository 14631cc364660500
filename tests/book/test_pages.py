"""The parts of pages that are made from files."""

import csv
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from paperkit.book import pages

ROOT = Path(__file__).parents[2]


class Balance(HTMLParser):
    """Counts what is open; void elements aside, everything that opens must close."""

    def __init__(self, html):
        super().__init__()
        self.open, self.cells = [], 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.cells += tag == "td"
        if tag not in {"br", "img", "meta"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def staged(tmp_path):
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("vendor"))
    shutil.copy(ROOT / "_toc.yml", tmp_path / "_toc.yml")
    return tmp_path


def chapters():
    parts = yaml.safe_load((ROOT / "book" / "chapters.yml").read_text(encoding="utf-8"))
    return [chapter for part in parts for chapter in part["chapters"]]


def test_the_landing_page_shows_nine_chapters_with_pictures_and_cited_papers():
    keys = set(re.findall(r"@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text()))
    assert len(chapters()) == 9
    for chapter in chapters():
        assert (ROOT / "book" / "_static" / "chapters" / f"{chapter['name']}.svg").is_file()
        assert chapter["key"] in keys


@pytest.mark.parametrize("present", [[], ["risk_scores"], ["risk_scores", "feynman_kac"]])
def test_only_chapters_in_the_book_are_linked(staged, present):
    lines = "".join(f"      - file: notebooks/{name}/index\n" for name in present)
    toc = "format: jb-book\n# notebooks/concept_erasing/index is only mentioned\n" + lines
    (staged / "_toc.yml").write_text(toc)
    html = pages.chapter_cards(ROOT, staged)
    assert re.findall(r"notebooks/(\w+)/index.html", html) == sorted(
        present, key=[c["name"] for c in chapters()].index
    )
    assert html.count("In preparation") == 9 - len(present)
    assert html.count('role="img"') == 9
    assert Balance(html).open == []
    assert "\n\n" not in html


def test_the_markers_are_filled_and_no_other_text_changes(staged):
    assert pages.fill(ROOT, staged) == [staged / "book/intro.md", staged / "book/credits.md"]
    for name, marker in {"intro": "<!-- chapters -->", "credits": "<!-- credits -->"}.items():
        before = (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")
        after = (staged / "book" / f"{name}.md").read_text(encoding="utf-8")
        assert before.count(marker) == 1
        assert marker not in after
        for kept in before.split(marker):
            assert kept in after
    assert pages.fill(ROOT, staged) == []


def test_credits_list_data_weights_and_assets_and_work_without_data(tmp_path):
    (tmp_path / "book").mkdir()
    assert "No data set is shipped yet." in pages.credits(tmp_path)
    shutil.copytree(ROOT / "book" / "_static" / "vendor", tmp_path / "book/_static/vendor")
    shutil.copy(ROOT / "book" / "weights.csv", tmp_path / "book")
    sources = tmp_path / "paperkit" / "data" / "SOURCES.csv"
    sources.parent.mkdir(parents=True)
    sources.write_text(
        "name,file,sha256,source,version,licence,licence_file,script,changes\n"
        'demo/people,demo/people.csv,00,"A <bold> survey",2018,CC0-1.0,,scripts/x.py,columns\n'
    )
    html = pages.credits(tmp_path)
    assert "demo/<wbr>people" in html  # long names may break after a slash
    html = html.replace("<wbr>", "")
    for words in ("demo/people", "A &lt;bold&gt; survey", "MathJax", "SmolLM2", "OFL-1.1"):
        assert words in html
    sources.write_text("name,file\n")
    with pytest.raises(ValueError, match=r"SOURCES.csv: the columns \['licence'"):
        pages.credits(tmp_path)


def test_the_weights_credited_are_the_weights_installed():
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "models.txt").read_text(), re.M))
    with (ROOT / "book" / "weights.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["package"]: row["version"] for row in rows} == pinned
    assert all(all(row.values()) for row in rows)


def test_every_page_is_in_the_table_of_contents_and_a_chapter_joins_with_its_reference():
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"^[^#\n]*(?:file|root): (\S+)", toc, flags=re.M))
    written = {
        str(path.relative_to(ROOT).with_suffix(""))
        for path in (ROOT / "book").rglob("*.md")
        if "_static" not in path.parts
    }
    waiting = {
        f"book/api/{chapter['name']}"
        for chapter in chapters()
        if f"notebooks/{chapter['name']}/index" not in listed
    }
    assert {page for page in listed if page.startswith("book/")} - waiting == written - waiting


def test_a_table_escapes_text_links_addresses_and_labels_cells():
    html = pages.table(
        {"a": "Name & kind", "b": "Where"},
        [{"a": "<i>kept</i>", "b": "https://example.org/x?a=1&b=2"}, {"a": "1 < 2", "b": None}],
        caption="A < B",
    )
    assert Balance(html).cells == 4
    assert 'data-label="Name &amp; kind"' in html
    assert 'href="https://example.org/x?a=1&amp;b=2"' in html
    assert "1 &lt; 2" in html
    assert "<i>kept</i>" in html


def test_the_drawings_are_what_the_script_draws(tmp_path, monkeypatch):
    import importlib.util

    spec = importlib.util.spec_from_file_location("d", ROOT / "scripts/book/chapter_pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for draw in module.DRAWINGS:
        committed = ROOT / "book" / "_static" / "chapters" / f"{draw.__name__}.svg"
        assert draw() in committed.read_text(encoding="utf-8")
