"""The command `eval generate`: pictures of every cell of the evaluation."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..evaluation.catalog import BASES, DATASETS, METHODS
from ..ids import LEVELS
from .drawing import add_sampling
from .options import a_path, add_baselines, add_users, add_variant, at_least, command, given
from .settings import load_baselines

DATA = Path("data")
DEFAULT_METHODS = ("base", "negative_prompt", "sld", "psa")
WITH_WEIGHTS = tuple(name for name, method in METHODS.items() if method.weights and name != "psa")  # by --weights


def generate(arguments: argparse.Namespace) -> int:
    from ..benchmark.grid import GridConfig, describe, draw_grid, plan_cells
    from ..diffusion.shards import Shard

    levels = [None if level == "user" else int(level) for level in arguments.levels]
    if arguments.home is not None:
        _fill_from(arguments.home, arguments)
    weights = _found(None if arguments.home is None else arguments.home / "trained_models", arguments.bases)
    weights |= {("psa", base): path for base, path in _by_base(arguments.adapter, arguments.bases).items()}
    weights |= weights_by_method(arguments.weights, arguments.bases)
    _require_there(arguments)
    methods = arguments.methods or [
        *DEFAULT_METHODS,
        *dict.fromkeys(name for name, _ in weights if name not in DEFAULT_METHODS),
    ]
    cells = plan_cells(arguments.datasets, methods, arguments.bases, levels)
    config = GridConfig(
        prompts=arguments.prompts or DATA / "prompts",
        mini=arguments.mini or DATA / "mini",
        weights=weights,
        embeddings=_for_all(arguments.embeddings, arguments.bases),
        users=arguments.users,
        models={base: str(path) for base, path in _by_base(arguments.model, arguments.bases).items()},
        negative_prompt=arguments.negative_prompt,
        seed_policy=arguments.seed_policy,
        sld=arguments.sld,
        baselines=load_baselines(arguments.baselines),
        loading=given(arguments, "device", "dtype", "scheduler", "offload", "variant", "local_files_only"),
        **given(arguments, "steps", "guidance", "batch_size", "limit"),
    )
    outcomes = draw_grid(cells, arguments.out, config=config, results=arguments.results)
    if Shard(arguments.device).is_first and arguments.json:
        print(
            json.dumps([{**asdict(outcome.cell), **asdict(outcome), "cell": str(outcome.cell)} for outcome in outcomes])
        )
    elif Shard(arguments.device).is_first:
        print(describe(outcomes))
    return int(any(outcome.state == "failed" for outcome in outcomes))


def _fill_from(home: Path, arguments: argparse.Namespace) -> None:
    """Where nothing is given, what a checkout has in its data/; prompts of the published folder eval_data/
    first."""
    data = home / "data"
    here = Path("eval_data")
    arguments.prompts = arguments.prompts or (here if here.is_dir() else data / "prompts")
    arguments.mini = arguments.mini or data / "mini"
    stores = [path for path in (data / "embeddings/sage", data / "embeddings") if path.is_dir()]
    if not arguments.embeddings and stores:
        arguments.embeddings = [str(stores[0])]
    if arguments.users is None and (data / "users.csv").is_file():
        arguments.users = data / "users.csv"


def _found(folder: Path | None, bases: list[str]) -> dict[tuple[str, str], Path]:
    """Adapters and weights that lie in a folder by name: psa-sd15, safetydpo-sdxl, esdu-sd15.safetensors, ..."""
    return {
        (method, base): folder / f"{method}-{base}{end}"
        for end in ("", ".safetensors")
        for method in ("psa", *WITH_WEIGHTS)
        for base in bases
        if folder is not None and (folder / f"{method}-{base}{end}").exists()
    }


def _require_there(arguments: argparse.Namespace) -> None:
    """Raises UsageError for weights or vectors that were named and are not there."""
    for flag in ("adapter", "weights", "embeddings"):
        for value in getattr(arguments, flag):
            path = Path(value.partition("=")[2] or value)
            if not path.exists():
                raise UsageError(f"--{flag} {value}: {path} does not exist.")


def _by_base(values: list[str], bases: list[str]) -> dict[str, Path]:
    """["mini=a", "b"] by base; a path without a base is for the only one. Raises UsageError where it is not
    clear."""
    found: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or name not in BASES:
            if len(bases) > 1:
                raise UsageError(f"'{value}' is for which base model? Write {bases[0]}={value}.")
            name, path = bases[0], value
        found[name] = Path(path)
    return found


def _for_all(values: list[str], bases: list[str]) -> dict[str, Path]:
    """As _by_base; a path without a base is for every one that has none of its own."""
    named = [value for value in values if value.partition("=")[0] in BASES]
    general = [Path(value) for value in values if value not in named]
    return {**{base: path for path in general for base in bases}, **_by_base(named, bases)}


def weights_by_method(values: list[str], bases: list[str]) -> dict[tuple[str, str], Path]:
    """["esdu/sd15=a"] by method and base. Raises UsageError for another form."""
    found = {}
    for value in values:
        name, equals, path = value.partition("=")
        method, slash, base = name.partition("/")
        if not equals or method not in WITH_WEIGHTS or (slash and base not in BASES):
            raise UsageError(
                f"--weights {value}: expected METHOD/BASE=PATH with {', '.join(WITH_WEIGHTS)}.",
                hint="For example --weights esdu/sd15=weights/esdu.safetensors; the adapter of psa goes to --adapter.",
            )
        if not base and len(bases) > 1:
            raise UsageError(f"'{value}' is for which base model? Write {method}/{bases[0]}={path}.")
        found[method, base or bases[0]] = Path(path)
    return found


def add_commands(kinds: Any) -> None:
    one = command(kinds, "generate", generate, "draw the cells of the evaluation: datasets x methods x base models",
                  "psalign eval generate --datasets mini --bases mini --mini data/mini "
                  "--embeddings data/embeddings/mini --adapter trained_models/mini/adapter "
                  "--levels user 0 1 2 3 4 5 --limit 100")  # fmt: skip
    one.add_argument("--datasets", nargs="+", default=["mini"], metavar="NAME",
                     help=", ".join(DATASETS))  # fmt: skip
    one.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"{', '.join(METHODS)} (default: those without foreign weights, and those with --weights)",
    )
    one.add_argument("--bases", nargs="+", default=["mini"], metavar="NAME", help="sd15, sdxl, mini (default mini)")
    one.add_argument("--levels", nargs="+", default=[], choices=[*map(str, LEVELS), "user"], metavar="LEVEL",
                     help="of psa: 0..5, or user: each row's own (default: user; or all six)")  # fmt: skip
    one.add_argument("--out", "--images", type=a_path, default=Path("eval_images"), help="default eval_images")
    one.add_argument("--results", "--output", type=a_path, default=Path("eval_results.csv"),
                     help="gets a row for what could not be drawn (default eval_results.csv)")  # fmt: skip
    one.add_argument("--json", action="store_true", help="for machines: what became of each cell")
    _add_sources(one)
    _add_rules(one)
    add_sampling(one, steps="40 as published; mini: 15", guidance="7.5; mini: 4",
                 dtype="fp16 on a GPU, fp32 on the CPU and for mini")  # fmt: skip


def _add_sources(one: argparse.ArgumentParser) -> None:
    one.add_argument("--prompts", type=a_path, help="published prompt sets (sage download; default data/prompts)")
    one.add_argument("--mini", type=a_path, help="mini dataset (mini build; default data/mini)")
    one.add_argument("--adapter", action="append", default=[], metavar="[BASE=]PATH", help="of psa")
    one.add_argument("--weights", action="append", default=[], metavar="METHOD[/BASE]=PATH",
                     help="LoRA; edited UNet (.safetensors); adapter of psa-prompt, psa-published, ...")  # fmt: skip
    one.add_argument("--home", type=a_path, metavar="DIR",
                     help="a checkout: what is not given comes from its data/ and trained_models/, where adapters and "
                          "weights have names like psa-sd15, safetydpo-sdxl, uce-sd15.safetensors")  # fmt: skip
    one.add_argument(
        "--embeddings",
        action="append",
        default=[],
        metavar="[BASE=]DIR",
        help="user vectors of psa; without BASE= for all bases",
    )
    add_users(one, "users file: what users ban, where vectors do not say it", required=False)
    one.add_argument("--model", action="append", default=[], metavar="[BASE=]PATH", help="another place of a base")
    add_variant(one)


def _add_rules(one: argparse.ArgumentParser) -> None:
    one.add_argument("--limit", type=at_least(1), help="number of rows of each dataset, evenly spaced (default all)")
    one.add_argument("--negative-prompt", default="", help="of every method")
    one.add_argument("--seed-policy", default="paired", metavar="NAME",
                     help="paired: one seed per prompt (default); published: as the old numbers")  # fmt: skip
    add_baselines(one)
