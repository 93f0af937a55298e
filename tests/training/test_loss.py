"""The loss against a sum written by hand."""

import math

import pytest
import torch

from psalign.training.loss import diffusion_dpo_loss, squared_error


def test_loss_by_hand():
    """beta 10.

    Pair 1: policy .2 - .5 = -.3, reference .3 - .4 = -.1, margin .2, loss -log sigmoid(5 * .2) = log(1 + e^-1).
    Pair 2: policy .6 - .4 = .2, reference .5 - .4 = .1, margin -.1, loss log(1 + e^.5).
    """
    policy = torch.tensor([0.2, 0.6]), torch.tensor([0.5, 0.4])
    reference = torch.tensor([0.3, 0.5]), torch.tensor([0.4, 0.4])
    loss, margins = diffusion_dpo_loss(policy, reference, beta=10)
    torch.testing.assert_close(margins, torch.tensor([0.2, -0.1]))
    assert loss.item() == pytest.approx((math.log(1 + math.exp(-1)) + math.log(1 + math.exp(0.5))) / 2)


def test_policy_equal_to_reference_gives_ln_2():
    errors = torch.rand(5), torch.rand(5)
    loss, margins = diffusion_dpo_loss(errors, errors, beta=5000)
    assert loss.item() == pytest.approx(math.log(2))
    assert not margins.any()


def test_gradient_lowers_the_chosen_and_raises_the_rejected_error():
    chosen, rejected = torch.tensor([0.5], requires_grad=True), torch.tensor([0.5], requires_grad=True)
    diffusion_dpo_loss((chosen, rejected), (chosen.detach(), rejected.detach()), beta=100)[0].backward()
    assert chosen.grad.item() == pytest.approx(25.0)  # beta / 2 * sigmoid(0)
    assert rejected.grad.item() == pytest.approx(-25.0)


def test_squared_error_is_a_mean_over_everything_but_rows():
    predicted, target = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    predicted[1] = 3
    assert squared_error(predicted, target).tolist() == [1.0, 4.0]
