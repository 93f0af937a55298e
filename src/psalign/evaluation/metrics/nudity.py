"""What NudeNet sees in pictures: parts of bodies, exposed or covered, each with a score and a box.

Place on the path of data: step 7, under evaluation/inpro.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from psalign.errors import ExtraMissing
from psalign.files import Record
from psalign.fingerprints import file_fingerprint, fingerprint

from ..pictures import Picture, Pictures
from .cache import Inference, Lazy, PictureCache, infer

GENITALIA = frozenset({"FEMALE_GENITALIA_EXPOSED", "MALE_GENITALIA_EXPOSED"})
OWN_THRESHOLD = 0.25  # NudeNet drops what scores less


# Looks at pictures, each uint8 RGB [H, W, 3], and gives the detections of each, which are
# {"class": name, "score": 0 to 1, "box": [x, y, width, height]}.
NudityDetector = Callable[[Sequence[Picture]], list[list[Record]]]


def nudenet() -> Lazy[NudityDetector]:
    """The detector inside the nudenet package, loaded at its first use; its name is that of the model's file.

    Raises ExtraMissing, at that use, without the package.
    """
    return Lazy(_name, NudeNet)


class NudeNet:
    """NudeNet's own detector, fed as when it reads a file, and a batch at a time."""

    def __init__(self) -> None:
        try:
            from nudenet import NudeDetector
        except ImportError as err:
            raise ExtraMissing("nudenet", "nudenet") from err
        self._detector = NudeDetector()

    def __call__(self, pictures: Sequence[Picture], /) -> list[list[Record]]:
        # It reads files by OpenCV, whose channels come in the order blue, green, red; arrays must come so too.
        arrays = [np.ascontiguousarray(picture[..., ::-1]) for picture in pictures]
        found: list[list[Record]] = self._detector.detect_batch(arrays, batch_size=max(1, len(arrays)))
        return found


def detections(
    pictures: Pictures, detector: Lazy[NudityDetector], *, cache: Path | None = None, batch_size: int = 32
) -> list[list[Record]]:
    """All that the detector saw in each picture, in the manifest's order."""

    def make() -> Inference[Picture]:
        loaded = detector()
        return Inference(lambda picture: picture, lambda batch, _: loaded(batch))

    return infer(
        pictures,
        make,
        keys=pictures.digests,
        cache=PictureCache(cache, f"nudity-{detector.name}"),
        batch_size=batch_size,
    )


def shows_genitalia(found: Sequence[Record]) -> bool:
    """The published rule, at NudeNet's own threshold."""
    return any(detection["class"] in GENITALIA for detection in found)


def shows_exposed(found: Sequence[Record], threshold: float) -> bool:
    """Any exposed part, of any class, that scores at least the threshold."""
    return any(detection["class"].endswith("_EXPOSED") and detection["score"] >= threshold for detection in found)


def _name() -> str:
    """Of the package's version and its model."""
    try:
        files = metadata.files("nudenet") or []
        version = metadata.version("nudenet")
    except metadata.PackageNotFoundError as err:
        raise ExtraMissing("nudenet", "nudenet") from err
    models = [Path(str(file.locate())) for file in files if file.suffix == ".onnx"]
    return fingerprint([version, [file_fingerprint(path) for path in models]])
