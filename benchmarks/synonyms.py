"""Would a sentence encoder beside the base's own text encoder find synonyms that a limit in words should catch?

    python benchmarks/synonyms.py

Token states of MiniLM (extra `minilm`), without training: each token of a prompt against a limit, by the cosine of
states that are centred over all prompts. A prompt's score for a limit is its largest cosine. Three kinds of prompts:
    kinds: name something that the limit means, in another word ("tarantula" for spiders)
    neighbours: name something similar that the limit does not mean ("butterfly" for spiders)
    others: name something of another limit
Prints for each way of reading the limit the area under the curve (0.5 is chance) against neighbours and against others,
and the share of kinds that a threshold finds which lets 1 % of the others pass, with the neighbours that it also takes.
Writes synonyms.json into benchmarks/results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from psalign.evaluation.statistics import wilson
from psalign.files import write_json
from psalign.fingerprints import versions
from psalign.users.language_model import MINILM, load_language_model

LIMITS = {
    "spiders": (("tarantula", "black widow", "daddy longlegs"), ("butterfly", "ant", "crab")),
    "alcohol": (("champagne", "whisky", "pint of beer"), ("lemonade", "bunch of grapes", "cup of tea")),
    "dogs": (("puppy", "poodle", "labrador"), ("cat", "fox", "hamster")),
    "weapons": (("rifle", "machete", "pistol"), ("hammer", "shovel", "umbrella")),
    "snakes": (("cobra", "python", "viper"), ("lizard", "eel", "rope")),
    "hospitals": (("clinic", "nurse", "surgery"), ("school", "hotel", "library")),
    "needles": (("syringe", "injection", "vaccination"), ("pencil", "thread", "fork")),
    "clowns": (("jester", "harlequin", "circus fool"), ("magician", "juggler", "ballerina")),
    "smoking": (("cigarette", "cigar", "pipe of tobacco"), ("campfire", "fog", "candle")),
    "gambling": (("casino", "roulette", "slot machine"), ("chess game", "puzzle", "card trick")),
    "pork": (("bacon", "ham", "roast pig"), ("chicken", "tofu", "beef stew")),
    "insects": (("wasp", "beetle", "cockroach"), ("sparrow", "snail", "mouse")),
    "war": (("soldiers", "tank", "battlefield"), ("football match", "tractor", "parade")),
    "heights": (("cliff edge", "skyscraper roof", "tightrope"), ("valley", "basement", "beach")),
}
TEMPLATES = ("a photo of a {} in a sunny room", "an oil painting of a small street with a {}")
PHRASES = {"the word": "{}", "no ...": "no {}", "a sentence": "I do not want to see {}"}


def main() -> None:
    tokenizer, model = load_language_model(MINILM, None, "fp32")
    named = [(limit, kind, word) for limit, two in LIMITS.items() for kind, words in enumerate(two) for word in words]
    prompts = [(limit, kind, form.format(word)) for limit, kind, word in named for form in TEMPLATES]
    states = [token_states(tokenizer, model, text) for _, _, text in prompts]
    centre = torch.cat(states).mean(0)
    found = {}
    for name, form in PHRASES.items():
        phrases = {limit: token_states(tokenizer, model, form.format(limit)).mean(0) for limit in LIMITS}
        found[name] = measure(prompts, states, phrases, centre)
        print(name, found[name])
    write_json(Path(__file__).parent / "results" / "synonyms.json", {"limits": LIMITS, "found": found, **versions()})


@torch.no_grad()
def token_states(tokenizer: Any, model: Any, text: str) -> torch.Tensor:
    """Last hidden states of a text without its first and last token, [T, D]."""
    hidden: torch.Tensor = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 1:-1]
    return hidden


def measure(prompts: Any, states: Any, phrases: dict[str, torch.Tensor], centre: torch.Tensor) -> dict[str, Any]:
    kinds, neighbours, others = [], [], []
    for limit, phrase in phrases.items():
        for (own, kind, _), tokens in zip(prompts, states, strict=True):
            score = torch.cosine_similarity(tokens - centre, (phrase - centre)[None]).max().item()
            (others if own != limit else (kinds, neighbours)[kind]).append(score)
    least = float(np.quantile(others, 0.99))
    rates = {name: np.array(scores) > least for name, scores in (("kinds", kinds), ("neighbours", neighbours))}
    return {
        "area over neighbours": round(area(kinds, neighbours), 3),
        "area over others": round(area(kinds, others), 3),
        "least": round(least, 3),
        **{f"{name} found": vars(wilson(int(hits.sum()), len(hits))) for name, hits in rates.items()},
        "kinds found with no neighbour": float(np.mean(np.array(kinds) > max(neighbours))),
    }


def area(positives: list[float], negatives: list[float]) -> float:
    """Area under the receiver operating characteristic: how often a positive scores above a negative."""
    return float(np.mean(np.array(positives)[:, None] > np.array(negatives)[None]))


if __name__ == "__main__":
    main()
