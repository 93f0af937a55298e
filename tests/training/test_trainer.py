"""Training runs: what they start from, what they repeat, what they refuse."""

import gc
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import LLM_DIM, tiny_adapter, tiny_unet
from psalign.adapter.attach import attach
from psalign.errors import CheckpointError, ExtraMissing, OutputError, TrainingError, UsageError
from psalign.training.checkpoints import list_checkpoints
from psalign.training.pairs import Pairs
from psalign.training.trainer import Trainer, TrainingConfig


class Scheduler:
    alphas_cumprod = torch.linspace(0.999, 0.01, 1000)


def make_pairs(count=12, *, seed=0):
    """Pairs with random latents, states and users, without files."""
    generator = torch.Generator().manual_seed(seed)

    class Cache:
        means = torch.randn((2 * count, 4, 8, 8), generator=generator)
        stds = torch.full((2 * count, 4, 8, 8), 0.1)
        states = torch.randn((count + 1, 5, 16), generator=generator)

    pairs = Pairs.__new__(Pairs)
    pairs.cache = Cache()
    pairs.vectors = torch.randn((count, LLM_DIM), generator=generator)
    numbers = torch.arange(count)
    pairs.table = torch.stack([numbers, numbers + count, numbers, numbers, numbers], dim=1).numpy()
    return pairs


def new_trainer(out, *, kind="prompt", pairs=None, data="data", **settings):
    unet = tiny_unet().requires_grad_(False)
    attached = attach(unet, tiny_adapter(unet, kind, trained=False))
    config = TrainingConfig(**{"steps": 6, "batch_size": 4, "warmup_steps": 2, "save_every": 2, **settings})
    return Trainer(attached, pairs or make_pairs(), Scheduler(), config, out, data=data)


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_an_untrained_adapter_starts_at_ln_2(tmp_path, kind):
    trainer = new_trainer(tmp_path, kind=kind, anchor_weight=0.0)
    loss, figures = trainer.losses(trainer._batch(0))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert figures["margin"] == pytest.approx(0, abs=1e-7)


def test_training_lowers_the_loss_of_a_batch(tmp_path):
    trainer = new_trainer(tmp_path, steps=40, batch_size=12, lr=3e-3, user_dropout=0.0, caption_dropout=0.0)
    batch = trainer._batch(0)
    before = trainer.losses(batch)[0].item()
    trainer.train()
    assert trainer.losses(batch)[0].item() < before


def test_the_unet_is_frozen(tmp_path):
    trainer = new_trainer(tmp_path)
    before = {name: weight.clone() for name, weight in trainer.attached.unet.state_dict().items()}
    trainer.train()
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.attached.unet.state_dict().items())


@pytest.mark.parametrize("killed_at", [1, 2, 3, 5])
def test_killed_and_resumed_ends_with_the_same_bits(tmp_path, monkeypatch, killed_at):
    whole = new_trainer(tmp_path / "whole").train().state_dict()
    broken = new_trainer(tmp_path / "broken")
    take_step = broken._take_step

    def killed():
        if broken.step == killed_at:
            raise KeyboardInterrupt
        return take_step()

    monkeypatch.setattr(broken, "_take_step", killed)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed = new_trainer(tmp_path / "broken").train().state_dict()
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())
    assert (tmp_path / "broken/log.csv").read_text().count("\n") == 7  # a header and six steps


def test_accumulation_of_two_twos_is_a_batch_of_four(tmp_path, monkeypatch):
    """Batch 0 and 1 of size 2 have the rows and noise of batch 0 of size 4; nothing is clipped."""
    one = new_trainer(tmp_path / "one", batch_size=4, clip=1e9)
    two = new_trainer(tmp_path / "two", batch_size=2, accumulation=2, clip=1e9)
    full = one._batch(0)

    def half(number):
        part = slice(2 * number, 2 * number + 2)
        values = {k: v[part] for k, v in vars(full).items()}
        return type(full)(**values)

    monkeypatch.setattr(one, "_batch", lambda number: full)
    monkeypatch.setattr(two, "_batch", half)
    full = type(full)(**{**vars(full), "with_user": torch.ones(4, dtype=torch.bool)})
    one._take_step()
    two._take_step()
    for a, b in zip(one.trained.parameters(), two.trained.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_rows(tmp_path):
    pairs = make_pairs()
    pairs.cache.means[0] = torch.nan
    with pytest.raises(TrainingError, match=r"The loss of step \d is nan; its rows are \["):
        new_trainer(tmp_path, pairs=pairs, batch_size=12).train()


def test_a_gradient_that_is_not_finite_is_never_taken(tmp_path):
    trainer = new_trainer(tmp_path)
    trainer.trained.rewriter.up.bias.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(TrainingError, match="gradient of step 0 is not finite"):
        trainer.train()
    assert all(weight.isfinite().all() for weight in trainer.trained.parameters())


@pytest.mark.parametrize("anchor", ["noise", "caption"])
def test_the_null_user_of_published_is_held_to_the_base(tmp_path, anchor):
    """Rows whose user was dropped change the loss of a trained `published`; `prompt` has no null user to train."""
    changes = {}
    for kind in ("published", "prompt"):
        trainer = new_trainer(tmp_path / kind, kind=kind, anchor=anchor, dpo_weight=0.0)
        with torch.no_grad():
            for weight in trainer.trained.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        batch = trainer._batch(0)
        half = torch.tensor([True, True, False, False])
        other = batch.states.clone()
        other[2:] += 1
        losses = []
        for states in (batch.states, other):
            changed = type(batch)(**{**vars(batch), "with_user": half, "states": states})
            losses.append(trainer.losses(changed)[0].item())
        changes[kind] = abs(losses[0] - losses[1])
    assert changes["published"] > 1e-6
    assert changes["prompt"] == 0


def test_bf16_compute_keeps_the_adapter_in_fp32(tmp_path):
    adapter = new_trainer(tmp_path, mixed_precision="bf16").train()
    assert {weight.dtype for weight in adapter.parameters()} == {torch.float32}


def test_checkpoints_of_another_run_are_refused(tmp_path):
    new_trainer(tmp_path).train()
    with pytest.raises(CheckpointError, match="checkpoints of another run"):
        new_trainer(tmp_path, lr=5e-4).train()
    with pytest.raises(CheckpointError, match="checkpoints of another run"):
        new_trainer(tmp_path, data="other users").train()


def test_an_adapter_without_its_run_is_refused(tmp_path):
    (tmp_path / "adapter").mkdir()
    with pytest.raises(OutputError, match="holds an adapter but no checkpoint of its run"):
        new_trainer(tmp_path).train()


def test_a_broken_checkpoint_is_named(tmp_path):
    new_trainer(tmp_path).train()
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"step-00000006\.pt cannot be read"):
        new_trainer(tmp_path).train()


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    new_trainer(tmp_path, keep=2).train()
    names = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert names == ["step-00000004.pt", "step-00000006.pt"]


def test_logs_to_csv_and_tensorboard(tmp_path):
    new_trainer(tmp_path, tensorboard=True).train()
    header = (tmp_path / "log.csv").read_text().splitlines()[0].split(",")
    assert {"step", "loss", "dpo", "accuracy", "margin", "anchor", "grad_norm", "pairs_per_s"} <= set(header)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_tensorboard_that_is_not_installed_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'psalign\[tensorboard\]'"):
        new_trainer(tmp_path, tensorboard=True)


def test_training_holds_one_unet(tmp_path):
    """No copy of the UNet comes to life in a run: the reference is that one with the adapter bypassed."""
    trainer = new_trainer(tmp_path)
    unet, seen, calls = type(trainer.attached.unet), [], []

    def count(*_):
        calls.append(1)
        if len(calls) in (1, 4):  # looking through all objects is slow
            seen.append(sum(isinstance(thing, unet) for thing in gc.get_objects()))

    gc.collect()
    count()
    trainer.attached.unet.register_forward_hook(count)
    trainer.train()
    assert len(calls) == 1 + 2 * 6  # policy and reference in each of six steps
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anchor": "magic"}, "Unknown anchor 'magic'; choose one of: noise, caption"),
        ({"mixed_precision": "fp8"}, "Unknown mixed_precision 'fp8'; choose one of: no, bf16"),
        ({"beta": -5.0}, "training.beta must be at least 0"),
        ({"lr": math.inf}, "training.lr must be more than 0 and finite"),
        ({"user_dropout": 7.0}, "training.user_dropout must be between 0 and 1"),
        ({"timesteps": (0, 5000)}, "within 0 and 1000"),
        ({"steps": 0}, "training.steps must be more than 0 and finite; saw 0"),
        ({"dpo_weight": 0.0, "anchor_weight": 0.0}, "there is nothing to learn"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UsageError, match=message):
        TrainingConfig(**settings)


def test_a_run_has_the_same_name_in_every_process(tmp_path):
    """Sets have another order in every process, and diffusers keeps a list made of one in each config."""
    tests = Path(__file__).parents[1]
    code = (
        f"import sys; sys.path[:0] = [{str(tests)!r}, {str(Path(__file__).parent)!r}]\n"
        "from pathlib import Path; from test_trainer import new_trainer\n"
        f"print(new_trainer(Path({str(tmp_path)!r})).run_name)"
    )
    names = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(names) == 1
