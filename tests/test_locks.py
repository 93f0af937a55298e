"""A file or folder is rewritten by one process at a time."""

import multiprocessing
import os
from pathlib import Path

from psalign.files import write_text
from psalign.locks import lock_path, locked


def count_up(path: Path, times: int) -> None:
    for _ in range(times):
        with locked(path):
            write_text(path, str(int(path.read_text()) + 1))


def test_a_file_is_rewritten_by_one_process_at_a_time(tmp_path):
    """Four processes add 1 to a number in a file 25 times each: none is lost."""
    path = tmp_path / "count.txt"
    path.write_text("0")
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=count_up, args=(path, 25)) for _ in range(4)]
    for one in others:
        one.start()
    for one in others:
        one.join()
    assert path.read_text() == "100"
    assert [file.name for file in tmp_path.iterdir()] == ["count.txt"]


def test_locks_leave_no_folders_behind_and_may_be_held_twice(tmp_path):
    with locked(tmp_path / "new/inside/a.txt"), locked(tmp_path / "new/inside/a.txt"):
        assert (tmp_path / "new/inside/.a.txt.lock").read_text().startswith(f"process {os.getpid()} on ")
    assert list(tmp_path.iterdir()) == []


def test_a_link_and_what_it_leads_to_have_one_lock(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert lock_path(tmp_path / "link") == lock_path(tmp_path / "real") == tmp_path / ".real.lock"


def test_inputs_that_are_not_there_are_not_locked(tmp_path):
    with locked(inputs=[tmp_path / "none/users.csv", Path("/dev/stdin")]):
        assert list(tmp_path.iterdir()) == []
