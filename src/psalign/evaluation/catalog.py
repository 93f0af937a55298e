"""The tables of the benchmark: datasets, methods and base models, by their names in folders and results.csv.

Place on the path of data: beside steps 6 to 8. They stand in this room because results and the report are
keyed by them; the room `benchmark` draws them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dataset:
    """A set of prompts. has_users: its rows are for users. metrics: names of those that apply to it."""

    name: str
    title: str
    note: str
    has_users: bool
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Method:
    """A way to draw.

    same_for_all: it draws the same picture for every user. personal: its picture depends on the user. weights: what it
    needs beside the base model, in words; "": nothing. source: where it comes from.
    """

    name: str
    title: str
    note: str
    same_for_all: bool = False
    personal: bool = False
    weights: str = ""
    source: str = ""

    @property
    def has_levels(self) -> bool:
        """Whether it knows users by vectors, so that it can also draw every row for one level of strictness."""
        return self.name.startswith("psa")

    @property
    def family(self) -> str:
        """The method that it is a form of: uce of uce and of uce-user."""
        return self.name.removesuffix(PERSONAL).removesuffix(STATIC)


QUALITY = ("fid", "kid", "clip")
SAFETY = ("inpro", "inpro_strict", "clip")
DETECTED = ("suppressed", "kept", "pass", "subject_kept", "safe_subject", "safe_distance")
MINI = (*QUALITY, *DETECTED)

# Attacks by the prompt, each a dataset mini_attack_<name>: what is done to the request for a banned motif.
ATTACKS = {
    "plain": "the request as it is: before any attack",
    "synonym": "another name, which no adapter was trained on",
    "plural": "the plural",
    "description": "a description without any name",
    "misspelling": "two letters change places",
    "homoglyph": "letters of another alphabet that look the same",
    "split": "the word in two parts",
    "spaced": "spaces between all letters",
    "dotted": "full stops between all letters",
    "masked": "an asterisk for the middle letter",
    "order": "the banned thing first, the scene behind it",
    "negation": "a double negation",
    "repeated": "the word three times",
    "stuffed": "many safe words around it",
    "long": "past the end of what the text encoder reads",
    "seeds": "the request as it is, from four seeds: the best counts",
}
OVER_REFUSAL = "mini_mentions"


def _attacks() -> tuple[Dataset, ...]:
    return tuple(
        Dataset(f"mini_attack_{name}", f"Attack: {name}", note, True, ("suppressed",)) for name, note in ATTACKS.items()
    )


DATASETS = {
    one.name: one
    for one in (
        Dataset("mini", "Mini world", "all its prompts, but those of levels", True, MINI),
        Dataset("mini_scenes", "Scenes", "unseen subject, colour and background", True, MINI),
        Dataset("mini_wordings", "Wordings", "phrases never trained on", True, MINI),
        Dataset("mini_two_motifs", "Two motifs", "two at once, each judged by itself", True, MINI),
        Dataset("mini_motifs", "Motifs", "concepts the adapter never met", True, MINI),
        Dataset("mini_seen", "Seen users", "scenes for users of the training", True, MINI),
        Dataset("mini_levels", "Levels", "the same prompts for each level of strictness", False, ("any_motif",)),
        Dataset("mini_attacks", "All attacks", "every attack by the prompt", True, ("suppressed",)),
        *_attacks(),
        Dataset(
            OVER_REFUSAL,
            "Mentions",
            "safe prompts that deny or resemble what is banned",
            True,
            ("safe_subject", "safe_distance"),
        ),
        Dataset("sage_unseen", "SAGE, unseen users", "unsafe prompts of users never in training", True, SAFETY),
        Dataset("sage_seen", "SAGE, seen users", "unsafe prompts of users known from training", True, SAFETY),
        Dataset("i2p_4073", "I2P", "prompts that ask for inappropriate pictures", False, SAFETY),
        Dataset("CoProv2_test", "CoProV2", "prompts about unsafe concepts", False, SAFETY),
        Dataset("ud_1434", "Unsafe Diffusion", "prompts that ask for unsafe pictures", False, SAFETY),
        Dataset("coco_10k", "COCO 10k", "safe captions of photographs", False, QUALITY),
        Dataset("debug", "Debug", "a few prompts to try things on", False, SAFETY),
    )
}
SEEN_AND_UNSEEN = (("sage_seen", "sage_unseen"), ("mini_seen", "mini_scenes"))  # the same kind of prompts for both
ADAPTER = "an adapter"
EDITED, LORA, WORDS = "edited UNet weights", "LoRA weights", "learned words"
PERSONAL, STATIC = "-user", "-all"  # ends of the names of a method's forms
NEEDS_NONE = ("uce", "rece")  # methods whose personal form is computed when it draws


def _forms(name: str, title: str, note: str, weights: str = "", *, source: str = "") -> tuple[Method, Method]:
    """A method with one limit for all, and the same method for what each row's user bans."""
    own = "" if name in NEEDS_NONE else weights
    return (
        Method(name, title, f"{note}, for all alike", same_for_all=True, weights=weights, source=source),
        Method(f"{name}{PERSONAL}", f"{title}, own", f"{note}, by user", personal=True, weights=own, source=source),
    )


METHODS = {
    one.name: one
    for one in (
        Method("base", "Base model", "knows no user", same_for_all=True),
        Method("negative_prompt", "Negative prompt", "names what this user bans", personal=True),
        Method("negative_prompt-all", "Negative prompt, all", "names every category", same_for_all=True),
        *_forms("prompt_filter", "Prompt filter", "drops banned words"),
        *_forms("sld", "SLD", "safe latent guidance", source="arXiv:2211.05105"),
        *_forms("safree", "SAFREE", "projects tokens away from banned words", source="arXiv:2410.12761"),
        *_forms("uce", "UCE", "concepts edited out in closed form", EDITED, source="arXiv:2308.14761"),
        *_forms("rece", "RECE", "UCE, repeated for what is left", EDITED, source="arXiv:2407.12383"),
        *_forms("esdx", "ESD-x", "concepts erased from the cross-attentions", EDITED, source="arXiv:2303.07345"),
        *_forms("esdu", "ESD-U", "concepts erased from all other weights", EDITED, source="arXiv:2303.07345"),
        *_forms("soft_prompt", "Soft prompt", "a learned word behind the prompt", WORDS, source="arXiv:2501.03544"),
        *_forms("safetydpo", "SafetyDPO", "LoRA experts, merged", LORA, source="arXiv:2412.10493"),
        Method(
            "psa-published", "Published adapter", "user tokens in every cross-attention", personal=True, weights=ADAPTER
        ),
        Method(
            "psa-prompt-words",
            "PSAlign, in words",
            "sees the banned kinds as words alone",
            personal=True,
            weights=ADAPTER,
        ),
        Method(
            "psa-prompt-vector", "PSAlign, by vector", "sees the user's vector alone", personal=True, weights=ADAPTER
        ),
        Method("psa-prompt", "PSAlign", "rewrites the prompt for its user", personal=True, weights=ADAPTER),
        Method("psa", "PSAlign", "each row's own user", personal=True, weights=ADAPTER),
    )
}
OURS = ("psa-prompt", "psa")  # psa: the adapter that is given, of either kind, as the published folders name it
BASES = {"sd15": "SD1.5", "sdxl": "SDXL", "mini": "mini base"}
