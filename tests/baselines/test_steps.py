"""Steps of training: killed and resumed is never killed; checkpoints of another run and losses of nan are refused."""

import pytest
import torch

from psalign.baselines.steps import Place, StepsConfig, generator_of, take_steps
from psalign.errors import CheckpointError, TrainingError

CONFIG = StepsConfig(steps=6, lr=0.1, weight_decay=0.01, save_every=2)


def train(place, *, stop_at=None):
    """A weight [3] that is drawn to points which differ from step to step."""
    weight = torch.zeros(3, requires_grad=True)

    def loss_of(step):
        if step == stop_at:
            raise KeyboardInterrupt
        return (weight - torch.randn(3, generator=generator_of(5, step))).square().sum()

    take_steps([weight], loss_of, CONFIG, CONFIG.steps, place)
    return weight.detach()


def test_killed_and_resumed_ends_with_the_same_weights(tmp_path):
    whole = train(Place(tmp_path / "whole", "run", "all"))
    assert whole.abs().min() > 0
    with pytest.raises(KeyboardInterrupt):
        train(Place(tmp_path / "cut", "run", "all"), stop_at=5)
    saved = sorted(path.name for path in (tmp_path / "cut/checkpoints").iterdir())
    assert saved == ["step-00000002.pt", "step-00000004.pt"]
    assert torch.equal(train(Place(tmp_path / "cut", "run", "all")), whole)
    rows = (tmp_path / "cut/log.csv").read_text().splitlines()
    assert [int(row.split(",")[0]) for row in rows[1:]] == [1, 2, 3, 4, 5, 6]


def test_checkpoints_of_another_run_are_refused(tmp_path):
    train(Place(tmp_path, "run", "all"))
    with pytest.raises(CheckpointError, match="holds checkpoints of another run"):
        train(Place(tmp_path, "another", "all"))


def test_a_loss_that_is_no_number_stops_the_training(tmp_path):
    weight = torch.zeros(1, requires_grad=True)
    with pytest.raises(TrainingError, match=r"The loss of step 0 of all is nan\.\nLower lr\."):
        take_steps([weight], lambda step: weight.sum() * float("nan"), CONFIG, 6, Place(tmp_path, "run", "all"))
