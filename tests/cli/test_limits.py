"""psalign users limit add, list, remove: what they print, what they write, and what they refuse."""

import json
import stat
from datetime import date

import pytest

from commands import run
from psalign.cli import main
from psalign.users import EmbeddingStore, Limit, UserProfile, load_profiles, save_profiles

WHO = ("--users", "users.csv", "--user", "33")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users.csv").write_text(
        'Notes,User_ID,Age,cluster_id\n"a ""quoted"", note",33,41,7\n=1+1,34,30,8\n,35,9,9\n'
    )
    return tmp_path


def limits(user=0, name="users.csv"):
    return load_profiles(name)[user].limits


def test_add_says_how_it_is_understood_and_what_comes_next(folder, capsys):
    status, out, err = run(capsys, "users", "limit", "add", *WHO, "I can't stand spiders or guns", "--strength", "0.5")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "Understood as the phrases spiders, guns; strength 0.5, no end, set by user.",
        "1 limit of user 0000033: users.csv",
        "Next: psalign embed --users users.csv --force",
    ]
    out = run(capsys, "users", "limit", "add", *WHO, "no violence", "--until", "2099-01-31", "--by", "guardian")[1]
    assert out.startswith("Understood as the category Violence, banned fully; strength 1, until 2099-01-31, set by gua")
    assert limits() == (
        Limit("I can't stand spiders or guns", 0.5),
        Limit("no violence", until=date(2099, 1, 31), by="guardian"),
    )
    assert "It has ended already" in run(capsys, "users", "limit", "add", *WHO, "cats", "--until", "2020-01-01")[1]
    assert "banned: the guardian's limit" in run(capsys, "users", "explain", "33", "--users", "users.csv")[1]


def test_all_else_in_the_file_stays(folder, capsys):
    assert run(capsys, "users", "limit", "add", *WHO, '=cmd(), "x" and; y')[0] == 0
    assert (folder / "users.csv").read_text().splitlines() == [
        "Notes,User_ID,Age,cluster_id,Limits",
        '"a ""quoted"", note",33,41,7,"[""=cmd(), \\""x\\"" and; y""]"',
        "=1+1,34,30,8,",
        ",35,9,9,",
    ]
    assert stat.S_IMODE((folder / "users.csv").stat().st_mode) == 0o600
    assert (limits(0), limits(1)) == ((Limit('=cmd(), "x" and; y'),), None)


def test_json_lines_keep_their_keys(folder, capsys):
    (folder / "users.jsonl").write_text(
        '{"user id": 33, "age": 41, "x": {"y": [1]}}\n\n{"user id": 34, "LIMITS": "a cat"}\n'
    )
    for user in ("33", "34"):
        assert run(capsys, "users", "limit", "add", "--users", "users.jsonl", "--user", user, "spiders")[0] == 0
    lines = [json.loads(line) for line in (folder / "users.jsonl").read_text().splitlines()]
    assert lines == [
        {"user id": 33, "age": 41, "x": {"y": [1]}, "LIMITS": ["spiders"]},
        {"user id": 34, "LIMITS": ["a cat", "spiders"]},
    ]


def test_users_without_ids_are_rows(folder, capsys):
    (folder / "users.csv").write_text("Age\n41\n30\n")
    assert run(capsys, "users", "limit", "add", "--users", "users.csv", "--user", "2", "spiders")[0] == 0
    assert (folder / "users.csv").read_text().splitlines() == ["Age,Limits", "41,", '30,"[""spiders""]"']


def test_the_same_limit_is_there_once_and_never_gets_weaker(folder, capsys):
    for text, *flags in (["spiders"], ["I hate spiders", "--strength", "0.1"], ["no spiders", "--until", "2099-01-01"]):
        assert run(capsys, "users", "limit", "add", *WHO, text, *flags)[0] == 0
    assert limits() == (Limit("spiders"),)
    assert run(capsys, "users", "limit", "add", *WHO, "no spiders", "--by", "guardian")[0] == 0
    assert limits() == (Limit("spiders"), Limit("no spiders", by="guardian"))


def test_list(folder, capsys):
    assert run(capsys, "users", "limit", "list", *WHO) == (0, "User 0000033 has no limits in words.\n", "")
    given = ["no hate or cats", Limit("x1", until=date(2020, 1, 1))]
    save_profiles(folder / "users.csv", [UserProfile(user_id=33, limits=given)])
    out = run(capsys, "users", "limit", "list", *WHO)[1]
    assert out.splitlines() == [
        '1  "no hate or cats": the phrases cats and the category Hate, banned fully; strength 1, no end, set by user',
        '2  "x1": the phrases x1; strength 1, until 2020-01-01 (ended), set by user',
    ]
    record = json.loads(run(capsys, "users", "limit", "list", *WHO, "--json")[1])
    assert record["user_id"] == "0000033"
    assert record["limits"][1] == {"number": 2, "text": "x1", "phrases": ["x1"], "categories": [], "strength": 1.0,
                                   "until": "2020-01-01", "by": "user", "active": False}  # fmt: skip


def test_remove_by_text_phrase_or_number_and_rank(folder, capsys):
    set_by_others = [Limit("no guns", by="guardian"), Limit("beer", by="operator")]
    given = [Limit("no spiders"), Limit("cats"), *set_by_others, Limit("2")]
    save_profiles(folder / "users.csv", [UserProfile(user_id=33, limits=given)])
    remove = ("users", "limit", "remove", *WHO)
    assert run(capsys, *remove, "I hate spiders")[0] == 0
    assert run(capsys, *remove, "1")[0] == 0
    assert limits() == tuple(given[2:])
    for which, by, message in (("guns", "user", "set by the guardian, and the user may not"),
                               ("1", "user", "--by guardian"), ("beer", "guardian", "set by the operator"),
                               ("dogs", "operator", "there are 3"), ("4", "user", "there are 3")):  # fmt: skip
        status, out, err = run(capsys, *remove, which, "--by", by)
        assert (status, out, message in err) == (1, "", True)
    assert run(capsys, *remove, "2")[0] == 0  # the limit that says so, not the second one
    assert limits() == tuple(given[2:4])
    assert run(capsys, *remove, "guns", "--by", "operator")[0] == 0
    assert run(capsys, *remove, "beer", "--by", "operator")[0] == 0
    assert limits() == ()


def test_a_user_removes_their_own_and_the_guardians_stays(folder, capsys):
    both = [Limit("no spiders"), Limit("spiders", by="guardian")]
    save_profiles(folder / "users.csv", [UserProfile(user_id=33, limits=both)])
    assert "set by guardian" in run(capsys, "users", "limit", "remove", *WHO, "spiders")[1]
    assert limits() == tuple(both[1:])


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        (["add", *WHO, "no"], 1, "LimitError: A limit says nothing that could be in a picture, expected"),
        (["add", *WHO, "word " * 30], 1, "LimitError: A limit has 30 words, expected at most 24 words"),
        (["add", *WHO, "a\x1bb"], 1, "LimitError: A limit has the character U+001B"),
        (["add", *WHO, "cats", "--strength", "0"], 2, "UsageError: argument --strength: expected a number"),
        (["add", *WHO, "cats", "--until", "soon"], 2, "UsageError: argument --until: The end of a limit is no day"),
        (["add", *WHO, "cats", "--by", "me"], 2, "UsageError: argument --by: invalid choice"),
        (["add", "--users", "users.csv", "--user", "../x", "cats"], 2, "UsageError: argument --user: saw '../x'"),
        (["add", "--users", "users.csv", "--user", "99", "cats"], 1, "UnknownUser: users.csv has no user 0000099"),
        (["add", "--users", "none.csv", "--user", "33", "cats"], 1, "ProfileError: none.csv does not exist"),
        (["add", "--users", "/dev/null", "--user", "33", "cats"], 2, "UsageError: /dev/null is no file"),
        (["list", "--users", "users.csv", "--user", "99"], 1, "UnknownUser: users.csv has no user 0000099"),
    ],
)
def test_what_is_refused_changes_nothing(command, status, message, folder, capsys):
    before = (folder / "users.csv").read_bytes()
    found, out, err = run(capsys, "users", "limit", *command)
    assert (found, out) == (status, "")
    assert err.startswith(message)
    assert (folder / "users.csv").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["users.csv"]


def test_the_thirty_third_phrase_is_refused(folder, capsys):
    save_profiles(folder / "users.csv", [UserProfile(user_id=33, limits=[f"thing {n}" for n in range(31)])])
    assert run(capsys, "users", "limit", "add", *WHO, "cats")[0] == 0
    status, _, err = run(capsys, "users", "limit", "add", *WHO, "dogs")
    assert (status, "There are 33 limits, expected at most 32 phrases of one person" in err) == (1, True)


def test_from_words_to_vectors(folder, capsys):
    assert run(capsys, "users", "limit", "add", *WHO, "no spiders")[0] == 0
    assert run(capsys, "users", "limit", "add", *WHO, "no propaganda")[0] == 0
    assert run(capsys, "embed", "--users", "users.csv", "--out", "vectors")[0] == 0
    store = EmbeddingStore.load(folder / "vectors")
    assert (store.limits("33"), store.banned("33")) == ((("spiders", 1.0),), ("Propaganda",))


@pytest.mark.parametrize("command", ["add", "list", "remove"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit):
        main(["users", "limit", command, "--help"])
    assert f"Example:  psalign users limit {command} --users users.csv --user 0000033" in capsys.readouterr().out
