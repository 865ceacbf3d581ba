"""From a problem to the prompt that the policy reads."""

from __future__ import annotations

import copy

import pytest
from transformers import PreTrainedTokenizerBase

from cooper.data import PromptBuilder
from cooper.errors import DataError
from cooper.testing import tiny_tokenizer
from cooper.types import Problem

PROBLEM = Problem("p", "What is 3 + 4?", "7")
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def chat(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    other = copy.deepcopy(tokenizer)
    other.chat_template = TEMPLATE
    return other


@pytest.fixture
def base(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    other = copy.deepcopy(tokenizer)
    other.chat_template = None
    return other


def test_chat_template(chat: PreTrainedTokenizerBase) -> None:
    builder = PromptBuilder(chat, instruction=None)
    assert builder.text(PROBLEM) == "<user>What is 3 + 4?<assistant>"


def test_instruction_follows_after_an_empty_line(chat: PreTrainedTokenizerBase) -> None:
    builder = PromptBuilder(chat, instruction="Think.")
    assert builder.text(PROBLEM) == "<user>What is 3 + 4?\n\nThink.<assistant>"
    assert "\\boxed{}" in PromptBuilder(chat).text(PROBLEM)


def test_system_prompt(chat: PreTrainedTokenizerBase) -> None:
    builder = PromptBuilder(chat, system_prompt="Be kind.", instruction=None)
    assert builder.text(PROBLEM) == "<system>Be kind.<user>What is 3 + 4?<assistant>"


def test_without_a_chat_template(base: PreTrainedTokenizerBase) -> None:
    assert PromptBuilder(base, instruction=None).text(PROBLEM) == "What is 3 + 4?\n"
    both = PromptBuilder(base, system_prompt="Be kind.", instruction="Think.")
    assert both.text(PROBLEM) == "Be kind.\n\nWhat is 3 + 4?\n\nThink.\n"


def test_ids_are_those_of_the_text(chat: PreTrainedTokenizerBase) -> None:
    prompt = PromptBuilder(chat, instruction=None)(PROBLEM)
    assert prompt.problem is PROBLEM
    assert chat.decode(prompt.ids) == prompt.text == "<user>What is 3 + 4?<assistant>"


def test_fitting_drops_prompts_over_the_limit(base: PreTrainedTokenizerBase) -> None:
    problems = [Problem(str(n), "5 " * n, "7") for n in (1, 4, 2)]
    lengths = [len(PromptBuilder(base, instruction=None)(p).ids) for p in problems]
    assert lengths[0] < lengths[2] < lengths[1]
    builder = PromptBuilder(base, instruction=None, max_tokens=lengths[2])
    kept, dropped = builder.fitting(problems, "data.train")
    assert ([p.id for p in kept], dropped) == (["1", "2"], 1)
    assert PromptBuilder(base).fitting(problems, "data.train") == (problems, 0)


def test_nothing_fits(base: PreTrainedTokenizerBase) -> None:
    builder = PromptBuilder(base, max_tokens=1)
    with pytest.raises(DataError, match=r"data\.train: all 1 prompts .*prompt\.max_tokens=1"):
        builder.fitting([PROBLEM], "data.train")


def test_what_the_data_bring_is_not_doubled(chat: PreTrainedTokenizerBase) -> None:
    boxed = Problem("p", "Add. Put the answer within \\boxed{}.", "7")
    assert PromptBuilder(chat).text(boxed) == f"<user>{boxed.question}<assistant>"
    assert "Think." in PromptBuilder(chat, instruction="Think.").text(boxed)
    own = Problem("p", "Add. Think.", "7", meta={"system_prompt": "Be brief."})
    builder = PromptBuilder(chat, instruction="Think.")
    assert builder.text(own) == "<system>Be brief.<user>Add. Think.<assistant>"
    builder = PromptBuilder(chat, instruction="Think.", system_prompt="Be kind.")
    assert builder.text(own) == "<system>Be kind.<user>Add. Think.<assistant>"


def test_keywords_of_the_template(chat: PreTrainedTokenizerBase) -> None:
    chat.chat_template = TEMPLATE + "{% if not thinking %}<no>{% endif %}"
    text = PromptBuilder(chat, instruction=None, template={"thinking": True}).text(PROBLEM)
    assert text == "<user>What is 3 + 4?<assistant>"
    assert PromptBuilder(chat, instruction=None).text(PROBLEM).endswith("<no>")


def test_a_template_that_refuses_is_told(chat: PreTrainedTokenizerBase) -> None:
    """As Gemma's does with a system message."""
    chat.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + TEMPLATE
    )
    assert PromptBuilder(chat).text(PROBLEM)
    with pytest.raises(DataError, match=r"p: .*refuses.*no system.*prompt\.system_prompt"):
        PromptBuilder(chat, system_prompt="Be kind.").text(PROBLEM)


def test_a_base_model_gets_the_token_that_begins_a_text() -> None:
    llama = tiny_tokenizer(["What is 3 + 4?"], family="llama")
    instruct = PromptBuilder(llama, instruction=None)(PROBLEM)
    assert instruct.ids.count(llama.bos_token_id) == 1  # by its template
    llama.chat_template = None
    base = PromptBuilder(llama, instruction=None)(PROBLEM)
    assert base.ids[0] == llama.bos_token_id
    assert base.ids.count(llama.bos_token_id) == 1
    assert llama.decode(base.ids, skip_special_tokens=True) == base.text == "What is 3 + 4?\n"
