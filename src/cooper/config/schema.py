"""The typed root of the configuration: an unknown key or a value of the wrong type is an error.

Parts with a ``_target_`` are open here; their keywords are checked against the target's signature
by :mod:`cooper.config.validate`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class Paths:
    """Where things stand on disk."""

    root: str = "runs"
    run_dir: str | None = None
    cache_dir: str = "~/.cache/cooper"
    use_cache: bool = True


@dataclass
class Sampling:
    """How rollouts are drawn."""

    max_new_tokens: int = 3072
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: list[str] = field(default_factory=list)


@dataclass
class Prompt:
    """How a question becomes a prompt."""

    system_prompt: str | None = None
    instruction: str | None = None
    max_tokens: int = 1024
    template: dict[str, Any] = field(default_factory=dict)


@dataclass
class Data:
    """Problems: a component, a file, a folder, a hub id, or names with either."""

    train: Any = MISSING
    val: Any = MISSING
    test: Any = None
    labelled: str | None = None
    heldout: str | None = None
    problems_per_step: int = 512
    question_column: str | None = None
    reference_column: str | None = None
    drop_overlap: str | None = None  # None: not looked for
    drop_duplicates: bool = False


@dataclass
class Trainer:
    """Length and hardware of the run."""

    max_steps: int = 180
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: str = "32-true"
    threads: int = 0
    max_skips: int = 5


@dataclass
class Evaluation:
    """Evaluation; nothing in training reads its verifier."""

    verifier: Any = MISSING
    every: int = 10
    test_last: int = 1
    samples: int = 8
    temperature: float = 0.7
    top_p: float = 0.95
    max_new_tokens: int = 3072
    greedy: bool = True
    breakdown: str | None = None
    batch_size: int = 64


@dataclass
class RolloutLogging:
    """Which rollouts are written down."""

    keep: int = 64
    every: int = 1


@dataclass
class Checkpoints:
    """When checkpoints are taken."""

    every: int = 10
    keep_last: int = 1


@dataclass
class Export:
    """How both models are written at the end, and whether they go to the hub."""

    form: str = "merged"
    push_to_hub: str | None = None
    private: bool = True


@dataclass
class MonitorAlarms:
    """Thresholds of the monitor's rules; null switches a rule off."""

    divergence: float | None = 0.1
    gap: float | None = 0.25
    gap_trend: float | None = 0.2
    false_positives: float | None = 0.75
    auroc: float | None = 0.55
    heldout_auroc: float | None = 0.1
    tricks: float | None = 0.2
    length: float | None = 0.5
    entropy: float | None = 0.2
    kl: float | None = 0.2


@dataclass
class Monitor:
    """The reward-hacking monitor."""

    enabled: bool = True
    window: int = 10
    smooth: int = 5
    cooldown: int = 10
    every: int = 20
    examples: int = 128
    old_pairs: int = 32
    action: str = "none"
    extra_inner_steps: int = 1
    alarms: MonitorAlarms = field(default_factory=MonitorAlarms)


@dataclass
class ModelLayout:
    """Whether all models share one frozen base."""

    shared: bool = False


@dataclass
class TrainConfig:
    """One run of cooper-train."""

    name: str = "run"
    seed: int = 0
    ckpt_path: str | None = None
    trace: bool = False
    quiet: bool = False
    group_size: int = 16
    paths: Paths = field(default_factory=Paths)
    policy: Any = MISSING
    reward_model: Any = MISSING
    model: ModelLayout = field(default_factory=ModelLayout)
    policy_adapter: Any = MISSING
    reward_model_adapter: Any = MISSING
    warm_start: Any = None
    annotation: Any = None
    reward_training: Any = None
    reward: Any = MISSING
    verifier: Any = MISSING
    negatives: Any = MISSING
    pairs: Any = MISSING
    sampler: Any = MISSING
    sampling: Sampling = field(default_factory=Sampling)
    prompt: Prompt = field(default_factory=Prompt)
    algorithm: Any = MISSING
    reward_objective: Any = MISSING
    policy_optimizer: Any = MISSING
    reward_model_optimizer: Any = MISSING
    data: Data = field(default_factory=Data)
    trainer: Trainer = field(default_factory=Trainer)
    strategy: Any = None
    evaluation: Evaluation = field(default_factory=Evaluation)
    rollouts: RolloutLogging = field(default_factory=RolloutLogging)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    export: Export = field(default_factory=Export)
    monitor: Monitor = field(default_factory=Monitor)
    callbacks: Any = None
    logger: Any = None


@dataclass
class Plan:
    """What cooper-plan alone is told."""

    gpu: str | None = None
    memory: float | None = None
    strategy: str | None = None
    gpus: int | None = None
    longest_prompt: int | None = None
    longest_row: int | None = None
    mean_prompt: int | None = None
    mean_completion: int | None = None
    json: str | None = None


@dataclass
class PlanConfig(TrainConfig):
    """A run of cooper-train that is planned, not run."""

    plan: Plan = field(default_factory=Plan)


@dataclass
class Hardware:
    """What a supervised training runs on."""

    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: str = "32-true"
    threads: int = 0


@dataclass
class Backbone:
    """The model that becomes the reward model."""

    path: str | None = None
    revision: str | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False


@dataclass
class Labelled:
    """Labelled completions."""

    train: str | None = None
    split: str | None = None
    heldout: str | None = None
    heldout_split: str | None = None
    max_characters: int = 0
    skip_bad: bool = False


@dataclass
class RewardExport:
    """How the trained reward model is written."""

    form: str = "merged"


@dataclass
class TrainRewardConfig:
    """One run of cooper-train-reward."""

    name: str = "reward_model"
    seed: int = 0
    quiet: bool = False
    paths: Paths = field(default_factory=Paths)
    data: Labelled = field(default_factory=Labelled)
    embedded: list[str] = field(default_factory=list)
    backbone: Backbone = field(default_factory=Backbone)
    reward_head: Any = MISSING
    reward_template: Any = MISSING
    adapter: Any = MISSING
    reward_training: Any = MISSING
    verifier: Any = MISSING
    trainer: Hardware = field(default_factory=Hardware)
    strategy: Any = None
    export: RewardExport = field(default_factory=RewardExport)
    logger: Any = None


@dataclass
class AnnotationData:
    """The rows of cooper-annotate."""

    path: str = MISSING
    split: str | None = None
    revision: str | None = None
    skip_bad: bool = False
    question_column: str | None = None
    reference_column: str | None = None
    completion_column: str | None = None


@dataclass
class AnnotateConfig:
    """One run of cooper-annotate."""

    output: str = MISSING
    combine: str = "agree"
    batch_size: int = 16
    retry_failed: bool = False
    quiet: bool = False
    data: AnnotationData = field(default_factory=AnnotationData)
    completions: Any = None
    generator: Any = None
    rule: Any = MISSING
    judge: Any = None


@dataclass
class LabelledSets:
    """The labelled sets of cooper-eval-reward."""

    path: Any = MISSING
    split: str | None = None
    skip_bad: bool = False


@dataclass
class ScoringModel:
    """A reward model to evaluate."""

    path: str | None = None
    revision: str | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    batch_tokens: int = 16384
    device: str = "auto"


@dataclass
class EvalRewardConfig:
    """One run of cooper-eval-reward."""

    data: LabelledSets = field(default_factory=LabelledSets)
    output: str = "eval_reward"
    quiet: bool = False
    seed: int = 0
    reward_model: ScoringModel = field(default_factory=ScoringModel)
    verifier: Any = None
    scorers: dict[str, Any] = field(default_factory=dict)
    bootstrap: int = 1000
    length_bins: int = 4
    attacks: int = 100


@dataclass
class EvaluatedModel:
    """A policy to evaluate."""

    path: str | None = None
    revision: str | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    dtype: str = "auto"
    device: str = "auto"


@dataclass
class EvalPrompt:
    """How a question becomes a prompt; "auto": as in the run that the model comes from."""

    system_prompt: str | None = "auto"
    instruction: str | None = "auto"
    template: Any = "auto"


@dataclass
class EvalConfig:
    """One run of cooper-eval."""

    model: EvaluatedModel = field(default_factory=EvaluatedModel)
    sets: dict[str, Any] = field(default_factory=dict)
    only: list[str] | None = None
    output: str = "evaluation"
    compare: list[str] | None = None
    prompt: EvalPrompt = field(default_factory=EvalPrompt)
    verifier: Any = MISSING
    sampler: Any = MISSING
    samples: int = 8
    temperature: float = 0.7
    top_p: float = 0.95
    max_new_tokens: int = 3072
    stop: list[str] = field(default_factory=list)
    greedy: bool = True
    batch_size: int = 64
    bootstrap: int = 1000
    seed: int = 0
    threads: int = 0
    quiet: bool = False


def register(program: str = "train") -> None:
    """Make the schemas known to Hydra.

    Args:
        program: whose root is composed; "plan" reads cooper-train's with a key more.
    """
    root = PlanConfig if program == "plan" else TrainConfig
    ConfigStore.instance().store(name="train_schema", node=root)
    ConfigStore.instance().store(name="train_reward_schema", node=TrainRewardConfig)
    ConfigStore.instance().store(name="annotate_schema", node=AnnotateConfig)
    ConfigStore.instance().store(name="eval_reward_schema", node=EvalRewardConfig)
    ConfigStore.instance().store(name="eval_schema", node=EvalConfig)
