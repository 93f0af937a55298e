"""The part of a job that one of several processes does.

Place on the path of data: under the makers of datasets and caches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """Every count-th piece of work, from number `index`. wait: returns once all processes have called it."""

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None
