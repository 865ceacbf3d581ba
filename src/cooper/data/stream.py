"""The order in which a run sees its problems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.data import IterableDataset

from cooper.data.mixture import Mixture, permutation
from cooper.errors import DataError
from cooper.types import Problem


class ProblemStream(IterableDataset):
    """Batches of problems, a fresh permutation each epoch, the same for the same seed.

    The problem at a position depends on (seed, position) alone, so `position` is all that a
    checkpoint has to hold, also in mid-epoch. A batch may reach from one epoch into the next; it
    never holds a problem twice within an epoch, unless a :class:`Mixture` asks for it more often.

    Args:
        problems: the data set.
        batch_size: problems a step.
        num_batches: steps of the whole run.
        seed: of the permutations.

    Raises:
        DataError: the data set is empty or smaller than one batch.
    """

    def __init__(
        self, problems: Sequence[Problem], batch_size: int, num_batches: int, seed: int = 0
    ) -> None:
        require_batch(problems, batch_size)
        self.problems = problems
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.seed = seed
        self.start = 0  # steps already done
        self.position = 0  # problems already given

    def take(self) -> list[Problem]:
        """The next batch; also for those who need more than the step's own."""
        size = len(self.problems)
        positions = range(self.position, self.position + self.batch_size)
        self.position += self.batch_size
        orders = {epoch: self._order(epoch) for epoch in sorted({p // size for p in positions})}
        return [self.problems[orders[p // size][p % size]] for p in positions]

    def _order(self, epoch: int) -> list[int]:
        if isinstance(self.problems, Mixture):
            return self.problems.order(self.seed, epoch)
        return permutation(len(self.problems), self.seed, f"epoch {epoch}")

    def __iter__(self) -> Iterator[list[Problem]]:
        """Batches from `start` to the end of the run."""
        for _ in range(self.start, self.num_batches):
            yield self.take()

    def __len__(self) -> int:
        """Batches that are left."""
        return max(0, self.num_batches - self.start)


def require_batch(problems: Sequence[Problem], batch_size: int) -> None:
    """Check that a step's problems are there.

    Raises:
        DataError: they are not.
    """
    if len(problems) < max(batch_size, 1):
        raise DataError(
            f"data.train holds {len(problems)} problems where data.problems_per_step="
            f"{batch_size} are needed each step; give more problems or lower it"
        )
