"""Commands about adapters: adapter info, convert, fold, compress, export-ip-adapter."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..errors import OutputError, UsageError
from .options import a_path, add_out, at_least, command, group


def info(arguments: argparse.Namespace) -> None:
    from ..adapter.checkpoint import adapter_fingerprint, describe, load_adapter

    if not arguments.adapter and not arguments.preset:
        raise UsageError("Name an adapter, or --preset.", hint="Try: psalign adapter info --preset psa-sd15")
    rows = [{"preset": name, **describe(_of_preset(name))} for name in arguments.preset]
    for place in arguments.adapter:
        rows.append({"adapter": str(place), **describe(load_adapter(place)), "fingerprint": adapter_fingerprint(place)})
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print("\n".join(f"{name:16} {value}" for name, value in row.items()), end="\n\n")


def _of_preset(name: str) -> Any:
    """A preset's adapter of kind `prompt` at its real shapes, without memory for its weights."""
    import torch

    from ..adapter.prompt import PromptAdapter
    from ..config import load_preset
    from ..diffusion.base_models import find_base
    from ..training.run import check_shape

    preset = load_preset(name)
    base, shape = find_base(preset.get("base", "mini")), preset["prompt"].get("adapter") or {}
    check_shape("prompt", shape)
    with torch.device("meta"):
        return PromptAdapter(
            base=base.name,
            llm_dim=preset["llm_dim"],
            context_dim=base.context_dim,
            pooled_dim=base.pooled_dim,
            **shape,
        )


def convert(arguments: argparse.Namespace) -> None:
    from ..adapter.checkpoint import load_adapter, save_adapter
    from ..adapter.convert import write_published

    adapter = load_adapter(arguments.adapter)
    if arguments.to == "published":
        _fold_standardisation(adapter, arguments)
        path = arguments.out / "psa_adapter.safetensors"
        write_published(_in_dtype(adapter, arguments.dtype), path, recipe=adapter.config.recipe)
    else:
        path = arguments.out
        save_adapter(_in_dtype(adapter, arguments.dtype), path)
    print(f"Adapter: {path}")


def _fold_standardisation(adapter: Any, arguments: argparse.Namespace) -> None:
    """Published files know no mean and spread: an adapter that was trained on standardised vectors must have them
    inside, or it would read raw ones as if they were standardised."""
    import torch

    from ..adapter.convert import fold_standardisation, require_published_form
    from ..errors import RecipeMismatch
    from ..records import PUBLISHED_RECIPE
    from ..users.space import STD_FLOOR
    from ..users.store import EmbeddingStore

    require_published_form(adapter)
    recipe = adapter.config.recipe
    if recipe == PUBLISHED_RECIPE:
        return
    if arguments.embeddings is None:
        raise UsageError(
            f"This adapter was trained with standardised vectors (recipe {recipe}); the published form reads raw ones.",
            hint="Give --embeddings, the vectors it was trained with: their mean and spread go into the projection.",
        )
    if arguments.dtype != "fp32":
        raise UsageError("A projection of raw vectors needs --dtype fp32: their differences are small.")
    store = EmbeddingStore.load(arguments.embeddings)
    if store.fingerprint != recipe:
        raise RecipeMismatch(
            f"The vectors of {arguments.embeddings} were made by recipe {store.fingerprint}; "
            f"the adapter was trained with {recipe}."
        )
    if store.width != store.recipe.llm_dim or store.code_width:
        raise UsageError(
            "The published form reads raw vectors; whitened ones, or a ban code behind them, do not fold into it.",
            hint="Train the adapter with vectors of psalign embed --whitened 0 --no-exact.",
        )
    raw = store.raw()
    std = torch.from_numpy(store.space.std).clamp(min=STD_FLOOR)
    fold_standardisation(adapter, torch.from_numpy(store.space.mean), std, recipe=raw.fingerprint)
    print(f"It reads raw vectors of recipe {raw.fingerprint}: psalign embed ... --npy DIR. With guidance its pictures "
          "differ from the adapter's: the published unconditional branch reads a zero vector.")  # fmt: skip


def fold(arguments: argparse.Namespace) -> None:
    import torch

    from ..adapter.checkpoint import adapter_fingerprint, load_adapter, require_replaceable, save_adapter
    from ..adapter.compress import fold as make
    from ..errors import RecipeMismatch
    from ..users.store import EmbeddingStore

    adapter, users = load_adapter(arguments.adapter), EmbeddingStore.load(arguments.embeddings)
    if users.fingerprint != adapter.config.recipe:
        raise RecipeMismatch(
            f"The vectors of {arguments.embeddings} were made by recipe {users.fingerprint}; "
            f"the adapter was trained with {adapter.config.recipe}."
        )
    _require_folded(arguments.out / "embeddings")
    require_replaceable(arguments.out / "adapter")
    options = {"adapter": adapter_fingerprint(arguments.adapter), "recipe": users.fingerprint}
    folded, vectors = make(adapter, torch.from_numpy(users.vectors(users.user_ids)), recipe="folded")
    store = users.replaced(vectors.numpy(), "folded", options=options)
    folded.register_to_config(recipe=store.fingerprint)
    save_adapter(folded, arguments.out / "adapter")
    store.save(arguments.out / "embeddings")
    print(f"{len(users)} users, {4 * vectors.shape[1] / 1e3:.0f} KB each.")
    print(f"Adapter: {arguments.out / 'adapter'}\nVectors: {arguments.out / 'embeddings'}")


def compress(arguments: argparse.Namespace) -> None:
    import torch

    from ..adapter.checkpoint import load_adapter, require_replaceable, save_adapter
    from ..adapter.compress import compress as make
    from ..users.store import EmbeddingStore

    adapter, users = load_adapter(arguments.adapter), EmbeddingStore.load(arguments.embeddings)
    require_replaceable(arguments.out)
    made = make(adapter, torch.from_numpy(users.vectors(users.user_ids)), rank=arguments.rank)
    save_adapter(_in_dtype(made.adapter, arguments.dtype), arguments.out)
    print(f"Size in fp16           {adapter.fp16_bytes / 1e6:.1f} MB -> {made.adapter.fp16_bytes / 1e6:.1f} MB")
    print(f"Relative output error  {made.error:.2%} mean, {made.worst:.2%} worst, over {made.users} users left out")
    print(f"  of what differs      {made.between:.2%} mean: against the difference between users")
    print(f"Adapter: {arguments.out}")


def export_ip_adapter(arguments: argparse.Namespace) -> None:
    from ..adapter.checkpoint import load_adapter
    from ..adapter.convert import write_ip_adapter

    write_ip_adapter(load_adapter(arguments.adapter), arguments.out)
    print(
        "For pipe.load_ip_adapter, with the user vector as ip_adapter_image_embeds: one user per call.\n"
        "It has no guard: a missing user, or several in one batch, go unnoticed."
    )
    print(f"IP-Adapter: {arguments.out}")


def _require_folded(folder: Path) -> None:
    """Raises OutputError where other vectors than folded ones would be replaced."""
    from ..users.store import EmbeddingStore

    if folder.exists() and EmbeddingStore.load(folder).recipe.backend != "folded":
        raise OutputError(
            f"{folder} holds vectors that are not folded ones; they are left alone.", hint="Choose another --out."
        )


def _in_dtype(adapter: Any, dtype: str) -> Any:
    import torch

    return adapter.to({"fp32": torch.float32, "fp16": torch.float16}[dtype])


def add_commands(groups: Any) -> None:
    kinds = group(groups, "adapter", "adapters on disk")
    one = command(kinds, "info", info, "print what adapters or presets are, and how large",
                  "psalign adapter info --preset psa-sd15 --preset psa-sdxl --json")  # fmt: skip
    one.add_argument("adapter", nargs="*", type=a_path, help="folders or published files")
    one.add_argument("--preset", action="append", default=[], help="the adapter that this preset would train")
    one.add_argument("--json", action="store_true", help="for machines: a list of objects")

    one = command(kinds, "convert", convert, "read a published checkpoint or an adapter and write the other form",
                  "psalign adapter convert psa_adapter.bin --out trained_models/psa")  # fmt: skip
    _add_adapter(one)
    one.add_argument("--to", choices=("psalign", "published"), default="psalign", help="form to write")
    one.add_argument(
        "--embeddings", type=a_path, help="--to published: the vectors that an adapter of ours was trained with"
    )
    _add_dtype(one)
    add_out(one, "trained_models/converted")

    one = command(kinds, "fold", fold, "compute what a published adapter adds for each user, exactly",
                  "psalign adapter fold psa_adapter.bin --embeddings data/embeddings/sage --out folded")  # fmt: skip
    _add_adapter(one)
    one.add_argument("--embeddings", type=a_path, required=True, help="user vectors (psalign embed)")
    add_out(one, "trained_models/folded")

    one = command(kinds, "compress", compress, "drop the dead keys of a published adapter and factorise the rest",
                  "psalign adapter compress psa_adapter.bin --embeddings data/embeddings/sage --out small")  # fmt: skip
    _add_adapter(one)
    one.add_argument("--embeddings", type=a_path, required=True, help="vectors of a population of users")
    one.add_argument("--rank", type=at_least(1), default=64, help="of projection and values (default 64)")
    _add_dtype(one, "fp16")
    add_out(one, "trained_models/compressed")

    one = command(kinds, "export-ip-adapter", export_ip_adapter, "write a published adapter as diffusers' IP-Adapter",
                  "psalign adapter export-ip-adapter psa_adapter.bin --out ip_adapter.safetensors")  # fmt: skip
    _add_adapter(one)
    add_out(one, "ip_adapter.safetensors")


def _add_adapter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", type=a_path, help="folder of an adapter, or psa_adapter.bin or .safetensors")


def _add_dtype(parser: argparse.ArgumentParser, default: str = "fp32") -> None:
    parser.add_argument("--dtype", choices=("fp32", "fp16"), default=default, help=f"of weights (default {default})")
