"""Extraction, and what each shipped verifier calls right, wrong and undecided."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction

import pytest

from cooper.types import Status
from cooper.verifiers import ExactVerifier, MathVerifier, NumericVerifier, extract_answer
from cooper.verifiers.forms import Form
from cooper.verifiers.numeric import parse_number
from cooper.verifiers.rules import compare_quickly

CORRECT, INCORRECT, UNDECIDED = Status.CORRECT, Status.INCORRECT, Status.UNDECIDED


# ------------------------------------------------------------------------------------- extraction


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"So \boxed{17}.", "17"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{ 5 }", "5"),
        (r"\boxed {5}", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{ \boxed{5} }", "5"),
        (r"\boxed{4 \boxed{5}}", r"4 \boxed{5}"),
        (r"\boxed{4} and \boxed{5", "4"),
        (r"{ \boxed{5}", "5"),
        (r"} \boxed{5}", "5"),
        (r"\\boxed{4} and \\boxed{5}", "5"),  # escaped once too often
        (r"\boxed{}", None),
        (r"\boxed{5} The answer is 6.", "5"),
        ("The answer is 17.", "17"),
        ("The answer is 3.14. Bye.", "3.14"),
        ("The final answer is: **17**", "17"),
        ("**Final Answer:** 17", "17"),
        ("Final answer:\n\n17\n", "17"),
        ("the answer is 5.\nNo: the answer is 6.", "6"),
        ("work\n#### 1,234", "1,234"),
        ("work\nA: 26", "26"),
        ("<answer> 5 </answer>", "5"),
        ("17", "17"),
        (" $x+1$ \n", "$x+1$"),
        ("I do not know.", None),
        ("The answer is yes", "yes"),
        ("The answer isn't 5.", None),
        (r"\boxed{5", None),
        ("There are 17 apples.", None),
        ("", None),
    ],
)
def test_extract_answer(completion: str, answer: str | None) -> None:
    found = extract_answer(completion)
    assert (found.text if found else None) == answer
    if found:
        assert completion[slice(*found.span)] == found.text


def test_stated_answers_can_be_refused() -> None:
    assert extract_answer("The answer is 17.", allow_stated=False) is None
    assert extract_answer(r"\boxed{17}", allow_stated=False) is not None


def test_span_in_a_huge_completion() -> None:
    text = "{" * 1_000_000 + r"\boxed{17} and more"
    found = extract_answer(text)
    assert found is not None
    assert text[slice(*found.span)] == found.text == "17"


@pytest.mark.parametrize(
    "unit",
    ["{", "\\boxed{", "}", "\\", "$", "answer is ", "answer:\n", "#### ", "\\boxed{a}", "A: "],
)
def test_extraction_takes_linear_time(unit: str) -> None:
    # Below the length from which on completions are cut, so that the cut does not help.
    seconds = []
    for size in (40_000, 160_000):
        text = unit * (size // len(unit))
        start = time.process_time()
        extract_answer(text)
        seconds.append(time.process_time() - start)
    # Quadratic time would be 16 times as long; linear is 4, and noise is allowed for.
    assert seconds[1] < 10 * seconds[0] + 0.1
    assert seconds[1] < 1.0


# -------------------------------------------------------------------------------------- exact text


@pytest.mark.parametrize(
    ("answer", "reference", "status"),
    [
        ("Paris", "Paris", CORRECT),
        ("Paris", " $Paris$ ", CORRECT),
        ("two  words", "two words", CORRECT),
        ("Paris", r"\boxed{Paris}", CORRECT),
        ("paris", "Paris", INCORRECT),
        ("1/2", "0.5", INCORRECT),
        ("x", "", UNDECIDED),
        ("x", "$ $", UNDECIDED),
    ],
)
def test_exact(answer: str, reference: str, status: Status) -> None:
    (verdict,) = ExactVerifier().verify([rf"\boxed{{{answer}}}"], [reference])
    assert verdict.status is status


def test_exact_ignores_case_when_asked() -> None:
    (verdict,) = ExactVerifier(ignore_case=True).verify([r"\boxed{STRASSE}"], ["straße"])
    assert verdict.correct


# ----------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("17", 17),
        ("17.0", 17),
        ("17.", 17),
        (".5", Fraction(1, 2)),
        ("$17", 17),
        (r"\$17", 17),
        ("$17$", 17),
        ("-$17", -17),
        ("$-17", -17),
        ("1,234", 1234),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("1{,}234", 1234),
        (r"1\,234", 1234),
        ("34/2", 17),
        (r"\frac{34}{2}", 17),
        (r"\dfrac12", Fraction(1, 2)),
        (r"-\frac{1}{2}", Fraction(-1, 2)),
        (r"\frac{-1}{2}", Fraction(-1, 2)),
        (r"2\frac{1}{2}", Fraction(5, 2)),
        ("2 2/3", Fraction(8, 3)),
        ("-3", -3),
        ("\u22123", -3),
        ("1e3", 1000),
        (r"3 \times 10^{4}", 30000),
        ("x = 17", 17),
        ("17 apples", 17),
        (r"17 \text{ cm}", 17),
        ("17 cm^2", 17),
        (r"90^\circ", 90),
        ("**17**", 17),
    ],
)
def test_parse_number(text: str, value: Fraction | int) -> None:
    number = parse_number(text)
    assert number is not None
    assert number.value == value
    assert not number.percent


@pytest.mark.parametrize(
    "text",
    [
        "", "seventeen", "1/0", r"\frac{1}{0}", "17 or 18", "17, 18", "1,22", "1,2345", "12,34,567",
        "5 million", "5 - 3", "2 + 3", "2x", "2 x", "2ab", "2c", "5!", "3^2", "1e9999", "1/2/3",
        "--5", "2 3/2", "2 -1/2", "5..", "1.2.3", "(5)", "[5]", "٣", "²", "1_000", "0x10", "nan",
        "inf", "5 minus y", "9" * 401, "9" * 10**6, "1/" + "9" * 10**6, r"\sqrt{4}", "$1$ or $2$",
    ],
)  # fmt: skip
def test_no_number(text: str) -> None:
    start = time.process_time()
    assert parse_number(text) is None
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("answer", "reference", "status"),
    [
        ("17.0", "17", CORRECT),
        ("34/2", "17", CORRECT),
        ("0.3", "0.30", CORRECT),
        ("0.1", "1/10", CORRECT),
        ("18", "17", INCORRECT),
        ("5%", r"5\%", CORRECT),
        ("5%", "5", INCORRECT),
        ("5", "5%", INCORRECT),
        ("seventeen", "17", INCORRECT),
        ("17", "seventeen", UNDECIDED),
        ("0." + "3" * 300, "1/3", INCORRECT),
    ],
)
def test_numeric(answer: str, reference: str, status: Status) -> None:
    (verdict,) = NumericVerifier().verify([rf"\boxed{{{answer}}}"], [reference])
    assert verdict.status is status
    assert verdict.reason


def test_numeric_tolerance() -> None:
    answers = [rf"\boxed{{{x}}}" for x in ("10.3", "10.31", "9.7", "9.69")]
    absolute = NumericVerifier(tolerance=0.3).verify(answers, ["10"] * 4)
    # Exactly 0.3 away counts; the binary fraction next to 0.3 is smaller and would not do.
    assert [v.correct for v in absolute] == [True, False, True, False]
    relative = NumericVerifier(relative_tolerance=0.03).verify(answers, ["10"] * 4)
    assert [v.correct for v in relative] == [True, False, True, False]
    with pytest.raises(ValueError, match="tolerance=-1"):
        NumericVerifier(tolerance=-1)


# ------------------------------------------------------------------------------------- mathematics


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    built = MathVerifier(cpu_seconds=2.0)
    yield built
    built.close()


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("17.0", "17"),
        (r"\frac{34}{2}", "$17$"),
        ("0.333333", "1/3"),
        (r"50\%", "50"),
        ("10 cm", "10"),
        ("10 centimeters", r"10\text{ cm}"),
        ("x+1", "1+x"),
        (r"\frac{x+2}{7}", r"\boxed{\frac{x}{7}+\frac27}"),
        (r"\sec^2(y)", r"\tan^2(y)+1"),
        ("sqrt(2)/2", r"\frac{1}{\sqrt{2}}"),
        ("pi", r"\pi"),
        ("9**2", "81"),
        (r"x\pi", r"\pi x"),
        ("x=5", "5"),
        ("2, -2", r"\pm 2"),
        ("3, 1, 2", "1, 2, 3"),
        ("(1, 4.5)", r"(1,\frac{9}{2})"),
        ("2, 3", "x = 2, y = 3"),
        (r"[0,1)\cup(1,2]", r"[0,1) \cup (1,2]"),
        (r"m \in [2, \infty)", r"[2,\infty)"),
        (r"\text{Yes}", "yes"),
        ("Evelyn.", r"\text{Evelyn}"),
        ("(C)", "C"),
        ("C. 12 apples", r"\text{(C)}"),
        ("204_{5}", "204_5"),
        ("1.414214", r"\sqrt{2}"),
        (r"\begin{pmatrix} 0 & 1 \\ 1 & 0 \end{pmatrix}", r"\begin{pmatrix}0&1\\1&0\end{pmatrix}"),
        ("499_{10}", "499"),
    ],
)
def test_math_correct(verifier: MathVerifier, answer: str, reference: str) -> None:
    (verdict,) = verifier.verify([rf"\boxed{{{answer}}}"], [reference])
    assert verdict.status is CORRECT, verdict


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("18", "17"),
        ("x+2", "1+x"),
        ("sye", "yes"),  # the same product of symbols
        ("on", "no"),
        ("listen", "silent"),
        (r"\text{on}", r"\text{no}"),
        ("no", "yes"),
        ("I could not solve it", "$x^2+1$"),
        ("B", "A"),
        ("12", "A"),
        (r"\frac{1}{2006!}", r"\frac{1}{2004!}"),
        ("0.0012346", "0.001234567"),
        ("0.3", "1/3"),
        ("10 m", "10 cm"),
        (r"0.5\%", "0.5"),
        ("2c", "2"),
        ("x(x+1", "x"),
        ("x -", "x"),
        ("2 3", "23"),
        (r"1 - \sqrt{2}", "1"),
        ("2 2/3", "2"),
        (r"\{1, 2\}", "(1, 2)"),
        ("(2, 1)", "(1, 2)"),
        ("2, 1", "(1, 2)"),
        ("3, 2", "x = 2, y = 3"),
        ("[1, 2]", "(1, 2)"),
        (r"x \le 3", "x < 3"),
        ("1, 2", "1, 2, 3"),
        ("1,000", "1"),
        ("8,000", "0"),
        ("__import__('os').getcwd()", "1"),
    ],
)
def test_math_incorrect(verifier: MathVerifier, answer: str, reference: str) -> None:
    (verdict,) = verifier.verify([rf"\boxed{{{answer}}}"], [reference])
    assert verdict.status is INCORRECT, verdict
    assert verdict.answer is not None
    assert verdict.reason


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("5", ""),
        ("5", "x ( x + 1"),
        ("5", r"1, 2, \ldots, n"),
        ("5", "The sequence is bounded but does not converge."),
        ("204", "204_5"),
        ("5", "5, 5"),
        ("x'", "x"),
        ("5^T", "5"),
        (r"\sin 10", r"\sin 10^\circ"),
        ("X^2", "x^2"),
        ("5", "9" * 3000),
    ],
)
def test_math_undecided(verifier: MathVerifier, answer: str, reference: str) -> None:
    (verdict,) = verifier.verify([rf"\boxed{{{answer}}}"], [reference])
    assert verdict.status is UNDECIDED, verdict
    assert verdict.reason


def test_no_answer_is_incorrect_but_not_before_a_missing_reference(verifier: MathVerifier) -> None:
    verdicts = verifier.verify(["", "No idea.", r"\boxed{5"], ["5", "$x^2$", "5"])
    assert [v.status for v in verdicts] == [INCORRECT] * 3
    assert [v.reason for v in verdicts] == ["no answer"] * 3


def test_time_out_is_undecided_and_costs_nobody_else() -> None:
    verifier = MathVerifier(cpu_seconds=0.5)
    try:
        bomb = r"\boxed{\log_{2}(5^{5^{5^{5^5}}})-4}"
        verdicts = verifier.verify([r"\boxed{1+x}", bomb, r"\boxed{2+x}"], ["x+1", "7", "x+2"])
    finally:
        verifier.close()
    assert [v.status for v in verdicts] == [CORRECT, UNDECIDED, CORRECT]
    assert verdicts[1].reason == "out of CPU time"


def test_equal_pairs_go_to_the_workers_once(
    verifier: MathVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    submit = verifier._pool.submit

    def spy(items: list[object]) -> object:
        sent.append(len({str(item) for item in items}))
        return submit(items)

    monkeypatch.setattr(verifier._pool, "submit", spy)
    completions = [r"\boxed{x+x}", "17", r"Thus \boxed{x+x}.", r"\boxed{x+3}"]
    verdicts = verifier.verify(completions, ["2x", "17", "2x", "2x"])
    assert [v.correct for v in verdicts] == [True, True, True, False]
    assert sent == [2]
    assert verdicts[2].span == (12, 15)  # each completion keeps its own span


def test_plain_cases_need_no_worker() -> None:
    verifier = MathVerifier()
    verdicts = verifier.verify([r"\boxed{17}", r"\boxed{yes}", "none"], ["17.0", "no", "5"])
    assert [v.correct for v in verdicts] == [True, False, False]
    assert not verifier._pool._threads
    verifier.close()


def test_a_dropped_verifier_ends_its_workers() -> None:
    verifier = MathVerifier()
    verifier.verify([r"\boxed{x+1}"], ["1+x"])
    (worker,) = verifier._pool._living
    assert worker.alive
    del verifier
    end = time.monotonic() + 10
    while worker.alive and time.monotonic() < end:
        time.sleep(0.02)
    assert not worker.alive


@pytest.mark.parametrize("text", ["x(x+1", "x)(", "[ {1", "x -", r"x \times", r"1, \ldots", "1..."])
def test_half_a_formula_never_reaches_the_parser(text: str) -> None:
    as_answer = compare_quickly(Form(text), Form("x"))
    assert as_answer is not None
    assert as_answer.status is INCORRECT
    as_reference = compare_quickly(Form("x"), Form(text))
    assert as_reference is not None
    assert as_reference.status is UNDECIDED


# What runs in the workers; here in a process of its own, since it alters sympy.
EVALUATION = r"""
import importlib, sys
from cooper.verifiers.algebra import compare_symbolically, prepare_worker, _refused
compare = prepare_worker()
import sympy, math_verify
from sympy.parsing.sympy_parser import parse_expr
import math_verify.parser
hidden = []
for attack in (
    lambda: sympy.sympify("hidden.append(1)", locals={"hidden": hidden}),
    lambda: math_verify.parser.parse_expr("hidden.append(1)", local_dict={"hidden": hidden}),
    lambda: parse_expr("1+1"),
    lambda: sympy.lambdify(sympy.Symbol("x"), sympy.Symbol("x") + 1)(1),
    lambda: sympy.sympify("٣"),
):
    try:
        attack()
    except Exception as error:
        assert "switched off" in str(error), error
    else:
        sys.exit("evaluated")
assert not hidden
assert compare([r"x\cdot 1.5", r"\frac{3}{2}x"])[0] == "correct"
import math_verify.grader
math_verify.grader.simplify = lambda *a, **k: sympy.sympify("1+1")
assert compare(["x+7", "x+8"]) == ["undecided", "evaluation of text was refused"]
"""


def test_nothing_is_evaluated() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path[:] = sys.argv[1:]\n" + EVALUATION, *sys.path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_light_import() -> None:
    code = (
        "import sys; sys.path[:] = sys.argv[1:]\n"
        "from cooper.verifiers import MathVerifier, NumericVerifier, ExactVerifier, Verifier\n"
        "MathVerifier().close()\n"
        "heavy = {'torch', 'lightning', 'hydra', 'omegaconf', 'sympy', 'math_verify', 'numpy'}\n"
        "found = heavy & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *sys.path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_unknown_name() -> None:
    import cooper.verifiers

    assert "MathVerifier" in dir(cooper.verifiers)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = cooper.verifiers.Nothing


def test_forms_are_bounded() -> None:
    # The quick rules run in the training process, on whatever passes the limit on length.
    for text in (
        "(" * 2000,
        "\\sqrt(" * 300,
        "^(" * 1000,
        "a," * 1000,
        "\\text{" * 300,
        "{" * 2000,
        "\\left" * 400,
        " " * 2000,
        "1" * 2000,
        "$" * 2000,
        "\\frac" * 400,
        "x=" * 1000,
    ):
        start = time.process_time()
        form = Form(text)
        _ = (form.text, form.plain, form.tight, form.number, form.is_words, form.option, form.latex,
             form.flaw)  # fmt: skip
        assert time.process_time() - start < 0.5, text[:10]
