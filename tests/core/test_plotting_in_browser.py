"""Interactive figures, moved by keyboard in a browser whose network is off."""

import numpy as np
import plotly.graph_objects as go
import pytest

from paperkit import plotting
from paperkit.book import pdf

pytestmark = pytest.mark.site


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as run:
        opened = run.chromium.launch(executable_path=pdf.browser(), args=list(pdf.FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def show(browser, tmp_path, monkeypatch):
    """Opens figures as a page outside the book, at the width of a phone."""
    monkeypatch.delenv("PAPERKIT_BOOK", raising=False)
    page = browser.new_page(viewport={"width": 390, "height": 800})
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))

    def opener(*makers):
        file = tmp_path / "page.html"
        body = "".join(maker().html for maker in makers)
        head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Figures</title>'
        file.write_text(f"{head}<body><main><h1>Figures</h1>{body}</main></body></html>")
        page.goto(file.as_uri())
        ready = f"document.querySelectorAll('.pk-figure[data-ready=yes]').length === {len(makers)}"
        page.wait_for_function(ready, timeout=60_000)
        return page

    yield opener
    outside = [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    page.close()
    assert outside == []
    assert errors == []


def curves():
    x = np.linspace(0, 1, 5)
    frames = [go.Scatter(x=x, y=k * x) for k in range(4)]
    return plotting.slider(frames, "abcd", name="slope", alt="A line gets steeper.")


def images():
    stack = [np.full((4, 4), k / 3) for k in range(4)]
    return plotting.image_slider(stack, "abcd", name="grey", alt="A square gets lighter.")


def test_the_slider_of_a_plotly_figure(show):
    page = show(curves)
    last = "document.querySelector('.pk-plot').calcdata[0].at(-1).y"
    assert page.evaluate(last) == 0
    page.locator("input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"{last} === 1")
    page.keyboard.press("End")
    page.wait_for_function(f"{last} === 3")
    assert page.locator("output").inner_text() == "d"
    assert page.locator("input[type=range]").get_attribute("aria-valuetext") == "d"
    # The drawn axis holds all steps from the start.
    assert page.evaluate("document.querySelector('.pk-plot')._fullLayout.yaxis.range[1]") > 3


def test_the_slider_of_images(show):
    page = show(images)
    image = page.locator("img")
    first = image.get_attribute("src")
    page.locator("input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    assert image.get_attribute("src") != first
    assert image.get_attribute("alt") == "A square gets lighter. (grey: b)"
    page.keyboard.press("ArrowLeft")
    assert image.get_attribute("src") == first


def test_two_figures_do_not_disturb_each_other_and_fit_a_phone(show):
    page = show(curves, curves, images)
    page.locator("input[type=range]").nth(1).focus()
    page.keyboard.press("End")
    texts = page.locator("output").all_inner_texts()
    assert texts == ["a", "d", "a"]
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_screen_readers(show):
    from axe_playwright_python.sync_playwright import Axe

    page = show(curves, images)
    found = Axe().run(page).response["violations"]
    assert [each["id"] for each in found] == []
