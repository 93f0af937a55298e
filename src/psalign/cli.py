"""The command line: each command parses, calls one library function and prints its result.

Place on the path of data: a door to each step. Progress goes to stderr, results to stdout; exit status 0 fine,
1 failure, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import OutputError, PSAlignError, UnknownUser, UsageError

if TYPE_CHECKING:
    from .users.profile import UserProfile

Command = Callable[[argparse.Namespace], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    try:
        _run(_parser().parse_args(argv))
    except PSAlignError as err:
        print(f"{type(err).__name__}: {err}", file=sys.stderr)
        return err.exit_status
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from what is on disk.", file=sys.stderr)
        return 130
    return 0


def _run(arguments: argparse.Namespace) -> None:
    """Run the command. Raises OutputError for a path it was given that cannot be used; other faults as they are."""
    try:
        arguments.command(arguments)
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as err:
        path = _given_path(err, arguments)
        if path is None:
            raise
        raise OutputError(f"{path} cannot be used: {err.strerror}.") from err


def _given_path(err: OSError, arguments: argparse.Namespace) -> Path | None:
    """The file an error is about, where it lies on or under a path of the command line, or on the way to it."""
    given = [value for value in vars(arguments).values() if isinstance(value, Path)]
    names = [name for name in (err.filename2, err.filename) if isinstance(name, str)]
    for name in names:
        for one in given:
            path, whole = Path(name).absolute(), one.absolute()
            if path == whole or path in whole.parents or whole in path.parents:
                return Path(name)
            if path.parent == whole.parent and path.name.startswith(f".{whole.name}."):  # written aside, then renamed
                return one
    return None


# --- commands ------------------------------------------------------------------------------------------------------


def quickstart(arguments: argparse.Namespace) -> None:
    from .config import load_preset
    from .quickstart import run

    preset = load_preset(arguments.preset, changes=arguments.set)
    metrics = run(arguments.out, preset, seed=arguments.seed)
    print(_summary(metrics))
    print(f"\nReport:  {arguments.out / 'report.html'}\nNumbers: {arguments.out / 'metrics.json'}")


def users_sample(arguments: argparse.Namespace) -> None:
    from .users.population import sample_profiles
    from .users.profile import save_profiles

    save_profiles(arguments.out, sample_profiles(arguments.n, seed=arguments.seed))
    print(f"{arguments.n} users: {arguments.out}")


def embed(arguments: argparse.Namespace) -> None:
    from .users.embedding import EmbeddingStore, StructuredEmbedder
    from .users.levels import level_profiles
    from .users.profile import load_profiles

    if arguments.like and arguments.data:
        raise UsageError("--like and --data both say what to standardise by; give one of them.")
    embedder, profiles = StructuredEmbedder(arguments.llm_dim), load_profiles(arguments.users)
    if arguments.like:
        known = EmbeddingStore.load(arguments.like)
    else:
        known = EmbeddingStore.build(_population(profiles, arguments.data), embedder)
    store = EmbeddingStore.build([*profiles, *level_profiles()], embedder, statistics_of=known)
    store.save(arguments.out)
    print(f"{len(store)} vectors of width {store.recipe.llm_dim}, recipe {store.fingerprint}: {arguments.out}")


def _population(profiles: list[UserProfile], data: Path | None) -> list[UserProfile]:
    """The training users of a dataset, or everyone. Raises UnknownUser for training users without a profile."""
    from .sage.rows import load_split

    if data is None:
        return profiles
    trained = {row.user_id for row in load_split(data, "train", check_pictures=False)}
    unknown = sorted(trained - {profile.user_id for profile in profiles})
    if unknown:
        raise UnknownUser(
            f"{len(unknown)} of {len(trained)} training users of {data} have no profile: {', '.join(unknown[:5])}.",
            hint="Give the users file of that dataset, or --like with the vectors its adapter was trained with.",
        )
    return [profile for profile in profiles if profile.user_id in trained]


def train(arguments: argparse.Namespace) -> None:
    from .config import load_preset
    from .diffusion.base_models import load_pipeline
    from .training.run import load_pairs, train_adapter
    from .users.embedding import EmbeddingStore

    preset = load_preset(arguments.preset, changes=arguments.set)
    users = EmbeddingStore.load(arguments.embeddings)
    pipeline = load_pipeline(preset.get("base", "mini"), source=arguments.model)
    pairs = load_pairs(arguments.data, arguments.out / "cache", pipeline, users)
    train_adapter(preset, arguments.kind, pipeline, pairs, users, arguments.out, seed=arguments.seed)
    print(f"Adapter: {arguments.out / 'adapter'}")


def generate(arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from .adapter.checkpoint import adapter_fingerprint, load_adapter
    from .adapter.guard import attach
    from .diffusion.base_models import load_pipeline
    from .diffusion.generate import GenerationConfig, load_prompts
    from .diffusion.generate import generate as make
    from .users.embedding import EmbeddingStore

    rows, users = load_prompts(arguments.prompts), EmbeddingStore.load(arguments.embeddings)
    if arguments.level is not None:
        rows = [replace(row, user_id=f"level_{arguments.level}") for row in rows]
    pipeline = load_pipeline(arguments.base, source=arguments.model)
    config = GenerationConfig(
        base=arguments.base,
        steps=arguments.steps,
        guidance=arguments.guidance,
        scale=arguments.scale,
        batch_size=arguments.batch_size,
    )
    attached = None
    if arguments.adapter is not None:
        adapter = load_adapter(arguments.adapter, base=arguments.base)
        attached = attach(pipeline.unet, adapter)
        config = replace(config, method=adapter.config.kind, adapter=adapter_fingerprint(arguments.adapter))
    manifest = make(pipeline, rows, arguments.out, config=config, users=users, attached=attached)
    print(f"{len(manifest)} pictures and manifest.jsonl: {arguments.out}")


def evaluate(arguments: argparse.Namespace) -> None:
    from .evaluation.benchmark import evaluate_methods
    from .mini.detector import load_detector
    from .records import write_json

    metrics = evaluate_methods(arguments.pictures, load_detector())
    write_json(arguments.out, metrics)
    print(_summary(metrics))


def mini_build(arguments: argparse.Namespace) -> None:
    from .config import load_preset, settings
    from .mini.dataset import DatasetConfig, build

    preset = load_preset(arguments.preset, changes=arguments.set)
    build(arguments.out, settings(DatasetConfig, preset.get("dataset"), section="dataset"))
    print(f"Dataset: {arguments.out}")


def mini_train_base(arguments: argparse.Namespace) -> None:
    from .mini.base import BaseConfig, train_base

    train_base(
        arguments.out,
        BaseConfig(**_given(arguments, "seed", "denoiser_steps", "autoencoder_steps", "pictures")),
        work=arguments.work,
    )
    print(f"Mini base: {arguments.out}")


def mini_train_detector(arguments: argparse.Namespace) -> None:
    from .diffusion.base_models import load_pipeline
    from .mini.detector import DetectorConfig, train_detector

    autoencoder = load_pipeline("mini", source=arguments.model).vae
    train_detector(
        arguments.out,
        autoencoder,
        DetectorConfig(**_given(arguments, "seed", "steps", "pictures")),
        work=arguments.work,
    )
    print(f"Detector: {arguments.out}")


def mini_check(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from .diffusion.base_models import load_pipeline
    from .evaluation.statistics import wilson
    from .mini import checks
    from .mini.detector import load_detector
    from .records import write_json

    pipeline, detector = load_pipeline("mini", source=arguments.model), load_detector(arguments.detector)
    psnr_db = checks.check_autoencoder(pipeline)
    counts = checks.check_detector(detector, pipeline)
    counts |= {f"base: {k}": v for k, v in checks.check_base(pipeline, detector, n=arguments.n).items()}
    rates = {name: wilson(*count) for name, count in counts.items()}
    print(f"{'autoencoder':38} {psnr_db:.2f} dB PSNR")
    for name, rate in rates.items():
        print(f"{name:38} {_percent(rate.value)}  [{_percent(rate.low)}, {_percent(rate.high)}]  n={rate.n}")
    if arguments.out:
        write_json(arguments.out, {"psnr_db": round(psnr_db, 2), **{k: asdict(v) for k, v in rates.items()}})


def mini_sheet(arguments: argparse.Namespace) -> None:
    from .diffusion.generate import write_picture
    from .mini.world import motif_sheet

    write_picture(arguments.out, motif_sheet())
    print(arguments.out)


def presets(arguments: argparse.Namespace) -> None:
    from .config import list_presets, load_preset

    if arguments.name is None:
        print("\n".join(list_presets()))
    else:
        print(json.dumps(load_preset(arguments.name), indent=2))


# --- output --------------------------------------------------------------------------------------------------------


def _summary(metrics: dict[str, Any]) -> str:
    """The headline rates as a table."""
    names = ("pass", "suppressed", "kept", "subject_kept", "harmless_subject")
    lines = ["method            " + "  ".join(f"{name:>20}" for name in names)]
    for method, rates in metrics["methods"].items():
        lines.append(f"{method:16}  " + "  ".join(f"{_rate(rates[name]):>20}" for name in names))
    if metrics["levels"]:
        shown = "  ".join(f"{level}: {_percent(rate['value']).strip()}" for level, rate in metrics["levels"].items())
        lines += ["", f"Pictures with any motif, by level  {shown}"]
    return "\n".join(lines)


def _rate(rate: dict[str, Any]) -> str:
    if rate["value"] is None:
        return "-"
    return f"{rate['value']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"


def _percent(value: float | None) -> str:
    return "    -" if value is None else f"{100 * value:5.1f}%"


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


# --- parser --------------------------------------------------------------------------------------------------------


class _Formatter(argparse.RawDescriptionHelpFormatter):
    pass


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="psalign",
        description="Text-to-image diffusion that keeps to each user's own safety limits.",
        epilog="Start with:  psalign quickstart --out outputs/quickstart",
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action="version", version=f"psalign {__version__}")
    groups = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_path_commands(groups)
    _add_user_commands(groups)
    _add_mini_commands(groups)
    return parser


def _add_path_commands(groups: Any) -> None:
    one = _command(groups, "quickstart", quickstart, "dataset, training, pictures, numbers and report on the mini base",
                   "psalign quickstart --out outputs/quickstart")  # fmt: skip
    _add_preset(one, "mini-quickstart")
    _add_out(one, "outputs/quickstart")
    one.add_argument("--seed", type=_at_least(0), default=0, help="of training (default 0)")

    one = _command(groups, "train", train, "train an adapter on a SAGE dataset",
                   "psalign train --data data/mini --embeddings data/embeddings --out trained_models/mini")  # fmt: skip
    one.add_argument("--data", type=Path, required=True, help="SAGE dataset, layout A")
    one.add_argument("--embeddings", type=Path, required=True, help="user vectors (psalign embed)")
    one.add_argument("--kind", choices=("prompt", "published"), default="prompt", help="of adapter (default prompt)")
    _add_preset(one, "mini-quickstart")
    _add_out(one, "trained_models/mini")
    _add_model(one)
    one.add_argument("--seed", type=_at_least(0), default=0)

    one = _command(groups, "generate", generate, "make pictures for prompts and users",
                   "psalign generate --prompts data/mini/prompts.jsonl --embeddings data/embeddings "
                   "--adapter trained_models/mini/adapter --out outputs/pictures")  # fmt: skip
    one.add_argument("--prompts", type=Path, required=True, help="JSON lines: file_name, prompt, seed, user_id")
    one.add_argument("--embeddings", type=Path, required=True, help="user vectors (psalign embed)")
    one.add_argument("--adapter", type=Path, help="adapter folder; without it the base model draws")
    one.add_argument("--base", default="mini", help="mini, sd15 or sdxl (default mini)")
    one.add_argument("--level", type=_level, help="draw every row for this level, 0..5, instead of its user")
    one.add_argument("--steps", type=_at_least(1), default=15)
    one.add_argument("--guidance", type=float, default=4.0, help="classifier-free guidance scale (default 4)")
    one.add_argument("--scale", type=float, default=1.0, help="strength of the adapter (default 1)")
    one.add_argument("--batch-size", type=_at_least(1), default=64)
    _add_out(one, "outputs/pictures")
    _add_model(one)

    one = _command(groups, "eval", evaluate, "measure mini pictures: was each user's limit kept?",
                   "psalign eval --pictures outputs/quickstart/pictures --out outputs/metrics.json")  # fmt: skip
    one.add_argument("--pictures", type=Path, required=True, help="folder with one folder per method")
    _add_out(one, "outputs/metrics.json")

    one = _command(groups, "presets", presets, "list presets, or print one", "psalign presets mini-quickstart")
    one.add_argument("name", nargs="?")


def _add_user_commands(groups: Any) -> None:
    kinds = groups.add_parser("users", help="profiles of users").add_subparsers(metavar="COMMAND", required=True)
    one = _command(
        kinds, "sample", users_sample, "draw plausible users", "psalign users sample -n 1000 --out users.csv"
    )
    one.add_argument("-n", type=_at_least(1), default=1000)
    one.add_argument("--seed", type=_at_least(0), default=0)
    _add_out(one, "users.csv")

    one = _command(groups, "embed", embed, "user vectors from profiles",
                   "psalign embed --users data/mini/users.csv --data data/mini --out data/embeddings")  # fmt: skip
    one.add_argument("--users", type=Path, required=True, help="users.csv or users.jsonl")
    one.add_argument("--data", type=Path, help="standardise over the training users of this SAGE dataset alone")
    one.add_argument("--like", type=Path, help="standardise as these vectors (those an adapter was trained with)")
    one.add_argument("--llm-dim", type=_at_least(1), default=64, help="width of a vector (default 64)")
    _add_out(one, "data/embeddings")


def _add_mini_commands(groups: Any) -> None:
    kinds = groups.add_parser("mini", help="the mini world and its base model").add_subparsers(
        metavar="COMMAND", required=True
    )
    one = _command(
        kinds, "build", mini_build, "write the mini dataset (SAGE layout A)", "psalign mini build --out data/mini"
    )
    _add_preset(one, "mini-quickstart")
    _add_out(one, "data/mini")

    one = _command(kinds, "train-base", mini_train_base, "train the mini base from scratch (about an hour on 2 cores)",
                   "psalign mini train-base --out outputs/mini-base")  # fmt: skip
    for name in ("--seed", "--pictures", "--autoencoder-steps", "--denoiser-steps"):
        one.add_argument(name, type=_at_least(0))
    one.add_argument("--work", type=Path, default=Path("outputs/mini-base-work"), help="checkpoints to resume from")
    _add_out(one, "outputs/mini-base")

    one = _command(kinds, "train-detector", mini_train_detector, "train the detector that judges mini pictures",
                   "psalign mini train-detector --out outputs/mini-detector")  # fmt: skip
    for name in ("--seed", "--pictures", "--steps"):
        one.add_argument(name, type=_at_least(0))
    one.add_argument("--work", type=Path, default=Path("outputs/mini-base-work"), help="checkpoints to resume from")
    _add_out(one, "outputs/mini-detector")
    _add_model(one)

    one = _command(kinds, "check", mini_check, "measure the mini base and its detector", "psalign mini check -n 200")
    one.add_argument("-n", type=_at_least(1), default=1000, help="captions for the base (default 1000)")
    one.add_argument("--detector", type=Path, help="another detector than the shipped one")
    one.add_argument("--out", type=Path, help="also write the figures as JSON")
    _add_model(one)

    one = _command(
        kinds, "sheet", mini_sheet, "draw every motif on every background", "psalign mini sheet --out sheet.png"
    )
    _add_out(one, "sheet.png")


def _command(groups: Any, name: str, run: Command, purpose: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = groups.add_parser(
        name,
        help=purpose,
        description=purpose[0].upper() + purpose[1:] + ".",
        epilog=f"Example:  {example}",
        formatter_class=_Formatter,
    )
    parser.set_defaults(command=run)
    return parser


def _add_preset(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--preset", default=default, help=f"shipped preset or .yaml file (default {default})")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=VALUE", help="change one setting")


def _add_out(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--out", type=Path, default=Path(default), help=f"where to write (default {default})")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="another folder or hub id of the base model")


def _at_least(low: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < low:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}, saw {text!r}")
        return int(text)

    return whole_number


def _level(text: str) -> int:
    if text not in ("0", "1", "2", "3", "4", "5"):
        raise UsageError(f"Level must be 0, 1, 2, 3, 4 or 5; saw {text!r}.")
    return int(text)
