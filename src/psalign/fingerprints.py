"""Fingerprints: names of values, files and weights by their content, and the versions that a run was made
with.

Place on the path of data: at every seam, so that a stage knows whether it is to run again.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

DIGITS = 16  # hexadecimal, of a fingerprint
BLOCK = 1 << 20  # bytes read at a time


def fingerprint(value: Any) -> str:
    """The fingerprint of a JSON-able value; key order does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def file_fingerprint(path: Path) -> str:
    """The fingerprint of a file's content."""
    return file_digest(path)[:DIGITS]


def file_digest(path: Path, digest: Any = None) -> str:
    """All hexadecimal digits of a file's content. digest: an object of hashlib, sha256 by default."""
    digest = hashlib.sha256() if digest is None else digest
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return str(digest.hexdigest())


def weights_fingerprint(modules: Mapping[str, torch.nn.Module | None]) -> str:
    """The fingerprint of weights as they are in memory, also of those that are offloaded layer by layer.

    modules: the modules by their names; a module that is None is left out.
    """
    import torch

    digest = hashlib.sha256()
    for part, module in modules.items():
        for key, weight in sorted(_weights(module).items()) if module is not None else ():
            digest.update(f"{part}.{key} {tuple(weight.shape)} {weight.dtype}".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:DIGITS]


def _weights(module: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    weights = module.state_dict()
    if not any(weight.is_meta for weight in weights.values()):
        return weights
    from accelerate.utils.modeling import get_state_dict_offloaded_model

    offloaded: dict[str, torch.Tensor] = get_state_dict_offloaded_model(module)
    return offloaded


def versions() -> dict[str, Any]:
    """Versions of Python and of the libraries that decide results, and the git commit of a checkout."""
    libraries = ("psalign", "torch", "diffusers", "transformers", "accelerate", "numpy")
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return {"versions": found, "commit": _commit()}


def _commit() -> str | None:
    """Git commit of the checkout that this file is in (src/psalign/); None for an installed package."""
    git = Path(__file__).resolve().parents[2] / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        return (git / head.removeprefix("ref: ")).read_text(encoding="utf-8").strip() if "ref: " in head else head
    except OSError:
        return None
