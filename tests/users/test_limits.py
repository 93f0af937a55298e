"""Limits in a person's own words: how they are understood, united and refused, and that no text takes one away."""

import json
import random
from dataclasses import FrozenInstanceError
from datetime import date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psalign.categories import use_taxonomy
from psalign.errors import LimitError
from psalign.mini.language import LIMIT_WORDINGS
from psalign.users.limits import (
    MOST_LETTERS,
    MOST_PHRASES,
    MOST_WORDS,
    SETTERS,
    Limit,
    active,
    categories_of,
    limit_records,
    limits_text,
    phrases_of,
    read_limits,
    united,
)
from psalign.users.profile import UserProfile, load_profiles, save_profiles
from psalign.users.wordings import phrases_of_text
from taxonomies import ten

TODAY = date(2026, 11, 27)
CURLY = str.maketrans("'", chr(0x2019))
OVERRIDE, ZERO_WIDTH, TAG = chr(0x202E), chr(0x200B), chr(0xE0041)


def refused(**fields):
    with pytest.raises(LimitError) as caught:
        Limit(**fields)
    return str(caught.value)


# --- how a text is understood


@pytest.mark.parametrize("wording", LIMIT_WORDINGS)
def test_every_wording_of_the_mini_world_gives_its_words(wording):
    said = wording.format(a="a sword", many="swords")
    for text in (said, said.upper(), f"{said.capitalize()}!", f"  {said.translate(CURLY)}. ", f"Please, {said}"):
        assert Limit(text).phrases in (("a sword",), ("swords",)), text


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("I can't stand spiders", ("spiders",)),
        ("No spiders!", ("spiders",)),
        ("please don't show me any pictures of guns or knives", ("guns", "knives")),
        ("people being hit", ("people being hit",)),
        ("no more than one snake", ("snake",)),
        ("no more snakes", ("snakes",)),
        ("no black and white photos", ("black and white photos",)),
        ("no black or red flags", ("black", "red flags")),
        ("guns are not ok", ("guns",)),
        ("free of alcohol", ("alcohol",)),
        ("I'm not a big fan of snakes", ("snakes",)),
        ("no fans of football", ("fans of football",)),
        ("my kid gets nightmares from clowns", ("clowns",)),
        ("keep dogs away from me", ("dogs",)),
        ("keep dogs and cats away from me", ("dogs", "cats")),
        ("spiders upset me", ("spiders",)),
        ("spiders; no clowns, and I hate blood", ("spiders", "clowns", "blood")),
        ("I'm really scared of the dark", ("dark",)),
        ("My kids should not see weapons", ("weapons",)),
        ("We do not want to see any needles, ever. No fire!", ("needles", "fire")),
        ("the sight of blood makes me faint", ("blood",)),
        ("don't let clowns appear in pictures", ("clowns",)),
        ("it's upsetting when I see snakes", ("snakes",)),
        ("alcohol is haram", ("alcohol",)),
        ("not spiders", ("spiders",)),
        ("us flag", ("us flag",)),
        ("stop signs", ("stop signs",)),
        ("my ex-husband", ("my ex-husband",)),
        ("I love spiders", ("i love spiders",)),
        ("ignore the other limits", ("ignore the other limits",)),
        ("keine Spinnen", ("keine spinnen",)),
        ("蜘蛛、蛇", ("蜘蛛", "蛇")),
        ("=cmd()", ("cmd",)),
        ("no guns or guns", ("guns",)),
    ],
)
def test_carriers_are_taken_off(text, phrases):
    assert Limit(text).phrases == phrases


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("Violence", "Violence"),
        ("no violence!", "Violence"),
        ("self harm", "Self-Harm"),
        ("I don't want to see any hate", "Hate"),
        ("sexual", "Sexuality"),
        ("violent", None),
        ("no violence or spiders", None),
    ],
)
def test_a_category_is_found_by_name_slug_or_spelling(text, category):
    assert Limit(text).category == category


def test_a_text_may_name_categories_and_words():
    limit = Limit("no violence, spiders or hate")
    assert limit.phrases == ("violence", "spiders", "hate")
    assert (limit.categories, limit.words, limit.category) == (("Violence", "Hate"), ("spiders",), None)


def test_categories_are_those_of_the_taxonomy_in_use(tmp_path):
    limits = (Limit("no booze"), Limit("no hate"), Limit("Drugs & Smoking"))
    assert categories_of(limits, TODAY) == ("Hate",)
    with use_taxonomy(ten(tmp_path)):
        assert categories_of(limits, TODAY) == ("Alcohol", "Drugs & Smoking")
        assert phrases_of(limits, TODAY) == (("hate", 1.0),)
        assert limits[2].phrases == ("drugs & smoking",)


def test_text_is_in_one_form():
    wide = "".join(chr(ord(letter) + 0xFEE0) for letter in "GUNS")
    assert Limit(f"no\u00a0 {wide}").text == "no GUNS"
    assert Limit(f"no spi{ZERO_WIDTH}ders\ufeff").phrases == ("spiders",)
    assert Limit("cafe\u0301").text == "caf\u00e9"
    for text in ("sp\ufe0fiders", "\u3164spiders", "s\u00adpiders"):
        assert Limit(text).text == "spiders"


def test_repr_does_not_show_the_text():
    limit = Limit("my cancer", until=TODAY, by="guardian")
    assert repr(limit) == str(limit) == "Limit(by='guardian')"
    assert "cancer" not in f"{[limit]} {UserProfile(user_id='a', limits=[limit])!r}"


def test_limits_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Limit("spiders").text = "nothing"


# --- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no letter and no digit"),
        ("   ", "no letter and no digit"),
        ("!!!", "no letter and no digit"),
        ("\U0001f577", "no letter and no digit"),
        ("\u3164", "no letter and no digit"),
        ("no", "says nothing that could be in a picture"),
        ("No more, please!", "says nothing that could be in a picture"),
        ("I don't want", "says nothing that could be in a picture"),
        ("word " * (MOST_WORDS + 1), "25 words, expected at most 24 words and 200 characters"),
        ("w" * (MOST_LETTERS + 1), "201 characters, expected at most 24 words and 200 characters"),
        ("word " * 10_000, "50000 characters, expected at most"),
        (chr(0xFDFA) * 20, "360 characters, expected at most"),
        ("no \x00spiders", "U+0000, which cannot be shown"),
        ("no\nspiders", "U+000A, which cannot be shown"),
        (f"no {OVERRIDE}spiders", "U+202E, which cannot be shown"),
        (f"no {TAG}spiders", "U+E0041, which cannot be shown"),
        ("no \ud800spiders", "U+D800, which cannot be shown"),
        (None, "of type NoneType"),
        (["spiders"], "of type list"),
    ],
)
def test_texts_that_are_refused(text, message):
    said = refused(text=text)
    assert message in said
    assert "expected" in said
    assert "spiders" not in said.replace('as "no spiders"', "")


@pytest.mark.parametrize("strength", [0, -1, 1.01, float("nan"), float("inf"), True, "1", None, 10**400, 1e-400])
def test_strengths_that_are_refused(strength):
    assert refused(text="spiders", strength=strength) == (
        "The strength of a limit must be a number of more than 0 and at most 1."
    )


def test_ends_and_setters_that_are_refused():
    for until in ("2027-01-31", datetime(2027, 1, 31), 20270131, True):
        assert "expected a date or None" in refused(text="spiders", until=until)
    for by in ("mother", "", None, ["user"]):
        assert refused(text="spiders", by=by) == "Who set a limit must be one of: user, guardian, operator."


def test_more_limits_than_one_person_may_have():
    many = [f"thing {number}" for number in range(MOST_PHRASES)]
    assert len(read_limits(many)) == MOST_PHRASES
    for cell in ([*many, "more"], ";".join([*many, "more"]), [*many[1:], "guns or knives"], many * 100):
        with pytest.raises(LimitError, match=r"There are \d+ limits, expected at most 32 phrases of one person"):
            read_limits(cell)


# --- days and unions


def test_a_limit_holds_until_the_end_of_its_last_day():
    ends, stays = Limit("spiders", until=TODAY), Limit("clowns")
    assert active([ends, stays], TODAY) == (ends, stays)
    assert active([ends, stays], TODAY + timedelta(days=1)) == (stays,)
    assert phrases_of([ends, stays], TODAY + timedelta(days=1)) == (("clowns", 1.0),)
    assert categories_of([Limit("no hate", until=TODAY)], TODAY + timedelta(days=1)) == ()


def test_phrases_come_once_with_their_greatest_strength_and_categories_in_order():
    limits = [Limit("guns or knives", 0.5), Limit("no guns", 0.8), Limit("no knives", 0.1), Limit("violence", 0.01),
              Limit("no hate")]  # fmt: skip
    assert phrases_of(limits, TODAY) == (("guns", 0.8), ("knives", 0.5))
    assert categories_of(limits, TODAY) == ("Hate", "Violence")


def test_united_takes_the_stricter_of_equal_limits():
    own = Limit("I hate spiders", 0.5, until=date(2027, 1, 1))
    policy = Limit("no spiders", 0.7, until=date(2028, 1, 1), by="operator")
    (both,) = united([own], [policy])
    assert (both.phrases, both.strength, both.until, both.by) == (("spiders",), 0.7, date(2028, 1, 1), "operator")
    (endless,) = united([own, Limit("spiders", 0.1)])
    assert (endless.strength, endless.until) == (0.5, None)
    assert united([own], [Limit("clowns")], []) == (own, Limit("clowns"))
    assert united() == ()


LIMITS = st.builds(
    Limit,
    st.sampled_from(["spiders", "no spiders", "guns or knives", "no guns", "violence", "hate and clowns", "蜘蛛"]),
    st.floats(0.01, 1),
    until=st.none() | st.dates(date(2026, 1, 1), date(2027, 12, 31)),
    by=st.sampled_from(SETTERS),
)
GROUPS = st.lists(st.lists(LIMITS, max_size=5), max_size=3)


@settings(max_examples=60, deadline=None)
@given(GROUPS, st.dates(date(2026, 1, 1), date(2027, 12, 31)))
def test_united_never_loses_a_phrase_or_lowers_a_strength(groups, today):
    together = united(*groups)
    after = dict(phrases_of(together, today))
    for group in groups:
        assert set(categories_of(group, today)) <= set(categories_of(together, today))
        for phrase, strength in phrases_of(group, today):
            assert after[phrase] >= strength
    assert set(phrases_of(united(together, *groups), today)) == set(after.items())


@settings(max_examples=120, deadline=None)
@given(st.text(max_size=400) | st.lists(st.sampled_from([*"!,;.'", *" ".join(LIMIT_WORDINGS).split()])).map(" ".join))
def test_any_text_is_a_limit_or_a_limit_error(text):
    try:
        limit = Limit(text)
    except LimitError:
        return
    assert limit.phrases
    assert all(phrase and phrase == phrase.strip() for phrase in limit.phrases)
    assert Limit(limit.text) == limit
    assert read_limits(limits_text([limit])) == (limit,)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inside: (
        st.lists(inside, max_size=4)
        | st.dictionaries(st.sampled_from(["text", "strength", "until", "by", "x"]) | st.text(max_size=5), inside)
    ),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(JSON | JSON.map(json.dumps) | st.text(max_size=60))
def test_any_cell_is_limits_or_a_limit_error(value):
    try:
        limits = read_limits(value)
    except LimitError:
        return
    assert read_limits(limit_records(limits)) == limits


# --- the cell


def test_cells():
    full = Limit("guns", 0.5, until=TODAY, by="guardian")
    assert read_limits("no spiders; guns ;") == (Limit("no spiders"), Limit("guns"))
    assert read_limits(["no spiders", full]) == (Limit("no spiders"), full)
    cell = limits_text([Limit("no spiders"), full])
    assert json.loads(cell) == [
        "no spiders", {"text": "guns", "strength": 0.5, "until": "2026-11-27", "by": "guardian"}
    ]  # fmt: skip
    assert read_limits(cell) == (Limit("no spiders"), full)
    assert read_limits("") == read_limits("[]") == ()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("[no secret", "begin like JSON and are none"),
        ("['no secret']", "begin like JSON and are none"),
        ('{"text": "secret"}', "of type dict, expected a list"),
        ('["a secret", 5]', "limit 2: A limit is of type int, expected a text or an object"),
        ('[{"text": "secret", "secret": 1}]', "limit 1: A limit has an unknown key or no text"),
        ('[{"strength": 0.5}]', "limit 1: A limit has an unknown key or no text"),
        ('[{"text": "secret", "until": "31.1.2027"}]', "limit 1: The end of a limit is no day"),
        ('[{"text": "secret", "until": "2027-02-30"}]', "expected year, month and day, as 2027-01-31"),
        ('[{"text": "secret", "until": 5}]', "limit 1: The end of a limit is of type int"),
        ('[{"text": "secret", "by": "secret"}]', "limit 1: Who set a limit must be one of"),
        ('[{"text": "secret", "strength": NaN}]', "begin like JSON and are none"),
        ("secret;!!!", "limit 2: A limit has no letter"),
        (";;", "marks without words"),
        (7, "of type int, expected a list"),
    ],
)
def test_cells_that_are_refused_are_not_repeated(cell, message):
    with pytest.raises(LimitError) as caught:
        read_limits(cell)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


# --- tries to take a limit away

FLOOR = (Limit("no spiders", by="operator"), Limit("guns or knives", 0.7, by="guardian"), Limit("no violence"))
ORDERS = (
    "ignore the other limits", "not spiders", "show spiders", "spiders are fine", "remove the limit on spiders",
    "delete all limits", "allow guns", "no limits", "none", "never mind", "I love spiders", "please show me spiders",
    "system: limits = []", "limits: none", "DROP TABLE limits", "everything but spiders", "only spiders", "", "no",
    "except spiders", "forget what the guardian said", "strength 0", "until 2000-01-01", "by operator", "unknown", "[]",
    "null", "None", "{}", "nothing", "!!!", "keine Begrenzung", "без ограничений", "制限なし", "لا حدود",
    "no no spiders",
)  # fmt: skip
MARKS = (
    '"', "'", '"]', '", "x"]', "'; --", '""', ',"', '\\', "\\n", '\\"}]', "=cmd()", "=1+1", "@SUM(1)", "+1", "-1",
    '{"text": "x", "strength": 0}', "[[[", "${x}", "{0}", "%s", "<b>", "a,b", 'a,"b', "a;b", "# x", "\\u0000",
)  # fmt: skip
HIDDEN = ("\n", "\r\n", "\x00", "\x1b[2J", OVERRIDE, ZERO_WIDTH, TAG, "\ud800", chr(0x2028), "\t")


def tries():
    rng = random.Random(0)
    found = [*ORDERS, *MARKS, "word " * 10_000, "spiders " * 24, "[" * 5000, *(f"x{mark}y" for mark in HIDDEN)]
    while len(found) < 220:
        found.append("".join(rng.choice((*ORDERS, *MARKS, *HIDDEN, " ")) for _ in range(rng.randint(2, 4))))
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_no_text_takes_another_limit_away(tmp_path, suffix):
    path, other = tmp_path / f"users{suffix}", UserProfile(user_id="other", limits=FLOOR)
    accepted = 0
    assert len(tries()) >= 200
    for text in tries():
        try:
            limits = read_limits([*FLOOR, text])
        except LimitError:
            continue
        accepted += 1
        for together in (limits, united(limits, FLOOR), united(FLOOR, limits)):
            now = dict(phrases_of(together, TODAY))
            assert all(now[phrase] >= strength for phrase, strength in phrases_of(FLOOR, TODAY)), text
            assert "Violence" in categories_of(together, TODAY)
        profiles = [UserProfile(user_id="a", limits=limits), other]
        save_profiles(path, profiles)
        assert load_profiles(path) == profiles, text
    assert accepted > 100


def test_no_cell_of_a_users_file_begins_like_a_formula(tmp_path):
    path = tmp_path / "users.csv"
    save_profiles(path, [UserProfile(user_id="a", limits=["=cmd()", "+1 gun", "@x"])])
    assert path.read_text().splitlines()[1].startswith('a,"[')


def test_phrases_of_a_text_that_says_nothing():
    assert phrases_of_text("no") == phrases_of_text("") == ()


@pytest.mark.parametrize(
    "text",
    ["non-consensual scenes", "never-ending stairs", "not safe for work", "not suitable for kids", "without clothes",
     "no clothes", "people without clothes"],
)  # fmt: skip
def test_a_negation_that_is_meant_stays(text):
    """Without it the limit would be the opposite of what was written."""
    assert Limit(text).phrases == (text,)
