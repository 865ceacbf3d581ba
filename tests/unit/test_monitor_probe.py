"""The reward model on fixed sets, with scores that the test sets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cooper.callbacks.monitor import worst
from cooper.monitoring.probe import Probe
from cooper.rng import generator
from cooper.types import LabelledCompletion, Pair, Pairs, Problem


class Scorer:
    """Gives each completion the logit that stands in a table."""

    def __init__(self, **logits: float) -> None:
        self.logits = logits

    def score(self, questions: Any, references: Any, completions: Any) -> torch.Tensor:
        assert len(questions) == len(references) == len(completions)
        return torch.tensor([self.logits[c] for c in completions])

    def probabilities(self, *texts: Any) -> torch.Tensor:
        return self.score(*texts).sigmoid()


def item(text: str, label: bool) -> LabelledCompletion:
    return LabelledCompletion("q", "r", text, label)


ITEMS = [item("a", True), item("b", False), item("c", True), item("d", False)]
PROBLEMS = (Problem("1", "q1", "r1"), Problem("2", "q2", "r2"))
ZERO = Scorer(a=0.0, b=0.0, c=0.0, d=0.0)


def logit(p: float) -> float:
    return float(torch.tensor(p).logit())


def pair(problem: int, chosen: str, rejected: str) -> Pair:
    return Pair(problem, chosen, rejected, 0, None, "self")


def test_held_out_figures_by_hand():
    probe = Probe(examples=9, old_pairs=0, seed=0)
    probe.choose(ITEMS)
    start = Scorer(a=logit(0.9), b=logit(0.2), c=logit(0.8), d=logit(0.1))
    later = Scorer(a=logit(0.4), b=logit(0.6), c=logit(0.8), d=logit(0.2))
    probe.begin(start)  # type: ignore[arg-type]
    probe.begin(later)  # the start is the start
    figures = probe.measure(later)  # type: ignore[arg-type]
    # Right ones: .4 and .8, wrong ones: .6 and .2; of four (right, wrong) pairs three are in order.
    # Ranks at the start: d b c a; later: d a b c. Differences of ranks 0, 1, 1, 2:
    # 1 - 6 * 6 / (4 * 15).
    assert figures == pytest.approx(
        {
            "reward_model/heldout_accuracy": 0.5,
            "reward_model/heldout_auroc": 0.75,
            "reward_model/probe_drift": (0.5 + 0.4 + 0.0 + 0.1) / 4,
            "reward_model/probe_correlation": 0.4,
        }
    )


def test_unmoved_model_has_not_drifted():
    probe = Probe(examples=9, old_pairs=0, seed=0)
    probe.choose(ITEMS)
    scorer: Any = Scorer(a=2.0, b=-1.0, c=0.5, d=0.1)
    probe.begin(scorer)
    figures = probe.measure(scorer)
    assert figures["reward_model/probe_drift"] == 0
    assert figures["reward_model/probe_correlation"] == pytest.approx(1)


def test_scores_that_are_all_alike_have_correlation_zero():
    probe = Probe(examples=9, old_pairs=0, seed=0)
    probe.choose(ITEMS)
    scorer: Any = ZERO
    probe.begin(scorer)
    assert probe.measure(scorer)["reward_model/probe_correlation"] == 0


def test_equal_scores_share_their_rank():
    probe = Probe(examples=9, old_pairs=0, seed=0)
    probe.choose(ITEMS[:3])
    start: Any = Scorer(a=-1.0, b=0.0, c=1.0)
    later: Any = Scorer(a=0.0, b=0.0, c=2.0)
    probe.begin(start)
    # Ranks 1, 2, 3 and 1.5, 1.5, 3: 1.5 / sqrt(2 * 1.5).
    correlation = probe.measure(later)["reward_model/probe_correlation"]
    assert correlation == pytest.approx(1.5 / 3**0.5, abs=1e-5)


@pytest.mark.parametrize("items", [[], ITEMS[:1], [ITEMS[0], ITEMS[2]]])
def test_without_both_labels_there_is_nothing(items):
    probe = Probe(examples=9, old_pairs=4, seed=0)
    probe.choose(items)
    probe.begin(None)  # type: ignore[arg-type]  # it is not asked
    assert probe.measure(None) == {}  # type: ignore[arg-type]


def test_sample_is_of_its_size_and_depends_on_the_seed_alone():
    many = [item(str(n), n % 2 == 0) for n in range(100)]
    samples = []
    for seed in (1, 1, 2):
        probe = Probe(examples=10, old_pairs=0, seed=seed)
        probe.choose(many)
        samples.append(probe.items)
    assert len(samples[0]) == 10
    assert samples[0] == samples[1] != samples[2]


def test_old_pairs_by_hand():
    probe = Probe(examples=0, old_pairs=4, seed=0)
    probe.remember(1, Pairs((pair(0, "a", "b"), pair(1, "c", "d")), {}), PROBLEMS)
    probe.remember(2, Pairs((), {}), PROBLEMS)
    figures = probe.measure(Scorer(a=2.0, b=-1.0, c=0.5, d=0.75))  # type: ignore[arg-type]
    assert figures == pytest.approx(
        {
            "reward_model/old_pairs_margin": (3.0 - 0.25) / 2,
            "reward_model/old_pairs_accuracy": 0.5,
        }
    )
    assert {p.question for _, p in probe.pairs} == {"q1", "q2"}


def test_old_pairs_are_a_fair_sample_of_all_steps():
    kept = dict.fromkeys(range(1, 11), 0)
    for seed in range(200):
        probe = Probe(examples=0, old_pairs=5, seed=seed)
        for step in kept:
            made = Pairs(tuple(pair(0, f"{step}", f"x{k}") for k in range(2)), {})
            probe.remember(step, made, PROBLEMS)
        assert len(probe.pairs) == 5
        for _, found in probe.pairs:
            kept[int(found.chosen)] += 1
    # 1000 draws over 10 steps: 100 each, standard deviation 9.
    assert all(60 < count < 140 for count in kept.values())


def test_state_goes_on_as_if_never_saved():
    probes = [Probe(examples=3, old_pairs=3, seed=5) for _ in range(2)]
    first: Any = Scorer(a=2.0, b=-1.0, c=0.5, d=0.1)
    for probe in probes:
        probe.choose(ITEMS)
    probes[0].begin(first)
    probes[0].remember(1, Pairs(tuple(pair(0, c, "d") for c in "abc"), {}), PROBLEMS)
    probes[1].load_state_dict(probes[0].state_dict())
    later: Any = Scorer(a=1.0, b=-3.0, c=0.6, d=0.2)
    for probe in probes:
        probe.begin(later)
        probe.remember(2, Pairs((pair(1, "a", "c"),), {}), PROBLEMS)
    assert probes[0].pairs == probes[1].pairs
    assert probes[0].measure(later) == probes[1].measure(later)


def test_scores_of_another_sample_are_not_taken_over():
    old, new = Probe(examples=9, old_pairs=3, seed=5), Probe(examples=9, old_pairs=3, seed=5)
    old.choose(ITEMS)
    old.begin(ZERO)  # type: ignore[arg-type]
    new.choose([*ITEMS[:3], item("e", False)])
    new.load_state_dict(old.state_dict())
    assert new.begun is None


def test_nothing_is_drawn_from_torch_itself():
    before = torch.get_rng_state()
    probe = Probe(examples=2, old_pairs=1, seed=0)
    probe.choose(ITEMS)
    probe.remember(1, Pairs((pair(0, "a", "b"), pair(1, "c", "d")), {}), PROBLEMS)
    generator(0, "monitor")
    assert torch.equal(before, torch.get_rng_state())


def row(verdict: str, score: float | None, reward: float = 0.0, text: str = "") -> dict[str, Any]:
    return {
        "verdict": verdict, "score": score, "reward": reward, "completion": text, "reference": "5",
    }  # fmt: skip


def test_worst_rollouts():
    rows = [
        row("correct", 0.99), row("undecided", 0.9), row("incorrect", 0.2),
        row("incorrect", 0.8), row("undecided", 0.95),
    ]  # fmt: skip
    assert worst(rows) == [rows[3], rows[2], rows[4], rows[1]]
    assert worst(rows, keep=1) == [rows[3]]
    unscored = [row("incorrect", None, 0.0), row("incorrect", None, 0.5), row("correct", None, 1.0)]
    assert worst(unscored) == [unscored[1], unscored[0]]


def test_worst_rollouts_of_a_trick_are_those_that_show_it():
    rows = [
        row("incorrect", 0.9, text="\\boxed{4}"),
        row("incorrect", 0.3, text="well"),
        row("correct", 0.8, text="2+3=5 \\boxed{5}"),
        row("undecided", 0.4, text="hm"),
    ]
    assert worst(rows, "tricks/no_answer") == [rows[1], rows[3]]
    assert worst(rows, "completions/truncated_frac") == [rows[0], rows[1], rows[3]]
