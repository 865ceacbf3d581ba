"""Reward functions for veRL: ``custom_reward_function`` with a verifier, or with a reward model.

In the run's configuration (veRL 0.9.1, ``verl.trainer.ppo.reward.get_custom_reward_fn``)::

    reward.custom_reward_function.path=pkg://cooper.integrations.verl
    reward.custom_reward_function.name=compute_score

veRL calls the function once for each completion, by keyword, in a thread or an actor's process,
and takes a number or a mapping whose ``score`` is the reward; the other figures are logged.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from cooper.data.references import final_answer
from cooper.errors import DataError
from cooper.integrations.per_process import PerProcess, Together
from cooper.integrations.scorers import ModelOfProcess
from cooper.types import Verdict
from cooper.verifiers.math import MathVerifier

__all__ = ["compute_score", "model_score"]

_Triple = tuple[str, str, str]  # question, reference, completion


class _Made:
    """What this process has made: a call knows its settings alone."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.verifiers: dict[int, PerProcess[MathVerifier]] = {}  # by number of workers
        self.models: dict[tuple[str, str], Together[_Triple, float]] = {}  # by path and device


_MADE = _Made()


def _start_anew() -> None:
    global _MADE
    _MADE = _Made()


os.register_at_fork(after_in_child=_start_anew)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    undecided: float = 0.0,
    workers: int = 1,
    **_: Any,
) -> dict[str, Any]:
    """Say by :class:`~cooper.verifiers.MathVerifier` whether a completion is right.

    The verifier is made once in each process, with the first call; its workers end with the
    process.

    Args:
        data_source: the row's data set; not read.
        solution_str: the completion.
        ground_truth: the reference answer, or a worked solution that ends with it.
        extra_info: more of the row; not read.
        undecided: the reward of UNDECIDED; veRL knows no completion without a reward.
        workers: worker processes of this process's verifier. This and `undecided` are set by
            ``reward.custom_reward_function.reward_kwargs``.

    Returns:
        ``score`` (the reward), ``acc`` (1 for CORRECT), ``undecided`` (1 for UNDECIDED), ``pred``
        (the answer that was compared, or "").
    """
    with _MADE.lock:
        made = _MADE.verifiers.get(workers)
        if made is None:
            made = PerProcess(functools.partial(MathVerifier, workers=workers))
            _MADE.verifiers[workers] = made
    (verdict,) = made.get().verify([solution_str], [str(ground_truth)])
    return _figures(verdict, undecided)


def model_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    path: str,
    device: str = "auto",
    question: str = "question",
    **_: Any,
) -> float:
    """Score a completion by a trained reward model: the probability that it is right.

    The model is loaded once in each process, with the first call. Completions that several threads
    bring at the same time are scored in one batch.

    Args:
        data_source: the row's data set, for messages.
        solution_str: the completion.
        ground_truth: the reference answer, which the model reads; a worked solution is cut.
        extra_info: more of the row; holds the question, which veRL passes on nowhere else.
        path: folder or hub id of the reward model, by
            ``reward.custom_reward_function.reward_kwargs.path``.
        device: as torch names it; "auto": this process's GPU where there is one.
        question: where in `extra_info` the question stands.

    Returns:
        the reward, in [0, 1].

    Raises:
        DataError: `extra_info` holds no question.
        ModelError: the model cannot be loaded.
    """
    asked = (extra_info or {}).get(question)
    if not isinstance(asked, str) or not asked:
        held = ", ".join(map(str, extra_info or {})) or "nothing"
        raise DataError(
            f"data_source={data_source}: extra_info has no text {question!r} (it holds: {held}); "
            "write the question there when the data set is made, as veRL's examples for GSM8K do, "
            "or name its key with reward_kwargs.question"
        )
    with _MADE.lock:
        score = _MADE.models.get((path, device))
        if score is None:
            score = Together(functools.partial(_score, ModelOfProcess(path, device)))
            _MADE.models[path, device] = score
    return score((asked, final_answer(str(ground_truth)), solution_str))


def _score(model: ModelOfProcess, triples: Sequence[_Triple]) -> list[float]:
    questions, references, completions = (list(texts) for texts in zip(*triples, strict=True))
    return model.probabilities(questions, references, completions)


def _figures(verdict: Verdict, undecided: float) -> dict[str, Any]:
    return {
        "score": float(verdict.correct) if verdict.decided else undecided,
        "acc": float(verdict.correct),
        "undecided": float(not verdict.decided),
        "pred": verdict.answer or "",
    }
