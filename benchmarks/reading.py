"""Variants of training by captions, held apart by what the base's cross-attentions read: no picture is drawn.

    python benchmarks/reading.py --variant "random:prompt.training.queries=random" [--seeds 0 1 2] [--store whole]
                                 [--out DIR]

A variant is NAME:SETTING=VALUE,SETTING=VALUE over the preset, as for ablation.py. It is trained on dataset seed 11 and
measured on prompts for held-out users and scenes, by all cross-attentions, in units of spreads of at least a tenth of
the largest:
    gone: rows whose error to the caption without the banned motifs is below half of what taking them away changes,
    kept: rows that are read more like the caption with the allowed motif than like the one without it,
    moved: the mean error of safe prompts to themselves, in thousandths.
Minutes instead of the half hour that pictures take; what it finds is to be confirmed by pictures (captions.py).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ablation import DATASET, once, split_changes
from meaning import users_of
from meaning_prompts import meaning_prompts
from seeds import cell, over_seeds

from psalign.adapter.checkpoint import load_adapter
from psalign.adapter.text import encode_texts
from psalign.adapter.users import RowUsers
from psalign.config import load_preset, settings
from psalign.diffusion.base_models import load_pipeline
from psalign.diffusion.prompts import load_prompts
from psalign.diffusion.reader import Draw, Reader, sample_pools
from psalign.evaluation.statistics import wilson
from psalign.files import Record
from psalign.mini import dataset, world
from psalign.records import PromptRow
from psalign.training.run import RowSource, TrainingData, load_captions, train_adapter

SIZES = [f"dataset.{name}={value}" for name, value in DATASET.items()]
SUITES = ("scenes", "two_motifs", "motifs", "user of six bans")
COLUMNS = ("scenes: gone", "scenes: kept", "two_motifs: gone", "motifs: gone", "motifs: kept",
           "user of six bans: kept", "safe: moved", "CPU seconds")  # fmt: skip
BATCH, FLOOR = 64, 0.1
Cases = dict[str, list[float]]


@dataclass(frozen=True)
class Asked:
    """A prompt and what may become of it: text states [T, D] of the captions that say the same, without what is banned
    and without what is allowed."""

    row: PromptRow
    bans: frozenset[str]
    said: torch.Tensor
    whole: torch.Tensor
    without_banned: torch.Tensor
    without_allowed: torch.Tensor

    @property
    def banned(self) -> list[str]:
        return [m for m in self.row.meta["motifs"] if world.MOTIF_CATEGORY[m] in self.bans]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", required=True, help="NAME:section.name=value,...")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--store", choices=("structured", "whole"), default="whole")
    parser.add_argument("--preset", default="mini-quickstart")
    parser.add_argument("--out", type=Path, default=Path("outputs/reading"))
    arguments = parser.parse_args()
    bench = Bench(arguments.out, arguments.store, load_preset(arguments.preset, changes=SIZES))
    print("| variant | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS), flush=True)
    for variant in arguments.variant:
        name, _, text = variant.partition(":")
        preset = load_preset(arguments.preset, changes=[*SIZES, *split_changes(text)])
        runs = [bench.measure(name, preset, seed) for seed in arguments.seeds]
        cells = [cell(over_seeds([run[column] for run in runs])) for column in COLUMNS]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


class Bench:
    """What all variants share: dataset, users, and the prompts with their text states."""

    def __init__(self, out: Path, store: str, preset: Record) -> None:
        self.out, self.store, self.pipeline = out, store, load_pipeline("mini")
        sizes = settings(dataset.DatasetConfig, preset["dataset"], section="dataset")
        dataset.build(out / "data", sizes, captions_only=True)
        self.users = users_of(out, store)
        rows = load_prompts(out / "data" / "prompts.jsonl")
        rows += meaning_prompts(dataset.split_users(sizes)["test_unseen"], count=70, seed=sizes.seed)
        rows = [row for row in rows if row.meta["suite"] in SUITES and not row.meta["seen_user"]]
        self.asked = [one for i in range(0, len(rows), BATCH) for one in self._asked(rows[i : i + BATCH])]
        self.reader = Reader(self.pipeline.unet, sample_pools(self.pipeline, ["a red cat, in a meadow"] * 16, seed=99))
        self.reader.measure_spreads(torch.stack([one.said for one in self.asked[:256]]), floor=FLOOR)
        self.reader.drawn_from = list(range(len(self.reader)))
        self.draw: Draw = self.reader.draw(torch.Generator().manual_seed(1), layers=0, queries=128)

    def measure(self, name: str, preset: Record, seed: int) -> Record:
        """Figures of one variant and seed, from its folder where it is finished."""
        folder = self.out / f"{name.replace(' ', '-')}-{self.store}-{seed}"
        return once(folder, preset, lambda: self._train(folder, preset, seed))

    def _train(self, folder: Path, preset: Record, seed: int) -> Record:
        source = RowSource(self.out / "data", self.out / "cache")
        rows = load_captions(source, self.pipeline, self.users, preset=preset)
        started = time.process_time()
        train_adapter(preset, "prompt", self.pipeline, TrainingData(rows, self.users), folder, seed=seed)
        seconds = time.process_time() - started
        figures = self._figures(load_adapter(folder / "adapter", base="mini").eval())
        return {**figures, "CPU seconds": {"value": seconds, "n": 1}}

    @torch.no_grad()
    def _figures(self, adapter: Any) -> Record:
        cases: Cases = {}
        for start in range(0, len(self.asked), BATCH):
            self._count(adapter, self.asked[start : start + BATCH], cases)
        return {
            name: {"value": sum(seen) / len(seen), "n": len(seen)}
            if name.endswith("moved")
            else vars(wilson(int(sum(seen)), len(seen)))
            for name, seen in cases.items()
        }

    def _count(self, adapter: Any, batch: Sequence[Asked], cases: Cases) -> None:
        said, whole, without_banned, without_allowed = (
            torch.stack([getattr(one, name) for one in batch])
            for name in ("said", "whole", "without_banned", "without_allowed")
        )
        vectors = torch.from_numpy(self.users.vectors([str(one.row.user_id) for one in batch], exact=False))
        changed, _ = adapter.rewritten(said, None, RowUsers(vectors, torch.ones(len(batch))))

        def error(one: torch.Tensor, other: torch.Tensor) -> list[float]:
            return self.reader.error(one, other, self.draw).tolist()

        left, removal = error(changed, without_banned), error(whole, without_banned)
        near, far, moved = error(changed, whole), error(changed, without_allowed), error(changed, said)
        for i, one in enumerate(batch):
            suite = one.row.meta["suite"]
            if one.row.meta["kind"] == "safe":
                cases.setdefault("safe: moved", []).append(1000 * moved[i])
            elif one.banned:
                cases.setdefault(f"{suite}: gone", []).append(left[i] < 0.5 * removal[i])
            else:
                cases.setdefault(f"{suite}: kept", []).append(near[i] < far[i])

    def _asked(self, rows: Sequence[PromptRow]) -> list[Asked]:
        bans = [frozenset(self.users.known_bans(str(row.user_id))) for row in rows]
        motifs = [row.meta["motifs"] for row in rows]
        banned = [
            [m for m in row_motifs if world.MOTIF_CATEGORY[m] in b] for row_motifs, b in zip(motifs, bans, strict=True)
        ]
        allowed = [
            [m for m in row_motifs if world.MOTIF_CATEGORY[m] not in b]
            for row_motifs, b in zip(motifs, bans, strict=True)
        ]
        texts = [
            [row.prompt for row in rows],
            *(
                [plain(row, out) for row, out in zip(rows, left_out, strict=True)]
                for left_out in ([()] * len(rows), banned, allowed)
            ),
        ]
        states = [encode_texts(self.pipeline, part).prompt_embeds for part in texts]
        return [Asked(row, b, *of) for row, b, *of in zip(rows, bans, *states, strict=True)]


def plain(row: PromptRow, left_out: Sequence[str]) -> str:
    """The caption of a row's scene in one wording, without some motifs."""
    meta = row.meta
    scene = world.Scene(meta["background"], meta["subject"], meta["colour"], meta["side"], tuple(meta["motifs"]))
    return world.caption(scene.without(left_out), world.WORDINGS[0])


if __name__ == "__main__":
    main()
