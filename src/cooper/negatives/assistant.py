"""Wrong completions written by a frozen language model (Cooper's own negatives)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch

from cooper.data.prompts import PromptBuilder
from cooper.errors import ConfigError
from cooper.models import Policy, load_causal_lm, load_tokenizer
from cooper.models.loading import DType, check_vocabulary
from cooper.models.policy import StartOf
from cooper.negatives.base import NegativeGenerator
from cooper.negatives.rewriting import PROMPT, check_settings, filled, longest_that_fits
from cooper.samplers import NativeSampler, Sampler
from cooper.types import Negative, NegativeRequest, Problem, Prompt, SamplingParams


class AssistantNegatives(NegativeGenerator):
    """A frozen causal language model rewrites the chosen completion (arXiv 2508.05613, stage 2).

    By default it is the policy's own start, as in the paper, so that no outside knowledge enters;
    :meth:`bind` brings it. With `path` it is a model of its own.

    What is blank, the chosen text again, or cut at the length limit is no negative, and neither is
    one for a question that the assistant cannot read whole.

    Args:
        path: folder or hub id of a model; None: the policy's start.
        revision: commit, tag or branch on the hub.
        dtype: of the weights of a model by `path`.
        attn_implementation: as in transformers.
        trust_remote_code: run code from the model's repository; only where you trust it.
        sampler: the assistant's own, for one sampler draws from one model.
        prompt: what it is asked, with the fields {question}, {reference} and {completion}; it
            goes through the chat template as the user's message. Other braces stay as they are.
        temperature: above 0.
        top_p: in (0, 1].
        max_new_tokens: longest rewritten completion.

    Raises:
        ValueError: a setting is out of its range, or the prompt names another field.
        ModelError: the model cannot be loaded.
    """

    def __init__(
        self,
        path: str | None = None,
        revision: str | None = None,
        dtype: DType = "bfloat16",
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        sampler: Sampler | None = None,
        prompt: str = PROMPT,
        temperature: float = 0.7,
        top_p: float = 0.95,
        max_new_tokens: int = 1024,
    ) -> None:
        check_settings(prompt, temperature, top_p, max_new_tokens)
        if path is None and revision is not None:
            raise ValueError(
                f"negatives.revision={revision}: is of a model by negatives.path, which is null; "
                "give negatives.path, or leave it out"
            )
        self.prompt = prompt
        self.params = SamplingParams(max_new_tokens, temperature, top_p)
        self.sampler = sampler or NativeSampler()
        self._assistant: Policy | None = None
        self._trained: Policy | None = None
        if path is not None:
            model = load_causal_lm(
                path,
                revision=revision,
                dtype=dtype,
                attn_implementation=attn_implementation,
                trust_remote_code=trust_remote_code,
                key="negatives.path",
            )
            tokenizer = load_tokenizer(
                path,
                revision=revision,
                trust_remote_code=trust_remote_code,
                key="negatives.path",
            )
            check_vocabulary(model, tokenizer, path, "negatives.path")
            self._take(Policy(model, tokenizer))

    def bind(self, policy: Policy, start: Callable[[], Policy]) -> None:
        """See :meth:`cooper.negatives.base.NegativeGenerator.bind`."""
        self._trained = policy
        if self._assistant is None:
            self._take(start())

    @property
    def models(self) -> tuple[Policy, ...]:
        """The assistant."""
        return () if self._assistant is None else (self._assistant,)

    def _take(self, assistant: Policy) -> None:
        """Freeze the model and find out how long a prompt it can read.

        Raises:
            ConfigError: none, beside the tokens that it may write.
        """
        longest = getattr(assistant.model.config, "max_position_embeddings", None)
        self._max_prompt = longest - self.params.max_new_tokens if longest else None
        if self._max_prompt is not None and self._max_prompt < 1:
            raise ConfigError(
                f"negatives.max_new_tokens={self.params.max_new_tokens}: the assistant reads and "
                f"writes {longest} tokens in all, so that none is left for its prompt; lower it"
            )
        self._assistant = assistant.requires_grad_(False).eval()
        self._prompts = PromptBuilder(assistant.tokenizer, instruction=None)

    @property
    def slow(self) -> bool:
        """Yes."""
        return True

    def rewriter(self, policy: Policy) -> AssistantNegatives | None:
        """Itself, where the assistant is the policy's own base and its sampler the native one."""
        assistant = self._assistant
        start = isinstance(assistant, StartOf) and assistant.of is policy
        return self if start and isinstance(self.sampler, NativeSampler) else None

    def generate(
        self, requests: Sequence[NegativeRequest], generator: torch.Generator
    ) -> list[Negative]:
        """See :class:`~cooper.negatives.base.NegativeGenerator`; all requests are one batch.

        Raises:
            RuntimeError: there is no model: neither `path` nor :meth:`bind`.
        """
        if self._assistant is None:
            raise RuntimeError("the assistant has no model: give path, or call bind() first")
        negatives = [Negative(None, "assistant") for _ in requests]
        asked = {row: self.ask(one.problem, one.chosen) for row, one in enumerate(requests)}
        prompts = {row: prompt for row, prompt in asked.items() if prompt is not None}
        if not prompts:
            return negatives
        if self._trained is not None:
            # Lightning moves what it trains; a frozen copy beside it follows.
            self._assistant.to(self._trained.model.device)
        self.sampler.sync(self._assistant, 0)
        rollouts = self.sampler.sample(list(prompts.values()), 1, self.params, generator)
        for row, text, whole in zip(
            prompts, rollouts.completions, rollouts.finished.tolist(), strict=True
        ):
            negatives[row] = self.answered(requests[row].chosen, text, whole)
        return negatives

    def ask(self, problem: Problem, chosen: str) -> Prompt | None:
        """The prompt for one request, the completion's middle left out where it is too long.

        None when the rest alone is too long.
        """
        return longest_that_fits(chosen, functools.partial(self._filled, problem), self._fits)

    def answered(self, chosen: str, text: str, finished: bool) -> Negative:
        """See :class:`~cooper.negatives.base.Rewriter`."""
        usable = finished and text.strip() and text != chosen
        return Negative(text if usable else None, "assistant")

    def _fits(self, prompt: Prompt) -> bool:
        return self._max_prompt is None or len(prompt.ids) <= self._max_prompt

    def _filled(self, problem: Problem, completion: str) -> Prompt:
        text = filled(self.prompt, problem, completion)
        return self._prompts(Problem(problem.id, text, problem.reference, problem.source))

    def close(self) -> None:
        """Let the model go."""
        self._assistant = self._trained = None
        self.sampler.close()
