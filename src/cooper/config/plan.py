"""``cooper-plan``: what a configuration of cooper-train needs, told before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from cooper.config.parts import instantiate
from cooper.config.train import quieten
from cooper.config.validate import (
    check_parts,
    check_writable,
    components,
    cross_check,
    is_target,
    needs_reward_model,
    relevant,
    strategy_name,
)
from cooper.environment import resident_memory
from cooper.errors import ConfigError
from cooper.files import write_atomically
from cooper.models.adapters import Adapter
from cooper.models.loading import load_config
from cooper.models.reward_heads import ScalarHead
from cooper.models.reward_model import recorded_form
from cooper.models.reward_template import RewardTemplate
from cooper.models.sources import Pretrained
from cooper.objectives import PolicyObjective, RewardObjective
from cooper.planning.gpus import GIB, GPUS, Gpu, find
from cooper.planning.memory import Memory, memory
from cooper.planning.remedies import Remedy, remedies
from cooper.planning.setup import STRATEGIES, Role, Room, Setup, find_strategy
from cooper.planning.skeletons import Source
from cooper.planning.speed import Work, step_work
from cooper.rewards import Reward

# Of mathematical English in a byte-pair encoding; only for rows that are cut by characters.
CHARACTERS_A_TOKEN = 3
# A reward model's row beside question and completion: the template's own text and an answer.
ROW_OVERHEAD = 96
NOT_MODELLED = (
    "the stages before RL",
    "what the allocator wastes, and workspaces of kernels beyond the CUDA context",
    "what the rest of the program holds: texts, verifiers, figures",
    "communication between GPUs, other than its buffers",
    "time of anything but products and memory reads; batches that wait for their longest row",
    "mixtures of experts in times: products inside fused experts are not counted",
)


@dataclass(frozen=True)
class Result:
    """A plan."""

    setup: Setup
    memory: Memory
    work: list[Work]
    gpus: list[Gpu]
    remedies: list[Remedy]
    assumptions: list[str]


def plan(cfg: DictConfig) -> int:
    """Run it.

    Args:
        cfg: composed by Hydra.

    Returns:
        the exit code.

    Raises:
        CooperError: something that the user can mend.
    """
    check(cfg)
    quieten()
    result = planned(cfg)
    show(result, Console())
    if cfg.plan.json:
        write_atomically(
            Path(cfg.plan.json).expanduser(), json.dumps(record(result), indent=1).encode()
        )
        print(f"written: {cfg.plan.json}")
    return 0


def check(cfg: DictConfig) -> None:
    """Check what a plan reads; the data are not read, and need not be given.

    Raises:
        ConfigError: a setting is wrong.
    """
    if is_target(cfg.policy, "WarmStarted"):
        raise ConfigError(
            "policy=tiny: is made by the run itself, so that there is no config to plan from; give "
            "policy=hf policy.path=FOLDER_OR_HUB_ID"
        )
    active = relevant(cfg)
    active.data.train = active.data.val = active.data.test = None
    active.annotation = active.reward_training = None  # the stages before RL are not planned
    check_parts(active)
    cross_check(active)
    own = cfg.plan
    for name in (
        "memory",
        "gpus",
        "longest_prompt",
        "longest_row",
        "mean_prompt",
        "mean_completion",
    ):
        if own[name] is not None and not own[name] > 0:
            raise ConfigError(f"plan.{name}={own[name]}: must be above 0")
    if own.gpu is not None:
        find(own.gpu)
    if own.strategy is not None:
        find_strategy(own.strategy)
    if own.strategy == "single" and (own.gpus or 1) > 1:
        raise ConfigError(f"plan.gpus={own.gpus}: strategy single has one GPU; give another one")
    if own.json:
        check_writable("plan.json", Path(own.json).expanduser().parent)


def planned(cfg: DictConfig) -> Result:
    """Plan a checked configuration."""
    process = resident_memory()
    setup, assumptions = read(cfg)
    found = memory(setup, process)
    gpus = chosen_gpus(cfg) if setup.gpu else []
    work = step_work(setup)
    short = [gpu.memory for gpu in gpus if found.peak > gpu.memory]
    mends = remedies(setup, min(short)) if short else []
    return Result(setup, found, work, gpus, mends, assumptions)


def chosen_gpus(cfg: DictConfig) -> list[Gpu]:
    """The GPUs asked for."""
    size = None if cfg.plan.memory is None else int(cfg.plan.memory * GIB)
    if cfg.plan.gpu is not None:
        gpu = find(cfg.plan.gpu)
        return [gpu if size is None else replace(gpu, memory=size)]
    if size is not None:
        return [Gpu(f"{cfg.plan.memory:g} GiB", size, 0.0, 0.0)]
    return list(GPUS.values())


# ---------------------------------------------------------------------- from the configuration


def read(cfg: DictConfig) -> tuple[Setup, list[str]]:
    """The facts that decide memory and time, and what is assumed where the configuration is silent.

    Raises:
        CooperError: a model's config cannot be loaded or built from.
    """
    own = cfg.plan
    objective = instantiate(
        cfg.algorithm, "algorithm", PolicyObjective, max_tokens=cfg.sampling.max_new_tokens
    )
    policy = model_role(cfg, "policy", trained=True)
    prompt = own.longest_prompt or cfg.prompt.max_tokens
    if not prompt:
        raise ConfigError("prompt.max_tokens=0: prompts have no limit; give plan.longest_prompt")
    completion = cfg.sampling.max_new_tokens
    mean_prompt = own.mean_prompt or max(1, prompt // 5)
    mean_completion = own.mean_completion or max(1, completion // 2)
    gpus = own.gpus or cfg.trainer.devices * cfg.trainer.num_nodes
    chosen = strategy_name(cfg) if is_target(cfg.strategy) else None
    strategy = own.strategy or chosen or ("single" if gpus == 1 else "ddp")
    if own.strategy not in (None, "single") and own.gpus is None and gpus == 1:
        raise ConfigError(f"plan.strategy={own.strategy}: is for several GPUs; give plan.gpus")
    assumptions = [
        f"longest prompt {prompt}, longest completion {completion} tokens",
        f"mean prompt {mean_prompt}, mean completion {mean_completion} tokens "
        "(plan.mean_prompt, plan.mean_completion)",
    ]
    setup = Setup(
        policy=policy,
        problems=cfg.data.problems_per_step,
        group_size=cfg.group_size,
        prompt=prompt,
        completion=completion,
        mean_prompt=mean_prompt,
        mean_completion=mean_completion,
        sampled=max(completion, cfg.evaluation.max_new_tokens),
        sampler=room(cfg.sampler),
        micro_tokens=objective.micro_batch_tokens,
        minibatches=objective.minibatches,
        epochs=objective.epochs,
        entropy=objective.needs_entropy,
        reference=objective.kl_coef > 0,
        recomputes=cfg.sampling.top_p < 1 or cfg.sampling.top_k > 0,
        precision=cfg.trainer.precision,
        gpu=cfg.trainer.accelerator != "cpu",
        sharding=STRATEGIES[strategy],
        shared=cfg.model.shared,
        gpus=gpus,
    )
    if needs_reward_model(cfg):
        setup = with_reward_model(cfg, setup, assumptions)
    return setup, assumptions


def with_reward_model(cfg: DictConfig, setup: Setup, assumptions: list[str]) -> Setup:
    """Add the reward model, and what its stage needs."""
    reward = instantiate(cfg.reward, "reward", Reward)
    objective = instantiate(cfg.reward_objective, "reward_objective", RewardObjective)
    role = model_role(cfg, "reward_model", trained=reward.trains_model)
    recorded = recorded_form(role.source.config, "reward_model.path")
    template = recorded[0] if recorded else RewardTemplate()
    row = cfg.plan.longest_row or _row(template, setup.prompt, setup.completion)
    mean_row = min(row, _row(template, setup.mean_prompt, setup.mean_completion))
    assumptions.append(f"the reward model reads at most {row} tokens a row (plan.longest_row)")
    setup = replace(setup, reward_model=role, row=row, mean_row=mean_row)
    if not reward.trains_model:
        return setup
    rollouts = setup.problems * setup.group_size
    pairs = setup.problems * cfg.pairs.get("per_problem", 1) if objective.pairwise_weight else 0
    labels = rollouts if objective.rollout_labels < 0 else objective.rollout_labels
    assumptions.append(f"pairs a step: {pairs}, the most there can be")
    setup = replace(
        setup,
        average=objective.ema_decay > 0,
        reward_micro_tokens=objective.micro_batch_tokens,
        pairs=pairs + objective.replay_pairs,
        labels=labels + objective.replay_labels,
        inner_steps=objective.inner_steps,
    )
    return with_assistant(cfg, setup)


def with_assistant(cfg: DictConfig, setup: Setup) -> Setup:
    """Add the model that writes negatives, where one does."""
    for key, node in components(cfg.negatives, "negatives"):
        if not is_target(node, "AssistantNegatives"):
            continue
        assistant = None
        if node.get("path") is not None:
            source = Pretrained(
                node.path, node.get("revision"), node.get("attn_implementation"),
                node.get("trust_remote_code", False),
            )  # fmt: skip
            assistant = Role(_source(source, f"{key}.path"), dtype=node.get("dtype", "bfloat16"))
        return replace(
            setup,
            assisted=True,
            assistant=assistant,
            assistant_completion=node.get("max_new_tokens", 1024),
            assistant_sampler=room(node.get("sampler") or {}),
        )
    return setup


def room(sampler: Any) -> Room:
    """What a sampler's settings say of how much it decodes at once."""
    return Room(sampler.get("batch_size", 256), sampler.get("cache_tokens", 0))


def model_role(cfg: DictConfig, key: str, *, trained: bool) -> Role:
    """A model's form, and which of its weights are trained.

    Raises:
        CooperError: its config cannot be loaded.
    """
    node = cfg[key]
    # The first stage makes the reward model from the policy's own weights.
    where = "policy" if is_target(node, "FirstStage") else key
    found = instantiate(cfg[where], where, Pretrained)
    adapter = instantiate(cfg[f"{key}_adapter"], f"{key}_adapter", Adapter) if trained else None
    source = _source(found, f"{where}.path", reward=key == "reward_model")
    checkpointing = bool(node.get("gradient_checkpointing", False)) and trained
    return Role(source, adapter, checkpointing)


def _source(found: Pretrained, key: str, *, reward: bool = False) -> Source:
    config = load_config(
        found.path, revision=found.revision, trust_remote_code=found.trust_remote_code, key=key
    )
    source = Source(
        config,
        f"{key}={found.path}",
        attn_implementation=found.attn_implementation,
        trust_remote_code=found.trust_remote_code,
    )
    if not reward:
        return source
    recorded = recorded_form(config, f"{key}={found.path}")
    head = recorded[1] if recorded else ScalarHead()
    if head.causal_lm:
        raise ConfigError(f"{key}={found.path}: the {head.name} head cannot be planned yet")
    return replace(source, kind="classifier", head=head)


def _row(template: RewardTemplate, question: int, completion: int) -> int:
    if template.max_characters:
        completion = min(completion, template.max_characters // CHARACTERS_A_TOKEN)
    row = question + completion + ROW_OVERHEAD
    return min(row, template.max_tokens) if template.max_tokens else row


# ---------------------------------------------------------------------- what is told


def roles(setup: Setup) -> Iterator[tuple[str, Role]]:
    """Models of the run with weights of their own, or of a shared base with their additions."""
    yield "policy", setup.policy
    if setup.copies_start:
        yield "reference", setup.start
    if setup.reward_model is not None:
        yield "reward_model", setup.reward_model
    if setup.assistant is not None:
        yield "assistant", setup.assistant


def record(result: Result) -> dict[str, Any]:
    """The plan as plain values: bytes, seconds, tokens."""
    setup, found = result.setup, result.memory
    return {
        "parameters": {
            name: {
                "total": (count := setup.skeleton(role).count).total,
                "trained": count.trained,
                "frozen": count.frozen,
                "added_by_lora": count.added,
            }
            for name, role in roles(setup)
        },
        "strategy": {"name": setup.sharding.name, "gpus": setup.gpus, "precision": setup.precision},
        "memory": {
            "unit": "bytes a GPU" if setup.gpu else "bytes",
            "resident": [vars(part) for part in found.resident],
            "phases": [
                {"name": p.name, "bytes": p.bytes, "parts": [vars(part) for part in p.parts]}
                for p in found.phases
            ],
            "resident_bytes": found.resident_bytes,
            "largest_phase": found.largest.name,
            "peak": found.peak,
            "host": found.host,
        },
        "tokens": tokens(setup),
        "flops": {work.name: work.flops for work in result.work},
        "gpus": [
            {
                "name": gpu.name,
                "memory": gpu.memory,
                "fits": found.peak <= gpu.memory,
                "missing": max(0, found.peak - gpu.memory),
                "floor_seconds": _seconds(result, gpu),
            }
            for gpu in result.gpus
        ],
        "remedies": [
            {
                "change": remedy.change,
                "peak": remedy.peak,
                "fits": [gpu.name for gpu in result.gpus if remedy.peak <= gpu.memory],
            }
            for remedy in result.remedies
        ],
        "assumptions": result.assumptions,
        "not_modelled": list(NOT_MODELLED),
    }


def tokens(setup: Setup) -> dict[str, int]:
    """Tokens of a step on all GPUs."""
    rollouts = setup.problems * setup.group_size
    return {
        "rollouts": rollouts,
        "prompts": rollouts * setup.mean_prompt,
        "completions": rollouts * setup.mean_completion,
        "completions_at_most": rollouts * setup.completion,
    }


def _seconds(result: Result, gpu: Gpu) -> dict[str, float] | None:
    if not gpu.flops:
        return None
    phases = {work.name: work.seconds(gpu) for work in result.work}
    return {**phases, "step": sum(phases.values())}


def show(result: Result, console: Console) -> None:
    """Print the plan."""
    setup, found = result.setup, result.memory
    table = Table("role", "parameters", "trained", "of these LoRA", title="Parameters")
    for name, role in roles(setup):
        count = setup.skeleton(role).count
        table.add_row(name, f"{count.total:,}", f"{count.trained:,}", f"{count.added:,}")
    console.print(table)
    if setup.needs_start and not setup.copies_start:
        console.print("reference: the policy's base, its additions switched off; no copy")

    where = f"each of {setup.gpus} GPUs" if setup.gpu else "the process"
    title = f"Memory of {where}, GiB ({setup.sharding.name}, {setup.precision})"
    table = Table("phase", "part", "GiB", title=title)
    for part in found.resident:
        table.add_row("always", f"{part.role}: {part.what}", _gib(part.bytes))
    for phase in found.phases:
        table.add_section()
        for part in phase.parts:
            table.add_row(phase.name, f"{part.role}: {part.what}", _gib(part.bytes))
    table.add_section()
    table.add_row("peak", f"always + {found.largest.name}", _gib(found.peak))
    console.print(table)
    if found.host:
        console.print(f"and {_gib(found.host)} GiB of the host's memory for each GPU")

    count = tokens(setup)
    console.print(
        f"a step: {count['rollouts']:,} rollouts, {count['prompts']:,} tokens of prompts and "
        f"{count['completions']:,} of completions"
    )
    if result.gpus:
        _show_gpus(result, console)
    if result.remedies:
        _show_remedies(result, console)
    console.print("Assumed: " + "; ".join(result.assumptions))
    console.print("Not modelled: " + "; ".join(NOT_MODELLED))


def _show_gpus(result: Result, console: Console) -> None:
    title = "Least seconds of a step, at the data sheet's speed and bandwidth"
    table = Table("GPU", "GiB", "fits", "sampling", "the rest", "step", title=title)
    for gpu in result.gpus:
        missing = result.memory.peak - gpu.memory
        fits = "yes" if missing <= 0 else f"no, {_gib(missing)} short"
        seconds = _seconds(result, gpu)
        cells = ["-"] * 3
        if seconds is not None:
            sampling, step = seconds["sampling"], seconds["step"]
            cells = [f"{value:,.1f}" for value in (sampling, step - sampling, step)]
        table.add_row(gpu.name, _gib(gpu.memory), fits, *cells)
    console.print(table)


def _show_remedies(result: Result, console: Console) -> None:
    table = Table("change", "GiB", "fits then", title="Planned again with a change")
    for remedy in result.remedies:
        fits = [gpu.name for gpu in result.gpus if remedy.peak <= gpu.memory]
        all_fit = len(fits) == len(result.gpus) > 1
        table.add_row(
            "\n".join(remedy.change.split()),
            _gib(remedy.peak),
            "all" if all_fit else ", ".join(fits) or "none",
        )
        table.add_section()
    console.print(table)


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"


__all__ = ["Result", "check", "plan", "planned", "read", "record", "show"]
