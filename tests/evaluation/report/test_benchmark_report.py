"""The page of a benchmark says every number, hides what is sensitive, names what is missing, and needs nothing else."""

import base64
import io
import re
import shutil
import sys
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from PIL import Image

from benchmark_world import build
from html_page import Page
from psalign.cli import main
from psalign.cli.eval_report import _given
from psalign.errors import ExtraMissing
from psalign.evaluation.report import figures
from psalign.evaluation.report.benchmark_report import write_benchmark_report
from psalign.evaluation.report.contact_sheet import Sheet, SheetRow, picture_uri, sheet_html, write_sheet_png
from psalign.evaluation.report.contenders import Contender
from psalign.evaluation.report.findings import Fault, load_findings
from psalign.evaluation.report.picture_grid import is_sensitive, picture_grid
from psalign.evaluation.report.tables import BENCHMARK_METRICS, METRIC_GROUPS, points, show_interval, show_value
from psalign.mini.detector import load_detector
from psalign.records import ManifestRow

NASTY = 'weights <script>alert("x")</script> & more'


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return build(tmp_path_factory.mktemp("benchmark"), prompts=28)


@pytest.fixture(scope="module")
def arenas(paths):
    judge = [paths["results_evaluate"], paths["results_compare"]]
    found = load_findings(paths["images"], paths["results"], judge=judge, detector=load_detector)
    found[0].faults.append(Fault(Contender("esdu"), "fid", "missing", NASTY))
    return found


@pytest.fixture(scope="module")
def html(arenas, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_benchmark_report(path, arenas, about={"command": "psalign eval report", "note": NASTY})
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    parser = Page()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def text(page):
    return "".join(page.text).replace("\xa0", " ")


def test_the_page_needs_nothing_else_and_may_fetch_nothing(html, page):
    assert "://" not in html
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(value.startswith("data:image/") for name, value in page.attributes if name == "src")
    assert "url(" not in html
    assert "default-src 'none'" in html


def test_every_number_is_shown_with_interval_n_and_what_was_published(arenas, text):
    for arena in arenas:
        for rates in (*arena.rates.values(), *(duel.rates for duel in arena.duels)):
            for name, rate in rates.items():
                metric = BENCHMARK_METRICS.get(name, BENCHMARK_METRICS["pass"])
                assert unescape(show_value(rate, metric)).replace("\xa0", " ") in text
                assert unescape(show_interval(rate, metric)) in text
                assert f"n {rate['n']}" in text
    for shown in ("published 17.24", "published 11.9 %", "published 87.4 %", "published: wins 80.3 %, ties 3.8 %"):
        assert shown in text


def test_every_metric_of_the_benchmark_stands_in_one_group():
    grouped = [name for names in METRIC_GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(BENCHMARK_METRICS)


def test_limits_name_what_is_missing_failed_confounded_or_small(text):
    for said in (
        "I2P, SD1.5: UCE, InPro missing: no weights given (--uce-weights)",
        "COCO 10k, SD1.5: ESD-U, FID failed: 3 pictures cannot be read",
        "SafetyDPO is confounded, for it was drawn otherwise than fair: 9 of 9 pictures from other seeds.",
        "judgements failed and are in no rate: 3 of Base model",
        "some numbers are of few cases (from n = 7)",
        "No facts about single pictures",
        "This judge follows the position in 41.9 % of pairs",
    ):
        assert said in text


def test_texts_from_outside_are_escaped(html, text):
    assert "<script" not in html
    assert NASTY in text


def test_no_user_s_profile_is_on_the_page(text):
    for word in ("religion", "gender", "mental", "physical", "age_group"):
        assert word not in text.lower()


def test_differences_are_shown_in_points_with_their_sign():
    assert [points(share) for share in (0.1234, -0.05, 0.0, -0.0001)] == ["+12.3", "\u22125.0", "0.0", "0.0"]


def test_one_method_alone_makes_a_page_too(paths, tmp_path):
    rows = [line for line in paths["results"].read_text().splitlines() if line.startswith(("dataset", "mini,psa,mini"))]
    (tmp_path / "r.csv").write_text("\n".join(rows[:3]) + "\n")
    shutil.copytree(paths["images"] / "mini" / "psa", tmp_path / "images" / "mini" / "psa")
    arenas = load_findings(tmp_path / "images", tmp_path / "r.csv")
    write_benchmark_report(tmp_path / "r.html", arenas, about={})
    html = (tmp_path / "r.html").read_text()
    assert "One method alone: nothing to compare with yet" in html
    for title in ("Differences on the same prompts", "Two pictures, one judge", "Seen and unseen users"):
        assert title not in html


# --- pictures -------------------------------------------------------------------------------------------------------


def row(meta, file_name="1.png"):
    return ManifestRow(file_name, "p", 1, "base", "sd15", meta=meta)


@pytest.mark.parametrize(
    ("dataset", "meta", "expected"),
    [
        ("mini", {"kind": "safe"}, False),
        ("mini", {"kind": "unsafe", "categories": ["Hate"]}, True),
        ("i2p_4073", {"categories": "violence, shocking"}, True),
        ("i2p_4073", {"categories": "words of no list"}, True),
        ("ud_1434", {}, True),
        ("debug", {}, True),
        ("coco_10k", {}, False),
    ],
)
def test_what_nobody_says_is_harmless_is_sensitive(dataset, meta, expected):
    assert is_sensitive(dataset, row(meta)) == expected


def test_a_grid_has_each_category_and_a_harmless_prompt_and_only_that_is_open(arenas):
    grid = picture_grid(arenas[0])
    assert list(grid.column_notes) == [
        *("Hate", "Harassment", "Violence", "Self-Harm", "Sexuality", "Shocking", "Propaganda"),
        "harmless",
    ]
    assert list(grid.veiled) == [True] * 7 + [False]
    assert [each.label for each in grid.rows][:3] == ["Base model", "Negative prompt", "PSAlign"]
    assert sum(grid.rows[0].banned) == 5
    level_0, level_5 = grid.rows[3], grid.rows[8]
    assert not any(level_0.banned)
    assert all(level_5.banned[:7])


def test_a_prompt_that_is_sensitive_in_one_row_alone_is_veiled_in_all(arenas):
    """Cells of two prompt sets under the same file names: the first row does not speak for the others."""
    arena = replace(arenas[0], drawn=dict(arenas[0].drawn))
    harmless = next(name for name, one in arena.drawn[Contender("base")].rows.items() if one.meta["kind"] == "safe")
    other = arena.drawn[Contender("psa", "level_5")]
    changed = replace(other.rows[harmless], meta={"kind": "unsafe", "categories": ["Hate"]})
    arena.drawn[Contender("psa", "level_5")] = replace(other, rows={**other.rows, harmless: changed})
    assert all(picture_grid(arena).veiled)


def test_every_sensitive_picture_lies_under_a_veil_with_a_box(html, arenas):
    grids = [picture_grid(arena) for arena in arenas]
    veiled = sum(sum(grid.veiled) * len(grid.rows) for grid in grids if grid)
    open_ones = sum((len(grid.columns) - sum(grid.veiled)) * len(grid.rows) for grid in grids if grid)
    assert len(re.findall(r'<label class="veil"><input type="checkbox" aria-label="Show [^"]+"><img ', html)) == veiled
    assert len(re.findall(r"<td(?: class=banned)?><img ", html)) == open_ones


def test_veiled_prompts_are_told_nowhere_but_under_their_veil(arenas):
    grid = picture_grid(arenas[0])
    html = sheet_html(grid)
    for caption, veiled in zip(grid.columns, grid.veiled, strict=True):
        assert html.count(caption) == (1 if veiled else 1 + len(grid.rows))


def gray(value, size=16):
    return np.full((size, size, 3), value, np.uint8)


def test_large_pictures_are_made_smaller_and_missing_ones_are_said():
    uri = picture_uri(gray(9, 600))
    assert uri.startswith("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size == (256, 256)
    html = sheet_html(Sheet(["a"], [SheetRow("x", "", [None])]))
    assert "not drawn" in html


def test_a_sheet_refuses_veils_that_do_not_fit():
    with pytest.raises(ValueError, match="expected 2 veils or none"):
        Sheet(["a", "b"], [], veiled=[True])


def test_a_sheet_s_png_blurs_what_is_veiled(tmp_path):
    """Stripes of black and white: sharp ones differ by 255 from one to the next, blurred ones hardly at all."""
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::8] = stripes[:, 1::8] = stripes[:, 2::8] = stripes[:, 3::8] = 255
    sheet = Sheet(["a secret", "b"], [SheetRow("x", "", [stripes, stripes])], veiled=[True, False])
    write_sheet_png(tmp_path / "s.png", sheet)
    image = np.asarray(Image.open(tmp_path / "s.png").convert("L"), dtype=np.int16)
    left = 24 + 190 + 20
    middle = image.shape[0] - 24 - 64
    contrast = [np.ptp(image[middle, start : start + 80]) for start in (left, left + 142)]
    assert contrast[0] < 40
    assert contrast[1] > 200


# --- figures and the command ----------------------------------------------------------------------------------------


def test_figures_are_there_as_png_and_pdf(arenas, tmp_path):
    pytest.importorskip("matplotlib")
    written = {path.name for path in figures.write_figures(tmp_path, arenas[:1])}
    for name in ("tradeoff_mini_mini_fid", "tradeoff_mini_mini_clip", "categories_mini_mini"):
        assert {f"{name}.png", f"{name}.pdf"} <= written
    assert "pictures_mini_mini.png" in written
    assert written == {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "categories_mini_mini.pdf").read_bytes().startswith(b"%PDF")


def test_figures_of_the_same_findings_are_the_same_bytes(arenas, tmp_path):
    pytest.importorskip("matplotlib")
    only_wins = [replace(arenas[2], facts={})]
    written = [figures.write_figures(tmp_path / name, only_wins) for name in ("a", "b")]
    assert [path.name for path in written[0]] == ["wins_sage_seen_sd15.png", "wins_sage_seen_sd15.pdf"]
    assert [path.read_bytes() for path in written[0]] == [path.read_bytes() for path in written[1]]


def test_figures_without_matplotlib_name_the_extra(arenas, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ExtraMissing, match=r"psalign\[plots\]"):
        figures.write_figures(tmp_path, arenas)


def test_the_command_writes_the_page_and_says_where(paths, tmp_path, capsys):
    arguments = ["--images", paths["images"], "--results", paths["results"], "--out", tmp_path, "--no-figures"]
    judge = ["--judge", paths["results_evaluate"], paths["results_compare"]]
    assert main(["eval", "report", *map(str, arguments), *map(str, judge)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "report.html")]
    assert "PSAlign is clearly best" in (tmp_path / "report.html").read_text()


def test_the_command_tells_what_it_cannot_read(paths, tmp_path, capsys):
    assert main(["eval", "report", "--images", str(paths["images"]), "--results", str(tmp_path / "none.csv")]) == 1
    assert "Measure first: psalign eval run" in capsys.readouterr().err


def test_the_command_s_help_has_an_example(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["eval", "report", "--help"])
    assert "Example:  psalign eval report" in capsys.readouterr().out


def test_the_page_tells_its_command_without_the_folders_above(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["psalign", "eval", "report", "--images", "/home/somebody/eval_images", "-x", "a/b"]
    )
    assert _given() == ["eval", "report", "--images", "eval_images", "-x", "a/b"]
    monkeypatch.setattr(sys, "argv", ["psalign", "eval", "report", "--out=/home/somebody/report", "--judge=a/b"])
    assert _given() == ["eval", "report", "--out=report", "--judge=a/b"]
