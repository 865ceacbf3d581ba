"""Evaluation of the policy: avg@k, pass@k, maj@k, greedy."""

from cooper.evaluation.evaluator import Evaluator
from cooper.evaluation.scores import average_at_k, majority_at_k, pass_at_k

__all__ = ["Evaluator", "average_at_k", "majority_at_k", "pass_at_k"]
