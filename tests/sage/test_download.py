"""Downloads that go on, that are checked, and archives that cannot write outside their folder."""

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from psalign.errors import DatasetError, UsageError
from psalign.sage.download import PROMPT_SETS, fetch, find_prompt_set, unpack

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """Serves CONTENT with ranges; `cut` breaks off the first answer, `asked` keeps the Range headers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            server.asked.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            if self.path != "/file" or start >= len(CONTENT):
                self.send_error(404 if self.path != "/file" else 416)
                return
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            stop, server.cut = server.cut, None
            self.wfile.write(CONTENT[start:stop])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.cut = [], None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}/file"
    yield server
    server.shutdown()
    server.server_close()


def test_a_download_that_broke_off_goes_on(server, tmp_path):
    server.cut = 700_000
    with pytest.raises(DatasetError, match=r"700000 of 1280000 bytes came.*\nRun the same command again"):
        fetch(server.url, tmp_path / "a.csv", sha256=SHA256)
    assert not (tmp_path / "a.csv").exists()
    fetch(server.url, tmp_path / "a.csv", sha256=SHA256)
    assert (tmp_path / "a.csv").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=700000-"]
    fetch(server.url, tmp_path / "a.csv", sha256=SHA256)
    assert len(server.asked) == 2  # what is there and right is left alone


def test_all_came_but_it_was_not_renamed(server, tmp_path):
    (tmp_path / ".a.csv.part").write_bytes(CONTENT)
    fetch(server.url, tmp_path / "a.csv", sha256=SHA256)
    assert (tmp_path / "a.csv").read_bytes() == CONTENT


def test_another_file_and_none(server, tmp_path):
    with pytest.raises(DatasetError, match=f"its sha256 is {SHA256}, expected 00"):
        fetch(server.url, tmp_path / "a.csv", sha256="00")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DatasetError, match=r"cannot be downloaded: .*404"):
        fetch(server.url + "s", tmp_path / "a.csv")


def test_prompt_sets():
    assert sum(one.rows for one in PROMPT_SETS.values()) == 26_272
    assert all(len(one.sha256) == 64 and one.url.endswith(f"/{name}.csv") for name, one in PROMPT_SETS.items())
    with pytest.raises(UsageError, match="Unknown prompt set 'x'; choose one of: coco_10k"):
        find_prompt_set("x")


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def tarred(path, members, *, link=None):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc"
            archive.addfile(info)


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_archives(pack, tmp_path):
    pack(tmp_path / "a", {"train/metadata.jsonl": b"{}\n", "train/a.jpg": b"picture"})
    assert unpack(tmp_path / "a", tmp_path / "out") == 2
    assert (tmp_path / "out/train/a.jpg").read_bytes() == b"picture"
    with pytest.raises(DatasetError, match="unpacks to 10 bytes, more than 5"):
        unpack(tmp_path / "a", tmp_path / "small", max_bytes=5)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a/../../out.txt"])
def test_a_path_that_leads_out(pack, name, tmp_path):
    pack(tmp_path / "a", {"fine.txt": b"x", name: b"y"})
    with pytest.raises(DatasetError, match="is not safe to unpack"):
        unpack(tmp_path / "a", tmp_path / "deep/out")
    assert not (tmp_path / "deep").exists()


def test_links_and_no_archive(tmp_path):
    tarred(tmp_path / "a", {"fine.txt": b"x"}, link="way_out")
    with pytest.raises(DatasetError, match="'way_out' leads out of the folder or is no plain file"):
        unpack(tmp_path / "a", tmp_path / "out")
    (tmp_path / "b").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        unpack(tmp_path / "b", tmp_path / "out")
