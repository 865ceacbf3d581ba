"""What the policy is rewarded with: the rule's verdict, the reward model's score, or both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cooper.checks import one_of
from cooper.types import Verdict

Gate = Literal["none", "rule", "model", "both"]
Undecided = Literal["wrong", "exclude", "model"]


@dataclass(frozen=True)
class Rewards:
    """The rewards of a step."""

    values: Tensor  # [N] float32
    keep: Tensor  # [N] bool: has a reward at all; the others enter no mean and get advantage 0
    gated: Tensor | None = None  # [N] bool: held back by a gate; advantage 0; None: no gate

    @property
    def learn(self) -> Tensor:
        """[N] bool: takes part in its group's advantages."""
        return self.keep if self.gated is None else self.keep & ~self.gated


class Reward(ABC):
    """Turns verdicts and scores into rewards.

    Attributes:
        needs_model: whether scores are needed at all (else no reward model is loaded).
        trains_model: whether the reward model is updated in stage 2.
    """

    needs_model: bool
    trains_model: bool

    @abstractmethod
    def __call__(
        self, verdicts: Sequence[Verdict], scores: Tensor | None, problem_of: Tensor
    ) -> Rewards:
        """Reward a step's rollouts.

        Args:
            verdicts: [N] of the training verifier.
            scores: [N] reward-model probabilities in [0, 1]; None when no model is needed.
            problem_of: [N] problem of each rollout.
        """


def _flags(verdicts: Sequence[Verdict]) -> tuple[Tensor, Tensor]:
    """[N] correct and [N] decided, as booleans."""
    correct = torch.tensor([v.correct for v in verdicts], dtype=torch.bool)
    decided = torch.tensor([v.decided for v in verdicts], dtype=torch.bool)
    return correct, decided


def _need(scores: Tensor | None) -> Tensor:
    if scores is None:
        raise ValueError("this reward needs reward-model scores")
    return scores


def outcomes_differ(outcome: Tensor, problem_of: Tensor, keep: Tensor) -> Tensor:
    """[N] bool: whether the kept rollouts of the same problem hold both outcomes."""
    passes = torch.zeros_like(keep)
    for problem in problem_of.unique().tolist():
        group = (problem_of == problem) & keep
        if bool(outcome[group].any()) and not bool(outcome[group].all()):
            passes |= problem_of == problem
    return passes


class RuleReward(Reward):
    """1 for CORRECT, 0 for INCORRECT: reinforcement learning with a verifiable reward.

    Args:
        undecided: "wrong" rewards UNDECIDED with 0; "exclude" leaves such rollouts out of their
            group, so that a verifier that cannot read a reference punishes nobody.
    """

    needs_model = False
    trains_model = False

    def __init__(self, undecided: Undecided = "wrong") -> None:
        one_of("reward.undecided", undecided, ("wrong", "exclude"))
        self.undecided = undecided

    def __call__(
        self, verdicts: Sequence[Verdict], scores: Tensor | None, problem_of: Tensor
    ) -> Rewards:
        """See :class:`Reward`."""
        correct, decided = _flags(verdicts)
        keep = decided if self.undecided == "exclude" else torch.ones_like(decided)
        return Rewards(correct.float(), keep)


class _GatedReward(Reward):
    """A learned reward behind a gate.

    A learned score differs within every group, also where all completions are wrong, and GRPO
    then turns noise into full-size advantages. The gate lets a group through only if a binary
    outcome tells its completions apart: the verdict ("rule"), the score at 0.5 ("model"), or
    both; "none" lets all through, as in the paper.
    """

    needs_model = True

    def __init__(self, gate: Gate, undecided: Undecided, train_model: bool) -> None:
        one_of("reward.gate", gate, ("none", "rule", "model", "both"))
        one_of("reward.undecided", undecided, ("wrong", "exclude", "model"))
        self.gate = gate
        self.undecided = undecided
        self.trains_model = train_model

    def _held_back(
        self, verdicts: Sequence[Verdict], scores: Tensor, problem_of: Tensor, keep: Tensor
    ) -> Tensor:
        """[N] bool: kept, but in a group that does not pass the gate."""
        correct, decided = _flags(verdicts)
        by_model = scores > 0.5
        by_rule = torch.where(decided, correct, by_model) if self.undecided == "model" else correct
        through = keep
        if self.gate in ("rule", "both"):
            through = through & outcomes_differ(by_rule, problem_of, keep)
        if self.gate in ("model", "both"):
            through = through & outcomes_differ(by_model, problem_of, keep)
        return keep & ~through


class ModelReward(_GatedReward):
    """The reward model's score, sigmoid(M(q, r, o)).

    Args:
        train_model: update the reward model in stage 2 (Cooper), or leave it frozen (static).
        gate: "none", "rule", "model" or "both"; see above.
        undecided: how the rule's gate takes UNDECIDED: as "wrong", by the "model" at 0.5, or the
            rollout is left out ("exclude", whatever the gate).
    """

    def __init__(
        self, train_model: bool = True, gate: Gate = "none", undecided: Undecided = "model"
    ) -> None:
        super().__init__(gate, undecided, train_model)

    def __call__(
        self, verdicts: Sequence[Verdict], scores: Tensor | None, problem_of: Tensor
    ) -> Rewards:
        """See :class:`Reward`."""
        scores = _need(scores)
        _, decided = _flags(verdicts)
        keep = decided if self.undecided == "exclude" else torch.ones_like(decided)
        return Rewards(scores, keep, self._held_back(verdicts, scores, problem_of, keep))


class HybridReward(_GatedReward):
    """The verdict where it is decisive, the reward model's score elsewhere.

    Args:
        train_model: update the reward model in stage 2.
        gate: "none", "rule", "model" or "both"; see above.
        undecided: what an UNDECIDED rollout is rewarded with: the "model" score, 0 ("wrong"), or
            it is left out ("exclude").
    """

    def __init__(
        self, train_model: bool = True, gate: Gate = "none", undecided: Undecided = "model"
    ) -> None:
        super().__init__(gate, undecided, train_model)

    def __call__(
        self, verdicts: Sequence[Verdict], scores: Tensor | None, problem_of: Tensor
    ) -> Rewards:
        """See :class:`Reward`."""
        scores = _need(scores)
        correct, decided = _flags(verdicts)
        otherwise = scores if self.undecided == "model" else torch.zeros_like(scores)
        values = torch.where(decided, correct.float(), otherwise)
        keep = decided if self.undecided == "exclude" else torch.ones_like(decided)
        return Rewards(values, keep, self._held_back(verdicts, scores, problem_of, keep))
