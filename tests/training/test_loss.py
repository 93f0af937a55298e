"""The losses against sums written by hand."""

import math

import pytest
import torch

from psalign.training.loss import (
    NARROW,
    QUIET,
    STAYING,
    margins,
    match_loss,
    min_snr_weights,
    preference_loss,
    squared_error,
)

POLICY = torch.tensor([0.2, 0.6]), torch.tensor([0.5, 0.4])
REFERENCE = torch.tensor([0.3, 0.5]), torch.tensor([0.4, 0.4])


def test_diffusion_dpo_by_hand():
    """beta 10.

    Pair 1: policy .2 - .5 = -.3, reference .3 - .4 = -.1, margin .2, loss -log sigmoid(5 * .2) = log(1 + e^-1).
    Pair 2: policy .6 - .4 = .2, reference .5 - .4 = .1, margin -.1, loss log(1 + e^.5).
    """
    found = margins(POLICY, REFERENCE)
    torch.testing.assert_close(found, torch.tensor([0.2, -0.1]))
    expected = torch.tensor([math.log(1 + math.exp(-1)), math.log(1 + math.exp(0.5))])
    torch.testing.assert_close(preference_loss(found, beta=10), expected)


def test_ipo_by_hand():
    """beta 10: (5 * .2 - .5)^2 = .25 and (5 * -.1 - .5)^2 = 1; nothing is left to gain at a margin of 1 / beta."""
    found = preference_loss(torch.tensor([0.2, -0.1, 0.1]), beta=10, kind="ipo")
    torch.testing.assert_close(found, torch.tensor([0.25, 1.0, 0.0]))


def test_policy_equal_to_reference_gives_ln_2():
    errors = torch.rand(5), torch.rand(5)
    found = margins(errors, errors)
    assert not found.any()
    assert preference_loss(found, beta=5000).tolist() == pytest.approx([math.log(2)] * 5)


@pytest.mark.parametrize(("kind", "slope"), [("sigmoid", 25.0), ("ipo", 50.0)])
def test_gradient_lowers_the_chosen_and_raises_the_rejected_error(kind, slope):
    """At a margin of 0, beta 100: sigmoid has beta / 2 * sigmoid(0) = 25, ipo 2 * beta / 2 * 1 / 2 = 50."""
    chosen, rejected = torch.tensor([0.5], requires_grad=True), torch.tensor([0.5], requires_grad=True)
    found = margins((chosen, rejected), (chosen.detach(), rejected.detach()))
    preference_loss(found, beta=100, kind=kind).sum().backward()
    assert chosen.grad.item() == pytest.approx(slope)
    assert rejected.grad.item() == pytest.approx(-slope)


def test_squared_error_is_a_mean_over_everything_but_rows():
    predicted, target = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    predicted[1] = 3
    assert squared_error(predicted, target).tolist() == [1.0, 4.0]


def test_min_snr_by_hand():
    """alpha .9: SNR 9, weight 5 / 9. alpha .5: SNR 1, weight 1."""
    found = min_snr_weights(torch.tensor([0.9, 0.5]), gamma=5.0)
    torch.testing.assert_close(found, torch.tensor([5 / 9, 1.0]))


def test_match_loss_by_hand():
    """Two prompts of three tokens and one user token. Within their prompts, the largest logits are 3 and 0.5: the first
    has something to take away, -log sigmoid(3), the second has not, -log(1 - sigmoid(0.5)). By what tokens add, the
    last token of the first stays: -log sigmoid(1) for the largest logit that goes, -log(1 - sigmoid(2)) for the one
    that stays; the second, -log(1 - sigmoid(-1)). All is over the two rows of the step."""
    within = torch.tensor([[3.0, 1.0, 0.0], [0.5, -1.0, -2.0]])[..., None]
    own = torch.tensor([[0.5, 1.0, 2.0], [-3.0, -1.0, -2.0]])[..., None]
    rewritten = torch.tensor([True, False])
    stays = torch.tensor([[False, False, True], [True, True, True]])
    loss = match_loss((within, own), rewritten, stays, rows=2, rewritten_rows=1, is_sharp=False)
    softplus = {x: math.log1p(math.exp(x)) for x in (-3.0, 0.5, -1.0, 2.0)}
    expected = softplus[-3.0] + softplus[0.5] + softplus[-1.0] + STAYING * softplus[2.0] + softplus[-1.0]
    assert loss.item() == pytest.approx(expected / 2)


def test_where_it_is_not_known_which_tokens_stay_any_may_match():
    logits = torch.tensor([[0.5, 1.0, 2.0]])[..., None]
    loss = match_loss((logits, logits), torch.tensor([True]), rows=1, rewritten_rows=1, is_sharp=False)
    assert loss.item() == pytest.approx(2 * math.log1p(math.exp(-2.0)))


def test_once_the_matcher_is_sharp_matches_are_few():
    torch.manual_seed(0)
    logits, rewritten = (torch.randn(4, 6, 3), torch.randn(4, 6, 3)), torch.tensor([True, True, False, False])
    stays = torch.rand(4, 6) < 0.5
    both = [match_loss(logits, rewritten, stays, rows=4, rewritten_rows=2, is_sharp=sharp) for sharp in (False, True)]
    quiet = sum(torch.nn.functional.softplus(one).mean((1, 2))[2:].mean() for one in logits)
    broad = logits[0].sigmoid().amax(-1).mean(-1)[:2].mean()
    assert (both[1] - both[0]).item() == pytest.approx(QUIET * quiet.item() + NARROW * broad.item(), rel=1e-5)
