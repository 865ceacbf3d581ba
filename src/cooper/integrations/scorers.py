"""What both trainers are given: a verifier, or a reward model on this process's device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cooper.errors import ConfigError
from cooper.integrations.per_process import PerProcess
from cooper.types import Verdict
from cooper.verifiers.base import Verifier

if TYPE_CHECKING:
    from cooper.models import RewardModel

# A class, a function or a partial, called once a process; or a verifier that is there already.
VerifierSource = Verifier | Callable[[], Verifier]


class VerifierOfProcess:
    """A verifier that is made once in each process, or one that the caller made.

    Args:
        source: a class such as ``MathVerifier``, a ``functools.partial`` of one, or a verifier,
            which then stays in this process and is closed by its owner.

    Raises:
        ConfigError: something else.
    """

    def __init__(self, source: VerifierSource) -> None:
        if not isinstance(source, Verifier) and not callable(source):
            raise ConfigError(
                f"verifier={source!r}: give a verifier, its class, or a functools.partial of it"
            )
        self.given = source if isinstance(source, Verifier) else None
        self._made = PerProcess(_unused) if isinstance(source, Verifier) else PerProcess(source)

    def verify(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Verdict]:
        """See :meth:`cooper.verifiers.Verifier.verify`."""
        verifier = self.given or self._made.get()
        return verifier.verify(completions, references, questions)

    def close(self) -> None:
        """Close the verifier of this process, if it was made here."""
        self._made.close()

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process.

        Raises:
            TypeError: a verifier cannot go there.
        """
        if self.given is not None:
            kind = type(self.given).__name__
            raise TypeError(
                f"a {kind} has processes or connections and cannot be sent to another process; "
                f"give the class, or functools.partial({kind}, ...)"
            )
        return self.__dict__


def _unused() -> Verifier:
    raise AssertionError("a given verifier is never made")


def load(path: str, device: str) -> RewardModel:
    """Load a reward model for scoring.

    Args:
        path: folder or hub id.
        device: as torch names it; "auto": this process's GPU where there is one.

    Raises:
        ModelError: it cannot be loaded.
    """
    import torch

    from cooper.models import RewardModel

    if device == "auto":
        cuda = torch.cuda.is_available()
        device = f"cuda:{torch.cuda.current_device()}" if cuda else "cpu"
    model = RewardModel.from_pretrained(path, key="reward_model")
    return model.requires_grad_(False).to(device)


class ModelOfProcess:
    """A reward model that is loaded once in each process, or one that is there already.

    Args:
        model: a folder, a hub id, or a loaded model, which stays in this process.
        device: of a model by path; "auto": this process's GPU where there is one.
    """

    def __init__(self, model: RewardModel | str | Path, device: str = "auto") -> None:
        by_path = isinstance(model, (str, Path))
        self.given = None if by_path else model
        self._made = PerProcess(functools.partial(load, str(model) if by_path else "", device))

    def probabilities(
        self, questions: Sequence[str], references: Sequence[str], completions: Sequence[str]
    ) -> list[float]:
        """Probabilities that N completions are right: [N] in [0, 1]."""
        model = self.given or self._made.get()
        return model.probabilities(questions, references, completions).tolist()

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process.

        Raises:
            TypeError: a loaded model is not sent there.
        """
        if self.given is not None:
            raise TypeError(
                "a loaded reward model is not sent to another process; give its folder or hub id"
            )
        return self.__dict__
