"""After each sync: does the sampler draw from the policy that is trained?"""

from __future__ import annotations

import torch
from torch import Tensor

from cooper.errors import StaleSamplerError
from cooper.models.evaluating import evaluating
from cooper.models.policy import Policy
from cooper.samplers.drawing import processed, warpers
from cooper.types import Rollouts, SamplingParams

_TOKENS = 64  # at least so many are compared, where there are
# Largest median difference of a token's log-probability, in nats. Two correct computations differ
# by 1e-6 in float32, by some 1e-2 in 16 bits; one update at a usual learning rate moves more than
# the first.
_FLOAT32, _HALF = 1e-4, 0.1


@torch.no_grad()
def differences(policy: Policy, rollouts: Rollouts, params: SamplingParams) -> Tensor:
    """How far log-probabilities of the first rollouts are from the policy's own.

    Returns:
        [n] absolute differences in nats, of some 64 tokens or all there are.
    """
    rows: list[int] = []
    while len(rows) < len(rollouts) and int(rollouts.offsets[len(rows)]) < _TOKENS:
        rows.append(len(rows))
    if not rows or params.temperature == 0:
        return torch.zeros(0)
    with evaluating(policy.model):
        scores = processed(policy.logits(rollouts, rows), warpers(params))
    tokens = rollouts.ids[: int(rollouts.offsets[len(rows)])].to(scores.device)
    own = scores.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    return (own.cpu() - rollouts.logprobs[: len(tokens)].cpu()).abs()


def most_apart(policy: Policy) -> float:
    """The largest median difference of two correct computations, in nats."""
    model = policy.model
    mixed = torch.is_autocast_enabled(model.device.type) or model.dtype != torch.float32
    return _HALF if mixed else _FLOAT32


def require_fresh(policy: Policy, rollouts: Rollouts, params: SamplingParams) -> None:
    """Check that log-probabilities of the first rollouts are the policy's own.

    The median is compared: a token at the edge of a cut distribution may be in it by one
    computation and out of it by the other.

    Args:
        policy: as it is trained now.
        rollouts: just drawn from it, as the sampler says.
        params: how.

    Raises:
        StaleSamplerError: they are those of other weights or of another distribution.
    """
    found, limit = differences(policy, rollouts, params), most_apart(policy)
    if not len(found):
        return
    difference = float(found.median())
    if not difference <= limit:
        raise StaleSamplerError(
            f"sampler: its log-probabilities differ from the policy's by {difference:.2g} (median "
            f"of {len(found)} tokens; at most {limit:g}): it draws from weights of an earlier "
            "step, from a stale cache, or from another distribution; its sync(policy, version) "
            "must bring the policy's weights and drop every cache"
        )
