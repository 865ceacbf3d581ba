"""The module in a script without Hydra: what it takes where it is given nothing."""

from __future__ import annotations

import copy
from pathlib import Path

import lightning as L
import pytest
import torch

from cooper import CooperModule, Policy, RewardModel
from cooper.callbacks import MetricsLog
from cooper.data import ProblemStream, PromptBuilder
from cooper.negatives import SelfNegatives
from cooper.objectives import PolicyObjective, RewardObjective
from cooper.optim import OptimizerSettings
from cooper.pairs import PairBuilder
from cooper.rewards import ModelReward, RuleReward
from cooper.samplers import NativeSampler
from cooper.testing import write_policy
from cooper.types import Problem, SamplingParams
from cooper.verifiers import NumericVerifier

SAMPLING = SamplingParams(max_new_tokens=6)
PROBLEMS = [Problem(str(n), f"What is {n} + 4?", str(n + 4)) for n in range(4)]


def copied(policy: Policy, temperature: float = 1.0) -> Policy:
    return Policy(copy.deepcopy(policy.model), policy.tokenizer, temperature)


def trained(module: CooperModule) -> tuple[list[torch.Tensor], dict[str, float]]:
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[MetricsLog()],
    )
    trainer.fit(module, ProblemStream(PROBLEMS, batch_size=2, num_batches=2))
    assert module.rl_step == 2
    assert module.last is not None
    figures = {n: v for n, v in module.last.metrics.items() if not n.startswith("time/")}
    return [p.detach().clone() for p in module.policy.parameters()], figures


def test_a_module_by_defaults_trains_as_one_with_all_parts_named(
    policy: Policy, reward_model: RewardModel
) -> None:
    short = CooperModule(
        policy=copied(policy),
        reward_model=copy.deepcopy(reward_model),
        verifier=NumericVerifier(),
        sampling=SAMPLING,
        group_size=4,
    )
    whole = copied(policy)
    verifier = NumericVerifier()
    long = CooperModule(
        policy=whole,
        reference=whole.start(),
        reward_model=copy.deepcopy(reward_model),
        prompts=PromptBuilder(policy.tokenizer),
        sampler=NativeSampler(),
        sampling=SAMPLING,
        group_size=4,
        verifier=verifier,
        reward=ModelReward(),
        pairs=PairBuilder(verifier, SelfNegatives()),
        objective=PolicyObjective(max_tokens=6),
        reward_objective=RewardObjective(),
        policy_optimizer=OptimizerSettings(lr=1e-6),
        reward_model_optimizer=OptimizerSettings(lr=1e-6),
        max_steps=2,
    )
    (weights, figures), (expected, expected_figures) = trained(short), trained(long)
    assert all(map(torch.equal, weights, expected))
    assert figures == pytest.approx(expected_figures, nan_ok=True)
    assert short.reference is not None
    assert not any(p.requires_grad for p in short.reference.parameters())
    assert not torch.equal(weights[0], next(short.reference.parameters()))
    assert torch.equal(next(short.reference.parameters()), next(policy.parameters()))


def test_without_a_reward_model_it_is_grpo_on_verdicts(policy: Policy) -> None:
    module = CooperModule(
        policy=copied(policy),
        verifier=NumericVerifier(),
        sampling=SAMPLING,
        objective=PolicyObjective(kl_coef=0, aggregation="constant"),
    )
    assert isinstance(module.reward, RuleReward)
    assert module.reference is None
    assert not module.trains_reward_model
    assert module.group_size == 16
    # The constant divisor is the length limit, which the objective alone does not know.
    assert module.objective.max_tokens == 6


def test_what_cannot_go_together_is_refused(policy: Policy) -> None:
    parts = {"verifier": NumericVerifier(), "sampling": SAMPLING}
    with pytest.raises(
        ValueError, match=r"sampling\.temperature=1\.0: .* at temperature 0\.5; give"
    ):
        CooperModule(policy=copied(policy, 0.5), **parts)
    for settings, said in (
        ({"schedule": "cosine"}, "schedule=cosine"),
        ({"warmup_ratio": 0.1}, r"warmup_ratio=0\.1"),
    ):
        with pytest.raises(ValueError, match=rf"policy_optimizer\.{said}: .* give max_steps"):
            CooperModule(
                policy=copied(policy), policy_optimizer=OptimizerSettings(1e-6, **settings), **parts
            )


def test_a_policy_comes_from_a_folder_with_its_tokenizer(tmp_path: Path) -> None:
    folder = write_policy(tmp_path / "policy", ["What is 3 + 4?"])
    policy = Policy.from_pretrained(folder, temperature=0.7)
    assert policy.temperature == 0.7
    assert policy.model.dtype == torch.float32
    assert policy.tokenizer.chat_template
