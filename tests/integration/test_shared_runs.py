"""model=shared from end to end: a reward adapter, the run, resume, export, what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from small_runs import metrics_of
from test_lora_runs import PARITY

from cooper.cli.train_reward import main as train_reward
from cooper.models import RewardModel
from cooper.testing import write_policy, write_reward_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and the additions of a reward model to it, made by cooper-train-reward."""
    folder = tmp_path_factory.mktemp("shared")
    rows = [{"question": f"What is {n} + {n}?", "answer": f"{2 * n}"} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    labelled = [
        {
            "question": row["question"],
            "reference_answer": row["answer"],
            "completion": f"\\boxed{{{row['answer'] if label else '3'}}}",
            "label": label,
        }
        for row in rows
        for label in (1, 0)
    ]
    (folder / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))
    texts = [f"{row['question']} \\boxed{{{row['answer']}}}" for row in rows]
    write_policy(folder / "base", texts)
    write_policy(folder / "other", texts)
    write_reward_model(folder / "whole", texts)
    overrides = [
        f"data.train={folder}/labelled.jsonl", f"backbone.path={folder}/base", "adapter=lora",
        "export.form=adapter", f"paths.run_dir={folder}/rm", "reward_training=bce",
        "reward_training.steps=4", "trainer.accelerator=cpu", "quiet=true",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cooper-train-reward", *overrides])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as ended:
            train_reward()
    assert ended.value.code == 0
    assert (folder / "rm" / "reward_model" / "adapter_model.safetensors").is_file()
    return folder


def overrides(models: Path, *more: str) -> list[str]:
    return [
        "experiment=none", "data=jsonl", f"data.train={models}/rows.jsonl",
        f"data.val={models}/rows.jsonl", "policy=hf", f"policy.path={models}/base", "model=shared",
        f"reward_model.path={models}/rm/reward_model", "trainer.max_steps=4",
        "data.problems_per_step=4", "group_size=3", "sampling.max_new_tokens=8",
        "evaluation.samples=1", "evaluation.every=4", "policy_optimizer.lr=1e-3",
        "reward_model_optimizer.lr=1e-3", "verifier=exact", "verifier._target_=parity.Parity",
        "negatives=self", "algorithm.kl_coef=0.1", "quiet=true", "logger=none",
        "checkpoints.every=2", "checkpoints.keep_last=0", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_run_on_one_base_resumes_to_the_bit(
    cli: Any, models: Path, tmp_path: Path, checkpointing: bool
) -> None:
    (tmp_path / "parity.py").write_text(PARITY)
    more = (f"policy.gradient_checkpointing={checkpointing}",)
    whole = cli(*overrides(models, "paths.run_dir=whole", *more), small=False)
    assert whole.code == 0, whole.err
    rows = metrics_of(tmp_path / "whole")
    assert rows[1]["policy/kl"] == 0
    assert rows[-1]["policy/kl"] > 0
    assert any(row.get("reward_model/grad_norm", 0) > 0 for row in rows)
    for length, resume in (("2", ()), ("4", ("ckpt_path=last",))):
        part = cli(
            *overrides(models, "paths.run_dir=half", *more, *resume),
            f"trainer.max_steps={length}",
            small=False,
        )
        assert part.code == 0, part.err
    trained = ("policy/", "reward_model/", "reward/", "completions/")
    for one, other in zip(rows, metrics_of(tmp_path / "half"), strict=True):
        assert {k: v for k, v in one.items() if k.startswith(trained)} == {
            k: v for k, v in other.items() if k.startswith(trained)
        }
    # What is exported stands alone: the reward model scores without the policy's additions.
    exported = RewardModel.from_pretrained(tmp_path / "whole" / "reward_model")
    saved = RewardModel.from_pretrained(
        tmp_path / "whole" / "checkpoints" / "000004" / "reward_model"
    )
    triple = (["What is 2 + 2?"], ["4"], ["\\boxed{4}"])
    assert torch.allclose(exported.score(*triple), saved.score(*triple), atol=1e-5)


def test_the_assistant_is_the_base_and_writes_in_the_policys_batch(
    cli: Any, models: Path, tmp_path: Path
) -> None:
    """Which the trace shows; a run of two halves is one whole, to the bit."""
    (tmp_path / "parity.py").write_text(PARITY)
    given = [o for o in overrides(models) if o != "negatives=self"]
    given += ["negatives=assistant", "negatives.max_new_tokens=8", "checkpoints.every=1"]
    run = cli(*given, "paths.run_dir=r", "trainer.max_steps=2", "trace=true", small=False)
    assert run.code == 0, run.err
    events = json.loads((tmp_path / "r" / "trace" / "000000.json").read_text())
    names = [event["name"] for event in events]
    assert names.count("guests alone") == 2
    assert "join" in names
    assert "early verdict" in names
    for length, resume in (("1", ()), ("2", ("ckpt_path=last",))):
        part = cli(
            *given, *resume, "paths.run_dir=half", f"trainer.max_steps={length}", small=False
        )
        assert part.code == 0, part.err
    assert metrics_of(tmp_path / "half")[-1] == metrics_of(tmp_path / "r")[-1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["adapter@policy_adapter=full"], "policy_adapter=cooper.models.adapters.FullAdapter: "),
        (["adapter@reward_model_adapter=full"], "reward_model_adapter=cooper.models.adapters.Full"),
        (["reward_objective.ema_decay=0.9"], "reward_objective.ema_decay=0.9: the moving average"),
        (["reward_model.path=WHOLE"], "a whole model, and model=shared needs additions"),
        (["policy.path=OTHER"], "its additions belong to"),
    ],
)
def test_what_one_base_cannot_do(
    cli: Any, models: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    (tmp_path / "parity.py").write_text(PARITY)
    places = {"WHOLE": models / "whole", "OTHER": models / "other"}
    for name, place in places.items():
        more = [one.replace(name, str(place)) for one in more]
    result = cli(*overrides(models, "paths.run_dir=r", *more), small=False)
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "r").exists()
