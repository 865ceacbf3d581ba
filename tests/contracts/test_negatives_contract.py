"""Every generator in conf/negatives goes through the contract of `cooper.negatives.base`."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cooper.models import Policy
from cooper.negatives import AssistantNegatives, ChatNegatives, NegativeGenerator
from cooper.types import NegativeRequest, Problem, Verdict
from stand_in_endpoint import StandIn

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "negatives"
FILES = sorted(FOLDER.glob("*.yaml"))

HOSTILE = {
    "empty": "",
    "blank": " \n\t ",
    "no answer": "I do not know.",
    "open box": "\\boxed{7",
    "empty box": "1 2 3 \\boxed{}",
    "word": "\\boxed{Paris}",
    "regex": "(?<n>[a-z] 12* \\boxed{7+}",
    "foreign digits": "12 \\boxed{\u0661\u0667}",
    "surrogate": "12 \\boxed{7} \ud800",
    "many numbers": "12 " * 20_000 + "\\boxed{7}",
    "long number": f"1 2 {'9' * 5_000} so \\boxed{{7}}",
    "long answer": f"1 2 \\boxed{{{'9' * 5_000}}}",
}


class Assistant(StandIn):
    """Writes what follows from the seed of a request alone."""

    def draw(self, body: Mapping[str, Any]) -> tuple[str, random.Random]:
        return super().draw(body)[0], random.Random(body["seed"])

    def text(self, messages: list[dict[str, str]], lie: bool, rng: random.Random) -> str:
        return f"So \\boxed{{{rng.randrange(1000)}}}."


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with Assistant() as running:
        yield running


def build(path: Path, server: StandIn) -> NegativeGenerator:
    """From its file, beside the only key of the run's that some of them read."""
    with initialize_config_dir(str(FOLDER.parent), version_base="1.3"):
        part = compose(f"{FOLDER.name}/{path.stem}")[FOLDER.name]
    run = OmegaConf.create({"sampling": {"max_new_tokens": 12}, "negatives": part})
    if "chat" in run.negatives:
        run.negatives.chat.base_url, run.negatives.chat.model = server.base_url, "m"
    return instantiate(run.negatives, _convert_="all")


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def negatives(
    request: pytest.FixtureRequest, policy: Policy, server: StandIn
) -> Iterator[NegativeGenerator]:
    built = build(request.param, server)
    # Names more than one end, as Qwen2.5 does, so that most of its completions end by themselves.
    start = Policy(copy.deepcopy(policy.model), policy.tokenizer)
    start.model.generation_config.eos_token_id = [policy.tokenizer.eos_token_id, *range(40, 120)]
    built.bind(policy, lambda: start)
    yield built
    built.close()


@pytest.fixture
def requests(verdicts_of: Callable[[str], list[Verdict]]) -> list[NegativeRequest]:
    """Groups with right, wrong and undecided completions, told apart by their numbers."""
    made = []
    for number in range(12):
        texts = [f"First {i + 3} + {number} = {i + 9}. So \\boxed{{{i + 9}}}." for i in range(4)]
        problem = Problem(str(number), f"question {number}", "9")
        made.append(NegativeRequest(problem, texts[0], texts, verdicts_of("CIUI")))
    return made


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_there_are_generators() -> None:
    names = {"self", "perturb", "mixed", "truncate", "assistant", "assistant_endpoint"}
    assert names <= {path.stem for path in FILES}


def test_one_each_in_order(negatives: NegativeGenerator, requests: list[NegativeRequest]) -> None:
    got = negatives.generate(requests, rng())
    assert len(got) == len(requests)
    by_model = isinstance(negatives, (AssistantNegatives, ChatNegatives))
    assert any(negative.text for negative in got)
    for number, negative in enumerate(got):
        assert negative.source
        assert negative.tries >= 1
        # All but a model's rewriting keep the words of their own group, and always find a text.
        assert by_model or str(negative.text).startswith("First")
        if negative.text in requests[number].group:
            at = requests[number].group.index(negative.text)
            assert requests[number].verdicts[at].incorrect


def test_never_the_chosen_text(
    negatives: NegativeGenerator, requests: list[NegativeRequest]
) -> None:
    for seed in range(10):
        for request, negative in zip(
            requests, negatives.generate(requests, rng(seed)), strict=True
        ):
            assert negative.text != request.chosen


def test_chance_comes_from_the_generator_alone(
    negatives: NegativeGenerator, requests: list[NegativeRequest]
) -> None:
    torch.manual_seed(1)
    first = negatives.generate(requests, rng())
    torch.manual_seed(2)
    random.seed(2)
    global_state, python_state = torch.get_rng_state(), random.getstate()
    assert negatives.generate(requests, rng()) == first
    assert torch.equal(global_state, torch.get_rng_state())
    # beartype, switched on in tests, draws from it inside cooper.functional, which models call.
    assert (
        isinstance(negatives, (AssistantNegatives, ChatNegatives))
        or python_state == random.getstate()
    )
    assert any(negatives.generate(requests, rng(seed)) != first for seed in (1, 2, 3))


def test_no_requests(negatives: NegativeGenerator) -> None:
    assert negatives.generate([], rng()) == []


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_any_text(
    negatives: NegativeGenerator, verdicts_of: Callable[[str], list[Verdict]], text: str
) -> None:
    request = NegativeRequest(Problem("p", "q", "7"), text, [text], verdicts_of("C"))
    for seed in range(4):
        (negative,) = negatives.generate([request], rng(seed))
        assert negative.text is None or negative.text != text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_close_twice(path: Path, server: StandIn) -> None:
    built = build(path, server)
    built.close()
    built.close()
