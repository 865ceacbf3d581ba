"""Where a model comes from: a Hugging Face folder or id, or a stage that makes such a folder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pretrained:
    """Weights in Hugging Face form.

    Args:
        path: folder written by ``save_pretrained``, or hub id.
        revision: commit, tag or branch on the hub.
        attn_implementation: as in transformers; None: its own choice.
        trust_remote_code: run code from the model's repository.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a
            third more time of an update.
    """

    path: str
    revision: str | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class WarmStarted:
    """A policy made by the warm start (stage a)."""


@dataclass(frozen=True)
class FirstStage:
    """A reward model made from the policy's weights by annotation and BCE (stages b and c)."""
