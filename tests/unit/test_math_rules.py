"""Each rule of MathVerifier: what it must accept, what it must not, and that it can be off."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cooper.types import Status
from cooper.verifiers import RULES, MathVerifier
from cooper.verifiers.conclusion import concluded
from cooper.verifiers.extraction import last_boxes
from cooper.verifiers.magnitude import log10_magnitude

CORRECT, INCORRECT, UNDECIDED = Status.CORRECT, Status.INCORRECT, Status.UNDECIDED

# rule: (completion or boxed answer, reference) that it accepts; and those that look alike and are
# wrong. What stands in a box has no mark; "!" opens a whole completion.
ACCEPTS: dict[str, list[tuple[str, str]]] = {
    "stated": [("!The answer is 17.", "17"), ("!work\n#### 1,234", "1234"), ("!A: 26", "26"),
               ("!**Final Answer:** She has 5 left.", "5"), ("!## Final Answer\n12", "12")],
    "bare": [("!sqrt(3)/3", r"\frac{\sqrt{3}}{3}"), ("!-1 + exp(16)", "e^{16}-1"),
             ("!28 percent", r"28\%"), ("!n", "$N=n$"), ("!Paris", "Paris")],
    "concluded": [("!So it is.\nTherefore, its length is 20 centimeters.", "20"),
                  ("!She spends a total of 34 hours on yoga in 4 weeks.", "34"),
                  (r"!Thus, the number is \(45\).", "45"),
                  (r"!The values are \(x = -1\), \(x = 2\), and \(x = -2\).", "$-1$,$2$,$-2$"),
                  ("!Freda used **12 tomatoes** to make her batch of 3.", "12"),
                  ("!Hence, 20 workers are needed to make 720 widgets in 4 hours.", "20")],
    "several_boxes": [(r"!\boxed{1} and \boxed{-2}", "-2, 1"),
                      (r"!max \boxed{3}, and the least is \boxed{1}.", "1,3")],
    "percent": [("28 percent", r"28\%"), ("0.28", r"28\%"), ("28", r"28\%"), ("$28$ %", r"28\%")],
    "units": [("17 apples", "17"), ("10 centimeters", r"10\text{ cm}"),
              (r"8\sqrt{3}", r"8\sqrt{3} \text{ square inches}"), ("17 cm^2", "17")],
    "currency": [(r"\$17", "17"), ("17", "$17"), ("$9,500", "9500")],
    "degrees": [(r"90^\circ", "90"), ("45", "45°"), ("30 degrees", r"30^{\circ}")],
    "thousands": [("1,234", "1234"), (r"1000 + \sqrt{4}", "1,002"), (r"1{,}234", "1234"),
                  (r"1\,234", "1,234")],
    "decimal_comma": [("1,22", "1.22"), ("0.5", "0,5")],
    "mixed_numbers": [("11 5/6", r"\frac{71}{6}"), (r"2\frac{1}{2}", "2.5")],
    "repeating_decimals": [(r"0.\overline{3}", "1/3"), (r"0.1\overline{6}", r"\frac{1}{6}")],
    "ordinals": [("15", "15th Day"), (r"12^{\mathrm{th}}", "12")],
    "number_words": [("seventeen", "17"), ("2", r"\text{Two}"), ("twenty-one", "21")],
    "rounding": [("4.123106", r"\sqrt{17}"), (r"\frac{27}{59}", "0.458"), (r"40\pi", "125.663"),
                 (r"\sqrt{2}-1", r"41.4\%")],
    "number_bases": [("204_{5}", "204_5"), ("499_{10}", "499")],
    "intervals": [("k < -5", r"(-\infty,-5)"), (r"m \in [\sqrt{2}, +\infty)", r"m \geq \sqrt{2}"),
                  (r"3 < x \leq 4", "(3,4]"), ("(2, 3)", r"\{x | 2 < x < 3\}"),
                  ("x<1 or x>3", r"(3,\infty)\cup(-\infty,1)")],
    "sets": [(r"\{2, 1\}", r"\{1, 2\}"), (r"\varnothing", r"\{\}"), ("{1, 2, 3}", "3, 2, 1")],
    "tuples": [("(1, 4.5)", r"(1,\frac{9}{2})"), ("(15th, 2, 1/2)", "(15, 2, 0.5)")],
    "unordered_lists": [("3, 1, 2", "1, 2, 3"), (r"7 \text{ and } -5", "-5,7"),
                        ("(3,4), (1,2)", "(1,2), (3,4)")],
    "matrices": [(r"\left[\begin{array}{cc}1 & 2 \\ 3 & 0.5\end{array}\right]",
                  r"\begin{pmatrix}1&2\\3&1/2\end{pmatrix}"),
                 ("(-7,16,5)", r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}")],
    "named_values": [("x=5", "5"), ("(2, 3)", "x = 2, y = 3"), ("7:32", "S_{MN}:S=7:32"),
                     ("y=3, x=2", "x = 2, y = 3"), ("x+y = 5", "5"), ("1 = x = 5", "5")],
    "plus_minus": [("2, -2", r"\pm 2"), (r"1 \pm \sqrt{3}", r"1-\sqrt{3}, 1+\sqrt{3}")],
    "qualifiers": [(r"f(x) = 1 \text{ for all } x", "$f(x)=1$")],
    "words": [(r"\text{Yes}", "yes"), ("Evelyn.", r"\text{Evelyn}"),
              ("line segment and circle", "line segment, circle")],
    "choice_letters": [("(B)", "B"), ("B. 12", "B"), ("!so it fits.\nSolution: Choice_B", "B")],
    "algebra": [(r"\sec^2(y)", r"\tan^2(y)+1"), (r"x\pi", r"\pi x"), ("2x+2", "2(x+1)")],
    "sampling": [(r"\frac{v}{r} \frac{1}{(1+s/r)^{3/2}}", r"\frac{v (\frac{r}{s+r})^{0.5}}{(s+r)}"),
                 (r"\arccos(1-2a)", r"2 \arcsin \sqrt{a}")],
    "imaginary_unit": [("1+2i", "i(2-i)"), ("14.0 + -1.0i", "14 - i")],
    "radians": [(r"120^\circ", r"\frac{2\pi}{3}"), (r"\sin(90^{\circ}-x)", r"\cos(x)")],
    "renamed_variables": [("f(m) = 2m + 1007", "$f(n) = 2 n+1007$"), (r"n\pi", r"x = k\pi"),
                          ("f(x) = 2x + 3", "y = 2x + 3")],
}  # fmt: skip

REFUSES: dict[str, list[tuple[str, str]]] = {
    "stated": [("!The answer isn't 5.", "5"), ("!The answer is not 5.", "5")],
    "bare": [("!I do not know 5 things.", "6"), (r"!\boxed{5", "5")],
    "concluded": [("!The answer is either 3 or 4 apples of 7.", "3"), ("!It cannot be 5.", "5"),
                  ("!There are 3 cats and 5 dogs here.", "3"), (r"!So \boxed{5 is", "5")],
    "several_boxes": [(r"!\boxed{1} no no no \boxed{2}", "1, 2"),
                      (r"!First \boxed{1}. Then \boxed{2}", "1, 2"),
                      (r"!\boxed{1} and \boxed{2}", "1, 2, 3")],
    "percent": [(r"0.5\%", "0.5"), ("28", r"2.8\%"), ("2.8", r"28\%")],
    "units": [("10 m", "10 cm"), ("17 million", "17"), ("2c", "2"), ("5 minus y", "5")],
    "currency": [("$18", "17")],
    "degrees": [(r"\sin 10", r"\sin 10^\circ"), (r"91^\circ", "90")],
    "thousands": [("1,000", "1"), ("8,000", "0"), ("32, 349", "32349"), ("1,2345", "12345")],
    "decimal_comma": [("-3", "-3,0"), ("5.15", "5,16"), ("1", "1,0")],
    "mixed_numbers": [("2 2/3", "2"), ("2 3", "23"), (r"2\frac{1}{2}", "1")],
    "repeating_decimals": [(r"0.\overline{3}", "0.3"), (r"0.\overline{25}", r"\frac{1}{4}")],
    "ordinals": [("15th", "5"), ("15h", "15th")],
    "number_words": [("seventeen", "7"), ("two hundred and five", "205")],
    "rounding": [("0.3", "1/3"), ("0.33", "1/3"), (r"6\frac{1}{64}", "6.018"), ("2.65", "2.653"),
                 ("3.14", r"\pi"), ("1.41", r"\sqrt{2}"), ("0.0012346", "0.001234567")],
    "number_bases": [("204", "204_5"), ("1112122_3", "1112112_3")],
    "intervals": [("[0, 1)", "(0, 1)"), (r"x \le 3", "x < 3"), ("1<x<3", "1<y<3"),
                  (r"[-3, 2]", r"(-\infty,-3]\cup[2,\infty)"), (r"\{y|2<x<3\}", r"\{x|2<x<3\}")],
    "sets": [(r"\{1, 2\}", "(1, 2)"), (r"\{1, 2\}", r"\{1, 2, 3\}"), (r"\{1, 3\}", r"\{1, 2\}")],
    "tuples": [("(2, 1)", "(1, 2)"), ("2, 1", "(1, 2)"), ("[-1,-2,4)", "[-1,-2,4]")],
    "unordered_lists": [("1, 2", "1, 2, 3"), ("1, 2, 3", "1, 2"), ("5", "5, 5"), ("1, 1", "1, 2")],
    "matrices": [(r"\begin{pmatrix}1&2\\3&5\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
                 (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}")],
    "named_values": [("3", "x+y=3"), ("3, 2", "x = 2, y = 3"), ("11a+c", "7 = 11a+c"),
                     ("x=3", "y=3"), ("6", "xy = 6"), ("x_9=-2, x_2=3", "x_1=-2, x_2=3"),
                     ("2x = 5", "5"), ("x^2 = 5", "5")],
    "plus_minus": [("2021", r"\pm 2021")],
    "qualifiers": [(r"C \text{ for } C \in [0,1)", r"C \text{ for } C \in [0,1]")],
    "words": [("sye", "yes"), ("on", "no"), ("listen", "silent"), (r"\text{on}", r"\text{no}"),
              ("dog", "god"), ("evil", "vile"), ("no", "yes"), ("yes", "5")],
    "choice_letters": [("B", "A"), ("12", "A"), ("!It is not choice A.", "A"),
                       ("!Choices A and B fit.", "B")],
    "algebra": [("x+2", "1+x"), (r"\frac{1}{2006!}", r"\frac{1}{2004!}"), ("aB", "Ab"),
                (r"-\{1, 2\}", r"\{1, 2\}"), ("A^{-1}(DA - AD)", "-A^{-1}(DA - AD)"),
                (r"\frac{1}{2} \max A + 9", r"\frac{1}{2} \max A + 3"), ("x(x+1", "x")],
    "sampling": [("|x|", "x"), (r"\sqrt{x^2}", "x"), ("x", "x+10^{-9}"),
                 (r"\lfloor x \rfloor", "x")],
    "imaginary_unit": [("1-2i", "i(2-i)"), ("i", "1")],
    "radians": [(r"120^\circ", r"\frac{\pi}{3}"), (r"2^\circ", "2\\pi")],
    "renamed_variables": [("f(m) = 2m + 7", "f(n) = 2n + 1"), ("f(y)", "f(x)"), ("x+1", "y+1")],
}  # fmt: skip


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    built = MathVerifier(cpu_seconds=20)
    yield built
    built.close()


def completion(text: str) -> str:
    return text[1:] if text.startswith("!") else rf"\boxed{{{text}}}"


def statuses(verifier: MathVerifier, pairs: list[tuple[str, str]]) -> list[Status]:
    texts = [completion(answer) for answer, _ in pairs]
    return [v.status for v in verifier.verify(texts, [reference for _, reference in pairs])]


def test_every_rule_is_tested() -> None:
    assert set(ACCEPTS) == set(REFUSES) == set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_what_a_rule_accepts(verifier: MathVerifier, rule: str) -> None:
    pairs = ACCEPTS[rule]
    found = dict(zip(pairs, statuses(verifier, pairs), strict=True))
    assert {pair for pair, status in found.items() if status is not CORRECT} == set()


@pytest.mark.parametrize("rule", RULES)
def test_what_a_rule_refuses(verifier: MathVerifier, rule: str) -> None:
    pairs = REFUSES[rule]
    found = dict(zip(pairs, statuses(verifier, pairs), strict=True))
    assert {pair for pair, status in found.items() if status is CORRECT} == set()


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_can_be_off(rule: str) -> None:
    verifier = MathVerifier(without=[rule])
    try:
        found = statuses(verifier, ACCEPTS[rule])
    finally:
        verifier.close()
    assert any(status is not CORRECT for status in found)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="without=percents: no such rule; there are stated"):
        MathVerifier(without=["percents"])


def test_without_stated_answers_only_the_box_counts() -> None:
    verifier = MathVerifier(allow_stated=False)
    texts = ["The answer is 5.", "5", "So she has 5 left.", r"\boxed{5}"]
    assert [v.correct for v in verifier.verify(texts, ["5"] * 4)] == [False, False, False, True]
    verifier.close()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"will be \$324.", r"\$324"),
        ("Elvis is 54 miles east of his house.", "54"),
        ("The probability that Alice wins is 2/3. <|im_end|>\n<|im_start|>user", "2/3"),
        (r"We find that $x \lt 3$.", r"x \lt 3"),
        ("The volume of $ABCD$ is 120. I hope it is correct.", "120"),
        ("We have a problem.", None),
        ("There are 3 cats and 5 dogs in it.", None),
        ("It is never 5.", None),
        ("So is it 5?", None),
        ("5 apples. " * 3 + "No. " * 4, None),
        ("", None),
    ],
)
def test_concluded(text: str, value: str | None) -> None:
    span = concluded(text)
    assert (text[slice(*span)] if span else None) == value


def test_last_boxes() -> None:
    found = last_boxes(r"\boxed{9}. So \boxed{(3, 3)} \text{ for (a) and } \boxed{(1, 1)}")
    assert [box.text for box in found] == ["(3, 3)", "(1, 1)"]
    assert last_boxes("none") == []


@pytest.mark.parametrize(
    ("latex", "size"),
    [
        ("1000", 3),
        ("2^{10}", 3.0103),
        ("3^{3^{20}}", 3**20 * 0.47712125472),
        (r"\frac{10^{9}}{10^{4}}", 5),
        ("10^{5}*10^{6}+1", 11),
        ("(10^{2})^{3}", 6),
        ("5!", 2.079),
        ("x", None),
        ("0", None),
        ("10^{-3}", None),
        ("7-7", None),
        ("(" * 100 + "1" + ")" * 100, None),
    ],
)
def test_log10_magnitude(latex: str, size: float | None) -> None:
    assert log10_magnitude(latex) == (None if size is None else pytest.approx(size, rel=0.3))


def test_bombs_cost_nothing(verifier: MathVerifier) -> None:
    bombs = ["3^{3^{3^{3^3}}}", "9**9**9**9", "2^{3^{20}}", r"4^{\frac{10^{30}}{7}}", "(10**7)!"]
    found = statuses(verifier, [(bomb, "3") for bomb in bombs])
    assert found == [INCORRECT] * len(bombs)
    assert statuses(verifier, [("2^{3^{20}}", "2^{3^{20}+1}")]) == [UNDECIDED]
