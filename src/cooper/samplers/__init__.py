"""Samplers: how rollouts are drawn."""

from cooper.samplers.base import Sampler, pack_rollouts
from cooper.samplers.hf import HFSampler
from cooper.samplers.native import NativeSampler

__all__ = ["HFSampler", "NativeSampler", "Sampler", "pack_rollouts"]
