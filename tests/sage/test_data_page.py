"""docs/DATA.md: its commands run in order, and it names what there is."""

import re
import shlex
from pathlib import Path

import pytest

from psalign.cli import main
from psalign.sage.dataset import NEEDED
from psalign.sage.layout_b import ANNOTATION_COLUMNS, PROMPT_COLUMNS
from psalign.sage.validate import FAULTS

PAGE = (Path(__file__).parents[2] / "docs/DATA.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.S | re.M)
COMMANDS = [line[2:] for kind, block in BLOCKS if kind == "console" for line in block.splitlines()]
OTHERS = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
SMALLER = {
    "users sample": ["-n", "6"],
    "sage build": ["--steps", "1", "--per-category", "1", "--prompts-per-concept", "1"],
}


@pytest.mark.slow
def test_commands_run_in_order(tmp_path, monkeypatch, capsys):
    """Building comes first, whatever the order on the page: the others read what it writes."""
    monkeypatch.chdir(tmp_path)
    order = sorted(COMMANDS, key=lambda command: ("users sample" not in command, "sage build" not in command))
    assert len(order) == 5
    for command in order:
        smaller = next((flags for name, flags in SMALLER.items() if name in command), [])
        assert main([*shlex.split(command)[1:], *smaller]) == 0, capsys.readouterr().err
    assert (tmp_path / "stats.png").stat().st_size > 5_000
    assert (tmp_path / "outputs/export/README.md").is_file()


@pytest.mark.parametrize("command", OTHERS)
def test_the_other_commands_have_these_flags(command, monkeypatch, capsys):
    """Their arguments parse; they need models or a network, so what they call is not run."""
    monkeypatch.setattr("psalign.cli._run", lambda arguments: 0)
    arguments = command[command.index("psalign ") :].replace("<digest>", "0" * 64)
    assert main(shlex.split(arguments)[1:]) == 0, capsys.readouterr().err


def test_columns_and_faults_are_those_of_the_code():
    for name in (*NEEDED, *ANNOTATION_COLUMNS.names, *PROMPT_COLUMNS.names):
        assert f"`{name}`" in PAGE, name
    table = PAGE[PAGE.index("| fault |") : PAGE.index("psalign sage stats")]
    for fault in FAULTS:
        assert fault.split()[-1] in table, fault


def test_flags_of_the_page_are_those_of_the_commands(capsys):
    told = ""
    for name in ("build", "export", "import", "validate", "stats", "download"):
        with pytest.raises(SystemExit):
            main(["sage", name, "--help"])
        told += capsys.readouterr().out
    for flag in set(re.findall(r"`(--[a-z-]+)", PAGE)):
        assert flag in told, flag


def test_links_lead_somewhere():
    for target in re.findall(r"docs/[A-Z]+\.md", PAGE):
        assert (Path(__file__).parents[2] / target).is_file(), target
