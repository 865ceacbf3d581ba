"""Range checks that say which setting, which value and which rule."""

from __future__ import annotations


def one_of(key: str, value: object, allowed: tuple[object, ...]) -> None:
    """Check a choice.

    Raises:
        ValueError: the value is none of the allowed ones.
    """
    if value not in allowed:
        raise ValueError(f"{key}={value}: must be one of {', '.join(map(str, allowed))}")


def at_most(prefix: str, settings: object, **bounds: float) -> None:
    """Check upper bounds of an object's attributes.

    Raises:
        ValueError: an attribute lies above its bound.
    """
    for name, bound in bounds.items():
        value = getattr(settings, name)
        if not value <= bound:
            raise ValueError(f"{prefix}.{name}={value}: must be at most {bound:g}")


def at_least(prefix: str, settings: object, **bounds: float) -> None:
    """Check lower bounds of an object's attributes.

    Raises:
        ValueError: an attribute lies below its bound.
    """
    for name, bound in bounds.items():
        value = getattr(settings, name)
        if not value >= bound:
            raise ValueError(f"{prefix}.{name}={value}: must be at least {bound:g}")
