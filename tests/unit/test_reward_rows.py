"""From texts to rows: what is cut, and where completion and steps stand afterwards."""

from __future__ import annotations

import copy

import pytest

from cooper.errors import ModelError
from cooper.models import RewardModel, RewardTemplate
from cooper.models.reward_heads import ProcessHead, RewardHead, ScalarHead
from cooper.models.reward_model import RECORD
from cooper.steps import split_steps

TEXT = "Q {question} R {reference} C {completion} E"


def model_of(reward_model: RewardModel, head: RewardHead, **template: object) -> RewardModel:
    model = copy.deepcopy(reward_model.model)
    setattr(model.config, RECORD, None)
    form = RewardTemplate(**{"text": TEXT, "max_characters": 0, **template})
    return RewardModel(model, reward_model.tokenizer, form, head=head)


@pytest.mark.parametrize(
    ("completion", "steps"),
    [
        ("one", ["one"]),
        ("one\ntwo", ["one\ntwo"]),
        ("one\n\ntwo", ["one", "two"]),
        ("\n\n one \n \t\n\n  two three\n\n", ["one", "two three"]),
        ("", [""]),
        ("\n\n", ["\n\n"]),
    ],
)
def test_steps(completion: str, steps: list[str]) -> None:
    assert [completion[a:b] for a, b in split_steps(completion)] == steps


def test_tokens_cut_from_the_middle_of_each_field(reward_model: RewardModel) -> None:
    """1 2 ... are a token each with the space before them, as is each of the template's letters."""
    whole = model_of(reward_model, ScalarHead())
    digits = " ".join("1234567890" * 4)
    fixed = len(whole.tokenise([""], [""], [""])[0])
    every = whole.tokenise([digits], ["7"], [digits])[0]
    limit = fixed + 24
    model = model_of(reward_model, ScalarHead(), max_tokens=limit, head_share=0.5)
    row = model.tokenise([digits], ["7"], [digits])[0]
    assert len(every) > limit == len(row)
    text = model.tokenizer.decode(row)
    assert text.startswith("Q 1 ")
    assert text.endswith(" E")
    question, rest = text.removeprefix("Q ").split(" R ")
    reference, completion = rest.removesuffix(" E").split(" C ")
    assert reference == "7"
    tokens = {
        name: model.tokenizer(part)["input_ids"]
        for name, part in (("q", question), ("c", completion))
    }
    assert len(tokens["q"]) <= 24 // 4 + 1
    assert len(tokens["c"]) >= 24 // 2
    for part in (question, completion):
        assert part.startswith("1 2")
        assert part.endswith("9 0")


def test_a_short_row_is_whole_under_a_token_limit(reward_model: RewardModel) -> None:
    limited = model_of(reward_model, ScalarHead(), max_tokens=60)
    whole = model_of(reward_model, ScalarHead())
    texts = (["What is 3 + 4?"], ["7"], ["So 7."])
    assert list(limited.tokenise(*texts)[0]) == list(whole.tokenise(*texts)[0])


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ((40, 40, 40), (5, 5, 10)),  # a quarter each, the rest
        ((40, 2, 40), (5, 2, 13)),
        ((40, 40, 4), (11, 5, 4)),  # what the completion leaves goes to the question first
        ((2, 2, 4), (2, 2, 4)),
    ],
)
def test_who_gets_how_many_tokens(lengths: tuple[int, ...], kept: tuple[int, ...]) -> None:
    fields, at = [], 1
    for name, length in zip(("question", "reference", "completion"), lengths, strict=True):
        fields.append((name, at, at + length))
        at += length + 1
    own = 4
    spared = RewardTemplate(max_tokens=20 + own, head_share=0.25).spared(fields, at)
    for (_, start, stop), length, keep in zip(fields, lengths, kept, strict=True):
        inside = [index for index in spared if start <= index < stop]
        assert len(inside) == keep
        head = round(keep * 0.25) if keep < length else keep
        assert inside[:head] == list(range(start, start + head))
        assert inside[head:] == list(range(stop - keep + head, stop))
    assert {0, at - 1} <= set(spared)


def test_a_limit_below_the_templates_own_length(reward_model: RewardModel) -> None:
    with pytest.raises(ModelError, match=r"max_tokens=5: .*own text has \d+ tokens; give at least"):
        model_of(reward_model, ScalarHead(), max_tokens=5)


def test_steps_that_were_cut_away_are_not_read(reward_model: RewardModel) -> None:
    completion = "\n\n".join(f"step {index} is {index}" for index in range(10))
    for cut in (
        {"max_characters": 60, "head_characters": 20, "tail_characters": 40},
        {"max_tokens": 60},
    ):
        model = model_of(reward_model, ProcessHead(), **cut)
        row = model.tokenise(["q"], ["r"], [completion])[0]
        assert 0 < len(row.steps) == len(row.ends) < 10
        assert row.steps[0] == 0
        assert row.steps[-1] == 9
        for step, end in zip(row.steps, row.ends, strict=True):
            assert model.tokenizer.decode(row[: end + 1]).endswith(f" {step}")
        first, behind = row.completion
        inside = model.tokenizer.decode(row[first:behind])
        assert inside.strip().startswith("step 0")
        assert inside.strip().endswith("is 9")


def test_a_template_without_a_completion_fits_no_head_that_reads_it(
    reward_model: RewardModel,
) -> None:
    with pytest.raises(ModelError, match="process head reads the completion"):
        model_of(reward_model, ProcessHead(), text="{question}")
