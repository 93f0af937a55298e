"""The base models: one table, one loader.

Place on the path of data: what step 6 draws with and what training holds frozen.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, UsageError, reason_of
from ..fingerprints import file_fingerprint, fingerprint, weights_fingerprint
from ..progress import hide_library_bars
from ..tensors import has_words


@dataclass(frozen=True)
class BaseModel:
    """A base model. source: hub id or folder; None is shipped inside the package.

    size_px: of pictures. context_dim, pooled_dim: widths D and P of the text states.
    cross_attentions: how many in the UNet. steps, guidance, batch_size: of sampling, unless something else is
    asked for; evaluation_steps: the same where methods are compared. pipeline: class of diffusers. licence: of the
    weights.
    """

    name: str
    source: str | None
    size_px: int
    context_dim: int
    pooled_dim: int
    cross_attentions: int
    steps: int = 50
    guidance: float = 7.5
    batch_size: int = 8
    evaluation_steps: int = 40
    pipeline: str = "StableDiffusionPipeline"
    licence: str = "MIT"


BASES = {
    base.name: base
    for base in (
        BaseModel(
            "mini",
            None,
            size_px=64,
            context_dim=128,
            pooled_dim=0,
            cross_attentions=7,
            steps=15,
            guidance=4.0,
            batch_size=64,
            evaluation_steps=15,
        ),
        BaseModel(
            "sd15",
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            512,
            768,
            0,
            16,
            licence="CreativeML OpenRAIL-M",
        ),
        BaseModel(
            "sdxl",
            "stabilityai/stable-diffusion-xl-base-1.0",
            1024,
            2048,
            1280,
            70,
            batch_size=2,
            pipeline="StableDiffusionXLPipeline",
            licence="CreativeML Open RAIL++-M",
        ),
    )
}


PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")  # that every pipeline of BASES has
PARTS_WITH_WEIGHTS = ("unet", "vae", "text_encoder", "text_encoder_2")
_MODEL_HINT = "Give --model a folder that diffusers wrote, a hub id, or a single .safetensors file."
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
OFFLOADS = {"none": "none", "model": "enable_model_cpu_offload", "sequential": "enable_sequential_cpu_offload"}
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpm": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}


def find_base(name: str) -> BaseModel:
    """A row of BASES. Raises UsageError that lists the choices."""
    if name not in BASES:
        raise UsageError(f"Unknown base model '{name}'; choose one of: {', '.join(BASES)}.")
    return BASES[name]


def mini_folder() -> Path:
    """Where the shipped mini base lies."""
    return Path(str(resources.files("psalign") / "mini" / "weights" / "base"))


@dataclass(frozen=True)
class Loading:
    """How a base model is read and where it runs.

    source: another folder, hub id, or single file (.safetensors, .ckpt) of the same architecture; None: the base's own.
    dtype: fp32, fp16 or bf16. scheduler: a name of SCHEDULERS instead of the model's own.
    offload: "none"; "model" keeps one model at a time on the device (SDXL in 8 GB, SD1.5 in 4 GB, with fp16);
    "sequential" one layer at a time, slowly.
    variant: of the weights' files on the hub ("fp16": half the download). local_files_only: fetch nothing.
    config: folder or hub id that has the configuration of a single file; None: the hub's, for that kind of file.
    """

    source: str | None = None
    device: str = "cpu"
    dtype: str = "fp32"
    scheduler: str | None = None
    offload: str = "none"
    variant: str | None = None
    local_files_only: bool = False
    config: str | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for an unknown name, and for offloading from no device."""
        _choose("dtype", self.dtype, DTYPES)
        _choose("offload", self.offload, OFFLOADS)
        if self.scheduler is not None:
            _choose("scheduler", self.scheduler, SCHEDULERS)
        if self.offload != "none" and self.device.startswith("cpu"):
            raise UsageError(f"Offloading ('{self.offload}') needs a device to offload from; saw device 'cpu'.")


def load_pipeline(base: str, **how: Any) -> Any:
    """The stock diffusers pipeline of a base model, with progress bars off and its UNet frozen. how: see Loading.

    Raises CheckpointError where it cannot be loaded or is another architecture, UsageError for an unknown name.
    """
    row, loading = find_base(base), Loading(**how)
    place = loading.source or row.source or str(mini_folder())
    pipeline = _load(row, place, loading)
    width = pipeline.unet.config.cross_attention_dim
    if width != row.context_dim:
        raise CheckpointError(
            f"{place} is not a '{base}' model: its text states have width {width}, expected {row.context_dim}."
        )
    if loading.scheduler is not None:
        pipeline.scheduler = _scheduler(loading.scheduler, pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.requires_grad_(False)
    return _place(pipeline, loading)


def _load(row: BaseModel, place: str, loading: Loading) -> Any:
    import diffusers
    import torch

    kind, dtype = getattr(diffusers, row.pipeline), getattr(torch, DTYPES[loading.dtype])
    more: dict[str, Any] = {"dtype": dtype, "local_files_only": loading.local_files_only}
    if row.pipeline == "StableDiffusionPipeline":
        more |= {"safety_checker": None, "requires_safety_checker": False}
    hide_library_bars()
    try:
        if is_single_file(place):
            pipeline = kind.from_single_file(place, config=_configuration(row, loading), **more)
        else:
            require_no_file(place, row.name, hint=_MODEL_HINT)
            pipeline = kind.from_pretrained(place, variant=loading.variant, **more)
    except CheckpointError:
        raise
    except Exception as err:  # over a damaged or foreign folder diffusers raises nearly anything
        raise CheckpointError(
            f"The base model '{row.name}' cannot be loaded from {place}: {reason_of(err)}", hint=_MODEL_HINT
        ) from err
    require_whole(pipeline, row.name, place, parts=PARTS, hint=_MODEL_HINT)
    for part in pipeline.components.values():  # some checkpoints hold parts in another dtype
        if isinstance(part, torch.nn.Module) and part.dtype != dtype:
            part.to(dtype)
    return pipeline


def require_no_file(place: str, base: str, *, hint: str) -> None:
    """Raises CheckpointError for a file where a folder is expected: diffusers would ask the hub for its name."""
    if Path(place).is_file():
        raise CheckpointError(f"The base model '{base}' cannot be loaded from {place}: it is a file.", hint=hint)


def require_whole(pipeline: Any, base: str, place: str, *, parts: Sequence[str], hint: str) -> None:
    """Raises CheckpointError where a pipeline lacks one of the parts, or as require_tokenizers does."""
    missing = [name for name in parts if getattr(pipeline, name, None) is None or is_gone(Path(place), name)]
    if missing:
        raise CheckpointError(
            f"The base model '{base}' in {place} is not whole: {', '.join(missing)} missing.", hint=hint
        )
    require_tokenizers(pipeline, base, place)


def require_tokenizers(pipeline: Any, base: str, place: str) -> None:
    """Raises CheckpointError for a tokenizer without words, which transformers makes of a folder that lacks its
    vocabulary, or one that does not belong to its text encoder: prompts would be drawn as if they said something else.
    """
    for tokenizer, encoder in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")):
        words, config = getattr(pipeline, tokenizer, None), getattr(getattr(pipeline, encoder, None), "config", None)
        if words is None or config is None:
            continue
        most, longest, ids = config.max_position_embeddings, words.model_max_length, words.get_vocab().values()
        faults = (
            (not has_words(words), "has no words"),
            (max(ids, default=0) >= config.vocab_size, f"has more words than the {config.vocab_size} of {encoder}"),
            (not isinstance(longest, int) or not 2 < longest <= most, f"reads {longest} tokens, {encoder} {most}"),
        )
        for is_so, fault in faults:
            if is_so:
                raise CheckpointError(
                    f"The base model '{base}' in {place} is damaged: its {tokenizer} {fault}.", hint=_MODEL_HINT
                )


def is_gone(place: Path, part: str) -> bool:
    """Whether a folder of a pipeline lacks a part: of a tokenizer that is not there transformers makes an empty one."""
    return (place / "model_index.json").is_file() and not (place / part).is_dir()


def is_single_file(place: str | None) -> bool:
    """Whether a place is one file of weights, not a folder or a hub id."""
    return Path(place or "").suffix in (".safetensors", ".ckpt")


def count_weights(place: str, variant: str | None = None) -> int:
    """How many numbers the weights of a pipeline have, by the heads of its safetensors files; 0 where it has none.

    place: its folder, or one file. variant: of the files; None: those without one.
    """
    if is_single_file(place):
        return _numbers_in(Path(place)) if Path(place).suffix == ".safetensors" else 0
    found = [path for part in PARTS_WITH_WEIGHTS for path in (Path(place) / part).glob("*.safetensors")]
    middle = f".{variant}" if variant else ""
    wanted = re.compile(rf"(model|diffusion_pytorch_model){re.escape(middle)}(-\d+-of-\d+)?\.safetensors")
    return sum(_numbers_in(path) for path in found if wanted.fullmatch(path.name))


def _numbers_in(path: Path) -> int:
    with path.open("rb") as stream:
        head = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(one["shape"]) for name, one in head.items() if name != "__metadata__")


def _configuration(row: BaseModel, loading: Loading) -> str | None:
    """Where diffusers finds the configuration of a single file: without one it downloads it, even where it must not."""
    if loading.config is not None or not loading.local_files_only:
        return loading.config
    from huggingface_hub import snapshot_download

    return str(snapshot_download(str(row.source), allow_patterns=["*.json", "*.txt"], local_files_only=True))


def _scheduler(name: str, own: Any) -> Any:
    import diffusers

    return getattr(diffusers, SCHEDULERS[name]).from_config(own.config)


def _place(pipeline: Any, loading: Loading) -> Any:
    if loading.offload == "none":
        return pipeline.to(loading.device)
    pipeline.vae.enable_slicing()
    getattr(pipeline, OFFLOADS[loading.offload])(device=loading.device)
    return pipeline


def _choose(what: str, name: str, table: dict[str, str]) -> None:
    if name not in table:
        raise UsageError(f"Unknown {what} '{name}'; choose one of: {', '.join(table)}.")


def base_fingerprint(pipeline: Any) -> str:
    """16 hexadecimal digits that name the weights of a pipeline: its files', its hub id, or those in memory."""
    place = getattr(getattr(pipeline, "config", None), "_name_or_path", None)
    if not place:
        import torch

        parts = sorted(getattr(pipeline, "components", {}).items())
        return weights_fingerprint({name: part for name, part in parts if isinstance(part, torch.nn.Module)})
    if not Path(place).is_dir():
        return fingerprint(str(place))
    files = sorted(path for path in Path(place).rglob("*") if path.suffix in (".safetensors", ".bin"))
    return fingerprint([file_fingerprint(path) for path in files])
