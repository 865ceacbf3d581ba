"""Save and restore everything that moves in a run, between two RL steps."""

from __future__ import annotations

import contextlib
import errno
import pickle
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from cooper.collectives import gathered, rank, wait
from cooper.errors import CheckpointError
from cooper.files import part_of, publish, write_failure
from cooper.models.adapted import Adapted
from cooper.models.reward_model import RewardModel
from cooper.module import CooperModule
from cooper.optim import set_schedule
from cooper.strategies.engines import as_list

_FORMAT = 4


def _models(module: CooperModule) -> dict[str, Adapted]:
    """The models that move, by their folder's name."""
    models: dict[str, Adapted] = {"policy": module.policy}
    if module.trains_reward_model and module.reward_model is not None:
        models["reward_model"] = module.reward_model
    if module.average is not None:
        models["reward_model_average"] = cast(RewardModel, module.average.module)
    return models


@contextlib.contextmanager
def appearing(
    folder: Path,
    mend: str = "make room or give the folder back, then go on from the last checkpoint with "
    "ckpt_path=last",
) -> Iterator[Path]:
    """Fill a folder that appears under its name only when it is whole.

    Args:
        folder: its name.
        mend: what the user may do if it cannot be written.

    Yields:
        where to write.

    Raises:
        CheckpointError: it cannot be written. Nothing of it stays, and an earlier folder of that
            name is as it was.
    """
    part = part_of(folder)
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        publish(part, folder)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, Exception) and (why := write_failure(error)) is not None:
            raise CheckpointError(f"{folder}: cannot be written ({why}); {mend}") from error
        raise


def save_checkpoint(module: CooperModule, folder: Path) -> None:
    """Write a checkpoint; it appears under its name only when it is whole.

    ``policy/`` and ``reward_model/`` are in Hugging Face form, ``trainer.pt`` holds the
    optimizers' running means, counters and generators as plain tensors and numbers (no pickled
    code). The schedules follow from the counters. All processes call it; the first one writes, and
    what it writes is the same whatever the strategy and the number of processes.

    Raises:
        FileExistsError: there is one already. It is never replaced: between taking one away and
            giving the other its name there would be none.
        CheckpointError: it cannot be written.
    """
    if rank() == 0 and (folder / "trainer.pt").exists():
        raise FileExistsError(errno.EEXIST, "holds a checkpoint already", str(folder))
    state = _state(module)
    with module.engines.written(*_models(module).values()):
        if rank() == 0:
            with appearing(folder) as part:
                for name, model in _models(module).items():
                    model.save(part / name)
                # Through a file of our own, since torch's does not say what went wrong.
                with (part / "trainer.pt").open("wb") as out:
                    torch.save(state, out)
    wait()


def _state(module: CooperModule) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "step": module.rl_step,
        "optimizers": [module.engines[name].optimizer_state() for name in module.updaters],
        "updaters": {name: u.state_dict() for name, u in module.updaters.items()},
        "generators": {name: g.get_state() for name, g in module.generators.items()},
        "position": module.stream.position if module.stream is not None else 0,
        "reward_data": module.reward_data.state_dict(),
        # Of each process.
        "global_generators": gathered(_global_generators(module.device)),
        "parts": gathered(parts_state(module)),
    }


def _parts(module: CooperModule) -> dict[str, Any]:
    """The parts with something to save, those of a user's own and callbacks', by their name."""
    parts: dict[str, Any] = {
        **module.attached,
        "reward": module.reward,
        "verifier": module.verifier,
        "sampler": module.sampler,
        "negatives": module.pairs.negatives,
    }
    return {
        name: part
        for name, part in parts.items()
        if callable(getattr(part, "state_dict", None))
        and callable(getattr(part, "load_state_dict", None))
    }


def parts_state(module: CooperModule) -> dict[str, Any]:
    """What the user's parts save: ``state_dict()`` of those that have it and load_state_dict().

    Raises:
        CheckpointError: a state holds what could only be loaded by running code from the file.
    """
    states = {name: part.state_dict() for name, part in _parts(module).items()}
    for name, state in states.items():
        if (found := _not_plain(state)) is not None:
            raise CheckpointError(
                f"{name}: state_dict() of {type(_parts(module)[name]).__name__} holds a "
                f"{type(found).__module__}.{type(found).__name__}; give tensors, numbers, texts, "
                "and lists, tuples and dictionaries of them"
            )
    return states


def _not_plain(value: Any) -> Any:
    """The first value that is no plain data, or None."""
    if isinstance(value, dict):
        inside = [*value.keys(), *value.values()]
    elif type(value) in (list, tuple):
        inside = list(value)
    else:
        plain = value is None or type(value) in (bool, int, float, str, bytes)
        return None if plain or isinstance(value, Tensor) else value
    return next((found for item in inside if (found := _not_plain(item)) is not None), None)


def _global_generators(device: torch.device) -> dict[str, Any]:
    """What parts that are not ours draw from: dropout, for one."""
    numpy_state: Any = np.random.get_state()
    name, keys, *rest = numpy_state
    states: dict[str, Any] = {
        "cpu": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.tensor(keys.astype(np.int64)), *rest),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


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
    load_weights(module, folder)
    for name, updater in module.updaters.items():
        updater.load_state_dict(state["updaters"][name])
    for (name, updater), scheduler, saved in zip(
        module.updaters.items(), as_list(module.lr_schedulers()), state["optimizers"], strict=True
    ):
        # The running means go on; rates, decays and schedule are those of this run's settings,
        # which are the checkpoint's own unless the user changed them.
        module.engines[name].load_optimizer_state(saved)
        set_schedule(scheduler, updater.steps)
    for name, rng in module.generators.items():
        rng.set_state(state["generators"][name])
    if module.stream is not None:
        module.stream.position = state["position"]
    module.reward_data.load_state_dict(state["reward_data"])
    # There may be more processes now than there were.
    globals_, parts = (
        state[key][min(rank(), len(state[key]) - 1)] for key in ("global_generators", "parts")
    )
    _restore_global_generators(globals_, module.device)
    for name, part in _parts(module).items():
        if name in parts:  # else the run goes on with a part that it did not begin with
            part.load_state_dict(parts[name])
    module.rl_step = state["step"]


def load_weights(module: CooperModule, folder: Path) -> None:
    """Put a checkpoint's weights into a module, for use without training.

    Raises:
        CheckpointError: they are missing, broken, or of another model.
    """
    for name, model in _models(module).items():
        engine = module.engines.get(name)
        with engine.loading() if engine is not None else contextlib.nullcontext():
            model.weights.load(folder / name)


def _restore_global_generators(states: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def read_state(folder: Path) -> dict[str, Any]:
    """Read ``trainer.pt`` without running code from it.

    Raises:
        CheckpointError: missing, broken, or written by another version.
    """
    path = folder / "trainer.pt"
    try:
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read ({first}); use an earlier step") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path}: format {state.get('format') if isinstance(state, dict) else None} where "
            f"{_FORMAT} is needed; it was written by another version of cooper"
        )
    return state
