"""A UNet with the changes of several edited UNets added up: the personal form of weights that were made per category.

Place on the path of data: an alternative to steps 3 to 5. Experts stay on disk; a user's sum is made when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .edited_unet import read_edits, require_in_memory, write_weights


class UnetExperts:
    """Edited UNets by category; `use` says whose changes add up from now on."""

    def __init__(self, pipeline: Any, files: Mapping[str, Path], weight: float) -> None:
        self._own = dict(pipeline.unet.state_dict(keep_vars=True))
        self._files, self._weight = files, weight
        names = {name for path in files.values() for name in read_edits(path, self._own)}
        require_in_memory(self._own, names)
        self._originals = {name: self._own[name].detach().clone() for name in names}
        self._in_use: tuple[str, ...] = ()

    def use(self, banned: Sequence[str]) -> None:
        """Draw with the base's weights and the changes of these categories' experts; with none the base draws."""
        if tuple(banned) == self._in_use:
            return
        total = {name: weight.float().clone() for name, weight in self._originals.items()}
        for category in banned:
            for name, weight in read_edits(self._files[category], self._own).items():
                total[name] += self._weight * (weight.to(total[name]) - self._originals[name].float())
        write_weights(self._own, {name: total[name] if banned else self._originals[name] for name in total})
        self._in_use = tuple(banned)

    def restore(self) -> None:
        write_weights(self._own, self._originals)


@contextmanager
def unet_experts(pipeline: Any, files: Mapping[str, Path], weight: float) -> Iterator[UnetExperts]:
    """Within it the pipeline has the experts of these folders or files, by category; afterwards its own weights.

    weight: factor of each expert's change of the weights. Raises the errors of edited_unet.
    """
    experts = UnetExperts(pipeline, files, weight)
    try:
        yield experts
    finally:
        experts.restore()
