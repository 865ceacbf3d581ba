"""Where problems come from, and how they become prompts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cooper.data.arithmetic import ArithmeticOracle, ArithmeticProblems, SimulatedJudge
    from cooper.data.benchmarks import benchmark
    from cooper.data.mixture import Mixture
    from cooper.data.prompts import PromptBuilder
    from cooper.data.stream import ProblemStream
    from cooper.data.table_problems import TableProblems

_HOME = {
    "ArithmeticOracle": "cooper.data.arithmetic",
    "ArithmeticProblems": "cooper.data.arithmetic",
    "Mixture": "cooper.data.mixture",
    "ProblemStream": "cooper.data.stream",
    "PromptBuilder": "cooper.data.prompts",
    "SimulatedJudge": "cooper.data.arithmetic",
    "TableProblems": "cooper.data.table_problems",
    "benchmark": "cooper.data.benchmarks",
}

__all__ = [
    "ArithmeticOracle",
    "ArithmeticProblems",
    "Mixture",
    "ProblemStream",
    "PromptBuilder",
    "SimulatedJudge",
    "TableProblems",
    "benchmark",
]


def __getattr__(name: str) -> Any:
    """Import on first use: reading problems needs no torch."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
