"""Dynamic sampling: replace groups that have nothing to teach (DAPO, arXiv 2503.14476, 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from cooper.early_pairs import Begun
from cooper.functional import offsets_from, token_positions
from cooper.types import Rollouts, Verdict


@dataclass(frozen=True)
class Drawn:
    """Rollouts with their verdicts."""

    rollouts: Rollouts
    verdicts: Sequence[Verdict]  # [N]; reading those that are still to come waits for them
    rounds: int = 0  # extra rounds that were drawn
    dropped: int = 0  # groups that were left out
    silent: bool = False  # no group is left that could teach anything; these teach nothing either
    begun: Begun = field(default_factory=Begun)  # of the pairs of these rollouts

    @property
    def metrics(self) -> dict[str, float]:
        """What it cost."""
        return {
            "sampling/extra_rounds": float(self.rounds),
            "sampling/dropped_groups": float(self.dropped),
        }


def refill(first: Drawn, most_rounds: int, draw_more: Callable[[], Drawn]) -> Drawn:
    """Drop groups whose verdicts do not differ, and draw others in their place.

    The verdicts decide, also where the reward is a learned score: scores always differ a little, so
    their spread says nothing (DAPO filters by accuracy; veRL's ``filter_groups.metric=acc``). All
    processes hold the same rollouts and verdicts, and so draw as many rounds.

    Args:
        first: the step's P problems.
        most_rounds: extra rounds at most; what is missing then stays missing.
        draw_more: draws as many problems again.

    Returns:
        at most P groups with both verdicts in each; where there is none, `first`, marked silent.
    """
    wanted = len(first.rollouts.problems)
    kept = informative(first)
    seen, rounds = wanted, 0
    while rounds < most_rounds and groups_in(kept) < wanted:
        more = draw_more()
        rounds, seen = rounds + 1, seen + len(more.rollouts.problems)
        kept = join([kept, informative(more)])
    kept = select(kept, range(min(wanted, groups_in(kept))))
    if not groups_in(kept):
        return Drawn(first.rollouts, first.verdicts, rounds, seen, silent=True)
    return Drawn(kept.rollouts, kept.verdicts, rounds, seen - groups_in(kept))


def groups_in(drawn: Drawn) -> int:
    """How many problems there are."""
    return len(drawn.rollouts.problems)


def informative(drawn: Drawn) -> Drawn:
    """Only the groups that hold a CORRECT verdict and another one."""
    groups = drawn.rollouts.groups
    return select(
        drawn,
        [
            problem
            for problem, group in enumerate(groups)
            if len({drawn.verdicts[i].correct for i in group}) == 2
        ],
    )


def select(drawn: Drawn, problems: Sequence[int]) -> Drawn:
    """Some problems with their groups, in the order given."""
    rollouts = drawn.rollouts
    rows = [row for problem in problems for row in rollouts.groups[problem]]
    where = token_positions(rollouts.offsets, torch.tensor(rows, dtype=torch.long))
    sizes = torch.tensor([len(rollouts.groups[problem]) for problem in problems], dtype=torch.long)
    return Drawn(
        Rollouts(
            problems=tuple(rollouts.problems[problem] for problem in problems),
            prompt_ids=tuple(rollouts.prompt_ids[problem] for problem in problems),
            problem_of=torch.arange(len(problems)).repeat_interleave(sizes),
            ids=rollouts.ids[where],
            logprobs=rollouts.logprobs[where],
            offsets=offsets_from(rollouts.lengths[rows]),
            finished=rollouts.finished[rows],
            completions=tuple(rollouts.completions[row] for row in rows),
            policy_version=rollouts.policy_version,
        ),
        [drawn.verdicts[row] for row in rows],
    )


def join(parts: Sequence[Drawn]) -> Drawn:
    """Put several draws of the same policy side by side."""
    return Drawn(
        join_rollouts([part.rollouts for part in parts]),
        [verdict for part in parts for verdict in part.verdicts],
    )


def join_rollouts(parts: Sequence[Rollouts]) -> Rollouts:
    """Put rollouts of the same policy side by side, with their problems."""
    if len(parts) == 1:
        return parts[0]
    before = 0
    problem_of = []
    for one in parts:
        problem_of.append(one.problem_of + before)
        before += len(one.problems)
    return Rollouts(
        problems=tuple(problem for one in parts for problem in one.problems),
        prompt_ids=tuple(ids for one in parts for ids in one.prompt_ids),
        problem_of=torch.cat(problem_of),
        ids=torch.cat([one.ids for one in parts]),
        logprobs=torch.cat([one.logprobs for one in parts]),
        offsets=offsets_from(torch.cat([one.lengths for one in parts])),
        finished=torch.cat([one.finished for one in parts]),
        completions=tuple(text for one in parts for text in one.completions),
        policy_version=parts[0].policy_version,
    )
