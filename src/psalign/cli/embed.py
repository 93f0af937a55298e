"""The command `embed`: user vectors from profiles."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UnknownUser, UsageError
from .options import add_out, at_least, command

if TYPE_CHECKING:
    from ..users.profile import UserProfile


def embed(arguments: argparse.Namespace) -> None:
    from ..users.bans import add_bans
    from ..users.embedding import Embedder, EmbeddingStore, StructuredEmbedder
    from ..users.language_model import PublishedEmbedder, ResumableEmbedder, TransformersEmbedder
    from ..users.levels import level_profiles
    from ..users.profile import load_profiles

    if arguments.like and arguments.data:
        raise UsageError("--like and --data both say what to standardise by; give one of them.")
    profiles = load_profiles(arguments.users)
    if arguments.bans:
        profiles = add_bans(profiles, arguments.bans)
    embedder: Embedder = StructuredEmbedder(arguments.llm_dim)
    if arguments.backend != "structured":
        kind = PublishedEmbedder if arguments.backend == "published" else TransformersEmbedder
        language_model = kind(
            arguments.model, dtype=arguments.dtype, device=arguments.device, batch_size=arguments.batch_size
        )
        embedder = ResumableEmbedder(language_model, arguments.out / "unfinished")
    if arguments.like:
        known = EmbeddingStore.load(arguments.like)
    else:
        known = EmbeddingStore.build(_population(profiles, arguments.data), embedder)
    store = EmbeddingStore.build([*profiles, *level_profiles()], embedder, statistics_of=known)
    store.save(arguments.out)
    if arguments.npy:
        store.save_npy(arguments.npy)
    shutil.rmtree(arguments.out / "unfinished", ignore_errors=True)
    print(f"{len(store)} vectors of width {store.recipe.llm_dim}, recipe {store.fingerprint}: {arguments.out}")


def _population(profiles: list[UserProfile], data: Path | None) -> list[UserProfile]:
    """The training users of a dataset, or everyone. Raises UnknownUser for training users without a profile."""
    from ..sage.rows import dataset_root, load_split

    if data is None:
        return profiles
    # Whom a preference favours does not matter here: only whose rows there are.
    rows = load_split(dataset_root(data), "train", banned=lambda user_id: (), check_pictures=False)
    trained = {row.user_id for row in rows}
    unknown = sorted(trained - {profile.user_id for profile in profiles})
    if unknown:
        raise UnknownUser(
            f"{len(unknown)} of {len(trained)} training users of {data} have no profile: {', '.join(unknown[:5])}.",
            hint="Give the users file of that dataset, or --like with the vectors its adapter was trained with.",
        )
    return [profile for profile in profiles if profile.user_id in trained]


def add_commands(groups: Any) -> None:
    one = command(groups, "embed", embed, "user vectors from profiles",
                   "psalign embed --users data/mini/users.csv --data data/mini --out data/embeddings")  # fmt: skip
    one.add_argument("--users", type=Path, required=True, help="users.csv or users.jsonl")
    one.add_argument("--bans", type=Path, help="ban lists of psalign users ban, which may hold more than the rules")
    one.add_argument("--data", type=Path, help="standardise over the training users of this SAGE dataset alone")
    one.add_argument("--npy", type=Path, help="also write raw vectors here in the published form, <user id>.npy")
    one.add_argument("--like", type=Path, help="standardise as these vectors (those an adapter was trained with)")
    one.add_argument("--backend", choices=("structured", "transformers", "published"), default="structured",
                     help="structured: from the fields (default); transformers: a causal language model; published: "
                          "the same, raw, for published adapters")  # fmt: skip
    one.add_argument("--llm-dim", type=at_least(1), default=64, help="width of a structured vector (default 64)")
    one.add_argument("--model", default="Qwen/Qwen2.5-7B-Instruct", help="language model: hub id or folder")
    one.add_argument("--batch-size", type=at_least(1), default=16, help="users the language model reads at a time")
    one.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32", help="of the language model")
    one.add_argument("--device", default="cpu", help="of the language model (default cpu)")
    add_out(one, "data/embeddings")
