"""After each sync the sampler's log-probabilities are compared with the policy's."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from cooper.data import PromptBuilder
from cooper.errors import StaleSamplerError
from cooper.models import Policy
from cooper.module import CooperModule
from cooper.samplers import NativeSampler
from cooper.samplers.probe import require_fresh
from cooper.types import Problem, Prompt, Rollouts, SamplingParams
from cooper.verifiers import NumericVerifier


def drawn(policy: Policy, params: SamplingParams, seed: int = 0) -> Rollouts:
    builder = PromptBuilder(policy.tokenizer, instruction=None)
    prompts = [builder(Problem(str(i), f"What is {i} + 4?", "7")) for i in range(4)]
    sampler = NativeSampler()
    sampler.sync(policy, 0)
    return sampler.sample(prompts, 4, params, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "cut",
    [{}, {"temperature": 0.6}, {"top_p": 0.7, "top_k": 9}, {"min_p": 0.05, "temperature": 1.3}],
    ids=str,
)
def test_one_update_is_seen(policy: Policy, cut: dict[str, float]) -> None:
    params = SamplingParams(12, **cut)
    own = Policy(copy.deepcopy(policy.model), policy.tokenizer, params.temperature).train()
    rollouts = drawn(own, params)
    require_fresh(own, rollouts, params)
    assert own.model.training
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-3)
    own(rollouts, range(4)).logprobs.sum().backward()
    optimizer.step()
    with pytest.raises(StaleSamplerError, match=r"differ from the policy's by 0\.\d+ \(median of"):
        require_fresh(own, rollouts, params)


def test_another_distribution_is_seen(policy: Policy) -> None:
    rollouts = drawn(policy, SamplingParams(12, temperature=0.9))
    with pytest.raises(StaleSamplerError, match="or from another distribution"):
        require_fresh(policy, rollouts, SamplingParams(12))


def test_what_is_not_finite_is_seen(policy: Policy) -> None:
    rollouts = drawn(policy, SamplingParams(12))
    rollouts.logprobs.fill_(float("nan"))
    with pytest.raises(StaleSamplerError, match="by nan"):
        require_fresh(policy, rollouts, SamplingParams(12))


def test_greedy_and_no_rollouts_have_nothing_to_compare(policy: Policy) -> None:
    greedy = SamplingParams(12, temperature=0.0)
    require_fresh(policy, drawn(policy, greedy), greedy)
    sampler = NativeSampler()
    sampler.sync(policy, 0)
    params = SamplingParams(12)
    require_fresh(policy, sampler.sample([], 4, params, torch.Generator()), params)


class Forgetful(NativeSampler):
    """Keeps drawing from the weights of its first sync."""

    def sync(self, policy: Policy, version: int) -> None:
        if self._policy is None:
            super().sync(Policy(copy.deepcopy(policy.model), policy.tokenizer), version)

    def sample(self, prompts: Sequence[Prompt], group_size: int, *given: Any) -> Rollouts:
        return super().sample(prompts, group_size, *given)


def test_a_run_stops_at_the_first_stale_step(policy: Policy) -> None:
    module = CooperModule(
        policy=Policy(copy.deepcopy(policy.model), policy.tokenizer),
        verifier=NumericVerifier(),
        sampling=SamplingParams(8),
        sampler=Forgetful(),
        group_size=4,
    )
    module.configure_optimizers()
    problems = [Problem(str(i), f"What is {i} + 4?", "7") for i in range(4)]
    module.sample(problems)
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter.mul_(1.01)
    with pytest.raises(StaleSamplerError, match=r"sync\(policy, version\) must bring"):
        module.sample(problems)
