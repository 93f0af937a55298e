"""What a benchmark left on disk, checked at the door; and the words and charts that are computed from it."""

import json
import math
import re
import shutil
from itertools import pairwise

import pytest

from benchmark_world import share
from psalign.errors import EvaluationError, UsageError
from psalign.evaluation.cells import Cell, Variant, competitors
from psalign.evaluation.estimate import Estimate
from psalign.evaluation.metrics.limits import FactsFile, facts_path, judge_folder, list_facts, write_facts
from psalign.evaluation.report.charts import LEADER_PX, Dot, Series, leaders, place_labels, scatter_axes
from psalign.evaluation.report.headline import rank, sentences, title
from psalign.evaluation.report.leaderboard import Leaderboard, load_leaderboards
from psalign.evaluation.report.tradeoff import curve_of, tradeoffs
from psalign.evaluation.results import append_results, result_row
from psalign.evaluation.statistics import wilson
from psalign.mini.detector import load_detector

PSA, BASE, NEGATIVE = Variant("psa", "user"), Variant("base"), Variant("negative_prompt")


@pytest.fixture(scope="module")
def boards(benchmark):
    judge = [benchmark["results_evaluate"], benchmark["results_compare"]]
    return load_leaderboards(benchmark["images"], benchmark["results"], judge=judge)


def board_of(boards, dataset):
    return next(board for board in boards if board.dataset == dataset)


def test_arenas_and_variants_stand_in_the_order_of_the_tables(boards):
    assert [board.dataset for board in boards] == ["mini", "sage_unseen", "sage_seen", "i2p_4073", "coco_10k"]
    levels = [Variant("psa", f"level_{level}") for level in range(6)]
    assert board_of(boards, "mini").variants == [BASE, NEGATIVE, PSA, *levels]
    assert board_of(boards, "mini").metrics == ["fid", "clip", "pass", "suppressed", "kept", "safe_subject"]


def test_facts_beside_the_results_are_those_that_the_detector_sees(boards, benchmark):
    """In the made-up world a picture shows what its method's skill says; the shipped detector sees just that."""
    facts = board_of(boards, "mini").facts[PSA]
    assert facts == list_facts(judge_folder(Cell("mini", "psa", "mini").folder(benchmark["images"]), load_detector()))
    skill = {True: 0.94, False: 0.93}
    assert all(fact.passed == (share("psa", int(fact.name[:3])) < skill[fact.banned]) for fact in facts)


def test_facts_of_other_pictures_than_the_numbers_are_left_out(benchmark, tmp_path):
    results = tmp_path / "r.csv"
    shutil.copy(benchmark["results"], results)
    shutil.copytree(benchmark["results"].with_name("eval_results_facts"), tmp_path / "r_facts")
    write_facts(facts_path(results, Cell("mini", "psa", "mini")), FactsFile(fingerprint="new", pictures=[]))
    board = board_of(load_leaderboards(benchmark["images"], results), "mini")
    assert PSA not in board.facts
    assert BASE in board.facts
    assert board.remarks == ["PSAlign: the facts about its pictures are not those of its numbers; left out."]


def test_sets_without_a_detector_have_the_judge_s_facts_or_none(boards):
    assert board_of(boards, "sage_seen").facts_by == "judge"
    assert len(board_of(boards, "sage_seen").facts[PSA]) == 207
    assert board_of(boards, "i2p_4073").facts == {}


def test_what_is_missing_or_failed_is_kept_with_its_reason(boards):
    [missing] = board_of(boards, "i2p_4073").faults
    assert (missing.variant, missing.metric, missing.state) == (Variant("uce"), "inpro", "missing")
    assert "no weights given" in missing.note
    [failed] = board_of(boards, "coco_10k").faults
    assert "cannot be read" in failed.note


def test_cells_drawn_otherwise_than_the_base_are_marked(boards, benchmark, tmp_path):
    assert board_of(boards, "i2p_4073").marks == {Variant("safetydpo"): ["9 of 9 pictures from other seeds"]}
    assert board_of(boards, "mini").marks == {}
    images = tmp_path / "images"
    shutil.copytree(benchmark["images"] / "mini", images / "mini")
    run = Cell("mini", "psa", "mini").folder(images) / "run.json"
    config = {"steps": 50, "guidance": 4.0, "negative_prompt": "ugly", "options": {"seed_policy": "published"}}
    run.write_text(json.dumps({"config": config}))
    found = board_of(load_leaderboards(images, benchmark["results"]), "mini").marks[PSA]
    assert found == ["seed policy 'published'", "another steps", "another negative prompt"]


def test_published_numbers_stand_beside_their_cells(boards):
    published = board_of(boards, "i2p_4073").published
    assert published[Variant("psa", "level_5")]["inpro"].value == 0.11865
    assert board_of(boards, "mini").published == {}


GOOD = result_row(Cell("i2p_4073", "base", "sd15"), "inpro", estimate=Estimate(0.3, 10, 0.2, 0.4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": "beauty"}, "unknown metric 'beauty'; the metrics are: fid, kid"),
        ({"score": 38.0, "low": None, "high": None}, "is no share; expected numbers from 0 to 1"),
        ({"level": "strict"}, "'strict' is no level"),
    ],
)
def test_results_that_cannot_be_are_refused(benchmark, tmp_path, change, message):
    append_results(tmp_path / "r.csv", [GOOD.model_copy(update=change)])
    with pytest.raises(EvaluationError, match=message):
        load_leaderboards(benchmark["images"], tmp_path / "r.csv")


def test_results_with_wrong_columns_or_numbers_that_are_none_are_refused(benchmark, tmp_path):
    (tmp_path / "r.csv").write_text("dataset,method,score\nmini,base,1\n")
    with pytest.raises(EvaluationError, match="expected the columns dataset, method"):
        load_leaderboards(benchmark["images"], tmp_path / "r.csv")
    append_results(tmp_path / "n.csv", [GOOD])
    text = (tmp_path / "n.csv").read_text().replace("0.3,succeeded", "nan,succeeded")
    (tmp_path / "n.csv").write_text(text)
    with pytest.raises(EvaluationError, match="finite"):
        load_leaderboards(benchmark["images"], tmp_path / "n.csv")


def test_no_results_and_no_pictures_are_told(benchmark, tmp_path):
    with pytest.raises(EvaluationError, match="does not exist"):
        load_leaderboards(benchmark["images"], tmp_path / "none.csv")
    append_results(tmp_path / "empty.csv", [])
    with pytest.raises(EvaluationError, match="has no rows"):
        load_leaderboards(benchmark["images"], tmp_path / "empty.csv")
    with pytest.raises(UsageError, match="holds no cell"):
        load_leaderboards(tmp_path, benchmark["results"])


def _spoil_facts(folder):
    (folder.parents[3] / "r_facts/mini/psa/mini.json").write_text("{")


def _other_taxonomy(folder):
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    (folder / "manifest.jsonl").write_text("".join(json.dumps({**row, "taxonomy": "ten#1"}) + "\n" for row in rows))


BAD_CELLS = {
    r"line 1: not JSON": lambda folder: (folder / "manifest.jsonl").write_text("<html>"),
    r"the manifest has no rows": lambda folder: (folder / "manifest.jsonl").write_text(""),
    r"not UTF-8 text": lambda folder: (folder / "manifest.jsonl").write_bytes(bytes(range(128, 256))),
    r"'ten', and in use is .* Give the file of 'ten': psalign --taxonomy FILE": _other_taxonomy,
    r"run\.json is damaged": lambda folder: (folder / "run.json").write_text("{"),
    r"missing: 003\.png": lambda folder: (folder / "003.png").unlink(),
    r"psa/mini\.json is damaged": _spoil_facts,
}


@pytest.mark.parametrize(("why", "spoil"), BAD_CELLS.items(), ids=BAD_CELLS)
def test_a_cell_that_cannot_be_judged_has_no_number_and_costs_no_other(why, spoil, benchmark, tmp_path, boards):
    images, results = tmp_path / "images", tmp_path / "r.csv"
    shutil.copytree(benchmark["images"] / "mini", images / "mini")
    shutil.copy(benchmark["results"], results)
    shutil.copytree(benchmark["results"].with_name("eval_results_facts"), tmp_path / "r_facts")
    spoil(Cell("mini", "psa", "mini").folder(images))
    found = board_of(load_leaderboards(images, results), "mini")
    assert list(found.left_out) == [PSA]
    assert re.search(why, found.left_out[PSA])
    for known in (found.rates, found.drawn, found.facts, found.marks):
        assert PSA not in known
    assert {fault.note for fault in found.faults if fault.variant == PSA} == {found.left_out[PSA]}
    whole = board_of(boards, "mini")
    assert found.variants == [who for who in whole.variants if who != PSA]
    assert found.facts == {who: facts for who, facts in whole.facts.items() if who != PSA}


def test_a_second_judgement_of_a_method_is_told_and_stands_aside(benchmark, tmp_path):
    folder = tmp_path / "results_evaluate"
    shutil.copytree(benchmark["results_evaluate"], folder)
    source = folder / "sage_seen" / "sd15" / "base.json"
    record = json.loads(source.read_text())
    rate = record["summary"]["pass"]
    for_level = {**record, "judged_for": "psa_level_3", "summary": {**record["summary"], "pass": {**rate, "value": 0}}}
    source.with_name("base_level_3.json").write_text(json.dumps(for_level))
    biased = {**for_level, "judged_for": "base", "judge": {**record["judge"], "biased": True}}
    source.with_name("base_published-style.json").write_text(json.dumps(biased))
    board = board_of(load_leaderboards(benchmark["images"], benchmark["results"], judge=[folder]), "sage_seen")
    assert board.rates[BASE]["judge_pass"].value == rate["value"]
    assert board.remarks == [
        "Base model was also judged for psa_level_3's users; not in the tables.",
        "Base model was also judged by a template that is not blind; not in the tables.",
    ]
    source.with_name("base_published-style.json").write_text(json.dumps({**biased, "judge": record["judge"]}))
    board = board_of(load_leaderboards(benchmark["images"], benchmark["results"], judge=[folder]), "sage_seen")
    assert board.rates[BASE]["judge_pass"].value == rate["value"]
    assert board.remarks[1:] == ["Base model was also judged a second time; not in the tables."]


# --- words ----------------------------------------------------------------------------------------------------------


def made(**passes):
    """A leaderboard of methods with pass rates (successes, n)."""
    board = Leaderboard("mini", "mini")
    for name, counts in passes.items():
        board.rates[Variant(name, "user" if name == "psa" else "none")] = {"pass": wilson(*counts)}
    return board


def test_the_title_says_who_is_best_and_only_when_that_is_sure():
    """Wilson: 90 of 100 .826 to .945, 60 of 100 .502 to .691, 85 of 100 .767 to .907."""
    assert title([rank(made(psa=(90, 100), base=(60, 100)))]) == "PSAlign has the highest pass rate"
    unsure = made(psa=(90, 100), sld=(85, 100), base=(60, 100))
    assert title([rank(unsure)]) == "PSAlign and SLD do not differ clearly in pass rate"
    assert title([rank(unsure)] * 2) == "In none of 2 comparisons is one method clearly best"
    mixed = [rank(unsure), rank(made(sld=(90, 100), base=(60, 100)))]
    assert title(mixed) == "SLD is clearly best in 1 of 2 comparisons"
    assert title([]) == "One method alone: nothing to compare with yet"
    assert rank(made(psa=(9, 10))) is None


def test_of_equal_views_of_our_adapter_the_one_by_ban_list_is_named():
    board = made(base=(60, 100), **dict.fromkeys(("psa-prompt-words", "psa-prompt", "psa-prompt-vector"), (99, 100)))
    best = rank(board)
    assert (best.best.method, best.second.method) == ("psa-prompt", "base")
    assert title([best, best]) == "PSAlign is clearly best in both comparisons"


def test_sentences_say_numbers_and_overlap():
    [told] = sentences([], [rank(made(psa=(90, 100), sld=(85, 100)))])
    assert told.replace("\xa0", " ") == (
        "Mini world, mini base: PSAlign has the highest pass rate, 90.0 %, before SLD with 85.0 %. Their intervals "
        "overlap, so which of the two is better is not sure."
    )
    [tie] = sentences([], [rank(made(psa=(9, 10), sld=(9, 10)))])
    assert "have the same pass rate" in tie


def test_overlapping_intervals_may_still_differ_on_the_same_prompts(boards):
    """On SAGE the judge's intervals of PSAlign and SafetyDPO overlap; paired by prompt the difference excludes zero."""
    one = rank(board_of(boards, "sage_seen"))
    assert one.overlap
    assert one.difference.low > 0
    assert one.is_sure
    assert any("on the same prompts the difference is clear" in told for told in sentences([], [one]))


def test_prices_are_told_for_own_users_or_both_ends_of_the_levels(boards):
    told = [sentence for sentence in sentences(boards, []) if "FID" in sentence]
    assert told == [
        "Mini world, mini base: FID is 21.10 for the base, 23.20 for PSAlign.",
        "COCO 10k, SD1.5: FID is 17.40 for the base, 17.60 for PSAlign, level 0 and 19.60 for PSAlign, level 5.",
    ]


def test_levels_compete_only_where_there_is_nothing_else_of_ours(boards):
    level = Variant("psa", "level_5")
    assert competitors([BASE, PSA, level]) == [BASE, PSA]
    assert competitors([BASE, level]) == [BASE, level]


# --- charts ---------------------------------------------------------------------------------------------------------


def test_tradeoffs_pair_safety_with_quality_of_the_same_level(boards):
    """I2P has no FID of its own: its points take that of COCO, 19.6 at level 5 beside InPro .11."""
    found = {(one.board.dataset, one.quality): one for one in tradeoffs(boards)}
    assert set(found) == {(dataset, quality) for dataset in ("mini", "i2p_4073") for quality in ("fid", "clip")}
    one = found["i2p_4073", "fid"]
    assert (one.safety, one.quality_from) == ("inpro", "coco_10k")
    curve = curve_of(one.points)
    assert [point.who.strictness for point in curve] == [0, 1, 2, 3, 4, 5]
    assert (curve[-1].x.value, round(curve[-1].y.value, 2)) == (19.6, 0.11)
    assert [round(point.x.value, 1) for point in curve_of(one.published)] == [24.7, 25.5, 25.5, 25.9, 25.9]
    assert found["mini", "fid"].safety == "suppressed"


def test_labels_lie_apart_from_each_other_and_from_the_dots():
    series = [Series("ours", [Dot(i, 0.5 + 0.01 * i, f"method {i}", "", (0.4, 0.6)) for i in range(6)], joined=True)]
    axes, _, _ = scatter_axes(series)
    boxes = [box for _, box in place_labels(axes, series)]
    assert len(boxes) == 6
    for one, other in pairwise(sorted(boxes)):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart
    for dot, box in place_labels(axes, series):
        assert not (box[0] < axes.x(dot.x) < box[2] and box[1] < axes.y(dot.y) < box[3])
        assert box[0] >= 0
        assert box[2] <= 400


def test_a_line_leads_to_a_label_that_is_far_from_its_dot_and_to_no_other():
    """Ten dots in one place: their labels cannot all stand beside it."""
    series = [Series("ours", [Dot(1, 0.5, f"method {i}", "") for i in range(10)]), Series("other", [Dot(9, 1, "", "")])]
    axes, _, _ = scatter_axes(series)
    lines = 0
    for dot, box in place_labels(axes, series):
        x, y = axes.x(dot.x), axes.y(dot.y)
        gap = math.hypot(max(box[0] - x, x - box[2], 0), max(box[1] - y, y - box[3], 0))
        found = list(leaders(axes, dot, box))
        assert len(found) == (gap > LEADER_PX)
        for start, end in found:
            assert start == (x, y)
            assert math.dist(start, end) == pytest.approx(gap)
        lines += len(found)
    assert 0 < lines < 10


def test_values_and_places_of_a_chart_are_each_other_s_inverse():
    axes, _, _ = scatter_axes([Series("ours", [Dot(1, 2, "", ""), Dot(5, 9, "", "")])])
    assert axes.at(axes.x(3.3), axes.y(4.4)) == pytest.approx((3.3, 4.4))
