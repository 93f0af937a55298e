"""docs/API.md names every parameter of what it documents."""

import inspect
import re
from pathlib import Path

import pytest

import psalign
from psalign.adapter.guard import AttachedAdapter
from psalign.adapter.prompt import PromptAdapter
from psalign.adapter.published import PublishedAdapter
from psalign.adapter.states import rewrite_states

PAGE = (Path(__file__).parents[1] / "docs/API.md").read_text(encoding="utf-8")
SECTIONS = {
    "## `psalign.load_psa_adapter`": psalign.load_psa_adapter,
    "### `encode`": AttachedAdapter.encode,
    "### `rewrite`": AttachedAdapter.rewrite,
    "### `rewrite_states`": rewrite_states,
    "### `PromptAdapter`": PromptAdapter.__init__,
    "### `PublishedAdapter`": PublishedAdapter.__init__,
}


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_page_has_every_parameter_and_no_other(heading):
    section = PAGE.split(f"\n{heading}\n")[1].split("\n#")[0]
    first_cells = re.findall(r"^\| (`.+?) \|", section, re.M)
    named = [name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)]
    assert named == [name for name in inspect.signature(SECTIONS[heading]).parameters if name != "self"]


def test_every_public_method_of_an_attached_adapter_is_there():
    methods = [name for name, _ in inspect.getmembers(AttachedAdapter, inspect.isfunction) if not name.startswith("_")]
    assert [name for name in methods if f"`{name}`" not in PAGE and f"psa.{name}(" not in PAGE] == []


def test_unknown_names_of_the_package():
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        psalign.magic  # noqa: B018
