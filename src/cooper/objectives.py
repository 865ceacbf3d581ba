"""What each model is trained to do: the paper's two losses and their variants."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cooper.checks import at_least, one_of
from cooper.functional import (
    aggregation_weights,
    clipped_surrogate,
    contrastive_loss,
    group_advantages,
    kl_penalty,
)
from cooper.functional.advantages import AdvantageScale
from cooper.functional.aggregation import Aggregation
from cooper.functional.kl import KLEstimator
from cooper.rewards import Rewards
from cooper.types import Rollouts


@dataclass(frozen=True)
class PolicyObjective:
    """Stage 1: group-relative advantages, clipped surrogate, KL to the reference as a loss.

    Args:
        advantage_scale: "std" divides by the group's standard deviation (GRPO, veRL's
            convention), "none" subtracts the mean only (Dr.GRPO).
        advantage_eps: added to that standard deviation.
        min_group_std: groups whose rewards differ less than this (standard deviation) get
            advantage 0. A learned reward is never exactly equal within a group; without a floor
            its last decimals become full-size advantages.
        clip_low: lower bound of the ratio is 1 - clip_low.
        clip_high: upper bound of the ratio is 1 + clip_high.
        aggregation: "token_mean" over the batch, or "sequence_mean".
        kl_coef: weight of the KL loss; 0 leaves out the reference model altogether.
        kl_estimator: "k1", "k2" or "k3".
        mask_truncated: leave completions that hit the length limit out of the loss.
        epochs: passes over a rollout batch.
        minibatches: optimizer steps a pass.
        micro_batch_size: completions of one forward and backward; a matter of memory only.
        entropy: log the policy's entropy (costs a pass over the logits).
    """

    advantage_scale: AdvantageScale = "std"
    advantage_eps: float = 1e-6
    min_group_std: float = 0.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: Aggregation = "token_mean"
    kl_coef: float = 0.001
    kl_estimator: KLEstimator = "k3"
    mask_truncated: bool = False
    epochs: int = 1
    minibatches: int = 1
    micro_batch_size: int = 64
    entropy: bool = True

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: a setting is out of its range.
        """
        at_least(
            "algorithm", self, advantage_eps=0, min_group_std=0, clip_low=0, clip_high=0,
            kl_coef=0, epochs=1, minibatches=1, micro_batch_size=1,
        )  # fmt: skip
        one_of("algorithm.advantage_scale", self.advantage_scale, ("std", "none"))
        one_of("algorithm.aggregation", self.aggregation, ("token_mean", "sequence_mean"))
        one_of("algorithm.kl_estimator", self.kl_estimator, ("k1", "k2", "k3"))

    def advantages(self, rewards: Rewards, problem_of: Tensor) -> Tensor:
        """[N] advantages of the rollouts."""
        return group_advantages(
            rewards.values,
            problem_of,
            scale=self.advantage_scale,
            eps=self.advantage_eps,
            min_std=self.min_group_std,
            keep=rewards.learn,
        )

    def token_weights(self, rollouts: Rollouts, rows: Tensor) -> Tensor:
        """[tokens of `rows`] weight of each token in the loss of the mini-batch `rows`."""
        lengths = rollouts.lengths[rows]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        keep = torch.ones(len(rows), dtype=torch.bool)
        if self.mask_truncated:
            keep = rollouts.finished[rows]
        return aggregation_weights(offsets, keep, self.aggregation)

    def loss(
        self,
        logprobs: Tensor,
        old_logprobs: Tensor,
        ref_logprobs: Tensor | None,
        advantages: Tensor,
        weights: Tensor,
    ) -> tuple[Tensor, dict[str, float]]:
        """Share of a micro-batch in the mini-batch's loss.

        Args:
            logprobs: [S] of the policy, with gradient.
            old_logprobs: [S] of the policy that drew the tokens.
            ref_logprobs: [S] of the reference; None with ``kl_coef=0``.
            advantages: [S] spread to tokens.
            weights: [S] from :meth:`token_weights`.

        Returns:
            the scalar loss, and its weighted shares ``kl`` and ``clip_frac`` to add up.
        """
        losses, clipped = clipped_surrogate(
            logprobs,
            old_logprobs,
            advantages,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )
        shares = {"clip_frac": float((clipped.float() * weights).sum())}
        if ref_logprobs is not None:
            kl = kl_penalty(logprobs, ref_logprobs, self.kl_estimator)
            losses = losses + self.kl_coef * kl
            shares["kl"] = float((kl.detach() * weights).sum())
        return (losses * weights).sum(), shares


@dataclass(frozen=True)
class RewardObjective:
    """Stage 2: the contrastive loss on verified pairs.

    Args:
        every: update on every n-th step.
        inner_steps: optimizer steps on the same pairs.
        micro_batch_size: pairs of one forward and backward; a matter of memory only.
    """

    every: int = 1
    inner_steps: int = 1
    micro_batch_size: int = 64

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: a setting is out of its range.
        """
        at_least("reward_objective", self, every=1, inner_steps=1, micro_batch_size=1)

    def due(self, step: int) -> bool:
        """Whether the reward model is updated on this step (steps count from 1)."""
        return step % self.every == 0

    def loss(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """[K] losses of pairs of logits."""
        return contrastive_loss(chosen, rejected)
