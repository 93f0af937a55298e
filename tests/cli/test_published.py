"""The published scripts' flags, as infer.py and train.py take them."""

import pytest

from psalign.cli.published import infer_arguments, train_arguments


def words(text):
    return text.split()


INFER = {
    "ours alone": ("--prompts a.csv --out b --sdxl-free x", "--prompts a.csv --out b --sdxl-free x"),
    "the base": (
        "--sd_model m --meta_data d.jsonl --save_path out --batch_size 2 --seed 3",
        "--model m --meta-file d.jsonl --out out --batch-size 2 --base sd15 --seed 3",
    ),
    "stored vectors": (
        "--sd_model m --meta_data d --save_path o --load_psa --psa_path p --embeds_folder e --llm_model q --sdxl",
        "--model m --meta-file d --out o --adapter p --embeddings e --base sdxl",
    ),
    "live vectors": (
        "--sd_model m --meta_data d --save_path o --load_psa --psa_path p --llm_model q --llm_ban_prompt_file b",
        "--model m --meta-file d --out o --adapter p --base sd15 --profiles --llm q",
    ),
    "without --load_psa": ("--sd_model m --save_path o --psa_path p", "--model m --out o --base sd15"),
}  # fmt: skip


@pytest.mark.parametrize("case", INFER)
def test_flags_of_infer(case, capsys):
    published, ours = INFER[case]
    assert infer_arguments(words(published)) == words(ours)
    told = "Not used: --llm_ban_prompt_file" in capsys.readouterr().err
    assert told == ("--llm_ban_prompt_file" in published)


TRAIN = {
    "ours alone": ("--data a --steps 3", "--data a --steps 3"),
    "as its launcher writes it": (
        "--sd_model m --train_data_dir d --embeds_folder e --output_dir o --train_batch_size 6 --max_train_steps 9 "
        "--gradient_accumulation_steps 8 --learning_rate 5e-6 --mixed_precision bf16 --beta_dpo 5000 --sdxl",
        "--preset psa-sdxl --model m --data d --embeddings e --out o --batch-size 6 --steps 9 --lr 5e-6 "
        "--set prompt.training.accumulation=8 --set prompt.training.mixed_precision=bf16 "
        "--set prompt.training.beta=5000",
    ),
    "of the published kind": (
        "--sd_model m --lr_warmup_steps 5 --use_adafactor --kind published",
        "--preset psa-sd15 --model m --set published.training.warmup_steps=5 "
        "--set published.training.optimizer=adafactor --kind published",
    ),
    "a preset of one's own": ("--sd_model m --resolution 256 --no_hflip --preset p.yaml",
        "--model m --set pictures.size_px=256 --set pictures.flip=false --preset p.yaml"),
}  # fmt: skip


@pytest.mark.parametrize("case", TRAIN)
def test_flags_of_train(case):
    published, ours = TRAIN[case]
    assert train_arguments(words(published)) == words(ours)


def test_what_has_no_counterpart_is_said(capsys):
    train_arguments(words("--sd_model m --dataloader_num_workers 16 --allow_tf32"))
    assert "Not used: --dataloader_num_workers, --allow_tf32 (" in capsys.readouterr().err
