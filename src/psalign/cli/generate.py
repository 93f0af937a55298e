"""The command `generate`: pictures for prompts and users."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..ids import level_id
from ..records import PUBLISHED_RECIPE, MetaRow, PromptRow
from .drawing import add_drawing, load, sampling
from .options import (
    LANGUAGE_MODEL,
    a_path,
    add_embeddings,
    add_in_words,
    add_out,
    add_seed,
    add_users,
    add_variant,
    at_least,
    command,
    level,
)  # fmt: skip

if TYPE_CHECKING:
    from ..diffusion.generate import Drawing, GenerationConfig
    from ..diffusion.ray_workers import RayWorkers
    from ..diffusion.shards import Shard
    from ..users.store import EmbeddingStore


def generate(arguments: argparse.Namespace) -> None:
    from ..adapter.attach import attach
    from ..adapter.checkpoint import adapter_fingerprint
    from ..diffusion.generate import Drawing
    from ..diffusion.generate import generate as draw
    from ..diffusion.prompts import load_meta_file, repeat
    from ..diffusion.shards import Shard

    adapter = _adapter(arguments)
    shard = Shard("cpu" if arguments.ray_workers else arguments.device)
    meta = load_meta_file(arguments.prompts, seed=arguments.seed, keep=arguments.keep_columns)
    raw = adapter is not None and adapter.config.recipe == PUBLISHED_RECIPE
    rows, users = _rows_and_users(meta, arguments, shard, is_raw=raw)
    config = sampling(
        arguments,
        method="base" if adapter is None else adapter.kind,
        scale=arguments.scale,
        adapter=None if adapter is None else adapter_fingerprint(arguments.adapter),
        negative_prompt=arguments.negative_prompt,
    )
    elsewhere = _ray_workers(arguments, config, users) if arguments.ray_workers else None
    pipeline = _pipeline(arguments, str(shard.device))
    drawing = Drawing(pipeline, config, users, None if adapter is None else attach(pipeline, adapter))
    rows = repeat(rows, arguments.images_per_prompt)
    manifest = draw(drawing, rows, arguments.out, elsewhere=elsewhere)
    if shard.is_first:
        print(f"{len(manifest)} pictures and manifest.jsonl: {arguments.out}")


def _adapter(arguments: argparse.Namespace) -> Any:
    from ..adapter.checkpoint import load_adapter
    from ..diffusion.base_models import find_base

    base = find_base(arguments.base)
    if arguments.adapter is None:
        return None
    return load_adapter(arguments.adapter, base=base.name, in_words=arguments.in_words)


def _pipeline(arguments: argparse.Namespace, device: str) -> Any:
    """On a CPU nothing is offloaded: with Ray this process only names the run."""
    if arguments.ray_workers and device == "cpu":
        arguments = argparse.Namespace(**{**vars(arguments), "offload": "none"})
    return load(arguments, device, variant=arguments.variant, config=arguments.model_config)


def _ray_workers(arguments: argparse.Namespace, config: GenerationConfig, users: Any) -> RayWorkers:
    import torch

    from ..diffusion.ray_workers import RayWorkers

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    make = partial(_drawing, arguments, config, users, device)
    return RayWorkers(make, arguments.ray_workers, has_gpu=device.startswith("cuda"))


def _drawing(arguments: argparse.Namespace, config: GenerationConfig, users: Any, device: str) -> Drawing:
    """What a Ray worker draws with; called in the worker."""
    from ..adapter.attach import attach
    from ..diffusion.generate import Drawing

    adapter, pipeline = _adapter(arguments), _pipeline(arguments, device)
    return Drawing(pipeline, config, users, None if adapter is None else attach(pipeline, adapter))


def _rows_and_users(
    meta: Sequence[MetaRow], arguments: argparse.Namespace, shard: Shard, *, is_raw: bool
) -> tuple[list[PromptRow], Any]:
    """Rows with their users, and what is known of those: vectors, or their profiles alone.

    is_raw: the adapter is a published one, whose vectors need no others to be standardised by.
    """
    from ..users.profile import load_profiles
    from ..users.store import EmbeddingStore

    if not arguments.profiles:
        _require_read(meta, shard)
    if arguments.embeddings is None:
        if arguments.profiles and is_raw:
            return _embed_profiles(meta, None, arguments, shard)
        return _known_by_profile(meta, arguments)
    rows = [row.prompt for row in meta]
    people = load_profiles(arguments.users) if arguments.users else []
    users = EmbeddingStore.load(arguments.embeddings, profiles=people)
    if arguments.level is not None:
        rows = [replace(row, user_id=level_id(arguments.level)) for row in rows]
    elif arguments.profiles:
        rows, users = _embed_profiles(meta, users, arguments, shard)
    _warn_unknown_bans(rows, users, shard)
    return rows, users


def _known_by_profile(meta: Sequence[MetaRow], arguments: argparse.Namespace) -> tuple[list[PromptRow], Any]:
    """Rows with their users, who are known by ban list and limits in words; nobody's without adapter and users."""
    from ..diffusion.generate import Nobody
    from ..users.floor import read_row_profiles
    from ..users.levels import level_profiles
    from ..users.profile import load_profiles
    from ..users.views import ProfilesAlone

    rows, people = [row.prompt for row in meta], list(level_profiles())
    if arguments.profiles:
        rows, own = read_row_profiles(meta, str(arguments.prompts))
        people += own
    elif arguments.level is not None:
        rows = [replace(row, user_id=level_id(arguments.level)) for row in rows]
    elif arguments.users is not None:
        people += load_profiles(arguments.users)
    elif arguments.adapter is not None:
        raise UsageError(
            "An adapter draws for users, and nothing says what they ban.",
            hint="Give --users users.csv, --profiles or --level; kind 'published' needs --embeddings (psalign embed).",
        )
    else:
        return [replace(row, user_id=None) for row in rows], Nobody()
    return rows, ProfilesAlone(people, in_words=arguments.in_words)


def _embed_profiles(
    meta: Sequence[MetaRow], store: EmbeddingStore | None, arguments: argparse.Namespace, shard: Shard
) -> tuple[list[PromptRow], EmbeddingStore]:
    """Users of the rows: stored vectors; else vectors of the profile columns, in the same space.

    store: None for a published adapter, whose vectors are raw: they need no others to be standardised by.
    """
    from ..users.floor import above_the_floor, read_row_profiles
    from ..users.language_model import PublishedEmbedder, embedder_for
    from ..users.store import EmbeddingStore

    rows, people = read_row_profiles(meta, str(arguments.prompts))
    device = str(shard.device)
    if store is None:
        model = arguments.llm or LANGUAGE_MODEL
        return rows, shard.from_first(lambda: EmbeddingStore.build(people, PublishedEmbedder(model, device=device)))
    floor = above_the_floor(people, store)  # before limits are added: a vector that lacks one's category is made anew
    if shard.is_first and floor.remarks:
        print(*floor.remarks, sep="\n", file=sys.stderr)
    embedder_of = partial(embedder_for, model=arguments.llm, device=device)
    return rows, shard.from_first(lambda: floor.build(embedder_of))


def _require_read(meta: Sequence[MetaRow], shard: Shard) -> None:
    """Raises UsageError where limits in words of the META_FILE would be lost; says so of other profile columns."""
    limited = sum(bool((row.profile or {}).get("limits")) for row in meta)
    if limited:
        raise UsageError(
            f"{limited} of {len(meta)} rows have limits in words, which are read with --profiles alone.",
            hint="Give --profiles, or leave the column out.",
        )
    if shard.is_first and any(row.profile is not None for row in meta):
        print("Profile columns are not read: users are those of --embeddings or --users. --profiles reads them too.",
              file=sys.stderr)  # fmt: skip


def _warn_unknown_bans(rows: Sequence[PromptRow], users: EmbeddingStore, shard: Shard) -> None:
    ids = sorted({row.user_id for row in rows if row.user_id is not None})
    unknown = [user_id for user_id in ids if user_id in users and users.banned(user_id) is None]
    if unknown and shard.is_first:
        print(f"Warning: nothing says what {len(unknown)} of {len(ids)} users ban: {', '.join(unknown[:5])}. The "
              "manifest says null for them, and what measures limits refuses their pictures. Give --users.",
              file=sys.stderr)  # fmt: skip


def _fill(arguments: argparse.Namespace) -> None:
    if arguments.profiles and arguments.level is not None:
        raise UsageError("--profiles and --level both set the users of the rows; give one of them.")
    if arguments.in_words and arguments.embeddings is not None:
        raise UsageError("--in-words needs no vectors: users are known by their profiles. Leave out --embeddings.")
    if arguments.profiles and arguments.users is not None and arguments.embeddings is None:
        raise UsageError("--profiles and --users both say who the users are; give one of them, or --embeddings too.")


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
    add_drawing(one)
    one.add_argument("--model-config", help="folder or hub id with the configuration of a single-file --model")
    add_variant(one)
    one.add_argument("--negative-prompt", default="", help="for every picture")
    one.add_argument("--scale", type=float, default=1.0, help="strength of the adapter (default 1)")
    add_seed(one, 2025, "for rows without a seed (default 2025)")
    one.add_argument("--images-per-prompt", type=at_least(1), default=1)
    one.add_argument("--ray-workers", type=at_least(1), metavar="N",
                     help="draw in N workers of Ray, here or on the cluster of RAY_ADDRESS (extra ray)")  # fmt: skip
    add_out(one, "outputs/pictures")
    one.set_defaults(fill=_fill)


def _add_users(one: argparse.ArgumentParser) -> None:
    add_embeddings(one, "user vectors (psalign embed, or a folder of published .npy)", required=False)
    add_users(one, "users file: with --embeddings it adds limits, and ban lists of published vectors; alone it says "
                   "what each user bans", required=False)  # fmt: skip
    add_in_words(one)
    one.add_argument("--level", type=level, help="draw every row for this level, 0..5, instead of its user")
    one.add_argument(
        "--profiles",
        action="store_true",
        help="read the profile columns of the META_FILE (with --embeddings: vectors too)",
    )
    one.add_argument("--llm", help="language model for --profiles, where the vectors were made by one")
