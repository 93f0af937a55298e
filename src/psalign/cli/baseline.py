"""Commands of the methods that PSAlign is compared with: baseline list, train, apply."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..config import BASELINES, load_preset
from ..errors import UsageError
from ..evaluation.catalog import METHODS
from .drawing import add_drawing, device_of, load, sampling
from .options import a_path, add_base, add_baselines, add_device, add_out, add_seed, add_users, command, group
from .settings import load_baselines

NOT_BASELINES = ("base",)
TRAINABLE = sorted({method.family for method in METHODS.values() if method.weights and not method.has_levels})


def baselines() -> list[str]:
    """Names of the methods that are no adapter of ours."""
    return [name for name, method in METHODS.items() if not method.has_levels and name not in NOT_BASELINES]


def list_all(arguments: argparse.Namespace) -> None:
    rows = [(name, "by user" if METHODS[name].personal else "for all", METHODS[name].weights or "-",
             METHODS[name].source or "-", METHODS[name].note) for name in baselines()]  # fmt: skip
    if arguments.json:
        names = ("name", "form", "needs", "source", "note")
        print(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))
        return
    table = [("method", "form", "needs", "source", "what it does"), *rows]
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    for row in table:
        print("  ".join([*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)), row[4]]))


def train(arguments: argparse.Namespace) -> None:
    from ..baselines.train import TRAINED_BY, check_settings, train_baseline
    from ..benchmark.weights import source_for, with_seed
    from ..diffusion.base_models import find_base, load_pipeline

    base, method = find_base(arguments.base).name, arguments.method
    preset = load_preset(arguments.preset or f"{BASELINES}-{base}", changes=arguments.set)
    check_settings(preset.get("baselines") or {})
    given = (preset.get("baselines") or {}).get(method)
    if given is None:
        raise UsageError(f"The preset says nothing of '{method}'.", hint="Give another --preset.")
    if TRAINED_BY[method].needs_pictures and arguments.data is None:  # said before a model is loaded
        raise UsageError(
            f"The method '{method}' learns from pictures.", hint="Give --data a dataset (psalign mini build)."
        )
    out = arguments.out or Path("trained_models") / f"{method}-{base}"
    pipeline = load_pipeline(base, source=arguments.model, device=device_of(arguments))
    cache, framing = arguments.cache or out / "cache", preset.get("pictures")
    source = source_for(method, pipeline, base, data=arguments.data, cache=cache, framing=framing)
    weights = train_baseline(method, source, out, base=base, given=with_seed(method, given, arguments.seed))
    print(f"Weights: {weights}")


def apply(arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from ..benchmark.grid import users_of_file
    from ..benchmark.methods import MethodInputs, draw_by, words_for
    from ..diffusion.generate import Nobody
    from ..diffusion.prompts import load_meta_file

    rows = [row.prompt for row in load_meta_file(arguments.prompts, seed=arguments.seed)]
    if arguments.users is None:
        if METHODS[arguments.method].personal:
            print("No --users: every row is drawn with all categories banned.", file=sys.stderr)
        rows = [replace(row, user_id=None) for row in rows]
    config = sampling(arguments, method=arguments.method)
    inputs = MethodInputs(
        users=Nobody() if arguments.users is None else users_of_file(arguments.users),
        words=words_for(config.base),
        weights=arguments.weights,
        sld=arguments.sld,
        baselines=load_baselines(arguments.baselines),
    )
    pipeline = load(arguments, device_of(arguments))
    manifest = draw_by(arguments.method, pipeline, rows, arguments.out, config=config, inputs=inputs)
    print(f"{len(manifest)} pictures and manifest.jsonl: {arguments.out}")


def add_commands(groups: Any) -> None:
    kinds = group(groups, "baseline", "methods to compare with: list, train, apply")
    one = command(kinds, "list", list_all, "list the methods, what they need and where they come from",
                  "psalign baseline list")  # fmt: skip
    one.add_argument("--json", action="store_true", help="as JSON")
    one = command(kinds, "train", train, "make the weights of a method; an interrupted training goes on",
                  "psalign baseline train uce --base mini --out outputs/uce-mini")  # fmt: skip
    one.add_argument("method", choices=TRAINABLE, metavar="METHOD", help=", ".join(TRAINABLE))
    add_base(one)
    one.add_argument("--data", type=a_path, help="dataset with pictures, for methods that learn from them")
    one.add_argument("--cache", type=a_path, help="latents and text states (default: inside --out)")
    one.add_argument("--preset", help="shipped preset or .yaml file (default: baselines-BASE)")
    one.add_argument("--set", action="append", default=[], metavar="baselines.METHOD.NAME=VALUE", help="one setting")
    add_seed(one)
    one.add_argument("--out", type=a_path, help="where to write (default trained_models/METHOD-BASE)")
    add_device(one)
    one = command(kinds, "apply", apply, "draw prompts by a method, each row for its user",
                  "psalign baseline apply safree-user --prompts data/mini/prompts.jsonl --users data/mini/users.csv "
                  "--out outputs/safree")  # fmt: skip
    one.add_argument("method", choices=baselines(), metavar="METHOD", help="a name of psalign baseline list")
    one.add_argument("--prompts", "--meta-file", type=a_path, required=True, metavar="META_FILE",
                     help=".csv (prompt, user_id, ...) or .jsonl")  # fmt: skip
    add_users(one, "users file that says what each row's user bans", required=False)
    one.add_argument("--weights", type=a_path, help="folder of psalign baseline train, or a file")
    add_baselines(one)
    add_drawing(one)
    add_seed(one, 2025, "for rows without a seed (default 2025)")
    add_out(one, "outputs/pictures")
