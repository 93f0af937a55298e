"""Which rows of text a guarded denoiser may read: each row is recognised by its content, nothing is guessed.

Place on the path of data: step 5, between the text of a call and the denoiser. A `KnownText` travels with its call, in
`cross_attention_kwargs`. The rows of one denoiser call must be its rows, in one of the LAYOUTS.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import GuardError
from .text import Texts
from .users import RowUsers

# How one denoiser call may lay out its rows. u: unconditional texts, c: prompts; each stands for a block of equal size.
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


Name = tuple[int, int]  # of a row: digests of its text states and of its pooled state (0: none)


@dataclass(frozen=True)
class Place:
    """Which row of a KnownText a row of a denoiser call is: a prompt or an unconditional text, and its number."""

    is_prompt: bool
    index: int


class KnownText:
    """The rows of one call's text, by content. owner: the attached adapter that made them.

    texts: prompts as the users may see them, and their unconditional texts. users: of the prompts; a prompt of no user
    is what the pipeline itself would read, so only a denoiser that receives this object with the call knows it.
    """

    def __init__(self, texts: Texts, users: RowUsers, owner: object) -> None:
        self.owner, self.users = owner, users
        # Digest of a row in any dtype -> its digest as it was made. 0: zeros, or no pooled state.
        self._names: dict[int, int] = {0: 0}
        self.has_pooled = texts.pooled_prompt_embeds is not None
        self.prompts = self._learn(texts.prompt_embeds, texts.pooled_prompt_embeds)
        negative = texts.negative_prompt_embeds
        self.negatives = [] if negative is None else self._learn(negative, texts.negative_pooled_prompt_embeds)
        self._seen = WeakTensorKeyDictionary()

    def __len__(self) -> int:
        return len(self.prompts)

    def is_rewritten(self, places: Sequence[Place]) -> bool:
        """Whether some row is a prompt of a user, which no pipeline makes by itself."""
        return any(place.is_prompt and bool(self.users.strength[place.index]) for place in places)

    def _learn(self, states: torch.Tensor, pooled: torch.Tensor | None) -> list[Name]:
        return list(zip(self._name(states), self._name(pooled, rows=len(states)), strict=True))

    def _name(self, x: torch.Tensor | None, rows: int = 0) -> list[int]:
        if x is None:
            return [0] * rows
        made = row_digests(x).tolist()
        for dtype in (x.dtype, *DTYPES):
            self._names |= dict(zip(row_digests(x.to(dtype)).tolist(), made, strict=True))
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> KnownText:
        return self  # a copied pipeline may still hold the text of its last call

    def __reduce__(self) -> Any:
        raise GuardError(
            "The text of encode() is known to its own process alone; it cannot be saved or sent.",
            hint="Send prompts and users, and call encode() where the pipeline draws.",
        )

    def recognise(self, states: torch.Tensor, pooled: torch.Tensor | None) -> tuple[list[Place] | None, torch.Tensor]:
        """Places of rows [R, T, D] and pooled [R, P] in this text, None where they are not its rows; and the states.

        On a CPU the content is looked at in every call. On an accelerator that would wait for it at every step, so
        there a tensor that was recognised is looked at without waiting: should its content have changed past torch's
        own count of changes, the states that come back are NaN in the rows that changed.
        """
        if states.device.type == "cpu":
            return self.places(*_digests(states, pooled)), states
        return self.watch(states, pooled)

    def watch(self, states: torch.Tensor, pooled: torch.Tensor | None) -> tuple[list[Place] | None, torch.Tensor]:
        """`recognise` on an accelerator."""
        seen = self.seen(states, pooled)
        if seen is not None:
            return seen.places, seen.checked(states, pooled)
        places = self.places(*_digests(states, pooled))
        self.see(states, pooled, places)
        return places, states

    def seen(self, states: torch.Tensor, pooled: torch.Tensor | None) -> Seen | None:
        """What is known of a tensor that was recognised, where torch counted no change since."""
        known: Seen | None = self._seen.get(states)
        return known if known is not None and known.is_unchanged(states, pooled) else None

    def see(self, states: torch.Tensor, pooled: torch.Tensor | None, places: list[Place] | None) -> None:
        """Keep a tensor that was recognised; one whose changes torch does not count is looked at in every call."""
        if places is not None and not states.is_inference() and not (pooled is not None and pooled.is_inference()):
            self._seen[states] = Seen.of(places, states, pooled)

    def places(self, states: Sequence[int], pooled: Sequence[int]) -> list[Place] | None:
        """Places of rows by their digests; None where they are not this text's rows."""
        if not self.has_pooled:
            pooled = [0] * len(states)  # these users' text has no pooled part
        names = [[self._names.get(digest) for digest in column] for column in (states, pooled)]
        return arrange(list(zip(*names, strict=True)), self.prompts, self.negatives)


class LiveTexts:
    """The KnownTexts of calls that are under way: for denoisers that receive text alone."""

    def __init__(self) -> None:
        self._texts: weakref.WeakSet[KnownText] = weakref.WeakSet()
        self._lock = threading.Lock()

    def add(self, text: KnownText) -> None:
        with self._lock:
            self._texts.add(text)

    def recognise(
        self, states: torch.Tensor, pooled: torch.Tensor | None
    ) -> tuple[KnownText, list[Place], torch.Tensor] | None:
        """The text that has all the rows, their places and the states; None where there is none."""
        with self._lock:
            texts = list(self._texts)
        on_cpu = states.device.type == "cpu"
        for text in () if on_cpu else texts:
            seen = text.seen(states, pooled)
            if seen is not None:
                return text, seen.places, seen.checked(states, pooled)
        digests = _digests(states, pooled)  # once, whatever the number of texts
        for text in texts:
            places = text.places(*digests)
            if places is not None:
                if not on_cpu:
                    text.see(states, pooled, places)
                return text, places, states
        return None

    def __deepcopy__(self, memo: dict[int, Any]) -> LiveTexts:
        return LiveTexts()  # a copied denoiser has users of its own


def arrange(names: Sequence[Name], prompts: Sequence[Name], negatives: Sequence[Name]) -> list[Place] | None:
    """Places of rows, laid out in one of LAYOUTS; None where a row is not known, or the rows stand in another order."""
    for layout in LAYOUTS:
        size, rest = divmod(len(names), len(layout))
        if rest or not size:
            continue
        blocks = [names[i * size : (i + 1) * size] for i in range(len(layout))]
        orders = [_order(b, prompts if kind == "c" else negatives) for b, kind in zip(blocks, layout, strict=True)]
        if all(order is not None for order in orders):
            return [Place(kind == "c", i) for kind, order in zip(layout, orders, strict=True) for i in order or ()]
    return None


def _order(block: Sequence[Name], known: Sequence[Name]) -> list[int] | None:
    """Which known rows a block is: all of them, in their order, each repeated equally often; None for anything else.

    A call for a part of the rows would be recognised as well, but not whether it draws that part.
    """
    times, rest = divmod(len(block), len(known) or 1)
    order = [index for index in range(len(known)) for _ in range(times)]
    return order if not rest and [known[index] for index in order] == list(block) else None


def _digests(states: torch.Tensor, pooled: torch.Tensor | None) -> tuple[list[int], list[int]]:
    return row_digests(states).tolist(), [0] * len(states) if pooled is None else row_digests(pooled).tolist()


@torch.no_grad()
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


@dataclass(frozen=True)
class Seen:
    """A tensor that was recognised: its rows' places and digests, and those of the pooled states that came with it."""

    places: list[Place]
    digests: torch.Tensor
    version: int
    pooled: Any
    pooled_digests: torch.Tensor | None
    pooled_version: int | None

    @classmethod
    def of(cls, places: list[Place], states: torch.Tensor, pooled: torch.Tensor | None) -> Seen:
        if pooled is None:
            return cls(places, row_digests(states), states._version, None, None, None)
        return cls(
            places, row_digests(states), states._version, weakref.ref(pooled), row_digests(pooled), pooled._version
        )

    def is_unchanged(self, states: torch.Tensor, pooled: torch.Tensor | None) -> bool:
        if self.version != states._version:
            return False
        if self.pooled is None or pooled is None:
            return self.pooled is None and pooled is None
        return self.pooled() is pooled and self.pooled_version == pooled._version

    def checked(self, states: torch.Tensor, pooled: torch.Tensor | None) -> torch.Tensor:
        """The states; NaN in rows whose content, or whose pooled state, is another. Without waiting for the device."""
        same = row_digests(states) == self.digests
        if pooled is not None and self.pooled_digests is not None:
            same = same & (row_digests(pooled) == self.pooled_digests)
        return torch.where(same.view(-1, 1, 1), states, torch.nan)
