import json
import re

import pytest

from psalign import errors
from psalign.errors import (
    CheckpointError,
    ExtraMissing,
    PSAlignError,
    TrainingStopped,
    UsageError,
    library_errors,
    reason_of,
)

TREE = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


def test_the_drawing_names_every_error():
    drawn = re.findall(r"^(?:[├└]── )?(\w+)(?:  .*)?$", errors.__doc__, re.MULTILINE)
    assert sorted(drawn) == sorted(error.__name__ for error in TREE)


@pytest.mark.parametrize("error", TREE)
def test_every_error_hangs_on_the_root(error):
    assert issubclass(error, PSAlignError)
    assert error.exit_status == {UsageError: 2, TrainingStopped: 143}.get(error, 1)


def test_the_hint_is_the_last_line():
    assert str(UsageError("No preset 'sd99'.")) == "No preset 'sd99'."
    error = UsageError("No preset 'sd99'.", hint="Run: psalign --help")
    assert str(error) == "No preset 'sd99'.\nRun: psalign --help"
    assert error.hint == "Run: psalign --help"


def test_a_missing_extra_names_the_command_that_brings_it():
    assert str(ExtraMissing("nudenet", "metrics")) == (
        "nudenet is not installed; it comes with the extra 'metrics'.\nRun: pip install 'psalign[metrics]'"
    )


def test_what_a_library_said_is_never_empty():
    for err in (EOFError(), ValueError(""), ValueError("\n \n"), KeyError()):
        assert reason_of(err) == f"the library says no more than {type(err).__name__}"
    assert reason_of(ValueError("\n\nsecond line\nthird")) == "second line"
    assert reason_of(RuntimeError("Error(s) in loading:\n\tsize mismatch for a\n\tfor b")) == (
        "Error(s) in loading: size mismatch for a"
    )
    assert reason_of(KeyError("weight_map")) == "it has no 'weight_map'"
    assert reason_of(AttributeError("'list' object has no attribute 'get'")).startswith("it is not built as expected")
    assert reason_of(PermissionError(13, "Permission denied", "a.png")) == "Permission denied: a.png"
    assert reason_of(RecursionError("maximum depth")) == "it is nested too deeply"
    assert len(reason_of(ValueError("a" * 5000))) == 300
    with pytest.raises(json.JSONDecodeError) as raised:
        json.loads("{")
    assert reason_of(raised.value).startswith("not JSON (")


def test_errors_of_a_library_become_ours_and_others_pass():
    expected = r"^a\.bin cannot be read: no such key\.\nFetch it again\.$"
    ours = library_errors(CheckpointError, "a.bin cannot be read", hint="Fetch it again.")
    with pytest.raises(CheckpointError, match=expected), ours:
        raise LookupError("no such key.")
    for passing in (UsageError("ours"), MemoryError(), RuntimeError("CUDA out of memory"), KeyboardInterrupt()):
        with pytest.raises(type(passing)) as raised, library_errors(CheckpointError, "a.bin cannot be read"):
            raise passing
        assert raised.value is passing
