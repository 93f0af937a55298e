"""Rows that stages hand to each other on disk: prompts, manifests, results; and how files are written.

Place on the path of data: the seams between steps 5 to 8 of docs/ARCHITECTURE.md.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from .errors import DatasetError, EvaluationError, OutputError
from .ids import normalise_user_id

CATEGORIES = ("Hate", "Harassment", "Violence", "Self-Harm", "Sexuality", "Shocking", "Propaganda")

# Recipe of the published user vectors: raw mean of Qwen2.5-7B-Instruct's last hidden states [3584], not standardised.
PUBLISHED_RECIPE = "published"

Record = dict[str, Any]

BANS_UNKNOWN = "Draw these pictures again with --users: the users file that says what each user bans."


@dataclass(frozen=True)
class PromptRow:
    """One picture to make: a prompt, the user it is for (None: no user), and its own seed.

    meta travels unchanged into the manifest: what the prompt asks for, for the evaluation.
    """

    file_name: str
    prompt: str
    seed: int
    user_id: str | None = None
    meta: Record = field(default_factory=dict)


@dataclass(frozen=True)
class ManifestRow:
    """One picture that was made, with all that is needed to make or judge it again.

    banned: the categories that this row's user bans (never the profile they came from); () for a row of no user;
    None: not known, which whatever measures limits refuses.
    """

    file_name: str
    prompt: str
    seed: int
    method: str
    base: str
    user_id: str | None = None
    banned: tuple[str, ...] | None = ()
    level: int | None = None
    scale: float = 1.0
    adapter: str | None = None
    recipe: str | None = None
    meta: Record = field(default_factory=dict)

    @property
    def known_bans(self) -> tuple[str, ...]:
        """The categories that this row's user bans. Raises EvaluationError where that is not known."""
        if self.banned is None:
            raise EvaluationError(
                f"{self.file_name}: nothing says what its user {self.user_id} bans, so limits cannot be measured.",
                hint=BANS_UNKNOWN,
            )
        return self.banned


@dataclass(frozen=True)
class Rate:
    """A share of n cases with its 95 % interval, each in [0, 1]; value is None where n is 0."""

    value: float | None
    n: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Verdict:
    """What a detector sees in one picture."""

    motifs: frozenset[str]
    categories: frozenset[str]
    subject: str
    colour: str


def category_slug(category: str) -> str:
    """Category as SAGE file names spell it: lower case ("Self-Harm" -> "self-harm")."""
    return category.lower()


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits that name a JSON-able value; key order does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_fingerprint(path: Path) -> str:
    """16 hexadecimal digits that name a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()[:16]


def versions() -> Record:
    """Versions of Python and of the libraries that decide results, and the commit of a checkout that this runs from."""
    libraries = ("psalign", "torch", "diffusers", "transformers", "accelerate", "numpy")
    found: Record = {"python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return {"versions": found, "commit": _commit()}


def _commit() -> str | None:
    """Git commit of the checkout that this file lies in (src/psalign/records.py); None for an installed package."""
    git = Path(__file__).resolve().parents[2] / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        return (git / head.removeprefix("ref: ")).read_text(encoding="utf-8").strip() if "ref: " in head else head
    except OSError:
        return None


def write_bytes(path: Path, content: bytes, *, private: bool = False, sync: bool = True) -> None:
    """Write a file whole or not at all (written aside, then renamed); private files are mode 0600.

    sync: wait until the content is on the disk itself; pictures, of which there are thousands, need not.

    Raises OutputError where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb", opener=_private_opener if private else None) as stream:
            stream.write(content)
            stream.flush()
            if sync:
                os.fsync(stream.fileno())
        os.replace(aside, path)
    except OSError as err:
        aside.unlink(missing_ok=True)
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"No space left to write {path}; nothing that was there is lost.",
                hint="Free some space and run the same command again: it goes on from what is on disk.",
            ) from err
        raise


def write_text(path: Path, content: str, *, private: bool = False) -> None:
    write_bytes(path, content.encode("utf-8"), private=private)


def write_json(path: Path, value: Any, *, private: bool = False) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n", private=private)


def write_jsonl(path: Path, rows: Iterable[Any], *, private: bool = False) -> None:
    """Write records or row dataclasses, one JSON object a line."""
    lines = (json.dumps(row if isinstance(row, dict) else asdict(row)) for row in rows)
    write_text(path, "".join(f"{line}\n" for line in lines), private=private)


def write_csv(path: Path, rows: list[Record]) -> None:
    """Write records as CSV; the first row gives the columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_jsonl(path: Path) -> Iterator[Record]:
    """Records of a JSON-lines file. Raises DatasetError with file and line where one cannot be read."""
    if not path.is_file():
        raise DatasetError(f"{path} does not exist.")
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as err:
                raise DatasetError(f"{path}, line {number}: not UTF-8 text (byte {err.start}).") from err
            except json.JSONDecodeError as err:
                raise DatasetError(f"{path}, line {number}: not JSON ({err.msg} at column {err.colno}).") from err
            except (ValueError, RecursionError) as err:  # a number of thousands of digits, brackets without end
                raise DatasetError(f"{path}, line {number}: not JSON that can be read.") from err
            if not isinstance(record, dict):
                raise DatasetError(f"{path}, line {number}: expected a JSON object, saw {type(record).__name__}.")
            yield record


def read_manifest(path: Path) -> list[ManifestRow]:
    """Rows of a manifest.jsonl. A row of a user without `banned`, or with null, has bans that are not known.

    Raises DatasetError for a row with missing or unknown keys, or a user id that is none.
    """
    rows = []
    for number, record in enumerate(read_jsonl(path), start=1):
        try:
            user_id = record.get("user_id")
            banned = record.get("banned", () if user_id is None else None)
            known = {"user_id": None if user_id is None else normalise_user_id(user_id),
                     "banned": None if banned is None else tuple(banned)}  # fmt: skip
            rows.append(ManifestRow(**{**record, **known}))
        except (TypeError, ValueError) as err:
            raise DatasetError(f"{path}, row {number}: not a manifest row ({err}).") from err
    return rows


def _private_opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
