"""Collect the runs of run.py into results.json and results.md.

python experiments/variants/collect.py [--runs runs/variants]

The reward model's figures are measured here, on the completions that its first training held out:
once against the first stage's own labels (rule and judge, the judge's weakness included), once
against the evaluation's verifier, which knows every right answer and which no training ever asks.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cooper.annotation import LABELLED
from cooper.data.arithmetic import ArithmeticOracle
from cooper.data.labelled import read_labelled
from cooper.metrics import quality
from cooper.models import RewardModel, load_reward_model, load_tokenizer
from cooper.reward_training import RewardTraining
from cooper.run_folder import RunFolder
from cooper.types import LabelledCompletion

HERE = Path(__file__).parent
TEST = "val/arithmetic_test"
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, n - 1 degrees of freedom


def heldout_of(config: Any) -> list[LabelledCompletion]:
    """The held-out labels of a run's first stage, from the cache in which it stands."""
    cache = Path(config.paths.cache_dir).expanduser() / "annotation"
    wanted = OmegaConf.to_container(config.annotation, resolve=True)
    found = []
    for settings in cache.glob("*/settings.json"):
        stage = json.loads(settings.read_text())
        if stage["seed"] == config.seed and stage["annotation"] == wanted:
            found.append((settings.stat().st_mtime, settings.parent))
    if not found:
        raise SystemExit(f"{cache}: no labels of seed {config.seed}; run run.py first")
    training: RewardTraining = instantiate(config.reward_training)
    return training.split(read_labelled(max(found)[1] / LABELLED).items, config.seed)[1]


def auroc(folder: Path, items: list[LabelledCompletion]) -> dict[str, float]:
    """AUROC of a saved reward model against the labels and against the oracle."""
    model = RewardModel(load_reward_model(str(folder)), load_tokenizer(str(folder))).eval()
    verdicts = ArithmeticOracle().verify(
        [item.completion for item in items], [item.reference for item in items]
    )
    true = [
        dataclasses.replace(item, label=verdict.correct)
        for item, verdict in zip(items, verdicts, strict=True)
    ]
    return {
        "labels": round(quality(model, items)["auroc"], 4),
        "truth": round(quality(model, true)["auroc"], 4),
    }


def read_run(folder: Path) -> dict[str, Any]:
    """The figures of one run."""
    summary = json.loads((folder / "summary.json").read_text())
    config = OmegaConf.load(folder / "config.yaml")
    rows = RunFolder(folder).read_metrics()
    result: dict[str, Any] = {
        name: [round(summary["evaluation"][f"{TEST}{key}"][at], 4) for at in ("start", "end")]
        for name, key in {
            "all": "/avg_at_8",
            "visible": ".visible/avg_at_8",
            "blind": ".blind/avg_at_8",
            "greedy": "/greedy",
        }.items()
    }
    result["val"] = [
        [row["step"], round(row["val/arithmetic/avg_at_8"], 4)]
        for row in rows
        if row.get("val/arithmetic/avg_at_8") is not None
    ]
    result["reward"] = [round(row["reward/mean"], 4) for row in rows if row.get("reward/mean")]
    result["cpu_seconds"] = summary["cpu_seconds"]
    average = folder / "reward_model_average"
    model = average if average.is_dir() else folder / "reward_model"
    if model.is_dir():
        result["auroc"] = auroc(model, heldout_of(config))
    return result


def mean_and_interval(values: list[float]) -> str:
    """Mean with the 95 % t interval over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:+.3f}"
    half = T_975[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:+.3f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def table(results: dict[str, dict[str, Any]]) -> str:
    """One row a variant."""
    lines = [
        "| variant | test avg@8 at the end, by seed | mean | end - start [95 % t] "
        "| against cooper, paired [95 % t] | blind - visible, end | greedy, end "
        "| held-out AUROC, first-stage labels | held-out AUROC, truth | CPU s |",
        "|" + " --- |" * 10,
    ]
    for name, runs in results.items():
        seeds = sorted(runs)
        ends = [runs[seed]["all"][1] for seed in seeds]
        gains = [runs[seed]["all"][1] - runs[seed]["all"][0] for seed in seeds]
        base = results.get("cooper", {})
        against = [
            runs[s]["all"][1] - base[s]["all"][1] for s in seeds if s in base and name != "cooper"
        ]
        gap = statistics.fmean(runs[s]["blind"][1] - runs[s]["visible"][1] for s in seeds)
        greedy = statistics.fmean(runs[s]["greedy"][1] for s in seeds)
        qualities = [
            " / ".join(f"{runs[s]['auroc'][kind]:.2f}" for s in seeds)
            if all("auroc" in runs[s] for s in seeds)
            else "-"
            for kind in ("labels", "truth")
        ]
        lines.append(
            f"| {name} | {' / '.join(f'{end:.3f}' for end in ends)} | {statistics.fmean(ends):.3f} "
            f"| {mean_and_interval(gains)} | {mean_and_interval(against) if against else '-'} "
            f"| {gap:+.3f} | {greedy:.3f} | {' | '.join(qualities)} "
            f"| {statistics.median(runs[s]['cpu_seconds'] for s in seeds):.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read all finished runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/variants"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, Any]] = {}
    from run import VARIANTS, finished  # beside this file

    for name in VARIANTS:
        for folder in sorted(given.runs.glob(f"{name.replace(' ', '_')}-*")):
            seed = folder.name.rsplit("-", 1)[1]
            if seed.isdigit() and finished(folder):
                results.setdefault(name, {})[seed] = read_run(folder)
    (HERE / "results.json").write_text(json.dumps(results) + "\n")
    (HERE / "results.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
