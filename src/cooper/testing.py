"""Tiny checkpoints in Hugging Face form, to try a pipeline on before the real models.

``python -m cooper.testing FOLDER --texts train.jsonl`` writes ``FOLDER/policy`` and
``FOLDER/reward_model``, Qwen2s or (``--family llama``) Llamas. They know nothing; everything
around them can be run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen2Tokenizer,
)

from cooper.data.table_problems import TableProblems

Family = Literal["qwen2", "llama"]

# The form of Qwen2's own template: roles between markers, a generation prompt at the end.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Llama 3's own template: it writes the token that begins a text itself, before the first role.
LLAMA_TEMPLATE = (
    "{% for message in messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
_LLAMA_SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
# How Llama 3's tokenizer cuts a text before it is encoded: digits in threes, from the left.
_LLAMA_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tiny_tokenizer(
    texts: Iterable[str], vocab_size: int = 1000, family: Family = "qwen2"
) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE with a family's special tokens and chat template.

    Args:
        texts: to train on.
        vocab_size: without the special tokens.
        family: "qwen2" in Qwen2's own class, or "llama" as Llama 3's instruction models have it:
            it puts ``<|begin_of_text|>`` before a text, ends a turn with ``<|eot_id|>``, and has
            no padding token.
    """
    if family == "llama":
        return _llama_tokenizer(texts, vocab_size)
    base = Qwen2Tokenizer(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer = base.train_new_from_iterator(texts, vocab_size=vocab_size, show_progress=False)
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True)])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _llama_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Llama 3 has no class of its own: its folder holds a tokenizer.json that says everything."""
    backend: Any = Tokenizer(models.BPE(ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        texts,
        BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False),
    )
    backend.add_special_tokens([AddedToken(token, special=True) for token in _LLAMA_SPECIALS])
    begin, end = _LLAMA_SPECIALS[0], _LLAMA_SPECIALS[-1]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A",
        pair=f"{begin} $A {begin}:1 $B:1",
        special_tokens=[(begin, backend.token_to_id(begin))],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin,
        eos_token=end,
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.chat_template = LLAMA_TEMPLATE
    return tokenizer


def tiny_config(
    tokenizer: PreTrainedTokenizerBase,
    hidden_size: int = 32,
    num_labels: int = 2,
    family: Family = "qwen2",
) -> Qwen2Config | LlamaConfig:
    """Configure a two-layer model of a family over a tokenizer's vocabulary."""
    kind = LlamaConfig if family == "llama" else Qwen2Config
    config = kind(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=cast("int | None", tokenizer.bos_token_id),
        eos_token_id=cast(int, tokenizer.eos_token_id),
        pad_token_id=cast("int | None", tokenizer.pad_token_id),
    )
    config.num_labels = num_labels
    return config


def _write(
    folder: str | Path,
    kinds: dict[str, type[PreTrainedModel]],
    tokenizer: PreTrainedTokenizerBase,
    family: Family,
    hidden_size: int,
    num_labels: int,
    seed: int,
) -> None:
    config = tiny_config(tokenizer, hidden_size, num_labels, family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kinds[family](config)
    if family == "llama" and model.can_generate():
        # As Llama 3's instruction models ship it: a turn's end and a text's end both end.
        ends = [cast(int, tokenizer.convert_tokens_to_ids(_LLAMA_SPECIALS[i])) for i in (1, 4)]
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=ends,
            do_sample=True,
            temperature=0.6,
            top_p=0.9,
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_policy(
    folder: str | Path,
    texts: Iterable[str],
    *,
    hidden_size: int = 32,
    seed: int = 0,
    family: Family = "qwen2",
) -> Path:
    """Write a tiny policy: weights, config, tokenizer with a chat template.

    Args:
        folder: where to.
        texts: to train the tokenizer on.
        hidden_size: a multiple of 8.
        seed: of the weights.
        family: "qwen2" or "llama".
    """
    kinds: dict[str, type[PreTrainedModel]] = {"qwen2": Qwen2ForCausalLM, "llama": LlamaForCausalLM}
    tokenizer = tiny_tokenizer(texts, family=family)
    _write(folder, kinds, tokenizer, family, hidden_size, 2, seed)
    return Path(folder)


def write_reward_model(
    folder: str | Path,
    texts: Iterable[str],
    *,
    hidden_size: int = 32,
    seed: int = 1,
    family: Family = "qwen2",
) -> Path:
    """Write a tiny reward model: a one-label sequence classifier with its own tokenizer.

    Args:
        folder: where to.
        texts: to train the tokenizer on.
        hidden_size: a multiple of 8.
        seed: of the weights.
        family: "qwen2" or "llama".
    """
    kinds: dict[str, type[PreTrainedModel]] = {
        "qwen2": Qwen2ForSequenceClassification,
        "llama": LlamaForSequenceClassification,
    }
    tokenizer = tiny_tokenizer(texts, family=family)
    _write(folder, kinds, tokenizer, family, hidden_size, 1, seed)
    return Path(folder)


def main() -> None:
    """Write both folders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", required=True, help="JSON Lines file of problems")
    parser.add_argument("--hidden-size", type=int, default=32)
    parser.add_argument("--family", choices=get_args(Family), default="qwen2")
    arguments = parser.parse_args()
    texts = [f"{p.question}\n{p.reference}" for p in TableProblems(arguments.texts)]
    for name, write in (("policy", write_policy), ("reward_model", write_reward_model)):
        path = write(
            arguments.folder / name,
            texts,
            hidden_size=arguments.hidden_size,
            family=arguments.family,
        )
        print(path)


if __name__ == "__main__":
    main()
