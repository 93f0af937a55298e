"""The command `embed`: user vectors from profiles."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .options import a_path, add_force, add_language_model, add_users, at_least, command

if TYPE_CHECKING:
    from ..embed import Standard
    from ..users.vectors import Embedder


def embed(arguments: argparse.Namespace) -> None:
    from ..embed import embed_people
    from ..sage.dataset import dataset_root, require_taxonomy_of
    from ..users.bans import add_bans
    from ..users.levels import level_profiles
    from ..users.profile import load_profiles
    from ..users.store import EmbeddingStore
    from ..users.store_files import UNFINISHED, require_free

    if arguments.data:  # before its users, whose ban lists have the same categories
        require_taxonomy_of(dataset_root(arguments.data))
    profiles = load_profiles(arguments.users)
    if arguments.bans:
        profiles = add_bans(profiles, arguments.bans)
    if not arguments.force:  # before a language model is loaded; vectors of the same users may be the same
        ids = [user.user_id for user in (*profiles, *level_profiles())]
        require_free(arguments.out, lambda: list(EmbeddingStore.load(arguments.out).user_ids) == ids)
    store = embed_people(profiles, _embedder(arguments), _standard(arguments))
    store.save(arguments.out, replace=arguments.force)
    if arguments.npy:
        store.save_npy(arguments.npy, replace=arguments.force)
    shutil.rmtree(arguments.out / UNFINISHED, ignore_errors=True)
    print(f"{len(store)} vectors of width {store.width}, recipe {store.fingerprint}: {arguments.out}")


def _embedder(arguments: argparse.Namespace) -> Embedder:
    from ..diffusion.shards import find_device
    from ..users.language_model import PublishedEmbedder, ResumableEmbedder, TransformersEmbedder
    from ..users.store_files import UNFINISHED
    from ..users.vectors import StructuredEmbedder

    if arguments.backend == "structured":
        return StructuredEmbedder(arguments.llm_dim)
    find_device(arguments.device)
    kind = PublishedEmbedder if arguments.backend == "published" else TransformersEmbedder
    model = kind(arguments.model, dtype=arguments.dtype, device=arguments.device, batch_size=arguments.batch_size)
    return ResumableEmbedder(model, arguments.out / UNFINISHED)


def _standard(arguments: argparse.Namespace) -> Standard:
    from ..embed import Standard
    from ..users.space import WHITENED

    by_model = arguments.backend == "transformers"
    whitened = (WHITENED if by_model else 0) if arguments.whitened is None else arguments.whitened
    exact = by_model if arguments.exact is None else arguments.exact
    return Standard(arguments.like, arguments.data, whitened, exact)


def _fill(arguments: argparse.Namespace) -> None:
    """Each dataset has a default of its own, so that the vectors of one do not take the place of another's.

    Raises UsageError for two answers to what vectors are standardised by.
    """
    if arguments.out is None:
        name = arguments.data.resolve().name if arguments.data else arguments.users.stem
        arguments.out = Path("data/embeddings") / name
    if arguments.like and arguments.data:
        raise UsageError("--like and --data both say what to standardise by; give one of them.")
    if arguments.like and (arguments.whitened is not None or arguments.exact is not None):
        raise UsageError("--like says all of how vectors are standardised; leave --whitened and --exact out.")


def add_commands(groups: Any) -> None:
    one = command(groups, "embed", embed, "user vectors from profiles",
                   "psalign embed --users data/mini/users.csv --data data/mini --out data/embeddings/mini")  # fmt: skip
    add_users(one)
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
    add_language_model(one, "--model", "language model: hub id, folder, or minilm (extra minilm)")
    one.add_argument("--batch-size", type=at_least(1), default=16, help="users the language model reads at a time")
    one.add_argument("--device", default="cpu", help="of the language model (default cpu)")
    one.add_argument("--out", type=a_path,
                     help="where to write (default: data/embeddings/NAME, of the data or users file)")  # fmt: skip
    # Nobody is forgotten between reading who there is and writing their vectors.
    one.set_defaults(fill=_fill, holds=("users", "bans"))
    add_force(one, "replace another store, or vectors, that are there")
