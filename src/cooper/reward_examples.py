"""What the reward model learns from in a step: pairs, remembered pairs, labelled completions."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from cooper.errors import DataError
from cooper.metrics import Metrics, quality
from cooper.objectives import RewardObjective
from cooper.rng import pick
from cooper.scoring import Scorer
from cooper.types import LabelledCompletion, Pairs, Rollouts, Verdict


@dataclass(frozen=True)
class Contrast:
    """One pair as texts, so that it outlives its step."""

    question: str
    reference: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class RewardExamples:
    """The examples of one update of the reward model; its inner steps share them."""

    pairs: tuple[Contrast, ...] = ()
    labelled: tuple[LabelledCompletion, ...] = ()

    def __len__(self) -> int:
        """How many there are."""
        return len(self.pairs) + len(self.labelled)


class Heldout:
    """Measures a reward model on held-out labels, when it is asked to.

    Args:
        model: to measure.
        items: labelled completions that nothing trains on.
    """

    def __init__(self, model: Scorer, items: Sequence[LabelledCompletion]) -> None:
        self.model = model
        self.items = items
        self.metrics: Metrics = {}  # of the last time

    def accuracy(self) -> float:
        """Share of labels on whose side of 0.5 the score lies; 1 where there is no telling."""
        measured = quality(self.model, self.items)
        self.metrics = {
            f"reward_model/heldout_{name}": measured[name]
            for name in ("accuracy", "auroc")
            if name in measured
        }
        return measured.get("accuracy", 1.0)


class RewardData:
    """Gathers the examples of each update, and remembers what later ones may replay.

    Pairs come from problems that the verifier can judge; replayed first-stage labels keep the
    reward model what it was on the others (experience replay, arXiv 1811.11682).

    Args:
        objective: how many of which.
        first_stage: labelled completions of the reward model's first training, to replay.
        heldout: labelled completions that nothing trains on, for ``accuracy_floor``.

    Raises:
        DataError: the objective asks for what is not there.
    """

    def __init__(
        self,
        objective: RewardObjective,
        first_stage: Sequence[LabelledCompletion] = (),
        heldout: Sequence[LabelledCompletion] = (),
    ) -> None:
        self.objective = objective
        self.right = [item for item in first_stage if item.label]
        self.wrong = [item for item in first_stage if not item.label]
        self.heldout = heldout
        if objective.replay_labels and not (self.right and self.wrong):
            raise DataError(
                f"reward_objective.replay_labels={objective.replay_labels}: there are "
                f"{len(self.right)} right and {len(self.wrong)} wrong first-stage labels; both are "
                "needed: give data.labelled=FILE.jsonl"
            )
        if objective.accuracy_floor and not heldout:
            raise DataError(
                f"reward_objective.accuracy_floor={objective.accuracy_floor}: there are no "
                "held-out labels; give data.heldout=FILE.jsonl"
            )
        self.memory: deque[Contrast] = deque(maxlen=objective.replay_capacity)

    def examples(
        self,
        pairs: Pairs,
        rollouts: Rollouts,
        verdicts: Sequence[Verdict],
        rng: torch.Generator,
    ) -> RewardExamples:
        """Gather the examples of a step.

        Args:
            pairs: of this step.
            rollouts: of this step.
            verdicts: [N] of the training verifier.
            rng: source of all chance; advanced.
        """
        contrasts: list[Contrast] = []
        if self.objective.pairwise_weight:
            for pair in pairs.pairs:
                problem = rollouts.problems[pair.problem]
                contrasts.append(
                    Contrast(problem.question, problem.reference, pair.chosen, pair.rejected)
                )
        labelled: list[LabelledCompletion] = []
        if self.objective.uses_labels:
            labelled = [
                *self._from_rollouts(rollouts, verdicts, rng),
                *self._halves(self.right, self.wrong, self.objective.replay_labels, rng),
            ]
        replayed = []
        if self.objective.replay_pairs:
            if self.memory:
                replayed = [pick(self.memory, rng) for _ in range(self.objective.replay_pairs)]
            self.memory.extend(contrasts)
        return RewardExamples((*contrasts, *replayed), tuple(labelled))

    def _from_rollouts(
        self, rollouts: Rollouts, verdicts: Sequence[Verdict], rng: torch.Generator
    ) -> list[LabelledCompletion]:
        wanted = self.objective.rollout_labels
        if not wanted:
            return []
        decided = [
            LabelledCompletion(
                question, reference, completion, verdict.correct, rollouts.problems[owner].source
            )
            for question, reference, completion, verdict, owner in zip(
                rollouts.questions, rollouts.references, rollouts.completions, verdicts,
                rollouts.owners, strict=True,
            )
            if verdict.decided
        ]  # fmt: skip
        if wanted < 0:
            return decided
        right = [item for item in decided if item.label]
        wrong = [item for item in decided if not item.label]
        return self._halves(right, wrong, wanted, rng)

    @staticmethod
    def _halves(
        right: Sequence[LabelledCompletion],
        wrong: Sequence[LabelledCompletion],
        count: int,
        rng: torch.Generator,
    ) -> list[LabelledCompletion]:
        """Draw half right and half wrong, with replacement; without both kinds, none."""
        if not (right and wrong):
            return []
        return [pick(right if k % 2 else wrong, rng) for k in range(count)]

    def state_dict(self) -> dict[str, Any]:
        """The remembered pairs, as plain texts."""
        return {"memory": [asdict(contrast) for contrast in self.memory]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back."""
        self.memory.clear()
        self.memory.extend(Contrast(**fields) for fields in state["memory"])
