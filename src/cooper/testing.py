"""Tiny checkpoints in Hugging Face form, to try a pipeline on before the real models.

``python -m cooper.testing FOLDER --texts train.jsonl`` writes ``FOLDER/policy`` and
``FOLDER/reward_model``. They know nothing; everything around them can be run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import torch
from tokenizers import AddedToken
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen2Tokenizer,
)

from cooper.data.table_problems import TableProblems

# The form of Qwen2's own template: roles between markers, a generation prompt at the end.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_tokenizer(texts: Iterable[str], vocab_size: int = 1000) -> Qwen2Tokenizer:
    """Train a byte-level BPE in Qwen2's class, with its special tokens and chat template.

    Args:
        texts: to train on.
        vocab_size: without the special tokens.
    """
    base = Qwen2Tokenizer(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer = base.train_new_from_iterator(texts, vocab_size=vocab_size, show_progress=False)
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True)])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_config(
    tokenizer: Qwen2Tokenizer, hidden_size: int = 32, num_labels: int = 2
) -> Qwen2Config:
    """Configure a two-layer Qwen2 over a tokenizer's vocabulary."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=cast(int, tokenizer.eos_token_id),
        pad_token_id=cast(int, tokenizer.pad_token_id),
    )
    config.num_labels = num_labels
    return config


def write_policy(
    folder: str | Path, texts: Iterable[str], *, hidden_size: int = 32, seed: int = 0
) -> Path:
    """Write a tiny policy: weights, config, tokenizer with a chat template.

    Args:
        folder: where to.
        texts: to train the tokenizer on.
        hidden_size: a multiple of 4.
        seed: of the weights.
    """
    tokenizer = tiny_tokenizer(texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(tiny_config(tokenizer, hidden_size))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def write_reward_model(
    folder: str | Path, texts: Iterable[str], *, hidden_size: int = 32, seed: int = 1
) -> Path:
    """Write a tiny reward model: a one-label sequence classifier with its own tokenizer.

    Args:
        folder: where to.
        texts: to train the tokenizer on.
        hidden_size: a multiple of 4.
        seed: of the weights.
    """
    tokenizer = tiny_tokenizer(texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = tiny_config(tokenizer, hidden_size, num_labels=1)
        model = Qwen2ForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def main() -> None:
    """Write both folders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", required=True, help="JSON Lines file of problems")
    parser.add_argument("--hidden-size", type=int, default=32)
    arguments = parser.parse_args()
    texts = [f"{p.question}\n{p.reference}" for p in TableProblems(arguments.texts)]
    for name, write in (("policy", write_policy), ("reward_model", write_reward_model)):
        path = write(arguments.folder / name, texts, hidden_size=arguments.hidden_size)
        print(path)


if __name__ == "__main__":
    main()
