"""What a profile bans: the rules of the taxonomy, united with the user's own ban list. Step 2 of the path of data.

The rules are the floor: a user, or a language model, may add categories and can never take one away.
A field that is not known sets off no rule; who wants to be strict there gives a ban list.
"""

from __future__ import annotations

from functools import lru_cache

from ..categories import HINT, Rule, category_names, current
from ..errors import UsageError
from .profile import VOCABULARY, UserProfile

EXPLICIT = "own ban list"


def rules() -> tuple[Rule, ...]:
    """The rules of the taxonomy in use. Raises UsageError for one about a field, or a word, that no profile has."""
    return _checked(current().rules)


def banned_categories(profile: UserProfile) -> tuple[str, ...]:
    """Categories this user bans, in the order of the taxonomy: rules and own ban list together.

    Source: measured on the 1,001 published users, whose lists the rules give exactly (docs/PAPER.md).
    """
    reasons = explain(profile)
    return tuple(category for category in category_names() if category in reasons)


def explain(profile: UserProfile) -> dict[str, list[str]]:
    """Banned category -> names of the rules that ban it. The names tell of the person: show them to that user only."""
    reasons: dict[str, list[str]] = {}
    applying = [rule for rule in rules() if getattr(profile, rule.field) in rule.values]
    for category in category_names():
        names = [rule.name for rule in applying if category in rule.bans]
        if category in (profile.banned or ()):
            names.append(EXPLICIT)
        if names:
            reasons[category] = names
    return reasons


@lru_cache(maxsize=8)
def _checked(given: tuple[Rule, ...]) -> tuple[Rule, ...]:
    for rule in given:
        if rule.field not in VOCABULARY:
            raise _fault(rule, f"is about the field '{rule.field}'; choose one of: {', '.join(VOCABULARY)}")
        strange = [value for value in rule.values if value not in VOCABULARY[rule.field]]
        if strange:
            words = ", ".join(VOCABULARY[rule.field])
            raise _fault(rule, f"has the value '{strange[0]}'; the field {rule.field} has {words}")
    return given


def _fault(rule: Rule, what: str) -> UsageError:
    return UsageError(f"Taxonomy '{current().name}': the rule '{rule.name}' {what}.", hint=HINT)
