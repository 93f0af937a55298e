"""Commands about limits in a person's own words: users limit add, list, remove."""

from __future__ import annotations

import argparse
import json
from datetime import date
from typing import TYPE_CHECKING, Any

from ..errors import LimitError
from ..ids import normalise_user_id
from .options import a_number, add_users, command, group

if TYPE_CHECKING:
    from ..files import Record
    from ..users.limits import Limit


def add(arguments: argparse.Namespace) -> None:
    from ..users.limit_column import add_limit
    from ..users.limits import Limit

    limit = Limit(arguments.text, arguments.strength, until=arguments.until, by=arguments.by)
    limits = add_limit(arguments.users, arguments.user, limit)
    kept = next(one for one in limits if one.by == limit.by and set(one.phrases) == set(limit.phrases))
    print(f"Understood as {_meaning(limit)}; {_terms(kept)}.")
    if not kept.is_active(date.today()):
        print("It has ended already and changes nothing.")
    print(f"{len(limits)} limit{'s' * (len(limits) != 1)} of user {arguments.user}: {arguments.users}")
    _print_next(arguments)


def remove(arguments: argparse.Namespace) -> None:
    from ..users.limit_column import remove_limit

    left = remove_limit(arguments.users, arguments.user, arguments.text, by=arguments.by)
    print(f"Removed; {len(left)} limit{'s' * (len(left) != 1)} of user {arguments.user} left: {arguments.users}")
    for number, limit in enumerate(left, start=1):
        print(_line(number, limit))
    _print_next(arguments)


def show(arguments: argparse.Namespace) -> None:
    from ..users.limit_column import limits_of

    limits = limits_of(arguments.users, arguments.user)
    if arguments.json:
        records = [_record(number, limit) for number, limit in enumerate(limits, start=1)]
        print(json.dumps({"user_id": arguments.user, "limits": records}))
        return
    for number, limit in enumerate(limits, start=1):
        print(_line(number, limit))
    if not limits:
        print(f"User {arguments.user} has no limits in words.")


def _print_next(arguments: argparse.Namespace) -> None:
    print(f"Next: psalign embed --users {arguments.users} --force")


def _record(number: int, limit: Limit) -> Record:
    return {
        "number": number,
        "text": limit.text,
        "phrases": list(limit.words),
        "categories": list(limit.categories),
        "strength": limit.strength,
        "until": limit.until and limit.until.isoformat(),
        "by": limit.by,
        "active": limit.is_active(date.today()),
    }


def _line(number: int, limit: Limit) -> str:
    return f'{number}  "{limit.text}": {_meaning(limit)}; {_terms(limit)}'


def _meaning(limit: Limit) -> str:
    """What is searched for, and what is banned whatever the strength."""
    parts = [f"the phrases {', '.join(limit.words)}"] if limit.words else []
    parts += [f"the category {category}, banned fully" for category in limit.categories]
    return " and ".join(parts)


def _terms(limit: Limit) -> str:
    end = "no end" if limit.until is None else f"until {limit.until}"
    if not limit.is_active(date.today()):
        end += " (ended)"
    return f"strength {limit.strength:g}, {end}, set by {limit.by}"


def add_commands(groups: Any) -> None:
    kinds = group(groups, "limit", "limits in a person's own words")
    one = command(kinds, "add", add, "add a limit to a user of a users file",
                  'psalign users limit add --users users.csv --user 0000033 "no spiders"')  # fmt: skip
    _add_who(one)
    one.add_argument("text", help='what must not be seen, as "no spiders" or a category')
    one.add_argument("--strength", type=a_number(0, 1, above=True), default=1.0, help="of the limit (default 1)")
    one.add_argument("--until", type=_day, help="last day on which it holds, as 2027-01-31 (default: no end)")
    _add_by(one, "who sets it (default user)")

    one = command(kinds, "list", show, "show the limits of a user, and how they are understood",
                  "psalign users limit list --users users.csv --user 0000033")  # fmt: skip
    _add_who(one)
    one.add_argument("--json", action="store_true", help="for machines: user_id, limits")

    one = command(kinds, "remove", remove, "remove a limit of a user from a users file",
                  'psalign users limit remove --users users.csv --user 0000033 "no spiders"')  # fmt: skip
    _add_who(one)
    one.add_argument("text", help="of the limit, or its number in the list")
    _add_by(one, "who asks: user, guardian, operator in rising rank (default user)")


def _add_who(one: argparse.ArgumentParser) -> None:
    add_users(one)
    one.add_argument("--user", type=_user_id, required=True, metavar="ID", help="user id")


def _add_by(one: argparse.ArgumentParser, help: str) -> None:
    one.add_argument("--by", choices=("user", "guardian", "operator"), default="user", help=help)


def _user_id(text: str) -> str:
    try:
        return normalise_user_id(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err


def _day(text: str) -> date:
    from ..users.limits import read_day

    try:
        return read_day(text)
    except LimitError as err:
        raise argparse.ArgumentTypeError(err.args[0]) from err
