"""Rule and judge together: the whole table, and who is asked when."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from cooper.types import Status, Verdict
from cooper.verifiers import ExactVerifier, HybridVerifier, NumericVerifier, combine
from cooper.verifiers.base import Verifier
from cooper.verifiers.hybrid import Policy, judge_matters

STATUS = {"C": Status.CORRECT, "I": Status.INCORRECT, "U": Status.UNDECIDED}
POLICIES: tuple[Policy, ...] = ("agree", "rule_then_judge", "either", "both")
# The table of combine()'s docstring, written down apart from it: rule, judge, one letter a policy.
TABLE = """
C C  C C C C
C I  U C C I
C U  C C C U
I C  U I C I
I I  I I I I
I U  I I U I
U C  C C C U
U I  I I U I
U U  U U U U
"""
CASES = [
    (rule, judge, policy, result)
    for rule, judge, *results in map(str.split, TABLE.strip().splitlines())
    for policy, result in zip(POLICIES, results, strict=True)
]


class Says(Verifier):
    """Reads its verdict from the completion's letter at a place, and keeps what it was asked."""

    def __init__(self, place: int, meeting: threading.Barrier | None = None) -> None:
        self.place = place
        self.meeting = meeting
        self.asked: list[tuple[str, str, str | None]] = []
        self.closed = 0

    def verify(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Verdict]:
        about = questions or [None] * len(completions)
        self.asked += zip(completions, references, about, strict=True)
        if self.meeting is not None:
            self.meeting.wait(10)
        return [
            Verdict(STATUS[text[self.place]], f"reason {self.place}", text, (0, len(text)))
            for text in completions
        ]

    def close(self) -> None:
        super().close()
        self.closed += 1


def test_the_table_has_all_cases() -> None:
    assert len(CASES) == 36
    assert len({case[:3] for case in CASES}) == 36


@pytest.mark.parametrize(("rule", "judge", "policy", "result"), CASES)
def test_table(rule: str, judge: str, policy: Policy, result: str) -> None:
    one = Verdict(STATUS[rule], "equal numbers", "7", (3, 4))
    other = Verdict(STATUS[judge], "the judge: both are 7")
    both = combine(one, other, policy)
    assert both.status is STATUS[result]
    assert (both.answer, both.span) == ("7", (3, 4))
    said = f"rule: {one.status.value} (equal numbers); judge: {other.status.value} (both are 7)"
    assert both.reason == said


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("rule", STATUS)
def test_the_judge_matters_where_its_verdicts_make_a_difference(rule: str, policy: Policy) -> None:
    one = Verdict(STATUS[rule])
    results = {combine(one, Verdict(status), policy).status for status in Status}
    assert judge_matters(one.status, policy) == (len(results) > 1)
    if len(results) == 1:
        assert combine(one, None, policy).status in results
        assert combine(one, None, policy).reason.endswith("; judge: not asked")
    else:
        with pytest.raises(ValueError, match=r"judge=None.*ask it"):
            combine(one, None, policy)


@pytest.mark.parametrize("policy", POLICIES)
def test_verifies_in_order_and_asks_only_where_it_matters(policy: Policy) -> None:
    rule, judge = Says(0), Says(1)
    hybrid = HybridVerifier(rule, judge, policy)
    rows = [(r + j, result) for r, j, p, result in CASES if p == policy]
    texts = [text for text, _ in rows]
    references = [f"reference {n}" for n in range(9)]
    questions = [f"question {n}" for n in range(9)]
    for about in (questions, None):
        judge.asked.clear()
        verdicts = hybrid.verify(texts, references, about)
        assert [v.status for v in verdicts] == [STATUS[result] for _, result in rows]
        assert [v.answer for v in verdicts] == texts
        triples = zip(texts, references, about or [None] * 9, strict=True)
        expected = [t for t in triples if judge_matters(STATUS[t[0][0]], policy)]
        assert judge.asked == expected
    hybrid.close()
    hybrid.close()


def test_rule_and_judge_work_at_the_same_time() -> None:
    meeting = threading.Barrier(2)  # each waits for the other to have begun
    hybrid = HybridVerifier(Says(0, meeting), Says(1, meeting), "agree")
    assert hybrid.submit(["CI"], ["x"]).result(20)[0].status is Status.UNDECIDED
    hybrid.close()


def test_closing_closes_both() -> None:
    rule, judge = Says(0), Says(1)
    hybrid = HybridVerifier(rule, judge)
    hybrid.submit(["CC"], ["x"]).result(10)
    hybrid.close()
    assert (rule.closed, judge.closed) == (1, 1)


def test_an_unknown_policy() -> None:
    with pytest.raises(ValueError, match="policy=majority: must be one of agree, rule_then_judge"):
        HybridVerifier(Says(0), Says(1), "majority")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="policy=majority"):
        combine(Verdict(Status.CORRECT), None, "majority")  # type: ignore[arg-type]


def test_two_real_verifiers() -> None:
    # Numbers by the one, words by the other: neither can read all references.
    hybrid = HybridVerifier(NumericVerifier(), ExactVerifier(), "rule_then_judge")
    verdicts = hybrid.verify([r"\boxed{7.0}", r"\boxed{Paris}", r"\boxed{8}"], ["7", "Paris", "7"])
    hybrid.close()
    assert [v.status.name for v in verdicts] == ["CORRECT", "CORRECT", "INCORRECT"]
    assert verdicts[1].reason == (
        "rule: undecided (the reference is not a number); judge: correct (same text)"
    )


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="one reference for each"):
        HybridVerifier(Says(0), Says(1)).verify(["CC"], [])


def test_executors_are_started_once_by_threads_that_submit_at_once() -> None:
    verifier = Says(0)
    start = threading.Barrier(8)

    def submit() -> None:
        start.wait(10)
        verifier.submit(["C"], ["x"]).result(10)

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    names = {t.name for t in threading.enumerate() if t.name.startswith("verifier")}
    assert len(names) == 1
    verifier.close()
