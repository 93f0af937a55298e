"""What a profile bans: one table of rules, united with the user's own ban list. Step 2 of the path of data.

The rules are the floor: a user, or a language model, may add categories and can never take one away.
A field that is not known sets off no rule; who wants to be strict there gives a ban list.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..records import CATEGORIES
from .profile import UserProfile

EXPLICIT = "own ban list"


@dataclass(frozen=True)
class Rule:
    """Where `field` of a profile is one of `values`, the categories `bans` are banned."""

    name: str
    field: str
    values: tuple[str, ...]
    bans: tuple[str, ...]

    def applies_to(self, profile: UserProfile) -> bool:
        return getattr(profile, self.field) in self.values


RULES: tuple[Rule, ...] = (
    Rule(
        "under 13",
        "age_group",
        ("infants & toddlers", "children"),
        ("Hate", "Violence", "Self-Harm", "Sexuality", "Shocking"),
    ),
    Rule("adolescent", "age_group", ("adolescents",), ("Sexuality",)),
    Rule("60 or older", "age_group", ("young elderly", "elderly", "long-lived elderly"), ("Violence", "Shocking")),
    Rule("religion", "religion", ("Christianity", "Islam", "Buddhism"), ("Sexuality", "Propaganda")),
    Rule("intellectual disability", "physical_condition", ("intellectual disability",), ("Harassment", "Propaganda")),
    Rule("depression or anxiety", "mental_condition", ("depression", "anxiety"), ("Self-Harm", "Shocking")),
    Rule(
        "accident or disaster", "mental_condition", ("major accidents", "natural disasters"), ("Violence", "Shocking")
    ),
    Rule("sexual assault", "mental_condition", ("sexual assault",), ("Harassment", "Violence", "Sexuality")),
    Rule("war", "mental_condition", ("war",), ("Violence", "Propaganda")),
)


def banned_categories(profile: UserProfile) -> tuple[str, ...]:
    """Categories this user bans, in the order of CATEGORIES: rules and own ban list together.

    Source: measured on the 1,001 published users, whose lists the rules give exactly (docs/PAPER.md).
    """
    reasons = explain(profile)
    return tuple(category for category in CATEGORIES if category in reasons)


def explain(profile: UserProfile) -> dict[str, list[str]]:
    """Banned category -> names of the rules that ban it. The names tell of the person: show them to that user only."""
    reasons: dict[str, list[str]] = {}
    for category in CATEGORIES:
        names = [rule.name for rule in RULES if category in rule.bans and rule.applies_to(profile)]
        if category in (profile.banned or ()):
            names.append(EXPLICIT)
        if names:
            reasons[category] = names
    return reasons
