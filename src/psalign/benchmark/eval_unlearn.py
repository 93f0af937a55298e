"""Methods of the evaluation as a technique of the package eval-unlearn, so that its metrics measure our pictures.

Place on the path of data: step 6, called by another program. eval-unlearn finds the class by the entry point
`psalign` of the group `eval_unlearn.techniques`; nothing of it is imported here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from psalign.categories import category_names
from psalign.config import settings
from psalign.diffusion.base_models import load_pipeline
from psalign.diffusion.generate import GenerationConfig
from psalign.diffusion.prompts import derive_seed
from psalign.diffusion.shards import Shard
from psalign.errors import UsageError
from psalign.evaluation.catalog import METHODS
from psalign.records import PromptRow
from psalign.users.views import ProfilesAlone, described_person

from .methods import MethodInputs, draw_by, words_for

# Concepts that eval-unlearn's metrics erase, and the category that bans each.
CONCEPTS = {"nudity": "Sexuality", "violence": "Violence"}


@dataclass(frozen=True)
class TechniqueConfig:
    """method: a name of METHODS. base: mini, sd15 or sdxl. model: another place of the base. weights: of the method;
    for psa-prompt an adapter. users and user_id, level, banned, limits: the person that all pictures are for, see
    described_person. erase_concept: "nudity", "violence" or a category, which the person bans too; eval-unlearn asks
    for it. sld: strength of SLD. num_inference_steps, guidance_scale: None: the base's own."""

    method: str = "base"
    base: str = "sd15"
    model: str | None = None
    weights: str | None = None
    users: str | None = None
    user_id: str = ""
    level: int | None = None
    banned: tuple[str, ...] = ()
    limits: str = ""
    erase_concept: str | None = None
    sld: str = "medium"
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for an unknown method or concept."""
        if self.method not in METHODS:
            raise UsageError(f"Unknown method '{self.method}'; choose one of: {', '.join(METHODS)}.")
        if self.erase_concept is not None and not self.erased:
            known = ", ".join((*CONCEPTS, *category_names()))
            raise UsageError(f"Unknown concept '{self.erase_concept}'; choose one of: {known}.")

    @property
    def erased(self) -> tuple[str, ...]:
        """The category of erase_concept; none where it is not given or not known."""
        name = CONCEPTS.get((self.erase_concept or "").lower(), self.erase_concept)
        return tuple(category for category in category_names() if name is not None and category.lower() == name.lower())


class PSAlignTechnique:
    """A method that draws prompts for one person. Every picture has its own seed, as in `psalign eval generate`."""

    def __init__(self, **config: Any) -> None:
        """config: fields of TechniqueConfig.

        Raises UsageError for another field or a value that makes no sense; UnknownUser where a personal method is not
        given what the person bans; CheckpointError where the base model cannot be loaded.
        """
        self.config = settings(TechniqueConfig, config, section="technique")
        banned = (*self.config.banned, *self.config.erased)
        self._user: str | None = None
        self._users = ProfilesAlone([])
        if METHODS[self.config.method].personal:
            users = None if self.config.users is None else Path(self.config.users)
            person = described_person(
                users=users, user_id=self.config.user_id, level=self.config.level, banned=banned,
                limits=self.config.limits,
            )  # fmt: skip
            self._user, self._users = person.user_id, ProfilesAlone([person])
        device = str(Shard(self.config.device).device)
        self.pipeline = load_pipeline(self.config.base, source=self.config.model, device=device)

    def generate(self, prompts: Sequence[str], seed: int | None = None, **sampling: Any) -> list[Image.Image]:
        """One picture per prompt, in their order. seed: of the first, the others count on from it; None: drawn anew.

        sampling: num_inference_steps and guidance_scale of this call. Raises UsageError for others, and whatever the
        method raises: a picture that cannot be drawn is never left out.
        """
        unknown = sampling.keys() - {"num_inference_steps", "guidance_scale"}
        if unknown:
            raise UsageError(f"A technique of psalign takes no {', '.join(sorted(unknown))}.")
        first = torch.seed() % 2**62 if seed is None else seed
        rows = [
            PromptRow(f"{number:06d}.png", prompt, derive_seed(first, number), user_id=self._user)
            for number, prompt in enumerate(prompts)
        ]
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            draw_by(
                self.config.method, self.pipeline, rows, out, config=self._sampling(sampling), inputs=self._inputs()
            )
            return [Image.open(out / row.file_name).convert("RGB") for row in rows]

    def _inputs(self) -> MethodInputs:
        weights = None if self.config.weights is None else Path(self.config.weights)
        return MethodInputs(self._users, words_for(self.config.base), weights, sld=self.config.sld)

    def _sampling(self, given: dict[str, Any]) -> GenerationConfig:
        steps = given.get("num_inference_steps", self.config.num_inference_steps)
        guidance = given.get("guidance_scale", self.config.guidance_scale)
        return GenerationConfig.for_base(
            self.config.base, evaluates=True, method=self.config.method, steps=steps, guidance=guidance
        )
