"""Reads and writes adapters: a folder with config.json and safetensors.

Place on the path of data: the seam between training and step 4.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save

from ..categories import require_taxonomy
from ..errors import CheckpointError, OutputError, TaxonomyMismatch, library_errors
from ..files import Fault, Record, read_json, write_bytes, write_text
from ..fingerprints import file_fingerprint
from ..ids import shorten
from ..tensors import read_safetensors, require_numbers
from .adapter import TAXONOMY, PSAAdapter
from .convert import find_published, read_published
from .prompt import PromptAdapter
from .published import FoldedAdapter, PublishedAdapter

CONFIG, CARD, WEIGHTS = "config.json", "README.md", "diffusion_pytorch_model.safetensors"
OF_A_RUN = "adapter"  # where psalign train writes it
CLASSES = {kind.__name__: kind for kind in (PromptAdapter, PublishedAdapter, FoldedAdapter)}  # by _class_name
LARGEST = 1 << 24  # any size of an adapter
KINDS = {kind.kind: kind for kind in (PromptAdapter, PublishedAdapter)}  # what can be trained


def save_adapter(adapter: PSAAdapter, folder: Path) -> None:
    """Write an adapter whole or not at all: aside, then in place of an adapter that lies there.

    Raises OutputError where the disk is full, or the folder holds anything but an adapter: nothing of it is touched.
    """
    require_replaceable(folder)
    aside, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    for left in (aside, old):
        shutil.rmtree(left, ignore_errors=True)
    adapter.save_config(aside)
    write_text(aside / CARD, adapter.card())
    write_bytes(aside / WEIGHTS, save(adapter.state_dict(), metadata={"format": "pt"}))
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def require_replaceable(folder: Path) -> None:
    """Raises OutputError unless the folder is missing, empty, or holds an adapter and nothing else."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file; an adapter is a folder.", hint="Choose another --out.")
    there = {path.name for path in folder.iterdir()}
    strangers = sorted(there - {CONFIG, CARD, WEIGHTS})
    if strangers or (there and _class_of(folder) is None):
        raise OutputError(
            f"{folder} holds something else than an adapter: {', '.join(strangers[:5] or sorted(there))}. "
            "It would be replaced as a whole.",
            hint="Choose another --out: a new folder, or one with nothing but an adapter.",
        )


def load_adapter(place: Path, *, base: str | None = None, in_words: bool = False) -> PSAAdapter:
    """Read an adapter. place: see find_adapter. base: the row of BASES it must have been trained for, where given.
    in_words: it is to know users by limits in words alone, whatever categories it was trained with.

    Raises CheckpointError where it is missing, broken, has other keys or shapes, was trained for another base, or is to
    go by words and was not trained on them; TaxonomyMismatch where it was trained with other categories than those in
    use and is to know users by these.
    """
    found = find_adapter(place)
    adapter = read_published(found) if found.is_file() else _load_folder(found, any_taxonomy=in_words)
    if in_words and not getattr(adapter.config, "words", False):
        raise CheckpointError(
            f"The adapter in {place} (kind '{adapter.kind}') was not trained to keep limits in words.",
            hint="Use an adapter of kind 'prompt' that was trained on rows with limits (docs/TRAINING.md).",
        )
    adapter.in_words = in_words
    if base is not None and adapter.config.base != base:
        raise CheckpointError(
            f"The adapter in {place} was trained for '{adapter.config.base}'; this run uses '{base}'.",
            hint=f"Run with --base {adapter.config.base}, or train an adapter for '{base}'.",
        )
    return adapter.eval()


def find_adapter(place: Path) -> Path:
    """The adapter that a path means: a published file, or a folder that save_adapter wrote.

    place: either; a folder with a published file; or the folder of a training run: adapter/ inside it (psalign train),
    or the last step in checkpoint-<step>/ (the published trainer). `place` again where there is none: its reader says
    what it expected. Raises CheckpointError for a training run that is not finished.
    """
    if not place.is_dir() or (place / CONFIG).is_file():
        return place
    published = find_published(place)
    if published is not None:
        return published
    if (place / OF_A_RUN / CONFIG).is_file():
        return place / OF_A_RUN
    steps = {int(match[1]): path for path in place.iterdir() if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))}
    for step in sorted(steps, reverse=True):
        if (published := find_published(steps[step])) is not None:
            return published
    if (place / "checkpoints").is_dir():
        raise CheckpointError(
            f"{place} is a training run that is not finished: it has checkpoints and no adapter yet.",
            hint="Run the same training command again: it goes on, and writes the adapter at its end.",
        )
    return place


def adapter_fingerprint(place: Path) -> str:
    """16 hexadecimal digits that name an adapter's weights; place: see find_adapter."""
    found = find_adapter(place)
    return file_fingerprint(found if found.is_file() else found / WEIGHTS)


def describe(adapter: PSAAdapter) -> dict[str, Any]:
    """What an adapter is, and its size: parameters and bytes on disk in fp16."""
    shape = {name: value for name, value in adapter.shape.items() if name != "widths"}
    known = {"kind": adapter.kind, "class": type(adapter).__name__, "llm_dim": adapter.llm_dim, **shape}
    return {"parameters": adapter.num_parameters(), "fp16_bytes": adapter.fp16_bytes, **known}


def _class_of(folder: Path) -> type[PSAAdapter] | None:
    """The class that a folder's config.json names; None for a folder of anything else."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return CLASSES.get(str(config.get("_class_name"))) if isinstance(config, dict) else None


def _load_folder(folder: Path, *, any_taxonomy: bool = False) -> PSAAdapter:
    hint = "Train one with: psalign train, or name the folder that has config.json."
    fault = partial(CheckpointError, hint=hint)
    config = read_json(folder / CONFIG, what="the config of an adapter", fault=fault) if _has(folder, CONFIG) else {}
    kind = _class_of(folder)
    if kind is None or not _has(folder, WEIGHTS):
        raise CheckpointError(
            f"{folder} is not an adapter: expected {WEIGHTS} and a config.json of {', '.join(CLASSES)}.", hint=hint
        )
    _check_config(config, kind, fault=lambda what: fault(f"{folder / CONFIG} is damaged: {what}."))
    if not any_taxonomy:
        _require_taxonomy(config, folder)
    require_numbers(read_safetensors(folder / WEIGHTS, hint=hint)[0], folder / WEIGHTS, hint=hint)
    with library_errors(CheckpointError, f"The adapter in {folder} cannot be read", hint=hint):
        adapter, info = kind.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    faults = [f"{name}: {', '.join(info[name][:3])}" for name in ("missing_keys", "unexpected_keys") if info[name]]
    if faults:
        raise CheckpointError(
            f"The adapter in {folder} does not match its config.json: {'; '.join(faults)}.", hint=hint
        )
    return adapter


def _require_taxonomy(config: Record, folder: Path) -> None:
    try:
        require_taxonomy(config.get(TAXONOMY), of=f"the adapter in {folder}")
    except TaxonomyMismatch as err:
        if config.get("words") is True:
            err.hint = f"{err.hint} This adapter also keeps categories of any taxonomy by their phrases: --in-words."
        raise


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def _check_config(config: Record, kind: type[PSAAdapter], *, fault: Fault) -> None:
    """Raises what fault makes for a setting of another type than the adapter's own, or a size that makes no sense."""
    for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
        value, usual = config.get(name, parameter.default), parameter.default
        if isinstance(usual, tuple):
            fits = isinstance(value, list | tuple) and all(type(one) is int and 0 < one <= LARGEST for one in value)
        else:
            fits = type(value) is type(usual) and (type(value) is not int or 0 <= value <= LARGEST)
        if not fits:
            raise fault(f"{name} is {shorten(value)}; expected a value like {usual!r}")
    if config.get("rank", 64) % max(1, config.get("heads", 4)) or config.get("heads") == 0:
        raise fault("its rank is no multiple of its heads")
