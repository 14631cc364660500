"""A small book in a temporary folder: two chapters, a library of three modules, no model."""

import textwrap
from pathlib import Path

import pytest

HEADER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""
TOC = """\
format: jb-book
root: book/intro
chapters:
  - file: notebooks/apples/index
    sections:
      - file: notebooks/apples/01_count
  - file: notebooks/pears/index
    sections:
      - file: notebooks/pears/01_weigh
  - file: book/ledger
"""
CLAIMS = """\
abstract:
  - {id: a1, says: There are some}
claims:
  - id: c1-some
    covers: [a1]
    statement: There are more than `two`.
    source: abstract
    paper: 3
    measure: the number
    passes: "> 2"
    scope: as stated
    kind: live
  - id: c2-all
    covers: [a1]
    statement: All of them.
    source: abstract
    scope: "not tested: there is no list"
"""


class TinyBook:
    """Writes the sources of a book; every file can be changed by its name."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text(encoding="utf-8")
        assert old in text
        self.write(name, text.replace(old, new))

    def notebook(self, name: str, *cells: str, prose: str = "Some prose.") -> Path:
        parts = [HEADER, "# A notebook\n", prose + "\n"]
        for cell in cells:
            parts.append(f"```{{code-cell}} ipython3\n{textwrap.dedent(cell).strip()}\n```\n")
        return self.write(f"notebooks/{name}.md", "\n".join(parts))

    def staged(self, name: str) -> Path:
        return self.root / "build" / "book" / "notebooks" / f"{name}.ipynb"


def recording(chapter: str, id: str, value: float) -> str:
    """Code that records a claim as paperkit.claims does, from a bare kernel."""
    row = {"chapter": chapter, "id": id, "value": value, "passes": "> 2", "ours": str(value)}
    row["verdict"] = "holds"
    return f"""
        from IPython.display import display
        text = {{"text/html": '<div id="claim-{chapter}-{id}">claim</div>'}}
        display(text, raw=True, metadata={{"paperkit_claim": {row!r}}})
    """


@pytest.fixture
def book(tmp_path, monkeypatch):
    """Two chapters of one notebook each, with one claim each."""
    for name in ("PAPERKIT_PROFILE", "PAPERKIT_SEED", "PAPERKIT_DEVICE", "PAPERKIT_ROOT"):
        monkeypatch.delenv(name, raising=False)
    tiny = TinyBook(tmp_path / "root")
    tiny.write("_toc.yml", TOC)
    tiny.write("_config.yml", "title: Fruit  # execute_notebooks is below\nexecute:\n"
               "  execute_notebooks: cache\n  timeout: 300\n")  # fmt: skip
    tiny.write("constraints.txt", "numpy==2.0\n")
    tiny.write("models.txt", "weights==1\n")
    tiny.write("book/intro.md", "# Fruit\n\n<!-- ledger-summary -->\n")
    tiny.write("book/ledger.md", "# Ledger\n\n<!-- ledger -->\n")
    tiny.write("paperkit/__init__.py", "")
    tiny.write("paperkit/core.py", "ONE = 1\n")
    tiny.write("paperkit/apples.py", "from paperkit.core import ONE\n")
    tiny.write("paperkit/pears/__init__.py", "from .scale import weigh\n")
    tiny.write("paperkit/pears/scale.py", "def weigh(): return 3\n")
    for chapter, name in (("apples", "01_count"), ("pears", "01_weigh")):
        tiny.write(f"notebooks/{chapter}/index.md", f"# {chapter}\n\n<!-- claims-table -->\n")
        tiny.write(f"notebooks/{chapter}/claims.yml", CLAIMS)
        tiny.notebook(
            f"{chapter}/{name}", f"import paperkit.{chapter}", recording(chapter, "c1-some", 3.0)
        )
    return tiny
