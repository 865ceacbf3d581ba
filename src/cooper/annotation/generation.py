"""Completions made on the spot by a chat model, journalled before anything else sees them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cooper.annotation.items import Item, content_key, with_completion
from cooper.chat.base import ChatModel, ChatReply
from cooper.journal import Journal
from cooper.progress import progress
from cooper.types import SamplingParams

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class Failure:
    """A completion that could not be had."""

    item: Item  # without one
    reason: str


class CompletionGenerator:
    """Draws completions of problems from a chat model.

    Args:
        n: completions of each problem; raising it later asks only for what is missing.
        temperature: above 0 where there are several, for greedy ones are all alike.
        top_p: in (0, 1].
        max_new_tokens: longest completion.
        seed: each completion has a seed of its own, made from this one.
        system_prompt: a system message; None: none.
        instruction: appended to the question after an empty line; None: nothing.

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(
        self,
        n: int = 4,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 3072,
        seed: int = 0,
        system_prompt: str | None = None,
        instruction: str | None = INSTRUCTION,
    ) -> None:
        if n < 1:
            raise ValueError(f"n={n}: give 1 or more")
        if n > 1 and temperature == 0:
            raise ValueError(
                f"temperature=0: the {n} greedy completions of a problem are all alike; give "
                "a value above 0, or n=1"
            )
        self.n = n
        self.params = SamplingParams(max_new_tokens, temperature, top_p)
        self.seed = seed
        self.system_prompt = system_prompt
        self.instruction = instruction

    def run(
        self,
        problems: Sequence[Item],
        generator: ChatModel,
        journal: Journal,
        retry_failed: bool = False,
    ) -> tuple[list[Item], list[Failure]]:
        """Draw what the journal does not hold.

        Args:
            problems: items without completions.
            generator: the model.
            journal: takes the completions, and gives those of earlier processes.
            retry_failed: ask again for those that could not be had.

        Returns:
            the completions, in the order of the problems, and those that could not be had.

        Raises:
            OSError: the journal cannot be written.
        """
        # A problem that stands there twice is asked once; each of its rows gets the completions.
        wanted: dict[str, tuple[Item, int]] = {}
        for problem in problems:
            for k in range(self.n):
                wanted.setdefault(self._key(problem, k), (problem, k))
        found = {e["key"]: e for e in journal.entries if e.get("by") == "generator"}
        missing = [
            key
            for key in wanted
            if key not in found or (retry_failed and found[key]["completion"] is None)
        ]
        done = len(wanted) - len(missing)
        with progress("generating completions", len(wanted), "completion", done=done) as bar:
            failed = 0
            asked = [wanted[key] for key in missing]
            for entries in self._entries(generator, missing, asked, journal):
                found.update((entry["key"], entry) for entry in entries)
                failed += sum(entry["completion"] is None for entry in entries)
                bar.advance(len(entries), note=f"{failed} failed" if failed else "")
        items: list[Item] = []
        failures: list[Failure] = []
        for problem in problems:
            for k in range(self.n):
                entry = found[self._key(problem, k)]
                item = with_completion(problem, entry["completion"] or "", k)
                if entry["completion"] is None:
                    failures.append(Failure(item, entry["why"]))
                else:
                    items.append(item)
        return items, failures

    @staticmethod
    def _key(problem: Item, k: int) -> str:
        return content_key(problem.question, problem.reference, k)

    def _entries(
        self,
        generator: ChatModel,
        keys: Sequence[str],
        asked: Sequence[tuple[Item, int]],
        journal: Journal,
    ) -> Iterator[list[dict[str, Any]]]:
        """Give the entries of the journal as they come, as many at once as have come meanwhile."""
        if not asked:
            return
        conversations = [self._conversation(problem) for problem, _ in asked]
        # 31 bits, which every server takes.
        seeds = [int(content_key(self.seed, key)[:8], 16) >> 1 for key in keys]
        came: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()

        def take(index: int, reply: ChatReply) -> None:
            entry = {
                "by": "generator",
                "key": keys[index],
                "completion": reply.text,
                "why": reply.failure,
            }
            # Written before the next one is asked, so that a kill loses what is on its way alone;
            # the disk is waited for in the other thread, for many at once.
            journal.append([entry], durable=False)
            came.put(entry)

        def ask() -> None:
            try:
                generator.complete(conversations, self.params, seeds, take)
                came.put(None)
            except BaseException as error:
                came.put(error)

        # A daemon, so that Ctrl-C does not wait for requests that are on their way.
        threading.Thread(target=ask, name="generator", daemon=True).start()
        left = len(asked)
        while left:
            batch = [came.get()]
            while not came.empty():
                batch.append(came.get())
            journal.sync()
            entries = [one for one in batch if isinstance(one, dict)]
            left -= len(entries)
            yield entries
            for one in batch:
                if isinstance(one, BaseException):
                    raise one
            if None in batch and left:
                raise RuntimeError(f"the generator left {left} conversations without a reply")

    def _conversation(self, problem: Item) -> list[dict[str, str]]:
        question = problem.question
        if self.instruction:
            question = f"{question}\n\n{self.instruction}"
        messages = [{"role": "user", "content": question}]
        if self.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        return messages
