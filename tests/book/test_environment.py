"""pyproject.toml, constraints.txt, environment.yml and the imports of the code say the same."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from paperkit.book.digest import plain_python
from paperkit.book.layout import front_matter

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))

# where conda-forge has another name, and what it does not have
CONDA_NAMES = {"torch": "pytorch", "playwright": "playwright-python"}
ONLY_PIP = {"axe-playwright-python"}


def requirements():
    """Every direct dependency, extras included, except the extras that only name other extras."""
    texts = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        texts += extra
    found = [Requirement(text) for text in texts]
    return {canonicalize_name(r.name): r for r in found if r.name != "paperkit"}


def conda_packages():
    entries = [entry for entry in CONDA["dependencies"] if isinstance(entry, str)]
    split = {entry.partition(" ")[0]: entry.partition(" ")[2] for entry in entries}
    assert len(split) == len(entries)
    return {canonicalize_name(name): SpecifierSet(text) for name, text in split.items()}


def constraints():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    assert len(found) > 150
    return found


def test_the_conda_environment_has_its_form():
    assert CONDA["name"] == "paperkit"
    assert CONDA["channels"] == ["conda-forge", "nodefaults"]
    assert CONDA["dependencies"][-1] == {"pip": ['-e ".[all]"']}
    assert "pip" in CONDA["dependencies"]
    assert conda_packages()["python"] == SpecifierSet(PROJECT["requires-python"])
    # an exact pin would make pip install over conda's builds
    assert not any("=" in str(s) and "==" in str(s) for s in conda_packages().values())


@pytest.mark.parametrize(
    "name",
    [
        "jupyter-book",
        "jupytext",
        "matplotlib",
        "seaborn",
        "pytorch",
        "diffusers",
        "pymc",
        "arviz",
        "nbmake",
    ],
)
def test_the_packages_the_project_is_founded_on_are_there(name):
    assert name in conda_packages()


def test_conda_and_pyproject_give_the_same_ranges():
    ours = {CONDA_NAMES.get(n, n): r.specifier for n, r in requirements().items()}
    theirs = {n: s for n, s in conda_packages().items() if n not in ("python", "pip")}
    missing = set(ours) - set(theirs)
    assert missing == ONLY_PIP
    assert set(theirs) - set(ours) == set()
    assert {n: ours[n] for n in theirs} == theirs


def test_every_locked_version_lies_in_its_range_and_every_dependency_is_locked():
    locked = constraints()
    ranges = requirements()
    for constraint in locked:
        (version,) = constraint.specifier
        assert version.operator == "==", constraint
        name = canonicalize_name(constraint.name)
        if name in ranges:
            assert ranges[name].specifier.contains(version.version), constraint
    assert set(ranges) - {canonicalize_name(c.name) for c in locked} == set()


def test_the_lock_names_no_index():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert "--" not in text
    assert "`nox -s lock`" in text.splitlines()[0]


def test_weights_are_pinned_by_their_sums():
    lines = (ROOT / "models.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    for pin in pins:
        assert re.fullmatch(r"[\w.-]+==[\d.]+ --hash=sha256:[0-9a-f]{64}", pin)


def sources():
    """Python that needs the environment: (file, code)."""
    for folder in ("paperkit", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if "jupytext" in front_matter(text):
            for cell in re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```", text, re.M | re.S):
                body = re.sub(r"\A(?:---\n.*?^---\n|(?::[^\n]*\n)+)", "", cell, flags=re.M | re.S)
                yield path, plain_python(body)


def imported(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]


@cache
def distributions():
    return metadata.packages_distributions()


def test_every_import_is_declared():
    declared = set(requirements())
    own = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"paperkit", "tests"}
    undeclared = set()
    for path, code in sources():
        for name in set(imported(code)) - own:
            if name in sys.stdlib_module_names:
                continue
            owners = {canonicalize_name(owner) for owner in distributions().get(name, [name])}
            if not owners & declared:
                undeclared.add(f"{path.relative_to(ROOT).as_posix()}: {name}")
    # each belongs in pyproject.toml and, with the same range, in environment.yml
    assert "\n".join(sorted(undeclared)) == ""


def test_notebook_code_is_found_by_the_pattern_above():
    text = "---\njupytext: x\n---\n```{code-cell} ipython3\n:tags: [a]\n\nimport os\n```\n"
    (cell,) = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```", text, re.M | re.S)
    assert "import os" in cell
