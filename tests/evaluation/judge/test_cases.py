"""Cases of a judge: complete and readable before anything is paid, of the same rows on both sides."""

import pytest

from judge_server import write_cell
from psalign.errors import DatasetError, EvaluationError, UnknownUser, UsageError
from psalign.evaluation.judge.cases import (
    add_persons,
    asked_categories,
    cell_folder,
    load_cases,
    pair_cases,
    split_model,
)
from psalign.records import ManifestRow
from psalign.users.profile import UserProfile

ROWS = [{"banned": ("Hate",), "prompt": "hate"}, {"banned": ("Hate",)}, {}]


def row(file_name="a.png", **meta):
    return ManifestRow(file_name, "p", 1, "base", "sd15", meta=meta)


ASKED = {
    "a word": (row(category="Hate"), ("Hate",)),
    "our order": (row(categories=["Shocking", "hate"]), ("Hate", "Shocking")),
    "commas": (row(categories="sexual, self-harm,illegal activity"), ("Self-Harm", "Sexuality")),
    "none of ours": (row(category="Illegal Activity"), ()),
    "a safe prompt": (row(kind="safe", category=None), ()),
    "mini": (row(kind="unsafe", categories=["Violence", "Hate"], category="Violence"), ("Hate", "Violence")),
    "the file's name": (row("user_0000033_self-harm_a_word_00001.jpg_u.png"), ("Self-Harm",)),
    "the file's name, below a folder": (row("x/user_33_hate_b_00001_u.png"), ("Hate",)),
    "a caption's kind is the last": (row("user_0000033_hate_a_word_00001_s.jpg_u.png"), ("Hate",)),
    "a safe rewrite": (row("user_0000033_hate_a_word_00001.jpg_s.png"), ()),
    "a name in meta": (row(file_name="user_0000033_violence_b_00001_u.jpg"), ("Violence",)),
    "no word": (row("000000012.png", category=None, categories=[]), None),
    "a user of another kind": (row("user_0000033_fun_b_00001_u.png"), None),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_a_prompt_asks_for(case):
    given, expected = ASKED[case]
    assert asked_categories(given) == expected


def test_names_of_models():
    assert split_model("base") == ("base", None)
    assert split_model("psa_level_3") == ("psa", 3)
    assert split_model("negative_prompt") == ("negative_prompt", None)
    for wrong in ("../base", "", "a/b", "-x"):
        with pytest.raises(UsageError, match=r"is no method; expected a name like"):
            split_model(wrong)
    with pytest.raises(UsageError, match=r"'psa_level_9': a level is 0, 1, 2, 3, 4 or 5"):
        split_model("psa_level_9")


def test_a_cell_that_is_not_there_names_those_that_are(tmp_path):
    write_cell(tmp_path, "base", ROWS)
    write_cell(tmp_path, "psa_level_3", ROWS)
    with pytest.raises(UsageError, match=r"psa/sd15 holds no manifest.jsonl; models .*: base, psa_level_3.\nDraw them"):
        cell_folder(tmp_path, dataset="sage_seen", model="psa", base="sd15")
    with pytest.raises(UsageError, match=r"models of sdxl on sage_seen in .*: none"):
        cell_folder(tmp_path, dataset="sage_seen", model="base", base="sdxl")


def test_cases_of_a_cell(tmp_path):
    folder = write_cell(
        tmp_path, "base", [{"banned": ("Shocking", "Hate"), "meta": {"categories": ["Hate", "Violence"]}}]
    )
    (case,) = load_cases(folder)
    assert case.banned == ("Hate", "Shocking")  # in our order
    assert case.allowed == ("Harassment", "Violence", "Self-Harm", "Sexuality", "Propaganda")
    assert (case.asks_banned, case.asks_allowed) == (("Hate",), ("Violence",))
    assert (case.pictures[0].width, case.pictures[0].height, len(case.pictures[0].digest)) == (8, 8, 64)


def test_pictures_that_cannot_be_judged_are_errors(tmp_path):
    folder = write_cell(tmp_path, "base", ROWS)
    (folder / "0001.png").write_bytes((folder / "0001.png").read_bytes()[:60])
    with pytest.raises(EvaluationError, match=r"1 pictures cannot be read as pictures: 0001.png"):
        load_cases(folder)
    (folder / "0001.png").unlink()
    with pytest.raises(EvaluationError, match=r"are in the manifest but missing: 0001.png"):
        load_cases(folder)
    (folder / "0000.png").rename(folder / "0001.png")
    (folder / "more.png").write_bytes(b"")
    with pytest.raises(EvaluationError, match=r"missing: 0000.png"):
        load_cases(folder)
    (folder / "0001.png").rename(folder / "0000.png")
    write_cell(tmp_path / "b", "base", ROWS)
    other = tmp_path / "b/sage_seen/base/sd15"
    (other / "more.png").write_bytes(b"")
    with pytest.raises(EvaluationError, match=r"have no row in the manifest: more.png"):
        load_cases(other)


def test_a_ban_that_is_none(tmp_path):
    folder = write_cell(tmp_path, "base", [{"banned": ("Fun",)}])
    with pytest.raises(DatasetError, match=r"banned must be null or a list out of Hate, .*'Fun'"):
        load_cases(folder)


def test_pairs(tmp_path):
    a, b = write_cell(tmp_path, "base", ROWS), write_cell(tmp_path, "psa", ROWS)
    cases, remarks = pair_cases(a, b)
    assert remarks == []
    assert [[picture.path.parent.parent.name for picture in case.pictures] for case in cases] == [["base", "psa"]] * 3
    assert [case.banned for case in cases] == [("Hate",), ("Hate",), ()]


def test_pairs_with_other_seeds_are_remarked(tmp_path):
    a = write_cell(tmp_path, "base", ROWS)
    b = write_cell(tmp_path, "psa", [*ROWS[:2], {"seed": 99}])
    assert pair_cases(a, b)[1] == ["1 of 3 pairs have two seeds: fair only where seeds are the published ones."]


UNLIKE = {
    "a row less": (ROWS[:2], r"1 pictures of .*base/sd15 are not there: 0002.png"),
    "a row more": ([*ROWS, {}], r"1 pictures of .*psa/sd15 are not there: 0003.png"),
    "another prompt": ([*ROWS[:2], {"prompt": "x"}], r"1 pictures have another prompt than in .*base/sd15: 0002.png"),
    "another user": (
        [*ROWS[:2], {"user_id": "7"}],
        r"1 pictures were drawn for other users, or other bans of theirs, than in .*: 0002.png.\nDraw both",
    ),
    "other bans": ([*ROWS[:2], {"banned": ("Hate",)}], r"or other bans of theirs, than in .*: 0002.png"),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_sides_of_other_rows_do_not_compare(case, tmp_path):
    rows, message = UNLIKE[case]
    a, b = write_cell(tmp_path, "negative_prompt", ROWS), write_cell(tmp_path, "psa", rows)
    message = message.replace("base", "negative_prompt")
    with pytest.raises(EvaluationError, match=message):
        pair_cases(a, b)


def test_a_side_that_is_the_same_for_all_is_judged_for_the_other_sides_user(tmp_path):
    level = [{**row, "user_id": "level_3", "banned": ("Violence",)} for row in ROWS]
    base, psa = write_cell(tmp_path, "base", ROWS), write_cell(tmp_path, "psa_level_3", level)
    for pair in ((base, psa), (psa, base)):
        cases, _ = pair_cases(*pair)
        assert {(case.user_id, case.banned) for case in cases} == {("level_3", ("Violence",))}
    assert {case.banned for case in load_cases(base, bans_of=psa)} == {("Violence",)}
    nobody = write_cell(tmp_path / "n", "sld", [{**row, "user_id": None, "banned": ()} for row in ROWS])
    assert {case.banned for case in pair_cases(nobody, psa)[0]} == {("Violence",)}


def test_a_picture_of_one_user_is_never_judged_for_another(tmp_path):
    level = [{**row, "user_id": "level_3", "banned": ("Violence",)} for row in ROWS]
    own, psa = write_cell(tmp_path, "psa", ROWS), write_cell(tmp_path, "psa_level_3", level)
    with pytest.raises(EvaluationError, match=r"3 pictures were drawn for other users than in .*level_3: 0000.png"):
        load_cases(own, bans_of=psa)
    short = write_cell(tmp_path / "s", "psa_level_3", level[:2])
    base = write_cell(tmp_path, "base", ROWS)
    with pytest.raises(EvaluationError, match=r"1 pictures have no row in .*: 0002.png"):
        load_cases(base, bans_of=short)


def test_persons_are_told_in_words_without_an_id(tmp_path):
    cases = load_cases(write_cell(tmp_path, "base", ROWS))
    profile = UserProfile(user_id="33", age=41, religion="Islam", banned=("Hate",))
    assert add_persons(cases, [profile])[0].person == {"age": 41, "age_group": "middle-aged", "religion": "Islam"}
    with pytest.raises(UnknownUser, match=r"1 users of the pictures have no profile: 0000033.\nGive the users file"):
        add_persons(cases, [UserProfile(user_id="7", age=3)])


def test_a_level_inside_a_folder_is_another_cell(tmp_path):
    own = write_cell(tmp_path, "psa", ROWS)
    level = write_cell(tmp_path, "psa_level_3", ROWS[:2])
    assert level.parent == own
    assert [len(load_cases(folder)) for folder in (own, level)] == [3, 2]


def test_bans_that_are_not_known_are_not_judged(tmp_path):
    """A folder of published vectors says no bans: neither "none banned" nor a guess."""
    unknown = write_cell(tmp_path, "psa", [{"banned": None, "user_id": "0000501"}, {}])
    base = write_cell(tmp_path, "base", [{"banned": None, "user_id": "0000501"}, {}])
    message = r"1 pictures are for users whose banned categories are not known: 0.*--users"
    with pytest.raises(EvaluationError, match=f"(?s){message}"):
        load_cases(unknown)
    with pytest.raises(EvaluationError, match=f"(?s){message}"):
        pair_cases(base, unknown)


def test_a_base_without_bans_is_judged_by_those_of_the_other_side(tmp_path):
    base = write_cell(tmp_path, "base", [{"banned": None}])
    psa = write_cell(tmp_path, "psa", [{"banned": ("Hate",)}])
    assert pair_cases(base, psa)[0][0].banned == ("Hate",)
