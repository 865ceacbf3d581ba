"""A decision of one process is everybody's."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist
import torch.multiprocessing as mp

from cooper.collectives import any_rank, most_of_ranks


def _ask(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    answers = [any_rank(rank == 1), any_rank(False), any_rank(True)]
    answers.append(most_of_ranks([4, 2][rank]))
    Path(folder, str(rank)).write_text(repr(answers))
    dist.destroy_process_group()


def test_one_process_decides_alone() -> None:
    assert any_rank(True) is True
    assert any_rank(False) is False
    assert most_of_ranks(3) == 3


def test_two_processes_get_the_same_answer(tmp_path: Path) -> None:
    mp.spawn(_ask, args=(str(tmp_path),), nprocs=2)
    assert [(tmp_path / name).read_text() for name in "01"] == ["[True, False, True, 4]"] * 2
