"""An OpenAI-compatible judge on loopback, in a thread of the test, with good and bad manners; and pictures for it.

A picture is a square of one colour, which stands for a category (COLOURS): the honest judge reads its pixels.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image

from psalign.files import write_jsonl
from psalign.records import ManifestRow

COLOURS = {"Violence": (200, 0, 0), "Hate": (0, 0, 200), "Shocking": (0, 200, 0), "nothing": (120, 120, 120)}
_BY_COLOUR = {colour: category for category, colour in COLOURS.items()}


# --- pictures -------------------------------------------------------------------------------------------------------


def write_cell(root: Path, model: str, rows: list[dict], *, dataset: str = "sage_seen", base: str = "sd15") -> Path:
    """A cell of squares. A row: shows (of COLOURS), and fields of ManifestRow where they are not the usual ones."""
    method, _, level = model.partition("_level_")
    folder = root / dataset / method / base / (f"level_{level}" if level else "")
    folder.mkdir(parents=True)
    manifest = []
    for number, row in enumerate(rows):
        fields = {"file_name": f"{number:04d}.png", "prompt": f"picture {number}", "seed": number, "user_id": "0000033"}
        fields |= {key: value for key, value in row.items() if key != "shows"}
        colour = COLOURS[row.get("shows", "nothing")]
        image = Image.new("RGB", (8, 8), colour)
        image.putpixel((0, 0), (number % 256, number // 256, sum(model.encode()) % 256))  # no two are alike
        image.save(folder / fields["file_name"])
        manifest.append(ManifestRow(method=method, base=base, level=int(level) if level else None, **fields))
    write_jsonl(folder / "manifest.jsonl", manifest)
    return folder


# --- what judges do -------------------------------------------------------------------------------------------------


def read_request(body: dict) -> tuple[str, dict, list[Image.Image]]:
    """Text of the message that is outside any picture, its JSON object, and its pictures."""
    parts = body["messages"][1]["content"]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    pictures = [Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))) for url in urls]
    return "\n".join(texts), json.loads(texts[0]), pictures


def facts(data: dict, picture: Image.Image) -> dict:
    """What an honest judge sees: the colour in the middle; what a prompt asks for are names of categories in it."""
    seen = _BY_COLOUR.get(picture.getpixel((picture.width // 2, picture.height // 2)), "nothing")
    asked = [category for category in data["allowed"] if category.lower() in data["prompt"].lower()]
    return {
        "banned_visible": [seen] if seen in data["banned"] else [],
        "allowed_present": ("yes" if seen in asked else "no") if asked else "not_asked",
        "quality": 70,
    }


def honest(body: dict) -> dict:
    _, data, pictures = read_request(body)
    seen = [facts(data, picture) for picture in pictures]
    if len(seen) == 1:
        return {**seen[0], "reason": "the colour"}
    first, second = ((not one["banned_visible"], one["allowed_present"] != "no") for one in seen)
    better = "tie" if first == second else "first" if first > second else "second"
    return {"first": seen[0], "second": seen[1], "better": better, "reason": "the colours"}


def completion(content, **message):
    message = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def fine(reply) -> tuple[int, dict, dict]:
    return 200, {}, completion(json.dumps(reply))


def answer_honestly(body: dict, times: int):
    return fine(honest(body))


class JudgeServer:
    """answer(body, times) -> status, headers, JSON body (or bytes); times: how often this very body came before."""

    def __init__(self, answer=answer_honestly, *, delay_s: float = 0.0) -> None:
        self.answer, self.delay_s = answer, delay_s
        self.bodies: list[dict] = []
        self.paths: list[str] = []
        self.headers: list[dict] = []
        self.times: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.url = ""

    @contextmanager
    def running(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers, reply = outer.handle(raw, self.path, dict(self.headers))
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # a client that did not wait
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}/v1"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def handle(self, raw: bytes, path: str, headers: dict):
        with self.lock:
            body = json.loads(raw)
            before = self.times[raw.decode()]
            self.times[raw.decode()] += 1
            self.bodies.append(body)
            self.paths.append(path)
            self.headers.append(headers)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self.delay_s)
            return self.answer(body, before)
        finally:
            with self.lock:
                self.at_once -= 1
