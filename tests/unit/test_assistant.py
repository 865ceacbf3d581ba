"""The assistant: what it is asked, what counts as an answer, and whose weights it has."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from cooper.errors import ConfigError, ModelError
from cooper.models import Policy
from cooper.negatives import AssistantNegatives, MixedNegatives, PerturbNegatives
from cooper.negatives.assistant import PROMPT
from cooper.samplers import HFSampler, Sampler, pack_rollouts
from cooper.testing import write_policy
from cooper.types import NegativeRequest, Problem, Prompt, Rollouts, SamplingParams, Status, Verdict

CONF = Path(__file__).resolve().parents[2] / "conf" / "negatives" / "assistant.yaml"


class Answers(Sampler):
    """Says given texts, and keeps what it was asked."""

    def __init__(self, *texts: str, finished: Sequence[bool] = ()) -> None:
        self.texts = texts
        self.finished = finished or [True] * len(texts)
        self.prompts: list[str] = []
        self.calls: list[tuple[int, SamplingParams, Policy]] = []
        self.closed = 0

    def sync(self, policy: Policy, version: int) -> None:
        self.policy = policy

    def sample(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        params: SamplingParams,
        generator: torch.Generator,
        on_group: object = None,
    ) -> Rollouts:
        self.prompts += [prompt.text for prompt in prompts]
        self.calls.append((group_size, params, self.policy))
        texts = self.texts[: len(prompts)]
        ids = [torch.tensor(self.policy.tokenizer(t)["input_ids"]).long() for t in texts]
        logprobs: list[Tensor] = [torch.zeros(len(i)) for i in ids]
        ended = self.finished[: len(prompts)]
        return pack_rollouts(prompts, group_size, ids, logprobs, ended, self.policy, 0)

    def close(self) -> None:
        self.closed += 1


def request(chosen: str, question: str = "What is 3 + 4?") -> NegativeRequest:
    right = [Verdict(Status.CORRECT)]
    return NegativeRequest(Problem("p", question, "7"), chosen, [chosen], right)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bound(policy: Policy, **settings: object) -> AssistantNegatives:
    part = AssistantNegatives(**{"max_new_tokens": 64, **settings})
    part.bind(policy, lambda: Policy(copy.deepcopy(policy.model), policy.tokenizer))
    return part


# ------------------------------------------------------------------------------------ the prompt


def test_the_file_shows_the_prompt_of_the_class() -> None:
    assert OmegaConf.load(CONF).prompt == PROMPT


def test_fields_are_filled_in_one_pass_and_go_through_the_chat_template(policy: Policy) -> None:
    says = Answers("3 + 4 = 8")
    part = bound(policy, sampler=says, prompt="{question}|{reference}|{completion}|\\boxed{}{ 1}")
    part.generate([request("{question} {x} \\boxed{7}")], rng())
    # The template of the tiny tokenizer: the message and a line end.
    assert says.prompts == ["What is 3 + 4?|7|{question} {x} \\boxed{7}|\\boxed{}{ 1}\n"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompt": "{question} {answer}"}, r"negatives\.prompt=.*no field \{answer\}; use"),
        ({"prompt": "Say something."}, r"negatives\.prompt=.*nothing of the problem; put"),
        ({"prompt": "{reference}"}, r"negatives\.prompt=.*nothing of the problem; put"),
        ({"temperature": 0}, r"negatives\.temperature=0: .* give a value above 0"),
        ({"temperature": -1}, r"negatives\.temperature=-1"),
        ({"top_p": 0}, r"negatives\.top_p=0: must lie in \(0, 1\]"),
        ({"top_p": 1.5}, r"negatives\.top_p=1\.5"),
        ({"max_new_tokens": 0}, r"negatives\.max_new_tokens=0: give 1 or more"),
        ({"revision": "main"}, r"negatives\.revision=main: .*negatives\.path"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AssistantNegatives(**settings)


# -------------------------------------------------------------------------------- what comes back


def test_one_batch_and_what_is_no_negative(policy: Policy) -> None:
    says = Answers("a 8", " \n", "c 7", "d 9", finished=[True, True, True, False])
    part = bound(policy, sampler=says, temperature=0.5, top_p=0.9, max_new_tokens=20)
    got = part.generate([request(t) for t in ("a 7", "b 7", "c 7", "d 7")], rng())
    # The second is blank, the third is the chosen text again, the fourth was cut.
    assert [negative.text for negative in got] == ["a 8", None, None, None]
    assert {negative.source for negative in got} == {"assistant"}
    ((group_size, params, _),) = says.calls
    assert (group_size, params) == (1, SamplingParams(20, 0.5, 0.9))


def test_a_long_completion_loses_its_middle(policy: Policy) -> None:
    says = Answers(*["8"] * 3)
    part = bound(policy, sampler=says, prompt="{question} {completion}", max_new_tokens=480)
    long = "A" + "1" * 400 + "Z"
    part.generate([request("short 7"), request(long)], rng())
    assert says.prompts[0] == "What is 3 + 4? short 7\n"
    # 512 positions less 480 are left for the prompt, and one more character would not fit.
    assert len(policy.tokenizer(says.prompts[1])["input_ids"]) == 32
    assert says.prompts[1].startswith("What is 3 + 4? ")
    assert "\n...\n" in says.prompts[1]
    assert says.prompts[1].endswith("Z\n")


def test_a_question_that_is_too_long_gives_no_text_and_stops_nobody(policy: Policy) -> None:
    says = Answers("8", "8")
    part = bound(policy, sampler=says, prompt="{question}", max_new_tokens=490)
    got = part.generate([request("7", question="1 " * 400), request("7")], rng())
    assert [negative.text for negative in got] == [None, "8"]
    assert part.generate([request("7", question="1 " * 400)], rng())[0].text is None
    assert len(says.calls) == 1  # no call without a prompt


def test_more_new_tokens_than_the_model_has_places(policy: Policy) -> None:
    with pytest.raises(ConfigError, match=r"negatives\.max_new_tokens=512: .*512 tokens.*lower"):
        bound(policy, max_new_tokens=512)


# ------------------------------------------------------------------------------- whose weights


def test_the_start_is_frozen_and_does_not_follow_the_policy(policy: Policy) -> None:
    trained = Policy(copy.deepcopy(policy.model), policy.tokenizer)
    part = bound(trained, max_new_tokens=8)
    part._assistant.model.generation_config.eos_token_id = list(range(2, 200))
    requests = [request(f"{n} 7") for n in range(6)]
    before = part.generate(requests, rng())
    with torch.no_grad():
        for weight in trained.model.parameters():
            weight.add_(torch.randn(weight.shape, generator=rng()))
    assert part.generate(requests, rng()) == before
    assert any(negative.text for negative in before)
    assert not any(w.requires_grad for w in part._assistant.parameters())
    assert all(w.requires_grad for w in trained.parameters())


def test_the_runs_sampler_is_left_alone(policy: Policy) -> None:
    run = HFSampler()
    run.sync(policy, 3)
    part = bound(policy, max_new_tokens=4)
    part.generate([request("7")], rng())
    assert part.sampler is not run
    assert run._policy is policy
    assert run._version == 3


def test_it_goes_where_the_policy_is(policy: Policy) -> None:
    trained = Policy(copy.deepcopy(policy.model), policy.tokenizer)
    part = bound(trained, sampler=Answers("8"))
    trained.to("meta")  # a device that every machine has
    part.generate([request("7")], rng())
    assert part._assistant.model.device.type == "meta"


def test_without_a_model(policy: Policy) -> None:
    with pytest.raises(RuntimeError, match="give path, or call bind"):
        AssistantNegatives().generate([request("7")], rng())
    part = bound(policy, sampler=Answers("8"))
    part.close()
    assert part.sampler.closed == 1
    with pytest.raises(RuntimeError, match="no model"):
        part.generate([request("7")], rng())


def test_only_who_asks_a_model_gets_the_start(policy: Policy, tmp_path: Path) -> None:
    def never() -> Policy:
        raise AssertionError("no copy is needed")

    write_policy(tmp_path / "own", ["What is 3 + 4?"])
    own = AssistantNegatives(path=str(tmp_path / "own"))
    MixedNegatives({"own": own, "perturb": PerturbNegatives()}, {"own": 1, "perturb": 1}).bind(
        policy, never
    )
    with pytest.raises(AssertionError):
        AssistantNegatives().bind(policy, never)


# ------------------------------------------------------------------------------ a model of its own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 with Qwen2's chat template, as save_pretrained writes it."""
    return write_policy(tmp_path_factory.mktemp("assistant"), [PROMPT, "So it is \\boxed{7}. 12"])


def test_own_model_with_a_chat_template(folder: Path) -> None:
    says = Answers("8")
    part = AssistantNegatives(path=str(folder), sampler=says, prompt="Q: {question}")
    part.generate([request("7")], rng())
    assert says.prompts == [
        "<|im_start|>user\nQ: What is 3 + 4?<|im_end|>\n<|im_start|>assistant\n"
    ]
    assert part._assistant.model.dtype == torch.bfloat16


def test_own_model_writes_and_the_generator_alone_decides_what(folder: Path) -> None:
    part = AssistantNegatives(path=str(folder), dtype="float32", max_new_tokens=6, temperature=1.5)
    part._assistant.model.generation_config.eos_token_id = list(range(0, 300, 2))
    requests = [request(f"3 + {n} = 7 \\boxed{{7}}") for n in range(8)]
    torch.manual_seed(1)
    first = part.generate(requests, rng())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert part.generate(requests, rng()) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert part.generate(requests, rng(1)) != first
    assert any(negative.text for negative in first)


def test_a_completion_longer_than_its_window(folder: Path) -> None:
    part = AssistantNegatives(path=str(folder), dtype="float32", max_new_tokens=4)
    got = part.generate([request("x1 " * 9000 + "\\boxed{7}"), request("\ud800 7")], rng())
    assert [negative.source for negative in got] == ["assistant"] * 2


def test_no_such_model() -> None:
    with pytest.raises(ModelError, match=r"negatives\.path=\./none: no such folder"):
        AssistantNegatives(path="./none")
