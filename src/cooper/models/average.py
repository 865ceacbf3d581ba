"""A moving average of the reward model's weights, which is harder to hack than the weights."""

from __future__ import annotations

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cooper.models.reward_model import RewardModel


def averaged(model: RewardModel, decay: float) -> AveragedModel:
    """Keep an exponential moving average beside a model (averaged reward models: 2401.12187).

    Args:
        model: as it is now; the average starts there.
        decay: share of the average that stays at each update.

    Returns:
        torch's wrapper: ``.module`` is a frozen :class:`RewardModel`, ``update_parameters(model)``
        takes a step.
    """
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    average.update_parameters(model)  # torch copies at the first update instead of averaging
    return average.requires_grad_(False).eval()
