"""README.md: every command and every block of code runs."""

import re
import shlex
import shutil
from functools import partialmethod
from pathlib import Path

import pytest
from diffusers import StableDiffusionXLPipeline

from conftest import SMALL
from psalign.adapter.checkpoint import save_adapter
from psalign.cli import main
from psalign.users import EmbeddingStore, StructuredEmbedder, UserProfile, level_profiles
from tiny_pipelines import SIZE_PX, random_adapter, sdxl_pipeline

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.S)
COMMANDS = [line[2:] for block in BLOCKS for line in block.splitlines() if line.startswith("$ ")]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
OFFLINE = [code for code in PYTHON if not code.startswith("# needs a download")]
# Prompts of a suite, which eleven cells draw.
FEW = {f"dataset.{suite}": 1 for suite in ("scenes", "seen", "wordings", "two_motifs", "motifs")}
# What makes a command small enough for a test: the same command, fewer steps.
SMALLER = {
    "mini build": [
        *(change for change in SMALL if change.split("=")[0] not in FEW and change.startswith("dataset")),
        *(f"{name}={count}" for name, count in FEW.items()),
    ],
    "train": [*(change for change in SMALL if change.startswith("prompt.")), "prompt.training.queries=words"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_run):
    where = tmp_path_factory.mktemp("readme")
    shutil.copytree(small_run[0], where / "outputs/quickstart")
    return where


def test_it_opens_with_a_picture_and_the_offline_command():
    lines = README.splitlines()
    assert next(i for i, line in enumerate(lines) if "make quickstart" in line) < 25
    picture = re.search(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert (ROOT / picture[1]).stat().st_size > 10_000


def test_make_targets_exist_and_do_what_the_readme_says():
    makefile = (ROOT / "Makefile").read_text()
    targets = [command.split()[1] for command in COMMANDS if command.startswith("make ")]
    assert targets[:2] == ["quickstart", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)
    assert "psalign quickstart --out outputs/quickstart" in makefile  # which tests/test_quickstart.py runs


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("psalign ")])
def test_commands_run_in_order(command, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    arguments = shlex.split(command)[1:]
    for name, changes in SMALLER.items():
        if command.startswith(f"psalign {name}"):
            arguments += [part for change in changes for part in ("--set", change)]
    if arguments[:2] == ["eval", "run"]:
        arguments += ["--workers", "0"]  # in this process
    if "generate" in arguments[:2]:
        arguments += ["--steps", "1"]
    assert main(arguments) == 0, capsys.readouterr().err


@pytest.mark.parametrize("code", OFFLINE)
def test_python_blocks_run(code, folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(compile(code, "README.md", "exec"), {})
    assert Path("anna.png").exists()


def test_three_lines_for_sdxl_run_on_a_tiny_pipeline(folder, monkeypatch):
    """The block as it stands, with a tiny pipeline of SDXL's layout in the place of the download, on the CPU."""
    (code,) = [code for code in PYTHON if code not in OFFLINE]
    assert len(code.splitlines()) <= 15
    pipe = sdxl_pipeline()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(StableDiffusionXLPipeline, "from_pretrained", lambda *args, **kwargs: pipe)
    monkeypatch.setattr(StableDiffusionXLPipeline, "enable_model_cpu_offload", lambda self: None)
    monkeypatch.setattr(
        StableDiffusionXLPipeline, "__call__", partialmethod(draw_small, StableDiffusionXLPipeline.__call__)
    )
    store = EmbeddingStore.build([UserProfile(user_id="33", banned=()), *level_profiles()], StructuredEmbedder(12))
    store.save(Path("data/embeddings/sage"))
    adapter = random_adapter(pipe, "prompt")
    adapter.register_to_config(recipe=store.fingerprint)
    save_adapter(adapter, Path("trained_models/psa-sdxl"))
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert len(names["pictures"]) == 3


def draw_small(self, call, **more):
    return call(self, num_inference_steps=1, height=SIZE_PX, width=SIZE_PX, **more)


def test_commands_named_in_the_text_parse(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    named = re.findall(r"`(psalign (?:users|presets)[^`]*)`", README)
    assert len(named) >= 2
    for command in named:
        assert main(shlex.split(command)[1:]) == 0
