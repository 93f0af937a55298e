"""The whole leaderboard: settings are chosen, repetitions made, pictures pooled and measured, the page written.

Place on the path of data: all of it; `psalign eval leaderboard` calls `make_leaderboard`. It goes on from disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psalign.categories import require_default
from psalign.config import describe_changes
from psalign.errors import OutputError, UsageError
from psalign.evaluation.results import read_results
from psalign.files import Record, write_json, write_text
from psalign.fingerprints import versions
from psalign.processes import Workers

from . import pool
from .beside import MARK, add_beside, read_mark
from .choice import choose, read_trials
from .config import read_config
from .costs import add_costs
from .figure import write_figure
from .page import About, Figures, page
from .repetition import repetition, stages

BASE = "mini"  # whose detector says what a picture shows
HINT = "Choose another --out, or remove that folder."
# Settings of the section `leaderboard` that may differ when a run goes on: they decide nothing of what is there.
MAY_CHANGE = ("methods", "seeds", "rounds", "timed")


def make_leaderboard(
    out: Path, preset: Record, *, workers: int = 1, device: str = "cpu", beside: Path | None = None
) -> Path:
    """Make what is missing of a leaderboard in out. Returns its page, out/LEADERBOARD.md.

    workers: processes that share trainings, pictures and the settings to try. beside: another leaderboard's folder,
    which has the rows of methods that are not made here.
    Raises UsageError for another base than mini; OutputError where out holds a leaderboard of other settings, or
    `beside` one that cannot stand beside it.
    """
    require_default("The leaderboard, of the mini world,")
    config = read_config(preset)
    if preset["base"] != BASE:
        raise UsageError(
            f"The leaderboard of {preset['base']} cannot be measured: only mini has a detector of what pictures show.",
            hint="Draw and measure the other bases with psalign eval generate, run and judge.",
        )
    _open(out, preset)
    with _counted(out):
        trials = choose(out, preset, workers=workers, device=device)
    chosen = {family: trial.settings for family, trial in trials.items()}
    repetitions = [repetition(out / f"seed-{number}", preset, number, chosen) for number in range(config.seeds)]
    with Workers(workers) as shared:
        for stage in stages(repetitions, config, device=device):
            with _counted(out):
                shared.call_all(stage)
    with _counted(out):
        cells = pool.pool(out, repetitions)
        pool.measure(out, cells, config, repetitions)
        add_costs(out, config, repetitions, device=device)
    if beside is not None:
        add_beside(out, beside)
    return write_page(out, out / "LEADERBOARD.md")


def write_page(out: Path, path: Path) -> Path:
    """Write the page of a finished leaderboard to a path, and its picture beside it. Returns the path.

    Raises OutputError or EvaluationError where files of the run are missing or damaged.
    """
    record, rows = read_mark(out, hint=HINT), read_results(out / "results.csv")
    picture = path.with_name(f"{path.stem.lower()}.png")
    text = page(rows, read_trials(out) or {}, About(read_config(record["preset"]), record), picture=picture.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_figure(picture, Figures(rows))
    write_text(path, text)
    return path


def _open(out: Path, preset: Record) -> None:
    """Claim a folder for a leaderboard, or go on with it."""
    if not (out / MARK).is_file():
        write_json(out / MARK, {"preset": preset, "seconds": 0.0, **versions()})
        return
    record = read_mark(out, hint=HINT)
    changes = describe_changes(_decides(record["preset"]), _decides(preset))
    if changes:
        raise OutputError(
            "\n".join([f"{out} holds a leaderboard of other settings:", *(f"  {line}" for line in changes)]), hint=HINT
        )
    write_json(out / MARK, {**record, "preset": preset, **versions()})


def _decides(preset: Record) -> Record:
    section = {name: value for name, value in preset.get("leaderboard", {}).items() if name not in MAY_CHANGE}
    return {**preset, "leaderboard": section}


@contextmanager
def _counted(out: Path) -> Iterator[None]:
    """Adds the seconds of a part to those of the leaderboard, also where an error ends it."""
    started = time.perf_counter()
    try:
        yield
    finally:
        record = read_mark(out, hint=HINT)
        write_json(out / MARK, {**record, "seconds": round(record["seconds"] + time.perf_counter() - started, 1)})
