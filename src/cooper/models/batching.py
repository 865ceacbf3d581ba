"""How rows of many lengths are cut into batches under a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence


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
