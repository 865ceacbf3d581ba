"""Steps of a CooperModule, in this process; prints one JSON object."""

from __future__ import annotations

import json
import resource
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import floor
import lightning as L
import torch
from cases import Case
from torch import Tensor
from torch.utils.data import DataLoader

from cooper import CooperModule, Policy, RewardModel, SamplingParams
from cooper.data.prompts import PromptBuilder
from cooper.early_pairs import EarlyPairs
from cooper.models import load_reward_model
from cooper.models.adapters import LoraAdapter
from cooper.models.shared import share_base
from cooper.models.sources import Pretrained
from cooper.negatives import AssistantNegatives
from cooper.objectives import PolicyObjective, RewardObjective
from cooper.pairs import PairBuilder
from cooper.rewards import ModelReward
from cooper.samplers.decoding import Decoding
from cooper.types import Problem, Status, Verdict
from cooper.updates import UpdateResult
from cooper.verifiers.base import Verifier


class FirstIsRight(Verifier):
    """Says that a question's first completion is right where it has several, and no other.

    The models' texts are noise; so every group has a pair and every negative is wrong.
    """

    whole_batches = True

    def verify(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Verdict]:
        """See the base class."""
        asked, seen = list(questions or ()), set()
        verdicts = []
        for question in asked:
            first = asked.count(question) > 1 and question not in seen
            seen.add(question)
            verdicts.append(Verdict(Status.CORRECT if first else Status.INCORRECT))
        return verdicts


class HalfAreRight(Verifier):
    """Says of each text by itself whether it is right: as good as half of them are."""

    def verify(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Verdict]:
        """See the base class."""
        kinds = (Status.INCORRECT, Status.CORRECT)
        return [Verdict(kinds[zlib.crc32(text.encode()) % 2]) for text in completions]


class Timed(CooperModule):
    """Notes CPU seconds by phase, and what a step drew."""

    def __init__(self, joined: bool, **parts: Any) -> None:
        super().__init__(**parts)
        self.joined = joined
        self.seconds: dict[str, float] = defaultdict(float)
        self.examples: Any = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add a block's CPU seconds to a phase."""
        began = time.process_time()
        yield
        self.seconds[name] += time.process_time() - began

    def each(self, name: str, losses: Iterator[Tensor]) -> Iterator[Tensor]:
        """Add the making of each loss to a phase."""
        while True:
            with self.phase(name):
                loss = next(losses, None)
            if loss is None:
                return
            yield loss

    def sample(self, *args: Any) -> Any:
        """Rollouts, the sampler's own check included."""
        with self.phase("generate"):
            return super().sample(*args)

    def early_pairs(self, *args: Any) -> EarlyPairs | None:
        """Nobody, where the negatives are to be written by themselves."""
        return super().early_pairs(*args) if self.joined else None

    def score(self, *args: Any) -> Any:
        """The reward model's scores."""
        with self.phase("reward"):
            return super().score(*args)

    def logprobs(self, *args: Any) -> Any:
        """Log-probabilities of the reference."""
        with self.phase("reference"):
            return super().logprobs(*args)

    def policy_losses(self, *args: Any) -> Iterator[Tensor]:
        """The policy's forwards."""
        return self.each("forward", super().policy_losses(*args))

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backward passes."""
        with self.phase("backward"):
            super().manual_backward(loss, *args, **kwargs)

    def step_model(self, name: str, losses: Iterator[Tensor]) -> UpdateResult:
        """Clipping and the optimizer's step."""
        began, parts = time.process_time(), self.parts()
        result = super().step_model(name, losses)
        self.seconds["optimizer"] += time.process_time() - began - (self.parts() - parts)
        return result

    def parts(self) -> float:
        """Of an update."""
        return self.seconds["forward"] + self.seconds["backward"]

    def update_reward_model(self, examples: Any) -> Any:
        """Stage 2's update, all of it."""
        kept, self.examples = dict(self.seconds), examples
        began = time.process_time()
        result = super().update_reward_model(examples)
        self.seconds = defaultdict(float, kept)  # its parts belong to it
        self.seconds["reward-model update"] += time.process_time() - began
        return result


class TimedPairs(PairBuilder):
    """Notes CPU seconds of the negatives, and how long the assistant's rows are."""

    module: Timed

    def build(self, *args: Any) -> Any:
        """Pairs, their negatives and verdicts."""
        with self.module.phase("negatives"):
            return super().build(*args)


class Record(L.Callback):
    """One row a step."""

    def __init__(self, sizes: floor.Sizes) -> None:
        self.sizes, self.rows = sizes, []
        self.decode_steps = 0  # forwards of a token of each sequence, of the policy or not
        step = Decoding.step

        def counted(decoding: Decoding) -> None:
            step(decoding)
            self.decode_steps += 1

        Decoding.step = counted
        self.drawn: list[tuple[list[int], list[int]]] = []  # of the assistant

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        """Begin."""
        module.seconds.clear()
        self.drawn.clear()
        self.decode_steps = 0
        module.examples = None
        self.speed = floor.rate()
        self.began = time.process_time()

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        """End."""
        total = time.process_time() - self.began
        seconds = dict(module.seconds)
        seconds["other"] = total - sum(seconds.values())
        rollouts = module.last.rollouts
        lengths = rollouts.lengths.tolist()
        speed = (self.speed + floor.rate()) / 2
        needed = self.needed(module)
        self.rows.append(
            {
                "seconds": {**seconds, "step": total},
                "floor": {name: count / speed for name, count in needed.items()},
                "gflops": speed / 1e9,
                "tokens": sum(lengths),
                "longest": max(lengths),
                "decode_steps": self.decode_steps,
                "prompts": sum(map(len, rollouts.prompt_ids)),
                "pairs": len(module.examples.pairs) if module.examples else 0,
            }
        )

    def needed(self, module: Timed) -> dict[str, int]:
        """Operations of each phase."""
        rollouts, sizes = module.last.rollouts, self.sizes
        lengths = rollouts.lengths.tolist()
        prompts = [len(ids) for ids in rollouts.prompt_ids]
        completions = [[lengths[row] for row in group] for group in rollouts.groups]
        forward = floor.groups(sizes, prompts, completions)
        model = module.reward_model
        assert model is not None
        texts = rollouts.questions, rollouts.references, rollouts.completions
        found = {
            "generate": forward,
            "reference": forward,
            "reward": floor.rows(sizes, model.tokenise(*texts)),
            "forward": forward,
            "backward": 2 * forward,
        }
        if module.examples is not None:
            pairs = module.examples.pairs
            questions, references = [p.question for p in pairs], [p.reference for p in pairs]
            rows = [
                row
                for side in ([p.chosen for p in pairs], [p.rejected for p in pairs])
                for row in model.tokenise(questions, references, side)
            ]
            found["reward-model update"] = 3 * floor.rows(sizes, rows)
            # Those that joined the rollouts are not here; without joining they are the same.
            found["negatives"] = sum(
                floor.groups(sizes, [prompt], [[length]])
                for prompts, lengths in self.drawn
                for prompt, length in zip(prompts, lengths, strict=True)
            )
        return found


def models(folder: Path, one_base: bool) -> tuple[Policy, RewardModel]:
    """Policy and reward model: each trained whole, or additions to one base."""
    policy = Policy.from_pretrained(folder / "policy")
    if not one_base:
        return policy, RewardModel.from_pretrained(folder / "reward_model")
    base, lora = str(folder / "policy"), LoraAdapter()
    if not (folder / "additions").exists():
        alone = RewardModel(load_reward_model(base, new_head_seed=0), policy.tokenizer)
        alone.adapt(lora, seed=0)
        alone.save(folder / "additions")
    reward_model = share_base(policy, base, lora, Pretrained(str(folder / "additions")), seed=0)
    assert reward_model is not None
    return policy.eval(), reward_model


def run(case: Case, folder: Path, kind: str, seed: int) -> dict[str, Any]:
    """Take one step that is not counted and some that are."""
    torch.set_num_threads(1)
    one_base, stage_2 = kind.startswith("one base"), kind not in ("ours", "one base")
    policy, reward_model = models(folder, one_base)
    tokens = case.micro_batch_tokens
    reward_model.batch_tokens = tokens
    questions: list[str] = json.loads((folder / "questions.json").read_text())
    problems = [Problem(str(i), text, "7") for i, text in enumerate(questions)]
    batches = [problems[i : i + case.problems] for i in range(0, len(problems), case.problems)]
    record = Record(floor.Sizes.of(policy.model.config))
    assistant = AssistantNegatives(max_new_tokens=case.max_tokens, temperature=1.0, top_p=1.0)
    draw = assistant.sampler.sample

    def drawing(prompts: Any, *args: Any, **kwargs: Any) -> Any:
        rollouts = draw(prompts, *args, **kwargs)
        record.drawn.append(([len(p.ids) for p in prompts], rollouts.lengths.tolist()))
        return rollouts

    assistant.sampler.sample = drawing
    verifier = FirstIsRight()
    # The first right one of each group, so that both ways choose and draw the same.
    pairs = TimedPairs(verifier, assistant, choose="first" if one_base else "random")
    module = Timed(
        joined=kind.endswith("joined"),
        policy=policy,
        reward_model=reward_model,
        verifier=HalfAreRight() if one_base else verifier,
        sampling=SamplingParams(case.max_tokens),
        group_size=case.group_size,
        prompts=PromptBuilder(policy.tokenizer, instruction=None),
        reward=ModelReward(train_model=stage_2),
        pairs=pairs,
        objective=PolicyObjective(kl_coef=0.001, micro_batch_tokens=tokens),
        reward_objective=RewardObjective(micro_batch_tokens=tokens),
        seed=seed,
    )
    pairs.module = module
    if stage_2:
        assistant.bind(policy, policy.start)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[record],
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"case": asdict(case), "rows": record.rows[1:], "peak_gib": peak}
