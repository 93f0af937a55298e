"""Commands of the mini world: mini build, train-base, train-detector, train-clip, check, sheet, reference."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..categories import require_default
from ..config import settings
from ..files import require_ours, write_json
from .options import a_path, add_force, add_model, add_out, add_preset, at_least, command, given, group
from .settings import load_settings
from .tables import percent


def build(arguments: argparse.Namespace) -> None:
    from ..diffusion.prompts import load_prompts
    from ..mini import dataset
    from ..mini.reference import draw_reference
    from ..mini.sizes import DatasetConfig

    preset = load_settings(arguments, reads=("dataset",))
    sizes = settings(DatasetConfig, preset.get("dataset"), section="dataset")
    dataset.build(arguments.out, sizes, captions_only=arguments.captions_only)
    if not arguments.captions_only:
        draw_reference(arguments.out / "reference", load_prompts(arguments.out / "prompts.jsonl"))
    print(f"Dataset: {arguments.out}")


def train_base(arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from ..mini.factory import base

    config = base.BaseConfig(**given(arguments, "seed", "denoiser_steps", "autoencoder_steps", "pictures"))
    if arguments.language_steps is not None:
        config = replace(config, language=replace(config.language, steps=arguments.language_steps))
    folder = arguments.keep_unet or arguments.keep_autoencoder
    kept = base.Kept(folder, unet=arguments.keep_unet is not None) if folder else None
    base.train_base(arguments.out, config, work=arguments.work, kept=kept)
    print(f"Mini base: {arguments.out}")


def train_detector(arguments: argparse.Namespace) -> None:
    from ..diffusion.base_models import load_pipeline
    from ..mini.factory import detector

    autoencoder = load_pipeline("mini", source=arguments.model).vae
    config = detector.DetectorConfig(**given(arguments, "seed", "steps", "pictures"))
    detector.train_detector(arguments.out, autoencoder, config, work=arguments.work)
    print(f"Detector: {arguments.out}")


def train_clip(arguments: argparse.Namespace) -> None:
    from ..diffusion.base_models import load_pipeline
    from ..mini.factory import clip

    pipeline = load_pipeline("mini", source=arguments.model)
    config = clip.ClipConfig(**given(arguments, "seed", "steps", "pictures"))
    clip.train_clip(arguments.out, pipeline, config, work=arguments.work)
    print(f"Text-image model: {arguments.out}")


def check(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from ..diffusion.base_models import load_pipeline
    from ..evaluation.statistics import wilson
    from ..mini.clip import load_clip
    from ..mini.detector import load_detector
    from ..mini.factory.checks import check_all

    if arguments.out:
        require_ours(arguments.out, b'"psnr_db"', what="figures of mini check", force=arguments.force)
    pipeline = load_pipeline("mini", source=arguments.model)
    psnr_db, counts = check_all(pipeline, load_detector(arguments.detector), load_clip(arguments.clip), n=arguments.n)
    rates = {name: wilson(*count) for name, count in counts.items()}
    print(f"{'autoencoder':48} {psnr_db:.2f} dB PSNR")
    for name, rate in rates.items():
        print(f"{name:48} {percent(rate.value)}  [{percent(rate.low)}, {percent(rate.high)}]  n={rate.n}")
    if arguments.out:
        write_json(arguments.out, {"psnr_db": round(psnr_db, 2), **{k: asdict(v) for k, v in rates.items()}})


def sheet(arguments: argparse.Namespace) -> None:
    from ..diffusion.generate import write_picture
    from ..mini.world import motif_sheet

    write_picture(arguments.out, motif_sheet(), replace=arguments.force)
    print(arguments.out)


def reference(arguments: argparse.Namespace) -> None:
    from ..diffusion.prompts import load_prompts
    from ..mini.reference import draw_reference

    draw_reference(arguments.out, load_prompts(arguments.data / "prompts.jsonl"))
    print(f"Reference pictures: {arguments.out}")


def _require_its_categories(arguments: argparse.Namespace) -> None:
    require_default("The mini world")


def add_commands(groups: Any) -> None:
    kinds = group(groups, "mini", "the mini world and its base model")
    one = command(kinds, "build", build, "write the mini dataset (SAGE layout A)", "psalign mini build --out data/mini")
    add_preset(one, "mini-quickstart")
    one.add_argument("--captions-only", action="store_true", help="draw no picture: training by captions needs none")
    add_out(one, "data/mini")

    _add_trainings(kinds)
    one = command(kinds, "check", check, "measure the mini base, its detector and its text-image model",
                  "psalign mini check -n 200")  # fmt: skip
    one.add_argument("-n", type=at_least(1), default=1000,
                     help="captions and as many texts of the whole language for the base, drawings for the detector "
                     "(default 1000)")  # fmt: skip
    one.add_argument("--detector", type=a_path, help="another detector than the shipped one")
    one.add_argument("--clip", type=a_path, help="another text-image model than the shipped one")
    one.add_argument("--out", type=a_path, help="also write the figures as JSON")
    add_force(one, "replace a file of another kind")
    add_model(one)

    one = command(kinds, "sheet", sheet, "draw every motif on every background", "psalign mini sheet --out sheet.png")
    add_out(one, "sheet.png", force="replace another picture")

    one = command(kinds, "reference", reference, "draw what FID compares safe mini pictures with",
                   "psalign mini reference --data data/mini --out data/mini/reference")  # fmt: skip
    one.add_argument("--data", type=a_path, default=Path("data/mini"), help="mini dataset (default data/mini)")
    add_out(one, "data/mini/reference")
    for one in kinds.choices.values():
        one.set_defaults(fill=_require_its_categories)


def _add_trainings(kinds: Any) -> None:
    one = command(kinds, "train-base", train_base, "train the mini base from scratch (about an hour on 2 cores)",
                   "psalign mini train-base --out outputs/mini-base")  # fmt: skip
    keep = one.add_mutually_exclusive_group()
    keep.add_argument("--keep-autoencoder", type=a_path, metavar="FOLDER", help="use the autoencoder of this mini base")
    keep.add_argument("--keep-unet", type=a_path, metavar="FOLDER",
                      help="use autoencoder and UNet of this mini base: train language only")  # fmt: skip
    _add_budget(one, "seed", "pictures", "autoencoder-steps", "denoiser-steps", "language-steps")
    add_out(one, "outputs/mini-base")

    one = command(kinds, "train-detector", train_detector, "train the detector that judges mini pictures",
                   "psalign mini train-detector --out outputs/mini-detector")  # fmt: skip
    _add_budget(one, "seed", "pictures", "steps")
    add_out(one, "outputs/mini-detector")
    add_model(one)

    one = command(kinds, "train-clip", train_clip, "train the text-image model that CLIPScore uses on mini pictures",
                   "psalign mini train-clip --out outputs/mini-clip")  # fmt: skip
    _add_budget(one, "seed", "pictures", "steps")
    add_out(one, "outputs/mini-clip")
    add_model(one)


def _add_budget(one: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        one.add_argument(f"--{name}", type=at_least(0))
    one.add_argument("--work", type=a_path, default=Path("outputs/mini-base-work"), help="checkpoints to resume from")
