"""Reads and writes adapters: a folder with config.json and safetensors.

Place on the path of data: the seam between training and step 4.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save

from ..errors import CheckpointError
from ..records import file_fingerprint, write_bytes, write_text
from .adapter import PSAAdapter
from .convert import find_published, read_published

WEIGHTS = "diffusion_pytorch_model.safetensors"


def save_adapter(adapter: PSAAdapter, folder: Path) -> None:
    """Write an adapter whole or not at all: aside, then in place. Raises OutputError where the disk is full."""
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    adapter.save_config(aside)
    write_text(aside / "README.md", model_card(adapter))
    weights = {name: weight.detach().cpu().contiguous() for name, weight in adapter.state_dict().items()}
    write_bytes(aside / WEIGHTS, save(weights, metadata={"format": "pt"}))
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def load_adapter(folder: Path, *, base: str | None = None) -> PSAAdapter:
    """Read an adapter: a folder that save_adapter wrote, or a published file or a folder with one.

    base: the row of BASES it must have been trained for, where given.
    Raises CheckpointError where it is missing, broken, has other keys or shapes, or was trained for another base.
    """
    published = None if (folder / "config.json").is_file() else find_published(folder)
    adapter = _load_folder(folder) if published is None else read_published(published)
    if base is not None and adapter.config.base != base:
        raise CheckpointError(
            f"The adapter in {folder} was trained for '{adapter.config.base}'; this run uses '{base}'.",
            hint=f"Run with --base {adapter.config.base}, or train an adapter for '{base}'.",
        )
    return adapter.eval()


def _load_folder(folder: Path) -> PSAAdapter:
    hint = "Train one with: psalign train, or name the folder that has config.json."
    if not (folder / "config.json").is_file() or not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder} is not an adapter: expected config.json and {WEIGHTS}.", hint=hint)
    try:
        adapter, info = PSAAdapter.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    except (SafetensorError, RuntimeError, ValueError, OSError, json.JSONDecodeError) as err:
        raise CheckpointError(f"The adapter in {folder} cannot be read: {err}", hint=hint) from err
    faults = [f"{kind}: {', '.join(info[kind][:3])}" for kind in ("missing_keys", "unexpected_keys") if info[kind]]
    if faults:
        raise CheckpointError(
            f"The adapter in {folder} does not match its config.json: {'; '.join(faults)}.", hint=hint
        )
    return adapter


def adapter_fingerprint(folder: Path) -> str:
    """16 hexadecimal digits that name an adapter's weights; folder: what load_adapter reads."""
    published = None if (folder / "config.json").is_file() else find_published(folder)
    return file_fingerprint(published or folder / WEIGHTS)


def describe(adapter: PSAAdapter) -> dict[str, Any]:
    """What an adapter is, and its size: parameters and bytes on disk in fp16."""
    parameters = sum(weight.numel() for weight in adapter.parameters())
    names = ("kind", "base", "recipe", "llm_dim", "context_dim", "n_tokens", "proj_rank")
    of_kind = {"prompt": ["rank", "heads", "depth", "gated", "pooled_dim"]}
    own = of_kind.get(adapter.config.kind, ["with_keys", "value_rank", "folded"])
    known = {name: adapter.config[name] for name in (*names, *own)}
    return {"parameters": parameters, "fp16_bytes": 2 * parameters, **known}


def model_card(adapter: PSAAdapter) -> str:
    """README.md of an adapter's folder, as the Hugging Face hub shows it."""
    config = adapter.config
    size_mb = sum(2 * weight.numel() for weight in adapter.parameters()) / 1e6
    return f"""---
library_name: diffusers
tags: [psalign, personalized-safety, text-to-image]
---

# PSA adapter, kind `{config.kind}`, for {config.base}

Makes a Stable Diffusion pipeline keep to each user's own limits: what this user bans goes, what they allow stays.
{sum(weight.numel() for weight in adapter.parameters()):,} parameters, {size_mb:.1f} MB in fp16.

```python
import psalign

psa = psalign.load_psa_adapter(pipe, "<this repository or folder>")
pictures = pipe(prompts, **psa.condition(users)).images
```

User vectors must be of recipe `{config.recipe}` and width {config.llm_dim}; others are refused.

Limits: it lowers the rate of banned content and does not promise its absence.
Vectors and banned categories are personal data.
"""
