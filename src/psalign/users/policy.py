"""What a profile bans: rules of the taxonomy, own ban list and limits together. Step 2 of the path of data.

The rules are the floor: a user, or a language model, may add categories and can never take one away.
A limit in a person's own words that names a category ("no violence") bans it as long as the limit holds.
A field that is not known sets off no rule. A ban list covers what the rules then miss. Where nothing at all is known
of a user, their bans are unknown: every function here refuses such a profile.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from functools import lru_cache

from ..categories import HINT, Rule, category_names, current
from ..errors import UnknownUser, UsageError
from .limits import active
from .profile import VOCABULARY, UserProfile

EXPLICIT = "own ban list"
BY_LIMIT = {"user": "the user's own limit", "guardian": "the guardian's limit", "operator": "the operator's limit"}

Bans = tuple[str, ...] | None  # None: not known, which is never the same as none


def united_bans(*lists: Collection[str] | None) -> Bans:
    """Every category of any list, in the order of the taxonomy; None where no list is known."""
    known = [bans for bans in lists if bans is not None]
    return _in_order({category for bans in known for category in bans}) if known else None


def rules() -> tuple[Rule, ...]:
    """The rules of the taxonomy in use.

    Raises UsageError for one about a field, or a word, that no profile has.
    """
    return _checked(current().rules)


def banned_categories(profile: UserProfile, *, today: date | None = None) -> tuple[str, ...]:
    """Categories this user bans, in the order of the taxonomy: rules, own ban list and limits together.

    today: the day on which limits must hold; None: the day of this call.
    Raises UnknownUser for a profile of nothing but an id.
    Source: measured on the 1,001 published users, whose lists the rules give exactly (docs/PAPER.md).
    """
    return _in_order(explain(profile, today=today))


def standing_bans(profile: UserProfile) -> tuple[str, ...]:
    """The same without limits, which may end."""
    return _in_order(_standing(profile))


def explain(profile: UserProfile, *, today: date | None = None) -> dict[str, list[str]]:
    """Banned category -> names of what bans it: rules, own ban list, limits that hold on a day (None: today).

    The names reveal things about the person: show them to that user only.
    """
    reasons = _standing(profile)
    for limit in active(profile.limits or (), today or date.today()):
        for category in limit.categories:
            names = reasons.setdefault(category, [])
            if BY_LIMIT[limit.by] not in names:
                names.append(BY_LIMIT[limit.by])
    return {category: reasons[category] for category in _in_order(reasons)}


def _standing(profile: UserProfile) -> dict[str, list[str]]:
    if profile.is_blank:
        raise UnknownUser(
            f"Nothing says what user {profile.user_id} bans, and unknown bans are not taken for none.",
            hint="Give the profile a ban list (an empty one, banned=(), bans nothing), limits in words or attributes.",
        )
    reasons: dict[str, list[str]] = {}
    applying = [rule for rule in rules() if getattr(profile, rule.field) in rule.values]
    for category in category_names():
        names = [rule.name for rule in applying if category in rule.bans]
        if category in (profile.banned or ()):
            names.append(EXPLICIT)
        if names:
            reasons[category] = names
    return reasons


def _in_order(found: Collection[str]) -> tuple[str, ...]:
    return tuple(category for category in category_names() if category in found)


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
