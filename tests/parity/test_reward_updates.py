"""The reward model's update: losses against plain loops, replay, average, schedule."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from modules import assert_same_gradients, module_of
from torch import Tensor, nn

from cooper.errors import DataError
from cooper.models import Policy, RewardModel
from cooper.module import CooperModule, tokenise_pairs
from cooper.objectives import RewardObjective
from cooper.reward_examples import Contrast, RewardData, RewardExamples
from cooper.rng import generator
from cooper.types import LabelledCompletion, Pair, Pairs, Rollouts, Verdict
from cooper.updates import Totals

VerdictsOf = Callable[[str], list[Verdict]]
PAIRS = (
    Contrast("q1", "3", "it is 3", "it is 4 or so"),
    Contrast("q2", "5", "five", "6"),
    Contrast("q3", "8", "so the answer is 8", "9"),
)
LABELS = (
    LabelledCompletion("q1", "3", "3", True),
    LabelledCompletion("q2", "5", "the answer is 7", False),
    LabelledCompletion("q2", "5", "5", True),
)


@pytest.fixture
def make_module(policy: Policy, reward_model: RewardModel) -> Callable[..., CooperModule]:
    return functools.partial(module_of, policy, reward_model)


def logit(model: nn.Module, tokenizer, question: str, reference: str, completion: str) -> Tensor:
    text = (
        f"<question>{question}</question>\n<reference_answer>{reference}</reference_answer>\n"
        f"<completion>{completion}</completion>"
    )
    return model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits.squeeze()


def reference_loss(model: nn.Module, tokenizer, objective: RewardObjective) -> Tensor:
    """One example at a time: Cooper's contrastive loss, a margin, centring, cross entropy."""
    total = torch.zeros(())
    for pair in PAIRS:
        right = logit(model, tokenizer, pair.question, pair.reference, pair.chosen)
        wrong = logit(model, tokenizer, pair.question, pair.reference, pair.rejected)
        loss = -torch.log(torch.sigmoid(right - wrong - objective.margin))
        loss = objective.pairwise_weight * loss + objective.centring * (right + wrong) ** 2
        total = total + loss / len(PAIRS)
    if objective.uses_labels:
        for item in LABELS:
            p = torch.sigmoid(
                logit(model, tokenizer, item.question, item.reference, item.completion)
            )
            loss = -torch.log(p) if item.label else -torch.log(1 - p)
            total = total + objective.bce_weight * loss / len(LABELS)
    return total


@pytest.mark.parametrize("micro_batch_tokens", [1, 120, 10_000])
@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"margin": 0.7},
        {"centring": 0.3, "pairwise_weight": 0.5},
        {"rollout_labels": 3, "bce_weight": 0.4},
    ],
    ids=str,
)
def test_losses_and_all_gradients(
    make_module: Callable[..., CooperModule], variant: dict[str, float], micro_batch_tokens: int
) -> None:
    objective = RewardObjective(micro_batch_tokens=micro_batch_tokens, **variant)
    module = make_module(objective)
    plain = copy.deepcopy(module.reward_model.model)
    plain.config.pad_token_id = None
    expected = reference_loss(plain, module.reward_model.tokenizer, objective)
    expected.backward()
    labelled = LABELS if objective.uses_labels else ()
    total = 0.0
    for share in module.reward_model_losses(RewardExamples(PAIRS, labelled), Totals()):
        share.backward()
        total += share.item()
    assert total == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(module.reward_model.model, plain)


def test_without_examples_the_reward_model_takes_no_step(
    make_module: Callable[..., CooperModule],
) -> None:
    module = make_module()
    assert module.update_reward_model(RewardExamples()) == {}
    assert module.updaters["reward_model"].steps == 0


def test_labels_alone_are_enough(make_module: Callable[..., CooperModule]) -> None:
    module = make_module(
        RewardObjective(pairwise_weight=0, replay_labels=2),
        {"reward_data": RewardData(RewardObjective(replay_labels=2), LABELS)},
    )
    metrics = module.update_reward_model(RewardExamples((), LABELS))
    assert metrics["reward_model/loss"] > 0
    assert "reward_model/margin" not in metrics


def test_due() -> None:
    def due(**settings: int) -> list[int]:
        return [step for step in range(1, 8) if RewardObjective(**settings).due(step)]

    assert due(every=3) == [3, 6]
    assert due(start_after=4) == [5, 6, 7]
    assert due(every=2, start_after=2) == [4, 6]
    assert RewardObjective(every=2, start_after=2).updates(7) == 2


def test_pairs_are_rendered_with_their_own_problem(
    reward_model: RewardModel, make_rollouts: Callable[..., Rollouts]
) -> None:
    rollouts = make_rollouts([["a"], ["b"]], references=["3", "5"])
    pairs = Pairs((Pair(1, "right", "wrong", 1, None, "x"),), {})
    data = RewardData(RewardObjective())
    examples = data.examples(pairs, rollouts, [], generator(0, "replay"))
    chosen, rejected = tokenise_pairs(reward_model, examples.pairs)
    decode = reward_model.tokenizer.decode
    form = "<question>question 1</question>\n<reference_answer>5</reference_answer>\n"
    assert decode(chosen[0]) == form + "<completion>right</completion>"
    assert decode(rejected[0]) == form + "<completion>wrong</completion>"


# ---------------------------------------------------------------- what is learned from


def pairs_of(*names: str) -> Pairs:
    return Pairs(tuple(Pair(0, name, f"not {name}", 0, None, "x") for name in names), {})


def test_replay_gives_earlier_pairs_and_forgets_the_oldest(
    make_rollouts: Callable[..., Rollouts],
) -> None:
    rollouts, rng = make_rollouts([["a"]]), generator(0, "replay")
    data = RewardData(RewardObjective(replay_pairs=5, replay_capacity=3))
    first = data.examples(pairs_of("a", "b"), rollouts, [], rng)
    assert [pair.chosen for pair in first.pairs] == ["a", "b"]  # nothing earlier yet
    second = data.examples(pairs_of("c", "d"), rollouts, [], rng)
    assert [pair.chosen for pair in second.pairs[:2]] == ["c", "d"]
    assert len(second.pairs) == 7
    assert {pair.chosen for pair in second.pairs[2:]} <= {"a", "b"}
    assert [pair.chosen for pair in data.memory] == ["b", "c", "d"]


def test_replay_of_size_0_is_no_replay(make_rollouts: Callable[..., Rollouts]) -> None:
    rollouts = make_rollouts([["a"]])
    rng = generator(0, "replay")
    before = rng.get_state()
    data = RewardData(RewardObjective(replay_pairs=0, replay_labels=0), LABELS)
    for names in (("a",), ("b", "c")):
        got = data.examples(pairs_of(*names), rollouts, [], rng)
        assert [pair.chosen for pair in got.pairs] == list(names)
        assert got.labelled == ()
    assert torch.equal(rng.get_state(), before)


def test_memory_survives_a_checkpoint(make_rollouts: Callable[..., Rollouts]) -> None:
    rollouts, objective = make_rollouts([["a"]]), RewardObjective(replay_pairs=4)
    data, resumed = RewardData(objective), RewardData(objective)
    data.examples(pairs_of("a", "b", "c"), rollouts, [], generator(0, "replay"))
    resumed.load_state_dict(data.state_dict())
    got = [d.examples(pairs_of("d"), rollouts, [], generator(1, "x")) for d in (data, resumed)]
    assert got[0] == got[1]


def test_labels_of_rollouts_are_the_decided_verdicts(
    make_rollouts: Callable[..., Rollouts], verdicts_of: VerdictsOf
) -> None:
    rollouts = make_rollouts([["a", "b", "c"], ["d"]], references=["3", "5"])
    everything = RewardData(RewardObjective(rollout_labels=-1))
    got = everything.examples(pairs_of(), rollouts, verdicts_of("CUII"), generator(0, "x")).labelled
    assert [(item.completion, item.reference, item.label) for item in got] == [
        ("a", "3", True), ("c", "3", False), ("d", "5", False),
    ]  # fmt: skip
    some = RewardData(RewardObjective(rollout_labels=4))
    got = some.examples(pairs_of(), rollouts, verdicts_of("CUII"), generator(0, "x")).labelled
    assert [item.label for item in got] == [False, True, False, True]
    assert not some.examples(pairs_of(), rollouts, verdicts_of("UIII"), generator(0, "x")).labelled


def test_replayed_labels_are_half_right_half_wrong(make_rollouts: Callable[..., Rollouts]) -> None:
    data = RewardData(RewardObjective(replay_labels=6), LABELS)
    got = data.examples(pairs_of(), make_rollouts([["a"]]), [], generator(0, "x")).labelled
    assert [item.label for item in got] == [False, True] * 3
    assert set(got) <= set(LABELS)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"replay_labels": 4}, "reward_objective.replay_labels=4: there are 0 right and 0 wrong"),
        ({"accuracy_floor": 0.8}, "reward_objective.accuracy_floor=0.8: there are no held-out"),
    ],
)
def test_what_is_not_there_is_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(DataError, match=said):
        RewardData(RewardObjective(**settings))


# ---------------------------------------------------------------- average, schedule


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_average_of_the_weights(make_module: Callable[..., CooperModule]) -> None:
    module = make_module(RewardObjective(ema_decay=0.75))
    start = expected = weights(module.reward_model)
    for _ in range(2):
        module.update_reward_model(RewardExamples(PAIRS))
        now = weights(module.reward_model)
        expected = [0.75 * old + 0.25 * new for old, new in zip(expected, now, strict=True)]
    got = weights(module.scoring_model)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert any(not torch.equal(one, other) for one, other in zip(got, start, strict=True))
    assert not any(p.requires_grad for p in module.scoring_model.parameters())


def test_decay_0_is_no_average(make_module: Callable[..., CooperModule]) -> None:
    module = make_module(RewardObjective(ema_decay=0.0))
    assert module.scoring_model is module.reward_model
    # The average itself with decay 0 is the weights.
    from cooper.models.average import averaged

    average = averaged(module.reward_model, 0.0)
    with torch.no_grad():
        for parameter in module.reward_model.parameters():
            parameter.add_(1.0)
    average.update_parameters(module.reward_model)
    for one, other in zip(weights(average.module), weights(module.reward_model), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("floor", "steps"), [(0.0, 2), (0.01, 2), (0.999, 5)])
def test_inner_steps_go_on_until_the_held_out_accuracy_is_there(
    make_module: Callable[..., CooperModule], floor: float, steps: int
) -> None:
    objective = RewardObjective(inner_steps=2, accuracy_floor=floor, max_inner_steps=5)
    # One label is turned round, so that the highest floor is never reached.
    heldout = (*LABELS, LabelledCompletion("q1", "3", "3", False))
    module = make_module(objective, {"reward_data": RewardData(objective, LABELS, heldout)})
    metrics = module.update_reward_model(RewardExamples(PAIRS))
    assert module.updaters["reward_model"].steps == steps
    assert ("reward_model/heldout_accuracy" in metrics) is (floor > 0)
