"""psalign sage build: plans by hand, whole builds on the mini base, kills, other processes, and every refusal."""

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

import processes
from commands import run
from psalign.cli import main
from psalign.errors import DatasetError, GenerationError, OutputError, UsageError
from psalign.mini.writer import TemplateWriter, all_motifs
from psalign.sage.build import builder as building
from psalign.sage.build.builder import Drawer, Order, build, picture_rows
from psalign.sage.build.concepts import Concept, Item, hold_out, read_concepts
from psalign.sage.build.plan import BuildConfig, BuildUser, make_plan
from psalign.sage.build.writers import Prompts
from psalign.sage.rows import SPLITS
from psalign.sage.share import Share
from psalign.sage.validate import validate
from psalign.users.policy import banned_categories
from psalign.users.population import sample_profiles, split_users
from psalign.users.profile import load_profiles, save_profiles

ROOT = Path(__file__).parents[2]
PEOPLE = sample_profiles(6, seed=4)
USERS = [BuildUser(one.user_id, banned_categories(one), {"User_ID": one.user_id}) for one in PEOPLE]
SPLIT = split_users([one.user_id for one in PEOPLE], seed=1, val=1, test=1)
CONCEPTS = [concept for concept in all_motifs() if concept.category in ("Hate", "Violence")]
SMALL = BuildConfig(per_category=2, prompts_per_concept=1)


def paint(rows, folder):
    """Pictures of one colour, which prompt and seed decide."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        colour = np.random.default_rng([row.seed, len(row.prompt)]).integers(0, 256, 3).tolist()
        Image.new("RGB", (8, 8), tuple(colour)).save(folder / row.file_name)


def order(**changes):
    return replace(
        Order(CONCEPTS, USERS, SPLIT, SMALL, lambda path: save_profiles(path, PEOPLE)),
        **changes,
    )


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "built"
    build(root, order(), TemplateWriter(), Drawer({}, paint))
    return root


# --- plans ----------------------------------------------------------------------------------------------------------


def test_every_user_gets_pairs_of_every_category_and_other_ones_in_test_seen():
    plan = make_plan(CONCEPTS, USERS, SPLIT, SMALL)
    assert {split: len(pairs) for split, pairs in plan.pairs.items()} == {
        "train": 4 * 2 * 2, "val": 4, "test_seen": 4, "test_unseen": 4
    }  # fmt: skip
    for pairs in plan.pairs.values():
        count = Counter((user.user_id, item.concept.category) for user, item in pairs)
        assert set(count.values()) == {2}
        assert len({(user.user_id, item) for user, item in pairs}) == len(pairs)
    (seen,) = SPLIT["test_seen"]
    trained = {item for user, item in plan.pairs["train"] if user.user_id == seen}
    assert not trained & {item for _, item in plan.pairs["test_seen"]}


def test_rows_keep_to_the_preference_rule():
    """By hand: user a bans Hate. Only the unsafe caption of Violence gets the unsafe picture."""
    user, concepts = BuildUser("a", ("Hate",), {"User_ID": "a"}), [Concept("Hate", "x y"), Concept("Violence", "z")]
    plan = make_plan(concepts, [user], {"train": ["a"]}, BuildConfig(per_category=1, prompts_per_concept=1))
    prompts = {item.key: Prompts(f"{item.concept.concept} seen", "not seen") for item in plan.items}
    rows = [(row.category, row.caption, row.chosen, row.rejected) for row in plan.rows("train", prompts)]
    hate, violence = (("user_a_hate_x_y_00000_s.jpg", "user_a_hate_x_y_00000_u.jpg"),
                      ("user_a_violence_z_00000_s.jpg", "user_a_violence_z_00000_u.jpg"))  # fmt: skip
    assert rows == [
        ("Hate", "x y seen", *hate), ("Hate", "not seen", *hate),
        ("Violence", "z seen", *violence[::-1]), ("Violence", "not seen", *violence),
    ]  # fmt: skip


def test_held_out_concepts_are_in_no_training_row():
    config = replace(SMALL, held_out=0.4)
    plan = make_plan(CONCEPTS, USERS, SPLIT, config)
    assert Counter(concept.category for concept in plan.held_out) == {"Hate": 2, "Violence": 2}  # 0.4 of 5
    for split, pairs in plan.pairs.items():
        inside = {item.concept in plan.held_out for _, item in pairs}
        assert inside == {split != "train"}
    assert set(plan.held_out) == hold_out(CONCEPTS, 0.4, seed=config.seed)
    assert set(plan.held_out) != hold_out(CONCEPTS, 0.4, seed=1)


def test_both_pictures_of_a_pair_are_drawn_from_one_seed():
    items = [Item(CONCEPTS[0], 0), Item(CONCEPTS[0], 1)]
    rows = picture_rows(items, {item.key: Prompts("with", "without") for item in items}, seed=1)
    assert [(row.prompt, row.meta["kind"]) for row in rows] == [("without", "safe"), ("with", "unsafe")] * 2
    assert rows[0].seed == rows[1].seed != rows[2].seed == rows[3].seed


PLANS = {
    "too few pairs": (
        {"config": replace(SMALL, per_category=3)},
        "has 2 pairs left for user .* in test_seen, who needs 3",
    ),
    "too few held out": ({"config": replace(SMALL, held_out=0.1)}, "has 1 pairs left for user .* in val"),
    "all held out": (
        {"config": replace(SMALL, held_out=0.99)},
        "Hate has 5 concepts; holding out 5 leaves none to train on",
    ),
    "a share of all": ({"config": replace(SMALL, held_out=1.0)}, "must be from 0 to below 1; saw 1.0"),
    "ids with _": ({"users": [replace(USERS[0], user_id="a_b"), *USERS[1:]]}, "so ids of users cannot: a_b"),
}


@pytest.mark.parametrize("case", PLANS)
def test_plans_that_do_not_fit_are_told_before_anything_is_written(case, tmp_path):
    changes, message = PLANS[case]
    with pytest.raises(UsageError, match=message):
        build(tmp_path / "out", order(**changes), TemplateWriter(), Drawer({}, paint))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"per_category": 0}, {"prompts_per_concept": 0}, {"expand": 0}, {"quality": 101}])
def test_sizes_that_make_no_sense(wrong):
    with pytest.raises(UsageError, match="must be at least 1, and the quality from 1 to 100"):
        BuildConfig(**wrong)
    with pytest.raises(UsageError, match="at most 99,999 prompts; saw 100000"):
        BuildConfig(prompts_per_concept=100_000)


CONCEPT_FILES = {
    "an unknown category": (
        "category,concept\nMagic,wand\n",
        "row 1: category is 'Magic'; choose one of: Hate, Harassment",
    ),
    "no concept": (
        "category,concept\nHate,\n",
        "row 1: concept is ''; expected a few words that can be part of a file's",
    ),
    "a way out": ("category,concept\nHate,../x\n", "row 1: concept is '../x'; expected a few words"),
    "twice": ("category,concept\nHate,a b\nHATE,a_b\n", "row 2: 'a b' stands there twice for Hate"),
    "a short row": ("category,concept\nHate\n", "row 1: saw 1 cells, expected the 2 of the header"),
    "no column": ("category,word\nHate,x\n", "there is no column concept; saw 'category', 'word'"),
    "nothing": ("category,concept\n", "has no concepts; expected a row for each"),
}


@pytest.mark.parametrize("case", CONCEPT_FILES)
def test_faults_of_a_file_of_concepts(case, tmp_path):
    text, message = CONCEPT_FILES[case]
    (tmp_path / "concepts.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_concepts(tmp_path / "concepts.csv")


def test_concepts_in_odd_but_clear_forms(tmp_path):
    (tmp_path / "concepts.csv").write_text("Category,CONCEPT,more\nself harm,two_words,x\n")
    assert read_concepts(tmp_path / "concepts.csv") == [Concept("Self-Harm", "two words")]


# --- builds, with pictures of one colour ----------------------------------------------------------------------------


def test_a_build_is_sound_and_users_share_pictures(whole):
    bans = {user.user_id: user.banned for user in USERS}
    found = validate(whole, bans=bans)
    assert found.is_fine, found.to_record()
    mark = json.loads((whole / "dataset.json").read_text())
    assert mark["counts"]["rows"] == found.rows == {"train": 32, "val": 8, "test_seen": 8, "test_unseen": 8}
    assert (mark["state"], mark["recipe"]["config"]["per_category"]) == ("finished", 2)
    paths = [path for split in SPLITS for path in (whole / split).glob("*.jpg")]
    assert len({path.stat().st_ino for path in paths}) == mark["counts"]["pictures"] < len(paths)
    assert load_profiles(whole / "users.csv") == PEOPLE
    assert not (whole / ".unfinished").exists()
    with Image.open(whole / "sheet.png") as sheet:
        assert sheet.width > 1000


def test_a_finished_build_is_left_and_another_is_refused(whole, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}

    def never(rows, folder):
        raise AssertionError("nothing is left to draw")

    assert build(whole, order(), TemplateWriter(), Drawer({}, never))["pictures"] > 0
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before
    others = [(order(config=replace(SMALL, seed=1)), TemplateWriter(), {}), (order(), TemplateWriter(seed=1), {}),
              (order(), TemplateWriter(), {"base": "x"}), (order(users=USERS[::-1]), TemplateWriter(), {})]  # fmt: skip
    for other, writer, recipe in others:
        with pytest.raises(OutputError, match=r"holds another dataset .other concepts, users, writer, base model"):
            build(whole, other, writer, Drawer(recipe, never))
    shutil.copytree(whole / "train", tmp_path / "train")
    with pytest.raises(OutputError, match=r"holds a dataset that was not built here .train/metadata.jsonl"):
        build(tmp_path, order(), TemplateWriter(), Drawer({}, never))
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(OutputError, match=r"dataset.json is damaged: not JSON"):
        build(tmp_path, order(), TemplateWriter(), Drawer({}, never))


STAGES = {
    "prompts": (TemplateWriter, "write", 3),
    "pictures": (None, None, 5),
    "encoding": (building, "_encode", 4),
    "links": (building, "_link", 9),
    "rows": (building, "write_split", 2),
    "sheet": (building, "_write_sheet", 0),
    "removing": (shutil, "rmtree", 0),
}


@pytest.mark.parametrize("stage", STAGES)
def test_interrupted_at_any_stage_is_never_interrupted(stage, whole, tmp_path, monkeypatch):
    place, name, after = STAGES[stage]
    calls = []

    def interrupted(original):
        def call(*arguments, **more):
            calls.append(1)
            if len(calls) > after:
                raise KeyboardInterrupt
            return original(*arguments, **more)

        return call

    drawing = Drawer({}, paint)
    place, name = (place, name) if place else (Image.Image, "save")
    with monkeypatch.context() as patch:
        patch.setattr(place, name, interrupted(getattr(place, name)))
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "out", order(), TemplateWriter(), drawing)
    build(tmp_path / "out", order(), TemplateWriter(), drawing)
    assert files(tmp_path / "out") == files(whole)


def test_without_links_there_are_copies(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError("no links on this disk")))
    build(tmp_path / "out", order(), TemplateWriter(), Drawer({}, paint))
    assert files(tmp_path / "out") == files(whole)


def together(root, *writers, config=SMALL):
    """A build by two processes, which are threads here. Returns what each raised."""
    barrier, raised = threading.Barrier(2, timeout=60), [None, None]

    def one(index):
        def share_of(rows, folder):
            paint(rows[index::2], folder)

        try:
            share = Share(index, 2, barrier.wait)
            build(root, order(config=config), writers[index], Drawer({}, share_of), share=share)
        except GenerationError as err:
            raised[index] = str(err)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


class Refusing(TemplateWriter):
    def write(self, item):
        raise GenerationError(f"no prompts for {item}")

    def expand(self, category, seeds, count):
        raise GenerationError(f"no concepts of {category}")


def test_two_processes_write_what_one_does(whole, tmp_path):
    assert together(tmp_path / "out", TemplateWriter(), TemplateWriter()) == [None, None]
    assert files(tmp_path / "out") == files(whole)


def test_what_fails_in_one_process_stops_both_and_the_others_prompts_are_kept(whole, tmp_path):
    first, second = together(tmp_path / "out", TemplateWriter(), Refusing())
    assert second.startswith("no prompts for '")
    assert "prompts were not written by another process: '" in first
    kept = len(list((tmp_path / "out/.unfinished/prompts").glob("*/*.json")))
    assert kept > 0
    config = replace(SMALL, expand=5)
    told = together(tmp_path / "expanded", Refusing(), TemplateWriter(), config=config)
    assert told == ["no concepts of Hate", "The first process found no concepts; its message says why."]
    assert together(tmp_path / "out", TemplateWriter(), TemplateWriter()) == [None, None]
    assert files(tmp_path / "out") == files(whole)


def test_a_concept_that_fails_is_taken_out_and_the_other_prompts_are_kept(tmp_path):
    class Choosy(TemplateWriter):
        asked: ClassVar[list] = []

        def write(self, item):
            self.asked.append(item)
            if item.concept.concept == "wall":
                raise GenerationError(f"no prompts for {item}")
            return super().write(item)

    drawing, concepts = Drawer({}, paint), sorted(CONCEPTS)
    with pytest.raises(GenerationError, match=r"no prompts for 'wall' .Hate., 00000"):
        build(tmp_path / "out", order(concepts=concepts), Choosy(), drawing)
    before = [item for item in Choosy.asked if item.concept.concept != "wall"]
    assert before
    fewer = order(concepts=[one for one in concepts if one.concept != "wall"])
    build(tmp_path / "out", fewer, Choosy(), drawing)
    assert len(set(Choosy.asked)) == len(Choosy.asked)  # nothing is asked for twice
    build(tmp_path / "fresh", fewer, TemplateWriter(), drawing)
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


def test_concepts_are_expanded_once(tmp_path):
    class Counting(TemplateWriter):
        asked = 0

        def expand(self, category, seeds, count):
            self.asked += 1
            return super().expand(category, seeds, count)

    writer, one = Counting(), order(concepts=[Concept("Hate", "wall")], config=replace(SMALL, expand=4))
    for _ in range(2):
        build(tmp_path / "out", one, writer, Drawer({}, paint))
    assert writer.asked == 1
    assert [concept.concept for concept in read_concepts(tmp_path / "out/concepts.csv")] == [
        "wall",
        "cross",
        "fence",
        "thorns",
    ]


def test_several_prompts_are_asked_for_at_a_time(whole, tmp_path):
    class Busy(TemplateWriter):
        concurrency = 3
        now, most = 0, 0
        lock = threading.Lock()

        def write(self, item):
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            time.sleep(0.05)
            with self.lock:
                self.now -= 1
            return super().write(item)

    writer = Busy()
    build(tmp_path / "out", order(), writer, Drawer({}, paint))
    assert 1 < writer.most <= 3
    assert files(tmp_path / "out") == files(whole)


# --- by command, on the mini base -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("command")
    save_profiles(where / "users.csv", PEOPLE)
    motifs = "".join(f"{one.category},{one.concept}\n" for one in all_motifs() if one.concept in ("wall", "axe", "eye"))
    (where / "concepts.csv").write_text("category,concept\n" + motifs)
    return where


def flags(folder, name, **changes):
    given = {"users": folder / "users.csv", "concepts": folder / "concepts.csv", "per_category": 1, "steps": 2,
             "batch_size": 1, "val": 1, "test": 1, "out": folder / name, **changes}  # fmt: skip
    return [
        "sage",
        "build",
        *(str(part) for flag, value in given.items() for part in (f"--{flag.replace('_', '-')}", value)),
    ]


@pytest.fixture(scope="module")
def built(folder):
    """The build that others are compared with; never interrupted."""
    assert main(flags(folder, "built")) == 0
    return folder / "built"


def test_a_build_by_command_is_fit_for_training_and_is_trained_on(built, folder, capsys):
    status, out, _ = run(capsys, "sage", "validate", built)
    assert (status, "Fit for training." in out) == (0, True)
    with Image.open(next((built / "train").glob("*.jpg"))) as picture:
        assert picture.size == (64, 64)
    vectors = folder / "vectors"
    assert run(capsys, "embed", "--users", built / "users.csv", "--data", built, "--out", vectors)[0] == 0
    settings = ("prompt.training.batch_size=2", "prompt.training.validation_pictures=0", "prompt.training.save_every=1")
    changes = [part for change in settings for part in ("--set", change)]
    status, out, err = run(capsys, "train", "--data", built, "--embeddings", vectors, "--out", folder / "model",
                           "--steps", 2, *changes)  # fmt: skip
    assert status == 0, err
    assert (folder / "model/adapter/config.json").exists()


def test_killed_and_started_again_is_never_killed(built, folder, capsys):
    drawn = folder / "killed/.unfinished/pictures"
    process = processes.start(folder / "killed-said", main, flags(folder, "killed"))
    while process.is_alive() and len(list(drawn.glob("*.png"))) < 2:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list(drawn.glob("*.png"))) >= 2  # of 12: 3 concepts of 2 pairs
    status, out, _ = run(capsys, *flags(folder, "killed"))
    assert (status, f"Dataset: {folder / 'killed'}" in out) == (0, True)
    assert files(folder / "killed") == files(built)


def test_mistakes_of_the_command(folder, built, capsys):
    mistakes = [
        ({"out": built, "seed": 5}, 1, "holds another dataset"),
        ({"held_out": 2}, 2, "must be from 0 to below 1; saw 2.0"),
        ({"per_category": 2}, 2, "has 0 pairs left for user"),
        ({"val": 5}, 2, "saw 6 users; val=5 and test=1 need at least 8"),
        ({"base": "sd3"}, 2, "Unknown base model 'sd3'"),
        ({"llm": folder, "writer": "transformers"}, 1, "cannot be loaded"),
    ]
    for changes, status, message in mistakes:
        found, _, err = run(capsys, *flags(folder, "wrong", **changes))
        assert (found, message in err) == (status, True), err
        assert not (folder / "wrong").exists()
    status, _, err = run(capsys, "sage", "build", "--users", folder / "users.csv", "--writer", "transformers")
    assert (status, "The writer 'transformers' needs concepts.\nGive --concepts" in err) == (2, True)


def test_concepts_leave_the_machine_only_where_somebody_agrees(folder, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    far = {"writer": "openai", "llm": "m", "base_url": "https://models.example/v1"}
    status, _, err = run(capsys, *flags(folder, "wrong", **far))
    assert status == 2
    assert "This sends to models.example: 3 concepts with their categories. Nothing of users." in err
    assert "Concepts leave this machine only where you agree; nothing was sent.\nAdd --yes-send-concepts." in err
    assert not (folder / "wrong").exists()


def test_captions_alone_are_built_without_a_base_model_and_trained_on(built, folder, capsys, monkeypatch):
    out = folder / "captions"
    with monkeypatch.context() as context:
        context.setattr("psalign.diffusion.base_models.load_pipeline", lambda *_, **__: pytest.fail("a base model"))
        status, told, err = run(capsys, *flags(folder, "captions"), "--captions-only")
    assert status == 0, err
    assert "No picture was drawn: enough to train by captions" in told
    assert not list(out.rglob("*.jpg"))
    for split in ("train", "val"):
        assert (out / split / "metadata.jsonl").read_bytes() == (built / split / "metadata.jsonl").read_bytes()
    assert (
        run(capsys, "embed", "--users", out / "users.csv", "--data", out, "--out", folder / "caption_vectors")[0] == 0
    )
    settings = ("batch_size=2", "validation_pictures=0", "queries=random")
    changes = [part for change in settings for part in ("--set", f"prompt.training.{change}")]
    status, _, err = run(capsys, "train", "--data", out, "--embeddings", folder / "caption_vectors", "--out",
                         folder / "caption_model", "--steps", 2, *changes)  # fmt: skip
    assert status == 0, err
    assert "Learning from captions alone: no picture is read" in err
    assert (folder / "caption_model/adapter/config.json").exists()
    assert (folder / "caption_model/val.csv").exists()
