"""docs/PRIVACY.md says what lies where and who may read it: held against what a full run writes."""

import re
import stat
from fnmatch import fnmatch
from pathlib import Path

import pytest

from psalign.cli import main
from psalign.users import UserProfile

TABLE = (Path(__file__).parents[1] / "docs/PRIVACY.md").read_text()
ROWS = [
    (re.findall(r"`([^`]+)`", names), private == "yes")
    for names, private in re.findall(r"^\| (`.*`) \|.*\| (yes|no) \|$", TABLE, re.MULTILINE)
]
COMMANDS = (
    "users sample -n 40 --out users.csv",
    "users limit add --users users.csv --user 3 spiders",
    "users limit add --users users.csv --user 4 no-zebras --by guardian",
    "users split --users users.csv --val 3 --test 3 --out splits.json",
    "users ban --users users.csv --out bans.jsonl",
    "users pseudonymise --users users.csv --key users.key --out pseudonyms.csv",
    "embed --users users.csv --bans bans.jsonl --out vectors --npy published",
    "users cluster --embeddings vectors -k 2 --out clusters",
)


def row_of(path: Path) -> tuple[list[str], bool]:
    """The first row of the table with a pattern that fits a file, by its name or its name and folder."""
    name = f"{path.parent.name}/{path.name}"
    return next(
        (
            (names, private)
            for names, private in ROWS
            if any(fnmatch(path.name, one) or fnmatch(name, one) for one in names)
        ),
        ([], False),
    )


def is_private(path: Path) -> bool:
    return stat.S_IMODE(path.stat().st_mode) == 0o600


def check(root: Path) -> set[str]:
    """Every file has its row and the mode that it says. Returns the patterns that were met."""
    met = set()
    for path in root.rglob("*"):
        if path.is_file():
            names, private = row_of(path)
            assert names, f"{path} has no row in docs/PRIVACY.md"
            assert is_private(path) == private, (
                f"{path}: docs/PRIVACY.md says {'private' if private else 'not private'}"
            )
            met.update(names)
    return met


def test_the_commands_about_users(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        assert main(command.split()) == 0
    assert {"users.csv", "splits.json", "bans.jsonl", "users.key", "index.json", "*.npy", "clusters.csv"} <= check(
        tmp_path
    )


WORDS = ("users.csv", "pseudonyms.csv", "index.json", "recipe.json")  # files that may hold limits in words


def test_limits_in_words_lie_where_the_page_says_and_nowhere_else(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS[:-1]:
        assert main(command.split()) == 0
    found = {path.name for path in tmp_path.rglob("*") if path.is_file() and b"zebras" in path.read_bytes()}
    assert found == set(WORDS)
    out, err = capfd.readouterr()
    assert out.count("zebras") == 1  # what `add` says to who typed it
    assert err.count("zebras") == 0
    row = next(line for line in TABLE.splitlines() if line.startswith("| `users.csv`"))
    assert "limits" in row


def test_a_dataset_is_built_without_the_limits_of_its_users():
    from psalign.cli.sage_build import _user

    user = _user(UserProfile(user_id="a", age=30, limits=["no zebras", "no violence"]))
    assert user.banned == ("Violence",)
    assert "zebras" not in str(user)


def test_a_quickstart(small_run):
    assert {"users.csv", "*/metadata.jsonl", "manifest.jsonl", "results.csv", "log.csv"} <= check(small_run[0])


def test_the_table_was_read():
    assert len(ROWS) >= 15
