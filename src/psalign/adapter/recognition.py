"""Which rows of text a guarded denoiser may read: each row is recognised by its content, and nothing is guessed.

Place on the path of data: step 5, between the text of a call and the denoiser.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import GuardError
from .text import Texts, without_marks
from .users import RowUsers

# How one denoiser call may lay out its rows. u: unconditional texts, c: prompts. Each letter stands for all rows of the
# text in their order, each repeated equally often (pictures per prompt, frames of a video).
LAYOUTS = {
    "c": "no guidance; embedded guidance (LCM, Turbo); one call per condition",
    "uc": "classifier-free guidance",
    "u": "one call per condition",
    "cc": "perturbed-attention guidance alone",
    "ucc": "perturbed-attention guidance and classifier-free guidance",
    "cuu": "guidance by picture and text (InstructPix2Pix)",
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # that a pipeline may cast its text states to
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Place(NamedTuple):
    """Which row of a text a row of a denoiser call is: a prompt or an unconditional text, and its number."""

    is_prompt: bool
    row: int


class Seen(NamedTuple):
    """A tensor on an accelerator whose rows were recognised. changes: torch's counts at that moment."""

    places: list[Place]
    digests: torch.Tensor
    changes: tuple[Any, ...]


class KnownText:
    """The rows of one call's text, by digests of their content; it travels with the call in cross_attention_kwargs.

    texts: what the pipeline receives. users: one per prompt. owner: the attached adapter that made the text. changed:
    for each prompt, whether it differs from what a pipeline makes of it. plain: for kind `published`, the texts without
    marks. is_carried: whether the denoiser of this call receives cross_attention_kwargs, and so this very object.
    """

    def __init__(
        self, texts: Texts, users: RowUsers, owner: object, *, changed: Sequence[bool], plain: Texts | None = None
    ) -> None:
        self.users, self.owner, self.plain = users, owner, plain
        self.changed, self.is_carried = changed, False
        self._names: dict[int, int] = {}  # digest of a row in any dtype -> its digest as it was made
        self._prompts = self._learn(texts.prompt_embeds, texts.pooled_prompt_embeds)
        self._negatives = self._learn(texts.negative_prompt_embeds, texts.negative_pooled_prompt_embeds)
        self.seen = WeakTensorKeyDictionary()
        self.terms: tuple[Any, torch.Tensor] | None = None  # kept by UserTerms (kind `published`)
        _LIVE[id(self)] = self

    def _learn(self, states: torch.Tensor | None, pooled: torch.Tensor | None) -> list[int]:
        if states is None:
            return []
        made: list[int] = digests_of(states, pooled).tolist()
        casts = [[row_digests(x.to(dtype)) for dtype in (x.dtype, *DTYPES)] for x in (states, pooled) if x is not None]
        for digests in itertools.product(*casts):
            self._names |= dict(zip(torch.stack(digests).sum(0).tolist(), made, strict=True))
        return made

    def places(self, digests: list[int]) -> list[Place] | None:
        """Places of rows by their digests; None where they are not this text's rows in one of LAYOUTS."""
        return arrange([self._names.get(digest) for digest in digests], self._prompts, self._negatives)

    def is_rewritten(self, places: Iterable[Place]) -> bool:
        """Whether some row is a prompt of a user."""
        return any(place.is_prompt and bool(self.users.strength[place.row]) for place in places)

    def may_come_alone(self, places: Iterable[Place]) -> bool:
        """Whether a denoiser may take these rows for this call's without the call's object.

        A prompt that falls under nothing its user limits stays as any pipeline makes it. Without the object such a row
        says nothing of users, unless the call's denoiser never receives it.
        """
        prompts = [place for place in places if self.is_rewritten([place])]
        return any(not self.is_carried or self.changed[place.row] for place in prompts)

    def unconditional(self, places: list[Place], states: torch.Tensor, pooled: torch.Tensor | None) -> list[Any]:
        """Kind `published`: what a ControlNet may read, with the unconditional text in place of users' prompts.

        Raises GuardError where the call has none.
        """
        assert self.plain is not None
        negatives = (self.plain.negative_prompt_embeds, self.plain.negative_pooled_prompt_embeds)
        steered = [number for number, place in enumerate(places) if self.is_rewritten([place])]
        read = []
        for given, negative in zip((without_marks(states), pooled), negatives, strict=True):
            if given is not None and steered:
                if negative is None:
                    raise GuardError(
                        "An adapter of kind 'published' cannot keep a ControlNet from reading what a user bans without "
                        "an unconditional text.",
                        hint="Pass negative= and, on SDXL, negative_pooled= to rewrite(); or use kind 'prompt'.",
                    )
                given = given.clone()
                given[steered] = negative[[places[number].row for number in steered]].to(given)
            read.append(given)
        return read

    def __deepcopy__(self, memo: dict[int, Any]) -> KnownText:
        return self  # a copied pipeline may still hold the text of its last call

    def __reduce__(self) -> Any:
        raise GuardError(
            "The text of encode() is known to its own process alone; it cannot be saved or sent.",
            hint="Send prompts and users, and call encode() where the pipeline draws.",
        )


Found = tuple[KnownText, list[Place], torch.Tensor]

# Texts of the calls that are under way, by their ids.
_LIVE: weakref.WeakValueDictionary[int, KnownText] = weakref.WeakValueDictionary()


def live_texts(*owners: object) -> list[KnownText]:
    """The texts of these adapters whose calls are under way: for models that receive text alone."""
    texts = [ref() for ref in _LIVE.valuerefs()]  # valuerefs(): other threads may add texts meanwhile
    return [text for text in texts if text is not None and text.owner in owners]


def recognise(
    texts: Iterable[KnownText], states: torch.Tensor, pooled: torch.Tensor | None, *, may_wait: bool | None = None
) -> Found | None:
    """The first text that has all rows [R, T, D] and [R, P] of a call, their places in it, and the states.

    may_wait: whether to read the content at every call; by default on a CPU only, since on an accelerator it waits for
    the device. There a tensor that was recognised before is compared on the device: rows whose content changed past
    torch's own count of changes come back as NaN.
    """
    may_wait = states.device.type == "cpu" if may_wait is None else may_wait
    texts, digests = list(texts), digests_of(states, pooled)
    changes = None if may_wait else _changes(states, pooled)
    for text in texts if changes else ():
        seen: Seen | None = text.seen.get(states)
        if seen is not None and seen.changes == changes:
            is_same = (digests == seen.digests).view(-1, 1, 1)
            return text, seen.places, torch.where(is_same, states, torch.nan)
    names = digests.tolist()
    for text in texts:
        places = text.places(names)
        if places is not None:
            if changes:
                text.seen[states] = Seen(places, digests, changes)
            return text, places, states
    return None


def arrange(names: list[Any], prompts: list[Any], negatives: list[Any]) -> list[Place] | None:
    """Places of rows that are laid out in one of LAYOUTS; None where a row is unknown or stands in another order.

    A part of the rows is not recognised: nothing says that the call draws for that part alone.
    """
    known = {"c": prompts, "u": negatives}
    for layout in LAYOUTS:
        times = range(len(names) // (len(layout) * len(prompts)))
        rows = [(Place(kind == "c", i), name) for kind in layout for i, name in enumerate(known[kind]) for _ in times]
        if rows and [name for _, name in rows] == names:
            return [place for place, _ in rows]
    return None


def digests_of(states: torch.Tensor, pooled: torch.Tensor | None) -> torch.Tensor:
    """Digests of rows [R, T, D] with their pooled states [R, P], int64 [R]."""
    return row_digests(states) if pooled is None else row_digests(states) + row_digests(pooled)


def row_digests(x: torch.Tensor) -> torch.Tensor:
    """A number for the bits of each row of [R, ...], int64 [R]: sums of products with fixed random odd numbers.

    Whole numbers, so the same on every device and in every batch.
    """
    flat = x.detach().contiguous().flatten(1).view(BITS[x.element_size()])
    return (flat * _odd_numbers(flat.shape[1], str(x.device))).sum(1)


@functools.lru_cache(maxsize=32)
def _odd_numbers(count: int, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return (torch.randint(-(2**62), 2**62, (count,), generator=generator) * 2 + 1).to(device)


def _changes(*tensors: torch.Tensor | None) -> tuple[Any, ...] | None:
    """Torch's counts of changes; None for tensors of inference mode, where it counts none."""
    given = [x for x in tensors if x is not None]
    return None if any(x.is_inference() for x in given) else tuple((id(x), x._version) for x in given)
