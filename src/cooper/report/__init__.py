"""Figures and tables of a run, from its folder alone."""

from cooper.report.figures import training_dynamics
from cooper.report.summary import render_summary, summarise

__all__ = ["render_summary", "summarise", "training_dynamics"]
