"""Captions and a trainer on a tiny UNet, without files."""

import numpy as np
import torch

from helpers import LLM_DIM, tiny_unet
from psalign.adapter.prompt import PromptAdapter
from psalign.diffusion.reader import Reader, random_pools
from psalign.sage.cache import TextCache
from psalign.sage.caption_rows import CaptionRow
from psalign.sage.shelf import Rows
from psalign.training.caption_objective import CaptionObjective
from psalign.training.captions import Captions
from psalign.training.config import TrainingConfig
from psalign.training.trainer import Trainer

CODE = 7
CALM = {"caption_dropout": 0.0}


class Users:
    """Random vectors, with a code of ones behind them where there is one, which is estimated as a half."""

    def __init__(self, *, code=0):
        self.code_width = code

    def vectors(self, ids, *, exact=True):
        rows = [np.random.default_rng(int(user_id)).standard_normal(LLM_DIM) for user_id in ids]
        return np.concatenate(
            [np.array(rows), np.full((len(ids), self.code_width), 1.0 if exact else 0.5)], axis=1
        ).astype(np.float32)


def make_captions(count=12, *, code=0, compare=False, pooled=0, memory_gb=1.0, categories=("Violence", "Hate")):
    """Rows in turn banned (told by another caption), allowed, and safe; a user for each."""
    texts = [f"caption {i}" for i in range(count)]
    sides = ("banned", "allowed", "safe")
    rows = [
        CaptionRow(
            caption=text,
            chosen_caption=texts[(i + 1) % count] if i % 3 == 0 else text,
            user_id=f"{i:07d}",
            side=sides[i % 3],
            category=categories[i % len(categories)],
            other_caption=texts[(i + 2) % count] if i % 3 == 1 else text if i % 3 == 0 else None,
        )
        for i, text in enumerate(texts)
    ]
    generator = torch.Generator().manual_seed(3)
    states = {"states": torch.randn((count + 1, 5, 16), generator=generator).half()}
    if pooled:
        states["pooled"] = torch.randn((count + 1, pooled), generator=generator).half()
    cache = TextCache("tests", Rows.of(**states), {text: i for i, text in enumerate([*texts, ""])})
    return Captions(rows, cache, Users(code=code), compare=compare, memory_gb=memory_gb)


def caption_adapter(*, code=0, pooled=0):
    torch.manual_seed(1)
    return PromptAdapter(
        base="mini", recipe="tests", llm_dim=LLM_DIM + code, context_dim=16, n_tokens=2, rank=8, heads=2,
        gated=True, pooled_dim=pooled,
    )  # fmt: skip


def new_caption_trainer(out, *, captions=None, code=0, data="data", **settings):
    settings = {"steps": 6, "batch_size": 4, "warmup_steps": 2, "save_every": 2, "log_every": 1, "lr": 1e-2, **settings}
    config = TrainingConfig(**{"objective": "captions", "queries": "random", "queries_per_layer": 4, **settings})
    captions = captions or make_captions(code=code)
    unet = tiny_unet().requires_grad_(False)
    reader = Reader(unet, random_pools(unet, seed=config.seed))
    reader.measure_spreads(captions.texts.rows.read("states", range(12)).float())
    objective = CaptionObjective(caption_adapter(code=code), reader, config)
    return Trainer(objective, captions, config, out, data={"rows": data})
