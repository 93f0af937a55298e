"""The text of a call: encoded by the pipeline's own text encoders, then rewritten for each row's user.

Place on the path of data: step 5, where prompt and negative prompt are still two things. A row's text depends on its
own prompt, user and strength alone: texts are encoded and rewritten one by one, so it has the same bits in any batch.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from ..errors import GuardError
from .prompt import PromptAdapter
from .users import RowUsers


@dataclass(frozen=True, eq=False)
class Texts:
    """Text states [B, T, D] and pooled text states [B, P] of prompts and negative prompts, by diffusers' names."""

    prompt_embeds: torch.Tensor
    negative_prompt_embeds: torch.Tensor | None = None
    pooled_prompt_embeds: torch.Tensor | None = None
    negative_pooled_prompt_embeds: torch.Tensor | None = None

    def __post_init__(self) -> None:
        """Raises GuardError for tensors that do not belong together."""
        rows = len(self.prompt_embeds) if isinstance(self.prompt_embeds, torch.Tensor) else 0
        for name, value in self.arguments().items():
            ndim = 2 if "pooled" in name else 3
            if not isinstance(value, torch.Tensor) or value.ndim != ndim or not value.is_floating_point():
                seen = tuple(value.shape) if hasattr(value, "shape") else type(value).__name__
                raise GuardError(f"{name} must be a floating-point tensor of {ndim} dimensions; saw {seen}.")
            if len(value) != rows:
                raise GuardError(f"{name} has {len(value)} rows for {rows} prompts.")
        for one, other in (
            (self.prompt_embeds, self.negative_prompt_embeds),
            (self.pooled_prompt_embeds, self.negative_pooled_prompt_embeds),
        ):
            if one is not None and other is not None and one.shape != other.shape:
                raise GuardError(f"Prompts {tuple(one.shape)} and unconditional texts {tuple(other.shape)} differ.")

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of a pipeline call: what there is."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


@torch.no_grad()
def encode_texts(
    pipe: Any,
    prompts: str | Sequence[str],
    negative_prompt: str | Sequence[str | None] | None = None,
    **options: Any,
) -> Texts:
    """Text states of prompts and of their negative prompts, as `pipe.encode_prompt` gives them.

    pipe: a pipeline of diffusers, or a modular one. negative_prompt: one for all rows or one per row; None: the
    pipeline's own unconditional text. options: more of encode_prompt's parameters (clip_skip, lora_scale; prompt_2 and
    negative_prompt_2 may be one per row). Equal rows are encoded once.
    Raises GuardError for a pipeline whose text cannot be encoded this way, or lists that do not match.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts or ())
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise GuardError(f"{'No prompts' if not prompts else 'A prompt that is no text'}: expected at least one text.")
    if getattr(pipe, "free_noise_enabled", False):
        raise GuardError(
            f"{type(pipe).__name__} with FreeNoise reads prompts alone, so its text cannot be rewritten.",
            hint="Call pipe.disable_free_noise().",
        )
    encode = _encoder(pipe)
    columns = {"prompt": prompts, "negative_prompt": _per_row("negative_prompt", negative_prompt, len(prompts))}
    for name in ("prompt_2", "negative_prompt_2"):
        if name in options:
            columns[name] = _per_row(name, options.pop(name), len(prompts))
    known: dict[tuple[Any, ...], Texts] = {}
    rows = []
    for row in zip(*columns.values(), strict=True):
        if row not in known:
            known[row] = _read(pipe, encode(**dict(zip(columns, row, strict=True)), **options))
        rows.append(known[row])
    return _stacked(rows)


@torch.no_grad()
def rewrite_texts(adapter: PromptAdapter, texts: Texts, users: RowUsers) -> Texts:
    """The prompts as their users may see them; negative prompts stay as they are.

    Raises GuardError where the adapter rewrites a pooled text state and there is none.
    """
    pooled = texts.pooled_prompt_embeds
    if adapter.pooled_dim and pooled is None:
        raise GuardError(
            "The adapter rewrites the pooled text state too, and there is none.",
            hint="Pass pooled= to rewrite(), or let encode() read the prompts.",
        )
    rows = [
        adapter.rewritten(
            texts.prompt_embeds[i : i + 1],
            None if pooled is None else pooled[i : i + 1],
            users.vectors[i : i + 1],
            users.strength[i : i + 1],
        )
        for i in range(len(texts))
    ]
    states, pooled_rows = zip(*rows, strict=True)
    return replace(
        texts,
        prompt_embeds=torch.cat(states),
        pooled_prompt_embeds=None if pooled is None else torch.cat(pooled_rows),
    )


def accepted_by(pipe: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Those arguments that a pipeline's call takes (LCM, for one, takes no negative prompt)."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in parameters}


def _encoder(pipe: Any) -> Callable[..., Any]:
    """A function that encodes one row by the pipeline's own encode_prompt."""
    encode = getattr(pipe, "encode_prompt", None) or _borrowed_encoder(pipe)
    if encode is None:
        raise GuardError(
            f"{type(pipe).__name__} has no encode_prompt, so its text cannot be rewritten here.",
            hint="Encode the prompts yourself and pass the states to psa.rewrite(prompt_embeds, users).",
        )
    parameters = inspect.signature(encode).parameters
    fixed = {"device": pipe._execution_device, "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    fixed["prepare_unconditional_embeds"] = True  # a modular block's name for guidance
    fixed = {name: value for name, value in fixed.items() if name in parameters}

    def one_row(prompt: str, negative_prompt: str | None, **more: Any) -> Any:
        negative = None if negative_prompt is None else [negative_prompt]
        more = {name: [value] if name.endswith("_2") and value is not None else value for name, value in more.items()}
        unknown = sorted(name for name in more if name not in parameters or name in fixed)
        if unknown:
            raise GuardError(
                f"encode() of {type(pipe).__name__} does not take {', '.join(unknown)}.",
                hint="Pass what is about drawing, as num_images_per_prompt, to the pipeline.",
            )
        return encode(prompt=[prompt], negative_prompt=negative, **fixed, **more)

    return one_row


def _borrowed_encoder(pipe: Any) -> Callable[..., Any] | None:
    """encode_prompt of another class that serves a pipeline without one of its own."""
    if hasattr(pipe, "_encode_prompt") and isinstance(
        pipe.text_encoder, torch.nn.Module
    ):  # a pipeline of SD1.5's kin from before encode_prompt
        from diffusers import StableDiffusionPipeline

        return functools.partial(StableDiffusionPipeline.encode_prompt, pipe)
    if hasattr(pipe, "blocks") and type(pipe).__name__.startswith("StableDiffusionXL"):  # modular: it is a block's
        from diffusers.modular_pipelines.stable_diffusion_xl.encoders import StableDiffusionXLTextEncoderStep

        return functools.partial(StableDiffusionXLTextEncoderStep.encode_prompt, pipe)
    return None


def _read(pipe: Any, encoded: Any) -> Texts:
    """What encode_prompt gave: two tensors (SD1.5 and its kin), or four, of which two are pooled (SDXL)."""
    parts = tuple(encoded)
    if len(parts) == 2:
        return Texts(*parts)
    if len(parts) == 4 and all(part is None or part.ndim == 2 for part in parts[2:]):
        return Texts(*parts)
    raise GuardError(
        f"encode_prompt of {type(pipe).__name__} gives {len(parts)} values of a layout that is not known here.",
        hint="Pass the text states to psa.rewrite(prompt_embeds, users).",
    )


def _per_row(name: str, value: str | Sequence[str | None] | None, rows: int) -> list[str | None]:
    if value is None or isinstance(value, str):
        return [value] * rows
    if len(value) != rows:
        raise GuardError(f"{name} must be one text or one per prompt; saw {len(value)} for {rows} prompts.")
    return list(value)


def _stacked(rows: Sequence[Texts]) -> Texts:
    columns = [[getattr(row, field.name) for row in rows] for field in fields(Texts)]
    return Texts(*(None if column[0] is None else torch.cat(column) for column in columns))  # type: ignore[arg-type]
