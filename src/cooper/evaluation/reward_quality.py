"""How well a scorer tells right completions from wrong ones, with intervals.

A scorer is a reward model, which gives probabilities and accepts above 0.5, or a verifier (a rule,
a judge, both), which says CORRECT, INCORRECT or UNDECIDED and accepts CORRECT.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_calibration_error,
)

from cooper.models.reward_model import RewardModel
from cooper.types import LabelledCompletion
from cooper.verifiers.base import Verifier

Figures = dict[str, float | None]
Interval = tuple[float, float]

CALIBRATION_BINS = 15  # as in the reward model's metrics
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Scored:
    """What one scorer said of N completions."""

    scorer: str
    scores: Tensor  # [N] float64 in [0, 1]; of a verifier 1 CORRECT, 0.5 UNDECIDED, 0 INCORRECT
    accepted: Tensor  # [N] bool
    decided: Tensor  # [N] bool
    probabilities: (
        bool  # whether `scores` claim to be probabilities, so that they can be calibrated
    )
    reasons: tuple[str, ...]  # [N]: a verifier's; empty texts for a model

    def take(self, rows: Tensor) -> Scored:
        """The same of some of the completions."""
        return Scored(
            self.scorer,
            self.scores[rows],
            self.accepted[rows],
            self.decided[rows],
            self.probabilities,
            tuple(self.reasons[i] for i in rows.tolist()),
        )


Triple = tuple[str, str, str]  # question, reference, completion
# Gives N triples a score each: a number for a model, a verdict for a verifier.
Scorer = RewardModel | Verifier


def score(
    name: str,
    scorer: Scorer,
    triples: Sequence[Triple],
    advance: Callable[[int], None] = lambda rows: None,
) -> Scored:
    """Score triples; equal ones are scored once.

    Args:
        name: of the scorer, for tables.
        scorer: a reward model or a verifier.
        triples: [N] question, reference, completion.
        advance: told how many more rows are done.
    """
    first: dict[Triple, int] = {}
    place = torch.tensor([first.setdefault(triple, len(first)) for triple in triples])
    distinct = list(first)
    values: list[float] = []
    decided: list[bool] = []
    reasons: list[str] = []
    for start in range(0, len(distinct), _ROWS_AT_ONCE):
        part = distinct[start : start + _ROWS_AT_ONCE]
        questions, references, completions = (list(column) for column in zip(*part, strict=True))
        if isinstance(scorer, Verifier):
            verdicts = scorer.verify(completions, references, questions)
            values += [1.0 if v.correct else 0.0 if v.incorrect else 0.5 for v in verdicts]
            decided += [v.decided for v in verdicts]
            reasons += [v.reason for v in verdicts]
        else:
            logits = scorer.score(questions, references, completions)
            values += logits.double().sigmoid().tolist()
            decided += [True] * len(part)
            reasons += [""] * len(part)
        advance(len(part))
    advance(len(triples) - len(distinct))
    if not triples:
        place = torch.zeros(0, dtype=torch.int64)
    scores = torch.tensor(values, dtype=torch.float64)[place]
    return Scored(
        name,
        scores,
        scores > 0.5,
        torch.tensor(decided, dtype=torch.bool)[place],
        not isinstance(scorer, Verifier),
        tuple(reasons[i] for i in place.tolist()),
    )


def figures(scored: Scored, labels: Tensor) -> Figures:
    """The quality of a scorer. What is not defined on these rows is None.

    Args:
        scored: of N completions.
        labels: [N] bool.

    Returns:
        ``n``; ``accuracy`` (decided and as labelled, over all rows) and ``accuracy_decided``;
        ``precision`` (of the accepted, those right), ``recall`` (of the right, those accepted: an
        UNDECIDED one is missed) and ``f1``; ``undecided`` (share); ``auroc`` and
        ``average_precision`` of the scores, where both labels are there; ``ece``, the expected
        calibration error of probabilities over 15 bins (Guo et al. 2017, arXiv 1706.04599).
    """
    labels = labels.bool()
    n = len(labels)
    if not n:
        return {"n": 0.0}
    as_labelled = (scored.accepted == labels) & scored.decided
    hits = float((scored.accepted & labels).sum())
    accepted, right = float(scored.accepted.sum()), float(labels.sum())
    found: Figures = {
        "n": float(n),
        "right": right / n,
        "accuracy": float(as_labelled.double().mean()),
        "accuracy_decided": _ratio(float(as_labelled.sum()), float(scored.decided.sum())),
        "precision": _ratio(hits, accepted),
        "recall": _ratio(hits, right),
        "f1": _ratio(2 * hits, accepted + right),
        "undecided": 1 - float(scored.decided.double().mean()),
        "auroc": None,
        "average_precision": None,
        "ece": None,
    }
    if 0 < right < n:
        target = labels.long()
        found["auroc"] = float(binary_auroc(scored.scores, target))
        found["average_precision"] = float(binary_average_precision(scored.scores, target))
    if scored.probabilities:
        found["ece"] = float(
            binary_calibration_error(scored.scores, labels.long(), n_bins=CALIBRATION_BINS)
        )
    return found


def _ratio(top: float, bottom: float) -> float | None:
    return top / bottom if bottom else None


# -------------------------------------------------------------------------------------- intervals


def bootstrap(
    scored: Scored,
    labels: Tensor,
    questions: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Percentile intervals that resample questions, since completions of one are alike.

    Args:
        scored: of N completions.
        labels: [N] bool.
        questions: [N]; all completions of a question are drawn together.
        resamples: how many samples are drawn.
        seed: of the drawing.
        level: share of the samples inside.

    Returns:
        figure's name -> (low, high), for those of :func:`figures` that are defined. Samples in
        which one is not (no accepted row, one kind of label) are left out of its interval.
    """
    if not len(labels) or resamples < 1:
        return {}
    first: dict[str, int] = {}
    owner = torch.tensor([first.setdefault(question, len(first)) for question in questions])
    rng = torch.Generator().manual_seed(seed)
    collected: dict[str, list[Tensor]] = {}
    for start in range(0, resamples, 100):
        drawn = torch.randint(len(first), (min(100, resamples - start), len(first)), generator=rng)
        times = torch.zeros(len(drawn), len(first), dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        for name, values in _weighted(scored, labels.bool(), times[:, owner]).items():
            collected.setdefault(name, []).append(values)
    edges = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    intervals: dict[str, Interval] = {}
    for name, parts in collected.items():
        values = torch.cat(parts)
        values = values[values.isfinite()]
        if len(values):
            low, high = values.quantile(edges).tolist()
            intervals[name] = (low, high)
    return intervals


def _weighted(scored: Scored, labels: Tensor, weights: Tensor) -> Mapping[str, Tensor]:
    """The figures of B samples in which row i stands ``weights[b, i]`` times: [B] each."""
    right, accepted, decided = labels.double(), scored.accepted.double(), scored.decided.double()
    hits, total = weights @ (right * accepted), weights.sum(1)
    num_accepted, num_right = weights @ accepted, weights @ right
    as_labelled = weights @ ((right == accepted).double() * decided)
    found = {
        "accuracy": as_labelled / total,
        "accuracy_decided": as_labelled / (weights @ decided),
        "precision": hits / num_accepted,
        "recall": hits / num_right,
        "f1": 2 * hits / (num_accepted + num_right),
        "undecided": 1 - (weights @ decided) / total,
    }
    # Rows of one score are one point of the curve: their weights go together.
    values, group = scored.scores.unique(return_inverse=True)
    positive = torch.zeros(len(weights), len(values), dtype=torch.float64)
    negative = torch.zeros_like(positive)
    positive.index_add_(1, group, weights * right)
    negative.index_add_(1, group, weights * (1 - right))
    below = negative.cumsum(1) - negative
    pairs = (positive * (below + negative / 2)).sum(1)
    num_wrong = total - num_right
    found["auroc"] = pairs / (num_right * num_wrong)
    above_right = positive.flip(1).cumsum(1)
    above_all = above_right + negative.flip(1).cumsum(1)
    precision = torch.nan_to_num(above_right / above_all)
    average = (precision * positive.flip(1)).sum(1) / num_right
    found["average_precision"] = torch.where(num_wrong > 0, average, torch.nan)
    if scored.probabilities:
        bins = (scored.scores * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
        gap = torch.zeros(len(weights), CALIBRATION_BINS, dtype=torch.float64)
        gap.index_add_(1, bins, weights * (right - scored.scores))
        found["ece"] = gap.abs().sum(1) / total
    return found


# ----------------------------------------------------------------------------------------- slices


def slices(
    items: Sequence[LabelledCompletion], length_bins: int = 4
) -> dict[str, dict[str, Tensor]]:
    """Rows by source and by length of the completion.

    Args:
        items: [N].
        length_bins: as many parts of like size, by characters; named with their bounds.

    Returns:
        "source" and "length" -> name -> [n] int64 rows. One source alone is no slice.
    """
    by_source: dict[str, list[int]] = {}
    for row, item in enumerate(items):
        by_source.setdefault(item.source or "-", []).append(row)
    lengths = torch.tensor([float(len(item.completion)) for item in items], dtype=torch.float64)
    by_length: dict[str, Tensor] = {}
    if len(items) >= 2 * length_bins > 2:
        shares = torch.arange(1, length_bins, dtype=torch.float64) / length_bins
        cuts = [-math.inf, *sorted(set(lengths.quantile(shares).tolist())), math.inf]
        for low, high in itertools.pairwise(cuts):
            rows = ((lengths > low) & (lengths <= high)).nonzero().flatten()
            if len(rows):
                inside = lengths[rows]
                name = f"{int(inside.min())} to {int(inside.max())} characters"
                by_length[name] = rows
    sources = {name: torch.tensor(rows) for name, rows in sorted(by_source.items())}
    return {"source": sources if len(sources) > 1 else {}, "length": by_length}
