"""Folders of pictures with a manifest, and a CLIP of a few hundred weights, for the tests of metrics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from psalign.diffusion.base_models import mini_folder
from psalign.files import write_jsonl
from psalign.records import ManifestRow

MEAN, STD = [0.4, 0.5, 0.6], [0.3, 0.2, 0.1]
PREPROCESSING = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 8},
    "crop_size": {"height": 8, "width": 8},
    "image_mean": MEAN,
    "image_std": STD,
}


def make_folder(folder: Path, prompts: list[str], *, size: tuple[int, int] = (8, 8), meta=None, seed: int = 0) -> Path:
    """Random pictures, one for each prompt, and their manifest. meta: of each row, or None."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, prompt in enumerate(prompts):
        row = ManifestRow(f"{number}.png", prompt, number, "base", "mini", meta=(meta[number] if meta else {}))
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / row.file_name)
        rows.append(row)
    write_jsonl(folder / "manifest.jsonl", rows)
    return folder


def make_clip(folder: Path, *, words: int = 8, seed: int = 0, width: int = 5) -> Path:
    """A CLIPModel folder with random weights that reads `words` tokens; directions have `width` numbers."""
    tokenizer = AutoTokenizer.from_pretrained(mini_folder() / "tokenizer")
    shape = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **shape,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": words,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**shape, "image_size": 8, "patch_size": 4}
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING))
    return folder


def by_hand(clip: Path, pictures: np.ndarray) -> np.ndarray:
    """Directions [B, D] of pictures of 8 x 8 pixels: (p / 255 - mean) / std, through the network, at length 1."""
    network = CLIPModel.from_pretrained(clip).eval()
    pixels = (pictures / 255 - np.array(MEAN)) / np.array(STD)
    with torch.no_grad():
        states = network.vision_model(torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)).pooler_output
        features = (states @ network.visual_projection.weight.T).numpy().astype(np.float64)
    return features / np.sqrt((features**2).sum(1, keepdims=True))
