"""Learning rates by hand, and AdamW's first step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cooper.optim import OptimizerSettings, set_schedule


def rates(settings: OptimizerSettings, total: int, count: int) -> list[float]:
    weight = nn.Parameter(torch.zeros(1))
    optimizer, scheduler = settings.build([weight], total)
    seen = []
    for _ in range(count):
        seen.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [2, 2, 2, 2, 2, 2]),
        ({"warmup_steps": 4}, [0, 0.5, 1, 1.5, 2, 2]),
        ({"warmup_ratio": 0.25}, [0, 1, 2, 2, 2, 2]),  # of 8 steps
        ({"warmup_ratio": 0.5, "warmup_steps": 1}, [0, 2, 2, 2, 2, 2]),  # steps win
        ({"schedule": "linear"}, [2, 1.75, 1.5, 1.25, 1, 0.75]),
        ({"schedule": "linear", "warmup_steps": 4}, [0, 0.5, 1, 1.5, 2, 1.5]),
        ({"schedule": "cosine", "warmup_steps": 2}, [0, 1, 2, 1.8660254, 1.5, 1]),
    ],
)
def test_schedules(settings: dict[str, object], expected: list[float]) -> None:
    got = rates(OptimizerSettings(lr=2.0, **settings), total=8, count=6)
    assert got == pytest.approx(expected)


def test_schedule_put_at_a_step_is_the_one_that_got_there() -> None:
    settings = OptimizerSettings(lr=2.0, schedule="cosine", warmup_steps=2)
    optimizer, scheduler = settings.build([nn.Parameter(torch.zeros(1))], 8)
    set_schedule(scheduler, 3)
    seen = [optimizer.param_groups[0]["lr"], *scheduler.get_last_lr()]
    optimizer.step()
    scheduler.step()
    seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([1.8660254, 1.8660254, 1.5])


def test_first_step_of_adamw() -> None:
    # Decoupled decay takes lr * wd * p, Adam's first step is lr * sign(g): 2 - 0.1 - 0.1
    weight = nn.Parameter(torch.tensor([2.0, -2.0]))
    optimizer, _ = OptimizerSettings(lr=0.1, weight_decay=0.5).build([weight], 1)
    weight.grad = torch.tensor([3.0, 3.0])
    optimizer.step()
    torch.testing.assert_close(weight.data, torch.tensor([1.8, -2.0]))


def test_only_trained_parameters() -> None:
    frozen, trained = nn.Parameter(torch.zeros(1), requires_grad=False), nn.Parameter(torch.ones(2))
    optimizer, _ = OptimizerSettings(lr=1.0).build([frozen, trained], 1)
    assert [p.shape for group in optimizer.param_groups for p in group["params"]] == [(2,)]


@pytest.mark.parametrize(
    "wrong",
    [{"lr": -1}, {"lr": float("nan")}, {"clip_norm": -1}, {"warmup_steps": -1}, {"schedule": "x"}],
)
def test_ranges(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"optimizer\.{next(iter(wrong))}="):
        OptimizerSettings(**{"lr": 1.0, **wrong})


def test_whole_numbers_for_betas() -> None:
    optimizer, _ = OptimizerSettings(lr=1.0, betas=(0, 0)).build([nn.Parameter(torch.zeros(1))], 1)
    assert optimizer.param_groups[0]["betas"] == (0.0, 0.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
        {"eps": 0.0},
        {"warmup_ratio": 1.1},
        {"lr": -1},
    ],
)
def test_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"optimizer.{next(iter(bad))}="):
        OptimizerSettings(**{"lr": 1.0, **bad})
