"""The node pack for ComfyUI, against a stand-in of its API (comfyui_standin) and the shipped mini base.

real_comfyui.py beside this file runs the pack in a real checkout of ComfyUI, where PSALIGN_COMFYUI names one.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from comfyui_standin import PACK, Clip, Model, load_pack
from psalign.adapter.attach import attach
from psalign.adapter.checkpoint import save_adapter
from psalign.adapter.prompt import PromptAdapter
from psalign.adapter.published import PublishedAdapter
from psalign.categories import category_names
from psalign.errors import GuardError, LimitError, UnknownUser, UsageError
from psalign.users.profile import UserProfile
from psalign.users.views import batch_of

PROMPT = "a red cat with a sword"
SWITCHES = {f"ban_{name}": False for name in
            ("hate", "harassment", "violence", "self-harm", "sexuality", "shocking", "propaganda")}  # fmt: skip
EMPTY = {"users_file": "(none)", "user_id": "", "level": -1, "limits": "", **SWITCHES}


def random_adapter(**more):
    torch.manual_seed(1)
    adapter = PromptAdapter(context_dim=128, words=True, rank=8, heads=2, **more).eval()
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3)
        adapter.matcher.bans_bias.fill_(4.0)
    return adapter


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comfyui")
    (folder / "models/psalign").mkdir(parents=True)
    (folder / "user/psalign").mkdir(parents=True)
    save_adapter(random_adapter(), folder / "models/psalign/mini")
    (folder / "user/psalign/users.csv").write_text("User_ID,Age\nanna,9\n", encoding="utf-8")
    module = load_pack(folder)
    nodes = asyncio.run(module.nodes.PSAlignExtension().get_node_list())
    assert asyncio.run(module.comfy_entrypoint()).__class__.__name__ == "PSAlignExtension"
    return SimpleNamespace(folder=folder, module=module, **{node.define_schema().node_id: node for node in nodes})


@pytest.fixture(scope="module")
def clip(loaded_mini):
    return Clip(loaded_mini)


@pytest.fixture(scope="module")
def adapter(pack):
    return pack.PSAlignLoadAdapter.execute("mini", False)[0]


def encoded(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def applied(pack, adapter, clip, text=PROMPT, strength=1.0, **form):
    user = pack.PSAlignUserLimits.execute(**{**EMPTY, **form})[0]
    return pack.PSAlignApply.execute(encoded(clip, text), adapter, user, clip, strength)[0]


# --- apply ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "profile"),
    [
        ({"users_file": "users.csv", "user_id": "anna"}, {"age": 9}),
        ({"level": 5}, {"banned": category_names()}),
        ({"ban_violence": True}, {"banned": ("Violence",)}),
        ({"limits": "I can't stand swords\nno pills"}, {"banned": (), "limits": ("I can't stand swords", "no pills")}),
        ({"ban_violence": True, "limits": "no pills"}, {"banned": ("Violence",), "limits": ("no pills",)}),
    ],
)
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_the_same_text_as_the_python_package(pack, adapter, clip, mini_pipeline, form, profile, strength):
    psa = attach(mini_pipeline, random_adapter())
    users = batch_of([UserProfile(user_id="x", **profile)])
    expected = psa.encode(mini_pipeline, PROMPT, users, scale=strength)["prompt_embeds"]
    [[states, options]] = applied(pack, adapter, clip, strength=strength, **form)
    assert torch.equal(states, expected)
    assert not torch.equal(states, encoded(clip, PROMPT)[0][0])
    assert "pooled_output" in options


def test_what_is_left_alone(pack, adapter, clip):
    plain = encoded(clip, PROMPT)
    plain[0][1]["strength"] = 0.7
    user = pack.PSAlignUserLimits.execute(**{**EMPTY, "level": 5})[0]
    [[states, options]] = pack.PSAlignApply.execute(plain, adapter, user, clip, 0.0)[0]
    assert torch.equal(states, plain[0][0])
    assert options["strength"] == 0.7
    assert "psalign" not in plain[0][1]  # the entry that came in is not changed


def test_a_long_prompt_and_several_entries(pack, adapter, clip):
    long = PROMPT + ", a tree" * clip.length
    user = pack.PSAlignUserLimits.execute(**{**EMPTY, "level": 5})[0]
    both = [*encoded(clip, long), *encoded(clip, PROMPT)]
    made = pack.PSAlignApply.execute(both, adapter, user, clip, 1.0)[0]
    assert made[0][0].shape[1] > 2 * clip.length
    for window, raw in zip(made[0][0].split(clip.length, dim=1), both[0][0].split(clip.length, dim=1), strict=True):
        alone = pack.PSAlignApply.execute([[raw, {}]], adapter, user, clip, 1.0)[0]
        assert torch.equal(window, alone[0][0])
    assert torch.equal(made[1][0], applied(pack, adapter, clip, level=5)[0][0])


def test_weights_in_brackets_are_rewritten_and_do_not_count_in_a_limit(pack, adapter, clip):
    plain, weighted = encoded(clip, PROMPT)[0][0], encoded(clip, f"({PROMPT}:1.3)")[0][0]
    assert not torch.equal(plain, weighted)
    assert not torch.equal(applied(pack, adapter, clip, f"({PROMPT}:1.3)", level=5)[0][0], weighted)
    inside = clip.encode_from_tokens(clip.tokenize("(a sword:1.3)", disable_weights=True))[0]
    read = pack.module.conditioning.read_phrase(clip, "(a sword:1.3)")
    assert any(torch.equal(read[0], state) for state in inside)


def test_a_pooled_state_is_rewritten_where_the_adapter_does(pack, clip):
    adapter = random_adapter(pooled_dim=128)
    [[_, options]] = applied(pack, adapter, clip, level=5)
    assert not torch.equal(options["pooled_output"], encoded(clip, PROMPT)[0][1]["pooled_output"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: [entry[0][..., :64], entry[1]], "width 64; the adapter is for 128"),
        (lambda entry: [entry[0][:, :-1], entry[1]], "whole windows of"),
        (lambda entry: [entry[0], {**entry[1], "gligen": ("position", None, [])}], "other text .gligen"),
        (lambda entry: [entry[0], {**entry[1], "cross_attn_controlnet": entry[0]}], "other text"),
    ],
)
def test_conditioning_that_does_not_fit_is_refused(pack, adapter, clip, change, message):
    user = pack.PSAlignUserLimits.execute(**{**EMPTY, "level": 5})[0]
    with pytest.raises(GuardError, match=message):
        pack.PSAlignApply.execute([change(encoded(clip, PROMPT)[0])], adapter, user, clip, 1.0)


def test_a_limit_that_cannot_be_read_is_refused(pack, adapter, clip):
    with pytest.raises(GuardError, match="knows no word of a limit"):
        applied(pack, adapter, clip, limits="蜘蛛")
    with pytest.raises(GuardError, match="too long"):
        pack.module.conditioning.read_phrase(clip, "swordfish " * clip.length)
    inversion = SimpleNamespace(tokenize=lambda text, **more: {"l": [[(1, 1.0, 0), (torch.zeros(4), 1.0, 1)]]})
    with pytest.raises(GuardError, match="names an embedding"):
        pack.module.conditioning.read_phrase(inversion, "embedding:spider")


def test_limits_that_the_adapter_cannot_keep_are_refused(pack, clip):
    with pytest.raises(GuardError, match="not trained to keep them"):
        applied(pack, PromptAdapter(context_dim=128).eval(), clip, limits="no swords")
    unet = {"widths": (8,), "llm_dim": 12, "n_tokens": 1, "base": "mini", "recipe": "x", "context_dim": 128}
    with pytest.raises(GuardError, match="works inside the UNet"):
        applied(pack, PublishedAdapter(**unet).eval(), clip, level=5)


# --- who --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "error", "message"),
    [
        ({}, UnknownUser, "not taken for none"),
        ({"users_file": "users.csv", "user_id": "nobody"}, UnknownUser, "no user nobody"),
        ({"users_file": "users.csv"}, UsageError, "no user id"),
        ({"users_file": "../users.csv", "user_id": "anna"}, UsageError, "is not there"),
        ({"limits": ";"}, LimitError, "without words"),
    ],
)
def test_an_unknown_person_is_refused(pack, form, error, message):
    with pytest.raises(error, match=message):
        pack.PSAlignUserLimits.execute(**{**EMPTY, **form})


def test_a_changed_users_file_is_read_again(pack):
    node, form = pack.PSAlignUserLimits, {**EMPTY, "users_file": "users.csv", "user_id": "anna"}
    before, file = node.fingerprint_inputs(**form), pack.folder / "user/psalign/users.csv"
    text = file.read_text(encoding="utf-8")
    try:
        file.write_text(text + "carl,70\n", encoding="utf-8")
        assert node.fingerprint_inputs(**form) != before
    finally:
        file.write_text(text, encoding="utf-8")
    assert node.fingerprint_inputs(**form) == before
    assert pack.PSAlignLoadAdapter.fingerprint_inputs("mini", False)[1] is False


def test_a_person_shows_nothing_in_a_log(pack):
    user = pack.PSAlignUserLimits.execute(**{**EMPTY, "limits": "no needles", "ban_hate": True})[0]
    assert "needles" not in f"{user} {user!r}"
    assert "Hate" not in f"{user} {user!r}"


# --- guard ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(pack, adapter, clip):
    positive, negative = applied(pack, adapter, clip, level=5), encoded(clip, "blurry")
    model = pack.PSAlignGuard.execute(Model(), positive, negative)[0]
    return SimpleNamespace(model=model, positive=positive[0][0], negative=negative[0][0])


def test_the_guard_lets_known_text_pass(guarded):
    c, u = guarded.positive, guarded.negative
    for rows, kinds in (([u, c], [1, 0]), ([c], [0]), ([u], [1]), ([u, u, c, c], [1, 0]), ([c, c], [0, 1])):
        assert len(guarded.model.call(torch.cat(rows), kinds)) == len(rows)
    longer = u.repeat(1, 2, 1)  # ComfyUI repeats a short text to the length of a long one
    assert len(guarded.model.call(longer, [1])) == 1


def test_the_guard_refuses_other_text(guarded, clip):
    c, u, raw = guarded.positive, guarded.negative, encoded(clip, PROMPT)[0][0]
    changed = c.clone()
    changed[0, 3, 0] += 1e-3
    for rows, kinds in (
        ([u, raw], [1, 0]), ([raw], [1]), ([u], [0]), ([c, u], [1, 0]), ([changed], [0]), ([torch.zeros_like(c)], [1]),
        ([c * torch.nan], [0]), ([c], []), ([c[:, :5]], [0]),
    ):  # fmt: skip
        with pytest.raises(GuardError, match="does not know"):
            guarded.model.call(torch.cat(rows), kinds)
    with pytest.raises(GuardError, match="does not know"):
        guarded.model.call(c, [0], crossattn_controlnet=c)


def test_the_guard_looks_at_the_pooled_state(pack, clip):
    positive = applied(pack, random_adapter(pooled_dim=128), clip, level=5)
    raw = encoded(clip, PROMPT)
    model = pack.PSAlignGuard.execute(Model(), positive, raw)[0]
    states, pooled = positive[0][0], positive[0][1]["pooled_output"]
    size = torch.ones(1, 6)  # of the picture, behind the pooled state
    model.call(states, [0], y=torch.cat([pooled, size], dim=1))
    with pytest.raises(GuardError, match="does not know"):
        model.call(states, [0], y=torch.cat([raw[0][1]["pooled_output"], size], dim=1))


def test_the_guard_wants_what_apply_made(pack, adapter, clip):
    positive, negative = applied(pack, adapter, clip, level=5), encoded(clip, "")
    changed = [[positive[0][0] + 1, positive[0][1]]]
    controlled = [[positive[0][0], {**positive[0][1], "cross_attn_controlnet": positive[0][0]}]]
    for given, message in ((negative, "not made by Apply"), (changed, "was changed"), (controlled, "other text")):
        with pytest.raises(GuardError, match=message):
            pack.PSAlignGuard.execute(Model(), given, negative)
    model = Model()
    pack.PSAlignGuard.execute(model, positive, negative)
    assert model.wrappers == []  # the model that came in is not changed


def test_the_pack_in_a_real_comfyui():
    checkout = os.environ.get("PSALIGN_COMFYUI")
    if not checkout:
        pytest.skip("PSALIGN_COMFYUI names no checkout of ComfyUI")
    script = PACK.parents[1] / "tests/integrations/real_comfyui.py"
    done = subprocess.run([sys.executable, script, checkout], capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 6, done.stdout


# --- what lies beside the nodes ---------------------------------------------------------------------------------------


def test_the_registry_finds_what_it_needs():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    said = tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))
    assert re.fullmatch(r"\d+\.\d+\.\d+", said["project"]["version"])
    assert said["tool"]["comfy"].keys() >= {"PublisherId", "DisplayName", "requires-comfyui"}


def test_the_example_fits_the_nodes(pack):
    """Each of our nodes in the example has the inputs and widgets of its schema, and every input is connected."""
    graph = json.loads((PACK / "example_workflows/one_user.json").read_text(encoding="utf-8"))
    types = {link[0]: link[5] for link in graph["links"]}
    ours = [node for node in graph["nodes"] if node["type"].startswith("PSAlign")]
    assert {node["type"] for node in ours} == {name for name in vars(pack) if name.startswith("PSAlign")}
    for node in ours:
        slots = getattr(pack, node["type"]).define_schema().inputs
        widgets = [slot for slot in slots if slot.io_type in ("COMBO", "STRING", "INT", "FLOAT", "BOOLEAN")]
        sockets = {slot.id: slot.io_type for slot in slots if slot not in widgets}
        assert {one["name"]: types[one["link"]] for one in node["inputs"]} == sockets
        kinds = {"COMBO": str, "STRING": str, "INT": int, "FLOAT": float, "BOOLEAN": bool}
        assert [type(value) for value in node["widgets_values"]] == [kinds[slot.io_type] for slot in widgets]
