"""The models that measure the pictures of a base: the shipped ones for mini, those that are given for the
others.

Place on the path of data: step 7, between the rooms `mini` and `evaluation`, which do not import each
other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from psalign.errors import UsageError
from psalign.evaluation.catalog import BASES
from psalign.evaluation.metrics.cache import Lazy
from psalign.evaluation.metrics.clip_model import CLIP_SCORE_MODEL, Q16_MODEL, ClipModel
from psalign.evaluation.metrics.features import inception
from psalign.evaluation.metrics.nudity import OWN_THRESHOLD, nudenet
from psalign.evaluation.metrics.registry import MetricModels
from psalign.fingerprints import file_fingerprint, fingerprint
from psalign.mini.clip import clip_folder
from psalign.mini.detector import WEIGHTS, detector_folder, load_detector


@dataclass(frozen=True)
class ModelsConfig:
    """Where the models of metrics are, and how they run. Nothing is loaded before its first use.

    cache: folder for the results of every picture; None: they are not kept. fid_reference: folder of
    pictures to compare with, or a file of their statistics. clip: folder or hub id of CLIPScore's model;
    None: the shipped one on mini, else CLIP ViT-H-14. inception: weights of FID's Inception, not needed on
    mini. q16: file of the Q16 vectors; None: no InPro. q16_clip: None: CLIP ViT-L-14. strict_threshold:
    NudeNet's score from which inpro_strict counts, 0.25 to 1.
    """

    cache: Path | None = None
    device: str = "cpu"
    batch_size: int = 32
    fid_reference: Path | None = None
    clip: str | None = None
    inception: Path | None = None
    q16: Path | None = None
    q16_clip: str | None = None
    strict_threshold: float = OWN_THRESHOLD


def models_for(base: str, config: ModelsConfig | None = None) -> MetricModels:
    """The models for pictures of a base: mini, sd15 or sdxl.

    Raises UsageError for another base. What cannot be loaded says so when a metric needs it.
    """
    if base not in BASES:
        raise UsageError(f"Unknown base model '{base}'; choose one of: {', '.join(BASES)}.")
    given = config or ModelsConfig()
    detector = Lazy(_detector_name, lambda: load_detector(device=given.device))
    features = None if given.inception is None else inception(given.inception, device=given.device)
    if base == "mini":
        features = Lazy(
            lambda: fingerprint(["mini detector, pooled", detector.name]), lambda: detector().pooled_features
        )
    return MetricModels(
        features=features,
        fid_reference=given.fid_reference,
        clip=ClipModel(given.clip or (str(clip_folder()) if base == "mini" else CLIP_SCORE_MODEL), device=given.device),
        q16=given.q16,
        q16_clip=ClipModel(given.q16_clip or Q16_MODEL, device=given.device),
        nudity=nudenet(),
        detector=detector if base == "mini" else None,
        strict_threshold=given.strict_threshold,
        cache=given.cache,
        batch_size=given.batch_size,
    )


def _detector_name() -> str:
    return file_fingerprint(detector_folder() / WEIGHTS)
