"""Files of our own that something damaged: cut short, emptied, or with a value of another type.

Each is read by the reader that a command uses, after every damage: it is refused by an error of ours that names the
file, or what is left is read as it stands; nothing else happens.
"""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from psalign.adapter.checkpoint import load_adapter, save_adapter
from psalign.adapter.prompt import PromptAdapter
from psalign.adapter.published import PublishedAdapter
from psalign.cli import main
from psalign.diffusion.generate import open_run
from psalign.errors import PSAlignError
from psalign.evaluation.cells import Cell
from psalign.evaluation.judge.results import judge_files, read_results_file
from psalign.evaluation.report.leaderboard import _marks, _read_run
from psalign.evaluation.results import append_results, read_results, result_row
from psalign.mini.dataset import claim_build
from psalign.quickstart import _open
from psalign.records import read_manifest
from psalign.sage.build.builder import _state
from psalign.sage.dataset import MARK
from psalign.sage.export import MARK as EXPORT
from psalign.sage.output import claim
from psalign.training.config import TrainingConfig
from psalign.training.identity import RunIdentity, require_same_settings
from psalign.training.log import Log, read_log
from psalign.users import EmbeddingStore, StructuredEmbedder, UserProfile

PEOPLE = [UserProfile(user_id=str(number), banned=("Hate",), age=40) for number in range(1, 4)]
ADAPTER = {"recipe": "tests", "llm_dim": 8, "context_dim": 16}
RATE = {"value": 0.5, "n": 2, "low": 0.1, "high": 0.9}
QUESTION = {"dataset": "debug", "base": "sd15", "judge": {"model": "m"}, "remarks": ["small"]}
ROW = {"file_name": "a.png", "user_id": "0000001", "banned": ["Hate"], "asked": ["Hate"], "clean": True, "kept": None}


def evaluated(folder):
    rates = dict.fromkeys(("pass", "banned_respected", "allowed_kept", "clean"), RATE)
    record = {**QUESTION, "mode": "evaluate", "method": "psa", "level": 3, "judged_for": "psa_level_3",
              "summary": {**rates, "failed": 0, "not_judged": 1}, "rows": [ROW]}  # fmt: skip
    return write(folder / "a.json", record)


def compared(folder):
    rates = {"a_wins": RATE, "b_wins": RATE, "ties": {**RATE, "value": 0.0}, "position_bias": RATE,
             "self_agreement": RATE}  # fmt: skip
    record = {**QUESTION, "mode": "compare", "a": "base", "b": "psa_level_3", "summary": {**rates, "failed": 0},
              "rows": [ROW]}  # fmt: skip
    return write(folder / "a.json", record)


def write(path, record):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def results(folder):
    append_results(folder / "results.csv", [result_row(Cell("debug", "base", "sd15"), "inpro", note="a, b")])
    return folder / "results.csv"


def log(folder):
    opened = Log(folder / "log.csv", ("loss", "lr"))
    opened.open(step=0)
    opened.add(10, {"loss": 0.5})
    opened.add(20, {"loss": 0.25, "lr": 1e-3})
    return folder / "log.csv"


CONFIG = TrainingConfig(steps=4)
IDENTITY = RunIdentity(CONFIG, 16, {"recipe": "u", "n_tokens": 8}, {"users": "u", "rows": "r", "UNet": "n"})


def training(folder):
    (folder / "checkpoints").mkdir()
    torch.save({"run": IDENTITY.name}, folder / "checkpoints/step-00000002.pt")
    IDENTITY.write(folder)
    return folder / "run.json"


def go_on_training(path):
    IDENTITY.require_same(path.parent)
    require_same_settings(path.parent, CONFIG, pairs_per_step=16, users="u")


RUN = {"config": {"method": "base", "options": {"seed_policy": "paired"}}, "base": "b"}


def drawing(folder):
    open_run(folder, RUN)
    (folder / "a.png").write_bytes(b"picture")
    return folder / "run.json"


def judgements_in(folder):
    return [read_results_file(record, path) for path, record in judge_files([folder])]


def marks(path):
    from psalign.evaluation.cells import Variant
    from psalign.evaluation.report.leaderboard import Drawn, Leaderboard

    who = Variant("base")
    board = Leaderboard("debug", "sd15")
    board.drawn[who] = Drawn(path.parent, {}, _read_run(path))
    return _marks(board, who)


PRESET = {"base": "mini", "prompt": {"adapter": {}, "training": {"steps": 5}}, "generation": {"steps": 3}}


def quickstart(folder):
    _open(folder, PRESET, 0)
    return folder / "quickstart.json"


def seconds(folder):
    quickstart(folder)
    return write(folder / "seconds.json", {"dataset": 1.5, "measuring": 2.0})


def adapter(folder, kind, **shape):
    save_adapter(kind(**ADAPTER, **shape), folder / "adapter")
    return folder / "adapter/config.json"


def store(folder):
    EmbeddingStore.build(PEOPLE, StructuredEmbedder(8)).save(folder / "vectors")
    return folder / "vectors/index.json"


def npy(folder):
    EmbeddingStore.build(PEOPLE, StructuredEmbedder(8)).save_npy(folder / "npy")
    return folder / "npy/recipe.json"


def manifest(folder):
    row = {"file_name": "a.png", "prompt": "a cat", "seed": 1, "method": "base", "base": "mini", "banned": ["Hate"],
           "user_id": "0000001", "meta": {}}  # fmt: skip
    return write(folder / "manifest.jsonl", row)


BUILD = {"state": "building", "fingerprint": "0", "recipe": {}, "counts": {"train": 1}}
# What writes a file, and what reads it.
FILES = {
    "judge evaluate": (evaluated, lambda path: judgements_in(path.parent)),
    "judge compare": (compared, lambda path: judgements_in(path.parent)),
    "results.csv": (results, read_results),
    "log.csv": (log, read_log),
    "run.json of training": (training, go_on_training),
    "run.json of pictures": (drawing, lambda path: open_run(path.parent, RUN)),
    "run.json of findings": (drawing, marks),
    "quickstart.json": (quickstart, lambda path: _open(path.parent, PRESET, 1)),
    "seconds.json": (seconds, lambda path: _open(path.parent, PRESET, 0)),
    "config.json of a prompt adapter": (partial(adapter, kind=PromptAdapter, rank=8, heads=2), lambda path:
                                        load_adapter(path.parent)),
    "config.json of a published adapter": (partial(adapter, kind=PublishedAdapter, widths=(8, 8)), lambda path:
                                           load_adapter(path.parent)),
    "index.json": (store, lambda path: EmbeddingStore.load(path.parent)),
    "recipe.json": (npy, lambda path: EmbeddingStore.load(path.parent)),
    "manifest.jsonl": (manifest, read_manifest),
    "dataset.json of the mini world": (lambda folder: write(folder / "dataset.json", {"fingerprint": "0"}),
                     lambda path: claim_build(path.parent, "0", mark=path, names=(), what="dataset")),
    "dataset.json of a build": (lambda folder: write(folder / MARK, BUILD),
                                lambda path: _state(path.parent, {"concepts": 3})),
    "export.json": (lambda folder: write(folder / EXPORT, {"fingerprint": "0"}),
                    lambda path: claim(path.parent, EXPORT, "0", what="export")),
}  # fmt: skip
OTHERS = [None, True, -3, 1.5, 10**30, "text", "", [], [1], ["text"], {}, {"text": 1}, {"text": []}, [[]], [{}]]


def damages(content):
    """What may have become of a text: how, and the text."""
    for share in (0, 1, 2, 3):
        yield f"cut to {share} of 4", content[: len(content) * share // 4]
    yield "one byte short", content[:-2]
    yield "binary", bytes(range(256))
    yield "zeros", bytes(len(content))
    yield "a list", b"[]"
    yield "an object", b"{}"
    yield "null", b"null\n"
    yield "brackets", b"[" * 100_000
    yield "digits", b'{"fingerprint": ' + b"9" * 5000 + b"}"
    yield "twice", content + content
    yield "latin", content.replace(b"a", b"\xe9")
    try:
        whole = json.loads(content)
    except ValueError:
        lines = content.split(b"\n")
        for row, line in enumerate(lines):
            cells = line.split(b",")
            for column in range(len(cells)):
                for other in (b"", b"text", b"nan", b"-1", "²".encode(), b'"', b"9" * 400):
                    changed = b",".join([*cells[:column], other, *cells[column + 1 :]])
                    yield f"cell {row}, {column} {other[:9]!r}", b"\n".join([*lines[:row], changed, *lines[row + 1 :]])
            yield f"line {row} gone", b"\n".join([*lines[:row], *lines[row + 1 :]])
        return
    for path in paths_of(whole):
        for other in OTHERS:
            yield f"{'.'.join(map(str, path))} is {other!r}"[:60], json.dumps(changed_at(whole, path, other)).encode()
        yield f"{'.'.join(map(str, path))} gone", json.dumps(changed_at(whole, path)).encode()


def paths_of(value, path=()):
    """Places of a JSON value: the first forty of an object and three of a list, none of the versions of libraries."""
    parts = list(value.items())[:40] if isinstance(value, dict) else []
    parts += enumerate(value[:3]) if isinstance(value, list) else ()
    for key, part in parts:
        if "versions" not in path:
            yield (*path, key)
            yield from paths_of(part, (*path, key))


GONE = object()


def changed_at(value, path, other=GONE):
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) > 1:
        copy[path[0]] = changed_at(value[path[0]], path[1:], other)
    elif other is GONE:
        del copy[path[0]]
    else:
        copy[path[0]] = other
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_by_name_or_read_as_it_stands(name, tmp_path, monkeypatch):
    monkeypatch.setattr("psalign.users.store_reader.LOAD_PAUSE_S", 0)
    make, read = FILES[name]
    (tmp_path / "a").mkdir()
    path = make(tmp_path / "a")
    read(path)
    beside = {other: other.read_bytes() for other in (tmp_path / "a").rglob("*") if other.is_file()}
    content, refused, wrong = beside[path], 0, []
    for how, damaged in damages(content):
        for other, as_it_was in beside.items():
            if not other.is_file() or other.read_bytes() != as_it_was:
                other.write_bytes(as_it_was)
        path.write_bytes(damaged)
        try:
            read(path)
        except PSAlignError as err:
            refused += 1
            if not names(err, path):
                wrong.append(f"{how}: {err}")
        except Exception as err:
            wrong.append(f"{how}: {type(err).__name__} {err}")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong[:20])
    assert refused >= 5


def names(err, path):
    """Whether a message names the file (or its folder) on its first line, and says what to do after it."""
    first = str(err).splitlines()[0]
    return (path.name in first or str(path.parent) in first) and err.hint


COMMANDS = [
    ("quickstart --out run", "run/quickstart.json", 1),
    ("quickstart --out run", "run/seconds.json", 1),
    ("generate --prompts prompts.jsonl --out pictures/debug/base/mini", "pictures/debug/base/mini/run.json", 1),
    ("adapter info adapter", "adapter/config.json", 1),
    ("eval report --images pictures --results results.csv --out report", "results.csv", 1),
    ("eval report --images pictures --judge judged --results results.csv --out report", "judged/a.json", 1),
    ("eval run --images pictures --output results.csv --metrics clip", "results.csv", 1),
]


@pytest.mark.parametrize("content", [b"", b"{", b"\x00\xff"])
@pytest.mark.parametrize(("line", "name", "status"), COMMANDS)
def test_a_command_says_it_in_one_message(line, name, status, content, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("pictures/debug/base/mini").mkdir(parents=True)
    manifest(Path("pictures/debug/base/mini"))
    Path("pictures/debug/base/mini/a.png").write_bytes(b"picture")
    Path("prompts.jsonl").write_text('{"file_name": "a.png", "prompt": "a red cat", "seed": 1}\n')
    Path("run").mkdir()
    seconds(Path("run"))
    quickstart(Path("run"))
    adapter(Path(), PromptAdapter, rank=8, heads=2)
    results(Path())
    Path("judged").mkdir()
    Path(name).write_bytes(content)
    assert main(line.split()) == status
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 2, told
    assert Path(name).name in told[0] or str(Path(name).parent) in told[0]
    assert Path(name).read_bytes() == content
