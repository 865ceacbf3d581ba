"""Packed log-probabilities and gradients are those of the padded computation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cooper.models import Policy, load_causal_lm, load_tokenizer
from cooper.models.packing import NAME, Pack, can_pack
from cooper.testing import write_policy
from cooper.types import Problem, Rollouts


def rollouts(vocabulary: int, groups: Sequence[tuple[int, Sequence[int]]]) -> Rollouts:
    """Random tokens: each group a prompt's length and its completions' lengths."""
    rng = torch.Generator().manual_seed(1)
    sizes = torch.tensor([size for _, lengths in groups for size in lengths])
    owners = [i for i, (_, lengths) in enumerate(groups) for _ in lengths]
    return Rollouts(
        problems=tuple(Problem(str(i), "q", "7") for i in range(len(groups))),
        prompt_ids=tuple(
            tuple(torch.randint(0, vocabulary, (length,), generator=rng).tolist())
            for length, _ in groups
        ),
        problem_of=torch.tensor(owners),
        ids=torch.randint(0, vocabulary, (int(sizes.sum()),), generator=rng),
        logprobs=torch.zeros(int(sizes.sum())),
        offsets=torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)]),
        finished=torch.ones(len(owners), dtype=torch.bool),
        completions=("",) * len(owners),
        policy_version=0,
    )


GROUPS = ((6, (5, 20, 9)), (1, (1, 4, 7)), (30, (2, 2, 40)))


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Policy]:
    """The same policy, once packed and once padded: eager attention cannot be replaced."""
    folder = str(tmp_path_factory.mktemp(request.param))
    write_policy(folder, ["some words to train a tokenizer on"], family=request.param)
    return [
        Policy(load_causal_lm(folder, attn_implementation=how), load_tokenizer(folder))
        for how in (None, "eager")
    ]


def scored(policy: Policy, given: Rollouts, rows: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    policy.zero_grad()
    logprobs = policy(given, rows).logprobs
    weights = torch.randn(len(logprobs), generator=torch.Generator().manual_seed(2))
    (logprobs * weights).sum().backward()
    return logprobs.detach(), [p.grad.clone() for p in policy.parameters() if p.grad is not None]


@pytest.mark.parametrize("rows", [range(9), [8, 0, 4, 2, 6], [3], [7, 8]], ids=str)
def test_packed_is_padded(pair: list[Policy], rows: Sequence[int]) -> None:
    given = rollouts(len(pair[0].tokenizer), GROUPS)
    assert [can_pack(policy.model) for policy in pair] == [True, False]
    (packed, ours), (padded, theirs) = (scored(policy, given, rows) for policy in pair)
    assert torch.allclose(packed, padded, rtol=0, atol=1e-5)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("whole", [False, True])
def test_the_layout_by_hand(whole: bool) -> None:
    """Two completions of one prompt between which another group's stands."""
    pack = Pack.of(
        [[1, 2], [9], [1, 2]],
        [torch.tensor([3]), torch.tensor([7, 8]), torch.tensor([4, 5, 6])],
        [0, 1, 0],
        torch.device("cpu"),
        whole,
    )
    assert pack.ids.tolist() == [[1, 2, 3, 4, 5, 6, 9, 7, 8]]
    assert pack.positions.tolist() == [[0, 1, 2, 2, 3, 4, 0, 1, 2]]
    # 3 and 4 are both predicted at the prompt's last place; 7 at the other prompt's.
    assert pack.predictors.tolist() == [1, 6, 7, 1, 3, 4]
    (first, *others) = pack.buckets
    if whole:  # each sequence looks at itself; the second one's prompt is computed in vain
        assert not others
        assert first.queries.tolist() == [[0, 1, 3, 4, 5], [0, 1, 2, 0, 0], [6, 7, 8, 0, 0]]
        assert torch.equal(first.keys, first.queries)
        assert first.mask is None
        assert first.kept.tolist() == [2, 3, 4, 5, 6, 7, 10, 11, 12]
        assert pack.scatter.tolist() == [3, 4, 5, 0, 1, 2, 6, 7, 8]
        return
    # The prompt and the sequence that stands alone; then what stands behind the prompt.
    (behind,) = others
    assert first.queries.tolist() == first.keys.tolist() == [[6, 7, 8], [0, 1, 0]]
    assert first.mask is None
    assert behind.queries.tolist() == [[3, 4, 5], [2, 0, 0]]
    assert behind.keys.tolist() == [[0, 1, 3, 4, 5], [0, 1, 2, 0, 0]]
    assert behind.mask is not None
    assert behind.mask.int().tolist() == [[[[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1] * 5]]] * 2
    assert behind.kept.tolist() == [0, 1, 2, 3]
    assert pack.scatter.tolist() == [3, 4, 8, 5, 6, 7, 0, 1, 2]


@pytest.mark.parametrize("rows", [range(9), [8, 0, 4, 2, 6]], ids=str)
def test_a_gpus_layout_computes_the_same(
    pair: list[Policy], rows: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = rollouts(len(pair[0].tokenizer), GROUPS)
    ours, gradients = scored(pair[0], given, rows)
    monkeypatch.setattr(Pack.of.__func__, "__defaults__", (True,))
    theirs, others = scored(pair[0], given, rows)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5)
    assert not torch.equal(ours, theirs)  # it was the other one
    for one, other in zip(gradients, others, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)


def test_a_groups_prompt_is_computed_once(pair: list[Policy]) -> None:
    given = rollouts(len(pair[0].tokenizer), GROUPS)
    seen: list[int] = []
    policy = copy.deepcopy(pair[0])
    policy.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, ids: seen.append(ids[0].numel())
    )
    with torch.no_grad():
        policy(given, range(9))  # the first time, the model is asked on two tokens what it does
        seen.clear()
        policy(given, range(9))
    assert seen == [sum(prompt + sum(lengths) for prompt, lengths in GROUPS)]


def test_other_calls_of_the_model_are_sdpa(pair: list[Policy], tmp_path: Path) -> None:
    policy = pair[0]
    assert can_pack(policy.model)
    ids = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[0, :3] = 0
    with torch.no_grad():
        ours = policy.model(input_ids=ids, attention_mask=mask).logits
        policy.model.save_pretrained(tmp_path)
        plain = load_causal_lm(str(tmp_path))
        assert plain.config._attn_implementation == "sdpa"
        assert torch.equal(plain(input_ids=ids, attention_mask=mask).logits, ours)
    assert policy.model.config._attn_implementation == NAME
