"""Builds a SAGE dataset: concepts -> prompts -> pictures -> rows of every split, and a sheet to look at.

Place on the path of data: makes the folder that sage/dataset.py reads. The writer of prompts and the drawer
of pictures are arguments. Until the end every prompt and picture is a file of its own, so that a build that
was killed goes on, and several processes share the work and write the same bytes as one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from ...categories import require_taxonomy, taxonomy_mark
from ...decoding import encode
from ...errors import GenerationError, OutputError
from ...files import Record, read_json, write_bytes, write_csv, write_json
from ...fingerprints import fingerprint, versions
from ...progress import Progress
from ...records import PromptRow
from ..dataset import ANNOTATIONS, MARK, METADATA, write_split
from ..names import picture_name
from ..output import OTHER_OUT, place_picture
from ..rows import SPLITS
from ..share import Share
from .concepts import Concept, Item, by_category, read_concepts, write_concepts
from .pairs_sheet import SheetPair, write_pairs_sheet
from .plan import BuildConfig, BuildUser, Plan, make_plan
from .writers import Prompts, PromptWriter

CONCEPTS, PROMPTS, SHEET = "concepts.csv", "prompts.csv", "sheet.png"
WORK = ".unfinished"
BUILDING, FINISHED = "building", "finished"
SIDES = ("safe", "unsafe")
SHEET_PAIRS = 24


@dataclass(frozen=True)
class Drawer:
    """recipe: settings that decide the pictures. draw: writes rows as PNG files into a folder."""

    recipe: Record
    draw: Callable[[Sequence[PromptRow], Path], object]


@dataclass(frozen=True)
class Order:
    """What to build. splits: user ids by split. save_users: writes the users file to a path."""

    concepts: Sequence[Concept]
    users: Sequence[BuildUser]
    splits: Mapping[str, Sequence[str]]
    config: BuildConfig
    save_users: Callable[[Path], None]


def build(
    root: Path, order: Order, writer: PromptWriter, drawer: Drawer | None, *, share: Share | None = None
) -> Record:
    """Build a dataset into root, or go on with it; a finished one is not changed. Returns its counts.

    drawer: None for captions alone; the pictures that rows name are then not drawn. share: this process's
    part of the work. Raises OutputError where root holds something else, UsageError for sizes that do not fit
    together, GenerationError where a prompt or picture could not be made.
    """
    share = share or Share()
    recipe = _recipe(order, writer, drawer)
    share.wait()  # so that every process has seen the same folder
    finished = _state(root, recipe)
    if finished is None:
        check_order(order)
    share.wait()
    if finished is None and share.index == 0:
        _claim(root, recipe)
    share.wait()
    if finished is None:
        finished = _build(root, order, writer, drawer, share, recipe)
    if share.index == 0:
        shutil.rmtree(root / WORK, ignore_errors=True)
    share.wait()
    return finished


def check_order(order: Order) -> None:
    """Raises UsageError for sizes that do not fit together; with `expand` only the build can find out."""
    if order.config.expand is None:
        make_plan(order.concepts, order.users, order.splits, order.config)


def _build(
    root: Path, order: Order, writer: PromptWriter, drawer: Drawer | None, share: Share, recipe: Record
) -> Record:
    concepts = _concepts(root, order, writer, share)
    plan = make_plan(concepts, order.users, order.splits, order.config)
    prompts = _prompts(root / WORK / "prompts" / fingerprint(writer.recipe), plan.items, writer, share)
    if drawer is not None:
        drawer.draw(picture_rows(plan.items, prompts, seed=order.config.seed), root / WORK / "pictures")
    share.wait()
    counts = _counts(plan, drawn=drawer is not None)
    if share.index == 0:
        order.save_users(root / "users.csv")
        write_csv(root / PROMPTS, [{**_about(item), **asdict(prompts[item.key])} for item in plan.items])
        if drawer is not None:
            _place_pictures(root, plan, quality=order.config.quality)
        for split in plan.pairs:
            write_split(root, split, plan.rows(split, prompts))
        if drawer is not None:
            _write_sheet(root, plan, prompts)
        for left in root.rglob(".*.part"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)
        mark = {**_mark(recipe), "state": FINISHED, "counts": counts}
        write_json(root / MARK, {**mark, "held_out": [asdict(concept) for concept in plan.held_out], **versions()})
    share.wait()
    return counts


def _recipe(order: Order, writer: PromptWriter, drawer: Drawer | None) -> Record:
    """All that decides a dataset. Users and splits are only digests in it."""
    return {
        "config": asdict(order.config),
        "concepts": fingerprint([asdict(concept) for concept in order.concepts]),
        "users": fingerprint([asdict(user) for user in order.users]),
        "splits": fingerprint(order.splits),
        "writer": writer.recipe,
        "drawing": None if drawer is None else drawer.recipe,
    }


def _state(root: Path, recipe: Record) -> Record | None:
    """Counts of a finished build of this recipe; None for one to begin or to go on with. Raises OutputError."""
    mark = root / MARK
    if not mark.is_file():
        names = (*(f"{split}/{METADATA}" for split in SPLITS), ANNOTATIONS, "users.csv", PROMPTS)
        there = [name for name in names if os.path.lexists(root / name)]
        if there:
            raise OutputError(f"{root} holds a dataset that was not built here ({there[0]}).", hint=OTHER_OUT)
        return None
    known = _read_mark(mark)
    require_taxonomy(known.get("taxonomy"), of=f"the dataset in {root}")
    if known.get("fingerprint") != fingerprint(recipe):
        if known.get("state") == BUILDING and not (root / WORK / "pictures").exists():
            return None  # nothing but prompts so far, which are kept by writer and concept
        raise OutputError(
            f"{root} holds another dataset (other concepts, users, writer, base model or settings).", hint=OTHER_OUT
        )
    counts: Record | None = known.get("counts") if known.get("state") == FINISHED else None
    return counts


def _read_mark(mark: Path) -> Record:
    what, fault = "the mark of a build", partial(OutputError, hint=OTHER_OUT)
    known = read_json(mark, what=what, needs=("state", "fingerprint"), fault=fault)
    if not isinstance(known.get("counts") or {}, dict):
        raise fault(f"{mark} is damaged: its counts are no JSON object; expected {what}.")
    return known


def _mark(recipe: Record) -> Record:
    """The content of dataset.json; it names a taxonomy that is not the default one."""
    return {"state": "", "fingerprint": fingerprint(recipe), "recipe": recipe, **taxonomy_mark()}


def _claim(root: Path, recipe: Record) -> None:
    """Mark the folder as this build's. Concepts of another build, which stopped early, are removed."""
    mark = {**_mark(recipe), "state": BUILDING}
    if not (root / MARK).is_file() or _read_mark(root / MARK) != mark:
        (root / CONCEPTS).unlink(missing_ok=True)
        write_json(root / MARK, mark)


# --- concepts and prompts -------------------------------------------------------------------------------------------


def _concepts(root: Path, order: Order, writer: PromptWriter, share: Share) -> list[Concept]:
    """The concepts, written once: the given ones and, with `expand`, those that the writer adds."""
    path, failed = root / CONCEPTS, None
    if share.index == 0 and not path.is_file():
        try:
            write_concepts(path, list(_found(order, writer)))
        except GenerationError as err:  # raised once every process is here
            failed = err
    share.wait()
    if failed is not None:
        raise failed
    if not path.is_file():
        raise GenerationError("The first process found no concepts; its message says why.")
    return read_concepts(path)


def _found(order: Order, writer: PromptWriter) -> Iterator[Concept]:
    for category, seeds in by_category(order.concepts).items():
        known = [one.concept for one in seeds]
        found = known if order.config.expand is None else writer.expand(category, known, order.config.expand)
        yield from (Concept(category, concept) for concept in found)


def _prompts(folder: Path, items: Sequence[Item], writer: PromptWriter, share: Share) -> dict[str, Prompts]:
    """Prompts by key of the item, after writing the missing ones, a file for each."""
    mine = [item for item in items[share.index :: share.count] if not (folder / f"{item.key}.json").exists()]

    def write(item: Item) -> None:
        write_json(folder / f"{item.key}.json", {**_about(item), **asdict(writer.write(item))})

    failed: GenerationError | None = None
    with ThreadPoolExecutor(max_workers=writer.concurrency) as pool:
        jobs = [pool.submit(write, item) for item in mine]
        try:
            for job in Progress(jobs, desc="writing prompts", unit="prompt", disable=len(jobs) < 2):
                job.result()
        except GenerationError as err:  # raised once the other prompts are on disk, and every process is here
            failed = err
        finally:
            pool.shutdown(cancel_futures=True)
    share.wait()
    if failed is not None:
        raise failed
    lacking = [item for item in items if not (folder / f"{item.key}.json").exists()]
    if lacking:
        raise GenerationError(f"{len(lacking)} prompts were not written by another process: {lacking[0]}.")
    records = ((item, _written(folder / f"{item.key}.json")) for item in items)
    return {item.key: Prompts(record["unsafe"], record["safe"]) for item, record in records}


def _written(path: Path) -> Record:
    fault = partial(OutputError, hint="Remove that file and run the same command: its prompts are written again.")
    return read_json(path, what="the prompts of a concept", needs=("unsafe", "safe"), fault=fault)


def _about(item: Item) -> Record:
    return {"category": item.concept.category, "concept": item.concept.concept, "index": item.index}


# --- pictures -------------------------------------------------------------------------------------------------------


def picture_rows(items: Sequence[Item], prompts: Mapping[str, Prompts], *, seed: int) -> list[PromptRow]:
    """The rows to draw: the safe and the unsafe picture of each item, both from one seed."""
    return [
        PromptRow(
            f"{item.key}_{side}.png",
            getattr(prompts[item.key], side),
            int(fingerprint([seed, item.key]), 16) % 2**31,
            meta={**_about(item), "kind": side},
        )
        for item in items
        for side in SIDES
    ]


def _place_pictures(root: Path, plan: Plan, *, quality: int) -> None:
    """Each user's pictures under SAGE's names. Users who share a pair share its files by hard links."""
    for item in Progress(plan.items, desc="encoding pictures", unit="pair", disable=len(plan.items) < 100):
        for side in SIDES:
            _encode(root / WORK / "pictures" / f"{item.key}_{side}.png", _encoded(root, item, side), quality)
    for split, pairs in plan.pairs.items():
        (root / split).mkdir(exist_ok=True)
        for user, item in pairs:
            for side in SIDES:
                name = picture_name(item.pair(user.user_id), unsafe=side == "unsafe")
                place_picture(_encoded(root, item, side), root / split / name)


def _encoded(root: Path, item: Item, side: str) -> Path:
    return root / WORK / "encoded" / f"{item.key}_{side}.jpg"


def _encode(drawn: Path, path: Path, quality: int) -> None:
    if path.exists():
        return
    with Image.open(drawn) as picture:
        write_bytes(path, encode(picture.convert("RGB"), "JPEG", quality=quality, subsampling=0), sync=False)


def _write_sheet(root: Path, plan: Plan, prompts: Mapping[str, Prompts]) -> None:
    """A few pairs of every category, safe beside unsafe."""
    shown: list[SheetPair] = []
    groups = by_category({item.concept for item in plan.items})
    count = max(1, SHEET_PAIRS // len(groups))
    for category in groups:
        for item in [item for item in plan.items if item.concept.category == category][:count]:
            safe, unsafe = (_encoded(root, item, side) for side in SIDES)
            captions = prompts[item.key]
            shown.append(SheetPair(f"{category}: {item.concept.concept}", safe, unsafe, captions.safe, captions.unsafe))
    write_pairs_sheet(root / SHEET, shown)


def _counts(plan: Plan, *, drawn: bool) -> Record:
    return {
        "rows": {split: 2 * len(pairs) for split, pairs in plan.pairs.items()},
        "users": {split: len({user.user_id for user, _ in pairs}) for split, pairs in plan.pairs.items()},
        "concepts": {split: len({item.concept for _, item in pairs}) for split, pairs in plan.pairs.items()},
        "pictures": 2 * len(plan.items) if drawn else 0,
    }
