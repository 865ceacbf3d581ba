"""What processes tell each other is the same for all; what is cut into parts is whole again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cooper.collectives import (
    Parted,
    alone,
    any_rank,
    cut_evenly,
    from_first,
    gathered,
    most_of_ranks,
    own_batches,
    own_part,
    rank,
    ranks,
    spread,
    summed,
    waited,
)


def _batches() -> list[tuple[list[int], bool]]:
    # The first thing is half of the work: one process has it alone, the other three batches.
    return list(own_batches([6, 1, 2, 3], lambda part: [[k] for k in part]))


def _ask(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
    found: dict[str, Any] = {
        "any": [any_rank(number == 1), any_rank(False), any_rank(True)],
        "most": most_of_ranks([4, 2][number]),
        "gathered": gathered(number),
        "first": from_first(f"of {number}"),
        "summed": summed(torch.tensor([1.0, number])).tolist(),
        "spread": spread(list(range(5)), lambda part: [10 * item for item in part]),
        "empty": spread([], lambda part: list(part)),
        "parted": list(Parted([number, number])),
        "part": list(own_part(5)),
        "batches": _batches(),
        "waited": waited() > 0,
    }
    with alone():
        found["alone"] = [ranks(), rank(), gathered(number), any_rank(number == 1), _batches()]
    found["together again"] = ranks()
    Path(folder, str(number)).write_text(json.dumps(found))
    dist.destroy_process_group()


def test_one_process_decides_alone() -> None:
    assert any_rank(True) is True
    assert any_rank(False) is False
    assert most_of_ranks(3) == 3
    assert gathered(3) == [3]
    assert waited() == 0


def test_two_processes(tmp_path: Path) -> None:
    mp.spawn(_ask, args=(str(tmp_path),), nprocs=2)
    both = [json.loads((tmp_path / name).read_text()) for name in "01"]
    own = ("part", "batches", "alone")
    assert {k: v for k, v in both[0].items() if k not in own} == {
        "any": [True, False, True],
        "most": 4,
        "gathered": [0, 1],
        "first": "of 0",
        "summed": [2.0, 1.0],
        "spread": [0, 10, 20, 30, 40],
        "empty": [],
        "parted": [0, 0, 1, 1],
        "waited": True,
        "together again": 2,
    }
    assert {k: v for k, v in both[1].items() if k not in own} == {
        k: v for k, v in both[0].items() if k not in own
    }
    assert [found["part"] for found in both] == [[0, 1], [2, 3, 4]]
    # As many for each; what fills up is the least of all, and does not count.
    assert both[0]["batches"] == [[[0], True], [[1], False], [[1], False]]
    assert both[1]["batches"] == [[[1], True], [[2], True], [[3], True]]
    every = [[[k], True] for k in range(4)]
    assert both[1]["alone"] == [1, 0, [1], True, every]


@pytest.mark.parametrize(
    ("costs", "parts", "expected"),
    [
        ([1, 1, 1, 1], 2, [[0, 1], [2, 3]]),
        ([6, 1, 2, 3], 2, [[0], [1, 2, 3]]),
        ([1, 9], 3, [[0], [1], []]),
        ([], 2, [[], []]),
    ],
)
def test_parts_cost_about_the_same(
    costs: list[float], parts: int, expected: list[list[int]]
) -> None:
    assert [list(part) for part in cut_evenly(costs, parts)] == expected
