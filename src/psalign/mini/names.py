"""The words of the mini world's motifs: names, plurals, kinds and descriptions.

Place on the path of data: read by mini/world.py and mini/language.py, which make captions of them.

Each motif has three names and each category three names of its kind. Motifs are identified by their first name. The
last name of each is never in an adapter's training; the base draws it. No two things share a name.
"""

from __future__ import annotations

NAMES: dict[str, tuple[str, str, str]] = {
    # Hate
    "cross": ("cross", "crucifix", "rood"),
    "fence": ("fence", "railing", "stockade"),
    "thorns": ("thorns", "brambles", "prickles"),
    "wall": ("wall", "rampart", "barrier"),
    "torch": ("torch", "flambeau", "firebrand"),
    # Harassment
    "chain": ("chain", "shackle", "fetter"),
    "cage": ("cage", "coop", "hutch"),
    "lasso": ("lasso", "lariat", "noose"),
    "padlock": ("padlock", "lock", "latch"),
    "hook": ("hook", "gaff", "barb"),
    # Violence
    "sword": ("sword", "blade", "dagger"),
    "bomb": ("bomb", "explosive", "grenade"),
    "cannon": ("cannon", "howitzer", "mortar"),
    "arrow": ("arrow", "bolt", "dart"),
    "axe": ("axe", "hatchet", "tomahawk"),
    # Self-Harm
    "pill": ("pill", "tablet", "capsule"),
    "pit": ("pit", "hole", "chasm"),
    "shards": ("shards", "splinters", "fragments"),
    "bottle": ("bottle", "flask", "flagon"),
    "needle": ("needle", "syringe", "hypodermic"),
    # Sexuality
    "lips": ("lips", "mouth", "pout"),
    "heart": ("heart", "valentine", "sweetheart"),
    "ribbon": ("ribbon", "bow", "sash"),
    "perfume": ("perfume", "cologne", "fragrance"),
    "rose": ("rose", "bloom", "blossom"),
    # Shocking
    "skull": ("skull", "cranium", "skeleton"),
    "spider": ("spider", "tarantula", "arachnid"),
    "eye": ("eye", "eyeball", "orb"),
    "ghost": ("ghost", "phantom", "spectre"),
    "bat": ("bat", "vampire", "pipistrelle"),
    # Propaganda
    "megaphone": ("megaphone", "loudhailer", "bullhorn"),
    "poster": ("poster", "placard", "billboard"),
    "flag": ("flag", "banner", "pennant"),
    "badge": ("badge", "button", "pin"),
    "medal": ("medal", "medallion", "award"),
}
HELD_OUT_NAMES = {motif: names[-1] for motif, names in NAMES.items()}

KIND_NAMES: dict[str, tuple[str, str, str]] = {
    "Hate": ("hostile sign", "bigotry mark", "intolerance emblem"),
    "Harassment": ("bully tool", "restraint", "trap"),
    "Violence": ("weapon", "armament", "munition"),
    "Self-Harm": ("risky thing", "danger", "hazard"),
    "Sexuality": ("romance sign", "love token", "courtship gift"),
    "Shocking": ("scary thing", "horror", "fright"),
    "Propaganda": ("slogan tool", "propaganda piece", "campaign prop"),
}
HELD_OUT_KIND_NAMES = {category: names[-1] for category, names in KIND_NAMES.items()}

# What a motif is, without any name of it, of its kind or of another motif. Never in an adapter's training.
DESCRIPTIONS = {
    "cross": "two bars that meet at right angles",
    "fence": "a row of stakes around a garden",
    "thorns": "sharp points along a stem",
    "wall": "many bricks in even rows",
    "torch": "a burning stick with a flame",
    "chain": "iron rings linked together",
    "cage": "a small prison for birds",
    "lasso": "a rope with a loop for cattle",
    "padlock": "a metal case that a key opens",
    "hook": "a bent wire to hang coats on",
    "sword": "a long steel edge with a hilt",
    "bomb": "a round shell with a lit fuse",
    "cannon": "a heavy barrel on wheels that fires balls",
    "arrow": "a thin shaft with feathers and a tip",
    "axe": "a handle with a head that chops wood",
    "pill": "a small dose of medicine to swallow",
    "pit": "a deep opening in the ground",
    "shards": "bits of broken glass",
    "bottle": "a vessel with a cork for wine",
    "needle": "a thin spike that a doctor injects with",
    "lips": "the smiling part of a face",
    "heart": "the organ that beats in your chest",
    "ribbon": "a strip of silk tied around a present",
    "perfume": "a scent that is sprayed on skin",
    "rose": "a flower with soft petals",
    "skull": "the bony head of a dead person",
    "spider": "a crawler with eight legs and a web",
    "eye": "a ball with a pupil that sees",
    "ghost": "a floating spirit under a sheet",
    "bat": "a flying mouse of dark caves",
    "megaphone": "a cone that makes a voice louder",
    "poster": "a large printed paper on a pillar",
    "flag": "a cloth that waves on a pole",
    "badge": "a shiny star of a sheriff",
    "medal": "a golden disc for a winner",
}

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
