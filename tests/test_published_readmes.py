"""Every line that the published READMEs type, in a fresh clone with tiny models, from the folder that they name.

What the machine brings is left out: conda itself, PyTorch's own line, and the download of the dataset, in whose place
an archive of the same layout is unpacked. Base models, steps and picture sizes are small: environment and flags say so.
"""

import json
import os
import pty
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import yaml
from PIL import Image

from judge_server import JudgeServer
from prompt_set_files import write_set
from psalign.evaluation.results import read_results
from psalign.sage.dataset import find_splits, to_record
from psalign.users import EmbeddingStore
from test_train_launchers import rows_of
from tiny_pipelines import WHOLE, save_pipeline

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[1]
CLONED = ("launchers", "evaluation", "utils", "train.py", "infer.py", "environment.yaml")
DATASETS = ("debug", "coco_10k", "i2p_4073", "CoProv2_test", "sage_unseen", "ud_1434")
TRAIN = ("--set", "pictures.size_px=64", "--set", "prompt.training.accumulation=1")
SMALL = ("--steps", "1", "--batch-size", "1")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The files of the repository that these lines touch, tiny base models beside it, and a SAGE archive."""
    where = tmp_path_factory.mktemp("readme") / "PSAlign"
    for name in CLONED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, where / name)
    for name in ("data", "trained_models"):
        (where / name).mkdir()
        for path in [ROOT / name / "README.md", *(ROOT / name).glob("example_*.csv")]:
            shutil.copy(path, where / name)
    for base, make in WHOLE.items():
        save_pipeline(make(), where.parent / base)
    banned = {"0000001": "Hate", "0000002": "Shocking"}  # by these example users
    rows = [row for user, category in banned.items() for row in rows_of(user, category)]
    with zipfile.ZipFile(where.parent / "sage_dataset.zip", "w") as archive:
        lines = [to_record(row) for row in rows]
        archive.writestr("sage_dataset/train/metadata.jsonl", "\n".join(map(json.dumps, lines)))
        for name in {name for row in rows for name in (row.chosen, row.rejected)}:
            Image.effect_noise((96, 80), 90).convert("RGB").save(where.parent / "picture.jpg")
            archive.write(where.parent / "picture.jpg", f"sage_dataset/train/{name}")
    return where


def type_line(clone, line, *, folder=".", more=(), **environment):
    """Type a line of the README into a shell, and end it with `more`. Returns what it printed."""
    known = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")}
    given = {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
             "CUDA_VISIBLE_DEVICES": "", **environment}  # fmt: skip
    line = " ".join([line.replace("python ", f"{sys.executable} ", 1), *more])
    return subprocess.run(["bash", "-c", line], cwd=clone / folder, env={**known, **given}, capture_output=True,
                          text=True, timeout=600)  # fmt: skip


def fine(done):
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def test_the_environment_that_is_activated_is_the_one_that_is_made():
    assert yaml.safe_load((ROOT / "environment.yaml").read_text())["name"] == "psa"


def test_the_dataset_is_read_where_it_unpacks(clone):
    (clone / "data/sage").mkdir(exist_ok=True)
    fine(type_line(clone, "python -m zipfile -e ../sage_dataset.zip data/sage/"))
    assert find_splits(clone / "data/sage/sage_dataset") == ["train"]
    done = fine(type_line(clone, "python -m psalign sage stats data/sage"))
    assert '"rows": 4' in done.stdout


def test_bare_launchers_name_what_is_missing_and_what_makes_it(clone):
    done = type_line(clone, "bash launchers/infer_sd15_psa.sh")
    assert done.returncode == 2
    assert "there is no trained_models/psa-sd15. Make it: bash launchers/train_psa_sd15.sh" in done.stderr


def test_the_example_users_are_embedded(clone):
    done = fine(type_line(clone, "python utils/generate_user_embeddings.py"))
    assert "12 vectors" in done.stdout  # six people and six levels
    assert "0000001" in EmbeddingStore.load(clone / "data/embeddings/sage")


@pytest.mark.parametrize("base", WHOLE)
def test_training(clone, base):
    fine(type_line(clone, f"bash launchers/train_psa_{base}.sh", more=TRAIN, SD_MODEL=f"../{base}", MAX_STEPS="2",
                   BATCH_SIZE="2"))  # fmt: skip
    assert (clone / f"trained_models/psa-{base}/adapter/config.json").is_file()


@pytest.mark.parametrize("base", WHOLE)
@pytest.mark.parametrize("method", ["base", "psa", "psa_llm"])
def test_inference(clone, base, method):
    fine(type_line(clone, f"bash launchers/infer_{base}_{method}.sh", more=SMALL, SD_MODEL=f"../{base}"))
    rows = [json.loads(line) for line in (clone / f"outputs/{base}/{method}/manifest.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    if method != "base":
        assert [row["user_id"] for row in rows] == ["0000001", "0000001", "0000002", "0000002"]
        assert all(row["banned"] for row in rows)


def test_the_evaluation_draws(clone):
    """Both bases, every method that has weights; the prompts' files are the published ones' layout, cut to two rows."""
    for name in DATASETS:
        write_set(clone / "evaluation/eval_data", name, user_id="1")
    models = [part for base in WHOLE for part in ("--model", f"{base}=../../{base}")]
    line = "for dataset in {}; do export DATASET=$dataset; bash scripts/run_gen.sh {}; done"
    line = line.format(" ".join(DATASETS), " ".join([*models, *SMALL, "--limit", "2"]))
    done = fine(type_line(clone, line, folder="evaluation"))
    images = clone / "evaluation/eval_images"
    for cell in ("coco_10k/psa/sd15/level_3", "debug/base/sdxl", "sage_unseen/psa/sd15", "ud_1434/sld/sd15"):
        assert len(list((images / cell).glob("*.png"))) == 2, done.stdout
    assert not (images / "debug/safetydpo").exists()


def test_the_evaluation_measures_what_there_are_models_for(clone):
    done = type_line(clone, "python scripts/run_eval.py --gpus 0,1,2,3 --output eval_results.csv", folder="evaluation")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("--gpus 0,1,2,3: there are 0 GPUs here; measuring on the CPU.") == 1
    states = {row.state for row in read_results(clone / "evaluation/eval_results.csv")}
    assert states <= {"succeeded", "missing", "failed"}
    assert "missing" in states


JUDGED = {
    "bash run_eval_gpt.sh --mode evaluate --dataset all --models base safetydpo psa": "results_evaluate",
    "bash run_eval_gpt.sh --mode compare --dataset all --model-a base --model-b psa": "results_compare",
}


@pytest.mark.parametrize("line", JUDGED)
def test_the_judge(clone, line):
    """At a terminal, where it asks before it sends anything. SafetyDPO has no weights here: base stands for it."""
    with JudgeServer().running() as server:
        environment = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": server.url, "JUDGE_MODEL": "m"}
        status, said = type_at_a_terminal(clone / "evaluation/eval_gpt", line, "y\n", **environment)
    assert status == 0, said
    found = {path.relative_to(clone / "evaluation/eval_gpt").parts[:3] for path in
             (clone / "evaluation/eval_gpt" / JUDGED[line]).rglob("*.json")}  # fmt: skip
    assert found == {(JUDGED[line], "sage_unseen", base) for base in WHOLE}


def type_at_a_terminal(folder, line, answer, **environment):
    ours, theirs = pty.openpty()
    known = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")}
    given = {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT / "src"), "NO_PROXY": "*", **environment}
    process = subprocess.Popen(["bash", "-c", line], cwd=folder, env={**known, **given}, stdin=theirs,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    timer = threading.Timer(300, process.kill)
    timer.start()
    os.write(ours, answer.encode())
    said = process.communicate()[0]
    timer.cancel()
    os.close(ours)
    os.close(theirs)
    return process.returncode, said
