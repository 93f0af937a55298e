"""Pictures (uint8 RGB) and the pixels that networks read (float [-1, 1]).

Place on the path of data: under mini/base.py and mini/detector.py.
"""

from __future__ import annotations

import numpy as np
import torch


def to_pixels(pictures: np.ndarray) -> torch.Tensor:
    """uint8 RGB [B, H, W, 3] to float [-1, 1], [B, 3, H, W]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(pixels: torch.Tensor) -> np.ndarray:
    """Float [-1, 1], [B, 3, H, W] to uint8 RGB [B, H, W, 3]."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
