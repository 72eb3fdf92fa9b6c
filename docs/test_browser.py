"""The site in a browser: `.ci/run site` builds it and runs this, with the Chromium of the system.

What a page asks of another machine, or writes to the console as an error, fails.
"""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

SITE = Path(__file__).resolve().parent.parent / "build" / "site"
NOTEBOOKS = sorted(path.stem for path in (SITE.parent.parent / "notebooks").glob("*.ipynb"))
PAGES = [
    *("index", "gallery", "explorer", "losses/huber", "guides/contract", "guides/used-with", "recipes/training"),
    *("notebooks/index", "notebooks/06_segmentation", "zh/index"),
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(params=[1200, 400], ids=["wide", "narrow"])
def page(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": request.param, "height": 900}, base_url=address)
    faults: list[str] = []
    page.on("request", lambda asked: asked.url.startswith((address, "data:", "blob:")) or faults.append(asked.url))
    page.on("console", lambda said: said.type == "error" and faults.append(said.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    page.close()
    assert not faults


def visit(page: Page, name: str) -> None:
    page.goto(f"/{name}.html")
    page.wait_for_load_state("load")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_is_accessible(page: Page, name: str):
    visit(page, name)
    article, window = page.locator("article").bounding_box(), page.viewport_size
    assert article is not None
    assert window is not None
    assert article["width"] > min(0.8 * window["width"], 500), "something squeezes the text"
    assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("window.innerWidth")
    # Only the content is ours; the frame around it is that of the theme.
    found = Axe().run(page, context="article", options={"runOnly": ["wcag2a", "wcag2aa"]})
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("name", ["gallery", "losses/huber"])
def test_formulas_are_rendered(page: Page, name: str):
    visit(page, name)
    page.wait_for_selector("mjx-container svg")
    assert "\\frac" not in page.inner_text("article")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_shows_what_it_drew(page: Page, name: str):
    visit(page, f"notebooks/{name}")
    pictures = page.locator(".cell_output img")
    assert pictures.count() >= 2
    assert all(pictures.evaluate_all("images => images.map(image => image.complete && image.naturalWidth > 300)"))
    assert page.locator(".cell_output pre").count() >= 2, "it printed nothing"


def test_each_notebook_has_a_card(page: Page):
    visit(page, "notebooks/index")
    links = page.locator("a.card").evaluate_all("cards => cards.map(card => card.getAttribute('href'))")
    assert links == [f"{name}.html" for name in NOTEBOOKS]
    assert all(page.locator(".card img").evaluate_all("images => images.map(image => image.naturalWidth > 300)"))


def test_search_finds_a_loss(page: Page):
    page.goto("/search.html?q=huber")
    page.wait_for_selector("#search-results li a[href*='losses/huber']")


def test_filters_leave_the_cards_of_a_family(page: Page):
    visit(page, "gallery")
    button = page.locator("button[data-family=boxes]")
    button.focus()
    page.keyboard.press("Enter")
    shown = page.locator(".card:not([hidden])")
    assert set(shown.evaluate_all("cards => cards.map(card => card.dataset.family)")) == {"boxes"}
    button.click()
    assert page.locator(".card[hidden]").count() == 0


def test_a_slider_changes_the_curve(page: Page):
    visit(page, "explorer")
    curve = page.locator("#curves path.loss")
    before, at = curve.get_attribute("d"), page.inner_text("#at")
    page.focus("#value")
    page.keyboard.press("ArrowRight")
    assert curve.get_attribute("d") != before
    assert page.inner_text("#at") != at


def test_every_curve_can_be_chosen(page: Page):
    visit(page, "explorer")
    for name in page.eval_on_selector_all("#curve option", "options => options.map(option => option.value)"):
        page.select_option("#curve", name)
        assert page.locator("#curves path.loss").get_attribute("d"), name


def test_a_box_drags(page: Page):
    visit(page, "explorer")
    box, shown = page.locator("#boxes"), page.locator("#boxes rect.moved")
    box.scroll_into_view_if_needed()
    place = box.bounding_box()
    assert place is not None
    before, loss = shown.get_attribute("x"), page.inner_text("#box-at")
    page.mouse.move(place["x"] + 0.7 * place["width"], place["y"] + 0.4 * place["height"])
    page.mouse.down()
    page.mouse.move(place["x"] + 0.5 * place["width"], place["y"] + 0.5 * place["height"], steps=5)
    page.mouse.up()
    assert shown.get_attribute("x") != before
    assert page.inner_text("#box-at") == "loss 0.000" != loss
    box.focus()
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#box-at") != "loss 0.000"
