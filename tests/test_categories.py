"""The taxonomy: seven categories by default; ten, one and 64 of an operator's own; every fault of its file, and what
was made with another one, said once and with both names."""

import json
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest

from psalign.baselines.negative_prompt import negative_prompt
from psalign.categories import (
    VARIABLE,
    category_names,
    current,
    default_taxonomy,
    read_taxonomy,
    require_taxonomy,
    use_taxonomy,
)
from psalign.cli import main
from psalign.errors import DatasetError, ProfileError, RecipeMismatch, TaxonomyMismatch, UsageError
from psalign.evaluation.judge.canary import canary_question
from psalign.evaluation.judge.cases import asked_categories
from psalign.evaluation.judge.question import Judge, Template
from psalign.evaluation.judge.reply import EvaluateReply, parse_reply, reply_schema
from psalign.files import write_jsonl
from psalign.records import ManifestRow, read_manifest
from psalign.sage.caption_rows import ban_list_id, read_caption_rows
from psalign.sage.dataset import load_split, write_split
from psalign.sage.names import picture_name, read_picture_name
from psalign.sage.validate import validate
from psalign.users import (
    EmbeddingStore,
    StructuredEmbedder,
    UserProfile,
    banned_categories,
    choose_levels,
    explain,
    level_profiles,
    load_profiles,
    sample_profiles,
    save_profiles,
)
from psalign.users.space import CODE_WEIGHT
from sage_rows import make_row
from taxonomies import CATEGORIES, TEN, of_size, ten, write_taxonomy

NAMES = ("Spiders", "Alcohol", "Violence", "Medical scenes", "Gambling", "Drugs & Smoking", "Self-Harm", "Horror",
         "Weapons of War", "Tätowierung")  # fmt: skip
CHILD = {"age": 9, "mental_condition": "anxiety"}
CHILD_BANS = ("Spiders", "Alcohol", "Medical scenes", "Gambling", "Horror")


@pytest.fixture
def in_use(tmp_path):
    with use_taxonomy(ten(tmp_path)) as taxonomy:
        yield taxonomy


# --- reading --------------------------------------------------------------------------------------------------------


def test_the_default_is_the_published_seven():
    assert CATEGORIES == ("Hate", "Harassment", "Violence", "Self-Harm", "Sexuality", "Shocking", "Propaganda")
    taxonomy = default_taxonomy()
    assert (category_names(), taxonomy.mark, taxonomy.label) == (CATEGORIES, None, None)
    assert taxonomy.words == {name: name.lower() for name in CATEGORIES} == taxonomy.slugs
    assert taxonomy.levels[5] == CATEGORIES
    assert current().find("sexual") == "Sexuality"


def test_ten_categories_are_read(in_use):
    assert category_names() == NAMES
    assert list(in_use.slugs.values())[3:6] == ["medical", "gambling", "drugs-smoking"]
    assert in_use.mark == {"name": "ten", "fingerprint": in_use.fingerprint, "categories": list(NAMES)}
    for word, name in {"BOOZE": "Alcohol", "weapons_of-war": "Weapons of War", "medical": "Medical scenes"}.items():
        assert current().find(word) == name
    assert current().find("Hate") is None


def test_the_default_returns(tmp_path):
    with pytest.raises(RuntimeError, match="inside"), use_taxonomy(ten(tmp_path)):
        raise RuntimeError("inside")
    assert category_names() == CATEGORIES


def test_the_environment_names_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(write_taxonomy(tmp_path / "mine.yaml")))
    assert category_names() == NAMES
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone.yaml"))
    with pytest.raises(UsageError, match=r"gone\.yaml does not exist"):
        current()


@pytest.mark.parametrize("count", [1, 64])
def test_the_smallest_and_the_largest(tmp_path, count):
    with use_taxonomy(of_size(tmp_path, count)) as taxonomy:
        names = category_names()
        assert (len(names), taxonomy.name) == (count, f"of_{count}")
        levels = [set(banned_categories(level)) for level in level_profiles()]
        assert (levels[0], levels[5]) == (set(), set(names))
        assert all(before <= after for before, after in pairwise(levels))
        people = [*level_profiles(), *(UserProfile(user_id=f"u{i}", banned=names[i:]) for i in range(4))]
        store = EmbeddingStore.build(people, StructuredEmbedder(12), exact=True)
        store.save(tmp_path / "users")
        again = EmbeddingStore.load(tmp_path / "users")
        assert again.code_width == count
        assert set(again.vectors(["level_5"])[0, -count:]) == {CODE_WEIGHT}
        assert len(ban_list_id(names)) <= 64
        assert set(json.loads(json.dumps(reply_schema(EvaluateReply)))) == {"name", "strict", "schema"}
        (row,) = _captions(tmp_path, {"caption": "a cat", "banned": list(names)})
        assert row.banned == names


FAULTS = {
    "no YAML": ("name: [", "not YAML"),
    "a key twice": (
        "categories: [A]\nrules: [{name: r, field: religion, values: [Islam], bans: [A]}]\nrules: []\n",
        "not YAML ('rules' is there twice)",
    ),
    "billions by reference": (
        "categories: [{name: [&a [x], "
        + ", ".join(f"&{b} [{', '.join([f'*{a}'] * 30)}]" for a, b in pairwise("abcdefghij"))
        + "]}]",
        "category 1: name must be a text; saw list",
    ),
    "an object of Python": ("categories: !!python/name:os.system", "not YAML (could not determine a constructor"),
    "no mapping": ([1], "expected a taxonomy with name, categories, rules, levels; saw list"),
    "unknown key": ({**TEN, "rule": []}, "unknown 'rule'; a taxonomy has name"),
    "no categories": ({"categories": []}, "categories must be a list of 1 to 64; saw 0"),
    "65 categories": ({"categories": [f"c{i}" for i in range(65)]}, "categories must be a list of 1 to 64; saw 65"),
    "categories a text": ({"categories": "Hate"}, "categories must be a list of 1 to 64; saw str 'Hate'"),
    "two of one name": ({"categories": ["Wine", "Beer", "Wine"]}, "the name 'Wine' means 'Wine' and 'Wine'"),
    "names alike": ({"categories": ["Self Harm", "self-harm"]}, "the name 'self-harm' means 'Self Harm' and 'self-ha"),
    "slugs alike": ({"categories": ["A", {"name": "B", "slug": "a"}]}, "the slug 'a' means 'A' and 'B'"),
    "a spelling twice": ({"categories": ["A", {"name": "B", "spellings": ["a"]}]}, "the spelling 'a' means 'A' and 'B"),
    "a bad slug": ({"categories": [{"name": "A", "slug": "A b"}]}, "category 1: slug is 'A b'; expected a-z, 0-9"),
    "no slug": ({"categories": ["暴力"]}, "category 1: slug must be a text; saw nothing"),
    "a reserved name": ({"categories": ["Safe"]}, "category 1: name is 'Safe'"),
    "a comma": ({"categories": ["A, B"]}, "category 1: name is 'A, B'; expected 1 to 60 letters without"),
    "a number": ({"categories": [7]}, "category 1: expected a category with name, slug"),
    "yes is no text": ({"categories": [{"name": True}]}, "category 1: name must be a text; saw bool 'True'"),
    "words a list": ({"categories": [{"name": "A", "words": ["a"]}]}, "category 1: words must be a text; saw list"),
    "spellings a text": ({"categories": [{"name": "A", "spellings": "a"}]}, "spellings must be a list; saw str 'a'"),
    "unknown in a rule": (
        {"categories": ["A"], "rules": [{"name": "r", "field": "religion", "values": ["Islam"], "bans": ["B"]}]},
        "rule 1: bans names 'B'; the categories are: A",
    ),
    "a rule of nothing": (
        {"categories": ["A"], "rules": [{"name": "r", "field": "religion", "values": [], "bans": ["A"]}]},
        "rule 1: values must be a list of at least one text",
    ),
    "two rules of one name": (
        {"categories": ["A"], "rules": [{"name": "r", "field": "f", "values": ["v"], "bans": ["A"]}] * 2},
        "two rules are called 'r'",
    ),
    "an unknown level": ({"categories": ["A"], "levels": [[], [], [], [], [], ["B"]]}, "level 5 names 'B'; the categ"),
    "accents in two forms": ({"categories": ["caf\u00e9", "cafe\u0301"]}, "the name 'caf\u00e9' means 'caf\u00e9' and"),
    "a long name of it": ({"name": "x" * 61, "categories": ["A"]}, "name must have at most 60 letters; saw 61"),
    "five levels": ({"categories": ["A"], "levels": [[], [], [], [], ["A"]]}, "levels must be 6 lists from nothing"),
    "levels that fall": ({"categories": ["A"], "levels": [[], ["A"], [], ["A"], ["A"], ["A"]]}, "levels must be 6"),
    "the default's name": ({"name": "default", "categories": ["A"]}, "it is not the default taxonomy"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_a_file_are_one_message(tmp_path, case, capsys):
    content, message = FAULTS[case]
    path = tmp_path / "mine.yaml"
    path.write_text(content) if isinstance(content, str) else write_taxonomy(path, content)
    with pytest.raises(UsageError) as caught:
        read_taxonomy(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert main(["--taxonomy", str(path), "users", "levels"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_file_may_have_references(tmp_path):
    """PyYAML itself writes them where a list stands in two places."""
    values = ["Islam"]
    rules = [{"name": name, "field": "religion", "values": values, "bans": ["A"]} for name in "rs"]
    path = write_taxonomy(tmp_path / "mine.yaml", {"categories": ["A"], "rules": rules})
    assert "*" in path.read_text()
    assert [rule.values for rule in read_taxonomy(path).rules] == [("Islam",)] * 2


@pytest.mark.parametrize("kind", ["missing", "folder", "latin-1"])
def test_a_file_that_cannot_be_read(tmp_path, kind, capsys):
    path = tmp_path / "mine.yaml"
    if kind == "folder":
        path.mkdir()
    if kind == "latin-1":
        path.write_bytes("categories: [Tätowierung]".encode("latin-1"))
    assert main(["--taxonomy", str(path), "users", "levels"]) == 2
    said = capsys.readouterr().err
    message = {"missing": "does not exist", "folder": "is a folder", "latin-1": "not UTF-8"}[kind]
    assert f"UsageError: {path}" in said
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("hair", "red", "the rule 'r' is about the field 'hair'; choose one of: age_group, gender"),
     ("religion", "none at all", "the rule 'r' has the value 'none at all'; the field religion has")],
)  # fmt: skip
def test_rules_are_about_what_profiles_have(tmp_path, field, value, message):
    rule = {"name": "r", "field": field, "values": [value], "bans": ["A"]}
    path = write_taxonomy(tmp_path / "mine.yaml", {"categories": ["A"], "rules": [rule]})
    with use_taxonomy(read_taxonomy(path)), pytest.raises(UsageError) as caught:
        banned_categories(UserProfile(user_id="a", age=30))
    assert message in str(caught.value)


# --- users ----------------------------------------------------------------------------------------------------------


def test_rules_and_ban_lists(in_use, tmp_path):
    child = UserProfile(user_id="a", **CHILD)
    assert banned_categories(child) == CHILD_BANS
    assert explain(child)["Horror"] == ["minor"]
    own = UserProfile(user_id="b", banned=["tätowierung", "Violence"])
    assert banned_categories(own) == ("Violence", "Tätowierung")
    save_profiles(tmp_path / "users.csv", [child, own])
    assert [banned_categories(one) for one in load_profiles(tmp_path / "users.csv")] == [CHILD_BANS, own.banned]
    with pytest.raises((ProfileError, ValueError), match="allowed: Spiders, Alcohol"):
        UserProfile(user_id="c", banned=["Hate"])


def test_accents_that_are_written_in_two_letters(in_use, tmp_path):
    """As a Mac writes them: one word, whatever its form."""
    apart = "Ta\u0308towierung"
    (tmp_path / "users.csv").write_text(f"User_ID,Banned_Categories\n1,{apart}\n", encoding="utf-8")
    assert load_profiles(tmp_path / "users.csv")[0].banned == ("Tätowierung",)
    assert current().find(apart) == "Tätowierung"
    other = {"categories": [apart]}
    with use_taxonomy(read_taxonomy(write_taxonomy(tmp_path / "apart.yaml", other))):
        assert category_names() == ("Tätowierung",)


def test_levels_grow_to_all(in_use):
    assert [len(level.banned) for level in level_profiles()] == [0, 2, 4, 6, 8, 10]
    people = [UserProfile(user_id=f"u{k}", banned=NAMES[:k]) for k in range(11)]
    assert [len(one.banned) for one in choose_levels(people)] == [0, 2, 4, 6, 8, 10]


def test_the_command_line(tmp_path, capsys):
    path = str(write_taxonomy(tmp_path / "ten.yaml"))
    save_profiles(tmp_path / "users.csv", [UserProfile(user_id="7", **CHILD)])
    users = ["--users", str(tmp_path / "users.csv")]
    assert main(["users", "ban", *users, "--out", str(tmp_path / "bans.jsonl"), "--taxonomy", path]) == 0
    assert json.loads((tmp_path / "bans.jsonl").read_text())["banned"] == list(CHILD_BANS)
    capsys.readouterr()
    assert main(["--taxonomy", path, "users", "explain", "7", *users]) == 0
    told = capsys.readouterr().out.splitlines()
    assert (len(told), told[0].split(), "allowed" in told[2]) == (10, ["Spiders", "banned:", "afraid"], True)
    assert {line.find("allowed") for line in told} - {-1} == {len("Drugs & Smoking") + 1}  # under each other
    store = str(tmp_path / "store")
    assert main(["embed", *users, "--out", store, "--exact", "--taxonomy", path]) == 0
    capsys.readouterr()
    assert main(["users", "levels"]) == 0  # the default is in use again
    assert '"Propaganda"' in capsys.readouterr().out
    assert main(["users", "cluster", "--embeddings", store, "--out", str(tmp_path / "groups")]) == 1
    said = capsys.readouterr().err
    assert "TaxonomyMismatch" in said
    assert "with 'ten' (10 categories), and in use is 'default' (7 categories)" in said
    assert "psalign --taxonomy FILE" in said
    assert main(["embed", *users, "--out", f"{tmp_path}/b", "--bans", str(tmp_path / "bans.jsonl")]) == 2
    assert "Sexuality, Shocking, Propaganda (taxonomy 'default')" in capsys.readouterr().err
    published = ["train", "--data", "published", "--preset", "psa-sd15", "--out", f"{tmp_path}/p"]
    quickstart = ["quickstart", "--out", f"{tmp_path}/q"]
    for command in (published, quickstart, ["users", "levels", "--published"]):
        assert main([*command, "--taxonomy", path]) == 2
        assert "categories of the default taxonomy, and in use is 'ten'" in capsys.readouterr().err


# --- user vectors ---------------------------------------------------------------------------------------------------


def _people():
    return [UserProfile(user_id="1", **CHILD), UserProfile(user_id="2", banned=NAMES[:1]), *level_profiles()]


def test_vectors_carry_the_taxonomy_and_the_code_has_ten_places(in_use, tmp_path):
    store = EmbeddingStore.build(_people(), StructuredEmbedder(16), exact=True)
    store.save(tmp_path / "users")
    store.raw().save_npy(tmp_path / "npy")
    assert (store.width, store.code_width) == (26, 10)
    signs = [CODE_WEIGHT if name in CHILD_BANS else -CODE_WEIGHT for name in NAMES]
    assert np.array_equal(store.vectors(["1"])[0, -10:], signs)
    assert json.loads((tmp_path / "users/index.json").read_text())["taxonomy"] == in_use.mark
    for folder in ("users", "npy"):
        assert EmbeddingStore.load(tmp_path / folder).banned("1") == CHILD_BANS
        with use_taxonomy(default_taxonomy()), pytest.raises(TaxonomyMismatch) as caught:
            EmbeddingStore.load(tmp_path / folder)
        assert "'ten' (10 categories), and in use is 'default' (7 categories); only there: Spiders" in str(caught.value)


def test_vectors_of_the_default_are_refused_and_say_nothing_of_it(tmp_path):
    people = [UserProfile(user_id="1", banned=()), *level_profiles()]
    EmbeddingStore.build(people, StructuredEmbedder(12)).save(tmp_path / "users")
    assert "taxonomy" not in json.loads((tmp_path / "users/index.json").read_text())
    (tmp_path / "published").mkdir()
    np.save(tmp_path / "published/0000001.npy", np.ones((1, 4), np.float32))
    with use_taxonomy(ten(tmp_path)):
        for folder in ("users", "published"):
            with pytest.raises(TaxonomyMismatch, match=r"with 'default' .* and in use is 'ten'") as caught:
                EmbeddingStore.load(tmp_path / folder)
            assert str(caught.value).endswith(f"Leave out --taxonomy and {VARIABLE}.")


def test_other_rules_and_words_fit_what_was_made(tmp_path):
    """An operator may change rules, spellings and words: what a place of the code means stays."""
    people = [UserProfile(user_id="1", age=70), *level_profiles()]
    made = EmbeddingStore.build(people, StructuredEmbedder(12), exact=True)
    made.save(tmp_path / "users")
    rule = {"name": "r", "field": "age_group", "values": ["elderly", "young elderly"], "bans": ["Hate"]}
    stricter = {"categories": list(CATEGORIES), "rules": [rule]}
    with use_taxonomy(read_taxonomy(write_taxonomy(tmp_path / "stricter.yaml", stricter))):
        assert EmbeddingStore.load(tmp_path / "users").fingerprint == made.fingerprint
        assert banned_categories(people[0]) == ("Hate",)
    reordered = {"categories": list(CATEGORIES[::-1])}
    with use_taxonomy(read_taxonomy(write_taxonomy(tmp_path / "reordered.yaml", reordered))):
        with pytest.raises(TaxonomyMismatch, match="their order differs"):
            EmbeddingStore.load(tmp_path / "users")
        other = EmbeddingStore.build([UserProfile(user_id="1", banned=())], StructuredEmbedder(12))
    with pytest.raises(RecipeMismatch):
        made.joined(other)


def test_a_damaged_mark_is_said():
    with pytest.raises(TaxonomyMismatch, match="Nothing says with which taxonomy this was made: the vectors"):
        require_taxonomy({"name": "ten"}, of="the vectors")


# --- data sets ------------------------------------------------------------------------------------------------------


def _captions(folder, *records):
    path = folder / "captions.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_caption_rows(path)


def test_names_of_pictures(in_use):
    for category in NAMES:
        name = picture_name(("0000033", category, "two words", "00004"), unsafe=True)
        assert read_picture_name(name).category == category
    assert read_picture_name("user_33_weapons_of_war_a tank_00001_u.png").category == "Weapons of War"
    assert read_picture_name("user_33_hate_a_word_00001_u.png") is None


def test_a_slug_that_begins_another(tmp_path):
    path = write_taxonomy(tmp_path / "two.yaml", {"categories": ["Hate", "Hate Speech"]})
    with use_taxonomy(read_taxonomy(path)):
        found = [read_picture_name(f"user_1_{word}_x_00001_u.jpg") for word in ("hate", "hate-speech")]
        assert [one.category for one in found] == ["Hate", "Hate Speech"]
        name = picture_name(("1", "Hate", "speech rally", "00001"), unsafe=True)
        assert (read_picture_name(name).category, read_picture_name(name).concept) == ("Hate", "speech rally")


def _sage(root):
    rows = []
    for number, category in enumerate(NAMES):
        names = [picture_name(("1", category, "x y", f"{number:05d}"), unsafe=u) for u in (0, 1)]
        about = {"user_id": "0000001", "category": category, "concept": "x y", "index": f"{number:05d}",
                 "user_data": {"User_ID": "0000001"}}  # fmt: skip
        chosen = names[category not in CHILD_BANS]
        unsafe = {"chosen": chosen, "rejected": names[category in CHILD_BANS], "caption": f"a cat and {number}"}
        rows.append(make_row(**about, **unsafe))
        rows.append(make_row(**about, caption="a cat", caption_kind="safe", chosen=names[0], rejected=names[1]))
    write_split(root, "train", rows)
    return rows


def test_a_sage_folder_of_ten(in_use, tmp_path):
    _sage(tmp_path / "data")
    rows = load_split(tmp_path / "data", "train", check_pictures=False)
    assert {row.category for row in rows} == set(NAMES)
    assert validate(tmp_path / "data", bans={"0000001": CHILD_BANS}, check_pictures=False).is_fine
    with use_taxonomy(default_taxonomy()):
        found = validate(tmp_path / "data", check_pictures=False)
        assert len(found.cases["broken row"]) == 16  # all but those of Violence and Self-Harm


@pytest.mark.parametrize("made_with", ["ten", "default"])
def test_a_dataset_that_was_built_here_says_its_taxonomy(tmp_path, made_with):
    other = ten(tmp_path)
    with use_taxonomy(other):
        _sage(tmp_path / "data")
    mark = {"fingerprint": "0", **({"taxonomy": other.mark} if made_with == "ten" else {})}
    (tmp_path / "data/dataset.json").write_text(json.dumps(mark))
    in_use = default_taxonomy() if made_with == "ten" else other
    with use_taxonomy(in_use), pytest.raises(TaxonomyMismatch) as caught:
        load_split(tmp_path / "data", "train", check_pictures=False)
    assert f"with '{made_with}'" in str(caught.value)
    assert f"in use is '{in_use.name}'" in str(caught.value)


@pytest.mark.parametrize("command", ["validate", "stats", "export", "embed"])
def test_a_dataset_is_told_by_its_taxonomy_before_its_users(tmp_path, command, capsys):
    """Its users file stands in it, and bans what is no category here; that is not the fault."""
    other, root = ten(tmp_path), tmp_path / "data"
    with use_taxonomy(other):
        _sage(root)
        save_profiles(root / "users.csv", [UserProfile(user_id="1", banned=CHILD_BANS)])
    (root / "dataset.json").write_text(json.dumps({"fingerprint": "0", "taxonomy": other.mark}))
    out = ["--out", str(tmp_path / "out")]
    users = ["--users", str(root / "users.csv")]
    given = {"embed": ["embed", "--data", str(root), *users, *out], "export": ["sage", "export", str(root), *out]}
    assert main(given.get(command, ["sage", command, str(root)])) == 1
    said = capsys.readouterr().err
    assert f"TaxonomyMismatch: Made with another taxonomy: the dataset in {root} with 'ten' (10 categ" in said
    assert "in use is 'default' (7 categories)" in said


def test_a_file_of_captions(in_use, tmp_path):
    (row,) = _captions(tmp_path, {"caption": "a bar", "chosen_caption": "a cafe", "banned": "booze, Horror"})
    assert (row.banned, row.user_id) == (("Alcohol", "Horror"), "bans-alcohol.horror")
    with pytest.raises(DatasetError, match=r"unknown category 'Hate'; the categories are Spiders, Alcohol"):
        _captions(tmp_path, {"caption": "a bar", "banned": ["Hate"]})


# --- pictures and judges --------------------------------------------------------------------------------------------


def test_words_of_a_negative_prompt(in_use):
    assert negative_prompt(("Tätowierung", "Alcohol", "Gambling")) == "alcohol, wine, beer gambling tattoo"


def _row(**changes):
    return ManifestRow(**{"file_name": "a.png", "prompt": "p", "seed": 1, "method": "base", "base": "sd15", **changes})


def test_a_manifest_of_ten(in_use, tmp_path):
    row = _row(user_id="0000001", banned=("Spiders", "Horror"), taxonomy=in_use.label)
    write_jsonl(tmp_path / "manifest.jsonl", [row.to_record()])
    assert read_manifest(tmp_path / "manifest.jsonl") == [row]
    with use_taxonomy(default_taxonomy()), pytest.raises(TaxonomyMismatch, match="with 'ten', and in use is 'default'"):
        read_manifest(tmp_path / "manifest.jsonl")
    write_jsonl(tmp_path / "manifest.jsonl", [_row().to_record()])
    assert "taxonomy" not in _row().to_record()
    assert {**_row().to_record(), "taxonomy": None} == asdict(_row())
    with pytest.raises(TaxonomyMismatch, match="with 'default', and in use is 'ten'"):
        read_manifest(tmp_path / "manifest.jsonl")


def test_a_taxonomy_whose_name_has_the_mark_of_a_label(tmp_path):
    records = [{"name": f"c#{number}", "categories": ["A"]} for number in (1, 2)]
    named = [read_taxonomy(write_taxonomy(tmp_path / f"{n}.yaml", record)) for n, record in enumerate(records)]
    with use_taxonomy(named[0]):
        row = _row(taxonomy=named[0].label)
        write_jsonl(tmp_path / "manifest.jsonl", [row.to_record()])
    with use_taxonomy(named[1]):  # another name for the same categories
        assert read_manifest(tmp_path / "manifest.jsonl") == [row]
    with pytest.raises(TaxonomyMismatch, match="with 'c#1', and in use is 'default'"):
        read_manifest(tmp_path / "manifest.jsonl")


def test_what_a_judge_is_asked_and_may_say(in_use, tmp_path):
    assert asked_categories(_row(meta={"categories": "booze, weapons of war, sky"})) == ("Alcohol", "Weapons of War")
    assert asked_categories(_row(file_name="user_1_drugs-smoking_x_00001.jpg_u.jpg")) == ("Drugs & Smoking",)
    text = Template("evaluate").text
    assert "- Medical scenes: hospitals, needles, operations.\n- Gambling: gambling.\n" in text
    assert "Propaganda" not in text
    schema = reply_schema(EvaluateReply)["schema"]
    assert schema["properties"]["banned_visible"]["items"] == {"enum": list(NAMES), "type": "string"}
    reply = {"banned_visible": ["Horror"], "allowed_present": "yes", "quality": 50, "reason": "r"}
    assert parse_reply(json.dumps(reply), EvaluateReply) == reply
    assert parse_reply(json.dumps({**reply, "banned_visible": ["Hate"]}), EvaluateReply) is None
    assert canary_question(tmp_path / "canary.png", Judge("m", "h")).case.banned == ("Violence",)
    with use_taxonomy(of_size(tmp_path, 1)):
        assert canary_question(tmp_path / "canary.png", Judge("m", "h")).case.banned == ("Category 0",)


def test_the_default_gives_what_was_there_before_the_file():
    """Printed by the last commit that had the seven categories, their rules and their words in the code."""
    templates = [Template(mode, style) for mode in ("evaluate", "compare") for style in ("blind", "published-style")]
    assert [template.fingerprint for template in templates] == [
        "f0185710544db3b8", "9e0eacba8b88340d", "30560cd4335c393b", "dbfde2796371945f",
    ]  # fmt: skip
    assert StructuredEmbedder().recipe.fingerprint == "60e3463c99efe454"
    people = [*sample_profiles(40, seed=1), *level_profiles()]
    assert EmbeddingStore.build(people, StructuredEmbedder(16), exact=True).fingerprint == "f8c51b02d4450f81"
