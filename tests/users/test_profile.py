import json
import stat
import traceback
from datetime import date

import pytest
from pydantic import ValidationError

from psalign.errors import ProfileError
from psalign.users.limits import Limit
from psalign.users.policy import banned_categories
from psalign.users.profile import (
    AGE_GROUPS,
    MAX_FAULTS_SHOWN,
    UserProfile,
    age_group_of,
    load_profiles,
    read_profile,
    save_profiles,
)
from taxonomies import CATEGORIES

HEADER = "Age,Age_Group,Gender,Religion,Physical_Condition,Mental_Condition,Banned_Categories,Allowed_Categories\n"
FULL = UserProfile(
    user_id="0000033",
    age=41,
    gender="female",
    religion="Islam",
    physical_condition="hearing impairment",
    mental_condition="war",
    banned=("Hate",),
)


def write(folder, text, name="users.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def faults_of(path):
    with pytest.raises(ProfileError) as caught:
        load_profiles(path)
    return str(caught.value)


# --- one profile


def test_words_take_the_spelling_of_the_vocabulary():
    profile = UserProfile(user_id=33, age="41", gender=" Female", religion="ISLAM", banned=["shocking", "self-harm"])
    assert (profile.user_id, profile.age, profile.gender, profile.religion) == ("0000033", 41, "female", "Islam")
    assert profile.banned == ("Self-Harm", "Shocking")  # in the order of CATEGORIES


def test_age_groups_cover_0_to_100_without_overlap():
    assert [age for first, last in AGE_GROUPS.values() for age in range(first, last + 1)] == list(range(101))
    assert [age_group_of(age) for age in (3, 4, 59, 100)] == [
        "infants & toddlers",
        "children",
        "middle-aged",
        "long-lived elderly",
    ]


def test_age_gives_the_age_group_so_that_no_rule_is_lost():
    assert UserProfile(user_id="a", age=7).age_group == "children"
    assert UserProfile(user_id="a", age_group="children").age is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"age": 101}, "saw 101, allowed: a whole number from 0 to 100"),
        ({"age": 3.5}, "saw 3.5, allowed: a whole number from 0 to 100"),
        ({"age": True}, "saw True, allowed: a whole number from 0 to 100"),
        ({"age": "old"}, "saw 'old', allowed: a whole number from 0 to 100"),
        ({"age": 7, "age_group": "elderly"}, "saw 'elderly' beside age 7, allowed: children"),
        ({"gender": "robot"}, "saw 'robot', allowed: male, female"),
        ({"religion": "Jedi"}, "saw 'Jedi', allowed: Christianity, Islam, Buddhism, None"),
        ({"banned": ["Gore"]}, f"saw 'Gore', allowed: {', '.join(CATEGORIES)}"),
        ({"banned": [None]}, "saw None in the list, allowed: Hate"),
        ({"banned": "Hate"}, "saw 'Hate', allowed: a list of Hate"),
        ({"user_id": "../etc"}, "saw '../etc', allowed: 1 to 64 of letters, digits"),
        ({"gender": "x" * 200}, "..., allowed: male, female"),
    ],
)
def test_a_wrong_value_says_what_is_allowed(fields, message):
    with pytest.raises(ValidationError) as caught:
        UserProfile(**{"user_id": "a", **fields})
    assert message in str(caught.value)


def test_unknown_fields_are_refused():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        UserProfile(user_id="a", shoe_size=43)


def test_repr_and_str_show_the_user_id_only():
    assert repr(FULL) == "UserProfile(user_id='0000033')"
    assert str(FULL) == "user_id='0000033'"
    assert "Islam" not in f"{[FULL]}"


def test_profiles_are_frozen_and_copies_are_checked():
    with pytest.raises(ValidationError, match="frozen"):
        FULL.age = 3
    assert FULL.model_copy(update={"banned": ("violence",)}).banned == ("Violence",)
    with pytest.raises(ValidationError, match="beside age 7"):
        FULL.model_copy(update={"age": 7})  # pydantic's own would keep the age group, and lose the rule for children


def test_read_profile_takes_a_record_with_other_columns():
    record = {"User_ID": "33", "AGE": 41, "Religion": "", "Cluster_ID": "19", "prompt": "a cat"}
    assert read_profile(record) == UserProfile(user_id="33", age=41, religion="None")
    with pytest.raises(ProfileError) as caught:
        read_profile({"User_ID": "33", "age": 300, "gender": "robot"})
    assert str(caught.value).splitlines() == [
        "column age: saw 300, allowed: a whole number from 0 to 100",
        "column gender: saw 'robot', allowed: male, female",
    ]


# --- files


def test_published_layout(tmp_path):
    text = HEADER + "18,adolescents,male,Islam,healthy,healthy,\"['Propaganda', 'Sexuality']\",\"['Hate']\"\n"
    text += "35,middle-aged,male,None,healthy,healthy,[],\"['Hate']\"\n"
    first, second = load_profiles(write(tmp_path, text))
    assert (first.user_id, second.user_id) == ("0000001", "0000002")
    assert first.banned == ("Sexuality", "Propaganda")
    assert (second.religion, second.banned) == ("None", ())


def test_byte_order_mark_case_order_and_line_ends(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbfGENDER,user id,age\r\nMale,7,30.0\r\n\r\nfemale,level_0,\r\n")
    assert load_profiles(path) == [
        UserProfile(user_id="0000007", age=30, gender="male"),
        UserProfile(user_id="level_0", gender="female"),
    ]


def test_empty_religion_is_none_and_other_empty_cells_are_not_known(tmp_path):
    (profile,) = load_profiles(write(tmp_path, HEADER + "35,,,,,,,\n"))
    assert profile == UserProfile(user_id="1", age=35, religion="None")
    (profile,) = load_profiles(write(tmp_path, HEADER + "35,unknown,unknown,Unknown,,,,\n"))
    assert profile == UserProfile(user_id="1", age=35)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("\"['Hate', 'Self-Harm']\"", ("Hate", "Self-Harm")),
        ('"[""Hate"", ""Self-Harm""]"', ("Hate", "Self-Harm")),
        ('"self-harm,HATE"', ("Hate", "Self-Harm")),
        ("\"('Hate',)\"", ("Hate",)),
        ("[]", ()),
        ("", None),
    ],
)
def test_ban_lists_as_python_or_json_print_them(tmp_path, cell, expected):
    (profile,) = load_profiles(write(tmp_path, f"age,banned\n30,{cell}\n"))
    assert profile.banned == expected


def test_ban_lists_are_never_evaluated(tmp_path):
    trap = tmp_path / "sprung"
    cell = f"[open('{trap}'; 'w')]"
    assert "allowed: Hate" in faults_of(write(tmp_path, f'age,banned\n30,"{cell}"\n'))
    assert "allowed: Hate" in faults_of(write(tmp_path, "age,banned\n30," + "[" * 10_000 + "\n"))
    assert not trap.exists()


def test_all_faults_at_once_with_row_and_column(tmp_path):
    text = (
        "User_ID,Age,Religion,Banned_Categories\n7,130,Jedi,[]\n7b,30,Islam,[Gore]\n8,30\n7b,30,None,[]\n9,9,None,[]\n"
    )
    path = write(tmp_path, text + "9,9,None,[]\n")
    assert faults_of(path).splitlines() == [
        f"{path}: 5 faults, nothing was loaded.",
        "  row 3: saw 2 cells, expected the 4 of the header",
        "  row 1, column Age: saw '130', allowed: a whole number from 0 to 100",
        "  row 1, column Religion: saw 'Jedi', allowed: Christianity, Islam, Buddhism, None",
        f"  row 2, column Banned_Categories: saw 'Gore', allowed: {', '.join(CATEGORIES)}",
        "  row 6, column User_ID: saw 0000009 again (row 5 has it)",
    ]


def test_a_long_list_of_faults_is_cut_with_its_count(tmp_path):
    message = faults_of(write(tmp_path, "age\n" + "200\n" * (MAX_FAULTS_SHOWN + 5)))
    assert message.startswith(f"{tmp_path}/users.csv: {MAX_FAULTS_SHOWN + 5} faults")
    assert message.endswith("\n  and 5 more")


def test_the_fault_does_not_drag_the_whole_row_into_the_traceback(tmp_path):
    path = write(tmp_path, HEADER + "35,,robot,Islam,healthy,war,,\n")
    with pytest.raises(ProfileError) as caught:
        load_profiles(path)
    shown = "".join(traceback.format_exception(caught.value))
    assert "robot" in shown
    assert "Islam" not in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Age,Relgion\n30,Islam\n", "column Relgion: did you mean Religion? Rename or remove it"),
        ("Age,Bans\n30,[]\n", "column Bans: did you mean Banned_Categories? Rename or remove it"),
        ("Age,Mental\n30,war\n", "column Mental: did you mean Mental_Condition? Rename or remove it"),
        ("Age,age\n30,7\n", "column age: there are two columns for Age, keep one"),
        ("name,shoe\nAnn,3\n", "saw none of the columns User_ID, Age, Age_Group"),
        ("", "is empty; expected a header line"),
        ("Age\n", "has no users, expected one a row."),
        ("User_ID,Gender\n7,\n", "nothing is known of user 0000007, expected a ban list ([] bans nothing)"),
        ('Age\n"30\n', "not a CSV file"),
        (b"Age\n\xff\xfe\n", "not UTF-8 text (byte 4). Save it again as UTF-8."),
        ("User_ID,Age\n1,30\n".encode("utf-16"), "UTF-16 text. Save it again as UTF-8."),
        ("User_ID;Age\n1;30\n", "saw semicolons between its cells, expected commas. Save it again as CSV"),
        ("sep=;\nUser_ID;Age\n1;30\n", "saw semicolons between its cells"),
        ("User_ID\tAge\n1\t30\n", "saw tabs between its cells"),
    ],
)
def test_files_that_could_lose_a_limit_are_refused(tmp_path, text, message):
    assert message in faults_of(write(tmp_path, text))


def test_published_columns_beside_ours_are_no_faults(tmp_path):
    text = "User_ID,Cluster_ID,tsne_x,tsne_y,pca_x,pca_y,Allowed_Categories,Age\n3,1,.1,.2,.3,.4,[],50\n"
    assert load_profiles(write(tmp_path, text)) == [UserProfile(user_id="3", age=50)]


def test_no_such_file_and_no_such_format(tmp_path):
    assert faults_of(tmp_path / "users.csv").startswith(f"{tmp_path}/users.csv does not exist.\nRun: psalign users")
    expected = f"{tmp_path}/users.xlsx: saw the suffix '.xlsx', allowed: .csv, .jsonl"
    assert faults_of(tmp_path / "users.xlsx") == expected
    with pytest.raises(ProfileError, match=r"allowed: \.csv, \.jsonl"):
        save_profiles(tmp_path / "users.xlsx", [FULL])


def test_jsonl(tmp_path):
    text = '{"User_ID": 33, "age": 41, "banned_categories": ["Hate"]}\n\n{"religion": "Islam", "age": null}\n'
    assert load_profiles(write(tmp_path, text, "users.jsonl")) == [
        UserProfile(user_id="33", age=41, banned=["Hate"]),
        UserProfile(user_id="0000002", religion="Islam"),
    ]


def test_jsonl_faults(tmp_path):
    path = write(tmp_path, '{"age": 41\n[1]\n{"age": [7]}\n{"age": 41, "banned": {"Hate": 1}}\n', "users.jsonl")
    assert faults_of(path).splitlines()[1:] == [
        "  row 1: not JSON (Expecting ',' delimiter at column 11)",
        "  row 2: expected a JSON object, saw list",
        "  row 3, column age: saw a JSON array, allowed: a whole number from 0 to 100",
        f"  row 4, column banned: saw a JSON object, allowed: a list of {', '.join(CATEGORIES)}",
    ]


@pytest.mark.parametrize("name", ["users.csv", "users.jsonl"])
@pytest.mark.parametrize(
    "profiles",
    [
        [FULL, UserProfile(user_id="level_0", banned=()), UserProfile(user_id="x", age=3)],
        [UserProfile(user_id="y", religion="None"), UserProfile(user_id="z", gender="male")],
        [UserProfile(user_id="level_5", banned=CATEGORIES)],
        [
            UserProfile(
                user_id="a", limits=["no spiders", Limit('a; "b", c', 0.5, until=date(2099, 1, 31), by="operator")]
            ),
            UserProfile(user_id="b", limits=()),
            UserProfile(user_id="c", age=3),
        ],
    ],
)
def test_save_then_load_gives_the_same_profiles(tmp_path, name, profiles):
    path = tmp_path / name
    save_profiles(path, profiles)
    loaded = load_profiles(path)
    assert loaded == profiles
    assert [banned_categories(profile) for profile in loaded] == [banned_categories(profile) for profile in profiles]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_saved_ban_lists_are_json(tmp_path):
    save_profiles(tmp_path / "users.csv", [FULL])
    cell = (tmp_path / "users.csv").read_text().splitlines()[1].split('"', 1)[1].rstrip('"').replace('""', '"')
    assert json.loads(cell) == ["Hate"]


# --- limits in words


def test_limits_of_a_file_as_a_list_or_a_plain_text(tmp_path):
    text = 'User_ID,LIMITS\n7,no spiders; guns\n8,"[""no; semicolon""]"\n9,[]\n'
    first, second, third = load_profiles(write(tmp_path, text))
    assert first.limits == (Limit("no spiders"), Limit("guns"))
    assert second.limits == (Limit("no; semicolon"),)
    assert third.limits == ()
    (profile,) = load_profiles(write(tmp_path, '{"user_id": 7, "limits": ["a spider"]}\n', "users.jsonl"))
    assert profile.limits == (Limit("a spider"),)
    assert load_profiles(write(tmp_path, "User_ID,Age,Limits\n7,30,unknown\n8,30,\n"))[0].limits is None


def test_faults_of_limits_do_not_repeat_them(tmp_path):
    text = "User_ID,Limits\n7,no secret; !!!\n8,[secret\n9,unknown\n10," + "secret " * 40 + "\n"
    assert faults_of(write(tmp_path, text)).splitlines()[1:] == [
        '  row 1, column Limits: limit 2: A limit has no letter and no digit, expected a few words, as "no spiders".',
        '  row 2, column Limits: The limits begin like JSON and are none, expected as ["no spiders", "no guns"].',
        "  row 3, column Banned_Categories: nothing is known of user 0000009, expected a ban list ([] bans nothing) or "
        "another field",
        "  row 4, column Limits: limit 1: A limit has 279 characters, expected at most 24 words and 200 characters; "
        "give several limits.",
    ]
    words = "sec" + "ret "
    with pytest.raises(ValidationError) as caught:
        UserProfile(user_id="a", limits=words * 40)
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    assert "did you mean Limits?" in faults_of(write(tmp_path, "User_ID,Limit\n7,spiders\n"))


def test_a_dump_without_limits_is_as_before_there_were_any():
    assert "limits" not in FULL.model_dump()
    dumped = FULL.model_copy(update={"limits": [Limit("guns", 0.5)]}).model_dump()
    assert dumped["limits"] == [{"text": "guns", "strength": 0.5}]
    assert UserProfile(**json.loads(json.dumps(dumped))).limits == (Limit("guns", 0.5),)
