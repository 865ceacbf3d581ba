"""Memory of the weights: four models, an ordinary LoRA set-up, and one base for all.

    python benchmarks/shared_base.py        # writes shared_base.json beside itself, a minute

Each set-up is loaded in a fresh process from the same folder: a Qwen2 with random weights, with
tied embeddings as Qwen2.5-1.5B has them, and with untied ones. Counted are the bytes of distinct
storages, and what the resident set grew by while they were loaded and touched.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from cooper.environment import environment
from cooper.models import Policy, RewardModel, load_causal_lm, load_reward_model, load_tokenizer
from cooper.models.adapters import LoraAdapter
from cooper.models.shared import share_base
from cooper.models.sources import Pretrained
from cooper.testing import tiny_tokenizer

HIDDEN, LAYERS, VOCABULARY, RANK = 256, 8, 32_000, 16
SET_UPS = ("four models", "LoRA, reward backbone of its own", "one base")


def write_models(folder: Path, tied: bool) -> None:
    """A base, and a reward model's additions to it."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    base = str(folder / "base")
    Qwen2ForCausalLM(config).save_pretrained(base)
    tokenizer = tiny_tokenizer(["a few words"])
    tokenizer.save_pretrained(base)
    reward = RewardModel(load_reward_model(base, new_head_seed=0), load_tokenizer(base))
    reward.adapt(LoraAdapter(rank=RANK), seed=0)
    reward.save(folder / "reward")


def load(name: str, folder: Path) -> list[Any]:
    """The modules of one set-up: policy, reward model, reference and assistant."""
    base = str(folder / "base")
    tokenizer = load_tokenizer(base)
    lora = LoraAdapter(rank=RANK)
    policy = Policy(load_causal_lm(base), tokenizer)
    if name == "four models":
        reward = RewardModel(load_reward_model(base, new_head_seed=0), tokenizer)
        return [policy, reward, policy.start(), policy.start()]
    if name == "one base":
        shared = share_base(policy, base, lora, Pretrained(str(folder / "reward")), seed=0)
        return [policy, shared, policy.start(), policy.start()]
    policy.adapt(lora, seed=0)
    reward = RewardModel(load_reward_model(base, new_head_seed=0), tokenizer)
    reward.adapt(lora, seed=0)
    return [policy, reward, policy.start(), policy.start()]


def resident() -> int:
    """Bytes of this process in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def measure(name: str, folder: Path) -> dict[str, float]:
    """Load one set-up in this process and count."""
    importlib.import_module("peft")  # before the first count: libraries are not weights
    load_tokenizer(str(folder / "base"))
    before = resident()
    modules = load(name, folder)
    sizes: dict[int, int] = {}
    with torch.no_grad():
        for module in modules:
            for tensor in module.parameters():
                tensor.add_(0)  # weights that are mapped from the file are not in memory yet
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
    grown = resident() - before
    return {"weights_mib": sum(sizes.values()) / 2**20, "resident_mib": grown / 2**20}


def main() -> None:
    """Measure each set-up in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs=2, metavar=("SET_UP", "FOLDER"), help="one, in here")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only[0], Path(arguments.only[1]))))
        return
    result: dict[str, Any] = {
        "model": {"hidden": HIDDEN, "layers": LAYERS, "vocabulary": VOCABULARY, "rank": RANK}
    }
    for tied in (True, False):
        result["tied embeddings" if tied else "untied embeddings"] = compare(tied)
    result["environment"] = environment()
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def compare(tied: bool) -> dict[str, Any]:
    """All set-ups of one model, and what one base needs beside the others."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder, tied)
        for set_up in SET_UPS:
            said = subprocess.run(
                [sys.executable, __file__, "--only", set_up, str(folder)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            figures: dict[str, float] = json.loads(said.splitlines()[-1])
            found[set_up] = {key: round(value, 1) for key, value in figures.items()}
    ours = found["one base"]
    ratios = {
        name: {key: round(ours[key] / one[key], 3) for key in one}
        for name, one in found.items()
        if name != "one base"
    }
    return {"set_ups": found, "one_base_to": ratios}


if __name__ == "__main__":
    main()
