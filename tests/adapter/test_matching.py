"""The matcher: what each source of user tokens can do, and that no source and no limit takes away from another."""

from dataclasses import replace

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
        torch.nn.init.normal_(weight, std=0.3)
    return matcher


@pytest.fixture(params=[0, 1], ids=["within the prompt", "by itself"])
def way(request):
    """Which of the two logits of a matcher a test looks at."""
    return request.param


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


def test_logits_are_those_of_vector_tokens_categories_and_limits_in_turn(way):
    logits = new_matcher()(states(), new_users())[way]
    assert logits.shape == (B, T, N + C + 2)
    assert (logits[:, 0] == NEVER).all()  # the start of text


def test_a_known_list_stands_in_place_of_the_vector(way):
    matcher, users = new_matcher(), new_users()
    logits = matcher(states(), users)[way]
    assert (logits[:2, :, :N] == NEVER).all()
    assert (logits[2, 1:, :N] > NEVER).all()
    other = RowUsers(users.vectors.flip(1), users.strength, users.bans, users.is_known, users.limits,
                     users.limit_strength)  # fmt: skip
    assert torch.equal(matcher(states(), other)[way][:2], logits[:2])


def test_only_banned_categories_match(way):
    logits = new_matcher()(states(), new_users())[way][:, 1:, N : N + C]
    assert (logits[0][:, [0, 3]] > NEVER).all()
    assert (logits[0][:, [1, 2]] == NEVER).all()
    assert (logits[1:] == NEVER).all()


def test_a_list_that_is_not_known_leaves_the_vector_alone(way):
    logits = new_matcher()(states(), RowUsers(torch.randn(B, W), torch.ones(B)))[way]
    assert logits.shape == (B, T, N + C)
    assert (logits[:, 1:, :N] > NEVER).all()
    assert (logits[..., N:] == NEVER).all()


@pytest.mark.parametrize("sharp", [True, False])
def test_one_more_limit_never_lowers_a_match(sharp, way):
    """The structure that makes limits safe: the strongest of all matches counts, and each is made by itself."""
    matcher, x = new_matcher(), states()
    for seed in range(20):
        users = new_users(limits=5, seed=seed)
        fewer = RowUsers(users.vectors, users.strength, users.bans, users.is_known, users.limits[:, :3],
                         users.limit_strength[:, :3])  # fmt: skip
        more, less = (matcher.matches(matcher(x, one)[way], one, sharp=sharp).amax(-1) for one in (users, fewer))
        assert (more >= less - 1e-6).all()  # sums of other shapes are rounded otherwise


def test_a_limit_that_a_row_lacks_never_matches(way):
    matcher, users = new_matcher(), new_users()
    users.limit_strength[1] = 0
    logits = matcher(states(), users)[way]
    assert (logits[1, :, N + C :] == NEVER).all()
    assert (logits[0, 1:, N + C :] > NEVER).all()


def test_the_order_of_limits_is_nothing(way):
    matcher, users = new_matcher(), new_users(limits=3)
    turned = RowUsers(users.vectors, users.strength, users.bans, users.is_known, users.limits.flip(1),
                      users.limit_strength)  # fmt: skip
    one, other = (matcher(states(), row)[way] for row in (users, turned))
    torch.testing.assert_close(one[..., N + C :], other[..., N + C :].flip(-1))


def test_sharp_matches_below_their_least_are_nothing_and_keep_their_gradient():
    matcher, users = new_matcher(), new_users(limits=1)
    logits = torch.linspace(-4, 4, B * T * (N + C + 1)).view(B, T, -1).requires_grad_()
    soft, sharp = (matcher.matches(logits, users, sharp=one) for one in (False, True))
    least = torch.tensor([LEAST_OF_BANS] * (N + C) + [LEAST_OF_WORDS])
    assert torch.equal(sharp, torch.where(soft < least, 0.0, soft))
    assert torch.equal(*(torch.autograd.grad(one.sum(), logits)[0] for one in (soft, sharp)))


def test_a_limits_strength_is_that_of_its_matches(way):
    matcher, users = new_matcher(), new_users()
    logits = matcher(states(), users)[way]
    whole = matcher.matches(logits, users, sharp=True)
    users.limit_strength[:] = 0.5
    half = matcher.matches(logits, users, sharp=True)
    assert torch.equal(half[..., : N + C], whole[..., : N + C])
    assert torch.equal(half[..., N + C :], 0.5 * whole[..., N + C :])


def test_an_untrained_similarity_is_the_cosine_of_centred_states(way):
    """A limit that is a prompt's own token is found by its state alone, whatever was learned."""
    torch.manual_seed(0)
    matcher, x = TokenMatcher(context_dim=D, rank=8, llm_dim=W, n_tokens=N, proj_rank=0, categories=C), states()
    users = new_users(limits=1)
    users.limits[:, 0, :] = x[:, 3][:, None]
    assert (matcher(x, users)[way][:, 1:, -1].argmax(1) == 2).all()


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


def test_a_limit_of_half_strength_makes_half_the_change():
    torch.manual_seed(0)
    adapter = PromptAdapter(llm_dim=W, context_dim=D, rank=8, heads=2, categories=C, n_tokens=N, words=True)
    for weight in adapter.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    x, users = states(), new_users(known=(True, True, True))
    users.bans[:] = 0
    whole = adapter.rewritten(x, None, users)[0] - x
    users.limit_strength[:] = 0.5
    half = adapter.rewritten(x, None, users)[0] - x
    assert whole.abs().amax((1, 2)).min() > 0
    torch.testing.assert_close(half, 0.5 * whole)


def test_a_weaker_limit_beside_a_stronger_one_marks_its_words_less():
    """One row, two limits: their words are marked by 1 and by a half of their matches, and the change is whole."""
    torch.manual_seed(0)
    adapter = PromptAdapter(llm_dim=W, context_dim=D, rank=8, heads=2, categories=C, n_tokens=N, words=True)
    marks = []
    adapter.rewriter.register_forward_pre_hook(lambda module, inputs: marks.append(inputs[1]))
    logits = torch.full((1, T, N + C + 2), NEVER)
    logits[0, 2, -2], logits[0, 4, -1] = 9.0, 9.0
    users = new_users()[:1]
    users.limit_strength[:] = torch.tensor([[1.0, 0.5]])
    adapter.rewritten(states()[:1], None, users, (logits, logits))
    assert marks[0][0, [2, 4], 0].tolist() == pytest.approx([1.0, 0.5], abs=1e-3)
    assert marks[0].count_nonzero() == 4


def test_a_category_that_the_list_allows_never_matches_however_large_its_logit(way):
    matcher, users = new_matcher(), new_users(limits=0)
    with torch.no_grad():
        matcher.categories.mul_(1e4)
    logits = matcher(states(), users)[way][:, :, N:]
    assert (logits.masked_fill(users.bans[:, None] == 1, NEVER) == NEVER).all()
    assert (logits[0] > NEVER).any()


def test_what_a_token_adds_is_known_by_the_token_before_it():
    """The logits of a token by itself depend on the token before it too, those within the prompt on its own state."""
    matcher, users, x = new_matcher(), new_users(known=(True, False, False)), states()
    y = x.clone()
    y[:, 2] += 1.0
    (within, own), (other_within, other_own) = matcher(x, users), matcher(y, users)
    assert (within != other_within).any(2).any(0).tolist() == [False, False, True, False, False, False]
    assert (own != other_own).any(2).any(0).tolist() == [False, False, True, True, False, False]


def test_an_untrained_matcher_knows_nothing_of_the_token_before():
    torch.manual_seed(0)
    matcher = TokenMatcher(context_dim=D, rank=8, llm_dim=W, n_tokens=N, proj_rank=0, categories=C)
    assert torch.equal(*matcher(states(), new_users()))


def test_a_token_that_is_matched_by_itself_alone_is_matched():
    torch.manual_seed(0)
    adapter = PromptAdapter(llm_dim=W, context_dim=D, rank=8, heads=2, categories=C, n_tokens=N, words=True)
    within = torch.full((B, T, N + C + 2), NEVER)
    own = within.clone()
    own[:, 3, -1] = 9.0
    matches = adapter.matches((within, own), new_users())
    assert matches[:, 3].min() > 0.99
    assert matches.count_nonzero() == 2 * B


def test_caution_raises_every_match_of_its_rows_and_makes_none(way):
    matcher, users = new_matcher(), new_users()
    plain = matcher(states(), users)[way]
    careful = matcher(states(), replace(users, caution=torch.tensor([2.0, 0.0, 0.0])))[way]
    there = plain > NEVER
    torch.testing.assert_close(careful[0][there[0]], plain[0][there[0]] + 2)
    assert torch.equal(careful[1:], plain[1:])
    assert torch.equal(careful > NEVER, there)
