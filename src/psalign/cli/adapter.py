"""Commands about adapters: adapter info, convert, fold, compress, export-ip-adapter."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..config import load_preset
from ..errors import UsageError
from .options import a_path, add_embeddings, add_out, at_least, command, group


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
    from ..folding import fold_statistics

    adapter, path = load_adapter(arguments.adapter), arguments.out
    if arguments.to == "published":
        raw = fold_statistics(adapter, arguments.embeddings, dtype=arguments.dtype)
        if raw is not None:
            print(f"It reads raw vectors of recipe {raw}: psalign embed ... --npy DIR. With guidance its pictures "
                  "differ from the adapter's: the published unconditional branch reads a zero vector.")  # fmt: skip
        path = path / "psa_adapter.safetensors"
        write_published(_in_dtype(adapter, arguments.dtype), path, recipe=adapter.config.recipe)
    else:
        save_adapter(_in_dtype(adapter, arguments.dtype), path)
    print(f"Adapter: {path}")


def fold(arguments: argparse.Namespace) -> None:
    from ..folding import fold_users

    made = fold_users(arguments.adapter, arguments.embeddings, arguments.out)
    print(f"{made.users} users, {made.bytes_per_user / 1e3:.0f} KB each.")
    print(f"Adapter: {made.adapter}\nVectors: {made.vectors}")


def compress(arguments: argparse.Namespace) -> None:
    from ..adapter.checkpoint import load_adapter, require_replaceable, save_adapter
    from ..folding import compress_for

    adapter = load_adapter(arguments.adapter)
    require_replaceable(arguments.out)
    made = compress_for(adapter, arguments.embeddings, rank=arguments.rank)
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
    add_embeddings(one, "--to published: the vectors that an adapter of ours was trained with", required=False)
    _add_dtype(one)
    add_out(one, "trained_models/converted")

    one = command(kinds, "fold", fold, "compute what a published adapter adds for each user, exactly",
                  "psalign adapter fold psa_adapter.bin --embeddings data/embeddings/sage --out folded")  # fmt: skip
    _add_adapter(one)
    add_embeddings(one)
    add_out(one, "trained_models/folded")

    one = command(kinds, "compress", compress, "drop the dead keys of a published adapter and factorise the rest",
                  "psalign adapter compress psa_adapter.bin --embeddings data/embeddings/sage --out small")  # fmt: skip
    _add_adapter(one)
    add_embeddings(one, "vectors of a population of users")
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
