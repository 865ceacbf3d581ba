r"""Problems that occur twice, or in an evaluation set too."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cooper.data.benchmarks import BenchmarkProblems
from cooper.data.mixture import select
from cooper.errors import DataError
from cooper.types import Problem

DropOverlap = Literal["none", "benchmarks", "all"]

# Spacing and sizing commands of LaTeX, dollar signs and braces do not change what is asked; nor do
# marks, unless they stand within a number (3.5, 1,000, 2:1) or mean something (5!, f'(x), 3*4).
_LATEX = re.compile(
    r"\\(?:left|right|displaystyle|quad|qquad|text(?:bf|it|rm)?|mathrm)(?![a-z])"
    r"|\\[,;:! ]|\\[()\[\]]|[~${}]"
)
_MARKS = re.compile(r"(?<![0-9])[.,:]|[.:](?![0-9])|,(?!\s*[0-9])|[;?\"`]")
_QUOTES = str.maketrans(
    {**dict.fromkeys("\u201c\u201d", '"'), **dict.fromkeys("\u2018\u2019", "'")}
)
_DASHES = re.compile("[\u2010-\u2015\u2212]")


def normalised(text: str) -> str:
    r"""A question's text without what two copies of it differ in.

    Letter case, white space, compatible forms of characters, quotation and punctuation marks, and
    LaTeX's spacing, sizes and delimiters. Numbers, signs and commands with a meaning stay.
    """
    text = unicodedata.normalize("NFKC", text).casefold().translate(_QUOTES)
    text = re.sub(r"\\[dt]frac(?![a-z])", r"\\frac", _DASHES.sub("-", text))
    return "".join(_MARKS.sub(" ", _LATEX.sub(" ", text)).split())


@dataclass
class Overlap:
    """What was found in a training set."""

    repeated: list[int] = field(default_factory=list)  # a question that stood before
    conflicting: list[int] = field(default_factory=list)  # of those: with another reference
    shared: dict[str, list[int]] = field(default_factory=dict)  # also in this evaluation set


def find_overlap(
    problems: Sequence[Problem], evaluation: Mapping[str, Sequence[Problem]]
) -> Overlap:
    """Compare the questions of a training set with each other and with evaluation sets.

    Args:
        problems: the training set.
        evaluation: names with evaluation sets.

    Returns:
        indices into `problems`.
    """
    keys = [normalised(problem.question) for problem in problems]
    found = Overlap()
    first: dict[str, Problem] = {}
    for index, (key, problem) in enumerate(zip(keys, problems, strict=True)):
        earlier = first.setdefault(key, problem)
        if earlier is problem:
            continue
        found.repeated.append(index)
        if normalised(earlier.reference) != normalised(problem.reference):
            found.conflicting.append(index)
    for name, held in evaluation.items():
        theirs = {normalised(problem.question) for problem in held}
        found.shared[name] = [index for index, key in enumerate(keys) if key in theirs]
    return found


@dataclass
class Cleaned:
    """A training set without what it should not hold, and the account of it."""

    problems: Sequence[Problem]
    report: dict[str, Any]  # for the run folder
    notes: list[str]  # for the screen


def clean(
    problems: Sequence[Problem],
    evaluation: Mapping[str, Sequence[Problem]],
    drop_overlap: DropOverlap = "benchmarks",
    drop_duplicates: bool = False,
) -> Cleaned:
    """Find what a training set shares with evaluation sets and with itself, and drop it if asked.

    Args:
        problems: the training set.
        evaluation: names with evaluation sets.
        drop_overlap: drop what stands in "all" evaluation sets, in "benchmarks" among them, or
            in "none".
        drop_duplicates: keep only the first of several copies of a question.

    Raises:
        DataError: nothing is left.
    """
    found = find_overlap(problems, evaluation)
    barred = [
        name
        for name, held in evaluation.items()
        if drop_overlap == "all"
        or (drop_overlap == "benchmarks" and isinstance(held, BenchmarkProblems))
    ]
    gone = {i for name in barred for i in found.shared[name]}
    if drop_duplicates:
        gone.update(found.repeated)
    if len(gone) == len(problems):
        raise DataError(
            f"data.train: all {len(problems)} problems stand in the evaluation sets "
            f"{', '.join(barred)}; give others, or data.drop_overlap=none"
        )
    kept = [i for i in range(len(problems)) if i not in gone]
    fates = {True: "dropped", False: "kept"}
    notes = [
        f"data.train: {len(indices)} problems stand in the evaluation set {name} too, "
        f"{fates[name in barred]} (data.drop_overlap={drop_overlap})"
        for name, indices in found.shared.items()
        if indices
    ]
    if found.repeated:
        notes.append(
            f"data.train: {len(found.repeated)} problems are copies of earlier ones, "
            f"{len(found.conflicting)} of them with another reference, {fates[drop_duplicates]} "
            f"(data.drop_duplicates={str(drop_duplicates).lower()})"
        )
    report = {
        "problems": len(problems),
        "used": len(kept),
        "overlap": {
            name: [problems[i].id for i in indices] for name, indices in found.shared.items()
        },
        "duplicates": [problems[i].id for i in found.repeated],
        "conflicting_duplicates": [problems[i].id for i in found.conflicting],
        "dropped": {"overlap": barred, "duplicates": drop_duplicates},
    }
    return Cleaned(select(problems, kept), report, notes)
