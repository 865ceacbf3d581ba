"""The parts that :class:`~cooper.module.CooperModule` takes where it is given none.

They are those of ``conf/train.yaml``, so that a script without Hydra and a run of ``cooper-train``
train alike.
"""

from __future__ import annotations

from dataclasses import replace

from cooper.models.policy import Policy
from cooper.models.reward_model import RewardModel
from cooper.negatives.own import SelfNegatives
from cooper.objectives import PolicyObjective
from cooper.optim import OptimizerSettings
from cooper.pairs import PairBuilder
from cooper.rewards import ModelReward, Reward, RuleReward
from cooper.samplers import NativeSampler, Sampler
from cooper.types import SamplingParams
from cooper.verifiers.base import Verifier


def reference(policy: Policy, objective: PolicyObjective) -> Policy | None:
    """The policy as it is before its training, if the objective has a KL to it."""
    return policy.start() if objective.kl_coef else None


def sampler() -> Sampler:
    """Decoding in slots."""
    return NativeSampler()


def reward(reward_model: RewardModel | None) -> Reward:
    """The paper's, or the rule where there is no model."""
    return RuleReward() if reward_model is None else ModelReward()


def pairs(verifier: Verifier) -> PairBuilder:
    """Pairs of the policy's own completions."""
    return PairBuilder(verifier, SelfNegatives())


def objective(given: PolicyObjective | None, sampling: SamplingParams) -> PolicyObjective:
    """GRPO, or what is given; with the length limit of the rollouts where it names none."""
    chosen = given or PolicyObjective()
    return chosen if chosen.max_tokens else replace(chosen, max_tokens=sampling.max_new_tokens)


def optimizer() -> OptimizerSettings:
    """AdamW at the paper's learning rate."""
    return OptimizerSettings(lr=1e-6)


def check_steps(name: str, settings: OptimizerSettings, max_steps: int) -> None:
    """Check that a schedule that ends knows when.

    Raises:
        ValueError: it does not.
    """
    if max_steps < 1 and (settings.schedule != "constant" or settings.warmup_ratio):
        what = (
            f"warmup_ratio={settings.warmup_ratio}"
            if settings.schedule == "constant"
            else f"schedule={settings.schedule}"
        )
        raise ValueError(
            f"{name}.{what}: depends on the length of the run; give max_steps, the number of RL "
            "steps"
        )


def check_temperature(policy: Policy, sampling: SamplingParams) -> None:
    """Check that the policy gives log-probabilities of the distribution that is sampled from.

    Raises:
        ValueError: it does not.
    """
    if policy.temperature != sampling.temperature:
        raise ValueError(
            f"sampling.temperature={sampling.temperature}: the policy's log-probabilities are "
            f"those at temperature {policy.temperature}; give "
            f"Policy(..., temperature={sampling.temperature})"
        )
