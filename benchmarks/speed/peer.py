"""Steps of TRL's GRPOTrainer, in this process; prints one JSON object.

Its fastest settings on this work: gradient checkpointing off, whole groups in a micro-batch, the
KL's reference from the same trainer. The reward is a reward model on the text, as TRL runs one.
"""

from __future__ import annotations

import json
import resource
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from cases import Case
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

clock = time.process_time


def run(case: Case, folder: Path, scratch: Path, seed: int) -> dict[str, Any]:
    """Take one step that is not counted and some that are."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    classifier = AutoModelForSequenceClassification.from_pretrained(
        folder / "reward_model", dtype=torch.float32
    ).eval()
    questions: list[str] = json.loads((folder / "questions.json").read_text())
    seconds: dict[str, float] = defaultdict(float)
    lengths: list[int] = []

    @torch.no_grad()
    def score(prompts: Any, completions: Any, **_: Any) -> list[float]:
        texts = [
            f"<question>{asked[0]['content']}</question>\n<reference_answer>7</reference_answer>\n"
            f"<completion>{said[0]['content']}</completion>"
            for asked, said in zip(prompts, completions, strict=True)
        ]
        scores: list[float] = []
        for at in range(0, len(texts), case.micro_batch):
            batch = tokenizer(
                texts[at : at + case.micro_batch],
                return_tensors="pt", padding=True, padding_side="right",
            )  # fmt: skip
            scores += classifier(**batch).logits[:, 0].sigmoid().tolist()
        return scores

    class Timed(GRPOTrainer):
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            began = clock()
            found = super()._generate_single_turn(*args, **kwargs)
            seconds["generate"] += clock() - began
            lengths[:] = [len(ids) for ids in found[0]]
            return found

        def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
            began = clock()
            found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
            name = "forward" if torch.is_grad_enabled() else "reference"
            seconds[name] += clock() - began
            return found

        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            began = clock()
            found = super()._calculate_rewards(*args, **kwargs)
            seconds["reward"] += clock() - began
            return found

    count = case.problems * case.group_size
    trainer = Timed(
        str(folder / "policy"),
        reward_funcs=score,
        args=GRPOConfig(
            output_dir=str(scratch),
            per_device_train_batch_size=case.micro_batch,
            gradient_accumulation_steps=count // case.micro_batch,
            num_generations=case.group_size,
            max_completion_length=case.max_tokens,
            beta=0.001,
            temperature=1.0,
            learning_rate=1e-6,
            max_steps=case.steps + 1,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            shuffle_dataset=False,
            report_to=[],
            save_strategy="no",
            seed=seed,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            model_init_kwargs={"dtype": "float32"},
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": [{"role": "user", "content": text}]} for text in questions]
        ),
        processing_class=tokenizer,
    )
    backward = trainer.accelerator.backward

    def timed_backward(*args: Any, **kwargs: Any) -> None:
        began = clock()
        backward(*args, **kwargs)
        seconds["backward"] += clock() - began

    trainer.accelerator.backward = timed_backward

    class Record(TrainerCallback):
        rows: list[dict[str, Any]]

        def __init__(self) -> None:
            self.rows = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            seconds.clear()
            self.began = clock()

        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            self.updating = clock()

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            seconds["optimizer"] += clock() - self.updating

        def on_step_end(self, *_: Any, **__: Any) -> None:
            total = clock() - self.began
            found = {**seconds, "other": total - sum(seconds.values()), "step": total}
            self.rows.append({"seconds": found, "tokens": sum(lengths), "longest": max(lengths)})

    record = Record()
    trainer.add_callback(record)
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"case": asdict(case), "rows": record.rows[1:], "peak_gib": peak}
