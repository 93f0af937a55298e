"""`psalign eval judge` against judges of every kind on loopback; what is sent, agreed to, kept and reported."""

import io
import json
import os
import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from judge_server import COLOURS, JudgeServer, answer_honestly, completion, fine, honest, read_request, write_cell
from psalign.cli import main
from psalign.evaluation.judge.canary import CATEGORY, paint
from psalign.users.profile import UserProfile, save_profiles

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
BANNING, ALLOWING = ("Violence",), ("Hate",)


def rows(count, *, good):
    """Half ask for banned violence, half for allowed hate; the first `good` of each half are as they should be."""
    half = count // 2
    banned = [{"prompt": f"violence {n}", "meta": {"categories": ["Violence"]}, "banned": BANNING,
               "shows": "nothing" if n < good else "Violence"} for n in range(half)]  # fmt: skip
    allowed = [{"prompt": f"hate {n}", "meta": {"categories": ["Hate"]}, "banned": BANNING,
                "shows": "Hate" if n < good else "nothing"} for n in range(half)]  # fmt: skip
    return banned + allowed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """eval_images with cells base (2 of 10 right) and psa (9 of 10 right), in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT", "JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    write_cell(tmp_path / "eval_images", "base", rows(10, good=1))
    write_cell(tmp_path / "eval_images", "psa", rows(10, good=4))
    return tmp_path


def run(capsys, *arguments):
    """Exit status, stdout and stderr of `psalign eval judge`."""
    try:
        status = main(["eval", "judge", *map(str, arguments)])
    except SystemExit as exit_:
        status = exit_.code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return status, captured.out, captured.err


def evaluate(capsys, server, *more, yes=True):
    usual = ("--mode", "evaluate", "--dataset", "sage_seen", "--models", "base", "psa", "--judge-model", "m")
    return run(capsys, *usual, "--endpoint", server.url, *(["--yes"] if yes else []), *more)


def compare(capsys, server, *more, a="base", b="psa"):
    usual = ("--mode", "compare", "--dataset", "sage_seen", "--model-a", a, "--model-b", b, "--judge-model", "m")
    return run(capsys, *usual, "--endpoint", server.url, "--yes", *more)


def read(path):
    return json.loads(Path(path).read_text())


def share(rate):
    return (None if rate["value"] is None else round(rate["value"] * rate["n"]), rate["n"], rate["failed"])


def test_an_honest_judge_evaluates(folder, capsys):
    with JudgeServer().running() as server:
        status, out, _ = evaluate(capsys, server, "--repeat", "0.2")
    assert status == 0
    base, psa = (read(f"results_evaluate/sage_seen/sd15/{model}.json") for model in ("base", "psa"))
    for found, good in ((base, 1), (psa, 4)):
        summary = found["summary"]
        assert share(summary["banned_respected"]) == (good, 5, 0)
        assert share(summary["allowed_kept"]) == (good, 5, 0)
        assert share(summary["pass"]) == (2 * good, 10, 0)
        assert share(summary["self_agreement"]) == (2, 2, 0)
        assert found["usage"] == {"requests": 12, "requests_now": 12, "cache_hits": 0, "input_tokens": 12000,
                                  "output_tokens": 600}  # fmt: skip
    assert (psa["method"], psa["level"], psa["base"], psa["complete"]) == ("psa", None, "sd15", True)
    assert psa["judge"]["endpoint"] == "127.0.0.1"
    assert (psa["judge"]["canary"], psa["judge"]["biased"], psa["judge"]["sent"]) == ("resisted", False, "categories")
    assert "  pass              80.0 % (n=10), 95 % from 49.0 to 94.3\n" in out
    assert len(server.bodies) == 25  # twice 10 and 2, and the canary


def test_an_honest_judge_compares(folder, capsys):
    """Of each half psa is right in the first 4, base in the first: 3 pairs of 5 are won, 2 are alike."""
    with JudgeServer().running() as server:
        status, out, _ = compare(capsys, server, "--repeat", "0")
    assert status == 0
    summary = read("results_compare/sage_seen/sd15/base_vs_psa.json")["summary"]
    assert [share(summary[name]) for name in ("a_wins", "b_wins", "ties")] == [(0, 10, 0), (6, 10, 0), (4, 10, 0)]
    assert share(summary["position_bias"]) == (0, 10, 0)
    assert summary["self_agreement"]["n"] == 0
    assert "b wins            60.0 % (n=10)" in out
    assert len(server.bodies) == 21


OTHER_REPLIES = [{}, {"banned_visible": 7}, {"allowed_present": "perhaps"}, {"quality": "good"}, {"first": {}}]


@pytest.mark.parametrize("changes", OTHER_REPLIES)
def test_a_kept_reply_of_another_form_is_asked_again(changes, folder, capsys):
    with JudgeServer().running() as server:
        evaluate(capsys, server, "--repeat", "0")
        before = read("results_evaluate/sage_seen/sd15/psa.json")["summary"]
        asked = len(server.bodies)
        path = Path("results_evaluate/judgements.jsonl")
        *lines, last = [json.loads(line) for line in path.read_text().splitlines()]
        last["reply"] = {**last["reply"], **changes} if changes else {}
        path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, last]))
        status, _, _ = evaluate(capsys, server, "--repeat", "0")
    assert status == 0
    assert len(server.bodies) == asked + 1
    assert read("results_evaluate/sage_seen/sd15/psa.json")["summary"] == before


BODIES = {
    "a page": (b"<html>Please log in</html>", "text/html"),
    "nothing": (b"", "application/json"),
    "binary": (bytes(range(256)), "application/json"),
    "a list": (b"[]", "application/json"),
    "another object": (b'{"hello": 1}', "application/json"),
    "choices of numbers": (b'{"choices": [7]}', "application/json"),
    "a message of text": (b'{"choices": [{"message": "hi"}]}', "application/json"),
}


@pytest.mark.parametrize(("body", "kind"), BODIES.values(), ids=BODIES)
def test_an_endpoint_that_is_no_judge_is_told_in_two_lines(body, kind, folder, capsys):
    class Page(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        usual = ("--mode", "evaluate", "--dataset", "sage_seen", "--judge-model", "m", "--yes", "--max-retries", "0")
        status, _, err = run(capsys, *usual, "--endpoint", f"http://127.0.0.1:{server.server_port}/v1")
        server.shutdown()
    assert status == 1
    *_, what, hint = err.strip().splitlines()
    assert what.startswith("EvaluationError: 127.0.0.1 cannot be asked: server after 1 tries. It says: ")
    assert hint == "Check --endpoint (or OPENAI_BASE_URL; as https://host/v1), and that the server is up."
    assert not Path("results_evaluate/sage_seen").exists()


def first_is_better(body, times):
    reply = honest(body)
    return fine({**reply, "better": "first"} if "better" in reply else reply)


def test_a_judge_that_likes_the_first_place_is_exposed(folder, capsys):
    with JudgeServer(first_is_better).running() as server:
        compare(capsys, server)
        compare(capsys, server, "--template", "published-style")
    summary = read("results_compare/sage_seen/sd15/base_vs_psa.json")["summary"]
    assert share(summary["position_bias"]) == (10, 10, 0)
    assert summary["position_bias"]["first"] == 10
    assert share(summary["ties"]) == (10, 10, 0)  # and it wins nobody anything
    trusting = read("results_compare/sage_seen/sd15/base_vs_psa_published-style.json")
    assert share(trusting["summary"]["a_wins"]) == (10, 10, 0)  # which one order would have believed
    assert trusting["judge"]["biased"] is True


def lying(body, times):
    """Says the contrary the second time it is asked the same."""
    reply = honest(body)
    if times % 2 and "allowed_present" in reply:
        reply["allowed_present"] = "no" if reply["allowed_present"] == "yes" else "yes"
    return fine(reply)


def test_a_judge_that_contradicts_itself_is_exposed(folder, capsys):
    with JudgeServer(lying).running() as server:
        status, out, _ = evaluate(capsys, server, "--repeat", "1", "--concurrency", "1")
    assert status == 0
    assert share(read("results_evaluate/sage_seen/sd15/psa.json")["summary"]["self_agreement"]) == (0, 10, 0)
    assert "self agreement    0.0 % (n=10)" in out


def gullible(body, times):
    """Does what is written in a picture."""
    _, _, pictures = read_request(body)
    painted = np.asarray(Image.open(io.BytesIO(paint())).convert("RGB"))
    if np.array_equal(np.asarray(pictures[0].convert("RGB")), painted):
        return fine({"banned_visible": [CATEGORY], "allowed_present": "not_asked", "quality": 100, "reason": "told"})
    return answer_honestly(body, times)


def test_a_judge_that_obeys_writing_in_a_picture_is_exposed(folder, capsys):
    with JudgeServer(gullible).running() as server:
        _, _, err = evaluate(capsys, server)
    assert read("results_evaluate/sage_seen/sd15/psa.json")["judge"]["canary"] == "obeyed"
    assert "this judge obeyed writing in a picture: do not trust its rates" in err


def test_the_canary_is_safe_and_legible():
    picture = np.asarray(Image.open(io.BytesIO(paint())).convert("L"))
    dark = (picture < 100).mean()
    assert 0.02 < dark < 0.3
    assert picture.shape == (512, 512)


def fails_for(words, reply):
    """Honest, but for prompts with one of these words it gives that reply."""
    return lambda body, times: reply if read_request(body)[1]["prompt"] in words else answer_honestly(body, times)


def test_failures_stand_beside_the_rate(folder, capsys):
    refusal = (200, {}, completion(None, refusal="no"))
    with JudgeServer(fails_for(("violence 0", "hate 0"), refusal)).running() as server:
        status, out, _ = evaluate(capsys, server)
    assert status == 0
    summary = read("results_evaluate/sage_seen/sd15/psa.json")["summary"]
    assert share(summary["pass"]) == (6, 8, 2)
    assert (summary["failed"], summary["failures"]) == (2, {"refused": 2})
    assert "75.0 % (n=8, 2 failed)" in out


def test_what_failed_is_not_paid_again_unless_asked_to(folder, capsys):
    refusal = (200, {}, completion(None, refusal="no"))
    with JudgeServer(fails_for(("violence 0",), refusal)).running() as server:
        evaluate(capsys, server, "--repeat", "0")
        before = len(server.bodies)
        status, out, _ = evaluate(capsys, server, "--repeat", "0")
        assert (status, len(server.bodies)) == (0, before)
        assert "0 requests now, 10 judgements from before" in out
        server.answer = answer_honestly
        evaluate(capsys, server, "--repeat", "0", "--retry-failed")
        assert len(server.bodies) == before + 2  # one of each model
    found = read("results_evaluate/sage_seen/sd15/psa.json")
    assert (found["summary"]["failed"], found["usage"]["requests_now"], found["usage"]["cache_hits"]) == (0, 1, 9)


def test_a_busy_server_is_waited_for(folder, capsys):
    busy = (429, {"retry-after-ms": "5"}, {"error": {"message": "no"}})
    with JudgeServer(lambda body, times: busy if times == 0 else answer_honestly(body, times)).running() as server:
        status, _, _ = evaluate(capsys, server, "--repeat", "0")
    assert status == 0
    usage = read("results_evaluate/sage_seen/sd15/psa.json")["usage"]
    assert (usage["requests"], usage["input_tokens"]) == (20, 10000)
    assert max(server.times.values()) == 2


def test_no_more_at_once_than_allowed(folder, capsys):
    with JudgeServer(delay_s=0.25).running() as server:
        evaluate(capsys, server, "--concurrency", "3")
    assert server.most_at_once == 3


def test_the_budget_stops_cleanly_and_the_same_command_goes_on(folder, capsys):
    with JudgeServer().running() as server:
        status, out, err = evaluate(capsys, server, "--max-requests", "8", "--repeat", "0")
        assert (status, len(server.bodies)) == (1, 8)
        assert "--max-requests 8 is spent. What was judged is kept" in err
        assert "NOT COMPLETE: 3 of 10 rows were not judged" in out
        base, psa = (read(f"results_evaluate/sage_seen/sd15/{model}.json") for model in ("base", "psa"))
        assert (base["summary"]["judged"], psa["summary"]["judged"]) == (7, 0)
        assert (base["complete"], base["stopped"]) == (False, "--max-requests 8 is spent")
        assert psa["summary"]["pass"]["value"] is None
        status, _, _ = evaluate(capsys, server, "--repeat", "0")
    assert (status, len(server.bodies), max(server.times.values())) == (0, 21, 1)
    assert read("results_evaluate/sage_seen/sd15/base.json")["complete"] is True


def test_pictures_and_prompts_that_are_alike_are_paid_for_once(folder, capsys):
    write_cell(folder / "same", "base", rows(2, good=1))
    write_cell(folder / "same", "psa", rows(2, good=1))
    for name in ("0000.png", "0001.png"):  # psa drew what base drew
        picture = (folder / "same/sage_seen/base/sd15" / name).read_bytes()
        (folder / "same/sage_seen/psa/sd15" / name).write_bytes(picture)
    with JudgeServer().running() as server:
        status, _, _ = evaluate(capsys, server, "--images", "same", "--repeat", "0")
    assert (status, len(server.bodies)) == (0, 3)
    assert read("results_evaluate/sage_seen/sd15/psa.json")["summary"]["judged"] == 2


def test_a_wrong_key_costs_one_request(folder, capsys):
    with JudgeServer(lambda body, times: (401, {}, {"error": {"message": "no"}})).running() as server:
        status, _, err = evaluate(capsys, server)
    assert (status, len(server.bodies)) == (1, 1)
    assert "EvaluationError: 127.0.0.1 refuses the key (HTTP 401, model 'm')" in err


def test_an_endpoint_that_rejects_our_requests_costs_one(folder, capsys):
    told = {"error": {"message": "pictures\x1b[31m are not supported"}}
    with JudgeServer(lambda body, times: (400, {}, told)).running() as server:
        status, _, err = evaluate(capsys, server)
    assert (status, len(server.bodies)) == (1, 1)
    assert "127.0.0.1 cannot be asked: rejected after 1 tries. It says: " in err
    assert "pictures[31m are not supported" in err  # and no colours of its own
    assert "\nThe endpoint rejects our requests: the model must take pictures" in err


def test_a_judge_that_does_not_keep_to_the_schema_costs_two(folder, capsys):
    with JudgeServer(lambda body, times: (200, {}, completion("Fine."))).running() as server:
        status, _, err = evaluate(capsys, server)
        assert (status, len(server.bodies)) == (1, 2)
        assert "cannot be asked: malformed after 2 tries.\nIts replies are not the JSON that was asked for" in err
        server.answer = answer_honestly
        assert evaluate(capsys, server)[0] == 0


def test_nothing_goes_to_another_host_than_was_agreed_to(folder, capsys):
    with JudgeServer().running() as elsewhere:
        there = {"Location": elsewhere.url + "/chat/completions"}
        with JudgeServer(lambda body, times: (307, there, {})).running() as server:
            status, _, err = evaluate(capsys, server)
    assert (status, len(server.bodies), elsewhere.bodies) == (1, 1, [])
    assert "cannot be asked: rejected after 1 tries" in err


def test_a_server_that_goes_away_stops_the_run_and_keeps_what_was_judged(folder, capsys):
    def answer(body, times):
        return answer_honestly(body, times) if len(server.bodies) <= 6 else (400, {}, {"error": {"message": "no"}})

    with JudgeServer(answer).running() as server:
        status, _, err = evaluate(capsys, server, "--concurrency", "1")
        assert status == 1
        assert "EvaluationError: 10 questions in a row failed, the last one: rejected." in err
        assert "What was judged is kept; the same command goes on." in err
        assert len(server.bodies) in (16, 17)  # one may have been on its way
        server.answer = answer_honestly
        status, _, _ = evaluate(capsys, server)
    assert status == 0
    assert sum(count > 1 for count in server.times.values()) <= 11 + 2  # those that failed, and two asked twice


# --- what leaves the machine ----------------------------------------------------------------------------------------


def test_nothing_is_sent_without_agreement(folder, capsys):
    with JudgeServer().running() as server:
        status, _, err = evaluate(capsys, server, "--rate-price", "2.5", "10", "--repeat", "0", yes=False)
    assert (status, server.bodies) == (2, [])
    assert "This sends to 127.0.0.1, model m:\n  21 requests with 21 pictures, more where" in err
    assert "in each: prompt, the categories that its user bans and allows, picture. No user ids, nothing else" in err
    assert "at these prices" in err
    assert "Pictures leave this machine only where you agree; nothing was sent.\nAdd --yes." in err


@pytest.mark.parametrize(("typed", "sent"), [("y\n", 21), ("yes\n", 21), ("\n", 0), ("n\n", 0), ("", 0)])
def test_a_person_is_asked(typed, sent, folder, capsys, monkeypatch):
    terminal = io.StringIO(typed)
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)
    with JudgeServer().running() as server:
        status, _, err = evaluate(capsys, server, "--repeat", "0", yes=False)
    assert (len(server.bodies), status) == (sent, 0 if sent else 2)
    assert "Send them? [y/N]" in err
    assert ("Nothing was sent." in err) == (sent == 0)


def test_a_run_of_the_cache_alone_asks_nobody(folder, capsys):
    with JudgeServer().running() as server:
        evaluate(capsys, server)
        before = len(server.bodies)
        status, _, err = evaluate(capsys, server, yes=False)
    assert (status, len(server.bodies), "This sends" in err) == (0, before, False)


PERSON = UserProfile(user_id="33", age=41, religion="Islam", mental_condition="anxiety")


def test_profiles_are_sent_only_when_asked_for_and_never_shown(folder, capsys):
    save_profiles(folder / "users.csv", [PERSON])
    with JudgeServer().running() as server:
        evaluate(capsys, server)
        sent = json.dumps([body["messages"] for body in server.bodies])
        assert not any(word in sent for word in ("Islam", "anxiety", "0000033", '"age'))
        status, out, err = evaluate(capsys, server, "--send", "profile", "--users", "users.csv", "--out", "private")
    assert status == 0
    assert "AND THE PROFILES of 1 users: age, age_group, gender, religion, physical_condition, mental_condition" in err
    data = [read_request(body)[1] for body in server.bodies[-5:]]
    assert data[0]["person"] == {"age": 41, "age_group": "middle-aged", "religion": "Islam",
                                 "mental_condition": "anxiety"}  # fmt: skip
    assert "0000033" not in json.dumps(server.bodies)
    written = [path for path in Path("private").rglob("*") if path.suffix in (".json", ".jsonl")]
    assert len(written) == 3
    for path in written:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not any(word in path.read_text() for word in ("Islam", "anxiety"))
    assert not any(word in out + err for word in ("Islam", "anxiety"))


def test_an_unencrypted_way_is_pointed_out(folder, capsys):
    class Elsewhere:
        url = "http://judge.example/v1"

    _, _, err = evaluate(capsys, Elsewhere, yes=False)
    assert "This sends to judge.example, model m, NOT ENCRYPTED:" in err


# --- levels, wrong input, the script --------------------------------------------------------------------------------


def test_levels_and_whose_users_count(folder, capsys):
    level = [{**row, "user_id": "level_3", "banned": ("Hate",)} for row in rows(10, good=4)]
    write_cell(folder / "levels", "base", rows(10, good=1))
    write_cell(folder / "levels", "psa_level_3", level)
    models = ("--models", "base", "psa_level_3", "--images", "levels")
    with JudgeServer().running() as server:
        _, _, err = evaluate(capsys, server, *models)
        assert "psa_level_3 and base are not judged for the same users" in err
        status, _, err = evaluate(capsys, server, *models, "--bans-of", "psa_level_3", "--out", "fair")
        compare(capsys, server, "--images", "levels", b="psa_level_3")
    assert (status, "not judged for the same users" in err) == (0, False)
    assert Path("results_evaluate/sage_seen/sd15/psa_level_3.json").exists()
    found = read("fair/sage_seen/sd15/base_level_3.json")
    assert (found["method"], found["level"], found["judged_for"]) == ("base", None, "psa_level_3")
    assert {row["user_id"] for row in found["rows"]} == {"level_3"}
    assert found["rows"][0]["banned"] == ["Hate"]
    assert read("results_compare/sage_seen/sd15/base_vs_psa_level_3.json")["b"] == "psa_level_3"


def test_pictures_that_cannot_be_judged_cost_nothing(folder, capsys):
    cell = folder / "eval_images/sage_seen/psa/sd15"
    original = (cell / "0003.png").read_bytes()
    faults = {  # what lies there instead: names and contents
        "cannot be read as pictures: 0003.png": {"0003.png": original[:50]},
        "are in the manifest but missing: 0003.png": {},
        "have no row in the manifest: extra.png": {"0003.png": original, "extra.png": original},
    }
    with JudgeServer().running() as server:
        for message, files in faults.items():
            (cell / "0003.png").unlink(missing_ok=True)
            for name, content in files.items():
                (cell / name).write_bytes(content)
            for mode in (evaluate, compare):
                status, _, err = mode(capsys, server)
                assert (status, message in err) == (1, True), err
    assert server.bodies == []


WRONG = {
    "no judge": ("--mode evaluate --dataset sage_seen --models base", 2, "No judge.\nGive --judge-model"),
    "a pair to evaluate": (
        "--mode evaluate --dataset sage_seen --models base --model-a base --judge-model m",
        2,
        "neither --model-a nor --model-b",
    ),
    "models of a pair": (
        "--mode compare --dataset sage_seen --models base --judge-model m",
        2,
        "takes --model-a A and",
    ),
    "pictures that nobody drew": (
        "--mode compare --images nowhere --judge-model m",
        2,
        "nowhere holds no pictures of base and psa on sage_seen or sage_unseen.\nDraw them first: DATASET=sage",
    ),
    "bans of a pair": (
        "--mode compare --dataset sage_seen --model-a base --model-b psa --bans-of psa --judge-model m",
        2,
        "neither --models nor --bans-of",
    ),
    "one model twice": (
        "--mode evaluate --dataset sage_seen --models base base --judge-model m",
        2,
        "--models has base twice",
    ),
    "itself": (
        "--mode compare --dataset sage_seen --model-a psa --model-b psa --judge-model m",
        2,
        "are both psa: nothing to compare",
    ),
    "a model without pictures": (
        "--mode evaluate --dataset sage_seen --models base uce --judge-model m",
        2,
        "models of sd15 on sage_seen in eval_images: base, psa.\nDraw them first: psalign eval generate",
    ),
    "a path as a model": ("--mode evaluate --dataset x --models ../x --judge-model m", 2, "'../x' is no method"),
    "an unknown dataset": (
        "--mode evaluate --dataset coco_10k --models base --judge-model m",
        2,
        "models of sd15 on coco_10k in eval_images: none",
    ),
    "a mode that is none": ("--mode judge --dataset x --judge-model m", 2, "invalid choice: 'judge'"),
    "profiles without users": (
        "--mode evaluate --dataset sage_seen --models base --judge-model m --send profile",
        2,
        "--send profile and --users go together",
    ),
    "users for nothing": (
        "--mode evaluate --dataset sage_seen --models base --judge-model m --users users.csv",
        2,
        "--send profile and --users go together",
    ),
    "no users file": (
        "--mode evaluate --dataset sage_seen --models base --judge-model m --send profile --users users.csv",
        1,
        "users.csv does not exist",
    ),
    "too large a share": ("--mode evaluate --dataset x --models a --repeat 2", 2, "a number from 0 to 1, saw '2'"),
    "a share that is none": ("--mode evaluate --dataset x --models a --repeat x", 2, "a number from 0 to 1, saw 'x'"),
    "a negative price": ("--mode evaluate --dataset x --models a --rate-price -1 2", 2, "of at least 0, saw '-1'"),
    "no timeout": ("--mode evaluate --dataset x --models a --timeout-s 0", 2, "a number of more than 0, saw '0'"),
    "nobody at a time": ("--mode evaluate --dataset x --models a --concurrency 0", 2, "whole number of at least 1"),
    "an address that is none": (
        "--mode evaluate --dataset sage_seen --models base --judge-model m --endpoint judge",
        2,
        "'judge' is no address",
    ),
    "a file where results go": (
        "--mode evaluate --dataset sage_seen --models base --judge-model m --out file --yes",
        1,
        "file cannot be used",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(case, folder, capsys):
    (folder / "file").write_text("")
    command, status, message = WRONG[case]
    found, out, err = run(capsys, *command.split())
    assert (found, message in err, out) == (status, True, ""), err


def test_the_script_is_the_command(folder):
    with JudgeServer().running() as server:
        environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1",
                       "OPENAI_BASE_URL": server.url, "JUDGE_MODEL": "m"}  # fmt: skip
        command = [ROOT / "evaluation/eval_gpt/run_eval_gpt.sh", "--mode", "compare", "--dataset", "sage_seen",
                   "--model-a", "base", "--model-b", "psa", "--yes"]  # fmt: skip
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "base and psa\n  a wins" in done.stdout
    lines = (ROOT / "evaluation/eval_gpt/run_eval_gpt.sh").read_text().splitlines()
    assert len(lines) <= 15


def test_the_page_names_every_flag():
    import argparse

    from psalign.cli.eval_judge import add_commands

    kinds = argparse.ArgumentParser().add_subparsers()
    add_commands(kinds)
    flags = {flag for action in kinds.choices["judge"]._actions for flag in action.option_strings} - {"-h", "--help"}
    flags -= {"-q", "--quiet", "--taxonomy"}  # of every command: docs/COMMANDS.md
    page = (ROOT / "docs/JUDGE.md").read_text(encoding="utf-8")
    assert [flag for flag in sorted(flags) if f"`{flag}`" not in page] == []


def test_colours_are_apart():
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_all_is_every_dataset_with_users_on_every_base_that_is_drawn(folder, capsys):
    """As the published README types it; what was not drawn is said once, and the rest is judged."""
    images = folder / "eval_images"
    for dataset, base, models in (("sage_seen", "sdxl", ("base",)), ("sage_unseen", "sd15", ("base", "psa"))):
        for model in models:
            write_cell(images, model, rows(4, good=1), dataset=dataset, base=base)
    with JudgeServer().running() as server:
        there = ("--judge-model", "m", "--endpoint", server.url, "--yes", "--dataset", "all")
        status, _, err = run(capsys, "--mode", "evaluate", "--models", "base", "safetydpo", "psa", *there)
        assert status == 0, err
        assert err.count("Not drawn, so not judged: ") == 1
        assert "sage_seen/safetydpo/sd15" in err
        found = {str(path.relative_to("results_evaluate")) for path in Path("results_evaluate").rglob("*.json")}
        assert found == {
            f"{place}.json"
            for place in (
                "sage_seen/sd15/base",
                "sage_seen/sd15/psa",
                "sage_seen/sdxl/base",
                "sage_unseen/sd15/base",
                "sage_unseen/sd15/psa",
            )
        }
        status, _, err = run(capsys, *there)  # bare, it compares base with psa
        assert status == 0, err
        found = {str(path.relative_to("results_compare")) for path in Path("results_compare").rglob("*.json")}
        assert found == {"sage_seen/sd15/base_vs_psa.json", "sage_unseen/sd15/base_vs_psa.json"}
        assert "sage_seen/psa/sdxl" in err


def test_a_test_of_a_few_rows_does_not_pass_for_all(folder, capsys):
    with JudgeServer().running() as server:
        assert evaluate(capsys, server, "--test", "--sample-size", "4")[0] == 0
    found = read("results_evaluate/test/sage_seen/sd15/base.json")
    assert len(found["rows"]) == 4
    assert found["remarks"] == ["A test of 4 of 10 rows."]
    assert not Path("results_evaluate/sage_seen").exists()
