"""What many tests need once: the shipped mini base, a small run of the quickstart, and a measured benchmark."""

import gc
import os
import signal

import diffusers.hooks.group_offloading  # its log handler keeps the stderr of its import, which must not be one test's
import pytest
import torch
import transformers  # noqa: F401  the same
from filelock import FileLock

gc.disable()  # until everything is imported: see pytest_collection_finish


def pytest_collection_modifyitems(items):
    """The first file that needs the small run comes first: nobody waits for that run, which one process makes."""
    first = next((item.path for item in items if "small_run" in getattr(item, "fixturenames", ())), None)
    items.sort(key=lambda item: item.path != first)


def pytest_collection_finish():
    """What is imported stays, some 3,000 modules: no garbage collection of a test looks through it again."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def quiet_and_repeatable():
    torch.manual_seed(0)
    # One: the models are tiny, and threads on a busy machine mostly wait for each other. `make test` has two workers.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))


@pytest.fixture(scope="session", autouse=True)
def hooks_are_found_quickly():
    """Before every call diffusers asks each layer whether it is offloaded; nn.Module answers slowly that it is not."""
    group_offloading = diffusers.hooks.group_offloading
    search = group_offloading._get_top_level_group_offload_hook
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_offloading, search.__name__, lambda part: search(part) if _has_hook(part) else None)
        yield


def _has_hook(part):
    return any("_diffusers_hook" in vars(layer) for layer in part.modules())


@pytest.fixture(scope="session")
def mini_pipeline_source():
    from psalign.diffusion.base_models import mini_folder

    return mini_folder()


@pytest.fixture(scope="session")
def loaded_mini():
    from psalign.diffusion.base_models import load_pipeline

    return load_pipeline("mini")


@pytest.fixture
def mini_pipeline(loaded_mini):
    """The shipped base, fresh: a test may attach to it."""
    from helpers import copied_pipeline

    return copied_pipeline(loaded_mini, requires_safety_checker=False)


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """A shell starts background jobs with Ctrl-C ignored, which their children inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


SMALL = (
    "dataset.limit_rows=14",
    "dataset.train_users=40",
    "dataset.pictured_users=40",
    "dataset.val_users=1",
    "dataset.test_users=30",
    "dataset.concepts=2",
    "dataset.scenes=7",
    "dataset.seen=2",
    "dataset.wordings=2",
    "dataset.two_motifs=2",
    "dataset.motifs=2",
    "dataset.safe=3",  # KID needs three pictures
    "dataset.levels=1",
    "generation.steps=1",
    "prompt.training.steps=3",
    "prompt.training.batch_size=4",
    "prompt.training.save_every=2",
    "published.training.steps=2",
    "published.training.batch_size=4",
)


@pytest.fixture(scope="session")
def small_preset():
    from psalign.config import load_preset

    return {**load_preset("mini-quickstart", changes=SMALL), "vectors": "structured"}


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, small_preset):
    """A very small quickstart, made once for all workers: (folder, rows of results.csv). It is only read."""
    from psalign.evaluation.results import read_results
    from psalign.quickstart import run

    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent  # of all workers of this run
    out = place / "small-run"
    with FileLock(place / "small-run.lock"):
        if not (out / "report.html").exists():
            run(out, small_preset)
    return out, read_results(out / "results.csv")


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory):
    """Paths of a benchmark of several methods, measured and judged. It is only read."""
    from benchmark_world import build

    return build(tmp_path_factory.mktemp("benchmark"), prompts=28)
