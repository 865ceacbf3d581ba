"""Save and restore everything that moves in a run, between two RL steps."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cooper.errors import CheckpointError
from cooper.module import CooperModule
from cooper.optim import set_schedule

_FORMAT = 2


def _models(module: CooperModule) -> dict[str, Any]:
    """The models that move, by their folder's name."""
    models: dict[str, Any] = {"policy": module.policy}
    if module.trains_reward_model and module.reward_model is not None:
        models["reward_model"] = module.reward_model
    if module.average is not None:
        models["reward_model_average"] = module.average.module
    return models


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model as ``from_pretrained`` reads it: safetensors, config, tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_checkpoint(module: CooperModule, folder: Path) -> None:
    """Write a checkpoint; it appears under its name only when it is whole.

    ``policy/`` and ``reward_model/`` are in Hugging Face form, ``trainer.pt`` holds the
    optimizers' running means, counters and generators as plain tensors and numbers (no pickled
    code). The schedules follow from the counters.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, model in _models(module).items():
        save_model(model.model, model.tokenizer, part / name)
    torch.save(_state(module), part / "trainer.pt")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)


def _state(module: CooperModule) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "step": module.rl_step,
        "optimizers": [
            o.state_dict()["state"] for o in _as_list(module.optimizers(use_pl_optimizer=False))
        ],
        "updaters": {name: u.state_dict() for name, u in module.updaters.items()},
        "generators": {name: g.get_state() for name, g in module.generators.items()},
        "position": module.stream.position if module.stream is not None else 0,
        "reward_data": module.reward_data.state_dict(),
        "global_generators": _global_generators(module.device),
    }


def _global_generators(device: torch.device) -> dict[str, Tensor]:
    """What parts that are not ours draw from: dropout, for one."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def load_checkpoint(module: CooperModule, folder: Path) -> None:
    """Put a checkpoint's state into a module whose optimizers are built.

    Raises:
        CheckpointError: a file is missing or broken, or the checkpoint is of another run's form.
    """
    state = read_state(folder)
    if sorted(state["updaters"]) != sorted(module.updaters):
        raise CheckpointError(
            f"{folder}: the checkpoint trained {', '.join(state['updaters'])}, this run trains "
            f"{', '.join(module.updaters)}; use the reward that the run was started with"
        )
    for name, model in _models(module).items():
        _load_weights(model.model, folder / name)
    for name, updater in module.updaters.items():
        updater.load_state_dict(state["updaters"][name])
    for optimizer, scheduler, updater, saved in zip(
        _as_list(module.optimizers(use_pl_optimizer=False)),
        _as_list(module.lr_schedulers()),
        module.updaters.values(),
        state["optimizers"],
        strict=True,
    ):
        # The running means go on; rates, decays and schedule are those of this run's settings,
        # which are the checkpoint's own unless the user changed them.
        settings = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": saved, "param_groups": settings})
        set_schedule(scheduler, updater.steps)
    for name, rng in module.generators.items():
        rng.set_state(state["generators"][name])
    if module.stream is not None:
        module.stream.position = state["position"]
    module.reward_data.load_state_dict(state["reward_data"])
    torch.set_rng_state(state["global_generators"]["cpu"])
    if module.device.type == "cuda" and "cuda" in state["global_generators"]:
        torch.cuda.set_rng_state(state["global_generators"]["cuda"], module.device)
    module.rl_step = state["step"]


def read_state(folder: Path) -> dict[str, Any]:
    """Read ``trainer.pt`` without running code from it.

    Raises:
        CheckpointError: missing, broken, or written by another version.
    """
    path = folder / "trainer.pt"
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read ({first}); use an earlier step") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path}: format {state.get('format') if isinstance(state, dict) else None} where "
            f"{_FORMAT} is needed; it was written by another version of cooper"
        )
    return state


def _load_weights(model: nn.Module, folder: Path) -> None:
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"expected a transformers model, not {type(model).__name__}")
    try:
        saved = type(model).from_pretrained(folder, dtype=model.dtype)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(
            f"{folder}: cannot be loaded ({first}); use an earlier step"
        ) from error
    try:
        model.load_state_dict(saved.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder}: its weights do not fit this run's model; resume with the run's own settings"
        ) from error
