"""The warm start's documents, and the control token that only some runs need."""

from __future__ import annotations

import functools
import random

import pytest

from cooper import warm_start as stage
from cooper.data.arithmetic import (
    ArithmeticOracle,
    ArithmeticProblems,
    corpus,
    demonstration,
    wrong_demonstration,
)
from cooper.models.tiny import TinyModel, train_tokenizer
from cooper.optim import OptimizerSettings
from cooper.warm_start import WarmStart

PROBLEMS = ArithmeticProblems(500, seed=0)


def test_wrong_demonstrations_are_wrong_and_look_like_the_others():
    rng, oracle = random.Random(0), ArithmeticOracle()
    problems = [p for p in ArithmeticProblems(2000, 0) if p.meta["group"] == "visible"]
    texts = [wrong_demonstration(p, rng) for p in problems]
    verdicts = oracle.verify(texts, [p.reference for p in problems])
    assert all(verdict.incorrect and verdict.answer for verdict in verdicts)
    for problem, text in zip(problems, texts, strict=True):
        working = demonstration(problem, random.Random(0), clean=True).split("\\boxed")[0]
        assert [len(part) > 0 for part in text.split("\\boxed")] == [bool(working), True]
        assert "-" not in text.split("\\boxed")[1]  # never below zero
        # One mistake: what follows from it is right. Either the first step is, or the second.
        if working:
            steps = [step.split("=") for step in text.split(".")[0].split(", ")]
            assert any(eval(left) == int(right) for left, right in steps)


def test_the_control_token_stands_behind_all_others():
    plain, control = train_tokenizer(corpus()), train_tokenizer(corpus(), ("<wrong>",))
    assert control.get_vocab() == {**plain.get_vocab(), "<wrong>": len(plain)}
    assert control("<wrong> Ann")["input_ids"] == [len(plain), *plain(" Ann")["input_ids"]]
    assert control.decode([len(plain), *plain("7")["input_ids"]], skip_special_tokens=True) == "7"


def warm(**settings) -> WarmStart:
    return WarmStart(
        model=TinyModel(hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=1, mlp_size=8),
        problems=PROBLEMS,
        corpus=corpus,
        demonstrate=demonstration,
        steps=1,
        batch_size=10,
        template_share=0.3,
        optimizer=OptimizerSettings(lr=1e-3),
        demonstrate_wrong=wrong_demonstration,
        **settings,
    )


def documents(monkeypatch, tmp_path, **settings) -> tuple[list[tuple[str, str]], int]:
    """(prompt, completion) of the first step, and the size of the vocabulary."""
    seen = {}

    def fit(module, make_batch, title, trainer):
        seen["batch"], seen["size"] = make_batch(0), module.model.config.vocab_size

    monkeypatch.setattr(stage, "fit", fit)
    warm(**settings).run(tmp_path, 0, {})
    control = (settings["wrong_token"],) if settings.get("wrong_token") else ("<wrong>",)
    decode = functools.partial(train_tokenizer([*corpus(), TEMPLATE], control).decode)
    return [(decode(p), decode(c)) for p, c in seen["batch"]], seen["size"]


TEMPLATE = stage.RewardTemplate().render("", "", "")


def test_wrong_documents_come_on_top(monkeypatch, tmp_path):
    plain, size = documents(monkeypatch, tmp_path)
    assert len(plain) == 10
    more, other_size = documents(monkeypatch, tmp_path, wrong_share=1.0, wrong_token="<err>")
    assert other_size == size + 1
    assert more[:10] == plain
    assert len(more) == 20
    references = {problem.question: problem.reference for problem in PROBLEMS}
    for prompt, completion in more[10:]:
        assert prompt.startswith("<err> ")
        assert prompt.endswith(".\n")
        assert completion.endswith("}<eos>")
        reference = references[prompt[len("<err> ") : -1]]
        assert ArithmeticOracle().verify([completion], [reference])[0].incorrect
    assert not any("<err>" in prompt for prompt, _ in plain)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"wrong_share": -0.1}, r"warm_start\.wrong_share=-0\.1: must be at least 0"),
        ({"wrong_share": 0.1, "wrong_token": " <w>"}, r"warm_start\.wrong_token=' <w>'"),
        ({"wrong_share": 0.1, "wrong_token": ""}, r"warm_start\.wrong_token=''"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ValueError, match=said):
        warm(**settings)
