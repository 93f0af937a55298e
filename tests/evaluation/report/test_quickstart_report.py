import base64
import io
import re
from dataclasses import asdict
from html import unescape

import numpy as np
import pytest
from PIL import Image, ImageFont

from html_page import Page
from psalign.evaluation.report.charts import curve_chart, nice_ticks
from psalign.evaluation.report.contact_sheet import wrap
from psalign.evaluation.report.quickstart_report import Sheet, SheetRow, flatten, write_report, write_sheet_png
from psalign.evaluation.report.tables import METRICS, duration, percent
from psalign.evaluation.statistics import mean_distance, mean_rate, wilson
from taxonomies import CATEGORIES

NASTY = 'a cat & <script>alert("x")</script>'


def method_metrics(seed):
    random = np.random.default_rng(seed)
    suppressed, kept, subject, harmless = (wilson(int(random.integers(1, 211)), 211) for _ in range(4))
    metrics = {"suppressed": suppressed, "kept": kept, "pass": mean_rate([suppressed, kept]), "subject_kept": subject}
    metrics |= {"harmless_subject": harmless, "harmless_distance": mean_distance(random.uniform(0, 9, 50).tolist())}
    return {name: asdict(metric) for name, metric in metrics.items()}


def tables(seed):
    return {method: method_metrics(seed + number) for number, method in enumerate(("base", "published", "prompt"))}


def make_metrics():
    sides = ("suppressed", "kept", "pass")
    return {
        "methods": tables(0),
        "levels": {str(level): asdict(wilson(60 - 12 * level, 61)) for level in range(6)},
        "suites": {"scenes": tables(0), "wordings": tables(10), "two_motifs": {}, "motifs": tables(20)},
        "categories": {
            category: {name: {side: rates[side] for side in sides} for name, rates in tables(30 + number).items()}
            for number, category in enumerate(CATEGORIES)
        },
        "users": {"seen": tables(50), "unseen": tables(0)},
        "seconds": {"train": 247.0, "generate": 118.5},
        "config": {"preset": "quickstart", "note": NASTY},
        "versions": {"torch": "2.13.0"},
    }


def picture(value=0, size=16):
    return np.full((size, size, 3), value, np.uint8)


def make_sheet():
    rows = [
        SheetRow("Base model", "knows no user", [picture(10), picture(20)]),
        SheetRow("Level 5", "bans everything", [picture(30), picture(40)], banned=[True, False], new_group=True),
    ]
    return Sheet([NASTY, "a dog in the snow"], rows, ["Violence", "Hate"])


CURVES = {
    "prompt": [{"step": step, "loss": 1 / step, "implicit_accuracy": 0.5 + step / 200} for step in range(1, 100)],
    "published": [
        {"step": "1", "loss": "0.69", "lr": "1e-4"},
        {"step": "2", "loss": "0.68"},
        {"step": "3", "loss": ""},
    ],
}


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, metrics=make_metrics(), sheet=make_sheet(), curves=CURVES)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    parser = Page()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_needs_nothing_else(html, page):
    assert "://" not in html
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(value.startswith("data:image/png;base64,") for name, value in page.attributes if name == "src")
    assert "@import" not in html
    assert "url(" not in html


def test_every_number_is_shown_with_its_interval_and_n(page):
    text = "".join(page.text)
    for _, _, name, rate in flatten(make_metrics()):
        if name in METRICS and not METRICS[name].percent:
            value, low, high = (f"{rate[key]:.2f}" for key in ("value", "low", "high"))
        else:
            value, low, high = (percent(rate[key]) for key in ("value", "low", "high"))
        assert value in text
        assert f"{low} to {high}" in text
        assert str(rate["n"]) in text
    assert "4 min 07 s" in unescape(text).replace("\xa0", " ")


def test_flatten_reaches_every_number():
    """3 methods x 6 metrics in the headline, in 3 suites and for 2 kinds of users; 7 categories x 3 x 3; 6 levels."""
    assert len(list(flatten(make_metrics()))) == 18 * (1 + 3 + 2) + 63 + 6


def test_texts_from_outside_are_escaped(html, page):
    assert "<script" not in html
    assert NASTY in "".join(page.text)
    assert any(name == "alt" and NASTY in value for name, value in page.attributes)


def test_pictures_are_inside_bit_for_bit_and_banned_ones_are_marked(html, page):
    sources = [value for name, value in page.attributes if name == "src"]
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))) for source in sources]
    assert [int(each[0, 0, 0]) for each in shown] == [10, 20, 30, 40]
    assert html.count("<td class=banned>") == 1


def test_narrow_screens_and_dark_mode_have_their_styles(html):
    assert "@media (max-width: 760px)" in html
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html


def test_best_values_are_marked_and_ties_are_not(tmp_path):
    metrics = {"methods": tables(0)}
    for rates in metrics["methods"].values():
        rates["harmless_subject"] = asdict(wilson(5, 5))
    metrics["methods"]["published"]["pass"] = asdict(wilson(211, 211))
    write_report(tmp_path / "r.html", metrics=metrics, sheet=make_sheet(), curves={})
    html = (tmp_path / "r.html").read_text()
    rows = dict(re.findall(r'<th scope="row">([A-Z][A-Za-z ]+)<span class="note">.*?</span></th>(.*?)</tr>', html))
    assert '<td data-label="Pass" class="best">' in rows["Published adapter"]
    assert '<td data-label="Pass" class="best">' not in rows["PSAlign"]
    assert '<td data-label="Harmless" class="best">' not in html
    assert '<td data-label="Distance" class="best">' not in rows["Base model"]


def test_what_was_not_measured_is_left_out(tmp_path):
    metrics = {"methods": {"mine": method_metrics(1)}}
    metrics["methods"]["mine"]["kept"] = asdict(wilson(0, 0))
    write_report(tmp_path / "r.html", metrics=metrics, sheet=make_sheet(), curves={})
    html = (tmp_path / "r.html").read_text()
    assert "no cases" in html
    for title in ("Strictness, level by level", "Training", "How long each part took", "Configuration"):
        assert title not in html


def test_curves_are_charts_for_what_was_logged(page):
    charts = [value for name, value in page.attributes if name == "aria-label" and ", " in value]
    assert "PSAlign, loss" in charts
    assert "PSAlign, implicit accuracy" in charts
    assert "Published adapter, loss" in charts
    assert "Published adapter, implicit accuracy" not in charts


def test_curve_chart_survives_a_flat_and_a_short_curve():
    assert "nan" not in curve_chart([(0, 1.0), (1, 1.0)], title="flat")
    assert "nan" not in curve_chart([(5, 0.0), (5, 0.0), (5, 0.0)], title="one step")


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (0.53, 0.74, [0.5, 0.6, 0.7, 0.8]), (0, 700, [0, 200, 400, 600, 800])],
)
def test_ticks_are_round_numbers_that_enclose_the_range(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_percent_never_rounds_to_certainty():
    assert [percent(share) for share in (0.0, 1.0, 0.9999, 0.0001, 0.975)] == ["0.0", "100.0", "99.9", "0.1", "97.5"]


def test_durations_read_as_people_say_them():
    shown = [duration(seconds).replace("&nbsp;", " ") for seconds in (0.42, 9.97, 59.4, 185, 7800)]
    assert shown == ["0.4 s", "10 s", "59 s", "3 min 05 s", "2 h 10 min"]


def test_sheet_png_holds_every_picture(tmp_path):
    path = tmp_path / "docs" / "sheet.png"
    write_sheet_png(path, make_sheet())
    image = np.asarray(Image.open(path).convert("RGB"))
    for value in (10, 20, 30, 40):
        assert (image == value).all(axis=-1).sum() > 120 * 120


def test_sheet_refuses_rows_that_do_not_fit():
    with pytest.raises(ValueError, match="row 'x': expected 2 pictures, saw 1"):
        Sheet(["a", "b"], [SheetRow("x", "", [picture()])])
    with pytest.raises(ValueError, match="expected 2 column notes"):
        Sheet(["a", "b"], [], ["one"])


def test_wrapped_lines_fit_and_keep_every_word():
    font = ImageFont.load_default(14)
    lines = wrap("a purple cat in the desert with a flag", font, 100)
    assert " ".join(lines) == "a purple cat in the desert with a flag"
    assert len(lines) > 1
    assert all(font.getlength(line) <= 100 for line in lines)
