"""Memory of one GPU (or of the CPU's process): what is always there, and what each phase adds.

Not modelled: what an allocator wastes, workspaces of the maths libraries beyond the constant below,
and what the rest of the program holds (texts, verifiers, figures).
"""

from __future__ import annotations

from dataclasses import dataclass

from cooper.planning.setup import Role, Room, Setup
from cooper.planning.skeletons import Skeleton
from cooper.planning.tracing import Traced
from cooper.samplers.slots import has_slots

# A process with loaded kernels before its first tensor: 1343 MB in transformers' documentation,
# "Model training anatomy". Newer CUDA loads kernels when they are first used and takes less.
CUDA_CONTEXT = 1343 * 2**20
# Elements of DeepSpeed's communication buckets as Lightning's DeepSpeedStrategy sets them
# (allgather_bucket_size, reduce_bucket_size).
ZERO_BUCKET = 200_000_000
_MOMENTS = 8  # bytes a trained weight: AdamW's two means in float32
_MASTER = 4
# The assistant's prompt beside question and solution: conf/negatives/assistant.yaml's text.
ASSISTANT_PROMPT = 160


@dataclass(frozen=True)
class Part:
    """Bytes that one thing of one role takes."""

    role: str
    what: str
    bytes: int


@dataclass(frozen=True)
class Phase:
    """What a phase of the step adds to what is always there."""

    name: str
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        """Their sum."""
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True)
class Memory:
    """Of one GPU, or of the CPU's process."""

    resident: tuple[Part, ...]
    phases: tuple[Phase, ...]
    host: int = 0  # bytes in the host's memory beside a GPU

    @property
    def resident_bytes(self) -> int:
        """Of what is always there."""
        return sum(part.bytes for part in self.resident)

    @property
    def largest(self) -> Phase:
        """The phase that decides; phases follow each other, so they do not add up."""
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def peak(self) -> int:
        """Bytes at the largest moment."""
        return self.resident_bytes + self.largest.bytes


def memory(setup: Setup, process: int = 0) -> Memory:
    """Plan the memory.

    Args:
        setup: of the run.
        process: bytes of the program itself; counted on the CPU.
    """
    return _Planner(setup, process).plan()


class _Planner:
    def __init__(self, setup: Setup, process: int) -> None:
        self.setup, self.process = setup, process
        self.policy = setup.skeleton(setup.policy)
        self.reward_model = setup.skeleton(setup.reward_model) if setup.reward_model else None
        self.host = 0

    def plan(self) -> Memory:
        return Memory(tuple(self._resident()), tuple(self._phases()), self.host)

    def _shards(self, sharded: bool) -> int:
        return self.setup.gpus if sharded else 1

    # ------------------------------------------------------------------ always there

    def _resident(self) -> list[Part]:
        setup = self.setup
        parts = [
            Part("program", "cuda context", CUDA_CONTEXT)
            if setup.gpu
            else Part("program", "process", self.process)
        ]
        parts += self._model("policy", setup.policy, self.policy)
        if setup.copies_start and not setup.shared:
            parts += self._frozen("reference", setup.start)
        if setup.reward_model is not None and self.reward_model is not None:
            parts += self._model("reward_model", setup.reward_model, self.reward_model)
            if setup.average:
                whole = self.reward_model.weight_bytes
                parts.append(Part("reward_model", "moving average", whole))
        if setup.assistant is not None and not setup.shared:
            parts += self._frozen("assistant", setup.assistant)
        return [part for part in parts if part.bytes]

    def _model(self, name: str, role: Role, model: Skeleton) -> list[Part]:
        """Weights and optimizer of a model; a frozen one has weights alone."""
        sharding = self.setup.sharding
        weights = model.weight_bytes
        if self.setup.shared and name != "policy":
            weights = model.trained_bytes  # its base is the policy's
        # FSDP2's own weights are the float32 ones, cast when they are gathered.
        trained = model.count.trained
        if self.setup.gathers and not sharding.masters and model.style == "bfloat16":
            weights += trained * (_MASTER - 2)
        parts = [Part(name, "weights", weights // self._shards(sharding.weights))]
        if role.adapter is None:
            return parts
        if sharding.offload and sharding.weights:
            self.host += parts.pop().bytes
        states = [("optimizer", trained * _MOMENTS)]
        if sharding.masters:
            states.append(("fp32 masters", trained * _MASTER))
        for what, size in states:
            share = size // self._shards(sharding.optimizer)
            if sharding.offload:
                self.host += share
            else:
                parts.append(Part(name, what, share))
        return parts

    def _frozen(self, name: str, role: Role) -> list[Part]:
        size = self.setup.skeleton(role).weight_bytes
        return [Part(name, "weights", size // self._shards(self.setup.sharding.weights))]

    # ------------------------------------------------------------------ phases of the step

    def _phases(self) -> list[Phase]:
        setup, policy = self.setup, self.policy
        phases = [
            self._sampling(
                "sampling", "policy", policy, setup.sampler, setup.rollouts, setup.group_size
            )
        ]
        if self.reward_model is not None:
            rows = max(1, min(setup.rollouts, setup.score_tokens // max(setup.row, 1)))
            scored = self.reward_model.score(rows, setup.row)
            phases.append(self._forward("scoring", "reward_model", self.reward_model, scored))
        # Whatever the order, no mini-batch has more of one group than a group.
        sizes = (setup.minibatch, setup.group_size, setup.prompt, setup.completion)
        micro = policy.micro(setup.micro_tokens, *sizes)
        lengths = (micro, *sizes[1:])
        for name, needed, role in (
            ("reference logprobs", setup.reference, setup.start),
            ("old logprobs", setup.recomputes, setup.policy),
        ):
            if needed:
                model = setup.skeleton(role)
                phases.append(self._forward(name, "policy", model, model.logprobs(*lengths)))
        several = setup.minibatch > micro
        traced = policy.policy_update(*lengths, entropy=setup.entropy, gradients=several)
        phases.append(self._update("policy update", "policy", policy, traced, several))
        learns = setup.reward_model is not None and setup.reward_model.adapter is not None
        if self.reward_model is not None and learns:
            phases += self._second_stage(self.reward_model)
        return phases

    def _second_stage(self, model: Skeleton) -> list[Phase]:
        setup, phases = self.setup, []
        if setup.assisted:
            role = setup.assistant or setup.start
            phases.append(
                self._sampling(
                    "negatives",
                    "assistant",
                    setup.skeleton(role),
                    setup.assistant_sampler,
                    -(-setup.pairs // setup.gpus),
                    1,
                    setup.prompt + setup.completion + ASSISTANT_PROMPT,
                    setup.assistant_completion,
                )
            )
        # A pair, two rows, stays whole; in the worst case its rows begin unlike.
        most = max(2, setup.reward_micro_tokens // max(setup.row, 1))
        paired, labels = 2 * -(-setup.pairs // setup.gpus), -(-setup.labels // setup.gpus)
        rows = min(most, max(paired, labels))
        if rows:
            several = paired + labels > rows
            traced = model.reward_update(rows, setup.row, gradients=several)
            phases.append(
                self._update("reward model update", "reward_model", model, traced, several)
            )
        return phases

    def _sampling(
        self,
        name: str,
        role: str,
        model: Skeleton,
        room: Room,
        rows: int,
        group: int,
        prompt: int | None = None,
        completion: int | None = None,
    ) -> Phase:
        setup = self.setup
        prompt, completion = prompt or setup.prompt, completion or setup.sampled
        if not has_slots(model.model):
            room = Room(room.batch)  # the native sampler leaves it to transformers' generate
        now = min(room.rows(prompt + completion), rows)
        if room.cache_tokens:
            traced, cache = model.decode_in_slots(now, group, prompt, completion)
        else:
            traced, cache = model.sample(now, prompt, completion)
        parts = [
            Part(role, "kv cache", cache),
            Part(role, "activations", traced.peak - cache),
            *self._gathered(role, model.count.total),
        ]
        return Phase(name, tuple(parts))

    def _forward(self, name: str, role: str, model: Skeleton, traced: Traced) -> Phase:
        parts = [Part(role, "activations", traced.peak)]
        return Phase(name, (*parts, *self._gathered(role, 2 * model.count.largest)))

    def _update(
        self, name: str, role: str, model: Skeleton, traced: Traced, several: bool
    ) -> Phase:
        setup, sharding = self.setup, self.setup.sharding
        # DeepSpeed adds up in float32.
        gradients = _MASTER * model.count.trained if sharding.masters else model.trained_bytes
        # Of one micro-batch alone gradients appear while activations go; the trace has both.
        activations = traced.peak if several else max(traced.peak - gradients, 0)
        # In 16 bits its stage 1 is our stage 2.
        parted = sharding.gradients or (sharding.masters and setup.mixed)
        share = gradients // self._shards(parted)
        parts = [
            Part(role, "gradients", share),
            Part(role, "activations", activations),
            *self._gathered(role, 2 * model.count.largest),
        ]
        if setup.gpus > 1 and sharding.buckets == "ddp":
            parts.append(Part(role, "buckets", gradients))
        if setup.gpus > 1 and sharding.buckets == "zero":
            width = gradients // max(model.count.trained, 1)
            parts.append(Part(role, "buckets", 2 * min(ZERO_BUCKET * width, gradients)))
        return Phase(name, tuple(parts))

    def _gathered(self, role: str, parameters: int) -> list[Part]:
        """Weights that a sharded run brings together: all to generate, else two pieces at once."""
        if not self.setup.gathers:
            return []
        return [Part(role, "gathered weights", parameters * self.setup.compute_bytes)]
