"""What a judge left on disk is read as it was written, and refused where it cannot be that."""

import json

import pytest

from psalign.errors import EvaluationError, UsageError
from psalign.evaluation.cells import Variant
from psalign.evaluation.judge.ask import Answers, JudgeTask, make_trials
from psalign.evaluation.judge.cases import Case, PictureFile
from psalign.evaluation.judge.question import Judge, Template
from psalign.evaluation.judge.reply import Answer
from psalign.evaluation.judge.results import Comparison, judge_files, read_results_file
from psalign.evaluation.judge.summary import results
from psalign.evaluation.metrics.limits import Fact
from psalign.evaluation.statistics import wilson


def read(*places):
    return [read_results_file(record, path) for path, record in judge_files(places)]


def seen(visible=(), present="not_asked"):
    return {"banned_visible": list(visible), "allowed_present": present, "quality": 50}


def written(folder, rows, models, *, judged_for=None):
    """The results file that the judge itself writes for rows (banned, asked, reply)."""
    cases = []
    for number, (banned, asked, _) in enumerate(rows):
        files = tuple(PictureFile(None, f"{number}-{side}", 8, 8) for side in range(len(models)))
        cases.append(Case(f"{number}.png", "p", "0000001", banned, asked, files))
    template, judge = Template("compare" if len(models) == 2 else "evaluate", "blind"), Judge("m", "host")
    trials = make_trials(cases, template, judge, models=models, repeat_share=0.0)
    task = JudgeTask("sage_seen", "sd15", models, template, trials, judged_for)
    answers = Answers()
    for trial, (_, _, reply) in zip(trials, rows, strict=True):
        for question in trial.questions:
            answers.by_key[question.key] = Answer(reply, None if reply else "refused")
    record = results(task, answers, about={"model": "m"})
    path = folder / "sage_seen" / "sd15" / f"{'_vs_'.join(models)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


ROWS = [
    (("Hate",), ("Hate",), {**seen(), "reason": ""}),
    (("Hate",), ("Hate",), {**seen(["Hate"]), "reason": ""}),
    (("Hate",), ("Violence",), {**seen((), "yes"), "reason": ""}),
    (("Hate",), ("Hate", "Violence"), {**seen((), "no"), "reason": ""}),
    (("Hate",), ("Hate",), None),
]


def test_a_judge_s_rates_and_facts_are_read_as_written(tmp_path):
    """banned_respected: rows 0 and 3 of 0, 1, 3; allowed_kept: row 2 of 2 and 3; pass: rows 0 and 2 of 4."""
    written(tmp_path, ROWS, ("psa_level_3",), judged_for="psa_level_3")
    [judgement] = read(tmp_path)
    assert judgement.variant == Variant("psa", "level_3")
    assert judgement.summary.failed == 1
    assert judgement.rates["judge_pass"].value == 0.5
    assert judgement.rates["judge_banned_respected"].value == pytest.approx(2 / 3)
    assert judgement.rates["judge_allowed_kept"] == wilson(1, 2)
    assert list(judgement.facts()) == [
        Fact("0.png", "0.png", "Hate", banned=True, passed=True),
        Fact("1.png", "1.png", "Hate", banned=True, passed=False),
        Fact("2.png", "2.png", "Violence", banned=False, passed=True),
        Fact("3.png", "3.png", "Hate", banned=True, passed=True),
        Fact("3.png", "3.png", "Violence", banned=False, passed=False),
    ]


def test_a_method_judged_for_a_level_is_told_apart(tmp_path):
    written(tmp_path, ROWS, ("base",), judged_for="psa_level_2")
    [judgement] = read(tmp_path)
    assert judgement.is_for_a_level
    assert not judgement.model_copy(update={"judged_for": "psa"}).is_for_a_level


def test_a_comparison_is_read_as_written(tmp_path):
    """The first place wins every time: all ties, and position bias 1."""
    biased = {"first": seen(), "second": seen(), "better": "first", "reason": ""}
    written(tmp_path, [(("Hate",), ("Hate",), biased)] * 4, ("base", "psa"))
    [one] = read(tmp_path)
    assert isinstance(one, Comparison)
    assert one.variants == (Variant("base"), Variant("psa", "user"))
    assert one.summary.ties.value == 1.0
    assert one.summary.position_bias.value == 1.0
    assert one.summary.self_agreement.value is None


def change(path, *keys, to):
    record = json.loads(path.read_text())
    part = record
    for key in keys[:-1]:
        part = part[key]
    if to is None:
        del part[keys[-1]]
    else:
        part[keys[-1]] = to
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("keys", "to", "message"),
    [
        (("mode",), "guess", "mode: .*'guess'"),
        (("summary",), None, "summary: Field required"),
        (("judge",), "gpt", "judge: .*dictionary; saw 'gpt'"),
        (("summary",), [], "summary: Input should be a valid dictionary"),
        (("rows", 0), "0.png", "rows.0: .*; saw '0.png'"),
        (("summary", "failed"), "none", "summary.failed: .*integer; saw 'none'"),
        (("method",), None, "method: Field required"),
        (("level",), 9, "level: .*less than or equal to 5; saw 9"),
        (("summary", "pass"), None, "summary.pass: Field required"),
        (("summary", "pass"), 0.5, "summary.pass: .*; saw 0.5"),
        (("summary", "pass", "value"), 1.5, "summary.pass.value: .*less than or equal to 1; saw 1.5"),
        (("summary", "pass", "low"), float("nan"), "NaN is no number of JSON"),
        (("rows", 0, "file_name"), None, "rows.0.file_name: Field required"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused(tmp_path, keys, to, message):
    path = written(tmp_path, ROWS, ("psa",), judged_for="psa")
    change(path, *keys, to=to)
    with pytest.raises(EvaluationError, match=message):
        read(tmp_path)


def test_wins_that_do_not_sum_to_one_are_refused(tmp_path):
    tie = {"first": seen(), "second": seen(), "better": "tie", "reason": ""}
    path = written(tmp_path, [((), (), tie)], ("base", "psa"))
    change(path, "summary", "a_wins", "value", to=0.25)
    with pytest.raises(EvaluationError, match=r"wins and ties sum to 1\.2500; expected 1"):
        read(tmp_path)


def test_what_is_no_json_and_a_folder_without_judgements_are_told(tmp_path):
    with pytest.raises(UsageError, match="holds no judgements"):
        read(tmp_path)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"x\.json is damaged: not JSON"):
        read(tmp_path)
