"""Which references of problem files can the verifier read?

    python experiments/references/check.py FILE [FILE ...]

A reference counts as read when the same text, boxed, is judged CORRECT against it, and an answer
that is surely another one INCORRECT: equal texts need no reading. Writes README.md beside itself:
counts by file, and every reference that is not read with the verifier's reason.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cooper.data import TableProblems
from cooper.report.markdown import markdown_table
from cooper.verifiers import MathVerifier

HEAD = """# References that the verifier can read

    python experiments/references/check.py FILES

Samples of published problem sets (their own tests are not trained on). A reference is cut to its
final answer as `cooper.data.references.final_answer` does. It counts as read when `verifier=math`
with its defaults judges the same text, boxed, CORRECT against it, and -98765.4321 INCORRECT: equal
texts need no reading. What is not read is UNDECIDED in training for answers of another wording, and
is counted in `verifier/undecided`.

"""


def main() -> None:
    """Check all files given."""
    counts: list[list[str]] = []
    unread: list[list[str]] = []
    verifier = MathVerifier()
    try:
        for name in sys.argv[1:]:
            problems = list(TableProblems(name))
            references = [problem.reference for problem in problems]
            questions = [problem.question for problem in problems]
            same, other = (
                verifier.verify(
                    [f"\\boxed{{{answer}}}" for answer in answers], references, questions
                )
                for answers in (references, ["-98765.4321"] * len(references))
            )
            missed = [
                (problem, one if not one.correct else another)
                for problem, one, another in zip(problems, same, other, strict=True)
                if not one.correct or not another.incorrect
            ]
            share = 100 * (1 - len(missed) / len(problems))
            counts.append([Path(name).stem, str(len(problems)), str(len(missed)), f"{share:.1f} %"])
            unread += [
                [
                    problem.id,
                    f"`{' '.join(problem.reference.split())}`",
                    verdict.status.value,
                    verdict.reason,
                ]
                for problem, verdict in missed
            ]
    finally:
        verifier.close()
    text = HEAD + markdown_table(["file", "rows", "not read", "read"], counts) + "\n"
    if unread:
        text += "\n## Not read\n\n"
        text += markdown_table(["problem", "reference", "verdict", "reason"], unread) + "\n"
    Path(__file__).with_name("README.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
