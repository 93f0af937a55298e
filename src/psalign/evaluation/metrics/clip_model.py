"""A CLIP of transformers, from a folder or the hub: pictures and texts become embeddings in one space.

Place on the path of data: step 7, under evaluation/clip_score.py and evaluation/q16.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from psalign.errors import CheckpointError, library_errors
from psalign.fingerprints import file_fingerprint, fingerprint
from psalign.progress import hide_library_bars
from psalign.tensors import has_words

from ..pictures import Picture

if TYPE_CHECKING:
    import torch

CLIP_SCORE_MODEL = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
Q16_MODEL = "openai/clip-vit-large-patch14"
HINT = "Give a folder or hub id that transformers.CLIPModel can load, with its tokenizer and preprocessor_config.json."
NAMING = (".json", ".txt", ".safetensors", ".bin", ".model")  # files of a folder that decide what it computes


@dataclass(frozen=True)
class Texts:
    """Embeddings of texts, float32 [B, D] of length 1, and which of them were too long and cut."""

    embeddings: torch.Tensor
    cut: list[bool]


class ClipModel:
    """A CLIPModel with its tokenizer and its preparation of pictures, in float32; loaded at its first use.

    model: folder or hub id.
    """

    def __init__(self, model: str, *, device: str = "cpu") -> None:
        self.model, self.device = model, device

    @cached_property
    def name(self) -> str:
        """16 hexadecimal digits that name the weights: a folder's files, or hub id and commit. Loads nothing.

        Raises CheckpointError where there is no such model.
        """
        folder = Path(self.model)
        if folder.is_dir():
            known = (path for path in folder.iterdir() if path.suffix in NAMING and path.name != "training.json")
            files = sorted(path for path in known if path.is_file())
            return fingerprint([[path.name, file_fingerprint(path)] for path in files])
        from transformers import AutoConfig

        with self._library_errors("cannot be loaded"):
            config = AutoConfig.from_pretrained(self.model)
        return fingerprint([self.model, getattr(config, "_commit_hash", None)])

    def prepare(self, picture: Picture) -> np.ndarray:
        """A picture, uint8 RGB [H, W, 3], as the network's input, float [3, S, S]."""
        processor = self._parts[2]
        with self._library_errors("cannot prepare a picture"):
            pixels: np.ndarray = processor(images=picture, return_tensors="np", input_data_format="channels_last")[
                "pixel_values"
            ][0]
        return pixels

    def encode_image(self, prepared: Sequence[np.ndarray]) -> torch.Tensor:
        """Embeddings of pictures that `prepare` gave, float32 [B, D], each of length 1.

        Raises CheckpointError where they are not finite.
        """
        import torch

        network = self._parts[0]
        with torch.no_grad(), self._library_errors("cannot read pictures"):
            pixels = torch.from_numpy(np.stack(prepared)).to(self.device)
            return self._normalised(network.get_image_features(pixel_values=pixels))

    def encode_text(self, texts: Sequence[str]) -> Texts:
        """Embeddings of texts. A text that is longer than the network can read is cut, and marked as cut.

        Raises CheckpointError where they are not finite.
        """
        import torch

        network, tokenizer, _ = self._parts
        with torch.no_grad(), self._library_errors("cannot read texts"):
            longest = min(network.config.text_config.max_position_embeddings, tokenizer.model_max_length)
            lengths = [len(ids) for ids in tokenizer(list(texts), verbose=False).input_ids]
            batch = tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
            features = network.get_text_features(
                input_ids=batch["input_ids"].to(self.device), attention_mask=batch["attention_mask"].to(self.device)
            )
        return Texts(self._normalised(features), [length > longest for length in lengths])

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        """Network, tokenizer, picture processor. Raises CheckpointError where one is missing or no CLIP."""
        import torch
        from transformers import AutoConfig, AutoTokenizer, CLIPModel

        hide_library_bars()
        with self._library_errors("cannot be loaded"):
            kind = AutoConfig.from_pretrained(self.model).model_type
            if kind != CLIPModel.config_class.model_type:
                raise CheckpointError(f"The text-image model '{self.model}' is a model of type {kind}, not a CLIP.")
            network, loading = CLIPModel.from_pretrained(self.model, dtype=torch.float32, output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(self.model)
            processor = _picture_processor().from_pretrained(self.model)
        if loading["missing_keys"]:
            missing = ", ".join(sorted(loading["missing_keys"])[:3])
            raise CheckpointError(f"{self.model} is not a CLIP: it has no weights for {missing}, ...")
        if not has_words(tokenizer):
            raise CheckpointError(f"The text-image model '{self.model}' has a tokenizer without words.", hint=HINT)
        return network.to(self.device).eval(), tokenizer, processor

    def _normalised(self, features: Any) -> torch.Tensor:
        """Features of either tower at length 1, float32 on the CPU; transformers 5 wraps them."""
        vectors: torch.Tensor = getattr(features, "pooler_output", features)
        embeddings = (vectors / vectors.norm(dim=-1, keepdim=True)).float().cpu()
        if not embeddings.isfinite().all():  # a comparison with such a number is always False: "appropriate"
            raise CheckpointError(f"The text-image model '{self.model}' gives numbers that are not finite.")
        return embeddings

    def _library_errors(self, what: str) -> AbstractContextManager[None]:
        return library_errors(
            CheckpointError,
            f"The text-image model '{self.model}' {what}",
            hint=HINT,
        )


def _picture_processor() -> Any:
    """The preparation by Pillow, whether or not torchvision is there: the same numbers on every machine."""
    try:
        from transformers import CLIPImageProcessorPil
    except ImportError:  # before transformers 5.3 it had the plain name
        from transformers import CLIPImageProcessor as CLIPImageProcessorPil
    return CLIPImageProcessorPil
