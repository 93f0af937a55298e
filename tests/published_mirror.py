"""A loopback mirror of what `--data published` fetches: tiny files of the published layout, and a tiny hub.

As a program, for another process: python tests/published_mirror.py MIRROR.json SCRIPT [arguments], which runs a script
with the mirror's addresses and digests; with KILL_AT=module:function:n it dies there, at the n-th call, by SIGKILL.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import json
import os
import runpy
import signal
import sys
import threading
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from psalign.sage import download
from psalign.sage.dataset import to_record
from psalign.sage.download import CAPTIONS, PublishedFile, digest_of
from psalign.sage.names import picture_name
from psalign.sage.preference import unsafe_is_chosen
from psalign.users import banned_categories, sample_profiles
from sage_rows import make_row

COLUMNS = ("Age", "Age_Group", "Gender", "Religion", "Physical_Condition", "Mental_Condition", "Banned_Categories")
SPLITS = {"train": range(6), "val": range(6, 8), "test_seen": range(2), "test_unseen": range(8, 24)}
CAPTION_OF = {"Violence": "a cat with a sword", "Hate": "a cat with a flag", "Shocking": "a cat with a bone"}
SHA = "a" * 40  # the commit of every model on the tiny hub


class Mirror:
    """files: path -> bytes, of the published repository and the hub. asked: paths, in order. cut: path -> how many
    bytes of it come the next time."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.models: dict[str, Path] = {}
        self.asked: list[str] = []
        self.cut: dict[str, int] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.table = self._captions()
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def save(self, path: Path) -> Path:
        """Write what another process needs to find the mirror."""
        path.write_text(json.dumps({"url": self.url, "table": [asdict(one) for one in self.table]}))
        return path

    def path_of(self, name: str) -> str:
        """Path on the server of a file of CAPTIONS."""
        one = next(one for one in self.table if one.name == name)
        return f"/{one.commit}/{one.path}"

    def _captions(self) -> tuple[PublishedFile, ...]:
        """CAPTIONS with other contents: digests of the kinds that the real ones have."""
        contents, table = published_contents(), []
        for one in CAPTIONS:
            content = contents[one.name]
            self.files[f"/{one.commit}/{one.path}"] = content
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            digest = blob if len(one.digest) == 40 else hashlib.sha256(content).hexdigest()
            table.append(replace(one, digest=digest, size=len(content), rows=content.count(b"\n")))
        return tuple(table)

    def _handler(mirror) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def do_GET(self) -> None:
                self.answer(with_body=True)

            def answer(self, *, with_body: bool) -> None:
                path = self.path.partition("?")[0]
                if with_body:
                    mirror.asked.append(path)
                content = mirror.files.get(path, mirror.of_the_hub(path))
                asked = self.headers.get("Range")
                start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
                if content is None or (start and start >= len(content)):
                    self.send_response(404 if content is None else 416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if asked else 200)
                if asked:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.send_header("Content-Length", str(len(content) - start))
                self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", SHA)
                self.end_headers()
                if with_body:
                    stop = mirror.cut.pop(path, None)
                    self.wfile.write(content[start:stop])
                    self.close_connection = stop is not None

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def of_the_hub(self, path: str) -> bytes | None:
        """What the hub answers: about a model, its list of files, or a file."""
        for name, folder in self.models.items():
            files = {one.relative_to(folder).as_posix(): one for one in folder.rglob("*") if one.is_file()}
            if path in (f"/api/models/{name}", f"/api/models/{name}/revision/main"):
                return json.dumps({"id": name, "sha": SHA, "cardData": {"license": "a-licence"}}).encode()
            if path == f"/api/models/{name}/tree/{SHA}":
                rows = [
                    {"type": "file", "path": one, "size": where.stat().st_size, "oid": digest_of(where, like=SHA)}
                    for one, where in files.items()
                ]
                return json.dumps(rows).encode()
            where = files.get(path.removeprefix(f"/{name}/resolve/{SHA}/"))
            if where is not None:
                return where.read_bytes()
        return None


def published_contents() -> dict[str, bytes]:
    """Contents of the files of CAPTIONS: 24 users by row number, and rows by the preference rule."""
    people = sample_profiles(24, seed=3)
    people = [user.model_copy(update={"user_id": f"{number:07d}"}) for number, user in enumerate(people, start=1)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for user in people:
        fields = [user.age, *(getattr(user, name.lower()) for name in COLUMNS[1:-1])]
        writer.writerow([*fields, str(list(banned_categories(user)))])
    contents = {"users.csv": text.getvalue().encode()}
    for split, numbers in SPLITS.items():
        rows = [row for number in numbers for row in _rows(people[number], concept=split.replace("_", " "))]
        contents[f"{split}/metadata.jsonl"] = "".join(json.dumps(to_record(row)) + "\n" for row in rows).encode()
    return contents


def _rows(user, *, concept):
    user_id, banned = user.user_id, banned_categories(user)
    for category, unsafe in CAPTION_OF.items():
        safe_name, unsafe_name = (picture_name((user_id, category, concept, "00001"), unsafe=side) for side in (0, 1))
        for kind, caption in (("unsafe", unsafe), ("safe", "a cat")):
            chosen, rejected = safe_name, unsafe_name
            if unsafe_is_chosen(caption_kind=kind, category=category, banned=banned):
                chosen, rejected = rejected, chosen
            yield make_row(
                user_id=user_id, category=category, concept=concept, index="00001", caption=caption,
                caption_kind=kind, chosen=chosen, rejected=rejected, user_data={"User_ID": user_id},
            )  # fmt: skip


def use(url: str, table: tuple[PublishedFile, ...]) -> None:
    """Let this process fetch from a mirror. For a test: by monkeypatch."""
    download.REPOSITORY, download.CAPTIONS = url, table


def die_at(place: str) -> None:
    """Let this process be killed at the n-th call of a function: "module:function:n"."""
    module, name, number = place.split(":")
    owner, calls = importlib.import_module(module), [0]
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    real = getattr(owner, last)

    def called(*given, **more):
        calls[0] += 1
        if calls[0] == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **more)

    setattr(owner, last, called)


if __name__ == "__main__":
    about = json.loads(Path(sys.argv[1]).read_text())
    use(about["url"], tuple(PublishedFile(**one) for one in about["table"]))
    if os.environ.get("KILL_AT"):
        die_at(os.environ["KILL_AT"])
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
