"""Training runs: what they start from, what they repeat, what they refuse."""

import csv
import errno
import gc
import json
import math
import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

import training_pairs
from psalign import files
from psalign.adapter.checkpoint import load_adapter
from psalign.errors import CheckpointError, OutputError, TrainingError, TrainingStopped, UsageError
from psalign.training.checkpoints import list_checkpoints
from psalign.training.config import TrainingConfig
from psalign.training.objective import Objective
from training_pairs import make_pairs, new_trainer, step_gradients


def log_of(folder):
    with (folder / "log.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def interrupt(trainer, monkeypatch, at):
    """Let a run end as by a kill before the step `at`: nothing is saved on the way out."""
    take_step = trainer._take_step

    def killed(*arguments):
        if trainer.step == at:
            raise KeyboardInterrupt
        return take_step(*arguments)

    monkeypatch.setattr(trainer, "_take_step", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()


def same_bits(one, other):
    return all(torch.equal(one[name], weight) for name, weight in other.items())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A function that puts a copy of one finished run into a folder."""
    run = tmp_path_factory.mktemp("finished") / "run"
    new_trainer(run).train()
    return lambda out: shutil.copytree(run, out, dirs_exist_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "loss"), [("adamw", "sigmoid"), ("adafactor", "ipo")])
def test_training_lowers_the_loss_of_a_step(tmp_path, optimizer, loss):
    trainer = new_trainer(tmp_path, steps=20, batch_size=12, lr=3e-3, user_dropout=0.0, caption_dropout=0.0,
                          optimizer=optimizer, loss=loss)  # fmt: skip
    before = step_gradients(trainer)[0][0].item()
    trainer.train()
    trainer.step = 0
    assert step_gradients(trainer)[0][0].item() < before


def test_the_unet_is_frozen(tmp_path):
    trainer = new_trainer(tmp_path)
    before = {name: weight.clone() for name, weight in trainer.attached.unet.state_dict().items()}
    trainer.train()
    assert same_bits(trainer.attached.unet.state_dict(), before)


def test_killed_and_resumed_ends_with_the_same_bits(tmp_path, monkeypatch):
    how = {"ema": 0.9, "reference_draws": 2, "log_every": 3, "visual_share": 0.25}
    whole = new_trainer(tmp_path / "whole", **how).train().state_dict()
    logs = {}
    for killed_at in (1, 2, 3, 5):
        out = tmp_path / f"broken at {killed_at}"
        interrupt(new_trainer(out, **how), monkeypatch, killed_at)
        assert same_bits(new_trainer(out, **how).train().state_dict(), whole)
        assert same_bits(load_adapter(out / "adapter").state_dict(), whole)
    for run in tmp_path.iterdir():
        logs[run.name] = [{name: row[name] for name in ("step", "loss", "dpo", "grad_norm")} for row in log_of(run)]
    assert len(logs) == 5
    assert all(log == logs["whole"] for log in logs.values())
    assert [row["step"] for row in logs["whole"]] == ["3", "6"]


def test_a_run_of_another_batch_size_with_as_many_pairs_goes_on(tmp_path, monkeypatch):
    interrupt(new_trainer(tmp_path), monkeypatch, 3)
    resumed = new_trainer(tmp_path, batch_size=2, accumulation=2)
    resumed.train()
    assert len(log_of(tmp_path)) == 6
    assert resumed.step == 6


class Together:
    """The share of two processes that are threads."""

    count = 2

    def __init__(self, index, barrier, given):
        self.index, self.is_first, self.barrier, self.given = index, index == 0, barrier, given

    def sum(self, tensor):
        self.given[self.index] = tensor
        self.barrier.wait(60)
        summed = self.given[0] + self.given[1]
        self.barrier.wait(60)
        return summed


def test_two_processes_know_each_others_reference_errors(tmp_path):
    """What the first one saves is then all that any of them knew: a resumed run computes nothing else."""
    how = {"reference_draws": 2, "visual_share": 0.25}
    alone = new_trainer(tmp_path / "alone", batch_size=4, **how)
    barrier, given = threading.Barrier(2), {}
    both = [new_trainer(tmp_path / f"{index}", batch_size=2, **how) for index in range(2)]
    for index, trainer in enumerate(both):
        trainer.shard, trainer.pairs_per_step = Together(index, barrier, given), 4
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            alone._take_step()
            list(pool.map(lambda trainer: trainer._take_step(), both))
    first, second = (trainer.reference.errors for trainer in both)
    assert first.isfinite().sum() > 12
    assert torch.equal(first.nan_to_num(-1), second.nan_to_num(-1))
    torch.testing.assert_close(first, alone.reference.errors, equal_nan=True)
    for one, other in zip(both[0].parameters, alone.parameters, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_sigterm_saves_and_exits(tmp_path, monkeypatch):
    whole = new_trainer(tmp_path / "whole").train().state_dict()
    stopped = new_trainer(tmp_path / "stopped", save_every=100)
    take_step = stopped._take_step

    def told_on_the_way(*arguments):
        if stopped.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(*arguments)

    monkeypatch.setattr(stopped, "_take_step", told_on_the_way)
    with pytest.raises(TrainingStopped, match="Stopped by SIGTERM after step 4, which is saved in") as raised:
        stopped.train()
    assert raised.value.exit_status == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert [path.name for path in list_checkpoints(tmp_path / "stopped/checkpoints")] == ["step-00000004.pt"]
    assert same_bits(new_trainer(tmp_path / "stopped", save_every=100).train().state_dict(), whole)


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    whole = new_trainer(tmp_path / "whole").train().state_dict()
    trainer, fsync = new_trainer(tmp_path / "full"), os.fsync

    def full(descriptor):
        if trainer.step == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left to write .*step-00000004\.pt"):
        trainer.train()
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "full/checkpoints").iterdir()] == ["step-00000002.pt"]
    assert same_bits(new_trainer(tmp_path / "full").train().state_dict(), whole)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_rows(tmp_path):
    pairs = make_pairs()
    pairs.cache.means[0] = torch.nan
    with pytest.raises(TrainingError, match=r"The loss of step \d is nan; its rows are .*\d+ \(picture_\d+_s\.jpg\)"):
        new_trainer(tmp_path, pairs=pairs, batch_size=12).train()


def test_a_gradient_that_is_not_finite_is_never_taken(tmp_path):
    trainer = new_trainer(tmp_path)
    trainer.trained.rewriter.up.bias.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(TrainingError, match="gradient of step 0 is not finite"):
        trainer.train()
    assert all(weight.isfinite().all() for weight in trainer.trained.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_a_unet_in_half_precision_trains_an_adapter_in_fp32(tmp_path, dtype, kind):
    gradients = []
    for precision in (torch.float32, dtype):
        named = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}[precision]
        trainer = new_trainer(tmp_path / str(precision), kind=kind, mixed_precision=named, user_dropout=0.0,
                              steps=2)  # fmt: skip
        trainer.attached.unet.to(precision)
        with torch.no_grad():
            for weight in trainer.trained.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
        _, named_gradients = step_gradients(trainer)
        scale = trainer.scaler.get_scale() if trainer.scaler.is_enabled() else 1.0
        gradients.append(torch.cat([gradient.flatten() for gradient in named_gradients.values()]) / scale)
        trainer.train()
        assert {weight.dtype for weight in trainer.trained.parameters()} == {torch.float32}
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.97


def test_a_gradient_that_overflows_in_fp16_is_left_out(tmp_path):
    """The scale is halved and the weights stay; the run goes on."""
    trainer = new_trainer(tmp_path, mixed_precision="fp16", steps=3)
    trainer.attached.unet.to(torch.float16)
    first = []

    def overflow(gradient):
        first.append(1)
        return gradient * math.inf if len(first) == 1 else gradient

    trainer.trained.rewriter.up.bias.register_hook(overflow)
    before = [weight.detach().clone() for weight in trainer.parameters]
    scale = trainer.scaler.get_scale()
    trainer._take_step()
    assert all(torch.equal(one, other) for one, other in zip(before, trainer.parameters, strict=True))
    assert trainer.scaler.get_scale() == scale / 2
    trainer._take_step()
    assert not all(torch.equal(one, other) for one, other in zip(before, trainer.parameters, strict=True))


def test_a_clip_of_0_is_none(tmp_path):
    weights = []
    for clip in (0.0, 1e9):
        trainer = new_trainer(tmp_path / str(clip), clip=clip, optimizer="adafactor", weight_decay=0.0)
        trainer._take_step()
        weights.append(torch.cat([weight.detach().flatten() for weight in trainer.parameters]))
    assert torch.equal(*weights)


def test_a_moving_average_is_what_is_saved(tmp_path):
    """By hand: average = decay * average + (1 - decay) * weights, after each step, from the first weights."""
    trainer = new_trainer(tmp_path, ema=0.8, steps=3)
    expected = [weight.detach().clone() for weight in trainer.parameters]
    apply = trainer._apply

    def following(plan):
        norm = apply(plan)
        for mean, weight in zip(expected, trainer.parameters, strict=True):
            mean.mul_(0.8).add_(0.2 * weight.detach())
        return norm

    trainer._apply = following
    adapter = trainer.train()
    saved = load_adapter(tmp_path / "adapter")
    for mean, kept, own in zip(expected, saved.parameters(), adapter.parameters(), strict=True):
        torch.testing.assert_close(kept, mean)
        assert torch.equal(kept, own)


@pytest.mark.long
def test_a_compiled_unet_takes_the_same_steps(tmp_path):
    """About a minute: python -m pytest -m long tests/training."""
    plain = new_trainer(tmp_path / "plain", steps=2).train().state_dict()
    compiled = new_trainer(tmp_path / "compiled", steps=2)
    compiled.attached.unload()
    compiled.attached.unet.compile(dynamic=True)
    from psalign.adapter.attach import attach

    compiled.objective.attached = attach(compiled.attached.unet, compiled.trained)
    for name, weight in compiled.train().state_dict().items():
        torch.testing.assert_close(weight, plain[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lr": 5e-4}, "  lr: 0.001 -> 0.0005"),
        ({"timesteps": (0, 500)}, "  timesteps: [0, 1000] -> [0, 500]"),
        ({"rewritten_share": 0.5}, "  rewritten_share: not given -> 0.5"),
        ({"steps": 9}, "  steps: 6 -> 9"),
        ({"batch_size": 2}, "  pairs of a step (batch_size * accumulation * processes): 4 -> 2"),
        ({"n_tokens": 2}, "  adapter.n_tokens: 1 -> 2"),
        ({"data": "other users"}, '  rows: "data" -> "other users"'),
    ],
)
def test_what_differs_from_the_run_whose_checkpoints_are_there_is_named(tmp_path, changes, told, finished):
    finished(tmp_path)
    before = list_checkpoints(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="checkpoints of another run, up to step-00000006") as refused:
        new_trainer(tmp_path, **changes).train()
    message, hint = str(refused.value).rsplit("\n", 1)
    assert message.splitlines()[1:] == [told]
    assert hint == f"Give it as it was, to go on from there; or train anew: --out {tmp_path}-2."
    assert list_checkpoints(tmp_path / "checkpoints") == before
    assert new_trainer(tmp_path).train() is not None  # as it was


def test_checkpoints_of_another_run_are_refused_without_its_run_json(tmp_path, finished):
    finished(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(CheckpointError, match="checkpoints of another run"):
        new_trainer(tmp_path, lr=5e-4).train()


def test_a_run_that_saved_nothing_gives_way_to_a_corrected_one(tmp_path, monkeypatch):
    """Neither its log nor the adapter that it found best stays."""
    interrupt(new_trainer(tmp_path, save_every=4, lr=0.5), monkeypatch, 3)
    (tmp_path / "adapter_best").mkdir()
    (tmp_path / "best.json").write_text("{}")
    trained = new_trainer(tmp_path, lr=5e-4).train().state_dict()
    assert same_bits(trained, new_trainer(tmp_path / "fresh", lr=5e-4).train().state_dict())
    assert [row["step"] for row in log_of(tmp_path)] == ["1", "2", "3", "4", "5", "6"]
    assert json.loads((tmp_path / "run.json").read_text())["config"]["lr"] == 5e-4
    assert not (tmp_path / "adapter_best").exists()


def test_more_steps_at_a_constant_rate_go_on_from_the_end_of_the_run(tmp_path):
    how = {"schedule": "constant_with_warmup"}
    new_trainer(tmp_path / "longer", **how).train()
    longer = new_trainer(tmp_path / "longer", steps=8, **how)
    weights = longer.train().state_dict()
    assert longer.step == 8
    assert same_bits(weights, new_trainer(tmp_path / "whole", steps=8, **how).train().state_dict())
    with pytest.raises(CheckpointError, match="has taken 8 steps already; expected at most the 6 asked for"):
        new_trainer(tmp_path / "longer", **how).train()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"run": 1, "config": 3, "pairs_per_step": "x"}'])
def test_a_damaged_run_json_is_named(tmp_path, content, finished):
    finished(tmp_path)
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"run\.json is damaged: .*\nRemove that file"):
        new_trainer(tmp_path).train()
    (tmp_path / "run.json").unlink()
    new_trainer(tmp_path).train()


def test_what_is_only_looked_at_may_change(tmp_path, monkeypatch):
    interrupt(new_trainer(tmp_path), monkeypatch, 3)
    new_trainer(tmp_path, log_every=2, keep=5, save_every=3).train()
    assert [row["step"] for row in log_of(tmp_path)] == ["1", "2", "4", "6"]


def test_an_adapter_without_its_run_is_refused(tmp_path):
    (tmp_path / "adapter").mkdir()
    with pytest.raises(OutputError, match="holds an adapter but no checkpoint of its run"):
        new_trainer(tmp_path).train()


@pytest.mark.parametrize(
    ("keep", "hint"),
    [(2, r"goes on from step-00000004\.pt"), (1, "starts from the beginning")],
)
def test_a_broken_checkpoint_is_named(tmp_path, keep, hint):
    whole = new_trainer(tmp_path, keep=keep).train().state_dict()
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=rf"step-00000006\.pt .*damaged or cut short(.|\n)*{hint}"):
        new_trainer(tmp_path, keep=keep).train()
    newest.unlink()
    if keep == 2:
        assert same_bits(new_trainer(tmp_path, keep=keep).train().state_dict(), whole)


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/.step-00000001.pt.77.part").write_bytes(b"of a run that was killed")
    new_trainer(tmp_path, keep=2).train()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000004.pt", "step-00000006.pt"]


def test_random_states_go_on(tmp_path, monkeypatch):
    """Nothing of ours draws from them; a hook that a user adds may."""
    drawn = []

    def draw(*_):
        torch.rand(1)

    for run in ("whole", "broken"):
        torch.manual_seed(3)
        trainer = new_trainer(tmp_path / run)
        trainer.attached.unet.register_forward_hook(draw)
        if run == "broken":
            interrupt(trainer, monkeypatch, 4)
            torch.manual_seed(9)
            trainer = new_trainer(tmp_path / run)
            trainer.attached.unet.register_forward_hook(draw)
        trainer.train()
        drawn.append(torch.rand(1))
    assert torch.equal(*drawn)


def test_what_is_logged(tmp_path):
    new_trainer(tmp_path, tensorboard=True, visual_share=0.25, safe_anchor_weight=1.0, user_dropout=0.0).train()
    rows = log_of(tmp_path)
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 7)]
    for name in ("loss", "dpo", "accuracy", "margin", "visual", "visual_accuracy", "chosen_error", "rejected_error",
                 "anchor", "safe_anchor", "lr", "grad_norm", "pairs_per_s", "peak_memory_mb"):  # fmt: skip
        assert all(math.isfinite(float(row[name])) for row in rows), name
    assert float(rows[0]["peak_memory_mb"]) > 50
    cells = [name for name in rows[0] if name.startswith("accuracy_")]
    assert len(cells) == 14
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in cells if row[name])
    assert any(row["accuracy_banned_hate"] for row in rows)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_figures_that_mean_nothing_are_left_empty(tmp_path):
    new_trainer(tmp_path, dpo_weight=0.0).train()
    assert {row[name] for row in log_of(tmp_path) for name in ("dpo", "accuracy", "visual", "safe_anchor")} == {""}


def test_the_run_is_told_beside_its_weights(tmp_path):
    new_trainer(tmp_path).train()
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["config"]["lr"] == 1e-3
    assert about["pairs_per_step"] == 4
    assert about["processes"] == 1
    assert about["versions"]["torch"] == torch.__version__
    assert about["commit"] is None or len(about["commit"]) == 40


def test_training_holds_one_unet(tmp_path):
    """No copy of the UNet comes to life in a run: the reference is that one with the adapter bypassed."""
    trainer = new_trainer(tmp_path, user_dropout=0.0)
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


def test_a_base_that_does_not_predict_noise_is_refused(tmp_path):
    trainer = new_trainer(tmp_path)
    velocity = SimpleNamespace(config=SimpleNamespace(prediction_type="v_prediction"), alphas_cumprod=torch.ones(1000))
    with pytest.raises(
        UsageError, match=r"predicts noise \(epsilon\) from plain latents; of this one, it predicts v_prediction"
    ):
        Objective.of(trainer.attached, trainer.config, velocity)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anchor": "magic"}, "Unknown anchor 'magic'; choose one of: noise, caption"),
        ({"mixed_precision": "fp8"}, "Unknown mixed_precision 'fp8'; choose one of: no, bf16, fp16"),
        ({"loss": "hinge"}, "Unknown loss 'hinge'; choose one of: sigmoid, ipo"),
        ({"optimizer": "sgd"}, "Unknown optimizer 'sgd'; choose one of: adamw, adamw8bit, adafactor"),
        ({"schedule": "linear"}, "Unknown schedule 'linear'; choose one of: cosine, constant_with_warmup"),
        ({"timestep_weighting": "late"}, "Unknown timestep_weighting 'late'; choose one of: none, min_snr"),
        ({"beta": -5.0}, "training.beta must be at least 0"),
        ({"reference_draws": -1}, "training.reference_draws must be at least 0"),
        ({"lr": math.inf}, "training.lr must be more than 0 and finite"),
        ({"user_dropout": 7.0}, "training.user_dropout must be between 0 and 1"),
        ({"visual_share": 1.5}, "training.visual_share must be between 0 and 1"),
        ({"ema": 1.0}, "training.ema must be at least 0 and less than 1; saw 1.0"),
        ({"timesteps": (0, 5000)}, "within 0 and 1000"),
        ({"steps": 0}, "training.steps must be more than 0 and finite; saw 0"),
        ({"dpo_weight": 0.0, "anchor_weight": 0.0}, "there is nothing to learn"),
        ({"dpo_weight": 0.0, "anchor_weight": 0.0, "visual_share": 0.5}, "there is nothing to learn"),  # of users
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UsageError, match=message):
        TrainingConfig(**settings)


def test_a_run_has_the_same_name_in_every_process(tmp_path, monkeypatch):
    """Sets have another order in every process, and diffusers keeps a list made of one in each config."""
    names = set()
    for order in (1, -1):
        make = training_pairs.tiny_adapter

        def other_order(*arguments, make=make, order=order, **more):
            adapter = make(*arguments, **more)
            adapter.register_to_config(_use_default_values=["rank", "heads", "n_tokens"][::order])
            return adapter

        monkeypatch.setattr(training_pairs, "tiny_adapter", other_order)
        trainer = new_trainer(tmp_path)
        monkeypatch.undo()
        assert trainer.trained.config["_use_default_values"][::order] == ["rank", "heads", "n_tokens"]
        names.add(trainer.identity.name)
    assert len(names) == 1
