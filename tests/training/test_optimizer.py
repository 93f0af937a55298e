"""Optimisers by name, and the learning rate over a run."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from psalign.errors import ExtraMissing, UsageError
from psalign.training.config import TrainingConfig
from psalign.training.optimizer import make_optimizer, schedule


def weights():
    return [torch.nn.Parameter(torch.ones(4, 4))]


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("adafactor", torch.optim.Adafactor)])
def test_optimisers_of_torch(name, kind):
    optimizer = make_optimizer(weights(), TrainingConfig(optimizer=name, lr=3e-4, weight_decay=0.02))
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 3e-4
    assert optimizer.param_groups[0]["weight_decay"] == 0.02


def test_adafactor_keeps_less_than_adamw():
    sizes = {}
    for name in ("adamw", "adafactor"):
        [weight] = parameters = [torch.nn.Parameter(torch.ones(64, 64))]
        optimizer = make_optimizer(parameters, TrainingConfig(optimizer=name))
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        sizes[name] = sum(value.numel() for value in optimizer.state[weight].values())
    assert sizes["adafactor"] < 0.1 * sizes["adamw"]


def test_weights_that_start_at_zero_move_by_the_learning_rate_under_adafactor():
    """Equal gradients are divided by their own size: a step of lr, not of lr times the size of the weights."""
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = make_optimizer([weight], TrainingConfig(optimizer="adafactor", lr=5e-6))
    weight.grad = torch.full((4, 4), 0.3)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), -5e-6))


def test_eight_bits_without_bitsandbytes_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'psalign\[8bit\]'"):
        make_optimizer(weights(), TrainingConfig(optimizer="adamw8bit"))


def test_eight_bits_on_a_cpu_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    with pytest.raises(UsageError, match="adamw8bit needs a GPU"):
        make_optimizer(weights(), TrainingConfig(optimizer="adamw8bit"))


def test_eight_bits_are_asked_of_bitsandbytes(monkeypatch):
    """What a GPU would be given; the library itself runs on one alone."""
    given = {}
    fake = ModuleType("bitsandbytes")
    fake.optim = SimpleNamespace(AdamW8bit=lambda parameters, **how: given.update(how, count=len(parameters)))
    monkeypatch.setitem(sys.modules, "bitsandbytes", fake)
    weight = SimpleNamespace(device=torch.device("cuda"))
    make_optimizer([weight], TrainingConfig(optimizer="adamw8bit", lr=1e-4, weight_decay=0.5))
    assert given == {"lr": 1e-4, "weight_decay": 0.5, "count": 1}


def test_schedules_by_hand():
    """Ten steps of warm-up; then all of it, or half a cosine from 1 to .1: .55 in the middle."""
    cosine = TrainingConfig(steps=110, warmup_steps=10)
    constant = TrainingConfig(steps=110, warmup_steps=10, schedule="constant_with_warmup")
    for config in (cosine, constant):
        assert [schedule(step, config) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert [schedule(step, cosine) for step in (10, 60, 110)] == pytest.approx([1.0, 0.55, 0.1])
    assert {schedule(step, constant) for step in range(10, 110)} == {1.0}
    assert schedule(0, TrainingConfig(warmup_steps=0)) == 1.0
