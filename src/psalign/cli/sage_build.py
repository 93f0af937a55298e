"""The command `sage build`: a SAGE dataset of one's own, from concepts and users."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..llm import require_consent
from .drawing import add_drawing, load, sampling
from .options import a_path, add_endpoint, add_language_model, add_out, add_seed, add_users, at_least, command

if TYPE_CHECKING:
    from ..diffusion.shards import Shard
    from ..sage.build.builder import Drawer, Order
    from ..sage.build.concepts import Concept
    from ..sage.build.plan import BuildUser
    from ..sage.build.writers import PromptWriter
    from ..users.profile import UserProfile


def build(arguments: argparse.Namespace) -> None:
    from ..diffusion.shards import Shard
    from ..sage.build.builder import SHEET, check_order
    from ..sage.build.builder import build as make
    from ..sage.share import Share

    order = _order(arguments)
    check_order(order)  # before a model is loaded
    shard = Shard(arguments.device)
    writer = _writer(arguments, order.concepts, shard)
    share = Share(shard.index, shard.count, shard.wait)
    drawing = None if arguments.captions_only else _drawing(arguments, shard)
    counts = make(arguments.out, order, writer, drawing, share=share)
    if shard.is_first:
        print("  ".join(f"{split}: {rows} rows" for split, rows in counts["rows"].items()))
        if arguments.captions_only:
            print("No picture was drawn: enough to train by captions (psalign train).")
        else:
            print(f"{counts['pictures']} pictures drawn. Look at some: {arguments.out / SHEET}")
        print(f"Dataset: {arguments.out}")


def _order(arguments: argparse.Namespace) -> Order:
    from ..sage.build.builder import Order
    from ..sage.build.plan import BuildConfig
    from ..users.population import split_users
    from ..users.profile import load_profiles, save_profiles

    profiles = load_profiles(arguments.users)
    few = max(1, len(profiles) // 20)
    val, test = (few if given is None else given for given in (arguments.val, arguments.test))
    config = BuildConfig(
        seed=arguments.seed,
        per_category=arguments.per_category,
        prompts_per_concept=arguments.prompts_per_concept,
        expand=arguments.expand,
        held_out=arguments.held_out,
        quality=arguments.quality,
    )
    return Order(
        concepts=_concepts(arguments),
        users=[_user(profile) for profile in profiles],
        splits=split_users([profile.user_id for profile in profiles], seed=arguments.seed, val=val, test=test),
        config=config,
        save_users=lambda path: save_profiles(path, profiles),
    )


def _concepts(arguments: argparse.Namespace) -> list[Concept]:
    from ..sage.build.concepts import read_concepts

    if arguments.concepts:
        return read_concepts(arguments.concepts)
    if arguments.writer != "template":
        raise UsageError(
            f"The writer '{arguments.writer}' needs concepts.",
            hint="Give --concepts: a CSV with the columns category and concept.",
        )
    from ..mini.writer import all_motifs

    return all_motifs()


def _user(profile: UserProfile) -> BuildUser:
    from ..sage.build.plan import BuildUser
    from ..users.policy import banned_categories
    from ..users.profile import profile_columns

    return BuildUser(profile.user_id, banned_categories(profile), profile_columns(profile))


def _writer(arguments: argparse.Namespace, concepts: Any, shard: Shard) -> PromptWriter:
    from ..sage.build.writers import OpenAIWriter, TransformersWriter

    if arguments.writer == "template":
        from ..mini.writer import TemplateWriter

        return TemplateWriter(seed=arguments.seed)
    if arguments.writer == "transformers":
        from ..users.language_model import load_language_model, model_name

        tokenizer, network = load_language_model(arguments.llm, dtype=arguments.llm_dtype, with_head=True)
        name = f"{model_name(arguments.llm, network)} {arguments.llm_dtype}"
        return TransformersWriter(tokenizer, network.to(shard.device), name=name)
    writer = OpenAIWriter(arguments.llm, base_url=arguments.base_url, timeout_s=arguments.timeout_s)
    if shard.is_first:
        shown = f"This sends to {writer.host}: {len(concepts)} concepts with their categories. Nothing of users."
        require_consent(shown, things="Concepts", agreed=arguments.yes_send_concepts, flag="--yes-send-concepts")
    return writer


def _drawing(arguments: argparse.Namespace, shard: Shard) -> Drawer:
    from ..diffusion.base_models import base_fingerprint
    from ..diffusion.generate import Drawing, Nobody, generate
    from ..sage.build.builder import Drawer

    config, pipeline = sampling(arguments, method="base"), load(arguments, str(shard.device))
    recipe = {"config": asdict(config), "base": base_fingerprint(pipeline)}
    return Drawer(recipe, partial(generate, Drawing(pipeline, config, Nobody())))


def add_command(kinds: Any) -> None:
    one = command(kinds, "build", build, "build a dataset: concepts to prompts, pictures, rows and splits",
                  "psalign sage build --users users.csv --out data/own")  # fmt: skip
    add_users(one, "users.csv or users.jsonl, whose bans decide the rows")
    one.add_argument("--concepts", type=a_path,
                     help="CSV with category and concept (writer template: the mini world's motifs)")  # fmt: skip
    one.add_argument("--expand", type=at_least(1), metavar="N", help="let the writer find more, up to N a category")
    one.add_argument("--held-out", type=float, default=0.0, metavar="SHARE",
                     help="of each category's concepts, for val and tests alone (default 0)")  # fmt: skip
    one.add_argument("--per-category", type=at_least(1), default=3, help="pairs a user gets of each (default 3)")
    one.add_argument("--prompts-per-concept", type=at_least(1), default=2, help="pairs a concept has (default 2)")
    one.add_argument("--val", type=at_least(0), help="users (default: one in twenty)")
    one.add_argument("--test", type=at_least(0), help="users seen in training, and as many unseen (same default)")
    add_seed(one, 2025)
    one.add_argument("--captions-only", action="store_true", help="draw no picture: training by captions needs none")
    _add_writer(one)
    add_drawing(one)
    one.add_argument("--quality", type=at_least(1), default=95, help="JPEG quality of the pictures (default 95)")
    add_out(one, "data/own")


def _add_writer(one: argparse.ArgumentParser) -> None:
    one.add_argument("--writer", choices=("template", "transformers", "openai"), default="template",
                     help="of prompts: the mini world's captions (default), or a language model")  # fmt: skip
    add_language_model(one, "--llm")
    add_endpoint(one, "concepts")
