"""The Sphinx glue of the book, without Sphinx; what it makes of pages is tested in the browser."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import jinja2
import nbformat
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def glue():
    spec = importlib.util.spec_from_file_location("paperbook", ROOT / "book/_ext/paperbook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_to_text_notebooks_find_the_staged_ones_and_others_stay(glue, tmp_path):
    chapter = tmp_path / "notebooks" / "demo"
    chapter.mkdir(parents=True)
    (chapter / "01_idea.ipynb").touch()
    (chapter / "page.md").touch()
    source = ["[a](01_idea.md) [b](01_idea.md#part) [c](page.md) [d](lost.md) `](01_idea.md` x"]
    glue.link_staged_notebooks(SimpleNamespace(srcdir=tmp_path), "notebooks/demo/index", source)
    assert source == [
        "[a](01_idea.ipynb) [b](01_idea.ipynb#part) [c](page.md) [d](lost.md) `](01_idea.md` x"
    ]


@pytest.mark.parametrize("used", [True, False])
def test_edits_lead_to_the_text_notebook_once_the_repository_has_an_address(glue, used):
    options = {"use_edit_page_button": used, "repository_url": "https://example.org/a/book/"}
    config = SimpleNamespace(html_theme_options=options, html_context={})
    glue.link_edits_to_sources(SimpleNamespace(config=config))
    assert bool(config.html_context) == used
    if used:
        template = jinja2.Template(config.html_context["edit_page_url_template"])
        address = template.render(file_name="notebooks/demo/01_idea.ipynb")
        assert address == "https://example.org/a/book/edit/main/notebooks/demo/01_idea.md"


def test_corrections_of_the_html_do_not_depend_on_being_applied_once(glue):
    theme = (
        '<summary><span class="toctree-toggle" role="presentation"></span></summary>'
        '<summary aria-label="Toggle hidden content">Show</summary>'
        '<button class="btn search-button" title="Search" aria-label="Search">Find</button>'
        '<div class="sidebar-primary-item">\n<a class="navbar-brand logo"></a></div>'
        '<div role="doc-biblioentry">Entry</div><tr><th></th><th>a</th></tr>'
        '<div id="jb-print-docs-body" class="onlyprint">\n  <h1>Title</h1></div>'
    )
    once = theme
    for pattern, replacement in glue.ACCESSIBILITY:
        once = pattern.sub(replacement, once)
    twice = once
    for pattern, replacement in glue.ACCESSIBILITY:
        twice = pattern.sub(replacement, twice)
    assert twice == once
    for gone in ("Toggle hidden", 'aria-label="Search"', "doc-biblioentry", "<th></th>", "<h1>"):
        assert gone not in once
    assert once.count("aria-label=") == 2


def test_downloads_are_clean_notebooks_and_scripts_that_compile(glue, tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# Title"),
        nbformat.v4.new_code_cell("value = 1\nprint(value)"),
    ]
    metadata = {"jupytext": {"formats": "md:myst"}, "paperkit": {"digest": "0"}}
    path = tmp_path / "01_idea.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    glue.offer_downloads(path)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not {"jupytext", "paperkit"} & set(notebook.metadata)
    script = path.with_suffix(".py").read_text()
    compile(script, "script", "exec")
    assert "# %% [markdown]\n# # Title" in script
    assert "value = 1\nprint(value)" in script
