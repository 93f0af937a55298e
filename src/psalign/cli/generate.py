"""The command `generate`: pictures for prompts and users."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..files import Record
from ..records import PUBLISHED_RECIPE, PromptRow
from .options import a_path, add_model, add_out, at_least, command, level

if TYPE_CHECKING:
    from ..diffusion.prompts import MetaRow
    from ..diffusion.shards import Shard
    from ..users.profile import UserProfile
    from ..users.store import EmbeddingStore


def generate(arguments: argparse.Namespace) -> None:
    from ..adapter.attach import attach
    from ..adapter.checkpoint import adapter_fingerprint, load_adapter
    from ..diffusion.base_models import find_base, load_pipeline
    from ..diffusion.generate import GenerationConfig
    from ..diffusion.generate import generate as make
    from ..diffusion.prompts import load_meta_file, repeat
    from ..diffusion.shards import Shard

    base = find_base(arguments.base)
    adapter = None if arguments.adapter is None else load_adapter(arguments.adapter, base=base.name)
    shard = Shard(arguments.device)
    meta = load_meta_file(arguments.prompts, seed=arguments.seed, keep=arguments.keep_columns)
    raw = adapter is not None and adapter.config.recipe == PUBLISHED_RECIPE
    rows, users = _rows_and_users(meta, arguments, shard, needs_store=not raw)
    config = GenerationConfig(
        method="base" if adapter is None else adapter.kind,
        base=base.name,
        steps=arguments.steps or base.steps,
        guidance=base.guidance if arguments.guidance is None else arguments.guidance,
        scale=arguments.scale,
        batch_size=arguments.batch_size or base.batch_size,
        adapter=None if adapter is None else adapter_fingerprint(arguments.adapter),
        negative_prompt=arguments.negative_prompt,
        scheduler=arguments.scheduler,
        dtype=arguments.dtype,
    )
    pipeline = load_pipeline(
        base.name,
        source=arguments.model,
        device=str(shard.device),
        dtype=arguments.dtype,
        scheduler=arguments.scheduler,
        offload=arguments.offload,
        variant=arguments.variant,
        local_files_only=arguments.local_files_only,
        config=arguments.model_config,
    )
    attached = None if adapter is None else attach(pipeline, adapter)
    rows = repeat(rows, arguments.images_per_prompt)
    manifest = make(pipeline, rows, arguments.out, config=config, users=users, attached=attached)
    if shard.is_first:
        print(f"{len(manifest)} pictures and manifest.jsonl: {arguments.out}")


def _rows_and_users(
    meta: Sequence[MetaRow], arguments: argparse.Namespace, shard: Shard, *, needs_store: bool
) -> tuple[list[PromptRow], Any]:
    """Rows with their users, and the vectors and bans of those; nobody's where no adapter is to draw for them.

    needs_store: whether profiles need stored vectors to be standardised by.
    """
    from ..diffusion.generate import Nobody
    from ..ids import level_id
    from ..users.profile import load_profiles
    from ..users.store import EmbeddingStore

    rows = [row.prompt for row in meta]
    if arguments.profiles and arguments.level is not None:
        raise UsageError("--profiles and --level both say whom rows are for; give one of them.")
    if arguments.embeddings is None and arguments.profiles and not needs_store:
        return _embed_profiles(meta, None, arguments, shard)
    if arguments.embeddings is None:
        if arguments.adapter is not None or arguments.level is not None or arguments.profiles:
            raise UsageError(
                "An adapter, --level and --profiles need user vectors.",
                hint="Give --embeddings: psalign embed --users users.csv --out data/embeddings/users",
            )
        return [replace(row, user_id=None) for row in rows], Nobody()
    people = load_profiles(arguments.users) if arguments.users else []
    store = EmbeddingStore.load(arguments.embeddings, profiles=people)
    if arguments.level is not None:
        rows, users = [replace(row, user_id=level_id(arguments.level)) for row in rows], store
    elif arguments.profiles:
        rows, users = _embed_profiles(meta, store, arguments, shard)
    else:
        rows, users = rows, store
        _tell_unread_columns(meta, shard)
    _tell_unknown_bans(rows, users, shard)
    return rows, users


def _embed_profiles(
    meta: Sequence[MetaRow], store: EmbeddingStore | None, arguments: argparse.Namespace, shard: Shard
) -> tuple[list[PromptRow], EmbeddingStore]:
    """Users of the rows: from their stored vectors; else from the profile columns, in the space of those vectors.

    store: None for a published adapter, whose vectors are raw: they need no others to be standardised by.
    """
    from ..users.floor import above_the_floor
    from ..users.language_model import DEFAULT_MODEL, PublishedEmbedder, embedder_for
    from ..users.store import EmbeddingStore

    profiles: dict[str, UserProfile] = {}
    rows = []
    for number, row in enumerate(meta, start=1):
        where = f"{arguments.prompts}, row {number}"
        profile = _profile(row, number, where)
        if profiles.setdefault(profile.user_id, profile) != profile:
            raise UsageError(f"{where}: user {profile.user_id} has another profile than in a row before.")
        rows.append(replace(row.prompt, user_id=profile.user_id))
    if store is None:
        embed = partial(PublishedEmbedder, arguments.llm or DEFAULT_MODEL, device=str(shard.device))
        return rows, shard.from_first(lambda: EmbeddingStore.build(list(profiles.values()), embed()))
    people = list(profiles.values())
    floor = above_the_floor(people, store)  # before limits are added: a vector that lacks one's category is made anew
    if shard.is_first:
        print(*floor.remarks, sep="\n", end="\n" * bool(floor.remarks), file=sys.stderr)

    def build() -> EmbeddingStore:
        if not floor.embed:
            return store.with_limits(people)
        embedder = embedder_for(store.recipe, model=arguments.llm, device=str(shard.device))
        return store.joined(EmbeddingStore.build(floor.embed, embedder, statistics_of=store)).with_limits(people)

    return rows, shard.from_first(build)


def _tell_unread_columns(meta: Sequence[MetaRow], shard: Shard) -> None:
    if shard.is_first and any(row.profile is not None for row in meta):
        print("Profile columns are not read: users are drawn from their stored vectors. --profiles reads them too.",
              file=sys.stderr)  # fmt: skip


def _tell_unknown_bans(rows: Sequence[PromptRow], users: EmbeddingStore, shard: Shard) -> None:
    ids = sorted({row.user_id for row in rows if row.user_id is not None})
    unknown = [user_id for user_id in ids if user_id in users and users.banned(user_id) is None]
    if unknown and shard.is_first:
        print(f"Warning: nothing says what {len(unknown)} of {len(ids)} users ban: {', '.join(unknown[:5])}. The "
              "manifest says null for them, and what measures limits refuses their pictures. Give --users.",
              file=sys.stderr)  # fmt: skip


def _profile(row: MetaRow, number: int, where: str) -> UserProfile:
    from ..errors import ProfileError
    from ..users.profile import read_profile

    if row.profile is None:
        raise ProfileError(
            f"{where}: --profiles needs the columns of a profile, and this row has none.",
            hint="Give age, gender, religion, ... or Banned_Categories; or leave --profiles out for stored vectors.",
        )
    known: Record = {name: value for name, value in row.profile.items() if value not in (None, "")}
    try:
        return read_profile({"user_id": row.prompt.user_id or f"row_{number:06d}", **known})
    except ProfileError as err:
        raise ProfileError(f"{where}: {err}") from None


def add_commands(groups: Any) -> None:
    one = command(groups, "generate", generate, "make pictures for prompts and users",
                  "psalign generate --prompts data/mini/prompts.jsonl --embeddings data/embeddings/mini "
                  "--adapter trained_models/mini/adapter --out outputs/pictures")  # fmt: skip
    one.add_argument("--prompts", "--meta-file", type=a_path, required=True, metavar="META_FILE",
                     help=".csv (prompt, user_id, age, ...) or .jsonl (prompt rows or SAGE rows)")  # fmt: skip
    one.add_argument("--keep-columns", nargs="+", default=[], metavar="NAME",
                     help="other columns of META_FILE that go into the manifest, as hard (default: none)")  # fmt: skip
    one.add_argument("--adapter", type=a_path, help="adapter folder or published file; without it the base model draws")
    _add_users(one)
    one.add_argument("--base", default="mini", help="mini, sd15 or sdxl (default mini)")
    add_model(one)
    one.add_argument("--model-config", help="folder or hub id with the configuration of a single-file --model")
    one.add_argument("--variant", help="of the base model's files, as fp16: half the download")
    one.add_argument("--local-files-only", action="store_true", help="download nothing")
    _add_sampling(one)
    add_out(one, "outputs/pictures")


def _add_users(one: argparse.ArgumentParser) -> None:
    one.add_argument("--embeddings", type=a_path, help="user vectors (psalign embed, or a folder of published .npy)")
    one.add_argument("--users", type=a_path, help="users file that gives the ban lists of published vectors")
    one.add_argument("--level", type=level, help="draw every row for this level, 0..5, instead of its user")
    one.add_argument("--profiles", action="store_true", help="make vectors from the profile columns of the META_FILE")
    one.add_argument("--llm", help="language model for --profiles, where the vectors were made by one")


def _add_sampling(one: argparse.ArgumentParser) -> None:
    one.add_argument("--steps", type=at_least(1), help="denoising steps (default: the base model's own)")
    one.add_argument("--guidance", type=float, help="classifier-free guidance scale (default: the base model's own)")
    one.add_argument("--negative-prompt", default="", help="for every picture")
    one.add_argument("--scheduler", help="ddim, dpm, euler, euler-a, heun, unipc (default: the base model's own)")
    one.add_argument("--scale", type=float, default=1.0, help="strength of the adapter (default 1)")
    one.add_argument("--seed", type=at_least(0), default=2025, help="for rows without a seed (default 2025)")
    one.add_argument("--images-per-prompt", type=at_least(1), default=1)
    one.add_argument("--batch-size", type=at_least(1), help="default: the base model's own")
    one.add_argument("--dtype", default="fp32", help="fp32, fp16 or bf16 (default fp32)")
    one.add_argument("--offload", default="none", help="none, model or sequential (default none)")
    one.add_argument("--device", help="default: this process's GPU, or the CPU")
