"""Tiny models from nothing: a word-level tokenizer trained on the spot and a small Qwen2."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.trainers import WordLevelTrainer
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from cooper.checks import at_least
from cooper.rng import seed_of

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
# The reward model's tags are special tokens: a completion that spells one is stripped of it
# before scoring, so the policy cannot close its own completion.
TAGS = (
    "<question>", "</question>", "<reference_answer>", "</reference_answer>",
    "<completion>", "</completion>",
)  # fmt: skip
# Whole numbers up to 99, words with the space in front of them, single signs: lossless.
_WORDS = r"\\boxed\{|\d{1,2}| ?[A-Za-z]+(?:-[a-z]+)*|[^\w]"
_CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"


def train_word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a word-level tokenizer whose vocabulary is every word of the texts.

    Decoding gives the text back exactly when all its words were seen.

    Args:
        texts: in which every word of the task occurs.
    """
    tokenizer = Tokenizer(WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    tokenizer.decoder = decoders.Fuse()
    trainer = WordLevelTrainer(
        special_tokens=[PAD, EOS, UNKNOWN, *TAGS], show_progress=False, vocab_size=100_000
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        extra_special_tokens=list(TAGS),
        clean_up_tokenization_spaces=False,
        chat_template=_CHAT_TEMPLATE,
    )


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
        at_least("policy.model", self, hidden_size=1, num_layers=1, num_heads=1, num_kv_heads=1)
        if self.hidden_size % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"policy.model.num_heads={self.num_heads}: must divide hidden_size="
                f"{self.hidden_size} and be a multiple of num_kv_heads={self.num_kv_heads}"
            )

    def build(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2ForCausalLM:
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
            initializer_range=self.initializer_range,
            bos_token_id=None,
            eos_token_id=cast(int, tokenizer.eos_token_id),
            pad_token_id=cast(int, tokenizer.pad_token_id),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "weights"))
            return Qwen2ForCausalLM(config)
