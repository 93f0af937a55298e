import json
import stat
from dataclasses import replace
from datetime import date
from itertools import combinations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from psalign.errors import EmbeddingMissing, ProfileError, RecipeMismatch, UnknownUser
from psalign.fingerprints import fingerprint
from psalign.users.levels import PUBLISHED_LEVEL_BANS, PUBLISHED_LEVELS, level_bans, level_profiles
from psalign.users.limits import Limit
from psalign.users.policy import banned_categories
from psalign.users.population import sample_profiles
from psalign.users.profile import UserProfile
from psalign.users.space import STD_FLOOR
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import Recipe, StructuredEmbedder
from taxonomies import CATEGORIES

PEOPLE = sample_profiles(300, seed=5)
BAN_LISTS = [
    UserProfile(user_id=f"bans_{size}_{i}", banned=bans)
    for size in range(8)
    for i, bans in enumerate(combinations(CATEGORIES, size))
]


class FixedEmbedder:
    """Gives the array it was made with."""

    def __init__(self, raw, llm_dim=2):
        self.raw = np.asarray(raw, np.float32)
        self.recipe = Recipe("fixed", llm_dim)

    def embed(self, profiles):
        return self.raw


@pytest.fixture(scope="module")
def store():
    return EmbeddingStore.build(PEOPLE, StructuredEmbedder())


@pytest.fixture
def saved(store, tmp_path):
    EmbeddingStore.build(PEOPLE, StructuredEmbedder()).save(tmp_path / "vectors")
    return tmp_path / "vectors"


def bans_as_signs(profiles):
    return np.array([[1.0 if c in banned_categories(p) else -1.0 for c in CATEGORIES] for p in profiles])


# --- recipe and embedder


def test_fingerprint_of_a_recipe_changes_with_everything_in_it():
    recipe = Recipe("structured", 64, 1, {"a": 1, "b": 2})
    assert recipe.fingerprint == Recipe("structured", 64, 1, {"b": 2, "a": 1}).fingerprint
    others = [Recipe("llm", 64, 1), Recipe("structured", 65, 1), Recipe("structured", 64, 2), Recipe("structured", 64)]
    assert len({recipe.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert recipe.fingerprint == fingerprint(
        {"backend": "structured", "llm_dim": 64, "version": 1, "options": {"a": 1, "b": 2}}
    )


@pytest.mark.parametrize("llm_dim", [8, 64, 100])
def test_structured_vectors_have_shape_type_and_recipe(llm_dim):
    embedder = StructuredEmbedder(llm_dim=llm_dim)
    vectors = embedder.embed(PEOPLE[:3])
    assert (vectors.shape, vectors.dtype, embedder.recipe.llm_dim) == ((3, llm_dim), np.float32, llm_dim)
    assert embedder.embed([]).shape == (0, llm_dim)


def test_structured_vectors_are_pinned():
    """Numbers printed by StructuredEmbedder().embed(level_profiles())[[0, 5], :3] when version 1 was made."""
    pinned = [[-0.0365099, 0.2753220, -0.4622613], [0.2067452, -0.1781316, 0.0344277]]
    vectors = StructuredEmbedder().embed(level_profiles())[[0, 5], :3]
    np.testing.assert_allclose(vectors, pinned, atol=2e-6)


def test_a_batch_equals_its_rows_bit_for_bit():
    embedder = StructuredEmbedder()
    alone = np.concatenate([embedder.embed([profile]) for profile in PEOPLE[:16]])
    assert np.array_equal(embedder.embed(PEOPLE[:16]), alone)
    assert np.array_equal(StructuredEmbedder().embed(PEOPLE[:16]), alone)


def test_the_vector_depends_on_bans_and_on_every_field_but_not_on_the_id():
    embedder = StructuredEmbedder()
    changes = [{}, {"banned": ["Hate"]}, {"age": 31}, {"gender": "female"}, {"religion": "None"}]
    changes += [{"physical_condition": "healthy"}, {"mental_condition": "healthy"}]
    vectors = embedder.embed([UserProfile(user_id="a", **{"age": 30, **change}) for change in changes])
    assert len({row.tobytes() for row in vectors}) == len(changes)
    renamed = embedder.embed([UserProfile(user_id="b", age=30)])
    assert np.array_equal(renamed, vectors[:1])


def test_no_coordinate_stands_for_one_category(store):
    """A ban moves most coordinates, and no coordinate moves for one ban only."""
    lists = store.standardise(
        StructuredEmbedder().embed(level_profiles()[:1] + [u for u in BAN_LISTS if len(u.banned) == 1])
    )
    moved = np.abs(lists[1:] - lists[0]) > 0.05  # [7, llm_dim]
    assert moved.mean() > 0.8
    assert (moved.sum(axis=0) >= 2).all()


def test_bans_can_be_read_from_vectors_also_of_people_never_seen(store):
    """A linear readout fitted on 300 people is right for 300 others and for all 128 bare ban lists."""
    inputs = np.c_[store.vectors(store.user_ids), np.ones(len(store))]
    readout = np.linalg.solve(inputs.T @ inputs + np.eye(inputs.shape[1]), inputs.T @ bans_as_signs(PEOPLE))
    for users in (sample_profiles(300, seed=6), BAN_LISTS):
        vectors = store.standardise(StructuredEmbedder().embed(users))
        right = np.sign(np.c_[vectors, np.ones(len(users))] @ readout) == bans_as_signs(users)
        assert right.mean() > 0.99


# --- store


def test_vectors_are_standardised_over_the_population(store):
    vectors = store.vectors(store.user_ids)
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(vectors.std(axis=0), 1, atol=1e-4)
    assert vectors.dtype == np.float32


def test_standardising_by_hand():
    """Raw (1, 5), (3, 5): mean (2, 5), spread (1, 0), the 0 floored: (-1, 0), (1, 0); and (2, 5 + floor) -> (0, 1)."""
    store = EmbeddingStore.build(PEOPLE[:2], FixedEmbedder([[1, 5], [3, 5]]))
    assert store.vectors(["1", "2"]).tolist() == [[-1, 0], [1, 0]]
    raw = np.array([[2, 5 + STD_FLOOR]], np.float32)
    np.testing.assert_allclose(store.standardise(raw), [[0, 1]], atol=1e-4)


def test_vectors_come_in_the_order_asked_for(store):
    everyone = store.vectors(store.user_ids)
    assert np.array_equal(store.vectors(["0000003", "1", "0000003"]), everyone[[2, 0, 2]])
    assert store.vectors([]).shape == (0, 64)


def test_ids_in_every_spelling(store):
    assert "0000033" in store
    assert "33" in store
    assert 33 in store
    assert "9999" not in store
    assert None not in store
    assert len(store) == 300
    assert store.user_ids[:2] == ("0000001", "0000002")


def test_ban_lists_are_kept_beside_the_vectors(store):
    for profile in PEOPLE:
        assert store.banned(profile.user_id) == banned_categories(profile)
    with pytest.raises(EmbeddingMissing, match="user nobody has no embedding"):
        store.banned("nobody")


def test_users_who_join_later_are_standardised_as_the_first_were(store):
    later = EmbeddingStore.build(level_profiles(), StructuredEmbedder(), statistics_of=store)
    expected = store.standardise(StructuredEmbedder().embed(level_profiles()))
    assert np.array_equal(later.vectors(later.user_ids), expected)
    assert later.fingerprint == store.fingerprint
    assert EmbeddingStore.build(PEOPLE[:100], StructuredEmbedder()).fingerprint != store.fingerprint
    with pytest.raises(RecipeMismatch, match=r"\(structured, 8\) cannot be standardised by a store of recipe"):
        EmbeddingStore.build(level_profiles(), StructuredEmbedder(8), statistics_of=store)


def test_save_then_load_is_bit_equal(store, saved):
    loaded = EmbeddingStore.load(saved)
    assert np.array_equal(loaded.vectors(loaded.user_ids), store.vectors(store.user_ids))
    assert (loaded.recipe, loaded.user_ids, loaded.fingerprint) == (store.recipe, store.user_ids, store.fingerprint)
    assert [loaded.banned(user_id) for user_id in loaded.user_ids] == [store.banned(u) for u in store.user_ids]


def test_files_are_private_and_hold_no_profile(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["index.json", "vectors.safetensors"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in saved.iterdir())
    index = json.loads((saved / "index.json").read_text())
    assert sorted(index) == ["banned", "digest", "fingerprint", "format", "recipe", "user_ids"]
    assert len(index["user_ids"]) == len(index["banned"]) == 300


# --- errors


def test_a_missing_user_is_named_with_the_next_command(saved):
    with pytest.raises(EmbeddingMissing) as caught:
        EmbeddingStore.load(saved).vectors(["0000001", "0000333"])
    assert str(caught.value) == (
        f"user 0000333 has no embedding in {saved} (300 users).\n"
        f"Run: psalign embed --users users.csv --out {saved} --force"
    )


def test_many_missing_users_show_the_first_five(store):
    with pytest.raises(EmbeddingMissing) as caught:
        store.vectors([f"u{i}" for i in range(7)])
    assert str(caught.value) == (
        "users u0, u1, u2, u3, u4 and 2 more have no embedding in this store (300 users).\n"
        "Run: psalign embed --users users.csv --out data/embeddings/users"
    )


def test_vectors_that_are_not_finite_are_refused(store):
    with pytest.raises(EmbeddingMissing, match=r"The vector of user 0000002 is not finite \(1 values\)"):
        EmbeddingStore.build(PEOPLE[:2], FixedEmbedder([[1, 2], [np.nan, 2]]))
    with pytest.raises(EmbeddingMissing, match="The vector of row 1 is not finite"):
        store.standardise(np.array([[0.0] * 64, [np.inf] * 64], np.float32))


def test_builds_that_make_no_sense_are_refused():
    with pytest.raises(EmbeddingMissing, match=r"fixed gave vectors of shape \(1, 2\), expected \(2, 2\)"):
        EmbeddingStore.build(PEOPLE[:2], FixedEmbedder([[1, 2]]))
    with pytest.raises(ProfileError, match="There are no users"):
        EmbeddingStore.build([], StructuredEmbedder())
    with pytest.raises(ProfileError, match="saw user 0000001 twice, expected each once"):
        EmbeddingStore.build([PEOPLE[0], PEOPLE[0]], StructuredEmbedder())


def test_no_store_there(tmp_path):
    with pytest.raises(EmbeddingMissing) as caught:
        EmbeddingStore.load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds no user vectors (index.json is missing).\n"
        f"Run: psalign embed --users users.csv --out {tmp_path}"
    )


NOT_WHOLE = "are not of one build, or one of them was changed"


def edit_index(folder, **changes):
    path = folder / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_damaged_stores_are_refused(saved):
    edit_index(saved, banned=[])
    with pytest.raises(EmbeddingMissing, match="are damaged: it has not one ban list for each user"):
        EmbeddingStore.load(saved)
    edit_index(saved, user_ids=["a"], banned=[[]])
    with pytest.raises(EmbeddingMissing, match=NOT_WHOLE):
        EmbeddingStore.load(saved)
    edit_index(saved, recipe={"model": "qwen"})
    with pytest.raises(EmbeddingMissing, match=NOT_WHOLE):
        EmbeddingStore.load(saved)
    (saved / "index.json").write_text("{}")
    with pytest.raises(EmbeddingMissing, match="it has no recipe, fingerprint, user_ids, banned, digest; expected the"):
        EmbeddingStore.load(saved)


def test_vectors_that_were_cut_off_are_refused(saved):
    (saved / "vectors.safetensors").write_bytes(b"cut off")
    with pytest.raises(EmbeddingMissing, match=r"vectors\.safetensors is damaged"):
        EmbeddingStore.load(saved)


@pytest.mark.parametrize("what", ["mean", "vectors", "rows"])
def test_vectors_that_were_changed_are_refused(saved, what):
    tensors = load_file(saved / "vectors.safetensors")
    changed = {"mean": tensors["mean"] + 1, "vectors": tensors["vectors"] * 1.001, "rows": tensors["vectors"][::-1]}
    name = "mean" if what == "mean" else "vectors"
    save_file({**tensors, name: np.ascontiguousarray(changed[what])}, saved / "vectors.safetensors")
    with pytest.raises(EmbeddingMissing, match=NOT_WHOLE):
        EmbeddingStore.load(saved)


CHANGES = {
    "emptied bans": (lambda index: {"banned": [[] for _ in index["banned"]]}, NOT_WHOLE),
    "swapped users": (lambda index: {"user_ids": index["user_ids"][::-1]}, NOT_WHOLE),
    "another recipe": (lambda index: {"recipe": {**index["recipe"], "backend": "llm"}}, NOT_WHOLE),
    "no digest": (lambda index: {"digest": None}, NOT_WHOLE),
    "unknown bans": (lambda index: {"banned": [None, *index["banned"][1:]]}, NOT_WHOLE),
    "unknown category": (lambda index: {"banned": [["Fun"], *index["banned"][1:]]}, NOT_WHOLE),
    "one user twice": (lambda index: {"user_ids": ["a", *index["user_ids"][2:], "a"]}, "one ban list for each user"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_index_that_was_changed_is_refused(saved, change):
    make, message = CHANGES[change]
    edit_index(saved, **make(json.loads((saved / "index.json").read_text())))
    with pytest.raises(EmbeddingMissing, match=message):
        EmbeddingStore.load(saved)


def test_a_store_that_another_process_replaces_is_read_when_it_is_whole(saved, store, monkeypatch):
    """The index of the old store is there beside the vectors of the new one, and a moment later both are new."""
    old = (saved / "index.json").read_bytes()
    store.without(["0000001"]).save(saved)
    new = (saved / "index.json").read_bytes()
    (saved / "index.json").write_bytes(old)
    monkeypatch.setattr("psalign.users.store_reader.time.sleep", lambda _: (saved / "index.json").write_bytes(new))
    assert "0000001" not in EmbeddingStore.load(saved)


def test_a_batch_keeps_order_and_rows_with_no_user():
    store = EmbeddingStore.build(sample_profiles(3, seed=1), StructuredEmbedder())
    first, second = store.user_ids[:2]
    batch = store.batch([second, None, first])
    assert batch.recipe == store.fingerprint
    assert batch.vectors[1] is None
    assert np.array_equal(np.stack([batch.vectors[0], batch.vectors[2]]), store.vectors([second, first]))
    assert store.batch([None]).vectors == (None,)
    with pytest.raises(EmbeddingMissing, match="nobody"):
        store.batch(["nobody", None])


def test_published_vectors_are_given_out_as_they_are(tmp_path):
    """Two files as published, [1, 4] each, with numbers that standardising would change."""
    rows = {"0000033": [[1.0, -75.0, 3.0, 4.0]], "level_3": [[2.0, -75.5, 1.0, 0.0]]}
    for name, row in rows.items():
        np.save(tmp_path / f"{name}.npy", np.array(row, np.float32))
    store = EmbeddingStore.load(tmp_path, profiles=[UserProfile(user_id="33", age=3)])
    assert store.fingerprint == "published"
    np.testing.assert_array_equal(store.vectors(["level_3", "33"]), np.concatenate([rows["level_3"], rows["0000033"]]))
    assert store.banned("33") == ("Hate", "Violence", "Self-Harm", "Sexuality", "Shocking")
    assert store.banned("level_3") == level_bans()[3]
    assert EmbeddingStore.load(tmp_path).banned("33") is None
    with pytest.raises(UnknownUser, match=r"Nothing says what user 33 bans.*\n.*--users"):
        EmbeddingStore.load(tmp_path).known_bans("33")
    np.save(tmp_path / "0000034.npy", np.zeros(3))
    with pytest.raises(EmbeddingMissing, match=r"has 3 numbers|has 4 numbers"):
        EmbeddingStore.load(tmp_path)
    (tmp_path / "0000034.npy").write_bytes(b"nothing")
    with pytest.raises(EmbeddingMissing, match=r"0000034\.npy cannot be read as a numpy array"):
        EmbeddingStore.load(tmp_path)
    np.save(tmp_path / "0000034.npy", np.full(4, np.nan))
    with pytest.raises(EmbeddingMissing, match="user 0000034 is not finite"):
        EmbeddingStore.load(tmp_path)
    np.save(tmp_path / "0000034.npy", np.zeros(4))
    with pytest.raises(EmbeddingMissing, match=r"of 1 of [0-9] users are all zeros.*0000034\.\nRun: psalign embed"):
        EmbeddingStore.load(tmp_path)


def npy(folder, **rows):
    folder.mkdir(exist_ok=True)
    for name, row in rows.items():
        np.save(folder / f"{name}.npy", np.array([row], np.float32))
    return folder


def test_the_published_levels_are_known_by_their_names_and_their_bans(tmp_path):
    """User 501 stands for level 5 in published vectors, and bans all seven whether or not a users file says so."""
    people = {user_id: [float(i), 1.0] for i, user_id in enumerate((*PUBLISHED_LEVELS, "0000033"))}
    store = EmbeddingStore.load(npy(tmp_path, **people))
    for level, user_id in enumerate(PUBLISHED_LEVELS):
        assert store.banned(f"level_{level}") == store.banned(user_id) == PUBLISHED_LEVEL_BANS[level]
        np.testing.assert_array_equal(store.vectors([f"level_{level}"]), store.vectors([user_id]))
    assert "level_5" in store
    assert store.banned("33") is None
    said = EmbeddingStore.load(tmp_path, profiles=[UserProfile(user_id="501", banned=("Hate",))])
    assert said.banned("level_5") == CATEGORIES  # a users file may add to it, never take away


def test_user_501_of_other_vectors_is_a_person(tmp_path):
    store = EmbeddingStore.build([UserProfile(user_id="501", banned=())], StructuredEmbedder())
    assert "level_5" not in store
    assert store.banned("501") == ()


def test_one_user_in_two_files_of_vectors_is_refused(tmp_path):
    npy(tmp_path, **{"33": [1.0, 2.0], "0000033": [3.0, 4.0]})
    with pytest.raises(EmbeddingMissing, match="user 0000033 is there twice"):
        EmbeddingStore.load(tmp_path)


def test_unknown_bans_are_kept_as_unknown(tmp_path):
    store = EmbeddingStore.load(npy(tmp_path / "npy", **{"0000033": [1.0, 2.0]}))
    store.save(tmp_path / "store")
    assert EmbeddingStore.load(tmp_path / "store").banned("33") is None
    store.save_npy(tmp_path / "again")
    assert EmbeddingStore.load(tmp_path / "again").banned("33") is None


def test_npy_files_of_ours_keep_their_recipe_and_bans(tmp_path):
    """What made them is not forgotten: structured vectors never pass for published ones."""
    store = EmbeddingStore.build(sample_profiles(4, seed=2), StructuredEmbedder(16))
    store.save_npy(tmp_path)
    raw = EmbeddingStore.load(tmp_path)
    assert raw.recipe == store.recipe
    assert raw.fingerprint not in (store.fingerprint, "published")
    assert [raw.banned(user_id) for user_id in raw.user_ids] == [store.banned(user_id) for user_id in raw.user_ids]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    for text, message in (
        ('{"recipe": {"backend": "structured", "llm_dim": 3}, "banned": {}}', "width 16.*says 3"),
        ("{}", "it has no recipe, banned; expected what made the vectors"),
        ('{"recipe": {"backend": "structured", "llm_dim": 16}, "banned": {"1": ["Fun"]}}', "is no ban list"),
    ):
        (tmp_path / "recipe.json").write_text(text)
        with pytest.raises(EmbeddingMissing, match=message):
            EmbeddingStore.load(tmp_path)


def test_npy_files_of_ours_whose_vectors_or_bans_were_changed_are_refused(tmp_path):
    people = [UserProfile(user_id=str(n), banned=("Hate",), age=40 + n) for n in (1, 2)]
    store = EmbeddingStore.build(people, StructuredEmbedder(8))
    store.save_npy(tmp_path)
    index = json.loads((tmp_path / "recipe.json").read_text())
    (tmp_path / "0000002.npy").rename(tmp_path / "0000003.npy")  # of no user that is told of: bans are not known
    assert EmbeddingStore.load(tmp_path).banned("3") is None
    (tmp_path / "0000003.npy").rename(tmp_path / "0000001.npy")
    with pytest.raises(EmbeddingMissing, match=r"vectors and recipe\.json are not of one build"):
        EmbeddingStore.load(tmp_path)
    store.save_npy(tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps({**index, "banned": {"0000001": [], "0000002": []}}))
    with pytest.raises(EmbeddingMissing, match="or one of them was changed"):
        EmbeddingStore.load(tmp_path)


# --- limits in words

PAST = date(2020, 1, 1)
SPEAKERS = [
    UserProfile(user_id="anna", banned=("Hate",), limits=["no spiders", {"text": "guns or knives", "strength": 0.5}]),
    UserProfile(user_id="ben", banned=(), limits=["no violence", Limit("clowns", until=PAST)]),
    UserProfile(user_id="carl", age=30),
]
QUIET = [profile.model_copy(update={"limits": None}) for profile in SPEAKERS]
LISTED = (("spiders", 1.0), ("guns", 0.5), ("knives", 0.5))


@pytest.fixture
def speakers():
    return EmbeddingStore.build(SPEAKERS, StructuredEmbedder(16), exact=True)


def test_words_change_no_vector_and_a_category_bans(speakers):
    quiet = EmbeddingStore.build(QUIET, StructuredEmbedder(16), statistics_of=speakers)
    assert np.array_equal(speakers.vectors(["anna", "carl"]), quiet.vectors(["anna", "carl"]))
    assert not np.array_equal(speakers.vectors(["ben"]), quiet.vectors(["ben"]))
    assert [speakers.limits(user.user_id) for user in SPEAKERS] == [LISTED, (), ()]
    assert [speakers.banned(user.user_id) for user in SPEAKERS] == [("Hate",), ("Violence",), ()]
    assert speakers.limits("ben", today=PAST) == (("clowns", 1.0),)


def test_a_batch_hands_over_bans_and_limits(speakers):
    batch = speakers.batch(["ben", None, "anna"])
    assert [None if row is None else list(row) for row in batch.bans] == [
        [float(name == "Violence") for name in CATEGORIES],
        None,
        [float(name == "Hate") for name in CATEGORIES],
    ]
    assert batch.bans[0].dtype == np.float32
    assert batch.limits == ((), (), LISTED)
    assert "spiders" not in repr(batch)
    loose = speakers.batch(["ben", None, "anna"], exact=False)
    assert loose.bans == (None, None, None)
    assert loose.limits == batch.limits


def test_limits_are_kept_by_all_that_makes_another_store(speakers, tmp_path):
    speakers.save(tmp_path / "vectors")
    speakers.save_npy(tmp_path / "npy")
    same = [speakers.without(["carl"]), speakers.raw(), EmbeddingStore.load(tmp_path / "vectors"),
            EmbeddingStore.load(tmp_path / "npy"), speakers.replaced(np.ones((3, 4), np.float32), "fixed", options={}),
            speakers.joined(EmbeddingStore.build(QUIET[:1], StructuredEmbedder(16), statistics_of=speakers)),
            EmbeddingStore.load(tmp_path / "vectors", profiles=QUIET)]  # fmt: skip
    for store in same:
        assert (store.limits("anna"), store.banned("ben")) == (LISTED, ("Violence",))
    assert stat.S_IMODE((tmp_path / "vectors/index.json").stat().st_mode) == 0o600
    gone = speakers.without(["anna"])
    gone.save(tmp_path / "vectors")
    assert "spiders" not in (tmp_path / "vectors/index.json").read_text()


def test_with_limits_adds_and_never_takes_away(speakers):
    policy = [
        UserProfile(user_id=user_id, limits=[Limit("no guns", by="operator"), Limit("no hate", 0.1, by="operator")])
        for user_id in ("anna", "carl", "stranger")
    ]
    more = speakers.with_limits(policy)
    assert dict(more.limits("anna")) == {"spiders": 1.0, "guns": 1.0, "knives": 0.5}
    assert (more.limits("carl"), more.banned("carl"), more.banned("anna")) == ((("guns", 1.0),), ("Hate",), ("Hate",))
    assert more.limits("ben") == speakers.limits("ben")
    assert np.array_equal(more.raw().vectors(["carl"]), speakers.raw().vectors(["carl"]))
    assert more.with_limits(QUIET).limits("anna") == more.limits("anna")
    assert more.with_limits([]).fingerprint == speakers.fingerprint
    many = [UserProfile(user_id="anna", limits=[f"thing {n}" for n in range(k, k + 32)]) for k in (0, 32)]
    assert len(more.with_limits(many[:1]).with_limits(many[1:]).limits("anna")) == 67


def test_more_limits_than_one_person_may_give_are_read_back(speakers, tmp_path):
    many = [UserProfile(user_id="anna", limits=[f"thing {n}" for n in range(k, k + 32)]) for k in (0, 32)]
    full = speakers.with_limits(many[:1]).with_limits(many[1:])
    full.save(tmp_path)
    assert EmbeddingStore.load(tmp_path).limits("anna") == full.limits("anna")


def test_an_unknown_ban_list_stays_unknown_and_a_category_limit_is_not_lost(tmp_path):
    for user_id in ("0000050", "0000051"):
        np.save(tmp_path / f"{user_id}.npy", np.ones((1, 4), np.float32))
    told = [UserProfile(user_id=50, limits=["no violence", "no spiders"])]
    store = EmbeddingStore.load(tmp_path, profiles=told)
    assert store.banned("50") is None
    assert store.limits("50") == (("spiders", 1.0), ("violence", 1.0))
    batch = store.batch(["50", "51"])
    assert (batch.bans, batch.limits[1]) == ((None, None), ())
    listed = [told[0].model_copy(update={"banned": ["Hate"]})]
    known = EmbeddingStore.load(tmp_path, profiles=listed)
    assert (known.banned("50"), known.limits("50")) == (("Hate", "Violence"), (("spiders", 1.0),))


def test_a_category_limit_is_in_the_code_where_the_list_is_not_known(speakers):
    unknown = EmbeddingStore(replace(speakers.held, banned=dict.fromkeys(speakers.user_ids), limits={}))
    limited = unknown.with_limits([UserProfile(user_id="carl", limits=["propaganda"])])
    before, after = (store.vectors(["carl"])[0, -len(CATEGORIES) :] for store in (unknown, limited))
    place = CATEGORIES.index("Propaganda")
    assert after[place] == speakers.space.code([("Propaganda",)])[0, place]
    assert np.array_equal(np.delete(after, place), np.delete(before, place))


def test_a_store_without_limits_is_written_as_before(store, saved, tmp_path):
    assert "limits" not in json.loads((saved / "index.json").read_text())
    store.save_npy(tmp_path / "npy")
    assert "limits" not in json.loads((tmp_path / "npy/recipe.json").read_text())


def test_limits_that_were_changed_are_refused(speakers, tmp_path):
    speakers.save(tmp_path / "vectors")
    speakers.save_npy(tmp_path / "npy")
    for limits in ({}, {"anna": ["no spiders"]}, {"anna": ["secret " * 40]}, ["secret"], {"anna": "secret"}):
        for path in (tmp_path / "vectors/index.json", tmp_path / "npy/recipe.json"):
            whole = path.read_text()
            path.write_text(json.dumps({**json.loads(whole), "limits": limits}))
            with pytest.raises(EmbeddingMissing) as caught:
                EmbeddingStore.load(path.parent)
            assert "secret" not in str(caught.value)
            path.write_text(whole)


def test_a_store_knows_which_limits_its_vectors_do_not_hold(tmp_path):
    """A category limit that was there when the vector was made is in it; one that was added later is not."""
    people = [
        UserProfile(user_id="1", banned=()),
        UserProfile(user_id="2", banned=("Hate",), limits=("no violence",)),
    ]
    store = EmbeddingStore.build(people, StructuredEmbedder(8))
    assert store.batch(["1", "2", None]).unheld == (0, 0, 0)
    more = [
        UserProfile(user_id="1", limits=("no violence", "spiders")),
        UserProfile(user_id="2", limits=("no hate", "no violence", "no propaganda")),
    ]
    later = store.with_limits(more)
    assert [later.unheld(user_id) for user_id in "12"] == [("Violence",), ("Propaganda",)]
    later.save(tmp_path / "store")
    later.save_npy(tmp_path / "npy")
    for folder in ("store", "npy"):
        again = EmbeddingStore.load(tmp_path / folder)
        assert [again.unheld(user_id) for user_id in "12"] == [("Violence",), ("Propaganda",)]
    assert later.raw().unheld("1") == ("Violence",)
    assert later.without(["2"]).with_limits(more).unheld("1") == ("Violence",)
    anew = EmbeddingStore.build([UserProfile(user_id="1", banned=("Violence",))], StructuredEmbedder(8),
                                statistics_of=store)  # fmt: skip
    assert later.joined(anew).unheld("1") == ()
    exact = EmbeddingStore.build(people, StructuredEmbedder(8), exact=True).with_limits(more)
    assert exact.unheld("1") == ()  # the exact code behind the vector holds it
    ended = store.with_limits([UserProfile(user_id="1", limits=(Limit("no violence", until=date(2020, 1, 1)),))])
    assert ended.unheld("1") == ()
    assert ended.unheld("1", today=date(2019, 1, 1)) == ("Violence",)
