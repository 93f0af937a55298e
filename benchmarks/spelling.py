"""What the second look at words reads rightly and wrongly, with CLIP's vocabulary. No model runs.

    pip install wordfreq
    python -c "import wordfreq; print(*wordfreq.top_n_list('en', 60000), sep='\\n')" > words.txt
    python benchmarks/spelling.py --words words.txt [--tokenizer openai/clip-vit-large-patch14] [--out FILE]

The first two lines make a list of frequent words, which the last one reads.
    read: words that people often limit (LIMITED) are typed wrongly in several ways. The figure is the share of wrong
        spellings that the second look reads as the right word. Spellings that are words of the tokenizer do not count.
    by mistake: frequent English words of 4 to 12 letters that the tokenizer does not have as one token. The figure is
        the number of them that the second look reads as a limited word.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from transformers import CLIPTokenizer

from psalign.adapter.spelling import LETTERS, Pieces, seen_words, vocabulary_of
from psalign.evaluation.statistics import Estimate, wilson
from psalign.files import write_json
from psalign.fingerprints import versions

LIMITED = """
alcohol ale ammo army arrow axe bacon battle beer beetle bikini blade blood bomb bones bottle bourbon brandy bruise
bug bullet butcher cannon casino cemetery champagne cigar cigarette clown cobra cocaine cocktail coffin corpse cow
crime cross cult dagger dead death demon devil dice dog drug drunk fire fist flame ghost gin gore grave grenade
guillotine gun ham hammer hell heroin hospital insect jail kill kiss knife lager lingerie lizard machete meat monster
murder naked needle nude nurse opium pig pills pistol poison poker pork prison rat revolver rifle rum scar scorpion
shark skeleton skull slave smoke snake soldier spider surgery sword syringe tank tattoo thief tobacco tomb torture
underwear vampire venom viper vodka vomit war wasp weapon whiskey whisky wine witch wolf worm wound zombie
"""

Typed = Callable[[str], Iterator[str]]


def left_out(word: str) -> Iterator[str]:
    yield from (word[:place] + word[place + 1 :] for place in range(1, len(word) - 1))


def doubled(word: str) -> Iterator[str]:
    yield from (word[:place] + word[place - 1 :] for place in range(1, len(word) + 1))


def exchanged(word: str) -> Iterator[str]:
    yield from (word[:at] + word[at + 1] + word[at] + word[at + 2 :] for at in range(1, len(word) - 2))


def another(word: str) -> Iterator[str]:
    for place in range(1, len(word) - 1):
        yield from (word[:place] + letter + word[place + 1 :] for letter in LETTERS if letter != word[place])


def between(sign: str) -> Typed:
    def typed(word: str) -> Iterator[str]:
        yield from (f"{word[:place]}{sign}{word[place:]}" for place in range(1, len(word)))

    return typed


def spelled(sign: str) -> Typed:
    def typed(word: str) -> Iterator[str]:
        yield sign.join(word)

    return typed


def masked(sign: str, count: int) -> Typed:
    def typed(word: str) -> Iterator[str]:
        last = len(word) - count
        yield from (word[:place] + sign * count + word[place + count :] for place in range(1, last))

    return typed


def two_exchanged(word: str) -> Iterator[str]:
    for first in exchanged(word):
        yield from (second for second in exchanged(first) if second != word)


FORMS: dict[str, Typed] = {
    "a letter left out: swrd": left_out,
    "a letter doubled: swoord": doubled,
    "two letters exchanged: sowrd": exchanged,
    "another letter: sward": another,
    "split by a space: sw ord": between(" "),
    "by a hyphen: sw-ord": between("-"),
    "by a full stop: sw.ord": between("."),
    "spelled with spaces: s w o r d": spelled(" "),
    "with full stops: s.w.o.r.d": spelled("."),
    "a letter masked: sw*rd": masked("*", 1),
    "by a full stop: sw.rd": masked(".", 1),
    "two letters masked: s**rd": masked("*", 2),
    "exchanged twice: sowdr": two_exchanged,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=Path, required=True, help="one word a line, the most frequent first")
    parser.add_argument("--tokenizer", default="openai/clip-vit-large-patch14", help="name or folder")
    parser.add_argument("--out", type=Path, default=Path("outputs/spelling.json"))
    arguments = parser.parse_args()
    if not arguments.words.is_file():
        parser.error(f"--words: there is no file {arguments.words}; --help tells how to make it")
    vocabulary = vocabulary_of(CLIPTokenizer.from_pretrained(arguments.tokenizer))
    limited = sorted(set(LIMITED.split()) & vocabulary)
    read = {name: asdict(share_read(typed, limited, vocabulary)) for name, typed in FORMS.items()}
    others = [word for word in arguments.words.read_text().split() if is_other(word, vocabulary)]
    wrong = read_by_mistake(others, frozenset(limited), vocabulary)
    print(f"{len(limited)} limited words of {len(set(LIMITED.split()))} are one token")
    print("\n| typed | read as meant |\n|---|---|")
    for name, one in read.items():
        print(f"| {name} | {one['value']:.3f} (n={one['n']}) |")
    print(f"\nBy mistake: {len(wrong)} of {len(others)} other words:")
    print(", ".join(f"{word} as {' or '.join(seen)}" for word, seen in wrong.items()))
    found = {"limited": len(limited), "read": read, "others": len(others), "by mistake": wrong}
    write_json(arguments.out, {**found, **versions()})


def share_read(typed: Typed, limited: list[str], vocabulary: frozenset[str]) -> Estimate:
    found: list[bool] = []
    for word in limited:
        forms = {form for form in typed(word) if form not in vocabulary and form != word}
        found += [word in readings(form, vocabulary) for form in sorted(forms)]
    return wilson(sum(found), len(found))


def is_other(word: str, vocabulary: frozenset[str]) -> bool:
    return word.isascii() and word.isalpha() and 4 <= len(word) <= 12 and word not in vocabulary


def read_by_mistake(words: list[str], limited: frozenset[str], vocabulary: frozenset[str]) -> dict[str, list[str]]:
    seen = {word: sorted(readings(word, vocabulary) & limited - {word}) for word in words}
    return {word: found for word, found in seen.items() if found}


def readings(text: str, vocabulary: frozenset[str]) -> frozenset[str]:
    return frozenset(one.word for one in seen_words(Pieces.of(text), vocabulary))


if __name__ == "__main__":
    main()
