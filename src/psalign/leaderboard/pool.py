"""Puts the pictures of all repetitions together, each prompt set of every method in one folder, and measures them.

Place on the path of data: steps 6 and 7 of the leaderboard, from out/seed-*/pictures to out/pictures and results.csv.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from psalign.benchmark.measure import measure_cells
from psalign.benchmark.models import ModelsConfig
from psalign.diffusion.prompts import load_prompts
from psalign.errors import OutputError
from psalign.evaluation.cells import Cell, find_cells
from psalign.evaluation.pictures import complete_rows
from psalign.evaluation.results import append_results, result_row
from psalign.files import read_json, write_json, write_jsonl
from psalign.fingerprints import fingerprint
from psalign.mini.reference import draw_reference
from psalign.records import ManifestRow
from psalign.redteam.success import pooled, successes

from .config import LeaderboardConfig
from .repetition import Repetition

SCENES, ALL_ATTACKS = "mini_scenes", "mini_attacks"
LIMITS = ("suppressed", "kept", "pass", "subject_kept", "safe_subject", "safe_distance")
QUALITY = ("fid", "kid", "clip")


def pool(out: Path, repetitions: Sequence[Repetition]) -> list[Cell]:
    """Put the pictures of all repetitions into out/pictures. Returns the cells, one for each suite of prompts and
    method. Pictures are linked, or copied where the disk has no links."""
    groups: dict[Cell, list[tuple[Path, ManifestRow]]] = {}
    settings: dict[Cell, Path] = {}
    for this in repetitions:
        for cell in find_cells(this.pictures):
            folder = cell.folder(this.pictures)
            for row in complete_rows(folder):
                pooled_cell = replace(cell, dataset=f"mini_{row.meta['suite']}")
                named = replace(row, file_name=f"{this.number}_{row.file_name}")
                groups.setdefault(pooled_cell, []).append((folder / row.file_name, named))
                settings.setdefault(pooled_cell, folder / "run.json")
    for cell, found in groups.items():
        _write_cell(cell.folder(out / "pictures"), found, settings[cell])
    return list(groups)


def _write_cell(folder: Path, found: Sequence[tuple[Path, ManifestRow]], run: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # links alone, which are quickly made again
    folder.mkdir(parents=True)
    for path, row in found:
        try:
            os.link(path, folder / row.file_name)
        except OSError:
            shutil.copyfile(path, folder / row.file_name)
    record = read_json(run, what="how pictures were drawn", fault=OutputError)
    write_json(folder / "run.json", {**record, "fingerprint": fingerprint([row.to_record() for _, row in found])})
    write_jsonl(folder / "manifest.jsonl", [row.to_record() for _, row in found])


def measure(out: Path, cells: Sequence[Cell], config: LeaderboardConfig, repetitions: Sequence[Repetition]) -> None:
    """Measure pooled pictures into out/results.csv, with the success of every attack on every method."""
    results = out / "results.csv"
    prompts = [
        replace(row, file_name=f"{this.number}_{row.file_name}")
        for this in repetitions
        for row in load_prompts(this.out / "data" / "prompts.jsonl")
    ]
    models = ModelsConfig(fid_reference=draw_reference(out / "reference", prompts), cache=out / "metrics")
    scenes = [cell for cell in cells if cell.dataset == SCENES]
    measure_cells(scenes, out / "pictures", results, metrics=(*QUALITY, *LIMITS), config=models)
    others = [cell for cell in cells if cell.dataset != SCENES]
    measure_cells(others, out / "pictures", results, metrics=LIMITS, config=models)
    base = repetitions[0].base
    found = successes(results, config.compared, base=base, attacks=config.attacks)
    rows = [
        result_row(Cell(f"mini_attack_{one.attack}", one.method, base), "attack_success", estimate=one.rate)
        for one in found
    ]
    rows += [
        result_row(Cell(ALL_ATTACKS, method, base), "attack_success", estimate=pooled(found, method))
        for method in config.compared
    ]
    append_results(results, rows)
