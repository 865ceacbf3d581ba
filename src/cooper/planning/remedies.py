"""What would bring a run's memory down: the run planned again with a change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from cooper.models.adapters import LoraAdapter
from cooper.planning.memory import ASSISTANT_PROMPT, memory
from cooper.planning.setup import STRATEGIES, Role, Room, Setup

_BATCH = 16  # sequences sampled at once, where few are
_SHARDED = ("zero2", "zero3", "zero2_offload", "fsdp2")
_GPUS = (2, 4, 8)
# With no settings of its own, so that all plans with it share what was traced.
_LORA = LoraAdapter()


@dataclass(frozen=True)
class Remedy:
    """A change and the peak with it."""

    change: str  # as one writes it on the command line
    peak: int  # bytes a GPU


def remedies(setup: Setup, target: int) -> list[Remedy]:
    """Plan a run again with each change that lowers its peak; the smaller changes come first.

    Args:
        setup: of the run.
        target: bytes to come down to; of a sharded strategy the fewest GPUs that do are told.
    """
    now = memory(setup).peak
    found = [Remedy(text, memory(changed).peak) for text, changed in changes(setup)]
    if not (setup.gpus > 1 and setup.sharding.weights):
        for name in _SHARDED:
            told = None
            for text, changed in _on_more(setup, name):
                told = Remedy(text, memory(changed).peak)
                if told.peak <= target:
                    break
            found += [told] if told else []
    return [remedy for remedy in found if remedy.peak < now]


def changes(setup: Setup) -> Iterator[tuple[str, Setup]]:
    """Changes of sizes one by one and together; then with LoRA, and with one base."""
    texts, small = _small(setup)
    for text, change in _sizes(setup):
        yield text, change(setup)
    together = " ".join(texts)
    if len(texts) > 1:
        yield together, small
    full = [key for key, role in _trained(setup) if role.adapter and role.adapter.trains_base]
    lora = " ".join(f"adapter@{key}_adapter=lora" for key in full)
    if full:
        yield lora, _with_lora(setup)
        if texts:
            yield f"{lora} {together}", _with_lora(small)
    if not setup.shared and _one_base(setup):
        yield f"model=shared {together}".strip(), replace(_with_lora(small), shared=True)


def _one_base(setup: Setup) -> bool:
    """Whether policy and trained reward model come from bases of one form."""
    own = setup.policy.source.config.to_dict()
    return len(_trained(setup)) == 2 and all(
        own[name] == role.source.config.to_dict().get(name)
        for _, role in _trained(setup)
        for name in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
    )


def _small(setup: Setup) -> tuple[list[str], Setup]:
    """All changes of sizes together."""
    texts, small = [], setup
    for text, change in _sizes(setup):
        texts.append(text)
        small = change(small)
    return texts, small


def _on_more(setup: Setup, name: str) -> Iterator[tuple[str, Setup]]:
    """A sharded strategy on 2, 4 and 8 GPUs, with all changes of sizes."""
    texts, small = _small(setup)
    for gpus in _GPUS:
        if gpus >= setup.gpus:
            text = " ".join([f"plan.strategy={name}", f"plan.gpus={gpus}", *texts])
            yield text, replace(small, sharding=STRATEGIES[name], gpus=gpus)


def _trained(setup: Setup) -> list[tuple[str, Role]]:
    roles = [("policy", setup.policy)]
    if setup.reward_model is not None and setup.reward_model.adapter is not None:
        roles.append(("reward_model", setup.reward_model))
    return roles


def _sizes(setup: Setup) -> Iterator[tuple[str, Callable[[Setup], Setup]]]:
    """Changes that leave what is computed as it is."""
    plain = [key for key, role in _trained(setup) if not role.checkpointing]
    if plain:
        text = " ".join(f"{key}.gradient_checkpointing=true" for key in plain)
        yield text, lambda now: _each(now, lambda role: replace(role, checkpointing=True))
    one = setup.prompt + setup.completion
    if setup.micro_tokens > one:
        yield (
            f"algorithm.micro_batch_tokens={one}",
            lambda now: replace(now, micro_tokens=one),
        )
    pair = 2 * setup.row
    if len(_trained(setup)) > 1 and setup.reward_micro_tokens > pair:
        yield (
            f"reward_objective.micro_batch_tokens={pair}",
            lambda now: replace(now, reward_micro_tokens=pair),
        )
    longest = setup.prompt + setup.sampled
    if setup.sampler.rows(longest) > _BATCH:
        text, fewer = _fewer(setup.sampler, longest)
        yield f"sampler.{text}", lambda now: replace(now, sampler=fewer)
    longest = one + ASSISTANT_PROMPT + setup.assistant_completion
    if setup.assisted and setup.assistant_sampler.rows(longest) > _BATCH:
        told, less = _fewer(setup.assistant_sampler, longest)
        yield f"negatives.sampler.{told}", lambda now: replace(now, assistant_sampler=less)


def _fewer(room: Room, longest: int) -> tuple[str, Room]:
    """Fewer sequences at once."""
    if room.cache_tokens:
        tokens = _BATCH * longest
        return f"cache_tokens={tokens}", replace(room, cache_tokens=tokens)
    return f"batch_size={_BATCH}", replace(room, batch=_BATCH)


def _with_lora(setup: Setup) -> Setup:
    def change(role: Role) -> Role:
        full = role.adapter is not None and role.adapter.trains_base
        return replace(role, adapter=_LORA) if full else role

    return _each(setup, change)


def _each(setup: Setup, change: Callable[[Role], Role]) -> Setup:
    """Change the trained models."""
    changed = {key: change(role) for key, role in _trained(setup)}
    return replace(setup, **changed)
