"""psalign serve: its people, keys and audit, and what it refuses before anything is loaded."""

import json
import logging
import socket
import stat

import pytest

from commands import run
from psalign.adapter.checkpoint import save_adapter
from psalign.categories import read_taxonomy, use_taxonomy
from psalign.cli import _parser, main
from psalign.cli.serve import recipe_of
from psalign.errors import TaxonomyMismatch
from psalign.serve import require_libraries
from psalign.serve.loading import load
from serving import random_adapter
from taxonomies import write_taxonomy

SHOP = ("--account", "shop", "--id", "anna")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def logs_as_before():
    """`psalign serve` sends the logs of this process to a stderr that ends with the test."""
    loggers = [logging.getLogger(name) for name in ("psalign.serve", "uvicorn", "uvicorn.error")]
    before = [(one.handlers, one.propagate, one.level) for one in loggers]
    yield
    for one, (handlers, propagate, level) in zip(loggers, before, strict=True):
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


def serve(capsys, *arguments):
    return run(capsys, "serve", *arguments)


def test_people_are_added_shown_exported_and_erased(capsys, folder):
    added = serve(capsys, "users", "add", *SHOP, "--ban", "Violence", "--limit", "no spiders", "--age", "41")
    assert added == (0, "1 added; account shop has 1 people.\n", "")
    shown = json.loads(serve(capsys, "users", "show", *SHOP)[1])
    assert shown["banned"] == {"Violence": ["own ban list"]}
    assert shown["limits"] == ["no spiders"]
    assert shown["profile"]["Age"] == 41
    status, out, _ = serve(capsys, "users", "export", *SHOP, "--out", "anna.json")
    assert (status, out) == (0, "Everything that is stored of this person: anna.json\n")
    assert stat.S_IMODE((folder / "anna.json").stat().st_mode) == 0o600
    assert json.loads((folder / "anna.json").read_text())["identifier"] == "anna"
    assert serve(capsys, "users", "erase", *SHOP)[0] == 0
    status, _, err = serve(capsys, "users", "show", *SHOP)
    assert (status, err) == (
        1,
        "UnknownUser: This account has no person of that identifier.\nRun: psalign serve users add --help\n",
    )
    for name in ("people.db", "people.key"):
        assert stat.S_IMODE((folder / "data/serve" / name).stat().st_mode) == 0o600


def test_people_of_a_file_are_added_and_loosening_is_audited(capsys, folder):
    (folder / "users.csv").write_text("User_ID,Banned_Categories\nanna,['Hate']\n33,[]\n")
    add = ("users", "add", "--account", "shop")
    assert serve(capsys, *add, "--users", "users.csv")[1] == "2 added; account shop has 2 people.\n"
    assert json.loads(serve(capsys, "users", "show", "--account", "shop", "--id", "0000033")[1])["banned"] == {}
    serve(capsys, *add, "--id", "anna", "--ban")
    assert serve(capsys, "audit")[1] == ""  # adding nothing takes nothing away
    serve(capsys, *add, "--id", "anna", "--ban", "--replace")
    (row,) = (json.loads(line) for line in serve(capsys, "audit")[1].splitlines())
    assert (row["action"], json.loads(row["facts"])) == ("loosened", {"categories": 1, "phrases": 0})
    assert row["actor"].startswith("cli")
    assert serve(capsys, "audit", "--verify")[1] == "1 rows, each of which follows from those before it.\n"


def test_keys_are_made_listed_and_revoked(capsys):
    key = serve(capsys, "keys", "make", "--account", "shop", "--scope", "admin", "--per-minute", "5")[1].strip()
    key_id = key.split("_")[1]
    assert serve(capsys, "keys", "list")[1] == f"{key_id}  admin       5 a minute  live     shop\n"
    assert serve(capsys, "keys", "revoke", "--id", key_id)[1] == f"Revoked: {key_id}\n"
    assert "revoked" in serve(capsys, "keys", "list")[1]
    status, _, err = serve(capsys, "keys", "revoke", "--id", key_id)
    assert (status, err.splitlines()[1]) == (1, "Run: psalign serve keys list")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("--base mini", 2, "UsageError: A service needs an adapter"),
        ("--base flux --adapter a", 2, "UsageError: Unknown base model 'flux'"),
        ("--adapter a --dtype int4", 2, "UsageError: Unknown dtype"),
        ("--adapter a --max-batch 0", 2, "UsageError: argument --max-batch: expected a whole number"),
        ("--adapter a --unknown nobody", 2, "UsageError: argument --unknown: invalid choice"),
        ("--adapter a --people mysql://a/b", 2, "UsageError: The URL of the database cannot be used"),
        ("--adapter a --in-words --embeddings b", 2, "UsageError: --in-words needs no vectors"),
        ("users add --account shop", 2, "UsageError: Give --users"),
        ("users add --account shop --id a", 2, "UsageError: Nothing was said of this person"),
        ("users add --account shop --id a --ban Nonsense", 1, "ProfileError: column Banned_Categories: saw 'Nonsense'"),
        ("users add --account shop --id a --limit no", 1, "ProfileError: column Limits"),
        ("users erase --account shop --id a", 1, "OutputError: There is no database at data/serve/people.db"),
        ("users show --account shop --id a", 1, "OutputError: There is no database at"),
        ("users export --account shop --id a --out a.json", 1, "OutputError: There is no database at"),
        ("keys list --people typo.db", 1, "OutputError: There is no database at typo.db"),
        ("keys revoke --id 0123456789ab", 1, "OutputError: There is no database at"),
        ("audit --verify", 1, "OutputError: There is no database at"),
        ("--base . --adapter a", 1, "CheckpointError: . is no base model: it has no unet/config.json.\nGive --base"),
        ("--adapter a --device nonsense", 2, "UsageError: There is no device 'nonsense' here; choose one of: cpu"),
        ("--adapter a --device cuda:99", 2, "UsageError: There is no device 'cuda:99' here; choose one of: cpu"),
        ("--adapter a --guidance nan", 2, "UsageError: guidance must be a finite number"),
        ("--adapter a --host 256.1.1.1", 1, "OutputError: The service cannot listen on 256.1.1.1, port 8000: "),
    ],
)
def test_what_makes_no_sense_is_told_with_what_to_do(capsys, folder, arguments, status, said):
    seen, _, err = serve(capsys, *arguments.split())
    assert seen == status
    err = "\n".join(line for line in err.splitlines() if not line.startswith("{"))  # without lines of the log
    assert err.startswith(said), err
    assert "Traceback" not in err
    assert not (folder / "typo.db").exists()


def test_a_port_in_use_is_told_before_anything_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, err = serve(capsys, "--adapter", "nowhere", "--port", str(port))
    assert status == 1
    said, hint = err.splitlines()[-2:]
    assert said == f"OutputError: The service cannot listen on 127.0.0.1, port {port}: Address already in use."
    assert hint.startswith("Give another --port")


def test_people_who_were_stored_under_another_key_are_not_taken_for_strangers(capsys, folder, monkeypatch):
    """A lost key file must not be made anew in silence: everybody would be refused, or have the strictest limits."""
    serve(capsys, "users", "add", *SHOP, "--ban", "Violence")
    (folder / "data/serve/people.key").rename(folder / "kept.key")
    for command in (("--adapter", "nowhere"), ("users", "add", *SHOP, "--ban", "Hate"), ("users", "show", *SHOP)):
        status, _, err = serve(capsys, *command)
        assert status == 2
        assert "UsageError: There is no key at data/serve/people.key, and what is stored was sealed by one.\n" in err
        assert err.endswith("Give the key that this database was made with (PSALIGN_SERVE_KEY or --key-file).\n")
        assert not (folder / "data/serve/people.key").exists()
        with monkeypatch.context() as patch:
            patch.setenv("PSALIGN_SERVE_KEY", "00" * 32)
            status, _, err = serve(capsys, *command)
        assert status == 2
        assert "UsageError: The people of this database were stored under another key.\nGive the key" in err
    assert serve(capsys, "users", "show", *SHOP, "--key-file", "kept.key")[0] == 0


def test_an_adapter_that_is_not_there_ends_the_service_with_its_message(capsys):
    status, _, err = serve(capsys, "--adapter", "nowhere", "--port", "0")
    assert status == 1
    assert "CheckpointError: " in err
    assert "nowhere" in err.splitlines()[-2] + err.splitlines()[-1]
    (listening,) = (line for line in map(json.loads, err.splitlines()[:-2]) if line.get("event") == "listening")
    assert (listening["host"], listening["port"] > 0) == ("127.0.0.1", True)  # the port that was free


def test_an_adapter_of_other_categories_is_served_in_words_alone(folder):
    """What `psalign serve` and `psalign demo` load under a taxonomy that the adapter was not trained with."""
    parser, place = _parser(), folder / "adapter"
    save_adapter(random_adapter(), place)
    write_taxonomy(folder / "mine.yaml", {"categories": ["Things", "Other"]})
    with use_taxonomy(read_taxonomy(folder / "mine.yaml")):
        for name in ("serve", "demo"):
            plain, in_words = (
                parser.parse_args([name, "--adapter", str(place), *more]) for more in ([], ["--in-words"])
            )
            with pytest.raises(TaxonomyMismatch, match="--in-words"):
                load(recipe_of(plain))
            assert recipe_of(in_words).in_words
        loaded = load(recipe_of(in_words))
    assert loaded.artist.attached.adapter.in_words
    assert loaded.strangers.in_words


def test_a_group_inside_the_command_prints_its_help(capsys):
    for group in ("users", "keys"):
        status, out, _ = serve(capsys, group)
        assert (status, out.split()[:4]) == (0, ["usage:", "psalign", "serve", group])


def test_a_missing_library_is_answered_with_the_extra(monkeypatch, capsys):
    monkeypatch.setattr("psalign.serve.find_spec", lambda name: None if name == "uvicorn" else object())
    status, _, err = serve(capsys, "--adapter", "a")
    assert (status, err) == (
        1,
        "ExtraMissing: uvicorn is not installed; it comes with the extra 'serve'.\nRun: pip install 'psalign[serve]'\n",
    )
    monkeypatch.undo()
    require_libraries()
    assert main(["serve", "keys", "make", "--account", "shop"]) == 0


def test_the_demo_without_its_library_is_answered_with_the_extra(monkeypatch, capsys):
    monkeypatch.setattr("psalign.serve.find_spec", lambda name: None if name == "gradio" else object())
    status, _, err = run(capsys, "demo")
    assert status == 1
    assert err.startswith("ExtraMissing: gradio is not installed; it comes with the extra 'demo'.")
