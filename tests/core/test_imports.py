"""Who may know whom: notebooks -> paperkit.<chapter> -> core -> libraries."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import paperkit

ROOT = Path(paperkit.__file__).resolve().parent
CHAPTERS = {
    "absorbing_diffusion",
    "concept_erasing",
    "domain_constraints",
    "feynman_kac",
    "information_acquisition",
    "likelihood_displacement",
    "relevance_reward",
    "risk_scores",
    "unsupervised_pretraining",
}
CORE = {"claims", "data", "models", "plotting", "profiles", "sweeps"}
FILES = sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)


def part(path, root=ROOT):
    """The first name below paperkit: the room that a file belongs to."""
    first = path.relative_to(root).parts[0]
    return first.removesuffix(".py")


def rooms_known_by(path, root=ROOT):
    """The rooms of paperkit that a file imports, wherever in the file the import stands."""
    package = ["paperkit", *path.relative_to(root).parts[:-1]]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            names = [".".join([*base, alias.name]) for alias in node.names]
        for name in names:
            pieces = name.split(".")
            if pieces[0] == "paperkit" and len(pieces) > 1:
                rooms.add(pieces[1])
    return rooms - {"__version__"}


def faults(root=ROOT):
    """Every import that goes the wrong way, as text."""
    found = []
    for path in sorted(root.rglob("*.py")):
        room, known = part(path, root), rooms_known_by(path, root)
        if room == "book":
            wrong = known & CHAPTERS
        elif room in CHAPTERS:
            wrong = known & (CHAPTERS | {"book"}) - {room}
        else:
            wrong = known & (CHAPTERS | {"book"})
        found += [f"{path.relative_to(root)} imports paperkit.{name}" for name in sorted(wrong)]
    return found


def test_every_room_is_known():
    rooms = {part(path) for path in FILES} - {"__init__"}
    assert rooms <= CHAPTERS | CORE | {"book"}


def test_imports_go_one_way():
    assert faults() == []


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("claims.py", "from paperkit import risk_scores"),
        ("data/__init__.py", "def f():\n    import paperkit.book.stage"),
        ("models/language.py", "from ..feynman_kac import sampler"),
        ("risk_scores/__init__.py", "from ..feynman_kac import sampler"),
        ("risk_scores/a.py", "from .. import feynman_kac"),
        ("risk_scores/a.py", "from paperkit.book import run"),
        ("risk_scores.py", "from . import feynman_kac"),
        ("book/run.py", "from paperkit.risk_scores import x"),
    ],
)
def test_wrong_directions_are_found(tmp_path, file, code):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(code)
    assert len(faults(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("risk_scores/a.py", "from . import b\nfrom ..claims import wilson\nimport numpy"),
        ("risk_scores/a.py", "from paperkit.risk_scores.b import c\nfrom .. import claims"),
        ("claims.py", "from . import profiles"),
        ("book/run.py", "from paperkit import claims"),
    ],
)
def test_right_directions_pass(tmp_path, file, code):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(code)
    assert faults(tmp_path) == []


@pytest.mark.parametrize("module", ["paperkit", "paperkit.claims", "paperkit.profiles"])
def test_import_is_light(module):
    code = (
        f"import sys, {module};"
        "heavy = {'torch', 'pandas', 'scipy', 'statsmodels', 'matplotlib', 'plotly', 'joblib',"
        " 'transformers', 'diffusers', 'pymc', 'sklearn', 'IPython'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_package_itself_imports_nothing():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
