"""Commands of the red team: redteam list, prompts, profiles, weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluation.catalog import ATTACKS, METHODS
from .drawing import device_of
from .eval_generate import weights_by_method
from .options import a_path, add_device, add_embeddings, add_out, at_least, command, group

if TYPE_CHECKING:
    from ..redteam.run import RedTeamConfig

DEFAULT = ("base", "negative_prompt", "sld-user", "prompt_filter-user", "safree-user", "uce-user", "rece-user")


def list_all(arguments: argparse.Namespace) -> None:
    from ..redteam.profiles import PROFILE_ATTACKS
    from ..redteam.whitebox import WHITE_BOX

    for name, what in ATTACKS.items():
        print(f"prompts   {name:14} {what}")
    for name, (what, _) in PROFILE_ATTACKS.items():
        print(f"profiles  {name:14} {what}")
    for name, (what, _) in WHITE_BOX.items():
        print(f"weights   {name:14} {what}")


def prompts(arguments: argparse.Namespace) -> None:
    from ..redteam.run import attack_prompts

    print(attack_prompts(arguments.out, _config(arguments), device=device_of(arguments)))
    print(f"\nWritten: {arguments.out / 'redteam.md'}")


def profiles(arguments: argparse.Namespace) -> None:
    from ..redteam.run import attack_profiles

    text = attack_profiles(
        arguments.out, _config(arguments), adapter=arguments.adapter, embeddings=arguments.embeddings,
        device=device_of(arguments),
    )  # fmt: skip
    print(f"{text}\n\nWritten: {arguments.out / 'profiles.md'}")


def weights(arguments: argparse.Namespace) -> None:
    from ..redteam.searches import Budget
    from ..redteam.whitebox import WHITE_BOX, attack_weights

    budget = Budget(
        steps=arguments.search_steps, rounds=arguments.rounds, candidates=arguments.candidates, looks=arguments.looks
    )
    text = attack_weights(
        arguments.out, _config(arguments), attacks=arguments.attacks or tuple(WHITE_BOX), budget=budget,
        device=device_of(arguments),
    )  # fmt: skip
    print(f"{text}\n\nWritten: {arguments.out / 'whitebox.md'}")


def _config(arguments: argparse.Namespace) -> RedTeamConfig:
    from ..benchmark.grid import GridConfig
    from ..redteam.run import RedTeamConfig

    weights = weights_by_method(getattr(arguments, "weights", []), ["mini"])
    adapter = getattr(arguments, "adapter", None)
    ours = [name for name, method in METHODS.items() if method.has_levels]
    weights |= {(name, "mini"): adapter for name in ours if adapter is not None}
    vectors = {"mini": arguments.embeddings} if arguments.embeddings is not None else {}
    grid = GridConfig(
        weights=weights, embeddings=vectors, steps=arguments.steps, sld=getattr(arguments, "sld", "medium")
    )
    methods = tuple(getattr(arguments, "methods", None) or (*DEFAULT, *["psa-prompt"] * (adapter is not None)))
    return RedTeamConfig(arguments.mini, methods, grid, limit=arguments.limit)


def add_commands(groups: Any) -> None:
    kinds = group(groups, "redteam", "attacks on users' limits: by the prompt, by the profile, by the weights")
    command(kinds, "list", list_all, "list the attacks", "psalign redteam list")
    one = command(kinds, "prompts", prompts, "attack methods by the prompt, and print how many requests get through",
                  "psalign redteam prompts --mini data/mini --out outputs/redteam")  # fmt: skip
    _add_methods(one)
    _add_shared(one)
    one = command(kinds, "weights", weights, "attack methods with knowledge of their weights (white box)",
                  "psalign redteam weights --mini data/mini --methods base sld-user uce-user --limit 24 "
                  "--out outputs/redteam")  # fmt: skip
    _add_methods(one)
    one.add_argument("--attacks", nargs="+", metavar="NAME", help="of psalign redteam list (default all)")
    one.add_argument("--search-steps", type=at_least(1), default=40, help="gradient steps a request (default 40)")
    one.add_argument("--rounds", type=at_least(1), default=8, help="of the search for words (default 8)")
    one.add_argument("--candidates", type=at_least(1), default=16, help="texts tried in a round (default 16)")
    one.add_argument("--looks", type=at_least(1), default=4, help="pictures looked at for a request (default 4)")
    _add_shared(one)
    one = command(kinds, "profiles", profiles, "attack an adapter of ours by the profile",
                  "psalign redteam profiles --mini data/mini --adapter trained_models/mini/adapter "
                  "--embeddings data/embeddings/mini --out outputs/redteam")  # fmt: skip
    one.add_argument("--adapter", type=a_path, required=True, help="adapter of kind prompt")
    add_embeddings(one, "user vectors that it was trained with")
    _add_shared(one)


def _add_methods(one: argparse.ArgumentParser) -> None:
    one.add_argument("--methods", nargs="+", metavar="NAME", help=f"default {' '.join(DEFAULT)}")
    one.add_argument("--weights", action="append", default=[], metavar="METHOD/mini=PATH",
                     help="weights of a method")  # fmt: skip
    one.add_argument("--adapter", type=a_path, help="adapter of ours, for methods psa-*")
    add_embeddings(one, "user vectors of the adapter", required=False)
    one.add_argument("--sld", default="max", metavar="NAME", help="weak, medium, strong or max (default max)")


def _add_shared(one: argparse.ArgumentParser) -> None:
    one.add_argument("--mini", type=a_path, default=Path("data/mini"), help="mini dataset (default data/mini)")
    one.add_argument("--limit", type=at_least(1), default=40, help="requests for each attack (default 40)")
    one.add_argument("--steps", type=at_least(1), help="denoising steps (default 15)")
    add_device(one)
    add_out(one, "outputs/redteam")
