"""Tiny models and small helpers that all tests share."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from jaxtyping import install_import_hook
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

# Shapes and types of the pure tensor functions are checked under pytest only. The hook has to
# stand before the first import of cooper.functional.
install_import_hook("cooper.functional", "beartype.beartype")

from cooper.models import Policy, RewardModel, load_reward_model
from cooper.models.tiny import TinyModel, train_tokenizer
from cooper.progress import set_quiet
from cooper.types import Problem, Rollouts, Status, Verdict

torch.set_num_threads(1)

TEXTS = ("What is 3 + 4? Tom has 12 apples and 5 pens.", "So the answer is \\boxed{7}. 1 2 6 8 9 0")

MakeRollouts = Callable[..., Rollouts]


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    """A program run in this process leaves its ``quiet`` behind; it must not reach other tests."""
    yield
    set_quiet(False)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(TEXTS)


@pytest.fixture(scope="session")
def policy(tokenizer: PreTrainedTokenizerBase) -> Policy:
    """Shared by all tests: copy it before training."""
    size = TinyModel(
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        mlp_size=32,
        initializer_range=0.3,
    )
    return Policy(size.build(tokenizer, seed=0), tokenizer).eval()


@pytest.fixture(scope="session")
def reward_folder(
    tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A reward model as users have it: a folder written by save_pretrained."""
    folder = tmp_path_factory.mktemp("reward_model")
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        initializer_range=0.3,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        Qwen2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reward_model(reward_folder: Path) -> RewardModel:
    """Shared by all tests: copy it before training."""
    loaded = load_reward_model(str(reward_folder))
    return RewardModel(loaded, AutoTokenizer.from_pretrained(reward_folder)).eval()


@pytest.fixture(scope="session")
def make_rollouts() -> MakeRollouts:
    """Build rollouts from texts: one inner list per problem, one token per completion."""

    def make(
        groups: Sequence[Sequence[str]],
        references: Sequence[str] | None = None,
        lengths: Sequence[int] | None = None,
        finished: Sequence[bool] | None = None,
    ) -> Rollouts:
        texts = [text for group in groups for text in group]
        sizes = torch.tensor(lengths or [1] * len(texts), dtype=torch.long)
        references = references or ["7"] * len(groups)
        return Rollouts(
            problems=tuple(
                Problem(id=f"p{i}", question=f"question {i}", reference=reference)
                for i, reference in enumerate(references)
            ),
            prompt_ids=tuple((1, 2) for _ in groups),
            problem_of=torch.tensor([i for i, g in enumerate(groups) for _ in g]).long(),
            ids=torch.ones(int(sizes.sum()), dtype=torch.long),
            logprobs=torch.zeros(int(sizes.sum())),
            offsets=torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)]),
            finished=torch.tensor(finished or [True] * len(texts), dtype=torch.bool),
            completions=tuple(texts),
            policy_version=0,
        )

    return make


@pytest.fixture(scope="session")
def ragged(policy: Policy) -> Rollouts:
    """Six rollouts of three problems; no two prompts or completions are equally long."""
    rng = torch.Generator().manual_seed(2)

    def ids(count: int) -> torch.Tensor:
        return torch.randint(10, 300, (count,), generator=rng)

    sizes = torch.tensor([5, 2, 9, 1, 4, 7])
    rollouts = Rollouts(
        problems=tuple(Problem(id=str(i), question=f"q{i}", reference="7") for i in range(3)),
        prompt_ids=tuple(tuple(ids(count).tolist()) for count in (6, 1, 3)),
        problem_of=torch.tensor([0, 0, 1, 1, 2, 2]),
        ids=ids(int(sizes.sum())),
        logprobs=torch.zeros(int(sizes.sum())),
        offsets=torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)]),
        finished=torch.tensor([True, True, False, True, True, False]),
        completions=tuple("abcdef"),
        policy_version=0,
    )
    with torch.no_grad():
        drawn = policy(rollouts, range(6)).logprobs
    # Drawn by a policy some updates ago, so that ratios lie inside and outside the clip range.
    rollouts.logprobs.copy_(drawn + torch.randn(len(drawn), generator=rng) * 0.3)
    return rollouts


@pytest.fixture(scope="session")
def verdicts_of() -> Callable[[str], list[Verdict]]:
    """Read verdicts from letters: C correct, I incorrect, U undecided."""
    status = {"C": Status.CORRECT, "I": Status.INCORRECT, "U": Status.UNDECIDED}
    return lambda letters: [Verdict(status[letter]) for letter in letters]


def _children() -> dict[int, str]:
    """Processes started by this one, with their command lines."""
    found = {}
    for listing in Path("/proc/self/task").glob("*/children"):
        try:
            pids = listing.read_text().split()
        except OSError:
            continue  # the thread is gone
        for pid in pids:
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            name = command.replace(b"\0", b" ").decode(errors="replace").strip()
            if "multiprocessing.resource_tracker" not in name:  # Python's own; lives on
                found[int(pid)] = name
    return found


@pytest.fixture
def children() -> Callable[[], dict[int, str]]:
    """``children()``: the processes that this one has started and that are there now."""
    return _children


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.daemon}


@pytest.fixture(autouse=True, scope="module")
def nothing_left_behind() -> Iterator[None]:
    """No test file leaves processes or threads behind.

    By file, not by test: a verifier's workers may serve all tests of a file.
    """
    children, threads = _children(), _threads()
    yield
    gc.collect()  # a pool of threads of transformers' ends with the model that it loaded
    for thread in _threads() - threads:
        thread.join(timeout=5)
    left = [f"process {pid}: {name}" for pid, name in _children().items() if pid not in children]
    left += [f"thread {thread.name}" for thread in _threads() - threads]
    assert not left, f"left running: {left}"
