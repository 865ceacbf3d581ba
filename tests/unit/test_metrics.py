"""The figures of a step, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from cooper.metrics import (
    completion_metrics,
    pair_metrics,
    reward_metrics,
    score_metrics,
    share,
    verifier_metrics,
)
from cooper.rewards import Rewards
from cooper.types import Pairs, Rollouts, Verdict

VerdictsOf = Callable[[str], list[Verdict]]


def test_rewards() -> None:
    values = torch.tensor([1.0, 0.0, 0.5, 0.5, 9.0])
    keep = torch.tensor([True, True, True, True, False])
    advantages = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0])
    groups = torch.tensor([0, 0, 1, 1, 2])
    got = reward_metrics(Rewards(values, keep), advantages, groups)
    assert got == pytest.approx(
        {
            "reward/mean": 0.5,
            "reward/std": math.sqrt(0.125),  # of 1, 0, 1/2, 1/2
            "reward/frac_zero_std_groups": 2 / 3,
        }
    )


def test_a_gate_moves_no_mean() -> None:
    values, all_of_them = torch.tensor([1.0, 0.0]), torch.ones(2, dtype=torch.bool)
    got = reward_metrics(
        Rewards(values, all_of_them, all_of_them), torch.zeros(2), values.long() * 0
    )
    assert got["reward/mean"] == 0.5
    assert got["reward/frac_zero_std_groups"] == 1


def test_rewards_of_which_none_is_kept() -> None:
    none = Rewards(torch.ones(2), torch.zeros(2, dtype=torch.bool))
    got = reward_metrics(none, torch.zeros(2), torch.tensor([0, 0]))
    assert math.isnan(got["reward/mean"])
    assert got["reward/frac_zero_std_groups"] == 1


def test_verdicts(verdicts_of: VerdictsOf) -> None:
    got = verifier_metrics(verdicts_of("CIIU"))
    assert got == pytest.approx({"verifier/accuracy": 1 / 3, "verifier/undecided": 0.25})
    got = verifier_metrics(verdicts_of("UU"))
    assert math.isnan(got["verifier/accuracy"])
    assert got["verifier/undecided"] == 1


def test_scores_against_verdicts(verdicts_of: VerdictsOf) -> None:
    scores = torch.tensor([0.9, 0.6, 0.1, 0.4, 0.2])
    got = score_metrics(scores, verdicts_of("CIUCI"))
    assert got == pytest.approx(
        {
            "hacking/gap": 0.525 - 0.5,
            "hacking/false_positive_rate": 0.4,  # mean of 0.6 and 0.2
            "reward_model/accuracy": 0.5,  # 0.9 and 0.2 are on the right side
            "reward_model/auroc": 0.75,  # of four pairs only 0.4 < 0.6 is the wrong way round
            "reward_model/ece": (0.1 + 0.6 + 0.2 + 0.6) / 4,  # each alone in its bin
        },
        abs=1e-6,
    )


def test_one_outcome_has_no_auroc(verdicts_of: VerdictsOf) -> None:
    right = score_metrics(torch.tensor([0.9, 0.6]), verdicts_of("CC"))
    assert "reward_model/auroc" not in right
    assert "hacking/false_positive_rate" not in right
    assert right["hacking/gap"] == pytest.approx(-0.25)
    wrong = score_metrics(torch.tensor([0.9, 0.6]), verdicts_of("II"))
    assert "reward_model/auroc" not in wrong
    assert wrong["hacking/false_positive_rate"] == pytest.approx(0.75)
    assert score_metrics(torch.tensor([0.9]), verdicts_of("U")) == {}


def test_completions(make_rollouts: Callable[..., Rollouts]) -> None:
    rollouts = make_rollouts(
        [["a", "b"], ["c", "d"]], lengths=[1, 2, 3, 6], finished=[True, True, True, False]
    )
    got = completion_metrics(rollouts)
    assert got == {"completions/mean_length": 3.0, "completions/truncated_frac": 0.25}


def test_pairs() -> None:
    got = pair_metrics(Pairs((), {"built": 2, "dropped_no_text": 1}))
    assert got == {"pairs/built": 2.0, "pairs/dropped_no_text": 1.0}


def test_share() -> None:
    assert share([True, False, False, False]) == 0.25
    assert math.isnan(share([]))
