"""Downloads that go on, that are checked, and archives that cannot write outside their folder."""

import hashlib
import io
import random
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from psalign.errors import DatasetError, OutputError, UsageError
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
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}/file"
    yield server
    server.shutdown()
    server.server_close()


def test_a_download_that_broke_off_goes_on(server, tmp_path):
    server.cut = 700_000
    with pytest.raises(DatasetError, match=r"700000 of 1280000 bytes came.*\nRun the same command again"):
        fetch(server.url, tmp_path / "a.csv", digest=SHA256)
    assert not (tmp_path / "a.csv").exists()
    fetch(server.url, tmp_path / "a.csv", digest=SHA256)
    assert (tmp_path / "a.csv").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=700000-"]
    fetch(server.url, tmp_path / "a.csv", digest=SHA256)
    assert len(server.asked) == 2  # what is there and right is left alone


def test_all_came_but_it_was_not_renamed(server, tmp_path):
    (tmp_path / ".a.csv.part").write_bytes(CONTENT)
    fetch(server.url, tmp_path / "a.csv", digest=SHA256)
    assert (tmp_path / "a.csv").read_bytes() == CONTENT


def test_another_file_and_none(server, tmp_path):
    with pytest.raises(DatasetError, match=f"its sha256 is {SHA256}, expected 00"):
        fetch(server.url, tmp_path / "a.csv", digest="00")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DatasetError, match=r"cannot be downloaded: .*404"):
        fetch(server.url + "s", tmp_path / "a.csv")


@pytest.mark.parametrize("url", ["sage.tar", "example.org/sage.tar", "file:///etc/passwd", "https://"])
def test_what_is_no_address(url, tmp_path):
    with pytest.raises(UsageError, match="is no address; expected one like https://"):
        fetch(url, tmp_path / "a")


def test_a_chunk_that_is_cut_short(tmp_path):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"ff\r\nonly this")
            self.close_connection = True

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        with pytest.raises(DatasetError, match="cannot be downloaded"):
            fetch(f"http://127.0.0.1:{server.server_port}/file", tmp_path / "a")
        server.shutdown()


def test_prompt_sets():
    assert sum(one.rows for one in PROMPT_SETS.values()) == 26_272
    assert all(len(one.digest) == 64 and one.url.endswith(f"/{name}.csv") for name, one in PROMPT_SETS.items())
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


def test_an_archive_of_a_folder_itself(tmp_path):
    """As `tar -C data/sage .` makes it: its first member is the folder, "."."""
    (tmp_path / "sage").mkdir()
    (tmp_path / "sage/a.txt").write_text("x")
    with tarfile.open(tmp_path / "a", "w") as archive:
        archive.add(tmp_path / "sage", arcname=".")
    assert unpack(tmp_path / "a", tmp_path / "out") == 1
    assert (tmp_path / "out/a.txt").read_text() == "x"
    tarred(tmp_path / "b", {".": b"x"})
    with pytest.raises(DatasetError, match="is not safe to unpack"):
        unpack(tmp_path / "b", tmp_path / "other")


def test_archives_that_are_damaged_or_encrypted(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", bytes(range(256)) * 40)
    whole = (tmp_path / "a").read_bytes()
    start = whole.index(b"a.txt") + len(b"a.txt")
    (tmp_path / "b").write_bytes(whole[:start] + b"\xff" * 20 + whole[start + 20 :])  # no deflate stream
    flags = whole.index(b"PK\x01\x02") + 8
    (tmp_path / "c").write_bytes(whole[:6] + b"\x01" + whole[7:flags] + b"\x01" + whole[flags + 1 :])  # encrypted
    tarred(tmp_path / "d", {"a.txt": random.Random(1).randbytes(100_000)})
    packed = (tmp_path / "d").read_bytes()
    (tmp_path / "d").write_bytes(packed[:50_000] + b"\xff" * 20_000 + packed[70_000:])
    for name in "bcd":
        with pytest.raises(DatasetError, match="cannot be unpacked"):
            unpack(tmp_path / name, tmp_path / "out")


def test_an_archive_that_cannot_be_written(tmp_path):
    zipped(tmp_path / "a", {"train/a.jpg": b"picture"})
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot be unpacked into .*out: Not a directory"):
        unpack(tmp_path / "a", tmp_path / "out")
