"""A rule and a judge together: one is precise, the other understands unusual forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from cooper.checks import one_of
from cooper.types import Status, Verdict
from cooper.verifiers.base import Verifier, check_lengths

__all__ = ["HybridVerifier", "Policy", "combine", "judge_matters"]

Policy = Literal["agree", "rule_then_judge", "either", "both"]

CORRECT, INCORRECT, UNDECIDED = Status.CORRECT, Status.INCORRECT, Status.UNDECIDED


def judge_matters(rule: Status, policy: Policy) -> bool:
    """Whether the judge's answer can change what comes of the rule's."""
    return {
        "agree": True,
        "rule_then_judge": not rule.decided,
        "either": rule is not CORRECT,
        "both": rule is not INCORRECT,
    }[policy]


def combine(rule: Verdict, judge: Verdict | None, policy: Policy) -> Verdict:
    """Make one verdict of two.

    C, I and U are CORRECT, INCORRECT and UNDECIDED; a dot stands where the judge does not matter:

    ======= ======= ======== ================= ======== ======
    rule    judge   agree    rule_then_judge   either   both
    ======= ======= ======== ================= ======== ======
    C       C       C        C .               C .      C
    C       I       U        C .               C .      I
    C       U       C        C .               C .      U
    I       C       U        I .               C        I .
    I       I       I        I .               I        I .
    I       U       I        I .               U        I .
    U       C       C        C                 C        U
    U       I       I        I                 U        I
    U       U       U        U                 U        U
    ======= ======= ======== ================= ======== ======

    ``agree`` is the hybrid annotation of arXiv 2508.05613 with a rule that can say UNDECIDED: two
    that differ decide nothing. ``either`` and ``both`` are OR and AND of three values: an
    UNDECIDED leaves the matter open wherever the missing verdict could turn it.

    Args:
        rule: the rule's verdict; its answer and span go on.
        judge: the judge's; None: it was not asked.
        policy: as in the table.

    Returns:
        the verdict; its reason says who said what.

    Raises:
        ValueError: the policy does not exist, or the judge was not asked where it matters.
    """
    one_of("policy", policy, get_args(Policy))
    if judge is None and judge_matters(rule.status, policy):
        raise ValueError(
            f"judge=None: with policy={policy} and a rule that says {rule.status.value}, the "
            "judge's verdict matters; ask it"
        )
    other = UNDECIDED if judge is None else judge.status
    said = {rule.status, other}
    if policy == "agree":
        status = rule.status if not other.decided else other
        if said == {CORRECT, INCORRECT}:
            status = UNDECIDED
    elif policy == "rule_then_judge":
        status = rule.status if rule.decided else other
    else:
        strong, weak = (CORRECT, INCORRECT) if policy == "either" else (INCORRECT, CORRECT)
        status = strong if strong in said else weak if said == {weak} else UNDECIDED
    return Verdict(
        status, f"{_told('rule', rule)}; {_told('judge', judge)}", rule.answer, rule.span
    )


def _told(who: str, verdict: Verdict | None) -> str:
    """Who said what, and why: "rule: correct (equal numbers)"."""
    if verdict is None:
        return f"{who}: not asked"
    reason = verdict.reason.removeprefix("the judge: ")
    return f"{who}: {verdict.status.value}" + (f" ({reason})" if reason else "")


class HybridVerifier(Verifier):
    """Combines a rule's and a judge's verdicts; :func:`combine` has the table of all cases.

    The judge is asked only where its answer can matter, for it costs money or a GPU:

    * ``agree``: always, at the same time as the rule. Where the rule is UNDECIDED the judge
      decides; where the two contradict each other the verdict is UNDECIDED.
    * ``rule_then_judge``: only where the rule is UNDECIDED. What the rule decides stands, an
      INCORRECT too: the judge mends what the rule cannot read, not what it misreads.
    * ``either``: where the rule does not say CORRECT. The best recall, and as easily fooled as
      the judge.
    * ``both``: where the rule does not say INCORRECT. The best precision; where the rule cannot
      read a reference, nothing is ever CORRECT.

    Args:
        rule: any verifier, usually a cheap and precise one.
        judge: any verifier, usually a :class:`~cooper.verifiers.JudgeVerifier`.
        policy: as above.

    Raises:
        ValueError: there is no such policy.
    """

    def __init__(self, rule: Verifier, judge: Verifier, policy: Policy = "agree") -> None:
        one_of("policy", policy, get_args(Policy))
        self.rule = rule
        self.judge = judge
        self.policy: Policy = policy
        self.whole_batches = rule.whole_batches or judge.whole_batches

    def verify(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Verdict]:
        """Verify a batch; see :meth:`Verifier.verify`."""
        check_lengths(completions, references, questions)
        if not completions:
            return []
        ruled = self.rule.submit(completions, references, questions)
        if self.policy == "agree":
            judged = self.judge.verify(completions, references, questions)
            pairs = zip(ruled.result(), judged, strict=True)
            return [combine(rule, judge, self.policy) for rule, judge in pairs]
        by_rule = ruled.result()
        rows = [row for row, v in enumerate(by_rule) if judge_matters(v.status, self.policy)]
        asked = self.judge.verify(
            [completions[row] for row in rows],
            [references[row] for row in rows],
            None if questions is None else [questions[row] for row in rows],
        )
        by_judge = dict(zip(rows, asked, strict=True))
        return [combine(v, by_judge.get(row), self.policy) for row, v in enumerate(by_rule)]

    def close(self) -> None:
        """Close both. May be called twice."""
        # The judge first, as a verify() under way waits for it longest.
        self.judge.close()
        super().close()
        self.rule.close()
