"""The paper's five evaluation sets, from the hub or from a local copy of the published files."""

from __future__ import annotations

from dataclasses import dataclass

from cooper.data.table_problems import TableProblems
from cooper.errors import DataError


@dataclass(frozen=True)
class Benchmark:
    """Where a set is published, and its columns where they are not among the common ones."""

    path: str
    split: str
    subset: str | None = None
    problems: int = 0  # rows of the whole set


BENCHMARKS = {
    "gsm8k": Benchmark("openai/gsm8k", "test", "main", 1319),
    # The 300 test problems; train holds the other 700.
    "svamp": Benchmark("ChilleD/SVAMP", "test", None, 300),
    "math500": Benchmark("HuggingFaceH4/MATH-500", "test", None, 500),
    # Open-ended, text only, mathematics, English, competition.
    "olympiadbench_en": Benchmark("Hothan/OlympiadBench", "train", "OE_TO_maths_en_COMP", 674),
    "math_odyssey": Benchmark("MathOdyssey/MathOdyssey", "test", None, 387),
}


class BenchmarkProblems(TableProblems):
    """Problems of one of the sets: what a training set shares with them is dropped by default."""


def benchmark(
    name: str,
    path: str | None = None,
    split: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    limit: int = 0,
    skip_bad: bool = False,
) -> BenchmarkProblems:
    """Read one of the five sets.

    Args:
        name: gsm8k, svamp, math500, olympiadbench_en or math_odyssey.
        path: a local copy: a file of the published form or of ours, or a folder in the hub's
            form; by default the hub's id.
        split: by default the published one, for the hub; for a local copy the only one.
        subset: the same.
        revision: commit, tag or branch on the hub.
        limit: keep only the first rows; 0: all.
        skip_bad: leave out rows without question or reference and count them.

    Raises:
        DataError: no such set, or it cannot be read.
    """
    if name not in BENCHMARKS:
        raise DataError(f"benchmark {name}: not known; there are {', '.join(BENCHMARKS)}")
    known = BENCHMARKS[name]
    if path is None:
        path, split, subset = known.path, split or known.split, subset or known.subset
    return BenchmarkProblems(
        path,
        split=split,
        subset=subset,
        revision=revision,
        source=name,
        limit=limit,
        skip_bad=skip_bad,
    )
