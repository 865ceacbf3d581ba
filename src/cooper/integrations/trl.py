"""Reward functions for TRL's trainers (GRPO, RLOO): a verifier's, and a reward model's.

TRL calls ``f(prompts, completions, **columns) -> list[float | None]`` with texts or chats; None is
a completion without a reward, which enters no mean (TRL 1.16, ``GRPOTrainer._calculate_rewards``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cooper.data.columns import REFERENCE, dig
from cooper.data.references import final_answer
from cooper.errors import DataError
from cooper.integrations.scorers import ModelOfProcess, VerifierOfProcess, VerifierSource
from cooper.types import Status
from cooper.verifiers.math import MathVerifier

if TYPE_CHECKING:
    from cooper.models import RewardModel

__all__ = ["ModelReward", "VerifierReward", "text_of"]

_QUESTION = ("question", "problem")  # columns that say it without a prompt's instructions
# A prompt or completion as TRL gives it: text, or messages.
Text = str | Sequence[Mapping[str, Any]]


class VerifierReward:
    """1 for CORRECT, 0 for INCORRECT, None for UNDECIDED: as a verifier says.

    Args:
        verifier: a class, a ``functools.partial`` of it or a verifier. A class is made once in each
            process, with the first batch, and closed when the process ends.
        reference: column of the reference answer; by default the first known one (``solution``,
            ``answer``, ``ground_truth``, ...). A worked solution is cut to its final answer. A row
            where it is None has no reward, for data sets of several tasks.
        question: column of the question, for verifiers that read it; by default ``question`` or
            ``problem``, else the prompt's last message of the user.
        undecided: the reward of UNDECIDED; None: the completion has none.
    """

    def __init__(
        self,
        verifier: VerifierSource = MathVerifier,
        reference: str | None = None,
        question: str | None = None,
        undecided: float | None = None,
    ) -> None:
        self.__name__ = "verifier"  # in TRL's logs: rewards/verifier/mean
        self.verifier = VerifierOfProcess(verifier)
        self.reference, self.question = reference, question
        self.undecided = undecided

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        """Reward N completions.

        Args:
            prompts: [N] texts or chats.
            completions: [N] texts or chats.
            columns: [N] each: the data set's others, and what TRL adds.

        Returns:
            [N] rewards.

        Raises:
            DataError: there is no column of the reference or the question.
        """
        references = _references(columns, self.reference)
        rows = [i for i, reference in enumerate(references) if reference is not None]
        questions = _questions(prompts, columns, self.question)
        verdicts = self.verifier.verify(
            [text_of(completions[i]) for i in rows],
            [references[i] or "" for i in rows],
            [questions[i] for i in rows],
        )
        rewards: list[float | None] = [None] * len(completions)
        for row, verdict in zip(rows, verdicts, strict=True):
            rewards[row] = float(verdict.correct) if verdict.decided else self.undecided
        if "log_metric" in columns and verdicts:
            open_ones = sum(verdict.status is Status.UNDECIDED for verdict in verdicts)
            columns["log_metric"]("verifier/undecided", open_ones / len(verdicts))
        return rewards

    def close(self) -> None:
        """Give this process's workers back; the next call makes new ones."""
        self.verifier.close()


class ModelReward:
    """The reward model's probability that the completion is right, in [0, 1].

    Args:
        model: a folder of ``cooper-train`` or ``cooper-train-reward``, a hub id (loaded once in
            each process, with the first batch), or a loaded :class:`cooper.RewardModel`.
        reference: as in :class:`VerifierReward`; this model reads the reference answer.
        question: the same.
        device: of a model by path; "auto": this process's GPU where there is one.
    """

    def __init__(
        self,
        model: RewardModel | str | Path,
        reference: str | None = None,
        question: str | None = None,
        device: str = "auto",
    ) -> None:
        self.__name__ = "reward_model"
        self.model = ModelOfProcess(model, device)
        self.reference, self.question = reference, question

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        """Reward N completions; see :meth:`VerifierReward.__call__`."""
        references = _references(columns, self.reference)
        rows = [i for i, reference in enumerate(references) if reference is not None]
        questions = _questions(prompts, columns, self.question)
        scores = self.model.probabilities(
            [questions[i] for i in rows],
            [references[i] or "" for i in rows],
            [text_of(completions[i]) for i in rows],
        )
        rewards: list[float | None] = [None] * len(completions)
        for row, score in zip(rows, scores, strict=True):
            rewards[row] = score
        return rewards


def text_of(turns: Text, role: str = "assistant") -> str:
    """The text of a completion or prompt: itself, or the last message of a role in a chat.

    Args:
        turns: text, or messages whose content is text, None (a call of a tool) or a list of parts.
        role: whose message.

    Returns:
        "" where the role says nothing.
    """
    if isinstance(turns, str):
        return turns
    said = [turn.get("content") for turn in turns if turn.get("role") == role]
    content = said[-1] if said else None
    if isinstance(content, str) or content is None:
        return content or ""
    return "".join(str(part.get("text") or "") for part in content if part.get("type") == "text")


def _references(columns: Mapping[str, Any], name: str | None) -> list[str | None]:
    """[N] final answers; None where the row has none.

    Raises:
        DataError: no such column.
    """
    known = [names[0] for names in REFERENCE] if name is None else [name]
    for column in known:
        values = _column(columns, column)
        if values is not None:
            return [None if value is None else final_answer(str(value)) for value in values]
    given = ", ".join(column for column, value in columns.items() if isinstance(value, list))
    raise DataError(
        f"the data set has no column {', '.join(known)} (it has: {given or 'none'}); name the "
        "reference answer's with reference="
    )


def _column(columns: Mapping[str, Any], name: str) -> list[Any] | None:
    """[N] values; a dot goes into a nested column (veRL's reward_model.ground_truth)."""
    if name in columns:
        return list(columns[name])
    top, _, rest = name.partition(".")
    if not rest or top not in columns:
        return None
    values = [dig(value or {}, rest) for value in columns[top]]
    return values if any(value is not None for value in values) else None


def _questions(prompts: Sequence[Text], columns: Mapping[str, Any], name: str | None) -> list[str]:
    """[N] questions.

    Raises:
        DataError: no such column.
    """
    if name is not None and name not in columns:
        raise DataError(f"the data set has no column {name}; question= names one that it has")
    found = name or next((column for column in _QUESTION if column in columns), None)
    if found is not None:
        return [str(value) for value in columns[found]]
    return [text_of(prompt, "user") for prompt in prompts]
