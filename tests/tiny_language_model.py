"""A language model in the real layout of Qwen2, with a chat template, tiny and random."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def save_language_model(folder, *, chat=True, seed=0):
    """A Qwen2 of two layers and width 32 that reads bytes."""
    special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    words = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=special, padding_side="left"
    )
    fast.chat_template = CHAT if chat else None
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=len(fast), num_key_value_heads=2, **shape)).save_pretrained(folder)
    return str(folder)
