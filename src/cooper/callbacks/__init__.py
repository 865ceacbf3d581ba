"""What happens around the algorithm: logs, evaluation, checkpoints, progress."""

from cooper.callbacks.checkpointing import Checkpointing, Restore
from cooper.callbacks.evaluation import Evaluation
from cooper.callbacks.metrics_log import MetricsLog
from cooper.callbacks.monitor import Monitor
from cooper.callbacks.progress import StepProgress
from cooper.callbacks.rollout_log import RolloutLog
from cooper.callbacks.stop import GracefulStop

__all__ = [
    "Checkpointing",
    "Evaluation",
    "GracefulStop",
    "MetricsLog",
    "Monitor",
    "Restore",
    "RolloutLog",
    "StepProgress",
]
