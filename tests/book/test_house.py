"""The house: tasks, tree and the README's map agree, and no room holds what it must not."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TASKS = [
    "lint",
    "tests",
    "notebooks",
    "book",
    "site",
    "lab",
    "live",
    "bench",
    "lock",
    "full",
    "pdf",
]
# what a README's map need not explain
PLAIN = {
    "README.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
    "LICENSE",
    "LICENSE-text",
    "jupytext.toml",
    ".gitignore",
    ".gitattributes",
}


def tracked():
    """Files that belong to the project."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        done = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]
    made = {".venv", ".nox", "build", "_build", "__pycache__", ".hypothesis"}
    paths = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    return [p.as_posix() for p in paths if not made & set(p.parts) and "cache" not in p.parts[0]]


@pytest.fixture(scope="module")
def listed():
    """The tasks as `nox -l` prints them, with their sentences."""
    done = subprocess.run(
        [sys.executable, "-m", "nox", "-l", "-f", str(ROOT / "noxfile.py")],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(re.findall(r"^[-*] ([\w-]+) -> (.+)$", done.stdout, re.M)), done.stdout


@pytest.fixture(scope="module")
def module():
    """The task file as a module."""
    spec = importlib.util.spec_from_file_location("noxfile_of_the_book", ROOT / "noxfile.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_nox_lists_the_tasks_and_book_is_what_runs_by_itself(listed):
    tasks, text = listed
    assert list(tasks) == TASKS
    assert all(sentence.strip() for sentence in tasks.values())
    assert re.findall(r"^\* ([\w-]+)", text, re.M) == ["book"]


def test_the_readme_explains_every_task_and_no_other():
    table = README.partition("## Tasks")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.M) == TASKS


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "book/contributing.md", ".ci/run"]
)
def test_commands_in_texts_name_tasks_that_exist(name, listed):
    text = (ROOT / name).read_text(encoding="utf-8")
    used = set()
    for words in re.findall(r"(?:noxfile\.py|nox) -s ((?:[a-z]+ ?)+)", text):
        used |= {word for word in words.split() if word in TASKS or word not in {"or", "and"}}
    assert used
    assert used <= set(listed[0])


def test_the_readme_has_the_two_commands():
    assert "python3 noxfile.py -s book     # " in README
    assert "python3 noxfile.py -s tests    # " in README


def test_the_map_of_the_readme_is_the_tree():
    table = README.partition("## Map of the house")[2].partition("\n## ")[0]
    places = set()
    for cell in re.findall(r"^\| (`.*?) \|", table, re.M):
        places |= set(re.findall(r"`([^`]+)`", cell))
    top = {name.split("/")[0] for name in tracked()}
    mapped = {place.split("/")[0] for place in places}
    # folders that chapters fill later may not be there yet
    assert mapped - top <= {"benchmarks", "scripts", "notebooks"}
    assert top - mapped - PLAIN == set()
    for place in places & top:
        assert not place.endswith("/") or (ROOT / place).is_dir()


def test_the_readme_s_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("https://"):
            assert (ROOT / target).is_file(), target


def test_no_file_is_large_or_hides_code():
    forbidden = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".npz", ".npy", ".gz", ".ipynb"}
    for name in tracked():
        path = ROOT / name
        assert path.stat().st_size <= 10_000_000, f"{name} has more than 10 MB"
        assert path.suffix not in forbidden, f"{name}: this format is not kept here"


def test_nothing_in_the_library_unpickles_or_trusts_remote_code():
    pattern = re.compile(
        r"torch\.load\(|allow_pickle\s*=\s*True|trust_remote_code\s*=\s*True|\bpickle\.loads?\("
        r"|joblib\.load\("
    )
    for name in tracked():
        if name.endswith((".py", ".md")) and not name.startswith("tests/"):
            text = (ROOT / name).read_text(encoding="utf-8")
            assert not pattern.search(text), name


def test_the_bootstrap_refuses_an_unsuitable_python(module, monkeypatch):
    assert module.suitable_python() == sys.executable
    monkeypatch.setattr(module.sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/x/{name}" if "12" in name else None)
    assert module.suitable_python() == "/x/python3.12"
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or 3\.12; this is 3\.9"):
        module.suitable_python()


def test_an_environment_that_is_up_to_date_is_not_installed_again(module, tmp_path, monkeypatch):
    monkeypatch.delenv("PAPERKIT_PYTHON", raising=False)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    for name in ("pyproject.toml", "constraints.txt", "models.txt"):
        (tmp_path / name).write_text(name)
    python = tmp_path / ".venv" / module.PROGRAMS / "python"

    def make(folder):
        python.parent.mkdir(parents=True)
        python.touch()

    monkeypatch.setattr(module, "make_venv", make)
    installed = []

    class Session:
        def log(self, text):
            pass

        def run(self, *command, external):
            installed.append(command)

    assert module.python_of(Session()) == str(python)
    assert len(installed) == 2
    assert installed[0][-3:] == ("constraints.txt", "-e", ".[all]")
    assert "--require-hashes" in installed[1]
    assert "--no-deps" in installed[1]
    module.python_of(Session())
    assert len(installed) == 2
    (tmp_path / "constraints.txt").write_text("changed")
    module.python_of(Session())
    assert len(installed) == 4
    monkeypatch.setenv("PAPERKIT_PYTHON", "/some/python")
    assert module.python_of(Session()) == "/some/python"
    assert len(installed) == 4
