"""The page as a reader's browser draws it: Chromium without a window, at a desk's width and at a phone's.

Run with: make test ARGS="-m long tests/evaluation/report/test_in_a_browser.py" (Debian: apt-get install chromium)
"""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from benchmark_world import build
from psalign.evaluation.report.leaderboard import load_leaderboards
from psalign.evaluation.report.page import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
WIDTHS = (1280, 400)
ALLOWED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

# A window is at least 500 pixels wide where Chromium dumps a page, so the page is looked at in a frame of our width.
FRAME = """<!doctype html><pre id="probe"></pre><script>
addEventListener("message", (event) => { document.getElementById("probe").textContent = event.data; });
</script><iframe src="probed.html" style="border: 0; width: %dpx; height: 1000px"></iframe>"""
# Looks at the page and tells the frame's owner what it finds. Runs in a copy: the page itself has no script.
PROBE = """
<script>
const refused = [];
document.addEventListener("securitypolicyviolation", (event) => refused.push(event.blockedURI));
const box = (element) => {
  const at = element.getBoundingClientRect();
  return [at.left, at.top + scrollY, at.width, at.height].map(Math.round);
};
const blur = (image) => getComputedStyle(image).filter;
addEventListener("load", () => {
  const all = [...document.querySelectorAll(".veil img")];
  const open = [...document.querySelectorAll(".sheet .framed > img")];
  const one = all[0].closest(".veil").querySelector("input"), other = all[1].closest(".veil").querySelector("input");
  const found = {
    width: innerWidth, scroll: document.documentElement.scrollWidth, height: document.documentElement.scrollHeight,
    requests: performance.getEntriesByType("resource").map((entry) => entry.name), refused,
    broken: [...document.images].filter((image) => !image.complete || !image.naturalWidth).length,
    veiled: all.map(blur), open: open.map(blur),
    veil_box: box(all[0]), open_box: box(open[0]),
    clipped: [...document.querySelectorAll("h1, h2, h3, th, td, p, li, figcaption, .comparison-names span")].filter(
      (element) => !element.closest(".scroll") && element.getBoundingClientRect().right > innerWidth + 1
    ).length,
    focusable: all.every((image) => image.closest(".veil").querySelector("input").tabIndex === 0),
  };
  one.click(); found.clicked = blur(all[0]);
  one.focus(); found.has_focus = document.activeElement === one;
  one.click(); found.clicked_again = blur(all[0]);
  const everything = document.querySelector(".reveal");
  everything.click(); found.revealed = blur(all[1]); everything.click();
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    paths = build(root, prompts=28)
    judge = [paths["results_evaluate"], paths["results_compare"]]
    boards = load_leaderboards(paths["images"], paths["results"], judge=judge)
    write_report(root / "report.html", boards, about={})
    return root / "report.html"


def chromium(tmp_path, *arguments):
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module", params=WIDTHS)
def seen(request, report, tmp_path_factory):
    """What the probe finds at a width, and the screenshot of the whole page, gray [H, W]."""
    folder, width = tmp_path_factory.mktemp("seen"), request.param
    text = report.read_text(encoding="utf-8")
    assert ALLOWED in text
    text = text.replace(ALLOWED, f"{ALLOWED}; script-src 'unsafe-inline'").replace("</body>", f"{PROBE}</body>")
    (folder / "probed.html").write_text(text, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME % width, encoding="utf-8")
    url = f"file://{folder / 'frame.html'}"
    dom = chromium(folder, "--window-size=1400,1100", "--virtual-time-budget=10000", "--dump-dom", url)
    found = json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)[1]))
    assert found["width"] == width
    picture = folder / "page.png"
    size = f"--window-size={width},{found['height'] + 200}"
    chromium(folder, size, "--virtual-time-budget=10000", f"--screenshot={picture}", f"file://{report}")
    return found, np.asarray(Image.open(picture).convert("L"), dtype=np.int16)


def test_it_renders_and_nothing_is_wider_than_the_screen(seen):
    found, shot = seen
    assert found["scroll"] <= found["width"]
    assert found["clipped"] == 0
    assert shot.shape[1] == found["width"]
    assert shot[:1000].std() > 10  # not an empty page


def test_every_picture_is_inside_and_no_request_is_made(seen):
    found, _ = seen
    assert found["requests"] == []
    assert found["refused"] == []
    assert found["broken"] == 0


def test_sensitive_pictures_are_blurred_until_they_are_asked_for(seen):
    found, _ = seen
    assert len(found["veiled"]) > 100
    assert all(style.startswith("blur(") for style in found["veiled"])
    assert set(found["open"]) == {"none"}
    assert found["clicked"] == "none"
    assert found["clicked_again"].startswith("blur(")
    assert found["revealed"] == "none"
    assert found["focusable"]
    assert found["has_focus"]


def test_the_blur_is_there_in_pixels(seen):
    """Neighbouring pixels of a drawn picture's upper third differ sharply somewhere, of a veiled one's nowhere; without
    its right quarter, where the mark of a failure is."""
    found, shot = seen

    def sharpness(left, top, width, height):
        part = shot[top + 4 : top + height // 3, left + 4 : left + 3 * width // 4]
        return int(np.abs(np.diff(part, axis=1)).max())

    if found["width"] == max(WIDTHS):  # on a phone the open picture lies further right, in the sheet's own scroll
        assert sharpness(*found["open_box"]) > 15
    assert sharpness(*found["veil_box"]) < 12
