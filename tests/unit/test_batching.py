"""Cutting rows into micro-batches under a budget of tokens, by hand."""

from __future__ import annotations

from cooper.models.batching import cut_packed, cut_padded


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


def test_nothing() -> None:
    assert cut_packed([], 10) == []
    assert cut_padded({}, 10) == []
