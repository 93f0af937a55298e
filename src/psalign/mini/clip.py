"""The mini text-image model: a small CLIPModel that says how well a caption describes a mini picture.

Place on the path of data: between pictures and numbers (step 7). evaluation/clip_score.py loads its folder as
it loads any CLIP of the hub. mini/factory/clip.py trained it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from ..progress import hide_library_bars
from .pixels import to_pixels

if TYPE_CHECKING:
    from transformers import CLIPModel


def clip_folder() -> Path:
    """Where the shipped mini text-image model lies."""
    return Path(__file__).parent / "weights" / "clip"


@dataclass(frozen=True)
class MiniClip:
    """A trained text-image model and its tokenizer."""

    model: CLIPModel
    tokenizer: Any

    @torch.no_grad()
    def scores(self, pictures: np.ndarray, texts: list[str]) -> np.ndarray:
        """100 * cosine of pictures, uint8 RGB [P, 64, 64, 3], with texts: [P, T]."""
        ids = token_ids(self.tokenizer, texts)
        images = self.model.get_image_features(pixel_values=to_pixels(pictures)).pooler_output
        words = self.model.get_text_features(input_ids=ids).pooler_output
        found: np.ndarray = (100 * F.normalize(images, dim=-1) @ F.normalize(words, dim=-1).T).numpy()
        return found


def load_clip(folder: Path | None = None) -> MiniClip:
    """The shipped text-image model, or the one in folder."""
    from transformers import AutoTokenizer, CLIPModel

    place = folder or clip_folder()
    hide_library_bars()
    return MiniClip(CLIPModel.from_pretrained(place).eval(), AutoTokenizer.from_pretrained(place))


def token_ids(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Token ids [B, T] of texts, cut to the longest of them: what comes after the end changes nothing."""
    return torch.as_tensor(tokenizer(texts, padding=True, truncation=True, return_tensors="pt").input_ids)
