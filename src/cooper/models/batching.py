"""How rows of many lengths are cut into batches under a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def cut_packed(groups: Sequence[tuple[int, dict[int, int]]], tokens: int) -> list[list[int]]:
    """Cut rows of some groups into packs of at most so many tokens, or of one row.

    A group that fits into a pack is not divided, so that its prompt is computed once.

    Args:
        groups: tokens of the prompt, and of each row's completion.
        tokens: of a pack.
    """
    packs: list[list[int]] = []
    room = 0
    for prompt, rows in groups:
        whole = prompt + sum(rows.values())
        if whole <= tokens:
            if not packs or whole > room:
                packs.append([])
                room = tokens
            packs[-1] += rows
            room -= whole
            continue
        begun = False  # whether the open pack has the prompt
        for row, length in rows.items():
            if not packs or length + (0 if begun else prompt) > room:
                packs.append([])
                room, begun = tokens, False
            packs[-1].append(row)
            room -= length + (0 if begun else prompt)
            begun = True
    return packs


def cut_padded(lengths: dict[int, int], tokens: int) -> list[list[int]]:
    """Cut rows, the longest first, into batches of at most so many padded tokens, or of one row.

    Args:
        lengths: tokens of each row.
        tokens: of a batch.
    """
    batches: list[list[int]] = []
    longest = 0
    for row in sorted(lengths, key=lambda row: (-lengths[row], row)):
        if not batches or (len(batches[-1]) + 1) * longest > tokens:
            batches.append([])
            longest = lengths[row]
        batches[-1].append(row)
    return batches


def common_start(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows have in common at their start."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # equal up to `low`, not beyond `high`
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


_NEIGHBOURS = 64  # rows of one group at most


def share_starts(rows: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """Part rows into groups so that most tokens are saved by computing a group's start once.

    Sorted, rows that begin alike are neighbours; a group is a stretch of them, and the stretches
    are the best ones there are (dynamic programming).

    Args:
        rows: N rows of ids.

    Returns:
        of each group the number of tokens that its rows share, and its rows' indices.
    """
    order = sorted(range(len(rows)), key=lambda i: list(rows[i]))
    sorted_rows = [rows[i] for i in order]
    near = [common_start(*two) for two in pairwise(sorted_rows)]
    # Of the first n rows: tokens saved, and where the last group begins and what it shares.
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for stop in range(1, len(order) + 1):
        share = len(sorted_rows[stop - 1])
        found = (best[stop - 1][0], stop - 1, share)
        for start in range(stop - 2, max(stop - 1 - _NEIGHBOURS, -1), -1):
            share = min(share, near[start])
            if not share:
                break
            saved = best[start][0] + (stop - 1 - start) * share
            if saved > found[0]:
                found = (saved, start, share)
        best.append(found)
    groups: list[tuple[int, list[int]]] = []
    stop = len(order)
    while stop:
        _, start, share = best[stop]
        groups.append((share, order[start:stop]))
        stop = start
    return groups[::-1]
