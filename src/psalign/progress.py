"""Progress of long work on stderr: a bar on a terminal, a line each minute elsewhere, nothing with --quiet.

Place on the path of data: beside all of it.
"""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

LINE_EVERY_S = 60.0

_quiet = False


def set_quiet(quiet: bool) -> None:
    """Switch all progress off or on."""
    global _quiet
    _quiet = quiet


def bars_are_shown() -> bool:
    return not _quiet and sys.stderr is not None and sys.stderr.isatty()


def hide_library_bars() -> None:
    """Switch off the bars of diffusers and transformers where ours are not shown."""
    if bars_are_shown():
        return
    for name in ("diffusers", "transformers"):
        if name in sys.modules:
            sys.modules[name].utils.logging.disable_progress_bar()


class Progress(tqdm):  # type: ignore[type-arg]
    """tqdm's bar. Where stderr is not a terminal, it prints a line each minute, the first after a minute."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.in_lines = not bars_are_shown()
        if self.in_lines:
            slow = {"mininterval": LINE_EVERY_S, "maxinterval": LINE_EVERY_S, "delay": LINE_EVERY_S, "ascii": True}
            settings |= {**slow, "disable": settings.get("disable", False) or _quiet}
        super().__init__(*arguments, **settings)

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        if not self.in_lines:
            return super().display(msg, pos)
        self.fp.write(f"{self}\n")
        return True

    def close(self) -> None:
        if self.in_lines and not self.disable:
            self.disable = True  # no last line: the command prints its result
            self._decr_instances(self)  # type: ignore[attr-defined]
        super().close()
