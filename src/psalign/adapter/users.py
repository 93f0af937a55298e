"""The users of one call, checked: for each row a vector, a ban list, limits in words and a strength.

Place on the path of data: what comes from steps 2 and 3 into steps 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import Any

import torch
from torch import nn

from ..errors import GuardError, RecipeMismatch
from ..records import PUBLISHED_RECIPE
from .adapter import PSAAdapter
from .reading import Reading, read_prompt

Scale = float | Sequence[float] | torch.Tensor
Phrases = tuple[tuple[str, float], ...]  # of a row: each phrase and its strength, more than 0 and at most 1
MOST_PHRASES = 256  # of a row: a person's own, and those of categories


@dataclass(frozen=True, eq=False)
class RowUsers:
    """Tensors of B rows.

    vectors: [B, llm_dim], zeros for rows without one. strength: [B], 0 for the base, 1 as trained. bans: [B, C], 1 for
    a category that the row's list bans; is_known: [B], whether the list is known; where it is, it stands in place of
    the vector (None: no list is known). limits: [B, M, 2, D], states of each phrase at its last word and at its end of
    text; limit_strength: [B, M], 0 where a row has fewer (None: no row has limits in words). caution: [B], what is
    added to the logits of all matches of a row, so that smaller ones count (None: nothing).
    """

    vectors: torch.Tensor
    strength: torch.Tensor
    bans: torch.Tensor | None = None
    is_known: torch.Tensor | None = None
    limits: torch.Tensor | None = None
    limit_strength: torch.Tensor | None = None
    caution: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.strength)

    def __getitem__(self, rows: Any) -> RowUsers:
        """Some rows. rows: a slice, a mask or numbers."""
        some: dict[str, Any] = {field.name: _some(getattr(self, field.name), rows) for field in fields(self)}
        return RowUsers(**some)

    def to(self, module: nn.Module) -> RowUsers:
        """On a module's device, numbers in its dtype."""
        like = next(module.parameters())
        moved = {
            field.name: x.to(device=like.device, dtype=x.dtype if x.dtype == torch.bool else like.dtype)
            for field in fields(self)
            if (x := getattr(self, field.name)) is not None
        }
        return replace(self, **moved)


def _some(x: torch.Tensor | None, rows: Any) -> torch.Tensor | None:
    return None if x is None else x[rows]


@dataclass(frozen=True)
class CheckedUsers:
    """Users of a call as they were given, checked: see check_users.

    phrases: limits in words of each row. A repr does not show them: they are personal.
    """

    rows: RowUsers
    phrases: tuple[Phrases, ...] = field(repr=False)

    @property
    def is_limited(self) -> list[bool]:
        """For each row, whether anything may be softened: a category or phrase is limited, or the list is not known."""
        rows = self.rows
        assert rows.bans is not None
        assert rows.is_known is not None
        some = (rows.bans.sum(1) > 0) | ~rows.is_known | torch.tensor([bool(one) for one in self.phrases])
        limited: list[bool] = (some & (rows.strength > 0)).tolist()
        return limited

    def reading(self, row: int, prompt: str) -> Reading:
        """The prompt of a row as its user sees it, who may have limits in another language."""
        return read_prompt(prompt, limits=[phrase for phrase, _ in self.phrases[row]])


def check_users(
    adapter: PSAAdapter,
    users: Any,
    *,
    recipe: str | None,
    scale: Scale,
    limits: Sequence[Sequence[Any]] | None = None,
) -> CheckedUsers:
    """Users of a call, one per prompt.

    users: `EmbeddingStore.batch(user_ids)`, which has vectors, their recipe, ban lists and limits; or vectors
    [B, llm_dim] with recipe; or None where every row has limits alone. None in place of a vector is a row with no user.
    limits: more limits in words for each row, phrases or (phrase, strength); they add to those of the users.
    Raises RecipeMismatch for vectors of another recipe; GuardError for vectors or scales that are not finite or have
    another shape, and for limits that the adapter cannot keep.
    """
    rows, bans, own = _given(adapter, users, recipe, limits)
    if not rows:
        raise GuardError("No users: expected one row per prompt.")
    if limits is not None and len(limits) != len(rows):
        raise GuardError(f"limits must have one list per prompt; saw {len(limits)} for {len(rows)} users.")
    phrases = tuple(_united(*both) for both in zip(own, limits or [()] * len(rows), strict=True))
    require_words(adapter, phrases)
    vectors = torch.stack([_vector(number, row, adapter.llm_dim) for number, row in enumerate(rows)])
    if adapter.config.recipe == PUBLISHED_RECIPE:
        _require_no_zeros(vectors, rows)
    given = zip(rows, bans, phrases, strict=True)
    is_present = torch.tensor([row is not None or code is not None or bool(limit) for row, code, limit in given])
    strength = _strength(scale, len(rows))
    width = int(getattr(adapter.config, "categories", 0))
    _require_held(adapter, users, rows, bans, width=width)
    codes = torch.stack([_code(number, code, width) for number, code in enumerate(bans)])
    # A row without vector and list counts as one with an empty list: then its limits alone count.
    is_known = torch.tensor([code is not None or row is None for code, row in zip(bans, rows, strict=True)])
    return CheckedUsers(RowUsers(vectors, strength * is_present, codes, is_known), phrases)


def _strength(scale: Scale, count: int) -> torch.Tensor:
    """The scale as numbers on the CPU, one or one per user."""
    strength = torch.as_tensor(scale, dtype=torch.float32).detach().cpu()
    if strength.shape not in ((), (1,), (count,)):
        raise GuardError(f"scale must be one number or one per user; saw {tuple(strength.shape)} for {count} users.")
    if not torch.isfinite(strength).all() or (strength < 0).any():
        raise GuardError(f"scale must be finite and at least 0; saw {strength.tolist()}.")
    return strength


def _require_held(adapter: PSAAdapter, users: Any, rows: Sequence[Any], bans: Sequence[Any], *, width: int) -> None:
    """Raises GuardError for bans that this adapter would not see. width: of the ban codes that it reads; 0: none."""
    if adapter.in_words and any(one is not None for one in (*rows, *bans)):
        raise GuardError(
            "This adapter was loaded to know users by limits in words alone; saw users with vectors or ban lists.",
            hint="Pass psalign.users.views.batch_of(profiles, in_words=True), or load it without in_words.",
        )
    if width:
        return
    stale = sum(map(bool, getattr(users, "unheld", ())))
    if stale:
        raise GuardError(
            f"{stale} of {len(rows)} users ban categories that their vectors do not hold: limits were added after they "
            f"were made, and an adapter of kind '{adapter.kind}' knows vectors alone.",
            hint="Run: psalign embed --users users.csv --force (or draw with an adapter of kind 'prompt').",
        )
    if any(row is None and code is not None for row, code in zip(rows, bans, strict=True)):
        raise GuardError(
            f"Some users have a ban list and no vector, and an adapter of kind '{adapter.kind}' knows vectors alone.",
            hint="Pass store.batch(user_ids) of an EmbeddingStore.",
        )


def _given(
    adapter: PSAAdapter, users: Any, recipe: str | None, limits: Sequence[Sequence[Any]] | None
) -> tuple[list[Any], list[Any], list[Phrases]]:
    """Vectors, ban lists and limits of each row, as they were given."""
    if users is None and limits is not None:
        return [None] * len(limits), [None] * len(limits), [()] * len(limits)
    bans: Any = ()
    own: Any = ()
    if recipe is None:
        if not hasattr(users, "vectors") or not hasattr(users, "recipe"):
            raise GuardError(
                f"Expected users with the recipe of their vectors; saw {type(users).__name__} and no recipe.",
                hint="Pass store.batch(user_ids) of an EmbeddingStore, or vectors [B, llm_dim] and recipe=.",
            )
        bans, own = getattr(users, "bans", ()), getattr(users, "limits", ())
        users, recipe = users.vectors, users.recipe
    rows = list(users)
    if recipe != adapter.config.recipe and any(row is not None for row in rows):
        raise RecipeMismatch(
            f"These user vectors were made by recipe {recipe}; the adapter was trained with {adapter.config.recipe}.",
            hint="Run: psalign embed --users users.csv --like <the vectors the adapter was trained with>",
        )
    return rows, list(bans) or [None] * len(rows), list(own) or [()] * len(rows)


def _united(*groups: Sequence[Any]) -> Phrases:
    """The phrases of several lists, each with its greatest strength, in the order in which they came."""
    if any(isinstance(group, str) for group in groups):  # its letters would become the limits
        raise GuardError(
            "The limits of a prompt must be a list of phrases; saw one text.",
            hint='Pass a list for each prompt, as limits=[["spiders", "guns"]].',
        )
    strengths: dict[str, float] = {}
    for one in (one for group in groups for one in group):
        phrase, strength = one if isinstance(one, tuple | list) and len(one) == 2 else (one, 1.0)
        value = float(strength) if isinstance(strength, Real) else 0.0
        if not (isinstance(phrase, str) and phrase.strip() and 0 < value <= 1):
            raise GuardError(
                "A limit must be a phrase, or a phrase and its strength, more than 0 and at most 1; saw another thing.",
                hint="psalign.users.limits reads what people write: Limit(text).phrases.",
            )
        seen = read_prompt(phrase).text  # as the prompts are read that it is searched in
        strengths[seen] = max(value, strengths.get(seen, 0.0))
    if len(strengths) > MOST_PHRASES:
        raise GuardError(f"A prompt can be kept to {MOST_PHRASES} limits in words at most; saw {len(strengths)}.")
    return tuple(strengths.items())


def require_words(adapter: PSAAdapter, phrases: Sequence[Phrases]) -> None:
    """Raises GuardError where rows have limits in words and the adapter was not trained to keep them."""
    count = sum(bool(one) for one in phrases)
    if count and not getattr(adapter.config, "words", False):
        raise GuardError(
            f"{count} of {len(phrases)} rows have limits in words, and this adapter (kind '{adapter.kind}') was not "
            "trained to keep them.",
            hint="Use an adapter of kind 'prompt' that was trained on rows with limits (docs/TRAINING.md).",
        )


def _vector(number: int, row: Any, width: int) -> torch.Tensor:
    if row is None:
        return torch.zeros(width)
    vector = torch.as_tensor(row).detach().cpu().float()
    if vector.shape != (width,):
        raise GuardError(f"User vector {number} has shape {tuple(vector.shape)}; this adapter takes ({width},).")
    if not torch.isfinite(vector).all():
        raise GuardError(f"User vector {number} is not finite.", hint="Embed this user again.")
    return vector


def _require_no_zeros(vectors: torch.Tensor, rows: Sequence[Any]) -> None:
    """Raises GuardError for a raw vector of zeros: the published code's for a user who is missing, and the base's."""
    empty = [number for number, row in enumerate(rows) if row is not None and not vectors[number].any()]
    if empty:
        raise GuardError(
            f"User vector {empty[0]} is all zeros, which says nothing of a person.",
            hint="Embed this user, or pass None for a row with no user.",
        )


def _code(number: int, code: Any, width: int) -> torch.Tensor:
    if code is None or not width:
        return torch.zeros(width)
    bans = torch.as_tensor(code).detach().cpu().float()
    if bans.shape != (width,) or not ((bans == 0) | (bans == 1)).all():
        raise GuardError(
            f"The ban list of row {number} is not {width} numbers of 0 or 1, one for each category that the adapter "
            "was trained with."
        )
    return bans
