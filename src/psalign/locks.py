"""Locks: a file or folder is rewritten by one process at a time.

Place on the path of data: beside every seam. filelock does the locking; here it gets a name that users can
read, a message that names the holder, and lock files that go away.
"""

from __future__ import annotations

import errno
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from .errors import OutputError
from .files import is_special

LOCK_WAIT_S = 10.0  # how long a command waits for a folder or file that another one is writing
_held: dict[Path, int] = {}  # locks of this process, whichever thread took them, and how often each is held


@contextmanager
def locked(*places: Path, inputs: Sequence[Path] = (), wait_s: float | None = None) -> Iterator[None]:
    """Hold files and folders for this process alone. Another process waits, then gets an error that names the
    holder.

    places: files or folders, which need not exist; a link stands for what it leads to. inputs: files and
    folders that are only read and must not change meanwhile; one that does not exist, or whose folder is
    read-only, is not locked. wait_s: seconds to wait for each (default LOCK_WAIT_S). All locks of one call
    are taken in one order, so that two processes never wait for each other. A lock ends with its process, and
    its file `.<name>.lock` is removed. A process may hold a place more than once. Pipes and devices are not
    locked. Raises OutputError where another process keeps a place for longer than wait_s.
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
    """The lock file of a file or folder: beside what its links lead to."""
    whole = Path(os.path.realpath(place))
    return whole.with_name(f".{whole.name[-200:]}.lock")


@contextmanager
def _hold(lock: Path, wait_s: float) -> Iterator[None]:
    from filelock import FileLock, Timeout

    if _held.get(lock):
        _held[lock] += 1
        try:
            yield
        finally:
            _held[lock] -= 1
        return
    new = [folder for folder in (lock.parent, *lock.parent.parents) if not os.path.lexists(folder)]
    held = FileLock(str(lock), timeout=wait_s, mode=0o600)
    try:
        _make_folder(lock.parent)
        _require_file(lock)
        held.acquire()
    except Timeout as err:
        raise OutputError(
            f"{lock.parent / lock.name[1:-5]} is being written by {_holder(lock)}.",
            hint="Wait until that has ended, or choose another path.",
        ) from err
    except OSError:
        _remove_empty(new)
        raise
    _held[lock] = 1
    try:
        with suppress(OSError):
            lock.write_text(_this_process(), encoding="utf-8")
        yield
    finally:
        del _held[lock]
        with suppress(OSError):
            lock.unlink()  # before the release: a process that waited sees that the file is gone, and makes a new one
        held.release()
        _remove_empty(new)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders that were made only for a lock, the innermost first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as err:  # a file, or a link to nothing, is in the place of a folder
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), err.filename) from err


def _require_file(lock: Path) -> None:
    """Raises OSError where there can be no such file: filelock would try again until its time is over."""
    os.close(os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))


def _this_process() -> str:
    words = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:3]]) if sys.argv else "python"
    since = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return f"process {os.getpid()} on {platform.node()} ({words}, since {since})"


def _holder(lock: Path) -> str:
    try:
        words = lock.read_text(encoding="utf-8")
    except (OSError, ValueError):
        words = ""
    return words if words.startswith("process ") else "another process"
