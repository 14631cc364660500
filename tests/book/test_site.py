"""The built book as its readers meet it: in a browser, with the network off.

The tests open the pages under ``_build/html`` and find them there, so that every chapter that joins
the book is tested. Build first: ``python3 noxfile.py -s book``.
"""

import contextlib
import functools
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

from paperkit.book.layout import Layout
from paperkit.book.links import SITE_BUDGET
from paperkit.book.pdf import FLAGS, browser, print_book

pytestmark = [pytest.mark.site, pytest.mark.timeout(240)]

LAYOUT = Layout.of()
SITE = LAYOUT.html
PAGES = sorted(
    str(path.relative_to(SITE))
    for path in SITE.rglob("*.html")
    if path.relative_to(SITE) != Path("index.html") and "_static" not in path.parts
)
TEXT = {page: (SITE / page).read_text(encoding="utf-8") for page in PAGES}
NOTEBOOKS = [page for page in PAGES if (SITE / "_sources" / page).with_suffix(".ipynb").is_file()]
# Listings of code are all of one make; the shortest and the longest stand for them.
LISTINGS = sorted(
    [page for page in PAGES if page.startswith("_modules/")], key=lambda p: len(TEXT[p])
)
CHAPTERS = sorted({Path(page).parts[1] for page in PAGES if page.startswith("notebooks/")})
FIXED = ["book/intro.html", "book/ledger.html", "book/credits.html", "book/glossary.html"]
PHONE = FIXED + [page for page in PAGES if page.startswith("notebooks/")]
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


def holding(words):
    """Pages whose HTML contains some words."""
    return [page for page in PAGES if words in TEXT[page]]


def each(pages):
    """Parametrise over pages; one failing case if the book is not built."""
    if not PAGES:
        return pytest.mark.parametrize("page", ["the book is not built"])
    return pytest.mark.parametrize("page", pages)


@pytest.fixture(autouse=True, scope="module")
def built(request):
    # A plain `pytest` can count on neither pages nor a browser. With `-m site`, which is what the task
    # `site` and CI run, nothing is skipped: missing pages fail.
    if "site" not in request.config.getoption("-m"):
        pytest.skip("the built book is tested with: pytest -m site")
    if not PAGES:
        pytest.fail(f"{SITE} holds no pages; run: python3 noxfile.py -s book", pytrace=False)


@pytest.fixture(scope="module")
def address():
    """The book on a local HTTP server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=browser(), args=list(FLAGS))
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def context(chromium):
    """Makes browser contexts, one for each width and scheme."""
    made = {}

    def get(width=1280, scheme="light"):
        if (width, scheme) not in made:
            made[width, scheme] = chromium.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme
            )
        return made[width, scheme]

    yield get
    for one in made.values():
        one.close()


READY = """async () => {
  if (window.MathJax && window.MathJax.startup) await window.MathJax.startup.promise;
  await document.fonts.ready;
  const waiting = () => [...document.querySelectorAll(".pk-figure:not([data-ready])")];
  for (let i = 0; i < 200 && waiting().length; i++) await new Promise((r) => setTimeout(r, 50));
  return waiting().map((figure) => figure.id);
}"""

FAULTS = """() => {
  const list = (selector, wrong) =>
    [...document.querySelectorAll(selector)].filter(wrong).map((e) => e.outerHTML.slice(0, 160));
  const root = document.documentElement;
  const wide = root.scrollWidth - root.clientWidth;
  const seen = (e) => e.getClientRects().length > 0;
  const headings = [...document.querySelectorAll("h1")].filter(seen).map((e) => e.textContent);
  return {
    "math that was not typeset": list(".math", (e) => !e.querySelector("mjx-container")),
    "math with an error": list("mjx-merror", () => true),
    "plotly figures not drawn": list(".pk-plotly", (e) => !e.querySelector(".main-svg")),
    "images without alternative text": list("img", (e) => !e.getAttribute("alt")),
    "drawings without a name": list("article svg", (e) =>
      !e.closest("mjx-container, .pk-plot, button, summary") && !e.getAttribute("aria-label")),
    "pixels too wide": wide > 0 ? [wide] : [],
    "main headings other than one": headings.length === 1 ? [] : [headings],
    "dead buttons": list(".pk-live, .btn-launch-thebe, .thebe-launch-button", () => true),
  };
}"""


@contextlib.contextmanager
def visit(context, url, *, inside):
    """Open a page, wait until it has settled; on leaving, it must have behaved."""
    tab = context.new_page()
    faults = []
    tab.on("request", lambda r: None if r.url.startswith(inside) else faults.append(r.url))
    tab.on("requestfailed", lambda r: faults.append(f"failed: {r.url}"))
    tab.on("response", lambda r: faults.append(f"{r.status}: {r.url}") if r.status > 399 else None)
    tab.on("pageerror", lambda error: faults.append(f"error: {error}"))
    tab.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    try:
        tab.goto(url, wait_until="load")
        assert tab.evaluate(READY) == [], "figures that never became ready"
        yield tab
        assert faults == []
    finally:
        tab.close()


def look(context, address, page):
    return visit(context, address + page, inside=(address, "data:", "blob:"))


def assert_faultless(tab):
    assert {what: found for what, found in tab.evaluate(FAULTS).items() if found} == {}


def assert_accessible(tab):
    from axe_playwright_python.sync_playwright import Axe

    options = {"runOnly": AXE_TAGS, "resultTypes": ["violations"], "preload": False}
    found = Axe().run(tab, options=options)
    violations = {
        f"{violation['id']}: {violation['help']}": [
            f"{node['target']} {node['html'][:160]}" for node in violation["nodes"][:5]
        ]
        for violation in found.response["violations"]
    }
    assert violations == {}


@each([page for page in PAGES if page not in LISTINGS] + LISTINGS[:1] + LISTINGS[-1:])
def test_a_page_renders_offline_and_is_accessible(context, address, page):
    with look(context(), address, page) as tab:
        assert_faultless(tab)
        assert_accessible(tab)


@each([page for page in PAGES if page not in LISTINGS])
def test_a_page_is_accessible_in_the_dark(context, address, page):
    with look(context(scheme="dark"), address, page) as tab:
        assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
        assert_accessible(tab)


@each(PHONE)
def test_a_page_fits_a_phone(context, address, page):
    with look(context(390, "dark"), address, page) as tab:
        assert_faultless(tab)


@each(FIXED[:2] + (NOTEBOOKS or FIXED[3:])[:1])
def test_a_page_works_as_a_file(context, page):
    with visit(context(), (SITE / page).as_uri(), inside=(SITE.as_uri(), "data:", "blob:")) as tab:
        assert_faultless(tab)


# --------------------------------------------------------------------------- what moves and opens


def test_every_chapter_has_an_interactive_figure():
    still = [
        chapter
        for chapter in CHAPTERS
        if not any(page.startswith(f"notebooks/{chapter}/") for page in holding("pk-figure"))
    ]
    assert still == []


@each(holding("pk-slider"))
def test_a_slider_changes_what_is_shown(context, address, page):
    with look(context(), address, page) as tab:
        for figure in tab.query_selector_all(".pk-slider"):
            shown = """f => f.classList.contains("pk-plotly")
                ? JSON.stringify(f.querySelector(".pk-plot").data.map((t) => [t.x, t.y, t.z, t.text]))
                : f.querySelector("img").src"""
            before = figure.evaluate(shown)
            handle = figure.query_selector("input[type=range]")
            spoken = handle.get_attribute("aria-valuetext")
            last = handle.evaluate("e => e.value === e.max")
            handle.focus()
            handle.press("ArrowLeft" if last else "ArrowRight")
            tab.wait_for_timeout(200)
            assert figure.evaluate(shown) != before
            assert handle.get_attribute("aria-valuetext") != spoken


@each(holding('class="solution dropdown'))
def test_a_solution_folds_open(context, address, page):
    with look(context(), address, page) as tab:
        for solution in tab.query_selector_all(".solution.dropdown"):
            content = solution.query_selector("section, .section, :scope > :not(.admonition-title)")
            assert not content.is_visible()
            solution.query_selector(".toggle-button, .admonition-title").click()
            assert content.is_visible()


def test_the_theme_switch_changes_the_scheme_and_is_remembered(chromium, address):
    own = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    theme = "document.documentElement.dataset.theme"
    with look(own, address, FIXED[0]) as tab:
        assert tab.evaluate(theme) == "light"
        background = "getComputedStyle(document.body).backgroundColor"
        light = tab.evaluate(background)
        for _ in range(3):
            tab.click("button.theme-switch-button:visible")
            if tab.evaluate(theme) == "dark":
                break
        assert tab.evaluate(theme) == "dark"
        assert tab.evaluate(background) != light
    with look(own, address, FIXED[1]) as tab:
        assert tab.evaluate(theme) == "dark"
    own.close()


@pytest.mark.parametrize(
    ("words", "page"),
    [("mutation deliberate defect", "glossary.html"), ("vendored licence weights", "credits.html")]
    + [(chapter.replace("_", " "), chapter) for chapter in CHAPTERS],
)
def test_the_search_finds(context, address, words, page):
    url = "search.html?q=" + words.replace(" ", "+")
    with look(context(), address, url) as tab:
        tab.wait_for_selector("#search-results li a")
        found = [a.get_attribute("href") for a in tab.query_selector_all("#search-results li a")]
        assert any(page in href for href in found), found


def test_no_page_names_a_folder_of_this_machine():
    folders = {str(LAYOUT.root), sys.prefix}
    assert [page for page in PAGES if any(folder in TEXT[page] for folder in folders)] == []


def test_planned_chapters_are_named_and_have_no_page():
    text = TEXT["book/intro.html"]
    linked = re.findall(r'href="\.\./notebooks/(\w+)/index\.html"><?', text)
    assert sorted(set(linked) & set(CHAPTERS)) == CHAPTERS
    assert text.count("In preparation") == 9 - len(CHAPTERS)


def test_claim_cards_can_be_linked_and_the_ledger_does():
    cards = {
        f"{page}#{anchor}"
        for page in NOTEBOOKS
        for anchor in re.findall(r'id="(claim-[\w-]+)"', TEXT[page])
    }
    links = set(re.findall(r'href="\.\./(notebooks/[^"]+#claim-[\w-]+)"', TEXT[FIXED[1]]))
    assert links == cards


# ---------------------------------------------------------------------- what readers take with them


@each(NOTEBOOKS)
def test_a_notebook_can_be_downloaded_as_notebook_and_as_script(page):
    source = (SITE / "_sources" / page).with_suffix(".ipynb")
    up = "../" * (len(Path(page).parts) - 1)
    name = Path(page).with_suffix("")
    for ending in (".ipynb", ".py"):
        assert f'href="{up}_sources/{name}{ending}"' in TEXT[page]
    notebook = nbformat.read(source, as_version=4)
    nbformat.validate(notebook)
    assert "jupytext" not in notebook.metadata
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert all(cell.execution_count for cell in code)
    script = source.with_suffix(".py").read_text(encoding="utf-8")
    compile(script, str(source), "exec")
    assert script.count("\n# %%") >= len(code)


def shortest_notebook():
    if not NOTEBOOKS:
        pytest.fail("the book has no notebook", pytrace=False)
    taken = json.loads((SITE / "ledger.json").read_text(encoding="utf-8"))["notebooks"]
    return min(NOTEBOOKS, key=lambda page: taken[page.removesuffix(".html")])


def test_a_downloaded_notebook_runs_again(tmp_path):
    from nbclient import NotebookClient

    source = (SITE / "_sources" / shortest_notebook()).with_suffix(".ipynb")
    notebook = nbformat.read(source, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=180, resources=where).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert outputs
    assert all(out["output_type"] != "error" for out in outputs)


def test_the_site_is_light_enough_to_pass_around():
    files = [path for path in SITE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < SITE_BUDGET
    assert [p for p in PAGES if (SITE / p).stat().st_size > 1.5e6] == []
    images = [path for path in files if path.suffix in {".png", ".jpg", ".webp", ".gif", ".svg"}]
    assert [str(path) for path in images if path.stat().st_size > 400e3] == []


def test_the_book_prints_to_one_file_with_bookmarks(tmp_path, monkeypatch):
    from pypdf import PdfReader

    first, *_, last = LAYOUT.pages
    monkeypatch.setattr(Layout, "pages", (first, last))
    target = tmp_path / "book.pdf"
    with ThreadPoolExecutor(1) as thread:  # this one holds the browser of the other tests
        thread.submit(print_book, Layout(LAYOUT.root, LAYOUT.profile), target).result()
    reader = PdfReader(target)
    titles = [item.title for item in reader.outline if not isinstance(item, list)]
    headings = [re.search(r"<h1>(.*?)<", TEXT[f"{page.name}.html"])[1] for page in (first, last)]
    assert titles == headings
    assert headings[1] in " ".join(page.extract_text() for page in reader.pages[1:])
    assert [path.name for path in tmp_path.iterdir()] == ["book.pdf"]


# ------------------------------------------------------------------------------------- live cells


@pytest.fixture
def live():
    """The command that readers use, on a port that it chooses: page, address and token."""
    page = shortest_notebook()
    process = subprocess.Popen(
        [sys.executable, "-m", "paperkit.book", "live", "--no-browser"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell's background job ignores interrupts, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    line = process.stdout.readline()
    try:
        found = re.search(r"(http://127\.0\.0\.1:\d+)/static/\S+\?token=(\S+)", line)
        assert found, line
        yield page, *found.groups()
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(90)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def test_a_live_cell_runs_edited_code_on_this_machine(live, context):
    page, base, token = live
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{base}/api/sessions")
    inside = (base, base.replace("http", "ws"), "data:", "blob:")
    with visit(context(), f"{base}/static/{page}?token={token}", inside=inside) as tab:
        assert "token" not in tab.url
        tab.click(".pk-live button")
        tab.wait_for_selector("html[data-live=running]", timeout=120_000)
        tab.evaluate(
            """() => {
              const [editor] = document.querySelectorAll(".CodeMirror");
              editor.CodeMirror.setValue("print('six times seven is', 6 * 7)");
            }"""
        )
        tab.click(".thebe-run-button >> nth=0")
        output = tab.locator("[data-pk-output]").first
        output.get_by_text("six times seven is 42").wait_for(timeout=60_000)
        cells = tab.evaluate(
            "[thebe.notebook.cells.length, document.querySelectorAll('[data-pk-output]').length]"
        )
        assert cells[0] == cells[1]
