"""The contract of a chat model: what a judge or a generator of completions asks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cooper.types import SamplingParams

# Messages in the form of the OpenAI API and of chat templates: {"role": ..., "content": ...}.
Conversation = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class ChatReply:
    """What became of a conversation: the model's text, or why there is none."""

    text: str | None
    failure: str = ""  # empty: `text` holds
    attempts: int = 1
    cut: bool = False  # `text` breaks off at the length limit


class ChatModel(ABC):
    """Answers conversations.

    The contract: one reply per conversation, in order; no exception whatever the other side does
    (it is down, slow, or answers garbage): after its retries, the reply says what went wrong.
    Works in any thread and on an empty list.

    Attributes:
        identity: names the model and whatever else decides its answers; part of cache keys.
    """

    identity: str

    @abstractmethod
    def complete(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        seeds: Sequence[int] | None = None,
        on_reply: Callable[[int, ChatReply], None] | None = None,
        seconds: float | None = None,
    ) -> list[ChatReply]:
        """Answer N conversations.

        Args:
            conversations: [N]; the same one may stand there several times.
            params: temperature, top-p and the longest reply in tokens.
            seeds: [N] for the sampling; None: unseeded where the temperature is above 0.
            on_reply: called with index and reply as each comes in, in any thread.
            seconds: for all of them together; what has no reply by then fails, and is not told to
                `on_reply`. None: no limit.

        Returns:
            [N] replies in the order of `conversations`.
        """

    def close(self) -> None:
        """Give connections and memory back. The model is not used afterwards."""
