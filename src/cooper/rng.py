"""Named random generators: one for each purpose, each saved in checkpoints."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")


def seed_of(seed: int, purpose: str) -> int:
    """Give a 63-bit seed that depends on the run's seed and the purpose, on any machine alike."""
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str) -> torch.Generator:
    """Make the CPU generator for one purpose of a run."""
    return torch.Generator().manual_seed(seed_of(seed, purpose))


def forked(generator: torch.Generator, part: int) -> torch.Generator:
    """Make a generator for one of several parts; the one given is advanced alike for each."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator().manual_seed(seed_of(seed, f"part {part}"))


def seed_globals(seed: int, purpose: str = "global") -> None:
    """Seed Python's, numpy's and torch's own generators, for parts of others that draw from them.

    Before each stage and before RL, so that what is drawn there does not depend on whether the
    stages before were built or taken from the cache.
    """
    torch.manual_seed(seed_of(seed, purpose))
    random.seed(seed_of(seed, f"{purpose} python"))
    np.random.seed(seed_of(seed, f"{purpose} numpy") % 2**32)


def draw(rng: torch.Generator, bound: int) -> int:
    """Draw an integer from [0, bound)."""
    return int(torch.randint(bound, (1,), generator=rng))


def pick(items: Sequence[T], rng: torch.Generator) -> T:
    """Draw one item, all alike."""
    return items[draw(rng, len(items))]


def uniform(rng: torch.Generator) -> float:
    """Draw a number from [0, 1)."""
    return float(torch.rand((), generator=rng, dtype=torch.float64))
