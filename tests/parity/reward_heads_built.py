"""One small reward model for each head."""

from __future__ import annotations

import copy

import torch

from cooper.models import Policy, RewardModel, RewardTemplate
from cooper.models.reward_heads import ImplicitHead, MeanPoolHead, ProcessHead, RewardHead
from cooper.models.reward_model import RECORD

TEMPLATE = RewardTemplate(max_characters=0)


def head_of(name: str) -> RewardHead:
    return {
        "mean_pool": MeanPoolHead,
        "process": ProcessHead,
        "implicit": lambda: ImplicitHead(beta=0.5, reference="somewhere"),
    }[name]()


def built(name: str, classifier: RewardModel, policy: Policy) -> RewardModel:
    """Copies, so that a test may train them."""
    if name == "scalar":
        return copy.deepcopy(classifier)
    head = head_of(name)
    if isinstance(head, ImplicitHead):
        head.attach(copy.deepcopy(policy.model))
        model, tokenizer = copy.deepcopy(policy.model), policy.tokenizer
        rng = torch.Generator().manual_seed(3)
        with torch.no_grad():  # else it is its own reference and every score is zero
            for weight in model.parameters():
                weight.add_(torch.randn(weight.shape, generator=rng) * 0.05)
    else:
        model, tokenizer = copy.deepcopy(classifier.model), classifier.tokenizer
        setattr(model.config, RECORD, None)
    return RewardModel(model, tokenizer, TEMPLATE, head=head).eval()
