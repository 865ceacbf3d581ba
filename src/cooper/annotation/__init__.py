"""Labels for completions by a rule and a judge: the paper's hybrid annotation.

:class:`HybridAnnotation` is a stage of a training run; the rest labels files
(``cooper-annotate``) and works alone. Names are imported when first used: labelling a file by a
rule and an endpoint needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cooper.annotation.agreement import Agreement, cohen_kappa
    from cooper.annotation.folder import AnnotationFolder
    from cooper.annotation.generation import CompletionGenerator
    from cooper.annotation.hybrid import COUNTS, LABELLED, HybridAnnotation, agree
    from cooper.annotation.items import Item, read_items
    from cooper.annotation.labelling import Labelling, Outcome

_HOME = {
    "COUNTS": "hybrid",
    "LABELLED": "hybrid",
    "Agreement": "agreement",
    "AnnotationFolder": "folder",
    "CompletionGenerator": "generation",
    "HybridAnnotation": "hybrid",
    "Item": "items",
    "Labelling": "labelling",
    "Outcome": "labelling",
    "agree": "hybrid",
    "cohen_kappa": "agreement",
    "read_items": "items",
}

__all__ = [
    "COUNTS",
    "LABELLED",
    "Agreement",
    "AnnotationFolder",
    "CompletionGenerator",
    "HybridAnnotation",
    "Item",
    "Labelling",
    "Outcome",
    "agree",
    "cohen_kappa",
    "read_items",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its file.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
