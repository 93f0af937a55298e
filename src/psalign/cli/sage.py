"""Commands about SAGE datasets: sage validate, stats, download; build is in cli/sage_build.py."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import UsageError
from . import sage_build
from .options import PUBLISHED_CAPTIONS, a_path, add_force, add_out, command, group


def validate(arguments: argparse.Namespace) -> int:
    from ..sage.rows import dataset_root
    from ..sage.validate import FAULTS
    from ..sage.validate import validate as check

    arguments.data = dataset_root(arguments.data)
    bans, source = _bans(arguments.data, arguments.users)
    found = check(arguments.data, bans=bans, check_pictures=not arguments.metadata_only)
    if arguments.json:
        print(json.dumps({**found.to_record(), "users": source}, indent=2))
        return int(not found.is_fine)
    print("  ".join(f"{split}: {count} rows" for split, count in found.rows.items()))
    print(f"Bans from {source}." if source else "No users file: rows are held against each other (--users).")
    for kind, cases in found.cases.items():
        print(f"{kind:30} {len(cases):7}  {FAULTS[kind] if not cases else ''}")
        for case in cases[:5]:
            print(f"    {case}")
    print("Fit for training." if found.is_fine else "Training on this would be wrong.")
    return int(not found.is_fine)


def _bans(data: Path, users: Path | None) -> tuple[dict[str, tuple[str, ...]] | None, str | None]:
    """Bans of the users of a dataset, and where they are from: a users file, or the profile columns of layout B."""
    from ..errors import ProfileError
    from ..sage import layout_b
    from ..sage.rows import require_taxonomy_of
    from ..users.policy import banned_categories
    from ..users.profile import load_profiles, read_profile

    require_taxonomy_of(data)  # before its users, whose ban lists have the same categories
    users = users or next((data / name for name in ("users.csv", "users.jsonl") if (data / name).is_file()), None)
    if users is not None:
        return {profile.user_id: banned_categories(profile) for profile in load_profiles(users)}, str(users)
    if not layout_b.is_layout_b(data):
        return None, None
    bans = {}
    for record in layout_b.read_users(data):
        try:
            bans[record["User_ID"]] = banned_categories(read_profile(record))
        except ProfileError as err:
            raise ProfileError(f"{layout_b.ANNOTATIONS}, user {record['User_ID']}: {err}") from None
    return bans, f"the columns of {layout_b.ANNOTATIONS}"


def _banned(data: Path, users: Path | None) -> Callable[[str], tuple[str, ...]] | None:
    """What a user of a dataset in layout B bans, for load_split; rows of layout A need nobody to say it."""
    from ..errors import DatasetError
    from ..sage.rows import needs_bans

    bans = _bans(data, users)[0] or {}
    if not needs_bans(data):
        return None

    def banned(user_id: str) -> tuple[str, ...]:
        if user_id not in bans:
            raise DatasetError(
                f"Nobody knows what user {user_id} bans, so layout B does not say what is chosen.",
                hint="Give a users file that has this user: --users users.csv",
            )
        return bans[user_id]

    return banned


def stats(arguments: argparse.Namespace) -> None:
    from ..sage.rows import SPLITS, dataset_root, find_splits, load_split
    from ..sage.validate import count_rows

    arguments.data = dataset_root(arguments.data)
    banned = _banned(arguments.data, arguments.users)
    counts = {
        split: count_rows(load_split(arguments.data, split, banned=banned, check_pictures=False))
        for split in find_splits(arguments.data) or SPLITS
    }
    print(json.dumps(counts, indent=2))
    if arguments.picture:
        from ..sage.draw import draw_counts

        draw_counts(counts, arguments.picture, replace=arguments.force)


def export(arguments: argparse.Namespace) -> None:
    from ..sage.export import ExportConfig
    from ..sage.export import export as write
    from ..sage.rows import dataset_root
    from ..users.pseudonym import pseudonym, read_key

    arguments.data = dataset_root(arguments.data)
    config = ExportConfig(arguments.name, arguments.license, with_profiles=arguments.with_profiles)
    banned, note = _banned(arguments.data, arguments.users), "Ids of users are pseudonyms."
    if arguments.plain_ids:
        note = ""

        def rename(user_id: str) -> str:
            return user_id
    else:

        def rename(user_id: str) -> str:
            return pseudonym(user_id, key())

        @lru_cache(maxsize=1)
        def key() -> bytes:  # made once the dataset has been read
            return read_key(arguments.key)

    if config.with_profiles:
        print(
            "Warning: age, religion and health of users are written. Do this for simulated users only.", file=sys.stderr
        )
    counts = write(arguments.data, arguments.out, config, rename=rename, banned=banned, note=note)
    print("  ".join(f"{split}: {count} rows" for split, count in counts.items()))
    if not arguments.plain_ids:
        print(f"Key of the pseudonyms: {arguments.key} (keep it apart; not part of the export)")
    print(f"Read it with: datasets.load_dataset({str(arguments.out)!r})")


def download(arguments: argparse.Namespace) -> None:
    from ..downloads import OFFENSIVE, tell
    from ..sage.download import PROMPT_SETS, captions_download, fetch, fetch_captions, find_prompt_set, unpack

    if arguments.captions:
        wanted = captions_download(arguments.out)
        tell([wanted] if wanted else [], notes=[OFFENSIVE])
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
    one = command(kinds, "validate", validate, "look at every row and picture; fails if training would be wrong",
                  "psalign sage validate data/mini")  # fmt: skip
    _add_data(one)
    one.add_argument("--metadata-only", action="store_true", help="pictures are elsewhere: do not look at them")
    one.add_argument("--json", action="store_true", help="for machines")

    one = command(kinds, "stats", stats, "count rows, users, concepts and categories of every split",
                  "psalign sage stats data/mini --picture stats.png")  # fmt: skip
    _add_data(one)
    one.add_argument("--picture", type=a_path, help="also draw the counts")
    add_force(one, "replace another picture")

    sage_build.add_command(kinds)

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
    one.add_argument("data", type=a_path, help="SAGE dataset in either layout (docs/DATA.md)")
    one.add_argument("--users", type=a_path, help="users file with the bans (default: users.csv of the dataset)")
