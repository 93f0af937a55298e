"""Pictures become features, for distances between sets of them (FID, KID).

Place on the path of data: step 7, under evaluation/fid.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psalign.errors import CheckpointError, ExtraMissing, library_errors
from psalign.fingerprints import file_fingerprint, fingerprint
from psalign.tensors import read_pickled, read_safetensors

from ..pictures import Picture
from .cache import Lazy

Features = NDArray[np.float32]  # [B, F]
# Looks at pictures, uint8 RGB [B, H, W, 3], and gives each its features, which depend on that picture alone, never on
# its neighbours in the batch.
FeatureExtractor = Callable[[Picture], Features]
INCEPTION_WIDTH = 2048


def stack(pictures: Sequence[Picture]) -> Iterator[Picture]:
    """Neighbouring pictures of one size, each run stacked: uint8 [B, H, W, 3]."""
    start = 0
    for end in range(1, len(pictures) + 1):
        if end == len(pictures) or pictures[end].shape != pictures[start].shape:
            yield np.stack(pictures[start:end])
            start = end


def inception(weights: Path, *, device: str = "cpu") -> Lazy[FeatureExtractor]:
    """The Inception-v3 of FID. weights: its .pth file, or the same as safetensors.

    Its first use raises CheckpointError where that file does not exist.
    """

    def name() -> str:
        if not weights.is_file():
            raise CheckpointError(
                f"{weights}, the weights of FID's Inception, does not exist.",
                hint="Give --inception weights-inception-2015-12-05-6726825d.pth, a file of torch-fidelity's releases.",
            )
        return fingerprint(["inception-v3, 2048", file_fingerprint(weights)])

    return Lazy(name, lambda: InceptionFeatures(weights, device=device))


class InceptionFeatures:
    """2048 features of the Inception-v3 that FID is defined on, with its own resizing, by torch-fidelity.

    Raises ExtraMissing without torch-fidelity, CheckpointError for weights that do not fit.
    """

    def __init__(self, weights: Path, *, device: str = "cpu") -> None:
        self.device = device
        self._network = _load_inception(weights).to(device).eval()

    def __call__(self, pictures: Picture, /) -> Features:
        import torch

        with torch.no_grad():
            (features,) = self._network(as_channels_first(pictures).to(self.device))
        found: Features = features.float().cpu().numpy()
        return found


def as_channels_first(pictures: Picture) -> Any:
    """uint8 RGB [B, H, W, 3] to the uint8 tensor [B, 3, H, W] that torch-fidelity's extractors take."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))


def _load_inception(weights: Path) -> Any:
    import torch

    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as err:  # a torchvision that is missing, or of another build of torch
        raise ExtraMissing("torch-fidelity", "metrics") from err
    # torch-fidelity unpickles the file it is given: it gets one that we have read safely and written again.
    state = read_weights(weights)
    with tempfile.TemporaryDirectory() as folder:
        copy = str(Path(folder) / "inception.pth")
        torch.save(state, copy)
        with library_errors(CheckpointError, f"{weights} does not fit FID's Inception-v3"):
            return FeatureExtractorInceptionV3(
                "inception-v3-compat", [str(INCEPTION_WIDTH)], feature_extractor_weights_path=copy
            )


def read_weights(path: Path) -> dict[str, Any]:
    """Tensors of a .safetensors or .pth file, by name; a pickle can build nothing but tensors.

    Raises CheckpointError where it cannot be read so.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    content = read_pickled(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}, not tensors by name.")
    return content
