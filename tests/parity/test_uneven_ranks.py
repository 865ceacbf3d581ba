"""Two processes share a step: as many forwards each, and together the gradient of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from modules import module_of

from cooper.models import Policy, RewardModel
from cooper.objectives import FixedLogprobs
from cooper.reward_examples import Contrast, RewardExamples
from cooper.testing import write_policy, write_reward_model
from cooper.types import Problem, Rollouts
from cooper.updates import Totals

LENGTHS = (27, 3, 5, 6, 4)  # the long one is more than half


def rollouts(vocabulary: int) -> Rollouts:
    sizes = torch.tensor(LENGTHS)
    rng = torch.Generator().manual_seed(1)
    return Rollouts(
        problems=tuple(Problem(str(i), "q", "7") for i in range(len(LENGTHS))),
        prompt_ids=tuple((1 + i, 2, 3) for i in range(len(LENGTHS))),
        problem_of=torch.arange(len(LENGTHS)),
        ids=torch.randint(0, vocabulary, (int(sizes.sum()),), generator=rng),
        logprobs=torch.full((int(sizes.sum()),), -2.0),
        offsets=torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)]),
        finished=torch.ones(len(LENGTHS), dtype=torch.bool),
        completions=("",) * len(LENGTHS),
        policy_version=0,
    )


def figures(folder: str) -> dict[str, list[float]]:
    """What a module of one process, or one of two, does with a step's data."""
    policy = Policy.from_pretrained(f"{folder}/policy")
    module = module_of(
        policy, RewardModel.from_pretrained(f"{folder}/reward"), micro_batch_tokens=10
    )
    given = rollouts(len(policy.tokenizer))
    forwards: list[int] = []
    assert module.reward_model is not None
    models = {"policy": module.policy, "reward_model": module.reward_model}
    for model in models.values():
        model.prepare()
        model.model.get_input_embeddings().register_forward_pre_hook(
            lambda _, ids: forwards.append(ids[0].numel())
        )
    fixed = FixedLogprobs(given.logprobs, given.logprobs, None)
    drawn = module.logprobs(module.policy, given)
    # One pair, so that one of the processes has none.
    examples = RewardExamples((Contrast("a question", "7", "so 7", "perhaps so 8"),))
    totals, found = Totals(), {"logprobs": drawn.tolist()}
    for name, losses in (
        (
            "policy",
            module.policy_losses(
                given, torch.arange(len(given)), fixed, torch.ones(len(given.ids)), totals
            ),
        ),
        ("reward_model", module.reward_model_losses(examples, totals)),
    ):
        forwards.clear()
        found[f"{name} losses"] = []
        for loss in losses:
            loss.backward()
            found[f"{name} losses"].append(float(loss.detach()))
        found[f"{name} forwards"] = [len(forwards)]
        gradients = [p.grad.flatten() for p in models[name].parameters() if p.grad is not None]
        found[f"{name} gradient"] = torch.cat(gradients).tolist()
    totals.share_out()
    found["shares"] = list(totals.shares.values())
    return found


def one_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    Path(folder, f"{rank}.json").write_text(json.dumps(figures(folder)))
    dist.destroy_process_group()


def test_two_processes_share_a_step(tmp_path: Path) -> None:
    write_policy(tmp_path / "policy", ["some words to train a tokenizer on"])
    write_reward_model(tmp_path / "reward", ["some words to train a tokenizer on"])
    mp.spawn(one_rank, args=(str(tmp_path),), nprocs=2)
    two = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    alone = figures(str(tmp_path))
    for name in ("policy", "reward_model"):
        forwards = [found[f"{name} forwards"] for found in two]
        assert forwards[0] == forwards[1] == [len(two[0][f"{name} losses"])]
        total = torch.tensor([found[f"{name} gradient"] for found in two]).sum(0)
        expected = torch.tensor(alone[f"{name} gradient"])
        torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-7)
        assert sum(map(sum, (f[f"{name} losses"] for f in two))) == pytest.approx(
            sum(alone[f"{name} losses"]), rel=1e-5
        )
    assert two[0]["policy losses"][-1] == 0 or two[1]["policy losses"][-1] == 0
    assert [0.0] in (two[0]["reward_model losses"], two[1]["reward_model losses"])
    for name in ("logprobs", "shares"):
        assert two[0][name] == two[1][name]
        assert two[0][name] == pytest.approx(alone[name], rel=1e-5, abs=1e-6)
