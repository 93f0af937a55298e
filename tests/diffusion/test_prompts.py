"""Prompt files of every form, and what is refused in them."""

import json

import pytest

from psalign.diffusion.prompts import derive_seed, load_meta_file, load_prompts, repeat
from psalign.errors import DatasetError
from psalign.records import PromptRow


def test_prompts_are_read_and_faults_named(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"file_name": "a.png", "prompt": "a cat", "seed": 1}) + "\n")
    assert load_prompts(path) == [PromptRow("a.png", "a cat", 1)]
    path.write_text('{"file_name": "a.png"}\n')
    with pytest.raises(DatasetError, match=r"prompts\.jsonl, row 1: not a prompt row"):
        load_prompts(path)
    with pytest.raises(DatasetError, match="does not exist"):
        load_prompts(tmp_path / "none.jsonl")


def load_row(tmp_path, **changes):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"file_name": "a.png", "prompt": "a cat", "seed": 1, **changes}) + "\n")
    return load_prompts(path)[0]


@pytest.mark.parametrize(
    ("user_id", "expected"),
    [(33, "0000033"), ("33", "0000033"), ("0000033", "0000033"), ("level_3", "level_3"), (None, None)],
)
def test_user_ids_are_spelt_as_everywhere(tmp_path, user_id, expected):
    assert load_row(tmp_path, user_id=user_id).user_id == expected


def test_file_names_are_spelt_one_way(tmp_path):
    assert load_row(tmp_path, file_name="./a//b.png").file_name == "a/b.png"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *(
            ("file_name", value, "a relative path without '..' that ends in .png")
            for value in (5, "", ".png", "a.jpg", "/a.png", "../a.png", "a/../b.png", "a\\b.png", "a.png/", "a\0.png")
        ),
        ("prompt", ["a cat"], "text"),
        ("prompt", None, "text"),
        *(("seed", value, "a whole number from 0 to") for value in (-1, True, 1.0, "1", None, 2**63)),
        *(("user_id", value, "null, or 1 to 64 of letters, digits") for value in (True, 1.5, -3, "", ["0000001"])),
        *(("meta", value, "a JSON object") for value in (None, [], "x")),
    ],
)
def test_values_of_the_wrong_kind_are_refused(tmp_path, name, value, expected):
    with pytest.raises(DatasetError) as caught:
        load_row(tmp_path, **{name: value})
    assert str(caught.value).startswith(f"{tmp_path / 'prompts.jsonl'}, row 1: {name} must be {expected}")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "meta",
    [{"Age": 41}, {"age_group": "x"}, {"GENDER": "x"}, {"Religion": "x"}, {"Physical_Condition": "x"},
     {"mental condition": "x"}, {"User_Data": {}}, {"subject": "cat", "person": [{"religion": "x"}]}],
)  # fmt: skip
def test_profiles_do_not_travel_with_pictures(tmp_path, meta):
    with pytest.raises(DatasetError, match=r"prompts\.jsonl, row 1: meta has .*; profiles never travel with pictures"):
        load_row(tmp_path, meta=meta)


def test_the_faulty_row_is_named(tmp_path):
    path = tmp_path / "prompts.jsonl"
    good = {"file_name": "a.png", "prompt": "a cat", "seed": 1, "meta": {"subject": "cat", "side": "left"}}
    path.write_text("".join(json.dumps(row) + "\n" for row in (good, {**good, "seed": "x"})))
    with pytest.raises(DatasetError, match="row 2: seed must be"):
        load_prompts(path)


def meta_file(tmp_path, text, name="meta.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def test_a_csv_with_profiles(tmp_path):
    """Letter case, a byte order mark, quoted newlines; the profile stands beside the row and not in it."""
    text = '\ufeffPrompt,USER_ID,Age,Gender,category\n"a cat,\nasleep",33,9,,Violence\n"a ""big"" dog",,,,\n'
    first, second = load_meta_file(meta_file(tmp_path, text), seed=7, keep=["Category"])
    assert first.prompt == PromptRow(
        "000000.png", "a cat,\nasleep", derive_seed(7, 0), user_id="0000033", meta={"category": "Violence"}
    )
    assert first.profile == {"age": "9", "gender": ""}
    assert (second.prompt.user_id, second.profile, second.prompt.prompt) == (None, None, 'a "big" dog')


def test_columns_that_nobody_named_stay_out_of_the_manifest(tmp_path, capsys):
    path = meta_file(tmp_path, "prompt,diagnosis,ethnicity,hard\na cat,asthma,x,1\n")
    assert load_meta_file(path)[0].prompt.meta == {}
    told = capsys.readouterr().err
    assert told == "Columns that stay out of the manifest: diagnosis, ethnicity, hard (--keep-columns takes them in).\n"
    assert load_meta_file(path, keep=["hard"])[0].prompt.meta == {"hard": "1"}
    for name in ("colour", "prompt", "age"):
        with pytest.raises(DatasetError, match=f"{name} is no column that can be kept; saw diagnosis, ethnicity"):
            load_meta_file(path, keep=[name])


def test_sage_rows_and_our_own(tmp_path):
    user = {"User_ID": "0000033", "Cluster_ID": "19", "Age": 41, "Religion": "None"}
    name = "user_0000033_violence_a_sword_00001"
    sage = {"file_name": f"{name}_u.jpg_u.jpg", "chosen": f"{name}_s.jpg", "rejected": f"{name}_u.jpg"}
    rows = [
        {**sage, "caption": "a cat with a sword", "user_data": user},
        {"prompt": "a cat", "seed": 5, "meta": {"a": 1}},
    ]
    path = meta_file(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "metadata.jsonl")
    first, second = load_meta_file(path)
    assert first.prompt.file_name == f"{name}_u.jpg_u.png"
    assert (first.prompt.prompt, first.prompt.user_id, first.prompt.meta) == ("a cat with a sword", "0000033", {})
    assert first.profile == {"age": 41, "religion": "None"}
    assert second.prompt == PromptRow("000001.png", "a cat", 5, meta={"a": 1})


FAULTS = {
    "no rows": ("prompt,user_id\n", "has no rows"),
    "nothing at all": ("", "is empty; expected a header line"),
    "no prompt": ("text,user_id\na,b\n", r"there is no column prompt \(or caption\); saw text, user_id"),
    "a cell too many": ("prompt,seed\na,1,2\n", "row 1: saw 3 cells, expected the 2 of the header"),
    "a seed in words": ("prompt,seed\na,one\n", "row 1: seed must be a whole number .* saw 'one'"),
    "two seeds": ("prompt,seed,seed\na,1,2\n", "there are two columns 'seed'; keep one"),
    "two users": ("prompt,user_id,User_ID\na,1,2\n", "row 1: there are two columns user_id; keep one"),
    "nearly a religion": ("prompt,religon\na,Islam\n", r"column religon: did you mean religion\? Rename or remove it"),
    "nearly a ban list": ("prompt,Banned words\na,Hate\n", r"column Banned words: did you mean banned_categories\?"),
    "nearly a user": ("prompt,user\na,7\n", r"column user: did you mean user_id\?"),
    "half a condition": ("prompt,mental\na,war\n", r"column mental: did you mean mental_condition\?"),
    "a way out": ("prompt,file_name\na,../b.png\n", "row 1: file_name must be a relative path"),
    "semicolons": ("prompt;user_id\na;1\n", r"saw semicolons between its cells, expected commas\. Save it again"),
    "an open quote": ('prompt\n"a\n', "not a CSV file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_meta_file(tmp_path, fault):
    text, message = FAULTS[fault]
    with pytest.raises(DatasetError, match=message):
        load_meta_file(meta_file(tmp_path, text))
    with pytest.raises(DatasetError, match="does not exist"):
        load_meta_file(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("prompt", "seen"), [("null", "None"), ("3", "3"), ('["a"]', r"\['a'\]"), ('"a \\ud800 cat"', r"'a \\ud800 cat'")]
)
def test_a_prompt_is_text_that_can_be_written(tmp_path, prompt, seen):
    path = meta_file(tmp_path, f'{{"prompt": {prompt}}}\n', "prompts.jsonl")
    with pytest.raises(DatasetError, match=f"row 1: prompt must be text, of whole characters; saw {seen}"):
        load_meta_file(path)


def test_a_profile_that_is_no_object_is_not_shown(tmp_path):
    path = meta_file(tmp_path, "prompt,user_data\na,\"{'Religion': 'Islam'}\"\n")
    with pytest.raises(DatasetError, match="row 1: user_data must be a JSON object; saw str") as caught:
        load_meta_file(path)
    assert "Islam" not in str(caught.value)


def test_a_user_is_said_once_or_the_same_twice(tmp_path):
    row = {"prompt": "a", "user_id": "0000033", "user_data": {"User_ID": 33, "Age": 41}}
    assert load_meta_file(meta_file(tmp_path, json.dumps(row), "a.jsonl"))[0].prompt.user_id == "0000033"
    row["user_id"] = "34"
    with pytest.raises(DatasetError, match="row 1: user_id is not the one of user_data; give it once"):
        load_meta_file(meta_file(tmp_path, json.dumps(row), "a.jsonl"))


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a"])
def test_a_file_of_another_name_is_told_by_its_first_letter(tmp_path, name):
    assert load_meta_file(meta_file(tmp_path, '\ufeff\n {"prompt": "a cat"}\n', name))[0].prompt.prompt == "a cat"
    assert load_meta_file(meta_file(tmp_path, "prompt\na dog\n", name))[0].prompt.prompt == "a dog"


def test_a_ban_list_is_part_of_the_profile(tmp_path):
    row = load_meta_file(meta_file(tmp_path, 'prompt,banned\na,"[""Hate""]"\n'))[0]
    assert (row.profile, row.prompt.meta) == ({"banned": '["Hate"]'}, {})


def test_seeds_do_not_depend_on_who_draws(tmp_path):
    path = meta_file(tmp_path, "prompt\na\nb\n")
    seeds = [row.prompt.seed for row in load_meta_file(path, seed=1)]
    assert seeds == [row.prompt.seed for row in load_meta_file(path, seed=1)]
    assert len({*seeds, *(row.prompt.seed for row in load_meta_file(path, seed=2))}) == 4


def test_several_pictures_of_a_row():
    rows = repeat([PromptRow("a/b.png", "a cat", 1), PromptRow("c.png", "a dog", 2)], 3)
    assert [row.file_name for row in rows] == ["a/b.png", "a/b_1.png", "a/b_2.png", "c.png", "c_1.png", "c_2.png"]
    assert rows[0].seed == 1
    assert len({row.seed for row in rows}) == 6
