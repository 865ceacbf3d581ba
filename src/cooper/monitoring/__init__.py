"""Is the reward being hacked? What is measured in every step, and when it is worth a look."""

from cooper.monitoring.alarms import Alarm

__all__ = ["Alarm"]
