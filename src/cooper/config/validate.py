"""Check a configuration before any weight is loaded.

First every ``_target_``: that it imports, that it takes the keywords given, that none it needs is
missing, that plain values have the type it names. Then the rules between fields.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import tempfile
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cooper.errors import ConfigError
from cooper.hub import check_repository

# Keywords that the run itself gives to a component, so that the file need not.
PROVIDED: dict[str, frozenset[str]] = {
    "warm_start": frozenset({"problems"}),
    "annotation": frozenset({"problems"}),
    "pairs": frozenset({"verifier", "negatives"}),
    "algorithm": frozenset({"max_tokens"}),
}
_MENDS = {
    "annotation.judge": "the first stage needs a judge: give one with _target_, or take a trained "
    "reward model with reward_model=hf reward_model.path=FOLDER_OR_HUB_ID",
    "output": "give output=FOLDER",
    "data.path": "give data.path=FILE, or the hub id of a data set",
    "data.train": "give data.train=FILE.jsonl",
    "data.train.path": "give data.train.path=HUB_ID, a folder or a file",
    "data.train.sources": "give data.train.sources='{NAME: HUB_ID_OR_FILE, ...}'",
    "data.val": "give data.val=FILE.jsonl",
    "policy.path": "give policy.path=FOLDER_OR_HUB_ID",
    "reward_model.path": "give reward_model.path=FOLDER_OR_HUB_ID of a one-label sequence "
    "classifier (`cooper-annotate` labels completions, `cooper-train-reward "
    "experiment=verifyrm_qwen` learns from them), or use reward=rule, which needs none",
}
_OWN = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def validate(cfg: DictConfig) -> None:
    """Check the whole configuration of a training run.

    Raises:
        ConfigError: one line that names the key, the value, the rule and the mend.
    """
    check_parts(relevant(cfg))
    cross_check(cfg)


def check_parts(cfg: DictConfig) -> None:
    """Check what holds for the configuration of any program: values and components.

    Args:
        cfg: without the parts that the run does not use.

    Raises:
        ConfigError: a value is missing or no finite number, or a component cannot be had.
    """
    for key in missing_keys(cfg):
        mend = _MENDS.get(key, f"give {key}=VALUE")
        raise ConfigError(f"{key}=???: a value is needed; {mend}")
    try:
        resolved = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error
    check_numbers(resolved)
    for key, node in components(cfg):
        check_component(key, node)


def check_numbers(node: Any, key: str = "") -> None:
    """Check that every number is one to count with: neither infinite nor NaN, at most 64 bits.

    Raises:
        ConfigError: one is not.
    """
    if isinstance(node, dict):
        for name, child in node.items():
            check_numbers(child, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            check_numbers(child, f"{key}[{index}]")
    elif isinstance(node, (int, float)) and not abs(node) < 2**63:
        raise ConfigError(f"{key}={node}: must be a finite number below 2^63; give such a number")


def relevant(cfg: DictConfig) -> DictConfig:
    """The configuration without stages that this run does not have."""
    active = typing.cast(DictConfig, OmegaConf.create(OmegaConf.to_container(cfg)))
    if not is_target(active.get("policy"), "WarmStarted"):
        active.warm_start = None
    if not needs_reward_model(cfg) or not is_target(active.get("reward_model"), "FirstStage"):
        active.annotation = active.reward_training = None
    if not needs_reward_model(cfg):
        active.reward_model = active.reward_model_adapter = None
    return active


def is_target(node: Any, name: str | None = None) -> bool:
    """Whether a node has a ``_target_``, one that ends with a class name where that is given."""
    target = node.get("_target_") if isinstance(node, Mapping | DictConfig) else None
    return isinstance(target, str) and name in (None, target.rsplit(".", 1)[-1])


def needs_reward_model(cfg: DictConfig) -> bool:
    """Whether the chosen reward reads a reward model's scores."""
    target = cfg.reward.get("_target_") if isinstance(cfg.reward, DictConfig) else None
    if not isinstance(target, str):
        return True
    try:
        return bool(getattr(locate(target), "needs_model", True))
    except Exception as error:
        raise ConfigError(_cannot_import("reward", target, error)) from error


def missing_keys(cfg: DictConfig) -> list[str]:
    """Dotted names of all ``???``, those that a user meets first in front."""
    order = ("data.", "policy.", "reward_model.")
    rank = {prefix: position for position, prefix in enumerate(order)}
    return sorted(
        OmegaConf.missing_keys(cfg),
        key=lambda key: (rank.get(key.split(".")[0] + ".", len(order)), key),
    )


def locate(target: str) -> Any:
    """Import what a dotted name names.

    Raises:
        ImportError: there is no such module, or nothing of that name in it.
    """
    parts = str(target).split(".")
    if not all(part.isidentifier() for part in parts):
        raise ImportError("not a dotted name")
    for split in range(len(parts), 0, -1):
        module = ".".join(parts[:split])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            # Only "this prefix is no module" may be tried again with a shorter prefix.
            if error.name is None or not (
                module == error.name or module.startswith(error.name + ".")
            ):
                raise
            if split == 1:
                raise
            continue
        for part in parts[split:]:
            if not hasattr(found, part):
                raise ImportError(f"{module} has no {part!r}")
            found = getattr(found, part)
        return found
    raise ImportError("an empty name")


def components(node: Any, key: str = "") -> Iterator[tuple[str, DictConfig]]:
    """All nodes with a ``_target_``, outer ones first, with their dotted keys."""
    if isinstance(node, DictConfig):
        if node._get_node("_target_") is not None and node.get("_target_") is not None:
            yield key, node
        for name in node:
            child = node._get_node(name)
            if isinstance(child, (DictConfig, ListConfig)):
                yield from components(child, f"{key}.{name}" if key else str(name))
    elif isinstance(node, ListConfig):
        for index, child in enumerate(node):
            yield from components(child, f"{key}[{index}]")


def check_component(key: str, node: DictConfig) -> None:
    """Check one ``_target_`` node against its target's signature.

    Raises:
        ConfigError: it does not import, takes no such keyword, misses one, or a value has the
            wrong type.
    """
    target = node["_target_"]
    try:
        found = locate(target)
    except Exception as error:
        raise ConfigError(_cannot_import(key, target, error)) from error
    if not callable(found):
        raise ConfigError(f"{key}._target_={target}: is no class or function; name one")
    try:
        signature = inspect.signature(found)
    except ValueError:
        return  # a builtin without a signature: its own call will tell
    parameters = signature.parameters
    given = [name for name in node if name not in _OWN]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for name in given:
        if name not in names and not takes_any:
            close = difflib.get_close_matches(str(name), names, n=1)
            hint = (
                f"did you mean {close[0]}?" if close else f"it takes {', '.join(names) or 'none'}"
            )
            raise ConfigError(
                f"{key}.{name}={node.get(name)}: {target} takes no keyword {name!r}; {hint}"
            )
    if not isinstance(node.get("_partial_", False), bool):
        raise ConfigError(f"{key}._partial_={node['_partial_']}: must be true or false")
    provided = PROVIDED.get(key, frozenset())
    if not node.get("_partial_", False):
        for name, parameter in parameters.items():
            needed = parameter.default is parameter.empty and name in names
            if needed and name not in given and name not in provided:
                raise ConfigError(
                    f"{key}.{name}: {target} needs this keyword; give {key}.{name}=VALUE"
                )
    hints = _hints(found)
    for name in map(str, given):
        value = node.get(name)
        plain_default = name in parameters and value == parameters[name].default
        if name in hints and not plain_default and not fits(value, hints[name]):
            rule = f"must be {_spell(hints[name])}; give {target} such a value"
            raise ConfigError(f"{key}.{name}={shown(value)}: {rule}")


def _cannot_import(key: str, target: Any, error: BaseException) -> str:
    cause = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"{key}._target_={target}: cannot be imported ({cause}); give the dotted name of a class "
        "or function that Python can import from here"
    )


def _hints(found: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(found.__init__ if inspect.isclass(found) else found)
    except (NameError, TypeError, AttributeError):
        return {}  # names that exist for type checkers only


def shown(value: Any) -> Any:
    """A value as a message shows it: a component by its target."""
    if is_target(value):
        return value["_target_"]
    return "null" if value is None else value


def kind_of(node: DictConfig) -> Any:
    """The class of what a ``_target_`` node gives, or None where that cannot be told."""
    if node.get("_target_") is None:
        return dict
    if node.get("_partial_", False):
        return functools.partial
    try:
        found = locate(node["_target_"])
    except Exception:
        return None  # its own check says it better
    kind = found if inspect.isclass(found) else _hints(found).get("return")
    return kind if inspect.isclass(kind) else typing.get_origin(kind)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value can be what a type hint says; what cannot be told passes."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if hint is type(None):
        return value is None
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin is typing.Literal:
        return value in args
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if origin is Mapping and args and not is_target(value):
        return isinstance(value, DictConfig) and all(fits(value[n], args[1]) for n in value)
    if origin in (list, tuple, Sequence) and args and not isinstance(value, DictConfig):
        if isinstance(value, str) or not isinstance(value, (ListConfig, list, tuple)):
            return False
        if origin is tuple and Ellipsis not in args:
            return len(value) == len(args) and all(map(fits, value, args))
        return all(fits(item, args[0]) for item in value)
    # Other packages' classes may have other spellings, such as a text for a path.
    if origin is Callable or getattr(hint, "__module__", "").startswith("cooper."):
        kind = kind_of(value) if isinstance(value, DictConfig) else type(value)
        return not inspect.isclass(kind) or issubclass(kind, origin or hint)
    return True


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_spell(arg) for arg in args)
    if hint is type(None):
        return "null"
    if origin in (list, tuple, Sequence) and args:
        return f"a list of {_spell(args[0])}"
    if origin is Callable:
        return "a function (_target_) with _partial_=true"
    if origin is Mapping and args:
        return f"names with {_spell(args[1])} each"
    if inspect.isclass(hint) and hint not in names:
        return f"a component (_target_) that gives {hint.__name__}"
    return names.get(hint) or getattr(hint, "__name__", str(hint))


def cross_check(cfg: DictConfig) -> None:
    """Check the rules between fields.

    Raises:
        ConfigError: the first rule that is broken.
    """
    warm_start = cfg.warm_start if is_target(cfg.policy, "WarmStarted") else None
    demonstrate = str(warm_start.demonstrate._target_) if warm_start else ""
    task = demonstrate.rsplit(".", 1)[0]
    train = cfg.data.train.get("_target_", "") if isinstance(cfg.data.train, DictConfig) else ""
    minibatches = cfg.algorithm.get("minibatches", 1) if is_target(cfg.algorithm) else 1
    adapters = [cfg.get(f"{model}_adapter", None) for model in ("policy", "reward_model")]
    rules: list[tuple[bool, str]] = [
        (
            not demonstrate or str(train).startswith(task),
            f"policy={cfg.policy._target_}: the warm start demonstrates the problems of {task}, "
            f"and data.train={train or cfg.data.train} gives others; give policy=hf "
            "policy.path=FOLDER_OR_HUB_ID",
        ),
        (
            cfg.group_size >= 2,
            f"group_size={cfg.group_size}: an advantage is relative to the other completions of "
            "the same problem; give 2 or more",
        ),
        (
            cfg.data.problems_per_step >= 1,
            f"data.problems_per_step={cfg.data.problems_per_step}: give 1 or more",
        ),
        (
            minibatches <= cfg.group_size * cfg.data.problems_per_step,
            f"algorithm.minibatches={minibatches}: a step has only group_size="
            f"{cfg.group_size} times data.problems_per_step={cfg.data.problems_per_step} "
            "completions, and no mini-batch may be empty; lower it",
        ),
        (
            cfg.data.drop_overlap in (None, "none", "benchmarks", "all"),
            f"data.drop_overlap={cfg.data.drop_overlap}: must be none, benchmarks or all; null "
            "looks for no overlap",
        ),
        *sharing_rules(cfg),
        (cfg.trainer.max_steps >= 1, f"trainer.max_steps={cfg.trainer.max_steps}: give 1 or more"),
        (cfg.trainer.max_skips >= 1, f"trainer.max_skips={cfg.trainer.max_skips}: give 1 or more"),
        (
            cfg.sampling.temperature > 0,
            f"sampling.temperature={cfg.sampling.temperature}: greedy rollouts of one problem are "
            "all alike and teach nothing; give a value above 0",
        ),
        (
            cfg.evaluation.batch_size >= 1,
            f"evaluation.batch_size={cfg.evaluation.batch_size}: give 1 or more",
        ),
        (
            0 < cfg.sampling.top_p <= 1 and 0 < cfg.evaluation.top_p <= 1,
            f"sampling.top_p={cfg.sampling.top_p}, evaluation.top_p={cfg.evaluation.top_p}: each "
            "must lie in (0, 1]",
        ),
        (
            cfg.evaluation.temperature >= 0,
            f"evaluation.temperature={cfg.evaluation.temperature}: 0 (greedy) or more",
        ),
        (
            cfg.prompt.max_tokens >= 0,
            f"prompt.max_tokens={cfg.prompt.max_tokens}: 0 (no limit) or more",
        ),
        (cfg.sampling.top_k >= 0, f"sampling.top_k={cfg.sampling.top_k}: 0 (off) or more"),
        (
            0 <= cfg.sampling.min_p < 1,
            f"sampling.min_p={cfg.sampling.min_p}: must lie in [0, 1); 0 switches it off",
        ),
        (
            all(cfg.sampling.stop),
            f"sampling.stop={list(cfg.sampling.stop)}: an empty text stops at once; leave it out",
        ),
        (
            min(cfg.sampling.max_new_tokens, cfg.evaluation.max_new_tokens) >= 1,
            f"sampling.max_new_tokens={cfg.sampling.max_new_tokens}, evaluation.max_new_tokens="
            f"{cfg.evaluation.max_new_tokens}: give 1 or more",
        ),
        (
            cfg.rollouts.keep >= -1 and cfg.rollouts.every >= 1,
            f"rollouts.keep={cfg.rollouts.keep}, rollouts.every={cfg.rollouts.every}: keep is -1 "
            "(all) or more, every 1 or more",
        ),
        (
            cfg.checkpoints.every >= 0 and cfg.checkpoints.keep_last >= 0,
            f"checkpoints.every={cfg.checkpoints.every}, checkpoints.keep_last="
            f"{cfg.checkpoints.keep_last}: 0 or more",
        ),
        (cfg.evaluation.samples >= 1, f"evaluation.samples={cfg.evaluation.samples}: 1 or more"),
        (cfg.evaluation.every >= 1, f"evaluation.every={cfg.evaluation.every}: give 1 or more"),
        (
            cfg.export.form in ("merged", "adapter"),
            f"export.form={cfg.export.form}: must be merged (whole models) or adapter",
        ),
        (
            cfg.export.form == "merged" or any(is_target(a, "LoraAdapter") for a in adapters),
            f"export.form={cfg.export.form}: no model is trained as an adapter, so there is none "
            "to write; give export.form=merged",
        ),
    ]
    require([*rules, *shared_rules(cfg)])
    if cfg.export.push_to_hub is not None:
        check_repository(cfg.export.push_to_hub)


def sharing_rules(cfg: DictConfig) -> list[tuple[bool, str]]:
    """What one base for all models asks of the rest."""
    if not cfg.model.shared:
        return []
    rules = [
        (
            is_target(cfg[key], "LoraAdapter"),
            f"{key}={shown(cfg[key])}: model=shared keeps one frozen base, so each model has to be "
            f"trained by low-rank additions; give adapter@{key}=lora, or model=separate",
        )
        for key in ("policy_adapter", "reward_model_adapter")
    ]
    if needs_reward_model(cfg):
        rules.append(
            (
                not is_target(cfg.reward_model, "FirstStage"),
                "reward_model=first_stage: trains a backbone of its own, and model=shared has one "
                "base; give reward_model=hf with the path of an adapter, or model=separate",
            )
        )
        decay = cfg.reward_objective.get("ema_decay", 0)
        rules.append(
            (
                not decay,
                f"reward_objective.ema_decay={decay}: the moving average of a reward model needs "
                "weights of its own; give 0, or model=separate",
            )
        )
    return rules


def strategy_rules(cfg: DictConfig) -> list[tuple[bool, str]]:
    """What several processes ask of the rest."""
    devices, nodes = cfg.trainer.devices, cfg.trainer.num_nodes
    count = f"trainer.devices={devices}, trainer.num_nodes={nodes}"
    rules = [(min(devices, nodes) >= 1, f"{count}: give 1 or more")]
    if not is_target(cfg.strategy):
        mend = "strategy=single has one device; choose ddp, zero1, zero2, zero3 or fsdp2"
        return [*rules, (devices == nodes == 1, f"{count}: {mend}")]
    if "problems_per_step" in cfg.data:
        problems, ranks = cfg.data.problems_per_step, devices * nodes
        rules += [
            (
                problems % max(ranks, 1) == 0,
                f"data.problems_per_step={problems}: each of {ranks} processes ({count}) draws for "
                f"as many problems; give a multiple of {ranks}",
            ),
            (
                not (cfg.model.shared and cfg.strategy.get("stage") == 3),
                f"model=shared: strategy={strategy_name(cfg)} shards the weights in an engine for "
                "each model, and these have one base; give strategy=fsdp2, which shards it, zero2, "
                "zero1 or ddp, or model=separate",
            ),
        ]
        decay = cfg.reward_objective.get("ema_decay", 0)
        rules.append(
            (
                not decay or is_target(cfg.strategy, "DataParallelStrategy"),
                f"reward_objective.ema_decay={decay}: the moving average needs the reward model's "
                "whole float32 weights on every process; give strategy=ddp, or 0",
            )
        )
    return rules


def strategy_name(cfg: DictConfig) -> str:
    """The option of the group that was chosen, for messages."""
    if is_target(cfg.strategy, "ZeroStrategy"):
        return f"zero{cfg.strategy.stage}" + "_offload" * bool(cfg.strategy.offload)
    return {"ShardedStrategy": "fsdp2", "DataParallelStrategy": "ddp"}.get(
        str(cfg.strategy._target_).rpartition(".")[2], str(cfg.strategy._target_)
    )


def shared_rules(cfg: DictConfig) -> list[tuple[bool, str]]:
    """What holds for every program that trains: (whether it does, what to say if not)."""
    texts = ("name", "ckpt_path", "paths.root", "paths.run_dir", "paths.cache_dir")
    return [
        (
            Path(cfg.name).name == cfg.name and cfg.name != "..",
            f"name={cfg.name}: names a folder under paths.root; give a name without /",
        ),
        *strategy_rules(cfg),
        (
            cfg.trainer.precision in ("32-true", "32", "bf16-mixed"),
            f"trainer.precision={cfg.trainer.precision}: trained weights stay float32, since pure "
            "16-bit weights do not move at RL's learning rates; use 32-true or bf16-mixed",
        ),
        (
            0 <= cfg.trainer.threads <= 1024,
            f"trainer.threads={cfg.trainer.threads}: 0 (torch's choice) or up to 1024",
        ),
        *(
            (
                OmegaConf.select(cfg, key, default=None) != "",
                f"{key}='': is empty; give a value, or leave it out",
            )
            for key in texts
        ),
    ]


def require(rules: Iterable[tuple[bool, str]]) -> None:
    """Check rules in their order.

    Raises:
        ConfigError: the first one that does not hold.
    """
    for holds, message in rules:
        if not holds:
            raise ConfigError(message)


def check_writable(key: str, path: Path) -> None:
    """Find out whether a folder can be made and written; nothing stays.

    Raises:
        ConfigError: it cannot.
    """
    there = path.absolute()
    try:
        while not there.exists():
            there = there.parent
        # Only a trial tells: permissions do not bind root, and some file systems ignore them.
        tempfile.TemporaryDirectory(dir=there).cleanup()
    except OSError as error:
        more = ", or another paths.root for all runs" if key.startswith("paths.") else ""
        raise ConfigError(
            f"{key}={path}: cannot be written ({there}: {error.strerror}); give another "
            f"folder{more}"
        ) from error


def one_line(error: BaseException) -> str:
    """Write an error of Hydra or OmegaConf as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    noise = ("object_type=", "reference_type=", "full_key:")
    keys = [
        line.removeprefix("full_key:").strip() for line in lines if line.startswith("full_key:")
    ]
    text = " ".join(line for line in lines if not line.startswith(noise))
    if error.__cause__ is not None and text.startswith("Error merging override"):
        text = f"{text.removeprefix('Error merging override ')}: {one_line(error.__cause__)}"
    if keys and keys[0] and keys[0] not in text:
        text = f"{keys[0]}: {text}"
    return text or type(error).__name__
