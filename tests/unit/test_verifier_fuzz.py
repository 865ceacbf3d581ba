"""Whatever is written: a verdict, in bounded time, from workers that stay alive or are replaced."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cooper.types import Verdict
from cooper.verifiers import (
    ChoiceVerifier,
    ExactVerifier,
    MathVerifier,
    NumericVerifier,
    extract_answer,
)
from cooper.verifiers.conclusion import concluded

# What mathematics is made of, and what has broken parsers before.
WRITTEN = r"""
    \frac{ \dfrac \sqrt \sqrt[3]{ ^{ _{ } { ( ) [ ] \{ \} \left( \right) \boxed{ \text{ \pi \infty
    \pm \cup \cap \in \le \ge < > = != + - * / ** ^ ! % \% $ \( \) \[ \] , ; : . | & \\ \cdot
    \times \div \sum_{i=1}^{n} \int \lim \log \sin \arcsin \overline{ \begin{pmatrix}
    \end{pmatrix} \begin{cases} \end{cases} \mathbb{R} ^\circ x y n i e 0 1 2 10 999999999 1e9
    3.14 1,234 yes no and or infinity the answer is #### A: ** Choice_B 10^{10^{10}} 9**9**9 (9!)!
"""
STRANGE = ["\n", " ", "\x00", "\ud800", "\u202e", "\u0661", "\U0001f4a9", "a\u0301"]
PIECES = st.sampled_from([*WRITTEN.split(), *STRANGE])
FORMULAS = st.lists(PIECES, max_size=14).map("".join)
NESTED = st.recursive(
    st.sampled_from(["x", "1", "\\pi", "y+1", "2^{9}"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: f"\\frac{{{p[0]}}}{{{p[1]}}}"),
        st.tuples(inner, inner).map(lambda p: f"({p[0]})^{{{p[1]}}}"),
        inner.map(lambda t: f"\\sqrt{{{t}}}"),
        inner.map(lambda t: f"\\left({t}\\right)!"),
        st.lists(inner, max_size=4).map(lambda ts: "\\{" + ", ".join(ts) + "\\}"),
        st.lists(inner, max_size=4).map(" and ".join),
    ),
    max_leaves=8,
)
LONG = st.tuples(PIECES, st.integers(50, 3000)).map(lambda p: p[0] * p[1])
TEXTS = st.one_of(FORMULAS, NESTED, st.text(max_size=40), LONG)
COMPLETIONS = st.one_of(
    TEXTS,
    TEXTS.map(lambda t: f"So \\boxed{{{t}}}."),
    TEXTS.map(lambda t: f"Therefore, the value is {t}"),
)
# Answers that look alike get further than those that do not.
ALIKE = st.tuples(TEXTS, st.sampled_from(["", "1", "-", ":2", ", 3", " and x", "}"])).map(
    lambda p: (f"\\boxed{{{p[0]}{p[1]}}}", p[0] + p[1][:1])
)
PAIRS = st.one_of(st.tuples(COMPLETIONS, TEXTS), ALIKE)
QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
BATCH = 20


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    built = MathVerifier(cpu_seconds=0.1, wall_seconds=30)
    yield built
    built.close()
    assert not built._pool._living


@settings(QUIET, max_examples=110)
@given(st.lists(PAIRS, min_size=BATCH, max_size=BATCH))
def test_math_gives_a_verdict_on_anything(
    verifier: MathVerifier, pairs: list[tuple[str, str]]
) -> None:
    # 110 batches of 20: 2200 pairs. Batches, so that a worker is not waited for pair by pair.
    start = time.monotonic()
    completions = [completion for completion, _ in pairs]
    verdicts = verifier.verify(completions, [reference for _, reference in pairs])
    assert len(verdicts) == len(pairs)
    for verdict, completion in zip(verdicts, completions, strict=True):
        assert isinstance(verdict, Verdict)
        assert verdict.decided or verdict.reason
        assert "in the rules" not in verdict.reason, (verdict, completion)
        if verdict.span is not None:
            assert completion[slice(*verdict.span)] == verdict.answer
    assert time.monotonic() - start < 120  # a hang bound; 20 items may use 0.1 s each


@settings(QUIET, max_examples=400)
@given(COMPLETIONS, TEXTS)
def test_the_quick_verifiers_give_a_verdict_on_anything(completion: str, reference: str) -> None:
    for verifier in (ExactVerifier(), NumericVerifier(tolerance=0.1), ChoiceVerifier()):
        (verdict,) = verifier.verify([completion], [reference])
        assert verdict.decided or verdict.reason
    found = extract_answer(completion)
    assert found is None or completion[slice(*found.span)] == found.text
    span = concluded(completion)
    assert span is None or 0 <= span[0] <= span[1] <= len(completion)


@settings(QUIET, max_examples=150)
@given(NESTED)
def test_an_answer_equals_itself(verifier: MathVerifier, text: str) -> None:
    (verdict,) = verifier.verify([f"\\boxed{{{text}}}"], [text])
    assert not verdict.incorrect or not text.strip()


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads /proc, which only Linux has")
def test_no_process_is_left() -> None:
    script = (
        "import sys; sys.path[:] = sys.argv[1:]\n"
        "from cooper.verifiers import MathVerifier\n"
        "verifier = MathVerifier(cpu_seconds=0.2, workers=2)\n"
        "future = verifier.submit([r'\\boxed{\\log(5^{5^{5^{5^5}}})}'] * 4, ['x', 'y', 'z', '7'])\n"
        "import time; time.sleep(1.5)\n"
        "print(*[worker.process.pid for worker in verifier._pool._living])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *sys.path],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    end = time.monotonic() + 10
    pids = done.stdout.split()
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
