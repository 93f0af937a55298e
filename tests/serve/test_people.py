"""People of the service: sealed at rest, never loosened in silence, erased when they ask; on both databases."""

import json
import sqlite3
import stat
from datetime import date, timedelta

import pytest
from sqlalchemy import text

from postgres import postgres
from psalign.errors import OutputError, ProfileError, UnknownUser, UsageError
from psalign.serve.database import Database
from psalign.serve.keys import ApiKeys, Caller, RateLimits
from psalign.serve.people import People, loosened
from psalign.serve.sealing import VARIABLE, Seal
from psalign.users.limits import Limit
from psalign.users.policy import banned_categories
from psalign.users.profile import UserProfile

SEAL = Seal(bytes(range(32)))
ANNA = UserProfile(user_id="anna", age=41, religion="Islam", banned=("Violence",), limits=("no tarantulas",))


@pytest.fixture(scope="module")
def server():
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """An empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "people.db")
    url = request.getfixturevalue("server")
    database = Database(url)
    with database.begin() as connection:
        for table in ("people", "api_keys", "audit"):
            connection.execute(text(f"DROP TABLE {table}"))
    database.close()
    return url


@pytest.fixture
def people(place):
    database = Database(place)
    yield People(database, SEAL)
    database.close()


def add(people, profile=ANNA, who="anna", **more):
    return people.add("shop", who, profile, actor="test", **more)


def test_a_person_is_found_by_account_and_identifier_alone(people):
    add(people)
    assert people.find("shop", "anna") == ANNA
    for account, who in (("club", "anna"), ("shop", "Anna"), ("shop", "anna "), ("shopanna", ""), ("", "shopanna")):
        assert people.find(account, who) is None


def test_nothing_about_a_person_can_be_read_at_rest(people, place, tmp_path):
    add(people, who="mail@example.org")
    with people.database.begin() as connection:
        rows = str([connection.execute(text(f"SELECT * FROM {table}")).all() for table in ("people", "audit")])
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir()) + rows.encode()
    for word in (b"mail@example", b"Islam", b"tarantula", b"Violence", b'"age"'):
        assert word not in held


def test_adding_never_loosens(people):
    add(people)
    held = add(people, UserProfile(user_id="anna", age=30, religion="None", banned=(), limits=("no dogs",)))
    assert set(banned_categories(ANNA)) <= set(banned_categories(held))
    assert [limit.text for limit in held.limits] == ["no tarantulas", "no dogs"]
    assert people.find("shop", "anna") == held
    assert people.audit.rows() == []
    assert people.count("shop") == 1


def test_limits_alone_leave_the_ban_list_unknown_until_it_is_said(people):
    only = add(people, UserProfile(user_id="anna", limits=("no dogs",)))
    assert only.banned is None
    assert add(people, UserProfile(user_id="anna", banned=("Hate",))).banned == ("Hate",)


def test_replacing_loosens_and_the_audit_says_so_without_a_word_of_it(people):
    add(people)
    add(people, UserProfile(user_id="anna", banned=("Shocking",)), replaces=True)
    (row,) = people.audit.rows()
    lost = set(banned_categories(ANNA)) - {"Shocking"}
    assert (row["action"], row["actor"]) == ("loosened", "test")
    assert json.loads(row["facts"]) == {"categories": len(lost), "phrases": 1}
    assert "anna" not in str(row)
    add(people, UserProfile(user_id="anna", banned=("Shocking", "Hate")), replaces=True)  # tightens
    assert len(people.audit.rows()) == 1


@pytest.mark.parametrize(
    ("before", "after", "phrases"),
    [
        (Limit("no dogs"), Limit("no dogs", 0.5), 1),
        (Limit("no dogs", 0.5), Limit("no dogs"), 0),
        (Limit("no dogs"), Limit("no dogs", until=date.today() + timedelta(9)), 1),
        (Limit("no dogs", until=date.today() + timedelta(9)), Limit("no dogs"), 0),
        (Limit("no dogs", until=date.today() - timedelta(9)), Limit("no cats"), 0),
        (Limit("no dogs or cats"), Limit("no cats"), 1),
    ],
)
def test_what_counts_as_loosening_a_limit_in_words(before, after, phrases):
    profiles = [UserProfile(user_id="a", banned=(), limits=(limit,)) for limit in (before, after)]
    assert loosened(*profiles) == ({"categories": 0, "phrases": phrases} if phrases else {})


def test_the_audit_is_append_only_and_a_change_behind_its_back_is_found(people):
    for who in ("anna", "ben", "carl"):
        add(people, who=who)
        people.erase("shop", who, actor="test")
    assert people.audit.verify() == 3
    for command in ("UPDATE audit SET actor = 'nobody'", "DELETE FROM audit"):
        with pytest.raises(OutputError, match="append-only"), people.database.begin() as connection:
            connection.execute(text(command))
    with people.database.begin() as connection:
        for trigger in ("audit_no_delete", "audit_no_update") if people.database.engine.name == "sqlite" else ():
            connection.execute(text(f"DROP TRIGGER {trigger}"))
        if people.database.engine.name == "postgresql":
            connection.execute(text("DROP TRIGGER audit_append_only ON audit"))
        connection.execute(text("DELETE FROM audit WHERE number = 2"))
    with pytest.raises(OutputError, match="row 2"):
        people.audit.verify()


def test_export_has_everything_and_erasing_leaves_nothing(people):
    add(people)
    add(people, UserProfile(user_id="anna", banned=()), replaces=True)
    exported = people.export("shop", "anna")
    assert (exported["identifier"], exported["account"]) == ("anna", "shop")
    assert UserProfile(**exported["profile"]).banned == ()
    assert [row["action"] for row in exported["audit"]] == ["loosened"]
    people.erase("shop", "anna", actor="test")
    assert people.find("shop", "anna") is None
    assert people.count() == 0
    for call in (lambda: people.export("shop", "anna"), lambda: people.erase("shop", "anna", actor="test")):
        with pytest.raises(UnknownUser, match="no person"):
            call()


def test_a_sealed_row_opens_under_its_own_name_and_key_alone(people):
    add(people)
    add(people, UserProfile(user_id="ben", banned=()), who="ben")
    names = [SEAL.name("shop", who) for who in ("anna", "ben")]
    with people.database.begin() as connection:  # somebody puts ben's row in the place of anna's
        swap = "UPDATE people SET sealed = (SELECT sealed FROM people WHERE name = :b) WHERE name = :a"
        connection.execute(text(swap), {"a": names[0], "b": names[1]})
    with pytest.raises(ProfileError, match="cannot be read"):
        people.find("shop", "anna")
    other = People(people.database, Seal(bytes(32)))
    assert other.find("shop", "ben") is None  # under another key even the name is another


def test_the_key_comes_from_the_environment_or_a_private_file(tmp_path, monkeypatch):
    seals = [Seal.of_environment(tmp_path / "a.key") for _ in range(2)]
    assert seals[0].name("a", "b") == seals[1].name("a", "b")
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600
    monkeypatch.setenv(VARIABLE, bytes(range(32)).hex())
    assert Seal.of_environment(tmp_path / "a.key").name("a", "b") == SEAL.name("a", "b")
    for wrong in ("", "abc", "00" * 31, "!" * 44):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(UsageError, match="no key of 32 bytes"):
            Seal.of_environment(tmp_path / "a.key")


def test_the_file_of_the_database_is_private(tmp_path):
    Database(str(tmp_path / "deep" / "people.db")).close()
    assert stat.S_IMODE((tmp_path / "deep" / "people.db").stat().st_mode) == 0o600


@pytest.mark.parametrize("place", ["mysql://a/b", "postgresql://a:b@c:d/e", "nothing://"])
def test_another_database_is_refused(place):
    with pytest.raises(UsageError, match="database"):
        Database(place)


def test_a_database_that_cannot_be_reached_or_read_is_an_error_without_values(tmp_path):
    with pytest.raises(OutputError, match="database of the service failed"):
        Database("postgresql://tests@127.0.0.1:1/none")
    (tmp_path / "no.db").write_text("This is no database, whatever its name says." * 100)
    with pytest.raises(OutputError, match="database of the service failed"):
        Database(str(tmp_path / "no.db"))


@pytest.mark.parametrize("who", ["", "a" * 65, "a\nb"])
def test_identifiers_that_nobody_could_give_are_refused(people, who):
    with pytest.raises(UsageError, match="1 to 64 printable"):
        add(people, who=who)


def test_many_at_once_add_to_one_audit(place):
    """Two connections of their own, as two commands have them."""
    both = [People(Database(place), SEAL) for _ in range(2)]
    for number in range(10):
        for side, people in enumerate(both):
            add(people, who=f"{side}-{number}")
            people.erase("shop", f"{side}-{number}", actor="test")
    assert both[0].audit.verify() == 20


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_found_until_it_is_revoked_and_its_secret_is_not_stored(people, place):
    keys = ApiKeys(people.database)
    made = keys.make("shop", per_minute=5, actor="test")
    caller = keys.find(made)
    assert (caller.account, caller.scope, caller.per_minute) == ("shop", "draw", 5)
    with people.database.begin() as connection:
        rows = str(connection.execute(text("SELECT * FROM api_keys")).all())
    assert made.split("_", 2)[2] not in rows
    wrong = [made[:-1], made + "x", made.replace("psk_", "sk_"), "", "psk_", "psk__", "psk_é_x", "psk_%_%", made[4:]]
    assert [keys.find(one) for one in wrong] == [None] * len(wrong)
    keys.revoke(caller.key_id, actor="test")
    assert keys.find(made) is None
    with pytest.raises(UnknownUser, match="no live key"):
        keys.revoke(caller.key_id, actor="test")
    assert [row["action"] for row in people.audit.rows()] == ["key_made", "key_revoked"]
    assert "digest" not in keys.rows()[0]


@pytest.mark.parametrize("wrong", [{"scope": "root"}, {"per_minute": 0}, {"account": ""}])
def test_keys_that_make_no_sense_are_refused(people, wrong):
    with pytest.raises(UsageError):
        ApiKeys(people.database).make(**{"account": "shop", "actor": "test", **wrong})


def test_a_key_has_so_many_pictures_a_minute(monkeypatch):
    moment = 100.0
    monkeypatch.setattr("psalign.serve.keys.monotonic", lambda: moment)
    limits, caller, other = RateLimits(), Caller("a", "shop", "draw", 6), Caller("b", "shop", "draw", 6)
    assert [limits.wait_s(caller, 2) for _ in range(3)] == [0.0] * 3
    assert limits.wait_s(caller, 2) == pytest.approx(20)  # two pictures, six a minute
    assert limits.wait_s(other, 2) == 0
    moment += 20
    assert limits.wait_s(caller, 2) == 0
    assert limits.wait_s(caller, 1) == pytest.approx(10)


def test_sqlite_is_what_it_is_said_to_be(tmp_path):
    Database(f"sqlite:///{tmp_path / 'a.db'}").close()
    assert sqlite3.connect(tmp_path / "a.db").execute("SELECT count(*) FROM people").fetchone() == (0,)
