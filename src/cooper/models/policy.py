"""The policy: log-probabilities of ragged completions under a causal language model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cooper.functional import pad_sequences
from cooper.models.adapted import Adapted
from cooper.models.batching import cut_packed, cut_padded
from cooper.models.loading import DType, check_vocabulary, load_causal_lm, load_tokenizer, pad_id
from cooper.models.packing import Pack, can_pack, say_padded
from cooper.models.token_scores import (
    TokenScores,
    has_plain_head,
    states_and_head,
    token_scores,
    vocabulary,
)
from cooper.types import Rollouts


class Policy(Adapted):
    """A Hugging Face causal LM that takes rollouts and gives flat log-probabilities.

    Args:
        model: any decoder-only ``PreTrainedModel`` with a language-model head.
        tokenizer: the model's own.
        temperature: the logits are divided by it, so that the log-probabilities are those of the
            distribution that was sampled from.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(model, tokenizer)
        self.temperature = temperature

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        temperature: float = 1.0,
        dtype: DType = "float32",
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
    ) -> Policy:
        """Load a policy with its tokenizer from a folder or the hub, on the CPU.

        Args:
            path: folder in ``save_pretrained`` form, or hub id.
            revision: commit, tag or branch on the hub.
            temperature: that of the sampling.
            dtype: of the weights; what is trained needs float32.
            attn_implementation: as in transformers.
            trust_remote_code: run code from the model's repository; only where you trust it.

        Raises:
            ModelError: model or tokenizer cannot be loaded.
        """
        source: dict[str, Any] = {
            "revision": revision,
            "trust_remote_code": trust_remote_code,
            "key": "path",
        }
        model = load_causal_lm(
            str(path), dtype=dtype, attn_implementation=attn_implementation, **source
        )
        tokenizer = load_tokenizer(str(path), **source)
        check_vocabulary(model, tokenizer, str(path), "path")
        return cls(model, tokenizer, temperature)

    def prepare(self) -> None:
        """See the base class."""
        super().prepare()
        has_plain_head(self.model)

    def acting(self) -> AbstractContextManager[None]:
        """Compute as this policy; :meth:`forward` does so by itself, generation has to."""
        return self.weights.acting()

    def start(self) -> Policy:
        """The policy as it is before its training, frozen: the reference.

        Under LoRA the same weights with the additions switched off, else a copy.
        """
        if self.weights.start() is not None:
            return StartOf(self)
        start = Policy(copy.deepcopy(self.model), self.tokenizer, self.temperature)
        start.freeze()
        return start

    def forward(
        self,
        rollouts: Rollouts,
        rows: Sequence[int],
        *,
        entropy: bool = False,
        entropy_gradient: bool = False,
    ) -> TokenScores:
        """Score the completion tokens of some rollouts.

        Args:
            rollouts: the step's rollouts.
            rows: indices of the rollouts wanted, in the order wanted.
            entropy: also give each position's entropy.
            entropy_gradient: with gradient, for a bonus; else it is a figure to watch.

        Returns:
            flat scores in the order of `rows`.
        """
        if not rows:
            none = torch.zeros(0, device=self.model.device)
            return TokenScores(none, none if entropy or entropy_gradient else None)
        with self.acting():
            states, head = self._states(rollouts, rows)
            targets = torch.cat([rollouts.tokens(row) for row in rows]).to(states.device)
            return token_scores(
                head,
                states,
                targets,
                vocabulary(self.model),
                self.temperature,
                entropy=entropy,
                entropy_gradient=entropy_gradient,
            )

    def logits(self, rollouts: Rollouts, rows: Sequence[int]) -> Tensor:
        """What predicts the completion tokens of some rollouts, before the temperature.

        Args:
            rollouts: the step's rollouts.
            rows: indices of the rollouts wanted, at least one.

        Returns:
            [sum of T_i, V] in the order of `rows`; large.
        """
        with self.acting():
            states, head = self._states(rollouts, rows)
            return head(states)

    def micro_batches(
        self, rollouts: Rollouts, rows: Sequence[int], tokens: int
    ) -> list[list[int]]:
        """Cut rollouts into micro-batches of at most so many tokens, or of one rollout.

        Packed, a group stays together where it can, for its prompt counts once; padded, they are
        sorted by length, and padding counts.

        Args:
            rollouts: the step's rollouts.
            rows: indices of the rollouts.
            tokens: of one forward and backward.
        """
        owners, lengths = rollouts.owners, rollouts.lengths.tolist()
        prompts = [len(ids) for ids in rollouts.prompt_ids]
        if not can_pack(self.model):
            return cut_padded({row: prompts[owners[row]] + lengths[row] for row in rows}, tokens)
        groups: dict[int, dict[int, int]] = {}
        for row in sorted(rows, key=lambda row: (owners[row], -lengths[row], row)):
            groups.setdefault(owners[row], {})[row] = lengths[row]
        return cut_packed([(prompts[owner], rows) for owner, rows in groups.items()], tokens)

    def _states(
        self, rollouts: Rollouts, rows: Sequence[int]
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """What predicts the completions' tokens, [sum of T_i, H], and what makes logits of it."""
        owners = rollouts.owners
        prompts = [rollouts.prompt_ids[owners[row]] for row in rows]
        completions = [rollouts.tokens(row) for row in rows]
        device = self.model.device
        if can_pack(self.model):
            pack = Pack.of(prompts, completions, [owners[row] for row in rows], device)
            return states_and_head(self.model, pack.given(), pack.predictors)
        say_padded(self.model)
        sequences = [
            torch.cat([torch.tensor(prompt, dtype=torch.long), completion.cpu()])
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        ids, mask = pad_sequences(sequences, pad_id(self.tokenizer), device=device)
        # Token t is predicted at place t - 1.
        predictors = [
            row * ids.shape[1] + torch.arange(len(prompt) - 1, len(prompt) + len(completion) - 1)
            for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
        given = {"input_ids": ids, "attention_mask": mask}
        return states_and_head(self.model, given, torch.cat(predictors).to(device))


class StartOf(Policy):
    """A policy with its low-rank additions switched off: no weights of its own.

    Args:
        policy: trained by LoRA.
    """

    def __init__(self, policy: Policy) -> None:
        nn.Module.__init__(self)
        # Not as a sub-module: nothing that is done to this one may reach the policy's weights.
        object.__setattr__(self, "of", policy)
        self.tokenizer = policy.tokenizer
        self.temperature = policy.temperature
        self.weights = policy.weights

    def __getattr__(self, name: str) -> Any:
        """The policy's model, as it is now."""
        return self.__dict__["of"].model if name == "model" else super().__getattr__(name)

    def acting(self) -> AbstractContextManager[None]:
        """Compute as the base alone."""
        start = self.weights.start()
        assert start is not None
        return start

    def freeze(self) -> None:
        """It holds nothing that could be trained."""
