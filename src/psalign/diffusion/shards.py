"""This process among those that `accelerate launch` started, and what they send each other.

Place on the path of data: under steps 4 to 6. Each process takes its share of a training step or of the pictures; the
first claims the folder and writes the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch

from ..errors import UsageError

T = TypeVar("T")

PATIENCE = timedelta(days=30)  # shares differ: a share that is on disk already must not give up on one that is not


class Shard:
    """One of `count` processes, number `index`; alone where nothing started more.

    device: where it draws: this process's own GPU (the CPU where there is none), or what is given.
    Raises UsageError for a device that is not there.
    """

    def __init__(self, device: str | None = None) -> None:
        from accelerate import PartialState

        chosen = None if device is None else find_device(device)
        on_cpu = not torch.accelerator.is_available() if chosen is None else chosen.type == "cpu"
        # accelerate otherwise takes a process without an accelerator for one that is alone.
        self._state = PartialState(cpu=on_cpu, timeout=PATIENCE)
        self.index, self.count = self._state.process_index, self._state.num_processes
        own = torch.device("cpu") if self._state.device.type == "cpu" else self._state.device
        self.device = chosen or own

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def wait(self) -> None:
        """Until every process is here."""
        self._state.wait_for_everyone()

    def share(self, things: Sequence[T]) -> Sequence[T]:
        """Every count-th thing: no two processes have one in common, and together they have all."""
        return things[self.index :: self.count]

    def from_first(self, make: Callable[[], T]) -> T:
        """What make() gives in the first process, for all: it may be costly, and another chip may give other bits."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        made: list[T] = broadcast_object_list([make() if self.is_first else None])
        return made[0]

    def gather(self, things: list[T]) -> list[T]:
        """The things of all processes, once every one is here."""
        if self.count == 1:
            return things
        from accelerate.utils import gather_object

        return list(gather_object(things))

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sum of the tensors of all processes, for all."""
        if self.count == 1:
            return numbers
        from accelerate.utils import reduce

        summed: torch.Tensor = reduce(numbers, reduction="sum")
        return summed


def find_device(name: str) -> torch.device:
    """A device by its name, as cpu or cuda:1. Raises UsageError where there is none of it here."""
    there = ["cpu"] + [str(torch.accelerator.current_accelerator())] * torch.accelerator.is_available()
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    is_here = device is not None and device.type in there
    if (
        device is None
        or not is_here
        or (device.type != "cpu" and (device.index or 0) >= torch.accelerator.device_count())
    ):
        raise UsageError(f"There is no device '{name}' here; choose one of: {', '.join(there)}.")
    return device
