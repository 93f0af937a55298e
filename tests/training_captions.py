"""Captions and a trainer on a tiny UNet, without files."""

import numpy as np
import torch

from helpers import LLM_DIM, tiny_unet
from psalign.adapter.prompt import PromptAdapter
from psalign.categories import category_names
from psalign.diffusion.reader import Reader, random_pools
from psalign.sage.cache.store import Rows
from psalign.sage.cache.texts import TextCache
from psalign.sage.caption_rows import CaptionRow
from psalign.training.caption_objective import CaptionObjective
from psalign.training.captions import Captions, CaptionTexts
from psalign.training.config import TrainingConfig
from psalign.training.trainer import Trainer

CALM = {"caption_dropout": 0.0, "list_dropout": 0.0}
PHRASES = ("spiders", "a sword", "weapons")


class Users:
    """Random vectors; users of even numbers ban Violence, others Hate, and of every fifth it is not known."""

    width = LLM_DIM

    def vectors(self, ids, *, exact=True):
        rows = [np.random.default_rng(int(user_id)).standard_normal(LLM_DIM) for user_id in ids]
        return np.array(rows).reshape(-1, LLM_DIM).astype(np.float32)

    def banned(self, user_id):
        return None if int(user_id) % 5 == 4 else ("Hate", "Violence")[int(user_id) % 2 == 0 :][:1]


def make_captions(count=12, *, limited=False, compare=False, pooled=0, memory_gb=1.0, categories=("Violence", "Hate")):
    """Rows in turn banned (with another chosen caption), allowed, and safe; a user for each.

    limited: every other row has limits in words in place of its user.
    """
    texts = [f"caption {i}" for i in range(count)]
    sides = ("banned", "allowed", "safe")
    rows = [
        CaptionRow(
            caption=text,
            chosen_caption=texts[(i + 1) % count] if i % 3 == 0 else text,
            user_id=None if limited and i % 2 else f"{i:07d}",
            side=sides[i % 3],
            category=categories[i % len(categories)],
            other_caption=texts[(i + 2) % count] if i % 3 == 1 else text if i % 3 == 0 else None,
            limits=PHRASES[: 1 + i % 3] if limited and i % 2 else None,
        )
        for i, text in enumerate(texts)
    ]
    generator = torch.Generator().manual_seed(3)
    states = {"states": torch.randn((count + 1, 5, 16), generator=generator).half()}
    if pooled:
        states["pooled"] = torch.randn((count + 1, pooled), generator=generator).half()
    cache = TextCache("tests", Rows.of(**states), {text: i for i, text in enumerate([*texts, ""])})
    phrases = dict(zip(PHRASES, torch.randn((3, 2, 16), generator=generator), strict=True)) if limited else {}
    tokens = np.random.default_rng(3).integers(7, size=(count + 1, 5))
    return Captions(rows, CaptionTexts(cache, tokens, memory_gb), Users(), phrases=phrases, compare=compare)


def caption_adapter(*, words=False, pooled=0):
    torch.manual_seed(1)
    return PromptAdapter(
        base="mini", recipe="tests", llm_dim=LLM_DIM, context_dim=16, n_tokens=2, rank=8, heads=2, words=words,
        categories=len(category_names()),
        pooled_dim=pooled,
    )  # fmt: skip


def new_caption_trainer(out, *, captions=None, limited=False, data="data", **settings):
    settings = {"steps": 6, "batch_size": 4, "warmup_steps": 2, "save_every": 2, "log_every": 1, "lr": 1e-2, **settings}
    config = TrainingConfig(**{"objective": "captions", "queries": "random", "queries_per_layer": 4, **settings})
    captions = captions or make_captions(limited=limited)
    unet = tiny_unet().requires_grad_(False)
    reader = Reader(unet, random_pools(unet, seed=config.seed))
    reader.measure_spreads(captions.texts.rows.read("states", range(12)).float())
    objective = CaptionObjective(caption_adapter(words=limited), reader, config)
    return Trainer(objective, captions, config, out, data={"rows": data})
