"""Qwen2 and Llama as transformers computes them: padded on either side, and greedily."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from cooper.data import PromptBuilder
from cooper.models import Policy, RewardModel, load_causal_lm, load_tokenizer
from cooper.samplers import HFSampler
from cooper.testing import Family, write_policy, write_reward_model
from cooper.types import Problem, Prompt, Rollouts, SamplingParams

TEXTS = ["What is 3 + 4? Tom has 12 apples.", "So the answer is \\boxed{7}. 1 2 6 8 9 0"]
QUESTIONS = ("What is 3 + 4?", "5 pens", "Tom has 12 apples and 5 pens. What is 12 + 5?")
LIMIT = 16


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints with weights so large that the next token is far from a coin's throw."""
    family = cast(Family, request.param)
    folder = tmp_path_factory.mktemp(family)
    write_policy(folder / "policy", TEXTS, family=family)
    write_reward_model(folder / "reward_model", TEXTS, family=family)
    kinds: dict[str, Any] = {
        "policy": AutoModelForCausalLM,
        "reward_model": AutoModelForSequenceClassification,
    }
    for name, kind in kinds.items():
        model = kind.from_pretrained(folder / name)
        rng = torch.Generator().manual_seed(3)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data = torch.randn(parameter.shape, generator=rng) * 0.3
        model.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def policy(folder: Path) -> Policy:
    path = str(folder / "policy")
    policy = Policy(load_causal_lm(path), load_tokenizer(path), temperature=0.7)
    # More ends than one, as both families' instruction models name, and often enough drawn.
    ends = policy.model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    policy.model.generation_config.eos_token_id = [*ends, *range(40, 70)]
    return policy.eval()


@pytest.fixture(scope="module")
def prompts(policy: Policy) -> list[Prompt]:
    builder = PromptBuilder(policy.tokenizer, instruction=None)
    return [builder(Problem(str(i), text, "7")) for i, text in enumerate(QUESTIONS)]


@pytest.fixture(scope="module")
def rollouts(policy: Policy, prompts: list[Prompt]) -> Rollouts:
    sampler = HFSampler()
    sampler.sync(policy, 0)
    rng = torch.Generator().manual_seed(0)
    drawn = sampler.sample(prompts, 4, SamplingParams(LIMIT, temperature=0.7), rng)
    assert len(set(drawn.lengths.tolist())) > 2  # ragged
    assert 0 < int(drawn.finished.sum()) < len(drawn)
    return drawn


@torch.no_grad()
def by_transformers(folder: Path, rollouts: Rollouts, side: str) -> Tensor:
    """[S] log-probabilities at temperature 0.7 by one padded forward of transformers' own model."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "policy").eval()
    rows = [
        [*rollouts.prompt_ids[rollouts.owners[i]], *rollouts.tokens(i).tolist()]
        for i in range(len(rollouts))
    ]
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), 7)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    logprobs = (logits / 0.7).log_softmax(-1)
    found = []
    for i, row in enumerate(rows):
        end = longest if side == "left" else len(row)
        start = end - int(rollouts.lengths[i])
        found += [logprobs[i, at - 1, ids[i, at]] for at in range(start, end)]
    return torch.stack(found)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logprobs(folder: Path, policy: Policy, rollouts: Rollouts, side: str) -> None:
    with torch.no_grad():
        got = policy(rollouts, range(len(rollouts))).logprobs
    expected = by_transformers(folder, rollouts, side)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
    # The sampler's own, from generation with a cache and padding on the left.
    torch.testing.assert_close(rollouts.logprobs, expected, rtol=0, atol=2e-5)
    assert float(expected.exp().std()) > 0.05


def test_greedy_is_that_of_generate(policy: Policy, prompts: list[Prompt]) -> None:
    sampler = HFSampler()
    sampler.sync(policy, 0)
    rng = torch.Generator().manual_seed(0)
    drawn = sampler.sample(prompts, 1, SamplingParams(LIMIT, temperature=0), rng)
    model: Any = policy.model
    for row, prompt in enumerate(prompts):  # each alone, without padding
        ids = torch.tensor([prompt.ids])
        with torch.no_grad():
            alone = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                max_new_tokens=LIMIT,
                pad_token_id=0,
            )[0, ids.shape[1] :]
        assert drawn.tokens(row).tolist() == alone.tolist()
        ended = alone[-1].item() in model.generation_config.eos_token_id
        assert bool(drawn.finished[row]) == ended


def test_reward_logits(folder: Path) -> None:
    ours = RewardModel.from_pretrained(folder / "reward_model")
    triples = (list(QUESTIONS), ["7", "5", "17"], ["It is \\boxed{7}.", "5", "17 " * 9])
    got = ours.score(*triples)
    theirs: Any = AutoModelForSequenceClassification.from_pretrained(folder / "reward_model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "reward_model")
    for row, triple in enumerate(zip(*triples, strict=True)):
        text = ours.template.render(*triple)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            expected = theirs(input_ids=ids).logits[0, 0]
        torch.testing.assert_close(got[row], expected, rtol=0, atol=1e-5)
    assert float(got.std()) > 0.01
