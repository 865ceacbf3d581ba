"""Every reward in conf/reward goes through the contract of `cooper.rewards.Reward`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cooper.rewards import Reward, Rewards
from cooper.types import Verdict

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "reward"
FILES = sorted(FOLDER.glob("*.yaml"))
LETTERS = "CIUCIICCUUII"
GROUPS = torch.tensor([0, 0, 0, 3, 3, 3, 1, 1, 1, 2, 2, 2])
VerdictsOf = Callable[[str], list[Verdict]]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def reward(request: pytest.FixtureRequest) -> Reward:
    return instantiate(OmegaConf.load(request.param), _convert_="all")


@pytest.fixture
def scores() -> torch.Tensor:
    return torch.rand(len(LETTERS), generator=torch.Generator().manual_seed(0))


def same(left: Rewards, right: Rewards) -> bool:
    return all(
        torch.equal(getattr(left, name), getattr(right, name))
        for name in ("values", "keep", "learn")
    )


def rows_of(rewards: Rewards, rows: torch.Tensor) -> Rewards:
    gated = None if rewards.gated is None else rewards.gated[rows]
    return Rewards(rewards.values[rows], rewards.keep[rows], gated)


def test_there_are_rewards() -> None:
    assert {"rule", "static", "cooper", "hybrid"} <= {path.stem for path in FILES}


def test_one_reward_each_between_zero_and_one(
    reward: Reward, verdicts_of: VerdictsOf, scores: torch.Tensor
) -> None:
    given = scores.clone()
    got = reward(verdicts_of(LETTERS), given, GROUPS)
    assert got.values.shape == got.keep.shape == (len(LETTERS),)
    assert got.values.dtype is torch.float32
    assert got.keep.dtype is got.learn.dtype is torch.bool
    assert bool(((got.values >= 0) & (got.values <= 1)).all())
    assert torch.equal(given, scores)  # what was given stays


def test_says_whether_it_needs_and_trains_a_model(
    reward: Reward, verdicts_of: VerdictsOf, scores: torch.Tensor
) -> None:
    assert isinstance(reward.needs_model, bool)
    assert isinstance(reward.trains_model, bool)
    assert reward.needs_model or not reward.trains_model
    verdicts = verdicts_of(LETTERS)
    if reward.needs_model:
        with pytest.raises(ValueError, match="needs reward-model scores"):
            reward(verdicts, None, GROUPS)
    else:
        assert same(reward(verdicts, None, GROUPS), reward(verdicts, scores, GROUPS))


def test_which_of_the_shipped_train_the_model() -> None:
    trains = {
        path.stem: instantiate(OmegaConf.load(path), _convert_="all").trains_model for path in FILES
    }
    for name, expected in {"rule": False, "static": False, "cooper": True, "hybrid": True}.items():
        assert trains[name] is expected


def test_right_is_never_rewarded_below_wrong(reward: Reward, verdicts_of: VerdictsOf) -> None:
    equal = torch.full((2,), 0.3)
    got = reward(verdicts_of("CI"), equal, torch.tensor([0, 0]))
    assert float(got.values[0]) >= float(got.values[1])


def test_order_and_other_groups_do_not_matter(
    reward: Reward, verdicts_of: VerdictsOf, scores: torch.Tensor
) -> None:
    got = reward(verdicts_of(LETTERS), scores, GROUPS)
    mixed = torch.randperm(len(LETTERS), generator=torch.Generator().manual_seed(1))
    letters = "".join(LETTERS[i] for i in mixed.tolist())
    shuffled = reward(verdicts_of(letters), scores[mixed], GROUPS[mixed])
    assert same(shuffled, rows_of(got, mixed))
    for problem in range(4):
        rows = (problem == GROUPS).nonzero().flatten()
        letters = "".join(LETTERS[i] for i in rows.tolist())
        alone = reward(verdicts_of(letters), scores[rows], GROUPS[rows])
        assert same(alone, rows_of(got, rows))


def test_no_rollouts(reward: Reward) -> None:
    got = reward([], torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert got.values.shape == got.keep.shape == (0,)
