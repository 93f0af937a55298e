"""The mini dataset: layout, preference rule, and what no training split has."""

import dataclasses
import json

import numpy as np
import pytest

from psalign.diffusion.prompts import load_prompts
from psalign.errors import OutputError, UsageError
from psalign.mini import dataset, world
from psalign.mini.dataset import build
from psalign.mini.names import HELD_OUT_KIND_NAMES, NAMES, plural
from psalign.mini.sizes import DatasetConfig
from psalign.sage.dataset import load_split
from psalign.sage.preference import unsafe_is_chosen
from psalign.sage.rows import SPLITS
from psalign.users.policy import banned_categories
from psalign.users.profile import load_profiles

# Every word that tells a motif, and the motif.
TOLD = {form: motif for motif, names in NAMES.items() for name in names for form in (name, plural(name))}
SMALL = DatasetConfig(
    train_users=40,
    val_users=4,
    test_users=30,
    concepts=4,
    scenes=14,
    seen=14,
    wordings=14,
    two_motifs=14,
    motifs=14,
    safe=10,
    levels=7,
    limit_rows=50,
)


FEW = dataclasses.replace(SMALL, concepts=1)  # for the tests that build again: a quarter of the rows


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    root = tmp_path_factory.mktemp("few")
    build(root, FEW)
    return root


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("mini")
    build(root, SMALL)
    return root


def test_every_split_is_read_and_has_its_pictures(built):
    counts = {split: len(load_split(built, split)) for split in SPLITS}
    assert counts == {"train": 320, "val": 32, "test_seen": 240, "test_unseen": 240}


def test_users_are_split_and_test_seen_users_are_in_train(built):
    users = {split: {row.user_id for row in load_split(built, split)} for split in SPLITS}
    assert users["test_seen"] < users["train"]
    assert not users["train"] & (users["val"] | users["test_unseen"])
    assert not users["val"] & users["test_unseen"]


def test_every_row_keeps_to_the_preference_rule(built):
    bans = {user.user_id: banned_categories(user) for user in load_profiles(built / "users.csv")}
    for row in load_split(built, "train"):
        unsafe = unsafe_is_chosen(caption_kind=row.caption_kind, category=row.category, banned=bans[row.user_id])
        assert row.chosen.endswith("_u.jpg") == unsafe


def test_a_chosen_picture_never_shows_what_its_user_bans(built):
    """Told by the caption of the pair that tells the chosen picture."""
    bans = {user.user_id: banned_categories(user) for user in load_profiles(built / "users.csv")}
    rows = load_split(built, "train")
    told = {(row.pair, row.caption_kind): row.caption for row in rows}
    for row in rows:
        caption = told[(row.pair, "unsafe" if row.chosen.endswith("_u.jpg") else "safe")]
        words = caption.replace(",", "").split()
        shown = {world.MOTIF_CATEGORY[TOLD[word]] for word in words if word in TOLD}
        assert not shown & set(bans[row.user_id])


def test_training_never_sees_held_out_motifs_wordings_or_combinations(built):
    held = {f"{colour} {subject}": background for subject, colour, background in world.combinations(held_out=True)}
    starts = tuple(wording[0].split("{")[0] for wording in world.HELD_OUT_WORDINGS)
    for split in ("train", "val"):
        for row in load_split(built, split):
            words = row.caption.replace(",", "").split()
            assert not {TOLD.get(word) for word in words} & set(world.HELD_OUT_MOTIFS)
            assert not row.caption.startswith(starts)
            for thing, background in held.items():
                assert not (thing in row.caption and world.PLACES[background] in row.caption)


def test_training_has_two_names_of_three_and_plurals_of_them(built):
    words = {word for row in load_split(built, "train") for word in row.caption.replace(",", "").split()}
    told = [names for motif, names in NAMES.items() if motif not in world.HELD_OUT_MOTIFS]
    for place, is_there in ((0, True), (1, True), (2, False)):
        for form in (str, plural):
            assert ({form(names[place]) for names in told} & words != set()) == is_there
    held_out = {name.split()[-1] for name in HELD_OUT_KIND_NAMES.values()}
    assert not held_out & words


def test_a_pair_speaks_of_what_it_shares_in_the_same_words(built):
    """Its captions differ in what is taken away alone."""
    rows = load_split(built, "train")
    for unsafe, safe in zip(rows[::2], rows[1::2], strict=True):
        left = [word for word in safe.caption.replace(",", "").split() if word in TOLD]
        assert [word for word in unsafe.caption.replace(",", "").split() if word in left] == left


def test_captions_may_deny_what_is_in_neither_picture(tmp_path):
    build(tmp_path, dataclasses.replace(SMALL, denial_share=1.0), captions_only=True)
    for row in load_split(tmp_path, "train", check_pictures=False):
        words = row.caption.replace(",", "").split()
        place = next(i for i, word in enumerate(words) if word in ("no", "without"))
        denied = next(TOLD[word] for word in words[place:] if word in TOLD)
        assert denied not in row.concept.split(" with ")


def test_users_may_be_given(tmp_path):
    users = dataset.split_users(FEW)
    given = {
        split: [user.model_copy(update={"gender": "female"}) for user in people] for split, people in users.items()
    }
    build(tmp_path, FEW, captions_only=True, users=given)
    assert {user.gender for user in load_profiles(tmp_path / "users.csv") if user.age is not None} == {"female"}
    with pytest.raises(OutputError, match="holds another dataset"):
        build(tmp_path, FEW, captions_only=True)


def test_prompts_ask_half_for_banned_and_half_for_allowed(built):
    bans = {user.user_id: banned_categories(user) for user in load_profiles(built / "users.csv")}
    rows = load_prompts(built / "prompts.jsonl")
    for suite in ("scenes", "wordings", "two_motifs", "motifs"):
        unsafe = [row for row in rows if row.meta["suite"] == suite and row.meta["kind"] == "unsafe"]
        banned = [row.meta["category"] in bans[row.user_id] for row in unsafe]
        assert sum(banned) * 2 == len(banned)
    held = set(world.combinations(held_out=True))
    assert all((m["subject"], m["colour"], m["background"]) in held for m in (row.meta for row in rows))
    motifs = {row.meta["motif"] for row in rows if row.meta["suite"] == "motifs"}
    assert motifs == set(world.HELD_OUT_MOTIFS)


def test_levels_share_prompts_and_seeds(built):
    rows = [row for row in load_prompts(built / "prompts.jsonl") if row.meta["suite"] == "levels"]
    by_prompt = {}
    for row in rows:
        by_prompt.setdefault((row.prompt, row.seed), []).append(row.user_id)
    assert len(by_prompt) == SMALL.levels
    assert all(users == [f"level_{i}" for i in range(6)] for users in by_prompt.values())


def test_the_same_seed_builds_the_same_dataset(tmp_path, few):
    build(tmp_path, FEW)
    for name in ("users.csv", "prompts.jsonl", "train/metadata.jsonl"):
        assert (tmp_path / name).read_bytes() == (few / name).read_bytes()
    picture = next((tmp_path / "train").glob("*.jpg")).name
    assert (tmp_path / "train" / picture).read_bytes() == (few / "train" / picture).read_bytes()


def test_a_finished_build_is_left_and_another_is_refused(built):
    before = (built / "prompts.jsonl").stat().st_mtime_ns
    build(built, SMALL)
    assert (built / "prompts.jsonl").stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="holds another dataset"):
        build(built, DatasetConfig(seed=12))


def test_sizes_that_make_no_sense(tmp_path):
    with pytest.raises(UsageError, match="test_users must be no more than train_users; saw 6 and 5"):
        build(tmp_path, DatasetConfig(train_users=5, test_users=6))
    for change in (
        {"two_motifs": -3},
        {"concepts": 0},
        {"ban_list_share": 1.5},
        {"seed": -1},
        {"scenes": 10**9},
        {"names": 3},
    ):
        with pytest.raises(UsageError, match=rf"dataset\.{next(iter(change))} must be from"):
            DatasetConfig(**change)


def test_too_few_test_users_are_named(tmp_path):
    config = DatasetConfig(train_users=2, val_users=1, test_users=1, concepts=1, limit_rows=10)
    with pytest.raises(UsageError, match="the dataset needs more test users"):
        build(tmp_path, config)


@pytest.mark.parametrize("name", ["users.csv", "prompts.jsonl", "train/metadata.jsonl"])
def test_files_that_were_not_built_here_are_left(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=f"holds {name}, not built here"):
        build(tmp_path, SMALL)
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["mine"]


def test_half_a_build_of_settings_that_were_corrected_is_taken_over(tmp_path):
    with pytest.raises(UsageError, match="the dataset needs more test users"):
        build(tmp_path, DatasetConfig(train_users=2, val_users=1, test_users=1, concepts=1, limit_rows=10))
    old = {path.name for path in (tmp_path / "train").glob("*.jpg")}
    build(tmp_path, dataclasses.replace(FEW, seed=12))
    rows = (tmp_path / "train/metadata.jsonl").read_text()
    assert old - {path.name for path in (tmp_path / "train").glob("*.jpg")}
    assert all(path.name in rows for path in (tmp_path / "train").glob("*.jpg"))
    assert not (tmp_path / "building.json").exists()


def test_a_damaged_mark_is_told(tmp_path):
    (tmp_path / "dataset.json").write_text('{"fingerprint": ')
    with pytest.raises(OutputError, match=r"dataset\.json is damaged: not JSON"):
        build(tmp_path, SMALL)


def test_ban_list_users_tell_nothing_of_themselves(built):
    users = load_profiles(built / "users.csv")
    assert any(user.banned is not None and user.age is None for user in users)
    assert np.mean([user.banned is not None for user in users]) < 0.5


def test_negative_prompts_of_all_categories_fit_the_tokenizer():
    words = " ".join(dataset.WORDS_TO_AVOID.values()).split()
    assert sorted(words) == sorted(world.MOTIF_CATEGORY)
    assert len(words) + 2 <= 40
    assert json.dumps(dataset.WORDS_TO_AVOID)


def test_captions_alone_are_the_same_rows_without_pictures(few, tmp_path):
    build(tmp_path / "captions", FEW, captions_only=True)
    for split in SPLITS:
        assert load_split(tmp_path / "captions", split, check_pictures=False) == load_split(few, split)
    assert not list((tmp_path / "captions").rglob("*.jpg"))
    with pytest.raises(OutputError, match="holds another dataset"):
        build(tmp_path / "captions", FEW)


def test_some_training_users_have_pictures(few, tmp_path):
    build(tmp_path / "some", dataclasses.replace(FEW, pictured_users=3))
    drawn = {path.name for path in (tmp_path / "some/train").glob("*.jpg")}
    rows = load_split(tmp_path / "some", "train", check_pictures=False)
    assert rows == load_split(few, "train")
    assert drawn == {name for row in rows[: 3 * 2] for name in (row.chosen, row.rejected)}


def test_users_of_the_tests_may_have_no_pictures(few, tmp_path):
    build(tmp_path, dataclasses.replace(FEW, pictured_tests=False))
    for split in SPLITS:
        is_pictured = split in ("train", "val")
        assert load_split(tmp_path, split, check_pictures=is_pictured) == load_split(few, split)
        assert bool(list((tmp_path / split).glob("*.jpg"))) == is_pictured
    with pytest.raises(UsageError, match="pictured_tests must be true or false; saw 1"):
        dataclasses.replace(FEW, pictured_tests=1)
