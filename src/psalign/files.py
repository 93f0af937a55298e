"""Files: read whole or refused, written whole or not at all.

Place on the path of data: under every seam. Everything that PSAlign reads or writes by name goes through
here.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from .errors import DatasetError, OutputError, PSAlignError

Record = dict[str, Any]
Fault = Callable[[str], PSAlignError]  # makes the error of a file that cannot be read, from the message

MAX_DIGITS = 1000  # of a whole number in JSON
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")  # at the start of a file, as spreadsheets write it
# --- writing ---------------------------------------------------------------------------------------------------------


def write_bytes(path: Path, content: bytes, *, private: bool = False, sync: bool = True, replace: bool = True) -> None:
    """Write a file whole or not at all (written aside, then renamed); private files are mode 0600.

    A link stays a link: what it leads to is written. A pipe or device (/dev/stdout) is written as it is.
    sync: wait until the content is on the disk itself. replace: whether other content that is there may go.

    Raises OutputError where the disk is full, or other content is there that may not go.
    """
    if is_special(path):
        _write_special(path, content)
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    write_together({path: content}, private=private, sync=sync, replace=replace)


def write_together(
    contents: dict[Path, bytes], *, private: bool = False, sync: bool = True, replace: bool = True
) -> None:
    """Write files that belong together: all are written aside before the first is renamed. As write_bytes."""
    for path, content in contents.items() if not replace else ():
        if os.path.lexists(path) and not (path.is_file() and path.read_bytes() == content):
            raise in_the_way(path)
    asides = {path: _aside(path) for path in contents}
    try:
        for path, content in contents.items():
            asides[path].parent.mkdir(parents=True, exist_ok=True)
            with open(asides[path], "wb", opener=_private_opener if private else None) as stream:
                stream.write(content)
                stream.flush()
                if sync:
                    os.fsync(stream.fileno())
        for path, aside in asides.items():
            os.replace(aside, os.path.realpath(path))
    except OSError as err:
        for aside in asides.values():
            with suppress(OSError):
                aside.unlink(missing_ok=True)
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(next(iter(contents))) from err
        raise


def append_bytes(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Append to a file, all of the content or nothing of it. sync: wait until it is on the disk itself.

    Raises OutputError where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as stream:
        end = os.fstat(stream.fileno()).st_size
        try:
            if os.write(stream.fileno(), content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sync:
                os.fsync(stream.fileno())
        except OSError as err:
            os.ftruncate(stream.fileno(), end)
            raise OutputError(
                f"{path} cannot be written ({err.strerror or err}).",
                hint="Free some space and run the same command again: what is in the file is kept.",
            ) from err


def write_text(path: Path, content: str, *, private: bool = False, replace: bool = True) -> None:
    write_bytes(path, content.encode("utf-8"), private=private, replace=replace)


def write_json(path: Path, value: Any, *, private: bool = False, replace: bool = True) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n", private=private, replace=replace)


def write_jsonl(path: Path, rows: Iterable[Any], *, private: bool = False, replace: bool = True) -> None:
    """Write records or row dataclasses, one JSON object a line."""
    lines = (json.dumps(row if isinstance(row, dict) else asdict(row)) for row in rows)
    write_text(path, "".join(f"{line}\n" for line in lines), private=private, replace=replace)


def write_csv(path: Path, rows: list[Record], *, private: bool = False, replace: bool = True) -> None:
    """Write records as CSV; the first row gives the columns."""
    header = list(rows[0]) if rows else []
    text = csv_text(header, [[row[name] for name in header] for row in rows])
    write_text(path, text, private=private, replace=replace)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def require_ours(path: Path, mark: bytes, *, what: str, force: bool) -> None:
    """Raises OutputError where a file is there that is not of the kind that will be written in its place.

    mark: what a file of ours has in its first 4096 bytes; what: the kind in words. force: replace it all the
    same.
    """
    if force or is_special(path) or not os.path.lexists(path) or path.is_dir():
        return
    with path.open("rb") as stream:
        if mark not in stream.read(4096):
            raise in_the_way(path, f", and is not {what}")


def in_the_way(path: Path, why: str = "") -> OutputError:
    return OutputError(
        f"{path} is there already{why}; it is left as it is.",
        hint="Choose another path, or add --force to replace it.",
    )


def is_special(path: Path) -> bool:
    """Whether a path leads to a pipe, a terminal or another device, which cannot be replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def parts_of(path: Path) -> list[Path]:
    """What writers that were killed left of a file: it holds what the file was to hold."""
    whole = Path(os.path.realpath(path))
    return sorted(whole.parent.glob(f".{_glob_escape(whole.name)}.*.part")) if whole.parent.is_dir() else []


def _aside(path: Path) -> Path:
    whole = Path(os.path.realpath(path))
    return whole.with_name(f".{whole.name}.{os.getpid()}.part")


def _glob_escape(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _write_special(path: Path, content: bytes) -> None:
    try:
        number = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # a pipe that nobody reads is an error, not a wait
        os.set_blocking(number, True)
        with os.fdopen(number, "wb") as stream:
            stream.write(content)
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path) from err
        raise OutputError(f"{path} cannot be written: {err.strerror}.", hint="Give the path of a file.") from err


def _full(path: Path) -> OutputError:
    return OutputError(
        f"No space left to write {path}; nothing that was there is lost.",
        hint="Free some space and run the same command again: it goes on from what is on disk.",
    )


def _private_opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


# --- reading ---------------------------------------------------------------------------------------------------------


def read_text(path: Path, *, fault: Fault = DatasetError) -> str:
    """Text of a file or pipe (/dev/stdin), UTF-8 with or without a byte order mark, read once.

    Raises `fault` for a file that does not exist, is a folder, cannot be read, or is not UTF-8.
    """
    content = _read_bytes(path, fault)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        what = "UTF-16 text" if content[:2] in UTF16_MARKS else f"not UTF-8 text (byte {err.start})"
        raise fault(f"{path}: {what}. Save it again as UTF-8.") from err


def read_template(name: str) -> str:
    """Text of a file in templates/."""
    return (resources.files("psalign") / "templates" / name).read_text(encoding="utf-8")


def read_json(path: Path, *, what: str, needs: Sequence[str] = (), fault: Fault = OutputError) -> Record:
    """An object of a JSON file of ours. what: the file in words; needs: keys that it must have.

    Raises `fault` for a file that is damaged.
    """
    try:
        value = parse_json(read_text(path, fault=fault))
    except ValueError as err:
        raise fault(f"{path} is damaged: {err}; expected {what}.") from err
    missing = [key for key in needs if not isinstance(value, dict) or key not in value]
    if not isinstance(value, dict) or missing:
        raise fault(f"{path} is damaged: it has no {', '.join(missing) or 'JSON object'}; expected {what}.")
    return value


def parse_json(text: str) -> Any:
    """A JSON value. Raises ValueError that says why, also for a key that is there twice, NaN and Infinity."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number,
                          parse_float=_finite, parse_int=_whole)  # fmt: skip
    except json.JSONDecodeError as err:
        raise ValueError(f"not JSON ({err.msg} at column {err.colno})") from err
    except RecursionError as err:
        raise ValueError("not JSON that can be read: brackets without end") from err


def parse_yaml(text: str, *, plain: str = "") -> Any:
    """The value of a YAML text. plain: what it is, in words, where it may have no references (*name), which
    can stand for billions of values.

    Raises ValueError that says in one line what is wrong with it, as a key that is there twice.
    """
    try:
        return _YamlLoader(text, plain).get_single_data()
    except RecursionError:
        raise ValueError("brackets without end") from None
    except (yaml.YAMLError, ValueError) as err:
        raise ValueError(" ".join(str(err).split())[:300]) from err


class _YamlLoader(yaml.SafeLoader):
    """YAML in which no key is there twice, of which one would be ignored."""

    def __init__(self, text: str, plain: str) -> None:
        super().__init__(text)
        self.plain = plain

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.plain and self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"references (*name) are not read in {self.plain}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise yaml.YAMLError(f"{twice!r} is there twice")
        return super().construct_mapping(node, deep)


# In YAML 1.1 "no" and "off" are false; here, as in YAML 1.2, they are words, as in mixed_precision: no.
BOOL = "tag:yaml.org,2002:bool"
_YamlLoader.yaml_implicit_resolvers = {
    letter: [(tag, form) for tag, form in resolvers if tag != BOOL]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_YamlLoader.add_implicit_resolver(BOOL, re.compile("(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
# YAML 1.1 wants a point in a number with an exponent; here 1e-4 is a number too.
_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_jsonl(path: Path, *, fault: Fault = DatasetError) -> Iterator[Record]:
    """Records of a JSON-lines file. Raises `fault`, with file and line, for a line that cannot be read."""
    for where, record in parse_jsonl(_read_bytes(path, fault), str(path)):
        if isinstance(record, str):
            raise fault(f"{where}: {record}.")
        yield record


def parse_jsonl(text: bytes | str, name: str) -> Iterator[tuple[str, Record | str]]:
    """Lines that are not blank, as (where, record), or (where, what is wrong) for a line that is none."""
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{name}, line {number}", _record(line)


def _read_bytes(path: Path, fault: Fault) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as err:
        raise fault(f"{path} does not exist.") from err
    except IsADirectoryError as err:
        raise fault(f"{path} is a folder; expected a file.") from err
    except (OSError, ValueError) as err:  # ValueError: a path with a null character
        raise fault(f"{path} cannot be read: {getattr(err, 'strerror', None) or err}.") from err


def _record(line: bytes) -> Record | str:
    try:
        value = parse_json(line.decode("utf-8"))
    except UnicodeDecodeError as err:
        return f"not UTF-8 text (byte {err.start})"
    except ValueError as err:
        return str(err)
    return value if isinstance(value, dict) else f"expected a JSON object, saw {type(value).__name__}"


def _unique(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return record


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"not JSON that can be read: a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value
