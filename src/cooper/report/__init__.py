"""Figures and tables of runs, from their folders alone."""

from cooper.report.arms import group, reward_name
from cooper.report.comparison import render_terminal, write_report
from cooper.report.figures import training_dynamics
from cooper.report.model_card import Exported, model_card
from cooper.report.runs import find_runs
from cooper.report.summary import render_summary, summarise

__all__ = [
    "Exported",
    "find_runs",
    "group",
    "model_card",
    "render_summary",
    "render_terminal",
    "reward_name",
    "summarise",
    "training_dynamics",
    "write_report",
]
