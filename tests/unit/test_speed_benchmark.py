"""benchmarks/speed: its floor by hand, its check, and README's tables beside its results."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2Config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "speed"


def part(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"speed_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


floor, summary = part("floor"), part("summary")
RESULTS: dict[str, Any] = json.loads((FOLDER / "results.json").read_text())


def test_the_floor_of_a_small_model_by_hand() -> None:
    config = Qwen2Config(
        vocab_size=10, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    sizes = floor.Sizes.of(config)
    # A layer: queries and outputs 2 * 64, keys and values 2 * 32, MLP 3 * 96.
    assert sizes == floor.Sizes(linear=2 * 480, attention=2 * 16, head=80)
    # 3 tokens see 1 + 2 + 3 tokens; behind 4 others, 3 * 4 more.
    assert floor.sequence(sizes, 3) == 2 * (3 * 960 + 6 * 32)
    assert floor.sequence(sizes, 3, before=4) == 2 * (3 * 960 + 18 * 32)
    # The prompt once; of completions of 4 and 1 tokens the last predict nothing; 5 predictions.
    expected = floor.sequence(sizes, 6) + floor.sequence(sizes, 3, 6) + 2 * 80 * 5
    assert floor.groups(sizes, [6], [[4, 1]]) == expected
    # [1, 2] is computed once, and [1, 2, 3] too.
    rows = [[1, 2, 3, 4], [5], [1, 2, 3, 9], [1, 2]]
    expected = (
        floor.sequence(sizes, 2) + floor.sequence(sizes, 2, 2) + floor.sequence(sizes, 1, 3)
        + floor.sequence(sizes, 1)
    )  # fmt: skip
    assert floor.rows(sizes, rows) == expected


def test_readme_shows_the_results() -> None:
    readme = (ROOT / "README.md").read_text()
    assert summary.with_tables(readme, RESULTS) == readme
    other = copy.deepcopy(RESULTS)
    other["base"]["step"]["TRL"]["seconds"]["step"] += 1
    assert summary.with_tables(readme, other) != readme


def test_the_baseline_is_of_the_results() -> None:
    assert json.loads(summary.BASELINE.read_text()) == summary.ratios(RESULTS)


def test_the_check_fails_where_a_ratio_is_a_fifth_worse(
    capsys: pytest.CaptureFixture[str],
) -> None:
    summary.check(RESULTS)
    assert capsys.readouterr().out.count("baseline") == len(summary.ratios(RESULTS))
    for factor, fails in ((1.19, False), (1.21, True)):
        slower = copy.deepcopy(RESULTS)
        slower["base"]["step"]["ours"]["to_floor"]["step"] *= factor
        if fails:
            with pytest.raises(SystemExit, match=r"our step to its floor: .* at most 1\.2 times"):
                summary.check(slower)
        else:
            summary.check(slower)


def test_medians_are_over_the_steps_of_all_processes() -> None:
    def run(*seconds: float) -> dict[str, Any]:
        rows = [
            {"seconds": {"generate": s / 2, "step": s}, "tokens": 1000, "longest": 5}
            for s in seconds
        ]
        return {"rows": rows, "peak_gib": seconds[0]}

    found = summary.of_kind([run(1.0, 9.0), run(2.0, 3.0, 4.0)])
    assert found["seconds"] == {"generate": 1.5, "step": 3.0}
    assert found["us_per_token"] == 3000
    assert found["peak_gib"] == 1.5
