"""Downloads of the published captions, users and prompt sets, and of SAGE archives, which are unpacked.

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
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ..downloads import Download
from ..errors import DatasetError, OutputError, UsageError
from ..files import write_json
from ..fingerprints import file_digest
from ..progress import Progress
from .dataset import ANNOTATIONS, UNPACKED

REPOSITORY = "https://raw.githubusercontent.com/M-E-AGI-Lab/PSAlign"
COMMIT = "2dde9226278cc5aa5ce3fcfc5ad0f75373ca324a"
CAPTIONS_COMMIT = "d9fd50464dc18458aa5d6093c58928762270cc2b"  # later commits do not have the captions
LICENCE = "MIT, Copyright (c) 2025 Torpedo2648"
CAPTIONS_ARE = "captions and simulated users of M-E-AGI-Lab/PSAlign"
SOURCE = "published.json"  # lies beside the captions, with their addresses and digests
BLOB_DIGITS = 40  # of a git blob id; a sha256 has 64
BLOCK = 1 << 20
TIMEOUT_S = 60.0  # of a server that says nothing
MAX_UNPACKED_BYTES = 64 << 30  # SAGE is about 9 GB
# What a damaged or encrypted archive raises, by the kind of its compression.
BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


@dataclass(frozen=True)
class PublishedFile:
    """A file of the published repository at a commit.

    name: ours. rows: their number. digest: sha256, or else the git blob id. size: bytes, about; 0: not known.
    """

    name: str
    rows: int
    digest: str
    path: str
    commit: str = COMMIT
    size: int = 0

    @property
    def url(self) -> str:
        return f"{REPOSITORY}/{self.commit}/{self.path}"


PROMPT_SETS = {
    name: PublishedFile(name, rows, digest, f"evaluation/eval_data/{name}.csv")
    for name, rows, digest in (
        ("coco_10k", 10_000, "45068c9d390d676eb4c259561e72e4dc8220aa237e640358701743a4e16c4d88"),
        ("i2p_4073", 4_703, "04c82538b1b6f22c308d62f31abf1a13a3c5855700d47ae2170924211fd1f4fb"),
        ("CoProv2_test", 8_000, "84b9aa9fe2cfabdf74cf196e16937a6657714dee07ecdf541d733ed110dadd03"),
        ("sage_seen", 1_050, "4fc73262a97e068b3c59ed9a5a943f81e8ac1f2f2c2794eed9469d3d6342c7bf"),
        ("sage_unseen", 1_050, "5d1db95d6778da2bb4e692213b970b4ad6a70effbb6bb6b5691c5f529bcf8471"),
        ("ud_1434", 1_434, "3157bea9c4402768e8bebf6f5e214a35cc1dbf8196e18b6469f33602f77614e1"),
        ("debug", 35, "e816a256e60c0128520c1369503630220348ea0d2a78536bc76a126501f686d7"),
    )
}
# A SAGE dataset without pictures, file by file. Split train comes last: where it is, everything is.
CAPTIONS = (
    PublishedFile("users.csv", 1_001, "19f2877c9010f3113ec0f0217dbe67d1e030628ea8e9cf7ea6e8cf4647413940",
                  "data/user_data/num_1k/users.csv", size=146_913),
    *(
        PublishedFile(f"{split}/metadata.jsonl", rows, digest, f"data/sage/{split}/metadata.jsonl", CAPTIONS_COMMIT,
                      size)
        for split, rows, digest, size in (
            ("val", 2_100, "9b58b0098025e6e238d3b74d6f4effcc6555b3b6880af3eafed06f3ca1137fc4", 1_240_363),
            ("test_seen", 2_100, "beeafce6b4521d80ea20e1cad2747cbf559debb9ff05aad489ab5042b2d7183b", 1_259_086),
            ("test_unseen", 2_100, "c2444d203e60721cd87bc92f3d5302ff29593e35a3943b22cfc6ad2f149da5da", 1_254_716),
            ("train", 37_800, "682a41e3aa48fe53465c4d65f62b6e8562b7d1f1", 22_000_000),
        )
    ),
)  # fmt: skip


def find_prompt_set(name: str) -> PublishedFile:
    """A row of PROMPT_SETS. Raises UsageError that lists the choices."""
    if name not in PROMPT_SETS:
        raise UsageError(f"Unknown prompt set '{name}'; choose one of: {', '.join(PROMPT_SETS)}.")
    return PROMPT_SETS[name]


def missing_captions(folder: Path) -> list[PublishedFile]:
    """Files of CAPTIONS that a folder lacks.

    Raises OutputError, before anything is fetched, where another dataset is in the folder.
    """
    missing = [one for one in CAPTIONS if not (folder / one.name).exists()]
    others = [one.name for one in CAPTIONS if one not in missing and not _is(folder / one.name, one.digest)]
    others += [name for name in (ANNOTATIONS, UNPACKED) if (folder / name).exists()]
    if others:
        raise OutputError(
            f"{folder} holds another dataset than the published captions: {', '.join(others)}.",
            hint=f"Train on it with --data {folder}, or move it away.",
        )
    return missing


def captions_download(folder: Path) -> Download | None:
    """What fetch_captions would fetch; None where nothing is missing. Raises as missing_captions does."""
    missing = missing_captions(folder)
    if not missing:
        return None
    host = str(urlsplit(REPOSITORY).hostname)
    return Download(CAPTIONS_ARE, host, sum(one.size for one in missing), LICENCE, folder)


def fetch_captions(folder: Path) -> int:
    """Fetch CAPTIONS into a folder, then a SAGE dataset without pictures. Returns the number of new files.

    Files that are there stay; a download that was cut short goes on. Raises as missing_captions and fetch do.
    """
    missing = missing_captions(folder)
    if missing:  # written first, so that a folder that is not complete says what it is
        files = {one.name: {"url": one.url, "digest": one.digest} for one in CAPTIONS}
        write_json(folder / SOURCE, {"licence": LICENCE, "files": files})
    for one in missing:
        path = fetch(one.url, folder / one.name, digest=one.digest)
        path.chmod(0o600)  # as every file with profiles is
    return len(missing)


def fetch(url: str, path: Path, *, digest: str | None = None) -> Path:
    """Download a file. A file that is there and right is left alone; a download that was cut short goes on.

    digest: sha256 or git blob id of the whole file; None where it is not known. Raises UsageError for a URL
    that is no web address, DatasetError where the file cannot be downloaded or is another.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise UsageError(f"{url!r} is no address; expected one like https://host/sage.tar.")
    if path.exists() and (digest is None or _is(path, digest)):
        return path
    aside = path.with_name(f".{path.name}.part")
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        _continue(url, aside)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as err:
        raise DatasetError(
            f"{url} cannot be downloaded: {err}", hint="Run the same command again: it goes on where it stopped."
        ) from err
    except OSError as err:
        raise OutputError(f"{path} cannot be written: {err.strerror}.") from err
    if digest is not None and not _is(aside, digest):
        kind, seen = "git blob id" if len(digest) == BLOB_DIGITS else "sha256", digest_of(aside, like=digest)
        aside.unlink()
        raise DatasetError(f"{url} is another file than expected: its {kind} is {seen}, expected {digest}.")
    os.replace(aside, path)
    return path


def _continue(url: str, aside: Path) -> None:
    """Append the missing part of a file, or all of it where the server cannot go on."""
    have = aside.stat().st_size if aside.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
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


def digest_of(path: Path, *, like: str) -> str:
    """The digest of a file, sha256 or, where `like` is one, the git blob id."""
    if len(like) != BLOB_DIGITS:
        return file_digest(path)
    return file_digest(path, hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False))


def _is(path: Path, digest: str) -> bool:
    return digest_of(path, like=digest) == digest


def unpack(archive: Path, folder: Path, *, max_bytes: int = MAX_UNPACKED_BYTES) -> int:
    """Unpack the files of a .zip or .tar archive into a folder. Returns their number.

    Raises DatasetError, before anything is written, for a path that leads out of the folder, a link, or more
    than max_bytes, and for a file that is no sound archive; OutputError where it cannot be written.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                count = _require_safe([_member(one) for one in zipped.infolist()], archive, max_bytes)
                zipped.extractall(folder)
        else:
            with tarfile.open(archive) as tarred:
                count = _require_safe(tarred.getmembers(), archive, max_bytes)
                tarred.extractall(folder, filter="data")
        return count
    except BROKEN as err:
        raise DatasetError(f"{archive} cannot be unpacked: {err}") from err
    except OSError as err:
        raise OutputError(f"{archive} cannot be unpacked into {folder}: {err.strerror or err}.") from err


def _require_safe(members: list[tarfile.TarInfo], archive: Path, max_bytes: int) -> int:
    """The number of files. Raises DatasetError for members that are not safe, or too large together."""
    for one in members:
        if not _is_safe(one):
            raise DatasetError(
                f"{archive} is not safe to unpack: '{one.name}' leads out of the folder or is no plain file."
            )
    size = sum(one.size for one in members)
    if size > max_bytes:
        raise DatasetError(f"{archive} unpacks to {size:,} bytes, more than {max_bytes:,}.")
    return sum(one.isfile() for one in members)


def _is_safe(member: tarfile.TarInfo) -> bool:
    """Whether a member is a folder, or a plain file inside the folder that it is unpacked into."""
    try:
        kept = tarfile.data_filter(member, "unpacked")  # raises for a path that leads out, shortens an absolute path
    except tarfile.FilterError:
        return False
    nameless = not PurePosixPath(member.name).parts  # the folder itself: tar -C data/sage .
    return kept.name == member.name and (member.isdir() or (member.isfile() and not nameless))


def _member(one: zipfile.ZipInfo) -> tarfile.TarInfo:
    """A member of a .zip as one of a .tar."""
    member = tarfile.TarInfo(one.filename)
    is_link = (one.external_attr >> 16) & 0o170000 == 0o120000
    member.size, member.type = one.file_size, tarfile.DIRTYPE if one.is_dir() else tarfile.REGTYPE
    member.type = tarfile.SYMTYPE if is_link else member.type
    return member
