"""Components from configuration: the only call of Hydra's instantiate()."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import hydra
from omegaconf import DictConfig, ListConfig, OmegaConf

from cooper.config.validate import is_target, one_line, shown
from cooper.errors import ConfigError, CooperError

T = TypeVar("T")

_FULL_KEY = re.compile(r"full_key: (\S+)")
# "lr=-1: ..." or "optimizer.lr=-1: ...", as components say it that do not know their place.
_REFUSED = re.compile(r"(?:[\w.]+\.)?(\w+=.*)", re.DOTALL)


def instantiate(node: Any, key: str, kind: type[T], **provided: Any) -> T:
    """Build one component; whatever goes wrong names its key.

    Args:
        node: with a ``_target_``.
        key: its dotted name.
        kind: what it has to be.
        **provided: keywords that the run gives.

    Raises:
        ConfigError: the component refuses its values, or is of another kind.
    """
    wrong = ConfigError(f"{key}={shown(node)}: gives no {kind.__name__}; give the _target_ of one")
    if not is_target(node):
        raise wrong
    try:
        part = hydra.utils.instantiate(node, _convert_="all", **provided)
    except Exception as error:
        cause = error.__cause__
        if isinstance(cause, CooperError):
            raise cause from error
        raise ConfigError(_named(one_line(cause or error), key, error)) from error
    if not isinstance(part, kind):
        raise wrong
    return part


def _named(text: str, key: str, error: Exception) -> str:
    """Put the dotted name of the part that refused its value in front; Hydra knows which it was."""
    where = _FULL_KEY.search(str(error))
    refused = _REFUSED.match(text)
    if where and refused:
        return f"{where[1]}.{refused[1]}"
    return text if key in text else f"{where[1] if where else key}: {text}"


def plain(node: Any) -> Any:
    """A part of the configuration as plain Python values, interpolations resolved."""
    if isinstance(node, (DictConfig, ListConfig)):
        return OmegaConf.to_container(node, resolve=True)
    return node


def leaves(node: Any, key: str = "") -> dict[str, str]:
    """Plain values of a configuration under their dotted keys, resolved."""
    if not key:
        node = plain(node)
    if not isinstance(node, dict):
        return {key: str(node)}
    found: dict[str, str] = {}
    for name, child in node.items():
        found.update(leaves(child, f"{key}.{name}" if key else str(name)))
    return found
