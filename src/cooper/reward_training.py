"""The reward model's own training, before RL: cross entropy on labelled completions (VerifyRM)."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from cooper.annotation import agree
from cooper.checks import at_least, at_most, one_of
from cooper.collectives import alone, own_batches, rank, spread
from cooper.errors import DataError
from cooper.fitting import StepBatches, fit_steps, placed
from cooper.functional import binary_cross_entropy
from cooper.metrics import Metrics, quality
from cooper.models.adapters import Adapter, FullAdapter
from cooper.models.reward_heads import Row
from cooper.models.reward_model import RewardModel
from cooper.optim import OptimizerSettings
from cooper.progress import Bar, progress
from cooper.rng import seed_of
from cooper.scoring import SpreadScorer
from cooper.strategies.engine import Engine
from cooper.strategies.engines import Engines, make_engines
from cooper.types import LabelledCompletion
from cooper.updates import ModelUpdater
from cooper.verifiers.base import Verifier

QUALITY = "quality.json"

Log = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class RewardTraining:
    """How the reward model is trained before RL.

    Classes are balanced by drawing, not by weighting the loss: a weight changes the size of the
    gradient with every batch's luck and has to be chosen, a drawn half does and has not.

    Args:
        batch_size: completions an optimizer step.
        optimizer: learning rate, schedule, clip.
        steps: optimizer steps; 0: as many as `epochs` take.
        epochs: passes over the completions; read where `steps` is 0.
        balanced: half of each batch is right, half wrong, drawn with replacement. False: each
            pass takes every completion once, in the shares that the data have.
        swapped_share: share of the batch that is a right completion beside another problem's
            reference, so that the model learns to compare and not to guess from the completion.
        label_smoothing: e; the targets are 1 - e/2 and e/2 instead of 1 and 0.
        heldout: labelled completions kept apart to measure accuracy and AUROC; at most a fifth.
        heldout_by: what is kept apart whole: a "question" with all its completions, or a "row".
        micro_batch_tokens: of one forward and backward; a batch is cut into parts whose gradients
            add up to the whole batch's. 0: the batch at once.
        evaluate_every: optimizer steps between measurements on what is held out; the weights with
            the highest AUROC are kept. 0: only the last ones are measured.
        patience: measurements without a higher AUROC that end the training; 0: never.
        max_skips: non-finite updates in a row that stop it.
    """

    batch_size: int
    optimizer: OptimizerSettings
    steps: int = 0
    epochs: float = 0.0
    balanced: bool = True
    swapped_share: float = 0.25
    label_smoothing: float = 0.0
    heldout: int = 500
    heldout_by: Literal["question", "row"] = "question"
    micro_batch_tokens: int = 16384
    evaluate_every: int = 0
    patience: int = 0
    max_skips: int = 5

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: a setting is out of its range.
        """
        at_least(
            "reward_training", self, steps=0, epochs=0, batch_size=2, swapped_share=0, heldout=0,
            label_smoothing=0, micro_batch_tokens=0, evaluate_every=0, patience=0, max_skips=1,
        )  # fmt: skip
        at_most("reward_training", self, label_smoothing=0.5)
        one_of("reward_training.heldout_by", self.heldout_by, ("question", "row"))
        if not self.steps and not self.epochs:
            raise ValueError(
                "reward_training.steps=0: no length is given; give steps or epochs above 0"
            )
        if self.swapped_share > 0.5:
            raise ValueError(
                f"reward_training.swapped_share={self.swapped_share}: half of a batch is right, "
                "so at most 0.5"
            )
        if self.patience and not self.evaluate_every:
            raise ValueError(
                f"reward_training.patience={self.patience}: counts measurements; give "
                "reward_training.evaluate_every=STEPS too"
            )

    def split(
        self, labelled: Sequence[LabelledCompletion], seed: int
    ) -> tuple[list[LabelledCompletion], list[LabelledCompletion]]:
        """Part the labelled completions: those to train on, and those held out."""
        wanted = min(self.heldout, len(labelled) // 5)
        if self.heldout_by == "row":
            items = list(labelled)
            random.Random(seed_of(seed, "reward model held out")).shuffle(items)
            return items[wanted:], items[:wanted]
        rows: dict[str, int] = {}
        for item in labelled:
            rows[item.question] = rows.get(item.question, 0) + 1
        questions = list(rows)
        random.Random(seed_of(seed, "reward model held out")).shuffle(questions)
        apart: set[str] = set()
        count = 0
        for question in questions:
            # A question with very many completions is passed over: a fifth is enough.
            if count < wanted and count + rows[question] <= len(labelled) // 5:
                apart.add(question)
                count += rows[question]
        return (
            [item for item in labelled if item.question not in apart],
            [item for item in labelled if item.question in apart],
        )

    def num_steps(self, rows: int) -> int:
        """Optimizer steps on so many completions."""
        fresh = self.batch_size - (0 if self.balanced else self.num_swapped)
        return self.steps or max(1, math.ceil(self.epochs * rows / fresh))

    @property
    def num_swapped(self) -> int:
        """Completions of a batch that stand beside another problem's reference."""
        return round(self.swapped_share * self.batch_size)

    def check(
        self,
        reward_model: RewardModel,
        items: Sequence[LabelledCompletion],
        heldout: Sequence[LabelledCompletion],
    ) -> None:
        """Check that data, head and settings fit, before anything is computed.

        Raises:
            DataError: they do not.
        """
        right = sum(item.label for item in items)
        if not 0 < right < len(items):
            raise DataError(
                f"{right} right and {len(items) - right} wrong completions are left to train on, "
                "and both are needed; give more labelled completions"
            )
        if reward_model.head.per_step:
            bare = next((item for item in items if not item.step_labels), None)
            if bare is not None:
                raise DataError(
                    f"reward_head={reward_model.head.name}: needs step labels, and the completion "
                    f"of {bare.question[:60]!r} has none; give the column step_labels, or another "
                    "reward_head"
                )
            if self.swapped_share:
                raise DataError(
                    f"reward_training.swapped_share={self.swapped_share}: a swapped reference says "
                    f"nothing of single steps; give 0 with reward_head={reward_model.head.name}"
                )
        if self.evaluate_every:
            right = sum(item.label for item in heldout)
            if not 0 < right < len(heldout):
                raise DataError(
                    f"reward_training.evaluate_every={self.evaluate_every}: {right} right and "
                    f"{len(heldout) - right} wrong completions are held out, and an AUROC needs "
                    "both; raise reward_training.heldout or give a held-out file"
                )

    def run(
        self,
        folder: Path,
        *,
        labelled: Sequence[LabelledCompletion],
        reward_model: RewardModel,
        rule: Verifier | None,
        judge: Verifier | None,
        seed: int,
        trainer: dict[str, Any],
        heldout: Sequence[LabelledCompletion] | None = None,
        adapter: Adapter | None = None,
        log: Log | None = None,
        merge: bool = True,
    ) -> dict[str, float]:
        """Train, measure on what was held out, save in Hugging Face form.

        Several processes train together; the first one does the rest.

        Args:
            folder: where to.
            labelled: right and wrong completions.
            reward_model: to train.
            rule: labels completions beside a swapped reference; None: there are none of them.
            judge: labels them together with the rule, where there is one (the annotation's).
            seed: of the batches.
            trainer: keywords of Lightning's Trainer: accelerator, devices, precision, loggers.
            heldout: completions to measure on; None: part of `labelled` is kept apart.
            adapter: which weights are trained; by default all.
            log: takes the figures of each step.
            merge: write a whole model; else LoRA's additions and the score layer alone.

        Returns:
            the figures on what was held out, as ``quality.json`` has them; of the first process.

        Raises:
            DataError: the data do not fit the head or the settings.
        """
        items, apart = (
            self.split(labelled, seed) if heldout is None else (list(labelled), list(heldout))
        )
        self.check(reward_model, items, apart)
        reward_model.adapt(adapter or FullAdapter(), seed)
        batches = _Batches(items, rule, judge, self, seed)
        module = RewardModule(reward_model, self, self.num_steps(len(items)))
        with progress("reward model (BCE on labels)", module.steps, "step") as bar:
            watch = _Watch(apart, self, bar, log)
            fit_steps(module, StepBatches(batches, module.steps), [watch], trainer)
        if rank():
            return {}
        watch.restore(reward_model)
        if merge:
            reward_model.merge()
        hardware = {key: trainer[key] for key in ("accelerator", "precision") if key in trainer}
        with placed(reward_model, {**hardware, "devices": 1}), alone():
            measured = quality(reward_model, apart)
        measured["steps"] = float(watch.step)
        measured["kept_step"] = float(watch.best_step or watch.step)
        (folder / QUALITY).write_text(json.dumps(measured, indent=1))
        reward_model.save(folder)
        return measured


class RewardModule(L.LightningModule):
    """Binary cross entropy on labelled completions: L = E[BCE(sigmoid(M(q, r, c)), y)].

    With a head that scores steps the mean is over the batch's steps and their labels.

    Args:
        model: to train.
        settings: optimizer, smoothing, size of the parts of a batch.
        steps: optimizer steps, for the schedule.
    """

    def __init__(self, model: RewardModel, settings: RewardTraining, steps: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.settings = settings
        self.steps = steps
        self.metrics: Metrics = {}  # of the last step
        # In a Trainer the strategy's own takes its place.
        self.engines = Engines({"reward_model": Engine(model)})

    def training_step(self, batch: Sequence[LabelledCompletion], batch_idx: int = 0) -> None:
        """One optimizer step."""
        scheduler: Any = self.lr_schedulers()
        done = self.updater.step(self.losses(batch), self.engines["reward_model"], scheduler)
        self.metrics = {
            "reward_model/loss": done.loss,
            "reward_model/grad_norm": done.grad_norm,
            "reward_model/lr": done.lr,
            "reward_model/skipped_steps": float(self.updater.skipped),
        }

    def losses(self, batch: Sequence[LabelledCompletion]) -> Iterator[Tensor]:
        """Yield each part's share in the mean over the batch."""
        rows = self.model.tokenise(*_columns(batch))
        labels = [self.targets(item, row) for item, row in zip(batch, rows, strict=True)]
        total = sum(map(len, labels))
        engine, size = self.engines["reward_model"], self.settings.micro_batch_tokens

        def cut(part: range) -> list[list[int]]:
            if not size:
                return [list(part)]
            return [
                [part[k] for k in batch]
                for batch in self.model.batches([rows[k] for k in part], size)
            ]

        for part, counts in own_batches([len(row) for row in rows], cut):
            targets = torch.tensor([y for k in part for y in labels[k]], device=self.device)
            units = engine([rows[k] for k in part], units=True)
            loss = binary_cross_entropy(units, targets).sum() / total
            yield loss if counts else 0 * loss

    def targets(self, item: LabelledCompletion, row: Row) -> list[float]:
        """The smoothed labels of a row, or of its steps that are still there after the cut."""
        per_step = self.model.head.per_step
        labels = [item.step_labels[step] for step in row.steps] if per_step else [item.label]
        smoothing = self.settings.label_smoothing
        return [float(label) * (1 - smoothing) + smoothing / 2 for label in labels]

    def configure_optimizers(self) -> Any:
        """One optimizer with its schedule, stepped by hand."""
        settings = self.settings.optimizer
        optimizer, scheduler = settings.build(self.model.weights.trained, self.steps)
        self.updater = ModelUpdater(
            "reward_model",
            settings.clip_norm,
            self.settings.max_skips,
            mend="lower reward_training.optimizer.lr or look at the labelled completions",
        )
        self.updaters = {"reward_model": self.updater}
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def on_fit_start(self) -> None:
        """Make the model's engine, as the strategy has it."""
        self.engines = make_engines(self, {"reward_model": self.model})

    def on_fit_end(self) -> None:
        """Leave an ordinary model behind."""
        self.engines["reward_model"].release()

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Leave the completions alone: they are text."""
        return batch


class _Watch(L.Callback):
    """Shows, logs and measures; keeps the weights with the highest held-out AUROC."""

    def __init__(
        self,
        heldout: Sequence[LabelledCompletion],
        settings: RewardTraining,
        bar: Bar,
        log: Log | None,
    ) -> None:
        self.heldout = heldout
        self.settings = settings
        self.bar = bar
        self.write = log  # Lightning gives callbacks a `log` of its own
        self.step = 0
        self.best_auroc = -math.inf
        self.best_step = 0
        self.best: dict[str, Tensor] = {}
        self.waited = 0
        self.note = ""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        """After each optimizer step."""
        self.step += 1
        metrics: Metrics = dict(pl_module.metrics)
        every = self.settings.evaluate_every
        if every and (self.step % every == 0 or self.step == pl_module.steps):
            with trainer.precision_plugin.forward_context():
                scorer = SpreadScorer(pl_module.model, pl_module.engines.whole)
                measured = quality(scorer, self.heldout)
            metrics["reward_model/heldout_accuracy"] = measured["accuracy"]
            metrics["reward_model/heldout_auroc"] = measured["auroc"]
            self.note = f", held-out AUROC {measured['auroc']:.3f}"
            self.compare(pl_module, measured["auroc"])
            trainer.should_stop |= bool(self.settings.patience) and (
                self.waited >= self.settings.patience
            )
        if self.write is not None:
            self.write(self.step, metrics)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=self.step)
        self.bar.advance(1, note=f"loss {metrics['reward_model/loss']:.3f}{self.note}")

    def compare(self, module: RewardModule, auroc: float) -> None:
        """Keep the weights if no earlier ones were better."""
        self.waited += 1
        if auroc > self.best_auroc:
            self.best_auroc, self.best_step, self.waited = auroc, self.step, 0
            with module.engines.written(module.model):
                if rank() == 0:
                    self.best = {n: p.detach().cpu().clone() for n, p in _trained(module.model)}

    @torch.no_grad()
    def restore(self, model: RewardModel) -> None:
        """Put the kept weights back."""
        if self.best_step in (0, self.step):
            return
        for name, parameter in _trained(model):
            parameter.copy_(self.best[name])


def _trained(model: RewardModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((n, p) for n, p in model.named_parameters() if p.requires_grad)


class _Batches:
    """The completions of each step: drawn in halves, or pass by pass; some references swapped."""

    def __init__(
        self,
        items: Sequence[LabelledCompletion],
        rule: Verifier | None,
        judge: Verifier | None,
        settings: RewardTraining,
        seed: int,
    ) -> None:
        self.items = items
        self.right = [item for item in items if item.label]
        self.wrong = [item for item in items if not item.label]
        self.rule = rule
        self.judge = judge
        self.settings = settings
        self.num_swapped = settings.num_swapped if rule is not None else 0
        self.seed = seed
        self.references: dict[str, list[str]] = {}
        for item in items:
            self.references.setdefault(item.source, []).append(item.reference)

    def __call__(self, step: int) -> list[LabelledCompletion]:
        rng = random.Random(seed_of(self.seed, f"reward model batch {step}"))
        size = self.settings.batch_size
        if self.settings.balanced:
            right = rng.choices(self.right, k=size // 2)
            wrong = rng.choices(self.wrong, k=size - size // 2 - self.num_swapped)
            return [*right, *wrong, *self.swapped(right[: self.num_swapped], rng)]
        fresh = self.passing(step, size - self.num_swapped)
        right = [item for item in fresh if item.label]
        return [*fresh, *self.swapped(right[: self.num_swapped], rng)]

    def passing(self, step: int, count: int) -> list[LabelledCompletion]:
        """The next completions of the passes, each of them a shuffle of all."""
        batch: list[LabelledCompletion] = []
        order: list[int] = []
        for at in range(step * count, (step + 1) * count):
            number, index = divmod(at, len(self.items))
            if index == 0 or not order:
                order = list(range(len(self.items)))
                random.Random(seed_of(self.seed, f"reward model pass {number}")).shuffle(order)
            batch.append(self.items[order[index]])
        return batch

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
        if self.rule is None:
            return []
        # Each process asks for a part: a time-out in one alone must not give it another batch.
        return [i for i, wrong in zip(swapped, spread(swapped, self._wrong), strict=True) if wrong]

    def _wrong(self, items: Sequence[LabelledCompletion]) -> list[bool]:
        """Whether rule and judge label each as wrong."""
        questions, references, completions = _columns(items)
        assert self.rule is not None
        by_rule = self.rule.verify(completions, references, questions)
        if self.judge is None:
            return [verdict.incorrect for verdict in by_rule]
        by_judge = self.judge.verify(completions, references, questions)
        return [agree(*both) is False for both in zip(by_rule, by_judge, strict=True)]


def _columns(items: Sequence[LabelledCompletion]) -> tuple[list[str], list[str], list[str]]:
    return (
        [item.question for item in items],
        [item.reference for item in items],
        [item.completion for item in items],
    )
