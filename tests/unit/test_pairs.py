"""Which pairs are built, and what becomes of the problems that give none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from cooper.negatives import NegativeGenerator, SelfNegatives
from cooper.pairs import PairBuilder
from cooper.types import Negative, NegativeRequest, Pairs, Rollouts, Status, Verdict
from cooper.verifiers.base import Verifier

VerdictsOf = Callable[[str], list[Verdict]]
MakeRollouts = Callable[..., Rollouts]
NOTHING = {
    "built": 0,
    "dropped_no_correct": 0,
    "dropped_no_reply": 0,
    "dropped_no_text": 0,
    "dropped_still_correct": 0,
    "dropped_undecided": 0,
}


class WordVerifier(Verifier):
    """The status is the text's first word."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def verify(
        self,
        completions: Sequence[str],
        references: Sequence[str],
        questions: Sequence[str] | None = None,
    ) -> list[Verdict]:
        self.asked += zip(completions, references, questions or (), strict=True)
        return [Verdict(Status(text.split()[0])) for text in completions]


class Script(NegativeGenerator):
    """Gives each problem the next text of its list."""

    def __init__(self, **texts: list[str | None]) -> None:
        self.texts = texts
        self.calls: list[list[str]] = []
        self.requests: list[NegativeRequest] = []

    def generate(
        self, requests: Sequence[NegativeRequest], generator: torch.Generator
    ) -> list[Negative]:
        self.calls.append([request.problem.id for request in requests])
        self.requests += requests
        return [Negative(self.texts[r.problem.id].pop(0), "script") for r in requests]


def build(
    rollouts: Rollouts,
    verdicts: list[Verdict],
    negatives: NegativeGenerator,
    scores: list[float] | None = None,
    seed: int = 0,
    verifier: Verifier | None = None,
    **settings: object,
) -> Pairs:
    builder = PairBuilder(verifier or WordVerifier(), negatives, **settings)
    given = None if scores is None else torch.tensor(scores)
    return builder.build(rollouts, verdicts, given, torch.Generator().manual_seed(seed))


def test_each_problem_is_counted_once(make_rollouts: MakeRollouts, verdicts_of: VerdictsOf) -> None:
    rollouts = make_rollouts([["a", "b"], ["c"], ["d"], ["e"], ["f"], []])
    script = Script(p0=["incorrect x"], p2=[None] * 3, p3=["correct y"] * 3, p4=["undecided z"] * 3)
    pairs = build(rollouts, verdicts_of("CIICCC"), script)
    assert pairs.counts == {
        "built": 1,
        "dropped_no_correct": 1,
        "dropped_no_reply": 0,
        "dropped_no_text": 1,
        "dropped_still_correct": 1,
        "dropped_undecided": 1,
    }
    (pair,) = pairs.pairs
    assert (pair.problem, pair.chosen, pair.rejected) == (0, "a", "incorrect x")
    assert (pair.chosen_rollout, pair.rejected_rollout, pair.provenance) == (0, None, "script")


def test_retries_ask_again_only_where_needed(
    make_rollouts: MakeRollouts, verdicts_of: VerdictsOf
) -> None:
    script = Script(p0=["incorrect"], p1=["correct", "undecided", "incorrect late"])
    pairs = build(make_rollouts([["a"], ["b"]]), verdicts_of("CC"), script, tries=3)
    assert script.calls == [["p0", "p1"], ["p1"], ["p1"]]
    assert [pair.rejected for pair in pairs.pairs] == ["incorrect", "incorrect late"]


def test_tries_are_limited_and_the_last_reason_counts(
    make_rollouts: MakeRollouts, verdicts_of: VerdictsOf
) -> None:
    script = Script(p0=["correct", None, "incorrect"])
    pairs = build(make_rollouts([["a"]]), verdicts_of("C"), script, tries=2)
    assert pairs.counts == {**NOTHING, "dropped_no_text": 1}


def test_undecided_is_never_chosen(make_rollouts: MakeRollouts, verdicts_of: VerdictsOf) -> None:
    rollouts = make_rollouts([["a", "b", "c"]])
    for choose in ("random", "first", "shortest", "lowest_scored"):
        for seed in range(5):
            script = Script(p0=["incorrect"])
            pairs = build(
                rollouts, verdicts_of("UIC"), script, [0.1, 0.1, 0.9], seed, choose=choose
            )
            assert pairs.pairs[0].chosen == "c"
    pairs = build(rollouts, verdicts_of("UIU"), Script())
    assert pairs.counts == {**NOTHING, "dropped_no_correct": 1}


def test_an_own_completion_keeps_its_verdict_and_its_index(
    make_rollouts: MakeRollouts, verdicts_of: VerdictsOf
) -> None:
    verifier = WordVerifier()
    rollouts = make_rollouts([["z"], ["a", "b", "b"]])
    pairs = build(rollouts, verdicts_of("ICII"), SelfNegatives(), verifier=verifier)
    (pair,) = pairs.pairs
    assert (pair.problem, pair.chosen_rollout, pair.rejected_rollout) == (1, 1, 2)
    assert pair.provenance == "self"
    assert verifier.asked == []
    # The group's verdict says UNDECIDED, so the text is no rejected completion.
    script = Script(p0=["b"], p1=[])
    pairs = build(make_rollouts([["a", "b"]]), verdicts_of("CU"), script, tries=1)
    assert pairs.counts == {**NOTHING, "dropped_undecided": 1}


def test_proposals_are_verified_against_the_reference(
    make_rollouts: MakeRollouts, verdicts_of: VerdictsOf
) -> None:
    verifier = WordVerifier()
    rollouts = make_rollouts([["a"], ["b"]], references=["3", "5"])
    build(rollouts, verdicts_of("IC"), Script(p1=["incorrect"]), verifier=verifier)
    assert verifier.asked == [("incorrect", "5", "question 1")]


def test_a_request_shows_the_whole_group(
    make_rollouts: MakeRollouts, verdicts_of: VerdictsOf
) -> None:
    script = Script(p1=["incorrect"])
    verdicts = verdicts_of("ICU")
    build(make_rollouts([["x"], ["a", "b"]]), verdicts, script)
    (request,) = script.requests
    assert request.problem.id == "p1"
    assert (request.chosen, list(request.group)) == ("a", ["a", "b"])
    assert list(request.verdicts) == verdicts[1:]


def chosen(rollouts: Rollouts, verdicts: list[Verdict], choose: str, seed: int = 0) -> str:
    scores = [0.9, 0.3, 0.1, 0.2]
    script = Script(p0=["incorrect"])
    return build(rollouts, verdicts, script, scores, seed, choose=choose).pairs[0].chosen


def test_choices(make_rollouts: MakeRollouts, verdicts_of: VerdictsOf) -> None:
    rollouts = make_rollouts([["i", "the longest", "long", "longer"]])
    verdicts = verdicts_of("ICCC")
    assert chosen(rollouts, verdicts, "first") == "the longest"
    assert chosen(rollouts, verdicts, "shortest") == "long"
    rollouts = make_rollouts([["a", "b", "c", "d"]])
    assert chosen(rollouts, verdicts_of("CCIC"), "lowest_scored") == "d"


def test_random_choice_covers_the_correct_ones_and_follows_the_generator(
    make_rollouts: MakeRollouts, verdicts_of: VerdictsOf
) -> None:
    rollouts = make_rollouts([["a", "b", "c", "d"]])
    drawn = [chosen(rollouts, verdicts_of("CCIC"), "random", seed) for seed in range(40)]
    assert set(drawn) == {"a", "b", "d"}
    assert drawn == [chosen(rollouts, verdicts_of("CCIC"), "random", seed) for seed in range(40)]

    rng = torch.Generator().manual_seed(1)
    builder = PairBuilder(WordVerifier(), SelfNegatives())
    many = make_rollouts([["a", "b", "c", "d"]] * 20)
    verdicts = verdicts_of("CCII" * 20)
    state = rng.get_state()
    first = builder.build(many, verdicts, None, rng)
    assert builder.build(many, verdicts, None, rng) != first
    rng.set_state(state)
    assert builder.build(many, verdicts, None, rng) == first


def test_lowest_scored_needs_scores(make_rollouts: MakeRollouts, verdicts_of: VerdictsOf) -> None:
    with pytest.raises(ValueError, match="needs reward-model scores"):
        build(make_rollouts([["a"]]), verdicts_of("C"), Script(), choose="lowest_scored")


def test_no_rollouts(make_rollouts: MakeRollouts) -> None:
    pairs = build(make_rollouts([]), [], Script())
    assert len(pairs) == 0
    assert pairs.counts == NOTHING


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"pairs\.choose=last"):
        PairBuilder(WordVerifier(), SelfNegatives(), choose="last")
    with pytest.raises(ValueError, match=r"pairs\.tries=0"):
        PairBuilder(WordVerifier(), SelfNegatives(), tries=0)


@pytest.mark.parametrize(
    ("choose", "expected"),
    [("first", ["aaa", "b"]), ("shortest", ["b", "cc"]), ("lowest_scored", ["cc", "aaa"])],
)
def test_several_pairs_of_a_problem_have_chosen_ones_of_their_own(
    make_rollouts: MakeRollouts, verdicts_of: VerdictsOf, choose: str, expected: list[str]
) -> None:
    rollouts = make_rollouts([["aaa", "b", "cc", "d"], ["e", "f"]])
    given = ([0.5, 0.9, 0.1, 0.3, 0.2, 0.4], 0)
    pairs = build(
        rollouts, verdicts_of("CCCICI"), SelfNegatives(), *given, choose=choose, per_problem=2
    )
    assert sorted(pair.chosen for pair in pairs.pairs) == sorted([*expected, "e"])
    assert {(pair.problem, pair.rejected) for pair in pairs.pairs} == {(0, "d"), (1, "f")}
    assert pairs.counts["built"] == 3


def test_random_choice_of_several_draws_without_replacement(
    make_rollouts: MakeRollouts, verdicts_of: VerdictsOf
) -> None:
    rollouts = make_rollouts([["a", "b", "c", "d"]])
    seen = set()
    for seed in range(20):
        pairs = build(rollouts, verdicts_of("CCCI"), SelfNegatives(), seed=seed, per_problem=2)
        assert len({pair.chosen for pair in pairs.pairs}) == 2
        seen |= {pair.chosen for pair in pairs.pairs}
    assert seen == {"a", "b", "c"}


def test_each_chosen_one_without_a_partner_is_counted(
    make_rollouts: MakeRollouts, verdicts_of: VerdictsOf
) -> None:
    script = Script(p0=["incorrect", None])
    pairs = build(make_rollouts([["a", "b"]]), verdicts_of("CC"), script, tries=1, per_problem=2)
    assert pairs.counts == {**NOTHING, "built": 1, "dropped_no_text": 1}


def test_generators_see_the_scores_of_the_group(
    make_rollouts: MakeRollouts, verdicts_of: VerdictsOf
) -> None:
    script = Script(p1=["incorrect"])
    build(make_rollouts([["x"], ["a", "b"]]), verdicts_of("ICI"), script, [0.5, 0.25, 0.75])
    assert list(script.requests[0].scores) == [0.25, 0.75]
