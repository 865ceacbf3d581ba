"""The parts of the reward model's own training, by hand values and equivalences."""

from __future__ import annotations

import copy
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from cooper.errors import DataError
from cooper.models import Policy, RewardModel
from cooper.models.adapters import FullAdapter, LoraAdapter
from cooper.models.reward_heads import ImplicitHead, ProcessHead
from cooper.models.reward_model import RECORD
from cooper.optim import OptimizerSettings
from cooper.progress import set_quiet
from cooper.reward_training import RewardModule, RewardTraining, _Batches
from cooper.scoring import SpreadScorer
from cooper.types import LabelledCompletion
from cooper.verifiers import ExactVerifier, NumericVerifier

CPU = {"accelerator": "cpu", "devices": 1, "precision": "32-true"}
ITEMS = [
    LabelledCompletion(f"q{k % 8}", str(k % 5), f"so {k} " + "and on " * (k % 4), k % 3 == 0)
    for k in range(40)
]


def training(**settings: Any) -> RewardTraining:
    given = {"batch_size": 8, "steps": 4, "swapped_share": 0.0, **settings}
    return RewardTraining(optimizer=given.pop("optimizer", OptimizerSettings(lr=1e-2)), **given)


@pytest.fixture(autouse=True)
def quiet():
    set_quiet(True)
    yield
    set_quiet(False)


# ---------------------------------------------------------------- data


def test_no_question_stands_on_both_sides() -> None:
    for seed in range(5):
        kept, apart = training(heldout=6).split(ITEMS, seed)
        assert not {i.question for i in kept} & {i.question for i in apart}
        assert sorted([*kept, *apart], key=str) == sorted(ITEMS, key=str)
        assert len(apart) == 5  # a question's completions; two questions' are over a fifth
    assert training(heldout=6).split(ITEMS, 0) == training(heldout=6).split(ITEMS, 0)
    many = [LabelledCompletion("same", "1", str(k), k % 2 == 0) for k in range(90)]
    kept, apart = training(heldout=6).split([*many, *ITEMS], 0)
    assert not any(item.question == "same" for item in apart)


def test_split_by_row() -> None:
    kept, apart = training(heldout=6, heldout_by="row").split(ITEMS, 0)
    assert (len(kept), len(apart)) == (34, 6)


def test_a_balanced_batch_is_half_right() -> None:
    batch = _Batches(ITEMS, None, None, training(), 0)(3)
    assert [item.label for item in batch] == [True] * 4 + [False] * 4


def test_passes_take_every_completion_once() -> None:
    batches = _Batches(ITEMS, None, None, training(balanced=False), 0)
    for number in range(2):
        seen = Counter(i for step in range(5) for i in batches(5 * number + step))
        assert seen == Counter(ITEMS)
    assert [batches(1), batches(1)] == [batches(1)] * 2  # of the step alone
    assert training(balanced=False, steps=0, epochs=3).num_steps(40) == 15
    assert training(balanced=False, steps=0, epochs=0.1).num_steps(41) == 1


class Everything(NumericVerifier):
    """Calls any number correct beside 4, and cannot read 3."""

    def verify(self, completions, references, questions=None):
        read = ExactVerifier().verify(["\\boxed{4}"] * len(references), references)
        undecided = ExactVerifier().verify(["\\boxed{}"] * len(references), [""] * len(references))
        return [u if r == "3" else v for v, u, r in zip(read, undecided, references, strict=True)]


def test_only_decisively_wrong_swaps_are_used() -> None:
    settings = training(batch_size=16, swapped_share=0.5)
    wrong = [
        item
        for step in range(20)
        for item in _Batches(ITEMS, Everything(), None, settings, 0)(step)[8:]
    ]
    assert wrong
    assert not any(item.label for item in wrong)
    assert {item.reference for item in wrong} == {"0", "1", "2"}  # 4 is right, 3 undecided
    originals = {(i.question, i.completion): i.reference for i in ITEMS if i.label}
    assert all(originals[i.question, i.completion] != i.reference for i in wrong)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"steps": 0}, "give steps or epochs"),
        ({"patience": 2}, "evaluate_every"),
        ({"swapped_share": 0.6}, "at most 0.5"),
        ({"label_smoothing": 0.7}, "at most 0.5"),
        ({"heldout_by": "page"}, "question, row"),
        ({"batch_size": 1}, "at least 2"),
    ],
)
def test_settings(settings: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        training(**settings)


# ---------------------------------------------------------------- the loss


def loss_of(model: RewardModel, items: list[LabelledCompletion], **settings: Any) -> float:
    module = RewardModule(model, training(**settings), 1)
    return sum(float(part.detach()) for part in module.losses(items))


def plain_loss(logits: torch.Tensor, targets: list[float]) -> float:
    return sum(
        -y * math.log(1 / (1 + math.exp(-x))) - (1 - y) * math.log(1 / (1 + math.exp(x)))
        for x, y in zip(logits.tolist(), targets, strict=True)
    ) / len(targets)


def test_label_smoothing(reward_model: RewardModel) -> None:
    items = ITEMS[:5]
    logits = reward_model.score(
        [i.question for i in items], [i.reference for i in items], [i.completion for i in items]
    )
    for smoothing, right, wrong in ((0.0, 1.0, 0.0), (0.2, 0.9, 0.1)):
        expected = plain_loss(logits, [right if i.label else wrong for i in items])
        got = loss_of(reward_model, items, label_smoothing=smoothing)
        assert got == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("tokens", [1, 60, 100_000])
def test_the_parts_of_a_batch_add_up_to_it(reward_model: RewardModel, tokens: int) -> None:
    def gradients(size: int) -> list[torch.Tensor]:
        model = copy.deepcopy(reward_model)
        parts = list(RewardModule(model, training(micro_batch_tokens=size), 1).losses(ITEMS[:9]))
        assert (len(parts) > 1) == (0 < size < 1000)
        sum(parts).backward()
        return [p.grad for p in model.parameters()]

    for got, expected in zip(gradients(tokens), gradients(0), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


STEPS = [
    LabelledCompletion("q", "7", "3 + 4 = 8\n\nso 8", False, step_labels=(False, True)),
    LabelledCompletion("q", "7", "so 7", True, step_labels=(True,)),
]


def process(reward_model: RewardModel) -> RewardModel:
    model = copy.deepcopy(reward_model.model)
    setattr(model.config, RECORD, None)
    return RewardModel(model, reward_model.tokenizer, head=ProcessHead())


def test_step_labels_are_those_of_the_steps(reward_model: RewardModel) -> None:
    model = process(reward_model)
    parts = model.token_scores(["q", "q"], ["7", "7"], [item.completion for item in STEPS])
    expected = plain_loss(torch.cat(parts), [0.0, 1.0, 1.0])
    for tokens in (0, 1):
        assert loss_of(model, STEPS, micro_batch_tokens=tokens) == pytest.approx(expected, abs=1e-5)


def test_what_a_process_head_needs(reward_model: RewardModel) -> None:
    model = process(reward_model)
    with pytest.raises(DataError, match="needs step labels"):
        training().check(model, ITEMS, [])
    with pytest.raises(DataError, match=r"swapped_share=0\.25"):
        training(swapped_share=0.25).check(model, STEPS, [])
    with pytest.raises(DataError, match="1 right and 0 wrong"):
        training().check(model, STEPS[1:], [])
    with pytest.raises(DataError, match="0 right and 1 wrong completions are held out"):
        training(evaluate_every=1).check(model, STEPS, STEPS[:1])


# ---------------------------------------------------------------- whole trainings


def trained(model: RewardModel, folder: Path, adapter: Any = None, **settings: Any) -> Any:
    rows: list[tuple[int, dict]] = []
    folder.mkdir(parents=True)
    measured = training(**settings).run(
        folder, labelled=ITEMS, reward_model=model, rule=None, judge=None, seed=3, trainer=CPU,
        adapter=adapter, log=lambda step, metrics: rows.append((step, dict(metrics))),
    )  # fmt: skip
    return rows, measured


def test_a_seed_gives_its_curve_to_the_bit(reward_model: RewardModel, tmp_path: Path) -> None:
    curves = []
    for name in "ab":
        torch.manual_seed(len(name) + len(curves))  # nothing draws from the global generator
        curves.append(trained(copy.deepcopy(reward_model), tmp_path / name, evaluate_every=2))
    assert curves[0] == curves[1]
    rows, measured = curves[0]
    assert [step for step, _ in rows] == [1, 2, 3, 4]
    assert {"reward_model/heldout_auroc", "reward_model/loss"} <= rows[1][1].keys()
    assert "reward_model/heldout_auroc" not in rows[0][1]
    assert {"accuracy", "auroc", "steps"} <= measured.keys()


def test_early_stopping_keeps_the_best_weights(
    reward_model: RewardModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AUROCs .6 .8 .7 .8 and patience 2 it ends at step 4 with the weights of step 2."""
    after: list[torch.Tensor] = []
    aurocs = iter([0.6, 0.8, 0.7, 0.8, 0.9, 0.9])

    def measured(asked: Any, items: Any) -> dict[str, float]:
        scorer = asked.model if isinstance(asked, SpreadScorer) else asked
        after.append(scorer.model.score.weight.detach().clone())
        return {"accuracy": 0.5, "auroc": next(aurocs), "examples": 1.0}

    monkeypatch.setattr("cooper.reward_training.quality", measured)
    model = copy.deepcopy(reward_model)
    rows, figures = trained(model, tmp_path / "a", steps=9, evaluate_every=1, patience=2)
    assert len(rows) == 4
    assert (figures["steps"], figures["kept_step"]) == (4, 2)
    assert torch.equal(model.model.score.weight, after[1])
    assert not torch.equal(after[1], after[3])
    assert torch.equal(RewardModel.from_pretrained(tmp_path / "a").model.score.weight, after[1])


def test_lora_starts_at_the_base_and_is_exported_merged(
    reward_model: RewardModel, policy: Policy, tmp_path: Path
) -> None:
    triples = (["q"] * 2, ["7"] * 2, ["so 7", "no, 9"])
    model = copy.deepcopy(reward_model)
    base = {n: p.clone() for n, p in model.model.state_dict().items()}
    model.adapt(LoraAdapter(rank=2), 0)
    assert torch.equal(model.score(*triples), reward_model.score(*triples))
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert names
    assert all("lora_" in n or ".score." in n for n in names)
    assert any(".score." in n for n in names)
    model.merge()
    assert not any("lora_" in n for n, _ in model.named_parameters())
    model = copy.deepcopy(reward_model)
    trained(model, tmp_path / "lora", LoraAdapter(rank=2))
    again = RewardModel.from_pretrained(tmp_path / "lora")
    assert type(again.model).__name__ == "Qwen2ForSequenceClassification"
    torch.testing.assert_close(again.score(*triples), model.score(*triples), rtol=0, atol=1e-6)
    state = again.model.state_dict()
    assert state.keys() == base.keys()
    changed = {n for n in base if not torch.equal(state[n], base[n])}
    assert "score.weight" in changed
    assert any("q_proj" in n for n in changed)
    assert not any("embed" in n or "norm" in n for n in changed)
    causal = copy.deepcopy(policy.model)
    before = causal(torch.tensor([[5, 6, 7]])).logits
    LoraAdapter(rank=2).attach(causal, 0)
    assert torch.equal(causal(torch.tensor([[5, 6, 7]])).logits, before)


def test_lora_on_layers_that_are_not_there(reward_model: RewardModel) -> None:
    from cooper.errors import ModelError

    with pytest.raises(ModelError, match=r"adapter\.target_modules=\['nose'\]"):
        LoraAdapter(target_modules=["nose"]).attach(copy.deepcopy(reward_model.model), 0)


def test_an_implicit_model_learns_outcomes(policy: Policy, tmp_path: Path) -> None:
    """Its first loss is log 2, being its own reference; then it falls, and the reference stays."""
    model = copy.deepcopy(policy.model)
    head = ImplicitHead(reference="start")
    head.attach(copy.deepcopy(policy.model))
    reward_model = RewardModel(model, policy.tokenizer, head=head)
    rows, _ = trained(reward_model, tmp_path / "a", FullAdapter(), steps=12)
    losses = [metrics["reward_model/loss"] for _, metrics in rows]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] < losses[0]
    for got, start in zip(head.frozen.parameters(), policy.model.parameters(), strict=True):
        assert torch.equal(got, start)
