"""Puts an adapter on a pipeline or a UNet.

Place on the path of data: between steps 4 and 5.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, GuardError
from .adapter import PSAAdapter, cross_attention_widths
from .checkpoint import load_adapter
from .guard import AttachedAdapter
from .prompt import PromptAdapter

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

FILES = ("config.json", "*.safetensors", "psa_adapter.bin")


def load_psa_adapter(
    pipe_or_unet: Any,
    path_or_hub_id: str | Path,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    in_words: bool = False,
) -> AttachedAdapter:
    """Read an adapter and attach it to a diffusers pipeline (with its ControlNets) or to a UNet.

    path_or_hub_id: a folder or file on disk, or the id of a repository on the Hugging Face hub; subfolder: of either.
    revision: branch, tag or commit; local_files_only: never go online; token: for private repositories. in_words: see
    load_adapter.
    Raises CheckpointError where there is none, it cannot be read or does not fit; GuardError where the UNet has an
    adapter already.
    """
    place = Path(path_or_hub_id)
    if not place.exists():
        files = [f"{subfolder}/{name}" if subfolder else name for name in FILES]
        options = {"revision": revision, "local_files_only": local_files_only, "token": token}
        place = _download(str(path_or_hub_id), allow_patterns=files, **options)
    return attach(pipe_or_unet, load_adapter(place / subfolder if subfolder else place, in_words=in_words))


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
    _check_fit(unet, adapter)
    if unet.device.type != "meta":  # a UNet that is offloaded layer by layer has no device of its own
        adapter.to(device=unet.device)
    attached = AttachedAdapter(unet, adapter)
    if pipe_or_unet is not unet:
        attached.guard(pipe_or_unet)
    return attached


def _check_fit(unet: UNet2DConditionModel, adapter: PSAAdapter) -> None:
    """Raises CheckpointError where the adapter's shapes are not the UNet's."""
    config, width, widths = adapter.config, unet.config.cross_attention_dim, cross_attention_widths(unet)
    if config.context_dim != width:
        fault = f"text states of width {config.context_dim}; this UNet's are {width}"
    elif not isinstance(adapter, PromptAdapter) and tuple(config.widths) != widths:
        fault = f"{len(config.widths)} cross-attentions; this UNet has {len(widths)} or other widths"
    else:
        return
    raise CheckpointError(
        f"The adapter (trained for '{config.base}') is for {fault}.",
        hint="Use the base model the adapter was trained for.",
    )


def _download(repository: str, **options: Any) -> Path:
    """The local copy of a repository's files. options: of huggingface_hub's snapshot_download."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as err:
        raise CheckpointError(
            f"'{repository}' is neither a folder or file here nor an adapter that can be downloaded: {err}",
            hint="Give the folder that psalign train wrote (it has config.json), or the id of a repository on the hub.",
        ) from err
