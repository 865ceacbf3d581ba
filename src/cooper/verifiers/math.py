r"""Mathematical answers: rules that decide cheaply, then Math-Verify in worker processes.

Where an answer stands: :mod:`~cooper.verifiers.extraction`, :mod:`~cooper.verifiers.conclusion`.
In which shapes it is read: :mod:`~cooper.verifiers.forms`. What decides: the rules
(:mod:`~cooper.verifiers.rules`), value by value (:mod:`~cooper.verifiers.structure`), and at last
computer algebra in a process that can be killed (:mod:`~cooper.verifiers.algebra`).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from concurrent.futures import Future

from cooper.types import Status, Verdict
from cooper.verifiers.base import check_lengths
from cooper.verifiers.choice import stated_option
from cooper.verifiers.conclusion import concluded
from cooper.verifiers.extraction import (
    MAX_ANSWER_CHARS,
    REGION_CHARS,
    Extracted,
    bare,
    boxed,
    last_boxes,
    stated,
)
from cooper.verifiers.forms import ALL, RULES, Form
from cooper.verifiers.pool import Reply, mapped
from cooper.verifiers.pooled import PooledVerifier
from cooper.verifiers.rules import compare_quickly
from cooper.verifiers.structure import Finding, count_values

__all__ = ["MathVerifier"]

INCORRECT, UNDECIDED = Status.INCORRECT, Status.UNDECIDED
_SHORT_CHARS = 60  # a completion of one line that may be nothing but a word


class MathVerifier(PooledVerifier):
    r"""Compares mathematical answers: quick rules, then Math-Verify in worker processes.

    The answer is the last ``\boxed{...}``, or else a stated one, or else the value that the last
    sentence ends with. Processes start with the first pair that needs computer algebra (about a
    second and 150 MB each) and are reused; call :meth:`close` to give them back early.
    """

    def __init__(
        self,
        cpu_seconds: float = 5.0,
        wall_seconds: float = 60.0,
        workers: int = 1,
        memory_mb: int = 2048,
        allow_stated: bool = True,
        without: Sequence[str] = (),
    ) -> None:
        r"""Set up; no process is started yet.

        Args:
            cpu_seconds: CPU time for one comparison, in seconds; beyond it UNDECIDED.
            wall_seconds: wall-clock time for one comparison, in seconds; a backstop for items
                that wait instead of computing.
            workers: number of worker processes.
            memory_mb: address space of a worker in MiB.
            allow_stated: whether an answer counts without ``\boxed{}``; false switches the rules
                stated, bare and concluded off together.
            without: names of rules that are off, out of ``cooper.verifiers.RULES``.

        Raises:
            ImportError: Math-Verify is not installed.
            ValueError: a limit is not positive, or there is no such rule.
        """
        if importlib.util.find_spec("math_verify") is None:
            raise ImportError(
                "MathVerifier needs Math-Verify: pip install 'math-verify[antlr4_9_3]'"
            )
        for name in without:
            if name not in RULES:
                raise ValueError(f"without={name}: no such rule; there are {', '.join(RULES)}")
        self.rules = ALL - frozenset(without)
        if not allow_stated:
            self.rules -= {"stated", "bare", "concluded"}
        super().__init__(
            "cooper.verifiers.algebra:prepare_worker",
            cpu_seconds=cpu_seconds,
            wall_seconds=wall_seconds,
            workers=workers,
            memory_mb=memory_mb,
        )

    def submit(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> Future[list[Verdict]]:
        """Verify a batch in the workers and return at once; see :meth:`Verifier.submit`.

        Extraction and the quick rules run before this returns (microseconds each).

        Raises:
            RuntimeError: the verifier was closed.
        """
        check_lengths(completions, references, questions)
        off = sorted(ALL - self.rules)
        golds = {text: _reference(text, self.rules) for text in set(references)}
        found: list[Extracted | None] = []
        verdicts: list[Finding | None] = []
        settled: dict[tuple[str, str], Finding | None] = {}
        pending: list[tuple[int, list[object]]] = []
        for index, (completion, reference) in enumerate(zip(completions, references, strict=True)):
            gold = golds[reference]
            extracted, text = (
                (None, "") if isinstance(gold, Finding) else self._find(completion, gold)
            )
            found.append(extracted)
            if isinstance(gold, Finding) or extracted is None:
                no_answer = Finding(INCORRECT, "no answer")
                verdicts.append(gold if isinstance(gold, Finding) else no_answer)
                continue
            if len(text) > MAX_ANSWER_CHARS:
                verdicts.append(Finding(INCORRECT, "the answer is too long"))
                continue
            pair = (text, reference)
            if pair not in settled:
                settled[pair] = self._quick(text, gold)
            verdicts.append(settled[pair])
            if settled[pair] is None:
                pending.append((index, [text, gold.raw, off]))

        def finish(replies: list[Reply]) -> list[Verdict]:
            for (index, _), reply in zip(pending, replies, strict=True):
                verdicts[index] = (
                    Finding(Status(reply.value[0]), reply.value[1])
                    if reply.ok
                    else Finding(UNDECIDED, reply.failure)
                )
            return [
                Verdict(
                    finding.status,
                    finding.reason,
                    extracted.text if extracted else None,
                    extracted.span if extracted else None,
                )
                for finding, extracted in zip(verdicts, found, strict=True)
                if finding is not None
            ]

        return mapped(self._pool.submit([item for _, item in pending]), finish)

    def _quick(self, text: str, reference: Form) -> Finding | None:
        try:
            return compare_quickly(Form(text, self.rules), reference)
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            # As in a worker: a fault of ours is no verdict, is counted, and stops no training.
            return Finding(UNDECIDED, f"{type(error).__name__} in the rules")

    def _find(self, completion: str, reference: Form) -> tuple[Extracted | None, str]:
        """Find the answer: where it stands, and the text that is compared."""
        shift = max(0, len(completion) - REGION_CHARS)
        region = completion[shift:]
        found, text = self._look(region, reference)
        if found is not None and shift:
            start, end = found.span
            found = Extracted(found.text, (start + shift, end + shift))
        return found, text

    def _look(self, region: str, reference: Form) -> tuple[Extracted | None, str]:
        found = boxed(region)
        if found is not None:
            if "several_boxes" in self.rules and (wanted := count_values(reference)) > 1:
                boxes = last_boxes(region)
                if len(boxes) == wanted:
                    return found, ", ".join(box.text for box in boxes)
            return (found, found.text) if found.text else (None, "")
        letter = len(reference.text.strip("()")) == 1 and bool(reference.option)
        if letter and {"choice_letters", "concluded"} <= self.rules:
            found = stated_option(region)
        if found is None and "stated" in self.rules:
            found = stated(region)
            if found and "concluded" in self.rules and not reference.is_words:
                found = _value_in(found)
        if found is None and "bare" in self.rules:
            found = bare(region) or _short(region, reference)
        if found is None and "concluded" in self.rules and (span := concluded(region)):
            found = Extracted(region[slice(*span)], span)
        if found is None or not found.text:
            return None, ""
        # A list of formulas has each in delimiters of its own.
        several = _BETWEEN.search(found.text)
        return found, _DELIMITERS.sub(" ", found.text) if several else found.text


def _value_in(found: Extracted) -> Extracted:
    """The value of a stated sentence: "The answer is that she has 5 left." states 5."""
    if len(found.text) > MAX_ANSWER_CHARS or not Form(found.text).is_words:
        return found
    span = concluded(found.text)
    if span is None:
        return found
    start = found.span[0]
    return Extracted(found.text[slice(*span)], (start + span[0], start + span[1]))


_BETWEEN = re.compile(r"\\\).*\\\(|\$.*\$.*\$.*\$|^[^$]+\$[^$]+\$[^$]+$", re.DOTALL)
_DELIMITERS = re.compile(r"\\[()\[\]]|(?<!\\)\$(?!\s?\d)|\*\*")


def _short(text: str, reference: Form) -> Extracted | None:
    """A completion of one short line without a full sentence: "n", or "Paris" for a word."""
    line = text.strip()
    if not line or len(line) > _SHORT_CHARS or "\n" in line:
        return None
    if len(line.split()) > (3 if reference.is_words else 1):
        return None
    if "\\boxed" in line or "\\fbox" in line:
        return None  # one that did not close: cut off
    start = text.find(line)
    return Extracted(line, (start, start + len(line)))


def _reference(text: str, rules: frozenset[str]) -> Form | Finding:
    r"""Read a reference: bare, in ``$...$``, in boxes, or at the end of a worked solution."""
    boxes = last_boxes(text)
    if boxes:
        text = ", ".join(box.text for box in boxes)
    elif "####" in text:
        text = text.rpartition("####")[2]
    elif len(text) > _SHORT_CHARS and (found := stated(text)) and Form(text).is_words:
        text = _value_in(found).text
    if len(text) > MAX_ANSWER_CHARS:
        return Finding(UNDECIDED, "the reference is too long")
    return Form(text, rules) if text.strip() else Finding(UNDECIDED, "the reference is empty")
