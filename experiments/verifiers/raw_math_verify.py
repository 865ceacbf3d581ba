"""Math-Verify as its README shows it, for comparison: parse both sides, verify."""

from __future__ import annotations

from collections.abc import Callable


def prepare() -> Callable[[list[str]], bool]:
    """Import it once for a worker."""
    from math_verify import parse, verify

    def compare(item: list[str]) -> bool:
        completion, reference = item
        return bool(verify(parse(reference), parse(completion)))

    return compare
