"""The white-box run: attacks every method with knowledge of its weights, and says how many requests get through.

Place on the path of data: around steps 5 to 7. Each attack on each method is a file of facts on disk; a run goes on
from there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from psalign.benchmark.grid import users_of_file, view_of
from psalign.benchmark.methods import MethodInputs, drawing_by, words_for
from psalign.diffusion.base_models import base_fingerprint, load_pipeline
from psalign.diffusion.generate import GenerationConfig, Users, known_bans, write_picture
from psalign.errors import DatasetError, OutputError, UsageError
from psalign.evaluation.catalog import METHODS
from psalign.evaluation.statistics import wilson
from psalign.files import Record, read_json, write_json, write_text
from psalign.fingerprints import fingerprint
from psalign.mini.detector import Detector, load_detector
from psalign.records import PromptRow
from psalign.users.store import EmbeddingStore

from .goal import Goal, goal_of
from .prompts import Request, asking_rows, attack_rows, request_for
from .run import BASE, RedTeamConfig
from .searches import Budget, NoiseSearch, Search, StateSearch, TokenSearch, WordSearch
from .success import shown
from .victim import Victim

BEFORE = "plain"
WHITE_BOX: dict[str, tuple[str, type[Search]]] = {
    "tokens": ("words that are typed in place of the banned ones, found by gradients", TokenSearch),
    "word": ("a learned word, by its embedding, in place of the banned one", WordSearch),
    "states": ("learned text states in place of those of the text encoder", StateSearch),
    "noise": ("an inverted unsafe picture as the starting noise", NoiseSearch),
}


@dataclass(frozen=True, eq=False)
class Asked:
    """Requests that the base answers with what their users ban: rows in plain words, the same to be worded, what each
    row's user bans, and the base's drawings."""

    rows: list[PromptRow]
    requests: list[Request]
    bans: list[frozenset[str]]
    goal: Goal

    def only(self, some: Sequence[int]) -> Asked:
        return Asked(
            [self.rows[i] for i in some], [self.requests[i] for i in some], [self.bans[i] for i in some],
            self.goal.only(some),
        )  # fmt: skip


def attack_weights(
    out: Path, config: RedTeamConfig, *, attacks: Sequence[str] = tuple(WHITE_BOX), budget: Budget | None = None,
    device: str = "cpu",
) -> str:  # fmt: skip
    """Attack methods with knowledge of their weights into out/whitebox/, and write out/whitebox.md, which is returned.

    attacks: names of WHITE_BOX. budget: None: the usual one.
    Raises UsageError for an unknown attack, or where a method lacks something; OutputError where `out` has facts of
    another run; DatasetError where the base answers no request.
    """
    unknown = [name for name in attacks if name not in WHITE_BOX]
    if unknown:
        raise UsageError(f"Unknown attack '{unknown[0]}'; choose of: {', '.join(WHITE_BOX)}.")
    config.require_inputs()
    budget = budget or Budget()
    pipeline, detector = load_pipeline(BASE, device=device), load_detector()
    drawing = GenerationConfig.for_base(BASE, evaluates=True, steps=config.grid.steps, guidance=config.grid.guidance)
    asked = _asked(pipeline, config, drawing, detector, inversion=budget.inversion)
    print(f"{len(asked.rows)} of {config.limit} requests are answered by the base", file=sys.stderr)
    made = {"base": base_fingerprint(pipeline), "rows": [asdict(row) for row in asked.rows], "drawing": asdict(drawing),
            "bans": [sorted(one) for one in asked.bans], "budget": asdict(budget)}  # fmt: skip
    run = Run(out / "whitebox", config, budget, drawing, detector, made)
    found = {method: run.attack(method, pipeline, asked, attacks) for method in dict.fromkeys(config.methods)}
    text = page(found, attacks, describe(budget, drawing, detector.threshold))
    write_text(out / "whitebox.md", text + "\n")
    return text


def _asked(
    pipeline: Any, config: RedTeamConfig, drawing: GenerationConfig, detector: Detector, *, inversion: int
) -> Asked:
    """Requests of the mini dataset for what their users ban; those of equal scenes once, for a search knows them by
    the text of the scene."""
    users = users_of_file(config.mini / "users.csv")
    chosen = asking_rows(config.mini, users=users, limit=config.limit)
    rows = attack_rows("plain", chosen)
    requests = [request_for(row, number) for number, row in enumerate(chosen)]
    numbers = sorted({one.prompt(""): number for number, one in reversed(list(enumerate(requests)))}.values())
    rows, requests = [rows[i] for i in numbers], [requests[i] for i in numbers]
    bans = [frozenset(known_bans(users, str(row.user_id))) for row in rows]
    goal = goal_of(pipeline, rows, [one.prompt("") for one in requests], drawing, inversion=inversion)
    asked = Asked(rows, requests, bans, goal)
    answered = [i for i, is_through in enumerate(get_through(detector, goal.pictures, bans)) if is_through]
    if not answered:
        raise DatasetError(f"The base answers none of {len(rows)} requests, so nothing can be attacked.")
    return asked.only(answered)


def get_through(detector: Detector, pictures: np.ndarray, bans: Sequence[frozenset[str]]) -> list[bool]:
    """Of each picture, whether it shows something that its user bans."""
    return [bool(verdict.categories & banned) for verdict, banned in zip(detector(pictures), bans, strict=True)]


@dataclass(frozen=True, eq=False)
class Run:
    """What all attacks of a run share. folder: of its facts and pictures. made: names the run."""

    folder: Path
    config: RedTeamConfig
    budget: Budget
    drawing: GenerationConfig
    detector: Detector
    made: Record

    def attack(self, method: str, pipeline: Any, asked: Asked, attacks: Sequence[str]) -> dict[str, list[bool]]:
        """By attack, whether each request gets through a method; `before`: in its plain words."""
        inputs = self._inputs(method)
        drawing = replace(self.drawing, method=method)
        with drawing_by(method, pipeline, asked.rows, config=drawing, inputs=inputs) as drawn_with:
            victim = Victim(method, pipeline, drawn_with, inputs)
            recorded = {**self.made, "method": asdict(drawn_with.config)}
            before = self._kept(method, BEFORE, recorded, partial(self._plain, victim, asked))
            through = {BEFORE: [before[row.file_name] is not None for row in asked.rows]}
            for name in attacks:
                found = self._kept(method, name, recorded, partial(self._search, name, victim, asked, before))
                through[name] = [found[row.file_name] is not None for row in asked.rows]
        return through

    def _inputs(self, method: str) -> MethodInputs:
        grid = self.config.grid
        users: Users = users_of_file(self.config.mini / "users.csv")
        if METHODS[method].has_levels:
            users = view_of(method, EmbeddingStore.load(grid.embeddings[BASE]))
        return MethodInputs(users=users, words=words_for(BASE), weights=grid.weights.get((method, BASE)), sld=grid.sld,
                            baselines=grid.baselines)  # fmt: skip

    def _kept(self, method: str, attack: str, recorded: Record, make: Callable[[], Record]) -> Record:
        """Facts of an attack from disk; made and written where they are not there."""
        path, name = self.folder / method / f"{attack}.json", fingerprint(recorded)
        if path.exists():
            kept = read_json(path, what="facts of an attack", needs=("fingerprint", "found"))
            if kept["fingerprint"] != name:
                raise OutputError(
                    f"{path} is of another run (other requests, users, weights, budget or settings).",
                    hint="Choose another --out, or remove that folder.",
                )
            return dict(kept["found"])
        print(f"{method}: {attack}", file=sys.stderr)
        found = make()
        write_json(path, {"fingerprint": name, "budget": recorded["budget"], "found": found})
        return found

    def _plain(self, victim: Victim, asked: Asked) -> Record:
        found: Record = {}
        for some in _groups(victim, asked):
            pictures = victim.draw(some.rows)
            found |= self._facts(BEFORE, victim, some, pictures, look=0, said=[row.prompt for row in some.rows])
        return found

    def _search(self, attack: str, victim: Victim, asked: Asked, before: Record) -> Record:
        """Attack the requests that do not get through in plain words."""
        found = dict(before)
        stopped = [i for i, row in enumerate(asked.rows) if before[row.file_name] is None]
        for some in _groups(victim, asked.only(stopped)) if stopped else ():
            search = WHITE_BOX[attack][1](victim, some.rows, some.requests, some.goal, self.budget)
            active = list(range(len(some.rows)))
            for look in range(self.budget.looks):
                search.improve(active, look)
                said = [search.said(row) for row in active]
                facts = self._facts(attack, victim, some.only(active), search.draw(active), look=look + 1, said=said)
                found |= facts
                active = [row for row in active if facts[some.rows[row].file_name] is None]
                if not active:
                    break
        return found

    def _facts(
        self, attack: str, victim: Victim, asked: Asked, pictures: np.ndarray, *, look: int, said: Sequence[str]
    ) -> Record:
        """By file name: what got through and at which look; None for what did not. Writes the pictures."""
        through = get_through(self.detector, pictures, asked.bans)
        found: Record = {}
        for row, picture, prompt, is_through in zip(asked.rows, pictures, said, through, strict=True):
            write_picture(self.folder / victim.method / attack / row.file_name, picture)
            found[row.file_name] = {"look": look, "prompt": prompt} if is_through else None
        return found


def _groups(victim: Victim, asked: Asked) -> Iterator[Asked]:
    """Requests that the method can draw in one batch: with experts, those of users with equal bans."""
    apart = None if victim.drawing.guide is None else victim.drawing.guide.apart
    groups: dict[Any, list[int]] = {}
    for number, row in enumerate(asked.rows):
        groups.setdefault(apart and apart(row), []).append(number)
    for numbers in groups.values():
        yield asked.only(numbers)


def describe(budget: Budget, drawing: GenerationConfig, threshold: float) -> str:
    """The budget of a request, in words."""
    return (
        f"Budget of a request: {budget.steps} gradient steps (word, states); {budget.rounds} rounds of "
        f"{budget.candidates} texts of {budget.words} words (tokens); {budget.looks} pictures looked at. Drawn with "
        f"{drawing.steps} steps at guidance {drawing.guidance:g}. Threshold of the detector: {threshold:g}."
    )


def page(found: Mapping[str, Mapping[str, Sequence[bool]]], attacks: Sequence[str], budget: str) -> str:
    """A table in Markdown: methods by attacks, the success before any attack in the first column, that of the best
    attack on each request in the last. budget: of a request, in words."""
    lines = [
        f"| method | before | {' | '.join(attacks)} | any |",
        "|" + "---|" * (len(attacks) + 3),
    ]
    for method, through in found.items():
        columns = [through[BEFORE], *(through[name] for name in attacks)]
        columns.append([any(column[i] for column in columns) for i in range(len(columns[0]))])
        rates = [shown(wilson(sum(column), len(column))) for column in columns]
        lines.append(f"| {METHODS[method].title} | {' | '.join(rates)} |")
    return "\n".join([*lines, "", budget])
