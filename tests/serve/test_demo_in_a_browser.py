"""The demo in a real browser, at two widths, on the mini base and offline.

Run with: make test ARGS="-m long tests/serve/test_demo_in_a_browser.py" (extra `demo`, playwright, chromium)
PSALIGN_SCREENSHOTS=folder keeps the screenshots, to be looked at.
"""

import os
import shutil
import socket
import time
from pathlib import Path

import pytest

from psalign.adapter.attach import attach
from psalign.diffusion.base_models import find_base, load_pipeline
from psalign.serve.artist import Artist
from psalign.serve.requests import Offer
from serving import random_adapter

pytestmark = pytest.mark.long
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (1280, 400)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]


@pytest.fixture(scope="module")
def url():
    pytest.importorskip("gradio")
    from psalign.serve.demo import Demo, launch

    pipeline = load_pipeline("mini")
    artist = Artist(pipeline, attach(pipeline, random_adapter()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _, local, _ = launch(
        Demo(artist, Offer("mini", find_base("mini"), 4.0, 15, 50, 16)), host="127.0.0.1", port=port, blocks=False
    )
    return local


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=WIDTHS)
def page(request, browser, url):
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    page.asked = []
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.goto(url)
    page.get_by_role("button", name="Draw").wait_for()
    yield page
    page.close()


def draw(page):
    """Press the button. Returns the seconds until the pictures are there."""
    begun = time.monotonic()
    page.get_by_role("button", name="Draw").click()
    page.locator(".psa figure").nth(2).wait_for(timeout=60_000)
    return time.monotonic() - begun


def test_three_pictures_come_blurred_until_they_are_clicked(page, tmp_path):
    took_s = draw(page)
    assert page.locator(".psa figcaption").all_inner_texts() == ["Base", "You", "Another person"]
    blur = "image => getComputedStyle(image).filter"
    base, mine = (page.locator(".psa figure").nth(place).locator("img") for place in (0, 1))
    assert base.evaluate(blur) == "blur(24px)"
    assert mine.evaluate(blur) == "none"
    folder = Path(os.environ.get("PSALIGN_SCREENSHOTS", tmp_path))
    width = page.viewport_size["width"]
    page.screenshot(path=folder / f"demo-{width}.png", full_page=True)
    page.locator(".psa figure").nth(0).locator("label").click()
    assert base.evaluate(blur) == "none"
    page.screenshot(path=folder / f"demo-{width}-shown.png", full_page=True)
    assert "softened:" in page.locator(".psa figure").nth(1).inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    print(f"width {width}: {took_s:.1f} s")


def test_what_makes_no_sense_is_told(page):
    page.get_by_label("Limits in words").first.fill("no")
    page.get_by_role("button", name="Draw").click()
    alert = page.locator("p[role=alert]")
    alert.wait_for(timeout=30_000)
    assert "limit 1" in alert.inner_text()


def test_a_level_sets_the_switches(page):
    switches = page.get_by_label("Violence")
    switches.nth(1).wait_for()
    assert not switches.nth(1).is_checked()
    slider = page.get_by_role("slider").nth(1)
    slider.focus()
    slider.press("End")
    page.wait_for_function("document.querySelectorAll('input[type=checkbox]:checked').length >= 8", timeout=10_000)


def test_nothing_is_fetched_from_another_machine(page, url):
    draw(page)
    assert [one for one in page.asked if not one.startswith((url, "data:", "blob:"))] == []
