"""Is the reward being hacked? What is measured in every step, and when it is worth a look."""

from cooper.monitoring.alarms import Alarm
from cooper.monitoring.settings import MonitorSettings, Thresholds
from cooper.monitoring.tricks import TRICKS, trick_shares
from cooper.monitoring.watch import Watch, replay

__all__ = [
    "TRICKS",
    "Alarm",
    "MonitorSettings",
    "Thresholds",
    "Watch",
    "replay",
    "trick_shares",
]
