"""What every adapter is: weights beside a frozen denoiser, which turn user vectors [B, llm_dim] into user tokens.

Place on the path of data: step 4. There is a class per kind, each with its own config: `prompt.py`, `published.py`.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import nn

from ..categories import current

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention

TAXONOMY = "_taxonomy"  # in config.json, where diffusers passes over what starts with "_"
CARD = """---
library_name: diffusers
tags: [psalign, personalized-safety, text-to-image]
---

# PSA adapter, kind `{kind}`, for {base}

Makes a Stable Diffusion pipeline keep to each user's own limits: what this user bans goes, what they allow stays.
{weights:,} parameters, {megabytes:.1f} MB in fp16.

```python
import psalign

psa = psalign.load_psa_adapter(pipe, "<this repository or folder>")
pictures = pipe(**psa.encode(pipe, prompts, users)).images
```

User vectors must be of recipe `{recipe}` and width {llm_dim}; others are refused.

Limits: it lowers the rate of banned content and does not promise its absence.
Vectors and banned categories are personal data.
"""


class PSAAdapter(ModelMixin, ConfigMixin):
    """Adapter weights and how to run them; an adapter knows no denoiser.

    Every kind's config has: base, the row of the BASES table it was trained for; recipe, the fingerprint of the user
    vectors it was trained with; context_dim D, the width of the denoiser's text states.
    """

    config_name = "config.json"
    kind: ClassVar[str]
    in_words = False  # loaded under other categories than it was trained with: it takes limits in words alone

    @property
    def llm_dim(self) -> int:
        """Width of the user vectors."""
        return int(self.config.llm_dim)

    @property
    def shape(self) -> dict[str, Any]:
        """The config without diffusers' own entries."""
        return {name: value for name, value in self.config.items() if not name.startswith("_")}

    @property
    def fp16_bytes(self) -> int:
        """Size on disk in fp16."""
        return 2 * int(self.num_parameters())

    def user_tokens(self, vectors: torch.Tensor) -> torch.Tensor:
        """User vectors [B, llm_dim] -> user tokens [B, N, R]."""
        tokens: torch.Tensor = self.user_proj(vectors)
        return tokens

    def save_config(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **options: Any) -> None:
        """Write config.json, which names the taxonomy in use, unless it is the default one."""
        super().save_config(save_directory, push_to_hub=False, **options)
        mark = current().mark
        if mark is not None:
            path = Path(save_directory) / self.config_name
            config = {**json.loads(path.read_text(encoding="utf-8")), TAXONOMY: mark}
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **options: Any
    ) -> None:
        """Save as every model of diffusers does, with our card."""
        super().save_pretrained(save_directory, **options)
        (Path(save_directory) / "README.md").write_text(self.card(), encoding="utf-8")
        if push_to_hub:
            self.push_to_hub(Path(save_directory).name)

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, **options: Any
    ) -> str:
        """Upload config, weights and card, as `save_pretrained` writes them. Returns the commit's address.

        options: of huggingface_hub's upload_folder, as commit_message and create_pr.
        """
        from huggingface_hub import create_repo, upload_folder

        repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        options = {"commit_message": "Upload PSA adapter", **options}
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(upload_folder(repo_id=repo_id, folder_path=folder, token=token, **options))

    def card(self) -> str:
        """The README.md of the adapter's folder, as the Hugging Face hub shows it."""
        names = {"kind": self.kind, "base": self.config.base, "recipe": self.config.recipe, "llm_dim": self.llm_dim}
        return CARD.format(**names, weights=self.num_parameters(), megabytes=self.fp16_bytes / 1e6)


class UserProjection(nn.Module):
    """Linear(llm_dim -> N * R), then a LayerNorm over each token, as published.

    proj_rank: where it is not 0, the projection goes through that many dimensions.
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
    return tuple(attention.to_out[0].in_features for attention in cross_attentions(unet).values())


def cross_attentions(unet: UNet2DConditionModel) -> dict[str, Attention]:
    """The attentions of a UNet that read the text, by name, in the order of `unet.attn_processors`.

    The second attention of a motion module (AnimateDiff) is named attn2 too and reads no text: it is left out.
    """
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    found = {name: unet.get_submodule(name) for name in names if name.endswith("attn2")}
    return {name: attention for name, attention in found.items() if attention.is_cross_attention}
