"""What is read of a text: against the UNet's own attention, and only from where it may come."""

import pytest
import torch

from helpers import tiny_unet
from psalign.adapter.text import encode_texts
from psalign.diffusion.reader import (
    POOL,
    Draw,
    Reader,
    find_cross_attentions,
    noise_pools,
    random_pools,
    sample_pools,
    word_pools,
)


@pytest.fixture
def reader():
    unet = tiny_unet()
    return Reader(unet, random_pools(unet, seed=1))


def states(count, *, seed=0):
    return torch.randn((count, 5, 16), generator=torch.Generator().manual_seed(seed))


def test_a_reading_is_what_the_attention_gives(reader):
    """diffusers' own attention, given pixels whose queries are those of the pool: to_q set to the identity."""
    attention, texts, picks = reader.attentions[1], states(3), torch.tensor([4, 0, 9])
    with torch.no_grad():
        attention.to_q.weight.copy_(torch.eye(len(attention.to_q.weight)))
        pixels = reader.pools[1][picks].expand(3, -1, -1)
        expected = attention(pixels, encoder_hidden_states=texts)
        torch.testing.assert_close(reader.read(texts, 1, picks), expected)


def test_the_error_of_a_text_to_itself_is_0_and_of_others_their_mean(reader):
    """By hand: mean over layers of the mean squared difference over the layer's spread."""
    draw = reader.draw(torch.Generator().manual_seed(2), layers=0, queries=6)
    one, other = states(4), states(4, seed=1)
    reader.measure_spreads(states(20, seed=3))
    assert torch.equal(reader.error(one, one, draw), torch.zeros(4))
    by_layer = [
        (reader.read(one, layer, picks) - reader.read(other, layer, picks)).square().mean((1, 2))
        / reader.spreads[layer]
        for layer, picks in zip(draw.layers, draw.queries, strict=True)
    ]
    torch.testing.assert_close(reader.error(one, other, draw), sum(by_layer) / len(by_layer))


def test_no_gradient_flows_into_the_target(reader):
    draw = reader.draw(torch.Generator().manual_seed(2), layers=0, queries=6)
    one, other = states(2).requires_grad_(), states(2, seed=1).requires_grad_()
    reader.error(one, other, draw).sum().backward()
    assert one.grad.abs().sum() > 0
    assert other.grad is None


def test_some_layers_are_drawn_and_the_same_from_the_same_seed(reader):
    draws = [reader.draw(torch.Generator().manual_seed(s), layers=2, queries=8) for s in (1, 1, 2, 3, 4)]
    assert draws[0].layers == draws[1].layers
    assert torch.equal(draws[0].queries, draws[1].queries)
    assert all(len(draw.layers) == 2 and draw.queries.shape == (2, 8) for draw in draws)
    assert len({tuple(draw.layers) for draw in draws}) > 1
    everything = reader.draw(torch.Generator(), layers=0, queries=1)
    assert everything.layers == list(range(len(reader)))


def test_a_layer_that_reads_next_to_nothing_neither_drowns_the_others_nor_is_drawn_from(reader):
    texts, (largest, small, nothing) = states(20, seed=3), (0, 1, 2)
    reader.measure_spreads(texts)
    for layer, share in ((small, 0.05), (nothing, 0.001)):
        scale = (share * reader.spreads[largest] / reader.spreads[layer]).sqrt()
        with torch.no_grad():
            reader.attentions[layer].to_out[0].weight.mul_(scale)
    reader.measure_spreads(texts, floor=0.1)
    assert reader.spreads[small] == reader.spreads[nothing] == pytest.approx(0.1 * float(reader.spreads.max()))
    drawn = reader.draw(torch.Generator(), layers=0, queries=1).layers
    assert small in drawn
    assert nothing not in drawn
    reader.measure_spreads(texts)
    assert reader.draw(torch.Generator(), layers=0, queries=1).layers == list(range(len(reader)))


def test_pools_of_every_source_have_one_shape_and_differ(mini_pipeline):
    captions = ["a red cat on the left, in a meadow", "a blue dog on the right, at night"]
    pools = {
        "random": random_pools(mini_pipeline.unet, seed=3),
        "words": word_pools(
            mini_pipeline.unet, torch.randn((12, 128), generator=torch.Generator().manual_seed(1)), seed=3
        ),
        "noise": noise_pools(mini_pipeline, captions, seed=3),
        "samples": sample_pools(mini_pipeline, captions, seed=3),
    }
    widths = [attention.to_q.weight.shape[0] for attention in find_cross_attentions(mini_pipeline.unet)]
    for pool in pools.values():
        assert [tuple(one.shape) for one in pool] == [(POOL, width) for width in widths]
    again = sample_pools(mini_pipeline, captions, seed=3)
    assert all(torch.equal(one, other) for one, other in zip(again, pools["samples"], strict=True))
    assert not any(hook for a in find_cross_attentions(mini_pipeline.unet) for hook in a.to_q._forward_hooks.values())


def test_queries_that_look_for_words_attend_to_single_tokens_more_than_random_ones_do(mini_pipeline):
    unet = mini_pipeline.unet
    texts = encode_texts(mini_pipeline, ["a red cat with a sword on the left, in a meadow"]).prompt_embeds
    words = texts[0, 1:12]
    largest = {}
    for name, pools in {"random": random_pools(unet, seed=0), "words": word_pools(unet, words, seed=0)}.items():
        for attention, pool in zip(find_cross_attentions(unet), pools, strict=True):
            q, k = (x.unflatten(1, (attention.heads, -1)).transpose(0, 1) for x in (pool, attention.to_k(texts)[0]))
            weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
            largest.setdefault(name, []).append(float(weights.amax(-1).mean()))
    assert all(word > 1.3 * random for word, random in zip(largest["words"], largest["random"], strict=True)), largest


def test_a_reading_needs_no_other_layer(reader):
    """Every weight but those of the cross-attentions may be missing."""
    draw = Draw([0], torch.tensor([[0, 1]]))
    before = reader.error(states(2), states(2, seed=1), draw)
    with torch.no_grad():
        for name, weight in reader.unet.named_parameters():
            if "attn2" not in name:
                weight.fill_(torch.nan)
    assert torch.equal(reader.error(states(2), states(2, seed=1), draw), before)
