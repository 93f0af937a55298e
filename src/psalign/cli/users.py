"""Commands about users: users sample, split, ban, pseudonymise, explain, forget, cluster, levels, and limit."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..categories import category_names
from ..files import in_the_way, write_csv, write_json, write_jsonl
from ..llm import require_consent
from . import limits
from .options import (
    FORCE,
    a_path,
    add_embeddings,
    add_endpoint,
    add_force,
    add_language_model,
    add_out,
    add_seed,
    add_users,
    at_least,
    command,
    group,
)  # fmt: skip

if TYPE_CHECKING:
    from ..users.categories import Backend
    from ..users.profile import UserProfile

MOST_USERS = 10_000_000


def sample(arguments: argparse.Namespace) -> None:
    from ..users.population import sample_profiles
    from ..users.profile import save_profiles

    profiles = sample_profiles(arguments.n, seed=arguments.seed)
    save_profiles(arguments.out, profiles, replace=arguments.force)
    print(f"{arguments.n} users: {arguments.out}")


def split(arguments: argparse.Namespace) -> None:
    from ..users.population import split_users
    from ..users.profile import load_profiles

    ids = [profile.user_id for profile in load_profiles(arguments.users)]
    splits = split_users(ids, seed=arguments.seed, val=arguments.val, test=arguments.test)
    write_json(arguments.out, splits, private=True, replace=arguments.force)
    print(", ".join(f"{len(members)} {name}" for name, members in splits.items()) + f": {arguments.out}")


def ban(arguments: argparse.Namespace) -> None:
    from ..users.categories import decide
    from ..users.profile import load_profiles

    if arguments.backend != "rules" and arguments.out.is_file() and not arguments.force:
        raise in_the_way(arguments.out)  # before a model is asked
    profiles = load_profiles(arguments.users)
    decisions = decide(profiles, _backend(arguments, profiles))
    records = [decision.to_record() for decision in decisions]
    write_jsonl(arguments.out, records, private=True, replace=arguments.force)
    failed = [decision for decision in decisions if decision.failed]
    added = sum("language model" in names for decision in decisions for names in decision.why.values())
    print(f"{len(decisions)} users: {arguments.out}")
    if arguments.backend != "rules":
        print(f"Added by the language model: {added} categories.")
        print(f"Failed, and so everything is banned: {len(failed)} users.")
        for decision in failed[:5]:
            print(f"  {decision.user_id}: {decision.failed}")


def _backend(arguments: argparse.Namespace, profiles: list[UserProfile]) -> Backend | None:
    from ..diffusion.shards import find_device
    from ..users.categories import FIELDS, OpenAIBackend, TransformersBackend

    if arguments.backend == "rules":
        return None
    if arguments.backend == "transformers":
        find_device(arguments.device)
        return TransformersBackend(arguments.model, dtype=arguments.dtype, device=arguments.device)
    backend = OpenAIBackend(arguments.model, base_url=arguments.base_url, timeout_s=arguments.timeout_s)
    shown = f"This sends to {backend.host}: {', '.join(FIELDS)} of {len(profiles)} profiles. No user ids."
    require_consent(shown, things="Profiles", agreed=arguments.yes_send_profiles, flag="--yes-send-profiles")
    return backend


def pseudonymise(arguments: argparse.Namespace) -> None:
    from ..users.profile import load_profiles, save_profiles
    from ..users.pseudonym import pseudonymise as rename
    from ..users.pseudonym import read_key

    renamed = rename(load_profiles(arguments.users), read_key(arguments.key))
    save_profiles(arguments.out, renamed, replace=arguments.force)
    print(f"Users: {arguments.out}\nKey:   {arguments.key} (without it nobody can tell who is who; keep it apart)")


def explain(arguments: argparse.Namespace) -> None:
    from ..users.bans import explain_bans
    from ..users.profile import find_profile

    profile = find_profile(arguments.users, arguments.user_id)
    why = explain_bans(profile, arguments.bans)
    if arguments.json:
        print(json.dumps({"user_id": profile.user_id, "banned": list(why), "why": why}))
        return
    width = max(12, *map(len, category_names()))
    for category in category_names():
        print(f"{category:{width}} {'banned: ' + ', '.join(why[category]) if category in why else 'allowed'}")


def forget(arguments: argparse.Namespace) -> None:
    from ..users.forget import forget_user

    print("\n".join(forget_user(arguments.user_id, arguments.places)))
    print("Pictures made for this user, and adapters trained on them, are not touched.")


def cluster(arguments: argparse.Namespace) -> None:
    from ..users.clusters import cluster_table, cluster_users, draw_clusters
    from ..users.store import EmbeddingStore

    store = EmbeddingStore.load(arguments.embeddings)
    groups = cluster_users(store, k=arguments.k, seed=arguments.seed)
    rows, force = cluster_table(groups, store), arguments.force
    write_csv(arguments.out / "clusters.csv", rows, private=True, replace=force)
    draw_clusters(groups, store, arguments.out / "clusters.png", seed=arguments.seed, replace=force)
    for k, score in groups.silhouettes.items():
        print(f"k = {k}  silhouette {score:.3f}{'  <- chosen' if k == groups.k else ''}")
    print(
        f"{groups.k} groups of {len(store)} users: {arguments.out / 'clusters.csv'}, {arguments.out / 'clusters.png'}"
    )


def levels(arguments: argparse.Namespace) -> None:
    from ..users.clusters import draw_levels
    from ..users.levels import choose_levels, level_profiles, published_profiles
    from ..users.policy import banned_categories
    from ..users.profile import load_profiles

    if arguments.published:
        users = published_profiles()
    else:
        users = choose_levels(load_profiles(arguments.users)) if arguments.users else level_profiles()
    bans = [banned_categories(user) for user in users]
    names = [f"level {k} ({user.user_id})" if arguments.users else f"level {k}" for k, user in enumerate(users)]
    if arguments.picture:
        draw_levels(list(zip(names, bans, strict=True)), arguments.picture, replace=arguments.force)
    for level, (user, banned) in enumerate(zip(users, bans, strict=True)):
        print(json.dumps({"level": level, "user_id": user.user_id, "banned": list(banned)}))


def add_commands(groups: Any) -> None:
    kinds = group(groups, "users", "profiles of users")
    one = command(kinds, "sample", sample, "draw plausible users", "psalign users sample -n 1000 --out users.csv")
    one.add_argument("-n", type=at_least(1, MOST_USERS), default=1000)
    add_seed(one)
    add_out(one, "users.csv", force=FORCE)

    one = command(kinds, "split", split, "split users into train, val, test_seen and test_unseen",
                  "psalign users split --users users.csv --out splits.json")  # fmt: skip
    add_users(one)
    one.add_argument("--val", type=at_least(0), default=50, help="users (default 50)")
    one.add_argument("--test", type=at_least(0), default=50, help="users seen in training, and as many unseen")
    add_seed(one)
    one.set_defaults(holds=("users",))  # nobody is forgotten between reading and writing
    add_out(one, "splits.json", force=FORCE)

    one = command(kinds, "ban", ban, "decide what each user bans: rules, and what a language model adds",
                  "psalign users ban --users users.csv --backend rules --out bans.jsonl")  # fmt: skip
    add_users(one)
    _add_backend(one)
    one.set_defaults(holds=("users",))
    add_out(one, "bans.jsonl", force=FORCE)

    one = command(kinds, "pseudonymise", pseudonymise, "give users ids that lead back to nobody without a key",
                  "psalign users pseudonymise --users users.csv --key users.key --out pseudonyms.csv")  # fmt: skip
    add_users(one)
    one.add_argument("--key", type=a_path, default=Path("users.key"),
                     help="made where there is none (default users.key)")  # fmt: skip
    one.set_defaults(holds=("users", "key"))
    add_out(one, "pseudonyms.csv", force=FORCE)

    _add_about_people(kinds)
    limits.add_commands(kinds)


def _add_about_people(kinds: Any) -> None:
    one = command(kinds, "explain", explain, "say which rule or model banned each category for a user",
                  "psalign users explain 0000033 --users users.csv")  # fmt: skip
    one.add_argument("user_id")
    add_users(one)
    one.add_argument("--bans", type=a_path, help="what psalign users ban wrote, with what a model added")
    one.add_argument("--json", action="store_true", help="for machines: user_id, banned, why")

    one = command(kinds, "forget", forget, "take a user out of files and stores",
                  "psalign users forget 0000033 users.csv bans.jsonl data/embeddings/users")  # fmt: skip
    one.add_argument("user_id")
    one.add_argument("places", nargs="+", type=a_path, help="users files, ban lists, folders of user vectors")

    one = command(kinds, "cluster", cluster, "find groups of similar users, with pictures",
                  "psalign users cluster --embeddings data/embeddings/users --out outputs/clusters")  # fmt: skip
    add_embeddings(one)
    one.add_argument("-k", type=at_least(2), help="groups (default: the best silhouette of 2 to 9)")
    add_seed(one)
    add_out(one, "outputs/clusters", force=FORCE)

    one = command(kinds, "levels", levels, "print the six levels, or six users of rising strictness of a population",
                  "psalign users levels --picture levels.png")  # fmt: skip
    add_users(one, "choose them from this users file", required=False)
    one.add_argument("--published", action="store_true", help="the six users of the published evaluation instead")
    one.add_argument("--picture", type=a_path, help="also draw what each bans")
    add_force(one, "replace another picture")


def _add_backend(one: argparse.ArgumentParser) -> None:
    one.add_argument("--backend", choices=("rules", "transformers", "openai"), default="rules",
                     help="rules alone (default), or what a language model adds to them")  # fmt: skip
    add_language_model(one, "--model")
    one.add_argument("--device", default="cpu", help="of a local model (default cpu)")
    add_endpoint(one, "profiles")
