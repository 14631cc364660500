"""Staging: what makes a notebook stale, and what does not."""

import json
import os

import pytest
import yaml

from paperkit.book.layout import BookError, Layout
from paperkit.book.stage import execution_seconds, faults_of, stage


def pretend_run(*paths):
    """Fill in what an execution leaves."""
    for path in paths:
        notebook = json.loads(path.read_text())
        for number, cell in enumerate(notebook["cells"]):
            if cell["cell_type"] == "code":
                cell["execution_count"] = number
                cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["done\n"]}]
                start, end = "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:02.0Z"
                cell["metadata"]["execution"] = {
                    "iopub.execute_input": start,
                    "shell.execute_reply": end,
                }
        path.write_text(json.dumps(notebook))


def stale(book):
    return [item.page.label for item in stage(Layout.of(book.root)) if not item.current]


@pytest.fixture
def run_book(book):
    """The tiny book with both notebooks executed."""
    assert stale(book) == ["apples/01_count", "pears/01_weigh"]
    pretend_run(book.staged("apples/01_count"), book.staged("pears/01_weigh"))
    assert stale(book) == []
    return book


def test_staging_twice_changes_no_byte(book):
    stage(Layout.of(book.root))
    files = [path for path in (book.root / "build").rglob("*") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    stage(Layout.of(book.root))
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == before
    assert len(files) == 10


def test_conversion_is_the_same_for_the_same_text(book):
    stage(Layout.of(book.root))
    first = book.staged("apples/01_count").read_bytes()
    book.staged("apples/01_count").unlink()
    stage(Layout.of(book.root))
    assert book.staged("apples/01_count").read_bytes() == first
    assert "jupytext" not in json.loads(first)["metadata"]


def test_prose_keeps_the_outputs_and_shows_in_the_copy(run_book):
    run_book.edit("notebooks/apples/01_count.md", "Some prose.", "Other prose.")
    assert stale(run_book) == []
    notebook = json.loads(run_book.staged("apples/01_count").read_text())
    assert "Other prose." in str(notebook["cells"][0]["source"])
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"][0]["text"] == ["done\n"] for cell in code)
    assert execution_seconds(notebook) == pytest.approx(1.5 * len(code))


@pytest.mark.parametrize(
    ("file", "now_stale"),
    [
        ("paperkit/apples.py", ["apples/01_count"]),
        ("paperkit/core.py", ["apples/01_count"]),  # through apples
        ("paperkit/pears/scale.py", ["pears/01_weigh"]),  # through a relative import
        ("paperkit/pears/words.yml", ["pears/01_weigh"]),
        ("paperkit/unused.py", []),
        ("paperkit/data/pears/table.csv", ["pears/01_weigh"]),
        ("notebooks/pears/results/long.json", ["pears/01_weigh"]),
        ("notebooks/apples/claims.yml", ["apples/01_count"]),
        ("notebooks/apples/index.md", []),
        ("book/intro.md", []),
        ("models.txt", []),
        ("constraints.txt", ["apples/01_count", "pears/01_weigh"]),
    ],
)
def test_an_edit_makes_exactly_its_users_stale(run_book, file, now_stale):
    path = run_book.root / file
    text = path.read_text() if path.is_file() else ""
    run_book.write(file, text + "\n# changed\n")
    assert stale(run_book) == now_stale


def test_the_weights_count_for_notebooks_that_load_them(run_book):
    run_book.write("paperkit/models/__init__.py", "")
    run_book.edit("paperkit/apples.py", "ONE", "ONE\nfrom paperkit import models")
    items = {item.page.label: item for item in stage(Layout.of(run_book.root))}
    assert items["apples/01_count"].needs_models
    assert not items["pears/01_weigh"].needs_models
    pretend_run(run_book.staged("apples/01_count"))
    run_book.write("models.txt", "weights==2\n")
    assert stale(run_book) == ["apples/01_count"]


def test_lazy_and_attribute_imports_are_followed(run_book):
    lazy = (
        "def __getattr__(name):\n    import importlib\n    return importlib.import_module(name)\n"
    )
    run_book.write("paperkit/core.py", "import paperkit\n\ndef f(): return paperkit.lazy.one\n")
    run_book.write("paperkit/lazy/__init__.py", lazy)
    run_book.write("paperkit/lazy/one.py", "X = 1\n")
    stage(Layout.of(run_book.root))
    pretend_run(run_book.staged("apples/01_count"))
    run_book.write("paperkit/lazy/one.py", "X = 2\n")
    assert stale(run_book) == ["apples/01_count"]


def test_data_of_another_folder_count_where_their_name_is_written(run_book):
    run_book.write("paperkit/data/shared/words.csv", "a\n")
    run_book.edit("paperkit/core.py", "ONE = 1", 'ONE = "shared/words"')
    stage(Layout.of(run_book.root))
    pretend_run(run_book.staged("apples/01_count"))
    run_book.write("paperkit/data/shared/words.csv", "b\n")
    assert stale(run_book) == ["apples/01_count"]


def test_a_cell_that_is_not_python_depends_on_the_whole_library(run_book):
    run_book.notebook("apples/01_count", "%matplotlib inline\nimport paperkit.apples")
    stage(Layout.of(run_book.root))
    pretend_run(run_book.staged("apples/01_count"))
    run_book.write("paperkit/pears/scale.py", "def weigh(): return 4\n")
    assert "apples/01_count" not in stale(run_book)  # magics are understood
    run_book.notebook("apples/01_count", "this is ( not python")
    stage(Layout.of(run_book.root))
    pretend_run(run_book.staged("apples/01_count"))
    run_book.write("paperkit/pears/scale.py", "def weigh(): return 5\n")
    assert "apples/01_count" in stale(run_book)


@pytest.mark.parametrize("name", ["PAPERKIT_SEED", "PAPERKIT_DEVICE"])
def test_settings_count(run_book, monkeypatch, name):
    monkeypatch.setenv(name, "7")
    assert len(stale(run_book)) == 2


def test_the_full_profile_has_a_copy_of_its_own(run_book):
    full = Layout.of(run_book.root, "full")
    assert len([item for item in stage(full) if not item.current]) == 2
    assert full.staged != Layout.of(run_book.root).staged
    assert stale(run_book) == []


def test_code_and_tags_count(run_book):
    run_book.edit(
        "notebooks/apples/01_count.md", "import paperkit.apples", "import paperkit.apples as a"
    )
    assert stale(run_book) == ["apples/01_count"]
    notebook = json.loads(run_book.staged("apples/01_count").read_text())
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    fence = "```{code-cell} ipython3\nimport paperkit.pears"
    tagged = fence.replace("ipython3\n", "ipython3\n:tags: [hide-input]\n\n")
    run_book.edit("notebooks/pears/01_weigh.md", fence, tagged)
    assert "pears/01_weigh" in stale(run_book)


def test_a_failed_notebook_is_not_up_to_date(run_book):
    path = run_book.staged("apples/01_count")
    notebook = json.loads(path.read_text())
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    cell["outputs"] = [{"output_type": "error", "ename": "E", "evalue": "", "traceback": []}]
    path.write_text(json.dumps(notebook))
    assert faults_of(notebook) == ["cell 1 raised E"]
    assert stale(run_book) == ["apples/01_count"]
    # a page may show an error that it explains; the tag says so, and only the tag lets it pass
    cell["metadata"]["tags"] = ["raises-exception"]
    assert faults_of(notebook) == []


def test_a_damaged_copy_is_made_again(run_book):
    run_book.staged("apples/01_count").write_text('{"cells": [')
    assert stale(run_book) == ["apples/01_count"]


def test_files_without_a_source_leave_the_copy(run_book):
    run_book.write("book/old.md", "# Old\n")
    stage(Layout.of(run_book.root))
    assert (run_book.root / "build/book/book/old.md").is_file()
    (run_book.root / "book/old.md").unlink()
    (run_book.root / "notebooks/pears/01_weigh.md").unlink()
    (run_book.root / "notebooks/pears/claims.yml").unlink()
    run_book.edit("_toc.yml", "    sections:\n      - file: notebooks/pears/01_weigh\n", "")
    stage(Layout.of(run_book.root))
    assert not (run_book.root / "build/book/book/old.md").exists()
    assert not run_book.staged("pears/01_weigh").exists()


def test_one_key_of_the_configuration_changes(book):
    stage(Layout.of(book.root))
    before = yaml.safe_load((book.root / "_config.yml").read_text())
    after = yaml.safe_load((book.root / "build/book/_config.yml").read_text())
    assert after["execute"].pop("execute_notebooks") == "off"
    assert before["execute"].pop("execute_notebooks") == "cache"
    assert before == after
    book.write("_config.yml", "title: no execution key\n")
    with pytest.raises(BookError, match="execute_notebooks exactly once"):
        stage(Layout.of(book.root))


def test_every_disagreement_of_files_and_contents_is_named(book):
    book.notebook("apples/02_more", "1")
    book.write("notebooks/plums/claims.yml", "abstract: []\n")
    book.write("notebooks/plums/index.md", "# Plums\n")
    book.edit(
        "_toc.yml",
        "  - file: book/ledger",
        "  - file: book/nothing\n  - file: book/intro\n  - file: notebooks/plums/index",
    )
    with pytest.raises(BookError) as error:
        stage(Layout.of(book.root))
    text = str(error.value)
    assert len(error.value.faults) == 4
    for words in ("book/intro twice", "no book/nothing.md", "apples/02_more.md is", "plums has a"):
        assert words in text


def test_a_chapter_that_only_declares_its_claims_does_not_stop_the_others(book):
    book.write("notebooks/plums/claims.yml", "abstract: []\n")
    layout = Layout.of(book.root)
    assert len(stage(layout)) == 2
    assert layout.in_preparation == ("plums",)


def test_a_chapter_and_a_notebook_can_be_chosen(book):
    layout = Layout.of(book.root)
    assert [page.label for page in layout.select(["pears"])] == ["pears/01_weigh"]
    assert [page.label for page in layout.select(["apples/01_count"])] == ["apples/01_count"]
    assert len(layout.select([])) == 2
    with pytest.raises(BookError, match="'plums'; the chapters are: apples, pears"):
        layout.select(["plums"])


def test_a_folder_without_contents_and_a_wrong_profile_are_refused(tmp_path, book):
    with pytest.raises(BookError, match=r"no _toc\.yml"):
        Layout.of(tmp_path)
    with pytest.raises(BookError, match="quick or full, got 'fast'"):
        Layout.of(book.root, "fast")


def test_a_no_op_reads_no_notebook_with_jupytext(run_book):
    code = (
        "import sys; from paperkit.book.layout import Layout; from paperkit.book.stage import stage;"
        f"items = stage(Layout.of({str(run_book.root)!r}));"
        "assert all(i.current for i in items);"
        "assert not {'jupytext', 'IPython', 'nbformat', 'numpy'} & set(sys.modules)"
    )
    import subprocess
    import sys

    env = {k: v for k, v in os.environ.items() if not k.startswith("PAPERKIT_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
