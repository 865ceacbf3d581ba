"""Advantages from rewards, relative to the other completions of the same problem."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

AdvantageScale = Literal["std", "none"]


def group_advantages(
    rewards: Float[Tensor, " N"],
    problem_of: Int[Tensor, " N"],
    *,
    scale: AdvantageScale = "std",
    eps: float = 1e-6,
    min_std: float = 0.0,
    keep: Bool[Tensor, " N"] | None = None,
) -> Float[Tensor, " N"]:
    r"""GRPO's group-relative advantage.

    With ``scale="std"``: :math:`A_i = (R_i - \bar R) / (\sigma_R + \epsilon)` (GRPO, arXiv
    2402.03300, section 4.1.2), in veRL's convention: sample standard deviation (divisor n - 1),
    eps 1e-6, and a group of one keeps its raw reward. (TRL adds 1e-4 instead.)

    With ``scale="none"``: :math:`A_i = R_i - \bar R` (Dr.GRPO, arXiv 2503.20783, section 3.2).

    Args:
        rewards: [N] reward of each rollout.
        problem_of: [N] problem of each rollout, any labels.
        scale: divide by the group's standard deviation, or not.
        eps: added to the standard deviation.
        min_std: a group whose standard deviation is at or below this has nothing to tell apart:
            its advantages are 0. At 0 that holds for equal rewards only, where rounding of the
            mean would otherwise leave noise of the size of eps.
        keep: [N] rollouts that take part. The others get 0 and enter no group's statistics; a
            rollout that is left alone by it has nothing to be compared with and gets 0 too.

    Returns:
        [N] advantages, float32.
    """
    rewards = rewards.float()
    keep = _everything(rewards) if keep is None else keep
    advantages = torch.zeros_like(rewards)
    for problem in problem_of[keep].unique().tolist():
        members = keep & (problem_of == problem)
        group = rewards[members]
        if len(group) == 1:
            if int((problem_of == problem).sum()) == 1:
                advantages[members] = group
            continue
        std = group.std(unbiased=True)
        if bool(group.max() == group.min()) or float(std) <= min_std:
            continue
        centred = group - group.mean()
        advantages[members] = centred / (std + eps) if scale == "std" else centred
    return advantages


def leave_one_out_advantages(
    rewards: Float[Tensor, " N"],
    problem_of: Int[Tensor, " N"],
    *,
    min_std: float = 0.0,
    keep: Bool[Tensor, " N"] | None = None,
) -> Float[Tensor, " N"]:
    r"""RLOO's advantage: a completion against the mean of the *others* of its problem.

    :math:`A_i = R_i - \frac{1}{n - 1} \sum_{j \ne i} R_j` (RLOO, arXiv 2402.14740; veRL's
    ``rloo``, TRL's ``RLOOTrainer``). It equals :math:`\frac{n}{n - 1} (R_i - \bar R)`. A group of
    one keeps its raw reward, as in veRL (TRL: 0).

    Args:
        rewards: [N] reward of each rollout.
        problem_of: [N] problem of each rollout, any labels.
        min_std: as for :func:`group_advantages`.
        keep: as for :func:`group_advantages`.

    Returns:
        [N] advantages, float32.
    """
    keep = _everything(rewards) if keep is None else keep
    centred = group_advantages(rewards, problem_of, scale="none", min_std=min_std, keep=keep)
    _, group, sizes = problem_of.unique(return_inverse=True, return_counts=True)
    kept = torch.zeros_like(sizes).index_add_(0, group, keep.long())[group]
    return torch.where(kept > 1, centred * kept / (kept - 1).clamp(min=1), centred)


def whiten(
    values: Float[Tensor, " S"], keep: Bool[Tensor, " S"], *, eps: float = 1e-8
) -> Float[Tensor, " S"]:
    r"""Batch-normalised advantages: mean 0 and variance 1 over all kept tokens of the batch.

    :math:`A_t = (x_t - \mu) / \sqrt{\sigma^2 + \epsilon}` (REINFORCE++, arXiv 2501.03262, its
    global batch normalisation), in veRL's convention (``masked_whiten``): over tokens, not
    completions, sample variance (divisor n - 1), eps 1e-8 inside the root. (TRL's
    ``scale_rewards="batch"`` takes the standard deviation over completions, plus 1e-4.)

    Args:
        values: [S] returns or centred rewards of each token.
        keep: [S] tokens that take part; the others get 0.
        eps: added to the variance.

    Returns:
        [S] float32; all 0 where fewer than two tokens take part or all are equal.
    """
    values = values.float()
    advantages = torch.zeros_like(values)
    kept = values[keep]
    if len(kept) > 1 and bool(kept.max() > kept.min()):
        advantages[keep] = (kept - kept.mean()) / (kept.var() + eps).sqrt()
    return advantages


def _everything(rewards: Tensor) -> Tensor:
    return torch.ones_like(rewards, dtype=torch.bool)
