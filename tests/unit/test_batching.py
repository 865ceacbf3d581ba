"""Cutting rows into micro-batches under a budget of tokens, by hand."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

from cooper.models.batching import common_start, cut_packed, cut_padded, share_starts


def test_a_groups_prompt_counts_once_and_groups_stay_together() -> None:
    groups = [(4, {0: 3, 1: 2}), (5, {2: 6}), (2, {3: 1, 4: 1})]  # 9, 11 and 4 tokens
    assert cut_packed(groups, 24) == [[0, 1, 2, 3, 4]]
    assert cut_packed(groups, 23) == [[0, 1, 2], [3, 4]]
    assert cut_packed(groups, 19) == [[0, 1], [2, 3, 4]]
    assert cut_packed(groups, 11) == [[0, 1], [2], [3, 4]]


def test_a_group_that_is_too_large_is_divided_and_its_prompt_counts_again() -> None:
    # 4 + 3 + 3 fills a pack of 10; the last one takes the prompt again and leaves room for 3.
    assert cut_packed([(4, {0: 3, 1: 3, 2: 3}), (1, {3: 2})], 10) == [[0, 1], [2, 3]]
    assert cut_packed([(4, {0: 3, 1: 3, 2: 3}), (1, {3: 3})], 10) == [[0, 1], [2], [3]]
    # What is begun in the room that others left counts its prompt there.
    assert cut_packed([(1, {0: 2}), (4, {1: 3, 2: 3, 3: 3})], 10) == [[0, 1], [2, 3]]


def test_a_row_that_is_too_long_stands_alone() -> None:
    assert cut_packed([(4, {0: 30, 1: 1})], 10) == [[0], [1]]
    assert cut_padded({0: 3, 1: 30, 2: 3}, 10) == [[1], [0, 2]]


def test_padding_counts() -> None:
    assert cut_padded({0: 5, 1: 2, 2: 4, 3: 1}, 12) == [[0, 2], [1, 3]]
    assert cut_padded({0: 5, 1: 2, 2: 4, 3: 1}, 5) == [[0], [2], [1, 3]]


def test_what_two_rows_begin_with() -> None:
    assert common_start([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_start([1, 2], [1, 2, 4, 5]) == 2
    assert common_start([1, 2], [1, 2]) == 2
    assert common_start([1, 2], [2, 1]) == 0
    assert common_start([], [1]) == 0


def test_rows_that_begin_alike_share_their_start() -> None:
    rows = [[1, 2, 3, 4], [7, 8], [1, 2, 3, 5, 6], [9], [7, 8]]
    assert share_starts(rows) == [(3, [0, 2]), (2, [1, 4]), (1, [3])]
    # Two groups of a long start save 8, one of a short start 6.
    rows = [[1, 1, 2, 2, 2, 3], [1, 1, 2, 2, 2, 4], [1, 1, 5, 3], [1, 1, 5, 4]]
    assert share_starts(rows) == [(5, [0, 1]), (3, [2, 3])]
    # Here one group of three saves 4, and any two of them 3 at most.
    assert share_starts([[1, 1, 2, 9], [1, 1, 2, 8], [1, 1, 3]]) == [(2, [1, 0, 2])]


def test_no_parting_of_sorted_rows_saves_more() -> None:
    rng = random.Random(5)
    for _ in range(200):
        rows = [
            [rng.randint(0, 1) for _ in range(rng.randint(1, 6))] for _ in range(rng.randint(1, 6))
        ]
        groups = share_starts(rows)
        assert sorted(row for _, group in groups for row in group) == list(range(len(rows)))
        for share, group in groups:
            assert len({tuple(rows[row][:share]) for row in group}) == 1
            assert all(len(rows[row]) >= share for row in group)
        saved = sum(share * (len(group) - 1) for share, group in groups)
        assert saved == max(stretches_save(sorted(rows)))


def stretches_save(rows: list[list[int]]) -> list[int]:
    """What each way to cut a list into stretches saves."""
    found = []
    for cuts in range(len(rows)):
        for places in combinations(range(1, len(rows)), cuts):
            bounds = [0, *places, len(rows)]
            parts = [rows[a:b] for a, b in pairwise(bounds)]
            found.append(sum((len(part) - 1) * common_start(part[0], part[-1]) for part in parts))
    return found


def test_nothing() -> None:
    assert cut_packed([], 10) == []
    assert cut_padded({}, 10) == []
    assert share_starts([]) == []
