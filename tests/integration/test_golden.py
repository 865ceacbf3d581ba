"""A golden curve: ten steps of the whole method give the numbers that they gave before.

Where results are meant to move, `COOPER_WRITE_GOLDEN=1 pytest tests/integration/test_golden.py`
writes the curve anew, and CHANGELOG's "Numerics" says why.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from small_runs import metrics_of

GOLDEN = Path(__file__).with_name("golden.json")
KEYS = (
    "reward/mean", "verifier/accuracy", "policy/loss", "policy/kl", "policy/grad_norm",
    "policy/entropy", "reward_model/loss", "reward_model/margin", "reward_model/grad_norm",
    "pairs/built", "completions/mean_length",
)  # fmt: skip


def test_ten_steps(cli, tmp_path):
    # The default weight of the KL is too small for ten steps to show it.
    result = cli(
        "paths.run_dir=r", "trainer.max_steps=10", "negatives=mixed", "reward=hybrid",
        "algorithm.minibatches=2", "algorithm.micro_batch_size=5", "sampling.top_p=0.98",
        "algorithm.kl_coef=0.1",
    )  # fmt: skip
    assert result.code == 0, result.err
    curve = [{k: row.get(k) for k in KEYS} for row in metrics_of(tmp_path / "r")[1:]]
    if os.environ.get("COOPER_WRITE_GOLDEN") == "1":
        GOLDEN.write_text(json.dumps(curve, indent=1) + "\n")
    for step, (got, expected) in enumerate(
        zip(curve, json.loads(GOLDEN.read_text()), strict=True), start=1
    ):
        for key in KEYS:
            # Other CPUs round otherwise; a change of the method moves these by far more.
            wanted = expected[key]
            near = None if wanted is None else pytest.approx(wanted, rel=1e-3, abs=1e-5)
            assert got[key] == near, (step, key)
