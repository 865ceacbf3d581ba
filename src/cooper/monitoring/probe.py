"""The reward model on fixed sets: has it become another one, has it forgotten?"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from cooper.metrics import Metrics, agreement, probabilities
from cooper.reward_examples import Contrast
from cooper.rng import generator, seed_of
from cooper.scoring import Scorer
from cooper.types import LabelledCompletion, Pairs, Problem


class Probe:
    """Measures what scores the rollouts on held-out labels and on pairs of earlier steps.

    The held-out sample never changes in a run. The old pairs are a uniform sample of all pairs
    built so far: each has a random rank that depends on the seed and on its place alone, and those
    of the lowest ranks stay (bottom-k sampling), so nothing is drawn from a generator on the way.

    Args:
        examples: held-out labelled completions; 0: none.
        old_pairs: pairs that are remembered; 0: none.
        seed: of the run.
    """

    def __init__(self, examples: int, old_pairs: int, seed: int) -> None:
        self.num_examples, self.num_pairs, self.seed = examples, old_pairs, seed
        self.items: list[LabelledCompletion] = []
        self.labels = torch.zeros(0, dtype=torch.long)
        self.begun: Tensor | None = None  # [E] probabilities at the start
        self.pairs: list[tuple[int, Contrast]] = []  # with their ranks, ascending

    def choose(self, heldout: Sequence[LabelledCompletion]) -> None:
        """Choose the held-out sample; without both labels in it there is none."""
        order = torch.randperm(len(heldout), generator=generator(self.seed, "monitor"))
        self.items = [heldout[int(i)] for i in order[: self.num_examples]]
        self.labels = torch.tensor([int(item.label) for item in self.items])
        if len(self.labels.unique()) < 2:
            self.items = []

    def begin(self, scorer: Scorer) -> None:
        """Score the sample as the start, unless a checkpoint brought the start's scores."""
        if self.items and self.begun is None:
            self.begun = probabilities(scorer, self.items)

    def measure(self, scorer: Scorer) -> Metrics:
        """Figures of the reward model as it is now; of sets that are empty, none."""
        return {**self._on_heldout(scorer), **self._on_old_pairs(scorer)}

    def _on_heldout(self, scorer: Scorer) -> Metrics:
        if not self.items or self.begun is None:
            return {}
        scores = probabilities(scorer, self.items)
        found = agreement(scores, self.labels)
        return {
            "reward_model/heldout_accuracy": found["accuracy"],
            "reward_model/heldout_auroc": found["auroc"],
            "reward_model/probe_drift": float((scores - self.begun).abs().mean()),
            # 0 where the scores are all alike.
            "reward_model/probe_correlation": float(spearman_corrcoef(scores, self.begun)),
        }

    def _on_old_pairs(self, scorer: Scorer) -> Metrics:
        if not self.pairs:
            return {}
        pairs = [pair for _, pair in self.pairs]
        questions = [pair.question for pair in pairs]
        references = [pair.reference for pair in pairs]
        texts = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
        chosen, rejected = scorer.score(2 * questions, 2 * references, texts).chunk(2)
        return {
            "reward_model/old_pairs_margin": float((chosen - rejected).mean()),
            "reward_model/old_pairs_accuracy": float((chosen > rejected).float().mean()),
        }

    def remember(self, step: int, pairs: Pairs, problems: Sequence[Problem]) -> None:
        """Take a step's pairs into the sample of old ones.

        Args:
            step: in which they were built.
            pairs: built in it.
            problems: [P] that they point to.
        """
        ranked = list(self.pairs)
        for index, pair in enumerate(pairs.pairs):
            problem = problems[pair.problem]
            contrast = Contrast(problem.question, problem.reference, pair.chosen, pair.rejected)
            ranked.append((seed_of(self.seed, f"monitor old pair {step} {index}"), contrast))
        self.pairs = sorted(ranked, key=lambda found: found[0])[: self.num_pairs]

    def state_dict(self) -> dict[str, Any]:
        """The start's scores, what they are scores of, and the old pairs."""
        return {
            "sample": self._digest(),
            "begun": self.begun,
            "pairs": [[rank, *astuple(pair)] for rank, pair in self.pairs],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back; scores of another sample, as after a change of settings, are left."""
        if state["sample"] == self._digest():
            self.begun = state["begun"]
        self.pairs = [(rank, Contrast(*texts)) for rank, *texts in state["pairs"]]

    def _digest(self) -> str:
        texts = [[i.question, i.reference, i.completion, i.label] for i in self.items]
        return hashlib.sha256(repr(texts).encode("utf-8", "surrogatepass")).hexdigest()
