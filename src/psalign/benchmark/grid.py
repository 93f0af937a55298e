"""The grid: draws every cell that is asked for, the same rows for each, and says which could not be drawn and
why.

Place on the path of data: step 6 for the benchmark, from prompt sets to eval_images/; a cell that could
not be drawn gets rows in results.csv. Fair by default: one seed per prompt, one sampler, one negative
prompt, whatever the method.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

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
from psalign.evaluation.catalog import DATASETS, METHODS
from psalign.evaluation.cells import Cell
from psalign.evaluation.results import FAILED, MISSING, append_results, result_row
from psalign.files import Record
from psalign.ids import LEVELS, level_id, level_of
from psalign.mini.names import KIND_NAMES, named
from psalign.records import PromptRow, read_manifest
from psalign.users.levels import PUBLISHED_LEVELS
from psalign.users.limits import phrases_of
from psalign.users.policy import banned_categories
from psalign.users.profile import UserProfile, load_profiles
from psalign.users.store import EmbeddingStore
from psalign.users.views import VectorsAlone, WordsAlone

from .methods import MethodInputs, draw_by, words_for
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

    prompts: folder of the published prompt sets. mini: folder of a mini dataset. weights: by (method,
    base); those of our methods are adapters. embeddings: folders of user vectors for our methods, by base
    or by "method/base". users: users file that says what each user bans, where there are no vectors or
    published ones. models: other places of base models. steps, guidance, batch_size: of sampling; None:
    the base's own. negative_prompt: for every method. limit: number of rows of each dataset, evenly
    spaced; None: all. seed_policy: `paired`: a seed per prompt, the same for all methods; `published`: as
    the published evaluation drew. sld, sld_concepts: see MethodInputs. loading: more fields of Loading.
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
    baselines: Record | None = None
    loading: Record = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UsageError for an unknown seed policy or strength of SLD."""
        if self.seed_policy not in SEED_POLICIES:
            raise UsageError(f"Unknown seed policy '{self.seed_policy}'; choose one of: {', '.join(SEED_POLICIES)}.")
        MethodInputs(sld=self.sld)


@dataclass(frozen=True)
class CellStatus:
    """What became of a cell.

    state: `drawn`; `missing`: there is nothing to draw it with; `failed`. pictures: number of those drawn.
    note: why.
    """

    cell: Cell
    state: str
    pictures: int = 0
    note: str = ""


DRAWN = "drawn"


def plan_cells(
    datasets: Sequence[str], methods: Sequence[str], bases: Sequence[str], levels: Sequence[int | None] = ()
) -> list[Cell]:
    """The cells of a grid, those of one base model after each other.

    levels: those of our methods, None for each row's own user; by default each row's own user where the
    dataset has users, and all six where it has none.
    Raises UsageError for an unknown name, or own users of a dataset that has none.
    """
    for name in bases:
        find_base(name)
    cells = []
    for base in bases:
        for dataset in datasets:
            for method in methods:
                is_ours = method in METHODS and METHODS[method].has_levels
                of_method = _levels(dataset, levels) if is_ours else (None,)
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


def draw_grid(
    cells: Sequence[Cell],
    out: Path,
    *,
    config: GridConfig,
    results: Path | None = None,
    pipelines: Mapping[str, Any] | None = None,
) -> list[CellStatus]:
    """Draw cells into out/<dataset>/<method>/<base>[/level_k]; pictures that are there stay. Returns one
    status per cell.

    results: results.csv, which gets a row for each metric of a cell that is not there. pipelines: by base,
    those that are loaded already. Under `accelerate launch` each process draws its share.
    Raises, before anything is drawn, DatasetError for prompts that are missing, UsageError where nobody
    says what a dataset's users ban; OutputError where a cell's folder holds pictures of another run.
    """
    shard = Shard(config.loading.get("device"))
    if config.seed_policy == PUBLISHED and shard.is_first:
        print(CONFOUNDED, file=sys.stderr)
    grid = Grid(config, shard, pipelines or {})
    rows = {name: grid.rows(name) for name in dict.fromkeys(cell.dataset for cell in cells)}
    grid.check_users(cells)
    statuses = [one for base in BASES for one in grid.draw_base(base, cells, rows, out)]
    if results is not None and shard.is_first:
        add_missing(results, statuses)
    return statuses


class Grid:
    """Draws cells; keeps what they share."""

    def __init__(self, config: GridConfig, shard: Shard, pipelines: Mapping[str, Any]) -> None:
        self.config, self.shard, self._pipelines = config, shard, pipelines
        self._profiles = load_profiles(config.users) if config.users else []
        self._known = users_of(self._profiles)
        self._stores: dict[Path, EmbeddingStore] = {}

    def rows(self, dataset: str) -> list[PromptRow]:
        return load_prompt_set(dataset, prompts=self.config.prompts, mini=self.config.mini, limit=self.config.limit)

    def check_users(self, cells: Sequence[Cell]) -> None:
        """Raises UsageError where nothing says what the users of the rows ban."""
        for cell in cells:
            if DATASETS[cell.dataset].has_users and not self._profiles and not self._store_knows_bans(cell):
                raise UsageError(
                    f"The rows of {cell.dataset} are for users, and nothing says what they ban.",
                    hint="Give --embeddings (psalign embed), or --users a users file; published vectors need both.",
                )

    def draw_base(
        self, base: str, cells: Sequence[Cell], rows: Mapping[str, Sequence[PromptRow]], out: Path
    ) -> Iterator[CellStatus]:
        """The cells of one base model, with one pipeline, which is loaded where there is something to draw."""
        pipeline: Any = self._pipelines.get(base)
        for cell in (cell for cell in cells if cell.base == base):
            why = self._lacks(cell)
            if why:
                yield _not_drawn(cell, why, cell.folder(out) / "manifest.jsonl")
                continue
            try:
                pipeline = pipeline or self._load(base)
                count = self._draw(cell, pipeline, rows[cell.dataset], cell.folder(out))
            except OF_ONE_CELL as err:
                yield CellStatus(cell, FAILED, note=str(err))
            else:
                yield CellStatus(cell, DRAWN, pictures=count)

    # --- one cell ---------------------------------------------------------------------------------------------------

    def _draw(self, cell: Cell, pipeline: Any, rows: Sequence[PromptRow], folder: Path) -> int:
        inputs, rows = self.inputs(cell), self._rows_of(cell, rows)
        self._require_bans(rows, inputs.users)
        if self.shard.is_first:
            print(f"{cell}: {len(rows)} pictures", file=sys.stderr)
        return len(draw_by(cell.method, pipeline, rows, folder, config=self.sampling(cell), inputs=inputs))

    def inputs(self, cell: Cell) -> MethodInputs:
        """What a cell's method draws with."""
        return MethodInputs(
            users=self._users(cell),
            words=words_for(cell.base),
            weights=self.config.weights.get((cell.method, cell.base)),
            sld=self.config.sld,
            baselines=self.config.baselines,
        )

    def sampling(self, cell: Cell) -> GenerationConfig:
        """How a cell's pictures are drawn, whatever the method but for its name."""
        own = self.config.seed_policy == PUBLISHED and has_levels(cell)
        return GenerationConfig.for_base(
            cell.base,
            evaluates=True,
            method=cell.method,
            steps=self.config.steps,
            guidance=self.config.guidance,
            batch_size=self.config.batch_size,
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
        needed = METHODS[cell.method].weights
        if needed and place is None:
            flag = f"--adapter {cell.base}" if cell.method == "psa" else f"--weights {cell.method}/{cell.base}"
            return f"{needed} not given: {flag}=PATH"
        if place is not None and not place.exists():
            return f"{place} does not exist"
        if has_levels(cell) and self._vectors(cell) is None:
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

    def _vectors(self, cell: Cell) -> Path | None:
        """Folder of the user vectors for a cell's method and base."""
        return self.config.embeddings.get(f"{cell.method}/{cell.base}") or self.config.embeddings.get(cell.base)

    def _store(self, folder: Path) -> EmbeddingStore:
        if folder not in self._stores:
            self._stores[folder] = EmbeddingStore.load(folder, profiles=self._profiles)
        return self._stores[folder]

    def _store_knows_bans(self, cell: Cell) -> bool:
        """Whether vectors bring the bans of people, not of levels alone: published ones do not. Vectors that
        cannot be read count as if they did: their own cell says why it failed."""
        folder = self._vectors(cell)
        if folder is None:
            return False
        try:
            store = self._store(folder)
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
        """Vectors for our methods alone: the other methods know what users ban, and nothing else of them."""
        folder = self._vectors(cell)
        if has_levels(cell):
            assert folder is not None  # or the cell lacks something
            return view_of(cell.method, self._store(folder))
        if not DATASETS[cell.dataset].has_users:
            return Nobody()
        if folder is not None and self._store_knows_bans(cell):
            return Bans(self._store(folder).banned, self._store(folder).limits)
        return self._known


def has_levels(cell: Cell) -> bool:
    """Whether a cell's method is one of ours, which know users by vectors."""
    return METHODS[cell.method].has_levels


def view_of(method: str, store: EmbeddingStore) -> Users:
    """Users of a store as a method of ours sees them: whole, by their vectors alone, or by limits in words
    alone."""
    if method == "psa-prompt-vector":
        return VectorsAlone(store)
    if method != "psa-prompt-words":
        return store
    bans = {user_id: store.known_bans(user_id) for user_id in store.user_ids}
    phrases = {user_id: [named(KIND_NAMES[name][0]) for name in banned] for user_id, banned in bans.items()}
    return WordsAlone(store.fingerprint, phrases, bans)


def _not_drawn(cell: Cell, why: str, manifest: Path) -> CellStatus:
    """A cell that lacks something now, and may have been drawn before."""
    if not manifest.exists():
        return CellStatus(cell, MISSING, note=why)
    return CellStatus(cell, DRAWN, len(read_manifest(manifest)), f"drawn before; now {why}")


class Bans:
    """Users that are known by their bans and limits in words alone."""

    fingerprint = "bans"

    def __init__(
        self,
        banned: Callable[[str], tuple[str, ...] | None],
        limits: Callable[[str], tuple[tuple[str, float], ...]],
    ) -> None:
        self.banned, self.limits = banned, limits

    def batch(self, user_ids: Sequence[str | None]) -> Any:
        raise UsageError(f"There are no user vectors; saw {', '.join(map(str, user_ids[:5]))}.")


def users_of(profiles: Sequence[UserProfile]) -> Bans:
    """Users as their profiles say: what the rules of the taxonomy ban, and limits in words."""
    bans = {profile.user_id: banned_categories(profile) for profile in profiles}
    limits = {one.user_id: phrases_of(one.limits or (), date.today()) for one in profiles}
    return Bans(bans.get, lambda user_id: limits.get(user_id, ()))


def users_of_file(path: Path) -> Bans:
    """Users of a users file, for methods that know no vectors. Raises as load_profiles does."""
    return users_of(load_profiles(path))


def published_seed(cell: Cell, row: PromptRow) -> int:
    """A row's seed under the policy `published`: psa drew each picture from a fresh one, all others from one
    seed.

    Each row and level has its own seed, the same when the cell is drawn again.
    """
    if not has_levels(cell):
        return SEED
    return derive_seed(row.seed, 1 + (len(LEVELS) if cell.level is None else cell.level))


def add_missing(results: Path, statuses: Sequence[CellStatus]) -> None:
    """Add to results.csv what is not there, and why: a row for each metric of the cell's dataset.

    A row that the file has already is not added again, and no row replaces a score.
    """
    rows = [
        result_row(one.cell, metric, one.state, note=one.note)
        for one in statuses
        if one.state != DRAWN
        for metric in DATASETS[one.cell.dataset].metrics
    ]
    append_results(results, rows, only_new=True)


def describe(statuses: Sequence[CellStatus]) -> str:
    """The statuses as a table for a terminal."""
    width = max((len(str(one.cell)) for one in statuses), default=0)
    lines = [
        f"{one.cell!s:{width}}  {one.state:8} "
        + ", ".join([f"{one.pictures} pictures"] * (one.state == DRAWN) + one.note.splitlines()[:1])
        for one in statuses
    ]
    return "\n".join(lines)
