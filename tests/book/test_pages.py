"""The parts of pages that are made from files."""

import csv
import json
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


def test_every_marker_in_a_page_is_filled_and_no_other_text_changes(staged):
    markers = {}
    for name in ("intro", "credits", "performance"):
        text = (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")
        markers[name] = re.findall(r"<!-- ([\w-]+) -->", text)
    assert sum(map(len, markers.values())) == 4
    pages.fill(ROOT, staged)
    for name in markers:
        before = (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")
        after = (staged / "book" / f"{name}.md").read_text(encoding="utf-8")
        assert "<!--" not in after
        for kept in re.split(r"<!-- [\w-]+ -->", before):
            assert kept in after


def test_counts_of_the_ledger_add_up(staged):
    assert pages.ledger_counts(staged) == ""
    verdicts = ["holds"] * 5 + ["not supported"] + ["reported"] * 2 + ["fails"]
    rows = [{"verdict": verdict} for verdict in verdicts]
    (staged / "ledger.json").write_text(json.dumps({"rows": rows}))
    html = pages.ledger_counts(staged)
    numbers = [int(n) for n in re.findall(r"<dd>(\d+)</dd>", html)]
    assert numbers[0] == 9
    assert sum(numbers[1:]) == 9
    assert "fails" in html


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


def test_performance_shows_ratios_and_works_without_any(tmp_path):
    assert pages.performance(tmp_path) == "No benchmark has been run yet."
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    row = {"what": "prefix tree", "peer": "row by row", "ratio": 5.678, "low": 5.1, "high": 6.2}
    result = {"name": "Risk scores", "date": "2026-11-22", "machine": "2 cores", "rows": [row]}
    (results / "risk_scores.json").write_text(json.dumps(result))
    html = pages.performance(tmp_path)
    assert "5.68 [5.1, 6.2]" in html
    assert "2026-11-22, 2 cores" in html
    assert "Goal" not in html
    (results / "risk_scores.json").write_text(json.dumps({"name": "Risk scores"}))
    with pytest.raises(ValueError, match=r"risk_scores.json: the entries \['date'"):
        pages.performance(tmp_path)


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
