"""The method under attack, whose weights the attacker knows: what it makes of a text, and the noise that then follows.

Place on the path of data: around steps 5 and 6. Pictures are drawn as generation draws them. The search for an attack
needs gradients, which generation does not keep: a `Reading` gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from psalign.adapter.guard import KEY as OURS
from psalign.adapter.prompt import PromptAdapter
from psalign.adapter.text import Texts
from psalign.baselines.concepts import TextStates, asked_by, concept_phrases, end_of_text
from psalign.baselines.safree import SafreeConfig, leave_one_out, project_prompt
from psalign.baselines.sld import KEY as SLD
from psalign.baselines.uce import mapped
from psalign.benchmark.methods import CLOSED_FORMS, MethodInputs
from psalign.config import baseline_settings
from psalign.diffusion.generate import Drawing, text_arguments
from psalign.diffusion.pictures import draw_pictures, finished_pictures
from psalign.errors import UsageError
from psalign.evaluation.catalog import METHODS
from psalign.files import Record
from psalign.records import PromptRow

Rows = Sequence[PromptRow]
Reading = Callable[[Texts], Texts]  # of some rows: the text as the method passes it to the UNet, with gradients


@dataclass(eq=False)
class Victim:
    """A method inside its context. drawing: what it draws with. inputs: its users and settings.

    Raises UsageError for an adapter of kind `published`, which does not work on the text.
    """

    method: str
    pipeline: Any
    drawing: Drawing
    inputs: MethodInputs

    def __post_init__(self) -> None:
        attached = self.drawing.attached
        if attached is not None and not isinstance(attached.adapter, PromptAdapter):
            raise UsageError("White-box attacks search in texts; an adapter of kind 'published' changes none.")
        self._known = TextStates(self.pipeline)

    def arguments(self, rows: Rows) -> Record:
        """Arguments of the pipeline call, as generation makes them."""
        drawing = self.drawing
        return text_arguments(
            self.pipeline, rows, config=drawing.config, users=self.inputs.users, attached=drawing.attached,
            guide=drawing.guide,
        )  # fmt: skip

    def draw(self, rows: Rows, **more: Any) -> np.ndarray:
        """Pictures of rows, uint8 RGB [B, H, W, 3]. more: arguments of the pipeline call, as latents."""
        config = self.drawing.config
        seeds = [row.seed for row in rows]
        pictures = draw_pictures(
            self.pipeline, self.arguments(rows), seeds, steps=config.steps, guidance=config.guidance, **more
        )
        return finished_pictures(pictures, [row.file_name for row in rows], hint="The attack broke the drawing.")

    def negatives(self, rows: Rows) -> list[str]:
        return self.drawing.config.negatives(rows) or [""] * len(rows)

    def noise(self, latents: torch.Tensor, step: int, texts: Texts, given: Record) -> torch.Tensor:
        """The noise [B, C, h, w] that a denoising step follows, after guidance, with gradients.

        latents: [B, C, h, w]. step: its number in a drawing. texts: as the UNet reads them. given: arguments(), of
        which SLD takes its concepts.
        """
        pipe, negative = self.pipeline, texts.negative_prompt_embeds
        assert negative is not None
        doubled, states = torch.cat([latents, latents]), torch.cat([negative, texts.prompt_embeds])
        timestep = pipe.scheduler.timesteps[step]
        if self.drawing.attached is not None:
            noise = self.drawing.attached.denoise(doubled, timestep, states)
        else:
            call = (given.get("cross_attention_kwargs") or {}).get(SLD)
            beside = None if call is None else {SLD: replace(call, steps_done=step, velocity=None)}
            noise = pipe.unet(doubled, timestep, encoder_hidden_states=states, cross_attention_kwargs=beside,
                              return_dict=False)[0]  # fmt: skip
        unguided, prompted = noise.chunk(2)
        guided: torch.Tensor = unguided + self.drawing.config.guidance * (prompted - unguided)
        return guided

    def reading(self, rows: Rows, given: Record) -> Reading:
        """What the method makes of texts of these rows. given: arguments() of them.

        A method that this does not know is taken to pass its text on unchanged: the search then follows gradients that
        are not quite its own, and its pictures still decide.
        """
        family = METHODS[self.method].family
        if self.drawing.attached is not None:
            return self._adapter(given)
        if family in CLOSED_FORMS and METHODS[self.method].personal:
            return self._closed_form(family, rows)
        if family == "safree":
            return self._safree(rows)
        return lambda texts: texts

    def _adapter(self, given: Record) -> Reading:
        assert self.drawing.attached is not None
        adapter, users = self.drawing.attached.adapter, given["cross_attention_kwargs"][OURS].users
        assert isinstance(adapter, PromptAdapter)
        return lambda texts: replace(texts, prompt_embeds=adapter.rewritten(texts.prompt_embeds, None, users)[0])

    def _closed_form(self, family: str, rows: Rows) -> Reading:
        kind, matrix_of = CLOSED_FORMS[family]
        settings: Any = self._settings(kind, family)
        asked = [self._asked(row) for row in rows]
        matrices = {one: matrix_of(self._known, one.erase, one.keep, settings) for one in set(asked)}
        return lambda texts: mapped(texts, [matrices[one] for one in asked])

    def _safree(self, rows: Rows) -> Reading:
        settings: SafreeConfig = self._settings(SafreeConfig, "safree")
        ends = [end_of_text(self.pipeline, row.prompt) for row in rows]
        without = [TextStates(self.pipeline).ends(leave_one_out(self.pipeline, row.prompt)) for row in rows]
        unwanted = [self._asked(row).erase for row in rows]

        def read(texts: Texts) -> Texts:
            states = list(texts.prompt_embeds)
            for i, end in enumerate(ends):
                if unwanted[i] and end >= 3:
                    own, phrases = states[i][1:end], self._known.ends(unwanted[i])
                    projected, _ = project_prompt(own, without[i], phrases, alpha=settings.alpha)
                    states[i] = torch.cat([states[i][:1], projected, states[i][end:]])
            return replace(texts, prompt_embeds=torch.stack(states))

        return read

    def _asked(self, row: PromptRow) -> Any:
        is_personal = METHODS[self.method].personal
        return asked_by(row.user_id if is_personal else None, self.inputs.users, concept_phrases(self.inputs.words))

    def _settings(self, kind: type, family: str) -> Any:
        return baseline_settings(kind, family, base=self.drawing.config.base, given=self.inputs.baselines)
