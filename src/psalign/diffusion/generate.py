"""Makes pictures: prompts and users in, PNG files and manifest.jsonl out.

Place on the path of data: step 6. A picture depends on its own row and seed, not on the other rows of its batch;
another batch size may round it by one grey level. A run that was interrupted continues from the pictures on disk.
Batches are cut from the whole list of rows, so any number of processes, and an interrupted run, write the same files.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..adapter.guard import AttachedAdapter
from ..adapter.text import accepted_by, encode_texts
from ..adapter.users import require_words
from ..categories import current
from ..decoding import encode
from ..errors import GenerationError, OutputError, RecipeMismatch, UnknownUser, UsageError, listed, reason_of
from ..files import Record, read_json, write_bytes, write_json, write_jsonl
from ..fingerprints import fingerprint
from ..ids import level_of
from ..locks import locked
from ..progress import Progress
from ..records import NO_VECTORS, ManifestRow, PromptRow
from .base_models import base_fingerprint, find_base
from .pictures import draw_pictures, finished_pictures
from .shards import Shard

PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
MOST_STEPS = 1000
MUCH_GUIDANCE = 20.0
MAX_FAILURES_SHOWN = 100
MAX_CUT_SHOWN = 10
NOBODY = ""  # in place of a user id, in negative_prompts
NO_LIMIT = 1 << 20  # tokens: to see what would be cut
Failure = tuple[str, str]  # file name of a picture that could not be made, and why
Batches = Sequence[Sequence[PromptRow]]


class Users(Protocol):
    """What generation needs to know of users: vectors, bans (None: not known) and limits, never their profiles."""

    @property
    def fingerprint(self) -> str: ...

    def batch(self, user_ids: Sequence[str | None]) -> Any: ...

    def banned(self, user_id: str) -> tuple[str, ...] | None: ...

    def limits(self, user_id: str) -> tuple[tuple[str, float], ...]: ...


class Nobody:
    """No users: the base model draws."""

    fingerprint = "nobody"

    def batch(self, user_ids: Sequence[str | None]) -> Any:
        raise UsageError(f"There are no user vectors; saw {', '.join(map(str, user_ids[:5]))}.")

    def banned(self, user_id: str) -> tuple[str, ...] | None:
        return None

    def limits(self, user_id: str) -> tuple[tuple[str, float], ...]:
        return ()


def known_bans(users: Users, user_id: str) -> tuple[str, ...]:
    """What a user bans. Raises UnknownUser where that is not known: it is never taken for nothing."""
    banned = users.banned(user_id)
    if banned is None:
        raise UnknownUser(f"Nothing says what user {user_id} bans.", hint="Give their users file with --users.")
    return banned


def _together(row: PromptRow) -> Any:
    return None


@dataclass(frozen=True)
class Guide:
    """What a method does with each batch, beside prompts, seeds and sampling.

    arguments: of the pipeline call for these rows, called just before it. apart: a key of a row; rows with different
    keys are never in one batch, so that a method may change the model between batches.
    """

    arguments: Callable[[Sequence[PromptRow]], Record]
    apart: Callable[[PromptRow], Any] = _together


@dataclass(frozen=True)
class GenerationConfig:
    """How pictures are made. guidance: classifier-free guidance scale. scale: strength of the adapter, 0 is the base.

    negative_prompt: for every row; negative_prompts: by user id (NOBODY: rows of none), for the baseline of
    that name, instead of it.
    adapter: fingerprint of the weights that the method brings. scheduler, dtype: how the pipeline was loaded, where
    that is not its own way; options: more settings of the method. All are part of what names a run.
    """

    method: str = "base"
    base: str = "mini"
    steps: int = 15
    guidance: float = 4.0
    scale: float = 1.0
    batch_size: int = 64
    adapter: str | None = None
    negative_prompt: str = ""
    negative_prompts: Mapping[str, str] | None = None
    scheduler: str | None = None
    dtype: str = "fp32"
    options: Record | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise UsageError(f"steps and batch_size must be at least 1; saw {self.steps} and {self.batch_size}.")
        if self.steps > MOST_STEPS:
            raise UsageError(
                f"steps must be at most {MOST_STEPS}, which base models are trained with; saw {self.steps}."
            )
        if not np.isfinite(self.scale) or not np.isfinite(self.guidance):
            raise UsageError(f"scale and guidance must be finite; saw {self.scale} and {self.guidance}.")
        if self.scale < 0:
            raise UsageError(f"scale must be at least 0; saw {self.scale}.")
        if self.guidance < 0:
            raise UsageError(f"guidance must be at least 0; saw {self.guidance}.")

    @classmethod
    def for_base(cls, name: str, *, evaluates: bool = False, **given: Any) -> GenerationConfig:
        """These settings, and the base model's own where they are None. evaluates: with the steps of the evaluation."""
        base = find_base(name)
        own: Record = {"base": base.name, "guidance": base.guidance, "batch_size": base.batch_size}
        own["steps"] = base.evaluation_steps if evaluates else base.steps
        return cls(**own | {name: value for name, value in given.items() if value is not None})

    def negatives(self, rows: Sequence[PromptRow]) -> list[str] | None:
        """Negative prompts of rows; None where the run has none (for SDXL that is no text at all, not an empty one)."""
        if not self.negative_prompt and not self.negative_prompts:
            return None
        by_user = self.negative_prompts or {}
        return [by_user.get(row.user_id or NOBODY, self.negative_prompt) for row in rows]


@dataclass(frozen=True)
class Drawing:
    """What every batch of a run is drawn with.

    attached: the adapter on the pipeline's UNet, or None for a method without one. guide: of a method that tells the
    pipeline something of each row.
    """

    pipeline: Any
    config: GenerationConfig
    users: Users
    attached: AttachedAdapter | None = None
    guide: Guide | None = None

    def batch(self, rows: Sequence[PromptRow]) -> np.ndarray:
        """Pictures of a batch of rows, uint8 RGB [B, H, W, 3]; each from its own CPU generator.

        Raises GenerationError for pictures that are not finite.
        """
        config = self.config
        text = text_arguments(
            self.pipeline, rows, config=config, users=self.users, attached=self.attached, guide=self.guide
        )
        seeds = [row.seed for row in rows]
        pictures = draw_pictures(self.pipeline, text, seeds, steps=config.steps, guidance=config.guidance)
        return finished_pictures(pictures, [row.file_name for row in rows], hint=_why_not_finite(config))


def generate(
    drawing: Drawing,
    rows: Sequence[PromptRow],
    out: Path,
    *,
    elsewhere: Callable[[Batches, Path], list[Failure]] | None = None,
) -> list[ManifestRow]:
    """Make every picture that is not on disk yet, then write the manifest. Returns its rows.

    elsewhere: draws batches into the folder in place of this process, as `draw_batches` does.
    Under `accelerate launch` each process draws its share and the first writes the manifest.
    Raises, before anything is written, OutputError where `out` holds another run or another process draws into it,
    EmbeddingMissing for a user without a vector; with an adapter UsageError for rows of no user, RecipeMismatch for
    vectors it was not trained with, GuardError for limits in words that it was not trained to keep.
    Raises GenerationError at the end where a picture could not be made; the others are kept.
    """
    check_rows(rows)
    if drawing.attached is not None:
        check_users(rows, drawing.users, drawing.attached)
    manifest = [_manifest_row(row, drawing.config, drawing.users) for row in rows]
    shard = Shard()
    with locked(*[out] * shard.is_first):  # of several processes the first one holds the folder for all
        if shard.is_first:
            open_run(out, _run_record(rows, drawing))
        shard.wait()  # a folder of another run is refused before anything is drawn
        if shard.is_first:
            _warn_cut_prompts(drawing.pipeline, rows, drawing.config)
        # Shared out before looking at the disk, which other processes are writing to meanwhile.
        batches = _not_on_disk(shard.share(_batches(rows, drawing)), out)
        draw = elsewhere or partial(draw_batches, drawing, quiet=not shard.is_first)
        failed = shard.gather(draw(batches, out))
        if failed:
            raise _not_made(failed, rows, out)
        if shard.is_first:
            write_jsonl(out / "manifest.jsonl", [row.to_record() for row in manifest])
    return manifest


def _run_record(rows: Sequence[PromptRow], drawing: Drawing) -> Record:
    """What decides a run's pictures: the text of run.json."""
    users = drawing.users
    return {
        "config": _config_record(drawing.config),
        "base": base_fingerprint(drawing.pipeline),
        "rows": fingerprint([asdict(row) for row in rows]),
        "users": users.fingerprint,
        "drawn_users": _users_fingerprint(rows, users, with_vectors=drawing.attached is not None),
    }


def _not_made(failed: Sequence[Failure], rows: Sequence[PromptRow], out: Path) -> GenerationError:
    about = f"{len(failed)} of {len(rows)} pictures could not be made; the others are in {out}."
    return GenerationError(
        listed(about, [f"{name}: {why}" for name, why in sorted(failed)], MAX_FAILURES_SHOWN),
        hint="Run the same command again: it draws those that are missing, and then writes manifest.jsonl.",
    )


def draw_batches(drawing: Drawing, batches: Batches, out: Path, *, quiet: bool = False) -> list[Failure]:
    """Draw batches into a folder; pictures that are whole on disk stay. Returns the pictures that failed."""
    failed: list[Failure] = []
    for batch in Progress(batches, desc=drawing.config.method, unit="batch", disable=quiet or not batches):
        for row, picture in _draw_with_retry(drawing, batch, failed):
            if not is_whole_png(out / row.file_name):
                write_picture(out / row.file_name, picture)
    return failed


def _not_on_disk(batches: Batches, out: Path) -> list[Sequence[PromptRow]]:
    return [batch for batch in batches if any(not is_whole_png(out / row.file_name) for row in batch)]


def _batches(rows: Sequence[PromptRow], drawing: Drawing) -> list[list[PromptRow]]:
    """All rows in batches, by length; those that the method keeps apart in batches of their own."""
    groups: dict[Any, list[PromptRow]] = {}
    for row in sorted(rows, key=lambda row: len(row.prompt)):
        groups.setdefault(drawing.guide and drawing.guide.apart(row), []).append(row)
    size = drawing.config.batch_size
    return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]


def _draw_with_retry(
    drawing: Drawing, batch: Sequence[PromptRow], failed: list[Failure]
) -> Iterator[tuple[PromptRow, np.ndarray]]:
    """A batch's pictures. Where it fails, its rows one by one; rows that still fail are added to `failed`."""
    try:
        yield from zip(batch, drawing.batch(batch), strict=True)
    except (RuntimeError, ValueError, GenerationError) as err:
        if len(batch) == 1:
            failed.append((batch[0].file_name, reason_of(err)))
            return
        for row in batch:
            yield from _draw_with_retry(drawing, [row], failed)


def text_arguments(
    pipeline: Any,
    rows: Sequence[PromptRow],
    *,
    config: GenerationConfig,
    users: Users,
    attached: AttachedAdapter | None = None,
    guide: Guide | None = None,
) -> Record:
    """Arguments of the pipeline call for a batch of rows: their text as the method passes it on, and what the method
    adds."""
    prompts, negatives = [row.prompt for row in rows], config.negatives(rows)
    if attached is None:
        text = accepted_by(pipeline, encode_texts(pipeline, prompts, negatives).arguments())
    else:
        batch = users.batch([row.user_id for row in rows])
        text = attached.encode(pipeline, prompts, batch, negative_prompt=negatives, scale=config.scale)
    return text if guide is None else {**text, **guide.arguments(rows)}


def _why_not_finite(config: GenerationConfig) -> str:
    if config.scale > 1 or config.guidance > MUCH_GUIDANCE:
        return "Lower --scale or --guidance; if that does not help, the weights are broken."
    if config.adapter is not None:
        return "The adapter's weights may be broken: trained with a high learning rate, or damaged."
    return "The weights of the base model may be broken, or do not fit --dtype."


def cut_texts(pipeline: Any, texts: Iterable[str]) -> dict[str, str]:
    """What the text encoder will not read of texts that are too long for it, by text."""
    cut: dict[str, str] = {}
    if not hasattr(pipeline, "tokenizer"):
        return cut
    tokenizer = pipeline.tokenizer
    for text in dict.fromkeys(texts):
        tokens = tokenizer(text, truncation=True, max_length=NO_LIMIT).input_ids[1:-1]
        rest = tokens[tokenizer.model_max_length - 2 :]
        if rest:
            cut[text] = tokenizer.decode(rest)
    return cut


def _warn_cut_prompts(pipeline: Any, rows: Sequence[PromptRow], config: GenerationConfig) -> None:
    negatives = config.negatives(rows) or []
    cut = cut_texts(pipeline, [row.prompt for row in rows] + negatives)
    lines = [f"{row.file_name}: '{cut[row.prompt]}'" for row in rows if row.prompt in cut]
    lines += [f"negative prompt: '{cut[text]}'" for text in dict.fromkeys(negatives) if text in cut]
    if lines:
        reads = pipeline.tokenizer.model_max_length
        about = f"Warning: {len(lines)} texts are longer than the {reads} tokens that are read. Cut:"
        print(listed(about, lines, MAX_CUT_SHOWN), file=sys.stderr)


def check_rows(rows: Sequence[PromptRow]) -> None:
    """Raises UsageError for no rows at all, or two that would write one file."""
    if not rows:
        raise UsageError("No prompts to draw.")
    names = [row.file_name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})[:5] if len(set(names)) < len(names) else []
    if twice:
        raise UsageError(f"Two rows write one file: {', '.join(twice)}.")


def check_users(rows: Sequence[PromptRow], users: Users, attached: AttachedAdapter) -> None:
    """Raises UsageError, RecipeMismatch, EmbeddingMissing or GuardError for rows that the adapter cannot draw."""
    nobody = [row.file_name for row in rows if row.user_id is None]
    if nobody:
        raise UsageError(
            f"{len(nobody)} of {len(rows)} rows have no user, and an adapter draws for users: {', '.join(nobody[:5])}.",
            hint="Give each row a user_id, or draw for a level.",
        )
    trained = attached.adapter.config.recipe
    if users.fingerprint == NO_VECTORS and attached.adapter.kind != "prompt":
        raise UsageError(
            f"An adapter of kind '{attached.adapter.kind}' knows users by vectors alone, and these have none.",
            hint="Give --embeddings: psalign embed --users users.csv --out data/embeddings/users",
        )
    if users.fingerprint not in (trained, NO_VECTORS):
        raise RecipeMismatch(
            f"These user vectors were made by recipe {users.fingerprint}; the adapter was trained with {trained}.",
            hint="Run: psalign embed --users users.csv --like <the vectors the adapter was trained with>",
        )
    batch = users.batch(_user_ids(rows))
    require_words(attached.adapter, getattr(batch, "limits", ()))


def open_run(out: Path, run: dict[str, Any]) -> None:
    """Claim a folder for a run, or go on with it. Raises OutputError where another run's pictures are there."""
    mark, name = out / "run.json", fingerprint(run)
    if mark.exists() and _fingerprint_of(mark) == name:
        return
    others = {path.parent for path in out.rglob("run.json")} - {out}  # runs in folders inside, as psa's levels
    drawn = any(not others & set(path.parents) for path in out.rglob("*.png"))
    if drawn and mark.exists():
        raise OutputError(
            f"{out} holds pictures of another run (other prompts, users, adapter, base or settings).",
            hint="Choose another --out, or remove that folder.",
        )
    if drawn:
        raise OutputError(
            f"{out} has pictures but no run.json: they are not of this run.", hint="Choose another --out."
        )
    (out / "manifest.jsonl").unlink(missing_ok=True)  # of a run whose pictures are gone
    write_json(mark, {"fingerprint": name, **run})


def _fingerprint_of(mark: Path) -> Any:
    fault = partial(OutputError, hint="Choose another --out, or remove that folder.")
    return read_json(mark, what="what a run was made of", needs=("fingerprint",), fault=fault)["fingerprint"]


def is_whole_png(path: Path) -> bool:
    """Whether a picture is there from its first to its last block; one that a full or lost disk cut short is not."""
    try:
        with path.open("rb") as stream:
            begins = stream.read(len(PNG_BEGIN)) == PNG_BEGIN
            stream.seek(-len(PNG_END), io.SEEK_END)
            return begins and stream.read() == PNG_END
    except OSError:  # not there, or shorter than its last block
        return False


def write_picture(path: Path, picture: np.ndarray, *, replace: bool = True) -> None:
    """Write uint8 RGB [H, W, 3] as PNG, whole or not at all; replace: whether another file that is there may go."""
    write_bytes(path, encode(picture), replace=replace)


def _user_ids(rows: Sequence[PromptRow]) -> list[str]:
    return sorted({row.user_id for row in rows if row.user_id is not None})


def _users_fingerprint(rows: Sequence[PromptRow], users: Users, *, with_vectors: bool) -> str:
    """Names what a run's pictures take from its users: their bans, limits and, with an adapter, their vectors."""
    ids = _user_ids(rows)
    bans: Any = [users.banned(user_id) for user_id in ids]
    limits = [[list(one) for one in users.limits(user_id)] for user_id in ids]
    vectors = None
    if with_vectors:
        vectors = [None if vector is None else vector.tobytes().hex() for vector in users.batch(ids).vectors]
    return fingerprint([bans, vectors, *[limits] * any(limits)])


def _config_record(config: GenerationConfig) -> Record:
    """A config as files may hold it: negative prompts of users, which may say their limits, by a fingerprint alone."""
    said = config.negative_prompts
    return {**asdict(config), "negative_prompts": None if said is None else fingerprint(dict(said))}


def _manifest_row(row: PromptRow, config: GenerationConfig, users: Users) -> ManifestRow:
    return ManifestRow(
        file_name=row.file_name,
        prompt=row.prompt,
        seed=row.seed,
        method=config.method,
        base=config.base,
        user_id=row.user_id,
        banned=users.banned(row.user_id) if row.user_id is not None else (),
        level=level_of(row.user_id),
        scale=config.scale,
        adapter=config.adapter,
        recipe=users.fingerprint,
        meta=row.meta,
        taxonomy=current().label,
    )
