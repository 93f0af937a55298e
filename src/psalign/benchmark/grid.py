"""The grid: draws every cell that is asked for, the same rows for each, and says which could not be drawn and why.

Place on the path of data: step 6 for the evaluation, from prompt sets to eval_images/ and, for what is not there,
results.csv. Fair by default: one seed per prompt, one sampler, one negative prompt, whatever the method.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from psalign.categories import category_names
from psalign.diffusion.base_models import BASES, find_base, load_pipeline
from psalign.diffusion.generate import GenerationConfig, Nobody, Users
from psalign.diffusion.prompts import derive_seed
from psalign.diffusion.shards import Shard
from psalign.errors import (
    CheckpointError,
    EmbeddingMissing,
    ExtraMissing,
    GenerationError,
    RecipeMismatch,
    UnknownUser,
    UsageError,
)
from psalign.evaluation.cells import DATASETS, LEVELS, Cell
from psalign.evaluation.results import FAILED, MISSING, append_missing, result_row
from psalign.files import Record
from psalign.ids import level_id, level_of
from psalign.mini.dataset import WORDS_TO_AVOID
from psalign.records import PromptRow, read_manifest
from psalign.users.levels import PUBLISHED_LEVELS
from psalign.users.limits import phrases_of
from psalign.users.policy import banned_categories
from psalign.users.profile import load_profiles
from psalign.users.store import EmbeddingStore

from .methods import NEEDS_WEIGHTS, Means, draw_by
from .prompt_sets import SEED, load_prompt_set

PAIRED, PUBLISHED = "paired", "published"
SEED_POLICIES = (PAIRED, PUBLISHED)
# The published code's default where it is given none, which its evaluation leaves it to for its own method alone.
PUBLISHED_NEGATIVE_PROMPT = "monochrome, lowres, bad anatomy, worst quality, low quality"
CONFOUNDED = (
    "Warning: seed policy 'published': psa has seeds and a negative prompt of its own, the other methods share seed "
    f"{SEED} and have none. Differences between methods are confounded with both: only for comparing with old numbers."
)
# What stops one cell and not the others. All processes see these alike; anything else stops the run.
OF_ONE_CELL = (CheckpointError, EmbeddingMissing, ExtraMissing, GenerationError, RecipeMismatch, UnknownUser)


@dataclass(frozen=True)
class GridConfig:
    """What to draw the cells from and with.

    prompts: folder of the published prompt sets; mini: a mini dataset. weights: by (method, base), psa's are adapters.
    embeddings: folders of user vectors by base, for psa. users: users file with the bans of each user, where there
    are no vectors or published ones. models: other places of base models. steps, guidance, batch_size: None for the
    base's own. negative_prompt: of every method. limit: rows of each dataset, evenly spaced; None: all.
    seed_policy: `paired`: a seed per prompt, the same for all methods; `published`: as the published evaluation did.
    sld, sld_concepts: see Means. loading: more of Loading.
    """

    prompts: Path = Path("data/prompts")
    mini: Path = Path("data/mini")
    weights: Mapping[tuple[str, str], Path] = field(default_factory=dict)
    embeddings: Mapping[str, Path] = field(default_factory=dict)
    users: Path | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    steps: int | None = None
    guidance: float | None = None
    batch_size: int | None = None
    negative_prompt: str = ""
    limit: int | None = None
    seed_policy: str = PAIRED
    sld: str = "medium"
    sld_concepts: str = "all"
    loading: Record = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UsageError for an unknown seed policy or strength of SLD."""
        if self.seed_policy not in SEED_POLICIES:
            raise UsageError(f"Unknown seed policy '{self.seed_policy}'; choose one of: {', '.join(SEED_POLICIES)}.")
        Means(sld=self.sld, sld_concepts=self.sld_concepts)


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: `drawn`, so many pictures; `missing`: there is nothing to draw it with; `failed`."""

    cell: Cell
    state: str
    pictures: int = 0
    note: str = ""


DRAWN = "drawn"


def plan_cells(
    datasets: Sequence[str], methods: Sequence[str], bases: Sequence[str], levels: Sequence[int | None] = ()
) -> list[Cell]:
    """The cells of a grid, those of one base model after each other.

    levels: of psa, None for each row's own user; left out: each row's own user where the dataset has users, and
    all six where it has none.
    Raises UsageError for an unknown name, or own users of a dataset that has none.
    """
    for name in bases:
        find_base(name)
    cells = []
    for base in bases:
        for dataset in datasets:
            for method in methods:
                of_method = _levels(dataset, levels) if method == "psa" else (None,)
                cells += [Cell(dataset, method, base, level) for level in of_method]
    return list(dict.fromkeys(cells))


def _levels(dataset: str, levels: Sequence[int | None]) -> Sequence[int | None]:
    has_users = dataset in DATASETS and DATASETS[dataset].has_users
    if None in levels and not has_users:
        raise UsageError(
            f"The rows of {dataset} are for no user, so psa cannot draw them for their own.",
            hint="Give --levels 0 1 2 3 4 5, or some of them.",
        )
    return levels or ((None,) if has_users else tuple(LEVELS))


def draw_grid(cells: Sequence[Cell], out: Path, *, config: GridConfig, results: Path | None = None) -> list[Outcome]:
    """Draw cells into out/<dataset>/<method>/<base>[/level_k]; what is there already is left. One outcome per cell.

    results: results.csv, which gets a row for each metric of a cell that is not there. Under `accelerate launch` each
    process draws its share.
    Raises, before anything is drawn, DatasetError for prompts that are missing, UsageError where nobody says what a
    dataset's users ban; OutputError where a cell's folder holds pictures of another run.
    """
    shard = Shard(config.loading.get("device"))
    if config.seed_policy == PUBLISHED and shard.is_first:
        print(CONFOUNDED, file=sys.stderr)
    grid = Grid(config, shard)
    rows = {name: grid.rows(name) for name in dict.fromkeys(cell.dataset for cell in cells)}
    grid.check_users(cells)
    outcomes = [outcome for base in BASES for outcome in grid.draw_base(base, cells, rows, out)]
    if results is not None and shard.is_first:
        tell_missing(results, outcomes)
    return outcomes


class Grid:
    """Draws cells; keeps what they share."""

    def __init__(self, config: GridConfig, shard: Shard) -> None:
        self.config, self.shard = config, shard
        self._profiles = load_profiles(config.users) if config.users else []
        self._bans = {profile.user_id: banned_categories(profile) for profile in self._profiles}
        self._limits = {one.user_id: phrases_of(one.limits or (), date.today()) for one in self._profiles}
        self._stores: dict[str, EmbeddingStore] = {}

    def rows(self, dataset: str) -> list[PromptRow]:
        return load_prompt_set(dataset, prompts=self.config.prompts, mini=self.config.mini, limit=self.config.limit)

    def check_users(self, cells: Sequence[Cell]) -> None:
        """Raises UsageError where rows are for users of whom nothing says what they ban."""
        for cell in cells:
            if DATASETS[cell.dataset].has_users and not self._bans and not self._store_knows_bans(cell.base):
                raise UsageError(
                    f"The rows of {cell.dataset} are for users, and nothing says what they ban.",
                    hint="Give --embeddings (psalign embed), or --users a users file; published vectors need both.",
                )

    def draw_base(
        self, base: str, cells: Sequence[Cell], rows: Mapping[str, Sequence[PromptRow]], out: Path
    ) -> Iterator[Outcome]:
        """The cells of one base model, with one pipeline, which is loaded where there is something to draw."""
        pipeline: Any = None
        for cell in (cell for cell in cells if cell.base == base):
            why = self._lacks(cell)
            if why:
                yield _not_drawn(cell, why, cell.folder(out) / "manifest.jsonl")
                continue
            try:
                pipeline = pipeline or self._load(base)
                count = self._draw(cell, pipeline, rows[cell.dataset], cell.folder(out))
            except OF_ONE_CELL as err:
                yield Outcome(cell, FAILED, note=str(err))
            else:
                yield Outcome(cell, DRAWN, pictures=count)

    # --- one cell ---------------------------------------------------------------------------------------------------

    def _draw(self, cell: Cell, pipeline: Any, rows: Sequence[PromptRow], folder: Path) -> int:
        means = Means(
            users=self._users(cell),
            words=WORDS_TO_AVOID if cell.base == "mini" and category_names() == tuple(WORDS_TO_AVOID) else None,
            weights=self.config.weights.get((cell.method, cell.base)),
            sld=self.config.sld,
            sld_concepts=self.config.sld_concepts,
        )
        rows = self._rows_of(cell, rows)
        self._require_bans(rows, means.users)
        if self.shard.is_first:
            print(f"{cell}: {len(rows)} pictures", file=sys.stderr)
        return len(draw_by(cell.method, pipeline, rows, folder, config=self._drawing(cell), means=means))

    def _drawing(self, cell: Cell) -> GenerationConfig:
        base, own = find_base(cell.base), self.config.seed_policy == PUBLISHED and cell.method == "psa"
        return GenerationConfig(
            method=cell.method,
            base=cell.base,
            steps=self.config.steps or base.evaluation_steps,
            guidance=base.guidance if self.config.guidance is None else self.config.guidance,
            batch_size=self.config.batch_size or base.batch_size,
            negative_prompt=PUBLISHED_NEGATIVE_PROMPT if own else self.config.negative_prompt,
            scheduler=self.config.loading.get("scheduler"),
            dtype=self._dtype(cell.base),
            options={"dataset": cell.dataset, "limit": self.config.limit, "seed_policy": self.config.seed_policy},
        )

    def _rows_of(self, cell: Cell, rows: Sequence[PromptRow]) -> list[PromptRow]:
        """The dataset's rows as this cell draws them: for a level, and by the seed policy."""
        if self.config.seed_policy == PUBLISHED:
            rows = [replace(row, seed=published_seed(cell, row)) for row in rows]
        if cell.level is None:
            return list(rows)
        return [replace(row, user_id=level_id(cell.level)) for row in rows]

    def _lacks(self, cell: Cell) -> str:
        """What a cell cannot be drawn without; empty where all is there."""
        place = self.config.weights.get((cell.method, cell.base))
        if cell.method in NEEDS_WEIGHTS and place is None:
            flag = f"--adapter {cell.base}" if cell.method == "psa" else f"--weights {cell.method}/{cell.base}"
            return f"{NEEDS_WEIGHTS[cell.method]} not given: {flag}=PATH"
        if place is not None and not place.exists():
            return f"{place} does not exist"
        if cell.method == "psa" and cell.base not in self.config.embeddings:
            return f"user vectors not given: --embeddings {cell.base}=DIR"
        return ""

    # --- what cells share -------------------------------------------------------------------------------------------

    def _load(self, base: str) -> Any:
        more = {**self.config.loading, "device": str(self.shard.device), "dtype": self._dtype(base)}
        return load_pipeline(base, source=self.config.models.get(base), **more)

    def _dtype(self, base: str) -> str:
        """What is asked for; else half precision on a GPU, but for mini, which gains nothing by it."""
        on_gpu = self.shard.device.type != "cpu" and base != "mini"
        return self.config.loading.get("dtype") or ("fp16" if on_gpu else "fp32")

    def _store(self, base: str) -> EmbeddingStore:
        if base not in self._stores:
            self._stores[base] = EmbeddingStore.load(self.config.embeddings[base], profiles=self._profiles)
        return self._stores[base]

    def _store_knows_bans(self, base: str) -> bool:
        """Whether vectors bring the bans of people, not of levels alone: published ones do not. Vectors that cannot be
        read count as if they did: their own cell says why it failed."""
        if base not in self.config.embeddings:
            return False
        try:
            store = self._store(base)
        except OF_ONE_CELL:
            return True
        people = (user_id for user_id in store.user_ids if level_of(user_id) is None)
        return any(store.banned(user_id) is not None for user_id in people if user_id not in PUBLISHED_LEVELS)

    def _require_bans(self, rows: Sequence[PromptRow], users: Users) -> None:
        """Raises UnknownUser where nothing says what a row's user bans: its pictures could not be measured."""
        ids = sorted({row.user_id for row in rows if row.user_id is not None})
        unknown = [user_id for user_id in ids if users.banned(user_id) is None]
        if unknown:
            raise UnknownUser(
                f"Nothing says what {len(unknown)} of {len(ids)} users ban: {', '.join(unknown[:5])}.",
                hint="Give --users the users file with all of them.",
            )

    def _users(self, cell: Cell) -> Users:
        """Vectors for psa alone: the other methods know what users ban, and their pictures hang on nothing else."""
        if cell.method == "psa":
            return self._store(cell.base)
        if not DATASETS[cell.dataset].has_users:
            return Nobody()
        if self._store_knows_bans(cell.base):
            return Bans(self._store(cell.base).banned, self._store(cell.base).limits)
        return Bans(self._bans.get, lambda user_id: self._limits.get(user_id, ()))


def _not_drawn(cell: Cell, why: str, manifest: Path) -> Outcome:
    """A cell that lacks something now, and may have been drawn before."""
    if not manifest.exists():
        return Outcome(cell, MISSING, note=why)
    return Outcome(cell, DRAWN, len(read_manifest(manifest)), f"drawn before; now {why}")


class Bans:
    """Users of whom only their bans and limits in words are known."""

    fingerprint = "bans"

    def __init__(
        self,
        banned: Callable[[str], tuple[str, ...] | None],
        limits: Callable[[str], tuple[tuple[str, float], ...]],
    ) -> None:
        self.banned, self.limits = banned, limits

    def batch(self, user_ids: Sequence[str | None]) -> Any:
        raise UsageError(f"There are no user vectors; saw {', '.join(map(str, user_ids[:5]))}.")


def published_seed(cell: Cell, row: PromptRow) -> int:
    """A row's seed under the policy `published`: psa drew each picture from a fresh one, all others from one seed.

    Fresh means here: another for each row and level, and the same when the cell is drawn again.
    """
    if cell.method != "psa":
        return SEED
    return derive_seed(row.seed, 1 + (len(LEVELS) if cell.level is None else cell.level))


def tell_missing(results: Path, outcomes: Sequence[Outcome]) -> None:
    """Add to results.csv what is not there, and why: a row for each metric of the cell's dataset.

    What the file says already is not said again; nothing replaces a score.
    """
    lost = [outcome for outcome in outcomes if outcome.state != DRAWN]
    append_missing(
        results,
        [
            result_row(outcome.cell, metric, outcome.state, note=outcome.note)
            for outcome in lost
            for metric in DATASETS[outcome.cell.dataset].metrics
        ],
    )


def describe(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a table for a terminal."""
    width = max((len(str(outcome.cell)) for outcome in outcomes), default=0)
    lines = [
        f"{outcome.cell!s:{width}}  {outcome.state:8} "
        + ", ".join([f"{outcome.pictures} pictures"] * (outcome.state == DRAWN) + outcome.note.splitlines()[:1])
        for outcome in outcomes
    ]
    return "\n".join(lines)
