"""The mini base's own CLIP tokenizer: byte-pair merges until every word of the mini world is one token.

Place on the path of data: part of the mini base folder that stock diffusers loads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import language, world
from ..names import DESCRIPTIONS, KIND_NAMES, NAMES, plural

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MAX_TOKENS = 40
CAPTIONS = 4000


def corpus() -> list[str]:
    """Sentences with every word of the mini world."""
    rng = np.random.default_rng(0)
    wordings = world.ALL_WORDINGS + language.MORE_WORDINGS
    scenes = [world.sample_scene(rng, held_out=None) for _ in range(CAPTIONS)]
    captioned = [
        language.caption(scene, wordings[i % len(wordings)], language.sample_phrasing(rng, scene))
        for i, scene in enumerate(scenes)
    ]
    things = [f"a {colour} {subject} {place}" for subject, colour, place in world.combinations(held_out=False)]
    names = [name for table in (NAMES, KIND_NAMES) for names in table.values() for name in names]
    words = [*names, *map(plural, names), *DESCRIPTIONS.values()]
    return captioned + world.definitions() + [sentence for _, sentence in language.limits()] + things + words


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Learn the vocabulary, write it to folder and return it as diffusers will load it."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    # The end-of-text token comes last: CLIPTextModel pools at the largest token id of a sequence.
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    learner.normalizer = normalizers.Lowercase()
    # The words that CLIPTokenizer splits texts into: "can't" is "can" and "'t".
    clip_words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    learner.pre_tokenizer = pre_tokenizers.Split(clip_words, "removed", invert=True)
    alphabet = list("abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'-")
    trainer = trainers.BpeTrainer(
        vocab_size=4000, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    learner.train_from_iterator(corpus(), trainer)
    state = json.loads(learner.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    vocabulary = sorted(set(state["vocab"]) | {f"{letter}</w>" for letter in alphabet} | {"<|startoftext|>"})
    words = {token: number for number, token in enumerate([*vocabulary, "<|endoftext|>"])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer
