"""What an RL run shows while it goes on: one display in a terminal, lines elsewhere."""

from cooper.display.base import Display, Silent
from cooper.display.live import LiveDisplay
from cooper.display.plain import PlainDisplay
from cooper.display.state import RunState, Sample, StepView

__all__ = [
    "Display",
    "LiveDisplay",
    "PlainDisplay",
    "RunState",
    "Sample",
    "Silent",
    "StepView",
]
