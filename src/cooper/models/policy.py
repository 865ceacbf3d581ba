"""The policy: log-probabilities of ragged completions under a causal language model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cooper.functional import entropy_from_logits, pad_sequences, selective_log_softmax
from cooper.models.adapted import Adapted
from cooper.models.loading import DType, check_vocabulary, load_causal_lm, load_tokenizer, pad_id
from cooper.models.packing import Pack, can_pack, no_mask
from cooper.types import Rollouts


@dataclass(frozen=True)
class TokenScores:
    """What the policy says of completion tokens."""

    logprobs: Tensor  # [sum of T_i over the asked rollouts] float32, with gradient in training
    entropy: Tensor | None  # the same shape, nats; only when asked for


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
        owners = rollouts.owners
        prompts = [rollouts.prompt_ids[owners[row]] for row in rows]
        completions = [rollouts.tokens(row) for row in rows]
        device = self.model.device
        if can_pack(self.model):
            flat = self._packed(prompts, completions, [owners[row] for row in rows], device)
        else:
            flat = self._padded(prompts, completions, device)
        flat = flat / self.temperature
        targets = torch.cat(completions).to(device)
        spread = None
        if entropy or entropy_gradient:
            spread = entropy_from_logits(flat if entropy_gradient else flat.detach())
        return TokenScores(selective_log_softmax(flat, targets), spread)

    def _packed(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Tensor],
        owners: Sequence[int],
        device: torch.device,
    ) -> Tensor:
        """Logits that predict the completions' tokens: [sum of T_i, V], without padding."""
        pack = Pack.of(prompts, completions, owners, device)
        with self.acting():
            logits = self.model(
                input_ids=pack.ids,
                position_ids=pack.positions,
                attention_mask=no_mask(device),
                use_cache=False,
                logits_to_keep=pack.predictors,
                pack=pack,
            ).logits
        return logits[0]

    def _padded(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Tensor],
        device: torch.device,
    ) -> Tensor:
        """The same for models whose attention cannot be replaced."""
        sequences = [
            torch.cat([torch.tensor(prompt, dtype=torch.long), completion.cpu()])
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        ids, mask = pad_sequences(sequences, pad_id(self.tokenizer), device=device)
        # Token t is predicted at position t - 1; logits before the shortest prompt's end and at
        # the last position are never read, so the model need not compute them.
        first = min(len(prompt) for prompt in prompts) - 1
        positions = torch.arange(first, ids.shape[1] - 1, device=device)
        with self.acting():
            logits = self.model(
                input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=positions
            ).logits
        where = torch.zeros(logits.shape[:2], dtype=torch.bool)
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            start = len(prompt) - 1 - first
            where[row, start : start + len(completion)] = True
        # A boolean mask walks row by row, so the flat order is the order of the rows.
        return logits[where.to(device)]


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
