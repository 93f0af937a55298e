"""The published scripts' flags in the words of our commands, for users of the published README.

A command line that has none of the published names is not changed. Flags without a counterpart are named on
stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

# infer.py: published flag -> ours.
INFER = {
    "--sd_model": "--model",
    "--meta_data": "--meta-file",
    "--save_path": "--out",
    "--psa_path": "--adapter",
    "--embeds_folder": "--embeddings",
    "--psa_scale": "--scale",
    "--batch_size": "--batch-size",
}
INFER_ONLY = ("--load_psa", "--sdxl", "--llm_model", "--llm_ban_prompt_file", "--llm_emb_prompt_file", "--num_tokens")

# train.py: published flag -> ours, or the setting of the adapter's training that it stands for.
TRAIN = {
    "--sd_model": "--model",
    "--train_data_dir": "--data",
    "--embeds_folder": "--embeddings",
    "--output_dir": "--out",
    "--train_batch_size": "--batch-size",
    "--max_train_steps": "--steps",
    "--learning_rate": "--lr",
}
ENVIRONMENT = {"BATCH_SIZE": "--batch-size", "MAX_STEPS": "--steps", "LR": "--lr", "SD_MODEL": "--model",
               "DATA": "--data", "EMBEDS": "--embeddings", "OUT": "--out"}  # fmt: skip
TRAIN_SETTINGS = {
    "--gradient_accumulation_steps": "accumulation",
    "--lr_scheduler": "schedule",
    "--lr_warmup_steps": "warmup_steps",
    "--adam_weight_decay": "weight_decay",
    "--max_grad_norm": "clip",
    "--mixed_precision": "mixed_precision",
    "--checkpointing_steps": "save_every",
    "--beta_dpo": "beta",
    "--proportion_empty_prompts": "caption_dropout",
}
TRAIN_SWITCHES = ("--sdxl", "--gradient_checkpointing", "--use_adafactor", "--random_crop", "--no_hflip")
# Of these nothing hangs on, or ours does it by itself; with a value, and switches.
TRAIN_UNUSED = (
    "--revision", "--llm_model", "--num_tokens_user", "--image_column", "--caption_column", "--cache_dir",
    "--num_train_epochs", "--dataloader_num_workers", "--adam_beta1", "--adam_beta2", "--adam_epsilon",
    "--logging_dir", "--report_to", "--local_rank", "--resume_from_checkpoint", "--tracker_project_name", "--split",
    "--hub_model_id", "--input_perturbation", "--noise_offset", "--dataset_config_name", "--unet_init",
)  # fmt: skip
TRAIN_UNUSED_SWITCHES = ("--allow_tf32", "--scale_lr", "--hard_skip_resume")


def infer_arguments(argv: Sequence[str]) -> list[str]:
    """Arguments of `psalign generate` for those of the published infer.py; SD1.5 unless --sdxl."""
    parser = _parser(valued=[*INFER, *INFER_ONLY[2:]], switches=INFER_ONLY[:2])
    known, rest = parser.parse_known_args(argv)
    given = {name: value for name, value in vars(known).items() if value not in (None, False)}
    if not given:
        return list(argv)
    arguments = _renamed(given, {name: ours for name, ours in INFER.items() if name not in _of_the_adapter(given)})
    if "--base" not in rest:
        arguments += ["--base", "sdxl" if given.get("--sdxl") else "sd15"]
    if given.get("--load_psa") and "--embeds_folder" not in given:
        arguments += ["--profiles", *(["--llm", given["--llm_model"]] if "--llm_model" in given else [])]
    unused = [name for name in ("--num_tokens", "--llm_ban_prompt_file", "--llm_emb_prompt_file") if name in given]
    _warn_unused(unused, "bans come from rules, texts and tokens from the package and the adapter")
    return [*arguments, *rest]


def train_arguments(argv: Sequence[str]) -> list[str]:
    """Arguments of `psalign train` for those of the published train.py."""
    parser = _parser(
        valued=[*TRAIN, *TRAIN_SETTINGS, *TRAIN_UNUSED, "--resolution"],
        switches=[*TRAIN_SWITCHES, *TRAIN_UNUSED_SWITCHES],
    )
    known, rest = parser.parse_known_args(argv)
    given = {name: value for name, value in vars(known).items() if value not in (None, False)}
    if not given:
        return list(argv)
    kind = rest[rest.index("--kind") + 1] if "--kind" in rest[:-1] else "prompt"
    settings = [f"{kind}.training.{ours}={given[name]}" for name, ours in TRAIN_SETTINGS.items() if name in given]
    settings += [f"{kind}.training.gradient_checkpointing=true"] if "--gradient_checkpointing" in given else []
    settings += [f"{kind}.training.optimizer=adafactor"] if "--use_adafactor" in given else []
    settings += [f"pictures.size_px={given['--resolution']}"] if "--resolution" in given else []
    settings += ["pictures.crop=random"] if "--random_crop" in given else []
    settings += ["pictures.flip=false"] if "--no_hflip" in given else []
    preset = [] if "--preset" in rest else ["--preset", "psa-sdxl" if given.get("--sdxl") else "psa-sd15"]
    unused = [name for name in (*TRAIN_UNUSED, *TRAIN_UNUSED_SWITCHES) if name in given]
    _warn_unused(unused, "nothing hangs on them here, or the preset says it")
    return [*preset, *_renamed(given, TRAIN), *(part for one in settings for part in ("--set", one)), *rest]


def _parser(*, valued: Sequence[str], switches: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=None)
    for name in valued:
        parser.add_argument(name, dest=name)
    for name in switches:
        parser.add_argument(name, dest=name, action="store_true")
    return parser


def _of_the_adapter(given: dict[str, str]) -> tuple[str, ...]:
    """Flags that the published script reads with --load_psa alone."""
    return () if given.get("--load_psa") else ("--psa_path", "--embeds_folder", "--psa_scale")


def _renamed(given: dict[str, str], names: dict[str, str]) -> list[str]:
    return [part for name, ours in names.items() if name in given for part in (ours, given[name])]


def _warn_unused(names: Sequence[str], why: str) -> None:
    if names:
        print(f"Not used: {', '.join(names)} ({why}).", file=sys.stderr)
