"""The PSA adapter: user vectors [B, llm_dim] become user tokens [B, N, R], and those steer the UNet.

Place on the path of data: step 4. One class, two kinds: `prompt` (ours) and `published`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from ..errors import UsageError
from .card import model_card
from .prompt import PromptRewriter
from .published import UserAttention

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention

KINDS = ("prompt", "published")


class PSAAdapter(ModelMixin, ConfigMixin):
    """Adapter weights and how to run them; knows no UNet.

    kind: "prompt" rewrites the prompt; "published" adds user tokens to every cross-attention.
    base: row of the BASES table it was trained for. recipe: fingerprint of the user vectors it was trained with.
    llm_dim: width of user vectors. context_dim: D, width of the UNet's text states. n_tokens: N user tokens.
    proj_rank: the projection of user vectors goes through so many dimensions; 0: straight.
    rank, heads, depth, gated, pooled_dim: of kind "prompt" (see PromptRewriter).
    widths: C of every cross-attention in the UNet's order, of kind "published" (whose tokens have R = D).
    with_keys, value_rank, folded: smaller forms of kind "published" (see compress.py): without keys; values through so
    many dimensions that all layers share; user vectors that are the values themselves.
    Raises UsageError for an unknown kind.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        kind: str = "prompt",
        base: str = "mini",
        recipe: str = "",
        llm_dim: int = 64,
        context_dim: int = 128,
        n_tokens: int = 8,
        proj_rank: int = 0,
        rank: int = 64,
        heads: int = 4,
        depth: int = 1,
        gated: bool = False,
        pooled_dim: int = 0,
        widths: tuple[int, ...] = (),
        with_keys: bool = True,
        value_rank: int = 0,
        folded: bool = False,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UsageError(f"Unknown adapter kind '{kind}'; choose one of: {', '.join(KINDS)}.")
        if folded:
            self.null_user = nn.Parameter(torch.zeros(sum(widths)))
            return
        self.user_proj = UserProjection(llm_dim, n_tokens, rank if kind == "prompt" else context_dim, proj_rank)
        if kind == "prompt":
            self.rewriter = PromptRewriter(
                context_dim=context_dim, rank=rank, heads=heads, depth=depth, gated=gated, pooled_dim=pooled_dim
            )
            return
        if value_rank:
            self.to_shared = nn.Linear(context_dim, value_rank, bias=False)
        self.layers = nn.ModuleList(UserAttention(value_rank or context_dim, width, keys=with_keys) for width in widths)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **options: Any
    ) -> None:
        """As every model of diffusers, with our card."""
        super().save_pretrained(save_directory, **options)
        (Path(save_directory) / "README.md").write_text(model_card(self), encoding="utf-8")
        if push_to_hub:
            self.push_to_hub(Path(save_directory).name)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload config, weights and card, as `save_pretrained` writes them. Returns the commit's address.

        options: private, token of huggingface_hub's create_repo; commit_message, create_pr of its upload_folder.
        """
        from huggingface_hub import create_repo, upload_folder

        private, token = options.pop("private", None), options.pop("token", None)
        commit_message = options.pop("commit_message", None) or "Upload PSA adapter"
        repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(
                upload_folder(
                    repo_id=repo_id, folder_path=folder, token=token, commit_message=commit_message, **options
                )
            )

    def user_tokens(self, vectors: torch.Tensor) -> torch.Tensor:
        """User vectors [B, llm_dim] -> user tokens [B, N, R]."""
        if self.config.folded:
            return (vectors + self.null_user)[:, None]
        return self.user_proj(vectors)

    def user_values(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """Kind "published": user tokens -> values of every cross-attention, [B, N, C] each."""
        if self.config.folded:
            return list(tokens.split(tuple(self.config.widths), dim=-1))
        shared = self.to_shared(tokens) if self.config.value_rank else tokens
        return [layer.to_v_user(shared) for layer in self._layers()]

    def user_keys(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """Kind "published": user tokens -> keys of every cross-attention, [B, N, C] each."""
        return [layer.to_k_user(tokens) for layer in self._layers()]

    def _layers(self) -> list[UserAttention]:
        return list(self.layers)  # type: ignore[arg-type]


class UserProjection(nn.Module):
    """Linear(llm_dim -> N * R), then a LayerNorm over each token, as published.

    proj_rank: where it is not 0, the projection goes through so many dimensions.
    """

    def __init__(self, llm_dim: int, n_tokens: int, token_dim: int, proj_rank: int = 0) -> None:
        super().__init__()
        self.n_tokens = n_tokens
        self.down = nn.Linear(llm_dim, proj_rank, bias=False) if proj_rank else nn.Identity()
        self.proj = nn.Linear(proj_rank or llm_dim, n_tokens * token_dim)
        self.norm = nn.LayerNorm(token_dim)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(self.down(vectors)).unflatten(-1, (self.n_tokens, -1)))


def cross_attention_widths(unet: UNet2DConditionModel) -> tuple[int, ...]:
    """C of every cross-attention of a UNet, in the order of `unet.attn_processors`."""
    return tuple(attention.to_out[0].in_features for attention in cross_attentions(unet))


def cross_attentions(unet: UNet2DConditionModel) -> list[Attention]:
    """The cross-attentions (attn2) of a UNet in the order of `unet.attn_processors`."""
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    return [unet.get_submodule(name) for name in names if name.endswith("attn2")]
