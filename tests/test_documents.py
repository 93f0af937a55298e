"""Documents: short lines, links that lead somewhere, and commands of the command line as it is."""

import re
import shlex
from pathlib import Path

import pytest

from psalign import cli
from psalign.cli.completion import table
from test_architecture import GROUND, MAY_IMPORT

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "data", "trained_models", "benchmarks", "integrations/comfyui")
PAGES = sorted([*ROOT.glob("*.md"), *(path for name in FOLDERS for path in (ROOT / name).glob("*.md"))])
WIDTH = 110
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMANDS = dict(table(cli._parser()))  # "eval run" -> its flags, "eval" -> its commands
ANYWHERE = {"--help", "--taxonomy", "--quiet"}


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def lines_outside_code(text):
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside:
            yield number, line


def anchor(heading):
    """As GitHub makes it: lower case, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page):
    lines = [line for _, line in lines_outside_code(page.read_text(encoding="utf-8"))]
    return {anchor(line.lstrip("#")) for line in lines if re.match(r"#+ ", line)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_are_short(page):
    """Tables, pictures and the targets of links may be longer."""
    lines = lines_outside_code(page.read_text(encoding="utf-8"))
    prose = [(number, LINK.sub("]", line)) for number, line in lines if not line.lstrip().startswith(("|", "!["))]
    long = [number for number, line in prose if len(re.sub(r"https?://\S+", "", line)) > WIDTH]
    assert not long, f"{name_of(page)}: lines {long} have more than {WIDTH} characters"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = "\n".join(line for _, line in lines_outside_code(page.read_text(encoding="utf-8")))
    for link in LINK.findall(text):
        if "://" in link:
            continue
        path, _, place = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)}: {link}"
        assert not place or place in anchors(target), f"{name_of(page)}: {link}"


def commands_of(text):
    """Every `psalign ...` of blocks of code and of code inside a line."""
    blocks = re.findall(r"^ *```(?:console|bash)?\n(.*?)^ *```$", text, re.S | re.M)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.S | re.M)
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    for line in lines:
        found = re.search(r"(?:^|[ =])psalign ((?:--)?[a-z].*)", line)
        if found and "Error:" not in line and "(psalign" not in line:
            yield found[1]


def fault(command):
    """What of a command there is not: the first word or flag that the command line does not know, or None."""
    command = re.sub(r"[<>|;&].*| \.\.\..*|#.*", "", re.sub(r"<\w+>", "X", command)).replace("[", "").replace("]", "")
    words = shlex.split(command)
    if words[:1] == ["--taxonomy"]:
        words = words[2:]
    path = ""
    while words and words[0] in COMMANDS[path] and not words[0].startswith("-"):
        path = f"{path} {words.pop(0)}".strip()
    is_group = any(name.startswith(f"{path} ") for name in COMMANDS) or not path
    if is_group and words and not words[0].startswith("-") and not words[0].isupper():
        return words[0].rstrip(",")
    flags = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
    return next(iter(sorted(flags - set(COMMANDS[path]) - ANYWHERE)), None)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_flags_exist(page):
    wrong = [(command, fault(command)) for command in commands_of(page.read_text(encoding="utf-8"))]
    wrong = [f"{seen} in: psalign {command}" for command, seen in wrong if seen]
    assert not wrong, "\n".join([name_of(page), *wrong])


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_room_of_the_package_is_in_the_architecture():
    page = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    rooms = [path.stem for path in (ROOT / "src/psalign").iterdir() if not path.name.startswith(("_", ".", "py."))]
    assert [room for room in sorted(rooms) if f"`{room}`" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_source_files_that_a_page_names_exist(page):
    named = re.findall(r"`(?:python )?(\w+/[\w/]+\.py)\b", page.read_text(encoding="utf-8"))
    assert [name for name in named if not any((ROOT / top / name).is_file() for top in (".", "src/psalign"))] == []


def test_the_table_of_rooms_is_the_one_that_is_enforced():
    page = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    before, rows = page.split("\n## Rooms and their imports\n")[1].split("\n| room | holds | may import |\n")
    assert set(re.findall(r"`(\w+)`", before)) >= GROUND
    found = dict(re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", rows, re.M))
    named = {room: set(re.findall(r"`([\w.]+)`", cell)) for room, cell in found.items()}
    for room in found.keys() - {"quickstart", "cli"}:  # these import everything
        assert named[room] == MAY_IMPORT[room], room


def test_a_walk_has_at_most_eight_stops():
    page = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    walk = page.split("\n## A walk for the reader\n")[1].split("\n## ")[0]
    ways = re.split(r"^\*\*", walk, flags=re.M)[1:]
    assert [way.split("'s way**")[0] for way in ways] == ["A prompt", "A user", "A pair", "A judgement"]
    assert all(1 <= len(re.findall(r"^\d\. `", way, re.M)) <= 8 for way in ways)
