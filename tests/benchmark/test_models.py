import pickle

import pytest

from psalign.benchmark.models import ModelsConfig, models_for
from psalign.errors import CheckpointError, UsageError
from psalign.evaluation.metrics.clip_model import CLIP_SCORE_MODEL, Q16_MODEL
from psalign.mini.clip import clip_folder


def test_mini_brings_its_own_models_and_the_others_need_them_given(tmp_path):
    mini, sd15 = models_for("mini"), models_for("sd15")
    assert mini.clip.model == str(clip_folder())
    assert sd15.clip.model == CLIP_SCORE_MODEL
    assert sd15.q16_clip.model == mini.q16_clip.model == Q16_MODEL
    assert (sd15.detector, sd15.features, sd15.q16, sd15.fid_reference) == (None,) * 4
    given = models_for("sdxl", ModelsConfig(clip="x", q16_clip="y", device="cuda", batch_size=3, cache=tmp_path))
    assert (given.clip.model, given.clip.device, given.q16_clip.model) == ("x", "cuda", "y")
    assert (given.batch_size, given.cache) == (3, tmp_path)


def test_nothing_is_loaded_or_looked_for_before_it_is_needed(tmp_path):
    models = models_for("sd15", ModelsConfig(inception=tmp_path / "none.pth", clip=str(tmp_path / "none")))
    with pytest.raises(CheckpointError, match=r"none\.pth, the weights of FID's Inception, does not exist"):
        _ = models.features.name


def test_settings_travel_between_processes_and_unknown_bases_are_refused():
    config = ModelsConfig(device="cuda:1")
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(UsageError, match="Unknown base model 'sd3'; choose one of: sd15, sdxl, mini"):
        models_for("sd3")
