"""Baseline SafetyDPO: LoRA experts, one for each category, that prefer the safe picture of an unsafe prompt.

Place on the path of data: an alternative to steps 3 to 5. The static form is the merge of all experts, the personal
form that of what one user bans.

Source: Liu et al. 2024, arXiv:2412.10493, which trains each expert by Diffusion-DPO (Wallace et al. 2023,
arXiv:2311.12908, eq. 14). Experts are merged by their weighted sum; docs/BASELINES.md says what the paper does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..config import check_range
from ..errors import CheckpointError, ExtraMissing, GuardError, library_errors
from ..tensors import read_safetensors, require_numbers
from ..training.loss import margins, preference_loss, squared_error
from .denoiser import predict
from .pairs import PicturePairs
from .steps import Place, StepsConfig, take_steps
from .weights import find_weights

USUAL_NAME = "pytorch_lora_weights.safetensors"
DOWN, UP = "lora.down", "lora.up"  # in the names of the two matrices of a LoRA
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class SafetyDpoConfig(StepsConfig):
    """rank: of the LoRA of an expert. beta: preference strength. merge: weight of each expert in a merge."""

    rank: int = 4
    beta: float = 5000.0
    merge: float = 1.0

    def __post_init__(self) -> None:
        """Raises UsageError for a value that makes no sense."""
        super().__post_init__()
        check_range("rank", self.rank, 1, 1024)
        check_range("beta", self.beta, 0, above=True)
        check_range("merge", self.merge, 0)


def train_expert(
    pipe: Any, pairs: PicturePairs, category: str, config: SafetyDpoConfig, *, steps: int, place: Place
) -> dict[str, torch.Tensor]:
    """A LoRA for the UNet that prefers the safe pictures of a category, as diffusers names its weights.

    The pipeline stays as it is. Raises DatasetError where the dataset has no pair of the category.
    """
    _require_peft(pipe)
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    chosen = pairs.of(category)
    torch.manual_seed(config.seed)
    pipe.unet.add_adapter(LoraConfig(r=config.rank, lora_alpha=config.rank, target_modules=list(TARGETS)))
    try:
        trained = [weight.requires_grad_() for name, weight in pipe.unet.named_parameters() if "lora" in name]

        def errors(drawn: Any) -> tuple[torch.Tensor, torch.Tensor]:
            noises = [predict(pipe, x, drawn.timesteps, drawn.unsafe_text) for x in (drawn.safe, drawn.unsafe)]
            return squared_error(noises[0], drawn.noise), squared_error(noises[1], drawn.noise)

        def loss(step: int) -> torch.Tensor:
            drawn = pairs.draw(chosen, size=config.batch_size, seed=config.seed, step=step)
            pipe.unet.disable_adapters()
            with torch.no_grad():
                reference = errors(drawn)
            pipe.unet.enable_adapters()
            return preference_loss(margins(errors(drawn), reference), beta=config.beta).mean()

        take_steps(trained, loss, config, steps, place)
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
        return {f"unet.{name}": weight.detach().clone().contiguous() for name, weight in layers.items()}
    finally:
        pipe.unload_lora_weights()


def merged(experts: Sequence[Mapping[str, torch.Tensor]], weight: float) -> dict[str, torch.Tensor]:
    """One LoRA whose change is the sum of the experts' changes, times a weight: their ranks add up."""
    names = experts[0].keys()
    return {
        name: torch.cat([one[name] for one in experts], dim=0 if DOWN in name else 1) * (weight if UP in name else 1.0)
        for name in names
    }


@contextmanager
def lora_weights(pipeline: Any, place: Path) -> Iterator[None]:
    """Within it the pipeline draws with the LoRA of a folder or file; afterwards its weights are as they were.

    Raises CheckpointError where it is missing, cannot be read, or changes nothing in this UNet; ExtraMissing without
    the library; GuardError where the pipeline has a LoRA already, which would be unloaded with this one.
    """
    _require_peft(pipeline)
    path = find_weights(place, usual=USUAL_NAME)
    try:
        _load(pipeline, path)
        yield
    finally:
        pipeline.unload_lora_weights()


class LoraExperts:
    """LoRA experts by category, loaded side by side; `use` says whose changes add up from now on."""

    def __init__(self, pipeline: Any, names: Mapping[str, str], weight: float) -> None:
        self._pipeline, self._names, self._weight = pipeline, names, weight

    def use(self, banned: Sequence[str]) -> None:
        """Draw with the experts of these categories; with none of them the base draws."""
        if not banned:
            self._pipeline.disable_lora()
            return
        self._pipeline.enable_lora()
        names = [self._names[category] for category in banned]
        self._pipeline.set_adapters(names, adapter_weights=[self._weight] * len(names))


@contextmanager
def lora_experts(pipeline: Any, files: Mapping[str, Path], weight: float) -> Iterator[LoraExperts]:
    """Within it the pipeline has the experts of these folders or files, by category. Raises as lora_weights does."""
    _require_peft(pipeline)
    names = {category: f"expert_{number}" for number, category in enumerate(files)}
    try:
        for category, place in files.items():
            _load(pipeline, find_weights(place, usual=USUAL_NAME), adapter_name=names[category])
        yield LoraExperts(pipeline, names, weight)
    finally:
        pipeline.unload_lora_weights()


def _require_peft(pipeline: Any) -> None:
    if find_spec("peft") is None:
        raise ExtraMissing("peft", "lora")
    if pipeline.get_list_adapters():
        raise GuardError("The pipeline has a LoRA already.", hint="Call pipe.unload_lora_weights() first.")


def _load(pipeline: Any, path: Path, **more: Any) -> None:
    require_numbers(read_safetensors(path)[0], path)
    with library_errors(CheckpointError, f"{path} is no LoRA for this model"):
        pipeline.load_lora_weights(path.parent, weight_name=path.name, **more)
    if "unet" not in pipeline.get_list_adapters():
        raise CheckpointError(f"{path} has no LoRA for the UNet of this model.")
