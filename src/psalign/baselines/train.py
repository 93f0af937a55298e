"""Trains baselines: for all categories at once, and one expert for each, in a folder that stock diffusers can load.

Place on the path of data: makes the weights that methods of the evaluation draw with.

    <out>/baseline.json                what it was made of, seconds of each part
    <out>/<name of the weights>        the static form: all categories
    <out>/<category>/<the same name>   one category, where the personal form adds experts up
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ..categories import category_names, current
from ..config import describe_changes, settings
from ..diffusion.base_models import base_fingerprint
from ..errors import CheckpointError, UsageError
from ..files import Record, read_json, write_bytes, write_json
from ..fingerprints import fingerprint, versions
from ..tensors import read_safetensors
from .concepts import Phrases, TextStates
from .edited_unet import USUAL_NAME as EDITED
from .esd import EsdConfig, train_esd
from .pairs import PicturePairs
from .prompt_filter import PromptFilterConfig
from .rece import ReceConfig, rece_matrix
from .safetydpo import USUAL_NAME as LORA
from .safetydpo import SafetyDpoConfig, merged, train_expert
from .safree import SafreeConfig
from .soft_prompt import USUAL_NAME as WORDS
from .soft_prompt import SoftPromptConfig, train_soft_prompt
from .steps import Place
from .uce import UceConfig, edited_weights, uce_matrix

MARK = "baseline.json"
STATIC = "all"  # the static form among the parts of a training
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Source:
    """What a baseline is made from. phrases: by category. pairs: pictures, for a method that learns from them."""

    pipeline: Any
    phrases: Mapping[str, Phrases]
    pairs: PicturePairs | None = None

    def of(self, category: str | None) -> Phrases:
        """Phrases of a category, or of all (None)."""
        return tuple(phrase for name, found in self.phrases.items() if category in (None, name) for phrase in found)


Make = Callable[[Source, Any, "str | None", Place], Weights]


@dataclass(frozen=True)
class Trained:
    """How a method is trained. config: its settings. usual: name of its file of weights. make: weights of a category or
    of all (None). experts: whether each category has weights of its own. needs_pictures: whether it learns from a
    dataset. is_merge: whether the weights of all are the experts' merge."""

    config: type
    usual: str
    make: Make
    experts: bool = True
    needs_pictures: bool = False
    is_merge: bool = False


def _edit(
    matrix_of: Callable[..., torch.Tensor], source: Source, config: Any, category: str | None, _: Place
) -> Weights:
    matrix = matrix_of(TextStates(source.pipeline), source.of(category), (), config)
    return edited_weights(source.pipeline.unet, matrix)


def _esd(source: Source, config: EsdConfig, category: str | None, place: Place, *, cross: bool) -> Weights:
    steps = config.steps * (len(source.phrases) if category is None else 1)
    return train_esd(source.pipeline, source.of(category), config, cross=cross, steps=steps, place=place)


def _soft_prompt(source: Source, config: SoftPromptConfig, category: str | None, place: Place) -> Weights:
    assert source.pairs is not None
    steps = config.steps * (len(source.phrases) if category is None else 1)
    return train_soft_prompt(source.pipeline, source.pairs, category, config, steps=steps, place=place)


def _safetydpo(source: Source, config: SafetyDpoConfig, category: str | None, place: Place) -> Weights:
    assert source.pairs is not None
    if category is not None:
        return train_expert(source.pipeline, source.pairs, category, config, steps=config.steps, place=place)
    experts = [read_safetensors(weights_of(place.folder.parents[1], name, LORA))[0] for name in source.phrases]
    return merged(experts, config.merge)


TRAINED_BY: dict[str, Trained] = {
    "uce": Trained(UceConfig, EDITED, partial(_edit, uce_matrix), experts=False),
    "rece": Trained(ReceConfig, EDITED, partial(_edit, rece_matrix), experts=False),
    "esdx": Trained(EsdConfig, EDITED, partial(_esd, cross=True)),
    "esdu": Trained(EsdConfig, EDITED, partial(_esd, cross=False)),
    "soft_prompt": Trained(SoftPromptConfig, WORDS, _soft_prompt, needs_pictures=True),
    "safetydpo": Trained(SafetyDpoConfig, LORA, _safetydpo, needs_pictures=True, is_merge=True),
}


SETTINGS: dict[str, type] = {
    **{name: how.config for name, how in TRAINED_BY.items()},
    "safree": SafreeConfig,
    "prompt_filter": PromptFilterConfig,
}  # of a method by its name in section `baselines` of a preset


def check_settings(section: Record) -> None:
    """Raises UsageError for a method without settings, an unknown setting, or a value that makes no sense."""
    for method, given in section.items():
        if method not in SETTINGS:
            raise UsageError(f"Unknown setting baselines.{method}; choose one of: {', '.join(SETTINGS)}.")
        settings(SETTINGS[method], given, section=f"baselines.{method}")


def weights_of(folder: Path, category: str | None, usual: str) -> Path:
    """File of the weights of a category, or of all (None), in the folder of a trained baseline."""
    return (folder if category is None else folder / current().slugs[category]) / usual


def expert_files(folder: Path, method: str) -> dict[str, Path]:
    """Files of a trained baseline's experts by category. Raises CheckpointError where one is missing."""
    files = {name: weights_of(folder, name, TRAINED_BY[method].usual) for name in category_names()}
    missing = [str(path) for path in files.values() if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(files)} experts of {method}: {', '.join(missing[:3])}.",
            hint=f"Run: psalign baseline train {method} --out {folder}",
        )
    return files


def trained_settings(folder: Path, method: str) -> Any:
    """The settings that a baseline in a folder was trained with. Raises CheckpointError where it says none."""
    record = _read_mark(folder / MARK)
    if record is None or record["method"] != method:
        seen = "nothing" if record is None else f"'{record['method']}'"
        raise CheckpointError(
            f"{folder} is no trained '{method}': its {MARK} says {seen}.",
            hint=f"Run: psalign baseline train {method} --out {folder}",
        )
    return settings(TRAINED_BY[method].config, record["settings"], section=method)


def seconds_of(folder: Path, *, experts: bool) -> float:
    """Seconds that the training in a folder took: of all experts, or of the static form, which may be their merge.

    Raises CheckpointError where the folder holds no finished training.
    """
    record = _read_mark(folder / MARK)
    if record is None:
        raise CheckpointError(f"{folder} holds no trained baseline.", hint="Run: psalign baseline train --help")
    seconds: dict[str, float] = record["seconds"]
    own = [spent for name, spent in seconds.items() if (name != STATIC) == experts]
    is_merge = TRAINED_BY[record["method"]].is_merge
    return sum(seconds.values()) if is_merge and not experts else sum(own)


def train_baseline(
    method: str, source: Source, out: Path, *, base: str, given: Record, experts_alone: bool = False
) -> Path:
    """Make what a baseline lacks in a folder. Returns the file of its static form.

    base: name of the base model. given: settings of the method. experts_alone: leave out the static form. An
    interrupted training goes on, and ends with the same weights.
    Raises UsageError for another method or settings that make no sense; CheckpointError where the folder holds
    another training, with what differs.
    """
    if method not in TRAINED_BY:
        raise UsageError(f"Nothing is trained for '{method}'; choose one of: {', '.join(TRAINED_BY)}.")
    how = TRAINED_BY[method]
    config: Any = settings(how.config, given, section=f"baselines.{method}")
    if how.needs_pictures and source.pairs is None:
        raise UsageError(
            f"The method '{method}' learns from pictures.", hint="Give --data a dataset (psalign mini build)."
        )
    record = {
        "method": method,
        "base": base,
        "base_model": base_fingerprint(source.pipeline),
        "settings": asdict(config),
        "phrases": {name: list(phrases) for name, phrases in source.phrases.items()},
        "data": None if source.pairs is None else source.pairs.name,
    }
    state = _open(out, record)
    categories: list[str | None] = [*source.phrases] if how.experts else []
    static: list[str | None] = [] if experts_alone and categories else [None]
    for category in [*categories, *static] if how.is_merge else [*static, *categories]:
        _make_part(how, source, config, category, out, state)
    shutil.rmtree(out / "training", ignore_errors=True)
    return weights_of(out, None, how.usual)


def _make_part(how: Trained, source: Source, config: Any, category: str | None, out: Path, state: Record) -> None:
    """One file of weights; one that is there stays."""
    path, name = weights_of(out, category, how.usual), STATIC if category is None else current().slugs[category]
    if path.is_file():
        return
    started = time.perf_counter()
    print(f"{state['method']}: {name}", file=sys.stderr)
    place = Place(out / "training" / name, fingerprint([state["run"], name]), name)
    weights = how.make(source, config, category, place)
    plain = {key: weight.detach().cpu().contiguous() for key, weight in weights.items()}
    write_bytes(path, save(plain, metadata={"format": "pt"}))
    state["seconds"][name] = round(state["seconds"].get(name, 0.0) + time.perf_counter() - started, 1)
    write_json(out / MARK, state)


def _open(out: Path, record: Record) -> Record:
    """What baseline.json says of this training, which is written where there is none yet."""
    run = fingerprint(record)
    before = _read_mark(out / MARK)
    if before is None:
        state = {**record, "run": run, "seconds": {}, **versions()}
        write_json(out / MARK, state)
        return state
    if before["run"] != run:
        changes = describe_changes({name: before.get(name) for name in record}, record)
        raise CheckpointError(
            "\n".join([f"{out} holds another training:", *(f"  {change}" for change in changes)]),
            hint="Choose another --out, or remove that folder.",
        )
    return before


def _read_mark(path: Path) -> Record | None:
    if not path.is_file():
        return None
    fault = partial(CheckpointError, hint=f"Remove {path.parent} and train again.")
    return read_json(
        path, what="what a baseline was made of", needs=("method", "settings", "run", "seconds"), fault=fault
    )
