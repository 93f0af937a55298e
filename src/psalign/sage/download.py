"""Fetches the public prompt sets and a SAGE archive: resumed where interrupted, checked by digest, unpacked safely.

Place on the path of data: before everything, on a machine with a network.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import lzma
import os
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from ..errors import DatasetError, OutputError, UsageError
from ..progress import Progress

REPOSITORY = "https://raw.githubusercontent.com/M-E-AGI-Lab/PSAlign/2dde9226278cc5aa5ce3fcfc5ad0f75373ca324a"
BLOCK = 1 << 20
MAX_UNPACKED_BYTES = 64 << 30  # SAGE is about 9 GB
# What a damaged or encrypted archive raises, by the kind of its compression.
BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


@dataclass(frozen=True)
class PromptSet:
    """A published file of prompts. rows: how many it has; sha256: of the file."""

    name: str
    rows: int
    sha256: str

    @property
    def url(self) -> str:
        return f"{REPOSITORY}/evaluation/eval_data/{self.name}.csv"


PROMPT_SETS = {
    one.name: one
    for one in (
        PromptSet("coco_10k", 10_000, "45068c9d390d676eb4c259561e72e4dc8220aa237e640358701743a4e16c4d88"),
        PromptSet("i2p_4073", 4_703, "04c82538b1b6f22c308d62f31abf1a13a3c5855700d47ae2170924211fd1f4fb"),
        PromptSet("CoProv2_test", 8_000, "84b9aa9fe2cfabdf74cf196e16937a6657714dee07ecdf541d733ed110dadd03"),
        PromptSet("sage_seen", 1_050, "4fc73262a97e068b3c59ed9a5a943f81e8ac1f2f2c2794eed9469d3d6342c7bf"),
        PromptSet("sage_unseen", 1_050, "5d1db95d6778da2bb4e692213b970b4ad6a70effbb6bb6b5691c5f529bcf8471"),
        PromptSet("ud_1434", 1_434, "3157bea9c4402768e8bebf6f5e214a35cc1dbf8196e18b6469f33602f77614e1"),
        PromptSet("debug", 35, "e816a256e60c0128520c1369503630220348ea0d2a78536bc76a126501f686d7"),
    )
}


def find_prompt_set(name: str) -> PromptSet:
    """A row of PROMPT_SETS. Raises UsageError that lists the choices."""
    if name not in PROMPT_SETS:
        raise UsageError(f"Unknown prompt set '{name}'; choose one of: {', '.join(PROMPT_SETS)}.")
    return PROMPT_SETS[name]


def fetch(url: str, path: Path, *, sha256: str | None = None, timeout_s: float = 60.0) -> Path:
    """Download a file; one that is there and right is left alone, one that was cut short goes on.

    sha256: of the whole file, where it is known. Raises UsageError for what is no web address, DatasetError where it
    cannot be had or is another file.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise UsageError(f"{url!r} is no address; expected one like https://host/sage.tar.")
    if path.exists() and (sha256 is None or digest_of(path) == sha256):
        return path
    aside = path.with_name(f".{path.name}.part")
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        _continue(url, aside, timeout_s)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as err:
        raise DatasetError(
            f"{url} cannot be downloaded: {err}", hint="Run the same command again: it goes on from what has come."
        ) from err
    except OSError as err:
        raise OutputError(f"{path} cannot be written: {err.strerror}.") from err
    seen = digest_of(aside)
    if sha256 is not None and seen != sha256:
        aside.unlink()
        raise DatasetError(f"{url} is another file than expected: its sha256 is {seen}, expected {sha256}.")
    os.replace(aside, path)
    return path


def _continue(url: str, aside: Path, timeout_s: float) -> None:
    """Append what is missing of a file; from the start where the server cannot go on."""
    have = aside.stat().st_size if aside.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as err:
        if err.code == 416 and have:  # nothing is missing
            return
        raise
    with answer:
        goes_on = have > 0 and answer.status == 206
        total = int(answer.headers.get("Content-Length") or 0) + (have if goes_on else 0)
        bar = Progress(total=total or None, initial=have if goes_on else 0, unit="B", unit_scale=True, desc=aside.name)
        with aside.open("ab" if goes_on else "wb") as stream, bar:
            while block := answer.read(BLOCK):
                stream.write(block)
                bar.update(len(block))
        if total and aside.stat().st_size != total:
            raise ConnectionError(f"{aside.stat().st_size} of {total} bytes came")


def digest_of(path: Path) -> str:
    """sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def unpack(archive: Path, folder: Path, *, max_bytes: int = MAX_UNPACKED_BYTES) -> int:
    """Unpack a .zip or .tar archive, files alone, into a folder. Returns how many.

    Raises DatasetError, before anything is written, for a path that leads out of the folder, a link, or more than
    max_bytes; for an archive that is none, is damaged or encrypted. Raises OutputError where it cannot be written.
    """
    try:
        with _open_archive(archive) as (members, read):
            sizes = [_checked(name, size, kind, archive) for name, size, kind in members]
            if sum(sizes) > max_bytes:
                raise DatasetError(f"{archive} unpacks to {sum(sizes):,} bytes, more than {max_bytes:,}.")
            names = [name for name, _, kind in members if kind == "file"]
            for name in Progress(names, desc="unpacking", unit="file", disable=len(names) < 100):
                _write_member(folder / PurePosixPath(name), read(name))
            return len(names)
    except BROKEN as err:
        raise DatasetError(f"{archive} cannot be unpacked: {err}") from err
    except OSError as err:
        raise OutputError(f"{archive} cannot be unpacked into {folder}: {err.strerror or err}.") from err


@contextmanager
def _open_archive(archive: Path) -> Iterator[tuple[list[tuple[str, int, str]], Any]]:
    """Members (name, bytes, kind: file, folder or other) and a reader of one."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield [(m.filename, m.file_size, _zip_kind(m)) for m in zipped.infolist()], zipped.open
        return
    with tarfile.open(archive) as tarred:
        yield [(m.name, m.size, _tar_kind(m)) for m in tarred.getmembers()], tarred.extractfile


def _zip_kind(member: zipfile.ZipInfo) -> str:
    is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
    return "folder" if member.is_dir() else "other" if is_link else "file"


def _tar_kind(member: tarfile.TarInfo) -> str:
    return "file" if member.isfile() else "folder" if member.isdir() else "other"


def _checked(name: str, size: int, kind: str, archive: Path) -> int:
    path = PurePosixPath(name.replace("\\", "/"))
    nameless = not path.parts and kind != "folder"  # the folder itself is there: tar -C data/sage .
    if kind == "other" or nameless or path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
        raise DatasetError(f"{archive} is not safe to unpack: '{name}' leads out of the folder or is no plain file.")
    return size


def _write_member(path: Path, source: IO[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    with source, aside.open("wb") as stream:
        while block := source.read(BLOCK):
            stream.write(block)
    os.replace(aside, path)
