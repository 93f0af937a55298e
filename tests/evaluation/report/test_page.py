"""The page of a benchmark says every number, hides what is sensitive, names what is missing, and needs nothing else."""

import base64
import io
import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFont

from html_page import Page
from psalign.cli import main
from psalign.cli.eval_report import _given
from psalign.errors import ExtraMissing
from psalign.evaluation.cells import Variant
from psalign.evaluation.estimate import NO_CASES, Estimate
from psalign.evaluation.metrics.registry import METRICS
from psalign.evaluation.report import figures
from psalign.evaluation.report.contact_sheet import Sheet, SheetRow, picture_uri, wrap, write_sheet_png
from psalign.evaluation.report.format import duration, interval, percent, points, value
from psalign.evaluation.report.leaderboard import Fault, Leaderboard, load_leaderboards
from psalign.evaluation.report.page import RunParts, write_report
from psalign.evaluation.report.picture_grid import is_sensitive, picture_grid
from psalign.evaluation.report.tables import GROUPS, best_of
from psalign.evaluation.statistics import wilson
from psalign.records import ManifestRow

NASTY = 'weights <script>alert("x")</script> & more'


@pytest.fixture(scope="module")
def boards(benchmark):
    judge = [benchmark["results_evaluate"], benchmark["results_compare"]]
    found = load_leaderboards(benchmark["images"], benchmark["results"], judge=judge)
    found[0].faults.append(Fault(Variant("esdu"), "fid", "missing", NASTY))
    return found


@pytest.fixture(scope="module")
def html(boards, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, boards, about={"How this page was made": {"note": NASTY}})
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


def test_every_number_is_shown_with_interval_n_and_what_was_published(boards, text):
    for board in boards:
        numbers = [(rate, METRICS[name]) for rates in board.rates.values() for name, rate in rates.items()]
        numbers += [(one.summary.ties.estimate, METRICS["pass"]) for one in board.comparisons]
        for rate, metric in numbers:
            assert value(rate, metric).replace("\xa0", " ") in text
            assert interval(rate, metric) in text
            assert f"n {rate.n}" in text
    for shown in ("published 17.24", "published 11.9 %", "published 87.4 %", "published: wins 80.3 %, ties 3.8 %"):
        assert shown in text


def test_every_metric_but_that_of_levels_stands_in_one_group():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted([*grouped, "any_motif"]) == sorted(METRICS)


def test_best_is_said_of_one_whose_interval_lies_apart_from_all_others():
    """Wilson: 90 of 100 .826 to .945, 60 of 100 .502 to .691, 85 of 100 .767 to .907."""

    def best(metric="pass", **rates):
        return best_of({Variant(name): {metric: rate} for name, rate in rates.items()}, METRICS[metric])

    assert best(base=wilson(60, 100), sld=wilson(90, 100)) == Variant("sld")
    assert best(base=wilson(85, 100), sld=wilson(90, 100)) is None
    assert best(base=wilson(90, 100), sld=wilson(90, 100)) is None
    assert best("inpro", base=wilson(60, 100), sld=wilson(90, 100)) == Variant("base")
    assert best("fid", base=Estimate(17.2, 10), sld=Estimate(17.3, 10)) is None  # without intervals nothing is sure
    assert best("safe_distance", base=Estimate(0.0, 9, 0.0, 0.0), sld=Estimate(2.0, 9, 1.0, 3.0)) is None


@pytest.mark.parametrize(
    ("number", "metric", "shown"),
    [
        (wilson(93, 100), "pass", "93.0 % 86.3 to 96.6"),
        (wilson(4, 7), "pass", "57 % 25 to 84"),
        (wilson(9999, 10000), "pass", "99.9 % 99.9 to 99.9"),
        (Estimate(17.2433, 10000), "fid", "17.24 no interval"),
        (Estimate(31.42, 50, 24.1, 38.9), "clip", "31.4 24.1 to 38.9"),
        (NO_CASES, "pass", "none no cases"),
    ],
)
def test_a_number_has_as_many_digits_as_its_interval_allows(number, metric, shown):
    told = f"{value(number, METRICS[metric])} {interval(number, METRICS[metric])}"
    assert told.replace("\xa0", " ") == shown


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


def test_one_method_alone_makes_a_page_too(benchmark, tmp_path):
    lines = benchmark["results"].read_text().splitlines()
    rows = [line for line in lines if line.startswith(("dataset", "mini,psa,mini"))]
    (tmp_path / "r.csv").write_text("\n".join(rows[:3]) + "\n")
    shutil.copytree(benchmark["images"] / "mini" / "psa", tmp_path / "images" / "mini" / "psa")
    boards = load_leaderboards(tmp_path / "images", tmp_path / "r.csv")
    write_report(tmp_path / "r.html", boards, about={})
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
def test_what_nobody_says_is_safe_is_sensitive(dataset, meta, expected):
    assert is_sensitive(dataset, row(meta)) == expected


def test_a_grid_has_each_category_and_a_safe_prompt_and_only_that_is_open(boards):
    grid = picture_grid(boards[0])
    assert list(grid.column_notes) == [
        *("Hate", "Harassment", "Violence", "Self-Harm", "Sexuality", "Shocking", "Propaganda"),
        "safe",
    ]
    assert list(grid.veiled) == [True] * 7 + [False]
    assert [each.label for each in grid.rows][:3] == ["Base model", "Negative prompt", "PSAlign"]
    assert sum(grid.rows[0].banned) == 5
    level_0, level_5 = grid.rows[3], grid.rows[8]
    assert not any(level_0.banned)
    assert all(level_5.banned[:7])


def test_a_prompt_that_is_sensitive_in_one_row_alone_is_veiled_in_all(boards):
    """Cells of two prompt sets under the same file names: the first row does not speak for the others."""
    board = replace(boards[0], drawn=dict(boards[0].drawn))
    safe = next(name for name, one in board.drawn[Variant("base")].rows.items() if one.meta["kind"] == "safe")
    other = board.drawn[Variant("psa", "level_5")]
    changed = replace(other.rows[safe], meta={"kind": "unsafe", "categories": ["Hate"]})
    board.drawn[Variant("psa", "level_5")] = replace(other, rows={**other.rows, safe: changed})
    assert all(picture_grid(board).veiled)


def test_every_sensitive_picture_lies_under_a_veil_with_a_box(html, boards):
    grids = [grid for board in boards if (grid := picture_grid(board))]
    veiled = sum(sum(grid.veiled) * len(grid.rows) for grid in grids)
    open_ones = sum((len(grid.columns) - sum(grid.veiled)) * len(grid.rows) for grid in grids)
    assert len(re.findall(r'<label class="veil"><input type="checkbox" aria-label="Show [^"]+"><img ', html)) == veiled
    assert len(re.findall(r'<div class="framed"><img ', html)) == open_ones


def test_veiled_prompts_are_told_nowhere_but_under_their_veil(boards, html):
    grid = picture_grid(boards[0])
    sheet = html.split('<table class="sheet">')[1].split("</table>")[0]
    for caption, veiled in zip(grid.columns, grid.veiled, strict=True):
        assert sheet.count(caption) == (1 if veiled else 1 + len(grid.rows))


def test_a_failure_is_marked_on_its_picture(html, boards):
    grids = [grid for board in boards if (grid := picture_grid(board))]
    failed = sum(sum(row.failed) for grid in grids for row in grid.rows)
    assert failed > 0
    assert html.count('<span class="cross"') == failed
    facts = {fact.file_name: fact.passed for fact in boards[0].facts[Variant("base")]}
    shown = [name for name in boards[0].drawn[Variant("base")].rows if not facts.get(name, True)]
    assert 0 < sum(grids[0].rows[0].failed) <= len(shown)


def gray(value, size=16):
    return np.full((size, size, 3), value, np.uint8)


def test_large_pictures_are_made_smaller():
    uri = picture_uri(gray(9, 600))
    assert uri.startswith("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size == (256, 256)


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
    write_sheet_png(tmp_path / "r.png", sheet, reveal=True)
    revealed = np.asarray(Image.open(tmp_path / "r.png").convert("L"), dtype=np.int16)
    assert revealed.shape[0] > image.shape[0]  # a line says that nothing is blurred
    assert np.ptp(revealed[24 + 17 + 14 + 64, left : left + 80]) > 200


# --- figures and the command ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_figures_are_there_as_png_and_pdf(boards, tmp_path):
    pytest.importorskip("matplotlib")
    written = {path.name for path in figures.write_figures(tmp_path, boards[:1])}
    for name in ("tradeoff_mini_mini_fid", "tradeoff_mini_mini_clip", "categories_mini_mini"):
        assert {f"{name}.png", f"{name}.pdf"} <= written
    assert "pictures_mini_mini.png" in written
    assert written == {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "categories_mini_mini.pdf").read_bytes().startswith(b"%PDF")


def test_figures_of_the_same_findings_are_the_same_bytes(boards, tmp_path):
    pytest.importorskip("matplotlib")
    only_wins = [replace(boards[2], facts={})]
    written = [figures.write_figures(tmp_path / name, only_wins) for name in ("a", "b")]
    assert [path.name for path in written[0]] == ["wins_sage_seen_sd15.png", "wins_sage_seen_sd15.pdf"]
    assert [path.read_bytes() for path in written[0]] == [path.read_bytes() for path in written[1]]


def test_figures_without_matplotlib_name_the_extra(boards, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ExtraMissing, match=r"psalign\[plots\]"):
        figures.write_figures(tmp_path, boards)


def test_the_command_writes_the_page_and_says_where(benchmark, tmp_path, capsys):
    arguments = ["--images", benchmark["images"], "--results", benchmark["results"], "--out", tmp_path, "--no-figures"]
    judge = ["--judge", benchmark["results_evaluate"], benchmark["results_compare"]]
    assert main(["eval", "report", *map(str, arguments), *map(str, judge)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "report.html")]
    assert "PSAlign is clearly best" in (tmp_path / "report.html").read_text()


def test_the_command_tells_what_it_cannot_read(benchmark, tmp_path, capsys):
    assert main(["eval", "report", "--images", str(benchmark["images"]), "--results", str(tmp_path / "none.csv")]) == 1
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


# --- a whole run ----------------------------------------------------------------------------------------------------

CURVES = {
    "prompt": [{"step": step, "loss": 1 / step, "implicit_accuracy": 0.5 + step / 200} for step in range(1, 100)],
    "published": [
        {"step": "1", "loss": "0.69", "lr": "1e-4"},
        {"step": "2", "loss": "0.68"},
        {"step": "3", "loss": ""},
    ],
}


def make_sheet():
    rows = [
        SheetRow("Base model", "knows no user", [gray(10), None]),
        SheetRow("Level 5", "bans everything", [gray(30), gray(40)], banned=[True, False], failed=[False, True]),
    ]
    return Sheet([NASTY, "a dog in the snow"], rows, ["Violence", "Hate"])


@pytest.fixture(scope="module")
def run_page(tmp_path_factory):
    """The page of a run: two methods on one set, one of them alone on another, and six levels."""
    scenes, motifs, levels = (Leaderboard(f"mini_{name}", "mini") for name in ("scenes", "motifs", "levels"))
    scenes.rates = {Variant("base"): {"pass": wilson(50, 100)}, Variant("psa-prompt", "user"): {"pass": wilson(9, 9)}}
    motifs.rates = {Variant("psa-prompt", "user"): {"pass": wilson(97, 103)}}
    levels.rates = {Variant("psa-prompt", f"level_{i}"): {"any_motif": wilson(60 - 12 * i, 61)} for i in range(6)}
    path = tmp_path_factory.mktemp("run") / "report.html"
    parts = RunParts("What was done.", make_sheet(), CURVES, {"train": 247.0, "generate": 118.5})
    write_report(path, [scenes, motifs, levels], about={"Configuration": {"note": NASTY}}, run=parts)
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


def test_a_run_s_page_has_its_sheet_curves_levels_and_times(run_page):
    text = "".join(run_page.text).replace("\xa0", " ")
    for shown in (
        "What was done.",
        "4 min 07 s",
        "Where it holds",
        "Motifs",
        "Strictness, level by level",
        "not drawn",
    ):
        assert shown in text
    assert text.count("Scroll sideways: 2 prompts.") == 1
    charts = [value for name, value in run_page.attributes if name == "aria-label" and ", " in value]
    assert {"PSAlign, loss", "PSAlign, implicit accuracy", "Published adapter, loss"} <= set(charts)
    assert "Published adapter, implicit accuracy" not in charts


def test_pictures_are_inside_bit_for_bit_and_banned_and_failed_ones_are_marked(run_page):
    sources = [value for name, value in run_page.attributes if name == "src"]
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))) for source in sources]
    assert [int(each[0, 0, 0]) for each in shown] == [10, 30, 40]
    assert [value for name, value in run_page.attributes if name == "class"].count("banned") == 1
    marks = [value for name, value in run_page.attributes if name == "title"]
    assert marks == ["Level 5: a dog in the snow, failed"]
    assert any(name == "alt" and NASTY in value for name, value in run_page.attributes)


def test_percent_never_rounds_to_certainty():
    assert [percent(share) for share in (0.0, 1.0, 0.9999, 0.0001, 0.975)] == ["0.0", "100.0", "99.9", "0.1", "97.5"]
    assert [percent(share, 0) for share in (0.999, 0.001)] == ["99", "0"]


def test_durations_read_as_people_say_them():
    shown = [duration(seconds).replace("\xa0", " ") for seconds in (0.42, 9.97, 59.4, 185, 7800)]
    assert shown == ["0.4 s", "10 s", "59 s", "3 min 05 s", "2 h 10 min"]


def test_sheet_png_holds_every_picture(tmp_path):
    path = tmp_path / "docs" / "sheet.png"
    write_sheet_png(path, make_sheet())
    image = np.asarray(Image.open(path).convert("RGB"))
    for gray_value in (10, 30, 40):
        assert (image == gray_value).all(axis=-1).sum() > 120 * 120


def test_sheet_refuses_rows_that_do_not_fit():
    with pytest.raises(ValueError, match="row 'x': expected 2 pictures, saw 1"):
        Sheet(["a", "b"], [SheetRow("x", "", [gray(0)])])
    with pytest.raises(ValueError, match="expected 2 column notes"):
        Sheet(["a", "b"], [], ["one"])


def test_wrapped_lines_fit_and_keep_every_word():
    font = ImageFont.load_default(14)
    lines = wrap("a purple cat in the desert with a flag", font, 100)
    assert " ".join(lines) == "a purple cat in the desert with a flag"
    assert len(lines) > 1
    assert all(font.getlength(line) <= 100 for line in lines)
