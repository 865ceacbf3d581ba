"""Stage (c): a reference-based reward model, trained by binary cross entropy (VerifyRM)."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cooper.annotation import agree
from cooper.checks import at_least
from cooper.errors import DataError
from cooper.fitting import SupervisedModule, fit, placed
from cooper.functional import binary_cross_entropy
from cooper.metrics import quality
from cooper.models.reward_model import RewardModel
from cooper.optim import OptimizerSettings
from cooper.rng import seed_of
from cooper.types import LabelledCompletion
from cooper.verifiers.base import Verifier

QUALITY = "quality.json"


@dataclass(frozen=True)
class RewardTraining:
    """How the reward model is trained before RL.

    Args:
        steps: optimizer steps.
        batch_size: completions a step; half of them right.
        swapped_share: share of the batch that is a right completion beside another problem's
            reference, so that the model learns to compare and not to guess from the completion.
        heldout: labelled completions kept apart to measure accuracy and AUROC.
        optimizer: learning rate, schedule, clip.
    """

    steps: int
    batch_size: int
    optimizer: OptimizerSettings
    swapped_share: float = 0.25
    heldout: int = 500

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: a setting is out of its range.
        """
        at_least("reward_training", self, steps=1, batch_size=2, swapped_share=0, heldout=0)
        if self.swapped_share > 0.5:
            raise ValueError(
                f"reward_training.swapped_share={self.swapped_share}: half of a batch is right, "
                "so at most 0.5"
            )

    def split(
        self, labelled: Sequence[LabelledCompletion], seed: int
    ) -> tuple[list[LabelledCompletion], list[LabelledCompletion]]:
        """Part the labelled completions: those to train on, and those held out."""
        items = list(labelled)
        random.Random(seed_of(seed, "reward model held out")).shuffle(items)
        kept = min(self.heldout, len(items) // 5)
        return items[kept:], items[:kept]

    def run(
        self,
        folder: Path,
        *,
        labelled: Sequence[LabelledCompletion],
        reward_model: RewardModel,
        rule: Verifier,
        judge: Verifier,
        seed: int,
        trainer: dict[str, Any],
    ) -> None:
        """Train, measure on what was held out, save in Hugging Face form.

        Args:
            folder: where to.
            labelled: right and wrong completions.
            reward_model: to train.
            rule: labels completions beside a swapped reference, together with the judge.
            judge: the annotation's.
            seed: of the batches.
            trainer: accelerator, devices, precision.
        """
        items, heldout = self.split(labelled, seed)
        batches = _Batches(items, rule, judge, self.batch_size, self.swapped_share, seed)
        module = RewardModule(reward_model, self.optimizer, self.steps)
        fit(module, batches, "reward model (BCE on labels)", trainer)
        with placed(reward_model, trainer):
            measured = quality(reward_model, heldout)
        (folder / QUALITY).write_text(json.dumps(measured, indent=1))
        reward_model.model.save_pretrained(folder)
        reward_model.tokenizer.save_pretrained(folder)


class RewardModule(SupervisedModule):
    """Binary cross entropy on labelled completions: L = E[BCE(sigmoid(M(q, r, c)), y)]."""

    model: RewardModel

    def loss(self, batch: Sequence[LabelledCompletion]) -> Tensor:
        """Mean over the batch."""
        rows = self.model.tokenise(*_columns(batch))
        labels = torch.tensor([float(item.label) for item in batch], device=self.device)
        return binary_cross_entropy(self.model(rows), labels).mean()


class _Batches:
    """Half right, the other half wrong: partly by a swapped reference."""

    def __init__(
        self,
        items: Sequence[LabelledCompletion],
        rule: Verifier,
        judge: Verifier,
        batch_size: int,
        swapped_share: float,
        seed: int,
    ) -> None:
        self.right = [item for item in items if item.label]
        self.wrong = [item for item in items if not item.label]
        self.rule = rule
        self.judge = judge
        self.num_right = batch_size // 2
        self.num_swapped = round(swapped_share * batch_size)
        self.num_wrong = batch_size - self.num_right - self.num_swapped
        self.seed = seed
        if not self.right or not self.wrong:
            raise DataError(
                f"annotation: {len(self.right)} right and {len(self.wrong)} wrong completions are "
                "left to train on, and both are needed; raise annotation.num_problems or "
                "annotation.completions"
            )
        self.references: dict[str, list[str]] = {}
        for item in items:
            self.references.setdefault(item.source, []).append(item.reference)

    def __call__(self, step: int) -> list[LabelledCompletion]:
        rng = random.Random(seed_of(self.seed, f"reward model batch {step}"))
        right = rng.choices(self.right, k=self.num_right)
        wrong = rng.choices(self.wrong, k=self.num_wrong)
        return [*right, *wrong, *self.swapped(right[: self.num_swapped], rng)]

    def swapped(
        self, items: Sequence[LabelledCompletion], rng: random.Random
    ) -> list[LabelledCompletion]:
        """The same completions beside another reference of their source.

        They are labelled as any other triple; one that is not labelled wrong is left out.
        """
        swapped = []
        for item in items:
            others = self.references[item.source]
            reference = others[rng.randrange(len(others))]
            if reference != item.reference:
                swapped.append(replace(item, reference=reference, label=False))
        questions, references, completions = _columns(swapped)
        by_rule = self.rule.verify(completions, references, questions)
        by_judge = self.judge.verify(completions, references, questions)
        return [
            item
            for item, one, other in zip(swapped, by_rule, by_judge, strict=True)
            if agree(one, other) is False
        ]


def _columns(items: Sequence[LabelledCompletion]) -> tuple[list[str], list[str], list[str]]:
    return (
        [item.question for item in items],
        [item.reference for item in items],
        [item.completion for item in items],
    )
