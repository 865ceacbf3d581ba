"""Errors that a user can mend. The command line prints them as one line, without a traceback."""

from __future__ import annotations


class CooperError(Exception):
    """Base of what a user can mend; the message names the thing, the value, the rule, the mend."""


class ConfigError(CooperError):
    """A setting is wrong."""


class DataError(CooperError):
    """A data file or a row of it is wrong."""


class ModelError(CooperError):
    """A model folder or a model's form is wrong."""


class CheckpointError(CooperError):
    """A checkpoint is missing, broken, or of another run."""


class HubError(CooperError):
    """The Hugging Face hub cannot be reached, or does not take what it is given."""


class NonFiniteError(CooperError):
    """Training stopped: losses or gradients were NaN or infinite several steps in a row."""


class StaleSamplerError(CooperError):
    """A sampler does not draw from the policy that is trained."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM. No CooperError: there is nothing to mend."""


def interruption(error: BaseException) -> KeyboardInterrupt:
    """What ended a run: Lightning turns Ctrl-C and SIGTERM into an exit, which hides which it was.

    Args:
        error: a KeyboardInterrupt, or the SystemExit made of one.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return cause
        cause = cause.__cause__ or cause.__context__
    return KeyboardInterrupt()
