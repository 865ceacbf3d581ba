"""The README's examples for other projects, as they stand there, each in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cooper.testing import write_policy, write_reward_model

README = Path(__file__).resolve().parents[2] / "README.md"
PROBLEMS = [(f"What is {a} + {b}?", str(a + b)) for a, b in ((3, 4), (5, 8), (2, 9), (6, 6))]
# What an example leaves behind, told by its last line.
TOLD = "\nimport json as _json\nprint('TOLD', _json.dumps({told}))\n"


def examples(heading: str) -> dict[str, str]:
    """The Python blocks below a heading of the README, by the heading right above each."""
    text = README.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = {}
    for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```python\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL)
        assert len(blocks) == 1, part.splitlines()[0]
        found[part.splitlines()[0]] = blocks[0]
    return found


EXAMPLES = examples("In your own project")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a user would run them: problems, and two checkpoints in Hugging Face form."""
    folder = tmp_path_factory.mktemp("project")
    texts = [f"{question} So the answer is \\boxed{{{answer}}}." for question, answer in PROBLEMS]
    write_policy(folder / "checkpoints" / "policy", texts)
    write_reward_model(folder / "checkpoints" / "reward_model", texts)
    rows = [json.dumps({"question": question, "answer": answer}) for question, answer in PROBLEMS]
    (folder / "train.jsonl").write_text("\n".join(rows), "utf-8")
    return folder


def run(code: str, folder: Path, told: str = "None") -> Any:
    """Run an example as a script; gives what it tells, and nothing of it runs on afterwards."""
    script = folder / "script.py"
    script.write_text(code + TOLD.format(told=told), "utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    with pytest.raises(ProcessLookupError):  # the session holds nobody any more
        os.killpg(process.pid, 0)
    (line,) = [line for line in out.splitlines() if line.startswith("TOLD ")]
    return json.loads(line.removeprefix("TOLD "))


def test_each_example_is_short() -> None:
    assert list(EXAMPLES) == [
        "Both models in your own Lightning Trainer",
        "In TRL",
        "In veRL",
        "In a plain torch loop",
    ]
    for name, code in EXAMPLES.items():
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) < 20, f"{name}: {len(lines)} lines"


def test_lightning_trains_for_two_steps_and_saves_both_models(folder: Path) -> None:
    told = run(
        EXAMPLES["Both models in your own Lightning Trainer"],
        folder,
        "[module.rl_step, len(module.last.verdicts), sorted(module.last.metrics)]",
    )
    steps, verdicts, metrics = told
    assert (steps, verdicts) == (2, 8)
    assert {"reward/mean", "policy/kl", "verifier/accuracy", "pairs/built"} <= set(metrics)
    moved = load_file(folder / "policy" / "model.safetensors")
    start = load_file(folder / "checkpoints" / "policy" / "model.safetensors")
    assert moved.keys() == start.keys()
    assert any(not torch.equal(moved[name], start[name]) for name in start)
    assert (folder / "reward_model" / "config.json").is_file()
    assert (folder / "policy" / "tokenizer.json").is_file()
    assert list((folder / "lightning_logs").glob("*/events*"))  # MetricsLog told the logger


@pytest.mark.skipif(
    importlib.util.find_spec("trl") is None,
    reason="needs the extra trl, which .[dev] and so .ci/run install",
)
@pytest.mark.parametrize("form", ["text", "chat"])
def test_trl_trains_for_two_steps_on_both_rewards(folder: Path, form: str) -> None:
    rows = []
    for number, (question, answer) in enumerate(PROBLEMS):
        chat = [{"role": "user", "content": question}]
        # A row without a reference has no reward of ours: None, which TRL leaves out.
        solution = None if form == "chat" and number == 0 else answer
        rows.append({"prompt": chat if form == "chat" else question, "solution": solution})
    (folder / "trl.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    steps, logs = run(
        EXAMPLES["In TRL"], folder, "[trainer.state.global_step, trainer.state.log_history]"
    )
    assert steps == 2
    figures = {name: value for log in logs for name, value in log.items()}
    # The tiny policy writes noise, which is never CORRECT; the model's score lies inside (0, 1).
    assert figures["rewards/verifier/mean"] == 0
    assert 0 < figures["rewards/reward_model/mean"] < 1
    assert figures["rewards/reward_model/std"] > 0
    assert 0 <= figures["verifier/undecided"] < 1


def test_verl_gets_the_rule_and_the_model_where_the_rule_is_undecided(folder: Path) -> None:
    # As veRL's NaiveRewardManager calls it: by keyword, in a pool of threads, with what it adds.
    call = """
import concurrent.futures

def _call(solution, truth):
    more = {"question": "What is 3 + 4?", "num_turns": None, "rollout_reward_scores": {}}
    return compute_score(
        data_source="mine", solution_str=solution, ground_truth=truth, extra_info=more,
        reward_router_address=None, reward_model_tokenizer=None,
    )

with concurrent.futures.ThreadPoolExecutor(8) as _pool:
    _told = list(_pool.map(_call, *zip(*[
        ("So the answer is \\\\boxed{7}.", "7"), ("So the answer is \\\\boxed{8}.", "7"),
        ("It is \\\\boxed{7}.", ""), ("It is \\\\boxed{7}.", "")])))
"""
    right, wrong, open_, again = run(EXAMPLES["In veRL"] + call, folder, "_told")
    assert right == {"score": 1.0, "acc": 1.0, "undecided": 0.0, "pred": "7"}
    assert wrong == {"score": 0.0, "acc": 0.0, "undecided": 0.0, "pred": "8"}
    assert (open_["acc"], open_["undecided"]) == (0.0, 1.0)
    assert 0 < open_["score"] < 1
    assert again["score"] == pytest.approx(open_["score"], abs=1e-6)


def test_a_plain_loop_takes_advantages_losses_and_negatives(folder: Path) -> None:
    told = run(
        EXAMPLES["In a plain torch loop"],
        folder,
        "[advantages.tolist(), logprobs.grad.tolist(), logits.grad.tolist(), wrong]",
    )
    advantages, policy_grad, model_grad, wrong = told
    # Rewards 1, 0: mean .5, sample standard deviation sqrt(.5).
    one = 0.5 / (0.5**0.5 + 1e-6)
    assert advantages == pytest.approx([one, -one, -one, one])
    # The ratio is 1, so the gradient of the mean loss is -A / 4.
    assert policy_grad == pytest.approx([-a / 4 for a in advantages])
    assert model_grad == pytest.approx([-0.5, 0.5])  # sigma(0) - 1, and its opposite
    assert wrong is not None
    assert wrong != "3 + 4 = 7. So the answer is \\boxed{7}."
