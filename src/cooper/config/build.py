"""Build the parts of a run from a checked configuration: the only instantiate() calls."""

from __future__ import annotations

import copy
import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf

from cooper.annotation import LABELLED, HybridAnnotation, read_labelled
from cooper.config.validate import needs_reward_model, one_line
from cooper.data.jsonl import JsonlProblems
from cooper.data.prompts import PromptBuilder
from cooper.data.stream import ProblemStream, require_batch
from cooper.errors import ConfigError, CooperError, DataError
from cooper.evaluation import Evaluator
from cooper.fitting import placed
from cooper.models import (
    Policy,
    RewardModel,
    load_causal_lm,
    load_reward_model,
    load_tokenizer,
)
from cooper.models.sources import FirstStage, Pretrained, WarmStarted
from cooper.module import CooperModule
from cooper.pairs import PairBuilder
from cooper.reward_training import RewardTraining
from cooper.rewards import Reward
from cooper.samplers import Sampler
from cooper.stages import StageCache
from cooper.types import Problem, SamplingParams
from cooper.verifiers.base import Verifier
from cooper.warm_start import WarmStart


def instantiate(node: Any, key: str, **provided: Any) -> Any:
    """Build one component; whatever goes wrong names its key.

    Args:
        node: with a ``_target_``.
        key: its dotted name.
        **provided: keywords that the run gives.

    Raises:
        ConfigError: the component refuses its values.
    """
    try:
        return hydra.utils.instantiate(node, _convert_="all", **provided)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, CooperError):
            raise cause from error
        text = one_line(cause or error)
        raise ConfigError(text if key in text else f"{key}: {text}") from error


def plain(node: Any) -> Any:
    """A part of the configuration as plain Python values, interpolations resolved."""
    if isinstance(node, (DictConfig, ListConfig)):
        return OmegaConf.to_container(node, resolve=True)
    return node


@dataclass
class Run:
    """Everything a training run is made of."""

    module: CooperModule
    stream: ProblemStream
    evaluator: Evaluator
    val: dict[str, Sequence[Problem]]
    test: dict[str, Sequence[Problem]]
    closers: list[Any] = field(default_factory=list)
    stage_seconds: dict[str, float] = field(default_factory=dict)  # CPU seconds by stage
    notes: list[str] = field(default_factory=list)

    def close(self) -> None:
        """Give processes and engines back."""
        for part in self.closers:
            part.close()


class RunBuilder:
    """Builds a run, stage by stage.

    Args:
        cfg: checked by :func:`cooper.config.validate.validate`.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.trainer = trainer_settings(cfg)
        self.cache = StageCache(cfg.paths.cache_dir, cfg.paths.use_cache)
        self.stage_seconds: dict[str, float] = {}

    def build(self) -> Run:
        """Data first, then verifiers, then models: what is cheap to get wrong fails first.

        Raises:
            CooperError: something that the user can mend.
        """
        cfg = self.cfg
        train = self.problems(cfg.data.train, "data.train")
        val = self.sets(cfg.data.val, "data.val")
        test = self.sets(cfg.data.test, "data.test")
        require_batch(train, cfg.data.problems_per_step)
        self.verifier: Verifier = instantiate(cfg.verifier, "verifier")
        self.sampler: Sampler = instantiate(cfg.sampler, "sampler")
        self.sampling = SamplingParams(**plain(cfg.sampling))
        reward: Reward = instantiate(cfg.reward, "reward")
        negatives = instantiate(cfg.negatives, "negatives")
        pairs: PairBuilder = instantiate(
            cfg.pairs, "pairs", verifier=self.verifier, negatives=negatives
        )
        objective = instantiate(cfg.algorithm, "algorithm")
        reward_objective = instantiate(cfg.reward_objective, "reward_objective")
        optimizers = {
            name: instantiate(cfg[name], name)
            for name in ("policy_optimizer", "reward_model_optimizer")
        }
        evaluator = self.evaluator()

        # Everything that may refuse its settings comes before the first stage, which takes long.
        policy_source = self.source("policy", (Pretrained, WarmStarted))
        reward_model, reward_source = None, None
        if reward.needs_model:
            reward_source = self.source("reward_model", (Pretrained, FirstStage))
        warm_start = self.stage_part("warm_start", isinstance(policy_source, WarmStarted), train)
        first_stage = isinstance(reward_source, FirstStage)
        annotation = self.stage_part("annotation", first_stage, train)
        reward_training = self.stage_part("reward_training", first_stage, None)
        if isinstance(reward_source, Pretrained):
            reward_model = self.reward_model(reward_source)

        if warm_start is not None:
            policy_source = self.run_warm_start(warm_start)
        policy = self.policy(policy_source)
        prompts = self.prompts(policy)
        if first_stage:
            labels = self.run_annotation(annotation, policy_source, policy, prompts)
            source = self.run_reward_training(
                reward_training, labels, annotation.judge, policy_source
            )
            reward_model = self.reward_model(source)
        notes = []
        train, dropped = (
            prompts.fitting(train, "data.train") if cfg.prompt.max_tokens else (train, 0)
        )
        if dropped:
            notes.append(
                f"data.train: {dropped} problems dropped, their prompts are longer than "
                f"prompt.max_tokens={cfg.prompt.max_tokens}"
            )
        stream = ProblemStream(train, cfg.data.problems_per_step, cfg.trainer.max_steps, cfg.seed)
        reference = None
        if objective.kl_coef > 0:
            reference = Policy(
                copy.deepcopy(policy.model), policy.tokenizer, cfg.sampling.temperature
            )
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
        )
        return Run(
            module=module,
            stream=stream,
            evaluator=evaluator,
            val=val,
            test=test,
            closers=[self.verifier, evaluator.verifier, negatives, self.sampler],
            stage_seconds=self.stage_seconds,
            notes=notes,
        )

    # ------------------------------------------------------------------ data

    def problems(self, node: Any, key: str) -> Sequence[Problem]:
        """Problems of a component or a file.

        Raises:
            DataError: there are none.
        """
        if isinstance(node, str):
            return JsonlProblems(
                node, self.cfg.data.question_column, self.cfg.data.reference_column
            )
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise ConfigError(f"{key}={node}: give a JSON Lines file or a component with _target_")
        found = instantiate(node, key)
        if not len(found):
            raise DataError(f"{key}: the data set is empty; at least one problem is needed")
        return found

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
        settings.pop("every")
        settings.pop("verifier")
        params = SamplingParams(
            max_new_tokens=settings.pop("max_new_tokens"),
            temperature=settings.pop("temperature"),
            top_p=settings.pop("top_p"),
        )
        return Evaluator(
            verifier=instantiate(self.cfg.evaluation.verifier, "evaluation.verifier"),
            sampler=self.sampler,
            sampling=params,
            seed=self.cfg.seed,
            **settings,
        )

    # ------------------------------------------------------------------ models and their stages

    def stage(self, name: str, settings: Mapping[str, Any], build: Any) -> Path:
        """Take a stage from the cache or build it, and note its CPU seconds."""
        began = time.process_time()
        folder = self.cache.folder(name, settings, build)
        self.stage_seconds[name] = round(time.process_time() - began, 1)
        return folder

    @staticmethod
    def content(source: Pretrained) -> dict[str, Any]:
        """Everything about a model's origin that decides what a stage makes of it."""
        return {**dataclasses.asdict(source), "path": content_of(source.path)}

    def source(self, key: str, kinds: tuple[type, ...]) -> Any:
        """Where a model comes from.

        Raises:
            ConfigError: the component is no such source.
        """
        source = instantiate(self.cfg[key], key)
        if not isinstance(source, kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise ConfigError(
                f"{key}._target_={self.cfg[key]._target_}: gives no {names}; use a file of "
                f"conf/{key}"
            )
        return source

    def stage_part(self, key: str, used: bool, problems: Sequence[Problem] | None) -> Any:
        """Build the component of a stage, or nothing where the run has no such stage.

        Raises:
            ConfigError: the stage is needed and has no component.
        """
        if not used:
            return None
        if self.cfg[key] is None:
            raise ConfigError(f"{key}=null: this run has that stage; choose an option of {key}")
        provided = {} if problems is None else {"problems": problems}
        return instantiate(self.cfg[key], key, **provided)

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

    def policy(self, source: Pretrained) -> Policy:
        """Load the policy, weights in float32."""
        model = load_causal_lm(
            source.path,
            revision=source.revision,
            attn_implementation=source.attn_implementation,
            trust_remote_code=source.trust_remote_code,
        )
        tokenizer = load_tokenizer(
            source.path,
            revision=source.revision,
            trust_remote_code=source.trust_remote_code,
            key="policy.path",
        )
        return Policy(model, tokenizer, self.cfg.sampling.temperature)

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
                labelled=read_labelled(labels / LABELLED),
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

    def reward_model(self, source: Pretrained) -> RewardModel:
        """Load the reward model with its own tokenizer."""
        model = load_reward_model(
            source.path,
            revision=source.revision,
            attn_implementation=source.attn_implementation,
            trust_remote_code=source.trust_remote_code,
        )
        tokenizer = load_tokenizer(
            source.path,
            revision=source.revision,
            trust_remote_code=source.trust_remote_code,
            key="reward_model.path",
        )
        return RewardModel(model, tokenizer)


def content_of(node: Any) -> Any:
    """A path together with names, sizes and times of its files: new content is another stage."""
    if not isinstance(node, str) or not Path(node).expanduser().exists():
        return node
    path = Path(node).expanduser()
    files = [path] if path.is_file() else sorted(f for f in path.iterdir() if f.is_file())
    return [str(path), *([f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files)]


def trainer_settings(cfg: DictConfig) -> dict[str, Any]:
    """What every Lightning Trainer of the run is given."""
    return {
        "accelerator": cfg.trainer.accelerator,
        "devices": cfg.trainer.devices,
        "precision": cfg.trainer.precision,
    }


def build_callbacks(cfg: DictConfig) -> list[Any]:
    """The user's own callbacks."""
    nodes = cast(Mapping[str, Any], cfg.callbacks or {})
    return [instantiate(nodes[name], f"callbacks.{name}") for name in nodes]


def build_loggers(cfg: DictConfig) -> list[Any]:
    """The logger of the run, or none."""
    if cfg.logger is None or cfg.logger.get("_target_") is None:
        return []
    return [instantiate(cfg.logger, "logger")]


__all__ = [
    "Run",
    "RunBuilder",
    "build_callbacks",
    "build_loggers",
    "instantiate",
    "needs_reward_model",
    "plain",
    "trainer_settings",
]
