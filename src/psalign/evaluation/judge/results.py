"""The schema of a judge's results files: rates of one model, or a comparison of two.

Place on the path of data: step 7, results_evaluate/ and results_compare/, read again by the report in step 8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, TypeAdapter, ValidationError, model_validator

from psalign.categories import category_names, require_label
from psalign.errors import EvaluationError, UsageError
from psalign.files import Record, read_json
from psalign.ids import shorten

from ..cells import Variant, split_model
from ..estimate import NO_CASES, Estimate
from ..metrics.limits import Fact

RATES = ("pass", "banned_respected", "allowed_kept", "clean")
HINT = "Run psalign eval judge again with the same --out (replies are kept), or leave that file out of --judge."
Share = Annotated[float, Field(ge=0, le=1, strict=True)]


class _Part(BaseModel):
    """A part of a results file; further keys are kept."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)


class Rate(_Part):
    """A rate over n judged rows. failed: rows that it is over and whose judgement failed."""

    value: Share | None
    n: Annotated[NonNegativeInt, Field(strict=True)]
    low: Share | None = None
    high: Share | None = None
    failed: NonNegativeInt = 0

    @property
    def estimate(self) -> Estimate:
        return NO_CASES if self.value is None else Estimate(self.value, self.n, self.low, self.high)


class _Summary(_Part):
    failed: Annotated[NonNegativeInt, Field(strict=True)]
    not_judged: NonNegativeInt = 0


class EvaluateSummary(_Summary):
    """Rates of one model's pictures, see judge/summary.py."""

    pass_: Rate = Field(alias="pass")
    banned_respected: Rate
    allowed_kept: Rate
    clean: Rate


class CompareSummary(_Summary):
    """Shares of wins and ties of two models, which sum to 1, and how often the same place won in both orders."""

    a_wins: Rate
    b_wins: Rate
    ties: Rate
    position_bias: Rate
    self_agreement: Rate

    @model_validator(mode="after")
    def _sums_to_one(self) -> CompareSummary:
        shares = (self.a_wins, self.b_wins, self.ties)
        total = sum(rate.value or 0.0 for rate in shares)
        if any(rate.n for rate in shares) and not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(f"wins and ties sum to {total:.4f}; expected 1")
        return self


class Row(_Part):
    """One judged row. asked: categories of its prompt; None: not known. clean, kept: None on failure."""

    file_name: str
    banned: list[str]
    asked: list[str] | None = None
    failed: str | None = None
    clean: bool | None = None
    kept: bool | None = None


class _File(_Part):
    dataset: str
    base: str
    judge: Record
    summary: _Summary
    taxonomy: str | None = None
    remarks: list[str] = []

    @property
    def biased(self) -> bool:
        """Asked by a template that is not blind to methods."""
        return bool(self.judge.get("biased"))

    @property
    def all_remarks(self) -> list[str]:
        left = self.summary.not_judged
        return [*self.remarks, *([f"{left} rows are not judged yet; the same command goes on."] if left else [])]


class Evaluation(_File):
    """A judge's verdict on one model. judged_for: the model whose users' bans count, its own by default."""

    mode: Literal["evaluate"]
    method: str
    level: Annotated[int, Field(ge=0, le=5, strict=True)] | None = None
    judged_for: str | None = None
    summary: EvaluateSummary
    rows: list[Row]

    @property
    def variant(self) -> Variant:
        return Variant.of(self.method, self.level)

    @property
    def is_for_a_level(self) -> bool:
        """Judged for a level's user, by a method without levels: no number of its own row in the tables."""
        return self.level is None and split_model(self.judged_for or self.method)[1] is not None

    @property
    def rates(self) -> dict[str, Estimate]:
        """By the names that metrics have in the report: judge_pass and so on."""
        parts = (self.summary.pass_, self.summary.banned_respected, self.summary.allowed_kept, self.summary.clean)
        return {f"judge_{name}": rate.estimate for name, rate in zip(RATES, parts, strict=True)}

    def facts(self) -> Iterator[Fact]:
        """One fact for each side that a judged row asks for: something that is banned, something allowed."""
        for row in self.rows:
            if row.failed or row.clean is None:
                continue
            asked = [category for category in category_names() if category in (row.asked or ())]
            for banned, passed in ((True, row.clean), (False, bool(row.kept))):
                side = [category for category in asked if (category in row.banned) == banned]
                if side:
                    yield Fact(row.file_name, row.file_name, side[0], banned=banned, passed=passed)


class Comparison(_File):
    """A judge's comparison of two models on the same rows, in both orders. a, b: names like psa_level_3."""

    mode: Literal["compare"]
    a: str
    b: str
    summary: CompareSummary
    rows: list[Record] = []

    @model_validator(mode="after")
    def _names_models(self) -> Comparison:
        try:
            self.variants  # noqa: B018
        except UsageError as err:
            raise ValueError(str(err)) from err
        return self

    @property
    def variants(self) -> tuple[Variant, Variant]:
        return Variant.of(*split_model(self.a)), Variant.of(*split_model(self.b))

    @property
    def sides(self) -> list[tuple[Variant, Rate]]:
        """Both models with their wins, ours first."""
        a, b = zip(self.variants, (self.summary.a_wins, self.summary.b_wins), strict=True)
        return [b, a] if b[0].is_ours else [a, b]


JudgeFile = Annotated[Evaluation | Comparison, Field(discriminator="mode")]
SCHEMA: TypeAdapter[Evaluation | Comparison] = TypeAdapter(JudgeFile)


def read_results_file(record: Record, path: Path) -> Evaluation | Comparison:
    """A results file, checked. Raises EvaluationError that says where it is damaged."""
    require_label(_taxonomy(record, path), of=f"the judgements in {path}")
    try:
        return SCHEMA.validate_python(record)
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("evaluate", "compare")) or "mode"
        saw = "" if first["type"] == "missing" else f"; saw {shorten(first['input'])}"
        said = first["msg"].removeprefix("Value error, ")
        raise EvaluationError(f"{path} is damaged: {where}: {said}{saw}.", hint=HINT) from err


def judge_files(places: Sequence[Path]) -> Iterator[tuple[Path, Record]]:
    """Every *.json under the folders, and the files given. Raises UsageError for a folder without one."""
    for place in places:
        found = [place] if place.is_file() else sorted(place.rglob("*.json"))
        if not found:
            raise UsageError(f"{place} holds no judgements (*.json).", hint="Judge first: psalign eval judge --help")
        for path in found:
            yield path, read_json(path, what="the results of a judge", fault=partial(EvaluationError, hint=HINT))


def _taxonomy(record: Record, path: Path) -> str | None:
    label: Any = record.get("taxonomy")
    if label is not None and not isinstance(label, str):
        raise EvaluationError(f"{path} is damaged: taxonomy: expected text; saw {shorten(label)}.", hint=HINT)
    return label
