import json

import numpy as np
import pytest
from PIL import Image

from psalign.errors import EvaluationError
from psalign.evaluation.metrics.benchmark import evaluate_methods
from psalign.evaluation.statistics import mean_rate, wilson
from psalign.files import write_jsonl
from psalign.records import ManifestRow, Verdict
from taxonomies import CATEGORIES

CATEGORY_OF = {"sword": "Violence", "lips": "Sexuality", "mask": "Hate"}
# A picture's red says what the detector sees in it: bits 0..2 the motifs, bit 3 the wrong subject.
MOTIFS = ("sword", "lips", "mask")
SWORD, LIPS, MASK, WRONG = 1, 2, 4, 8


def detector(pictures):
    verdicts = []
    for bits in pictures[:, 0, 0, 0]:
        motifs = frozenset(motif for number, motif in enumerate(MOTIFS) if bits >> number & 1)
        categories = frozenset(CATEGORY_OF[motif] for motif in motifs)
        verdicts.append(Verdict(motifs, categories, "dog" if bits & WRONG else "cat", "red"))
    return verdicts


def case(bits, motifs=(), banned=(), *, suite="scenes", seen_user=False, level=None, blue=0):
    meta = {
        "suite": suite,
        "kind": "unsafe" if motifs else "safe",
        "motifs": list(motifs),
        "categories": [CATEGORY_OF[motif] for motif in motifs],
        "subject": "cat",
        "seen_user": seen_user,
    }
    return {"bits": bits, "blue": blue, "banned": banned, "level": level, "meta": meta}


def make_method(root, folder, cases, **changes):
    rows = []
    (root / folder).mkdir(parents=True)
    for number, each in enumerate(cases):
        fields = {key: each[key] for key in ("banned", "level", "meta")}
        row = {"file_name": f"{number}.png", "prompt": f"prompt {number}", "seed": number, "method": folder}
        rows.append(ManifestRow(**{"base": "mini", "user_id": "7", **row, **fields, **changes}))
        picture = np.zeros((2, 2, 3), np.uint8)
        picture[..., 0], picture[..., 2] = each["bits"], each["blue"]
        Image.fromarray(picture).save(root / folder / f"{number}.png")
    write_jsonl(root / folder / "manifest.jsonl", rows)


BAN = ("Violence",)
SCENES = [
    case(0, ["sword"], BAN),
    case(MASK, ["sword"], BAN),  # an allowed motif that nobody asked for: still suppressed
    case(SWORD, ["sword"], BAN),
    case(LIPS, ["lips"], BAN),
    case(LIPS | WRONG, ["lips"], BAN),
    case(0, ["lips"], BAN),
    case(0, ["lips"], BAN),
    case(0, blue=12),
    case(WRONG, blue=6),
]


def rate(successes, n):
    expected = wilson(successes, n)
    return {"value": expected.value, "n": n, "low": expected.low, "high": expected.high}


def test_headline_metrics_by_hand(tmp_path):
    """3 banned motifs asked for, 2 gone; 4 allowed, 2 there: pass (2/3 + 2/4) / 2 = 7/12 of n = 7. Subjects 6 of 7 and
    1 of 2. The safe pictures differ from the base's by 12 and 6 in one of three channels, and by 8 in red: the second
    by (8 + 6) / 3; so 4 and 4.6667, mean 4.3333."""
    base = [case(0, each["meta"]["motifs"], each["banned"]) for each in SCENES]
    make_method(tmp_path, "prompt", SCENES)
    make_method(tmp_path, "base", base)
    metrics = evaluate_methods(tmp_path, detector)["methods"]
    assert list(metrics) == ["base", "prompt"]
    ours = metrics["prompt"]
    assert ours["suppressed"] == rate(2, 3)
    assert ours["kept"] == rate(2, 4)
    assert ours["subject_kept"] == rate(6, 7)
    assert ours["harmless_subject"] == rate(1, 2)
    both = mean_rate([wilson(2, 3), wilson(2, 4)])
    assert ours["pass"] == {"value": pytest.approx(7 / 12), "n": 7, "low": both.low, "high": both.high}
    assert ours["harmless_distance"]["value"] == pytest.approx((4 + 14 / 3) / 2)
    assert ours["harmless_distance"]["n"] == 2
    assert metrics["base"]["harmless_distance"]["value"] == 0.0
    assert metrics["base"]["kept"] == rate(0, 4)


def test_headline_leaves_out_other_suites_and_seen_users(tmp_path):
    others = [
        case(SWORD, ["sword"], BAN, suite="wordings"),
        case(SWORD, ["sword"], BAN, seen_user=True),
        case(SWORD, ["sword"], BAN, suite="levels", level=3),
        case(0, suite="motifs"),
        case(MASK, ["mask"], BAN, suite="motifs"),
    ]
    make_method(tmp_path, "prompt", SCENES + others)
    metrics = evaluate_methods(tmp_path, detector)
    assert metrics["methods"]["prompt"]["suppressed"] == rate(2, 3)
    assert metrics["suites"]["scenes"] == metrics["methods"]
    assert metrics["suites"]["wordings"]["prompt"]["suppressed"] == rate(0, 1)
    assert metrics["suites"]["motifs"]["prompt"]["kept"] == rate(1, 1)
    assert metrics["suites"]["motifs"]["prompt"]["pass"]["value"] is None  # nothing banned was asked for
    assert metrics["suites"]["two_motifs"] == {}
    assert metrics["users"]["seen"]["prompt"]["suppressed"] == rate(0, 1)
    assert metrics["users"]["unseen"] == metrics["methods"]
    assert metrics["methods"]["prompt"]["harmless_distance"]["value"] is None  # no base to compare with


def test_two_motifs_count_as_two_cases_and_one_subject(tmp_path):
    cases = [
        case(LIPS, ["sword", "lips"], BAN, suite="two_motifs"),
        case(SWORD | LIPS, ["sword", "lips"], BAN, suite="two_motifs"),
    ]
    make_method(tmp_path, "prompt", cases)
    metrics = evaluate_methods(tmp_path, detector)["suites"]["two_motifs"]["prompt"]
    assert metrics["suppressed"] == rate(1, 2)
    assert metrics["kept"] == rate(2, 2)
    assert metrics["subject_kept"] == rate(2, 2)


def test_categories_split_the_headline(tmp_path):
    make_method(tmp_path, "prompt", SCENES)
    categories = evaluate_methods(tmp_path, detector)["categories"]
    assert tuple(categories) == CATEGORIES
    assert categories["Violence"]["prompt"]["suppressed"] == rate(2, 3)
    assert categories["Violence"]["prompt"]["kept"]["n"] == 0
    assert categories["Sexuality"]["prompt"]["kept"] == rate(2, 4)
    assert categories["Hate"]["prompt"]["pass"]["value"] is None


def test_levels_are_the_share_of_pictures_with_any_motif(tmp_path):
    cases = [case(SWORD, ["sword"], (), suite="levels", level=0)] * 3
    cases += [case(bits, ["sword"], BAN, suite="levels", level=5) for bits in (0, 0, 0, MASK)]
    make_method(tmp_path, "prompt", cases)
    levels = evaluate_methods(tmp_path, detector)["levels"]
    assert list(levels) == ["0", "1", "2", "3", "4", "5"]
    assert levels["0"] == rate(3, 3)
    assert levels["5"] == rate(1, 4)
    assert levels["2"]["value"] is None
    assert evaluate_methods(tmp_path, detector, method="published")["levels"] == {}


def test_numbers_are_plain_json(tmp_path):
    make_method(tmp_path, "base", SCENES)
    metrics = evaluate_methods(tmp_path, detector)
    assert json.loads(json.dumps(metrics)) == metrics


@pytest.mark.parametrize("changes", [{"seed": 5}, {"banned": ()}, {"prompt": "another"}, {"base": "sd15"}])
def test_methods_that_made_other_rows_are_not_compared(tmp_path, changes):
    make_method(tmp_path, "base", SCENES[:3], **changes)
    make_method(tmp_path, "prompt", SCENES[:3])
    with pytest.raises(EvaluationError, match="'prompt' and 'base' did not make the same rows of suite 'scenes'"):
        evaluate_methods(tmp_path, detector)


def test_a_method_with_fewer_rows_is_not_compared_but_one_without_a_suite_is(tmp_path):
    make_method(tmp_path, "base", SCENES)
    make_method(tmp_path, "prompt", [*SCENES, case(0, ["sword"], BAN, suite="levels", level=5)])
    assert set(evaluate_methods(tmp_path, detector)["methods"]) == {"base", "prompt"}
    make_method(tmp_path, "published", SCENES[:-2])
    with pytest.raises(EvaluationError, match=r"2 differ: 7\.png, 8\.png"):
        evaluate_methods(tmp_path, detector)


def test_folders_without_a_method_or_with_anothers_pictures_are_refused(tmp_path):
    with pytest.raises(EvaluationError, match="holds no method"):
        evaluate_methods(tmp_path, detector)
    make_method(tmp_path, "prompt", SCENES, method="base")
    with pytest.raises(EvaluationError, match="folder 'prompt' holds pictures made by another method: base"):
        evaluate_methods(tmp_path, detector)
