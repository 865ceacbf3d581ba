"""Verification that goes on beside sampling and scoring gives what it gave alone."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning as L
import pytest
import torch

from cooper import CooperModule, Policy, RewardModel
from cooper.chat import ChatModel, ChatReply
from cooper.data import ProblemStream
from cooper.objectives import PolicyObjective
from cooper.samplers import HFSampler, NativeSampler, Sampler
from cooper.types import Problem, Prompt, Rollouts, SamplingParams, Status, Verdict
from cooper.verifiers import HybridVerifier, JudgeVerifier, NumericVerifier, Verifier
from cooper.verifiers.pending import Verification

MakeRollouts = Callable[..., Rollouts]
# Of different lengths, so that groups do not end in the order of the problems.
PROBLEMS = [Problem(str(n), "What is " + f"{n} + 4 " * (4 - n % 4), str(n + 4)) for n in range(8)]


class Noted(Verifier):
    """Says of each text its length's parity and what it was asked with; notes the batches."""

    def __init__(self, whole_batches: bool = False, seconds: float = 0.0) -> None:
        self.whole_batches, self.seconds = whole_batches, seconds
        self.batches: list[tuple[tuple[str, ...], ...]] = []

    def verify(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Verdict]:
        time.sleep(self.seconds)
        assert questions is not None
        rows = tuple(zip(completions, references, questions, strict=True))
        self.batches.append(rows)
        kinds = (Status.CORRECT, Status.INCORRECT)
        return [Verdict(kinds[len(row[0]) % 2], "|".join(row)) for row in rows]


@pytest.fixture
def closing() -> Iterator[Callable[[Verifier], Verifier]]:
    made: list[Verifier] = []

    def note(verifier: Verifier) -> Verifier:
        made.append(verifier)
        return verifier

    yield note
    for verifier in made:
        verifier.close()


def alone(rollouts: Rollouts) -> list[Verdict]:
    verdicts = Noted().verify(rollouts.completions, rollouts.references, rollouts.questions)
    assert len({verdict.reason for verdict in verdicts}) == len(verdicts)
    return verdicts


@pytest.mark.parametrize("told", [(0, 1, 2), (2, 0, 1), (1,), ()], ids=str)
@pytest.mark.parametrize("whole", [False, True], ids=["groups", "whole"])
def test_verdicts_are_those_of_the_rollouts_in_any_order(
    make_rollouts: MakeRollouts, closing: Callable[[Any], Any], told: tuple[int, ...], whole: bool
) -> None:
    texts = [["a", "bb"], ["ccc"], ["d", "ee", "fff"]]
    rollouts = make_rollouts(texts, references=["1", "2", "3"])
    verifier = closing(Noted(whole))
    verification = Verification(verifier, rollouts.problems)
    for index in told:
        verification.on_group(index, texts[index])
    assert list(verification.verdicts(rollouts)) == alone(rollouts)
    assert sum(map(len, verifier.batches)) == 6
    one_by_one = 0 if whole else len(told)
    assert len(verifier.batches) == one_by_one + (one_by_one < 3)


def test_what_a_sampler_told_otherwise_is_verified_as_it_stands_in_the_rollouts(
    make_rollouts: MakeRollouts, closing: Callable[[Any], Any]
) -> None:
    rollouts = make_rollouts([["a", "bb"], ["ccc", "dd"]])
    verification = Verification(closing(Noted()), rollouts.problems)
    verification.on_group(0, ["a", "bb "])
    verification.on_group(1, ["ccc", "dd"])
    assert list(verification.verdicts(rollouts)) == alone(rollouts)


def test_nobody_waits_before_a_verdict_is_read(
    make_rollouts: MakeRollouts, closing: Callable[[Any], Any]
) -> None:
    go = threading.Event()

    class Held(Noted):
        def verify(self, *texts: Any) -> list[Verdict]:
            assert go.wait(5)
            return super().verify(*texts)

    rollouts = make_rollouts([["a", "bb"], ["ccc"]])
    verification = Verification(closing(Held()), rollouts.problems)
    verification.on_group(0, ["a", "bb"])
    verdicts = verification.verdicts(rollouts)
    assert len(verdicts) == 3
    go.set()
    assert verdicts[0:2] == alone(rollouts)[:2]
    assert verdicts[2] == alone(rollouts)[2]


@pytest.mark.parametrize("fault", ["raises", "too few"])
def test_a_faulty_verifier_is_heard_and_the_rest_given_up(
    make_rollouts: MakeRollouts, closing: Callable[[Any], Any], fault: str
) -> None:
    class Faulty(Noted):
        def verify(self, *texts: Any) -> list[Verdict]:
            verdicts = super().verify(*texts)
            if fault == "raises":
                raise RuntimeError("a fault of its own")
            return verdicts[1:]

    rollouts = make_rollouts([[f"{n}"] for n in range(200)])
    verifier = closing(Faulty(seconds=0.02))
    verification = Verification(verifier, rollouts.problems)
    for index, text in enumerate(rollouts.completions):
        verification.on_group(index, [text])
    said = "of its own" if fault == "raises" else "shorter"
    error = RuntimeError if fault == "raises" else ValueError
    with pytest.raises(error, match=said):
        list(verification.verdicts(rollouts))
    verifier._executor.shutdown(wait=True)  # without giving up what waits
    assert len(verifier.batches) < 100


# ------------------------------------------------------------------------------- inside a step


def run(
    policy: Policy, reward_model: RewardModel, verifier: Verifier, **given: Any
) -> tuple[list[torch.Tensor], dict[str, float], CooperModule]:
    """Two steps by Lightning: both models' weights, the figures of the last step."""
    module = CooperModule(
        policy=Policy(copy.deepcopy(policy.model), policy.tokenizer),
        reward_model=copy.deepcopy(reward_model),
        verifier=verifier,
        sampling=SamplingParams(max_new_tokens=6),
        group_size=4,
        **given,
    )
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, ProblemStream(PROBLEMS, batch_size=4, num_batches=2))
    finally:
        verifier.close()
    assert module.last is not None
    figures = {n: v for n, v in module.last.metrics.items() if not n.startswith("time/")}
    weights = [*module.policy.parameters(), *module.reward_model.parameters()]  # type: ignore
    return [p.detach().clone() for p in weights], figures, module


@pytest.mark.parametrize("sampler", [HFSampler, NativeSampler])
@pytest.mark.parametrize("rounds", [0, 1], ids=["plain", "dynamic"])
def test_a_slow_verifier_changes_no_bit(
    policy: Policy, reward_model: RewardModel, sampler: type[Sampler], rounds: int
) -> None:
    def two_steps(verifier: Verifier) -> Any:
        given: dict[str, Any] = {"sampler": sampler()}
        if rounds:
            given["stream"] = ProblemStream(PROBLEMS, batch_size=4, num_batches=2, seed=1)
        objective = PolicyObjective(max_tokens=6, dynamic_sampling=rounds)
        return run(policy, reward_model, verifier, objective=objective, **given)

    at_once, by_group, slow = Noted(whole_batches=True), Noted(), Noted(seconds=0.03)
    weights, figures, module = two_steps(at_once)
    assert figures["pairs/built"] > 0
    for verifier in (by_group, slow):
        again, same, _ = two_steps(verifier)
        assert all(map(torch.equal, weights, again))
        assert same == figures
        # Apart from the batches alone: the same texts, with their own questions and references.
        whole = [row for batch in at_once.batches for row in batch]
        groups = [row for batch in verifier.batches for row in batch]
        assert sorted(whole) == sorted(groups)
        assert len(verifier.batches) > len(at_once.batches)
    assert module.last is not None
    assert [v.reason for v in module.last.verdicts] == [
        "|".join(row)
        for row in zip(
            module.last.rollouts.completions,
            module.last.rollouts.references,
            module.last.rollouts.questions,
            strict=True,
        )
    ]


def test_verification_runs_while_others_are_drawn_and_scored(
    policy: Policy, reward_model: RewardModel
) -> None:
    events: list[str] = []

    class Telling(Noted):
        def verify(self, *texts: Any) -> list[Verdict]:
            events.append("verify")
            return super().verify(*texts)

    class Waiting(HFSampler):
        def sample(self, *args: Any, **kwargs: Any) -> Rollouts:
            # Both ends inside the sampler: no later group is drawn before the first one's
            # verification has begun.
            *front, on_group = args

            def tell(index: int, texts: Sequence[str]) -> None:
                on_group(index, texts)
                end = time.monotonic() + 3
                while "verify" not in events and time.monotonic() < end:
                    time.sleep(0.001)

            rollouts = super().sample(*front, tell)
            events.append("drawn")
            return rollouts

    run(policy, reward_model, Telling(), sampler=Waiting(batch_size=4))
    assert events.index("verify") < events.index("drawn")


class Broken(HFSampler):
    """Tells of its groups, then fails."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        params: SamplingParams,
        generator: torch.Generator,
        on_group: Any = None,
    ) -> Rollouts:
        for index in range(len(prompts)):
            on_group(index, ["7"] * group_size)
        raise KeyboardInterrupt


def test_an_interrupted_draw_leaves_nothing_waiting(
    policy: Policy, make_rollouts: MakeRollouts
) -> None:
    verifier = Noted(seconds=0.2)
    module = CooperModule(
        policy=policy,
        verifier=verifier,
        sampling=SamplingParams(max_new_tokens=6),
        objective=PolicyObjective(kl_coef=0),
        sampler=Broken(),
    )
    module.configure_optimizers()
    module.clock.start()
    with pytest.raises(KeyboardInterrupt):
        module.draw(PROBLEMS)
    verifier._executor.shutdown(wait=True)  # without giving up what waits
    assert len(verifier.batches) <= 1


class Talk(ChatModel):
    """Says that all is right, and notes how many were asked at once."""

    identity = "talk"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def complete(self, conversations: Any, *_: Any, **__: Any) -> list[ChatReply]:
        self.asked.append(len(conversations))
        return [ChatReply("VERDICT: CORRECT") for _ in conversations]


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_judge_gets_a_step_as_one_batch(
    make_rollouts: MakeRollouts, closing: Callable[[Any], Any], hybrid: bool
) -> None:
    judge = JudgeVerifier(talk := Talk())
    verifier = closing(HybridVerifier(NumericVerifier(), judge) if hybrid else judge)
    rollouts = make_rollouts([["a", "bb"], ["ccc", "dd"]])
    verification = Verification(verifier, rollouts.problems)
    for index in (0, 1):
        verification.on_group(index, [rollouts.completions[i] for i in rollouts.groups[index]])
    assert len(list(verification.verdicts(rollouts))) == 4
    assert talk.asked == [4]
