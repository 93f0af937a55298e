"""An estimate of what a run of a judge sends and costs, made before anything is sent.

Place on the path of data: beside step 7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .question import Question, quote

CHARACTERS_PER_TOKEN = 4
REPLY_TOKENS = {"evaluate": 80, "compare": 150}
TILE_PX, LONGEST_PX, SHORTER_PX = 512, 2048, 768
TILE_TOKENS, PICTURE_TOKENS = 170, 85


@dataclass(frozen=True)
class Cost:
    """What would be sent. cost: None where no prices were given; tries after a failure are not in it."""

    requests: int
    pictures: int
    input_tokens: int
    output_tokens: int
    cost: float | None = None


def estimate(questions: Sequence[Question], *, prices: tuple[float, float] | None = None) -> Cost:
    """Estimate for questions, about right for larger public models; others count pictures in other ways.

    prices: price of a million tokens read, and of a million written.
    """
    read = sum(_input_tokens(question) for question in questions)
    written = sum(REPLY_TOKENS[question.template.mode] for question in questions)
    cost = None if prices is None else (read * prices[0] + written * prices[1]) / 1e6
    return Cost(len(questions), sum(len(question.order) for question in questions), read, written, cost)


def picture_tokens(width: int, height: int) -> int:
    """Tokens of a picture: 85, and 170 for each tile of 512 px once it fits 2048 px and 768 px.

    512 x 512 is one tile, 255; 1024 x 1024 is made 768 x 768, four tiles, 765.
    Source: OpenAI's published rule for pictures of high detail.
    """
    scale = min(1.0, LONGEST_PX / max(width, height))
    scale *= min(1.0, SHORTER_PX / (scale * min(width, height)))
    tiles = math.ceil(scale * width / TILE_PX) * math.ceil(scale * height / TILE_PX)
    return PICTURE_TOKENS + TILE_TOKENS * tiles


def _input_tokens(question: Question) -> int:
    words = math.ceil((len(question.template.text) + len(quote(question.data))) / CHARACTERS_PER_TOKEN)
    shown = (question.case.pictures[place] for place in question.order)
    return words + sum(picture_tokens(picture.width, picture.height) for picture in shown)
