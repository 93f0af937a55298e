"""The command `completion`: a script that makes a shell complete commands, flags and choices."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from .options import command

# In bash and zsh: the words so far without flags name a command; what may come next is in the table.
BASH = """\
_psalign() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} path= i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in -*) break ;; *) path="$path ${{COMP_WORDS[i]}}" ;; esac
    done
    local words=
    while [ -z "$words" ]; do
        case "${{path# }}" in
{table}
        esac
        [ -n "$path" ] || break
        path=${{path% *}}
    done
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o bashdefault -o default -F _psalign psalign
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def completion(arguments: argparse.Namespace) -> None:
    from . import _parser

    words = dict(table(_parser()))
    if arguments.shell == "fish":
        print("complete -c psalign -e")
        for path, choices in words.items():
            inside = "".join(f"; and __fish_seen_subcommand_from {word}" for word in path.split())
            for choice in choices:
                flag = f"-l {choice[2:]}" if choice.startswith("--") else f"-f -a {choice}"
                print(f"complete -c psalign -n 'true{inside}' {flag}")
        return
    rows = "\n".join(f'            "{path}") words="{" ".join(choices)}" ;;' for path, choices in words.items())
    print((ZSH if arguments.shell == "zsh" else "") + BASH.format(table=rows), end="")


def table(parser: argparse.ArgumentParser, path: str = "") -> Iterator[tuple[str, list[str]]]:
    """What may come after each command: its commands, or its flags."""
    commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    flags = [flag for flag in parser._option_string_actions if flag.startswith("--")]
    yield path, [*(name for action in commands for name in action.choices), *flags]
    for action in commands:
        for name, inside in action.choices.items():
            yield from table(inside, f"{path} {name}".strip())


def add_commands(groups: Any) -> None:
    one = command(groups, "completion", completion, "print a script that completes commands and flags in your shell",
                  "psalign completion bash >> ~/.bashrc")  # fmt: skip
    one.add_argument("shell", choices=("bash", "zsh", "fish"))
