"""Cooper: train a policy and its reward model together (arXiv 2508.05613).

The parts can be imported one by one; each is loaded on first use, so that
``from cooper.verifiers import MathVerifier`` needs neither torch nor Lightning nor Hydra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cooper.evaluation import Evaluator
    from cooper.models import Policy, RewardModel
    from cooper.module import CooperModule
    from cooper.objectives import PolicyObjective, RewardObjective
    from cooper.pairs import PairBuilder
    from cooper.rewards import HybridReward, ModelReward, RuleReward
    from cooper.types import Problem, Rollouts, SamplingParams, Status, Verdict

__version__ = "0.1.0"

_HOME = {
    "CooperModule": "cooper.module",
    "Evaluator": "cooper.evaluation",
    "HybridReward": "cooper.rewards",
    "ModelReward": "cooper.rewards",
    "PairBuilder": "cooper.pairs",
    "Policy": "cooper.models",
    "PolicyObjective": "cooper.objectives",
    "Problem": "cooper.types",
    "RewardModel": "cooper.models",
    "RewardObjective": "cooper.objectives",
    "Rollouts": "cooper.types",
    "RuleReward": "cooper.rewards",
    "SamplingParams": "cooper.types",
    "Status": "cooper.types",
    "Verdict": "cooper.types",
}

__all__ = [
    "CooperModule",
    "Evaluator",
    "HybridReward",
    "ModelReward",
    "PairBuilder",
    "Policy",
    "PolicyObjective",
    "Problem",
    "RewardModel",
    "RewardObjective",
    "Rollouts",
    "RuleReward",
    "SamplingParams",
    "Status",
    "Verdict",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names, for completion."""
    return sorted([*globals(), *__all__])
