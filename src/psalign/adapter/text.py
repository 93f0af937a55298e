"""The text of a call: encoded by the pipeline's own text encoders, then rewritten for each row's user.

Place on the path of data: step 5, where prompt and negative prompt are still two things. Texts are encoded and
rewritten one by one, so a row's text has the same bits in any batch.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from ..errors import GuardError
from .adapter import PSAAdapter
from .prompt import PromptAdapter
from .users import CheckedUsers, RowUsers

# Tokenizers keep padding and truncation from call to call, and threads share them.
TOKENIZERS = threading.RLock()


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
            prompts = self.pooled_prompt_embeds if "pooled" in name else self.prompt_embeds
            if prompts is not None and value.shape != prompts.shape:
                raise GuardError(f"Prompts {tuple(prompts.shape)} and unconditional texts {tuple(value.shape)} differ.")

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of a pipeline call; states that are missing are left out."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


@torch.no_grad()
def encode_texts(
    pipe: Any,
    prompts: str | Sequence[str],
    negative_prompt: str | Sequence[str | None] | None = None,
    *,
    has_negative: bool = True,
    device: torch.device | None = None,
    **options: Any,
) -> Texts:
    """Text states of prompts and of their negative prompts, as `pipe.encode_prompt` gives them.

    pipe: a pipeline of diffusers, or a modular one. negative_prompt: one for all rows or one per row; None: the
    pipeline's own unconditional text. has_negative: whether negative prompts are needed at all. device: that the
    pipeline runs on, where it is known: a pipeline looks through all its layers for it. options: more of
    encode_prompt's parameters (clip_skip, lora_scale; prompt_2 and negative_prompt_2 may be one per row). Equal rows
    are encoded once.
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
    texts: dict[str, Any] = {"prompt": prompts, "negative_prompt": negative_prompt}
    texts |= {name: options.pop(name) for name in ("prompt_2", "negative_prompt_2") if name in options}
    columns = {name: _per_row(name, value, len(prompts)) for name, value in texts.items()}
    encode = _encoder(pipe, [*columns, *options], has_negative=has_negative, device=device)
    encoded: dict[tuple[str | None, ...], Texts] = {}
    rows = list(zip(*columns.values(), strict=True))
    for row in rows:
        if row not in encoded:
            lists = [None if text is None else [text] for text in row]
            with TOKENIZERS:
                parts = tuple(encode(**dict(zip(columns, lists, strict=True)), **options))
            encoded[row] = _texts_of(pipe, parts)
    stacked = [[getattr(encoded[row], field.name) for row in rows] for field in fields(Texts)]
    return Texts(*(None if column[0] is None else torch.cat(column) for column in stacked))  # type: ignore[arg-type]


def _texts_of(pipe: Any, parts: tuple[Any, ...]) -> Texts:
    """What encode_prompt gave. Raises GuardError where that is something else."""
    if len(parts) not in (2, 4) or any(part is not None and part.ndim != 2 for part in parts[2:]):
        raise GuardError(
            f"encode_prompt of {type(pipe).__name__} gives {len(parts)} values of a layout that is not known here.",
            hint="Pass the text states to psa.rewrite(prompt_embeds, users).",
        )
    return Texts(*parts)


@torch.no_grad()
def rewrite_texts(adapter: PromptAdapter, texts: Texts, users: RowUsers) -> Texts:
    """The prompts as their users may see them; negative prompts stay the same.

    Raises GuardError where the adapter rewrites a pooled text state and there is none.
    """
    if adapter.config.pooled_dim and texts.pooled_prompt_embeds is None:
        raise GuardError(
            "The adapter rewrites the pooled text state too, and there is none.",
            hint="Pass pooled= to rewrite(), or let encode() read the prompts.",
        )
    whole = (texts.prompt_embeds, texts.pooled_prompt_embeds, users)
    given: list[list[Any]] = [[x if x is None else x[i : i + 1] for x in whole] for i in range(len(texts))]
    rows = [adapter.rewritten(*one) for one in given]
    columns: list[Any] = [None if column[0] is None else torch.cat(column) for column in zip(*rows, strict=True)]
    return replace(texts, prompt_embeds=columns[0], pooled_prompt_embeds=columns[1])


def require_fit(adapter: PSAAdapter, texts: Texts, users: RowUsers) -> None:
    """Raises GuardError unless there is one user per prompt, and the states have the adapter's width."""
    if len(users) != len(texts):
        raise GuardError(
            f"{len(users)} users for {len(texts)} prompts; expected one user per prompt.",
            hint="Pass None for a prompt with no user. The pipeline repeats rows for num_images_per_prompt.",
        )
    width = texts.prompt_embeds.shape[-1]
    if width != adapter.config.context_dim:
        raise GuardError(
            f"These text states have width {width}; the adapter is for {adapter.config.context_dim}.",
            hint="Encode with the text encoders of the base that the adapter was trained for. SDXL's refiner reads "
            "another text: draw without it, or refine with the adapted base and image-to-image.",
        )


def with_marks(texts: Texts) -> Texts:
    """The texts with a mark behind each row, [B, T + 1, D], which says which row it is (kind `published`).

    Two users may give the same prompt, so the text itself cannot say it. A mark is eight random bytes, which every
    dtype of 16 bits or more holds exactly. The rest of its token is infinite: a denoiser without the hook that takes
    the mark off draws NaN.
    """

    def marked(states: torch.Tensor) -> torch.Tensor:
        marks = torch.full_like(states[:, :1], torch.inf)
        numbers = torch.frombuffer(bytearray(os.urandom(8 * len(states))), dtype=torch.uint8)
        marks[:, 0, :8] = numbers.view(-1, 8).to(marks)
        return torch.cat([states, marks], dim=1)

    negative = texts.negative_prompt_embeds
    negative = None if negative is None else marked(negative)
    return replace(texts, prompt_embeds=marked(texts.prompt_embeds), negative_prompt_embeds=negative)


def without_marks(states: torch.Tensor) -> torch.Tensor:
    return states[:, :-1]


def accepted_by(pipe: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Those arguments that a pipeline's call takes (LCM, for one, takes no negative prompt)."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in parameters}


def _encoder(pipe: Any, names: Sequence[str], *, has_negative: bool, device: torch.device | None) -> Callable[..., Any]:
    """The pipeline's own encode_prompt, ready to take arguments of these names. Raises GuardError where it does not."""
    encode = getattr(pipe, "encode_prompt", None) or _borrowed_encoder(pipe)
    if encode is None:
        raise GuardError(
            f"{type(pipe).__name__} has no encode_prompt, so its text cannot be rewritten here.",
            hint="Encode the prompts yourself and pass the states to psa.rewrite(prompt_embeds, users).",
        )
    fixed = {
        "device": pipe._execution_device if device is None else device,
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": has_negative,
        "prepare_unconditional_embeds": has_negative,  # a modular block's name for guidance
    }
    parameters = inspect.signature(encode).parameters
    unknown = sorted(name for name in names if name not in parameters or name in fixed)
    if unknown:
        raise GuardError(
            f"encode() of {type(pipe).__name__} does not take {', '.join(unknown)}.",
            hint="Pass what is about drawing, as num_images_per_prompt, to the pipeline.",
        )
    return functools.partial(encode, **{name: value for name, value in fixed.items() if name in parameters})


def _borrowed_encoder(pipe: Any) -> Callable[..., Any] | None:
    """encode_prompt of another class that serves a pipeline without one of its own."""
    if hasattr(pipe, "_encode_prompt") and isinstance(pipe.text_encoder, torch.nn.Module):  # older than encode_prompt
        from diffusers import StableDiffusionPipeline

        return functools.partial(StableDiffusionPipeline.encode_prompt, pipe)
    if hasattr(pipe, "blocks") and type(pipe).__name__.startswith("StableDiffusionXL"):  # modular: it is a block's
        from diffusers.modular_pipelines.stable_diffusion_xl.encoders import StableDiffusionXLTextEncoderStep

        return functools.partial(StableDiffusionXLTextEncoderStep.encode_prompt, pipe)
    return None


def require_one_text(prompts: str | Sequence[str], second: str | Sequence[str | None] | None, is_user: Any) -> None:
    """Raises GuardError where the second text encoder gets another prompt than the first, for a row with a user: what
    the second alone names would not be matched as in training, where both read one text. is_user: [B], bool."""
    rows = [prompts] if isinstance(prompts, str) else list(prompts)
    if second is None or len(rows) != len(is_user):  # which is refused where the text is rewritten
        return
    others = _per_row("prompt_2", second, len(rows))
    differ = sum(
        bool(known) and other not in (None, "", row) for row, other, known in zip(rows, others, is_user, strict=True)
    )
    if differ:
        raise GuardError(
            f"prompt_2 differs from the prompt in {differ} of {len(rows)} rows with a user; an adapter of kind "
            "'prompt' was trained with one text for both text encoders.",
            hint="Leave prompt_2 out and write all of it in the prompt.",
        )


def as_seen(
    prompts: str | Sequence[str],
    second: str | Sequence[str | None] | None,
    users: CheckedUsers,
    look: Callable[[int, str], str] | None = None,
) -> tuple[Any, Any]:
    """Prompts, and the same for a second text encoder, as a person sees them in rows whose user limits anything.

    users: one per prompt. look: what else is to be done to the prompt of such a row, given its number and what a person
    sees. Prompts that are no texts, or not as many, stay as they are: they are refused where they are encoded.
    """
    rows, limited = [prompts] if isinstance(prompts, str) else list(prompts or ()), users.is_limited
    if len(rows) != len(limited) or not all(isinstance(row, str) for row in rows):
        return prompts, second
    read = [users.reading(number, row).text if limited[number] else row for number, row in enumerate(rows)]
    if look is not None:
        read = [look(number, text) if limited[number] else text for number, text in enumerate(read)]
    if second is None:
        return read, None
    others = _per_row("prompt_2", second, len(rows))
    return read, [one if other == row else other for one, other, row in zip(read, others, rows, strict=True)]


def tokens_of(pipe: Any, text: str, **options: Any) -> list[int]:
    """Tokens of a text as encode_prompt's first tokenizer reads it, with start and end of text: of a textual inversion
    one for each vector. options: of the tokenizer."""
    with TOKENIZERS:
        convert = getattr(pipe, "maybe_convert_prompt", None)
        whole = text if convert is None else convert(text, pipe.tokenizer)
        found: list[int] = pipe.tokenizer(whole, verbose=False, **options).input_ids
        return found


def _per_row(name: str, value: str | Sequence[str | None] | None, rows: int) -> list[str | None]:
    if value is None or isinstance(value, str):
        return [value] * rows
    if len(value) != rows:
        raise GuardError(f"{name} must be one text or one per prompt; saw {len(value)} for {rows} prompts.")
    return list(value)
