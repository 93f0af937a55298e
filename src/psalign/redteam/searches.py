"""White-box attacks: searches for a text, a learned word, text states or starting noise that a method does not stop.

Place on the path of data: between a request and step 6. The attacker knows the method, its weights, the user's limits
and the prompt, and looks at the pictures. Each attack spends its budget in a few parts, and draws after each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from psalign.adapter.text import Texts
from psalign.baselines.denoiser import encode
from psalign.baselines.soft_prompt import learned_words
from psalign.config import check_range
from psalign.records import PromptRow

from .goal import Goal
from .prompts import Request
from .victim import Victim

PLACE = "\u2606"  # stands in a wording where the words of an attack go
LEARNED = "zqx{:03d}"  # a learned word, as prompts say it: a word like any other
EARLY = 0.7  # share of the steps whose noise is aimed at: later ones draw no new thing


@dataclass(frozen=True)
class Budget:
    """What an attack may spend on one request.

    steps: gradient steps of a learned word, or of text states. rate: of Adam, in standard deviations. words: typed in
    place of the banned ones; rounds: of the search for them; candidates: texts tried in a round. looks: pictures drawn.
    inversion: steps of the inversion of a picture. seed: of what is drawn by lot.
    """

    steps: int = 40
    rate: float = 0.1
    words: int = 3
    rounds: int = 8
    candidates: int = 16
    looks: int = 4
    inversion: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError for a number that makes no sense."""
        for name in ("steps", "words", "rounds", "candidates", "looks", "inversion"):
            check_range(name, getattr(self, name), 1)
        check_range("rate", self.rate, 0, above=True)

    def part(self, whole: int) -> int:
        """What of a budget is spent before each look."""
        return max(1, whole // self.looks)


class Search(ABC):
    """An attack on several requests at once, each by itself.

    rows: the plain requests; requests: the same to be worded. goal: the base's drawings of the rows.
    """

    def __init__(
        self, victim: Victim, rows: Sequence[PromptRow], requests: Sequence[Request], goal: Goal, budget: Budget
    ) -> None:
        self.victim, self.rows, self.requests, self.goal, self.budget = victim, list(rows), list(requests), goal, budget
        self.pipe = victim.pipeline
        self.lot = torch.Generator().manual_seed(budget.seed)
        self.prepare()

    def prepare(self) -> None:  # noqa: B027  a search may begin with nothing
        """Make what the search begins with."""

    @abstractmethod
    def improve(self, active: Sequence[int], look: int) -> None:
        """Spend one part of the budget on some of the requests."""

    @abstractmethod
    def draw(self, active: Sequence[int]) -> np.ndarray:
        """Pictures of some of the requests under the attack as it is now, uint8 RGB [len(active), H, W, 3]."""

    def said(self, row: int) -> str:
        """The prompt of a request under the attack."""
        return self.rows[row].prompt

    def step(self) -> int:
        """A denoising step to aim at, by lot."""
        return int(torch.randint(max(1, round(EARLY * len(self.goal.latents))), (), generator=self.lot))

    def is_halfway(self, look: int) -> bool:
        """Whether a search that was in vain so far begins anew, from another place."""
        return look > 0 and look == self.budget.looks // 2

    def losses(self, active: Sequence[int], step: int, texts: Texts, given: Any) -> torch.Tensor:
        """Of each row, the squared difference between the method's noise at a step and the base's, [B]."""
        goal = self.goal.only(active)
        noise = self.victim.noise(goal.latents[step], step, texts, given)
        return (noise - goal.noises[step]).square().flatten(1).mean(1)

    def texts(self, rows: Sequence[PromptRow], prompts: torch.Tensor) -> Texts:
        """Text states of prompts [B, T, D] beside those of the rows' negative prompts."""
        with torch.no_grad():
            negatives = encode(self.pipe, self.victim.negatives(rows)).states
        return Texts(prompts, negatives)


class TokenSearch(Search):
    """Words that are typed in place of the banned ones. In each round, gradients propose exchanges of one word, and the
    method itself decides which text of all is best. It begins with the name of the motif, halfway with words by lot.

    Source: in the spirit of P4D (arXiv:2309.06135) and Ring-A-Bell (arXiv:2310.10012), by the greedy search of Zou et
    al. 2023, arXiv:2307.15043.
    """

    def prepare(self) -> None:
        self.vocabulary = whole_words(self.pipe.tokenizer)  # [V]
        first = [self._known(one.motif) for one in self.requests]
        self.words = [[word] * self.budget.words for word in first]

    def _known(self, motif: str) -> int:
        """The token of a motif's name, or one by lot where the tokenizer needs several for it."""
        tokens = self.pipe.tokenizer(motif).input_ids[1:]
        known = set(self.vocabulary.tolist())
        if tokens[0] in known:
            return int(tokens[0])
        return int(self.by_lot(1))

    def by_lot(self, count: int) -> torch.Tensor:
        return self.vocabulary[torch.randint(len(self.vocabulary), (count,), generator=self.lot)]

    def said(self, row: int) -> str:
        return self._prompt(row, self.words[row])

    def _prompt(self, row: int, words: Sequence[int]) -> str:
        return self.requests[row].prompt(self.pipe.tokenizer.decode(words).strip())

    def _row(self, row: int, words: Sequence[int]) -> PromptRow:
        return replace(self.rows[row], prompt=self._prompt(row, words))

    def draw(self, active: Sequence[int]) -> np.ndarray:
        return self.victim.draw([self._row(row, self.words[row]) for row in active])

    def improve(self, active: Sequence[int], look: int) -> None:
        if self.is_halfway(look):
            for row in active:
                self.words[row] = self.by_lot(self.budget.words).tolist()
        for _ in range(self.budget.part(self.budget.rounds)):
            step, proposed = self.step(), self._proposed(active)
            tried = [(row, words) for row in active for words in [self.words[row], *proposed[row]]]
            scores = self._scores(tried, step)
            for row in active:
                own = [place for place, (of, _) in enumerate(tried) if of == row]
                self.words[row] = tried[min(own, key=scores.__getitem__)][1]

    @torch.no_grad()
    def _scores(self, tried: Sequence[tuple[int, list[int]]], step: int) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(tried), 64):
            part = tried[start : start + 64]
            given = self.victim.arguments([self._row(*one) for one in part])
            texts = Texts(given["prompt_embeds"], given["negative_prompt_embeds"])
            scores += self.losses([row for row, _ in part], step, texts, given).tolist()
        return scores

    def _proposed(self, active: Sequence[int]) -> dict[int, list[list[int]]]:
        """For each request, texts that differ in one word: exchanges that lower the loss most, by its gradient."""
        rows = [self._row(row, self.words[row]) for row in active]
        given, kept = self.victim.arguments(rows), []

        def keep(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
            kept.append(output.detach().requires_grad_())
            return kept[-1]

        table = self.pipe.text_encoder.get_input_embeddings()
        hook = table.register_forward_hook(keep)
        try:
            states = encode(self.pipe, [row.prompt for row in rows]).states
        finally:
            hook.remove()
        texts = self.victim.reading(rows, given)(self.texts(rows, states))
        (slopes,) = torch.autograd.grad(self.losses(active, self.step(), texts, given).sum(), kept[0])
        gains = -slopes @ table.weight.detach()[self.vocabulary].T  # [B, T, V]
        return {row: self._exchanges(row, gains[i]) for i, row in enumerate(active)}

    def _exchanges(self, row: int, gains: torch.Tensor) -> list[list[int]]:
        start = self._start(row)
        own = gains[start : start + self.budget.words]  # [words, V]
        best = own.flatten().topk(4 * self.budget.candidates).indices
        chosen = best[torch.randperm(len(best), generator=self.lot)[: self.budget.candidates]].tolist()
        made = []
        for number in chosen:
            place, word = divmod(number, own.shape[1])
            words = list(self.words[row])
            words[place] = int(self.vocabulary[word])
            made.append(words)
        return made

    def _start(self, row: int) -> int:
        """The place of the first exchanged word among the prompt's tokens."""
        before = self.requests[row].prompt(PLACE).partition(PLACE)[0]
        return len(self.pipe.tokenizer(before).input_ids) - 1


class GradientSearch(Search):
    """Numbers of each request that Adam moves, so that the method's noise comes nearer to the base's."""

    def begin(self, values: Sequence[torch.Tensor], spread: float) -> None:
        """values: of each request. spread: their standard deviation, which the budget's rate is multiplied by."""
        self.values = [one.detach().clone().requires_grad_() for one in values]
        self.optimizer = torch.optim.Adam(self.values, lr=self.budget.rate * spread, betas=(0.9, 0.99))

    @abstractmethod
    def states(self, active: Sequence[int]) -> torch.Tensor:
        """Text states of requests as their numbers are now, [len(active), T, D]."""

    def asked(self, active: Sequence[int]) -> list[PromptRow]:
        return [replace(self.rows[row], prompt=self.said(row)) for row in active]

    def improve(self, active: Sequence[int], look: int) -> None:
        with self.planted():
            rows = self.asked(active)
            given = self.victim.arguments(rows)
            for _ in range(self.budget.part(self.budget.steps)):
                texts = self.victim.reading(rows, given)(self.texts(rows, self.states(active)))
                moved = [self.values[row] for row in active]
                slopes = torch.autograd.grad(self.losses(active, self.step(), texts, given).sum(), moved)
                for one, slope in zip(moved, slopes, strict=True):
                    one.grad = slope
                self.optimizer.step()
                self.optimizer.zero_grad()  # a row without a slope stays where it is

    def draw(self, active: Sequence[int]) -> np.ndarray:
        with self.planted():
            return self.victim.draw(self.asked(active))

    @abstractmethod
    def planted(self) -> AbstractContextManager[None]:
        """A context in which the pipeline's text encoder reads the numbers."""


class WordSearch(GradientSearch):
    """A learned word in place of the banned one: its embedding is the text encoder's only knowledge of it. It begins as
    the name of the motif, halfway as a word by lot.

    Source: textual inversion, Gal et al. 2022, arXiv:2208.01618, as an attack: Pham et al. 2023, arXiv:2308.01508.
    """

    def prepare(self) -> None:
        table = self.pipe.text_encoder.get_input_embeddings().weight.detach()
        tokens = [self.pipe.tokenizer(one.motif).input_ids[1:-1] for one in self.requests]
        self.begin([table[one].mean(0, keepdim=True) for one in tokens], float(table.std()))
        words = whole_words(self.pipe.tokenizer)
        self.others = table[words[torch.randint(len(words), (len(tokens),), generator=self.lot)]]  # [B, width]

    def improve(self, active: Sequence[int], look: int) -> None:
        if self.is_halfway(look):
            for row in active:
                self.values[row].data.copy_(self.others[row : row + 1])
        super().improve(active, look)

    def said(self, row: int) -> str:
        return self.requests[row].prompt(LEARNED.format(row))

    def states(self, active: Sequence[int]) -> torch.Tensor:
        return encode(self.pipe, [self.said(row) for row in active]).states

    def planted(self) -> AbstractContextManager[None]:
        return learned_words(self.pipe, {LEARNED.format(row): {"clip_l": one} for row, one in enumerate(self.values)})


class StateSearch(GradientSearch):
    """Text states in place of those that the text encoder gives; the method reads them as if they were its own.

    Source: in the spirit of UnlearnDiffAtk, Zhang et al. 2023, arXiv:2310.11868, which searches in the text; here all
    numbers behind the text encoder are free. They begin as those of the plain request, and the prompt that carries them
    is the scene without its motif: a method that reads words finds none.
    """

    def prepare(self) -> None:
        states = encode(self.pipe, [row.prompt for row in self.rows]).states.detach()
        self.begin(list(states), float(states[:, 1:].std()))

    def said(self, row: int) -> str:
        return self.requests[row].prompt("")

    def states(self, active: Sequence[int]) -> torch.Tensor:
        return torch.stack([self.values[row] for row in active])

    @contextmanager
    def planted(self) -> Iterator[None]:
        pipe, length = self.pipe, self.pipe.tokenizer.model_max_length
        said = [self.said(row) for row in range(len(self.rows))]
        known = pipe.tokenizer(
            said, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids

        def replaced(_: Any, args: tuple[torch.Tensor, ...], output: Any) -> Any:
            states = output[0].clone()
            for place, ids in enumerate(args[0].cpu()):
                for row in (known == ids).all(1).nonzero()[:1, 0].tolist():
                    states[place] = self.values[row].detach()
            output["last_hidden_state"] = states
            return output

        hook = pipe.text_encoder.register_forward_hook(replaced)
        try:
            yield
        finally:
            hook.remove()


class NoiseSearch(Search):
    """The base's unsafe picture, inverted, is the starting noise of the method; each look is another way.

    The picture is inverted under the plain request or under the scene without its motif, and drawn by either prompt.
    Source: DDIM inversion, as an attack: Pham et al. 2023, arXiv:2308.01508.
    """

    def improve(self, active: Sequence[int], look: int) -> None:
        self.drawn_by, self.inverted_by = divmod(look % 4, 2)

    def said(self, row: int) -> str:
        return self.rows[row].prompt if self.drawn_by == 0 else self.requests[row].prompt("")

    def draw(self, active: Sequence[int]) -> np.ndarray:
        rows = [replace(self.rows[row], prompt=self.said(row)) for row in active]
        return self.victim.draw(rows, latents=self.goal.starts[self.inverted_by, active])


def whole_words(tokenizer: Any) -> torch.Tensor:
    """Tokens that are a word of at least three letters, and that the word alone is read as, [V]."""
    words = {token.removesuffix("</w>"): number for token, number in tokenizer.get_vocab().items()
             if token.endswith("</w>")}  # fmt: skip
    kept = [word for word in words if len(word) >= 3 and word.isalpha()]
    read = tokenizer(kept).input_ids
    return torch.tensor([words[word] for word, ids in zip(kept, read, strict=True) if ids[1:-1] == [words[word]]])
