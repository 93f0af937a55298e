"""Folded and compressed adapters: the same pictures from less."""

import pytest
import torch

from psalign.adapter.attach import attach
from psalign.adapter.checkpoint import load_adapter, save_adapter
from psalign.adapter.compress import compress, fold
from psalign.adapter.published import PublishedAdapter
from psalign.errors import UsageError
from tiny_pipelines import LLM_DIM, PIPELINES, RECIPE, draw, random_adapter, users

VECTORS = torch.stack([torch.from_numpy(vector) for vector in users().vectors])
POPULATION = torch.randn((60, LLM_DIM), generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize(("base", "guidance"), [("sd15", 4.0), ("sd15", 1.0), ("sdxl", 4.0)])
def test_folded_is_unfolded(base, guidance, tmp_path):
    pipe = PIPELINES[base]()
    adapter = random_adapter(pipe, "published")
    psa = attach(pipe, adapter)
    expected = draw(pipe, psa, users(), scale=[1.0, 0.6], guidance_scale=guidance)
    psa.unload()
    folded, vectors = fold(adapter, VECTORS, recipe="folded")
    assert vectors.shape == (2, sum(adapter.config.widths))
    save_adapter(folded, tmp_path / "folded")
    psa = attach(pipe, load_adapter(tmp_path / "folded"))
    drawn = draw(pipe, psa, vectors, recipe="folded", scale=[1.0, 0.6], guidance_scale=guidance)
    torch.testing.assert_close(drawn, expected, atol=1e-5, rtol=0)
    assert (drawn - draw(PIPELINES[base](), guidance_scale=guidance)).abs().max() > 0.01


def test_compressing_to_full_rank_changes_nothing_but_the_keys(tmp_path):
    """12 coordinates span every user vector, and 48 users' tokens at most 48 dimensions: rank 49 loses nothing."""
    pipe = PIPELINES["sd15"]()
    adapter = random_adapter(pipe, "published")
    made = compress(adapter, POPULATION, rank=49)
    assert made.adapter.config.proj_rank == LLM_DIM
    assert made.users == 12
    save_adapter(made.adapter, tmp_path / "small")
    psa = attach(pipe, adapter)
    expected = draw(pipe, psa, POPULATION[:2], recipe=RECIPE)
    psa.unload()
    drawn = draw(pipe, attach(pipe, load_adapter(tmp_path / "small")), POPULATION[:2], recipe=RECIPE)
    torch.testing.assert_close(drawn, expected, atol=1e-3, rtol=0)


def test_the_error_falls_with_the_rank_and_is_measured_on_other_users():
    adapter = random_adapter(PIPELINES["sd15"](), "published")
    made = [compress(adapter, POPULATION, rank=rank) for rank in (1, 4, 12)]
    assert [m.error for m in made] == sorted((m.error for m in made), reverse=True)
    assert all(m.error <= m.worst for m in made)
    assert made[0].error > 0.1
    assert made[-1].error < 0.1 * made[0].error or made[-1].error < 0.5
    assert all(m.adapter.fp16_bytes < adapter.fp16_bytes for m in made)
    assert made[0].adapter.fp16_bytes == 2 * (LLM_DIM + 768 + 3 * 768 + 768 + sum(adapter.config.widths))


REFUSED = {
    "a prompt adapter": (lambda pipe: fold(random_adapter(pipe, "prompt"), VECTORS, recipe="x"), "kind 'prompt'"),
    "three tokens": (
        lambda pipe: compress(random_adapter(pipe, "published", n_tokens=3), POPULATION, rank=2),
        "Only one token per user can be compressed exactly; this adapter has 3",
    ),
    "five users": (
        lambda pipe: compress(random_adapter(pipe, "published"), POPULATION[:5], rank=2),
        "at least 10 users; saw 5",
    ),
    "no rank": (lambda pipe: compress(random_adapter(pipe, "published"), POPULATION, rank=0), "at least 1; saw 0"),
    "folded twice": (
        lambda pipe: fold(*fold(random_adapter(pipe, "published"), VECTORS, recipe="x"), recipe="x"),
        "folded already",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_made_smaller(case):
    call, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        call(PIPELINES["sd15"]())


@pytest.mark.parametrize(("base", "rank", "limit_mb"), [("sd15", 224, 8), ("sdxl", 64, 12)])
def test_real_sizes_at_the_ranks_the_documentation_names(base, rank, limit_mb):
    """Counted on the meta device, for vectors of width 3584; the sums of widths are those of the real UNets."""
    context_dim, layers, total = {"sd15": (768, 16, 12_480), "sdxl": (2048, 70, 83_200)}[base]
    widths = (*[total // layers] * (layers - 1), total - (layers - 1) * (total // layers))
    shape = {"llm_dim": 3584, "context_dim": context_dim, "n_tokens": 1, "widths": widths}
    with torch.device("meta"):
        full = PublishedAdapter(**shape)
        small = PublishedAdapter(**shape, with_keys=False, proj_rank=rank, value_rank=rank)
    assert full.fp16_bytes / 1e6 == pytest.approx({"sd15": 44, "sdxl": 696}[base], rel=0.01)
    assert small.fp16_bytes <= limit_mb * 1e6
