"""Wrong completions written by a chat model, such as one behind an endpoint."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Sequence

import torch

from cooper.chat.base import ChatModel, ChatReply
from cooper.negatives.base import NegativeGenerator
from cooper.negatives.rewriting import PROMPT, check_settings, filled, longest_that_fits
from cooper.types import Negative, NegativeRequest, SamplingParams

# What a server without a parser for reasoning leaves in a reply; it is no part of a solution.
_REASONING = re.compile(r"\A\s*<think>.*?</think>\s*|\A.*?</think>\s*", re.DOTALL)


class ChatNegatives(NegativeGenerator):
    """A chat model rewrites the chosen completion (arXiv 2508.05613, stage 2).

    The same as :class:`~cooper.negatives.AssistantNegatives` with the model elsewhere: its chat
    template is the server's matter. All requests of a step are on their way at once, as many as the
    chat model allows, and come back in their order. Where it gives no reply in time, the negative
    says so and its pair is dropped (``pairs/dropped_no_reply``); the run goes on, and pairs come
    back when the model does.

    A reply that is blank, the chosen text again, or cut at the length limit is no negative.

    Args:
        chat: the model that is asked.
        prompt: what it is asked, with the fields {question}, {reference} and {completion}, as the
            user's message. Other braces stay as they are.
        temperature: above 0.
        top_p: in (0, 1].
        max_new_tokens: longest rewritten completion, reasoning included.
        max_chars: longest message; the middle of the completion is left out where it is longer.
        max_seconds: for all requests of one step together, further tries included.

    Raises:
        ValueError: a setting is out of its range, or the prompt names another field.
    """

    def __init__(
        self,
        chat: ChatModel,
        prompt: str = PROMPT,
        temperature: float = 0.7,
        top_p: float = 0.95,
        max_new_tokens: int = 1024,
        max_chars: int = 32000,
        max_seconds: float = 300.0,
    ) -> None:
        check_settings(prompt, temperature, top_p, max_new_tokens)
        if max_chars < 100:
            raise ValueError(f"negatives.max_chars={max_chars}: must be at least 100")
        if not max_seconds > 0:
            raise ValueError(f"negatives.max_seconds={max_seconds}: must be above 0 seconds")
        self.chat = chat
        self.prompt = prompt
        self.params = SamplingParams(max_new_tokens, temperature, top_p)
        self.max_chars = max_chars
        self.max_seconds = max_seconds
        self._end: float | None = None  # of the step's requests; None: each call has its own
        self._answers = True  # whether the last call had any reply

    def begin(self) -> None:
        """See :meth:`cooper.negatives.base.NegativeGenerator.begin`."""
        self._end = time.monotonic() + self.max_seconds

    @property
    def slow(self) -> bool:
        """Yes."""
        return True

    def generate(
        self, requests: Sequence[NegativeRequest], generator: torch.Generator
    ) -> list[Negative]:
        """See :class:`~cooper.negatives.base.NegativeGenerator`.

        One number is taken from `generator` for each request, whatever the chat model does. Equal
        seeds give equal replies only where the server sees to it.
        """
        if not requests:
            return []
        # 31 bits, which every server takes.
        seeds = [int(n) for n in torch.randint(2**31, (len(requests),), generator=generator)]
        negatives = [Negative(None, "assistant") for _ in requests]
        asked = {row: self._ask(request) for row, request in enumerate(requests)}
        rows = [row for row, text in asked.items() if text is not None]
        replies = self._replies([asked[row] or "" for row in rows], [seeds[row] for row in rows])
        for row, reply in zip(rows, replies, strict=True):
            negatives[row] = _negative(reply, requests[row].chosen)
        return negatives

    def _replies(self, texts: list[str], seeds: list[int]) -> list[ChatReply]:
        left = self.max_seconds if self._end is None else self._end - time.monotonic()
        if left <= 0:
            late = f"the {self.max_seconds:g} s of a step's negatives are over"
            return [ChatReply(None, late, 0) for _ in texts]
        conversations = [[{"role": "user", "content": text}] for text in texts]
        replies = self.chat.complete(conversations, self.params, seeds, seconds=left)
        self._tell(replies)
        return replies

    def _ask(self, request: NegativeRequest) -> str | None:
        """The message for one request; None where the question alone is too long."""
        return longest_that_fits(
            request.chosen,
            lambda completion: filled(self.prompt, request.problem, completion),
            lambda text: len(text) <= self.max_chars,
        )

    def _tell(self, replies: Sequence[ChatReply]) -> None:
        """Say it once when the chat model goes away; the counts of pairs say how long."""
        if not replies:
            return
        answers = any(reply.text is not None for reply in replies)
        if self._answers and not answers:
            warnings.warn(
                f"negatives.chat: {replies[0].failure}; pairs are dropped (pairs/dropped_no_reply) "
                "until it answers",
                stacklevel=4,
            )
        self._answers = answers

    def close(self) -> None:
        """Close the chat model."""
        self.chat.close()


def _negative(reply: ChatReply, chosen: str) -> Negative:
    """What a reply is worth."""
    if reply.text is None:
        return Negative(None, "assistant", failure=reply.failure)
    text = _REASONING.sub("", reply.text, count=1)
    if reply.cut or not text.strip() or text == chosen:
        return Negative(None, "assistant")
    return Negative(text, "assistant")
