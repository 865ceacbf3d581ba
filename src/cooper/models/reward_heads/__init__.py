"""What is read off the backbone: one logit a row, however it comes about."""

from cooper.models.reward_heads.base import RewardHead, Row
from cooper.models.reward_heads.implicit import ImplicitHead
from cooper.models.reward_heads.mean_pool import MeanPoolHead
from cooper.models.reward_heads.process import ProcessHead
from cooper.models.reward_heads.scalar import ScalarHead

HEADS: dict[str, type[RewardHead]] = {
    head.name: head for head in (ScalarHead, MeanPoolHead, ProcessHead, ImplicitHead)
}

__all__ = [
    "HEADS",
    "ImplicitHead",
    "MeanPoolHead",
    "ProcessHead",
    "RewardHead",
    "Row",
    "ScalarHead",
]
