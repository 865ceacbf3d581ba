"""Chat models behind one contract: an OpenAI-compatible endpoint, or a local model.

The local one is :class:`cooper.models.local_chat.LocalChat`; it needs torch, this package does not.
"""

from __future__ import annotations

from cooper.chat.base import ChatModel, ChatReply, Conversation
from cooper.chat.endpoint import EndpointChat

__all__ = ["ChatModel", "ChatReply", "Conversation", "EndpointChat"]
