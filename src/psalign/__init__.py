"""PSAlign: text-to-image diffusion that keeps to each user's own safety limits.

The path of data is drawn in docs/ARCHITECTURE.md. Importing this package loads neither torch nor diffusers.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("psalign")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0.0.0"
