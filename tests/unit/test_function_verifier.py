"""A user's function as a verifier: its answers, its faults, and that it can be killed."""

from __future__ import annotations

import time
from typing import cast

import pytest

from cooper.types import Status
from cooper.verifiers import FunctionVerifier


def same_words(completion: str, reference: str) -> bool | None:
    if completion == "unsure":
        return None
    if completion == "odd":
        return cast(bool, "yes")
    if completion == "raise":
        raise ValueError(completion)
    if completion == "hang":
        while True:
            pass
    return sorted(completion.split()) == sorted(reference.split())


def test_what_a_function_says() -> None:
    verifier = FunctionVerifier(f"{__name__}.same_words", cpu_seconds=0.5)
    texts = ["b a", "a c", "unsure", "odd", "raise", "hang", "a b"]
    start = time.monotonic()
    verdicts = verifier.verify(texts, ["a b"] * len(texts))
    verifier.close()
    assert [v.status for v in verdicts] == [
        Status.CORRECT, Status.INCORRECT, *[Status.UNDECIDED] * 4, Status.CORRECT,
    ]  # fmt: skip
    assert [v.reason for v in verdicts[2:6]] == [
        "the function cannot tell",
        "the function gave neither true, false nor None",
        "ValueError in the worker",
        "out of CPU time",
    ]
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("name", ["nothing", "no_such_module.f", "os.nothing", "os.sep", ""])
def test_a_name_that_is_no_function(name: str) -> None:
    with pytest.raises(ValueError, match=f"function={name}: "):
        FunctionVerifier(name)
