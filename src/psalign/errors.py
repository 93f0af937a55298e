"""Every error PSAlign raises for a user's mistake, in one tree.

PSAlignError
├── UsageError          a wrong command, flag or preset name (exit status 2)
├── ProfileError        a users file or a profile field that cannot be read
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
├── TrainingStopped     a training run that was told to end, and saved itself (exit status 143)
└── ExtraMissing        an optional library that is not installed

Messages say what was wrong and what was expected; `hint` is the next command to type.
"""

from __future__ import annotations


class PSAlignError(Exception):
    """Base of all errors that a user can mend; the command line prints them without a traceback."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n{self.hint}" if self.hint else message


def reason_of(err: BaseException) -> str:
    """First line of what a library said, or the kind of error where it said nothing: for a message of ours."""
    return next(iter(str(err).splitlines()), "") or type(err).__name__


class UsageError(PSAlignError):
    exit_status = 2


class ProfileError(PSAlignError): ...


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
