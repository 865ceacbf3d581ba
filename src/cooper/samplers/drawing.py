"""From logits to tokens: what is cut from the distribution, and how one token is drawn from it."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from cooper.errors import NonFiniteError
from cooper.types import SamplingParams

Draws = tuple[Tensor, Tensor]


def sequence_seeds(count: int, generator: torch.Generator) -> Tensor:
    """[count] what each sequence draws by, one number of the generator each."""
    return torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator)


def warpers(params: SamplingParams) -> list[LogitsProcessor]:
    """The warpers of transformers, in its own order; greedy decoding has none."""
    found: list[LogitsProcessor] = []
    if params.temperature == 0:
        return found
    if params.temperature != 1:
        found.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        found.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        found.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        found.append(MinPLogitsWarper(params.min_p))
    return found


def require_finite(logits: Tensor) -> None:
    """Check the first logits of a policy.

    Raises:
        NonFiniteError: nothing can be drawn from them.
    """
    if not bool(torch.isfinite(logits).any(-1).all()):
        raise NonFiniteError(
            "policy: its logits are not finite, so nothing can be sampled; its weights have "
            "diverged: lower policy_optimizer.lr and go on from an earlier checkpoint"
        )


def uniforms(seeds: Tensor, steps: Tensor) -> Tensor:
    """One number of [0, 1) for each sequence and step: [n] float64.

    The splitmix64 generator, entered at (seed, step): what a sequence draws depends on its seed
    alone, not on what else is decoded beside it.

    Args:
        seeds: [n] int64.
        steps: [n] int64.
    """
    # Constants of splitmix64 (Steele, Lea and Flood 2014), as signed 64-bit numbers.
    x = seeds + (steps + 1) * -7046029254386353131
    x = (x ^ _shifted(x, 30)) * -4658895280553007687
    x = (x ^ _shifted(x, 27)) * -7723592293110705685
    x = x ^ _shifted(x, 31)
    return _shifted(x, 11).double() * 2.0**-53


def _shifted(x: Tensor, by: int) -> Tensor:
    """Shift right with zeros: torch's own shift of signed numbers copies the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def processed(logits: Tensor, processors: list[LogitsProcessor]) -> Tensor:
    """What tokens are drawn from: [n, V] float32, minus infinity where a token is cut."""
    scores = logits.float()
    no_ids = cast(torch.LongTensor, None)  # none of these processors reads what stands before
    for processor in processors:
        scores = processor(no_ids, cast(torch.FloatTensor, scores))
    return scores


class Drawing:
    """How tokens are drawn under some settings.

    Args:
        params: temperature and cut-offs.
    """

    def __init__(self, params: SamplingParams) -> None:
        self.greedy, self.warpers = params.temperature == 0, warpers(params)

    def __call__(self, logits: Tensor, seeds: Tensor, steps: Tensor) -> Draws:
        """Draw a token of each row; see :func:`draw` and :func:`uniforms`."""
        return draw(logits, self.warpers, None if self.greedy else uniforms(seeds, steps))


def draw(logits: Tensor, processors: list[LogitsProcessor], chance: Tensor | None) -> Draws:
    """Draw a token of each row by the inverse of its distribution.

    Args:
        logits: [n, V].
        processors: see :func:`warpers`.
        chance: [n] of [0, 1); None: the likeliest token.

    Returns:
        tokens [n] int64 and their log-probabilities [n] float32 under what was drawn from.
    """
    scores = processed(logits, processors)
    top = scores.amax(-1, keepdim=True)
    mass = (scores - top).exp()
    if chance is None:
        tokens = scores.argmax(-1)
        total = mass.sum(-1)
    else:
        # A vocabulary's small probabilities vanish in a sum of float32; MPS has nothing better.
        wide = torch.float32 if mass.device.type == "mps" else torch.float64
        cumulative = mass.cumsum(-1, dtype=wide)
        total = cumulative[:, -1]
        wanted = chance.to(cumulative) * total
        # The first token whose cumulative mass lies above the draw, so never one without mass.
        tokens = torch.searchsorted(cumulative, wanted[:, None], right=True)[:, 0]
        tokens = tokens.clamp(max=scores.shape[-1] - 1)
    chosen = scores.gather(-1, tokens[:, None]) - top
    return tokens, chosen[:, 0] - total.log().float()
