"""Trains the mini text-image model (mini/clip.py).

Place on the path of data: makes weights/clip, which CLIPScore on mini pictures comes from (step 7).

Its text tower is the mini base's text encoder, which knows the language already; only its projection is
trained here.
The vision tower learns from pairs of drawing and caption, against the other captions of the batch and against
captions that are wrong in one thing, and from naming what the drawing shows (heads that are not kept).
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ...files import write_json
from ...fingerprints import weights_fingerprint
from .. import world
from ..clip import token_ids
from ..detector import COLOUR_NAMES
from ..pixels import to_pixels
from ..shapes import BACKGROUNDS, MOTIFS, SUBJECTS
from .detector import labels
from .drawings import Drawings, draw_any, some_through_autoencoder
from .stages import Stage, write_record

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTextModel

WIDTH = 128  # of the space that pictures and texts share
PREPROCESSING = {"do_resize": True, "size": {"shortest_edge": world.SIZE_PX}, "resample": 3, "do_center_crop": True,
          "crop_size": {"height": world.SIZE_PX, "width": world.SIZE_PX}, "do_rescale": True,
          "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
          "do_convert_rgb": True, "image_processor_type": "CLIPImageProcessor"}  # fmt: skip


@dataclass(frozen=True)
class ClipConfig:
    """Budget of the mini text-image model.

    through: the share of pictures that went through the autoencoder, half of them with noisy latents.
    """

    seed: int = 13
    pictures: int = 8_000
    steps: int = 1_400
    batch: int = 64
    lr: float = 1e-3
    through: float = 0.25
    latent_noise: float = 0.25


def new_clip(text_encoder: CLIPTextModel) -> CLIPModel:
    """A CLIPModel with a new vision tower (patches of 8 pixels) and the text tower of a mini base, frozen."""
    from transformers import CLIPConfig, CLIPModel

    text = {**text_encoder.config.to_dict(), "projection_dim": WIDTH}
    text.pop("_name_or_path", None)  # a folder of the machine that trains
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": world.SIZE_PX,
        "patch_size": 8,
        "projection_dim": WIDTH,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    model.text_model.load_state_dict(text_encoder.state_dict())
    model.text_model.requires_grad_(False)
    return model


def train_clip(folder: Path, pipeline: Any, config: ClipConfig, *, work: Path) -> CLIPModel:
    """Train the text-image model beside a mini base; write it to folder in fp16, with tokenizer and record.

    work: keeps the checkpoint to resume from.
    """
    torch.manual_seed(config.seed)
    model, heads = new_clip(pipeline.text_encoder), nn.Linear(128, sum(_head_sizes()))
    drawings = _draw_examples(config, pipeline)
    targets = _targets(drawings.scenes)
    tokenizer = copy.deepcopy(pipeline.tokenizer)  # its use leaves traces in it

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        rng = np.random.default_rng((config.seed, step))
        rows = rng.integers(len(drawings), size=config.batch)
        scenes = [drawings.scenes[row] for row in rows]
        texts = [world.sample_caption(scene, rng) for scene in scenes]
        texts += [world.sample_caption(one_wrong(scene, rng), rng) for scene in scenes]
        pixels = to_pixels(drawings.pictures[rows])
        pixels = (pixels + 0.05 * torch.randn(pixels.shape, generator=generator)).clamp(-1, 1)
        seen = model.vision_model(pixel_values=pixels).pooler_output  # [B, 128]
        pictures = F.normalize(model.visual_projection(seen), dim=-1)
        captions = F.normalize(model.text_projection(text_states(model, token_ids(pipeline.tokenizer, texts))), dim=-1)
        logits = model.logit_scale.exp().clamp(max=50) * pictures @ captions.T  # [B, 2B]: the right ones come first
        right = torch.arange(len(rows))
        matching = F.cross_entropy(logits, right) + F.cross_entropy(logits[:, : len(rows)].T, right)
        return matching + _naming(heads(seen), targets[torch.from_numpy(rows)])

    stage = Stage(
        "clip",
        {"model": model, "heads": heads},
        steps=config.steps,
        lr=config.lr,
        seed=config.seed,
        made_of=(
            asdict(config),
            weights_fingerprint({"": pipeline.text_encoder}),
            weights_fingerprint({"": pipeline.vae}),
        ),
    )
    seconds = stage.run(loss, work=work)
    _write(folder, model.eval(), tokenizer, config, seconds)
    return model


def _draw_examples(config: ClipConfig, pipeline: Any) -> Drawings:
    """Drawings of any scene, some through the autoencoder."""
    rng = np.random.default_rng(config.seed)
    drawings = draw_any(config.pictures, rng)
    some_through_autoencoder(
        pipeline.vae, drawings.pictures, rng, share=config.through, noise=config.latent_noise, seed=config.seed
    )
    return drawings


def one_wrong(scene: world.Scene, rng: np.random.Generator, what: str | None = None) -> world.Scene:
    """The scene with one thing wrong.

    what: "motif" (another, one too many or one too few), "subject", "colour", "background" or "side"; None: a
    random one, motifs half of the time.
    """
    choices = ("motif", "subject", "colour", "background", "side")
    what = what or str(rng.choice(choices, p=(0.5, 0.15, 0.15, 0.1, 0.1)))
    if what == "motif":
        return replace(scene, motifs=_wrong_motifs(scene.motifs, rng))
    pools = {
        "subject": SUBJECTS,
        "colour": COLOUR_NAMES,
        "background": tuple(BACKGROUNDS),
        "side": ("left", "right"),
    }
    other = [name for name in pools[what] if name != getattr(scene, what)]
    changed: dict[str, Any] = {what: str(rng.choice(other))}
    return replace(scene, **changed)


def text_states(model: CLIPModel, ids: torch.Tensor) -> torch.Tensor:
    """The frozen text tower's state of each text [B, 128]. ids: [B, T]."""
    with torch.no_grad():
        states: torch.Tensor = model.text_model(input_ids=ids).pooler_output
    return states


def _wrong_motifs(motifs: tuple[str, ...], rng: np.random.Generator) -> tuple[str, ...]:
    stranger = str(rng.choice([name for name in MOTIFS if name not in motifs]))
    if not motifs:
        return (stranger,)
    place = int(rng.integers(len(motifs)))
    rest = motifs[:place] + motifs[place + 1 :]
    ways = [(*motifs[:place], stranger, *motifs[place + 1 :]), rest, rest if len(motifs) > 1 else (*motifs, stranger)]
    return ways[int(rng.integers(3))]


def _head_sizes() -> list[int]:
    return [len(MOTIFS), len(SUBJECTS), len(COLOUR_NAMES), len(BACKGROUNDS), 2]


def _targets(scenes: list[world.Scene]) -> torch.Tensor:
    """What scenes show, one column per choice of each head: float [P, sum of head sizes]."""
    motifs, subject, colour = labels(scenes)
    background = torch.tensor([tuple(BACKGROUNDS).index(scene.background) for scene in scenes])
    side = torch.tensor([int(scene.side == "right") for scene in scenes])
    single = [
        F.one_hot(which, size).float()
        for which, size in zip((subject, colour, background, side), _head_sizes()[1:], strict=True)
    ]
    return torch.cat([motifs, *single], dim=1)


def _naming(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Loss of saying what the drawing shows; logits, targets: [B, sum of head sizes]."""
    motifs, *names = zip(logits.split(_head_sizes(), 1), targets.split(_head_sizes(), 1), strict=True)
    found = F.binary_cross_entropy_with_logits(*motifs) * 10
    return found + sum((F.cross_entropy(*name) for name in names), start=torch.zeros(()))


def _write(folder: Path, model: CLIPModel, tokenizer: Any, config: ClipConfig, seconds: float) -> None:
    model.half().save_pretrained(folder)
    model.float()
    # transformers computes in the type the config names.
    settings = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**settings, "dtype": "float32"})
    write_json(folder / "preprocessor_config.json", PREPROCESSING)
    tokenizer.save_pretrained(folder)
    write_record(folder, "train-clip", config, round(seconds))
