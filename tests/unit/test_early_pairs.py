"""Pairs begun while rollouts are drawn are the pairs that would have been built after them."""

from __future__ import annotations

import copy
import random
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import lightning as L
import pytest
import torch

from cooper import CooperModule, Policy, RewardModel
from cooper.data import ProblemStream
from cooper.early_pairs import EarlyPairs
from cooper.models.adapters import LoraAdapter
from cooper.negatives import AssistantNegatives
from cooper.objectives import PolicyObjective, RewardObjective
from cooper.pairs import PairBuilder
from cooper.samplers import HFSampler
from cooper.types import Negative, Problem, Prompt, Rollouts, SamplingParams, Status, Verdict
from cooper.verifiers import Verifier
from cooper.verifiers.pending import Verification

PROBLEMS = [Problem(str(n), "What is " + f"{n} + 4 " * (4 - n % 4), str(n + 4)) for n in range(8)]
RIGHT, WRONG = Verdict(Status.CORRECT), Verdict(Status.INCORRECT)


class Says(Verifier):
    """Right by a text's checksum; sleeps as long as chance, which no run's seed knows, has it."""

    def __init__(self, share: float = 0.5, seconds: float = 0.0, whole: bool = False) -> None:
        self.share, self.seconds, self.whole_batches = share, seconds, whole
        self.batches: list[int] = []

    def verify(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Verdict]:
        time.sleep(self.seconds * random.SystemRandom().random())
        self.batches.append(len(completions))
        return [
            RIGHT if zlib.crc32(text.encode()) < self.share * 2**32 else WRONG
            for text in completions
        ]


class After(CooperModule):
    """Begins no pairs early."""

    def early_pairs(self, verification: Verification) -> None:
        return None


class Counting(CooperModule):
    """Notes how many proposals were there when the rollouts were."""

    begun = 0

    def draw(self, problems: Sequence[Problem]) -> Any:
        drawn = super().draw(problems)
        self.begun += len(drawn.begun.negatives)
        return drawn


def run(
    policy: Policy,
    reward_model: RewardModel,
    kind: type[CooperModule] = Counting,
    verifier: Verifier | None = None,
    pairs: dict[str, Any] | None = None,
    whole: bool = False,
    **given: Any,
) -> tuple[list[dict[str, float]], list[Rollouts], list[Any], CooperModule]:
    """Three steps: figures, rollouts, pairs."""
    own = Policy(copy.deepcopy(policy.model), policy.tokenizer).eval()
    own.model.generation_config.eos_token_id = [policy.tokenizer.eos_token_id, *range(40, 60)]
    if not whole:
        own.adapt(LoraAdapter(rank=4, alpha=8.0), seed=0)
    negatives = AssistantNegatives(max_new_tokens=24, temperature=1.0, top_p=1.0)
    negatives.bind(own, own.start)
    verifier = verifier or Says()
    settings = {"verifier": Says(0), "tries": 1, **(pairs or {})}
    module = kind(
        policy=own,
        reward_model=copy.deepcopy(reward_model),
        verifier=verifier,
        pairs=PairBuilder(negatives=negatives, **settings),
        sampling=SamplingParams(max_new_tokens=30),
        group_size=4,
        **given,
    )
    rows, rollouts, built = [], [], []

    class Note(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            metrics = module.last.metrics.items()
            rows.append({n: v for n, v in metrics if not n.startswith("time/")})
            rollouts.append(module.last.rollouts)
            built.append(module.last.pairs)

    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Note()],
    )  # fmt: skip
    try:
        trainer.fit(module, ProblemStream(PROBLEMS, batch_size=6, num_batches=3))
    finally:
        verifier.close()
    return rows, rollouts, built, module


@pytest.mark.parametrize("choose", ["first", "shortest"])
def test_pairs_are_those_built_afterwards(
    policy: Policy, reward_model: RewardModel, choose: str
) -> None:
    """Where every problem has one, and no chance chooses, both draw alike."""
    given: dict[str, Any] = {"verifier": Says(0.9), "pairs": {"choose": choose}}
    early, after = (run(policy, reward_model, kind, **given) for kind in (Counting, After))
    assert [row["pairs/dropped_no_correct"] for row in after[0]] == [0, 0, 0]
    assert sum(map(len, after[2])) > 6
    assert early[3].begun == 18  # type: ignore[attr-defined]
    for one, other in zip(early[1], after[1], strict=True):
        assert one.ids.tolist() == other.ids.tolist()
    assert early[2] == after[2]
    for one, other in zip(early[0], after[0], strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize(("tries", "per_problem"), [(1, 1), (3, 2)])
def test_a_verifier_of_any_speed_gives_the_same_figures(
    policy: Policy, reward_model: RewardModel, tries: int, per_problem: int
) -> None:
    pairs = {"verifier": Says(0.3), "tries": tries, "per_problem": per_problem}
    fast = run(policy, reward_model, pairs=pairs)
    assert sum(row["pairs/built"] for row in fast[0]) > 6
    if tries > 1:  # some of them by asking again
        assert len(fast[3].pairs.verifier.batches) > 3  # type: ignore[attr-defined]
    for _ in range(2):
        verifier = Says(seconds=0.02)
        slow = run(policy, reward_model, verifier=verifier, pairs=pairs)
        assert sum(verifier.batches) == sum(map(len, slow[1])) == 3 * 24  # each once
        assert slow[0] == fast[0]
        assert slow[2] == fast[2]
        assert slow[3].begun == fast[3].begun > 6  # type: ignore[attr-defined]


def test_no_problem_is_right(policy: Policy, reward_model: RewardModel) -> None:
    rows, _, built, module = run(policy, reward_model, verifier=Says(0))
    assert [len(pairs) for pairs in built] == [0, 0, 0]
    assert [row["pairs/dropped_no_correct"] for row in rows] == [6, 6, 6]
    assert module.begun == 0  # type: ignore[attr-defined]


def test_a_verifiers_fault_is_heard(policy: Policy, reward_model: RewardModel) -> None:
    class Faulty(Says):
        def verify(self, *texts: Any) -> list[Verdict]:
            raise RuntimeError("a fault of its own")

    with pytest.raises(RuntimeError, match="of its own"):
        run(policy, reward_model, verifier=Faulty())


@pytest.mark.parametrize(
    "given",
    [
        {"verifier": Says(whole=True)},
        {"pairs": {"choose": "lowest_scored"}},
        {"sampler": HFSampler()},
        {"whole": True},
        {
            "objective": PolicyObjective(dynamic_sampling=1, max_tokens=30),
            "stream": ProblemStream(PROBLEMS, batch_size=6, num_batches=9, seed=1),
        },
    ],
    ids=["whole batches", "scores", "another sampler", "all weights", "dynamic sampling"],
)
def test_who_needs_all_rollouts_builds_afterwards(
    policy: Policy, reward_model: RewardModel, given: dict[str, Any]
) -> None:
    """To the bit, so that nothing was drawn from the generator either."""
    given = {key: copy.deepcopy(value) for key, value in given.items()}
    early = run(policy, reward_model, **given)
    assert early[3].begun == 0  # type: ignore[attr-defined]
    given = {key: copy.deepcopy(value) for key, value in given.items()}
    assert run(policy, reward_model, After, **given)[0] == early[0]


def test_steps_without_an_update_of_the_reward_model_begin_nothing(
    policy: Policy, reward_model: RewardModel
) -> None:
    _, _, built, module = run(policy, reward_model, reward_objective=RewardObjective(every=2))
    assert [len(pairs) > 0 for pairs in built] == [False, True, False]
    assert 0 < module.begun <= 6  # type: ignore[attr-defined]


def test_several_processes_build_afterwards(
    policy: Policy, reward_model: RewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = run(policy, reward_model)[3]
    verification = Verification(Says(), PROBLEMS)
    assert isinstance(module.early_pairs(verification), EarlyPairs)
    monkeypatch.setattr("cooper.module.ranks", lambda: 2)
    assert module.early_pairs(verification) is None


class Echo:
    """Asks with the chosen text itself."""

    params = SamplingParams(4)

    def ask(self, problem: Problem, chosen: str) -> Prompt | None:
        return None if chosen == "too long" else Prompt(problem, chosen, (1,))

    def answered(self, chosen: str, text: str, finished: bool) -> Negative:
        return Negative(text, chosen)


def early(texts: list[str], choose: Any, seed: int = 0, per_problem: int = 1) -> EarlyPairs:
    """One problem of so many rollouts."""
    verification = Verification(Parity(), [Problem("p", "q", "r")])
    rng = torch.Generator().manual_seed(seed)
    return EarlyPairs(Echo(), choose, per_problem, verification, len(texts), rng)


class Parity(Says):
    """Right is a text of even length."""

    def submit(self, completions: Sequence[str], *_: Any) -> Any:
        from concurrent.futures import Future

        done: Future[list[Verdict]] = Future()
        done.set_result([WRONG if len(text) % 2 else RIGHT for text in completions])
        return done


def test_what_is_chosen_is_known_before_its_group_has_ended() -> None:
    texts = ["a", "bb", "cccc", "d"]
    pairs = early(texts, "first")
    assert pairs.joining({2: "cccc"}, last=False) == []
    assert pairs.joining({0: "a"}, last=False) == []  # the third is not the first of all
    assert pairs.joining({1: "bb"}, last=False) == []  # told now, read the next time
    (guest,) = pairs.joining({}, last=False)
    assert guest.prompt == (1,)
    assert pairs.begun.chosen == {0: [1]}
    assert pairs.joining({3: "d"}, last=True) == []
    pairs.answered(0, "wrong", finished=True)
    assert pairs.begun.negatives == {1: Negative("wrong", "bb")}


def test_the_shortest_is_known_at_the_end_alone() -> None:
    texts = ["aaaa", "bb", "c"]
    pairs = early(texts, "shortest", per_problem=2)
    assert pairs.joining(dict(enumerate(texts[:2])), last=False) == []
    assert pairs.joining({}, last=False) == []
    assert len(pairs.joining({2: "c"}, last=True)) == 2
    assert pairs.begun.chosen == {0: [1, 0]}


def test_what_cannot_be_read_is_no_negative_and_no_guest() -> None:
    pairs = early(["too long"], "first")
    assert pairs.joining({0: "too long"}, last=True) == []
    assert pairs.begun.negatives == {0: Negative(None, "assistant")}


@pytest.mark.parametrize("ends", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0)], ids=str)
def test_each_right_one_is_as_likely(ends: tuple[int, ...]) -> None:
    """Whoever ends first: three right of five, 900 times; chi-square of 2 degrees of freedom."""
    texts = ["aa", "b", "cc", "d", "ee"]
    counts: Counter[int] = Counter()
    for seed in range(900):
        pairs = early(texts, "random", seed)
        for at in ends:
            pairs.joining({at: texts[at]}, last=False)
        pairs.joining({}, last=True)
        counts[pairs.begun.chosen[0][0]] += 1
    assert set(counts) == {0, 2, 4}
    assert sum((count - 300) ** 2 / 300 for count in counts.values()) < 13.8  # 99.9 %
