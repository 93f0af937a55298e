"""The loss of captions by hand, its parts, whole runs on a tiny UNet, kills, and what it needs of a UNet."""

import csv

import pytest
import torch
from diffusers import UNet2DConditionModel

from helpers import tiny_unet
from psalign.diffusion.reader import Reader, random_pools
from psalign.training.caption_objective import CaptionObjective
from psalign.training.config import TrainingConfig
from psalign.training.loss import match_loss
from training_captions import caption_adapter, make_captions, new_caption_trainer
from training_pairs import randomise

CPU = torch.device("cpu")


def gradients(trainer, step=0):
    trainer.step = step
    trainer.optimizer.zero_grad(set_to_none=True)
    plan = trainer.pairs.plan(step, size=trainer.pairs_per_step, config=trainer.config)
    figures, _, _ = trainer._gradients(plan)
    return figures, [weight.grad.clone() for weight in trainer.parameters if weight.grad is not None]


def interrupt(trainer, monkeypatch, at):
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


def test_the_loss_by_hand(tmp_path):
    """Mean over rows of the reader's error between rewritten and wanted states, rows to be left alone times 3; and half
    of the mean match loss."""
    trainer = new_caption_trainer(tmp_path, untouched_weight=3.0, caption_dropout=0.0, match_weight=0.5)
    randomise(trainer.trained)
    trainer.trained.is_sharp = False
    captions, adapter, objective = trainer.pairs, trainer.trained, trainer.objective
    plan = captions.plan(0, size=6, config=trainer.config)
    batch = captions.batch(plan).to(CPU)
    outcome = objective(batch, objective.totals(plan, captions))
    expected = 0.0
    for i in range(6):
        row = slice(i, i + 1)
        users = batch.users[row]
        logits = adapter.match(batch.states[row], users)
        matches = adapter.matches(logits, users)
        changed = batch.states[row] + matches.amax() * adapter.rewriter(batch.states[row], matches)[1]
        match = match_loss(logits, batch.rewritten[row], batch.stays[row], rows=6, rewritten_rows=1, is_sharp=False)
        expected = expected + 0.5 * match
        error = objective.reader.error(changed, batch.chosen[row], objective._draw(batch.reading))
        expected = expected + error.sum() * (1.0 if batch.rewritten[i] else 3.0) / 6
    torch.testing.assert_close(outcome.loss, expected, rtol=1e-5, atol=1e-7)


def test_an_untrained_adapter_leaves_everything_untouched(tmp_path):
    figures, _ = gradients(new_caption_trainer(tmp_path, caption_dropout=0.0, batch_size=12))
    known = dict(zip(CaptionObjective.figures, figures.tolist(), strict=True))
    assert known["untouched_error"] == 0
    assert known["rewritten_error"] > 0


def test_rows_that_nothing_touches_are_not_read_and_would_add_nothing(tmp_path, monkeypatch):
    """Loss, figures and gradients are those of reading every row."""
    trainer = new_caption_trainer(tmp_path, caption_dropout=0.0, batch_size=12)
    randomise(trainer.trained)
    trainer.trained.is_sharp = True
    trainer.trained.matcher.bans_bias.data -= 1.0  # some rows are matched, some are not
    objective, captions = trainer.objective, trainer.pairs
    batch = captions.batch(captions.plan(0, size=12, config=trainer.config)).to(CPU)
    read = objective._rows_to_read(batch, batch.users, trainer.trained.match(batch.states, batch.users))
    assert 0 < len(read) < 12
    figures, some = gradients(trainer)
    monkeypatch.setattr(objective, "_rows_to_read", lambda batch, *_: torch.arange(len(batch)))
    all_figures, all_rows = gradients(trainer)
    torch.testing.assert_close(figures, all_figures)
    torch.testing.assert_close(some, all_rows, rtol=1e-4, atol=1e-7)


def test_accumulation_is_one_batch(tmp_path):
    all_gradients = []
    for sizes in ({"batch_size": 4}, {"batch_size": 2, "accumulation": 2}, {"batch_size": 1, "accumulation": 4}):
        trainer = new_caption_trainer(tmp_path / str(len(all_gradients)), limited=True, **sizes)
        randomise(trainer.trained)
        all_gradients.append(torch.cat([one.flatten() for one in gradients(trainer, step=1)[1]]))
    for other in all_gradients[1:]:
        torch.testing.assert_close(other, all_gradients[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("killed_at", [1, 3, 5])
def test_killed_and_resumed_ends_with_the_same_bits(tmp_path, monkeypatch, killed_at):
    how = {
        "limited": True,
        "list_dropout": 0.2,
        "layers_per_step": 2,
        "ema": 0.9,
    }
    whole = new_caption_trainer(tmp_path / "whole", **how).train().state_dict()
    interrupt(new_caption_trainer(tmp_path / "broken", **how), monkeypatch, killed_at)
    resumed = new_caption_trainer(tmp_path / "broken", **how).train().state_dict()
    assert same_bits(resumed, whole)


def test_training_lowers_the_error_of_rows_with_something_to_take_away(tmp_path):
    trainer = new_caption_trainer(tmp_path, steps=60, batch_size=12, caption_dropout=0.0)
    before = gradients(trainer)[0]
    trainer.step = 0
    trainer.train()
    after = gradients(trainer)[0]
    assert after[1] < 0.5 * before[1]
    rows = list(csv.DictReader((tmp_path / "log.csv").open(newline="")))
    assert float(rows[-1]["rewritten_error"]) < float(rows[0]["rewritten_error"])
    assert rows[0]["pooled_error"] == ""  # of SDXL alone


def test_the_unet_never_runs_and_is_frozen(tmp_path, monkeypatch):
    trainer = new_caption_trainer(tmp_path)
    unet = trainer.objective.reader.unet
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    monkeypatch.setattr(type(unet), "forward", lambda *_, **__: pytest.fail("a pass of the UNet"))
    trainer.train()
    assert same_bits(unet.state_dict(), before)


def test_a_validation_tells_which_caption_is_nearer():
    """With no adapter, a row that is to be left alone is right, and one that is to be rewritten is not."""
    captions, config = make_captions(compare=True), TrainingConfig(objective="captions", queries_per_layer=4)
    unet = tiny_unet()
    objective = CaptionObjective(caption_adapter(), Reader(unet, random_pools(unet, seed=0)), config).for_validation()
    plan = captions.plan(0, size=12, config=objective.config)
    outcome = objective(captions.batch(plan).to(CPU), objective.totals(plan, captions))
    assert outcome.seen.sum() == 8  # four banned, four allowed, no safe one
    assert outcome.right.tolist()[:7] == [0.0] * 7
    assert torch.equal(outcome.right[7:], outcome.seen[7:])


def test_a_pooled_text_state_is_read_through_what_the_unet_makes_of_it():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 10,
    ).eval()  # fmt: skip
    captions = make_captions(pooled=10)
    reader = Reader(unet, random_pools(unet, seed=0))
    sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]).expand(3, -1)
    pooled = captions.texts.rows.read("pooled", [0, 1, 2]).float()
    times = unet.add_time_proj(sizes.flatten()).reshape(3, -1)
    expected = unet.add_embedding(torch.cat([pooled, times], dim=-1))
    torch.testing.assert_close(reader.read_pooled(pooled, sizes), expected)
    config = TrainingConfig(objective="captions", queries_per_layer=4, caption_dropout=0.0)
    adapter = caption_adapter(pooled=10)
    objective = CaptionObjective(adapter, reader, config, size_px=64)
    assert objective.figures_in_play[-1] == "pooled_error"
    plan = captions.plan(0, size=12, config=config)
    outcome = objective(captions.batch(plan).to(CPU), objective.totals(plan, captions))
    assert outcome.figures[4] > 0
    outcome.loss.backward()
    assert adapter.rewriter.pooled_up.weight.grad.abs().sum() > 0
