"""Two processes with different amounts of data make as many forwards and the same losses."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from modules import module_of

from cooper.models import Policy, RewardModel
from cooper.objectives import FixedLogprobs
from cooper.testing import write_policy, write_reward_model
from cooper.types import Problem, Rollouts
from cooper.updates import Totals

LENGTHS = ((7, 3, 5, 6), (4,))  # by rank


def rollouts(lengths: tuple[int, ...], vocabulary: int) -> Rollouts:
    sizes = torch.tensor(lengths)
    rng = torch.Generator().manual_seed(1)
    return Rollouts(
        problems=tuple(Problem(str(i), "q", "7") for i in range(len(lengths))),
        prompt_ids=tuple((1 + i, 2, 3) for i in range(len(lengths))),
        problem_of=torch.arange(len(lengths)),
        ids=torch.randint(0, vocabulary, (int(sizes.sum()),), generator=rng),
        logprobs=torch.full((int(sizes.sum()),), -2.0),
        offsets=torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)]),
        finished=torch.ones(len(lengths), dtype=torch.bool),
        completions=("",) * len(lengths),
        policy_version=0,
    )


def figures(folder: str, lengths: tuple[int, ...]) -> dict[str, object]:
    """What a module of one process, or one of two, does with its data."""
    policy = Policy.from_pretrained(f"{folder}/policy")
    module = module_of(
        policy, RewardModel.from_pretrained(f"{folder}/reward"), micro_batch_tokens=10
    )
    given = rollouts(lengths, len(policy.tokenizer))
    forwards: list[int] = []
    module.policy.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, ids: forwards.append(ids[0].numel())
    )
    fixed = FixedLogprobs(given.logprobs, given.logprobs, None)
    drawn = module.logprobs(module.policy, given)
    before, totals = len(forwards), Totals()
    losses = []
    for loss in module.policy_losses(
        given, torch.arange(len(given)), fixed, torch.ones(len(given.ids)), totals
    ):
        loss.backward()
        losses.append(float(loss.detach()))
    gradient = sum(float(p.grad.double().square().sum()) for p in module.policy.parameters())
    return {
        "logprobs": [round(x, 6) for x in drawn.tolist()],
        "forwards": [before, len(forwards) - before],
        "losses": losses,
        "gradient": gradient,
        "shares": totals.shares,
    }


def one_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    Path(folder, f"{rank}.json").write_text(json.dumps(figures(folder, LENGTHS[rank])))
    dist.destroy_process_group()


def test_the_short_rank_adds_forwards_that_do_not_count(tmp_path: Path) -> None:
    write_policy(tmp_path / "policy", ["some words to train a tokenizer on"])
    write_reward_model(tmp_path / "reward", ["some words to train a tokenizer on"])
    mp.spawn(one_rank, args=(str(tmp_path),), nprocs=2)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    alone = [figures(str(tmp_path), lengths) for lengths in LENGTHS]
    assert [found["forwards"][1] for found in alone] == [4, 1]
    for found, own in zip(ranks, alone, strict=True):
        assert found["forwards"][1] == 4
        assert found["losses"] == own["losses"] + [0.0] * (4 - len(own["losses"]))
        for name in ("gradient", "shares", "logprobs"):
            assert found[name] == own[name], name
