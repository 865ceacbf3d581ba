"""Measure MathVerifier on labelled completions and answer pairs, beside Math-Verify as it comes.

    python experiments/verifiers/run.py --data FOLDER

FOLDER holds verifier_pairs.jsonl, verifier_adversarial.jsonl and judged_*.jsonl. Writes
results.json and disagreements.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the workers import raw_math_verify from here

from cooper.types import Status  # noqa: E402
from cooper.verifiers import MathVerifier  # noqa: E402
from cooper.verifiers.pool import WorkerPool  # noqa: E402

LISTED = ("qwen_math_cot100", "processbench", "verifier_pairs", "verifier_adversarial")
SETS = {
    "verifier_pairs": "answer pairs of three libraries' tests, the disputed row left out",
    "verifier_adversarial": "inputs of bug reports that have a definite verdict",
    "gsm8k_openai_examples": "GSM8K, GPT-3 solutions, final answers",
    "qwen_math_cot100": "MATH, 8 solutions each, labels of a rule grader",
    "processbench": "GSM8K, MATH, OlympiadBench, 12 open models, final answers",
    "hardverify_math": "short answers that rule verifiers get wrong",
    "bigbench_mistake_arith": "arithmetic chains",
    "mr_math_invalid": "MATH, right answers",
    "mrben_math": "multiple choice; the label says whether the whole solution is right",
    "omnimath_judged": "Omni-MATH, labels of GPT-4o, completions cut",
}


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """Rows as completion, reference, label."""
    file = folder / (f"{name}.jsonl" if name.startswith("verifier") else f"judged_{name}.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if not name.startswith("verifier"):
        return [
            {"completion": r["completion"], "reference": r["reference_answer"], "label": r["label"]}
            for r in rows
        ]
    return [
        {"completion": r["prediction"], "reference": r["gold"], "label": r["expected"]}
        for r in rows
        if r["expected"] is not None and not r["meta"].get("disputed")
    ]


def cpu_seconds() -> float:
    """Of this process and its workers that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def by_math_verifier(rows: list[dict[str, Any]]) -> list[tuple[Status, str, str | None]]:
    """Our verdicts with their reasons."""
    verifier = MathVerifier()
    verdicts = verifier.verify([r["completion"] for r in rows], [r["reference"] for r in rows])
    verifier.close()
    return [(v.status, v.reason, v.answer) for v in verdicts]


def by_math_verify(rows: list[dict[str, Any]]) -> list[tuple[Status, str, str | None]]:
    """Math-Verify's parse and verify as its README shows them, in workers that can be killed."""
    pool = WorkerPool("raw_math_verify:prepare", cpu_seconds=10, memory_mb=4096)
    replies = pool.submit([[r["completion"], r["reference"]] for r in rows]).result()
    pool.close()
    named = {True: Status.CORRECT, False: Status.INCORRECT}
    return [
        (named[reply.value], "", None) if reply.ok else (Status.UNDECIDED, reply.failure, None)
        for reply in replies
    ]


def measure(
    rows: list[dict[str, Any]], verify: Callable[..., list[tuple[Status, str, str | None]]]
) -> tuple[dict[str, Any], list[tuple[Status, str, str | None]]]:
    """Figures of one verifier on one set.

    accuracy: the verdict is decisive and right. precision: right among those called CORRECT.
    recall: called CORRECT among the right ones; UNDECIDED counts as missed.
    """
    before, start = cpu_seconds(), time.monotonic()
    found = verify(rows)
    cpu, wall = cpu_seconds() - before, time.monotonic() - start
    pairs = [(status, bool(row["label"])) for (status, _, _), row in zip(found, rows, strict=True)]
    accepted = sum(status is Status.CORRECT for status, _ in pairs)
    right = sum(status is Status.CORRECT and label for status, label in pairs)
    positives = sum(label for _, label in pairs)
    decided_right = sum(
        status is (Status.CORRECT if label else Status.INCORRECT) for status, label in pairs
    )
    return {
        "rows": len(rows),
        "accuracy": round(decided_right / len(rows), 4),
        "precision": round(right / accepted, 4) if accepted else None,
        "recall": round(right / positives, 4) if positives else None,
        "false_positives": accepted - right,
        "undecided": sum(status is Status.UNDECIDED for status, _ in pairs),
        "cpu_seconds": round(cpu, 1),
        "wall_seconds": round(wall, 1),
    }, found


def main() -> None:
    """Measure every set by both verifiers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled files")
    parser.add_argument("--without-raw", action="store_true", help="leave Math-Verify itself out")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    listing = ["# Where label and verdict differ\n"]
    for name, what in SETS.items():
        rows = read(arguments.data, name)
        ours, found = measure(rows, by_math_verifier)
        results[name] = {"what": what, "MathVerifier": ours}
        if not arguments.without_raw:
            results[name]["Math-Verify"] = measure(rows, by_math_verify)[0]
        print(name, json.dumps(results[name]), flush=True)
        if name in LISTED:
            listing.append(f"## {name}\n")
            for number, (row, (status, reason, answer)) in enumerate(
                zip(rows, found, strict=True), start=1
            ):
                wanted = Status.CORRECT if row["label"] else Status.INCORRECT
                if status is not wanted:
                    shown = json.dumps((answer or row["completion"][-120:])[:200])
                    listing.append(
                        f"- row {number}, label {int(row['label'])}, {status.name} ({reason}): "
                        f"`{shown}` against `{json.dumps(row['reference'][:160])}`"
                    )
            listing.append("")
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "disagreements.md").write_text("\n".join(listing))


if __name__ == "__main__":
    main()
