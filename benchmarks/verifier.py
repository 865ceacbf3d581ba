"""Time MathVerifier on 8192 ordinary completions: GSM8K solutions, texts and answers varied.

    python benchmarks/verifier.py --data judged_gsm8k_openai_examples.jsonl

Each completion gets another opening, and its answer one of eight ways to state it; one in twenty
is a formula that needs computer algebra. Writes verifier.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import time
from pathlib import Path

from cooper.verifiers import MathVerifier

HERE = Path(__file__).parent
NUM = 8192
WAYS = (
    "A: {0}",
    "#### {0}",
    "The answer is {0}.",
    "**Final Answer:** ${0}",
    "So \\boxed{{{0}}}.",
    "Thus we get $\\boxed{{{0}.00}}$",
    "Therefore, there are {0} of them.",
    "\\[\\boxed{{\\frac{{{1}}}{{2}}}}\\]",
)
ALGEBRA = "\\boxed{{{0} + x - x + \\sqrt{{4}} - 2}}"


def completions(path: Path) -> tuple[list[str], list[str], list[bool]]:
    """Texts, references, and whether each is right."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if "A: " in row["completion"]]
    rng = random.Random(0)
    texts, references, labels = [], [], []
    for number in range(NUM):
        row = rows[number % len(rows)]
        work, _, answer = row["completion"].rpartition("A: ")
        plain = answer.strip().replace(",", "").rstrip(".")
        way = rng.choice(WAYS)
        if not plain.isdigit():
            stated = f"A: {answer}"
        elif rng.random() < 0.05:
            stated = ALGEBRA.format(plain)
        else:
            stated = way.format(plain, 2 * int(plain))
        texts.append(f"Attempt {number}, {rng.choice('abcdefgh')}.\n{work}\n{stated}")
        references.append(row["reference_answer"])
        labels.append(bool(row["label"]))
    return texts, references, labels


def cpu_seconds() -> float:
    """Of this process and of its workers that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    """Measure three times, keep the median."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="judged_gsm8k_openai_examples")
    texts, references, labels = completions(parser.parse_args().data)
    runs = []
    for _ in range(3):
        before, start = cpu_seconds(), time.monotonic()
        verifier = MathVerifier()
        verdicts = verifier.verify(texts, references)
        verifier.close()
        runs.append((cpu_seconds() - before, time.monotonic() - start))
    agree = sum(v.decided and v.correct == label for v, label in zip(verdicts, labels, strict=True))
    cpu, wall = sorted(runs)[1]
    result = {
        "completions": NUM,
        "distinct": len(set(texts)),
        "cpu_seconds": round(cpu, 2),
        "wall_seconds": round(wall, 2),
        "per_second_of_cpu": round(NUM / cpu),
        "verdicts_as_labelled": agree,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    (HERE / "verifier.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
