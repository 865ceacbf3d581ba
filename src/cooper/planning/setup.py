"""What a plan is made from: the facts of a run that decide its memory and its time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cooper.errors import ConfigError
from cooper.models.adapters import Adapter
from cooper.models.loading import DType
from cooper.planning.skeletons import Skeleton, Source, skeleton
from cooper.planning.tracing import Style


@dataclass(frozen=True)
class Sharding:
    """What of the trained models stands on one of n GPUs in parts alone.

    DeepSpeed's ZeRO (arXiv 1910.02054) keeps bfloat16 weights and gradients, and float32 masters
    beside Adam's two moments.
    """

    name: str
    weights: bool = False
    gradients: bool = False
    optimizer: bool = False
    masters: bool = (
        False  # bfloat16 weights with float32 masters that are sharded as Adam's moments
    )
    buckets: Literal["none", "ddp", "zero"] = "none"
    # Masters and moments, and weights that are in parts, stand in the host's memory.
    offload: bool = False


STRATEGIES: dict[str, Sharding] = {
    sharding.name: sharding
    for sharding in (
        Sharding("single"),
        Sharding("ddp", buckets="ddp"),
        Sharding("zero1", optimizer=True, masters=True, buckets="zero"),
        Sharding("zero2", gradients=True, optimizer=True, masters=True, buckets="zero"),
        Sharding("zero3", True, True, True, masters=True, buckets="zero"),
        Sharding("zero2_offload", False, True, True, masters=True, buckets="zero", offload=True),
        Sharding("zero3_offload", True, True, True, masters=True, buckets="zero", offload=True),
        Sharding("fsdp2", True, True, True),
    )
}


def find_strategy(name: str, key: str = "plan.strategy") -> Sharding:
    """The sharding of a strategy's name.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in STRATEGIES:
        raise ConfigError(f"{key}={name}: no such strategy; known are {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


@dataclass(frozen=True)
class Role:
    """A model that takes part in the run."""

    source: Source
    adapter: Adapter | None = None  # None: frozen
    checkpointing: bool = False
    dtype: DType | None = None  # of a frozen model; None: by the precision


@dataclass(frozen=True)
class Room:
    """How many sequences a sampler decodes at once."""

    batch: int = 256
    cache_tokens: int = 0  # of a sampler with slots; it has no batch

    def rows(self, longest: int) -> int:
        """Sequences at once, where none is longer than this."""
        return max(1, self.cache_tokens // longest) if self.cache_tokens else self.batch


@dataclass(frozen=True)
class Setup:
    """A run. Lengths are tokens; rows are completions; all of one GPU's share is derived."""

    policy: Role
    problems: int  # a step, on all GPUs together
    group_size: int
    prompt: int  # longest
    completion: int  # longest
    mean_prompt: int
    mean_completion: int
    sampled: int  # longest completion that is sampled, evaluation included
    reward_model: Role | None = None
    assistant: Role | None = None  # a model of its own
    assisted: bool = False  # negatives are written by a model: the assistant, or the policy's start
    assistant_completion: int = 0
    assistant_sampler: Room = Room()
    average: bool = False  # a moving average of the reward model's weights
    shared: bool = False  # one frozen base for all roles
    sampler: Room = Room()
    micro_tokens: int = 16384
    minibatches: int = 1
    epochs: int = 1
    entropy: bool = True
    reference: bool = True  # the KL term needs it
    recomputes: bool = False  # the drawn log-probabilities are not the old policy's
    row: int = 0  # longest row of the reward model
    mean_row: int = 0
    score_tokens: int = 16384
    reward_micro_tokens: int = 16384
    pairs: int = 0  # a step, at most
    labels: int = 0  # a step
    inner_steps: int = 1
    precision: str = "32-true"
    gpu: bool = True
    sharding: Sharding = STRATEGIES["single"]
    gpus: int = 1

    @property
    def rollouts(self) -> int:
        """On one GPU."""
        return -(-self.problems // self.gpus) * self.group_size

    @property
    def minibatch(self) -> int:
        """Rollouts of one optimizer step on one GPU."""
        return -(-self.rollouts // self.minibatches)

    @property
    def mixed(self) -> bool:
        """Whether it computes in bfloat16."""
        return self.precision != "32-true"

    @property
    def compute_bytes(self) -> int:
        """Of a number as it is multiplied."""
        return 2 if self.mixed else 4

    @property
    def gathers(self) -> bool:
        """Whether weights are brought together for each use."""
        return self.sharding.weights and self.gpus > 1

    @property
    def needs_start(self) -> bool:
        """Whether the policy's start is read: by the KL term, or by the assistant."""
        return self.reference or (self.assisted and self.assistant is None)

    @property
    def copies_start(self) -> bool:
        """Whether the start is weights of its own: not under LoRA."""
        adapter = self.policy.adapter
        return self.needs_start and adapter is not None and adapter.trains_base

    def skeleton(self, role: Role) -> Skeleton:
        """A role's model without weights, as the strategy has it."""
        adapter = role.adapter
        dtype: DType = "bfloat16" if self.mixed else "float32"
        style: Style = "autocast" if self.mixed else "float32"
        if adapter is None:
            dtype = role.dtype or dtype
        elif adapter.trains_base:
            if self.mixed and (self.sharding.masters or self.gathers):
                style = "bfloat16"  # what is trained stands elsewhere in float32
            else:
                dtype = "float32"
        return skeleton(role.source, adapter, dtype, style, role.checkpointing)

    @property
    def start(self) -> Role:
        """The policy's start: its base frozen, or under LoRA the policy itself."""
        return Role(self.policy.source) if self.copies_start else self.policy
