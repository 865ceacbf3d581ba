"""Stage (a): a policy from nothing, taught the task's form by supervised fine-tuning."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from cooper.checks import at_least, at_most
from cooper.data.prompts import PromptBuilder
from cooper.fitting import SupervisedModule, fit
from cooper.functional import pad_sequences
from cooper.models.reward_template import RewardTemplate
from cooper.models.tiny import TinyModel, train_tokenizer
from cooper.optim import OptimizerSettings
from cooper.rng import seed_of
from cooper.types import Problem

Demonstrate = Callable[..., str]


class WarmStart:
    """Trains a tokenizer and a tiny Qwen2 on demonstrations of a task.

    Args:
        model: size of the model.
        problems: what is demonstrated.
        corpus: gives the texts that the tokenizer is trained on.
        demonstrate: (problem, random.Random, clean=bool) -> completion.
        steps: optimizer steps.
        batch_size: demonstrations a step.
        template_share: share of the documents that are written into the reward model's template,
            with clean demonstrations, so that the same weights can become the reward model.
        optimizer: learning rate, schedule, clip.
        wrong_share: so many more documents, as a share of `batch_size`, in which `wrong_token`
            stands before the question and the completion is wrong on purpose, so that the model
            can write negatives. The others stay as they are.
        wrong_token: the control token; the tokenizer holds it where `wrong_share` is above 0.
        demonstrate_wrong: (problem, random.Random) -> completion, for those documents.
    """

    def __init__(
        self,
        *,
        model: TinyModel,
        problems: Sequence[Problem],
        corpus: Callable[[], Iterable[str]],
        demonstrate: Demonstrate,
        steps: int,
        batch_size: int,
        template_share: float,
        optimizer: OptimizerSettings,
        wrong_share: float = 0.0,
        wrong_token: str = "<wrong>",
        demonstrate_wrong: Demonstrate | None = None,
    ) -> None:
        self.model = model
        self.problems = problems
        self.corpus = corpus
        self.demonstrate = demonstrate
        self.steps = steps
        self.batch_size = batch_size
        self.template_share = template_share
        self.optimizer = optimizer
        self.wrong_share = wrong_share
        self.wrong_token = wrong_token
        self.demonstrate_wrong = demonstrate_wrong
        at_least("warm_start", self, steps=1, batch_size=1, template_share=0, wrong_share=0)
        at_most("warm_start", self, template_share=1)
        if wrong_share and demonstrate_wrong is None:
            raise ValueError(
                f"warm_start.wrong_share={wrong_share}: nothing demonstrates wrong solutions; give "
                "warm_start.demonstrate_wrong, or 0"
            )
        if wrong_share and (not wrong_token or wrong_token.strip() != wrong_token):
            raise ValueError(
                f"warm_start.wrong_token={wrong_token!r}: give a token without spaces around it"
            )

    def run(self, folder: Path, seed: int, trainer: dict[str, Any]) -> None:
        """Train, and save model and tokenizer in Hugging Face form.

        Args:
            folder: where to.
            seed: of weights and data.
            trainer: accelerator, devices, precision.
        """
        template = RewardTemplate()
        control = (self.wrong_token,) if self.wrong_share else ()
        tokenizer = train_tokenizer([*self.corpus(), template.render("", "", "")], control)
        model = self.model.build(tokenizer, seed)
        prompts = PromptBuilder(tokenizer, instruction=None)
        in_template = round(self.template_share * self.batch_size)
        wrong = round(self.wrong_share * self.batch_size)

        def batch(step: int) -> list[tuple[list[int], list[int]]]:
            rng = random.Random(seed_of(seed, f"warm start {step}"))
            rows = []
            for index in range(self.batch_size + wrong):
                problem = self.problems[rng.randrange(len(self.problems))]
                if index < in_template:
                    text = template.render(problem.question, problem.reference, "\0")
                    head, tail = text.split("\0")
                    answer = self.demonstrate(problem, rng, clean=True) + tail
                elif index < self.batch_size or self.demonstrate_wrong is None:
                    head, answer = prompts.text(problem), self.demonstrate(problem, rng)
                else:
                    asked = dataclasses.replace(
                        problem, question=f"{self.wrong_token} {problem.question}"
                    )
                    head, answer = prompts.text(asked), self.demonstrate_wrong(problem, rng)
                ids = tokenizer([head, answer], add_special_tokens=False)["input_ids"]
                rows.append((ids[0], [*ids[1], tokenizer.eos_token_id]))
            return rows

        module = _CompletionLoss(model, self.optimizer, self.steps)
        fit(module, batch, "warm start (supervised)", trainer)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


class _CompletionLoss(SupervisedModule):
    """Cross entropy on the completion's tokens; the prompt is only read."""

    def loss(self, batch: list[tuple[list[int], list[int]]]) -> torch.Tensor:
        """Mean over the batch's completion tokens."""
        device = self.device
        ids, mask = pad_sequences([p + c for p, c in batch], 0, device=device)
        labels = torch.full_like(ids, -100)
        for row, (prompt, completion) in enumerate(batch):
            where = slice(len(prompt), len(prompt) + len(completion))
            labels[row, where] = ids[row, where]
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return F.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100
        )
