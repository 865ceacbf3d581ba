"""Compare cooper-plan's memory with the resident set of real runs of cooper-train on the CPU.

    python benchmarks/plan.py

A Qwen2 of 128 million parameters with random weights is policy and reward model; each case runs two
steps, so that Adam's moments are there, in a process of its own. glibc is told to give freed memory
back at once (MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_): by its defaults it keeps several
hundred MiB, which no plan of tensors can know. Writes plan.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification

from cooper.data.prompts import PromptBuilder
from cooper.environment import package_versions
from cooper.testing import tiny_tokenizer
from cooper.types import Problem

HERE = Path(__file__).parent
ROWS = [{"question": f"What is {n} + {n + 7}?", "answer": f"{2 * n + 7}"} for n in range(40)]
LORA = ("adapter@policy_adapter=lora", "adapter@reward_model_adapter=lora")
CHECKPOINTING = ("policy.gradient_checkpointing=true", "reward_model.gradient_checkpointing=true")
# Freed blocks of more bytes than this, and more than this at the heap's end, are not kept.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
CASES = {
    "full": (),
    "full, gradient checkpointing": CHECKPOINTING,
    "lora": LORA,
    "lora, gradient checkpointing": (*LORA, *CHECKPOINTING),
    "full, micro-batches of 512 tokens": ("algorithm.micro_batch_tokens=512",),
}
# A random model answers nothing right; odd and even lengths make pairs.
PARITY = """
from cooper.types import Status, Verdict
from cooper.verifiers.base import Verifier


class Parity(Verifier):
    def __init__(self, ignore_case=False, allow_stated=True):
        pass

    def verify(self, completions, references, questions=None):
        right = Verdict(Status.CORRECT), Verdict(Status.INCORRECT)
        return [right[len(text) % 2] for text in completions]

    def close(self):
        pass
"""


def write_models(folder: Path, layers: int) -> int:
    """Write policy, reward model and problems.

    Returns:
        tokens of the longest prompt.
    """
    tokenizer = tiny_tokenizer(f"{row['question']} {row['answer']}" for row in ROWS)
    config = Qwen2Config(
        vocab_size=32000,
        hidden_size=768,
        num_hidden_layers=layers,
        num_attention_heads=12,
        num_key_value_heads=4,
        intermediate_size=3072,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    for name, kind, labels in (
        ("policy", Qwen2ForCausalLM, 2),
        ("reward_model", Qwen2ForSequenceClassification, 1),
    ):
        config.num_labels = labels
        kind(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "parity.py").write_text(PARITY)
    prompts = PromptBuilder(tokenizer)
    problems = [Problem(str(n), r["question"], r["answer"]) for n, r in enumerate(ROWS)]
    return max(len(prompts(problem).ids) for problem in problems)


def overrides(folder: Path, tokens: int) -> list[str]:
    """Of run and plan alike."""
    return [
        "experiment=none", "data=jsonl", f"data.train={folder}/rows.jsonl",
        f"data.val={folder}/rows.jsonl", "policy=hf", f"policy.path={folder}/policy",
        "reward_model=hf", f"reward_model.path={folder}/reward_model", "trainer.max_steps=2",
        "trainer.accelerator=cpu", "data.problems_per_step=2", "group_size=4",
        f"sampling.max_new_tokens={tokens}", "evaluation.samples=1", "evaluation.every=9",
        "evaluation.max_new_tokens=1", "evaluation.greedy=false", "verifier=exact",
        "verifier._target_=parity.Parity", "monitor=none", "logger=none", "quiet=true",
        "checkpoints.every=0",
    ]  # fmt: skip


def run(folder: Path, program: str, *arguments: str) -> str:
    """Run a program of ours in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"cooper.cli.{program}", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **MALLOC},
    )
    if done.returncode:
        raise SystemExit(f"{program} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def compare(folder: Path, prompt: int, tokens: int, case: tuple[str, ...]) -> dict:
    """Plan a case and run it."""
    given = [*overrides(folder, tokens), *case]
    run(
        folder, "plan", *given, f"plan.longest_prompt={prompt}", f"plan.longest_row={prompt + 96}",
        "plan.json=plan.json",
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=folder) as place:
        run(folder, "train", *given, f"paths.run_dir={place}/run")
        summary = json.loads((Path(place) / "run" / "summary.json").read_text())
    memory = json.loads((folder / "plan.json").read_text())["memory"]
    predicted, measured = memory["peak"] / 2**20, summary["peak_memory_mb"]
    parts = {f"{p['role']}: {p['what']}": round(p["bytes"] / 2**20) for p in memory["resident"]}
    largest = max(memory["phases"], key=lambda phase: phase["bytes"])
    parts |= {f"{p['role']}: {p['what']}": round(p["bytes"] / 2**20) for p in largest["parts"]}
    return {
        "predicted_mib": round(predicted),
        "measured_mib": measured,
        "error": round(predicted / measured - 1, 4),
        "largest_phase": memory["largest_phase"],
        "parts_mib": parts,
    }


def main() -> None:
    """Run all cases, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=48, help="of each completion")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--output", type=Path, default=HERE / "plan.json")
    arguments = parser.parse_args()
    found = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    cases = found.get("cases", {})
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prompt = write_models(folder, arguments.layers)
        for name in arguments.case or CASES:
            cases[name] = compare(folder, prompt, arguments.tokens, CASES[name])
            print(name, {k: v for k, v in cases[name].items() if k != "parts_mib"}, flush=True)
            result = {
                "model": f"Qwen2, {arguments.layers} layers of 768, vocabulary 32000, float32",
                "rows": 8,
                "prompt_tokens": prompt,
                "completion_tokens": arguments.tokens,
                "platform": f"{platform.system()} {platform.machine()}",
                "malloc": MALLOC,
                "versions": package_versions(),
                "cases": cases,
            }
            arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
