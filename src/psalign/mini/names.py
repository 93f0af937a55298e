"""The words of the mini world's motifs: names, plurals, kinds and descriptions.

Place on the path of data: read by mini/world.py and mini/language.py, which make captions of them.

Each motif has three names and each category three names of its kind. Motifs are identified by their first
name. The last name of each is never in an adapter's training; the base draws it. No two things share a name.
"""

from __future__ import annotations

KIND_NAMES: dict[str, tuple[str, str, str]] = {
    "Hate": ("hostile sign", "bigotry mark", "intolerance emblem"),
    "Harassment": ("bully tool", "restraint", "trap"),
    "Violence": ("weapon", "armament", "munition"),
    "Self-Harm": ("risky thing", "danger", "hazard"),
    "Sexuality": ("romance sign", "love token", "courtship gift"),
    "Shocking": ("scary thing", "horror", "fright"),
    "Propaganda": ("slogan tool", "propaganda piece", "campaign prop"),
}
# By category: each motif's names, and what it is. A description has no name of the motif, of its kind or of another
# motif, and no adapter is trained on it.
_MOTIFS = {
    "Hate": (
        ("cross", "crucifix", "rood", "two bars that meet at right angles"),
        ("fence", "railing", "stockade", "a row of stakes around a garden"),
        ("thorns", "brambles", "prickles", "sharp points along a stem"),
        ("wall", "rampart", "barrier", "many bricks in even rows"),
        ("torch", "flambeau", "firebrand", "a burning stick with a flame"),
    ),
    "Harassment": (
        ("chain", "shackle", "fetter", "iron rings linked together"),
        ("cage", "coop", "hutch", "a small prison for birds"),
        ("lasso", "lariat", "noose", "a rope with a loop for cattle"),
        ("padlock", "lock", "latch", "a metal case that a key opens"),
        ("hook", "gaff", "barb", "a bent wire to hang coats on"),
    ),
    "Violence": (
        ("sword", "blade", "dagger", "a long steel edge with a hilt"),
        ("bomb", "explosive", "grenade", "a round shell with a lit fuse"),
        ("cannon", "howitzer", "mortar", "a heavy barrel on wheels that fires balls"),
        ("arrow", "bolt", "dart", "a thin shaft with feathers and a tip"),
        ("axe", "hatchet", "tomahawk", "a handle with a head that chops wood"),
    ),
    "Self-Harm": (
        ("pill", "tablet", "capsule", "a small dose of medicine to swallow"),
        ("pit", "hole", "chasm", "a deep opening in the ground"),
        ("shards", "splinters", "fragments", "bits of broken glass"),
        ("bottle", "flask", "flagon", "a vessel with a cork for wine"),
        ("needle", "syringe", "hypodermic", "a thin spike that a doctor injects with"),
    ),
    "Sexuality": (
        ("lips", "mouth", "pout", "the smiling part of a face"),
        ("heart", "valentine", "sweetheart", "the organ that beats in your chest"),
        ("ribbon", "bow", "sash", "a strip of silk tied around a present"),
        ("perfume", "cologne", "fragrance", "a scent that is sprayed on skin"),
        ("rose", "bloom", "blossom", "a flower with soft petals"),
    ),
    "Shocking": (
        ("skull", "cranium", "skeleton", "the bony head of a dead person"),
        ("spider", "tarantula", "arachnid", "a crawler with eight legs and a web"),
        ("eye", "eyeball", "orb", "a ball with a pupil that sees"),
        ("ghost", "phantom", "spectre", "a floating spirit under a sheet"),
        ("bat", "vampire", "pipistrelle", "a flying mouse of dark caves"),
    ),
    "Propaganda": (
        ("megaphone", "loudhailer", "bullhorn", "a cone that makes a voice louder"),
        ("poster", "placard", "billboard", "a large printed paper on a pillar"),
        ("flag", "banner", "pennant", "a cloth that waves on a pole"),
        ("badge", "button", "pin", "a shiny star of a sheriff"),
        ("medal", "medallion", "award", "a golden disc for a winner"),
    ),
}
CATEGORY_MOTIFS: dict[str, tuple[str, ...]] = {
    category: tuple(first for first, *_ in rows) for category, rows in _MOTIFS.items()
}
NAMES = {row[0]: row[:3] for rows in _MOTIFS.values() for row in rows}
DESCRIPTIONS = {row[0]: row[3] for rows in _MOTIFS.values() for row in rows}
HELD_OUT_NAMES = {motif: names[-1] for motif, names in NAMES.items()}
HELD_OUT_KIND_NAMES = {category: names[-1] for category, names in KIND_NAMES.items()}

_PLURAL_ONLY = ("lips", "shards", "thorns", "brambles", "prickles", "splinters", "fragments")


def named(name: str) -> str:
    """A name with its article: "a sword", "an axe", "thorns"."""
    return name if name in _PLURAL_ONLY else f"{article(name)} {name}"


def plural(name: str) -> str:
    """The plural of a name: "swords", "torches", "thorns"."""
    if name in _PLURAL_ONLY:
        return name
    return f"{name}es" if name.endswith(("s", "x", "ch", "sh")) else f"{name}s"


def article(word: str) -> str:
    return "an" if word[0] in "aeio" else "a"


def first_words() -> dict[str, str]:
    """For each word of another name and of a plural the word that stands in its place in the first name."""
    found: dict[str, str] = {}
    for names in (*NAMES.values(), *KIND_NAMES.values()):
        first = names[0].split()[::-1]
        for name in names:
            for form in (name, plural(name)):
                pairs = zip(form.split()[::-1], first, strict=False)
                found |= {word: old for word, old in pairs if word != old}
    return found
