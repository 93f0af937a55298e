"""A base with embedded guidance (LCM): one row a prompt whatever the guidance, and the limits reach each of them."""

import pytest
import torch
from diffusers import LCMScheduler, UNet2DConditionModel

from psalign.adapter.attach import attach
from psalign.diffusion.generate import Drawing, GenerationConfig, generate
from psalign.records import PromptRow
from psalign.users import EmbeddingStore, StructuredEmbedder, UserProfile
from tiny_pipelines import LLM_DIM, PIPELINES, random_adapter

USERS = EmbeddingStore.build(
    [UserProfile(user_id="anna", banned=("Violence",)), UserProfile(user_id="ben", banned=())],
    StructuredEmbedder(LLM_DIM),
)
ROWS = [PromptRow(f"{name}.png", "a red cat on the left", 7, user_id=name) for name in ("anna", "ben")]


@pytest.fixture(params=list(PIPELINES))
def distilled(request):
    pipeline = PIPELINES[request.param]()
    torch.manual_seed(0)
    shape = {name: value for name, value in pipeline.unet.config.items() if not name.startswith("_")}
    pipeline.unet = UNet2DConditionModel(**{**shape, "time_cond_proj_dim": 8}).eval()
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    return request.param, pipeline


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_users_of_a_batch_are_drawn_with_guidance_embedded(kind, distilled, tmp_path):
    base, pipeline = distilled
    adapter = random_adapter(pipeline, kind)
    adapter.register_to_config(recipe=USERS.fingerprint)
    attached = attach(pipeline, adapter)
    made = {}
    for scale in (1.0, 0.0):
        config = GenerationConfig(method=kind, base=base, steps=2, guidance=7.5, scale=scale, batch_size=2)
        generate(Drawing(pipeline, config, USERS, attached), ROWS, tmp_path / str(scale))
        made[scale] = [(tmp_path / str(scale) / row.file_name).read_bytes() for row in ROWS]
    assert made[0.0][0] == made[0.0][1]  # the base draws one picture for one prompt and seed
    assert made[1.0][0] != made[1.0][1]  # and each user gets their own
    changed = [picture not in made[0.0] for picture in made[1.0]]
    assert changed == [True, kind == "published"]  # who bans nothing gets the base's own picture from kind `prompt`
