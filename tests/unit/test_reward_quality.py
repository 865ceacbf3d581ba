"""Figures of scorers against hand-computed ones; intervals against a plain loop."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from cooper.evaluation.reward_quality import Scored, bootstrap, figures, score, slices
from cooper.types import LabelledCompletion, Status, Verdict
from cooper.verifiers import NumericVerifier
from cooper.verifiers.base import Verifier


def scored(scores: list[float], decided: list[bool] | None = None) -> Scored:
    values = torch.tensor(scores, dtype=torch.float64)
    known = torch.tensor(decided if decided is not None else [True] * len(scores))
    return Scored("s", values, values > 0.5, known, decided is None, ("",) * len(scores))


# Six rows of a verifier: CORRECT CORRECT UNDECIDED INCORRECT UNDECIDED INCORRECT
VERDICTS = scored([1, 1, 0.5, 0, 0.5, 0], [True, True, False, True, False, True])
LABELS = torch.tensor([True, False, True, True, False, False])


def test_figures_of_a_verifier_by_hand() -> None:
    found = figures(VERDICTS, LABELS)
    # Right verdicts: rows 1 and 6. Accepted: rows 1 and 2. Right ones: rows 1, 3 and 4.
    assert found["accuracy"] == pytest.approx(2 / 6)
    assert found["accuracy_decided"] == pytest.approx(2 / 4)
    assert found["precision"] == pytest.approx(1 / 2)
    assert found["recall"] == pytest.approx(1 / 3)
    assert found["f1"] == pytest.approx(2 * 1 / (2 + 3))
    assert found["undecided"] == pytest.approx(2 / 6)
    # Pairs (right, wrong): 1 against 1 .5 0 is .5+1+1, .5 is 0+.5+1, 0 is 0+0+.5.
    assert found["auroc"] == pytest.approx((2.5 + 1.5 + 0.5) / 9)
    # At 1: precision 1/2, recall 1/3; at .5: 2/4, 2/3; at 0: 3/6, 3/3.
    assert found["average_precision"] == pytest.approx((1 / 2 + 2 / 4 + 3 / 6) / 3)
    assert found["ece"] is None


def test_calibration_by_hand() -> None:
    found = figures(scored([0.9, 0.9, 0.1, 0.1]), torch.tensor([True, False, False, False]))
    # Bin of .9: share right 1/2, gap .4; bin of .1: share right 0, gap .1; each half of the rows.
    assert found["ece"] == pytest.approx((0.4 + 0.1) / 2)


@pytest.mark.parametrize("label", [True, False])
def test_one_kind_of_label_has_no_curve(label: bool) -> None:
    found = figures(scored([0.9, 0.2]), torch.tensor([label, label]))
    assert found["auroc"] is None
    assert found["average_precision"] is None
    assert found["accuracy"] == 0.5


def test_no_rows() -> None:
    empty = scored([])
    assert figures(empty, torch.zeros(0, dtype=torch.bool)) == {"n": 0.0}
    assert bootstrap(empty, torch.zeros(0), []) == {}


def data(seed: int, n: int = 60) -> tuple[Scored, Tensor, list[str]]:
    rng = random.Random(seed)
    values = [round(rng.random(), 1) for _ in range(n)]  # with ties
    labels = torch.tensor([rng.random() < value for value in values])
    return scored(values), labels, [str(rng.randrange(12)) for _ in range(n)]


def test_one_sample_has_the_figures_of_torchmetrics() -> None:
    from cooper.evaluation.reward_quality import _weighted

    one, labels, _ = data(0)
    ones = torch.ones(1, len(labels), dtype=torch.float64)
    found = _weighted(one, labels, ones)
    for name, value in figures(one, labels).items():
        if name not in ("n", "right"):
            assert float(found[name]) == pytest.approx(value, abs=1e-6), name


def test_intervals_are_those_of_a_plain_loop() -> None:
    one, labels, questions = data(1)
    names = list(dict.fromkeys(questions))
    rng = torch.Generator().manual_seed(7)
    samples: dict[str, list[float]] = {"auroc": [], "recall": [], "ece": []}
    for draw in torch.randint(len(names), (50, len(names)), generator=rng).tolist():
        rows = [i for d in draw for i, q in enumerate(questions) if q == names[d]]
        at = torch.tensor(rows)
        found = figures(one.take(at), labels[at])
        for name, values in samples.items():
            values.append(float(found[name] or 0))
    intervals = bootstrap(one, labels, questions, resamples=50, seed=7)
    for name, values in samples.items():
        sample = torch.tensor(values, dtype=torch.float64)
        wanted = sample.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        assert list(intervals[name]) == pytest.approx(wanted, abs=1e-6), name


def test_questions_are_drawn_whole() -> None:
    # Twenty copies of two questions: rows alone would give a narrow interval.
    one, labels = scored([0.9] * 20 + [0.1] * 20), torch.tensor([True] * 40)
    low, high = bootstrap(one, labels, ["a"] * 20 + ["b"] * 20, seed=1)["accuracy"]
    assert (low, high) == (0.0, 1.0)


def test_a_seed_gives_one_interval() -> None:
    one, labels, questions = data(2)
    first = bootstrap(one, labels, questions, resamples=120, seed=3)
    assert first == bootstrap(one, labels, questions, resamples=120, seed=3)
    assert first != bootstrap(one, labels, questions, resamples=120, seed=4)


class Counting(Verifier):
    asked = 0

    def verify(self, completions, references, questions=None):
        self.asked += len(completions)
        return [Verdict(Status.UNDECIDED, "why") for _ in completions]


def test_equal_triples_are_scored_once_and_all_are_counted() -> None:
    verifier, told = Counting(), []
    found = score("c", verifier, [("q", "r", "a"), ("q", "r", "b"), ("q", "r", "a")], told.append)
    assert verifier.asked == 2
    assert sum(told) == 3
    assert found.scores.tolist() == [0.5] * 3
    assert not found.accepted.any()
    assert found.reasons == ("why",) * 3


def test_verdicts_become_scores() -> None:
    found = score("n", NumericVerifier(), [("q", "5", "5"), ("q", "5", "6"), ("q", "x", "5")])
    assert found.scores.tolist() == [1.0, 0.0, 0.5]
    assert found.decided.tolist() == [True, True, False]
    assert not found.probabilities
    assert score("n", NumericVerifier(), []).scores.tolist() == []


def test_slices() -> None:
    items = [
        LabelledCompletion("q", "r", "x" * n, True, source)
        for n, source in zip(range(8), "abababab", strict=True)
    ]
    found = slices(items, length_bins=4)
    assert {k: v.tolist() for k, v in found["source"].items()} == {
        "a": [0, 2, 4, 6], "b": [1, 3, 5, 7],
    }  # fmt: skip
    assert {k: v.tolist() for k, v in found["length"].items()} == {
        "0 to 1 characters": [0, 1],
        "2 to 3 characters": [2, 3],
        "4 to 5 characters": [4, 5],
        "6 to 7 characters": [6, 7],
    }
    assert slices(items[:1]) == {"source": {}, "length": {}}
    assert not math.isnan(sum(len(v) for v in found["length"].values()))
