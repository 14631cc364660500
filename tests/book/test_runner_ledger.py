"""The ledger: every disagreement between what is declared and what is recorded stops the build."""

import json

import pytest

from paperkit.book.__main__ import main
from paperkit.book.layout import BookError, Layout
from paperkit.book.ledger import audit, collect, ledger, performance
from paperkit.book.stage import stage

LABELS = ("apples/01_count", "pears/01_weigh")


def row(chapter, **changes):
    base = {"chapter": chapter, "id": "c1-some", "value": 3.0, "low": None, "high": None}
    base |= {"level": None, "n": None, "method": None, "ours": "3", "passes": "> 2", "kind": "live"}
    return base | {"verdict": "holds", "held": True, "ok": True} | changes


def execute(book, rows):
    """Leave what an execution leaves; `rows` has a list of claims for each notebook."""
    stage(Layout.of(book.root))
    for label, found in rows.items():
        path = book.staged(label)
        notebook = json.loads(path.read_text())
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for number, cell in enumerate(code, 1):
            cell["execution_count"] = number
        code[-1]["outputs"] = [
            {"output_type": "display_data", "data": {}, "metadata": {"paperkit_claim": one}}
            for one in found
        ]
        path.write_text(json.dumps(notebook))
    return Layout.of(book.root)


def faults(book, rows):
    layout = execute(book, rows)
    with pytest.raises(BookError) as error:
        ledger(layout)
    return error.value.faults


GOOD = {label: [row(label.split("/")[0])] for label in LABELS}


def test_agreement_writes_the_pages_and_the_file(book, capsys):
    layout = execute(book, GOOD)
    chapters = ledger(layout)
    assert [len(chapter.rows) for chapter in chapters] == [2, 2]
    page = (layout.staged / "book/ledger.md").read_text()
    assert '<a href="../notebooks/apples/01_count.html#claim-apples-c1-some">' in page
    assert "more than <code>two</code>" in page
    assert "There are some" in page
    assert '<a href="#row-apples-c1-some">' in page
    assert '<tr id="row-apples-c1-some">' in page
    for words in ("not tested", "✓ holds", "ran to its end", "Profile", "Seed", "numpy", "&gt; 2"):
        assert words in page
    index = (layout.staged / "notebooks/apples/index.md").read_text()
    assert 'href="01_count.html#claim-apples-c1-some"' in index
    assert "<!--" not in index + page
    assert "<dt>claims</dt><dd>4</dd>" in (layout.staged / "book/intro.md").read_text()
    content = json.loads((layout.staged / "ledger.json").read_text())
    assert content["counts"] == {"holds": 2, "live": 2, "not tested": 2}
    assert content["chapters"]["apples"]["claims"][0]["value"] == 3.0
    assert content["chapters"]["apples"]["abstract"] == [{"id": "a1", "says": "There are some"}]
    assert set(content["notebooks"]) == {f"notebooks/{label}" for label in LABELS}
    assert content["profile"] == "quick"
    assert "apples" in capsys.readouterr().out


def test_the_page_is_made_anew_from_the_source_each_time(book):
    ledger(execute(book, GOOD))
    first = (book.root / "build/book/book/ledger.md").read_text()
    stage(Layout.of(book.root))
    ledger(Layout.of(book.root))
    assert (book.root / "build/book/book/ledger.md").read_text() == first


def test_declared_and_never_recorded(book):
    found = faults(book, GOOD | {"pears/01_weigh": []})
    assert found == ["pears declares c1-some, and no notebook records it."]


def test_recorded_and_never_declared(book):
    more = [row("pears"), row("pears", id="c9-new")]
    (found,) = faults(book, GOOD | {"pears/01_weigh": more})
    assert found.startswith("pears/01_weigh records pears/c9-new, which no claims.yml")


def test_recorded_in_another_chapter(book):
    found = faults(book, GOOD | {"pears/01_weigh": [row("pears"), row("apples")]})
    assert "records apples/c1-some" in found[0]


def test_recorded_without_any_declaration(book):
    (book.root / "notebooks/pears/claims.yml").unlink()
    found = faults(book, GOOD)
    assert found == ["pears/01_weigh records pears/c1-some, but pears has no claims.yml."]


def test_recorded_twice(book):
    found = faults(book, GOOD | {"pears/01_weigh": [row("pears"), row("pears")]})
    assert found == ["c1-some is recorded twice: in pears/01_weigh and in pears/01_weigh."]


def test_recorded_although_not_tested(book):
    found = faults(book, GOOD | {"pears/01_weigh": [row("pears"), row("pears", id="c2-all")]})
    assert found == ["pears/01_weigh records c2-all, which is declared as not tested."]


@pytest.mark.parametrize("value", [1.0, None])
def test_a_failing_claim_is_red_whatever_the_notebook_says_of_it(book, value):
    (found,) = faults(book, GOOD | {"pears/01_weigh": [row("pears", value=value)]})
    assert found.startswith("c1-some (pears/01_weigh) ")
    assert "condition '> 2'" in found


def test_a_claim_that_flips_is_red(book):
    flipped = '"> 2"\n    expect: not supported\n    because: nobody counted'
    book.edit("notebooks/pears/claims.yml", '"> 2"', flipped)
    (found,) = faults(book, GOOD)
    assert "holds although declared as not supported" in found
    few = row("pears", value=1.0, held=False, verdict="not supported")
    layout = execute(book, GOOD | {"pears/01_weigh": [few]})
    page = ledger(layout) and (layout.staged / "book/ledger.md").read_text()
    assert "not supported, as declared" in page
    assert "nobody counted" in page


def test_another_condition_than_the_file_s_is_not_believed(book):
    (found,) = faults(book, GOOD | {"pears/01_weigh": [row("pears", passes="> 0")]})
    assert "was judged by '> 0', not by claims.yml" in found


def test_an_interval_that_the_condition_needs(book):
    book.edit("notebooks/pears/claims.yml", '"> 2"', '"lower > 2"')
    (found,) = faults(book, GOOD | {"pears/01_weigh": [row("pears", passes="lower > 2")]})
    assert "without the interval" in found
    ends = {"low": 2.5, "high": 4.0, "level": 0.95, "n": 9, "method": "m", "passes": "lower > 2"}
    ledger(execute(book, GOOD | {"pears/01_weigh": [row("pears", **ends)]}))
    (found,) = faults(book, GOOD | {"pears/01_weigh": [row("pears", **(ends | {"low": 1.5}))]})
    assert "fails" in found


def test_a_malformed_file_and_a_page_without_table(book):
    book.edit("notebooks/pears/claims.yml", "covers: [a1]", "covers: [a7]")
    found = faults(book, GOOD)
    assert any("a7" in fault and "pears/claims.yml" in fault for fault in found)
    book.edit("notebooks/pears/claims.yml", "covers: [a7]", "covers: [a1]")
    book.edit("notebooks/pears/index.md", "<!-- claims-table -->", "")
    assert faults(book, GOOD) == ["pears: no page has the line <!-- claims-table -->."]


def test_notebooks_that_did_not_run_have_no_ledger(book):
    stage(Layout.of(book.root))
    with pytest.raises(BookError, match="apples/01_count has no results"):
        collect(Layout.of(book.root))


def test_numbers_of_the_tables_are_escaped(book):
    book.edit("notebooks/pears/claims.yml", "All of them.", "<script>&")
    layout = execute(book, GOOD)
    ledger(layout)
    page = (layout.staged / "book/ledger.md").read_text()
    assert "&lt;script&gt;&amp;" in page
    assert "<script>" not in page


def test_a_real_record_reaches_the_ledger(book):
    """Metadata of a displayed output survives one real execution and the merge of prose."""
    layout = execute(book, {"apples/01_count": GOOD["apples/01_count"]})
    assert main(["run", "pears", "--root", str(book.root)]) == 0
    book.edit("notebooks/pears/01_weigh.md", "Some prose.", "Other prose.")
    stage(layout)
    assert [chapter.rows[0]["value"] for chapter in audit(layout, collect(layout))] == [3.0, 3.0]
    assert [chapter.seconds > 0 for chapter in audit(layout, collect(layout))] == [False, True]


def test_benchmarks_are_shown_or_refused(tmp_path):
    assert "No benchmark" in performance(tmp_path)
    line = {"path": "scoring", "peer": "row by row", "unit": "rows/s"}
    result = {"script": "benchmarks/x.py", "date": "2026-01-01", "machine": "2 cores"}
    result["rows"] = [line | {"ours": 12.0, "theirs": 2.0, "ratio": 6.0}]
    (tmp_path / "x.json").write_text(json.dumps(result))
    assert "<strong>6</strong>" in performance(tmp_path)
    assert "2026-01-01" in performance(tmp_path)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(BookError, match=r"x\.json cannot be shown"):
        performance(tmp_path)
