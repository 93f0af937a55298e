"""Puts an adapter on a pipeline or a UNet.

Place on the path of data: between steps 4 and 5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import CheckpointError, GuardError
from .adapter import PSAAdapter
from .checkpoint import load_adapter
from .guard import AttachedAdapter

FILES = ("config.json", "*.safetensors", "psa_adapter.bin")


def load_psa_adapter(
    pipe_or_unet: Any,
    path_or_hub_id: str | Path,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> AttachedAdapter:
    """Read an adapter and attach it to a diffusers pipeline (with its ControlNets) or to a UNet.

    path_or_hub_id: a folder or file on disk, or the id of a repository on the Hugging Face hub; subfolder: of either.
    revision: branch, tag or commit; local_files_only: never go online; token: for private repositories.
    Raises CheckpointError where there is none, it cannot be read or does not fit; GuardError where the UNet has an
    adapter already.
    """
    place = Path(path_or_hub_id)
    if not place.exists():
        place = _download(str(path_or_hub_id), subfolder, revision, local_files_only, token)
    return attach(pipe_or_unet, load_adapter(place / subfolder if subfolder else place))


def attach(pipe_or_unet: Any, adapter: PSAAdapter) -> AttachedAdapter:
    """Join an adapter to a pipeline or a UNet.

    Raises GuardError where one is attached already, CheckpointError where it does not fit.
    """
    unet = getattr(pipe_or_unet, "unet", pipe_or_unet)
    if not hasattr(unet, "attn_processors"):
        raise GuardError(
            f"{type(pipe_or_unet).__name__} has no UNet with cross-attentions to adapt.",
            hint="Pass a Stable Diffusion 1.5 or SDXL pipeline, or its UNet.",
        )
    if hasattr(unet, "_psa_attached"):
        raise GuardError("This UNet has an adapter already.", hint="Call unload() on the first one.")
    if unet.device.type != "meta":  # a UNet that is offloaded layer by layer has no device of its own
        adapter.to(device=unet.device)
    attached = AttachedAdapter(unet, adapter)
    if pipe_or_unet is not unet:
        attached.guard(pipe_or_unet)
    return attached


def _download(
    repository: str, subfolder: str | None, revision: str | None, local_files_only: bool, token: str | bool | None
) -> Path:
    """The local copy of a repository's adapter files."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    inside = f"{subfolder}/" if subfolder else ""
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=[inside + name for name in FILES],
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as err:
        raise CheckpointError(
            f"'{repository}' is neither a folder or file here nor an adapter that can be downloaded: {err}",
            hint="Give the folder that psalign train wrote (it has config.json), or the id of a repository on the hub.",
        ) from err
