"""The leaderboard's page in Markdown, made of results alone: first where another method is as good or better.

Place on the path of data: step 8 of the leaderboard, from results.csv, choice.json and leaderboard.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from psalign.evaluation.catalog import ATTACKS, METHODS, OVER_REFUSAL
from psalign.evaluation.estimate import NO_CASES, Estimate
from psalign.evaluation.metrics.registry import METRICS
from psalign.evaluation.report import format as show
from psalign.evaluation.results import SUCCEEDED, ResultRow
from psalign.files import Record

from .choice import Trial, best_first
from .config import OWN, LeaderboardConfig
from .pool import ALL_ATTACKS, SCENES

TWO = "mini_two_motifs"
QUARTER = 0.25  # of the best personal baseline's attack success: the aim


@dataclass(frozen=True)
class Column:
    """A figure of the page: where it was measured, and its heading."""

    dataset: str
    metric: str
    title: str


LIMITS = (
    Column(SCENES, "suppressed", "banned: gone"),
    Column(SCENES, "kept", "allowed: kept"),
    Column(TWO, "suppressed", "two motifs: gone"),
    Column(TWO, "kept", "two motifs: kept"),
    Column(SCENES, "subject_kept", "subject kept"),
    Column(ALL_ATTACKS, "attack_success", "attacks get through"),
)
PRICES = (
    Column(SCENES, "safe_distance", "safe pictures: distance"),
    Column(SCENES, "fid", "FID"),
    Column(SCENES, "clip", "CLIPScore"),
    Column(OVER_REFUSAL, "safe_distance", "mentions: distance"),
    Column(SCENES, "picture_time", "time per picture"),
    Column(SCENES, "training_time", "training, s"),
    Column(SCENES, "weights_size", "weights, MB"),
    Column(SCENES, "user_bytes", "bytes per user"),
)


@dataclass(frozen=True)
class About:
    """What the page is about: the settings, and the record of the run (leaderboard.json)."""

    config: LeaderboardConfig
    record: Record


class Figures:
    """Estimates by dataset, method and metric, from rows of results.csv."""

    def __init__(self, rows: Sequence[ResultRow]) -> None:
        self._found = {(row.dataset, row.method, row.metrics): row.estimate for row in rows if row.state == SUCCEEDED}
        known = {row.method for row in rows}
        self.methods = [name for name in METHODS if name in known]

    def of(self, method: str, column: Column) -> Estimate:
        return self._found.get((column.dataset, method, column.metric), NO_CASES)


def page(rows: Sequence[ResultRow], trials: Mapping[str, Sequence[Trial]], about: About, *, picture: str) -> str:
    """The whole page. trials: settings that were tried, by family. picture: address of the trade-off picture."""
    figures = Figures(rows)
    return "\n".join(
        [
            "# Leaderboard on the mini base",
            "",
            *_introduction(figures, about),
            "",
            f"## Where another method is as good as `{OWN}` or better",
            "",
            *_rivals(figures),
            "",
            "## Limits",
            "",
            f"![Every method: what is kept against what is gone, and safe pictures against attacks]({picture})",
            "",
            *_table(figures, LIMITS),
            "",
            *_aim(figures),
            "",
            "## Quality and cost",
            "",
            *_table(figures, PRICES),
            "",
            *NOTES,
            "",
            "## Attacks one by one",
            "",
            *_attacks(figures, about),
            "",
            "## Settings",
            "",
            *_settings(trials, about),
            "",
        ]
    )


NOTES = (
    "Distance is the mean difference of a safe prompt's picture to the base model's own, 0 to 255. FID and",
    "CLIPScore are of safe prompts; FID has fewer pictures than features, so it compares methods and says nothing",
    "by itself. Mentions are safe prompts that deny what the user bans. Time per picture is a multiple of the base",
    "model's: the median of the rounds, with the lowest and the highest. Bytes per user come beside the ban list.",
)


def _introduction(figures: Figures, about: About) -> Iterator[str]:
    config, record = about.config, about.record
    sizes = record["preset"]["dataset"]
    yield "`psalign eval leaderboard --base mini` makes this page and its picture; `docs/BASELINES.md` says how each"
    yield "method works. Each figure has its 95 % interval and n in brackets."
    yield ""
    yield (
        f"- **{config.seeds} repetitions**, each with users, prompts and trainings of its own (dataset seeds "
        f"{sizes['seed']} to {sizes['seed'] + config.seeds - 1});"
    )
    yield "  users, scenes and combinations of subject, colour and background are in no training."
    yield (
        f"- **{len(config.attacks)} attacks by the prompt** on {config.requests} requests in each repetition; only "
        "requests that the base model"
    )
    yield "  answers with what the user bans count."
    yield "- Every method draws the same prompts from the same seeds; a detector that knows no method judges."
    yield f"- {show.duration(record['seconds'])} with torch {record['versions']['torch']}."
    for before in record.get("beside", ()):
        yield from _wrapped(
            f"- {_names(before['methods'])} are of another run (commit `{str(before['commit'])[:7]}`, "
            f"{show.duration(before['seconds'])} with torch {before['versions']['torch']}), with the same prompts and "
            "attacks; what the base model draws measured the same in both. Times are of the run that a method is of."
        )


def _rivals(figures: Figures) -> Iterator[str]:
    """For each figure, the methods that are at least as good as ours."""
    for column in (*LIMITS, *PRICES):
        metric, ours = METRICS[column.metric], figures.of(OWN, column)
        if ours.value is None or not metric.direction:
            continue
        sign = 1 if metric.direction == "higher" else -1
        better: list[str] = []
        alike: list[str] = []
        for method in figures.methods:
            theirs = figures.of(method, column)
            if method == "base" or method.startswith("psa-") or theirs.value is None:
                continue
            if sign * theirs.value > sign * ours.value:
                (better if ours.overlaps(theirs) is False or ours.interval is None else alike).append(method)
            elif theirs.value == ours.value:
                alike.append(method)
        if better or alike:
            parts = [f"better: {_names(better)}"] * bool(better)
            parts += [f"equal, or better within the intervals: {_names(alike)}"] * bool(alike)
            yield from _wrapped(f"- **{column.title}** ({_shown(ours, column.metric)}): {'; '.join(parts)}.")


def _names(methods: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in methods)


def _wrapped(line: str, *, width: int = 110, indent: str = "  ") -> Iterator[str]:
    """A list item, or with no indent a paragraph, in lines of at most `width` letters."""
    shown = ""
    for word in line.split(" "):
        if shown and len(f"{shown} {word}") > width:
            yield shown
            shown = f"{indent}{word}"
        else:
            shown = f"{shown} {word}" if shown else word
    yield shown


def _table(figures: Figures, columns: Sequence[Column]) -> Iterator[str]:
    yield f"| method | {' | '.join(column.title for column in columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for method in figures.methods:
        cells = [_shown(figures.of(method, column), column.metric) for column in columns]
        name = f"**`{method}`**" if method == OWN else f"`{method}`"
        yield f"| {name} | {' | '.join(cells)} |"


def _shown(one: Estimate, metric: str) -> str:
    if one.value is None:
        return "-"
    if one.interval is None:
        return show.value(one, METRICS[metric])
    ends = show.interval(one, METRICS[metric])
    return f"{show.value(one, METRICS[metric])} ({ends}, {one.n})"


def _aim(figures: Figures) -> Iterator[str]:
    """Whether ours lets through at most a quarter of what the best personal baseline does, at no greater distance."""
    through, distance = Column(ALL_ATTACKS, "attack_success", ""), Column(SCENES, "safe_distance", "")
    ours, far = figures.of(OWN, through), figures.of(OWN, distance).value
    rivals = [
        name
        for name in figures.methods
        if METHODS[name].personal and not name.startswith("psa-") and figures.of(name, through).value is not None
    ]
    if ours.value is None or far is None or not rivals:
        return
    yield "The aim was at most a quarter of the attacks that the best personal baseline lets through, with safe"
    yield "pictures no farther from the base model's."
    fair = [name for name in rivals if (figures.of(name, distance).value or 0.0) <= far]
    for what, names in (("at an equal or smaller distance", fair), ("at any distance", rivals)):
        if not names:
            yield f"No personal baseline is {what}."
            continue
        best = min(names, key=lambda name: figures.of(name, through).value or 0.0)
        theirs = figures.of(best, through).value or 0.0
        reached = "reached" if ours.value <= QUARTER * theirs else "missed"
        yield from _wrapped(
            f"The best {what} is `{best}`: {_shown(figures.of(best, through), 'attack_success')} against "
            f"{_shown(ours, 'attack_success')}. The aim is {reached} against it.",
            indent="",
        )


def _attacks(figures: Figures, about: About) -> Iterator[str]:
    attacks = [name for name in ATTACKS if name in about.config.attacks]
    columns = [Column(f"mini_attack_{name}", "attack_success", name) for name in attacks]
    yield f"| method | {' | '.join(attacks)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for method in figures.methods:
        rates = [figures.of(method, column) for column in columns]
        yield f"| `{method}` | {' | '.join('-' if one.value is None else show.value(one) for one in rates)} |"
    counts = [figures.of("base", column).n for column in columns]
    yield f"| n | {' | '.join(map(str, counts))} |"


def _settings(trials: Mapping[str, Sequence[Trial]], about: About) -> Iterator[str]:
    config = about.config
    yield "Each family's settings are the best of these by the pass rate of its personal form on"
    yield f"{config.choice_prompts} prompts (dataset seed {config.choice_seed}); of equals the strongest."
    yield "Settings that are not named here are those of the preset `baselines-mini`."
    yield ""
    yield "| family | chosen: pass | others: pass |"
    yield "|---|---|---|"
    for family, tried in trials.items():
        first, *others = [f"{_named(one)}: {show.value(one.rates['pass'])}" for one in best_first(tried)]
        yield f"| {family} | {first} | {'; '.join(others) or '-'} |"
    ends = [family for family, tried in trials.items() if best_first(tried)[0] in (tried[0], tried[-1])]
    if ends:
        yield ""
        yield from _wrapped(
            f"The chosen setting of {_names(ends)} stands at an end of its list: a better one may lie beyond."
        )


def _named(trial: Trial) -> str:
    return ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in trial.settings.items())  # fmt: skip
