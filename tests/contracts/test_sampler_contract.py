"""Every sampler in conf/sampler goes through the contract of `cooper.samplers.base`."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from cooper.data import PromptBuilder
from cooper.models import Policy
from cooper.samplers import Sampler
from cooper.types import Problem, Prompt, Rollouts, SamplingParams

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "sampler"
FILES = sorted(FOLDER.glob("*.yaml"))
GROUP = 4
LIMIT = 12
# No two questions are equally long, and the shortest does not stand first.
QUESTIONS = ("What is 3 + 4?", "5 pens", "Tom has 12 apples and 5 pens. What is 12 + 5?")


def variants() -> Iterator[Any]:
    """Each file as it is, and once more in batches that cut through the groups."""
    for path in FILES:
        yield pytest.param((path, {}), id=path.stem)
        if "batch_size" in OmegaConf.load(path):
            yield pytest.param((path, {"batch_size": 3}), id=f"{path.stem}-small-batches")
        if "cache_tokens" in OmegaConf.load(path):
            # Room for five sequences: a whole group and one slot that stays free; then for two,
            # so that groups come in parts.
            for tokens in (300, 120):
                yield pytest.param((path, {"cache_tokens": tokens}), id=f"{path.stem}-{tokens}")


@pytest.fixture(params=variants())
def sampler(request: pytest.FixtureRequest) -> Iterator[Sampler]:
    path, settings = request.param
    built = instantiate(OmegaConf.load(path), _convert_="all", **settings)
    yield built
    built.close()


@pytest.fixture(scope="module")
def drawer(policy: Policy) -> Policy:
    """A policy that ends some completions before the limit and cuts others.

    As Qwen2.5 does, it names more than one end in its generation config.
    """
    drawer = Policy(copy.deepcopy(policy.model), policy.tokenizer)
    ends = [policy.tokenizer.eos_token_id, *range(40, 70)]
    drawer.model.generation_config.eos_token_id = ends
    return drawer.eval()


@pytest.fixture(scope="module")
def prompts(policy: Policy) -> list[Prompt]:
    builder = PromptBuilder(policy.tokenizer, instruction=None)
    return [builder(Problem(str(i), text, "7")) for i, text in enumerate(QUESTIONS)]


def draw(
    sampler: Sampler,
    policy: Policy,
    prompts: Sequence[Prompt],
    seed: int = 0,
    on_group: Any = None,
    **params: Any,
) -> Rollouts:
    sampler.sync(policy, 5)
    rng = torch.Generator().manual_seed(seed)
    settings = SamplingParams(**{"max_new_tokens": LIMIT, **params})
    return sampler.sample(prompts, GROUP, settings, rng, on_group)


def content(rollouts: Rollouts) -> tuple[list[int], list[int], list[float]]:
    return rollouts.ids.tolist(), rollouts.offsets.tolist(), rollouts.logprobs.tolist()


@torch.no_grad()
def logits(policy: Policy, rollouts: Rollouts, row: int) -> Tensor:
    """[T_i, V] by one plain forward of the sequence alone."""
    prompt = torch.tensor(rollouts.prompt_ids[rollouts.owners[row]])
    sequence = torch.cat([prompt, rollouts.tokens(row)])
    return policy.model(input_ids=sequence[None]).logits[0, len(prompt) - 1 : -1]


def test_there_are_samplers() -> None:
    assert {"hf", "native"} <= {path.stem for path in FILES}


def test_order_and_group_size(sampler: Sampler, drawer: Policy, prompts: list[Prompt]) -> None:
    rollouts = draw(sampler, drawer, prompts)
    assert rollouts.problems == tuple(prompt.problem for prompt in prompts)
    assert rollouts.prompt_ids == tuple(prompt.ids for prompt in prompts)
    assert rollouts.owners == [0] * GROUP + [1] * GROUP + [2] * GROUP
    assert rollouts.policy_version == 5
    assert rollouts.ids.dtype == rollouts.offsets.dtype == torch.int64
    assert rollouts.logprobs.dtype is torch.float32
    assert not rollouts.logprobs.requires_grad
    for row, text in enumerate(rollouts.completions):
        ids = rollouts.tokens(row).tolist()
        assert text == drawer.tokenizer.decode(ids, skip_special_tokens=True)
    # The completions of a group are drawn apart.
    assert len(set(rollouts.completions)) > len(prompts)


def test_ends_with_an_end_token_or_at_the_limit(
    sampler: Sampler, drawer: Policy, prompts: list[Prompt]
) -> None:
    rollouts = draw(sampler, drawer, prompts)
    ends = set(drawer.model.generation_config.eos_token_id)
    for row in range(len(rollouts)):
        *before, last = rollouts.tokens(row).tolist()
        assert not ends & set(before)
        assert bool(rollouts.finished[row]) is (last in ends)
        if last not in ends:
            assert len(before) + 1 == LIMIT
    # Else this test would say nothing.
    assert 0 < int(rollouts.finished.sum()) < len(rollouts)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_the_policys_own(
    sampler: Sampler, drawer: Policy, prompts: list[Prompt], temperature: float
) -> None:
    rollouts = draw(sampler, drawer, prompts, temperature=temperature)
    scorer = Policy(drawer.model, drawer.tokenizer, temperature)
    with torch.no_grad():
        expected = scorer(rollouts, range(len(rollouts))).logprobs
    torch.testing.assert_close(rollouts.logprobs, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "default",
    [{"repetition_penalty": 1.3}, {"suppress_tokens": [11, 12, 13, 14, 15]}, {"top_k": 3}],
    ids=lambda default: next(iter(default)),
)
def test_a_checkpoints_own_generation_defaults_do_not_interfere(
    sampler: Sampler, drawer: Policy, prompts: list[Prompt], default: dict[str, Any]
) -> None:
    """Qwen2.5-Instruct ships repetition_penalty=1.05 or 1.1: drawn so, no logprob would fit."""
    shipped = Policy(copy.deepcopy(drawer.model), drawer.tokenizer)
    shipped.model.generation_config.update(**default)
    assert content(draw(sampler, shipped, prompts)) == content(draw(sampler, drawer, prompts))


@pytest.mark.parametrize(
    "cut",
    [{"top_k": 5}, {"top_p": 0.6}, {"top_k": 8, "top_p": 0.7, "temperature": 1.5}],
    ids=str,
)
def test_cut_distributions(
    sampler: Sampler, drawer: Policy, prompts: list[Prompt], cut: dict[str, Any]
) -> None:
    """Temperature, then the top_k likeliest, then of these the fewest that hold top_p."""
    rollouts = draw(sampler, drawer, prompts, **cut)
    expected = []
    for row in range(len(rollouts)):
        scaled = logits(drawer, rollouts, row) / cut.get("temperature", 1.0)
        for token, step in zip(rollouts.tokens(row).tolist(), scaled, strict=True):
            ranked = step.softmax(0).sort(descending=True)
            kept = list(zip(ranked.indices.tolist(), ranked.values.tolist(), strict=True))
            kept = kept[: cut.get("top_k", len(kept))]
            total = sum(p for _, p in kept)
            nucleus, before = {}, 0.0
            for index, p in kept:
                if before < cut.get("top_p", 1.0):
                    nucleus[index] = p / total
                before += p / total
            assert token in nucleus
            expected.append(nucleus[token] / sum(nucleus.values()))
    torch.testing.assert_close(rollouts.logprobs, torch.tensor(expected).log(), rtol=0, atol=1e-4)


def test_draws_follow_the_distribution(
    sampler: Sampler, drawer: Policy, prompts: list[Prompt]
) -> None:
    """First tokens of many draws against the exact probabilities: chi-square over the likeliest."""
    count = 600
    sampler.sync(drawer, 0)
    rollouts = sampler.sample(
        prompts[:1], count, SamplingParams(max_new_tokens=1), torch.Generator().manual_seed(0)
    )
    p = logits(drawer, rollouts, 0)[0].softmax(0)
    top = p.topk(8).indices
    expected = torch.cat([p[top], 1 - p[top].sum()[None]]) * count
    seen = torch.tensor([float((rollouts.ids == i).sum()) for i in top])
    seen = torch.cat([seen, count - seen.sum()[None]])
    # 99.9 % quantile of chi-square with 8 degrees of freedom
    assert float(((seen - expected) ** 2 / expected).sum()) < 26.12


def test_stop_strings(sampler: Sampler, drawer: Policy, prompts: list[Prompt]) -> None:
    """A text that ends a completion wherever it lies among the tokens, and stays in it."""
    plain = draw(sampler, drawer, prompts)
    decode = drawer.tokenizer.decode
    texts = [str(decode(plain.tokens(row).tolist())) for row in range(len(plain))]
    # Printable pairs: this policy writes bytes that are no text, too.
    pairs = [pair for text in texts for pair in re.findall("[a-zA-Z0-9 ]{2}", text[1:])]
    stop = (pairs[0], pairs[-1][1], pairs[len(pairs) // 2])
    rollouts = draw(sampler, drawer, prompts, stop=stop)
    cut = 0
    for row in range(len(rollouts)):
        ids = rollouts.tokens(row).tolist()
        assert not any(text in str(decode(ids[:-1])) for text in stop)
        held = any(text in str(decode(ids)) for text in stop)
        own = ids[-1] in drawer.model.generation_config.eos_token_id
        assert bool(rollouts.finished[row]) is (held or own)
        assert held or own or len(ids) == LIMIT
        cut += held and not own
    assert cut > 1
    scorer = Policy(drawer.model, drawer.tokenizer)
    with torch.no_grad():
        expected = scorer(rollouts, range(len(rollouts))).logprobs
    torch.testing.assert_close(rollouts.logprobs, expected, rtol=0, atol=1e-4)


def test_a_prompt_does_not_stop_what_is_not_begun(
    sampler: Sampler, drawer: Policy, prompts: list[Prompt]
) -> None:
    """A stop string whose beginning ends the prompt is not completed by the first token."""
    first = draw(sampler, drawer, prompts[:1])
    behind = str(drawer.tokenizer.decode(first.prompt_ids[0]))[-1]
    for row in range(GROUP):
        start = str(drawer.tokenizer.decode(first.tokens(row)[:1].tolist()))
        if start:
            again = draw(sampler, drawer, prompts[:1], stop=(behind + start,))
            assert len(again.tokens(row)) == len(first.tokens(row))


def test_greedy(sampler: Sampler, drawer: Policy, prompts: list[Prompt]) -> None:
    rollouts = draw(sampler, drawer, prompts, temperature=0.0)
    for row in range(len(rollouts)):
        best = logits(drawer, rollouts, row).argmax(-1)
        assert torch.equal(rollouts.tokens(row), best)
    assert len(set(rollouts.completions)) <= len(prompts)


def test_chance_comes_from_the_generator_alone(
    sampler: Sampler, drawer: Policy, prompts: list[Prompt]
) -> None:
    torch.manual_seed(1)
    first = content(draw(sampler, drawer, prompts))
    torch.manual_seed(2)
    random.seed(2)
    assert content(draw(sampler, drawer, prompts)) == first
    assert content(draw(sampler, drawer, prompts, seed=1)) != first

    rng = torch.Generator().manual_seed(0)
    params = SamplingParams(max_new_tokens=LIMIT)
    assert content(sampler.sample(prompts, GROUP, params, rng)) == first
    state = rng.get_state()
    second = content(sampler.sample(prompts, GROUP, params, rng))
    assert second != first  # the generator went on
    rng.set_state(state)
    assert content(sampler.sample(prompts, GROUP, params, rng)) == second


def test_global_generators_stay(sampler: Sampler, drawer: Policy, prompts: list[Prompt]) -> None:
    # Python's own generator is left out: beartype, switched on in tests, draws from it.
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    draw(sampler, drawer, prompts)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_the_policy_stays_in_its_mode(
    sampler: Sampler, drawer: Policy, prompts: list[Prompt]
) -> None:
    for training in (True, False):
        drawer.train(training)
        draw(sampler, drawer, prompts[:1])
        assert drawer.model.training is training


def test_sync_takes_the_new_weights(
    sampler: Sampler, drawer: Policy, prompts: list[Prompt]
) -> None:
    moved = Policy(copy.deepcopy(drawer.model), drawer.tokenizer)
    draw(sampler, moved, prompts)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1.1)
    rollouts = draw(sampler, moved, prompts)
    with torch.no_grad():
        expected = moved(rollouts, range(len(rollouts))).logprobs
    torch.testing.assert_close(rollouts.logprobs, expected, rtol=0, atol=1e-4)


def test_no_prompts(sampler: Sampler, drawer: Policy) -> None:
    called: list[int] = []
    rollouts = draw(sampler, drawer, [], on_group=lambda index, texts: called.append(index))
    assert (len(rollouts), rollouts.problems, rollouts.completions) == (0, (), ())
    assert rollouts.offsets.tolist() == [0]
    assert called == []


def test_each_group_is_told_once(sampler: Sampler, drawer: Policy, prompts: list[Prompt]) -> None:
    told: list[tuple[int, list[str]]] = []
    rollouts = draw(
        sampler, drawer, prompts, on_group=lambda index, texts: told.append((index, list(texts)))
    )
    assert sorted(index for index, _ in told) == [0, 1, 2]
    for index, texts in told:
        assert texts == [rollouts.completions[i] for i in rollouts.groups[index]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_without_a_policy_and_after_closing(path: Path, prompts: list[Prompt]) -> None:
    built = instantiate(OmegaConf.load(path), _convert_="all")
    with pytest.raises(RuntimeError, match="sync"):
        built.sample(prompts, 1, SamplingParams(max_new_tokens=1), torch.Generator())
    built.close()
    built.close()
