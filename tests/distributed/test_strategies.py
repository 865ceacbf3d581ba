"""Two processes compute what one does, whatever the strategy."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from conftest import STRATEGIES, Place, assert_same_learning, metrics, weights

# What else processes could disagree about: refills, mini-batches, several inner steps, replay,
# truncated completions, verdicts of workers with limits of time.
VARIED = (
    "algorithm.dynamic_sampling=2", "algorithm.minibatches=2", "algorithm.epochs=2",
    "reward_objective=pairwise_replay", "reward_objective.inner_steps=2", "pairs.per_problem=2",
    "sampling.max_new_tokens=14", "verifier=math", "reward=hybrid", "reward.gate=both",
    "trainer.max_steps=4",
)  # fmt: skip
LORA = ("adapter@policy_adapter=lora", "adapter@reward_model_adapter=lora")
ASSISTANT = ("negatives=assistant", "negatives.max_new_tokens=12", "trainer.max_steps=2")
NAN = ("+callbacks.poison._target_=parts.Poison", "trainer.max_steps=5")
ORDERS = ("+callbacks.orders._target_=parts.Orders", "trainer.max_steps=1")
HEAD = "reward_head=mean_pool"  # reads more of a row than its tokens
SHARDING = ("zero1", "zero2", "zero3", "fsdp2")


def on_one_base(place: Place) -> list[str]:
    """A base with additions for policy and reward model."""
    return [
        *LORA, "policy=hf", f"policy.path={place / 'single' / 'policy'}", "model=shared",
        "reward_model=hf", f"reward_model.path={place / 'additions' / 'reward_model'}",
        "negatives=perturb", "reward=hybrid", "trainer.max_steps=4",
    ]  # fmt: skip


def reward_training(place: Place, name: str, *more: str) -> tuple[str, list[str]]:
    """A job of cooper-train-reward."""
    (labelled,) = place.folder.glob("stages/annotation/*/labelled.jsonl")
    return "train_reward", [
        f"data.train={labelled}", f"backbone.path={place / 'single' / 'policy'}",
        "reward_training=bce", "reward_training.steps=12", "reward_training.evaluate_every=4",
        "reward_training.patience=2", "reward_training.micro_batch_tokens=200",
        "reward_training.optimizer.lr=3e-3", "trainer.accelerator=cpu", "quiet=true",
        "logger=none", "embedded=[]", f"paths.run_dir={name}", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def others(place: Place) -> Place:
    """The runs that the tests compare, beside the plain ones."""
    one = [
        reward_training(place, "reward", HEAD),
        reward_training(place, "additions", "adapter=lora", "export.form=adapter"),
        ("train", place.given("lora", None, *LORA)),
        ("train", place.given("varied", None, *VARIED)),
        ("train", place.given("nan", None, *NAN)),
        ("train", place.given("shared", None, *on_one_base(place))),
    ]
    two = []
    for strategy in ("zero2", "zero3", "fsdp2"):
        two.append(("train", place.given(f"lora_{strategy}", strategy, *LORA)))
        own = place.given("", strategy)[len(place.given("", None)) :]
        two.append(reward_training(place, f"reward_{strategy}", HEAD, *own))
    for strategy in ("ddp", "zero3", "fsdp2"):
        two.append(("train", place.given(f"varied_{strategy}", strategy, *VARIED)))
    for strategy in ("ddp", "zero1", "zero2", "fsdp2"):
        two.append(("train", place.given(f"shared_{strategy}", strategy, *on_one_base(place))))
    for strategy in ("ddp", "zero1", "zero2", "zero3", "fsdp2"):
        two.append(("train", place.given(f"nan_{strategy}", strategy, *NAN)))
    for strategy in ("zero2", "zero3"):
        given = place.given(f"assistant_{strategy}", strategy, *LORA, *ASSISTANT)
        two.append(("train", given))
    one.append(("train", place.given("orders", None, *ORDERS)))
    for strategy in SHARDING:
        two.append(("train", place.given(f"orders_{strategy}", strategy, *ORDERS)))
    place.jobs(one, 1)
    place.jobs(two, 2)
    return place


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_learn_as_one(plain: Place, strategy: str) -> None:
    # In some step there is one pair, so that a process has none.
    assert 1 in [row["pairs/built"] for row in metrics(plain / "single")[1:]]
    assert_same_learning(plain / "single", plain / strategy)
    for step in range(1, 9):  # each problem is drawn for once, and as one process draws
        one, two = (
            gzip.decompress((plain / name / "rollouts" / f"{step:06d}.jsonl.gz").read_bytes())
            for name in ("single", strategy)
        )
        drawn = [
            [(row["question"], row["completion"]) for row in map(json.loads, text.splitlines())]
            for text in (one, two)
        ]
        assert drawn[0] == drawn[1]
        assert len(drawn[0]) == 16
    for model in ("policy", "reward_model"):
        start = weights(plain / "single" / "checkpoints" / "000002" / model)
        end = weights(plain / "single" / model)
        assert max(float((end[k] - start[k]).abs().max()) for k in end) > 1e-3


@pytest.mark.parametrize("strategy", SHARDING)
def test_no_gradient_is_lost_in_any_order(others: Place, strategy: str) -> None:
    """ZeRO-3 loses all but one of them without a word, where two forwards come first."""
    one, two = (
        json.loads((others / name / "orders.json").read_text())
        for name in ("orders", f"orders_{strategy}")
    )
    assert len(set(map(round, one.values()))) == 1
    assert two == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("strategy", ["zero2", "zero3", "fsdp2"])
def test_low_rank_additions(others: Place, strategy: str) -> None:
    assert_same_learning(others / "lora", others / f"lora_{strategy}")


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "fsdp2"])
def test_one_base_for_all_models(others: Place, strategy: str) -> None:
    assert sum(row["pairs/built"] for row in metrics(others / "shared")[1:]) > 0
    assert_same_learning(others / "shared", others / f"shared_{strategy}")


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_the_assistant_is_asked_by_all(others: Place, strategy: str) -> None:
    # It draws otherwise than one process would; what it says is counted once for all.
    for row in metrics(others / f"assistant_{strategy}")[1:]:
        counts = {k: v for k, v in row.items() if k.startswith("pairs/")}
        assert sum(counts.values()) == 4


@pytest.mark.parametrize("strategy", ["ddp", "zero3", "fsdp2"])
def test_refills_minibatches_replay_and_gates(others: Place, strategy: str) -> None:
    assert any(row.get("sampling/extra_rounds") for row in metrics(others / "varied"))
    assert_same_learning(others / "varied", others / f"varied_{strategy}")


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_nan_in_one_process_skips_the_step_of_all(others: Place, strategy: str) -> None:
    rows = metrics(others / "nan")
    assert [row["policy/skipped_steps"] for row in rows[1:]] == [0, 0, 1, 1, 1]
    # The rate of a schedule stays where it was.
    assert rows[3]["policy/lr"] == rows[4]["policy/lr"]
    assert_same_learning(others / "nan", others / f"nan_{strategy}")


@pytest.mark.parametrize("strategy", ["zero2", "zero3", "fsdp2"])
def test_the_reward_models_own_training(others: Place, strategy: str) -> None:
    one, two = others / "reward", others / f"reward_{strategy}"
    assert "reward_model/heldout_auroc" in metrics(one)[-1]
    assert_same_learning(one, two, models=("reward_model",))
    assert (one / "heldout.jsonl").read_bytes() == (two / "heldout.jsonl").read_bytes()
    quality = [(run / "reward_model" / "quality.json").read_text() for run in (one, two)]
    assert quality[0].count("auroc") == quality[1].count("auroc") == 1
    assert Path(two / "summary.json").is_file()
