"""Floor of a step's time on a GPU: its rated speed and bandwidth, fully used.

FLOPs are those of the products with weights (2 a weight and token) and of attention; a backward
pass takes two forwards, one where only low-rank additions learn. A generated token reads all
weights and its batch's keys and values, so that bandwidth decides. Not modelled: anything that is
no such product, communication between GPUs, verifiers, mixtures of experts, and batches that wait
for their longest completion. A real step takes a multiple of this.
"""

from __future__ import annotations

from dataclasses import dataclass

from cooper.planning.gpus import Gpu
from cooper.planning.memory import ASSISTANT_PROMPT
from cooper.planning.setup import Role, Setup
from cooper.planning.skeletons import Count, Skeleton

# Of AdamW in float32: weight, gradient and both means read, the first and the last two written.
_STEP_BYTES = 28


@dataclass(frozen=True)
class Work:
    """What one GPU does in a phase, in pieces that each wait for the slower of the two."""

    name: str
    flops: float
    bytes: float
    pieces: tuple[tuple[float, float], ...]  # (FLOPs, bytes)

    def seconds(self, gpu: Gpu) -> float:
        """Least time on a GPU."""
        return sum(max(f / gpu.flops, b / gpu.bandwidth) for f, b in self.pieces)


def _work(name: str, *pieces: tuple[float, float]) -> Work:
    return Work(name, sum(f for f, _ in pieces), sum(b for _, b in pieces), pieces)


def forward_flops(count: Count, rows: int, length: int, logits: int) -> float:
    """FLOPs of a forward over rows of one length.

    Args:
        count: of the model.
        rows: of them.
        length: tokens of each.
        logits: tokens of each whose logits are made.
    """
    # Each token looks at itself and what is before it: half of all pairs.
    attention = 4.0 * count.attention * length * (length + 1) / 2
    return rows * (2.0 * count.linear * length + 2.0 * count.head * logits + attention)


def decode(
    model: Skeleton, rows: int, batch: int, prompt: int, completion: int, weight_bytes: int
) -> list[tuple[float, float]]:
    """FLOPs and bytes of reading prompts and generating: by batch, for all its tokens."""
    count, pieces = model.count, []
    per_token = model.cache_bytes_per_token
    weights = (count.linear + count.head) * weight_bytes
    context = prompt + completion / 2  # on the mean
    while rows > 0:
        now = min(batch, rows)
        rows -= now
        pieces.append((forward_flops(count, now, prompt, 1), float(weights)))
        flops = now * (2.0 * (count.linear + count.head) + 4.0 * count.attention * context)
        held = weights + now * context * per_token
        pieces.append((completion * flops, completion * held))
    return pieces


def step_work(setup: Setup) -> list[Work]:
    """All phases of a step on one GPU, with mean lengths."""
    policy = setup.skeleton(setup.policy)
    width, rows = setup.compute_bytes, setup.rollouts
    length = setup.mean_prompt + setup.mean_completion
    forward = forward_flops(policy.count, rows, length, setup.mean_completion)
    found = [
        _work(
            "sampling",
            *decode(
                policy,
                rows,
                setup.sampler.rows(setup.prompt + setup.sampled),
                setup.mean_prompt,
                setup.mean_completion,
                width,
            ),
        )
    ]
    reward_model = None if setup.reward_model is None else setup.skeleton(setup.reward_model)
    if reward_model is not None:
        found.append(
            _work("scoring", (forward_flops(reward_model.count, rows, setup.mean_row, 0), 0.0))
        )
    if setup.reference:
        start = setup.skeleton(setup.start).count
        flops = forward_flops(start, rows, length, setup.mean_completion)
        found.append(_work("reference logprobs", (flops, 0.0)))
    if setup.recomputes:
        found.append(_work("old logprobs", (forward, 0.0)))
    steps = setup.epochs * setup.minibatches
    found.append(
        _work(
            "policy update",
            (setup.epochs * forward * passes(setup.policy), 0.0),
            (0.0, steps * optimizer_bytes(setup, policy.count)),
        )
    )
    if setup.reward_model is None or setup.reward_model.adapter is None or reward_model is None:
        return found
    pairs, labels = -(-setup.pairs // setup.gpus), -(-setup.labels // setup.gpus)
    if setup.assisted:
        assistant = setup.skeleton(setup.assistant or setup.start)
        prompt = length + ASSISTANT_PROMPT
        longest = setup.prompt + setup.completion + ASSISTANT_PROMPT + setup.assistant_completion
        found.append(
            _work(
                "negatives",
                *decode(
                    assistant,
                    pairs,
                    setup.assistant_sampler.rows(longest),
                    prompt,
                    setup.mean_completion,
                    width,
                ),
            )
        )
    learned = forward_flops(reward_model.count, 2 * pairs + labels, setup.mean_row, 0)
    found.append(
        _work(
            "reward model update",
            (setup.inner_steps * learned * passes(setup.reward_model), 0.0),
            (0.0, setup.inner_steps * optimizer_bytes(setup, reward_model.count)),
        )
    )
    return found


def passes(role: Role) -> int:
    """Forwards that a forward and backward cost."""
    whole = role.adapter is not None and role.adapter.trains_base
    return (3 if whole else 2) + int(role.checkpointing)


def optimizer_bytes(setup: Setup, count: Count) -> float:
    """Bytes that one optimizer step moves on one GPU."""
    shards = setup.gpus if setup.sharding.optimizer else 1
    return _STEP_BYTES * count.trained / shards
