"""Each head against a plain loop over single rows, and its independence of padding and batch."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from modules import assert_same_gradients, gradients, module_of
from reward_heads_built import built
from torch import Tensor

from cooper.errors import ModelError
from cooper.models import Policy, RewardModel
from cooper.models.packing import can_pack
from cooper.models.reward_heads import ImplicitHead, Row
from cooper.reward_examples import Contrast, RewardExamples
from cooper.updates import Totals

HEADS = ["scalar", "mean_pool", "process", "implicit"]
COMPLETIONS = (
    "So 7.",
    "Tom has 12 apples.\n\n12 + 5 = 17\n \n\nSo the answer is \\boxed{17}.",
    "",
    "7\n\n",
)
QUESTIONS, REFERENCES = ["What is 3 + 4?"] * 4, ["7", "17", "9", "0"]
HEAD, TAIL = "<completion>", "</completion>"

Make = Callable[[str], RewardModel]


@pytest.fixture(scope="module")
def make(reward_model: RewardModel, policy: Policy) -> Make:
    return functools.partial(built, classifier=reward_model, policy=policy)


def text_of(row: int) -> tuple[str, str]:
    """What stands before the completion, and the whole."""
    before = (
        f"<question>{QUESTIONS[row]}</question>\n<reference_answer>{REFERENCES[row]}"
        f"</reference_answer>\n{HEAD}"
    )
    return before, before + COMPLETIONS[row] + TAIL


def reference_units(model: RewardModel, row: int) -> Tensor:
    """The head's definition on one row, from transformers' own outputs.

    The tags are special tokens, so the texts before, in and behind them are tokenised apart.
    """
    before, whole = text_of(row)

    def ids(text: str) -> list[int]:
        return model.tokenizer(text, add_special_tokens=False)["input_ids"]

    tokens = torch.tensor([ids(whole)])
    start, stop = len(ids(before)), len(ids(whole)) - 1
    name = model.head.name
    if name == "implicit":

        def logps(lm) -> Tensor:
            every = lm(input_ids=tokens).logits[0].log_softmax(-1)
            return torch.stack([every[t - 1, tokens[0, t]] for t in range(start, stop + 1)])

        return (0.5 * (logps(model.model) - logps(model.head.frozen).detach())).sum()[None]
    hidden = model.model.model(input_ids=tokens).last_hidden_state[0]
    if name == "scalar":
        return model.model.score(hidden[-1])
    if name == "mean_pool":
        inside = hidden[start:stop] if stop > start else hidden[stop:]
        return model.model.score(inside.mean(0))
    ends = [stop]  # of an empty completion
    if COMPLETIONS[row]:
        ends = []
        for at, _ in enumerate(COMPLETIONS[row]):
            before_it, behind = COMPLETIONS[row][: at + 1], COMPLETIONS[row][at + 1 :]
            last = not behind.strip()
            parted = behind[: len(behind) - len(behind.lstrip())].count("\n") >= 2
            if before_it.strip() and not before_it[-1].isspace() and (last or parted):
                # No blank line is merged with a word in this tokenizer's small vocabulary.
                ends.append(start + len(ids(before_it)) - 1)
    return torch.cat([model.model.score(hidden[end]) for end in ends])


def reference(model: RewardModel, row: int) -> Tensor:
    units = reference_units(model, row)
    return units.min() if model.head.name == "process" else units.squeeze()


@pytest.mark.parametrize("name", HEADS)
def test_logits_and_gradients_are_those_of_single_rows(make: Make, name: str) -> None:
    model, plain = make(name), make(name)
    rows = model.tokenise(QUESTIONS, REFERENCES, COMPLETIONS)
    logits = model(rows)
    expected = torch.stack([reference(plain, row) for row in range(4)])
    assert logits.shape == (4,)
    assert logits.dtype is torch.float32
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert len({round(x, 4) for x in expected.tolist()}) == 4
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    (logits * weights).sum().backward()
    (expected * weights).sum().backward()
    left, right = gradients(model.model), gradients(plain.model)
    assert left.keys() == right.keys()
    for key in left:
        torch.testing.assert_close(left[key], right[key], rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("batch_tokens", [1, 90, 100_000])
def test_batch_and_padding_change_nothing(make: Make, name: str, batch_tokens: int) -> None:
    model = make(name)
    alone = torch.cat([model.score(q, r, c) for q, r, c in singles()])
    model.batch_tokens = batch_tokens
    together = model.score(QUESTIONS, REFERENCES, COMPLETIONS)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    backwards = model.score(QUESTIONS[::-1], REFERENCES[::-1], COMPLETIONS[::-1])
    torch.testing.assert_close(backwards.flip(0), alone, rtol=0, atol=1e-5)
    assert not together.requires_grad
    assert torch.equal(model.probabilities(QUESTIONS, REFERENCES, COMPLETIONS), together.sigmoid())


# Alike, one the start of another, of one token, of nothing in common.
ODD = [[5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 7], [9], [9, 4], [12, 13, 14, 15, 16, 17], [5, 6, 3]]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_packed_is_padded(make: Make, name: str, checkpointing: bool) -> None:
    rows = [Row(row, (len(row) // 2, len(row)), [len(row) // 2, len(row) - 1]) for row in ODD]
    models = [make(name), make(name)]
    for model, how in zip(models, ["sdpa", "eager"], strict=True):
        model.model.set_attn_implementation(how)
        if checkpointing:
            model.weights.checkpoint_gradients()
            model.train()
    if isinstance(models[0].head, ImplicitHead):  # it has an attention of its own
        models[0].head.frozen.set_attn_implementation("eager")
    packed, padded = (model(rows) for model in models)
    assert [can_pack(model.model) for model in models] == [True, False]
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-5)
    weights = torch.randn(len(ODD), generator=torch.Generator().manual_seed(2))
    for logits in (packed, padded):
        (logits * weights).sum().backward()
    assert_same_gradients(models[0].model, models[1].model)


def singles() -> list[tuple[list[str], list[str], list[str]]]:
    return [([q], [r], [c]) for q, r, c in zip(QUESTIONS, REFERENCES, COMPLETIONS, strict=True)]


@pytest.mark.parametrize("name", ["process", "implicit"])
def test_scores_of_parts(make: Make, name: str) -> None:
    model = make(name)
    parts = model.token_scores(QUESTIONS, REFERENCES, COMPLETIONS)
    logits = model.score(QUESTIONS, REFERENCES, COMPLETIONS)
    pooled = [part.min() if name == "process" else part.sum() for part in parts]
    torch.testing.assert_close(torch.stack(pooled), logits, rtol=0, atol=1e-5)
    if name == "process":
        assert [len(part) for part in parts] == [1, 3, 1, 1]
        with torch.no_grad():
            torch.testing.assert_close(parts[1], reference_units(model, 1), rtol=0, atol=1e-5)


def test_a_model_that_is_its_own_reference_scores_zero(make: Make, policy: Policy) -> None:
    model = make("implicit")
    model.model.load_state_dict(policy.model.state_dict())
    assert torch.equal(model.score(QUESTIONS, REFERENCES, COMPLETIONS), torch.zeros(4))


def test_a_scalar_head_has_no_parts(make: Make) -> None:
    with pytest.raises(ModelError, match="scalar head scores whole completions"):
        make("scalar").token_scores(["q"], ["r"], ["c"])


@pytest.mark.parametrize("name", HEADS)
def test_the_pair_loss_of_rl_trains_every_head(make: Make, policy: Policy, name: str) -> None:
    """Through the module that RL uses; the gradient is that of the two logits."""
    reward_model = make(name)
    module = module_of(policy, reward_model)
    pair = Contrast("q", "7", "3 + 4 = 7\n\nSo 7", "8")
    for share in module.reward_model_losses(RewardExamples((pair,)), Totals()):
        share.backward()
    rows = reward_model.tokenise(["q", "q"], ["7", "7"], ["3 + 4 = 7\n\nSo 7", "8"])
    right, wrong = reward_model(rows)
    (-torch.log(torch.sigmoid(right - wrong))).backward()
    assert_same_gradients(module.reward_model.model, reward_model.model)
    if name == "implicit":
        assert not gradients(module.reward_model.head)
