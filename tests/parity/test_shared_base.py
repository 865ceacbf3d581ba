"""One base, four roles: each computes and learns as a model loaded by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cooper.errors import ModelError
from cooper.models import Policy, RewardModel, load_causal_lm, load_reward_model, load_tokenizer
from cooper.models.adapters import LoraAdapter
from cooper.models.shared import share_base
from cooper.models.sources import Pretrained
from cooper.rng import generator
from cooper.samplers import HFSampler
from cooper.types import Problem, Prompt, Rollouts, SamplingParams

LORA = LoraAdapter(rank=4, alpha=8.0)
TRIPLES = (["q one", "q two"], ["7", "8"], ["so 7", "it is \\boxed{9}"])


def jiggle(parameters: list[Any], seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter += torch.randn(parameter.shape, generator=rng) * 0.05


@pytest.fixture(scope="module")
def folders(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and on it a policy's and a reward model's additions, each trained by itself."""
    folder = tmp_path_factory.mktemp("shared")
    policy.save(folder / "base")
    base = str(folder / "base")
    alone = Policy(load_causal_lm(base), load_tokenizer(base))
    alone.adapt(LORA, seed=3)
    jiggle(alone.weights.trained, 1)
    alone.save(folder / "policy")
    reward = RewardModel(load_reward_model(base, new_head_seed=1), load_tokenizer(base))
    reward.adapt(LoraAdapter(rank=2, alpha=8.0), seed=4)
    jiggle(reward.weights.trained, 2)
    reward.save(folder / "reward")
    return folder


@pytest.fixture
def apart(folders: Path) -> tuple[Policy, RewardModel]:
    """Both models, each over a base of its own."""
    base = str(folders / "base")
    policy = Policy(load_causal_lm(base), load_tokenizer(base)).eval()
    policy.adapt(LORA, seed=5)
    policy.weights.load(folders / "policy")
    reward = RewardModel(load_reward_model(base, new_head_seed=9), load_tokenizer(base)).eval()
    reward.adapt(LoraAdapter(rank=2, alpha=8.0), seed=5)
    reward.weights.load(folders / "reward")
    return policy, reward


@pytest.fixture
def shared(folders: Path) -> tuple[Policy, RewardModel]:
    """The same two over one base."""
    return make_shared(folders)


def make_shared(folders: Path, dtype: Any = "float32") -> tuple[Policy, RewardModel]:
    base = str(folders / "base")
    policy = Policy(load_causal_lm(base, dtype=dtype), load_tokenizer(base)).eval()
    reward = share_base(policy, base, LORA, Pretrained(str(folders / "reward")), seed=5)
    assert reward is not None
    policy.weights.load(folders / "policy")
    return policy, reward


def test_every_role_computes_as_alone(
    apart: tuple[Policy, RewardModel],
    shared: tuple[Policy, RewardModel],
    folders: Path,
    ragged: Rollouts,
) -> None:
    base = Policy(load_causal_lm(str(folders / "base")), apart[0].tokenizer).eval()
    with torch.no_grad():
        for _ in range(2):  # in turn: no role leaves anything behind for the next
            assert torch.equal(
                shared[0](ragged, range(6)).logprobs, apart[0](ragged, range(6)).logprobs
            )
            assert torch.equal(shared[1].score(*TRIPLES), apart[1].score(*TRIPLES))
            assert torch.equal(
                shared[0].start()(ragged, range(6)).logprobs, base(ragged, range(6)).logprobs
            )


def test_every_role_samples_as_alone(
    apart: tuple[Policy, RewardModel], shared: tuple[Policy, RewardModel], folders: Path
) -> None:
    base = Policy(load_causal_lm(str(folders / "base")), apart[0].tokenizer).eval()
    ids = tuple(apart[0].tokenizer("What is 3 + 4?")["input_ids"])
    prompt = Prompt(Problem("p", "q", "7"), "", ids)

    def sampled(policy: Policy) -> tuple[str, ...]:
        sampler = HFSampler()
        sampler.sync(policy, 0)
        return sampler.sample([prompt], 4, SamplingParams(8), generator(0, "x")).completions

    assert sampled(shared[0]) == sampled(apart[0])
    assert sampled(shared[0].start()) == sampled(base)
    assert sampled(apart[0]) != sampled(base)


def test_rows_without_additions_are_the_base_and_the_others_the_policy(
    shared: tuple[Policy, RewardModel],
) -> None:
    """One batch of both: nothing is added to the base's rows, nothing is missing in the others."""
    policy = shared[0]
    model: Callable[..., Any] = policy.model
    ids = torch.arange(40, 76).view(4, 9)
    rows = torch.tensor([True, False, False, True])
    assert policy.weights.mixes
    with torch.no_grad():
        with policy.weights.acting():
            own = model(input_ids=ids).logits
        with policy.start().acting():
            base = model(input_ids=ids).logits
        with policy.weights.partly(rows):
            mixed = model(input_ids=ids).logits
        with policy.weights.acting():
            again = model(input_ids=ids).logits
    assert torch.equal(mixed[rows], own[rows])
    assert torch.equal(mixed[~rows], base[~rows])
    assert (own - base).abs().amax((1, 2)).min() > 1e-3  # else this test would say nothing
    assert torch.equal(again, own)


def losses(policy: Policy, reward: RewardModel, ragged: Rollouts) -> tuple[Tensor, Tensor]:
    rows = reward.tokenise(*TRIPLES)
    return policy(ragged, range(6)).logprobs.mean(), reward(rows).diff().sum()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("order", ["in turn", "interleaved"])
def test_training_moves_both_as_alone(
    apart: tuple[Policy, RewardModel],
    shared: tuple[Policy, RewardModel],
    ragged: Rollouts,
    checkpointing: bool,
    order: str,
) -> None:
    """Five AdamW steps of both; interleaved: both forwards before either backward."""
    if checkpointing:
        for models in (apart, shared):
            models[0].weights.checkpoint_gradients()
        apart[1].weights.checkpoint_gradients()
    for policy, reward in (apart, shared):
        optimizers = [
            torch.optim.AdamW(model.weights.trained, lr=1e-2) for model in (policy, reward)
        ]
        reference = policy.start()
        for _ in range(5):
            policy.train()
            reward.train()
            if order == "interleaved":
                one, other = losses(policy, reward, ragged)
                with torch.no_grad():
                    reference(ragged, range(6))
                one.backward()
                other.backward()
            else:
                losses(policy, reward, ragged)[0].backward()
                losses(policy, reward, ragged)[1].backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        policy.eval()
        reward.eval()
    for one, other in zip(apart, shared, strict=True):
        assert len(one.weights.trained) == len(other.weights.trained)
        for mine, theirs in zip(one.weights.trained, other.weights.trained, strict=True):
            assert torch.equal(mine, theirs)


def test_each_optimizer_gets_its_own_additions(shared: tuple[Policy, RewardModel]) -> None:
    ours, theirs = ({id(p) for p in model.weights.trained} for model in shared)
    assert ours
    assert theirs
    assert not ours & theirs
    trainable = {id(p) for model in shared for p in model.parameters() if p.requires_grad}
    assert trainable == ours | theirs


def test_the_weights_are_there_once(
    apart: tuple[Policy, RewardModel], shared: tuple[Policy, RewardModel]
) -> None:
    def size(*models: Any) -> int:
        tensors = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for model in models
            for t in model.state_dict().values()
        }
        return sum(tensors.values())

    additions = sum(p.nbytes for model in shared for p in model.weights.trained)
    base = size(apart[0]) - sum(p.nbytes for p in apart[0].weights.trained)
    untrained_head = 16 * 4  # peft keeps the score layer as it was, beside the trained one
    assert size(*shared, shared[0].start()) == base + additions + untrained_head
    assert size(*apart) > 1.9 * base


def test_what_is_saved_is_what_was_alone(
    shared: tuple[Policy, RewardModel], folders: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    for model, name in zip(shared, ("policy", "reward"), strict=True):
        model.save(tmp_path / name)
        saved, given = (
            load_file(where / name / "adapter_model.safetensors") for where in (tmp_path, folders)
        )
        assert saved.keys() == given.keys()
        assert all(torch.equal(saved[key], given[key]) for key in given)
    loaded = RewardModel.from_pretrained(tmp_path / "reward")
    assert torch.allclose(loaded.score(*TRIPLES), shared[1].score(*TRIPLES), atol=1e-5)


def test_a_call_in_the_wrong_role_is_refused(shared: tuple[Policy, RewardModel]) -> None:
    model: Callable[..., Any] = shared[1].model
    with pytest.raises(RuntimeError, match="computes as policy"):
        model(torch.tensor([[5, 6]]))


def test_sixteen_bits_of_base_and_32_of_what_is_trained(folders: Path) -> None:
    policy, reward = make_shared(folders, "bfloat16")
    assert {p.dtype for m in (policy, reward) for p in m.weights.trained} == {torch.float32}
    assert next(policy.model.parameters()).dtype == torch.bfloat16
    exact = make_shared(folders)[1].score(*TRIPLES)
    assert (reward.score(*TRIPLES) - exact).abs().max() < 0.05


def test_a_static_reward_model_is_frozen_and_the_policy_is_not(
    shared: tuple[Policy, RewardModel],
) -> None:
    shared[1].freeze()
    assert not any(p.requires_grad for p in shared[1].weights.trained)
    assert all(p.requires_grad for p in shared[0].weights.trained)


def test_what_does_not_fit(
    folders: Path, policy: Policy, reward_folder: Path, tmp_path: Path
) -> None:
    base = str(folders / "base")

    def share(path: Path | str, of: str = base) -> None:
        fresh = Policy(copy.deepcopy(policy.model), policy.tokenizer)
        share_base(fresh, of, LORA, Pretrained(str(path)), seed=0)

    with pytest.raises(ModelError, match="a whole model, and model=shared needs additions"):
        share(reward_folder)
    with pytest.raises(ModelError, match=r"its additions belong to .*base, and .*policy\.path=oth"):
        share(folders / "reward", of="other/base")
    with pytest.raises(ModelError, match="holds no trained reward head"):
        share(folders / "policy")
    with pytest.raises(ModelError, match="no such folder"):
        share(tmp_path / "none")
