"""Draws a batch of different people: their prompts are rewritten, each for its person, and drawn in one call.

Place on the path of data: steps 4 to 6, for the engine, which alone calls it, from one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..adapter.explain import Explanation
from ..adapter.guard import AttachedAdapter
from ..adapter.prompt import PromptAdapter
from ..adapter.users import check_users
from ..adapter.words import require_readable
from ..diffusion.pictures import draw_pictures, finished_pictures
from ..errors import PSAlignError, is_out_of_memory
from ..users.vectors import UserBatch
from .waiting import Kind, Work

# Called after each step with its number, from 0, and a way to see some rows; false: nobody waits any more.
Watch = Callable[[int, Callable[[Sequence[int]], np.ndarray]], bool]
NOT_FINITE = "The weights of the base model or of the adapter may be broken, or do not fit --dtype."
# Words that ask for nothing by themselves.
_SMALL = """a an and are as at behind beside between by for from her his in into is it its near of on or over some that
the their this to under up very with"""
SMALL_WORDS = frozenset(_SMALL.split())


class Stopped(Exception):
    """The call was left at a step, because nobody waits for its pictures."""


class DeviceLost(PSAlignError):
    """The GPU takes no more calls of this process: only another process can draw."""


class Blocked(PSAlignError):
    """The person bans everything that a prompt asks for, and the operator chose refusal."""


class Artist:
    """A pipeline with its adapter. fixed_batch: the number of rows of every call, or 0 for as many as there are.

    Matrix products of other sizes round differently, so a picture may differ by one grey level from the one drawn
    alone. With a fixed batch every call has the same shape, and a picture is the same bit for bit.
    refuses: whether prompts of which a person bans everything are refused.
    """

    def __init__(
        self, pipeline: Any, attached: AttachedAdapter, *, fixed_batch: int = 0, refuses: bool = False
    ) -> None:
        self.pipeline, self.attached, self.fixed_batch, self.refuses = pipeline, attached, fixed_batch, refuses

    def check(self, work: Work) -> None:
        """Raises PSAlignError for a person whose limits this adapter cannot keep, and Blocked, DeviceLost."""
        checked = check_users(self.attached.adapter, work.users, recipe=None, scale=work.scale)
        for phrase, _ in checked.phrases[0]:
            require_readable(self.pipeline.tokenizer, phrase)
        if self.refuses and work.scale > 0 and isinstance(self.attached.adapter, PromptAdapter):
            with noticing_loss(self.pipeline):
                one = self.attached.explain(self.pipeline, [work.prompt], work.users)[0]
            if is_all_banned(one):
                raise Blocked("The person's own limits ban everything that this prompt asks for.")

    def draw(self, works: Sequence[Work], kind: Kind, watch: Watch) -> np.ndarray:
        """Pictures, uint8 RGB [B, H, W, 3].

        Raises Stopped where `watch` said so, GenerationError, GuardError, DeviceLost.
        """
        with noticing_loss(self.pipeline):
            drawn = self._drawn([*works, *[works[0]] * (self.fixed_batch - len(works))], kind, watch)
        return finished_pictures(drawn[: len(works)], [f"row {place}" for place in range(len(works))], hint=NOT_FINITE)

    def _drawn(self, rows: Sequence[Work], kind: Kind, watch: Watch) -> np.ndarray:
        text = self.attached.encode(
            self.pipeline,
            [row.prompt for row in rows],
            joined_users([row.users for row in rows]),
            scale=[row.scale for row in rows],
        )

        def after_step(pipeline: Any, step: int, _: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if not watch(step, lambda places: seen_now(pipeline, tensors["latents"][list(places)])):
                raise Stopped
            return {}

        return draw_pictures(
            self.pipeline,
            text,
            [row.seed for row in rows],
            steps=kind.steps,
            guidance=kind.guidance,
            height=kind.height,
            width=kind.width,
            callback_on_step_end=after_step,
        )


@contextmanager
def noticing_loss(pipeline: Any) -> Iterator[None]:
    """Raises DeviceLost in place of an error after which the device of a pipeline fails every call."""
    try:
        yield
    except Exception as err:
        if is_lost(pipeline._execution_device):
            raise DeviceLost("The GPU takes no more calls of this process.", hint="Start the service again.") from err
        raise


def is_lost(device: torch.device) -> bool:
    """Whether a GPU fails every call from now on, as after an illegal access: it then fails to wait, too."""
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except RuntimeError as err:
        return not is_out_of_memory(err)
    return False


@torch.no_grad()
def seen_now(pipeline: Any, latents: torch.Tensor) -> np.ndarray:
    """What latents [B, C, h, w] of some step look like, uint8 RGB [B, H, W, 3]; noisy at early steps."""
    vae = pipeline.vae
    dtype = next(vae.parameters()).dtype
    is_delicate = dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    try:
        if is_delicate:
            vae.to(torch.float32)
        scaled = (latents / vae.config.scaling_factor).to(next(vae.parameters()).dtype)
        pictures = pipeline.image_processor.postprocess(vae.decode(scaled, return_dict=False)[0], output_type="np")
    finally:
        if is_delicate:
            vae.to(dtype)
    return (np.nan_to_num(pictures).clip(0, 1) * 255).round().astype(np.uint8)


def joined_users(batches: Sequence[UserBatch]) -> UserBatch:
    """Batches of one row each as one batch. The recipe is that of a row with a vector, if there is one."""
    recipes = [one.recipe for one in batches if any(vector is not None for vector in one.vectors)]
    return UserBatch(
        vectors=tuple(one.vectors[0] for one in batches),
        recipe=(recipes or [batches[0].recipe])[0],
        bans=tuple(one.bans[0] if one.bans else None for one in batches),
        limits=tuple(one.limits[0] if one.limits else () for one in batches),
        unheld=tuple(one.unheld[0] if one.unheld else 0 for one in batches),
    )


def is_all_banned(explanation: Explanation) -> bool:
    """Whether every word of a prompt falls under a limit, small words aside."""
    asked = {
        word: match
        for word, match in zip(explanation.words, explanation.matches, strict=True)
        if word.isalnum() and word not in SMALL_WORDS
    }
    return bool(asked) and all(match > 0 for match in asked.values())
