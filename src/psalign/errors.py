"""Every error PSAlign raises for a user's mistake, in one tree.

PSAlignError
├── UsageError          a wrong command, flag or preset name (exit status 2)
├── ProfileError        a users file or a profile field that cannot be read
├── LimitError          a limit in a person's own words that cannot be taken as it was given
├── UnknownUser         a user id that no profile or store has
├── EmbeddingMissing    a user without a vector
├── RecipeMismatch      vectors made another way than the adapter was trained with
├── TaxonomyMismatch    a data set, vectors or an adapter made with other categories than those in use
├── DatasetError        a broken metadata row, a missing or unreadable picture
├── CheckpointError     an adapter or training checkpoint that does not fit or cannot be read
├── GuardError          the adapted UNet was called in a way that could lose the user's limits
├── GenerationError     pictures that could not be made
├── OutputError         an output folder of another run, a full disk
├── EvaluationError     a metric asked over incomplete or unreadable inputs
├── TrainingError       a training step that cannot be trusted (a loss that is not finite)
├── TrainingStopped     a training run that was asked to end, and saved itself (exit status 143)
└── ExtraMissing        an optional library that is not installed

Messages say what was wrong and what was expected; `hint` is the next command to type.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


class PSAlignError(Exception):
    """Base of all errors that a user can mend; the command line prints them without a traceback."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n{self.hint}" if self.hint else message


def one_line(err: BaseException) -> str:
    """An error and its hint, for a table or a list."""
    return " ".join(str(err).split())


def some_of(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, for a message: "a, b, c and 4 more"."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def listed(heading: str, faults: Sequence[str], most: int = 5) -> str:
    """A heading, and a line for each of the first faults."""
    more = [f"and {len(faults) - most} more"] if len(faults) > most else []
    return "\n  ".join([heading, *faults[:most], *more])


OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "alloc_failed")  # the last is of cuBLAS and cuDNN
MOST_SAID = 300  # letters of what a library said
OF_PYTHON = (AttributeError, IndexError, NameError, TypeError)  # a library took a file for something else


def is_out_of_memory(err: BaseException) -> bool:
    """Whether a library says that memory is used up: never a fault of the file that it was reading."""
    return isinstance(err, MemoryError) or any(words in str(err).lower() for words in OUT_OF_MEMORY)


def release(err: BaseException) -> None:
    """Drop the local variables of the calls that an error left: they hold tensors. Its places in the code stay."""
    one: BaseException | None = err
    while one is not None:
        traceback.clear_frames(one.__traceback__)
        one = one.__cause__ or one.__context__


def reason_of(err: BaseException) -> str:
    """What a library said, in one line, for a message of ours; never empty."""
    if isinstance(err, RecursionError):
        return "it is nested too deeply"
    if isinstance(err, UnicodeDecodeError):
        return f"not UTF-8 text (byte {err.start})"
    if isinstance(err, json.JSONDecodeError):
        return f"not JSON ({err.msg} at line {err.lineno}, column {err.colno})"
    if isinstance(err, OSError) and err.strerror:
        return f"{err.strerror}: {err.filename}" if err.filename else err.strerror
    if isinstance(err, KeyError) and err.args and isinstance(err.args[0], str):
        return f"it has no {err.args[0]!r}" if " " not in err.args[0] else err.args[0][:MOST_SAID]
    lines = [" ".join(line.split()) for line in str(err).splitlines() if line.strip()]
    said = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    if said and isinstance(err, OF_PYTHON):
        return f"it is not built as expected ({said[:MOST_SAID]})"
    return said[:MOST_SAID] or f"the library says no more than {type(err).__name__}"


@contextmanager
def library_errors(fault: Callable[..., PSAlignError], what: str, *, hint: str | None = None) -> Iterator[None]:
    """Within it, whatever a library raises over a damaged or foreign file is raised as an error of ours.

    fault: the error to raise; what: which file, and what cannot be done with it: "a.bin cannot be read".
    An error of ours passes, and so does memory that is used up. Put nothing within it but the library's own calls.
    """
    try:
        yield
    except PSAlignError:
        raise
    except Exception as err:  # torch, transformers, diffusers, numpy and pickle raise nearly anything
        if is_out_of_memory(err):
            raise
        raise fault(f"{what}: {reason_of(err).rstrip('.')}.", hint=hint) from err


class UsageError(PSAlignError):
    exit_status = 2


class ProfileError(PSAlignError): ...


class LimitError(PSAlignError):
    """The message never repeats what the person wrote: it may be about health or belief."""


class UnknownUser(PSAlignError): ...


class EmbeddingMissing(PSAlignError): ...


class RecipeMismatch(PSAlignError): ...


class TaxonomyMismatch(PSAlignError): ...


class DatasetError(PSAlignError): ...


class CheckpointError(PSAlignError): ...


class GuardError(PSAlignError): ...


class GenerationError(PSAlignError): ...


class OutputError(PSAlignError): ...


class EvaluationError(PSAlignError): ...


class TrainingError(PSAlignError): ...


class TrainingStopped(PSAlignError):
    exit_status = 143


class ExtraMissing(PSAlignError):
    """An optional library is missing; `extra` is the pip extra that brings it."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f"{library} is not installed; it comes with the extra '{extra}'.",
            hint=f"Run: pip install 'psalign[{extra}]'",
        )
