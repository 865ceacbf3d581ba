"""The figures of one RL step, under the names that every logger and report uses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

from cooper.rewards import Rewards
from cooper.scoring import Scorer
from cooper.types import LabelledCompletion, Pairs, Rollouts, Verdict

Metrics = dict[str, float]


def reward_metrics(rewards: Rewards, advantages: Tensor, problem_of: Tensor) -> Metrics:
    """What the policy was rewarded with, over all rollouts that have a reward.

    A gate holds groups back from learning, not from this mean: it stands beside
    ``verifier/accuracy`` and has to be over the same rollouts.
    ``reward/frac_zero_std_groups`` counts the groups that gave no signal: equal rewards, below the
    floor, or held back by the gate.
    """
    kept = rewards.values[rewards.keep]
    silent = [
        not bool(advantages[problem_of == problem].any())
        for problem in problem_of.unique().tolist()
    ]
    return {
        "reward/mean": float(kept.mean()) if len(kept) else float("nan"),
        "reward/std": float(kept.std(unbiased=False)) if len(kept) else float("nan"),
        "reward/frac_zero_std_groups": sum(silent) / max(len(silent), 1),
    }


def verifier_metrics(verdicts: Sequence[Verdict]) -> Metrics:
    """Share CORRECT among the decided, share UNDECIDED."""
    decided = [v for v in verdicts if v.decided]
    return {
        "verifier/accuracy": share(v.correct for v in decided),
        "verifier/undecided": 1 - len(decided) / max(len(verdicts), 1),
    }


def score_metrics(scores: Tensor, verdicts: Sequence[Verdict]) -> Metrics:
    """The reward model against the verdicts, on the decided rollouts.

    AUROC needs both outcomes and is left out without them.

    Args:
        scores: [N] probabilities.
        verdicts: [N] of the training verifier.
    """
    decided = torch.tensor([v.decided for v in verdicts], dtype=torch.bool)
    if not bool(decided.any()):
        return {}
    right = torch.tensor([v.correct for v in verdicts], dtype=torch.bool)[decided]
    score = scores[decided]
    metrics = {
        "hacking/gap": float(score.mean()) - float(right.float().mean()),
        "reward_model/accuracy": float(((score > 0.5) == right).float().mean()),
        "reward_model/ece": float(binary_calibration_error(score, right.long(), n_bins=10)),
    }
    if bool((~right).any()):
        metrics["hacking/false_positive_rate"] = float(score[~right].mean())
    if bool(right.any()) and bool((~right).any()):
        metrics["reward_model/auroc"] = float(binary_auroc(score, right.long()))
    return metrics


def completion_metrics(rollouts: Rollouts) -> Metrics:
    """Lengths in tokens, and the share cut at the limit."""
    return {
        "completions/mean_length": float(rollouts.lengths.float().mean()),
        "completions/truncated_frac": float((~rollouts.finished).float().mean()),
    }


def pair_metrics(pairs: Pairs) -> Metrics:
    """Counts of pairs built and of problems dropped, by reason."""
    return {f"pairs/{name}": float(count) for name, count in pairs.counts.items()}


def share(flags: Iterable[bool]) -> float:
    """Mean of booleans; NaN of none."""
    values = list(flags)
    return sum(values) / len(values) if values else float("nan")


def quality(reward_model: Scorer, items: Sequence[LabelledCompletion]) -> dict[str, float]:
    """Accuracy at 0.5 and AUROC on labelled completions; empty without both labels."""
    labels = torch.tensor([int(item.label) for item in items])
    if len(items) < 2 or len(labels.unique()) < 2:
        return {"examples": float(len(items))}
    scores = probabilities(reward_model, items)
    return {**agreement(scores, labels), "examples": float(len(items))}


def probabilities(reward_model: Scorer, items: Sequence[LabelledCompletion]) -> Tensor:
    """[N] probabilities that labelled completions are right."""
    return reward_model.probabilities(
        [item.question for item in items],
        [item.reference for item in items],
        [item.completion for item in items],
    )


def agreement(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy at 0.5 and AUROC.

    Args:
        scores: [N] probabilities.
        labels: [N] 0 or 1, both kinds among them.
    """
    return {
        "accuracy": float(((scores > 0.5).long() == labels).float().mean()),
        "auroc": float(binary_auroc(scores, labels)),
    }
