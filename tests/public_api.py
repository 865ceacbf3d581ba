"""The public names and signatures: ``python tests/public_api.py --write`` renews public_api.txt.

Public is what ``__all__`` of the modules below lists, or without one what they define under a name
without an underscore; and of a class its constructor and the members named likewise. A member that
a public base has in the same form is written there alone.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

MODULES = (
    "cooper",
    "cooper.callbacks.base",
    "cooper.chat",
    "cooper.data",
    "cooper.errors",
    "cooper.evaluation",
    "cooper.functional",
    "cooper.integrations.trl",
    "cooper.integrations.verl",
    "cooper.models",
    "cooper.models.adapters",
    "cooper.models.local_chat",
    "cooper.negatives",
    "cooper.objectives",
    "cooper.optim",
    "cooper.pairs",
    "cooper.rewards",
    "cooper.samplers",
    "cooper.types",
    "cooper.verifiers",
)
FILE = Path(__file__).with_suffix(".txt")


class Shown:
    """Something in a signature that is shown by a text of ours."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def names(module: ModuleType) -> list[str]:
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(listed)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    )


def signature(value: Any) -> str:
    """A signature: annotations as they are written, long texts cut."""
    found = inspect.signature(value)
    parameters = []
    for parameter in found.parameters.values():
        default, annotation = parameter.default, parameter.annotation
        if isinstance(default, str) and len(default) > 40:
            default = Shown(f"{default[:40]!r}...")
        if isinstance(annotation, str):
            annotation = Shown(annotation)
        parameters.append(parameter.replace(default=default, annotation=annotation))
    returned = found.return_annotation
    if isinstance(returned, str):
        returned = Shown(returned)
    return str(found.replace(parameters=parameters, return_annotation=returned))


def member_lines(kind: type) -> dict[str, str]:
    """What a class and its bases of this library define under public names."""
    ours = [base for base in reversed(kind.__mro__) if base.__module__.startswith("cooper")]
    fields = {f.name for f in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    lines = {}
    for name, value in {name: v for base in ours for name, v in vars(base).items()}.items():
        if (name.startswith("_") and name != "__call__") or name in fields:
            continue
        if isinstance(value, (staticmethod, classmethod)):
            lines[name] = signature(getattr(kind, name))
        elif inspect.isfunction(value):
            lines[name] = signature(value)
        elif not inspect.isclass(value):
            lines[name] = ""
    return lines


def described(full: str, value: Any, public: set[type]) -> Iterator[str]:
    """A name's lines."""
    if inspect.isclass(value) and issubclass(value, enum.Enum):
        yield f"{full}: {', '.join(member.name for member in value)}"
    elif inspect.isclass(value):
        made_here = dataclasses.is_dataclass(value) or any(
            "__init__" in vars(base) and base.__module__.startswith("cooper")
            for base in value.__mro__
        )
        yield full + (signature(value) if made_here else "")
        bases = [member_lines(base) for base in value.__mro__[1:] if base in public]
        for name, line in sorted(member_lines(value).items()):
            if not any(base.get(name) == line for base in bases):
                yield f"{full}.{name}{line}"
    elif inspect.isfunction(value):
        yield full + signature(value)
    else:
        yield full


def public_api() -> str:
    """Everything that is public, a line each; what has several names is written under the last."""
    found = {}
    for module in MODULES:
        for name in names(import_module(module)):
            found[f"{module}.{name}"] = getattr(import_module(module), name)
    homes = {id(value): full for full, value in found.items() if inspect.isclass(value)}
    public = {value for value in found.values() if inspect.isclass(value)}
    lines = []
    for full, value in found.items():
        home = homes.get(id(value), full)
        lines += [f"{full} = {home}"] if home != full else described(full, value, public)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FILE.write_text(public_api(), "utf-8")
    else:
        print(public_api(), end="")
