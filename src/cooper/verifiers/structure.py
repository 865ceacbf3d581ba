r"""Answers that hold several values: sets, tuples, intervals, lists, matrices, named values.

An answer is read into a tree whose leaves are single values, and two trees are compared leaf by
leaf. What equality of leaves means is given from outside, so that most answers are settled
without computer algebra. Where a tree cannot tell, it says so and the whole text is compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from cooper.types import Status
from cooper.verifiers.extraction import unwrap
from cooper.verifiers.forms import Form

CORRECT, INCORRECT, UNDECIDED = Status.CORRECT, Status.INCORRECT, Status.UNDECIDED


@dataclass(frozen=True)
class Finding:
    """What a rule found: the status and the reason that the verdict will give."""

    status: Status
    reason: str


@dataclass(frozen=True)
class Leaf:
    """One value."""

    text: str


@dataclass(frozen=True)
class Several:
    r"""Values in brackets or without.

    A "set" \{..\}, a "tuple" (..), a "list" without brackets; "mixed" brackets enclose nothing.
    """

    kind: str
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`. A pair in round brackets may be a point as well: `maybe_tuple`."""

    low: str
    high: str
    closed: tuple[bool, bool]
    variable: str = ""
    maybe_tuple: bool = False


@dataclass(frozen=True)
class Union:
    """Intervals, one or another of which holds the value."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Matrix:
    """Rows of entries."""

    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Named:
    """``name = value``."""

    name: str
    value: Node


Node = Leaf | Several | Interval | Union | Matrix | Named

# One letter, a Greek one, a run of capitals (a segment's name), or a word: no product of letters.
_SYMBOL = r"(?:\\[A-Za-z]+|[A-Z]+|[A-Za-z][a-z]{3,}|[a-z])(?:_\s?(?:\{[^{}]{1,12}\}|\w))?'?"
_VARIABLE = re.compile(r"(?:\\[a-z]+|[A-Za-z])(?:_\s?(?:\{[^{}]{1,12}\}|\w))?")
# What an answer may be called: x, x_1, f(x), P(A), AB, |AB|, \angle ABC, S_{1}:S.
_NAME = re.compile(
    rf"(?:\\(?:angle|triangle|overline|widehat|measuredangle)\s?\{{?)?\|?{_SYMBOL}\|?\}}?"
    rf"(?:\s?\(\s?(?:{_SYMBOL}|[0-9]+)(?:\s?,\s?(?:{_SYMBOL}|[0-9]+))*\s?\))?(?:\s?:\s?{_SYMBOL})?"
    rf"|\\frac\s?\{{{_SYMBOL}\}}\s?\{{{_SYMBOL}\}}|\(\s?{_SYMBOL}(?:\s?,\s?{_SYMBOL})+\s?\)"
)
_MATRIX = re.compile(
    r"[(\[]?\s*\\begin\s?\{((?:[pbB]|small)?matrix|array)\}(?:\s?\{[clr| ]*\})?(.*)"
    r"\\end\s?\{\1\}\s*[)\]]?(?:\^\s?\{?\s?(T|\\top|\\intercal)\s?\}?)?",
    re.DOTALL,
)
_BUILDER = re.compile(
    r"\\?\{\s*([A-Za-z])\s*(?:\\in\s*(?:\\mathbb\s?\{?\s?R\s?\}?|R))?\s*(?:\||\\mid|\\vert|:)(.*?)\\?\}",
    re.DOTALL,
)
_RELATION = re.compile(r"\\(?:le|ge|in)(?![A-Za-z])|<=|>=|(?<![!])[<>]")
_AND = re.compile(
    r"\s*(?:,|;|\\text\s?\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*"
)
_OR = re.compile(r"\s*(?:\\cup|\\lor|\\vee|\\text\s?\{\s*or\s*\}|(?<![A-Za-z\\])or(?![A-Za-z]))\s*")
_COMMA = re.compile(r"\s*,\s*")
_EQUALS = re.compile(r"\s*(?<![<>!\\])=\s*")
_NUMERIC = re.compile(r"\\(?:frac|sqrt|cdot|times|div|pi|pm)(?![A-Za-z])")
_SYMBOLS = re.compile(r"[A-Za-z]")
_EMPTY = re.compile(r"\\(?:emptyset|varnothing)|\\\{\s*\\\}|\{\s*\}")
_PM = re.compile(r"\\(pm|mp)(?![A-Za-z])")
_INFINITE = re.compile(r"[-+]?\s*\\infty")
MAX_ITEMS = 64


def read(text: str, rules: frozenset[str]) -> Node:
    """Read a text into a tree; what has no structure that is on becomes one leaf.

    Args:
        text: of a :class:`~cooper.verifiers.forms.Form`: one spelling for everything.
        rules: names that are on.
    """
    text = text.strip().rstrip(".").strip()
    if "matrices" in rules and (found := _MATRIX.fullmatch(text)):
        rows = [row.split("&") for row in re.split(r"\\\\", found[2]) if row.strip()]
        width = len(rows[0]) if rows else 0
        if width and all(len(row) == width for row in rows):
            cells = tuple(tuple(cell.strip() for cell in row) for row in rows)
            return Matrix(tuple(zip(*cells, strict=True)) if found[3] else cells)
    if "intervals" in rules:
        if found := _BUILDER.fullmatch(text):
            inside = _relation(found[2].strip(), rules)
            if inside is not None:
                same = _variables(inside) <= {found[1]}
                return inside if same else Several("mixed", ())
        if (inside := _relation(text, rules)) is not None:
            return inside
        parts = _split(text, re.compile(r"\s*\\cup\s*"))
        if 1 < len(parts) <= MAX_ITEMS:
            read_parts = tuple(read(part, rules) for part in parts)
            if all(isinstance(p, Interval) or _is_set(p) for p in read_parts):
                return Union(read_parts)
    if "sets" in rules and _EMPTY.fullmatch(text):
        return Several("set", ())
    if (brackets := _brackets(text)) is not None:
        opening, closing, inner = brackets
        items = _split(inner, _AND)
        if opening == "{" and "sets" in rules and (len(items) > 1 or text.startswith("\\")):
            return _several("set", items, rules)
        if len(items) == 2 and opening != "{" and "intervals" in rules and _one_comma(inner):
            closed = (opening == "[", closing == "]")
            both_round = closed == (False, False)
            bounded = any(_INFINITE.fullmatch(item.strip()) for item in items)
            return Interval(items[0], items[1], closed, maybe_tuple=both_round and not bounded)
        if len(items) > 1 and opening != "{" and "tuples" in rules:
            matching = opening + closing in ("()", "[]")
            return _several("tuple" if matching else "mixed", items, rules)
    members = _split(text, _EQUALS)
    if len(_split(text, _AND)) > 1:
        members = []
    if len(members) > 2 or (len(members) == 2 and not _SYMBOLS.search(_NUMERIC.sub("", text))):
        return read(members[-1], rules)  # a = b = 5, 2 + 3 = 5: worked out, to its last member
    if (parts := _ratio(text)) is not None:
        return Several("ratio", tuple(Leaf(part) for part in parts))
    named = _named(text)
    if named and "named_values" in rules:
        return Named(named[0], read(named[1], rules))
    items = _split(text, _AND)
    if 1 < len(items) <= MAX_ITEMS and all(items):
        return _several("list", _shared_name(items), rules)
    if "plus_minus" in rules and len(_PM.findall(text)) == 1:
        signs = [_PM.sub(sign, text).removeprefix("+") for sign in ("+", "-")]
        return _several("list", signs, rules)
    return Leaf(text)


def _several(kind: str, items: Sequence[str], rules: frozenset[str]) -> Several:
    nodes: list[Node] = []
    for item in items:
        node = read(item, rules)
        # "\pm 1, 5" holds three values; brackets inside keep theirs.
        nodes += node.items if isinstance(node, Several) and node.kind == "list" else [node]
    return Several(kind, tuple(nodes))


def _is_set(node: Node) -> bool:
    return isinstance(node, Several) and node.kind == "set"


def _one_comma(inner: str) -> bool:
    return len(_split(inner, _COMMA)) == 2


def _brackets(text: str) -> tuple[str, str, str] | None:
    r"""Opening, closing and content, when one pair of brackets encloses the whole text.

    ``{`` stands for ``\{`` and for a bare brace, which careless writers mean as a set.
    """
    for opening, closings in (("(", ")]"), ("[", "])"), (r"\{", "}"), ("{", "}")):
        if not text.startswith(opening) or text[-1:] not in closings:
            continue
        closing = r"\}" if text.endswith(r"\}") else text[-1]
        inner = text[len(opening) : len(text) - len(closing)]
        depth = 0
        for sign in inner:
            depth += (sign in "([{") - (sign in ")]}")
            if depth < 0:
                return None
        if depth:
            return None
        return opening[-1], closing[-1], inner
    return None


def _split(text: str, at: re.Pattern[str]) -> list[str]:
    """Split at the separators that stand in no bracket."""
    parts, start, depth, position = [], 0, 0, 0
    while position < len(text):
        found = at.match(text, position) if not depth else None
        # A separator "and" must not be found in the middle of its own leading space.
        if found and found.end() > position and found[0].strip():
            parts.append(text[start:position])
            start = position = found.end()
            continue
        sign = text[position]
        depth += (sign in "([{") - (sign in ")]}")
        position += 1
    if not parts:
        return [text.strip()]
    parts = [unwrap(part) for part in [*parts, text[start:]]]
    return [part for part in parts if part]


def _ratio(text: str) -> list[str] | None:
    """The parts of "3:4:5"; clock times and what holds more than numbers are none."""
    parts = [part.strip() for part in text.split(":")]
    if len(parts) < 2 or not all(re.fullmatch(r"[0-9]{1,12}(?:\.[0-9]{1,12})?", p) for p in parts):
        return None
    if re.fullmatch(r"[0-9]{1,2}(?::[0-9]{2}){1,2}", text.replace(" ", "")) and "0" in text:
        return None
    return parts


def _named(text: str) -> tuple[str, str] | None:
    left, equals, right = text.partition("=")
    if not equals or "=" in right or not right.strip() or right.lstrip().startswith(("<", ">")):
        return None
    if left.rstrip().endswith((r"\ne", "<", ">", "!", "\\")) or _RELATION.search(text):
        return None
    name = " ".join(left.split())
    return (name, right.strip()) if _NAME.fullmatch(name) else None


def _shared_name(items: list[str]) -> list[str]:
    """Drop the name that all values of a list share: "x = 1 or x = 2", "x = 1, 2"."""
    named = [_named(item) for item in items]
    found = [n for n in named if n]
    if not found or named[0] is None:
        return items
    if len(found) == len(items) and len({_tight(name) for name, _ in found}) == 1:
        return [value for _, value in found]
    return [found[0][1], *items[1:]] if len(found) == 1 else items


def _variables(node: Node) -> set[str]:
    """The variables of intervals that inequalities gave."""
    nodes = node.parts if isinstance(node, Union) else (node,)
    return {n.variable for n in nodes if isinstance(n, Interval) and n.variable}


def _relation(text: str, rules: frozenset[str]) -> Node | None:
    r"""Read an inequality or ``x \in ...`` of one variable as the set of its solutions."""
    if not _RELATION.search(text):
        return None
    parts = _split(text, _OR)
    if 1 < len(parts) <= MAX_ITEMS:
        nodes = [_relation(part, rules) for part in parts]
        found = [node for node in nodes if isinstance(node, Interval)]
        if len(found) == len(nodes) and len({node.variable for node in found}) == 1:
            return Union(tuple(found))
        return None
    signs = [m for m in _RELATION.finditer(text) if _outside(text, m.start())]
    if not 1 <= len(signs) <= 2 or "=" in re.sub(r"[<>]=", "", text):
        return None
    kinds = [_kind(sign[0]) for sign in signs]
    edges = [0, *(x for sign in signs for x in sign.span()), len(text)]
    sides = [text[a:b].strip() for a, b in zip(edges[::2], edges[1::2], strict=True)]
    if kinds == ["in"] and _VARIABLE.fullmatch(sides[0]):
        node = read(sides[1], rules)
        if isinstance(node, Interval):
            return Interval(node.low, node.high, node.closed, sides[0])
        return node if isinstance(node, Union) or _is_set(node) else None
    if "in" in kinds:
        return None
    if len(signs) == 2:
        if kinds[0][0] != kinds[1][0] or not _VARIABLE.fullmatch(sides[1]):
            return None
        low, high = sides[0], sides[2]
        closed = ("=" in kinds[0], "=" in kinds[1])
        if kinds[0][0] == ">":
            low, high, closed = high, low, (closed[1], closed[0])
        return Interval(low, high, closed, sides[1])
    left_is = bool(_VARIABLE.fullmatch(sides[0])) and sides[0] not in (r"\pi", r"\infty")
    right_is = bool(_VARIABLE.fullmatch(sides[1])) and sides[1] not in (r"\pi", r"\infty", "e")
    if left_is == right_is:
        return None
    variable, bound = sides if left_is else sides[::-1]
    below = (kinds[0][0] == "<") == left_is
    closed_end = "=" in kinds[0]
    if below:
        return Interval(r"-\infty", bound, (False, closed_end), variable)
    return Interval(bound, r"\infty", (closed_end, False), variable)


def _kind(sign: str) -> str:
    return {r"\le": "<=", r"\ge": ">=", r"\in": "in"}.get(sign, sign)


def _outside(text: str, at: int) -> bool:
    before = text[:at]
    return sum(map(before.count, "([{")) == sum(map(before.count, ")]}"))


# ------------------------------------------------------------------------------------ comparison

# Says of two single values; None: it cannot tell here, and no more can be said without algebra.
Equal = Callable[[str, str], "Finding | None"]


def compare(answer: Node, reference: Node, equal: Equal, rules: frozenset[str]) -> Finding | None:
    """Compare two trees.

    Args:
        answer: what was answered.
        reference: what is right.
        equal: compares two leaves.
        rules: names that are on.

    Returns:
        A finding, or None where the trees cannot tell and the texts have to be compared whole.
    """
    if any(isinstance(node, Several) and node.kind == "mixed" for node in (answer, reference)):
        return Finding(INCORRECT, "it is no set, tuple or interval")
    if isinstance(answer, Named) and isinstance(reference, Named):
        if _tight(answer.name) == _tight(reference.name):
            return compare(answer.value, reference.value, equal, rules)
        return None
    if any(isinstance(node, Leaf) and _EQUALS.search(node.text) for node in (answer, reference)):
        return _equations(answer, reference, equal, rules)
    if isinstance(answer, Named):
        return compare(answer.value, reference, equal, rules)
    if isinstance(reference, Named):
        return compare(answer, reference.value, equal, rules)
    if isinstance(answer, Matrix) or isinstance(reference, Matrix):
        return _matrices(answer, reference, equal)
    if isinstance(answer, Interval) and isinstance(reference, Interval):
        return _intervals(answer, reference, equal)
    if isinstance(answer, Union) and isinstance(reference, Union):
        return _unordered(answer.parts, reference.parts, equal, rules)
    if isinstance(answer, Several) or isinstance(reference, Several):
        return _collections(answer, reference, equal, rules)
    if isinstance(answer, Leaf) and isinstance(reference, Leaf):
        return equal(answer.text, reference.text)
    return None


def _equations(
    answer: Node, reference: Node, equal: Equal, rules: frozenset[str]
) -> Finding | None:
    """Equations of several symbols: they are no values, whatever stands on their right."""
    if isinstance(reference, Leaf) and _EQUALS.search(reference.text):
        if isinstance(answer, Leaf) and not _EQUALS.search(answer.text):
            return Finding(INCORRECT, "a value where the reference is an equation")
        return None
    assert isinstance(answer, Leaf)
    left, *middle, right = _EQUALS.split(answer.text)
    finding = compare(read(right, rules), reference, equal, rules)
    if finding and finding.status is CORRECT and (middle or re.search(r"[0-9]", left)):
        # "x + y = 5" tells a value; "2x = 5" and "x^2 = 5" leave one to be found.
        return Finding(UNDECIDED, "an equation where the reference is a value")
    return finding


def _tight(text: str) -> str:
    return re.sub(r"\s", "", text)


def _intervals(a: Interval, r: Interval, equal: Equal) -> Finding | None:
    if a.variable and r.variable and _tight(a.variable) != _tight(r.variable):
        return Finding(UNDECIDED, "inequalities of different variables")
    if a.closed != r.closed:
        return Finding(INCORRECT, "the ends of the interval are open on one side only")
    return _all([(a.low, r.low), (a.high, r.high)], equal)


def _matrices(a: Node, r: Node, equal: Equal) -> Finding | None:
    if isinstance(a, Matrix) and isinstance(r, Matrix):
        if (len(a.rows), len(a.rows[0])) != (len(r.rows), len(r.rows[0])):
            return Finding(INCORRECT, "matrices of different shapes")
        cells = [
            pair for x, y in zip(a.rows, r.rows, strict=True) for pair in zip(x, y, strict=True)
        ]
        return _all(cells, equal)
    vectors = [_vector(node) for node in (a, r)]
    if vectors[0] is None or vectors[1] is None:
        return None
    if len(vectors[0]) != len(vectors[1]):
        return Finding(INCORRECT, "vectors of different lengths")
    return _all(list(zip(vectors[0], vectors[1], strict=True)), equal)


def _vector(node: Node) -> list[str] | None:
    """The entries of a row, a column or a tuple."""
    if isinstance(node, Matrix):
        if len(node.rows) == 1:
            return list(node.rows[0])
        return [row[0] for row in node.rows] if len(node.rows[0]) == 1 else None
    if isinstance(node, Interval):
        return [node.low, node.high] if node.maybe_tuple else None
    if isinstance(node, Several) and node.kind == "tuple":
        texts = [item.text for item in node.items if isinstance(item, Leaf)]
        return texts if len(texts) == len(node.items) else None
    return None


def _as_tuple(node: Node) -> Node:
    if isinstance(node, Interval) and node.maybe_tuple:
        return Several("tuple", (Leaf(node.low), Leaf(node.high)))
    return node


def _collections(a: Node, r: Node, equal: Equal, rules: frozenset[str]) -> Finding | None:
    if isinstance(a, Interval) and a.maybe_tuple and _is_list_of_pairs(r):
        a = Several("list", (a,))
    if isinstance(r, Interval) and r.maybe_tuple and _is_list_of_pairs(a):
        r = Several("list", (r,))
    a, r = _alone(_as_tuple(a), r), _alone(_as_tuple(r), a)
    if not (isinstance(a, Several) and isinstance(r, Several)):
        return None
    kinds = {a.kind, r.kind}
    if "ratio" in kinds:
        return _proportional(a, r)
    if kinds == {"set", "tuple"}:
        return Finding(INCORRECT, "a set is no tuple or interval")
    names = [_names(node) for node in (a, r)]
    if names[0] and names[1]:
        return _by_name(a, r, equal, rules)
    numbered = [_numbered(node) for node in (a, r)]  # x_1 and x_2: in any order
    if "tuple" in kinds or any(n and not u for n, u in zip(names, numbered, strict=True)):
        # One side orders its values, so the other is held to that order too.
        if len(a.items) != len(r.items):
            return Finding(INCORRECT, "another number of values")
        return _pairwise(a.items, r.items, equal, rules)
    if any(names):
        a, r = _without_names(a), _without_names(r)
    if "set" in kinds or "unordered_lists" in rules:
        return _unordered(a.items, r.items, equal, rules, is_set="set" in kinds)
    return _pairwise(a.items, r.items, equal, rules) if len(a.items) == len(r.items) else None


def _proportional(a: Several, r: Several) -> Finding | None:
    if a.kind != r.kind:
        return None
    values = [[Fraction(item.text) for item in n.items if isinstance(item, Leaf)] for n in (a, r)]
    if not all(map(all, values)):
        return None  # a part is 0
    if len(values[0]) != len(values[1]):
        return Finding(INCORRECT, "ratios of different lengths")
    same = all(x * values[1][0] == y * values[0][0] for x, y in zip(*values, strict=True))
    return Finding(CORRECT if same else INCORRECT, "ratios")


def _is_list_of_pairs(node: Node) -> bool:
    return (
        isinstance(node, Several)
        and node.kind != "tuple"
        and all(isinstance(item, Interval) for item in node.items)
    )


def _alone(node: Node, other: Node) -> Node:
    """A single value beside several without an order is a list of one."""
    alone = isinstance(node, Leaf) and "=" not in node.text
    if alone and isinstance(other, Several) and other.kind in ("list", "set"):
        return Several(other.kind, (node,))
    return node


def _names(node: Several) -> bool:
    """Whether each value has a name of its own: "x = 2, y = 3"."""
    names = [item.name for item in node.items if isinstance(item, Named)]
    return len(names) == len(node.items) > 1 and len(set(map(_tight, names))) == len(names)


def _numbered(node: Several) -> bool:
    """Whether the values are called x_1, x_2 and so on."""
    names = [item.name for item in node.items if isinstance(item, Named)]
    stems = {re.sub(r"_\s?(\{[^{}]*\}|\w)$", "", name) for name in names}
    return len(names) == len(node.items) and len(stems) == 1


def _without_names(node: Several) -> Several:
    values = (item.value if isinstance(item, Named) else item for item in node.items)
    return Several(node.kind, tuple(values))


def _by_name(a: Several, r: Several, equal: Equal, rules: frozenset[str]) -> Finding | None:
    answers = {_tight(i.name): i.value for i in a.items if isinstance(i, Named)}
    wanted = {_tight(i.name): i.value for i in r.items if isinstance(i, Named)}
    if answers.keys() != wanted.keys():
        return None
    return _together([compare(answers[n], wanted[n], equal, rules) for n in wanted])


def _all(pairs: Sequence[tuple[str, str]], equal: Equal) -> Finding | None:
    return _together([equal(left, right) for left, right in pairs])


def _pairwise(
    a: Sequence[Node], r: Sequence[Node], equal: Equal, rules: frozenset[str]
) -> Finding | None:
    return _together([compare(x, y, equal, rules) for x, y in zip(a, r, strict=True)])


def _together(findings: Sequence[Finding | None]) -> Finding | None:
    """All must be right; the first that is not decides."""
    for status in (INCORRECT, None, UNDECIDED):
        for finding in findings:
            if (finding.status if finding else None) is status:
                return finding
    return Finding(CORRECT, "equal value by value")


def _unordered(
    a: Sequence[Node],
    r: Sequence[Node],
    equal: Equal,
    rules: frozenset[str],
    is_set: bool = False,
) -> Finding | None:
    """Find each value of one side on the other. Equality is transitive: the first fit will do."""
    if max(len(a), len(r)) > MAX_ITEMS:
        return None
    table = {(i, j): compare(x, y, equal, rules) for i, x in enumerate(a) for j, y in enumerate(r)}
    if any(finding is None for finding in table.values()):
        # One that cannot be told leaves the whole open, unless the others fail without it.
        if all(
            any(f is None or f.status is not INCORRECT for (_, j), f in table.items() if j == k)
            for k in range(len(r))
        ):
            return None
        return Finding(INCORRECT, "a value is missing")
    matched: dict[int, int] = {}
    undecided = False
    for j in range(len(r)):
        fits = [i for i in range(len(a)) if _status(table, i, j) is CORRECT]
        free = [i for i in fits if i not in matched]
        if free:
            matched[free[0]] = j
        elif fits and is_set:
            continue
        elif fits or any(_status(table, i, j) is UNDECIDED for i in range(len(a))):
            undecided = True  # "5" for the double root "5, 5" is neither right nor wrong
        else:
            return Finding(INCORRECT, "a value is missing")
    for i in set(range(len(a))) - matched.keys():
        fits = [j for j in range(len(r)) if _status(table, i, j) is CORRECT]
        if fits:  # said twice: the same set
            continue
        if any(_status(table, i, j) is UNDECIDED for j in range(len(r))):
            undecided = True
        else:
            return Finding(INCORRECT, "a value too many")
    if undecided:
        return Finding(UNDECIDED, "some of the values cannot be compared")
    return Finding(CORRECT, "the same values")


def _status(table: dict[tuple[int, int], Finding | None], i: int, j: int) -> Status | None:
    finding = table[i, j]
    return finding.status if finding else None


def num_commas(text: str) -> int:
    """Commas that stand in no bracket."""
    return len(_split(text, _COMMA)) - 1


def builder_variable(text: str) -> str:
    r"""The x of ``\{x | ...\}``, or nothing."""
    found = _BUILDER.fullmatch(text)
    return found[1] if found else ""


def count_values(form: Form) -> int:
    """How many values a reference holds at its top: "1, -2" two, anything else one."""
    node = read(form.formula, form.rules)
    if isinstance(node, Named):
        node = node.value
    return len(node.items) if isinstance(node, Several) and node.kind != "tuple" else 1
