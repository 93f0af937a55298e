"""Commands for SAGE datasets: sage validate, stats, import, export, download. sage build is in cli/sage_build.py."""

from __future__ import annotations

import argparse
import json
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DatasetError, ProfileError, UsageError
from . import sage_build
from .options import PUBLISHED_CAPTIONS, a_path, add_force, add_out, add_users, command, group

USERS_HELP = "users file with the bans (default: users.csv of the dataset)"
if TYPE_CHECKING:
    from ..users.profile import UserProfile


def validate(arguments: argparse.Namespace) -> int:
    from ..sage.dataset import dataset_root
    from ..sage.validate import FAULTS
    from ..sage.validate import validate as check

    arguments.data = dataset_root(arguments.data)
    bans, source = _bans(arguments.data, arguments.users)
    found = check(arguments.data, bans=bans, check_pictures=not arguments.metadata_only)
    if arguments.json:
        print(json.dumps({**found.to_record(), "users": source and str(source)}, indent=2))
        return int(not found.is_fine)
    _print_rows(found.rows)
    print(f"Bans from {source}." if source else "No users file: rows are compared with each other (--users).")
    for kind, cases in found.cases.items():
        print(f"{kind:30} {len(cases):7}  {FAULTS[kind] if not cases else ''}")
        for case in cases[:5]:
            print(f"    {case}")
    print("Fit for training." if found.is_fine else "Training on this would be wrong.")
    return int(not found.is_fine)


def _print_rows(counts: dict[str, int]) -> None:
    print("  ".join(f"{split}: {count} rows" for split, count in counts.items()))


def _bans(data: Path, users: Path | None) -> tuple[dict[str, tuple[str, ...]] | None, Path | None]:
    """Bans of users by id, and the users file that they come from; None without one."""
    from ..sage.dataset import require_taxonomy_of
    from ..users.policy import banned_categories
    from ..users.profile import load_profiles

    require_taxonomy_of(data)  # before its users, whose ban lists have the same categories
    users = users or _users_file(data)
    if users is None:
        return None, None
    return {profile.user_id: banned_categories(profile) for profile in load_profiles(users)}, users


def _users_file(data: Path) -> Path | None:
    return next((data / name for name in ("users.csv", "users.jsonl") if (data / name).is_file()), None)


def import_dataset(arguments: argparse.Namespace) -> None:
    from ..sage.dataset import dataset_root
    from ..sage.import_layout_b import import_layout_b
    from ..sage.layout_b import read_layout_b
    from ..users.policy import banned_categories
    from ..users.profile import load_profiles, save_profiles

    source = read_layout_b(dataset_root(arguments.data))
    users = arguments.users or _users_file(source.root)
    profiles = load_profiles(users) if users else _annotated_profiles(source.profiles)
    bans = {profile.user_id: banned_categories(profile) for profile in profiles}

    def banned(user_id: str) -> tuple[str, ...]:
        if user_id not in bans:
            raise DatasetError(
                f"Nothing says what user {user_id} bans, so it is not known which pictures are chosen.",
                hint="Give a users file that has this user: --users users.csv",
            )
        return bans[user_id]

    kept = [profile for profile in profiles if profile.user_id in source.users]
    counts = import_layout_b(
        source,
        arguments.out,
        banned=banned,
        save_users=lambda path: save_profiles(path, kept),
        check_pictures=not arguments.metadata_only,
    )
    _print_rows(counts)
    print(f"Bans from {users or 'the columns of annotations.csv'}.\nDataset: {arguments.out}")


def _annotated_profiles(records: list[dict[str, Any]]) -> list[UserProfile]:
    from ..users.profile import read_profile

    profiles = []
    for record in records:
        try:
            profiles.append(read_profile(record))
        except ProfileError as err:
            raise ProfileError(f"annotations.csv, user {record['User_ID']}: {err}") from None
    return profiles


def stats(arguments: argparse.Namespace) -> None:
    from ..sage.counts import count_rows, draw_counts
    from ..sage.dataset import dataset_root, find_splits, load_split

    root = dataset_root(arguments.data)
    splits = find_splits(root) or ["train"]  # reading train says that there is no dataset
    counts = {split: count_rows(load_split(root, split, check_pictures=False)) for split in splits}
    print(json.dumps(counts, indent=2))
    if arguments.picture:
        draw_counts(counts, arguments.picture, replace=arguments.force)


def export(arguments: argparse.Namespace) -> None:
    from ..sage.dataset import dataset_root
    from ..sage.export import ExportConfig
    from ..sage.export import export as write
    from ..users.pseudonym import pseudonym, read_key

    arguments.data = dataset_root(arguments.data)
    config = ExportConfig(arguments.name, arguments.license, with_profiles=arguments.with_profiles)
    note = "" if arguments.plain_ids else "Ids of users are pseudonyms."

    @cache
    def key() -> bytes:  # made only after the dataset was read
        return read_key(arguments.key)

    def rename(user_id: str) -> str:
        return user_id if arguments.plain_ids else pseudonym(user_id, key())

    if config.with_profiles:
        print(
            "Warning: age, religion and health of users are written. Do this for simulated users only.", file=sys.stderr
        )
    counts = write(arguments.data, arguments.out, config, rename=rename, note=note)
    _print_rows(counts)
    if not arguments.plain_ids:
        print(f"Key of the pseudonyms: {arguments.key} (keep it apart; not part of the export)")
    print(f"Read it with: datasets.load_dataset({str(arguments.out)!r})")


def download(arguments: argparse.Namespace) -> None:
    from ..downloads import OFFENSIVE, announce
    from ..sage.download import PROMPT_SETS, captions_download, fetch, fetch_captions, find_prompt_set, unpack

    if arguments.captions:
        wanted = captions_download(arguments.out)
        announce([wanted] if wanted else [], notes=[OFFENSIVE])
        came = fetch_captions(arguments.out)
        print(f"{came} files came; captions and users, without pictures: {arguments.out}")
        return
    if arguments.url:
        archive = fetch(arguments.url, arguments.out / Path(arguments.url).name, digest=arguments.sha256)
        print(f"{unpack(archive, arguments.out)} files: {arguments.out}")
        return
    for name in arguments.names or PROMPT_SETS:
        one = find_prompt_set(name)
        print(f"{one.rows} prompts: {fetch(one.url, arguments.out / f'{name}.csv', digest=one.digest)}")


def _fill_download(arguments: argparse.Namespace) -> None:
    """Captions are a dataset; prompt sets have a folder of their own. Raises UsageError for two things at once."""
    if arguments.captions and (arguments.url or arguments.names):
        raise UsageError("--captions fetches the captions and users alone; leave names and --url out.")
    if arguments.out is None:
        arguments.out = PUBLISHED_CAPTIONS if arguments.captions else Path("data/prompts")


def add_commands(groups: Any) -> None:
    kinds = group(groups, "sage", "SAGE datasets")
    one = command(kinds, "validate", validate, "check every row and picture; fails if training would be wrong",
                  "psalign sage validate data/mini")  # fmt: skip
    _add_data(one)
    add_users(one, USERS_HELP, required=False)
    _add_metadata_only(one)
    one.add_argument("--json", action="store_true", help="for machines")

    one = command(kinds, "stats", stats, "count rows, users, concepts and categories of every split",
                  "psalign sage stats data/mini --picture stats.png")  # fmt: skip
    _add_data(one)
    one.add_argument("--picture", type=a_path, help="also draw the counts")
    add_force(one, "replace another picture")

    sage_build.add_command(kinds)

    one = command(kinds, "import", import_dataset, "make a dataset from annotations.csv and prompts.csv (layout B)",
                  "psalign sage import data/other --out data/sage")  # fmt: skip
    one.add_argument("data", type=a_path, help="folder with images/, annotations.csv and prompts.csv (docs/DATA.md)")
    add_users(one, USERS_HELP, required=False)
    _add_metadata_only(one)
    add_out(one, "data/sage")

    _add_export(kinds)
    _add_download(kinds)


def _add_export(kinds: Any) -> None:
    one = command(kinds, "export", export, "write a folder that Hugging Face datasets reads without this package",
                  "psalign sage export data/own --out outputs/export --plain-ids")  # fmt: skip
    _add_data(one)
    one.add_argument("--name", default="SAGE", help="what the card calls it (default SAGE)")
    one.add_argument("--license", default="unknown", help="what the card says, as the hub spells it (mit, cc-by-4.0)")
    one.add_argument("--key", type=a_path, default=Path("users.key"),
                     help="of the pseudonyms of users; made where there is none (default users.key)")  # fmt: skip
    one.add_argument("--plain-ids", action="store_true", help="keep user ids as they are: for simulated users")
    one.add_argument("--with-profiles", action="store_true", help="also write profiles: for simulated users only")
    add_out(one, "outputs/export")


def _add_download(kinds: Any) -> None:
    one = command(kinds, "download", download, "fetch public prompt sets, the published captions, or a dataset archive",
                  "psalign sage download debug sage_unseen --out data/prompts")  # fmt: skip
    one.add_argument("names", nargs="*", help="prompt sets (default: all)")
    one.add_argument("--url", help="of a .zip or .tar archive of the dataset instead; it is unpacked into --out")
    one.add_argument("--sha256", help="of that archive")
    one.add_argument("--captions", action="store_true",
                     help="the published captions and simulated users instead: a dataset without pictures, 26 MB. Some "
                          "of the text is offensive")  # fmt: skip
    one.add_argument("--out", type=a_path,
                     help=f"where to write (default data/prompts; of captions {PUBLISHED_CAPTIONS})")  # fmt: skip
    one.set_defaults(fill=_fill_download)


def _add_data(one: argparse.ArgumentParser) -> None:
    one.add_argument("data", type=a_path, help="SAGE dataset (docs/DATA.md)")


def _add_metadata_only(one: argparse.ArgumentParser) -> None:
    one.add_argument("--metadata-only", action="store_true", help="the pictures are elsewhere: do not look for them")
