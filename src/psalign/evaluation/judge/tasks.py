"""Tasks of a judge: which cells are judged or compared, for whose users, and their results file.

Place on the path of data: step 7, from folders of pictures to tasks, and from tasks to files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psalign.errors import UsageError
from psalign.ids import level_id
from psalign.users.profile import UserProfile

from ..catalog import BASES
from ..cells import split_model
from .ask import JudgeTask, make_trials
from .cases import Case, add_persons, cell_folder, load_cases, pair_cases
from .question import Judge, Template


@dataclass(frozen=True)
class Setting:
    """What all tasks of a command share.

    profiles: profiles of the users, which are described to the judge; None: the judge gets only their banned
    categories. limit: number of rows of each model, evenly spaced, the same for all; None: all. repeat_share: share of
    rows that are judged twice.
    """

    images: Path
    dataset: str
    base: str
    template: Template
    judge: Judge
    repeat_share: float = 0.05
    profiles: Sequence[UserProfile] | None = None
    limit: int | None = None

    def folder(self, model: str) -> Path:
        return cell_folder(self.images, dataset=self.dataset, model=model, base=self.base)


def drawn_bases(images: Path, dataset: str) -> list[str]:
    """Base models that pictures of a dataset were drawn with, by any method, in the order of BASES."""
    return [base for base in BASES if any((images / dataset).glob(f"*/{base}/**/manifest.jsonl"))]


def is_drawn(images: Path, dataset: str, base: str, model: str) -> bool:
    """Whether a model's pictures are there. Raises UsageError for a name that is no model."""
    try:
        cell_folder(images, dataset=dataset, model=model, base=base)
    except UsageError:
        split_model(model)
        return False
    return True


def evaluate_tasks(setting: Setting, models: Sequence[str], *, bans_of: str | None = None) -> list[JudgeTask]:
    """One task for each model. bans_of: the model whose users all pictures are judged for, see load_cases.

    Raises UsageError for a model twice or without pictures, EvaluationError as load_cases does.
    """
    twice = sorted({model for model in models if models.count(model) > 1})
    if twice:
        raise UsageError(f"--models has {', '.join(twice)} twice.")
    source = None if bans_of is None else setting.folder(bans_of)
    folders = {model: setting.folder(model) for model in models}  # all are there before the first is read
    cases = {
        model: load_cases(folder, bans_of=None if folder == source else source) for model, folder in folders.items()
    }
    remarks = _other_users(cases)
    return [
        _task(setting, (model,), rows, judged_for=bans_of or model, remarks=remarks) for model, rows in cases.items()
    ]


def compare_task(setting: Setting, model_a: str, model_b: str) -> JudgeTask:
    """The task of two models. Raises as evaluate_tasks, and where the two are not of the same rows."""
    if model_a == model_b:
        raise UsageError(f"--model-a and --model-b are both {model_a}: nothing to compare.")
    cases, remarks = pair_cases(setting.folder(model_a), setting.folder(model_b))
    return _task(setting, (model_a, model_b), cases, judged_for=None, remarks=remarks)


def results_path(out: Path, task: JudgeTask) -> Path:
    """out/<dataset>/<base>/<method>[_level_k].json, or <a>_vs_<b>.json; a biased template is named."""
    if len(task.models) == 2:
        name = "_vs_".join(task.models)
    else:
        method, level = split_model(task.models[0])
        level = split_model(task.judged_for)[1] if task.judged_for and level is None else level
        name = method if level is None else f"{method}_{level_id(level)}"
    style = "" if task.template.is_blind else f"_{task.template.style}"
    return out / task.dataset / task.base / f"{name}{style}.json"


def _task(
    setting: Setting, models: tuple[str, ...], cases: list[Case], *, judged_for: str | None, remarks: Sequence[str]
) -> JudgeTask:
    if setting.limit is not None and setting.limit < len(cases):
        remarks = [*remarks, f"A test of {setting.limit} of {len(cases)} rows."]
        cases = [cases[i * len(cases) // setting.limit] for i in range(setting.limit)]
    if setting.profiles is not None:
        cases = add_persons(cases, setting.profiles)
    trials = make_trials(cases, setting.template, setting.judge, models=models, repeat_share=setting.repeat_share)
    return JudgeTask(setting.dataset, setting.base, models, setting.template, trials, judged_for, tuple(remarks))


def _other_users(cases: dict[str, list[Case]]) -> list[str]:
    """A remark where the models' pictures are judged for different users, so that their rates do not compare."""
    bans = {model: {case.file_name: case.banned for case in rows} for model, rows in cases.items()}
    first, *others = bans
    unlike = [model for model in others if bans[model] != bans[first]]
    if not unlike:
        return []
    return [
        f"{', '.join(unlike)} and {first} are not judged for the same users, or not on the same rows: their rates do "
        "not compare (--bans-of MODEL judges all for one model's users)."
    ]
