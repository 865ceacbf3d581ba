"""Negatives by a chat model: a real server that is up, slow, down, back, or talks nonsense."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from cooper.chat import EndpointChat
from cooper.models.local_chat import LocalChat
from cooper.negatives import ChatNegatives, MixedNegatives, PerturbNegatives
from cooper.negatives.rewriting import PROMPT
from cooper.pairs import PairBuilder
from cooper.testing import write_policy
from cooper.types import Negative, NegativeRequest, Problem, Rollouts, Status, Verdict
from cooper.verifiers import NumericVerifier
from stand_in_endpoint import StandIn

CONF = Path(__file__).resolve().parents[2] / "conf"
MakeRollouts = Callable[..., Rollouts]
SHORT = "{question} | {completion}"


def wrong(messages: list[dict[str, str]]) -> str:
    """The message again, with another answer."""
    return f"{messages[-1]['content']} So the answer is \\boxed{{1000}}."


def request(chosen: str, question: str = "What is 3 + 4?") -> NegativeRequest:
    right = [Verdict(Status.CORRECT)]
    return NegativeRequest(Problem("p", question, "7"), chosen, [chosen], right)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def part_of(url: str, chat: dict[str, object] | None = None, **settings: object) -> ChatNegatives:
    model = EndpointChat(url, "m", **{"backoff": 0.001, **(chat or {})})
    return ChatNegatives(model, **{"max_new_tokens": 64, **settings})


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn(answer=wrong) as running:
        yield running


def texts(negatives: Sequence[Negative]) -> list[str | None]:
    return [negative.text for negative in negatives]


# ------------------------------------------------------------------------------------------- up


def test_all_requests_are_under_way_at_once_and_come_back_in_order(server: StandIn) -> None:
    server.latency = 0.2
    part = part_of(server.base_url, {"concurrency": 8}, prompt=SHORT, temperature=0.5, top_p=0.9)
    got = part.generate([request(f"is {n}", f"q{n}?") for n in range(16)], rng())
    part.close()
    assert server.most_at_once == 8
    assert texts(got) == [f"q{n}? | is {n} So the answer is \\boxed{{1000}}." for n in range(16)]
    assert {negative.source for negative in got} == {"assistant"}
    assert not any(negative.failure for negative in got)


def test_the_message_is_the_assistants_and_seeds_come_from_the_generator(server: StandIn) -> None:
    sent: list[dict[str, object]] = []
    draw = server.draw
    server.draw = lambda body: (sent.append(dict(body)), draw(body))[1]
    part = part_of(server.base_url, {"concurrency": 1}, temperature=0.5, top_p=0.9)
    part.generate([request("It is 7."), request("So 7.")], rng())
    part.generate([request("It is 7."), request("So 7.")], rng())
    part.generate([request("It is 7.")], rng(1))
    part.close()
    asked = PROMPT.format(question="What is 3 + 4?", reference="7", completion="It is 7.")
    assert sent[0]["messages"] == [{"role": "user", "content": asked}]
    assert (sent[0]["temperature"], sent[0]["top_p"], sent[0]["max_tokens"]) == (0.5, 0.9, 64)
    seeds = [body["seed"] for body in sent]
    assert seeds[:2] == seeds[2:4]
    assert len(set(seeds)) == 3


def test_what_is_no_negative(server: StandIn) -> None:
    says = {
        "a": "a",  # the chosen text again
        "b": "<think>\nLet me see.\n</think>\n\nb 8",  # the reasoning is none of the solution
        "c": "It may be 8.</think> c 8",  # its opening stands in some chat templates
        "d": "d 8 <think>",  # somebody's own text
    }
    server.answer = lambda messages: says[messages[-1]["content"]]
    part = part_of(server.base_url, prompt="{completion}")
    got = part.generate([request(text) for text in says], rng())
    assert texts(got) == [None, "b 8", "c 8", "d 8 <think>"]
    server.rates = {"cut": 1.0}
    (cut,) = part.generate([request("b")], rng())
    assert (cut.text, cut.failure) == (None, "")
    part.close()


def test_a_long_completion_loses_its_middle_and_a_long_question_is_not_asked(
    server: StandIn,
) -> None:
    part = part_of(server.base_url, prompt=SHORT, max_chars=100)
    long = "A" + "1" * 400 + "Z"
    got = part.generate([request(long), request("short", "q" * 200), request("short")], rng())
    part.close()
    (message,) = [m[0]["content"] for m in server.prompts if "A1" in m[0]["content"]]
    assert len(message) == 100
    assert message.startswith("What is 3 + 4? | A1")
    assert "\n...\n" in message
    assert message.endswith("1Z")
    assert len(server.log) == 2
    assert (got[1].text, got[1].failure) == (None, "")
    assert got[0].text is not None
    assert got[2].text is not None


def test_a_local_chat_model_does_it_too(tmp_path: Path) -> None:
    folder = write_policy(tmp_path / "model", ["What is 3 + 4? So the answer is 7."])
    part = ChatNegatives(LocalChat(str(folder), dtype="float32"), max_new_tokens=8)
    asked = [request("It is 7."), request("So 7.")]
    first = part.generate(asked, rng())
    assert part.generate(asked, rng()) == first
    # It knows no end, so that every text is cut; with a chat that does not stop there is no pair.
    assert texts(first) == [None, None]
    part.begin()
    part._end = time.monotonic() - 1
    late = part.generate(asked, rng())
    assert {n.failure for n in late} == {"the 300 s of a step's negatives are over"}
    part.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompt": "{question} {answer}"}, r"negatives\.prompt=.*no field \{answer\}; use"),
        ({"temperature": 0}, r"negatives\.temperature=0: "),
        ({"top_p": 0}, r"negatives\.top_p=0"),
        ({"max_new_tokens": 0}, r"negatives\.max_new_tokens=0"),
        ({"max_chars": 99}, r"negatives\.max_chars=99: must be at least 100"),
        ({"max_seconds": 0}, r"negatives\.max_seconds=0: must be above 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        part_of("http://localhost:1/v1", **settings)


# ---------------------------------------------------------------------- a step's pairs and time


def pairs_of(
    part: ChatNegatives | MixedNegatives, make: MakeRollouts, problems: int = 6
) -> dict[str, int]:
    """The counts of a step: `problems` problems, each with one right completion."""
    numbers = [str(n) for n in range(problems)]
    rollouts = make([[f"It is \\boxed{{{n}}}."] for n in numbers], numbers)
    verdicts = [Verdict(Status.CORRECT)] * problems
    builder = PairBuilder(NumericVerifier(), part)
    counts = builder.build(rollouts, verdicts, None, rng()).counts
    return {name: count for name, count in counts.items() if count}


def test_a_slow_server_takes_no_more_than_the_steps_time(
    server: StandIn, make_rollouts: MakeRollouts
) -> None:
    server.latency = 0.2
    part = part_of(server.base_url, {"concurrency": 1}, prompt=SHORT, max_seconds=0.7)
    for _ in range(2):  # each step has its own time
        counts = pairs_of(part, make_rollouts)
        # The three tries of pairs.tries do not make it three times as long, which six pairs need.
        assert 1 <= counts["built"] <= 3
        assert counts["built"] + counts["dropped_no_reply"] == 6
    part.close()


def test_a_server_that_hangs_takes_no_more_than_the_steps_time(make_rollouts: MakeRollouts) -> None:
    with StandIn({"stall": 1.0}, stall_seconds=60) as server:
        part = part_of(server.base_url, {"timeout": 30}, max_seconds=0.5)
        began = time.monotonic()
        with pytest.warns(UserWarning, match=r"negatives\.chat: no reply within the 0\.5 s"):
            assert pairs_of(part, make_rollouts) == {"dropped_no_reply": 6}
        assert time.monotonic() - began < 10
        part.close()


def test_down_from_the_start_and_back(make_rollouts: MakeRollouts) -> None:
    with StandIn() as gone:
        url = gone.base_url
    part = part_of(url, {"retries": 1}, prompt=SHORT)
    with pytest.warns(UserWarning, match=r"negatives\.chat: APIConnectionError: .* until it answ"):
        assert pairs_of(part, make_rollouts) == {"dropped_no_reply": 6}
    with warnings.catch_warnings():  # once an outage
        warnings.simplefilter("error")
        assert pairs_of(part, make_rollouts) == {"dropped_no_reply": 6}
        with StandIn(answer=wrong, port=int(url.split(":")[2].split("/")[0])):
            assert pairs_of(part, make_rollouts) == {"built": 6}
    part.close()


def test_down_for_two_steps_and_back(make_rollouts: MakeRollouts) -> None:
    with StandIn(answer=wrong) as first:
        port = int(first.base_url.split(":")[2].split("/")[0])
        part = part_of(first.base_url, {"retries": 1}, prompt=SHORT)
        steps = [pairs_of(part, make_rollouts)]
    with pytest.warns(UserWarning, match="until it answers"):
        steps += [pairs_of(part, make_rollouts)]
    steps += [pairs_of(part, make_rollouts)]
    with StandIn(answer=wrong, port=port):
        steps += [pairs_of(part, make_rollouts)]
    with pytest.warns(UserWarning, match="until it answers"):  # another outage is told again
        steps += [pairs_of(part, make_rollouts)]
    part.close()
    up, down = {"built": 6}, {"dropped_no_reply": 6}
    assert steps == [up, down, down, up, down]


def test_others_stand_in_while_it_is_down(make_rollouts: MakeRollouts) -> None:
    part = part_of("http://127.0.0.1:9/v1", {"retries": 0})
    mixed = MixedNegatives(
        {"assistant": part, "perturb": PerturbNegatives(["answer"])},
        {"assistant": 1, "perturb": 0},
    )
    with pytest.warns(UserWarning, match="until it answers"):
        assert pairs_of(mixed, make_rollouts) == {"built": 6}
    assert part._end is not None  # it was told of the step
    mixed.close()


def test_garbage_is_asked_again_and_then_dropped(
    server: StandIn, make_rollouts: MakeRollouts
) -> None:
    part = part_of(server.base_url, {"retries": 2}, prompt=SHORT)
    server.rates = {"garbage": 1.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = pairs_of(part, make_rollouts)
    # Replies without text are no replies; chatter is a text, and no answer is INCORRECT.
    assert sum(counts.values()) == 6
    server.rates = {"garbage": 0.4}
    assert sum(pairs_of(part, make_rollouts).values()) == 6
    server.rates = {}
    assert pairs_of(part, make_rollouts) == {"built": 6}
    part.close()


def test_a_server_that_asks_to_wait_is_waited_for(
    server: StandIn, make_rollouts: MakeRollouts
) -> None:
    server.rates, server.retry_after = {"rate_limit": 0.5}, 0.3
    part = part_of(server.base_url, {"retries": 8}, prompt=SHORT)
    assert pairs_of(part, make_rollouts) == {"built": 6}
    times: dict[str, list[float]] = {}
    for entry in server.log:
        times.setdefault(entry["content"], []).append(entry["time"])
    again = [later - first for first, *rest in times.values() for later in rest[:1]]
    assert again
    assert min(again) >= 0.3
    # A wait that is longer than the step's time does not outlast it.
    server.rates, server.retry_after = {"rate_limit": 1.0}, 60
    part.max_seconds = 0.4
    began = time.monotonic()
    with pytest.warns(UserWarning, match="until it answers"):
        assert pairs_of(part, make_rollouts) == {"dropped_no_reply": 6}
    assert time.monotonic() - began < 20
    part.close()


# -------------------------------------------------------------------------------- configuration


def test_the_file_makes_one(server: StandIn) -> None:
    from cooper.config.parts import instantiate
    from cooper.negatives import NegativeGenerator

    given = [f"negatives.chat.base_url={server.base_url}", "negatives.chat.model=m"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("negatives/assistant_endpoint", [*given, "negatives.max_new_tokens=64"])
    part = instantiate(config.negatives, "negatives", NegativeGenerator)
    assert isinstance(part, ChatNegatives)
    assert part.prompt == PROMPT
    assert part.generate([request("It is 7.")], rng())[0].text is not None
    part.close()
    part.close()
