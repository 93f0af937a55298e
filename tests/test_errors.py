import re

import pytest

from psalign import errors
from psalign.errors import ExtraMissing, PSAlignError, TrainingStopped, UsageError

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
