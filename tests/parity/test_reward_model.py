"""The reward model against transformers' own Qwen2ForSequenceClassification."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import Qwen2ForSequenceClassification

from cooper.models import RewardModel, load_reward_model

ROWS = [[20, 21, 22], [30], [40, 41, 42, 43, 44, 45, 46], [50, 51]]


@pytest.fixture(scope="module")
def plain(reward_folder: Path) -> Qwen2ForSequenceClassification:
    return Qwen2ForSequenceClassification.from_pretrained(reward_folder).eval()


@torch.no_grad()
def each_alone(plain: Qwen2ForSequenceClassification, rows: list[list[int]]) -> torch.Tensor:
    """One unpadded row at a time; transformers takes the last token that is not padding."""
    plain.config.pad_token_id = None
    return torch.cat([plain(input_ids=torch.tensor([row])).logits[0] for row in rows])


def test_logits_equal_transformers(
    reward_model: RewardModel, plain: Qwen2ForSequenceClassification
) -> None:
    expected = each_alone(plain, ROWS)
    assert len(set(expected.tolist())) == len(ROWS)
    torch.testing.assert_close(reward_model(ROWS), expected, rtol=0, atol=1e-5)


@pytest.fixture
def padded(reward_folder: Path, reward_model: RewardModel) -> RewardModel:
    """Attention that cannot be replaced."""
    model = load_reward_model(str(reward_folder), attn_implementation="eager")
    return RewardModel(model, reward_model.tokenizer).eval()


def test_what_rows_begin_with_is_computed_once(reward_model: RewardModel) -> None:
    seen: list[int] = []
    model = copy.deepcopy(reward_model)
    model.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, ids: seen.append(ids[0].numel())
    )
    rows = [[1, 2, 3, 4], [7, 8, 9], [1, 2, 3, 5, 6], [7, 8, 9], [1, 2, 3]]
    with torch.no_grad():
        model(rows)
    assert seen == [3 + 1 + 2 + 3]


def test_padding_changes_nothing(reward_model: RewardModel) -> None:
    together = reward_model(ROWS)
    for row, logit in zip(ROWS, together, strict=True):
        torch.testing.assert_close(reward_model([row])[0], logit, rtol=0, atol=1e-5)


def test_rows_that_end_with_the_padding_token(
    reward_model: RewardModel, plain: Qwen2ForSequenceClassification
) -> None:
    """Where padding and end of sequence share an id, the text's own end must still count."""
    model = RewardModel(reward_model.model, copy.deepcopy(reward_model.tokenizer))
    model.tokenizer.pad_token = model.tokenizer.eos_token
    end = model.tokenizer.eos_token_id
    rows = [[*row, end] for row in ROWS] + [[20, 21, 22, end, end]]
    torch.testing.assert_close(model(rows), each_alone(plain, rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 120, 100_000])
def test_score_keeps_the_order_however_it_is_cut(
    reward_model: RewardModel, plain: Qwen2ForSequenceClassification, batch_tokens: int
) -> None:
    model = RewardModel(reward_model.model, reward_model.tokenizer, batch_tokens=batch_tokens)
    completions = ["So \\boxed{7}.", "7", "Tom has 12 apples and 5 pens. So 7.", ""]
    texts = [
        f"<question>What?</question>\n<reference_answer>7</reference_answer>\n"
        f"<completion>{completion}</completion>"
        for completion in completions
    ]
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    got = model.score(["What?"] * 4, ["7"] * 4, completions)
    assert not got.requires_grad
    torch.testing.assert_close(got, each_alone(plain, ids), rtol=0, atol=1e-5)


def test_padded_batches_hold_every_row_once_within_the_limit(padded: RewardModel) -> None:
    batches = padded.batches(ROWS, 8)
    assert sorted(i for batch in batches for i in batch) == [0, 1, 2, 3]
    for batch in batches:
        assert len(batch) * max(len(ROWS[i]) for i in batch) <= 8
    assert padded.batches([[1] * 20], 8) == [[0]]  # longer than the limit: alone
    # A pair is two rows of the longer one's length.
    assert padded.pair_batches([([1, 2], [3]), ([4], [5]), ([1] * 3, [1] * 3)], 8) == [[2], [0, 1]]


def test_packed_batches_count_what_rows_begin_with_once(reward_model: RewardModel) -> None:
    rows = [[1, 2, 3, 4], [7, 8, 9], [1, 2, 3, 5, 6], [7, 8, 9]]  # 3 + 1 + 2, and 3
    assert reward_model.batches(rows, 9) == [[0, 2, 1, 3]]
    assert reward_model.batches(rows, 8) == [[0, 2], [1, 3]]
    assert reward_model.batches(rows, 5) == [[0], [2], [1, 3]]
    assert reward_model.batches([], 5) == []


def test_a_pair_stays_whole_and_counts_its_start_once(reward_model: RewardModel) -> None:
    pairs = [([1, 2, 3], [1, 2, 4]), ([5], [6]), ([1, 2, 3, 4], [1, 2, 3, 5, 6])]  # 4, 2 and 6
    assert reward_model.pair_batches(pairs, 12) == [[2, 0, 1]]
    assert reward_model.pair_batches(pairs, 10) == [[2, 0], [1]]
    assert reward_model.pair_batches(pairs, 1) == [[2], [0], [1]]
    assert reward_model.pair_batches([], 1) == []


def test_score_puts_the_training_mode_back(reward_model: RewardModel) -> None:
    for training in (True, False):
        reward_model.model.train(training)
        reward_model.score(["q"], ["7"], ["7"])
        assert reward_model.model.training is training


def test_no_rows(reward_model: RewardModel) -> None:
    assert reward_model([]).shape == (0,)
    assert reward_model.score([], [], []).shape == (0,)
