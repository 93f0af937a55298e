"""The command `embed`: user vectors from profiles."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UnknownUser, UsageError
from .options import a_path, add_force, at_least, command

if TYPE_CHECKING:
    from ..users.embedding import EmbeddingStore
    from ..users.profile import UserProfile


def embed(arguments: argparse.Namespace) -> None:
    from ..users.embedding import UNFINISHED

    if arguments.like and arguments.data:
        raise UsageError("--like and --data both say what to standardise by; give one of them.")
    if arguments.like and (arguments.whitened is not None or arguments.exact is not None):
        raise UsageError("--like says all of how vectors are standardised; leave --whitened and --exact out.")
    store = _embed(arguments)
    store.save(arguments.out, replace=arguments.force)
    if arguments.npy:
        store.save_npy(arguments.npy, replace=arguments.force)
    shutil.rmtree(arguments.out / UNFINISHED, ignore_errors=True)
    print(f"{len(store)} vectors of width {store.width}, recipe {store.fingerprint}: {arguments.out}")


def _fill_out(arguments: argparse.Namespace) -> None:
    """Each dataset has a default of its own, so that the vectors of one do not take the place of another's."""
    if arguments.out is None:
        name = arguments.data.resolve().name if arguments.data else arguments.users.stem
        arguments.out = Path("data/embeddings") / name


def _embed(arguments: argparse.Namespace) -> EmbeddingStore:
    from ..sage.rows import dataset_root, require_taxonomy_of
    from ..users.bans import add_bans
    from ..users.embedding import UNFINISHED, Embedder, EmbeddingStore, StructuredEmbedder, require_free
    from ..users.language_model import PublishedEmbedder, ResumableEmbedder, TransformersEmbedder
    from ..users.levels import level_profiles
    from ..users.profile import load_profiles
    from ..users.space import WHITENED

    if arguments.data:  # before its users, whose ban lists have the same categories
        require_taxonomy_of(dataset_root(arguments.data))
    profiles = load_profiles(arguments.users)
    if arguments.bans:
        profiles = add_bans(profiles, arguments.bans)
    people = [*profiles, *level_profiles()]
    if not arguments.force:  # before a language model is loaded; vectors of the same users may be the same
        ids = [user.user_id for user in people]
        require_free(arguments.out, lambda: list(EmbeddingStore.load(arguments.out).user_ids) == ids)
    embedder: Embedder = StructuredEmbedder(arguments.llm_dim)
    if arguments.backend != "structured":
        kind = PublishedEmbedder if arguments.backend == "published" else TransformersEmbedder
        model = kind(arguments.model, dtype=arguments.dtype, device=arguments.device, batch_size=arguments.batch_size)
        embedder = ResumableEmbedder(model, arguments.out / UNFINISHED)
    if arguments.like:
        known = EmbeddingStore.load(arguments.like)
    else:
        language_model = arguments.backend == "transformers"
        whitened = (WHITENED if language_model else 0) if arguments.whitened is None else arguments.whitened
        exact = language_model if arguments.exact is None else arguments.exact
        population = _population(profiles, arguments.data)
        known = EmbeddingStore.build(population, embedder, whitened=whitened, exact=exact)
    return EmbeddingStore.build(people, embedder, statistics_of=known)


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
                   "psalign embed --users data/mini/users.csv --data data/mini --out data/embeddings/mini")  # fmt: skip
    one.add_argument("--users", type=a_path, required=True, help="users.csv or users.jsonl")
    one.add_argument("--bans", type=a_path, help="ban lists of psalign users ban, which may hold more than the rules")
    one.add_argument("--data", type=a_path, help="standardise over the training users of this SAGE dataset alone")
    one.add_argument("--npy", type=a_path, help="also write raw vectors here in the published form, <user id>.npy")
    one.add_argument("--like", type=a_path, help="standardise as these vectors (those an adapter was trained with)")
    one.add_argument("--backend", choices=("structured", "transformers", "published"), default="structured",
                     help="structured: from the fields (default); transformers: a language model; published: "
                          "the same, raw, for published adapters")  # fmt: skip
    one.add_argument("--whitened", type=at_least(0), metavar="N",
                     help="principal directions to keep, each scaled to spread 1; 0: coordinates as they are "
                     "(default: 96 of a language model's vectors, 0 of others)")  # fmt: skip
    one.add_argument("--exact", action=argparse.BooleanOptionalAction,
                     help="the exact ban code behind each vector (default: behind a language model's)")  # fmt: skip
    one.add_argument("--llm-dim", type=at_least(1), default=64, help="width of a structured vector (default 64)")
    one.add_argument("--model", default="Qwen/Qwen2.5-7B-Instruct",
                     help="language model: hub id, folder, or minilm (extra minilm)")  # fmt: skip
    one.add_argument("--batch-size", type=at_least(1), default=16, help="users the language model reads at a time")
    one.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32", help="of the language model")
    one.add_argument("--device", default="cpu", help="of the language model (default cpu)")
    one.add_argument("--out", type=a_path,
                     help="where to write (default: data/embeddings/NAME, of the data or users file)")  # fmt: skip
    # Nobody is forgotten between reading who there is and writing their vectors.
    one.set_defaults(fill=_fill_out, holds=("users", "bans"))
    add_force(one, "replace another store, or vectors, that are there")
