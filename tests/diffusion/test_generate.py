"""Pictures from prompts: independent of their batch, resumable, never of another run, whole or absent."""

import errno
import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from psalign.adapter.attach import attach
from psalign.adapter.checkpoint import load_adapter
from psalign.diffusion.base_models import load_pipeline
from psalign.diffusion.generate import Drawing, GenerationConfig, check_rows, cut_texts, generate
from psalign.diffusion.prompts import load_prompts
from psalign.errors import EmbeddingMissing, GenerationError, OutputError, RecipeMismatch, UsageError
from psalign.evaluation.pictures import read_picture
from psalign.records import PromptRow, read_manifest
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import UserBatch
from tiny_pipelines import PIPELINES


class NoUsers:
    fingerprint = "nobody"

    def batch(self, user_ids):
        raise AssertionError("no vector is needed for the base")

    def banned(self, user_id):
        return ("Hate",)

    def limits(self, user_id):
        return ()


class Users:
    """Vectors and bans that a test may change, under one fingerprint."""

    fingerprint = "recipe"

    def __init__(self, **bans):
        self.bans = {"0000001": ("Hate",), **bans}
        self.vector, self.phrases = np.zeros(4, np.float32), ()

    def batch(self, user_ids):
        missing = [user_id for user_id in user_ids if user_id not in self.bans]
        if missing:
            raise EmbeddingMissing(f"user {missing[0]} has no embedding")
        limits = tuple(self.phrases for _ in user_ids)
        return UserBatch(tuple(self.vector for _ in user_ids), self.fingerprint, (), limits)

    def banned(self, user_id):
        return self.bans.get(user_id, ())

    def limits(self, user_id):
        return self.phrases


class Pipeline:
    """Grey pictures, at once; components as a base that is made in memory has them."""

    def __init__(self, grey=0.5, weight=1.0):
        self.grey, self.calls = grey, 0
        self.components = {"unet": torch.nn.Linear(1, 1, bias=False).requires_grad_(False)}
        self.components["unet"].weight.fill_(weight)
        self._execution_device = "cpu"

    def encode_prompt(self, prompt, negative_prompt=None):
        """The letters of a prompt, as text states."""
        letters = torch.tensor([[float(ord(letter)) for letter in text.ljust(200)] for text in prompt])
        return letters[:, :, None], torch.zeros_like(letters)[:, :, None]

    def __call__(self, *, prompt_embeds, **_):
        self.calls += 1
        return SimpleNamespace(images=np.full((len(prompt_embeds), 4, 4, 3), self.grey, np.float32))

    def maybe_free_model_hooks(self):
        pass


def letters_of(states):
    return ["".join(chr(int(letter)) for letter in row).strip() for row in states[:, :, 0]]


def adapter_of(recipe="recipe"):
    config = SimpleNamespace(recipe=recipe, words=True)
    return SimpleNamespace(
        adapter=SimpleNamespace(config=config, kind="prompt", llm_dim=4),
        encode=lambda pipe, prompts, vectors, **_: {"prompt_embeds": pipe.encode_prompt(prompts)[0]},
    )


ROWS = [
    PromptRow(f"{i}.png", f"a {colour} cat on the left at night", 50 + i, user_id="0000001")
    for i, colour in enumerate(("red", "blue", "green"))
]
CONFIG = GenerationConfig(steps=3, batch_size=2)


def test_pictures_and_manifest(tmp_path, mini_pipeline):
    generate(Drawing(mini_pipeline, CONFIG, NoUsers()), ROWS, tmp_path)
    rows = read_manifest(tmp_path / "manifest.jsonl")
    assert [(row.file_name, row.seed, row.banned, row.method) for row in rows] == [
        (f"{i}.png", 50 + i, ("Hate",), "base") for i in range(3)
    ]
    assert all(Image.open(tmp_path / row.file_name).size == (64, 64) for row in rows)


def test_a_picture_depends_on_its_own_row_alone(mini_pipeline):
    """Another batch size rounds a picture by at most one grey level, and other neighbours do not change it at all."""
    config = replace(CONFIG, steps=3)
    others = [replace(row, prompt=f"{row.prompt} in the snow", seed=row.seed + 9) for row in ROWS]
    drawing, rows = Drawing(mini_pipeline, config, NoUsers()), [*ROWS, *others]
    alone, two, three, six = (
        [picture for start in range(0, 6, size) for picture in drawing.batch(rows[start : start + size])]
        for size in (1, 2, 3, 6)
    )
    for other in (two, three, six):
        assert np.abs(np.stack(other).astype(int) - np.stack(alone)).max() <= 1
    neighbours = drawing.batch([ROWS[0], *others[1:]])
    assert np.array_equal(neighbours[0], three[0])


@pytest.mark.parametrize("left", [0, 7, 50, -1], ids=["empty", "no whole beginning", "cut", "one byte short"])
def test_a_picture_that_is_not_whole_is_drawn_again(tmp_path, left):
    """What a full or lost disk left of a picture does not count as drawn; the others stay as they are."""
    pipe = Pipeline()
    drawing = Drawing(pipe, GenerationConfig(steps=3, batch_size=1), Users())
    generate(drawing, ROWS, tmp_path)
    whole = (tmp_path / "1.png").read_bytes()
    kept = (tmp_path / "0.png").stat().st_mtime_ns
    (tmp_path / "1.png").write_bytes(whole[:left])
    (tmp_path / "manifest.jsonl").unlink()
    before = pipe.calls
    generate(drawing, ROWS, tmp_path)
    assert (tmp_path / "1.png").read_bytes() == whole
    assert pipe.calls == before + 1
    assert (tmp_path / "0.png").stat().st_mtime_ns == kept
    assert len(read_manifest(tmp_path / "manifest.jsonl")) == len(ROWS)


def test_going_on_makes_only_what_is_missing(tmp_path, mini_pipeline):
    generate(Drawing(mini_pipeline, CONFIG, NoUsers()), ROWS, tmp_path)
    kept = (tmp_path / "0.png").stat().st_mtime_ns
    (tmp_path / "1.png").unlink()
    generate(Drawing(mini_pipeline, CONFIG, NoUsers()), ROWS, tmp_path)
    assert (tmp_path / "1.png").exists()
    assert (tmp_path / "0.png").stat().st_mtime_ns == kept


def test_the_folder_of_another_run_is_refused(tmp_path, mini_pipeline):
    generate(Drawing(mini_pipeline, CONFIG, NoUsers()), ROWS[:1], tmp_path)
    with pytest.raises(OutputError, match="holds pictures of another run"):
        generate(Drawing(mini_pipeline, CONFIG, NoUsers()), ROWS, tmp_path)


def test_pictures_of_nobody_knows_whom_are_refused(tmp_path, mini_pipeline):
    (tmp_path / "old.png").write_bytes(b"")
    with pytest.raises(OutputError, match=r"has pictures but no run\.json"):
        generate(Drawing(mini_pipeline, CONFIG, NoUsers()), ROWS, tmp_path)


def test_a_folder_without_pictures_is_claimed_again(tmp_path):
    generate(Drawing(Pipeline(), CONFIG, Users()), ROWS[:1], tmp_path)
    (tmp_path / "0.png").unlink()
    with pytest.raises(GenerationError):
        generate(Drawing(Pipeline(grey=np.nan), CONFIG, Users()), ROWS[1:], tmp_path)
    assert not (tmp_path / "manifest.jsonl").exists()
    generate(Drawing(Pipeline(), CONFIG, Users()), ROWS[1:], tmp_path)
    assert [row.file_name for row in read_manifest(tmp_path / "manifest.jsonl")] == ["1.png", "2.png"]


def test_pictures_in_folders_of_another_run_are_seen(tmp_path):
    generate(Drawing(Pipeline(), CONFIG, Users()), [replace(ROWS[0], file_name="a/0.png")], tmp_path)
    with pytest.raises(OutputError, match="holds pictures of another run"):
        generate(Drawing(Pipeline(), CONFIG, Users()), ROWS, tmp_path)


def test_other_vectors_or_bans_of_the_same_users_are_another_run(tmp_path):
    users, adapter = Users(), adapter_of()
    generate(Drawing(Pipeline(), CONFIG, users, adapter), ROWS, tmp_path / "psa")
    generate(Drawing(Pipeline(), CONFIG, users), ROWS, tmp_path / "base")
    users.vector += 1
    generate(Drawing(Pipeline(), CONFIG, users), ROWS, tmp_path / "base")  # no adapter: vectors do not matter
    with pytest.raises(OutputError, match="another run"):
        generate(Drawing(Pipeline(), CONFIG, users, adapter), ROWS, tmp_path / "psa")
    users.vector -= 1
    generate(Drawing(Pipeline(), CONFIG, users, adapter), ROWS, tmp_path / "psa")
    users.phrases = (("spiders", 1.0),)
    with pytest.raises(OutputError, match="another run") as fault:
        generate(Drawing(Pipeline(), CONFIG, users, adapter), ROWS, tmp_path / "psa")
    assert "spiders" not in f"{fault.value}{(tmp_path / 'psa/run.json').read_text()}"  # limits are private
    users = Users(**{"0000001": ("Violence",)})
    for folder, attached in (("psa", adapter), ("base", None)):
        with pytest.raises(OutputError, match=r"another run \(other prompts, users, adapter, base or settings\)"):
            generate(Drawing(Pipeline(), CONFIG, users, attached), ROWS, tmp_path / folder)


def test_users_whom_the_run_does_not_draw_do_not_matter(tmp_path):
    generate(Drawing(Pipeline(), CONFIG, Users()), ROWS, tmp_path)
    generate(Drawing(Pipeline(), CONFIG, Users(**{"0000002": ("Hate",)})), ROWS, tmp_path)


def test_pictures_of_another_base_are_another_run(tmp_path):
    generate(Drawing(Pipeline(), CONFIG, Users()), ROWS, tmp_path)
    with pytest.raises(OutputError, match="another run"):
        generate(Drawing(Pipeline(weight=2.0), CONFIG, Users()), ROWS, tmp_path)


NOT_DRAWN = {
    "rows of nobody": (
        [ROWS[0], *(PromptRow(f"n{i}.png", "a cat", 1) for i in range(6))],
        "recipe",
        UsageError,
        r"6 of 7 rows have no user, .*: n0\.png, n1\.png, n2\.png, n3\.png, n4\.png\.\n"
        "Give each row a user_id, or draw for a level",
    ),
    "a stranger": ([replace(ROWS[0], user_id="0000009")], "recipe", EmbeddingMissing, "user 0000009 has no embedding"),
    "another recipe": (ROWS, "other", RecipeMismatch, "made by recipe recipe; the adapter was trained with other"),
}


@pytest.mark.parametrize("case", NOT_DRAWN)
def test_what_an_adapter_cannot_draw_is_refused_before_the_folder_is_claimed(case, tmp_path):
    rows, recipe, error, message = NOT_DRAWN[case]
    pipeline = Pipeline()
    with pytest.raises(error, match=message):
        generate(Drawing(pipeline, CONFIG, Users(), adapter_of(recipe)), rows, tmp_path / "out")
    assert (pipeline.calls, (tmp_path / "out").exists()) == (0, False)


def test_pictures_that_are_not_finite_are_refused(tmp_path):
    message = r"3 of 3 pictures could not be made.*\n  0\.png: 1 of 1 pictures are not finite: 0\.png"
    with pytest.raises(GenerationError, match=message):
        generate(Drawing(Pipeline(grey=np.nan), CONFIG, Users()), ROWS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


class OneBadRow(Pipeline):
    """Fails whenever it is asked for a blue cat."""

    def __call__(self, *, prompt_embeds, **more):
        if any("blue" in text for text in letters_of(prompt_embeds)):
            raise RuntimeError("out of memory\nwith details")
        return super().__call__(prompt_embeds=prompt_embeds, **more)


def test_a_row_that_fails_is_told_at_the_end_and_the_others_are_kept(tmp_path):
    with pytest.raises(GenerationError, match=r"1 of 3 pictures could not be made; .*\n  1\.png: out of memory\nRun"):
        generate(Drawing(OneBadRow(), CONFIG, Users()), ROWS, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["0.png", "2.png"]
    assert not (tmp_path / "manifest.jsonl").exists()
    generate(Drawing(Pipeline(), CONFIG, Users()), ROWS, tmp_path)
    assert len(read_manifest(tmp_path / "manifest.jsonl")) == 3


def test_long_prompts_are_told_with_what_is_cut(tmp_path, mini_pipeline, capsys):
    length = mini_pipeline.tokenizer.model_max_length
    row = PromptRow("long.png", "cat " * (length - 3) + "red dog at night", 1)
    assert cut_texts(mini_pipeline, [row.prompt, ROWS[0].prompt]) == {row.prompt: "dog at night"}
    config = replace(CONFIG, negative_prompt="cat " * (length - 2) + "dog")
    generate(Drawing(mini_pipeline, config, NoUsers()), [row, replace(row, file_name="too.png")], tmp_path)
    expected = (
        f"Warning: 3 texts are longer than the {length} tokens that are read. Cut:\n"
        "  long.png: 'dog at night'\n  too.png: 'dog at night'\n  negative prompt: 'dog'\n"
    )
    assert expected in capsys.readouterr().err


def test_of_many_long_prompts_ten_are_shown(tmp_path, capsys):
    pipeline = Pipeline()
    pipeline.tokenizer = load_pipeline("mini").tokenizer
    rows = [PromptRow(f"{i:02d}.png", "cat " * 60, 1) for i in range(12)]
    generate(Drawing(pipeline, CONFIG, Users()), rows, tmp_path)
    told = capsys.readouterr().err
    assert "12 texts are longer" in told
    assert ("09.png" in told, "10.png" in told, "and 2 more" in told) == (True, False, True)


@pytest.mark.parametrize("base", PIPELINES)
def test_without_an_adapter_pictures_are_those_of_stock_diffusers(base):
    """SDXL has no unconditional text where there is no negative prompt: an empty one would give another picture."""
    pipeline, row = PIPELINES[base](), PromptRow("a.png", "a red cat", 5)
    config = GenerationConfig(base=base, steps=2, guidance=7.5)
    generator = torch.Generator().manual_seed(row.seed)
    stock = pipeline(row.prompt, generator=generator, num_inference_steps=2, guidance_scale=7.5, output_type="np")
    drawn = Drawing(pipeline, config, NoUsers()).batch([row])
    assert np.array_equal(drawn, (stock.images * 255).round().astype(np.uint8))
    denied = Drawing(pipeline, replace(config, negative_prompt="a dog"), NoUsers()).batch([row])
    assert not np.array_equal(drawn, denied)


@torch.no_grad()
def test_weights_that_are_not_finite_give_no_black_pictures(mini_pipeline):
    mini_pipeline.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(GenerationError, match="not finite"):
        Drawing(mini_pipeline, CONFIG, NoUsers()).batch(ROWS)


def test_levels_are_told_by_the_whole_user_id(tmp_path):
    ids = ("level_0", "level_5", "level_6", "level_05", "level_x", "my_level_3", None)
    rows = [PromptRow(f"{i}.png", "a cat", 1, user_id=user_id) for i, user_id in enumerate(ids)]
    manifest = generate(Drawing(Pipeline(), CONFIG, Users()), rows, tmp_path)
    assert [row.level for row in manifest] == [0, 5, None, None, None, None, None]


def test_a_full_disk_leaves_whole_pictures_only_and_says_how_to_go_on(tmp_path, mini_pipeline, monkeypatch):
    replace = os.replace

    def full(source, target):
        if str(target).endswith("2.png"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"No space left to write .*2\.png; nothing that was there is lost"):
        generate(Drawing(mini_pipeline, CONFIG, NoUsers()), ROWS, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "run.json"]
    monkeypatch.undo()
    generate(Drawing(mini_pipeline, CONFIG, NoUsers()), ROWS, tmp_path)
    assert len(read_manifest(tmp_path / "manifest.jsonl")) == 3


def test_rows_that_make_no_sense():
    with pytest.raises(UsageError, match="No prompts to draw"):
        check_rows([])
    with pytest.raises(UsageError, match=r"Two rows write one file: 0\.png"):
        check_rows([ROWS[0], ROWS[0]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "at least 1; saw 0"),
        ({"scale": float("nan")}, "must be finite; saw nan"),
        ({"scale": -0.5}, r"scale must be at least 0; saw -0\.5"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UsageError, match=message):
        GenerationConfig(**settings)


def test_a_run_is_named_by_negative_prompts_and_does_not_hold_them(tmp_path):
    """They may say a user's limits in words. Another limit is another run."""
    for phrase in ("spiders", "snakes"):
        out, config = tmp_path / phrase, GenerationConfig(steps=1, negative_prompts={"0000001": phrase})
        generate(Drawing(Pipeline(), config, Users()), [PromptRow("a.png", "a cat", 1, "0000001")], out)
        assert not [path for path in out.rglob("*.json*") if phrase in path.read_text()]
    records = [json.loads((tmp_path / phrase / "run.json").read_text()) for phrase in ("spiders", "snakes")]
    assert records[0]["fingerprint"] != records[1]["fingerprint"]


def drawn_for_users(run, out, method, **how):
    """Pictures [N, H, W, 3] of four prompts, by the base or by an adapter that rewrites something of every prompt."""
    pipeline = load_pipeline("mini", **how)
    rows = [row for row in load_prompts(run / "data/prompts.jsonl") if row.meta["suite"] == "scenes"][:4]
    config = GenerationConfig(method=method, steps=3, batch_size=3, dtype=how.get("dtype", "fp32"))
    attached, users = None, EmbeddingStore.load(run / "embeddings")
    if method == "psa":
        adapter = load_adapter(run / "training/prompt/adapter", base="mini")
        with torch.no_grad():
            adapter.matcher.bans_bias.fill_(4.0)
        attached = attach(pipeline, adapter)
    generate(Drawing(pipeline, config, users, attached), rows, out)
    return np.stack([read_picture(out / row.file_name).astype(float) for row in rows])


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("method", "how", "grey_levels"),
    [
        ("psa", {}, 1),
        ("psa", {"offload": "model"}, 1),
        ("psa", {"offload": "sequential"}, 1),
        ("base", {"dtype": "fp16"}, 2),
        ("base", {"dtype": "bf16"}, 8),
    ],
)
def test_a_gpu_draws_what_a_cpu_draws(tmp_path, small_run, method, how, grey_levels):
    """Half precision may decide otherwise what of a prompt an untrained adapter takes away."""
    expected = drawn_for_users(small_run[0], tmp_path / "cpu", method)
    found = drawn_for_users(small_run[0], tmp_path / "cuda", method, device="cuda", **how)
    assert np.abs(found - expected).mean() < grey_levels
