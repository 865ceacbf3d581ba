"""What each model is trained to do: the paper's two losses and their variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from cooper.checks import at_least, one_of
from cooper.functional import (
    aggregation_weights,
    binary_cross_entropy,
    centring_penalty,
    cispo,
    clipped_surrogate,
    contrastive_loss,
    group_advantages,
    kl_penalty,
    leave_one_out_advantages,
    offsets_from,
    overlong_penalty,
    segment_sum,
    sequence_clipped_surrogate,
    spread_to_tokens,
    sums_to_go,
    truncated_importance,
    whiten,
)
from cooper.functional.aggregation import Aggregation
from cooper.functional.kl import KLEstimator
from cooper.models.token_scores import TokenScores
from cooper.rewards import Rewards
from cooper.types import Rollouts

Baseline = Literal["group", "leave_one_out", "none"]
AdvantageScale = Literal["std", "batch", "none"]
Surrogate = Literal["ppo", "gspo", "cispo"]
KLPlace = Literal["loss", "reward"]


@dataclass(frozen=True)
class FixedLogprobs:
    """Log-probabilities that stay as they are during a step's updates: [S] each."""

    old: Tensor  # of the policy before the step's first update
    drawn: Tensor  # under which the tokens were drawn
    ref: Tensor | None  # of the reference; None without one

    def at(self, where: Tensor) -> FixedLogprobs:
        """Those of some tokens: [len(where)] each."""
        ref = None if self.ref is None else self.ref[where]
        return FixedLogprobs(self.old[where], self.drawn[where], ref)


@dataclass(frozen=True)
class PolicyObjective:
    """Stage 1: advantages, clipped surrogate, KL to the reference.

    The defaults are GRPO in veRL's conventions. ``conf/algorithm`` holds the published presets.

    Args:
        baseline: what a reward is compared with: the mean of its "group" (GRPO), the mean of the
            other completions, "leave_one_out" (RLOO), or "none" (REINFORCE++).
        advantage_scale: "std" divides by the group's standard deviation (GRPO), "batch" normalises
            over all tokens of the batch (REINFORCE++), "none" leaves the difference (Dr.GRPO,
            RLOO).
        advantage_eps: added to the group's standard deviation.
        min_group_std: groups whose rewards differ less than this (standard deviation) get
            advantage 0. A learned reward is never exactly equal within a group; without a floor
            its last decimals become full-size advantages.
        surrogate: "ppo" (ratio of each token), "gspo" (one ratio a completion), "cispo" (the
            weight is clipped, not the gradient).
        clip_low: lower bound of the ratio is 1 - clip_low.
        clip_high: upper bound of the ratio is 1 + clip_high.
        dual_clip: for negative advantages the loss of "ppo" stops growing at this ratio (veRL: 3);
            0: never.
        importance_cap: largest weight of a token drawn by another engine or policy version; 0: such
            tokens are not reweighted.
        aggregation: "token_mean" over the batch, "sequence_mean", or "constant" (the sum of each
            completion over the length limit: Dr.GRPO).
        kl_coef: weight of the KL term; 0 leaves out the reference model altogether.
        kl_estimator: "k1", "k2" or "k3".
        kl_in: the KL is a term of the "loss" (GRPO), or taken off the "reward" (RLOO, REINFORCE++).
        entropy_coef: weight of the entropy bonus; 0: none.
        overlong_share: last part of the length limit over which the reward falls by
            `overlong_factor` (DAPO: 0.2); 0: it does not.
        overlong_factor: how far it falls.
        dynamic_sampling: most extra rounds of sampling that replace groups whose verdicts do not
            differ (DAPO); 0: none are replaced.
        mask_truncated: leave completions that hit the length limit out of the loss.
        epochs: passes over a rollout batch.
        minibatches: optimizer steps a pass.
        micro_batch_tokens: of one forward and backward, prompts included; a matter of memory only.
        entropy: log the policy's entropy (costs a pass over the logits).
        max_tokens: the length limit; given by the run.
    """

    baseline: Baseline = "group"
    advantage_scale: AdvantageScale = "std"
    advantage_eps: float = 1e-6
    min_group_std: float = 0.0
    surrogate: Surrogate = "ppo"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0
    importance_cap: float = 0.0
    aggregation: Aggregation = "token_mean"
    kl_coef: float = 0.001
    kl_estimator: KLEstimator = "k3"
    kl_in: KLPlace = "loss"
    entropy_coef: float = 0.0
    overlong_share: float = 0.0
    overlong_factor: float = 1.0
    dynamic_sampling: int = 0
    mask_truncated: bool = False
    epochs: int = 1
    minibatches: int = 1
    micro_batch_tokens: int = 16384
    entropy: bool = True
    max_tokens: int = 0

    def __post_init__(self) -> None:
        """Check ranges, and settings that exclude each other.

        Raises:
            ValueError: a setting is out of its range.
        """
        at_least(
            "algorithm", self, epochs=1, minibatches=1, micro_batch_tokens=1, clip_low=0,
            clip_high=0, dual_clip=0, importance_cap=0, kl_coef=0, entropy_coef=0, advantage_eps=0,
            min_group_std=0, overlong_share=0, overlong_factor=0, dynamic_sampling=0,
        )  # fmt: skip
        one_of("algorithm.baseline", self.baseline, ("group", "leave_one_out", "none"))
        one_of("algorithm.advantage_scale", self.advantage_scale, ("std", "batch", "none"))
        one_of("algorithm.surrogate", self.surrogate, ("ppo", "gspo", "cispo"))
        one_of(
            "algorithm.aggregation", self.aggregation, ("token_mean", "sequence_mean", "constant")
        )
        one_of("algorithm.kl_estimator", self.kl_estimator, ("k1", "k2", "k3"))
        one_of("algorithm.kl_in", self.kl_in, ("loss", "reward"))
        if self.advantage_scale == "std" and self.baseline != "group":
            raise ValueError(
                "algorithm.advantage_scale=std: divides by the group's standard deviation and goes "
                f"with algorithm.baseline=group, not {self.baseline}; give batch or none"
            )
        if self.dual_clip and (self.dual_clip <= 1 or self.surrogate != "ppo"):
            raise ValueError(
                f"algorithm.dual_clip={self.dual_clip}: a ratio above 1 for surrogate=ppo; 0 is off"
            )
        if self.overlong_share > 1:
            raise ValueError(
                f"algorithm.overlong_share={self.overlong_share}: a share of the length limit, at "
                "most 1"
            )

    @property
    def needs_entropy(self) -> bool:
        """Whether the policy's entropy is logged or part of the loss."""
        return self.entropy or self.entropy_coef > 0

    def shape(self, rewards: Rewards, rollouts: Rollouts, silent: bool = False) -> Rewards:
        """Take what overlong completions lose off their rewards.

        Args:
            rewards: of the reward component.
            rollouts: what they are for.
            silent: hold all of them back: dynamic sampling found no group to learn from.
        """
        if silent:
            rewards = replace(rewards, gated=torch.ones_like(rewards.keep))
        if not self.overlong_share:
            return rewards
        buffer = max(1, round(self.overlong_share * self.max_tokens))
        penalty = overlong_penalty(rollouts.lengths, self.max_tokens, buffer)
        return replace(rewards, values=rewards.values + self.overlong_factor * penalty)

    def advantages(self, rewards: Rewards, rollouts: Rollouts, fixed: FixedLogprobs) -> Tensor:
        """[S] advantage of each token; one figure a completion but for REINFORCE++ with KL."""
        values, learn, offsets = rewards.values, rewards.learn, rollouts.offsets
        kl = None
        if self.kl_in == "reward" and fixed.ref is not None:
            kl = self.kl_coef * kl_penalty(fixed.old, fixed.ref, self.kl_estimator).cpu()
        if self.baseline == "none":
            tokens = spread_to_tokens(values * learn, offsets)
            if kl is not None:  # each token answers for the divergence from itself on
                tokens = tokens - sums_to_go(kl, offsets) * spread_to_tokens(learn, offsets)
        else:
            if kl is not None:
                values = values - segment_sum(kl, offsets)
            tokens = spread_to_tokens(self._against_group(values, learn, rollouts), offsets)
        if self.advantage_scale == "batch":
            tokens = whiten(tokens, spread_to_tokens(learn, offsets))
        return tokens

    def _against_group(self, values: Tensor, learn: Tensor, rollouts: Rollouts) -> Tensor:
        if self.baseline == "leave_one_out":
            return leave_one_out_advantages(
                values, rollouts.problem_of, min_std=self.min_group_std, keep=learn
            )
        return group_advantages(
            values,
            rollouts.problem_of,
            scale="std" if self.advantage_scale == "std" else "none",
            eps=self.advantage_eps,
            min_std=self.min_group_std,
            keep=learn,
        )

    def token_weights(self, rollouts: Rollouts, rows: Tensor) -> Tensor:
        """[tokens of `rows`] weight of each token in the loss of the mini-batch `rows`."""
        keep = torch.ones(len(rows), dtype=torch.bool)
        if self.mask_truncated:
            keep = rollouts.finished[rows]
        offsets = offsets_from(rollouts.lengths[rows])
        return aggregation_weights(offsets, keep, self.aggregation, max_tokens=self.max_tokens)

    def loss(
        self,
        scores: TokenScores,
        fixed: FixedLogprobs,
        advantages: Tensor,
        weights: Tensor,
        offsets: Tensor,
    ) -> tuple[Tensor, dict[str, float]]:
        """Share of a micro-batch in the mini-batch's loss.

        Args:
            scores: [S] of the policy as it is now, with gradient.
            fixed: [S] of the old policy and the reference.
            advantages: [S] of each token.
            weights: [S] from :meth:`token_weights`.
            offsets: [N + 1] of the micro-batch's completions.

        Returns:
            the scalar loss, and its weighted shares ``clip_frac``, ``kl``, ``entropy`` to add up.
        """
        losses, clipped = self._surrogate(scores.logprobs, fixed.old, advantages, offsets)
        shares = {"clip_frac": float((clipped.float() * weights).sum())}
        if self.importance_cap:
            factor = truncated_importance(fixed.old, fixed.drawn, self.importance_cap)
            losses = losses * factor
            shares["importance"] = float((factor * weights).sum())
        if fixed.ref is not None:
            kl = kl_penalty(scores.logprobs, fixed.ref, self.kl_estimator)
            shares["kl"] = float((kl.detach() * weights).sum())
            if self.kl_in == "loss":
                losses = losses + self.kl_coef * kl
        if scores.entropy is not None:
            shares["entropy"] = float((scores.entropy.detach() * weights).sum())
            if self.entropy_coef:
                losses = losses - self.entropy_coef * scores.entropy
        return (losses * weights).sum(), shares

    def _surrogate(
        self, logprobs: Tensor, old: Tensor, advantages: Tensor, offsets: Tensor
    ) -> tuple[Tensor, Tensor]:
        bounds = {"clip_low": self.clip_low, "clip_high": self.clip_high}
        if self.surrogate == "gspo":
            return sequence_clipped_surrogate(logprobs, old, advantages, offsets, **bounds)
        if self.surrogate == "cispo":
            return cispo(logprobs, old, advantages, **bounds)
        return clipped_surrogate(logprobs, old, advantages, dual_clip=self.dual_clip, **bounds)


@dataclass(frozen=True)
class RewardObjective:
    """Stage 2: the contrastive loss on verified pairs, and what may stand beside it.

    Args:
        every: update on every n-th step.
        start_after: steps before the first update.
        inner_steps: optimizer steps on the same examples.
        accuracy_floor: go on with more inner steps while the accuracy on held-out labels is below
            this; 0: never.
        max_inner_steps: where that ends.
        pairwise_weight: of the contrastive loss; 0: no pairs are used.
        margin: by which the right logit has to exceed the wrong one (Llama 2's form).
        centring: weight of the squared sum of a pair's logits, which keeps their offset from
            drifting; 0: none.
        bce_weight: of the binary cross entropy on labelled completions, where there are any.
        rollout_labels: decided rollouts of the step, half right and half wrong; -1: all of them.
        replay_labels: first-stage labelled completions drawn for each update, half right and half
            wrong.
        replay_pairs: pairs of earlier steps drawn for each update.
        replay_capacity: pairs that are remembered, the newest ones.
        ema_decay: rollouts are scored by an exponential moving average of the weights with this
            decay a step; 0: by the weights themselves.
        micro_batch_tokens: of one forward and backward; a pair stays whole; a matter of memory
            only.
    """

    every: int = 1
    start_after: int = 0
    inner_steps: int = 1
    accuracy_floor: float = 0.0
    max_inner_steps: int = 8
    pairwise_weight: float = 1.0
    margin: float = 0.0
    centring: float = 0.0
    bce_weight: float = 1.0
    rollout_labels: int = 0
    replay_labels: int = 0
    replay_pairs: int = 0
    replay_capacity: int = 2048
    ema_decay: float = 0.0
    micro_batch_tokens: int = 16384

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: a setting is out of its range.
        """
        at_least(
            "reward_objective", self, every=1, start_after=0, inner_steps=1, accuracy_floor=0,
            max_inner_steps=1, pairwise_weight=0, margin=0, centring=0, bce_weight=0,
            rollout_labels=-1, replay_labels=0, replay_pairs=0, replay_capacity=1, ema_decay=0,
            micro_batch_tokens=1,
        )  # fmt: skip
        for name in ("accuracy_floor", "ema_decay"):
            if getattr(self, name) >= 1:
                raise ValueError(f"reward_objective.{name}={getattr(self, name)}: below 1")
        if not self.pairwise_weight and not self.uses_labels:
            raise ValueError(
                "reward_objective.pairwise_weight=0: nothing is left to learn from; give "
                "rollout_labels or replay_labels with bce_weight above 0"
            )

    @property
    def uses_labels(self) -> bool:
        """Whether there is a binary cross entropy at all."""
        return bool(self.bce_weight and (self.rollout_labels or self.replay_labels))

    def due(self, step: int) -> bool:
        """Whether the reward model is updated on this step (steps count from 1)."""
        return step > self.start_after and step % self.every == 0

    def updates(self, max_steps: int) -> int:
        """RL steps of a run in which the reward model is updated."""
        return sum(self.due(step) for step in range(1, max_steps + 1))

    @property
    def most_steps(self) -> int:
        """Optimizer steps that an update takes at most."""
        return max(self.inner_steps, self.max_inner_steps if self.accuracy_floor else 0)

    def satisfied(self, accuracy: Callable[[], float]) -> bool:
        """Whether the accuracy on held-out labels is where it has to be; else it is not asked."""
        return not self.accuracy_floor or accuracy() >= self.accuracy_floor

    def pair_losses(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """[K] losses of pairs of logits."""
        losses = self.pairwise_weight * contrastive_loss(chosen, rejected, margin=self.margin)
        if self.centring:
            losses = losses + self.centring * centring_penalty(chosen, rejected)
        return losses

    def label_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[N] losses of labelled completions."""
        return self.bce_weight * binary_cross_entropy(logits, labels)
