"""psalign generate, by command: who is drawn, shards, interruptions, and every mistake with its message."""

import json
import time

import pytest
from PIL import Image

import one_of_several
import processes
from commands import run
from psalign.categories import read_taxonomy, use_taxonomy
from psalign.cli import main
from psalign.records import read_manifest
from psalign.users import EmbeddingStore
from taxonomies import CATEGORIES, write_taxonomy

PROMPTS = [
    f"a {colour} {subject} on the left at night" for colour in ("red", "blue", "green") for subject in ("cat", "dog")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_run):
    """A META_FILE of six rows for users of the small run, with its vectors and adapter."""
    where = tmp_path_factory.mktemp("generate")
    for name in ("embeddings", "training"):
        (where / name).symlink_to(small_run[0] / name)
    ids = EmbeddingStore.load(where / "embeddings").user_ids
    lines = ["prompt,user_id,age,religion"] + [f"{p},{ids[i % 3]},{20 + i % 3},Islam" for i, p in enumerate(PROMPTS)]
    (where / "meta.csv").write_text("\n".join(lines) + "\n")
    (where / "anna.csv").write_text("User_ID,Banned_Categories\nanna,Violence\n")
    return where


def flags(folder, **changes):
    given = {"prompts": "meta.csv", "embeddings": "embeddings", "adapter": "training/prompt/adapter", "out": "out"}
    given |= {"steps": 2, "batch_size": 2, **changes}
    paths = {"prompts", "embeddings", "adapter", "out", "users"}
    parts = []
    for name, value in given.items():
        if value is not None:
            shown = [] if value is True else [str(folder / value) if name in paths else str(value)]
            parts += [f"--{name.replace('_', '-')}", *shown]
    return parts


def pictures(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


@pytest.fixture(scope="module")
def whole(folder):
    """The run that others are compared with: one process, never interrupted."""
    assert main(["generate", *flags(folder, out="whole")]) == 0
    return folder / "whole"


def several(folder, out, *, fail="nothing fails"):
    """Two processes; what each of them draws is noted in <out>-notes. Returns their statuses and what they said."""
    notes, said = folder / f"{out}-notes", folder / f"{out}-said"
    notes.mkdir()
    statuses = processes.run_several(said, one_of_several.generate, notes, fail, flags(folder, out=out))
    return statuses, said.read_text()


@pytest.mark.slow
def test_two_processes_write_the_files_of_one(folder, whole):
    statuses, said = several(folder, "two")
    assert statuses == [0, 0], said
    assert said.count("6 pictures and manifest.jsonl") == 1
    first, second = ((folder / "two-notes" / f"{i} of 2").read_text().split() for i in range(2))
    assert sorted(first + second) == sorted(pictures(whole))  # each by one of them, once
    assert min(len(first), len(second)) == 2
    assert pictures(folder / "two") == pictures(whole)
    assert (folder / "two/manifest.jsonl").read_text() == (whole / "manifest.jsonl").read_text()


@pytest.mark.slow
def test_what_fails_in_any_process_is_told_at_the_end_and_the_others_are_kept(folder, whole):
    statuses, said = several(folder, "failed", fail="cat")
    rows = read_manifest(whole / "manifest.jsonl")
    cats = sorted(row.file_name for row in rows if "cat" in row.prompt)
    told = "\n".join(f"  {name}: no memory left" for name in cats)
    assert statuses == [1, 1]
    where = folder / "failed"
    assert f"3 of 6 pictures could not be made; the others are in {where}.\n{told}\nRun the same" in said
    assert sorted(pictures(where)) == sorted(row.file_name for row in rows if row.file_name not in cats)
    assert not (where / "manifest.jsonl").exists()


@pytest.mark.slow
def test_killed_and_started_again_is_never_killed(folder, whole):
    command = ["generate", *flags(folder, out="killed")]
    process = processes.start(folder / "killed-said", main, command)
    while process.is_alive() and len(pictures(folder / "killed")) < 2:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert len(pictures(folder / "killed")) >= 2
    assert main(command) == 0
    assert pictures(folder / "killed") == pictures(whole)
    assert (folder / "killed/manifest.jsonl").read_text() == (whole / "manifest.jsonl").read_text()


def test_profiles_make_other_vectors_and_stay_out_of_the_manifest(folder, capsys):
    assert run(capsys, "generate", *flags(folder, out="profiles", profiles=True))[0] == 0
    text = (folder / "profiles/manifest.jsonl").read_text()
    assert "Islam" not in text
    assert "age" not in json.loads(text.splitlines()[0])["meta"]
    stored = EmbeddingStore.load(folder / "embeddings")
    for row in read_manifest(folder / "profiles/manifest.jsonl"):
        assert set(row.banned) == {"Sexuality", "Propaganda", *stored.banned(row.user_id)}


def test_profile_columns_never_take_a_ban_away(folder, capsys):
    """A user who bans everything, with the columns of somebody who bans nothing: drawn from the stored vector."""
    (folder / "loose.csv").write_text(f"prompt,user_id,age,gender\n{PROMPTS[0]},level_5,30,male\n")
    (folder / "stored.csv").write_text(f"prompt,user_id\n{PROMPTS[0]},level_5\n")
    status, _, err = run(capsys, "generate", *flags(folder, out="loose", prompts="loose.csv", profiles=True))
    assert (status, "User level_5: the profile columns leave out Hate, Harassment" in err) == (0, True)
    assert run(capsys, "generate", *flags(folder, out="stored", prompts="stored.csv"))[0] == 0
    assert [row.banned for row in read_manifest(folder / "loose/manifest.jsonl")] == [CATEGORIES]
    assert pictures(folder / "loose") == pictures(folder / "stored")


def test_a_limit_of_a_category_in_the_columns_changes_the_vector_too(folder, capsys, monkeypatch):
    """An adapter of kind `published` knows vectors alone: the limit must be in them."""
    (folder / "limited.csv").write_text(f"prompt,user_id,limits\n{PROMPTS[0]},level_0,no violence\n")
    drawn = []

    def make(drawing, rows, out, **more):
        drawn.append(drawing.users)
        return []

    monkeypatch.setattr("psalign.diffusion.generate.generate", make)
    assert run(capsys, "generate", *flags(folder, out="limited", prompts="limited.csv", profiles=True))[0] == 0
    assert drawn[0].banned("level_0") == ("Violence",)
    stored = EmbeddingStore.load(folder / "embeddings")
    assert (drawn[0].vectors(["level_0"]) != stored.vectors(["level_0"])).any()


def test_columns_that_are_not_read_are_told(folder, capsys):
    _, _, err = run(capsys, "generate", *flags(folder, out="told"))
    assert "Profile columns are not read" in err


def test_levels_several_pictures_and_sampling(folder, capsys):
    more = {"level": 2, "images_per_prompt": 2, "scheduler": "ddim", "guidance": 1.0, "scale": 0.5, "seed": 3}
    assert run(capsys, "generate", *flags(folder, out="more", negative_prompt="a fox", **more))[0] == 0
    rows = read_manifest(folder / "more/manifest.jsonl")
    assert len(rows) == len(pictures(folder / "more")) == 2 * len(PROMPTS)
    assert {(row.level, row.scale) for row in rows} == {(2, 0.5)}
    assert len({row.seed for row in rows}) == len(rows)


def test_lists_need_no_vectors_and_draw_the_same_pictures(folder, whole, capsys):
    """Of kind `prompt`: where the ban list is known, the vector is not read."""
    (folder / "levels.csv").write_text("prompt,user_id\n" + "".join(f"{p},level_{i}\n" for i, p in enumerate(PROMPTS)))
    stored = flags(folder, out="stored_levels", prompts="levels.csv")
    alone = flags(folder, out="alone", prompts="levels.csv", embeddings=None, users="anna.csv")
    assert [run(capsys, "generate", *one)[0] for one in (stored, alone)] == [0, 0]
    assert pictures(folder / "stored_levels") == pictures(folder / "alone")
    with_vectors, without = (read_manifest(folder / name / "manifest.jsonl") for name in ("stored_levels", "alone"))
    assert [row.banned for row in with_vectors] == [row.banned for row in without]
    assert {row.recipe for row in without} == {"no vectors"}


def test_categories_of_another_taxonomy_are_kept_in_words(folder, capsys):
    """An adapter that was trained with the seven categories, and an operator who has one of his own."""
    word = PROMPTS[0].split()[-1]
    write_taxonomy(folder / "mine.yaml", {"categories": [{"name": "Things", "phrases": [word]}, "Other"]})
    (folder / "mine.csv").write_text(f"prompt,user_id\n{PROMPTS[0]},anna\n{PROMPTS[0]},bob\n")
    (folder / "people.csv").write_text("User_ID,Banned_Categories\nanna,Things\nbob,[]\n")
    given = {"prompts": "mine.csv", "embeddings": None, "users": "people.csv", "taxonomy": folder / "mine.yaml"}
    status, _, err = run(capsys, "generate", *flags(folder, out="mine", **given))
    assert (status, "Made with another taxonomy" in err, (folder / "mine").exists()) == (1, True, False)
    status, _, err = run(capsys, "generate", *flags(folder, out="mine", in_words=True, **given))
    assert status == 0, err
    with use_taxonomy(read_taxonomy(folder / "mine.yaml")):
        rows = read_manifest(folder / "mine/manifest.jsonl")
    assert [row.banned for row in rows] == [("Things",), ()]
    assert run(capsys, "generate", *flags(folder, out="base2", adapter=None, **given))[0] == 0
    ours, base = (list(pictures(folder / name).values()) for name in ("mine", "base2"))
    assert (ours[0] == base[0], ours[1] == base[1]) == (False, True)


def test_the_base_needs_no_users(folder, capsys):
    assert run(capsys, "generate", *flags(folder, out="base", adapter=None, embeddings=None))[0] == 0
    rows = read_manifest(folder / "base/manifest.jsonl")
    assert {(row.method, row.user_id) for row in rows} == {("base", None)}
    assert Image.open(folder / "base" / rows[0].file_name).size == (64, 64)


def meta(folder, name, text):
    (folder / name).write_text(text)
    return name


MISTAKES = {
    "unknown user": ({"prompts": "prompt,user_id\na cat,nobody\n"}, 1, "user nobody has no embedding"),
    "empty META_FILE": ({"prompts": "prompt,user_id\n"}, 1, "has no rows"),
    "missing column": ({"prompts": "text,user_id\na cat,1\n"}, 1, "there is no column prompt"),
    "duplicate file_name": (
        {"prompts": "prompt,file_name,user_id\na,x.png,level_1\nb,x.png,level_1\n"},
        2,
        "Two rows write one file: x.png",
    ),
    "a row of nobody": ({"prompts": "prompt\na cat\n"}, 2, "1 of 1 rows have no user"),
    "no profile": ({"prompts": "prompt\na cat\n", "profiles": True}, 1, "row 1: --profiles needs the columns"),
    "a wrong profile": ({"prompts": "prompt,age\na cat,900\n", "profiles": True}, 1, "row 1: column age"),
    "two profiles of one user": (
        {"prompts": "prompt,user_id,age\na,7,9\nb,7,10\n", "profiles": True},
        2,
        "row 2: user 0000007 has another profile",
    ),
    "unreadable adapter": ({"adapter": "meta.csv"}, 1, "cannot be read as a checkpoint of torch"),
    "adapter for another base": ({"base": "sd15"}, 1, "was trained for 'mini'; this run uses 'sd15'"),
    "level 9": ({"level": 9}, 2, "Level must be 0, 1, 2, 3, 4 or 5; saw '9'"),
    "scale nan": ({"scale": "nan"}, 2, "must be finite; saw nan"),
    "nobody known": ({"embeddings": None}, 2, "nothing says what they ban"),
    "no profile of a user": (
        {"prompts": "prompt,user_id\na cat,carol\n", "embeddings": None, "users": "anna.csv"},
        1,
        "no profile of user carol",
    ),
    "published without vectors": (
        {"adapter": "training/published/adapter", "embeddings": None, "level": 2},
        2,
        "knows users by vectors alone",
    ),
    "limits that would be lost": (
        {"prompts": "prompt,user_id,limits\na cat,level_1,no cats\n"},
        2,
        "1 of 1 rows have limits in words, which are read with --profiles alone",
    ),
    "words and vectors": ({"in_words": True}, 2, "--in-words needs no vectors"),
    "two sources of users": ({"embeddings": None, "users": "meta.csv", "profiles": True}, 2, "give one of them"),
    "unknown scheduler": ({"scheduler": "magic"}, 2, "Unknown scheduler 'magic'; choose one of: ddim, dpm"),
    "a column that is nearly one of ours": (
        {"prompts": "prompt,religon,user_id\na,Islam,level_1\n"},
        1,
        "did you mean religion?",
    ),
    "unknown device": ({"device": "magic"}, 2, "There is no device 'magic' here; choose one of: cpu"),
    "unknown dtype": ({"dtype": "int8"}, 2, "Unknown dtype 'int8'; choose one of: fp32, fp16, bf16"),
    "unknown offload": ({"offload": "some"}, 2, "Unknown offload 'some'; choose one of: none, model, sequential"),
    "nothing to offload from": ({"offload": "model", "device": "cpu"}, 2, "needs a device to offload from"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_give_a_message_and_leave_no_folder(mistake, folder, capsys):
    changes, status, message = MISTAKES[mistake]
    if "prompts" in changes:
        changes = {**changes, "prompts": meta(folder, "wrong.csv", changes["prompts"])}
    found, _, err = run(capsys, "generate", *flags(folder, out="wrong", **changes))
    assert (found, message in err) == (status, True), err
    assert not (folder / "wrong").exists()


def test_another_run_in_the_folder(folder, whole, capsys):
    status, _, err = run(capsys, "generate", *flags(folder, out="whole", scale=0.3))
    assert (status, "holds pictures of another run" in err) == (1, True)
