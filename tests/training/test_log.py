"""The log: fixed columns, appended; steps that are run again are cut."""

import sys
from pathlib import Path

import pytest

from psalign.errors import ExtraMissing, OutputError
from psalign.training.log import Log, read_log


def test_lines_and_empty_cells(tmp_path):
    log = Log(tmp_path / "log.csv", ("loss", "dpo"))
    log.open(step=0)
    log.add(10, {"loss": 0.5})
    log.add(20, {"loss": 0.25, "dpo": 1.0})
    assert (tmp_path / "log.csv").read_text() == "step,loss,dpo\n10,0.5,\n20,0.25,1.0\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's disk that is always full")
def test_a_full_disk_is_told():
    with pytest.raises(OutputError, match="/dev/full cannot be written: No space left on device"):
        Log(Path("/dev/full"), ("loss",)).add(10, {"loss": 0.5})


def test_going_on_cuts_later_and_torn_lines(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n10,0.5\n20,0.25\n30,0.1\n4")
    log = Log(path, ("loss",))
    log.open(step=20)
    log.add(30, {"loss": 0.2})
    assert path.read_text() == "step,loss\n10,0.5\n20,0.25\n30,0.2\n"


@pytest.mark.parametrize("text", ["", "step", "step,loss\n", "step,loss\n10\n"])
def test_logs_with_nothing_whole_in_them(tmp_path, text):
    (tmp_path / "log.csv").write_text(text)
    assert read_log(tmp_path / "log.csv") == []
    assert read_log(tmp_path / "none.csv") == []


@pytest.mark.parametrize("text", ["step,loss\nx,1\n", "step,loss\n10,much\n", "loss,step\n1,2\n", "step\0\n\xff\n"])
def test_what_is_no_log_is_told(tmp_path, text):
    (tmp_path / "log.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(OutputError, match=r"log\.csv(.|\n)*Remove .*log\.csv and run the same command"):
        read_log(tmp_path / "log.csv")


def test_tensorboard_beside_it(tmp_path):
    log = Log(tmp_path / "log.csv", ("loss",), tensorboard=tmp_path / "board")
    log.open(step=0)
    log.add(1, {"loss": 1.0})
    log.close()
    assert list((tmp_path / "board").glob("events*"))


def test_tensorboard_that_is_not_installed_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'psalign\[tensorboard\]'"):
        Log(tmp_path / "log.csv", ("loss",), tensorboard=tmp_path / "board")
