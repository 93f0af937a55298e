"""The loss of a batch against one that is put together here, pass by pass; and what a step's parts add up to."""

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from psalign.adapter.users import RowUsers
from psalign.training.objective import FIGURES, Objective, ReferenceErrors, Totals
from training_pairs import make_pairs, new_trainer, randomise, step_gradients

FULL = {"user_dropout": 0.3, "caption_dropout": 0.2, "safe_anchor_weight": 3.0, "visual_share": 0.25}
FULL |= {"match_weight": 0.0, "list_dropout": 0.3}


def difference(one, other):
    """Relative difference of two gradients, as vectors."""
    assert one.keys() == other.keys()
    a, b = (torch.cat([part[name].flatten().double() for name in one]) for part in (one, other))
    return ((a - b).norm() / a.norm()).item()


def batch_of(trainer, step=0):
    plan = trainer.pairs.plan(step, size=trainer.pairs_per_step, config=trainer.config)
    return plan, trainer.pairs.batch(plan, seed=trainer.config.seed)


def plain_loss(trainer, plan, batch):
    """Row by row, every prediction by itself: what Objective does in few passes over whole batches."""
    config, attached, null_user = trainer.config, trainer.attached, trainer.objective.null_user
    alphas = trainer.objective.alphas

    def predict(latents, i, states, *, policy):
        t = batch.timesteps[i : i + 1]
        alpha = alphas[t].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents[None] + (1 - alpha).sqrt() * batch.noise[i][None]
        if not policy:
            with attached.disabled(), torch.no_grad():
                return attached.unet(noisy, t, states[None]).sample[0]
        vector, present = batch.vectors[i][None], batch.with_user[i][None]
        if null_user:
            vector, present = vector * present[:, None], torch.ones_like(present)
        users = RowUsers(vector, present.float(), batch.bans[i][None], batch.is_known[i][None])
        return attached.denoise(noisy, t, states[None], users=users)[0]

    weight = [min(1, config.snr_gamma * (1 - alphas[t]) / alphas[t]) if config.timestep_weighting == "min_snr" else 1.0
              for t in batch.timesteps]  # fmt: skip
    means = {name: [] for name in ("dpo", "visual", "anchor", "safe_anchor")}
    for i in range(len(batch)):
        states, noise, user = batch.states[i], batch.noise[i], bool(batch.with_user[i])
        policy = [predict(latents[i], i, states, policy=True) for latents in (batch.chosen, batch.rejected)]
        base = [predict(latents[i], i, states, policy=False) for latents in (batch.chosen, batch.rejected)]
        error = [weight[i] * (p - noise).square().mean() for p in (*policy, *base)]
        margin = (error[2] - error[3]) - (error[0] - error[1])
        loss = -torch.nn.functional.logsigmoid(config.beta / 2 * margin)
        if config.loss == "ipo":
            loss = (config.beta / 2 * margin - 0.5) ** 2
        if user:
            means["visual" if plan.visual[i] else "dpo"].append(loss)
        target = noise
        if config.anchor == "caption" and user:
            target = predict(batch.chosen[i], i, batch.own_states[i], policy=False)
        if not user:
            target = base[0]
        if user or null_user:
            means["anchor"].append(weight[i] * (policy[0] - target).square().mean())
        if user and batch.safe[i]:
            means["safe_anchor"].append(weight[i] * (policy[0] - base[0]).square().mean())
    mean = {name: sum(values) / max(1, len(values)) for name, values in means.items()}
    return (
        config.dpo_weight * mean["dpo"] + config.visual_weight * mean["visual"]
        + config.anchor_weight * mean["anchor"] + config.safe_anchor_weight * mean["safe_anchor"]
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["prompt", "published"])
@pytest.mark.parametrize(
    "settings",
    [
        {"anchor": "noise"},
        {"anchor": "caption"},
        {"anchor": "caption", "loss": "ipo", "beta": 50.0},
        {"anchor": "noise", "timestep_weighting": "min_snr"},
        {"anchor": "caption", "dpo_weight": 0.0},
    ],
)
def test_the_loss_and_its_gradient_are_those_of_a_plain_sum(tmp_path, kind, settings):
    trainer = new_trainer(tmp_path, kind=kind, batch_size=8, blocks=2, **{**FULL, **settings})
    randomise(trainer.trained)
    plan, batch = batch_of(trainer)
    assert batch.visual.any()
    assert 0 < batch.with_user.sum() < 8
    figures, gradients = step_gradients(trainer)
    expected = plain_loss(trainer, plan, batch)
    assert figures[FIGURES.index("loss")].item() == pytest.approx(expected.item(), rel=1e-4)
    trainer.optimizer.zero_grad(set_to_none=True)
    expected.backward()
    plain = {name: weight.grad for name, weight in trainer.trained.named_parameters() if weight.grad is not None}
    assert difference(gradients, plain) < 1e-3


def test_the_match_loss_is_of_rows_with_a_user_and_of_kind_prompt_alone(tmp_path):
    """A tenth of the mean cross-entropies of each row's largest match of either kind, while the matcher is soft."""
    how = {"batch_size": 8, "user_dropout": 0.3, "anchor_weight": 0.0}
    losses = {}
    for weight in (0.0, 0.1):
        trainer = new_trainer(tmp_path / str(weight), match_weight=weight, **how)
        trainer.trained.is_sharp = False
        _, batch = batch_of(trainer)
        losses[weight] = step_gradients(trainer)[0][FIGURES.index("loss")].item()
    rows = batch.with_user.nonzero()[:, 0]
    users = trainer.objective._users(batch, rows)
    label = batch.rewritten[rows].float()
    cross_entropy = sum(
        binary_cross_entropy_with_logits(logits.amax((1, 2)), label, reduction="sum") / 8
        for logits in trainer.trained.match(batch.states[rows], users)
    )
    assert losses[0.1] - losses[0.0] == pytest.approx(0.1 * cross_entropy.item(), rel=1e-4)
    published = new_trainer(tmp_path / "published", kind="published", **how)
    assert step_gradients(published)[0][FIGURES.index("match_loss")] == 0


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_an_untrained_adapter_starts_at_ln_2(tmp_path, kind):
    trainer = new_trainer(tmp_path, kind=kind, anchor_weight=0.0, user_dropout=0.0, match_weight=0.0)
    figures, _ = step_gradients(trainer)
    assert figures[FIGURES.index("loss")].item() == pytest.approx(math.log(2), abs=1e-6)
    assert figures[FIGURES.index("margin")].item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_accumulation_of_two_twos_is_a_batch_of_four(tmp_path, kind):
    how = {**FULL, "kind": kind, "anchor": "caption", "visual_share": 0.5, "beta": 50.0}
    gradients = []
    for sizes in ({"batch_size": 4}, {"batch_size": 2, "accumulation": 2}, {"batch_size": 1, "accumulation": 4}):
        trainer = new_trainer(tmp_path / str(len(gradients)), **how, **sizes)
        randomise(trainer.trained)
        gradients.append(step_gradients(trainer)[1])
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients[0].values())
    assert max(difference(gradients[0], other) for other in gradients[1:]) < 1e-5


def test_a_step_of_a_known_reference_needs_no_reference_pass(tmp_path):
    """Two fixed draws of six rows: after two epochs the UNet is called for the policy alone, with the same result."""
    pairs = make_pairs(6)
    trainer = new_trainer(tmp_path, pairs=pairs, batch_size=6, reference_draws=2, anchor="noise", user_dropout=0.0)
    calls = []
    trainer.attached.unet.register_forward_hook(lambda *_: calls.append(1))
    first = [step_gradients(trainer) for trainer.step in (0, 1)]
    assert len(calls) == 4
    again = [step_gradients(trainer) for trainer.step in (2, 3)]
    assert len(calls) == 6
    for (figures, _), (same, _) in zip(first, again, strict=True):
        torch.testing.assert_close(figures, same)
    assert trainer.reference.errors[0].isfinite().all()


def test_reference_errors_are_kept_by_kind_row_and_draw():
    pairs = make_pairs(6)
    trainer_plan = pairs.plan(1, size=6, config=new_config(reference_draws=3, visual_share=0.5))
    known = ReferenceErrors(6, 3)
    assert known.look_up(trainer_plan).isnan().all()
    known.store(trainer_plan, torch.arange(12.0).view(6, 2))
    assert known.look_up(trainer_plan).tolist() == torch.arange(12.0).view(6, 2).tolist()


def new_config(**settings):
    from psalign.training.config import TrainingConfig

    return TrainingConfig(**settings)


def test_totals_count_the_rows_that_a_mean_is_over(tmp_path):
    trainer = new_trainer(tmp_path, batch_size=12, **FULL)
    plan, batch = batch_of(trainer)
    totals = Totals.of(plan, trainer.pairs, null_user=False)
    assert totals.visual == int((batch.with_user & batch.visual).sum())
    assert totals.compared == int((batch.with_user & ~batch.visual).sum())
    assert totals.anchored == int(batch.with_user.sum())
    assert Totals.of(plan, trainer.pairs, null_user=True).anchored == 12
    assert totals.safe == int((batch.with_user & batch.safe).sum())


def test_pairs_ranked_rightly_are_counted_by_side_and_category(tmp_path):
    trainer = new_trainer(tmp_path, batch_size=12, user_dropout=0.0)
    randomise(trainer.trained)
    plan, batch = batch_of(trainer)
    outcome = trainer.objective(batch, Totals.of(plan, trainer.pairs, null_user=False))
    assert outcome.seen.sum() == 8  # of twelve rows a third is safe
    assert (outcome.right <= outcome.seen).all()
    banned = [int(n % 7) for n in plan.rows if n % 3 == 0]
    assert [int(outcome.seen[cell]) for cell in range(7)] == [banned.count(cell) for cell in range(7)]


@pytest.mark.parametrize("kind", ["prompt", "published"])
@pytest.mark.parametrize("n_tokens", [1, 3])
def test_checkpointed_layers_give_the_same_gradient(tmp_path, kind, n_tokens):
    gradients = []
    for checkpointing in (False, True):
        trainer = new_trainer(tmp_path / str(checkpointing), kind=kind, n_tokens=n_tokens, anchor="caption")
        randomise(trainer.trained)
        if checkpointing:
            trainer.attached.unet.enable_gradient_checkpointing()
        gradients.append(step_gradients(trainer)[1])
    assert difference(*gradients) < 1e-5


def test_nothing_compared_is_no_pass_over_rejected_pictures(tmp_path):
    trainer = new_trainer(tmp_path, dpo_weight=0.0, anchor="caption", user_dropout=0.0)
    rows = []
    trainer.attached.unet.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    step_gradients(trainer)
    assert rows == [4, 4]  # the base under the telling caption, and the policy


def test_a_look_from_outside_compares_in_any_case(tmp_path):
    trainer = new_trainer(tmp_path, dpo_weight=0.0, anchor="caption", user_dropout=0.0, match_weight=0.0)
    looking = Objective(trainer.attached, trainer.config, trainer.objective.alphas, compare=True)
    plan, batch = batch_of(trainer)
    outcome = looking(batch, Totals.of(plan, trainer.pairs, null_user=False))
    figures = dict(zip(FIGURES, outcome.figures.tolist(), strict=True))
    assert figures["dpo"] == pytest.approx(math.log(2), abs=1e-6)
    assert figures["loss"] == pytest.approx(trainer.config.anchor_weight * figures["anchor"], rel=1e-5)
