"""Golden curves: ten steps of every preset give the numbers that they gave before.

Where results are meant to move, `COOPER_WRITE_GOLDEN=1 pytest tests/integration/test_golden.py`
writes the curves anew, and CHANGELOG's "Numerics" says why.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from small_runs import metrics_of

GOLDEN = Path(__file__).with_name("golden.json")
PRESETS = sorted(
    path.stem for path in (Path(__file__).parents[2] / "conf" / "algorithm").glob("*.yaml")
)
KEYS = (
    "reward/mean", "verifier/accuracy", "policy/loss", "policy/kl", "policy/grad_norm",
    "policy/entropy", "reward_model/loss", "reward_model/margin", "reward_model/grad_norm",
    "pairs/built", "completions/mean_length", "sampling/extra_rounds",
)  # fmt: skip
# Chosen so that ten steps show every part: the default weight of the KL would be too small.
SETTINGS = (
    "trainer.max_steps=10", "negatives=mixed", "reward=hybrid", "algorithm.micro_batch_tokens=300",
    "sampling.top_p=0.98", "policy_optimizer.warmup_steps=2",
)  # fmt: skip
# The presets' curves are older than the native sampler, which draws other completions.
HF = ("sampler=hf", "sampler.batch_size=1024")
EXTRA = {"grpo": ["algorithm.minibatches=2"], "gspo": ["policy_optimizer.lr=3e-3"]}


def test_there_are_presets():
    assert {"grpo", "dr_grpo", "rloo", "dapo", "gspo", "reinforce_pp"} <= set(PRESETS)


@pytest.mark.parametrize("preset", [*PRESETS, "native"])
def test_ten_steps(cli, tmp_path, preset):
    kl = ["algorithm.kl_coef=0.1"] if preset not in ("dapo", "dr_grpo") else []
    chosen = [f"algorithm={preset}", *HF] if preset != "native" else ["sampler=native"]
    result = cli("paths.run_dir=r", *chosen, *SETTINGS, *kl, *EXTRA.get(preset, []))
    assert result.code == 0, result.err
    rows = metrics_of(tmp_path / "r")[1:]
    curve = {key: [row.get(key) for row in rows] for key in KEYS if key in rows[-1]}
    golden = json.loads(GOLDEN.read_text())
    if os.environ.get("COOPER_WRITE_GOLDEN") == "1":
        golden[preset] = {
            key: [None if v is None else float(f"{v:.7g}") for v in values]
            for key, values in curve.items()
        }
        lines = [
            f"{json.dumps(name)}: {{\n"
            + ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in golden[name].items())
            + "}"
            for name in sorted(golden)
        ]
        GOLDEN.write_text("{" + ",\n".join(lines) + "}\n")
    assert curve.keys() == golden[preset].keys()
    for key, values in curve.items():
        for step, (got, expected) in enumerate(zip(values, golden[preset][key], strict=True), 1):
            # Other CPUs round otherwise; a change of the method moves these by far more.
            near = None if expected is None else pytest.approx(expected, rel=1e-3, abs=1e-5)
            assert got == near, (key, step)
