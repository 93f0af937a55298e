"""Vectors of the users of a dataset, standardised over its training users. Step 3 of the path of data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import UnknownUser
from .sage.caption_rows import is_caption_file, read_caption_rows
from .sage.dataset import dataset_root, load_split
from .users.language_model import embedder_for
from .users.levels import level_profiles
from .users.profile import UserProfile, load_profiles
from .users.space import WHITENED
from .users.store import EmbeddingStore
from .users.store_files import INDEX
from .users.vectors import Embedder


@dataclass(frozen=True)
class Standard:
    """What vectors are standardised by. like: another store, which says all of it; None: a population of
    their own.

    data: SAGE dataset, whose training users are the population; None: all users. whitened: principal
    directions to keep, 0: coordinates as they are. exact: whether the exact ban code follows each vector.
    """

    like: Path | None = None
    data: Path | None = None
    whitened: int = 0
    exact: bool = False


def embed_people(profiles: Sequence[UserProfile], embedder: Embedder, standard: Standard) -> EmbeddingStore:
    """Vectors of users and of the six levels.

    Raises UnknownUser for training users of the dataset without a profile; whatever EmbeddingStore.build
    raises.
    """
    if standard.like is not None:
        known = EmbeddingStore.load(standard.like)
    else:
        population = profiles if standard.data is None else _training_users(profiles, standard.data)
        known = EmbeddingStore.build(population, embedder, whitened=standard.whitened, exact=standard.exact)
    return EmbeddingStore.build([*profiles, *level_profiles()], embedder, statistics_of=known)


def embed_users(data: Path, folder: Path, make: Callable[[], Embedder], *, exact: bool = False) -> EmbeddingStore:
    """Vectors of all users of a dataset and of the six levels, in a folder; made once.

    make: gives the embedder. exact: whiten the vectors, and follow them by the exact ban code.
    """
    if (folder / INDEX).is_file():
        return EmbeddingStore.load(folder)
    embedder = make()
    everyone = [*load_profiles(data / "users.csv"), *level_profiles()]
    trained = _trained(data)
    population, others = ([user for user in everyone if (user.user_id in trained) == is_in] for is_in in (True, False))
    store = EmbeddingStore.build(population, embedder, whitened=WHITENED if exact else 0, exact=exact)
    store = store.joined(EmbeddingStore.build(others, embedder, statistics_of=store))
    store.save(folder)
    return store


def with_ban_lists(users: EmbeddingStore, data: Path, *, model: str | None = None) -> EmbeddingStore:
    """The users, and those of a file of captions that are nothing but a ban list, embedded as the others
    were.

    data: a file of captions; a dataset adds nobody. model: the language model, where one made the vectors.
    """
    if not is_caption_file(data):
        return users
    lists = {row.user_id: row.banned for row in read_caption_rows(data) if row.banned is not None}
    new = [UserProfile(user_id=user_id, banned=bans) for user_id, bans in lists.items() if user_id not in users]
    if not new:
        return users
    embedder = embedder_for(users.recipe, model=model)
    return users.joined(EmbeddingStore.build(new, embedder, statistics_of=users))


def _training_users(profiles: Sequence[UserProfile], data: Path) -> list[UserProfile]:
    trained = _trained(dataset_root(data))
    unknown = sorted(trained - {profile.user_id for profile in profiles})
    if unknown:
        raise UnknownUser(
            f"{len(unknown)} of {len(trained)} training users of {data} have no profile: {', '.join(unknown[:5])}.",
            hint="Give the users file of that dataset, or --like with the vectors its adapter was trained with.",
        )
    return [profile for profile in profiles if profile.user_id in trained]


def _trained(data: Path) -> set[str]:
    # Only the users of the rows matter here, not what is chosen: bans are not needed.
    return {row.user_id for row in load_split(data, "train", check_pictures=False)}
