"""The mini text-image model: a small standard CLIPModel that says how well a caption tells a mini picture.

Place on the path of data: between pictures and numbers (step 7). evaluation/clip_score.py loads its folder as it loads
any CLIP of the hub.

Its text tower is the mini base's text encoder, which has read the world already; only its projection is trained here.
The vision tower learns from pairs of drawing and caption, against the other captions of the batch and against captions
that are wrong in one thing, and from saying what the drawing shows (heads that are not kept).
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

from ..files import write_json
from ..progress import hide_library_bars
from ..records import file_fingerprint
from . import world
from .detector import COLOUR_NAMES, MOTIF_NAMES, SUBJECT_NAMES, labels, through_autoencoder
from .pixels import to_pixels
from .shapes import BACKGROUNDS
from .stages import Stage, weights_name

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

    through: share of pictures that went through the autoencoder, half of these with noise on their latents.
    """

    seed: int = 13
    pictures: int = 8_000
    steps: int = 1_400
    batch: int = 64
    lr: float = 1e-3
    through: float = 0.25
    latent_noise: float = 0.25


@dataclass(frozen=True)
class Told:
    """Scenes and their pictures, uint8 RGB [P, 64, 64, 3]."""

    scenes: list[world.Scene]
    pictures: np.ndarray


def clip_folder() -> Path:
    """Where the shipped mini text-image model lies."""
    return Path(__file__).parent / "weights" / "clip"


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
    """Train the text-image model beside a mini base and write it to folder in fp16, with tokenizer and record.

    work: keeps the checkpoint to resume from.
    """
    torch.manual_seed(config.seed)
    model, heads = new_clip(pipeline.text_encoder), nn.Linear(128, sum(_head_sizes()))
    told = draw_told(config, pipeline)
    targets = torch.cat([_targets(told.scenes)], dim=1)
    names, tokenizer = _Names(pipeline.tokenizer), copy.deepcopy(pipeline.tokenizer)  # its use leaves traces in it

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        rng = np.random.default_rng((config.seed, step))
        rows = rng.integers(len(told.scenes), size=config.batch)
        scenes = [told.scenes[row] for row in rows]
        texts = [tell(scene, rng) for scene in scenes] + [tell(one_wrong(scene, rng), rng) for scene in scenes]
        pixels = to_pixels(told.pictures[rows])
        pixels = (pixels + 0.05 * torch.randn(pixels.shape, generator=generator)).clamp(-1, 1)
        seen = model.vision_model(pixel_values=pixels).pooler_output  # [B, 128]
        pictures = F.normalize(model.visual_projection(seen), dim=-1)
        captions = F.normalize(model.text_projection(text_states(model, names.ids(texts))), dim=-1)
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
        made_of=(asdict(config), weights_name(pipeline.text_encoder), weights_name(pipeline.vae)),
    )
    seconds = stage.run(loss, work=work)
    _write(folder, model.eval(), tokenizer, config, seconds)
    return model


@dataclass(frozen=True)
class MiniClip:
    """A trained text-image model and its tokenizer."""

    model: CLIPModel
    tokenizer: Any

    @torch.no_grad()
    def scores(self, pictures: np.ndarray, texts: list[str]) -> np.ndarray:
        """100 * cosine of pictures, uint8 RGB [P, 64, 64, 3], with texts: [P, T]."""
        ids = _Names(self.tokenizer).ids(texts)
        seen = self.model.get_image_features(pixel_values=to_pixels(pictures)).pooler_output
        told = self.model.get_text_features(input_ids=ids).pooler_output
        found: np.ndarray = (100 * F.normalize(seen, dim=-1) @ F.normalize(told, dim=-1).T).numpy()
        return found


def load_clip(folder: Path | None = None) -> MiniClip:
    """The shipped text-image model, or the one in folder."""
    from transformers import AutoTokenizer, CLIPModel

    place = folder or clip_folder()
    hide_library_bars()
    return MiniClip(CLIPModel.from_pretrained(place).eval(), AutoTokenizer.from_pretrained(place))


def draw_told(config: ClipConfig, pipeline: Any) -> Told:
    """Drawings of any scene, some through the autoencoder."""
    rng = np.random.default_rng(config.seed)
    scenes = [world.sample_scene(rng, held_out=None) for _ in range(config.pictures)]
    pictures = np.stack([world.draw(scene, seed=int(rng.integers(2**31))) for scene in scenes])
    through = np.flatnonzero(rng.random(len(pictures)) < config.through)
    if len(through):
        pictures[through] = through_autoencoder(pipeline.vae, pictures[through], config.latent_noise, seed=config.seed)
    return Told(scenes, pictures)


def tell(scene: world.Scene, rng: np.random.Generator) -> str:
    """A caption in any wording; motifs by name, or by name and kind."""
    wordings = world.WORDINGS + world.HELD_OUT_WORDINGS
    kinds = rng.choice(3, size=2, p=(0.5, 0.3, 0.2)).tolist()
    return world.caption(scene, wordings[int(rng.integers(len(wordings)))], kinds=kinds)


def one_wrong(scene: world.Scene, rng: np.random.Generator, what: str | None = None) -> world.Scene:
    """The scene with one thing wrong.

    what: "motif" (another, one too many or one too few), "subject", "colour", "background" or "side"; None: a random
    one, motifs half of the time.
    """
    choices = ("motif", "subject", "colour", "background", "side")
    what = what or str(rng.choice(choices, p=(0.5, 0.15, 0.15, 0.1, 0.1)))
    if what == "motif":
        return replace(scene, motifs=_wrong_motifs(scene.motifs, rng))
    pools = {
        "subject": SUBJECT_NAMES,
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


class _Names:
    """Token ids of texts, cut to the longest of them: what comes after the end changes nothing."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def ids(self, texts: list[str]) -> torch.Tensor:
        return torch.as_tensor(self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").input_ids)


def _wrong_motifs(motifs: tuple[str, ...], rng: np.random.Generator) -> tuple[str, ...]:
    stranger = str(rng.choice([name for name in MOTIF_NAMES if name not in motifs]))
    if not motifs:
        return (stranger,)
    place = int(rng.integers(len(motifs)))
    rest = motifs[:place] + motifs[place + 1 :]
    ways = [(*motifs[:place], stranger, *motifs[place + 1 :]), rest, rest if len(motifs) > 1 else (*motifs, stranger)]
    return ways[int(rng.integers(3))]


def _head_sizes() -> list[int]:
    return [len(MOTIF_NAMES), len(SUBJECT_NAMES), len(COLOUR_NAMES), len(BACKGROUNDS), 2]


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
    record = {
        "command": "psalign mini train-clip",
        "config": asdict(config),
        "seconds": round(seconds),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "sha256": {"model.safetensors": file_fingerprint(folder / "model.safetensors")},
    }
    write_json(folder / "training.json", record)
