"""Samplers: how rollouts are drawn."""

from cooper.samplers.base import Sampler, pack_rollouts
from cooper.samplers.hf import HFSampler

__all__ = ["HFSampler", "Sampler", "pack_rollouts"]
