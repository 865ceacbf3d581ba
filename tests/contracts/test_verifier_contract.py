"""Every verifier in conf/verifier goes through the contract of `cooper.verifiers.base`."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cooper.types import Status, Verdict
from cooper.verifiers import extract_answer
from cooper.verifiers.base import Verifier
from cooper.verifiers.judge import AGAIN, CRITERIA, PROMPT
from stand_in_endpoint import StandIn

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "verifier"
FILES = sorted(FOLDER.glob("*.yaml"))

# Reference answers in the forms that data sets use; each verifier has to accept those it can read.
REFERENCES = (
    "17",
    "B",
    "-3",
    "1,234",
    r"\frac{3}{4}",
    "0.5",
    "Paris",
    r"\text{no solution}",
    "x^2+1",
)

HOSTILE = {
    "empty": "",
    "blank": " \n\t ",
    "open braces": "{" * 1_000_000,
    "open boxes": "\\boxed{" * 150_000,
    "nested boxes": "\\boxed{" * 20_000 + "17" + "}" * 20_000,
    "close braces": "}" * 1_000_000,
    "backslashes": "\\" * 1_000_001,
    "dollars": "$" * 300_000,
    "cues": "the answer is " * 70_000,
    "cue lines": "answer:\n" * 100_000,
    "huge number": "\\boxed{" + "9" * 1_000_000 + "}",
    "long number": "\\boxed{" + "9" * 1_900 + "}",
    "huge exponent": "\\boxed{1e999999999}",
    "many exponents": "\\boxed{10^{10^{10^{10^{10}}}}}",
    "plain tower": "\\boxed{10**10**10}",
    "factorials": "\\boxed{((9!)!)!}",
    "nested fractions": "\\boxed{" + "\\frac{1}{" * 150 + "x" + "}" * 150 + "}",
    "nested parentheses": "\\boxed{" + "(" * 900 + "x" + ")" * 900 + "}",
    "roots": "\\boxed{" + "\\sqrt(" * 200 + "x" + ")" * 200 + "}",
    "long sum": "\\boxed{" + "+".join(f"x_{{{i}}}" for i in range(200)) + "}",
    "def bomb": "\\boxed{\\def\\a{\\a\\a}\\a}",
    "code": "\\boxed{__import__('os').system('touch /tmp/cooper_was_here')}",
    "sympy code": "\\boxed{(lambda: ().__class__.__base__.__subclasses__())()}",
    "nul": "\\boxed{1\x007}\x00",
    "surrogate": "\\boxed{\ud800} \udfff",
    "lone surrogate in a formula": "\\boxed{x+\ud800}",
    "right to left": "\\boxed{\u202e71\u202c} \u0661\u0667",
    "foreign digits": "\\boxed{\u0661\u0667+\u0967}",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \\boxed{\U0001f4a9}",
    "combining": "\\boxed{" + "a\u0301" * 500 + "}",
    "zero division": "\\boxed{\\frac{0}{0}}",
    "braces turned": "\\boxed{}}{{17}",
    "empty box": "\\boxed{}",
    "unclosed": "first \\boxed{\\frac{1}{2",
    "number signs": "#### " * 50_000,
}


# Each of these uses up the CPU limit; once is enough.
SLOW = {
    "many exponents",
    "factorials",
    "nested fractions",
    "nested parentheses",
    "roots",
    "long sum",
}


def same_box(completion: str, reference: str) -> bool | None:
    """A user's function, as conf/verifier/function.yaml wants one."""
    found = extract_answer(completion)
    return None if not reference else found is not None and found.text == reference


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the files leave open, by key, and what the tests want otherwise.

    An endpoint stands behind the judges; a local model of random weights judges nothing, so that
    what it reads is answered by the same stand-in, and only its generation is left out.
    """
    # Not at the top: workers import this file for `same_box`, within their memory limit.
    from cooper.models.local_chat import LocalChat
    from cooper.testing import write_policy

    folder = tmp_path_factory.mktemp("verifiers")
    texts = [f"{PROMPT}{CRITERIA}{AGAIN}"]
    with StandIn() as server, pytest.MonkeyPatch.context() as patch:

        def answer(chat: Any, model: Any, prompts: Any, *_: Any) -> list[tuple[str, bool]]:
            read = [str(chat.tokenizer.decode(ids)) for ids in prompts]
            said = [server.text([{"content": text}], False, random.Random(0)) for text in read]
            return [(text, False) for text in said]

        patch.setattr(LocalChat, "_generate", answer)
        yield {
            "function": f"{__name__}.same_box",
            "base_url": server.base_url,
            "model": "stand-in",
            "path": str(write_policy(folder / "model", texts, hidden_size=16)),
            "cache": str(folder / "judge.sqlite"),
            "cpu_seconds": 0.3,  # the hostile texts would use up whatever is allowed
        }


def build(path: Path, given: Mapping[str, Any]) -> Verifier:
    """Make the verifier of a YAML file as a run does."""
    from hydra import compose, initialize_config_dir
    from omegaconf import DictConfig, open_dict

    from cooper.config.build import instantiate

    # The hostile texts keep `math` busy for long, once is enough; it is tried by itself.
    overrides = ["verifier@verifier.rule=numeric"] if path.stem == "hybrid" else []
    with initialize_config_dir(str(FOLDER.parent), version_base="1.3"):
        config = compose(f"{FOLDER.name}/{path.stem}", overrides)[FOLDER.name]

    def fill(node: Any) -> None:
        for key in node:
            if key in given:
                node[key] = given[key]
            elif isinstance(node[key], DictConfig):
                fill(node[key])

    with open_dict(config):
        fill(config)
    return instantiate(config, "verifier", Verifier)


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def verifier(request: pytest.FixtureRequest, given: dict[str, Any]) -> Iterator[Verifier]:
    built = build(request.param, given)
    yield built
    built.close()


def check(verdicts: list[Verdict], completions: list[str]) -> None:
    """What holds of the verdicts on any texts."""
    assert len(verdicts) == len(completions)
    for verdict, completion in zip(verdicts, completions, strict=True):
        assert isinstance(verdict, Verdict)
        if not verdict.decided:
            assert verdict.reason
        assert (verdict.answer is None) == (verdict.span is None)
        if verdict.span is not None:
            assert completion[slice(*verdict.span)] == verdict.answer


def readable(verifier: Verifier) -> list[str]:
    """The references of which the verifier can tell anything."""
    verdicts = verifier.verify([r"\boxed{ }"] * len(REFERENCES), REFERENCES)
    return [r for r, v in zip(REFERENCES, verdicts, strict=True) if v.decided]


def test_there_are_verifiers() -> None:
    assert {"exact", "hybrid", "judge", "judge_local", "math", "numeric"} <= {
        path.stem for path in FILES
    }


def test_empty_lists(verifier: Verifier) -> None:
    assert verifier.verify([], []) == []
    assert verifier.submit([], []).result(timeout=10) == []


def test_lengths_must_agree(verifier: Verifier) -> None:
    with pytest.raises(ValueError, match="one reference for each"):
        verifier.verify(["a"], [])


def test_own_reference_is_correct_and_no_answer_incorrect(verifier: Verifier) -> None:
    references = readable(verifier)
    assert {"17", "Paris", "B"} & set(references)
    boxed = [f"So \\boxed{{{reference}}}." for reference in references]
    verdicts = verifier.verify(boxed, references)
    check(verdicts, boxed)
    assert [v.status for v in verdicts] == [Status.CORRECT] * len(references)
    silent = ["I do not know."] * len(references)
    verdicts = verifier.verify(silent, references)
    assert [v.status for v in verdicts] == [Status.INCORRECT] * len(references)


def test_order_is_kept(verifier: Verifier) -> None:
    reference = readable(verifier)[0]
    right, wrong = f"\\boxed{{{reference}}}", "\\boxed{-98765}"
    completions = [right, wrong, "nothing", right, wrong, wrong, right]
    verdicts = verifier.verify(completions, [reference] * len(completions))
    check(verdicts, completions)
    assert [v.correct for v in verdicts] == [c == right for c in completions]


def test_any_text(verifier: Verifier) -> None:
    marker = Path("/tmp/cooper_was_here")
    assert not marker.exists()
    completions = list(HOSTILE.values())
    # A formula where the verifier reads formulas, so that the bombs get as far as they can.
    known = readable(verifier)
    reference = next(text for text in ("x^2+1", "17", "B") if text in known)
    start = time.monotonic()
    verdicts = verifier.verify(completions, [reference] * len(completions))
    check(verdicts, completions)
    right = [name for name, v in zip(HOSTILE, verdicts, strict=True) if v.correct]
    assert right == (["nested boxes"] if reference == "17" else [])
    # As references they are read too, and whatever comes of it is a verdict.
    references = [text for name, text in HOSTILE.items() if name not in SLOW]
    completions = ["\\boxed{x+1}"] * len(references)
    check(verifier.verify(completions, references), completions)
    assert time.monotonic() - start < 60
    assert not marker.exists()


def test_no_reference_is_undecided(verifier: Verifier) -> None:
    (verdict,) = verifier.verify(["\\boxed{17}"], [""])
    assert verdict.status is Status.UNDECIDED
    assert verdict.reason


def test_several_threads(verifier: Verifier) -> None:
    reference = readable(verifier)[0]
    results: dict[int, list[bool]] = {}

    def ask(number: int) -> None:
        texts = [f"\\boxed{{{reference}}}", f"\\boxed{{{number}00001}}", f"\\boxed{{y+{number}}}"]
        results[number] = [v.correct for v in verifier.verify(texts, [reference] * 3)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert results == {number: [True, False, False] for number in range(4)}


def test_submit(verifier: Verifier) -> None:
    reference = readable(verifier)[0]
    texts = [f"\\boxed{{{reference}}}", "none"]
    future = verifier.submit(texts, [reference] * 2)
    assert [v.correct for v in future.result(timeout=60)] == [True, False]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_close_twice(path: Path, given: dict[str, Any]) -> None:
    verifier = build(path, given)
    verifier.submit(["\\boxed{17}"], ["17"]).result(timeout=60)
    verifier.close()
    verifier.close()
