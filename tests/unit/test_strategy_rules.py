"""Strategies that cannot be: one error that names key, value, rule and mend."""

from __future__ import annotations

import importlib.util

import pytest
from hydra import compose, initialize_config_module

from cooper.config.schema import register
from cooper.config.validate import validate
from cooper.errors import ConfigError
from cooper.strategies import ZeroStrategy

TWO = "trainer.devices=2"


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ([TWO], ["trainer.devices=2", "choose ddp, zero1, zero2, zero3 or fsdp2"]),
        (["trainer.num_nodes=2"], ["trainer.num_nodes=2", "strategy=single has one device"]),
        (["strategy=ddp", "trainer.devices=0"], ["trainer.devices=0", "give 1 or more"]),
        (
            ["strategy=zero2", TWO, "data.problems_per_step=5"],
            ["data.problems_per_step=5", "give a multiple of 2"],
        ),
        (
            ["strategy=zero2", TWO, "trainer.num_nodes=2", "data.problems_per_step=6"],
            ["data.problems_per_step=6", "each of 4 processes", "give a multiple of 4"],
        ),
        (
            ["strategy=zero2", TWO, "reward_objective.ema_decay=0.9"],
            ["reward_objective.ema_decay=0.9", "give strategy=ddp, or 0"],
        ),
        (["strategy=ddp", TWO, "+strategy.offload=true"], ["strategy.offload", "DataParallel"]),
        (["strategy=fsdp2", TWO, "+strategy.offload=true"], ["strategy.offload", "Sharded"]),
        (["strategy=zero3", TWO, "strategy.stage=4"], ["strategy.stage=4: must be one of 1, 2, 3"]),
        (
            ["strategy=zero3", TWO, "model=shared", "policy=hf", "policy.path=x", "reward=rule"],
            ["model=shared: strategy=zero3 shards the weights", "give strategy=fsdp2"],
        ),
    ],
)
def test_refused_before_anything_is_loaded(overrides: list[str], parts: list[str]) -> None:
    register()
    with initialize_config_module("cooper.conf", version_base="1.3"):
        cfg = compose("train", overrides)
    with pytest.raises(ConfigError) as refused:
        validate(cfg)
    for part in parts:
        assert part in str(refused.value)


def test_zero_without_deepspeed_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "deepspeed" else found(name)
    )
    with pytest.raises(ConfigError, match="pip install deepspeed, or give strategy=ddp or fsdp2"):
        ZeroStrategy()
