"""The command line in scripts: one writer at a time, quiet work, closed pipes, JSON, completion of words in a shell."""

import errno
import io
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psalign import cli, progress
from psalign.cli import main
from psalign.cli.environment import explain_error
from psalign.locks import locked
from psalign.users import load_profiles

# --- one writer at a time --------------------------------------------------------------------------------------------


def hold(place, held):
    with locked(place):
        held.set()
        time.sleep(60)


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Another process that holds the file or folder `out`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("psalign.locks.LOCK_WAIT_S", 0.2)
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(Path("out"), held))
    process.start()
    held.wait(30)
    yield process
    process.kill()
    process.join(30)


@pytest.mark.parametrize(
    "command",
    [
        "users sample -n 2 --out out",
        "users ban --users u.csv --out out",
        "embed --users u.csv --out out",
        "mini build --out out",
        "mini reference --data d --out out",
        "train --data d --embeddings e --out out",
        "generate --prompts p.csv --out out",
        "quickstart --out out",
        "sage build --users u.csv --out out",
        "sage export d --out out --plain-ids",
        "adapter convert a --out out",
        "eval report --images i --out out",
        "users levels --picture out",
        "users explain 1 --users u.csv --bans out",
    ],
)
def test_who_comes_second_is_told_who_is_there(command, other, tmp_path, capsys):
    status = main(command.split())
    err = capsys.readouterr().err
    if "explain" in command:  # reads and writes nothing
        assert "is being written" not in err
        return
    assert status == 1
    assert f"OutputError: {tmp_path / 'out'} is being written by process {other.pid} on " in err
    assert os.listdir(tmp_path) == [".out.lock"]


def test_a_lock_of_a_process_that_was_killed_holds_nothing(other, capsys):
    other.kill()
    other.join(30)
    assert main(["users", "sample", "-n", "2", "--out", "out.csv"]) == 0
    with locked(Path("out")):
        pass


def test_of_several_processes_the_first_one_holds_it_for_all(other, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")  # as accelerate launch sets it
    assert main(["users", "levels", "--picture", "out"]) == 0


# --- what the machine says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EPIPE, "Nobody reads the output any more."),
        (errno.ENOSPC, "No space is left on the disk."),
        (errno.EROFS, "The disk is mounted read-only."),
        (errno.EMFILE, "Too many files are open; raise `ulimit -n`."),
        (errno.EIO, "The disk reports an error."),
    ],
)
def test_errors_of_the_machine_are_one_line(number, message, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("psalign.users.population.sample_profiles", fail)
    assert main(["users", "sample"]) == 1
    assert capsys.readouterr().err == f"OutputError: {message}\n"


@pytest.mark.parametrize("err", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"),
                                 RuntimeError("CUDA out of memory. Tried to allocate")])  # fmt: skip
def test_too_little_memory_is_one_line(err, monkeypatch, capsys):
    def fail(*_, **__):
        raise err

    monkeypatch.setattr("psalign.users.population.sample_profiles", fail)
    assert main(["users", "sample"]) == 1
    assert capsys.readouterr().err.startswith("OutputError: There is not enough memory.")


@pytest.mark.parametrize("err", [RuntimeError("shapes do not fit"), OSError("no number"), ValueError("x"), KeyError(1)])
def test_faults_of_the_program_keep_their_traceback(err, monkeypatch):
    def fail(*_, **__):
        raise err

    monkeypatch.setattr("psalign.users.population.sample_profiles", fail)
    with pytest.raises(type(err)):
        main(["users", "sample", "--out", "new.csv"])


def test_a_fault_about_a_path_that_nobody_gave_is_not_ours_to_tell():
    arguments = cli._parser().parse_args(["users", "sample", "--out", "a/users.csv"])
    assert explain_error(PermissionError(errno.EACCES, "Permission denied", "/lib/x"), arguments) is None
    assert explain_error(PermissionError(errno.EACCES, "Permission denied", os.path.abspath("a")), arguments).endswith(
        "/a cannot be used: Permission denied."
    )


def psalign(*words, **settings):
    code = "import sys; from psalign.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    return subprocess.run(
        [sys.executable, "-c", code, *words], text=True, timeout=120, env=environment, **{"stderr": -1, **settings}
    )


def test_a_full_stdout_and_one_that_nobody_reads():
    with open("/dev/full", "w") as full:
        done = psalign("users", "levels", stdout=full)
    assert (done.returncode, done.stderr) == (1, "OutputError: No space is left on the disk.\n")
    reader, writer = os.pipe()
    os.close(reader)
    done = psalign("users", "levels", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "OutputError: Nobody reads the output any more.\n")


@pytest.mark.slow
def test_pipes_are_read_and_written(tmp_path):
    text = "User_ID,Banned_Categories\nanna,\"['Hate']\"\n"
    done = psalign("users", "ban", "--users", "/dev/stdin", "--out", str(tmp_path / "b.jsonl"), input=text, stdout=-1)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "b.jsonl").read_text())["banned"] == ["Hate"]
    done = psalign("users", "sample", "-n", "3", "--out", "/dev/stdout", stdout=-1)
    (tmp_path / "users.csv").write_text("\n".join(done.stdout.splitlines()[:4]))
    assert len(load_profiles(tmp_path / "users.csv")) == 3


# --- quiet -----------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_a_line_is_printed_after_a_minute(monkeypatch):
    stream, now = io.StringIO(), [1000.0]
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.Progress(total=100, desc="training", unit="step") as bar:
        bar._time = lambda: now[0]
        bar.start_t = bar.last_print_t = now[0]
        for _ in range(99):
            now[0] += 2
            bar.update()
    lines = stream.getvalue().splitlines()
    assert 2 <= len(lines) <= 4  # 198 seconds
    assert all(line.startswith("training: ") and "/100" in line for line in lines)


def test_short_work_and_quiet_work_print_nothing(monkeypatch):
    for stream, quiet in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        progress.set_quiet(quiet)
        assert list(progress.Progress(range(3))) == [0, 1, 2]
        assert stream.getvalue() == ""
    progress.set_quiet(False)


def test_a_terminal_has_a_bar(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    for _ in progress.Progress(range(3), desc="drawing", mininterval=0):
        time.sleep(0.01)
    assert "drawing: 100%" in stream.getvalue()


def test_a_base_model_is_loaded_without_a_word(capfd):
    from psalign.diffusion.base_models import load_pipeline

    with cli._quiet_libraries():
        load_pipeline("mini")
    assert capfd.readouterr().err == ""


# --- words -----------------------------------------------------------------------------------------------------------


def test_explain_as_json(tmp_path, capsys):
    (tmp_path / "one.csv").write_text("User_ID,Age,Religion\n33,70,Islam\n")
    assert main(["users", "explain", "33", "--users", str(tmp_path / "one.csv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["user_id"], found["banned"]) == ("0000033", ["Violence", "Sexuality", "Shocking", "Propaganda"])
    assert found["why"]["Sexuality"] == ["religion"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("psalign us", {"users"}),
        ("psalign users f", {"forget"}),
        ("psalign users sample --f", {"--force"}),
        ("psalign generate --prompts a.csv --sch", {"--scheduler"}),
    ],
)
def test_a_shell_completes_commands_and_flags(line, words, capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    typed = line.split()
    ask = f'COMP_WORDS=({line}); COMP_CWORD={len(typed) - 1}; _psalign; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == words


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_too(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "users" in script
    assert "forget" in script
