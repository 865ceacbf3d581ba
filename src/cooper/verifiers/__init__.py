"""Verifiers: what says of a completion whether its answer equals the reference.

Names are imported when first used, so that ``from cooper.verifiers import MathVerifier`` costs
milliseconds and neither torch, Lightning nor Hydra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cooper.verifiers.base import Verifier
    from cooper.verifiers.choice import ChoiceVerifier
    from cooper.verifiers.exact import ExactVerifier
    from cooper.verifiers.extraction import extract_answer
    from cooper.verifiers.forms import RULES
    from cooper.verifiers.function import FunctionVerifier
    from cooper.verifiers.hybrid import HybridVerifier, combine
    from cooper.verifiers.judge import JudgeVerifier, parse_verdict
    from cooper.verifiers.math import MathVerifier
    from cooper.verifiers.numeric import NumericVerifier
    from cooper.verifiers.pool import WorkerPool

__all__ = [
    "RULES",
    "ChoiceVerifier",
    "ExactVerifier",
    "FunctionVerifier",
    "HybridVerifier",
    "JudgeVerifier",
    "MathVerifier",
    "NumericVerifier",
    "Verifier",
    "WorkerPool",
    "combine",
    "extract_answer",
    "parse_verdict",
]

_HOME = {
    "ChoiceVerifier": "choice",
    "ExactVerifier": "exact",
    "FunctionVerifier": "function",
    "HybridVerifier": "hybrid",
    "JudgeVerifier": "judge",
    "MathVerifier": "math",
    "NumericVerifier": "numeric",
    "RULES": "forms",
    "Verifier": "base",
    "WorkerPool": "pool",
    "combine": "hybrid",
    "extract_answer": "extraction",
    "parse_verdict": "judge",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its file.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(set(globals()) | set(__all__))
