"""Teaches the mini base's text encoder the world's whole language, beside a UNet that does not change.

Place on the path of data: the last stage of mini/factory/base.py. The UNet has learned to draw the captions
of the mini dataset. Every text of the whole language has such a caption that asks for the same picture; the
text encoder learns to give it states that the UNet's cross-attentions read as they read that caption's
states. No picture is needed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ...diffusion.reader import Reader, sample_pools
from ...fingerprints import fingerprint, weights_fingerprint
from .. import language, world
from ..names import first_words
from .stages import Stage
from .tokenizer import corpus
from .words import Meaning, Words

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

POOL_CAPTIONS = 16  # whose pictures' queries are read with
NEARNESS = 0.5  # of the embedding of another name to that of the first name, before training
LEAST_SPREAD = 0.1  # of a layer's readings, as a share of the largest


@dataclass(frozen=True)
class RewordingConfig:
    """Budget of the language.

    plain: the share of captions that are as in the mini dataset. dropout: the share that are empty.
    layers: the number of the UNet's cross-attentions that a step reads with. queries: the number of queries
    of each.
    words_weight: weight of the loss that is learned from words alone, on the second half of a batch and on
    sentences, a quarter as many.
    """

    steps: int = 1_500
    batch: int = 40
    lr: float = 5e-4
    plain: float = 0.3
    dropout: float = 0.05
    layers: int = 4
    queries: int = 24
    words_weight: float = 0.02


@dataclass(frozen=True)
class Reworded:
    """A text, the caption of the mini dataset that asks for the same picture, and what the text means."""

    text: str
    plain: str
    meaning: Meaning


def train_language(
    pipeline: Any, tokenizer: CLIPTokenizer, config: RewordingConfig, *, seed: int, work: Path
) -> tuple[CLIPTextModel, float]:
    """A text encoder of this tokenizer that the UNet of the pipeline reads as it reads the pipeline's own.

    pipeline: a mini base that draws the captions of the mini dataset. Returns the encoder and the seconds.
    """
    torch.manual_seed(seed)
    frozen = pipeline.text_encoder.eval().requires_grad_(False)
    text_encoder = grow(frozen, pipeline.tokenizer, tokenizer)
    words, plain_words = Words(tokenizer), Words(pipeline.tokenizer)
    head = nn.Linear(text_encoder.config.hidden_size, len(tokenizer), bias=False)
    nn.init.normal_(head.weight, std=0.02)
    reader = cache(partial(_reader, pipeline, plain_words, seed=seed))  # of no use to a stage that is finished

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        rng = np.random.default_rng((seed, step))
        rows = [sample(rng, config) for _ in range(config.batch)]
        sentences, meanings = words.sentences(rng, config.batch // 4)
        ids = words.ids([*(row.text for row in rows), *sentences])
        states = text_encoder(ids).last_hidden_state
        with torch.no_grad():
            wanted = frozen(plain_words.ids([row.plain for row in rows])).last_hidden_state
        draw = reader().draw(generator, layers=config.layers, queries=config.queries)
        reading = reader().error(states[: len(rows)], wanted, draw).mean()
        half = config.batch // 2
        meant = [*(row.meaning for row in rows[half:]), *meanings]
        return reading + config.words_weight * words.loss(ids[half:], head(states[half:]), meant)

    stage = Stage(
        "language",
        {"text_encoder": text_encoder, "head": head},
        steps=config.steps,
        lr=config.lr,
        seed=seed,
        made_of=(
            asdict(config),
            weights_fingerprint({"": frozen}),
            weights_fingerprint({"": pipeline.unet}),
            fingerprint(corpus()),
        ),
    )
    seconds = stage.run(loss, work=work)
    return text_encoder.eval(), seconds


def sample(rng: np.random.Generator, config: RewordingConfig) -> Reworded:
    """A random text of the whole language."""
    if rng.random() < config.dropout:
        return Reworded("", "", Meaning())
    scene = world.sample_scene(rng)
    if rng.random() < config.plain:
        text = world.sample_caption(scene, rng)
        return Reworded(text, text, Meaning(scene.motifs, scene.categories))
    wording = world.pick(rng, world.ALL_WORDINGS + language.MORE_WORDINGS)
    phrasing = language.sample_phrasing(rng, scene)
    # Where a motif is named by its kind alone, no word says which motif it is.
    named = tuple(m for m, how in zip(scene.motifs, phrasing.mentions, strict=True) if how.form != "kind")
    denied = phrasing.denial.motifs if phrasing.denial else ()
    return Reworded(
        language.caption(scene, wording, phrasing),
        language.plain_caption(scene, wording, phrasing),
        Meaning(named, scene.categories, denied),
    )


def grow(old: CLIPTextModel, old_tokenizer: CLIPTokenizer, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text encoder with another vocabulary and one more layer; shared words keep their states exactly.

    The new layer adds nothing before it is trained. A new word begins at random, and another name or a plural
    half way to the first name.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    layers = old.config.num_hidden_layers
    changed = {"vocab_size": len(tokenizer), "num_hidden_layers": layers + 1, **ids}
    model = CLIPTextModel(CLIPTextConfig(**{**old.config.to_dict(), **changed}))
    weights, known, alike = old.state_dict(), old_tokenizer.get_vocab(), first_words()
    embedding = weights.pop("embeddings.token_embedding.weight")
    model.load_state_dict(weights, strict=False)
    added = model.encoder.layers[layers]
    with torch.no_grad():
        new = model.embeddings.token_embedding.weight.normal_(std=float(embedding.std()))
        for word, number in tokenizer.get_vocab().items():
            first = f"{alike.get(word.removesuffix('</w>'))}</w>"
            if word in known:
                new[number] = embedding[known[word]]
            elif first in known:  # as spread as any word, and correlated by one half
                new[number] = NEARNESS * embedding[known[first]] + (1 - NEARNESS**2) ** 0.5 * new[number]
        for last in (added.self_attn.out_proj, added.mlp.fc2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
    return model


@torch.no_grad()
def _reader(pipeline: Any, words: Words, *, seed: int) -> Reader:
    rng = np.random.default_rng(seed)
    plain = RewordingConfig(plain=1.0, dropout=0.0)
    captions = [sample(rng, plain).text for _ in range(256)]
    pipeline.unet.eval().requires_grad_(False)
    reader = Reader(pipeline.unet, sample_pools(pipeline, captions[:POOL_CAPTIONS], seed=seed))
    reader.measure_spreads(pipeline.text_encoder(words.ids(captions)).last_hidden_state, floor=LEAST_SPREAD)
    return reader
