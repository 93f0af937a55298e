"""Errors of the machine, in words: a path that cannot be used, a closed pipe, a full disk, no memory left.

`explain_error` knows the errors that a user can mend; any other fault keeps its traceback.
"""

from __future__ import annotations

import argparse
import errno
from collections.abc import Iterator
from pathlib import Path

from ..errors import is_out_of_memory

# What the machine says of itself, whatever file it is about.
OF_THE_MACHINE = {
    errno.EPIPE: "Nobody reads the output any more",
    errno.ENOSPC: "No space is left on the disk",
    errno.EDQUOT: "The quota of the disk is used up",
    errno.EROFS: "The disk is mounted read-only",
    errno.EIO: "The disk reports an error",
    errno.EMFILE: "Too many files are open; raise `ulimit -n`",
    errno.ENFILE: "Too many files are open on this machine",
    errno.ENAMETOOLONG: "The name is too long for this disk",
    errno.ELOOP: "The links lead in a circle",
    errno.EFBIG: "The file is too large for this disk",
    errno.ESTALE: "The network disk is gone",
}
# What is about a path, and a user's to mend where the command line names it.
OF_A_PATH = {
    errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENOTEMPTY, errno.EINVAL,
    errno.ENXIO, errno.EBUSY, errno.ETXTBSY, errno.EXDEV, errno.ENODEV, errno.ENOTSUP,
}  # fmt: skip


def explain_error(err: BaseException, arguments: argparse.Namespace) -> str | None:
    """What went wrong, in one line; None for a fault of the program."""
    if is_out_of_memory(err):
        return "There is not enough memory. Give a smaller --batch-size, or fewer and smaller inputs."
    if not isinstance(err, OSError):
        return None
    path = given_path(err, arguments)
    if err.errno in OF_THE_MACHINE:
        return f"{OF_THE_MACHINE[err.errno]}{f': {path or err.filename}' if path or err.filename else ''}."
    if path is not None and err.errno in OF_A_PATH:
        return f"{path} cannot be used: {err.strerror}."
    return None


def given_path(err: OSError, arguments: argparse.Namespace) -> Path | None:
    """The file an error is about, where it lies on or under a path of the command line, or on the way to it."""
    names = [name for name in (err.filename2, err.filename) if isinstance(name, str)]
    for name in names:
        for one in _paths(arguments):
            path, whole = Path(name).absolute(), one.absolute()
            if path == whole or path in whole.parents or whole in path.parents:
                return Path(name)
            if path.parent == whole.parent and path.name.startswith(f".{whole.name}."):  # written aside, then renamed
                return one
    return None


def _paths(arguments: argparse.Namespace) -> Iterator[Path]:
    for value in vars(arguments).values():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Path):
                yield one
            elif isinstance(one, str) and one and "\0" not in one:  # [BASE=]PATH, or the folder of a model
                yield from map(Path, {one, one.rpartition("=")[2] or one})
