"""The floor: floating-point operations that the work cannot do without, and what they take.

Counted are matrix products and attention, two operations a multiplication and addition: a prompt
once for its group, each completion token once, the output layer where a token is predicted, a
backward pass twice its forward, and of the reward model's rows what they begin with once. Norms,
softmax, rotations, sampling and the optimizer are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from transformers import Qwen2Config

from cooper.models.batching import common_start


@dataclass(frozen=True)
class Sizes:
    """Of a model: multiplications a token, and a pair of tokens in attention."""

    linear: int  # weights of the layers
    attention: int  # of all layers: heads times width, for scores and for values
    head: int  # weights of the output layer

    @classmethod
    def of(cls, config: Qwen2Config) -> Sizes:
        """Read them off a Qwen2's configuration."""
        hidden, mlp, layers = (
            config.hidden_size, config.intermediate_size, config.num_hidden_layers,
        )  # fmt: skip
        shared = config.num_key_value_heads / config.num_attention_heads
        # Queries and outputs, keys and values, the three of the MLP.
        layer = int(2 * hidden**2 + 2 * shared * hidden**2 + 3 * hidden * mlp)
        return cls(layers * layer, layers * 2 * hidden, hidden * config.vocab_size)


def sequence(sizes: Sizes, length: int, before: int = 0) -> int:
    """Operations of the layers on tokens behind others that have been computed."""
    seen = length * before + length * (length + 1) // 2  # each sees itself too
    return 2 * (length * sizes.linear + seen * sizes.attention)


def groups(sizes: Sizes, prompts: Sequence[int], completions: Sequence[Sequence[int]]) -> int:
    """Operations of a forward that predicts the tokens of groups of completions.

    Args:
        sizes: of the model.
        prompts: lengths.
        completions: lengths, of each prompt.
    """
    total = 0
    for prompt, lengths in zip(prompts, completions, strict=True):
        total += sequence(sizes, prompt)
        # The last token predicts nothing.
        total += sum(sequence(sizes, length - 1, prompt) for length in lengths)
        total += 2 * sizes.head * sum(lengths)
    return total


def rows(sizes: Sizes, tokens: Iterable[Sequence[int]]) -> int:
    """Operations of the layers on whole rows, every common start once."""
    ordered = sorted(list(row) for row in tokens)
    starts = [0, *(common_start(*two) for two in pairwise(ordered))]
    return sum(
        sequence(sizes, len(row) - start, start) for row, start in zip(ordered, starts, strict=True)
    )


def rate(size: int = 1024, times: int = 6) -> float:
    """Operations a CPU second of this process's thread in a large product of float32 matrices."""
    matrix = torch.randn(size, size)
    matrix @ matrix
    began = time.process_time()
    for _ in range(times):
        matrix @ matrix
    return times * 2 * size**3 / (time.process_time() - began)
