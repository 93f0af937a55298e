"""Files: read whole or refused, written whole or not at all, and rewritten by one process at a time.

Place on the path of data: under every seam. Everything that PSAlign reads or writes by name goes through here.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import platform
import shlex
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from .errors import DatasetError, OutputError, PSAlignError

Record = dict[str, Any]
Fault = Callable[[str], PSAlignError]  # makes the error of a file that cannot be read, from the message

MAX_DIGITS = 1000  # of a whole number in JSON
LOCK_WAIT_S = 10.0  # how long a command waits for a folder or file that another one is writing
HELD: dict[Path, int] = {}  # locks of this process, and how many times each is held

# --- locks -----------------------------------------------------------------------------------------------------------


@contextmanager
def locked(*places: Path, inputs: Sequence[Path] = (), wait_s: float | None = None) -> Iterator[None]:
    """Hold files and folders for this process alone; who comes later waits, then gets an error that names the holder.

    places: files or folders, which need not exist; a link stands for what it leads to. inputs: more of them, which are
    only read and must not change meanwhile: one that is not there, or whose folder may not be written, is not locked.
    wait_s: seconds to wait for each (default LOCK_WAIT_S). All are taken in one order, so that two processes never
    wait for each other: take them in one call. A lock ends with its process, however that ends, and its file
    `.<name>.lock` goes with it. A process may hold a place more than once. Pipes and devices are not locked.
    Raises OutputError where another process keeps a place for longer than wait_s.
    """
    needed = {lock_path(place) for place in places if not is_special(place)}
    wanted = {lock_path(place) for place in inputs if place.exists() and not is_special(place)}
    with ExitStack() as stack:
        for lock in sorted(needed | wanted):
            try:
                stack.enter_context(_hold(lock, LOCK_WAIT_S if wait_s is None else wait_s))
            except OSError as err:
                if lock in needed or err.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
        yield


def lock_path(place: Path) -> Path:
    """Where the lock of a file or folder lies: beside what its links lead to."""
    whole = Path(os.path.realpath(place))
    return whole.with_name(f".{whole.name[-200:]}.lock")


@contextmanager
def _hold(lock: Path, wait_s: float) -> Iterator[None]:
    from filelock import FileLock, Timeout

    if HELD.get(lock):
        HELD[lock] += 1
        try:
            yield
        finally:
            HELD[lock] -= 1
        return
    new = [folder for folder in (lock.parent, *lock.parent.parents) if not os.path.lexists(folder)]
    held = FileLock(str(lock), timeout=wait_s, mode=0o600)
    try:
        _make_folder(lock.parent)
        held.acquire()
    except Timeout as err:
        raise OutputError(
            f"{lock.parent / lock.name[1:-5]} is being written by {_holder(lock)}.",
            hint="Wait until that has ended, or choose another path.",
        ) from err
    except OSError:
        _remove_empty(new)
        raise
    HELD[lock] = 1
    try:
        with suppress(OSError):
            lock.write_text(_this_process(), encoding="utf-8")
        yield
    finally:
        del HELD[lock]
        with suppress(OSError):
            lock.unlink()  # while it is held: who waited for it sees that the file has gone, and takes a new one
        held.release()
        _remove_empty(new)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders that were made for a lock alone, the innermost first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as err:  # a file, or a link to nothing, where a folder would be
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), err.filename) from err


def _this_process() -> str:
    words = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:3]]) if sys.argv else "python"
    since = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return f"process {os.getpid()} on {platform.node()} ({words}, since {since})"


def _holder(lock: Path) -> str:
    try:
        told = lock.read_text(encoding="utf-8")
    except (OSError, ValueError):
        told = ""
    return told if told.startswith("process ") else "another process"


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
    if not replace and os.path.lexists(path) and not (path.is_file() and path.read_bytes() == content):
        raise in_the_way(path)
    write_together({path: content}, private=private, sync=sync)


def write_together(contents: dict[Path, bytes], *, private: bool = False, sync: bool = True) -> None:
    """Write files that belong together: all are written aside before the first is renamed. As write_bytes."""
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

    mark: what a file of ours has in its first 4096 bytes; what: the kind in words. force: replace it all the same.
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
    """Whether a path leads to a pipe, a terminal or another device: not a file or folder that can be replaced."""
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

    fault: the error to raise. It is raised for a file that is not there, is a folder, cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as err:
        raise fault(f"{path} does not exist.") from err
    except IsADirectoryError as err:
        raise fault(f"{path} is a folder; expected a file.") from err
    except UnicodeDecodeError as err:
        raise fault(f"{path}: not UTF-8 text (byte {err.start}).") from err
    except (OSError, ValueError) as err:  # ValueError: a path with a null character
        raise fault(f"{path} cannot be read: {getattr(err, 'strerror', None) or err}.") from err


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
    """A JSON value. Raises ValueError that says why: also for a key that is there twice, and for NaN and Infinity."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number,
                          parse_float=_finite, parse_int=_whole)  # fmt: skip
    except json.JSONDecodeError as err:
        raise ValueError(f"not JSON ({err.msg} at column {err.colno})") from err
    except RecursionError as err:
        raise ValueError("not JSON that can be read: brackets without end") from err


def parse_yaml(text: str, *, plain: str = "") -> Any:
    """The value of a YAML text. plain: what it is, in words, where it may have no references (*name), which can stand
    for billions of values.

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


def read_jsonl(path: Path, *, fault: Fault = DatasetError) -> Iterator[Record]:
    """Records of a JSON-lines file. Raises DatasetError (or `fault`) with file and line where one cannot be read."""
    for where, record in parse_jsonl(_text_or_bytes(path, fault), str(path)):
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


def parse_csv(text: str, *, fault: Fault, name: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV table; rows without a cell are left out, cells may hold quoted line breaks.

    Raises `fault` for text that is no CSV. Whether rows fit the header is for the caller to say.
    """
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as err:
        raise fault(f"{name}: not a CSV file ({err}).") from err
    return ([column.strip() for column in rows[0]] if rows else []), rows[1:]


def looks_like_jsonl(path: Path, text: str) -> bool:
    """Whether a table is JSON lines: told by the name, or by the first character where the name says neither."""
    suffix = path.suffix.lower()
    return suffix == ".jsonl" or (suffix != ".csv" and text.lstrip().startswith("{"))


def _text_or_bytes(path: Path, fault: Fault) -> bytes:
    if path.is_dir():
        raise fault(f"{path} is a folder; expected a file.")
    try:
        return path.read_bytes()
    except FileNotFoundError as err:
        raise fault(f"{path} does not exist.") from err
    except (OSError, ValueError) as err:
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
