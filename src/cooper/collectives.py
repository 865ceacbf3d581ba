"""Decisions that all processes have to take alike."""

from __future__ import annotations

import torch
import torch.distributed as dist


def any_rank(flag: bool) -> bool:
    """Whether the flag is set in any process; every process gets the same answer."""
    return bool(most_of_ranks(int(flag)))


def most_of_ranks(count: int) -> int:
    """The largest count of all processes; every process gets the same answer."""
    if not (dist.is_available() and dist.is_initialized()):
        return count
    device = (
        torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
    )
    most = torch.tensor(count, device=device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most)
