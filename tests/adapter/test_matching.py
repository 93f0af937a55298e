"""The matcher: what each source of user tokens can do, and that no source and no limit takes away from another."""

import pytest
import torch

from psalign.adapter.matching import LEAST_OF_BANS, LEAST_OF_WORDS, NEVER, TokenMatcher
from psalign.adapter.prompt import PromptAdapter
from psalign.adapter.users import RowUsers

B, T, D, W, C, N = 3, 6, 16, 5, 4, 2


def new_matcher():
    torch.manual_seed(0)
    matcher = TokenMatcher(context_dim=D, rank=8, llm_dim=W, n_tokens=N, proj_rank=0, categories=C)
    for weight in matcher.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return matcher


def new_users(*, known=(True, True, False), limits=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return RowUsers(
        vectors=torch.randn((B, W), generator=generator),
        strength=torch.ones(B),
        bans=torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]),
        is_known=torch.tensor(known),
        limits=torch.randn((B, limits, 2, D), generator=generator) if limits else None,
        limit_strength=torch.ones(B, limits) if limits else None,
    )


def states(seed=1):
    return torch.randn((B, T, D), generator=torch.Generator().manual_seed(seed))


def test_logits_are_those_of_vector_tokens_categories_and_limits_in_turn():
    logits = new_matcher()(states(), new_users())
    assert logits.shape == (B, T, N + C + 2)
    assert (logits[:, 0] == NEVER).all()  # the start of text


def test_a_known_list_stands_in_place_of_the_vector():
    matcher, users = new_matcher(), new_users()
    logits = matcher(states(), users)
    assert (logits[:2, :, :N] == NEVER).all()
    assert (logits[2, 1:, :N] > NEVER).all()
    other = RowUsers(users.vectors.flip(1), users.strength, users.bans, users.is_known, users.limits,
                     users.limit_strength)  # fmt: skip
    assert torch.equal(matcher(states(), other)[:2], logits[:2])


def test_only_banned_categories_match():
    logits = new_matcher()(states(), new_users())[:, 1:, N : N + C]
    assert (logits[0][:, [0, 3]] > NEVER).all()
    assert (logits[0][:, [1, 2]] == NEVER).all()
    assert (logits[1:] == NEVER).all()


def test_a_list_that_is_not_known_leaves_the_vector_alone():
    logits = new_matcher()(states(), RowUsers(torch.randn(B, W), torch.ones(B)))
    assert logits.shape == (B, T, N + C)
    assert (logits[:, 1:, :N] > NEVER).all()
    assert (logits[..., N:] == NEVER).all()


@pytest.mark.parametrize("sharp", [True, False])
def test_one_more_limit_never_lowers_a_match(sharp):
    """The structure that makes limits safe: the strongest of all matches counts, and each is made by itself."""
    matcher, x = new_matcher(), states()
    for seed in range(20):
        users = new_users(limits=5, seed=seed)
        fewer = RowUsers(users.vectors, users.strength, users.bans, users.is_known, users.limits[:, :3],
                         users.limit_strength[:, :3])  # fmt: skip
        more, less = (matcher.matches(matcher(x, one), one, sharp=sharp).amax(-1) for one in (users, fewer))
        assert (more >= less - 1e-6).all()  # sums of other shapes are rounded otherwise


def test_a_limit_that_a_row_lacks_never_matches():
    matcher, users = new_matcher(), new_users()
    users.limit_strength[1] = 0
    logits = matcher(states(), users)
    assert (logits[1, :, N + C :] == NEVER).all()
    assert (logits[0, 1:, N + C :] > NEVER).all()


def test_the_order_of_limits_is_nothing():
    matcher, users = new_matcher(), new_users(limits=3)
    turned = RowUsers(users.vectors, users.strength, users.bans, users.is_known, users.limits.flip(1),
                      users.limit_strength)  # fmt: skip
    one, other = (matcher(states(), row) for row in (users, turned))
    torch.testing.assert_close(one[..., N + C :], other[..., N + C :].flip(-1))


def test_sharp_matches_below_their_least_are_nothing_and_keep_their_gradient():
    matcher, users = new_matcher(), new_users(limits=1)
    logits = torch.linspace(-4, 4, B * T * (N + C + 1)).view(B, T, -1).requires_grad_()
    soft, sharp = (matcher.matches(logits, users, sharp=one) for one in (False, True))
    least = torch.tensor([LEAST_OF_BANS] * (N + C) + [LEAST_OF_WORDS])
    assert torch.equal(sharp, torch.where(soft < least, 0.0, soft))
    assert torch.equal(*(torch.autograd.grad(one.sum(), logits)[0] for one in (soft, sharp)))


def test_a_limits_strength_is_that_of_its_matches():
    matcher, users = new_matcher(), new_users()
    logits = matcher(states(), users)
    whole = matcher.matches(logits, users, sharp=True)
    users.limit_strength[:] = 0.5
    half = matcher.matches(logits, users, sharp=True)
    assert torch.equal(half[..., : N + C], whole[..., : N + C])
    assert torch.equal(half[..., N + C :], 0.5 * whole[..., N + C :])


def test_an_untrained_similarity_is_the_cosine_of_centred_states():
    """A limit that is a prompt's own token is found by its state alone, whatever was learned."""
    torch.manual_seed(0)
    matcher, x = TokenMatcher(context_dim=D, rank=8, llm_dim=W, n_tokens=N, proj_rank=0, categories=C), states()
    users = new_users(limits=1)
    users.limits[:, 0, :] = x[:, 3][:, None]
    assert (matcher(x, users)[:, 1:, -1].argmax(1) == 2).all()


def test_measures_are_of_words_and_not_of_the_start_of_text():
    matcher, sample = new_matcher(), states()
    sample[:, 0] = 1e4
    matcher.measure(sample)
    assert matcher.centre.abs().max() < 10
    torch.testing.assert_close(matcher.spread, sample[:, 1:].flatten(0, 1).std(0))


def test_a_row_that_nothing_matches_keeps_its_very_bits():
    torch.manual_seed(0)
    adapter = PromptAdapter(llm_dim=W, context_dim=D, rank=8, heads=2, categories=C, n_tokens=N, words=True)
    for weight in adapter.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    x, users = states(), new_users(limits=0)
    x[0, 2] = -0.0
    changed, _ = adapter.rewritten(x, None, users)
    assert torch.equal(changed[1].view(torch.int32), x[1].view(torch.int32))  # bans nothing
    users.strength[0] = 0
    changed, _ = adapter.rewritten(x, None, users)
    assert torch.equal(changed[0].view(torch.int32), x[0].view(torch.int32))


def test_a_category_that_the_list_allows_never_matches_however_large_its_logit():
    matcher, users = new_matcher(), new_users(limits=0)
    with torch.no_grad():
        matcher.categories.mul_(1e4)
    logits = matcher(states(), users)[:, :, N:]
    assert (logits.masked_fill(users.bans[:, None] == 1, NEVER) == NEVER).all()
    assert (logits[0] > NEVER).any()
