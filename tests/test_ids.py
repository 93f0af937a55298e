"""One rule for user ids, through every reader of one; levels by name."""

import csv
import io
import json
import tempfile
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from psalign.diffusion.prompts import load_meta_file, load_prompts
from psalign.errors import PSAlignError
from psalign.ids import find_user_id, level_id, level_of, normalise_user_id
from psalign.records import read_manifest
from psalign.sage.dataset import load_split
from psalign.sage.layout_b import read_layout_b
from psalign.users import EmbeddingStore, StructuredEmbedder, UserProfile, load_profiles, read_profile
from psalign.users.bans import load_bans
from psalign.users.forget import forget_user
from psalign.users.store_files import digest_of
from sage_spellings import annotation, preference

NUMBER = 33
SAME = [33, "33", "33.0", 33.0, "0000033", " 33 ", "33.00", "033", np.int64(33), np.float32(33), Fraction(33)]
REFUSED = ["", " ", None, True, 33.5, float("nan"), float("inf"), 1e17, 10**80, "a/b", "a b", ".hidden", "../x",
           "x" * 65, "-3", -3, "\N{FULLWIDTH DIGIT THREE}", ["33"], {"a": 1}, b"33", Decimal("33")]  # fmt: skip


@pytest.mark.parametrize("value", SAME, ids=repr)
def test_numbers_have_seven_digits(value):
    assert normalise_user_id(value) == "0000033"


def test_what_is_no_number_stays_as_it_is():
    for text in ("anna", "level_3", "33.5", "1e3", "a.0", "3_3", "3-3"):
        assert normalise_user_id(text) == text
    assert normalise_user_id(0) == normalise_user_id("000") == "0000000"
    assert normalise_user_id(12345678) == "12345678"
    assert normalise_user_id("anna\n") == "anna"  # a line end beside an id is not part of it


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: repr(value)[:20])
def test_what_could_harm_a_file_name_is_refused(value):
    with pytest.raises(ValueError, match="allowed: 1 to 64 of letters, digits"):
        normalise_user_id(value)
    assert find_user_id(value) is None


@given(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"))
def test_the_rule_changes_nothing_twice_and_gives_a_plain_file_name(text):
    once = normalise_user_id(text)
    assert normalise_user_id(once) == once
    assert Path(once).name == once
    assert Path("folder", f"{once}.npy").stem == once


@given(st.integers(0, 10**9), st.integers(0, 5), st.sampled_from(["", ".", ".0", ".00"]))
def test_every_spelling_of_a_number_is_one_user(number, zeros, end):
    assert normalise_user_id("0" * zeros + f"{number}{end}") == normalise_user_id(number) == f"{number:07}"
    assert normalise_user_id(float(number)) == f"{number:07}"


def test_levels():
    assert [level_of(level_id(level)) for level in range(6)] == list(range(6))
    assert [level_of(text) for text in ("level_6", "level_33", "Level_1", "0000501", "", None)] == [None] * 6


# --- readers ---------------------------------------------------------------------------------------------------------
# Each writes the file it reads with the id as that file can spell it, and gives the id it has read.


def cell(value):
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([value])
    return text.getvalue()


def users_csv(folder, value):
    (folder / "users.csv").write_text(f"User_ID,Age\n{cell(value)},40\n")
    return load_profiles(folder / "users.csv")[0].user_id


def users_jsonl(folder, value):
    (folder / "users.jsonl").write_text(json.dumps({"User_ID": value, "Age": 40}))
    return load_profiles(folder / "users.jsonl")[0].user_id


def ban_list(folder, value):
    (folder / "bans.jsonl").write_text(json.dumps({"user_id": value, "banned": []}))
    return next(iter(load_bans(folder / "bans.jsonl")))


def prompts(folder, value):
    row = {"file_name": "a.png", "prompt": "a cat", "seed": 1, "user_id": value}
    (folder / "prompts.jsonl").write_text(json.dumps(row))
    return load_prompts(folder / "prompts.jsonl")[0].user_id


def meta_csv(folder, value):
    (folder / "meta.csv").write_text(f"prompt,user_id\na cat,{cell(value)}\n")
    return load_meta_file(folder / "meta.csv")[0].prompt.user_id


def meta_user_data(folder, value):
    (folder / "meta.jsonl").write_text(json.dumps({"caption": "a cat", "user_data": {"User_ID": value, "Age": 4}}))
    return load_meta_file(folder / "meta.jsonl")[0].prompt.user_id


def manifest(folder, value):
    row = {"file_name": "a.png", "prompt": "a cat", "seed": 1, "method": "base", "base": "mini", "user_id": value}
    (folder / "manifest.jsonl").write_text(json.dumps(row))
    return read_manifest(folder / "manifest.jsonl")[0].user_id


def store_index(folder, value):
    EmbeddingStore.build([UserProfile(user_id="u", banned=())], StructuredEmbedder(4)).save(folder / "store")
    index = {**json.loads((folder / "store/index.json").read_text()), "user_ids": [value]}
    digest = digest_of(index, load_file(folder / "store/vectors.safetensors"))  # as a program of one's own writes it
    (folder / "store/index.json").write_text(json.dumps({**index, "digest": digest}))
    return EmbeddingStore.load(folder / "store").user_ids[0]


def store_lookup(folder, value):
    store = EmbeddingStore.build([UserProfile(user_id=33, banned=("Hate",))], StructuredEmbedder(4))
    assert store.banned(value) == ("Hate",)
    return store.user_ids[0]


def vector_file(folder, value):
    (folder / "npy").mkdir()
    np.save(folder / "npy" / f"{value}.npy", np.ones(4, np.float32))
    return EmbeddingStore.load(folder / "npy").user_ids[0]


def forgotten(folder, value):
    (folder / "some.csv").write_text("User_ID,Age\n0000033,40\n7,9\n")
    forget_user(value, [folder / "some.csv"])
    assert len(load_profiles(folder / "some.csv")) == 1
    return "0000033"


def profile(folder, value):
    return read_profile({"User_ID": value, "Age": 40}).user_id


def layout_a(folder, value):
    preference(folder / "a", value)
    return load_split(folder / "a", "train", check_pictures=False)[0].user_id


def layout_b(folder, value):
    annotation(folder / "b", value)
    (user_id,) = read_layout_b(folder / "b").users
    return user_id


TEXT = (users_csv, meta_csv, vector_file, layout_b)  # of files whose cells and names are text
JSON = (
    users_jsonl,
    ban_list,
    prompts,
    meta_user_data,
    manifest,
    store_index,
    store_lookup,
    forgotten,
    profile,
    layout_a,
)


@contextmanager
def a_folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize("reader", [*TEXT, *JSON], ids=lambda reader: reader.__name__)
@settings(max_examples=12, deadline=None)
@given(value=st.sampled_from([33, "33", "33.0", 33.0, "0000033"]))
def test_one_user_in_every_file(reader, value):
    with a_folder() as folder:
        assert reader(folder, str(value) if reader in TEXT else value) == "0000033"


@pytest.mark.parametrize("reader", [one for one in (*TEXT, *JSON) if one is not vector_file], ids=lambda r: r.__name__)
@settings(max_examples=12, deadline=None)
@given(value=st.sampled_from(["a/b", "..", "a b", "x" * 65, "a\\b"]))
def test_one_refusal_in_every_file(reader, value):
    with a_folder() as folder, pytest.raises((PSAlignError, ValueError)) as refused:
        reader(folder, value)
    assert "Traceback" not in str(refused.value)


def test_two_lines_of_one_user_ban_what_either_bans(tmp_path):
    lines = [{"user_id": 33, "banned": ["Hate"]}, {"user_id": "33.0", "banned": ["Violence"]}]
    (tmp_path / "bans.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert load_bans(tmp_path / "bans.jsonl") == {"0000033": ("Hate", "Violence")}
