"""Who may import whom (docs/ARCHITECTURE.md), read from the imports themselves; rooms that do not exist are fine."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = SOURCE / "psalign"
FILES = sorted(PACKAGE.rglob("*.py"))

# Every room may import itself and GROUND. A name with a dot allows that module only.
GROUND = {
    "errors", "categories", "decoding", "files", "ids", "progress", "records", "config", "llm", "downloads", "tensors",
    "locks", "tables", "fingerprints", "processes",
}  # fmt: skip
ROOMS = {"users", "adapter", "diffusion", "mini", "sage", "training", "baselines", "evaluation", "benchmark"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "ids": set(),
    "decoding": set(),
    "files": {"errors"},
    "fingerprints": set(),
    "locks": {"errors", "files"},
    "tables": {"errors", "files", "ids"},
    "processes": set(),
    "progress": set(),
    "tensors": {"errors"},
    "downloads": set(),
    "categories": {"errors", "files", "ids"},
    "records": {"categories", "errors", "files", "ids"},
    "config": {"errors", "files", "records"},
    "llm": {"errors", "files", "records"},
    "users": set(),
    "adapter": set(),
    "sage": set(),
    "diffusion": {"adapter"},
    "baselines": {
        "adapter.text",
        "diffusion",
        "sage",
        "training.checkpoints",
        "training.log",
        "training.loss",
        "training.schedule",
    },
    "mini": {"diffusion", "sage", "users"},
    "training": {"adapter", "diffusion", "sage", "users.store", "users.vectors"},
    "evaluation": {"users.profile"},
    "benchmark": {"adapter", "baselines", "diffusion", "evaluation", "mini", "sage", "users"},
    "redteam": {"adapter", "baselines", "benchmark", "diffusion", "evaluation", "mini", "users"},
    "embed": {"sage", "users"},
    "folding": {"adapter", "users"},
    "from_published": {"before_after", "diffusion", "embed", "sage", "users"},
    "before_after": {"benchmark", "diffusion", "evaluation", "sage", "users"},
    "quickstart": ROOMS | {"before_after", "embed", "quickstart_sheet"},
    "quickstart_sheet": {"adapter", "before_after", "benchmark", "diffusion", "evaluation", "mini", "users"},
    "leaderboard": ROOMS | {"quickstart", "redteam"},
    "serve": ROOMS,
    "cli": ROOMS
    | {"before_after", "embed", "folding", "from_published", "leaderboard", "quickstart", "redteam", "serve"},
    "__main__": {"cli"},
    "__init__": ROOMS,
}
LIGHT = (
    "__init__",
    "categories",
    "errors",
    "files",
    "fingerprints",
    "ids",
    "locks",
    "progress",
    "records",
    "tables",
    "config",
    "cli",
    "users",
)  # load without HEAVY
HEAVY = {
    "accelerate", "cryptography", "datasets", "diffusers", "fastapi", "gradio", "huggingface_hub", "matplotlib",
    "openai", "PIL", "prometheus_client", "ray", "requests", "scipy", "sklearn", "sqlalchemy", "torch", "torchvision",
    "transformers", "uvicorn",
}  # fmt: skip
OPTIONAL = {"bitsandbytes", "clean_fid", "nudenet", "open_clip", "openai", "pytorch_fid", "sklearn", "torch_fidelity",
            "torchmetrics", "torchvision", "xformers"}  # fmt: skip
CALLS_AT_IMPORT = {"basicConfig", "open", "read_text", "read_bytes", "write_text", "mkdir", "urlopen", "download",
                   "from_pretrained", "hf_hub_download", "load_dataset", "manual_seed", "set_num_threads"}  # fmt: skip


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(module: str) -> str:
    """First part of a module's name inside the package: "users.profile" -> "users"."""
    return module.split(".")[0] or "__init__"


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def statements(tree: ast.AST, *, at_import: bool) -> Iterator[ast.AST]:
    """All nodes; with at_import, only those that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from statements(node, at_import=at_import)


def imported(path: Path, tree: ast.AST, *, at_import: bool = False) -> Iterator[str]:
    """Absolute names of what a file imports, `from a import b` as "a.b"."""
    package = ("psalign", *path.relative_to(PACKAGE).parts[:-1])
    for node in statements(tree, at_import=at_import):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def forbidden_imports(path: Path, tree: ast.AST) -> list[str]:
    room = room_of(module_of(path))
    assert room in MAY_IMPORT, f"{name_of(path)}: give the room {room!r} its line in MAY_IMPORT"
    allowed = MAY_IMPORT[room] | {room} | (GROUND if room not in GROUND else set())
    inside = [name.removeprefix("psalign.") for name in imported(path, tree) if name.split(".")[0] == "psalign"]
    wrong = []
    for name in inside:
        is_own_name = not (PACKAGE / name.split(".")[0]).is_dir() and not (PACKAGE / f"{room_of(name)}.py").is_file()
        fits = any(name == target or name.startswith(f"{target}.") for target in allowed)
        if not fits and not is_own_name and name != "psalign":
            wrong.append(name)
    return wrong


def test_rooms_import_only_what_they_may():
    found = {name_of(path): forbidden_imports(path, tree_of(path)) for path in FILES}
    wrong = [f"{name} may not import {', '.join(names)}" for name, names in found.items() if names]
    assert len(found) > 200
    assert not wrong, "\n".join(wrong)


def defined(tree: ast.Module) -> set[str]:
    """Names that a module makes itself, wherever in it; not those that it imports."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


@cache
def made_in(module: str) -> set[str]:
    return defined(tree_of(PACKAGE / f"{module}.py"))


def taken_from_elsewhere(path: Path) -> list[str]:
    """What a file imports from a module of GROUND that only imports it itself."""
    tree = tree_of(path)
    wrong = []
    for name in imported(path, tree) if path.is_relative_to(PACKAGE) else _absolute(tree):
        module, _, what = name.rpartition(".")
        home = module.removeprefix("psalign.")
        if module != home and home in GROUND:
            wrong += [name] * (what not in made_in(home))
    return wrong


def _absolute(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_what_is_open_to_every_room_is_imported_from_its_one_home():
    roots = [SOURCE.parent / name for name in ("src", "tests", "benchmarks", "utils", "evaluation", "integrations")]
    files = [path for root in roots for path in sorted(root.rglob("*.py"))]
    wrong = [f"{path.relative_to(SOURCE.parent)}: {name}" for path in files for name in taken_from_elsewhere(path)]
    assert not wrong, "\n".join(wrong)


def circles(room: str) -> list[list[str]]:
    """Circles of imports among a room's modules, type-checking imports too, each from its first module by name."""
    files = {}
    for path in (PACKAGE / room).rglob("*.py"):
        parts = path.relative_to(PACKAGE / room).with_suffix("").parts
        if parts[-1] != "__init__":
            files[".".join(parts)] = path
    edges: dict[str, set[str]] = {}
    for module, path in files.items():
        inside = f"psalign.{room}."
        names = imported(path, tree_of(path))
        named = [name.removeprefix(inside) for name in names if name.startswith(inside)]
        edges[module] = {known for known in files for name in named if name == known or name.startswith(f"{known}.")}
    found: list[list[str]] = []

    def walk(trail: list[str]) -> None:
        for following in sorted(edges[trail[-1]]):
            if following == trail[0]:
                found.append(trail)
            elif following > trail[0] and following not in trail:
                walk([*trail, following])

    for module in sorted(files):
        walk([module])
    return found


@pytest.mark.parametrize("room", ["adapter", "benchmark", "evaluation", "training", "baselines", "mini", "users"])
def test_no_circle_of_imports(room):
    assert circles(room) == []


def test_circles_are_found(tmp_path, monkeypatch):
    (tmp_path / "room").mkdir()
    for name, text in {
        "a": "from .b import x",
        "b": "def f():\n    from .c import y",
        "c": "from . import a, d",
    }.items():
        (tmp_path / f"room/{name}.py").write_text(text)
    (tmp_path / "room/d.py").write_text("from ..errors import z")
    monkeypatch.setitem(circles.__globals__, "PACKAGE", tmp_path)
    assert circles("room") == [["a", "b", "c"]]


def banned_at_the_top(path: Path, tree: ast.Module) -> set[str]:
    """Optional libraries, and heavy ones of a light room, that a file imports when it is imported."""
    banned = OPTIONAL | (HEAVY if room_of(module_of(path)) in LIGHT else set())
    return banned & {name.split(".")[0] for name in imported(path, tree, at_import=True)}


def test_optional_libraries_are_imported_inside_functions():
    found = {name_of(path): banned_at_the_top(path, tree_of(path)) for path in FILES}
    wrong = [f"{name} imports {', '.join(sorted(names))} at its top" for name, names in found.items() if names]
    assert not wrong, "\n".join(wrong)


def calls_at_import(tree: ast.Module) -> set[str]:
    """Which of CALLS_AT_IMPORT a module makes when it is imported, but not when it is the program."""
    parts = [n for n in tree.body if not (isinstance(n, ast.If) and "__name__" in ast.unparse(n.test))]
    nodes = statements(ast.Module(parts, []), at_import=True)
    return CALLS_AT_IMPORT & {ast.unparse(node.func).split(".")[-1] for node in nodes if isinstance(node, ast.Call)}


def test_nothing_is_read_fetched_or_set_up_at_import():
    found = {name_of(path): calls_at_import(tree_of(path)) for path in FILES}
    wrong = [f"{name} calls {', '.join(sorted(calls))} at import" for name, calls in found.items() if calls]
    assert not wrong, "\n".join(wrong)


def test_the_readers_of_the_top_of_a_module_see_what_they_should():
    top = ast.parse("import torch, nudenet\nopen('a')\nif __name__ == '__main__':\n    print(open('b'))")
    inside = ast.parse("def f():\n    import torch, nudenet\n    open('a')\nif __name__ == '__main__':\n    open('b')")
    assert banned_at_the_top(PACKAGE / "users/policy.py", top) == {"torch", "nudenet"}
    assert banned_at_the_top(PACKAGE / "training/trainer.py", top) == {"nudenet"}
    assert calls_at_import(top) == {"open"}
    assert banned_at_the_top(PACKAGE / "users/policy.py", inside) == calls_at_import(inside) == set()


@pytest.mark.parametrize(
    ("file", "line", "wrong"),
    [
        ("users/policy.py", "from ..adapter import adapter", ["adapter.adapter"]),
        ("users/policy.py", "def f():\n    import psalign.diffusion.generate", ["diffusion.generate"]),
        ("users/policy.py", "from ..categories import category_names\nfrom .profile import UserProfile", []),
        ("adapter/adapter.py", "from ..users.profile import UserProfile", ["users.profile.UserProfile"]),
        ("training/trainer.py", "from ..users.store import EmbeddingStore\nfrom ..users import vectors", []),
        ("training/trainer.py", "from ..users import UserProfile", ["users.UserProfile"]),
        ("evaluation/pictures.py", "from ..users import policy", ["users.policy"]),
        ("evaluation/pictures.py", "from psalign import adapter", ["adapter"]),
        ("users/policy.py", "from .. import cli", ["cli"]),
        ("serve/api.py", "from ..quickstart import run", ["quickstart.run"]),
        ("quickstart.py", "from .mini import world", []),
        ("cli/path.py", "from ..quickstart import run\nfrom .. import __version__", []),
        ("errors.py", "from .records import Rate", ["records.Rate"]),
    ],
)
def test_the_reader_of_imports_sees_what_it_should(file, line, wrong, monkeypatch):
    rooms_there = {
        "is_dir": lambda self: self.name in ROOMS | {"serve"},
        "is_file": lambda self: self.stem in MAY_IMPORT,
    }
    for name, answer in rooms_there.items():
        monkeypatch.setattr(type(PACKAGE), name, answer)
    assert forbidden_imports(PACKAGE / file, ast.parse(line)) == wrong


@pytest.mark.parametrize("module", ["psalign", "psalign.records", "psalign.users", "psalign.cli"])
def test_light_modules_load_without_heavy_libraries(module):
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
