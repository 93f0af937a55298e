"""Smaller forms of a published adapter: folded to vectors of known users, or factorised over a population of them.

Place on the path of data: between adapters on disk. Both rest on one user token: a softmax over one key is 1, so keys
never matter, and what a cross-attention adds is V LN(W u + b), a function of the user alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import UsageError
from .adapter import PSAAdapter
from .published import FoldedAdapter, PublishedAdapter


@dataclass(frozen=True)
class Compression:
    """A compressed adapter and how far its output is from the original's, over users it was not made from.

    error: mean of |change of output| / |output|; worst: the largest. between: the same change against what
    differs between users, |change| / |output - mean output|, mean.
    """

    adapter: PSAAdapter
    users: int
    error: float
    worst: float
    between: float


@torch.no_grad()
def fold(adapter: PSAAdapter, vectors: torch.Tensor, *, recipe: str) -> tuple[FoldedAdapter, torch.Tensor]:
    """What the adapter adds for each user, computed once and for all: exact, and no projection is left to run.

    vectors: [U, llm_dim]. recipe: name of the folded vectors. Returns the folded adapter, whose user vectors are
    [U, sum of C], and those. Raises UsageError for an adapter that cannot be folded.
    """
    published, config = _one_token(adapter, "folded"), adapter.config
    null = _outputs(published, torch.zeros(1, adapter.llm_dim))[0]  # [sum C]
    values = _outputs(published, vectors)  # [U, sum C]
    folded = FoldedAdapter(config.base, recipe, config.context_dim, config.widths)
    folded.null_user.copy_(null)
    return folded.eval(), values - null


@torch.no_grad()
def compress(adapter: PSAAdapter, vectors: torch.Tensor, *, rank: int) -> Compression:
    """Drop the keys, which is exact, and factorise projection and values to a rank.

    Both factors are the best of their rank for this population (the singular vectors of W u and of V LN(W u + b)), not
    for weights as such; the null user counts as much as all others together, since every unconditional row is one.
    vectors: [U, llm_dim]; every fifth user is left out and measures the error.
    Raises UsageError for an adapter that cannot be compressed, a rank out of range, or fewer than 10 users.
    """
    published = _one_token(adapter, "compressed")
    if len(vectors) < 10:
        raise UsageError(f"Compressing needs a population of at least 10 users; saw {len(vectors)}.")
    if rank < 1:
        raise UsageError(f"The rank must be at least 1; saw {rank}.")
    held_out = torch.arange(len(vectors)) % 5 == 4
    smaller = _factorised(published, vectors[~held_out].double(), rank)
    output = _outputs(published, vectors[held_out])
    change = _outputs(smaller, vectors[held_out]) - output
    relative = change.norm(dim=1) / output.norm(dim=1).clamp(min=1e-12)
    between = change.norm(dim=1) / (output - output.mean(0)).norm(dim=1).clamp(min=1e-12)
    return Compression(
        adapter=smaller,
        users=int(held_out.sum()),
        error=float(relative.mean()),
        worst=float(relative.max()),
        between=float(between.mean()),
    )


def _factorised(adapter: PublishedAdapter, vectors: torch.Tensor, rank: int) -> PublishedAdapter:
    state = {name: weight.double() for name, weight in adapter.state_dict().items()}
    project, bias = state["user_proj.proj.weight"], state["user_proj.proj.bias"]
    values = torch.cat([state[f"layers.{i}.to_v_user.weight"] for i in range(len(adapter.config.widths))])  # [sum C, D]
    projected = _main_directions(vectors @ project.T, rank)  # [D, K]
    plain = torch.cat([vectors, torch.zeros_like(vectors[:1])]) @ project.T + bias
    tokens = torch.nn.functional.layer_norm(
        plain, plain.shape[-1:], state["user_proj.norm.weight"], state["user_proj.norm.bias"]
    )  # [U + 1, D]
    tokens[-1] *= len(vectors) ** 0.5
    shared = _main_directions(tokens @ values.T, rank)  # [sum C, R]
    ranks = {"proj_rank": projected.shape[1], "value_rank": shared.shape[1], "with_keys": False}
    smaller = PublishedAdapter(**{**adapter.shape, **ranks}).eval()
    rows = torch.split(shared, list(adapter.config.widths))
    new = {f"layers.{i}.to_v_user.weight": part for i, part in enumerate(rows)}
    new |= {"to_shared.weight": shared.T @ values, "user_proj.down.weight": projected.T @ project}
    new |= {"user_proj.proj.weight": projected, "user_proj.proj.bias": bias}
    new |= {f"user_proj.norm.{name}": state[f"user_proj.norm.{name}"] for name in ("weight", "bias")}
    smaller.load_state_dict({name: weight.float() for name, weight in new.items()})
    return smaller


def _main_directions(rows: torch.Tensor, rank: int) -> torch.Tensor:
    """Orthonormal directions [X, at most rank] that keep the most of rows [U, X]."""
    scores, directions = torch.linalg.eigh(rows @ rows.T)  # the small side: [U, U]
    kept = scores.flip(0) > scores.max() * 1e-13  # the rest is rounding
    left = directions.flip(1)[:, kept][:, :rank]
    return torch.linalg.qr(rows.T @ left).Q


def _outputs(adapter: PublishedAdapter, vectors: torch.Tensor) -> torch.Tensor:
    """What the adapter adds in all layers, [U, sum C]."""
    return torch.cat(adapter.user_values(adapter.user_tokens(vectors)), dim=-1)[:, 0]


def _one_token(adapter: PSAAdapter, what: str) -> PublishedAdapter:
    """The adapter, where it can be made smaller. Raises UsageError otherwise."""
    if adapter.kind != "published":
        raise UsageError(f"Only adapters of kind 'published' can be {what}; this one is of kind '{adapter.kind}'.")
    if not isinstance(adapter, PublishedAdapter):
        raise UsageError("This adapter is folded already.")
    if what == "compressed" and adapter.config.value_rank:
        raise UsageError("This adapter is compressed already.")
    if adapter.n_tokens != 1:
        raise UsageError(f"Only one token per user can be {what} exactly; this adapter has {adapter.n_tokens}.")
    return adapter
