"""Who may join a batch of rollouts on its way: prompts that the policy's start answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cooper.types import SamplingParams


@dataclass(frozen=True)
class Guest:
    """One sequence that joins."""

    prompt: tuple[int, ...]  # its ids
    seed: int  # of 64 bits; all that it draws depends on it alone


class Guests(ABC):
    """Prompts that turn up while rollouts are being drawn.

    A sampler that lets them into its batch computes them as the policy before its training. It asks
    for them at times that depend on what it has drawn, never on a clock, so that the same chance
    gives the same batches.

    Attributes:
        params: how they are drawn; without stop strings.
    """

    params: SamplingParams

    @abstractmethod
    def joining(self, ended: Mapping[int, str], last: bool) -> Sequence[Guest]:
        """Who joins now.

        Args:
            ended: texts of the rollouts that have ended since this was last asked, by their places
                among all.
            last: there is no rollout left, and this is not asked again.

        Returns:
            guests, which are counted over all calls.
        """

    @abstractmethod
    def answered(self, guest: int, text: str, finished: bool) -> None:
        """Take what a guest wrote.

        Args:
            guest: its number.
            text: decoded, special tokens stripped.
            finished: it ended by itself and was not cut at the length limit.
        """
