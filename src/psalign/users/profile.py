"""A user's profile, and the files it is read from and written to: step 1 of the path of data.

Profiles are personal data. They stay in these files and in memory; what other rooms print is the user id.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from ..categories import category_names
from ..errors import LimitError, ProfileError, UnknownUser, UsageError, listed
from ..files import Record, csv_text, is_special, write_jsonl, write_text
from ..ids import normalise_user_id, shorten
from ..tables import PROFILE_COLUMNS, Columns, column_name, read_table
from .limits import Limit, limit_records, read_limits

AGE_GROUPS: dict[str, tuple[int, int]] = {  # first and last age, in years
    "infants & toddlers": (0, 3),
    "children": (4, 12),
    "adolescents": (13, 19),
    "young adults": (20, 34),
    "middle-aged": (35, 59),
    "young elderly": (60, 74),
    "elderly": (75, 89),
    "long-lived elderly": (90, 100),
}
VOCABULARY: dict[str, tuple[str, ...]] = {
    "age_group": tuple(AGE_GROUPS),
    "gender": ("male", "female"),
    "religion": ("Christianity", "Islam", "Buddhism", "None"),  # "None": has no religion; None: not known
    "physical_condition": ("visual impairment", "hearing impairment", "intellectual disability", "healthy"),
    "mental_condition": (
        "depression",
        "anxiety",
        "war",
        "sexual assault",
        "major accidents",
        "natural disasters",
        "healthy",
    ),
}
UNKNOWN = "unknown"  # how a cell says that a field is not known
COLUMNS: dict[str, str] = {  # field -> column as we write it
    "user_id": "User_ID",
    **{column.lower(): column for column in PROFILE_COLUMNS},
    "banned": "Banned_Categories",
    "limits": "Limits",
}
MAX_FAULTS_SHOWN = 100

_COLUMNS = Columns(
    {field: (column.lower(),) for field, column in COLUMNS.items()},
    first_words={column.lower().split("_")[0]: field for field, column in COLUMNS.items() if field != "user_id"}
    | {"age": "age"},
    likeness=0.8,
)
_IGNORED = ("allowed_categories", "cluster_id")  # columns of the published files that are near ours
_LIST_OF_ITEMS = re.compile(r"[\[(](.*)[\])]", re.DOTALL)


class UserProfile(BaseModel):
    """One user: who they are, as far as they want to say, and what they ban outright.

    age: years, 0 to 100; age_group follows from it and may stand alone.
    Text fields take the words of VOCABULARY in any case; None means not known.
    banned: categories banned whatever the rules say; a profile of nothing but a ban list is fine.
    limits: limits in the person's own words; a profile of nothing but limits is fine. None: none were given.
    Raises pydantic.ValidationError (a ValueError); the readers below turn it into ProfileError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    user_id: str
    age: int | None = None
    age_group: str | None = Field(default=None, validate_default=True)
    gender: str | None = None
    religion: str | None = None
    physical_condition: str | None = None
    mental_condition: str | None = None
    banned: tuple[str, ...] | None = None
    limits: tuple[Limit, ...] | None = None

    @field_validator("user_id", mode="before")
    @classmethod
    def _check_user_id(cls, value: Any) -> str:
        return normalise_user_id(value)

    @field_validator("age", mode="before")
    @classmethod
    def _check_age(cls, value: Any) -> int | None:
        return None if value is None else _whole_age(value)

    @field_validator("age_group", mode="before")
    @classmethod
    def _check_age_group(cls, value: Any, info: ValidationInfo) -> str | None:
        group, age = _choose(value, VOCABULARY["age_group"]), info.data.get("age")
        if age is None:
            return group
        if group not in (None, age_group_of(age)):
            raise ValueError(f"saw {value!r} beside age {age}, allowed: {age_group_of(age)}")
        return age_group_of(age)

    @field_validator("gender", "religion", "physical_condition", "mental_condition", mode="before")
    @classmethod
    def _check_word(cls, value: Any, info: ValidationInfo) -> str | None:
        return _choose(value, VOCABULARY[str(info.field_name)])

    @field_validator("banned", mode="before")
    @classmethod
    def _check_banned(cls, value: Any) -> tuple[str, ...] | None:
        return None if value is None else _categories(value)

    @field_validator("limits", mode="before")
    @classmethod
    def _check_limits(cls, value: Any) -> tuple[Limit, ...] | None:
        try:
            return None if value is None else read_limits(value)
        except LimitError as err:
            raise ValueError(err.args[0]) from None  # pydantic wants a ValueError

    @model_serializer(mode="wrap")
    def _dump(self, dump: SerializerFunctionWrapHandler) -> Record:
        """Without limits a profile is dumped as before there were any: fingerprints of such dumps stay."""
        record: Record = dump(self)
        if record.pop("limits", None) is not None:
            record["limits"] = limit_records(self.limits or ())
        return record

    @property
    def says_bans(self) -> bool:
        """Whether anything is known that bans could follow from; limits alone leave the ban list unknown."""
        return any(getattr(self, field) is not None for field in COLUMNS if field not in ("user_id", "limits"))

    @property
    def is_blank(self) -> bool:
        """Whether nothing is known but the id."""
        return all(getattr(self, field) is None for field in COLUMNS if field != "user_id")

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        yield "user_id", self.user_id  # nothing personal in a log or a traceback

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> UserProfile:
        """A changed copy, checked like a new profile (pydantic's own does not check)."""
        return type(self)(**{**self.model_dump(), **(update or {})})


def age_group_of(age: int) -> str:
    """Age group of an age in years, 0 to 100."""
    return next(group for group, (first, last) in AGE_GROUPS.items() if first <= age <= last)


def read_profile(record: Mapping[str, Any]) -> UserProfile:
    """Profile of one record with the columns of a users file, in any case; other columns are left alone.

    Raises ProfileError that lists every fault.
    """
    values = {field_of(column): value for column, value in record.items()}
    fields = _map_columns(list(record))
    return _profile(values, {field: column for column, field in fields.items()}, where="")


def load_profiles(path: Path) -> list[UserProfile]:
    """Profiles of a users file, .csv or .jsonl (UTF-8, with or without a byte order mark).

    Columns are those of COLUMNS in any case and order; others are ignored. Without User_ID a user's id is the
    row number (the first row of data is 0000001). Banned_Categories is a list as Python or JSON prints it.
    Limits is a JSON list (see read_limits) or a text with ";" between limits; no fault repeats a word of it.
    An empty cell means not known, and for the religion none ("unknown" says not known there too).
    Raises ProfileError that lists every fault with row, column, what was seen and what is allowed.
    """
    faults: list[str] = []
    columns, records = _read_records(Path(path), faults)
    if faults and not columns:
        raise ProfileError(_fault_list(path, faults))
    fields = _map_columns(columns, where=f"{path}: ")
    names = {field: column for column, field in fields.items()}
    profiles: list[UserProfile] = []
    row_of: dict[str, int] = {}
    for number, record in records:
        values = {"user_id": number, **{fields[name]: value for name, value in record.items() if name in fields}}
        try:
            profile = _profile(values, names, where=f"row {number}, ")
        except ProfileError as err:
            faults += str(err).splitlines()
            continue
        first = row_of.setdefault(profile.user_id, number)
        if first != number:
            faults.append(f"row {number}, column {names['user_id']}: saw {profile.user_id} again (row {first} has it)")
        profiles.append(profile)
    if faults:
        raise ProfileError(_fault_list(path, faults))
    if not profiles:
        raise ProfileError(f"{path}: has no users, expected one a row.")
    return profiles


def find_profile(path: Path, user_id: str) -> UserProfile:
    """The profile of one user of a users file.

    Raises UnknownUser, UsageError for no user id, ProfileError.
    """
    wanted = require_user_id(user_id)
    profile = next((one for one in load_profiles(path) if one.user_id == wanted), None)
    if profile is None:
        raise UnknownUser(f"{path} has no user {wanted}.", hint="Ids of numbers have seven digits.")
    return profile


def require_user_id(value: str) -> str:
    """A user id of the command line. Raises UsageError for what is none."""
    try:
        return normalise_user_id(value)
    except ValueError as err:
        raise UsageError(f"{value!r} is no user id: {err}") from err


def profile_columns(profile: UserProfile) -> Record:
    """The profile as rows of SAGE have it: every column but the ban list and the limits."""
    return {COLUMNS[field]: getattr(profile, field) for field in COLUMNS if field not in ("banned", "limits")}


def save_profiles(path: Path, profiles: Sequence[UserProfile], *, replace: bool = True) -> None:
    """Write a users file (.csv or .jsonl) that load_profiles reads back equal; readable by its owner only.

    replace: whether other content that is there may go. Raises ProfileError for another suffix.
    """
    path = Path(path)
    known = [field for field in COLUMNS if any(getattr(profile, field) is not None for profile in profiles)]
    rows = [{COLUMNS[field]: _plain(field, getattr(profile, field)) for field in known} for profile in profiles]
    if not is_special(path) and _suffix(path) == ".jsonl":
        write_jsonl(path, rows, private=True, replace=replace)
        return
    cells = [[_cell_text(value) for value in row.values()] for row in rows]
    write_text(path, csv_text([COLUMNS[field] for field in known], cells), private=True, replace=replace)


def _profile(values: Record, names: Mapping[str, str], *, where: str) -> UserProfile:
    try:
        profile = UserProfile(**{field: _cell(field, value) for field, value in values.items() if field in COLUMNS})
    except ValidationError as err:
        faults = [
            f"{where}column {names.get(field, field)}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in err.errors(include_url=False, include_context=False, include_input=False)
            for field in [str(fault["loc"][0])]
        ]
        raise ProfileError("\n".join(faults)) from None  # pydantic's error holds the whole row
    if profile.is_blank:
        raise ProfileError(
            f"{where}column {names.get('banned', COLUMNS['banned'])}: nothing is known of user {profile.user_id}, "
            "expected a ban list ([] bans nothing) or another field"
        )
    return profile


def _read_records(path: Path, faults: list[str]) -> tuple[list[str], list[tuple[int, Record]]]:
    """Columns and numbered records of a users file or pipe; rows that are no records go to `faults`."""
    if path.suffix and not is_special(path):
        _suffix(path)
    if not path.exists():
        raise ProfileError(
            f"{path} does not exist.",
            hint="Run: psalign users sample -n 1000 --out users.csv (or give the path of yours)",
        )
    table = read_table(path, fault=ProfileError)
    faults += [f"row {number}: {record}" for number, record in table.rows if isinstance(record, str)]
    return list(table.columns), [(number, record) for number, record in table.rows if isinstance(record, dict)]


def _map_columns(columns: Sequence[str], *, where: str = "") -> dict[str, str]:
    """Column -> field. A column that is nearly one of ours is a fault: ignoring it could lose a limit."""
    fields: dict[str, str] = {}
    faults: list[str] = []
    for column in columns:
        field = field_of(column)
        near = _meant(field)
        if field in fields.values():
            faults.append(f"{where}column {column}: there are two columns for {COLUMNS[field]}, keep one")
        elif field in COLUMNS:
            fields[column] = field
        elif near:
            faults.append(f"{where}column {column}: did you mean {COLUMNS[near]}? Rename or remove it")
    if not fields:
        faults.append(f"{where}saw none of the columns {', '.join(COLUMNS.values())}")
    if faults:
        raise ProfileError("\n".join(faults))
    return fields


def field_of(column: str) -> str:
    """The field of a column in any case; another name as it is, in lower case."""
    return _COLUMNS.find(column) or column_name(column)


def _meant(name: str) -> str | None:
    """The field that an unknown column was probably meant for: the same first word, or nearly the same letters."""
    meant = None if name in _IGNORED else "banned" if name.startswith("ban") else _COLUMNS.meant(name)
    return meant and _COLUMNS.find(meant)


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".jsonl"):
        raise ProfileError(f"{path}: saw the suffix {suffix!r}, allowed: .csv, .jsonl")
    return suffix


def _cell(field: str, value: Any) -> Any:
    if not isinstance(value, str) or field == "user_id":
        return value
    text = value.strip()
    if text.lower() == UNKNOWN:
        return None
    if field == "banned" and text:
        return _items(text)
    return text or ("None" if field == "religion" else None)


def _plain(field: str, value: Any) -> Any:
    """A field as JSON takes it."""
    return limit_records(value) if field == "limits" and value is not None else value


def _cell_text(value: Any) -> str:
    if value is None:
        return UNKNOWN
    return json.dumps(value, ensure_ascii=False) if isinstance(value, tuple | list) else str(value)


def _items(text: str) -> list[str]:
    """Items of a list as Python or JSON prints it; no evaluator, for no category holds a comma or a quote."""
    match = _LIST_OF_ITEMS.fullmatch(text)
    items = (match.group(1) if match else text).split(",")
    return [item.strip().strip("'\"") for item in items if item.strip()]


def _categories(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise ValueError(f"saw {shorten(value)}, allowed: a list of {', '.join(category_names())}")
    chosen = {_choose(_composed(item), category_names()) for item in value}
    if None in chosen:
        raise ValueError(f"saw None in the list, allowed: {', '.join(category_names())}")
    return tuple(category for category in category_names() if category in chosen)


def _composed(item: Any) -> Any:
    """Text with its accents in the one form that the taxonomy has them in."""
    return unicodedata.normalize("NFC", item) if isinstance(item, str) else item


def _choose(value: Any, words: Sequence[str]) -> str | None:
    if value is None:
        return None
    found = [word for word in words if isinstance(value, str) and word.lower() == value.strip().lower()]
    if not found:
        raise ValueError(f"saw {shorten(value)}, allowed: {', '.join(words)}")
    return found[0]


def _whole_age(value: Any) -> int:
    try:
        age = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        age = float("nan")
    if not (0 <= age <= 100 and age == int(age)):
        raise ValueError(f"saw {shorten(value)}, allowed: a whole number from 0 to 100")
    return int(age)


def _fault_list(path: Path, faults: Sequence[str]) -> str:
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return listed(f"{path}: {count}, nothing was loaded.", faults, MAX_FAULTS_SHOWN)
