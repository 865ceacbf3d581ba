"""Negative generators: where the wrong side of a pair comes from."""

from cooper.negatives.assistant import AssistantNegatives
from cooper.negatives.base import NegativeGenerator
from cooper.negatives.chat import ChatNegatives
from cooper.negatives.mixed import MixedNegatives
from cooper.negatives.own import SelfNegatives
from cooper.negatives.perturb import PerturbNegatives
from cooper.negatives.truncate import TruncateNegatives

__all__ = [
    "AssistantNegatives",
    "ChatNegatives",
    "MixedNegatives",
    "NegativeGenerator",
    "PerturbNegatives",
    "SelfNegatives",
    "TruncateNegatives",
]
