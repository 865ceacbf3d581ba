"""Tiny models from nothing: a tokenizer trained on the spot and a small Qwen2."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from tokenizers import AddedToken
from transformers import (
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

from cooper.checks import at_least
from cooper.rng import seed_of

PAD, EOS = "<pad>", "<eos>"
# The reward model's tags are special tokens: a completion that spells one is stripped of it
# before scoring, so the policy cannot close its own completion.
TAGS = (
    "<question>",
    "</question>",
    "<reference_answer>",
    "</reference_answer>",
    "<completion>",
    "</completion>",
)
# Kept whole: with numbers cut into digits a model this small takes several times longer to learn.
_WHOLE = ("\\boxed{", *(str(number) for number in range(10, 100)))
_CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


def train_tokenizer(texts: Iterable[str], control: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """Train Qwen2's byte-level BPE on texts, until their words are one token each.

    Any text can be encoded and decodes to itself. It is transformers' own Qwen2 class, because
    AutoTokenizer gives that class to every Qwen2 folder, whatever tokenizer.json says.

    Args:
        texts: in which the task's words occur.
        control: tokens that steer the model; special ones, behind all others.
    """
    apart = re.compile("|".join(re.escape(word) for word in (*_WHOLE, *TAGS)))
    pieces = (piece for text in texts for piece in apart.split(text) if piece)
    base = Qwen2Tokenizer(eos_token=EOS, pad_token=PAD, unk_token=PAD)
    tokenizer = base.train_new_from_iterator(pieces, vocab_size=100_000, show_progress=False)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in _WHOLE])
    tokenizer.add_special_tokens({"extra_special_tokens": [*TAGS, *control]})
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


@dataclass(frozen=True)
class TinyModel:
    """Size of a Qwen2 built from its config.

    Args:
        hidden_size: width.
        num_layers: depth.
        num_heads: attention heads.
        num_kv_heads: key and value heads.
        mlp_size: width of the MLP.
        initializer_range: standard deviation of the initial weights; at this width the usual
            0.02 starts too quietly.
    """

    hidden_size: int = 96
    num_layers: int = 3
    num_heads: int = 4
    num_kv_heads: int = 2
    mlp_size: int = 288
    initializer_range: float = 0.05

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: a size is not positive, or the heads do not divide the width.
        """
        at_least(
            "warm_start.model", self, hidden_size=1, num_layers=1, num_heads=1, num_kv_heads=1,
            mlp_size=1, initializer_range=0,
        )  # fmt: skip
        # Rotary positions turn pairs of numbers, so a head's width is even.
        if self.hidden_size % (2 * self.num_heads) or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"warm_start.model.num_heads={self.num_heads}: must divide half of hidden_size="
                f"{self.hidden_size} and be a multiple of num_kv_heads={self.num_kv_heads}"
            )

    def build(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> Qwen2ForCausalLM:
        """Build the model with random weights drawn from the seed."""
        config = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            intermediate_size=self.mlp_size,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            initializer_range=float(self.initializer_range),
            bos_token_id=None,
            eos_token_id=cast(int, tokenizer.eos_token_id),
            pad_token_id=cast(int, tokenizer.pad_token_id),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "weights"))
            return Qwen2ForCausalLM(config)
