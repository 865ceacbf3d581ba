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
    if keep is None:
        keep = torch.ones_like(rewards, dtype=torch.bool)
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
