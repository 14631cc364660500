"""Sphinx glue of the book: what the theme leaves open, for pages that load nothing from outside.

* plotly.js is copied from the installed plotly, and loaded where there is an interactive figure;
* thebe is left to ``js/live.js``, which starts it only where a Jupyter server answers;
* a link to a text notebook finds the staged one;
* every notebook page offers its executed ``.ipynb`` and its code as ``.py``;
* links to edit a page lead to the text notebook in the repository, not to the staged copy;
* the written HTML is corrected where the theme falls short of WCAG 2.1 AA.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import jupytext
import nbformat
import plotly
from docutils import nodes
from sphinx.application import Sphinx

PLOTLY_BLOCK = "pk-plotly"  # the class of every figure that paperkit.plotting writes with plotly
# sphinx-thebe loads thebe from a CDN and configures it for Binder; the book uses neither.
THEBE_ASSET = re.compile(r"sphinx-thebe\.(js|css)|THEBE_JS_URL|thebe_selector")

LINK_TO_TEXT = re.compile(r"\]\(([\w./-]+\.md)(?:#[\w-]+)?\)")

# (where the theme falls short, what it should have written)
ACCESSIBILITY = [
    # Disclosure arrows in the sidebar have no name, only an icon.
    (
        re.compile(r'<summary><span class="toctree-toggle"'),
        '<summary aria-label="Subsections"><span class="toctree-toggle"',
    ),
    # A label that differs from the visible words cannot be spoken by users of voice control.
    (re.compile(r'(<summary[^>]*?) aria-label="Toggle hidden content"'), r"\1"),
    (re.compile(r'(<button[^>]*?class="[^"]*search-button[^>]*?) aria-label="[^"]*"'), r"\1"),
    (re.compile(r'(<button[^>]*?class="[^"]*theme-switch[^>]*?) aria-label="[^"]*"'), r"\1"),
    # The book's title in the sidebar belongs to no landmark.
    (
        re.compile(r'<div class="sidebar-primary-item">(?=\s*<a class="navbar-brand)'),
        '<div class="sidebar-primary-item" role="region" aria-label="Book title">',
    ),
    # A role that was withdrawn from the standard, and one that must not stand alone.
    (re.compile(r'role="doc-biblioentry"'), 'role="listitem"'),
    # A data frame's corner is no heading.
    (re.compile(r"<th></th>"), "<td></td>"),
    # the corner of a styled pandas table
    (re.compile(r'<th class="blank([^"]*)"\s*>(?:&nbsp;)?</th>'), r'<td class="blank\1"></td>'),
    # The heading of the print layout is not the heading of the page.
    (
        re.compile(r'(<div id="jb-print-docs-body" class="onlyprint">\s*)<h1>(.*?)</h1>', re.S),
        r'\1<p class="pk-print-title">\2</p>',
    ),
]


def link_staged_notebooks(app: Sphinx, docname: str, source: list[str]) -> None:
    """Let a link to ``01_idea.md`` find the notebook, which is staged as ``01_idea.ipynb``."""
    folder = Path(app.srcdir, docname).parent

    def staged(match: re.Match[str]) -> str:
        target = folder / match[1]
        is_notebook = not target.exists() and target.with_suffix(".ipynb").exists()
        return match[0].replace(".md", ".ipynb", 1) if is_notebook else match[0]

    source[0] = LINK_TO_TEXT.sub(staged, source[0])


def drop_thebe_config(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Remove the Binder configuration that sphinx-thebe appends to every page."""
    for node in list(doctree.findall(nodes.raw)):
        if "text/x-thebe-config" in node.astext() or "kernelName =" in node.astext():
            node.parent.remove(node)


def link_edits_to_sources(app: Sphinx) -> None:
    """Point "Suggest edit" to the text notebook: the staged ``.ipynb`` is in no repository."""
    options = app.config.html_theme_options
    if not options.get("use_edit_page_button"):
        return
    base = (
        f"{options['repository_url'].rstrip('/')}/edit/{options.get('repository_branch') or 'main'}"
    )
    app.config.html_context.update(
        edit_page_url_template=base + "/{{ file_name | replace('.ipynb', '.md') }}",
        edit_page_provider_name="repository",
    )


def assemble_page(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Choose the scripts of a page and add the download of its code."""
    for files in (context["script_files"], context["css_files"]):
        files[:] = [
            file
            for file in files
            if not THEBE_ASSET.search(f"{file} {getattr(file, 'attributes', {})}")
        ]
    if PLOTLY_BLOCK in context.get("body", ""):
        app.add_js_file("vendor/plotly.min.js", priority=100)
    if str(context.get("page_source_suffix")) != ".ipynb":
        return
    for group in context["header_buttons"]:
        if group.get("label") == "download-buttons":
            group["buttons"].insert(
                1,
                {
                    "type": "link",
                    "url": context["pathto"](f"_sources/{pagename}.py", 1),
                    "text": ".py",
                    "icon": "fab fa-python",
                    "tooltip": "Download the code as a script",
                    "label": "download-script-button",
                },
            )


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Write what the pages refer to, and correct the written HTML."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    source = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    target = out / "_static" / "vendor" / "plotly.min.js"
    if not target.exists() or target.stat().st_size != source.stat().st_size:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    for path in (out / "_static").rglob("*.map"):  # of the theme's sources, which are not here
        path.unlink()
    for path in (out / "_sources").rglob("*.ipynb"):
        offer_downloads(path)
    for path in out.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        corrected = text
        for pattern, replacement in ACCESSIBILITY:
            corrected = pattern.sub(replacement, corrected)
        if corrected != text:
            path.write_text(corrected, encoding="utf-8")


def offer_downloads(path: Path) -> None:
    """Write the script beside a downloadable notebook, which loses what only the build needs."""
    notebook = nbformat.read(path, as_version=4)
    for key in ("jupytext", "paperkit"):
        notebook.metadata.pop(key, None)
    path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    script = jupytext.writes(notebook, fmt="py:percent")
    path.with_suffix(".py").write_text(script, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx, after the theme's own handlers."""
    app.connect("builder-inited", link_edits_to_sources, priority=900)
    app.connect("source-read", link_staged_notebooks)
    app.connect("doctree-resolved", drop_thebe_config, priority=900)
    app.connect("html-page-context", assemble_page, priority=900)
    app.connect("build-finished", finish, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
