"""The command `serve`: a service that many people share, and its people and keys."""

from __future__ import annotations

import argparse
import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..files import write_json
from .drawing import add_drawing, loading
from .options import (
    a_number,
    a_path,
    add_embeddings,
    add_force,
    add_in_words,
    add_users,
    at_least,
    command,
    group,
)

if TYPE_CHECKING:
    from ..serve.database import Database
    from ..serve.keys import ApiKeys
    from ..serve.loading import Recipe
    from ..serve.people import People

PLACE = "data/serve/people.db"
KEY_FILE = Path("data/serve/people.key")


def serve(arguments: argparse.Namespace) -> None:
    from ..serve import require_libraries

    require_libraries()
    from ..serve.engine import EngineSettings
    from ..serve.loading import load
    from ..serve.server import Listening
    from ..serve.server import serve as run
    from ..serve.service import Keeping, Service

    recipe = _recipe(arguments)
    settings = EngineSettings(
        max_batch=arguments.max_batch,
        max_wait_ms=arguments.max_wait_ms,
        max_waiting=arguments.max_waiting,
        max_waiting_of_key=arguments.max_waiting_of_key,
        fixed_batch=arguments.fixed_batch,
    )
    service = Service.of(Keeping(arguments.people, arguments.key_file, arguments.timeout_s), settings)
    listening = Listening(arguments.host, arguments.port, arguments.grace_s)
    run(service, lambda: load(recipe), listening)


def _recipe(arguments: argparse.Namespace) -> Recipe:
    if arguments.adapter is None:
        raise UsageError(
            "A service needs an adapter, which keeps people's limits.", hint="Give --adapter (psalign train)."
        )
    return recipe_of(
        arguments,
        embeddings=arguments.embeddings,
        name=arguments.name,
        max_steps=arguments.max_steps,
        fixed_batch=arguments.fixed_batch,
        refuses=arguments.when_banned == "refuse",
        unknown=arguments.unknown,
    )


def recipe_of(arguments: argparse.Namespace, **more: Any) -> Recipe:
    """What is served, by the options of drawing. more: other parts of Recipe. Raises UsageError."""
    from ..diffusion.base_models import Loading
    from ..diffusion.shards import find_device
    from ..serve.loading import Recipe, base_of, own_device

    base_of(arguments.base)  # a wrong name is told before anything is loaded
    find_device(arguments.device or "cpu")
    how = {"device": arguments.device or own_device(), **loading(arguments)}
    Loading(**how)
    chosen = {"steps": arguments.steps, "guidance": arguments.guidance, "in_words": arguments.in_words}
    return Recipe(base=arguments.base, adapter=arguments.adapter, how=how, **chosen, **more)


# --- people and keys -------------------------------------------------------------------------------------------------


def users_add(arguments: argparse.Namespace) -> None:
    from ..users.profile import load_profiles

    people, actor = _people(arguments, makes=True), _actor()
    many = [] if arguments.users is None else load_profiles(arguments.users)
    if (arguments.id is None) == (not many):
        raise UsageError("Give --users for the people of a file, or --id for one person.")
    given = [(one.user_id, one) for one in many] if many else [(arguments.id, _one_profile(arguments))]
    for identifier, profile in given:
        people.add(arguments.account, identifier, profile, actor=actor, replaces=arguments.replace)
    print(f"{len(given)} added; account {arguments.account} has {people.count(arguments.account)} people.")


def _one_profile(arguments: argparse.Namespace) -> Any:
    from ..users.profile import read_profile

    if all(one is None for one in (arguments.age, arguments.ban, arguments.limit)):
        raise UsageError(
            "Nothing was said of this person.",
            hint="Give --ban CATEGORY ... (--ban alone: nothing is banned), --limit TEXT, or --age.",
        )
    columns = {
        "User_ID": arguments.user_id or "person",
        "Age": arguments.age,
        "Banned_Categories": arguments.ban,
        "Limits": arguments.limit,
    }
    return read_profile({name: value for name, value in columns.items() if value is not None})


def users_show(arguments: argparse.Namespace) -> None:
    from ..users.policy import explain
    from ..users.profile import profile_columns

    profile = _people(arguments).require(arguments.account, arguments.id)
    shown = {name: value for name, value in profile_columns(profile).items() if value is not None}
    limits = [limit.text for limit in profile.limits or ()]
    print(json.dumps({"profile": shown, "banned": explain(profile), "limits": limits}, ensure_ascii=False, indent=2))


def users_export(arguments: argparse.Namespace) -> None:
    record = _people(arguments).export(arguments.account, arguments.id)
    write_json(arguments.out, record, private=True, replace=arguments.force)
    print(f"Everything that is stored of this person: {arguments.out}")


def users_erase(arguments: argparse.Namespace) -> None:
    _people(arguments).erase(arguments.account, arguments.id, actor=_actor())
    print("Erased. Pictures, backups of the database and vectors (psalign users forget) are not touched.")


def keys_make(arguments: argparse.Namespace) -> None:
    keys = _keys(arguments, makes=True)
    print(keys.make(arguments.account, scope=arguments.scope, per_minute=arguments.per_minute, actor=_actor()))


def keys_list(arguments: argparse.Namespace) -> None:
    for row in _keys(arguments).rows():
        state = "live" if row["revoked_at"] is None else "revoked"
        print(f"{row['id']}  {row['scope']:5}  {row['per_minute']:>6} a minute  {state:7}  {row['account']}")


def keys_revoke(arguments: argparse.Namespace) -> None:
    _keys(arguments).revoke(arguments.id, actor=_actor())
    print(f"Revoked: {arguments.id}")


def audit(arguments: argparse.Namespace) -> None:
    from ..serve.audit import Audit

    log = Audit(_database(arguments))
    if arguments.verify:
        print(f"{log.verify()} rows, each of which follows from those before it.")
        return
    for row in log.rows():
        print(json.dumps({name: value for name, value in row.items() if name != "chain"}))


def _database(arguments: argparse.Namespace, *, makes: bool = False) -> Database:
    from ..serve import require_libraries

    require_libraries()
    from ..serve.database import Database

    return Database(arguments.people, makes=makes)


def _people(arguments: argparse.Namespace, *, makes: bool = False) -> People:
    database = _database(arguments, makes=makes)
    from ..serve.people import People

    return People.of(database, arguments.key_file)


def _keys(arguments: argparse.Namespace, *, makes: bool = False) -> ApiKeys:
    database = _database(arguments, makes=makes)
    from ..serve.keys import ApiKeys

    return ApiKeys(database)


def _actor() -> str:
    """Who types a command, for the audit."""
    try:
        return f"cli:{getpass.getuser()}"[:64]
    except (OSError, KeyError):
        return "cli"


# --- flags -----------------------------------------------------------------------------------------------------------


def add_commands(groups: Any) -> None:
    one = command(groups, "serve", serve, "serve pictures over HTTP, each within the limits of its person",
                  "psalign serve --base mini --adapter trained_models/mini/adapter")  # fmt: skip
    one.add_argument("--adapter", type=a_path, help="adapter folder or published file")
    add_embeddings(one, "user vectors, for adapters that know people by them", required=False)
    add_in_words(one)
    add_drawing(one, batches=False)
    _add_place(one)
    one.add_argument("--host", default="127.0.0.1", help="where to listen (default 127.0.0.1)")
    one.add_argument("--port", type=at_least(0, 65535), default=8000, help="default 8000; 0: any free one")
    one.add_argument("--name", help="of the model in requests (default: the base's)")
    one.add_argument("--unknown", choices=("refuse", "strictest"), default="refuse",
                     help="for people that nobody registered (default refuse)")  # fmt: skip
    one.add_argument("--when-banned", choices=("soften", "refuse"), default="soften",
                     help="for prompts of which the person bans everything (default soften)")  # fmt: skip
    _add_queue(one)
    parts = one.add_subparsers(metavar="COMMAND")
    _add_users(group(parts, "users", "people of the service"))
    _add_keys(group(parts, "keys", "API keys of the service"))
    one = command(parts, "audit", audit, "print who loosened whose limits, and when", "psalign serve audit --verify")
    _add_place(one)
    one.add_argument("--verify", action="store_true", help="check that no row was changed or removed")


def _add_queue(one: argparse.ArgumentParser) -> None:
    one.add_argument("--max-batch", type=at_least(1, 1024), default=8, help="pictures drawn together (default 8)")
    one.add_argument("--max-wait-ms", type=a_number(0, 59_999), default=20.0,
                     help="how long a picture waits for others (default 20)")  # fmt: skip
    one.add_argument("--fixed-batch", type=at_least(0, 1024), default=0, metavar="N",
                     help="always draw N rows, so that a picture is the same bit for bit (default: off)")  # fmt: skip
    one.add_argument("--max-waiting", type=at_least(1), default=256, help="pictures in the queue (default 256)")
    one.add_argument("--max-waiting-of-key", type=at_least(1), default=64, help="of one account (default 64)")
    one.add_argument("--max-steps", type=at_least(1, 1000), default=200, help="that a request may have (default 200)")
    one.add_argument("--timeout-s", type=a_number(0, above=True), default=120.0, help="of a request (default 120)")
    one.add_argument("--grace-s", type=a_number(0, 3600), default=30.0, help="to finish after SIGTERM (default 30)")


def _add_place(one: argparse.ArgumentParser) -> None:
    one.add_argument("--people", default=PLACE, metavar="PLACE",
                     help=f"SQLite file, or postgresql://... (default {PLACE})")  # fmt: skip
    one.add_argument("--key-file", type=a_path, default=KEY_FILE,
                     help=f"key of profiles, unless PSALIGN_SERVE_KEY is set (default {KEY_FILE})")  # fmt: skip


def _add_person(one: argparse.ArgumentParser, *, required: bool = True) -> None:
    _add_place(one)
    one.add_argument("--account", required=True, help="of the application that knows the person")
    one.add_argument("--id", required=required, help="safety_identifier of the person in that application")


def _add_users(kinds: Any) -> None:
    one = command(kinds, "add", users_add, "add people, or limits to people",
                  'psalign serve users add --account shop --id anna --limit "no spiders"')  # fmt: skip
    _add_person(one, required=False)
    add_users(one, "users file; each user's id is the identifier", required=False)
    one.add_argument("--user-id", help="of the person's stored vector, for --embeddings")
    one.add_argument("--age", type=at_least(0, 100))
    one.add_argument("--ban", nargs="*", metavar="CATEGORY", help="categories; without any: none is banned")
    one.add_argument("--limit", action="append", metavar="TEXT", help="limit in words")
    one.add_argument("--replace", action="store_true",
                     help="instead of adding; what that loosens is written to the audit")  # fmt: skip

    one = command(kinds, "show", users_show, "print what holds for a person, and why",
                  "psalign serve users show --account shop --id anna")  # fmt: skip
    _add_person(one)
    one = command(kinds, "export", users_export, "write everything that is stored of a person",
                  "psalign serve users export --account shop --id anna --out anna.json")  # fmt: skip
    _add_person(one)
    one.add_argument("--out", type=a_path, required=True, help="where to write (JSON, readable by its owner only)")
    add_force(one)
    one = command(
        kinds, "erase", users_erase, "take a person out", "psalign serve users erase --account shop --id anna"
    )
    _add_person(one)


def _add_keys(kinds: Any) -> None:
    one = command(kinds, "make", keys_make, "make an API key and print it, this once",
                  "psalign serve keys make --account shop")  # fmt: skip
    _add_place(one)
    one.add_argument("--account", required=True, help="of the application that gets the key")
    one.add_argument("--scope", choices=("draw", "admin"), default="draw", help="admin may also preview (default draw)")
    one.add_argument("--per-minute", type=at_least(1, 1_000_000), default=600, help="pictures (default 600)")
    one = command(kinds, "list", keys_list, "list the API keys, without their secrets", "psalign serve keys list")
    _add_place(one)
    one = command(kinds, "revoke", keys_revoke, "end an API key", "psalign serve keys revoke --id 0123456789ab")
    _add_place(one)
    one.add_argument("--id", required=True, help="of the key, as keys list prints it")
