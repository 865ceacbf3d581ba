"""Named generators: the same everywhere, and apart by purpose."""

from __future__ import annotations

import hashlib

import torch

from cooper.rng import draw, generator, pick, seed_of, uniform


def test_seed_is_the_digest_of_seed_and_purpose() -> None:
    digest = hashlib.sha256(b"3:pairs").hexdigest()[:16]
    assert seed_of(3, "pairs") == int(digest, 16) // 2
    assert seed_of(3, "pairs") < 2**63


def test_purposes_and_seeds_differ() -> None:
    seeds = {seed_of(s, p) for s in range(5) for p in ("sampling", "pairs", "epoch 1", "epoch 11")}
    assert len(seeds) == 20


def test_same_name_same_numbers() -> None:
    first = [draw(generator(1, "x"), 1000) for _ in range(2)]
    assert first[0] == first[1]
    assert draw(generator(1, "y"), 10**9) != draw(generator(1, "x"), 10**9)


def test_draws_cover_their_range() -> None:
    rng = generator(0, "x")
    assert {draw(rng, 3) for _ in range(50)} == {0, 1, 2}
    assert {pick("abc", rng) for _ in range(50)} == set("abc")
    numbers = [uniform(rng) for _ in range(200)]
    assert 0 <= min(numbers) < 0.1
    assert 0.9 < max(numbers) < 1


def test_the_global_generator_stays() -> None:
    before = torch.get_rng_state()
    rng = generator(0, "x")
    draw(rng, 3), pick("ab", rng), uniform(rng)
    assert torch.equal(before, torch.get_rng_state())
