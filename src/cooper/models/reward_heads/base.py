"""The contract of a reward head, and the row that it reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, cast, overload

from torch import Tensor, nn
from transformers import PreTrainedModel

from cooper.models.row_batch import RowBatch


class Row(Sequence[int]):
    """Token ids of one rendered triple, with the places that heads read.

    No list: what wraps a model to shard it makes lists anew, without what else stands in them.

    Args:
        ids: the tokens.
        completion: first token of the completion and the one behind its last; by default all.
        ends: the last token of each step of the completion.
        steps: which steps those are, counted from 0: one whose end was cut away is not among them.
    """

    def __init__(
        self,
        ids: Iterable[int],
        completion: tuple[int, int] | None = None,
        ends: Sequence[int] = (),
        steps: Sequence[int] | None = None,
    ) -> None:
        self._ids = list(ids)
        self.completion = completion or (0, len(self))
        self.ends = tuple(ends) or (len(self) - 1,)
        self.steps = tuple(range(len(self.ends)) if steps is None else steps)

    def __len__(self) -> int:
        """Tokens."""
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: Any) -> Any:
        """A token, or a list of some."""
        return self._ids[index]

    def __eq__(self, other: object) -> bool:
        """Whether another sequence has the same tokens."""
        return isinstance(other, Sequence) and self._ids == list(other)


class RewardHead(nn.Module, ABC):
    """Turns a backbone's view of N rows into N logits, with gradient.

    A head has no weights of its own: those it reads are the model's ``score`` layer or its
    language-model head, so that a folder in Hugging Face form holds all of them.

    Attributes:
        name: in configurations and in the record of a saved model.
        places: whether it has to know where completion and steps stand in a row.
        causal_lm: whether it reads a causal language model and not a one-label classifier.
        per_step: whether its labels are those of steps and not of rows.
    """

    name: ClassVar[str]
    places: ClassVar[bool] = True
    causal_lm: ClassVar[bool] = False
    per_step: ClassVar[bool] = False

    def record(self) -> dict[str, Any]:
        """What decides a score besides the weights, as plain values; ``config.json`` holds it."""
        return {"name": self.name}

    @abstractmethod
    def units(self, model: PreTrainedModel, rows: Sequence[Row], batch: RowBatch) -> Tensor:
        """Logits of what carries a label: a row, or (``per_step``) a step.

        Args:
            model: the backbone with its head.
            rows: N rows.
            batch: the rows laid out.

        Returns:
            [N] or [sum of steps] float32.
        """

    def pool(self, units: Tensor, rows: Sequence[Row]) -> Tensor:
        """From the units of N rows to their [N] logits."""
        return units

    def forward(self, model: PreTrainedModel, rows: Sequence[Row], batch: RowBatch) -> Tensor:
        """[N] float32 logits, with gradient."""
        return self.pool(self.units(model, rows, batch), rows)


def hidden_states(model: PreTrainedModel, batch: RowBatch) -> Tensor:
    """[S, H] last hidden states of the backbone under a classifier, flat."""
    backbone = getattr(model, model.base_model_prefix)
    return backbone(**batch.given, use_cache=False).last_hidden_state.flatten(0, 1)


def score(model: PreTrainedModel, pooled: Tensor) -> Tensor:
    """[M] float32: the classifier's own layer on [M, H] vectors."""
    return cast(nn.Module, model.score)(pooled).squeeze(-1).float()
