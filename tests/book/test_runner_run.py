"""Execution through nbmake: once, in place, and never green without having run."""

import json
import os

import pytest

from paperkit.book import run as runner
from paperkit.book.__main__ import main
from paperkit.book.layout import BookError, Layout, Page
from paperkit.book.stage import Staged, recorded_seconds, stage


@pytest.fixture(autouse=True)
def no_warming(request, monkeypatch):
    """Fonts and weights are prepared in the one test that is about it."""
    if "unpacked" not in request.node.name:
        monkeypatch.setattr(runner, "_warm_up", lambda *_: None)


def cells_of(path):
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_a_run_executes_once_and_the_environment_is_the_book_s(book, monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("PAPERKIT_SEED", "5")
    book.notebook(
        "pears/01_weigh",
        """
        import os
        import paperkit.pears
        names = [n for n in os.environ if n.startswith(("PAPERKIT", "HF_", "OMP", "TRANSF"))]
        {n: os.environ[n] for n in names} | {"backend": os.environ.get("MPLBACKEND")}
        """,
        "paperkit.pears.weigh(), paperkit.__file__",
    )
    layout = Layout.of(book.root)
    done = runner.run(layout)
    printed = capsys.readouterr().out
    assert [item.current for item in done] == [True, True]
    assert "[1/2]" in printed
    assert "[2/2]" in printed
    assert "notebooks: 2 to run, 0 up to date (profile quick, seed 5, " in printed
    shown, weighed = (cell["outputs"][0] for cell in cells_of(book.staged("pears/01_weigh")))
    env = eval("".join(shown["data"]["text/plain"]))
    # ipykernel selects the backend that draws into the notebook because none was named
    assert env.pop("backend") != "agg"
    two = {"OMP_NUM_THREADS": "1"} if (os.cpu_count() or 1) > 1 else {}
    expected = {
        "PAPERKIT_BOOK": "1",
        "PAPERKIT_WORKERS": "1",
        "PAPERKIT_PROFILE": "quick",
        "PAPERKIT_SEED": "5",
        "PAPERKIT_ROOT": str(book.root),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    } | two
    assert {name: env.get(name) for name in expected} == expected
    assert str(book.root) in "".join(weighed["data"]["text/plain"])
    assert set(recorded_seconds(layout)) == {
        "notebooks/apples/01_count",
        "notebooks/pears/01_weigh",
    }

    before = book.staged("pears/01_weigh").read_bytes()
    monkeypatch.setattr(runner, "_pytest", lambda *_: pytest.fail("executed again"))
    runner.run(layout)
    book.edit("notebooks/pears/01_weigh.md", "Some prose.", "Other prose.")
    runner.run(layout)
    assert book.staged("pears/01_weigh").read_bytes() != before
    assert "all 2 up to date, nothing to run" in capsys.readouterr().out


def test_a_failing_cell_fails_the_run_and_is_not_up_to_date(book, capsys):
    book.notebook("apples/01_count", "1 / 0")
    layout = Layout.of(book.root)
    with pytest.raises(
        BookError, match=r"apples/01_count did not run to its end: cell 1 raised Zero"
    ):
        runner.run(layout, ["apples"])
    printed = capsys.readouterr().out
    assert "FAILED" in printed
    assert "ZeroDivisionError: division by zero" in printed
    assert "\x1b[" not in printed
    assert [item.page.label for item in stage(layout) if item.current] == []


def test_a_notebook_that_hangs_is_stopped(book):
    book.notebook("apples/01_count", "import time; time.sleep(60)")
    with pytest.raises(BookError, match="did not run to its end"):
        runner.run(Layout.of(book.root), ["apples"], cell_timeout=2)


def fake_pytest(code, execute):
    def run(layout, items, *_):
        for item in items if execute else []:
            notebook = json.loads(item.path.read_text())
            for cell in notebook["cells"]:
                if cell["cell_type"] == "code":
                    cell["execution_count"] = 1
            item.path.write_text(json.dumps(notebook))
        return code

    return run


@pytest.mark.parametrize(
    ("code", "execute", "words"),
    [
        (5, False, "collected no notebook"),
        (5, True, "collected no notebook"),
        (0, False, "was not executed"),
        (3, True, "exit code 3"),
    ],
)
def test_an_exit_code_is_not_believed(book, monkeypatch, code, execute, words):
    monkeypatch.setattr(runner, "_pytest", fake_pytest(code, execute))
    with pytest.raises(BookError, match=words):
        runner.run(Layout.of(book.root))


def test_force_runs_what_is_up_to_date(book, monkeypatch):
    monkeypatch.setattr(runner, "_pytest", fake_pytest(0, True))
    layout = Layout.of(book.root)
    runner.run(layout)
    monkeypatch.setattr(runner, "_pytest", fake_pytest(0, False))
    runner.run(layout)
    with pytest.raises(BookError, match="was not executed"):
        runner.run(layout, force=True)


def test_the_slowest_go_first_on_every_worker(tmp_path):
    def item(name, seconds):
        return Staged(Page(name, tmp_path, True), tmp_path, False, seconds, False)

    items = [item("a", 3.0), item("b", 9.0), item("new", 0.0), item("c", 5.0)]
    assert [i.page.name for i in runner.order(items, 1)] == ["new", "b", "c", "a"]
    assert [i.page.name for i in runner.order(items, 2)] == ["new", "c", "b", "a"]


def test_one_notebook_keeps_its_threads(book, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    layout = Layout.of(book.root)
    assert "OMP_NUM_THREADS" not in runner.environment(layout, parallel=False)
    assert runner.environment(layout, parallel=True)["OMP_NUM_THREADS"] == "1"


def test_the_weights_are_unpacked_before_two_kernels_need_them(book, monkeypatch):
    book.write("paperkit/models.py", "def warm_cache(): open('warm', 'w').close()\n")
    book.edit("paperkit/core.py", "ONE = 1", "ONE = 1\nimport paperkit.models")
    monkeypatch.setattr(runner, "_pytest", fake_pytest(0, True))
    runner.run(Layout.of(book.root), ["pears"])
    assert not (book.root / "warm").exists()
    runner.run(Layout.of(book.root), ["apples"])
    assert (book.root / "warm").exists()
    book.write("paperkit/models.py", "def warm_cache(): raise OSError('disk full')\n")
    with pytest.raises(BookError, match="could not be prepared"):
        runner.run(Layout.of(book.root), ["apples"])


def test_the_command_line_says_what_is_wrong_and_returns_1(book, capsys):
    root = ["--root", str(book.root)]
    assert main(["stage", *root]) == 0
    assert "staged 6 pages, 2 of them notebooks" in capsys.readouterr().out
    assert main(["run", "plums", *root]) == 1
    assert "the chapters are: apples, pears" in capsys.readouterr().err
    assert main(["render", *root]) == 1
    assert "apples/01_count cannot be rendered" in capsys.readouterr().err
    assert main(["clean", *root]) == 0
    assert not (book.root / "build" / "book").exists()
    with pytest.raises(SystemExit):
        main(["bake"])
