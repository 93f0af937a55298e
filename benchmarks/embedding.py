"""Users a second: our vectors against the published way, on the same language model, interleaved in one run.

    python benchmarks/embedding.py [--model FOLDER_OR_ID] [--users 8] [--rounds 3] [--device cuda --dtype bf16]

The published way asks the model about each user, generates up to 512 tokens, and then encodes profile and reply. Ours
scores the seven categories in one pass and encodes the profile, users in a batch. Without --model a Qwen2 of random
weights is made (8 layers of width 512): time does not depend on what weights say. Writes
benchmarks/results/embedding.json.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from psalign.files import write_json
from psalign.users.categories import TransformersBackend, decide, facts
from psalign.users.language_model import TransformersEmbedder, profile_text
from psalign.users.population import sample_profiles
from psalign.users.profile import UserProfile

GENERATED = 512  # tokens at most, as published


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or make_model(Path(folder))
        place = {"dtype": arguments.dtype, "device": arguments.device}
        backend, embedder = TransformersBackend(model, **place), TransformersEmbedder(model, **place)
        people = sample_profiles(arguments.users, seed=0)
        ways = {
            "ours": lambda: ours(people, backend, embedder),
            "published": lambda: published(people, backend, embedder),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(arguments.rounds + 1):
            for name, run in ways.items():
                started = time.perf_counter()
                run()
                if number:  # the first round warms up
                    times[name].append((time.perf_counter() - started) / len(people))
    ratios = [b / a for a, b in zip(times["ours"], times["published"], strict=True)]
    figures = {name: round(1 / statistics.median(seconds), 3) for name, seconds in times.items()}
    print(f"users/s: ours {figures['ours']}, published way {figures['published']}")
    print(f"ours is {statistics.median(ratios):.1f} times as fast  [{min(ratios):.1f}, {max(ratios):.1f}]")
    record: dict[str, Any] = {
        "model": arguments.model or "Qwen2, 8 layers of width 512, random",
        "users_per_s": figures,
    }
    record |= {"ratio": round(statistics.median(ratios), 2), "ratios": [round(ratio, 2) for ratio in ratios]}
    record |= {"rounds": arguments.rounds, "users": arguments.users, "torch": torch.__version__, **place}
    record |= {"machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    write_json(Path(__file__).parent / "results" / "embedding.json", record)


def ours(people: list[UserProfile], backend: TransformersBackend, embedder: TransformersEmbedder) -> None:
    decide(people, backend)
    embedder.embed(people)


@torch.no_grad()
def published(people: list[UserProfile], backend: TransformersBackend, embedder: TransformersEmbedder) -> None:
    """One user after the other: ask, generate, encode what was asked and said."""
    for profile in people:
        asked = backend.tokenizer(facts(profile), return_tensors="pt").to(backend.device)
        said = backend.model.generate(**asked, max_new_tokens=GENERATED, do_sample=False, pad_token_id=0)
        reply = backend.tokenizer.decode(said[0][asked["input_ids"].shape[1] :])
        text = embedder.tokenizer(profile_text(profile) + reply, return_tensors="pt").to(embedder.device)
        embedder.model(**text).last_hidden_state.mean(1)


def make_model(folder: Path) -> str:
    """A Qwen2 of random weights, saved in the real layout; its tokens are words or parts of words, as a real one's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [text for profile in sample_profiles(200, seed=1) for text in (facts(profile), profile_text(profile))]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*texts, *(" yes no Yes No" for _ in range(50))], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8}
    config = Qwen2Config(vocab_size=tokenizer.get_vocab_size(), num_key_value_heads=2, eos_token_id=None, **shape)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return str(folder)


if __name__ == "__main__":
    main()
