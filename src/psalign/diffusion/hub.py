"""What of a model on the hub a run needs: its files and their sizes, looked up before they are fetched.

Place on the path of data: before step 6 and before training, on a machine with a network. Files go to the hub's own
cache, where diffusers and transformers find them; a file that was cut short goes on.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..downloads import Download
from ..errors import CheckpointError, reason_of
from ..progress import bars_are_shown
from .base_models import is_single_file

FOLDERS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler",
           "feature_extractor")  # fmt: skip
TEXT_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
AGAIN = "Run the same command again: it goes on from what has come. Or give a folder that has the model."


@dataclass(frozen=True)
class HubModel:
    """A model of the hub: its id, and patterns of the files that are needed."""

    name: str
    needed: tuple[str, ...]
    not_needed: tuple[str, ...] = ()

    @property
    def _patterns(self) -> dict[str, Any]:
        return {"allow_patterns": list(self.needed), "ignore_patterns": list(self.not_needed)}

    def download(self, what: str, *, licence: str | None = None) -> Download | None:
        """What is still to be fetched of it; None where all is in the cache. licence: None: what its page says.

        Of a hub that cannot be reached nothing is known but the name. Raises CheckpointError where it has no such
        model.
        """
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import DryRunError, LocalEntryNotFoundError, RepositoryNotFoundError

        size: int | None = None
        _hide_bars()
        try:
            files = snapshot_download(self.name, dry_run=True, **self._patterns)
            if not files:
                raise CheckpointError(f"{self.name} on the hub lacks {', '.join(self.needed[:2])}.", hint=AGAIN)
            if not any(one.will_download for one in files):
                return None
            size = sum(one.file_size for one in files if one.will_download)
        except RepositoryNotFoundError as err:
            raise self._cannot_be_fetched(err) from err
        except (DryRunError, LocalEntryNotFoundError):
            if self._is_cached():
                return None
        host = str(urlsplit(constants.ENDPOINT).hostname)
        return Download(f"{what} {self.name}", host, size, licence or self._licence(), Path(constants.HF_HUB_CACHE))

    def fetch(self) -> Path:
        """Fetch what is not in the cache. Returns its folder there. Raises CheckpointError where it cannot be had."""
        from huggingface_hub import snapshot_download

        _hide_bars()
        try:
            return Path(snapshot_download(self.name, **self._patterns))
        except Exception as err:  # over a network the hub's library raises nearly anything
            if isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise
            raise self._cannot_be_fetched(err) from err

    def _is_cached(self) -> bool:
        from huggingface_hub import snapshot_download

        try:
            snapshot_download(self.name, local_files_only=True, **self._patterns)
        except OSError:
            return False
        return True

    def _licence(self) -> str:
        from huggingface_hub import HfApi

        try:
            card = HfApi().model_info(self.name).card_data
        except Exception:  # the hub cannot be reached: then nothing is fetched either
            card = None
        name = card.to_dict().get("license") if card is not None else None
        return f"licence: {name or 'see its page'}"

    def _cannot_be_fetched(self, err: Exception) -> CheckpointError:
        return CheckpointError(f"{self.name} cannot be fetched from the hub: {reason_of(err)}", hint=AGAIN)


def hub_pipeline(source: str, variant: str | None = None) -> HubModel | None:
    """The pipeline of a hub id, with every part that draws; None where the source is a folder or a file.

    variant: of the weights' files, as "fp16"; None: those without one.
    """
    if is_local(source):
        return None
    weights = f"*.{variant}*.safetensors" if variant else "*.safetensors"
    needed = [f"{folder}/{name}" for folder in FOLDERS for name in (*TEXT_FILES, weights)]
    others = () if variant else ("*.fp16.*", "*.fp16-*", "*.bf16.*", "*.non_ema.*")
    return HubModel(source, ("model_index.json", *needed), others)


def hub_language_model(source: str) -> HubModel | None:
    """The language model of a hub id; None where the source is a folder."""
    return None if is_local(source) else HubModel(source, (*TEXT_FILES, "*.safetensors"), ("*/*",))


def _hide_bars() -> None:
    """Switch off the hub's own bars, where ours are not shown either."""
    from huggingface_hub.utils import disable_progress_bars

    if not bars_are_shown():
        disable_progress_bars()


def is_local(source: str) -> bool:
    """Whether a model lies in a folder or a file of this machine, and not on the hub."""
    return Path(source).exists() or is_single_file(source)
