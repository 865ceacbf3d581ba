"""Cooper: a policy and its reward model, trained in the same step (arXiv 2508.05613).

``CooperModule.training_step`` is the algorithm; everything it names is a part that can be swapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from torch import Tensor

from cooper.clock import Clock
from cooper.data.prompts import PromptBuilder
from cooper.functional import spread_to_tokens
from cooper.metrics import (
    Metrics,
    completion_metrics,
    pair_metrics,
    reward_metrics,
    score_metrics,
    verifier_metrics,
)
from cooper.models.policy import Policy
from cooper.models.reward_model import RewardModel
from cooper.objectives import PolicyObjective, RewardObjective
from cooper.optim import OptimizerSettings
from cooper.pairs import PairBuilder, Pairs
from cooper.rewards import Reward, Rewards
from cooper.rng import generator
from cooper.samplers.base import Sampler
from cooper.types import Problem, Rollouts, SamplingParams, Verdict
from cooper.updates import ModelUpdater, UpdateResult
from cooper.verifiers.base import Verifier


@dataclass
class StepRecord:
    """Everything one step saw and did, for the callbacks that log it."""

    step: int
    rollouts: Rollouts
    verdicts: Sequence[Verdict]
    scores: Tensor | None  # [N] probabilities
    rewards: Rewards
    advantages: Tensor  # [N]
    pairs: Pairs = field(default_factory=lambda: Pairs((), {}))
    metrics: Metrics = field(default_factory=dict)


class CooperModule(L.LightningModule):
    """Holds policy and reward model, each with its own optimizer, schedule and clip.

    Args:
        policy: trained by stage 1.
        reference: the frozen start of the policy; None with ``kl_coef=0``.
        reward_model: trained by stage 2; None when the reward needs no model.
        prompts: turns problems into prompts.
        sampler: draws the rollouts.
        sampling: temperature, cut-offs and length limit of the rollouts.
        group_size: completions a problem.
        verifier: the training verifier.
        reward: rule, model or hybrid.
        pairs: builds stage 2's pairs.
        objective: stage 1's loss.
        reward_objective: stage 2's loss.
        policy_optimizer: settings of the policy's optimizer.
        reward_model_optimizer: settings of the reward model's.
        max_steps: RL steps of the whole run, for the schedules.
        max_skips: non-finite updates in a row that stop the run.
        seed: of all generators.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        reference: Policy | None,
        reward_model: RewardModel | None,
        prompts: PromptBuilder,
        sampler: Sampler,
        sampling: SamplingParams,
        group_size: int,
        verifier: Verifier,
        reward: Reward,
        pairs: PairBuilder,
        objective: PolicyObjective,
        reward_objective: RewardObjective,
        policy_optimizer: OptimizerSettings,
        reward_model_optimizer: OptimizerSettings,
        max_steps: int,
        max_skips: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy, self.reference, self.reward_model = policy, reference, reward_model
        self.prompts, self.sampler, self.sampling = prompts, sampler, sampling
        self.group_size, self.verifier, self.reward, self.pairs = (
            group_size,
            verifier,
            reward,
            pairs,
        )
        self.objective, self.reward_objective = objective, reward_objective
        self.optimizer_settings = {
            "policy": policy_optimizer,
            "reward_model": reward_model_optimizer,
        }
        self.max_steps, self.max_skips = max_steps, max_skips
        self.generators = {
            purpose: generator(seed, purpose) for purpose in ("sampling", "minibatches", "pairs")
        }
        self.rl_step = 0  # steps done; Lightning's global_step counts both optimizers' steps
        self.clock = Clock()
        self.last: StepRecord | None = None
        for frozen in (reference, reward_model if not self.trains_reward_model else None):
            if frozen is not None:
                frozen.requires_grad_(False).eval()

    @property
    def trains_reward_model(self) -> bool:
        """Whether there is a stage 2 at all."""
        return self.reward_model is not None and self.reward.trains_model

    # ------------------------------------------------------------------ the algorithm

    def training_step(self, problems: list[Problem], batch_idx: int = 0) -> None:
        """One RL step: METHOD's two stages."""
        step, clock = self.rl_step + 1, self.clock.start()
        self.last = None  # whatever fails before there are rollouts must not show the last step's

        # Stage 1: the policy learns from the reward (GRPO).
        with clock("sample"):
            rollouts = self.sample(problems)
        with clock("verify"):
            verdicts = self.verify(rollouts)
        with clock("score"):
            scores = self.score(rollouts)
        rewards = self.reward(verdicts, scores, rollouts.problem_of)
        advantages = self.objective.advantages(rewards, rollouts.problem_of)
        self.last = StepRecord(step, rollouts, verdicts, scores, rewards, advantages)
        with clock("policy"):
            policy_metrics = self.update_policy(rollouts, advantages)

        # Stage 2: the reward model learns from verified pairs of the same rollouts.
        reward_model_metrics: Metrics = {}
        if self.trains_reward_model and self.reward_objective.due(step):
            with clock("pairs"):
                self.last.pairs = self.pairs.build(
                    rollouts, verdicts, scores, self.generators["pairs"]
                )
            with clock("reward_model"):
                reward_model_metrics = self.update_reward_model(self.last.pairs, rollouts)

        self.rl_step = step
        self.last.metrics = {
            **reward_metrics(rewards, advantages, rollouts.problem_of),
            **verifier_metrics(verdicts),
            **(score_metrics(scores, verdicts) if scores is not None else {}),
            **policy_metrics,
            **reward_model_metrics,
            **pair_metrics(self.last.pairs),
            **completion_metrics(rollouts),
            **clock.stop(),
        }

    def sample(self, problems: Sequence[Problem]) -> Rollouts:
        """Draw `group_size` completions for each problem from the policy as it is now."""
        prompts = [self.prompts(problem) for problem in problems]
        self.sampler.sync(self.policy, self.updaters["policy"].steps)
        return self.sampler.sample(
            prompts, self.group_size, self.sampling, self.generators["sampling"]
        )

    def verify(self, rollouts: Rollouts) -> list[Verdict]:
        """Ask the training verifier about every rollout."""
        return self.verifier.verify(rollouts.completions, rollouts.references, rollouts.questions)

    def score(self, rollouts: Rollouts) -> Tensor | None:
        """R = sigmoid(M(q, r, o)) for every rollout: [N], or None without a reward model."""
        if self.reward_model is None:
            return None
        logits = self.reward_model.score(
            rollouts.questions, rollouts.references, rollouts.completions
        )
        return logits.sigmoid()

    def update_policy(self, rollouts: Rollouts, advantages: Tensor) -> Metrics:
        """Take the objective's epochs and mini-batches over the rollouts."""
        everything = torch.arange(len(rollouts))
        ref_logprobs = self.frozen_logprobs(self.reference, rollouts)
        old_logprobs = rollouts.logprobs.to(self.device)
        if not self.drawn_from_policy(rollouts):
            old_logprobs = self.frozen_logprobs(self.policy, rollouts)
        assert old_logprobs is not None
        self.policy.train()
        totals = _Totals()
        for _ in range(self.objective.epochs):
            order = everything
            if self.objective.minibatches > 1:
                order = torch.randperm(len(rollouts), generator=self.generators["minibatches"])
            for rows in order.tensor_split(self.objective.minibatches):
                losses = self.policy_losses(
                    rollouts, rows, advantages, old_logprobs, ref_logprobs, totals
                )
                totals.add_update(self.step_model("policy", losses))
        self.policy.eval()
        return totals.metrics("policy", self.updaters["policy"].skipped)

    def policy_losses(
        self,
        rollouts: Rollouts,
        rows: Tensor,
        advantages: Tensor,
        old_logprobs: Tensor,
        ref_logprobs: Tensor | None,
        totals: _Totals,
    ) -> Iterator[Tensor]:
        """Yield each micro-batch's share in the loss of the mini-batch `rows`."""
        rows = rows[rollouts.lengths[rows].sort(descending=True, stable=True).indices]
        weights = self.objective.token_weights(rollouts, rows).to(self.device)
        start = 0
        for micro in rows.split(self.objective.micro_batch_size):
            scores = self.policy(rollouts, micro.tolist(), entropy=self.objective.entropy)
            where = token_positions(rollouts, micro).to(self.device)
            stop = start + len(where)
            lengths = rollouts.lengths[micro]
            offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
            loss, shares = self.objective.loss(
                scores.logprobs,
                old_logprobs[where],
                None if ref_logprobs is None else ref_logprobs[where],
                spread_to_tokens(advantages[micro], offsets).to(self.device),
                weights[start:stop],
            )
            if scores.entropy is not None:
                shares["entropy"] = float((scores.entropy * weights[start:stop]).sum())
            totals.add_shares(shares)
            start = stop
            yield loss

    def update_reward_model(self, pairs: Pairs, rollouts: Rollouts) -> Metrics:
        """Take the objective's inner steps on the pairs; without pairs, none."""
        totals = _Totals()
        if not len(pairs):
            return {}
        model = self._require_reward_model()
        chosen, rejected = tokenise_pairs(model, pairs, rollouts)
        model.train()
        for _ in range(self.reward_objective.inner_steps):
            losses = self.reward_model_losses(chosen, rejected, totals)
            totals.add_update(self.step_model("reward_model", losses))
        model.eval()
        return totals.metrics("reward_model", self.updaters["reward_model"].skipped)

    def reward_model_losses(
        self, chosen: list[list[int]], rejected: list[list[int]], totals: _Totals
    ) -> Iterator[Tensor]:
        """Yield each micro-batch's share in the mean loss over all pairs."""
        model = self._require_reward_model()
        size = self.reward_objective.micro_batch_size
        order = sorted(range(len(chosen)), key=lambda k: max(len(chosen[k]), len(rejected[k])))
        for start in range(0, len(order), size):
            micro = order[start : start + size]
            logits = model([chosen[k] for k in micro] + [rejected[k] for k in micro])
            right, wrong = logits.chunk(2)
            totals.add_shares({"margin": float((right - wrong).detach().sum()) / len(chosen)})
            yield self.reward_objective.loss(right, wrong).sum() / len(chosen)

    # ------------------------------------------------------------------ its mechanics

    def step_model(self, name: str, losses: Iterator[Tensor]) -> UpdateResult:
        """Take one optimizer step of one model."""
        index = list(self.updaters).index(name)
        optimizers: Any = self.optimizers(use_pl_optimizer=True)
        schedulers: Any = self.lr_schedulers()
        if len(self.updaters) == 1:
            optimizers, schedulers = [optimizers], [schedulers]
        return self.updaters[name].step(
            losses, self.manual_backward, optimizers[index], schedulers[index]
        )

    @torch.no_grad()
    def frozen_logprobs(self, model: Policy | None, rollouts: Rollouts) -> Tensor | None:
        """Log-probabilities of all tokens without gradient: [S], or None without a model."""
        if model is None:
            return None
        logprobs = torch.zeros(len(rollouts.ids), device=self.device)
        order = rollouts.lengths.sort(descending=True, stable=True).indices
        for micro in order.split(self.objective.micro_batch_size):
            where = token_positions(rollouts, micro).to(self.device)
            logprobs[where] = model(rollouts, micro.tolist()).logprobs
        return logprobs

    def drawn_from_policy(self, rollouts: Rollouts) -> bool:
        """Whether the sampler's log-probabilities are those of the policy as it is now.

        They are when no update lies between, and nothing was cut from the distribution.
        """
        whole = self.sampling.top_p == 1 and self.sampling.top_k == 0
        return whole and rollouts.policy_version == self.updaters["policy"].steps

    def configure_optimizers(self) -> tuple[list[Any], list[Any]]:
        """One optimizer and one schedule per trained model; the policy's come first."""
        per_step = {
            "policy": self.objective.epochs * self.objective.minibatches * self.max_steps,
            "reward_model": self.reward_objective.inner_steps
            * (self.max_steps // self.reward_objective.every),
        }
        models: dict[str, torch.nn.Module] = {"policy": self.policy}
        if self.trains_reward_model:
            models["reward_model"] = self._require_reward_model()
        self.updaters: dict[str, ModelUpdater] = {}
        optimizers, schedulers = [], []
        for name, model in models.items():
            settings = self.optimizer_settings[name]
            optimizer, scheduler = settings.build(model.parameters(), per_step[name])
            optimizers.append(optimizer)
            schedulers.append({"scheduler": scheduler, "interval": "step"})
            self.updaters[name] = ModelUpdater(name, model, settings.clip_norm, self.max_skips)
        return optimizers, schedulers

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Leave the problems alone: they are text."""
        return batch

    def _require_reward_model(self) -> RewardModel:
        if self.reward_model is None:
            raise RuntimeError("there is no reward model in this run")
        return self.reward_model


def token_positions(rollouts: Rollouts, rows: Tensor) -> Tensor:
    """[tokens of `rows`] int64: where their tokens stand in the flat tensors."""
    spans = [
        torch.arange(int(rollouts.offsets[row]), int(rollouts.offsets[row + 1]))
        for row in rows.tolist()
    ]
    return torch.cat(spans) if spans else torch.zeros(0, dtype=torch.long)


def tokenise_pairs(
    model: RewardModel, pairs: Pairs, rollouts: Rollouts
) -> tuple[list[list[int]], list[list[int]]]:
    """Render and tokenise both sides of K pairs."""
    problems = [rollouts.problems[pair.problem] for pair in pairs.pairs]
    questions = [problem.question for problem in problems]
    references = [problem.reference for problem in problems]
    return (
        model.tokenise(questions, references, [pair.chosen for pair in pairs.pairs]),
        model.tokenise(questions, references, [pair.rejected for pair in pairs.pairs]),
    )


class _Totals:
    """Sums of an update's figures over its optimizer steps."""

    def __init__(self) -> None:
        self.shares: Metrics = {}
        self.updates: list[UpdateResult] = []

    def add_shares(self, shares: Metrics) -> None:
        for name, value in shares.items():
            self.shares[name] = self.shares.get(name, 0.0) + value

    def add_update(self, update: UpdateResult) -> None:
        self.updates.append(update)

    def metrics(self, prefix: str, skipped: int) -> Metrics:
        """Means over the optimizer steps."""
        n = len(self.updates)
        return {
            f"{prefix}/loss": sum(u.loss for u in self.updates) / n,
            f"{prefix}/grad_norm": sum(u.grad_norm for u in self.updates) / n,
            f"{prefix}/lr": self.updates[-1].lr,
            f"{prefix}/skipped_steps": float(skipped),
            **{f"{prefix}/{name}": total / n for name, total in self.shares.items()},
        }
