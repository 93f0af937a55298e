"""Reads and writes adapters of the published form, and writes one that stock diffusers loads as an IP-Adapter.

Place on the path of data: beside checkpoint.py. The published form is `psa_adapter.bin`, {"user_proj": {...},
"psa_adapter": {"<i>.to_k_user.0.weight", ...}}, or a safetensors file with the same names under the prefixes
`user_proj.` and `psa_adapter.`; i counts the cross-attentions in the order of `unet.attn_processors`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ..categories import current, require_taxonomy
from ..errors import CheckpointError, OutputError, UsageError, reason_of
from ..files import write_bytes
from ..records import PUBLISHED_RECIPE
from ..tensors import read_pickled, read_safetensors, require_numbers
from .adapter import TAXONOMY, PSAAdapter
from .published import PublishedAdapter

PUBLISHED_FILES = ("psa_adapter.safetensors", "psa_adapter.bin")
# Width D of the text states and number of cross-attentions of each base model's UNet.
LAYOUTS = {(768, 16): "sd15", (2048, 70): "sdxl", (128, 7): "mini"}
PROJECTION = ("proj.weight", "proj.bias", "norm.weight", "norm.bias")
RECIPE = "recipe"  # in the header of a safetensors file of ours
IP_ADAPTER_TOKENS = 4  # diffusers takes no other number
HINT = "Expected psa_adapter.bin or its safetensors form, as the published trainer writes them."

Weights = dict[str, torch.Tensor]


def find_published(folder: Path) -> Path | None:
    """The published file in a folder, or None."""
    return next((folder / name for name in PUBLISHED_FILES if (folder / name).is_file()), None)


def read_published(path: Path) -> PublishedAdapter:
    """An adapter of kind `published` from a published file; widths and base model are read from the tensors.

    Of several user tokens the published code reads the first alone, whatever the file holds; this does the same.
    Raises CheckpointError for a file that cannot be read, missing or extra keys, or shapes of no known base model;
    TaxonomyMismatch where it was trained with other categories than those in use.
    """
    file, recipe = _read(path)
    layers = 1 + max((int(match[1]) for name in file if (match := re.match(r"psa_adapter\.(\d+)\.", name))), default=-1)
    names = _published_names(layers)
    missing, unknown = sorted(set(names.values()) - set(file)), sorted(set(file) - set(names.values()))
    if missing or unknown or not layers:
        faults = {"missing": missing, "unknown": unknown}
        found = [f"{fault} {', '.join(keys[:3])}" for fault, keys in faults.items() if keys] or ["no layers"]
        raise CheckpointError(
            f"{path} is not a published adapter: {'; '.join(found)} ({len(missing)} missing, {len(unknown)} unknown).",
            hint=HINT,
        )
    require_numbers(file, path, hint=HINT)
    flat = [name for name in file if file[name].ndim != (2 if _is_matrix(name) else 1) or not file[name].numel()]
    if flat:
        raise CheckpointError(f"{path}: {', '.join(flat[:3])} has the shape of no such weight.", hint=HINT)
    weights = {name: file[published].float() for name, published in names.items()}
    token_dim, llm_dim = len(weights["user_proj.norm.weight"]), weights["user_proj.proj.weight"].shape[1]
    base = LAYOUTS.get((token_dim, layers))
    if base is None or len(weights["user_proj.proj.weight"]) % token_dim:
        known = ", ".join(f"{name}: {width} and {count}" for (width, count), name in LAYOUTS.items())
        raise CheckpointError(
            f"{path} is for no base model known here: tokens of width {token_dim}, {layers} cross-attentions "
            f"(known: {known}).",
            hint=HINT,
        )
    for name in ("user_proj.proj.weight", "user_proj.proj.bias"):
        weights[name] = weights[name][:token_dim]
    widths = tuple(len(weights[f"layers.{i}.to_v_user.weight"]) for i in range(layers))
    adapter = PublishedAdapter(base=base, recipe=recipe, llm_dim=llm_dim, context_dim=token_dim, widths=widths)
    try:
        adapter.load_state_dict(weights)
    except RuntimeError as err:
        raise CheckpointError(f"{path} does not fit together: {reason_of(err)}", hint=HINT) from err
    return adapter.eval()


def write_published(adapter: PSAAdapter, path: Path, *, recipe: str = PUBLISHED_RECIPE) -> None:
    """Write the safetensors form of a published adapter. recipe: of the raw vectors that it reads.

    Raises UsageError for an adapter that has no such form, OutputError where the file is there already.
    """
    require_published_form(adapter)
    state, names = adapter.state_dict(), _published_names(len(adapter.config.widths))
    weights = {published: state[name] for name, published in names.items()}
    mark = current().mark
    _write(path, weights, {"format": "pt", RECIPE: recipe, **({} if mark is None else {TAXONOMY: json.dumps(mark)})})


@torch.no_grad()
def fold_standardisation(adapter: PSAAdapter, mean: torch.Tensor, std: torch.Tensor, *, recipe: str) -> None:
    """Change a published adapter, in place, into one that reads raw vectors where it read standardised ones.

    mean, std: [llm_dim], of the vectors it was trained with; recipe: of the raw ones. W (v - mean) / std + b is
    (W / std) v + (b - (W / std) mean). The unconditional branch reads a zero vector in the published form; standardised
    that was the mean user, raw it is not, so pictures with guidance are not those of before.
    Raises UsageError for an adapter that has no published form.
    """
    require_published_form(adapter)
    state = adapter.state_dict()
    weight, bias = (state[f"user_proj.proj.{name}"].double() for name in ("weight", "bias"))
    weight = weight / std.double()
    state["user_proj.proj.bias"].copy_(bias - weight @ mean.double())
    state["user_proj.proj.weight"].copy_(weight)
    adapter.register_to_config(recipe=recipe)


def write_ip_adapter(adapter: PSAAdapter, path: Path) -> None:
    """Write an adapter with one user token as an IP-Adapter of diffusers, whose "image embedding" is the user vector.

    diffusers knows four tokens alone: the one is repeated, and attention over equal tokens is the token.
    Raises UsageError for an adapter that has no such form, OutputError where the file is there already.
    """
    require_published_form(adapter, "An IP-Adapter")
    if adapter.config.n_tokens != 1:
        raise UsageError(f"An IP-Adapter takes one user token; this adapter has {adapter.config.n_tokens}.")
    state = adapter.state_dict()
    weights = {f"image_proj.{name}": state[f"user_proj.{name}"] for name in PROJECTION}
    for name in ("image_proj.proj.weight", "image_proj.proj.bias"):
        weights[name] = torch.cat([weights[name]] * IP_ADAPTER_TOKENS)
    for i in range(len(adapter.config.widths)):
        for x in "kv":  # diffusers counts self-attentions too: cross-attentions have the odd numbers
            weights[f"ip_adapter.{2 * i + 1}.to_{x}_ip.weight"] = state[f"layers.{i}.to_{x}_user.weight"]
    _write(path, weights)


def require_published_form(adapter: PSAAdapter, what: str = "The published form") -> None:
    """Raises UsageError for an adapter that has no published form."""
    config = adapter.config
    full = isinstance(adapter, PublishedAdapter) and config.with_keys and not (config.value_rank or config.proj_rank)
    if not full:
        raise UsageError(
            f"{what} is made of an uncompressed adapter of kind 'published'; this one is of kind '{adapter.kind}'"
            f"{', compressed or folded' if adapter.kind == 'published' else ''}."
        )


def _published_names(layers: int) -> dict[str, str]:
    """The published name of every weight, by ours."""
    names = {f"user_proj.{name}": f"user_proj.{name}" for name in PROJECTION}
    pairs = [(i, x) for i in range(layers) for x in "kv"]
    return names | {f"layers.{i}.to_{x}_user.weight": f"psa_adapter.{i}.to_{x}_user.0.weight" for i, x in pairs}


def _is_matrix(name: str) -> bool:
    """Whether a published weight is one, and not a bias or the weight of a norm."""
    return name.endswith(".weight") and not name.endswith("norm.weight")


def _read_mark(text: str | None) -> Any:
    """The taxonomy that a header of ours names; None: the default one. A damaged one is no mark, and refused."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text


def _write(path: Path, weights: Weights, header: dict[str, str] | None = None) -> None:
    if path.exists():
        raise OutputError(
            f"{path} is there already, and may be a checkpoint; it is left alone.", hint="Choose another --out."
        )
    write_bytes(path, save(weights, metadata=header))


def _read(path: Path) -> tuple[Weights, str]:
    """Tensors by published name, with prefixes, and the recipe of the vectors. Raises CheckpointError."""
    if path.suffix == ".safetensors":
        weights, words = read_safetensors(path, hint=HINT)
        require_taxonomy(_read_mark(words.get(TAXONOMY)), of=f"the adapter in {path}")
        return weights, words.get(RECIPE, PUBLISHED_RECIPE)
    require_taxonomy(None, of=f"the published adapter in {path}")
    content = read_pickled(path, hint=HINT)
    if not isinstance(content, dict) or not all(isinstance(part, dict) for part in content.values()):
        raise CheckpointError(f"{path} holds {type(content).__name__}, not two groups of tensors.", hint=HINT)
    flat = {f"{group}.{name}": value for group, part in content.items() for name, value in part.items()}
    wrong = [name for name, value in flat.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        raise CheckpointError(f"{path}: {', '.join(wrong[:3])} is no tensor.", hint=HINT)
    return flat, PUBLISHED_RECIPE
