"""PSAlign: text-to-image diffusion that keeps to each user's own safety limits.

The path of data is drawn in docs/ARCHITECTURE.md. Importing this package loads neither torch nor diffusers.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapter.attach import load_psa_adapter

__all__ = ["__version__", "load_psa_adapter"]

try:
    __version__ = version("psalign")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0.0.0"


def __getattr__(name: str) -> Any:
    """load_psa_adapter, fetched when it is asked for: it needs torch."""
    if name != "load_psa_adapter":
        raise AttributeError(f"module 'psalign' has no attribute '{name}'")
    from .adapter.attach import load_psa_adapter

    return load_psa_adapter
