"""Chat models behind one contract: an OpenAI-compatible endpoint, or a local model."""

from __future__ import annotations

from cooper.chat.base import ChatModel, ChatReply, Conversation

__all__ = ["ChatModel", "ChatReply", "Conversation"]
