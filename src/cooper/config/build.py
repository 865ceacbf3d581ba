"""Build the parts of a run from a checked configuration."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerBase

from cooper.annotation import LABELLED, HybridAnnotation
from cooper.config.parts import instantiate, plain
from cooper.config.validate import check_writable, is_target, needs_reward_model, one_line
from cooper.data.labelled import read_labelled
from cooper.data.mixture import Mixture
from cooper.data.overlap import clean
from cooper.data.prompts import PromptBuilder
from cooper.data.stream import ProblemStream, require_batch
from cooper.data.table_problems import TableProblems
from cooper.errors import ConfigError, CooperError, DataError
from cooper.evaluation import Evaluator
from cooper.fitting import QUIET, placed
from cooper.models import (
    Policy,
    RewardModel,
    load_causal_lm,
    load_reward_model,
    load_tokenizer,
)
from cooper.models.adapters import Adapter, LoraAdapter
from cooper.models.loading import DType, check_vocabulary
from cooper.models.reward_model import NoRecord
from cooper.models.shared import share_base
from cooper.models.sources import FirstStage, Pretrained, WarmStarted
from cooper.module import CooperModule
from cooper.monitoring import MonitorSettings, Thresholds
from cooper.negatives import NegativeGenerator
from cooper.objectives import PolicyObjective, RewardObjective
from cooper.optim import OptimizerSettings
from cooper.pairs import PairBuilder
from cooper.processes import first_builds, started_by
from cooper.reward_examples import RewardData
from cooper.reward_training import RewardTraining
from cooper.rewards import Reward
from cooper.rng import seed_globals
from cooper.samplers import Sampler
from cooper.stages import StageCache
from cooper.strategies import ProcessesStrategy
from cooper.types import LabelledCompletion, Problem, SamplingParams
from cooper.verifiers.base import Verifier
from cooper.warm_start import WarmStart


@dataclass
class Run:
    """Everything a training run is made of."""

    module: CooperModule
    stream: ProblemStream
    evaluator: Evaluator
    val: dict[str, Sequence[Problem]]
    test: dict[str, Sequence[Problem]]
    callbacks: list[L.Callback] = field(default_factory=list)  # the user's own
    loggers: list[Logger] = field(default_factory=list)
    monitor: MonitorSettings | None = None
    stage_seconds: dict[str, float] = field(default_factory=dict)  # CPU seconds by stage
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)  # sizes, overlap and duplicates


class RunBuilder:
    """Builds a run, stage by stage.

    Args:
        cfg: checked by :func:`cooper.config.validate.validate`.
        closing: takes what gives processes and engines back, also when a later part fails.
        step: steps that the run has done, when it goes on with one.
    """

    def __init__(self, cfg: DictConfig, closing: ExitStack, step: int = 0) -> None:
        self.cfg = cfg
        self.step = step
        self.closing = closing
        self.trainer = trainer_settings(cfg)
        # Frozen weights need no more bits than they are computed with (METHOD's precision rule).
        half = cfg.trainer.precision == "bf16-mixed"
        self.frozen_dtype: DType = "bfloat16" if half else "float32"
        self.cache = StageCache(cfg.paths.cache_dir, cfg.paths.use_cache)
        self.stage_seconds: dict[str, float] = {}
        self.notes: list[str] = []  # what the user is told before the run begins
        self.data: dict[str, Any] = {}  # the account of the problems, where one is kept

    def build(self) -> Run:
        """Data first, then verifiers, then models: what is cheap to get wrong fails first.

        Raises:
            CooperError: something that the user can mend.
        """
        cfg = self.cfg
        callbacks, loggers = build_callbacks(cfg), build_loggers(cfg, self.step)
        check_trainer(cfg, callbacks)
        train = self.problems(cfg.data.train, "data.train")
        val = self.sets(cfg.data.val, "data.val")
        test = self.sets(cfg.data.test, "data.test")
        train = self.cleaned(train, {**val, **test})
        require_batch(train, cfg.data.problems_per_step)
        self.verifier = instantiate(cfg.verifier, "verifier", Verifier)
        self.sampler = instantiate(cfg.sampler, "sampler", Sampler)
        self.sampling = SamplingParams(**plain(cfg.sampling))
        reward = instantiate(cfg.reward, "reward", Reward)
        negatives = instantiate(cfg.negatives, "negatives", NegativeGenerator)
        pairs = instantiate(
            cfg.pairs, "pairs", PairBuilder, verifier=self.verifier, negatives=negatives
        )
        objective = instantiate(
            cfg.algorithm, "algorithm", PolicyObjective, max_tokens=cfg.sampling.max_new_tokens
        )
        reward_objective = instantiate(cfg.reward_objective, "reward_objective", RewardObjective)
        optimizers = {
            name: instantiate(cfg[name], name, OptimizerSettings)
            for name in ("policy_optimizer", "reward_model_optimizer")
        }
        monitor = monitor_settings(cfg, reward, optimizers["reward_model_optimizer"])
        policy_adapter = instantiate(cfg.policy_adapter, "policy_adapter", Adapter)
        reward_model_adapter = None
        if reward.needs_model:
            reward_model_adapter = instantiate(
                cfg.reward_model_adapter, "reward_model_adapter", Adapter
            )
        evaluator = self.evaluator()
        for part in (self.verifier, self.sampler, negatives, evaluator.verifier):
            self.closing.callback(part.close)

        # Everything that may refuse its settings comes before the first stage, which takes long.
        policy_source = self.source("policy", (Pretrained, WarmStarted))
        reward_model, reward_source = None, None
        if reward.needs_model:
            reward_source = self.source("reward_model", (Pretrained, FirstStage))
        warm_start = annotation = reward_training = None
        if isinstance(policy_source, WarmStarted):
            warm_start = instantiate(cfg.warm_start, "warm_start", WarmStart, problems=train)
        if isinstance(reward_source, FirstStage):
            annotation = instantiate(cfg.annotation, "annotation", HybridAnnotation, problems=train)
            self.closing.callback(annotation.judge.close)
            reward_training = instantiate(cfg.reward_training, "reward_training", RewardTraining)
        reward_data = None
        # A frozen reward model learns from nothing, but its held-out labels are there to measure.
        learns = reward_objective if reward.trains_model else RewardObjective()
        if isinstance(reward_source, Pretrained):
            labelled, heldout = self.labelled("labelled"), self.labelled("heldout")
            reward_data = RewardData(learns, labelled, heldout)
            if not cfg.model.shared:
                reward_model = self.reward_model(
                    reward_source, reward_model_adapter if reward.trains_model else None
                )

        if warm_start is not None:
            policy_source = self.run_warm_start(warm_start)
        policy_source = cast(Pretrained, policy_source)
        if cfg.model.shared:
            policy, reward_model = self.shared(
                policy_source, policy_adapter, cast("Pretrained | None", reward_source)
            )
        else:
            policy = self.policy(policy_source, policy_adapter)
        prompts = self.prompts(policy)
        if annotation is not None and reward_training is not None:
            labels = self.run_annotation(annotation, policy_source, policy, prompts)
            source = self.run_reward_training(
                reward_training, labels, annotation.judge, policy_source
            )
            reward_model = self.reward_model(
                source, reward_model_adapter if reward.trains_model else None
            )
            replayed = reward_training.split(read_labelled(labels / LABELLED).items, cfg.seed)
            reward_data = RewardData(learns, *replayed)
        train, dropped = (
            prompts.fitting(train, "data.train") if cfg.prompt.max_tokens else (train, 0)
        )
        if self.data:
            self.data["train"]["used"] = len(train)
            self.data["train"]["dropped"]["overlong_prompts"] = dropped
        if dropped:
            self.notes.append(
                f"data.train: {dropped} problems dropped, their prompts are longer than "
                f"prompt.max_tokens={cfg.prompt.max_tokens}"
            )
        stream = ProblemStream(train, cfg.data.problems_per_step, cfg.trainer.max_steps, cfg.seed)

        @functools.cache
        def start() -> Policy:
            """The policy as it is before the first step: reference and assistant are one."""
            frozen = policy.start()
            if policy_adapter.trains_base:
                frozen.narrow(getattr(torch, self.frozen_dtype))
            return frozen

        reference = start() if objective.kl_coef > 0 else None
        if reward_model is not None and reward.trains_model:
            negatives.bind(policy, start)
        module = CooperModule(
            policy=policy,
            reference=reference,
            reward_model=reward_model,
            prompts=prompts,
            sampler=self.sampler,
            sampling=self.sampling,
            group_size=cfg.group_size,
            verifier=self.verifier,
            reward=reward,
            pairs=pairs,
            objective=objective,
            reward_objective=reward_objective,
            policy_optimizer=optimizers["policy_optimizer"],
            reward_model_optimizer=optimizers["reward_model_optimizer"],
            max_steps=cfg.trainer.max_steps,
            max_skips=cfg.trainer.max_skips,
            seed=cfg.seed,
            stream=stream,
            reward_data=reward_data,
        )
        return Run(
            module=module,
            stream=stream,
            evaluator=evaluator,
            val=val,
            test=test,
            callbacks=callbacks,
            loggers=loggers,
            monitor=monitor,
            stage_seconds=self.stage_seconds,
            notes=self.notes,
            data=self.data,
        )

    # ------------------------------------------------------------------ data

    def problems(self, node: Any, key: str) -> Sequence[Problem]:
        """Problems of a component, a file, a folder or a data set of the hub.

        Raises:
            DataError: there are none.
        """
        if isinstance(node, str):
            return TableProblems(
                node,
                question_column=self.cfg.data.question_column,
                reference_column=self.cfg.data.reference_column,
            )
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise ConfigError(
                f"{key}={node}: give a file, a folder, a hub id, or a component with _target_"
            )
        found: Any = instantiate(node, key, object)
        for name, table in tables_in(found).items():
            if table.skipped:
                self.notes.append(
                    f"{key}{name}: {table.skipped} rows skipped; the first one: "
                    f"{table.first_skipped}"
                )
        if not (hasattr(found, "__len__") and hasattr(found, "__getitem__")):
            raise ConfigError(f"{key}={node['_target_']}: gives no sequence of problems; give one")
        if not len(found):
            raise DataError(f"{key}: the data set is empty; at least one problem is needed")
        if not isinstance(found[0], Problem):
            raise DataError(f"{key}: holds {type(found[0]).__name__}s; it has to hold Problems")
        return found

    def cleaned(
        self, train: Sequence[Problem], evaluation: Mapping[str, Sequence[Problem]]
    ) -> Sequence[Problem]:
        """The training set without what the evaluation sets hold, where that is looked for.

        Raises:
            DataError: nothing is left.
        """
        data = self.cfg.data
        if data.drop_overlap is None:
            return train
        found = clean(train, evaluation, data.drop_overlap, data.drop_duplicates)
        self.notes += found.notes
        self.data = {
            "train": {**found.report, "draws_an_epoch": getattr(train, "draws", None)},
            "evaluation": {name: len(problems) for name, problems in evaluation.items()},
        }
        return found.problems

    def labelled(self, name: str) -> list[LabelledCompletion]:
        """Labelled completions of a file of the user's, or none."""
        path = self.cfg.data[name]
        return [] if path is None else list(read_labelled(path).items)

    def sets(self, node: Any, key: str) -> dict[str, Sequence[Problem]]:
        """Named sets of problems: one file, one component, or names with either."""
        if node is None:
            return {}
        if isinstance(node, str):
            return {Path(node).stem: self.problems(node, key)}
        if isinstance(node, DictConfig) and "_target_" not in node:
            return {str(n): self.problems(node[n], f"{key}.{n}") for n in node}
        return {"val": self.problems(node, key)}

    def prompts(self, policy: Policy) -> PromptBuilder:
        """The prompt template over the policy's tokenizer."""
        return PromptBuilder(policy.tokenizer, **plain(self.cfg.prompt))

    def evaluator(self) -> Evaluator:
        """The evaluation with its own verifier."""
        settings = plain(self.cfg.evaluation)
        for name in ("every", "test_last", "verifier"):
            settings.pop(name)
        params = SamplingParams(
            max_new_tokens=settings.pop("max_new_tokens"),
            temperature=settings.pop("temperature"),
            top_p=settings.pop("top_p"),
            stop=self.sampling.stop,  # a policy that learns to be stopped is so asked
        )
        return Evaluator(
            verifier=instantiate(self.cfg.evaluation.verifier, "evaluation.verifier", Verifier),
            sampler=self.sampler,
            sampling=params,
            seed=self.cfg.seed,
            **settings,
        )

    # ------------------------------------------------------------------ models and their stages

    def stage(self, name: str, settings: Mapping[str, Any], build: Any) -> Path:
        """Take a stage from the cache or build it, and note its CPU seconds."""
        began = time.process_time()
        seed_globals(self.cfg.seed, name)
        folder = first_builds(name, lambda: self.cache.folder(name, settings, build))
        self.stage_seconds[name] = round(time.process_time() - began, 1)
        return folder

    @staticmethod
    def content(source: Pretrained) -> dict[str, Any]:
        """Everything about a model's origin that decides what a stage makes of it."""
        facts = {**dataclasses.asdict(source), "path": content_of(source.path)}
        facts.pop("gradient_checkpointing")  # changes memory and time alone
        return facts

    def source(self, key: str, kinds: tuple[type, ...]) -> Any:
        """Where a model comes from.

        Raises:
            ConfigError: the component is no such source.
        """
        source = instantiate(self.cfg[key], key, object)
        if not isinstance(source, kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise ConfigError(
                f"{key}._target_={self.cfg[key]._target_}: gives no {names}; use a file of "
                f"conf/{key}"
            )
        return source

    def run_warm_start(self, warm_start: WarmStart) -> Pretrained:
        """Stage (a)."""
        settings = {
            "warm_start": plain(self.cfg.warm_start),
            "problems": content_of(plain(self.cfg.data.train)),
            "trainer": self.trainer,
            "seed": self.cfg.seed,
            "threads": self.cfg.trainer.threads,
        }
        run = functools.partial(warm_start.run, seed=self.cfg.seed, trainer=self.trainer)
        return Pretrained(str(self.stage("warm_start", settings, run)))

    def policy(
        self, source: Pretrained, adapter: Adapter | None = None, dtype: DType | None = None
    ) -> Policy:
        """Load the policy: in float32, but for a base that an adapter leaves frozen."""
        model = load_causal_lm(
            source.path,
            revision=source.revision,
            dtype=dtype or self.dtype(adapter),
            attn_implementation=source.attn_implementation,
            trust_remote_code=source.trust_remote_code,
        )
        tokenizer = load_tokenizer(
            source.path,
            revision=source.revision,
            trust_remote_code=source.trust_remote_code,
            key="policy.path",
        )
        check_vocabulary(model, tokenizer, source.path, "policy.path")
        self.notes += lacking(tokenizer, f"policy.path={source.path}")
        policy = Policy(model, tokenizer, self.cfg.sampling.temperature)
        if adapter is not None:
            policy.adapt(adapter, self.cfg.seed)
            if source.gradient_checkpointing:
                policy.weights.checkpoint_gradients()
        return policy

    def shared(
        self, source: Pretrained, adapter: Adapter, reward: Pretrained | None
    ) -> tuple[Policy, RewardModel | None]:
        """Load one base for policy and reward model; see :mod:`cooper.models.shared`."""
        policy = self.policy(source, None, dtype=self.frozen_dtype)
        reward_model = share_base(
            policy, source.path, cast(LoraAdapter, adapter), reward, self.cfg.seed
        )
        if source.gradient_checkpointing or (reward and reward.gradient_checkpointing):
            policy.weights.checkpoint_gradients()  # of the backbone, so the reward model's too
        return policy, reward_model

    def dtype(self, adapter: Adapter | None) -> DType:
        """Of a model's own weights: trained ones are float32."""
        return "float32" if adapter is None or adapter.trains_base else self.frozen_dtype

    def run_annotation(
        self,
        annotation: HybridAnnotation,
        source: Pretrained,
        policy: Policy,
        prompts: PromptBuilder,
    ) -> Path:
        """Stage (b)."""
        cfg = self.cfg
        settings = {
            "policy": self.content(source),
            "problems": content_of(plain(cfg.data.train)),
            "columns": [cfg.data.question_column, cfg.data.reference_column],
            "trainer": self.trainer,
            "annotation": plain(cfg.annotation),
            "rule": plain(cfg.verifier),
            "sampler": plain(cfg.sampler),
            "sampling": plain(cfg.sampling),
            "prompt": plain(cfg.prompt),
            "seed": cfg.seed,
            "threads": cfg.trainer.threads,
        }

        def run(folder: Path) -> None:
            with placed(policy, self.trainer):
                annotation.run(
                    folder,
                    policy=policy,
                    prompts=prompts,
                    sampler=self.sampler,
                    sampling=self.sampling,
                    rule=self.verifier,
                    seed=cfg.seed,
                )

        return self.stage("annotation", settings, run)

    def run_reward_training(
        self, training: RewardTraining, labels: Path, judge: Verifier, source: Pretrained
    ) -> Pretrained:
        """Stage (c)."""

        def run(folder: Path) -> None:
            backbone = load_reward_model(
                source.path,
                revision=source.revision,
                attn_implementation=source.attn_implementation,
                trust_remote_code=source.trust_remote_code,
                new_head_seed=self.cfg.seed,
                key="policy.path",
            )
            tokenizer = load_tokenizer(
                source.path,
                revision=source.revision,
                trust_remote_code=source.trust_remote_code,
                key="policy.path",
            )
            training.run(
                folder,
                labelled=read_labelled(labels / LABELLED).items,
                reward_model=RewardModel(backbone, tokenizer),
                rule=self.verifier,
                judge=judge,
                seed=self.cfg.seed,
                trainer=self.trainer,
            )

        settings = {
            "labels": labels.name,
            "policy": self.content(source),
            "trainer": self.trainer,
            "reward_training": plain(self.cfg.reward_training),
            "rule": plain(self.cfg.verifier),
            "seed": self.cfg.seed,
            "threads": self.cfg.trainer.threads,
        }
        return Pretrained(str(self.stage("reward_model", settings, run)))

    def reward_model(self, source: Pretrained, adapter: Adapter | None) -> RewardModel:
        """Load the reward model with its own tokenizer, template and head.

        Args:
            source: where from.
            adapter: which of its weights are trained; None: none.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoRecord)  # a note says it instead
            model = RewardModel.from_pretrained(
                source.path,
                revision=source.revision,
                attn_implementation=source.attn_implementation,
                trust_remote_code=source.trust_remote_code,
                dtype=self.frozen_dtype if adapter is None else self.dtype(adapter),
                key="reward_model.path",
            )
        if adapter is not None:
            model.adapt(adapter, self.cfg.seed)
            if source.gradient_checkpointing:
                model.weights.checkpoint_gradients()
        if not model.recorded:
            self.notes.append(
                f"reward_model.path={source.path}: says nothing of its template and head; reads it "
                "with the published template and the scalar head"
            )
        return model

    def reward_labels(self) -> tuple[Pretrained, Path, Verifier]:
        """Stages (a) and (b) alone, for the reward model's training by itself.

        Returns:
            the warm-started policy, the folder of the labels, the judge that gave them.
        """
        cfg = self.cfg
        train = self.problems(cfg.data.train, "data.train")
        self.verifier = instantiate(cfg.verifier, "verifier", Verifier)
        self.sampler = instantiate(cfg.sampler, "sampler", Sampler)
        self.sampling = SamplingParams(**plain(cfg.sampling))
        warm_start = instantiate(cfg.warm_start, "warm_start", WarmStart, problems=train)
        annotation = instantiate(cfg.annotation, "annotation", HybridAnnotation, problems=train)
        for part in (self.verifier, self.sampler, annotation.judge):
            self.closing.callback(part.close)
        source = self.run_warm_start(warm_start)
        policy = self.policy(source)
        labels = self.run_annotation(annotation, source, policy, self.prompts(policy))
        return source, labels, annotation.judge


def monitor_settings(
    cfg: DictConfig, reward: Reward, optimizer: OptimizerSettings
) -> MonitorSettings | None:
    """What the monitor does in this run; None: there is none.

    Raises:
        ConfigError: a setting is out of its range, or the action is none for this run.
    """
    given = plain(cfg.monitor)
    if not given.pop("enabled"):
        return None
    try:
        settings = MonitorSettings(**{**given, "alarms": Thresholds(**given["alarms"])})
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if settings.action == "update_more":
        if not reward.trains_model:
            raise ConfigError(
                f"monitor.action=update_more: reward={cfg.reward._target_} trains no reward model "
                "that could be updated more; give none or stop"
            )
        if optimizer.schedule != "constant":
            raise ConfigError(
                f"monitor.action=update_more: reward_model_optimizer.schedule={optimizer.schedule} "
                "ends after a number of updates that is then not known; give constant"
            )
    return settings


def lacking(tokenizer: PreTrainedTokenizerBase, name: str) -> list[str]:
    """What a tokenizer does not bring, what is done instead, and what mends it."""
    notes: list[str] = []
    if not tokenizer.chat_template:
        notes.append(
            f"{name}: its tokenizer has no chat template; prompts are the question and a line end, "
            "as for a base model; if it was tuned on chats, give a folder with their template"
        )
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        notes.append(
            f"{name}: its tokenizer has no padding token of its own; the end-of-sequence token "
            "fills up, masked everywhere"
        )
    return notes


def tables_in(found: Any) -> dict[str, TableProblems]:
    """The tables that a data set is made of, under the end of their key."""
    parts = found.sources if isinstance(found, Mixture) else {"": found}
    return {
        f".sources.{name}" if name else "": part
        for name, part in parts.items()
        if isinstance(part, TableProblems)
    }


def content_of(node: Any) -> Any:
    """A path together with names, sizes and times of its files: new content is another stage."""
    if not isinstance(node, str) or not Path(node).expanduser().exists():
        return node
    path = Path(node).expanduser()
    files = [path] if path.is_file() else sorted(f for f in path.iterdir() if f.is_file())
    return [str(path), *([f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files)]


def trainer_settings(cfg: DictConfig) -> dict[str, Any]:
    """What the Lightning Trainers of the stages before RL are given: they run in one process."""
    return {
        "accelerator": cfg.trainer.accelerator,
        "devices": 1,
        "precision": cfg.trainer.precision,
    }


def strategy_settings(cfg: DictConfig) -> dict[str, Any]:
    """What the Trainer of the run itself is given."""
    settings = trainer_settings(cfg)
    if is_target(cfg.strategy):
        settings |= {
            "devices": cfg.trainer.devices,
            "num_nodes": cfg.trainer.num_nodes,
            "strategy": instantiate(cfg.strategy, "strategy", ProcessesStrategy),
            "plugins": [found] if (found := started_by()) else None,
        }
    return settings


def check_trainer(cfg: DictConfig, callbacks: list[L.Callback]) -> None:
    """Find out whether this machine has the accelerator, and Lightning takes the callbacks.

    Raises:
        ConfigError: it does not.
    """
    try:
        L.Trainer(**trainer_settings(cfg), **QUIET)
        if is_target(cfg.strategy):
            L.Trainer(**strategy_settings(cfg), **QUIET)
    except CooperError:
        raise
    except Exception as error:
        raise ConfigError(
            f"trainer.accelerator={cfg.trainer.accelerator}, trainer.devices="
            f"{cfg.trainer.devices}: {one_line(error).rstrip('.!')}; give cpu, or auto for what "
            "this machine has"
        ) from error
    try:
        L.Trainer(callbacks=callbacks, **trainer_settings(cfg), **QUIET)
    except Exception as error:
        raise ConfigError(f"callbacks={list(cfg.callbacks)}: {one_line(error)}") from error


def build_callbacks(cfg: DictConfig) -> list[L.Callback]:
    """The user's own callbacks."""
    nodes = cast(Mapping[str, Any], cfg.callbacks or {})
    return [instantiate(nodes[name], f"callbacks.{name}", L.Callback) for name in nodes]


def build_loggers(cfg: DictConfig, step: int = 0) -> list[Logger]:
    """The logger of the run, or none. No file is made before it logs.

    Args:
        cfg: of the run.
        step: steps that the run has done; what TensorBoard was told of later ones is void.
    """
    if not is_target(cfg.logger):
        return []
    logger = instantiate(cfg.logger, "logger", Logger)
    if step and isinstance(logger, TensorBoardLogger) and "purge_step" not in cfg.logger:
        logger = instantiate(cfg.logger, "logger", TensorBoardLogger, purge_step=step + 1)
    if logger.save_dir:
        check_writable("logger.save_dir", Path(logger.save_dir))
    if isinstance(logger, TensorBoardLogger):
        # It hands what it does not know on to a writer, which refuses it only when it first logs.
        with tempfile.TemporaryDirectory() as folder:
            trial = instantiate(cfg.logger, "logger", TensorBoardLogger, save_dir=folder)
            try:
                trial.experiment.close()
            except TypeError as error:
                raise ConfigError(f"logger: {one_line(error)}; leave it out") from error
    return [logger]


__all__ = [
    "Run",
    "RunBuilder",
    "instantiate",
    "needs_reward_model",
    "plain",
    "strategy_settings",
    "trainer_settings",
]
