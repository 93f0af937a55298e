"""Baseline soft prompt: one learned word for each category, said behind the prompt, that makes its picture safe.

Place on the path of data: an alternative to steps 3 to 5. The personal form says the words of what this user bans.

Source: after PromptGuard, Yuan et al. 2025, arXiv:2501.03544, section 4. With a learned word v behind the prompt,

    loss = share * |e(safe picture + noise, unsafe prompt + v) - noise|^2
         + (1 - share) * |e(safe picture + noise, safe prompt + v) - noise|^2

and the words of several categories are said one after the other. Only the words' embeddings are learned; they are
textual inversions, which stock diffusers loads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..categories import current
from ..config import check_range
from ..errors import GuardError
from ..tensors import read_safetensors, require_numbers
from .denoiser import encode, predict
from .pairs import PicturePairs
from .steps import Place, StepsConfig, take_steps
from .weights import find_weights

USUAL_NAME = "learned_embeds.safetensors"
ENCODERS = {"clip_l": ("text_encoder", "tokenizer"), "clip_g": ("text_encoder_2", "tokenizer_2")}  # SDXL's names


@dataclass(frozen=True)
class SoftPromptConfig(StepsConfig):
    """tokens: that a word is made of. share: of the loss on unsafe prompts. first_word: its embedding is the first."""

    tokens: int = 1
    share: float = 0.5
    first_word: str = "safe"

    def __post_init__(self) -> None:
        """Raises UsageError for a value that makes no sense."""
        super().__post_init__()
        check_range("tokens", self.tokens, 1, 16)
        check_range("share", self.share, 0, 1)


def word_of(category: str | None) -> str:
    """The learned word of a category, or of all (None), as prompts say it."""
    return f"<psalign-{'all' if category is None else current().slugs[category]}>"


def train_soft_prompt(
    pipe: Any, pairs: PicturePairs, category: str | None, config: SoftPromptConfig, *, steps: int, place: Place
) -> dict[str, torch.Tensor]:
    """Embeddings of the word of a category, [tokens, width] by encoder ("clip_l", on SDXL "clip_g" too).

    The pipeline stays as it is. Raises DatasetError where the dataset has no pair of the category.
    """
    chosen = pairs.of(category)
    learned = {name: _first(pipe, name, config).requires_grad_() for name in _encoders(pipe)}
    with learned_words(pipe, {word_of(category): learned}):

        def loss(step: int) -> torch.Tensor:
            drawn = pairs.draw(chosen, size=config.batch_size, seed=config.seed, step=step)
            total = torch.zeros((), device=pipe._execution_device)
            for number, share in enumerate((config.share, 1 - config.share)):
                prompts = [f"{pair[number].caption} {word_of(category)}" for pair in drawn.rows]
                noise = predict(pipe, drawn.safe, drawn.timesteps, encode(pipe, prompts))
                total = total + share * (noise - drawn.noise).square().mean()
            return total

        take_steps(list(learned.values()), loss, config, steps, place)
    return {name: weight.detach() for name, weight in learned.items()}


@contextmanager
def soft_prompts(pipe: Any, files: Mapping[str, Path]) -> Iterator[None]:
    """Within it the pipeline knows learned words, by their text; afterwards its tokenizers are as they were.

    Raises CheckpointError for a file that is missing or damaged; GuardError for a word that is known already.
    """
    words = {word: _read(find_weights(path, usual=USUAL_NAME)) for word, path in files.items()}
    with learned_words(pipe, words):
        yield


def _read(path: Path) -> dict[str, torch.Tensor]:
    weights = read_safetensors(path)[0]
    require_numbers(weights, path)
    return weights


@contextmanager
def learned_words(pipe: Any, words: Mapping[str, Mapping[str, torch.Tensor]]) -> Iterator[None]:
    """Within it, words are tokens of the pipeline's tokenizers; their embeddings are the given tensors, with gradients.

    words: by word, embeddings [tokens, width] by encoder ("clip_l", on SDXL "clip_g" too).
    Raises GuardError for a word that is known already.
    """
    with ExitStack() as stack:
        for name in _encoders(pipe):
            encoder, tokenizer = (getattr(pipe, part) for part in ENCODERS[name])
            tokens = {word: _names(word, len(weights[name])) for word, weights in words.items()}
            known = [word for word in tokens if word in tokenizer.get_vocab()]
            if known:
                raise GuardError(f"The tokenizer knows {known[0]} already.", hint="Load the base model anew.")
            stack.enter_context(_with_tokens(pipe, encoder, tokenizer, tokens))
            numbers = {
                tokenizer.convert_tokens_to_ids(token): words[word][name][place]
                for word, parts in tokens.items()
                for place, token in enumerate(parts)
            }
            handle = encoder.get_input_embeddings().register_forward_hook(_put(numbers))
            stack.callback(handle.remove)
        yield


@contextmanager
def _with_tokens(pipe: Any, encoder: Any, tokenizer: Any, tokens: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """The tokenizer with new tokens, and rows for them in the encoder's table, which both lose afterwards."""
    before = encoder.get_input_embeddings().num_embeddings
    names = [name for parts in tokens.values() for name in parts]
    try:
        pipe.load_textual_inversion(
            [torch.zeros(len(parts), encoder.config.hidden_size) for parts in tokens.values()],
            token=list(tokens), tokenizer=tokenizer, text_encoder=encoder,
        )  # fmt: skip
        yield
    finally:
        pipe.unload_textual_inversion(list(tokens), tokenizer=tokenizer, text_encoder=encoder)
        # diffusers puts a new tokenizer in place of the old one, which does not know where CLIP's words end.
        wrap = getattr(tokenizer, "_wrap_decode_method_backend_tokenizer", None)
        if wrap is not None:
            wrap()
        assert encoder.get_input_embeddings().num_embeddings == before or not names


def _put(numbers: Mapping[int, torch.Tensor]) -> Any:
    """A hook behind a table of embeddings: rows of these tokens are the learned ones."""

    def hook(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        for number, embedding in numbers.items():
            output = torch.where((inputs[0] == number)[..., None], embedding.to(output), output)
        return output

    return hook


def _names(word: str, count: int) -> list[str]:
    """Tokens of a word, as diffusers names those of a textual inversion."""
    return [word, *(f"{word}_{i}" for i in range(1, count))]


def _encoders(pipe: Any) -> list[str]:
    return [name for name, parts in ENCODERS.items() if getattr(pipe, parts[0], None) is not None]


def _first(pipe: Any, name: str, config: SoftPromptConfig) -> torch.Tensor:
    encoder, tokenizer = (getattr(pipe, part) for part in ENCODERS[name])
    number = tokenizer(config.first_word).input_ids[1]
    embedding = encoder.get_input_embeddings().weight[number].detach().float()
    return embedding.repeat(config.tokens, 1).clone()
