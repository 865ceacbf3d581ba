"""What is measured: sizes of the work, and the models and prompts that give them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification

from cooper.testing import tiny_tokenizer


@dataclass(frozen=True)
class Case:
    """One size of the work.

    Attributes:
        problems: a step.
        group_size: completions a problem.
        prompt: tokens of a prompt, about.
        hazard: chance of the end of sequence at every token, about; it makes the lengths.
        max_tokens: of a completion.
        hidden: width of both models; MLP 2.75 times as wide, heads of 32, a quarter of them for
            keys and values.
        layers: of both models.
        vocabulary: rows of the embedding and of the output layer.
        steps: measured, after one that is not.
    """

    problems: int = 16
    group_size: int = 8
    prompt: int = 40
    hazard: float = 1 / 36
    max_tokens: int = 128
    hidden: int = 256
    layers: int = 6
    vocabulary: int = 2048
    steps: int = 3

    @property
    def micro_batch(self) -> int:
        """Rows of TRL's micro-batch."""
        return 16

    @property
    def micro_batch_tokens(self) -> int:
        """Of ours: what such rows hold on average, without TRL's padding."""
        stay = 1 - self.hazard
        mean = (1 - stay**self.max_tokens) / self.hazard if self.hazard else self.max_tokens
        return int(self.micro_batch * (self.prompt + mean))


BASE = Case()
_SMALL = {"problems": 4, "steps": 2}
# Sets of cases: what varies, and its values.
SCALING: dict[str, dict[str, Case]] = {
    "group size": {str(g): Case(**_SMALL, group_size=g) for g in (8, 16, 32)},
    "completion length": {
        f"up to {most}": Case(**_SMALL, hazard=4.6 / most / 1.28, max_tokens=most)
        for most in (128, 256, 512)
    },
    "max / mean length": {
        "all alike": Case(**_SMALL, hazard=0.0, max_tokens=32),
        "cut at 64": Case(**_SMALL, max_tokens=64),
        "uncut": Case(problems=16, steps=2, max_tokens=512),
    },
    "prompt length": {str(p): Case(**_SMALL, prompt=p) for p in (40, 512)},
    "model size": {
        "1.2 M": Case(**_SMALL, hidden=128, layers=3),
        "5.3 M": Case(**_SMALL),
        "30 M": Case(**_SMALL, hidden=512, layers=10),
    },
    "vocabulary": {
        "2,048": Case(**_SMALL),
        "151,936": Case(**_SMALL, vocabulary=151_936),
    },
}

_NAMES = ("Ann", "Bob", "Carla", "Dan", "Eva", "Finn", "Gita", "Hugo")
_THINGS = ("apples", "books", "coins", "cards", "pens", "eggs", "cups", "toys")


def question(rng: random.Random) -> str:
    """A word problem of about twenty words."""
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    a, b, c = rng.randint(2, 99), rng.randint(2, 99), rng.randint(2, 9)
    return (
        f"{name} has {a} {thing} in each of {c} boxes and finds {b} more {thing}. "
        f"How many {thing} does {name} have now?"
    )


def write(case: Case, folder: Path, seed: int = 0) -> None:
    """Write ``policy``, ``reward_model`` and ``questions.json``."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 7))) for _ in range(40_000)]
    texts = [question(rng) for _ in range(4000)]
    texts += [" ".join(words[i : i + 20]) for i in range(0, len(words), 20)]
    tokenizer = tiny_tokenizer(texts, vocab_size=2040)
    sizes = {
        "vocab_size": case.vocabulary,
        "hidden_size": case.hidden,
        "intermediate_size": case.hidden * 11 // 4,
        "num_hidden_layers": case.layers,
        "num_attention_heads": case.hidden // 32,
        "num_key_value_heads": case.hidden // 128,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    torch.manual_seed(seed)
    policy = Qwen2ForCausalLM(Qwen2Config(**sizes))
    set_lengths(policy, len(tokenizer), tokenizer.eos_token_id, case.hazard)
    policy.generation_config.eos_token_id = tokenizer.eos_token_id
    policy.generation_config.pad_token_id = tokenizer.pad_token_id
    classifier = Qwen2ForSequenceClassification(Qwen2Config(**sizes, num_labels=1))
    for name, model in (("policy", policy), ("reward_model", classifier)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    questions = []
    for _ in range(case.problems * (case.steps + 1)):
        text = question(rng)
        while len(tokenizer(text)["input_ids"]) + 24 < case.prompt:
            text = f"{question(rng)} {text}"
        questions.append(text)
    (folder / "questions.json").write_text(json.dumps(questions))


@torch.no_grad()
def set_lengths(policy: Qwen2ForCausalLM, known: int, end: int, hazard: float) -> None:
    """Make every token the last with about the same chance, whatever stands before it.

    The residual stream's first place holds a constant that only the end token's row of the output
    layer reads; tokens that the tokenizer does not know get a row that makes them impossible.

    Args:
        policy: with random weights; changed in place.
        known: tokens of the tokenizer.
        end: id of the end of sequence.
        hazard: the chance; 0: never.
    """
    policy.model.embed_tokens.weight.mul_(10)  # logits that depend on the tokens
    policy.model.embed_tokens.weight[:, 0] = 0.2
    for layer in policy.model.layers:
        layer.self_attn.o_proj.weight[0] = 0
        layer.mlp.down_proj.weight[0] = 0
    head = policy.lm_head.weight
    head.mul_(3)
    head[:, 0] = 0
    head[known:] = 0
    head[end] = 0
    states = policy.model(torch.randint(0, known, (16, 64))).last_hidden_state.flatten(0, 1)
    constant = states[:, 0]
    head[known:, 0] = -1e4 / constant.abs().mean() * constant.mean().sign()
    others = policy.lm_head(states).index_fill(1, torch.tensor([end]), -torch.inf).logsumexp(1)
    low, high = -1e3, 1e3
    for _ in range(60):  # the chance grows with the weight
        middle = (low + high) / 2
        logits = middle * constant
        chance = float((logits - torch.logaddexp(logits, others)).exp().mean())
        low, high = (middle, high) if chance < hazard else (low, middle)
    head[end, 0] = high
