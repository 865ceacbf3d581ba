"""The small frozen types through which data goes one way, and the legend of their shapes.

Legend
    P      problems of a step
    G      completions a problem (``group_size``)
    N      rollouts; P * G unless groups were dropped or refilled
    T_i    tokens of completion i, its end-of-sequence token included
    S      sum of all T_i: the length of a *flat* tensor
    K      pairs

Rollouts are ragged: completion i owns ``flat[offsets[i]:offsets[i + 1]]``. Padding is a view
that a model makes inside its own forward; it is never stored.

This file imports no torch, so that ``from cooper.verifiers import MathVerifier`` stays light.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "LabelledCompletion",
    "Negative",
    "NegativeRequest",
    "Pair",
    "Pairs",
    "Problem",
    "Prompt",
    "Rollouts",
    "SamplingParams",
    "Status",
    "Verdict",
]


@dataclass(frozen=True)
class Problem:
    """A question with its reference answer."""

    id: str
    question: str
    reference: str  # the reference answer, as text
    source: str = ""  # data set or family; evaluation reports each one apart
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """A problem as the policy reads it: chat template applied, tokenised."""

    problem: Problem
    text: str
    ids: tuple[int, ...]


class Status(str, Enum):
    """What a verifier says of a completion."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    UNDECIDED = "undecided"

    @property
    def decided(self) -> bool:
        """Whether the verifier could tell at all."""
        return self is not Status.UNDECIDED


@dataclass(frozen=True)
class Verdict:
    """A verifier's three-valued answer about one completion.

    UNDECIDED (time-out, unparsable reference, a failure inside the verifier) is neither right nor
    wrong: it is never chosen, never rejected, and counted apart. A plain completion without an
    answer is INCORRECT.
    """

    status: Status
    reason: str = ""
    answer: str | None = None  # the text that was compared
    span: tuple[int, int] | None = None  # where `answer` stands in the completion, in characters

    @property
    def correct(self) -> bool:
        """Decided, and right."""
        return self.status is Status.CORRECT

    @property
    def incorrect(self) -> bool:
        """Decided, and wrong."""
        return self.status is Status.INCORRECT

    @property
    def decided(self) -> bool:
        """Right or wrong, but not UNDECIDED."""
        return self.status.decided

    def __bool__(self) -> bool:
        """Refuse, so that nobody mistakes UNDECIDED for true.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "a Verdict has three values and no truth value: "
            "ask .correct, .incorrect or .decided instead"
        )


@dataclass(frozen=True)
class SamplingParams:
    """How completions are drawn. ``temperature=0`` is greedy."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    min_p: float = 0.0  # tokens below this share of the likeliest one's probability are cut; 0: off
    stop: tuple[str, ...] = ()  # texts that end a completion, and stay in it

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: a value is out of its range.
        """
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens}: at least 1 token is needed")
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature}: 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: must lie in (0, 1]; 1 switches it off")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k}: 0 (off) or more")
        if not 0 <= self.min_p < 1:
            raise ValueError(f"min_p={self.min_p}: must lie in [0, 1); 0 switches it off")
        if isinstance(self.stop, str) or not all(self.stop):
            raise ValueError(f"stop={self.stop!r}: give a list of texts, none of them empty")
        object.__setattr__(self, "stop", tuple(self.stop))  # of a configuration it is a list


@dataclass(frozen=True)
class Rollouts:
    """Completions drawn by a sampler, ragged. Rollouts of one problem stand side by side."""

    problems: tuple[Problem, ...]  # [P]
    prompt_ids: tuple[tuple[int, ...], ...]  # [P], each [prompt tokens]
    problem_of: Tensor  # [N] int64: index into `problems`, ascending
    ids: Tensor  # [S] int64: completion tokens, end of sequence included
    logprobs: Tensor  # [S] float32: of the distribution drawn from, after temperature and top-p
    offsets: Tensor  # [N + 1] int64
    finished: Tensor  # [N] bool: ended by itself (true) or cut at the length limit (false)
    completions: tuple[str, ...]  # [N]: decoded, special tokens stripped
    policy_version: int  # optimizer steps that the drawing policy had taken

    def __post_init__(self) -> None:
        """Check that the lengths fit together.

        Raises:
            ValueError: they do not.
        """
        n = len(self.completions)
        total = int(self.offsets[-1]) if len(self.offsets) else -1
        sizes = {
            "problem_of": (len(self.problem_of), n),
            "offsets": (len(self.offsets), n + 1),
            "finished": (len(self.finished), n),
            "ids": (len(self.ids), total),
            "logprobs": (len(self.logprobs), total),
            "prompt_ids": (len(self.prompt_ids), len(self.problems)),
        }
        for name, (got, expected) in sizes.items():
            if got != expected:
                raise ValueError(f"Rollouts.{name} has {got} entries where {expected} are needed")

    def __len__(self) -> int:
        """N, the number of rollouts."""
        return len(self.completions)

    @property
    def lengths(self) -> Tensor:
        """[N] int64: tokens of each completion."""
        return self.offsets[1:] - self.offsets[:-1]

    @cached_property
    def owners(self) -> list[int]:
        """[N]: `problem_of` as plain integers."""
        return [int(i) for i in self.problem_of.tolist()]

    @property
    def questions(self) -> list[str]:
        """[N]: the question of each rollout."""
        return [self.problems[i].question for i in self.owners]

    @property
    def references(self) -> list[str]:
        """[N]: the reference answer of each rollout."""
        return [self.problems[i].reference for i in self.owners]

    @cached_property
    def groups(self) -> list[list[int]]:
        """[P]: the rollout indices of each problem, possibly none."""
        groups: list[list[int]] = [[] for _ in self.problems]
        for rollout, problem in enumerate(self.owners):
            groups[problem].append(rollout)
        return groups

    def tokens(self, rollout: int) -> Tensor:
        """[T_i] int64: the tokens of one completion."""
        return self.ids[int(self.offsets[rollout]) : int(self.offsets[rollout + 1])]


@dataclass(frozen=True)
class LabelledCompletion:
    """A (question, reference, completion) triple with its label, for the first stage."""

    question: str
    reference: str
    completion: str
    label: bool
    source: str = ""
    id: str = ""
    step_labels: tuple[bool, ...] = ()  # of the completion's steps, which blank lines part


@dataclass(frozen=True)
class NegativeRequest:
    """What a negative generator may look at: one problem's chosen completion and its group."""

    problem: Problem
    chosen: str
    group: Sequence[str]  # [G]: the completions of the problem, the chosen one among them
    verdicts: Sequence[Verdict]  # [G]: the training verifier's
    scores: Sequence[float] | None = None  # [G]: the reward model's, where there is one


@dataclass(frozen=True)
class Negative:
    """What a negative generator gives back. ``text=None``: it found none."""

    text: str | None
    source: str  # provenance: "self", "perturb:answer", ...
    tries: int = 1
    failure: str = ""  # why whoever was asked gave no reply at all; empty: it did, or nobody was


@dataclass(frozen=True)
class Pair:
    """One verified-right and one verified-wrong completion of the same problem."""

    problem: int  # index into Rollouts.problems
    chosen: str
    rejected: str
    chosen_rollout: int  # index into the rollouts
    rejected_rollout: int | None  # None: the text is not a rollout of this step
    provenance: str


@dataclass(frozen=True)
class Pairs:
    """The contrastive pairs of one step, and what became of the problems that gave none."""

    pairs: tuple[Pair, ...]  # [K]
    counts: Mapping[str, int]  # built, dropped_no_correct, dropped_no_reply, ...

    def __len__(self) -> int:
        """K, the number of pairs."""
        return len(self.pairs)
