"""Log-probabilities in pieces, and of models whose logits are more than their output layer's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GraniteConfig, GraniteForCausalLM

from cooper.models import Policy, token_scores
from cooper.models.token_scores import has_plain_head
from cooper.types import Rollouts


def scored(
    policy: Policy, rollouts: Rollouts, **asked: bool
) -> tuple[list[Tensor], list[Tensor], int]:
    """Scores, gradients, and the most rows that the output layer took at once."""
    own = Policy(copy.deepcopy(policy.model), policy.tokenizer, 0.7)
    found = own(rollouts, [0], **asked)  # finds out what kind of head it is
    rows: list[int] = []
    head: Any = own.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    found = own(rollouts, range(len(rollouts)), **asked)
    # Of a mean, as losses are.
    count = len(found.logprobs)
    weights = torch.randn(count, generator=torch.Generator().manual_seed(2)) / count
    loss = (found.logprobs * weights).sum()
    if asked.get("entropy_gradient"):
        assert found.entropy is not None
        loss = loss + (found.entropy * weights).sum()
    loss.backward()
    given = [found.logprobs] if found.entropy is None else [found.logprobs, found.entropy]
    gradients = [p.grad for p in own.parameters() if p.grad is not None]
    return [t.detach() for t in given], gradients, max(rows)


@pytest.mark.parametrize("asked", [{}, {"entropy": True}, {"entropy_gradient": True}], ids=str)
@pytest.mark.parametrize("rows", [1, 7])
def test_pieces_are_the_whole(
    policy: Policy,
    ragged: Rollouts,
    asked: dict[str, bool],
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, gradients, most = scored(policy, ragged, **asked)
    assert (len(whole), most) == (1 + bool(asked), len(ragged.ids))
    monkeypatch.setattr(token_scores, "_AT_ONCE", rows * len(policy.tokenizer))
    pieces, others, most = scored(policy, ragged, **asked)
    assert most == rows
    for one, other in zip(whole + gradients, pieces + others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_logits_that_are_scaled_besides_are_the_models_own(
    policy: Policy, ragged: Rollouts
) -> None:
    config = GraniteConfig(
        vocab_size=len(policy.tokenizer), hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, intermediate_size=32, logits_scaling=4.0,
        initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GraniteForCausalLM(config).eval()
    assert has_plain_head(policy.model)
    assert not has_plain_head(model)
    found = Policy(model, policy.tokenizer)(ragged, range(len(ragged))).logprobs
    expected = []
    for row in range(len(ragged)):
        prompt = ragged.prompt_ids[ragged.owners[row]]
        ids = torch.tensor([[*prompt, *ragged.tokens(row).tolist()]])
        logp = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        expected.append(logp.gather(-1, ragged.tokens(row)[:, None])[:, 0])
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-5)
