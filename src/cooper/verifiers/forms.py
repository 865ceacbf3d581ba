r"""One side of a comparison of mathematical answers, in the shapes that the rules read.

Text is brought to one spelling here: bare LaTeX and plain text, Unicode signs, delimiters,
spacing commands. Nothing is evaluated, and everything is bounded by the answer's length.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cached_property

from cooper.verifiers.extraction import unwrap
from cooper.verifiers.numeric import NO_UNITS, Number, parse_number

# What `MathVerifier(without=...)` can switch off: each name with what the rule lets through.
RULES: dict[str, str] = {
    # where the answer stands
    "stated": '"The answer is X", "#### X", "A: X", "<answer>X</answer>"',
    "bare": "a completion that is nothing but an answer",
    "concluded": 'the value that the last sentence states: "So the rope is 20 cm long."',
    "several_boxes": r"\boxed{1} and \boxed{2} where the reference holds as many values",
    # numbers
    "percent": r"28\% = 28 percent = 0.28; 28 too where the value is above 1",
    "units": "17 apples = 17; 10 centimeters = 10 cm",
    "currency": r"\$17 = 17 = 17 dollars",
    "degrees": r"90^\circ = 90",
    "thousands": "1,234 = 1234",
    "decimal_comma": "1,22 = 1.22",
    "mixed_numbers": "2 1/2 = 5/2",
    "repeating_decimals": r"0.\overline{3} = 1/3",
    "ordinals": "15th = 15",
    "number_words": "seventeen = 17",
    "rounding": r"4.123106 = \sqrt{17}; a reference of 0.458 is met by 27/59",
    "number_bases": "204_5 only equals 204_5",
    # several values
    "intervals": r"x < 3 = (-\infty, 3) = \{x | x < 3\}",
    "sets": r"\{1, 2\} = \{2, 1\}",
    "tuples": "(1, 9/2) = (1, 4.5), in order",
    "unordered_lists": "1, 2 and 3 = 3, 2, 1 where the reference has no brackets",
    "matrices": "entry by entry; a column is a tuple",
    "named_values": "x = 5 is 5; x = 2, y = 3 is (2, 3)",
    "plus_minus": r"\pm 2 = 2, -2",
    "qualifiers": r"the same formula with and without \text{ for all } x",
    # text
    "words": "yes = Yes = \\text{yes.}; never as products of symbols",
    "choice_letters": "B = (B) = B. 12",
    # formulas
    "algebra": "equal by Math-Verify (computer algebra)",
    "sampling": "equal at many points, to 12 digits",
    "imaginary_unit": "i(2 - i) = 1 + 2i",
    "radians": r"120^\circ = 2\pi/3; \sin(90^\circ - x) = \cos x",
    "renamed_variables": "f(m) = 2m + 1 is f(n) = 2n + 1 is y = 2x + 1; n\\pi is k\\pi",
}

_UNICODE = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\uff0d": "-", "\u00d7": r"\times ", "\u00b7": r"\cdot ",
        "\u00f7": r"\div ", "\u03c0": r"\pi ", "\u221e": r"\infty ", "\u2264": r"\le ",
        "\u2265": r"\ge ", "\u2a7d": r"\le ", "\u2a7e": r"\ge ", "\u2260": r"\ne ",
        "\u00b1": r"\pm ", "\u222a": r"\cup ", "\u2208": r"\in ", "\u2205": r"\emptyset ",
        "\u00b0": r"^\circ ", "\u00b2": "^2", "\u00b3": "^3", "\u221a": r"\sqrt",
        "\u2200": r"\forall ",
        "\uff1e": ">", "\uff1c": "<", "\uff0c": ",", "\uff08": "(", "\uff09": ")", "\uff1d": "=",
        "\uff1a": ":", "\u2032": "'", "\u200b": "", "\u2019": "'",
    }
)  # fmt: skip
_SPACING = re.compile(
    # Not after a backslash: "\\\\ " ends a row of a matrix. "\\quadx_1" is glued by some writers.
    r"(?<!\\)\\(?:(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|q?quad)(?![A-Za-z])"
    r"|q?quad(?=[A-Za-z]_)|[,!;: ])|~"
)
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|math(?:rm|bf|it|sf)|operatorname|mbox|rm)\s?\{([^{}]*)\}"
)
_SYMBOL_TEXT = re.compile(r"\s*(?:[A-Za-z]|or|and|[^A-Za-z]*)\s*")  # not a word inside \text{}
_COMMAND = re.compile(r"\\[A-Za-z]+")
_RUN = re.compile(r"[^\W\d_]+")
_LONELY_WORDS = re.compile(r"[^\W\d_]{2,}(?:[\s.,'\u2019-]+[^\W\d_]+)*[.!]?")
# Names that belong to formulas although they have several letters.
_FUNCTION_NAMES = """
    sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp sqrt pi max min gcd
    lcm mod det dim ker deg arg inf sup lim infty theta alpha beta gamma delta lambda omega phi
"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_FUNCTION_TEXT = re.compile(rf"\\text\s?\{{\s*({'|'.join(_FUNCTIONS)})\s*\}}")
_NAMES = re.compile(
    r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sqrt|sin|cos|tan|cot|sec|csc|log|ln|exp|pi|infty"
    r"|theta|alpha|beta|gamma|lambda)(?![A-Za-z])"
)
_OPTION = re.compile(
    r"\((?P<a>[A-J])\)(?:\s.*)?|(?P<b>[A-J])(?:[.):](?:\s.*)?)?"
    r"|(?:[Oo]ption|[Cc]hoice)[ _](?P<c>[A-J])(?:\W.*)?",
    re.DOTALL,
)
_QUALIFIER = re.compile(
    r"[,;\s]*(?:\\q?quad\s*)*(?:\\text\{\s*(?:for|where|with)\b.*|\bfor (?:all|any|every|some|each|"
    r"integers?|\$|\\\()\b.*)$",
    re.DOTALL,
)
_TEXT_UNIT = re.compile(
    r"(?P<value>.*[0-9)\]}A-Za-z!])\s*"
    r"(?:\\(?:text|mathrm|mbox|textrm|textbf)\s?\{\s*(?P<text>[A-Za-z][A-Za-z .-]*?)\.?\s*\}"
    r"(?:\s?\^\s?\{?(?P<power>[23])\}?)?"
    r"|(?<=[0-9)}])\s+(?P<words>[A-Za-z]{2,}(?: [A-Za-z]{2,}){0,2}))",
    re.DOTALL,
)
_COLON = re.compile(r"[)}\]]\s*:|:\s*\\(?:left|frac|sqrt|cdot)|:\s*\(")
_RATIO_NAME = re.compile(r"^[A-Za-z0-9_{}\\ ]+:[A-Za-z0-9_{}\\ ]+=")  # V_1:V_2 = 11:21
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBER_WORDS = {word: value for value, word in enumerate(_ONES.split())}
for _tens, _ten in enumerate(_TENS.split(), start=2):
    _NUMBER_WORDS[_ten] = 10 * _tens
    for _value, _one in enumerate(_ONES.split()[1:10], start=1):
        _NUMBER_WORDS[f"{_ten}-{_one}"] = _NUMBER_WORDS[f"{_ten} {_one}"] = 10 * _tens + _value
_NUMBER_WORDS["hundred"] = _NUMBER_WORDS["one hundred"] = 100

ALL = frozenset(RULES)


class Form:
    """One side of a comparison; each shape is made when first needed."""

    def __init__(self, text: str, rules: frozenset[str] = ALL) -> None:
        """Take the answer's text without its box.

        Args:
            text: at most ``MAX_ANSWER_CHARS`` characters, so that every rule is cheap.
            rules: names out of :data:`RULES` that are on.
        """
        self.raw = text
        self.rules = rules

    @cached_property
    def text(self) -> str:
        """The text without delimiters and spacing commands, other spellings made one."""
        text = self.raw
        if "\\\\" in text and "begin" not in text:
            text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)  # escaped once too often
        text = re.sub(r"(?<!\\)\\(?=[0-9])", "", text) if "begin" not in text else text
        text = re.sub(r"<su([pb])>([^<]{1,20})</su[pb]>", _raised, text)
        text = re.sub(r"(?<!\\)\\[\[\]()]", " ", unwrap(text)).translate(_UNICODE)
        text = re.sub(r"\^\s+(?=\\circ)", "^", text)
        text = text.replace("{,}", ",").replace(r"\$", "$").replace(r"\%", "%")
        text = re.sub(r"\\(?:lt|gt)(?![A-Za-z])", lambda m: "<" if m[0] == r"\lt" else ">", text)
        text = re.sub(r"\\(le|ge)qs?(?:lant)?(?![A-Za-z])", r"\\\1 ", text)
        text = re.sub(r"(?<!\\)\\!\s*", "", text)
        text = re.sub(r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))", ",", text)
        text = _SPACING.sub(" ", text)
        text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
        text = re.sub(r"(\\frac)\s+(?=[{0-9])", r"\1", text)
        text = re.sub(r"\$\s*(?=%|\\?percent|pct|per cent)", " ", text)  # "$28$ %"
        return " ".join(unwrap(text).split())

    @cached_property
    def plain(self) -> str:
        r"""As words: ``\text{Yes}.`` becomes ``yes``."""
        text = re.sub(r"\s*(?:,|(?<![A-Za-z]))?\s+and\s+", ", ", _TEXT.sub(r"\1", self.text))
        return " ".join(re.sub(r"[\\{}$*\"]", " ", text).split()).strip(" .,;:!").casefold()

    @cached_property
    def tight(self) -> str:
        r"""Without any white space, case kept: for the comparison of formulas as text.

        A space stays between two letters ("\pi x" is not "\pix") and between two digits ("2 3"
        is not "23").
        """
        return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])|(?<=[0-9]) (?=[A-Za-z])", "", self.text)

    @cached_property
    def number(self) -> Number | None:
        """The number with its unit, when it is one in a spelling that is on."""
        found = None if "=" in self.text else parse_number(self.text)
        if found is None and "number_words" in self.rules and self.plain in _NUMBER_WORDS:
            return Number(Fraction(_NUMBER_WORDS[self.plain]))
        return found if found is not None and found.spellings <= self.rules else None

    @cached_property
    def is_words(self) -> bool:
        r"""Whether it is language and no formula.

        Language is: words in ``\text{...}``; letters without any digit or sign, two at least
        ("no", "Evelyn"); or a run of four letters that is no function's name ("5 apples").
        """
        text = _FUNCTION_TEXT.sub(r"\\\1 ", self.formula)
        if any(not _SYMBOL_TEXT.fullmatch(inside) for inside in _TEXT.findall(text)):
            return True
        bare = _TEXT.sub(r" \1 ", text)
        if _LONELY_WORDS.fullmatch(bare):
            return bare.strip().casefold() not in _FUNCTIONS
        bare = re.sub(r"\\(?:begin|end)\s?\{[a-z]*\}(?:\{[clr|]*\})?|_\s?\{[^{}]*\}", " ", bare)
        bare = _COMMAND.sub(" ", bare)
        return any(len(run) >= 4 and run.casefold() not in _FUNCTIONS for run in _RUN.findall(bare))

    @cached_property
    def option(self) -> str:
        """The letter of a multiple-choice option: "(B)", "B.", "B) 12", else empty."""
        text = " ".join(_TEXT.sub(r"\1", self.text).replace("{", " ").replace("}", " ").split())
        found = _OPTION.fullmatch(text)
        return found["a"] or found["b"] or found["c"] if found else ""

    @cached_property
    def qualifier(self) -> str:
        r"""What says for which values a formula holds: ``, \text{ for all } x``; else empty."""
        found = _QUALIFIER.search(self.text) if "qualifiers" in self.rules else None
        return found[0] if found and found.start() else ""

    @cached_property
    def _quantity(self) -> tuple[str, str]:
        """The text without its qualifier, parted into formula and unit."""
        text = self.text[: len(self.text) - len(self.qualifier)].rstrip()
        found = _TEXT_UNIT.fullmatch(text) if "units" in self.rules else None
        if not found or not re.search(r"[0-9]|\\(?:sqrt|frac|pi)", found["value"]):
            return text, ""
        others = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", found["value"])
        if any(word.casefold() not in _FUNCTIONS for word in others):
            return text, ""  # "She has 5 left"
        unit = (found["text"] or found["words"]).strip().casefold()
        words = unit.replace(".", "").split()
        if NO_UNITS.intersection(words) or set(words) & _FUNCTIONS or _bad_unit(words):
            return text, ""
        if found["power"]:
            unit += f"^{found['power']}"
        return found["value"].rstrip(" \\"), unit

    @property
    def formula(self) -> str:
        r"""The text without a unit behind it: ``8\sqrt{3} \text{ cm}`` becomes ``8\sqrt{3}``."""
        return self._quantity[0]

    @property
    def unit(self) -> str:
        """The unit behind a formula, lower case, or nothing."""
        return self._quantity[1]

    @cached_property
    def latex(self) -> str:
        """What Math-Verify's LaTeX grammar gets: plain-text mathematics turned into commands."""
        text = _FUNCTION_TEXT.sub(r"\\\1 ", self.formula)
        text = text.replace("**", "^").replace("<=", r"\le ").replace(">=", r"\ge ")
        text = text.replace("!=", r"\ne ").replace(r"\+", "+")
        text = re.sub(r"_\s?\{\s?\\(?:mathrm|text|rm)\s?\{([A-Za-z0-9]+)\}\s?\}", r"_{\1}", text)
        text = re.sub(r"(?<![\\A-Za-z])exp\s?(?=[({])", "e^", text)
        text = _NAMES.sub(r"\\\1 ", text)
        text = re.sub(r"\\(sqrt|pi|infty|theta) +(?=[(^{])", r"\\\1", text)
        text = re.sub(r"\+\s?-", "-", text)
        text = re.sub(r"^([^%]+?)\s?%$", r"\\frac{\1}{100}", text)
        return _braced(_braced(text, r"\sqrt"), "^").replace("%", r"\%")

    @cached_property
    def flaw(self) -> str:
        """Why Math-Verify must not see it, although it might read a part of it; else empty."""
        if not self.text:
            return "it is empty"
        if re.search(r"\\(?:ldots|dots|cdots|vdots)(?![A-Za-z])|\.\.\.|\u2026", self.text):
            return "it leaves something out (...)"
        bare = self.text.replace(r"\{", "(").replace(r"\}", ")")
        if sum(map(bare.count, "([{")) != sum(map(bare.count, ")]}")) or not _nests(bare):
            return "its brackets do not match"
        if re.fullmatch(r"(?:\([^()\[\],;]*\]|\[[^()\[\],;]*\))", bare):
            return "its brackets do not match"
        if _COLON.search(_RATIO_NAME.sub("", self.text)):
            return "it holds a colon that is no ratio of numbers"
        if re.search(r"(?:[-+*/^_=<>]|\\(?:times|cdot|div|pm|le|ge|frac|sqrt))\s*$", bare):
            return "it ends in an operator"
        return ""

    def part(self, text: str) -> Form:
        """A piece of it, under the same rules."""
        return Form(text, self.rules)


def _raised(found: re.Match[str]) -> str:
    return ("^" if found[1] == "p" else "_") + "{" + found[2] + "}"


def _bad_unit(words: list[str]) -> bool:
    """Whether they say more than a unit: a clause, or a symbol."""
    clause = {"if", "is", "are", "when", "where", "for", "with", "each", "no", "any", "all", "else"}
    return len(words) > 4 or bool(clause.intersection(words)) or len(words[0]) < 2


def _nests(text: str) -> bool:
    """Whether no bracket closes before one opened. Kinds may differ: [0, 1) is an interval."""
    depth = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if depth < 0:
            return False
    return True


def _braced(text: str, command: str) -> str:
    """Write ``command(...)`` as ``command{...}``, with the parentheses matched."""
    parts: list[str] = []
    rest = 0
    closers = _closers(text)
    for found in re.finditer(re.escape(command) + r"\s?(?=\()", text):
        close = closers.get(found.end())
        if found.start() < rest or close is None:
            continue
        inner = _braced(text[found.end() + 1 : close], command) if close - rest < 200 else ""
        if inner or close == found.end() + 1:
            parts += [text[rest : found.start()], command, "{", inner, "}"]
            rest = close + 1
    return "".join([*parts, text[rest:]])


def _closers(text: str) -> dict[int, int]:
    """Where each parenthesis that opens is closed."""
    stack: list[int] = []
    closers: dict[int, int] = {}
    for at, sign in enumerate(text):
        if sign == "(":
            stack.append(at)
        elif sign == ")" and stack:
            closers[stack.pop()] = at
    return closers
