"""Whatever stands in the metadata of a dataset, its readers say so: a DatasetError or a fault, never a traceback.

The examples are the same in every run; for more of them set HYPOTHESIS_MAX_EXAMPLES=5000.
"""

import contextlib
import json
import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psalign.cli import main
from psalign.errors import DatasetError, PSAlignError
from psalign.files import read_jsonl
from psalign.sage.dataset import find_splits, load_split, parse_row, read_split, to_record
from psalign.sage.import_layout_b import import_layout_b
from psalign.sage.layout_b import read_layout_b
from psalign.sage.names import picture_name
from psalign.sage.rows import SageRow
from psalign.sage.validate import validate
from sage_rows import make_row

EXAMPLES = int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", 60))
FIXED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=8), inside, max_size=3),
    max_leaves=6,
)
SOUND = to_record(make_row())
NEARLY = st.sampled_from(  # values that are almost right, which chance alone would not find
    ["", " ", "user_33_hate_x_1_s.jpg", "user_33_hate_x_1_u.jpg", "../user_33_hate_x_1_s.jpg", "x" * 300, "\ud800", "٣",
     "0", "-0", "1e400", "nan", "x_u.jpg", "x\x00_s.jpg", "user_33_hate_\ud800_1_s.jpg", "images/" * 200 + "a.jpg",
     "Hate", "safe", "5.0"]
)  # fmt: skip
CELLS = NEARLY.filter(str.isprintable) | st.text(st.characters(codec="utf-8"), max_size=12)


@st.composite
def records(draw):
    """A sound record with a few fields changed, taken away or added, by any JSON value."""
    record = json.loads(json.dumps(SOUND))
    for name in draw(st.lists(st.sampled_from([*SOUND, "severity", "Caption"]), max_size=3)):
        record[name] = draw(VALUES | NEARLY)
    for name in draw(st.lists(st.sampled_from([*SOUND]), max_size=1)):
        record.pop(name, None)
    if isinstance(record.get("user_data"), dict) and draw(st.booleans()):
        record["user_data"][draw(st.sampled_from(["User_ID", "user id", "Age"]))] = draw(VALUES | NEARLY)
    return record


@st.composite
def lines(draw):
    """Lines of a metadata file: sound, changed, cut short, or any bytes at all."""
    made = st.one_of(
        st.just(json.dumps(SOUND).encode()),
        records().map(lambda record: json.dumps(record).encode()),
        st.integers(0, len(json.dumps(SOUND))).map(lambda length: json.dumps(SOUND).encode()[:length]),
        st.binary(max_size=40),
    )
    return b"\n".join(draw(st.lists(made, max_size=4)))


def check(root, *, bans=None):
    """Findings of validate, which must be sound where and only where every reader reads every row."""
    found = rows = None
    with contextlib.suppress(DatasetError):
        found = validate(root, bans=bans, check_pictures=False)
    with contextlib.suppress(DatasetError):
        rows = load_split(root, "train", check_pictures=False)
    if found is None or rows is None:
        assert found is None or not found.is_fine  # it never says fit where reading fails
        return found
    assert not found.cases["broken row"]
    assert all(isinstance(row, SageRow) for row in rows)
    str(found.to_record()).encode("utf-8")  # every message can be printed
    return found


def refused_or_fit(root, capsys):
    """The command's exit status; it never has a traceback, and never says fit where a row was broken."""
    capsys.readouterr()
    status = main(["sage", "validate", str(root), "--metadata-only"])
    told = capsys.readouterr()
    told.out.encode("utf-8")
    assert "Traceback" not in told.err
    assert ("Fit for training." in told.out) == (status == 0)
    return status


@FIXED
@given(content=lines())
def test_any_bytes_as_metadata(content, tmp_path):
    folder = tmp_path / "train"
    folder.mkdir(exist_ok=True)
    (folder / "metadata.jsonl").write_bytes(content)
    assert check(tmp_path) is not None
    for row in read_split(tmp_path, "train", where="here"):
        assert isinstance(row, SageRow | DatasetError)
    with contextlib.suppress(PSAlignError):
        list(read_jsonl(folder / "metadata.jsonl"))


@FIXED
@given(record=records())
def test_any_value_in_any_field(record, tmp_path):
    folder = tmp_path / "train"
    folder.mkdir(exist_ok=True)
    (folder / "metadata.jsonl").write_text(json.dumps(record) + "\n")
    check(tmp_path)


ANNOTATIONS = ("file_name", "labels", "severity", "prompt_id", "user_id", "age", "split")
LINES = [("a.png", "safe", "0", "1", "33", "41", ""), ("b.png", "Hate", "3", "2", "33", "41", "")]
PROMPTS = [("1", "a cat", "c"), ("2", "a bad cat", "c")]


def row_of(cells):
    return ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)


@st.composite
def tables(draw):
    """annotations.csv and prompts.csv, sound but for a few cells, columns, or their bytes."""
    annotations = [list(ANNOTATIONS), *map(list, LINES)]
    prompts = [["prompt_id", "prompt", "concept"], *map(list, PROMPTS)]
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.sampled_from([*annotations[1:], *annotations[1:], *prompts[1:], annotations[0], prompts[0]]))
        row[draw(st.integers(0, len(row) - 1))] = draw(CELLS)
    texts = [("\n".join(map(row_of, rows)) + "\n").encode() for rows in (annotations, prompts)]
    if draw(st.booleans()):
        which = draw(st.integers(0, 1))
        at = draw(st.integers(0, len(texts[which])))
        texts[which] = texts[which][:at] + draw(st.binary(max_size=8)) + texts[which][at + draw(st.integers(0, 60)) :]
    return texts


@FIXED
@given(files=tables())
def test_any_tables_of_layout_b(files, tmp_path):
    for name, content in zip(("annotations.csv", "prompts.csv"), files, strict=True):
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    try:
        import_b(tmp_path, out)
    except DatasetError as err:
        str(err).encode("utf-8")  # every message can be printed
        return
    for split in find_splits(out):
        assert load_split(out, split, check_pictures=False)


def import_b(root, out):
    ban_hate = {"banned": lambda user_id: ("Hate",), "save_users": lambda path: None}
    import_layout_b(read_layout_b(root), out, check_pictures=False, **ban_hate)


@settings(FIXED, max_examples=max(1, EXAMPLES // 6))
@given(content=lines())
def test_the_command_has_no_traceback(content, tmp_path, capsys):
    (tmp_path / "train").mkdir(exist_ok=True)
    (tmp_path / "train/metadata.jsonl").write_bytes(content)
    refused_or_fit(tmp_path, capsys)


def test_sound_ones_are_fit(tmp_path, capsys):
    """The fuzzed datasets are fit for training where nothing is changed."""
    rows = [make_row(), make_row(caption_kind="safe", caption="a cat")]
    (tmp_path / "train").mkdir()
    (tmp_path / "train/metadata.jsonl").write_text("".join(json.dumps(to_record(row)) + "\n" for row in rows))
    assert check(tmp_path).is_fine
    assert refused_or_fit(tmp_path, capsys) == 0
    (tmp_path / "annotations.csv").write_text("\n".join(map(row_of, [ANNOTATIONS, *LINES])))
    (tmp_path / "prompts.csv").write_text("\n".join(map(row_of, [("prompt_id", "prompt", "concept"), *PROMPTS])))
    import_b(tmp_path, tmp_path / "out")
    assert check(tmp_path / "out", bans={"0000033": ("Hate",)}).is_fine


@FIXED
@given(
    concept=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=30),
    index=st.integers(0, 99999),
)
def test_names_come_back(concept, index):
    """A pair's name says its category and concept, whatever word the concept is."""
    names = [picture_name(("0000033", "Hate", concept, f"{index:05d}"), unsafe=u) for u in (0, 1)]
    row = make_row(category="Hate", concept=concept, index=f"{index:05d}", chosen=names[0], rejected=names[1])
    assert parse_row(to_record(row), where="here") == row


pytestmark = pytest.mark.filterwarnings("error")
