"""From a problem to the text and token ids that the policy reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from cooper.data.mixture import select
from cooper.errors import DataError
from cooper.types import Problem, Prompt

BOXED_INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
_BOX = "\\boxed{}"


class PromptBuilder:
    r"""Applies the policy's chat template to a question.

    A tokenizer without a chat template (a base model) gets the plain question and a line end.

    Args:
        tokenizer: the policy's.
        system_prompt: a system message; None: the problem's own, where its data bring one.
        instruction: appended to the question after an empty line, unless the question holds it
            already, or asks for a box itself (``\boxed{}``, as veRL's data do); None: nothing.
        max_tokens: longest prompt; 0: no limit. See :meth:`fitting`.
        template: keywords of the chat template, such as ``{"enable_thinking": False}``.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        system_prompt: str | None = None,
        instruction: str | None = BOXED_INSTRUCTION,
        max_tokens: int = 0,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self.instruction = instruction
        self.max_tokens = max_tokens
        self.template = dict(template or {})

    def text(self, problem: Problem) -> str:
        """The prompt as text.

        Raises:
            DataError: the chat template refuses it.
        """
        question, system = problem.question, self.system_prompt
        if system is None:
            system = problem.meta.get("system_prompt")
        if self.instruction and not self._instructs(question):
            question = f"{question}\n\n{self.instruction}"
        if not self.tokenizer.chat_template:
            head = f"{system}\n\n" if system else ""
            return f"{head}{question}\n"
        messages = [{"role": "user", "content": question}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True, **self.template
                )
            )
        except TemplateError as error:
            mend = "" if system is None else "; some templates know no system message"
            raise DataError(
                f"{problem.id}: the policy's chat template refuses the prompt ({error}){mend}: "
                "see prompt.system_prompt and prompt.template"
            ) from error

    def _instructs(self, question: str) -> bool:
        instruction = self.instruction or ""
        return instruction in question or (_BOX in question and _BOX in instruction)

    def __call__(self, problem: Problem) -> Prompt:
        """The prompt as text and ids.

        The template brings its own special tokens; without one the tokenizer adds what it puts
        before a text, as a Llama's base was trained with.
        """
        text = self.text(problem)
        add = not self.tokenizer.chat_template
        ids = self.tokenizer(text, add_special_tokens=add)["input_ids"]
        return Prompt(problem, text, tuple(ids))

    def fitting(self, problems: Sequence[Problem], key: str) -> tuple[Sequence[Problem], int]:
        """Drop problems whose prompt is longer than `max_tokens`.

        Args:
            problems: all of a data set.
            key: the data set's setting, for the error message.

        Returns:
            what is left (of a mixture: a mixture), and how many were dropped.

        Raises:
            DataError: nothing is left.
        """
        if not self.max_tokens:
            return problems, 0
        kept = [i for i, p in enumerate(problems) if len(self(p).ids) <= self.max_tokens]
        if not kept:
            raise DataError(
                f"{key}: all {len(problems)} prompts are longer than prompt.max_tokens="
                f"{self.max_tokens}; raise it or give shorter problems"
            )
        return select(problems, kept), len(problems) - len(kept)
