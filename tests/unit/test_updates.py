"""Accumulation, clipping, and steps that are skipped because they are not finite."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from cooper.errors import NonFiniteError
from cooper.optim import OptimizerSettings
from cooper.strategies.engine import Engine
from cooper.updates import ModelUpdater, UpdateResult


class Setup:
    """A weight (0, 0), plain gradient descent, and a rate that halves with every step."""

    def __init__(self, clip_norm: float = 0.0, max_skips: int = 3, lr: float = 1.0) -> None:
        self.model = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=lr, momentum=0.9)
        self.scheduler = LambdaLR(self.optimizer, lambda step: 0.5**step)
        self.updater = ModelUpdater("policy", clip_norm, max_skips)

    def loss(self, gradient: Sequence[float]) -> Tensor:
        return (self.model.weight * torch.tensor([gradient])).sum()

    def step(self, *losses: Tensor) -> UpdateResult:
        return self.updater.step(losses, Engine(self.model, self.optimizer), self.scheduler)

    def state(self) -> dict[str, Any]:
        parts = (self.model, self.optimizer, self.scheduler)
        return copy.deepcopy({str(i): part.state_dict() for i, part in enumerate(parts)})

    @property
    def weight(self) -> list[float]:
        return self.model.weight.tolist()[0]


def test_shares_add_up() -> None:
    setup = Setup()
    result = setup.step(setup.loss([1, 0]), setup.loss([2, 4]) + 1.5)
    assert setup.weight == pytest.approx([-3, -4])
    assert result == UpdateResult(loss=1.5, grad_norm=5.0, lr=1.0, applied=True)


@pytest.mark.parametrize(
    ("clip_norm", "moved"), [(1.0, [-0.6, -0.8]), (0.0, [-3, -4]), (9.0, [-3, -4])]
)
def test_clipping(clip_norm: float, moved: list[float]) -> None:
    setup = Setup(clip_norm)
    result = setup.step(setup.loss([3, 4]))
    assert setup.weight == pytest.approx(moved, abs=1e-5)
    assert result.grad_norm == pytest.approx(5.0)  # before clipping


def test_the_rate_said_is_the_rate_applied() -> None:
    setup = Setup()
    assert [setup.step(setup.loss([1, 0])).lr for _ in range(3)] == [1.0, 0.5, 0.25]
    assert setup.updater.steps == 3


def test_gradients_do_not_leak_into_the_next_step() -> None:
    setup = Setup()
    setup.model.weight.grad = torch.ones(1, 2)  # left behind by somebody else
    setup.step(setup.loss([0, 1]))
    assert setup.weight == pytest.approx([0, -1])
    assert setup.model.weight.grad is None


@pytest.mark.parametrize("case", ["nan loss", "infinite loss", "nan gradient", "one of two"])
def test_a_step_that_is_not_finite_changes_nothing(case: str) -> None:
    setup = Setup()
    setup.step(setup.loss([1, 1]))
    before = setup.state()
    losses = {
        "nan loss": [setup.loss([float("nan"), 1])],
        "infinite loss": [setup.loss([1, 1]) + float("inf")],
        # The loss is 0, its gradient 0 * inf.
        "nan gradient": [(setup.model.weight.sum() * 0).sqrt()],
        "one of two": [setup.loss([1, 1]), setup.loss([1, float("nan")])],
    }
    result = setup.step(*losses[case])
    assert not result.applied
    assert str(setup.state()) == str(before)
    assert (setup.updater.steps, setup.updater.skipped) == (1, 1)
    assert setup.model.weight.grad is None


def test_skips_in_a_row_stop_the_run() -> None:
    setup = Setup(max_skips=3)
    bad, good = [float("nan"), 0.0], [1.0, 0.0]
    for gradient in (bad, bad, good, bad, bad):
        setup.step(setup.loss(gradient))
    assert (setup.updater.skipped, setup.updater.skipped_in_a_row) == (4, 2)
    with pytest.raises(NonFiniteError, match=r"policy: .*3 steps in a row .*policy_optimizer\.lr"):
        setup.step(setup.loss(bad))


def test_counters_survive_a_checkpoint() -> None:
    setup, resumed = Setup(max_skips=2), Setup(max_skips=2)
    setup.step(setup.loss([1, 0]))
    setup.step(setup.loss([float("nan"), 0]))
    resumed.updater.load_state_dict(setup.updater.state_dict())
    assert resumed.updater.state_dict() == {"steps": 1, "skipped": 1, "skipped_in_a_row": 1}
    with pytest.raises(NonFiniteError):
        resumed.step(resumed.loss([float("nan"), 0]))


def test_frozen_parameters_take_no_part() -> None:
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    _, kept = OptimizerSettings(lr=1.0).build(model.parameters(), 1)
    assert [p.shape for p in Engine(model, kept.optimizer).trained] == [(1, 2)]
