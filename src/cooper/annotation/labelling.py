"""Rule's and judge's verdicts on completions: each is asked for once, whatever ends the process."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from cooper.annotation.agreement import Agreement
from cooper.annotation.items import Item
from cooper.journal import Journal
from cooper.progress import progress
from cooper.types import Status, Verdict
from cooper.verifiers.base import Verifier
from cooper.verifiers.hybrid import Policy, combine

RULE, JUDGE = "rule", "judge"
# Why a row is dropped, by who decided.
DISAGREE = "rule and judge disagree"
NO_JUDGE = "the judge gave no verdict"
NO_RULE = "the rule gave no verdict"
NEITHER = "neither gave a verdict"
# Batches of each verifier: the slow items of one overlap with the next ones, and an endpoint always
# has enough to do. How many requests are under way at once is the judge's own matter.
_IN_FLIGHT = 32


@dataclass(frozen=True)
class Outcome:
    """What was said of an item, and what follows from it."""

    item: Item
    rule: Verdict
    judge: Verdict | None  # None: there is no judge
    verdict: Verdict

    @property
    def label(self) -> bool | None:
        """The label; None: dropped."""
        return self.verdict.correct if self.verdict.decided else None

    @property
    def differing(self) -> bool:
        """Whether rule and judge contradict each other, whatever follows from it."""
        if self.judge is None or not (self.rule.decided and self.judge.decided):
            return False
        return self.rule.correct != self.judge.correct

    @property
    def dropped(self) -> str:
        """Why it has no label; empty where it has one."""
        if self.verdict.decided:
            return ""
        if self.judge is None:
            return NO_RULE
        if self.differing:
            return DISAGREE
        if self.rule.decided:
            return NO_JUDGE
        return NO_RULE if self.judge.decided else NEITHER


class Labelling:
    """Labels items by a rule and, where there is one, a judge.

    Equal items (same question, reference, completion) are verified once. Verdicts are journalled
    as they come, and those in the journal are not asked for again. Both verifiers work at the same
    time.

    Args:
        items: to label.
        rule: any verifier; :class:`~cooper.verifiers.MathVerifier` for mathematics.
        judge: a second opinion; None: the rule labels alone.
        policy: how the two become a label, as in :func:`cooper.verifiers.hybrid.combine`; with
            "agree", an item on which the judge gave no verdict gets no label. The judge is asked
            about all items whatever it is, so that the two can be compared.
        journal: takes the verdicts, and gives those of earlier processes.
        batch_size: items verified and journalled at once; not above the judge's own concurrency,
            so that batches end one after the other.
        retry_failed: ask the judge again about items on which it gave no verdict.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        rule: Verifier,
        judge: Verifier | None = None,
        policy: Policy = "agree",
        journal: Journal,
        batch_size: int = 16,
        retry_failed: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give 1 or more")
        self.items = items
        self.policy: Policy = policy
        self.journal = journal
        self.batch_size = batch_size
        self.by: dict[str, Verifier] = {RULE: rule} if judge is None else {
            JUDGE: judge, RULE: rule
        }  # fmt: skip  # the judge first: its requests are on their way while the rule computes
        self.asked = Counter[str]()  # of each verifier, by this process
        self._found: dict[str, dict[str, Verdict]] = {name: {} for name in (RULE, JUDGE)}
        for entry in journal.entries:
            if entry.get("by") in self._found:
                self._found[entry["by"]][entry["key"]] = verdict_of(entry)
        if retry_failed:
            judged = self._found[JUDGE]
            self._found[JUDGE] = {k: v for k, v in judged.items() if v.decided}
        self._warned = False
        self._rows = Counter(item.key for item in items)
        self._first = {item.key: item for item in reversed(items)}

    @property
    def done(self) -> int:
        """Rows on which all was said."""
        return sum(rows for key, rows in self._rows.items() if self._settled(key))

    def run(self) -> None:
        """Ask for all verdicts that are not there.

        Raises:
            OSError: the journal cannot be written.
            RuntimeError: a verifier cannot work at all.
        """
        # A judge's own submit() would do one batch after the other.
        self._threads = ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="judge")
        try:
            self._run()
        finally:
            # Not waiting: after Ctrl-C, what is under way ends when the judge is closed.
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        waiting = {name: deque(self._batches(name)) for name in self.by}
        running: dict[Future[list[Verdict]], tuple[str, list[str]]] = {}
        agreement, dropped = self._so_far()
        title = "labelling (rule + judge)" if JUDGE in self.by else "labelling (rule)"
        with progress(title, len(self.items), "row", done=self.done) as bar:
            while True:
                for name, batches in waiting.items():
                    while batches and sum(by == name for by, _ in running.values()) < _IN_FLIGHT:
                        keys = batches.popleft()
                        running[self._submit(name, keys)] = (name, keys)
                if not running:
                    return
                new: list[str] = []
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name, keys = running.pop(future)
                    self._take(name, keys, future.result())
                    new += [key for key in keys if self._settled(key)]
                for key in new:
                    dropped += self._count(key, agreement)
                share = agreement.share
                told = "" if share is None else f"agreement {share:.1%}, "
                bar.advance(sum(self._rows[key] for key in new), note=f"{told}{dropped} dropped")

    def outcomes(self) -> Iterator[Outcome]:
        """Give all outcomes in the order of the items.

        Raises:
            KeyError: a verdict is missing: :meth:`run` was not finished.
        """
        for item in self.items:
            yield self._outcome(item)

    def _batches(self, name: str) -> Iterator[list[str]]:
        missing = [key for key in self._rows if key not in self._found[name]]
        for start in range(0, len(missing), self.batch_size):
            yield missing[start : start + self.batch_size]

    def _submit(self, name: str, keys: Sequence[str]) -> Future[list[Verdict]]:
        self.asked[name] += len(keys)
        items = [self._first[key] for key in keys]
        texts = (
            [item.completion for item in items],
            [item.reference for item in items],
            [item.question for item in items],
        )
        verifier = self.by[name]
        return (
            self._threads.submit(verifier.verify, *texts)
            if name == JUDGE
            else verifier.submit(*texts)
        )

    def _take(self, name: str, keys: Sequence[str], verdicts: Sequence[Verdict]) -> None:
        said = list(zip(keys, verdicts, strict=True))
        self.journal.append({"by": name, "key": key, **plain_verdict(v)} for key, v in said)
        self._found[name].update(said)
        if name == JUDGE and not self._warned and not any(v.decided for v in self._judged):
            self._warned = True
            print(
                f"the judge has given no verdict yet ({verdicts[0].reason}); Ctrl-C, mend it, and "
                "start again with retry_failed=true",
                flush=True,
            )

    @property
    def _judged(self) -> Iterable[Verdict]:
        return self._found[JUDGE].values()

    def _settled(self, key: str) -> bool:
        return all(key in self._found[name] for name in self.by)

    def _outcome(self, item: Item) -> Outcome:
        rule = self._found[RULE][item.key]
        judge = self._found[JUDGE][item.key] if JUDGE in self.by else None
        return Outcome(item, rule, judge, self._combined(rule, judge))

    def _combined(self, rule: Verdict, judge: Verdict | None) -> Verdict:
        if judge is None:
            return rule
        if self.policy == "agree" and not judge.decided:
            # Stricter than the verifier's table: an endpoint that was down for an hour would leave
            # an hour of labels by the rule alone, with all the right answers that it misses.
            return judge
        return combine(rule, judge, self.policy)

    def _so_far(self) -> tuple[Agreement, int]:
        agreement = Agreement()
        settled = [key for key in self._rows if self._settled(key)]
        return agreement, sum(self._count(key, agreement) for key in settled)

    def _count(self, key: str, agreement: Agreement) -> int:
        """Count a settled item's rows; gives the number of them that are dropped."""
        outcome = self._outcome(self._first[key])
        if outcome.judge is not None:
            agreement.add(outcome.rule, outcome.judge, self._rows[key])
        return self._rows[key] if outcome.dropped else 0


def plain_verdict(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain values: who said what and why."""
    return {"status": verdict.status.value, "reason": verdict.reason, "answer": verdict.answer}


def verdict_of(values: Mapping[str, Any]) -> Verdict:
    """The verdict of :func:`plain_verdict`'s values."""
    return Verdict(Status(values["status"]), values["reason"], values["answer"])
