"""Which columns of a table hold question and reference, in the forms that are around."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cooper.data.references import final_answer
from cooper.data.tables import text_of
from cooper.errors import DataError

Names = tuple[str, ...]  # columns whose texts are joined by a space

# The first that a table has is taken. Ours, MATH and Big-Math, MathOdyssey, SVAMP; then TRL's and
# veRL's, which hold the question as a chat or a text.
QUESTION: tuple[Names, ...] = (
    ("question",),
    ("problem",),
    ("problem_statement",),
    ("Body", "Question"),
    ("Question",),
    ("prompt",),
)
# A short final answer goes before a worked solution. TRL: solution, answer or ground_truth; veRL:
# reward_model.ground_truth; DeepMath and OlympiadBench: final_answer.
REFERENCE: tuple[Names, ...] = (
    ("answer",),
    ("reference",),
    ("reference_answer",),
    ("final_answer",),
    ("Answer",),
    ("ground_truth",),
    ("reward_model.ground_truth",),
    ("solution",),
)
_IDS = ("id", "unique_id", "ID")
_SOURCES = ("source", "data_source")


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are read."""

    question: Names
    reference: Names

    @property
    def top(self) -> list[str]:
        """Everything to read, by the names of the table's own columns."""
        names = (*self.question, *self.reference, *_IDS, *_SOURCES)
        return sorted({name.partition(".")[0] for name in names} | set(names))


def find_columns(
    where: str,
    row: Mapping[str, Any],
    question: str | None = None,
    reference: str | None = None,
) -> Columns:
    """Choose the columns by the first row.

    Args:
        where: the row's place, for messages.
        row: its columns.
        question: the user's choice; a dot goes into a nested column, a plus joins two texts.
        reference: the same.

    Raises:
        DataError: a named column is not there, or none of the known ones is.
    """
    found: list[Names] = []
    for key, given, known in (
        ("question_column", question, QUESTION),
        ("reference_column", reference, REFERENCE),
    ):
        choices = known if given is None else (tuple(given.split("+")),)
        names = next((names for names in choices if all(has(row, n) for n in names)), None)
        if names is None:
            asked = ", ".join("+".join(names) for names in choices)
            there = ", ".join(map(str, row))
            what = f"none of the columns {asked}" if given is None else f"no column {asked}"
            raise DataError(f"{where}: {what} (found: {there}); name yours with {key}")
        found.append(names)
    return Columns(*found)


def under_its_name(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row itself, of a row that holds it under its name alone (MathOdyssey's own file)."""
    if len(row) == 1:
        ((name, inner),) = row.items()
        if isinstance(inner, Mapping):
            return {"id": name, **inner}
    return row


def has(row: Mapping[str, Any], name: str) -> bool:
    """Whether a row has a column; a dot goes into a nested one."""
    return name in row or dig(row, name) is not None


def dig(row: Mapping[str, Any], name: str) -> Any:
    """A row's value; a dot goes into a nested column. None: there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def asked(where: str, row: Mapping[str, Any], names: Names) -> Any:
    """The value of the first of the columns.

    Raises:
        DataError: the row lacks one of them.
    """
    for name in names:
        if not has(row, name):
            there = ", ".join(map(str, row))
            raise DataError(f"{where}: no column {name!r} (found: {there}); every row needs it")
    return dig(row, names[0])


def question_of(where: str, row: Mapping[str, Any], names: Names) -> tuple[str, str | None]:
    """The question of a row, and the system message that it brings.

    A chat (TRL's and veRL's `prompt`) may hold one message of the user, and a system message
    before it.

    Raises:
        DataError: it is empty, or a chat of another form.
    """
    value = asked(where, row, names)
    if len(names) == 1 and isinstance(value, Sequence) and not isinstance(value, str):
        messages: list[Any] = list(value)
        system = None
        roles = [m.get("role") if isinstance(m, Mapping) else None for m in messages]
        if roles[:1] == ["system"]:
            system = text_of(where, messages.pop(0), ("content",))
            roles = roles[1:]
        if roles != ["user"]:
            raise DataError(
                f"{where}: column {names[0]!r} is a chat of {', '.join(map(str, roles)) or 'no'} "
                "messages; one message of the user is needed, after a system message or alone"
            )
        return text_of(where, messages[0], ("content",)), system
    parts = [text_of(where, {name: dig(row, name)}, (name,)).strip() for name in names]
    for index, part in enumerate(parts[:-1]):
        # SVAMP's body and question are sentences; some bodies lack their full stop.
        parts[index] = part if part[-1] in ".!?:,;" else f"{part}."
    return " ".join(parts) if len(parts) > 1 else parts[0], None


def reference_of(where: str, row: Mapping[str, Any], names: Names) -> str:
    """The final answer of a row; a list of several answers is joined by commas.

    Raises:
        DataError: it is empty.
    """
    name = "+".join(names)
    value = asked(where, row, names)
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = ", ".join(text_of(where, {name: item}, (name,)).strip() for item in value)
    return final_answer(text_of(where, {name: value}, (name,)))


def id_of(row: Mapping[str, Any], default: str) -> str:
    """The row's name."""
    return next((str(row[name]) for name in _IDS if row.get(name) is not None), default)


def source_of(row: Mapping[str, Any], default: str) -> str:
    """What data set a row comes from."""
    return next((str(row[name]) for name in _SOURCES if row.get(name)), default)
