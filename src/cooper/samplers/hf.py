"""Rollouts by ``model.generate``: for every causal LM, and the reference for faster ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from cooper.functional import pad_sequences
from cooper.models.loading import pad_id
from cooper.models.policy import Policy
from cooper.samplers.base import OnGroup, Sampler, pack_rollouts
from cooper.samplers.drawing import require_finite, warpers
from cooper.samplers.stopping import StopStrings
from cooper.types import Prompt, Rollouts, SamplingParams


class _LogprobRecorder(LogitsProcessor):
    """Keeps the log-probability of each token drawn, holding one step's logits at a time.

    The token of a step is known only when the next step begins, as the last column of
    `input_ids`; keeping all steps' logits instead would need B * T * V floats.
    """

    def __init__(self) -> None:
        self.columns: list[Tensor] = []
        self._last: Tensor | None = None

    def _take(self, ids: Tensor) -> None:
        if self._last is not None:
            self.columns.append(self._last.gather(-1, ids[:, -1:]).squeeze(-1))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Gather the previous step's token; keep this step's distribution."""
        if self._last is None:
            require_finite(scores)
        self._take(input_ids)
        self._last = scores.float().log_softmax(-1)
        return scores

    def finish(self, sequences: Tensor) -> Tensor:
        """Gather the last token: [B, T] log-probabilities."""
        self._take(sequences)
        self._last = None
        return torch.stack(self.columns, dim=1)


class _Stopper(StoppingCriteria):
    """Ends what has written a stop string, and remembers where.

    Args:
        strings: of the sampling; None: nothing ends here.
        prompt: tokens of the padded prompts; a stop string in one is none.
    """

    def __init__(self, strings: StopStrings | None, prompt: int) -> None:
        self.strings, self.prompt = strings, prompt
        self.lengths: dict[int, int] = {}  # tokens of each row that was stopped

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        """[B] whether a row ends here."""
        completions = input_ids[:, self.prompt :]
        stopped = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        if self.strings is not None:
            stopped = self.strings(completions)
        for row in stopped.nonzero()[:, 0].tolist():
            self.lengths.setdefault(row, completions.shape[1])
        return cast(torch.BoolTensor, stopped)


class HFSampler(Sampler):
    """``transformers`` generation, left-padded.

    Args:
        batch_size: sequences generated at once; prompts are sorted by length first, so that a
            batch pads little.
    """

    def __init__(self, batch_size: int = 256) -> None:
        if batch_size < 1:
            raise ValueError(f"sampler.batch_size={batch_size}: at least 1")
        self.batch_size = batch_size
        self._policy: Policy | None = None
        self._version = -1

    def sync(self, policy: Policy, version: int) -> None:
        """Generate with the policy's own module: nothing to copy."""
        self._policy = policy
        self._version = version

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        params: SamplingParams,
        generator: torch.Generator,
        on_group: OnGroup | None = None,
    ) -> Rollouts:
        """See :meth:`cooper.samplers.base.Sampler.sample`."""
        if self._policy is None:
            raise RuntimeError("the sampler has no policy yet: call sync(policy, version) first")
        policy = self._policy
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
        jobs = [i for i in order for _ in range(group_size)]
        tokens: dict[int, list[Tensor]] = {i: [] for i in order}
        logprobs: dict[int, list[Tensor]] = {i: [] for i in order}
        finished: dict[int, list[bool]] = {i: [] for i in order}

        training = policy.model.training
        policy.model.eval()
        devices = [policy.model.device] if policy.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            # generate() draws from the global generator; it is seeded from ours and put back.
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            for start in range(0, len(jobs), self.batch_size):
                batch = jobs[start : start + self.batch_size]
                with policy.acting():
                    rows = _generate(policy, [prompts[i].ids for i in batch], params)
                for index, (ids, row_logprobs, ended) in zip(batch, rows, strict=True):
                    tokens[index].append(ids)
                    logprobs[index].append(row_logprobs)
                    finished[index].append(ended)
                    if on_group is not None and len(tokens[index]) == group_size:
                        texts = policy.tokenizer.batch_decode(
                            [t.tolist() for t in tokens[index]], skip_special_tokens=True
                        )
                        on_group(index, texts)
        policy.model.train(training)

        return pack_rollouts(
            prompts,
            group_size,
            [t for i in range(len(prompts)) for t in tokens[i]],
            [t for i in range(len(prompts)) for t in logprobs[i]],
            [f for i in range(len(prompts)) for f in finished[i]],
            policy,
            self._version,
        )


def end_token_ids(policy: Policy) -> list[int]:
    """All ids that end a completion: the tokenizer's and those of the generation config."""
    listed = getattr(policy.model.generation_config, "eos_token_id", None)
    listed = listed if isinstance(listed, list) else [listed]
    ids = [policy.tokenizer.eos_token_id, *listed]
    return sorted({int(i) for i in ids if i is not None})


def _generate(
    policy: Policy, prompts: Sequence[Sequence[int]], params: SamplingParams
) -> list[tuple[Tensor, Tensor, bool]]:
    """Generate one completion per prompt: (token ids, their log-probabilities, ended by itself)."""
    ends = end_token_ids(policy)
    pad = pad_id(policy.tokenizer)
    ids, mask = pad_sequences(prompts, pad, side="left", device=policy.model.device)
    recorder = _LogprobRecorder()
    stopper = _Stopper(StopStrings.of(policy.tokenizer, params), ids.shape[1])
    greedy = params.temperature == 0
    config = GenerationConfig(
        max_new_tokens=params.max_new_tokens,
        do_sample=not greedy,
        temperature=1.0 if not greedy else None,
        top_k=0 if not greedy else None,
        top_p=1.0 if not greedy else None,
        eos_token_id=ends,
        pad_token_id=pad,
        use_cache=True,
    )
    model = cast(Any, policy.model)
    # generate() fills whatever is None from the checkpoint's own defaults: a repetition penalty
    # there would bend the distribution away from the one that the policy is trained on.
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        sequences = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([*warpers(params), recorder]),
            stopping_criteria=StoppingCriteriaList([stopper]),
        )
    finally:
        model.generation_config = own
    recorded = recorder.finish(sequences).cpu()
    completions = sequences[:, ids.shape[1] :].cpu()
    is_end = torch.isin(completions, torch.tensor(ends))
    rows = []
    for row in range(len(prompts)):
        hits = is_end[row].nonzero()
        limit = completions.shape[1] + 1
        length = min(int(hits[0]) + 1 if len(hits) else limit, stopper.lengths.get(row, limit))
        ended = length < limit
        length = min(length, completions.shape[1])
        rows.append((completions[row, :length].clone(), recorded[row, :length].clone(), ended))
    return rows
