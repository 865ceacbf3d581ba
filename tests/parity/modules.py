"""The module alone, without a run around it, and gradients side by side."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from cooper.models import Policy, RewardModel
from cooper.module import CooperModule
from cooper.objectives import PolicyObjective, RewardObjective
from cooper.optim import OptimizerSettings
from cooper.rewards import ModelReward
from cooper.strategies.engine import Engine
from cooper.types import SamplingParams

KL_COEF = 0.3
TEMPERATURE = 0.8


def module_of(
    policy: Policy,
    reward_model: RewardModel,
    reward_objective: RewardObjective | None = None,
    given: dict[str, Any] | None = None,
    **objective: Any,
) -> CooperModule:
    """Copies of two tiny models in a module that can update but not sample."""
    unused: Any = None
    parts: dict[str, Any] = {
        "policy": Policy(copy.deepcopy(policy.model), policy.tokenizer, TEMPERATURE),
        "reference": None,
        "reward_model": copy.deepcopy(reward_model),
        "prompts": unused,
        "sampler": unused,
        "sampling": SamplingParams(max_new_tokens=9, temperature=TEMPERATURE),
        "group_size": 2,
        "verifier": unused,
        "reward": ModelReward(),
        "pairs": unused,
        "objective": PolicyObjective(max_tokens=9, **{"kl_coef": KL_COEF, **objective}),
        "reward_objective": reward_objective or RewardObjective(),
        "policy_optimizer": OptimizerSettings(lr=1e-3),
        "reward_model_optimizer": OptimizerSettings(lr=1e-3),
        "max_steps": 10,
    }
    module = CooperModule(**{**parts, **(given or {})})
    optimizers, schedulers = module.configure_optimizers()
    at = list(module.updaters).index

    def step_model(name: str, losses: Any) -> Any:
        # What Lightning does between us and torch needs a Trainer; without one it is this.
        engine = Engine(getattr(module, name), optimizers[at(name)])
        return module.updaters[name].step(losses, engine, schedulers[at(name)]["scheduler"])

    module.step_model = step_model
    return module


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(got: nn.Module, expected: nn.Module) -> None:
    left, right = gradients(got), gradients(expected)
    assert left.keys() == right.keys() == dict(got.named_parameters()).keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-5, atol=1e-5, msg=name)
