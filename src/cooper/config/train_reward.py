"""One training of a reward model by itself, from a composed configuration to its folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict

from cooper.annotation import LABELLED
from cooper.checkpoints import appearing
from cooper.collectives import from_first, rank
from cooper.config.build import (
    RunBuilder,
    build_loggers,
    check_trainer,
    instantiate,
    strategy_settings,
    trainer_settings,
)
from cooper.config.train import beside, require_alike, settle
from cooper.config.validate import (
    check_parts,
    check_writable,
    is_target,
    relevant,
    require,
    shared_rules,
    shown,
)
from cooper.data.labelled import read_labelled, require_both, to_row
from cooper.environment import cpu_seconds, environment, peak_memory_mb
from cooper.errors import CheckpointError, DataError
from cooper.files import write_atomically
from cooper.models import (
    RewardModel,
    load_causal_lm,
    load_reward_model,
    load_tokenizer,
)
from cooper.models.adapters import Adapter
from cooper.models.loading import check_vocabulary
from cooper.models.reward_heads import ImplicitHead, RewardHead
from cooper.models.reward_model import RECORD, attach_reference, recorded_form
from cooper.models.reward_template import RewardTemplate
from cooper.models.sources import Pretrained
from cooper.reward_training import RewardTraining
from cooper.rng import seed_globals
from cooper.run_folder import RunFolder
from cooper.types import LabelledCompletion
from cooper.verifiers.base import Verifier

EXPORT, HELDOUT = "reward_model", "heldout.jsonl"  # in the run's folder


def train_reward(cfg: DictConfig) -> int:
    """Run it.

    Args:
        cfg: composed by Hydra.

    Returns:
        the exit code.

    Raises:
        CooperError: something that the user can mend.
    """
    check(cfg)
    require_alike(cfg)
    path = from_first(new_folder(cfg).path if rank() == 0 else Path())
    folder = beside(cfg, path) if rank() else RunFolder(path)
    settle(cfg)
    with contextlib.ExitStack() as closing:
        parts = build(cfg, closing)
        closing.enter_context(folder.claimed())
        print(f"run folder: {folder.path}", flush=True)
        folder.describe(OmegaConf.to_yaml(cfg, resolve=True), environment(), 0)
        for note in parts.notes:
            print(note, flush=True)
        if rank():
            fit(cfg, parts, folder)
            return 0
        rows = (json.dumps(to_row(item), ensure_ascii=False) + "\n" for item in parts.heldout)
        write_atomically(folder.path / HELDOUT, "".join(rows).encode("utf-8", "surrogatepass"))
        status, measured = "failed", {}
        try:
            measured = fit(cfg, parts, folder)
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            summary = {
                "name": cfg.name,
                "status": status,
                "seed": cfg.seed,
                "heldout": measured,
                "rows": parts.counts,
                "stage_cpu_seconds": parts.stage_seconds,
                "cpu_seconds": round(cpu_seconds(), 1),
                "peak_memory_mb": round(peak_memory_mb()),
            }
            write_atomically(folder.summary, json.dumps(summary, indent=1).encode())
    tell(measured, folder)
    return 0


def check(cfg: DictConfig) -> None:
    """Check the configuration before any weight is loaded.

    Raises:
        ConfigError: the first rule that is broken.
    """
    check_parts(cast(DictConfig, OmegaConf.create(OmegaConf.to_container(cfg))))
    given = cfg.data.train is not None
    require(
        [
            (
                given or cfg.backbone.path is None,
                f"backbone.path={cfg.backbone.path}: without data.train it trains on the embedded "
                "task, which has a backbone of its own; give data.train=FILE too",
            ),
            (
                not given or cfg.backbone.path is not None,
                f"data.train={cfg.data.train}: these completions need a model to train; give "
                "backbone.path=FOLDER_OR_HUB_ID",
            ),
            (
                cfg.export.form in ("merged", "adapter"),
                f"export.form={cfg.export.form}: must be merged (a whole model) or adapter",
            ),
            (
                cfg.export.form == "merged" or is_target(cfg.adapter, "LoraAdapter"),
                f"export.form={cfg.export.form}: adapter={shown(cfg.adapter)} trains all weights; "
                "give adapter=lora, or export.form=merged",
            ),
            (
                not given or not cfg.embedded,
                f"embedded={list(cfg.embedded)}: is for the embedded task, and data.train gives "
                "other completions; leave it out",
            ),
            (
                cfg.data.max_characters >= 0,
                f"data.max_characters={cfg.data.max_characters}: 0 (no limit) or more",
            ),
            *(
                (OmegaConf.select(cfg, key) != "", f"{key}='': is empty; leave it out")
                for key in ("data.train", "data.heldout", "backbone.path")
            ),
            *shared_rules(cfg),
        ]
    )


def new_folder(cfg: DictConfig) -> RunFolder:
    """The run's folder; nothing is written yet.

    Raises:
        CheckpointError: it holds a run already.
        ConfigError: it cannot be written.
    """
    given = cfg.paths.run_dir
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f")[:-3]
    folder = RunFolder(given or Path(cfg.paths.root).expanduser() / cfg.name / now)
    if folder.metrics.exists() or folder.config.exists():
        raise CheckpointError(
            f"paths.run_dir={given}: holds a run already, and this training cannot go on with one; "
            "give another folder, or remove it"
        )
    check_writable("paths.run_dir", folder.path)
    with open_dict(cfg):
        cfg.paths.run_dir = str(folder.path)
    return folder


@dataclass
class Parts:
    """What a training is made of."""

    training: RewardTraining
    adapter: Adapter
    reward_model: RewardModel
    items: list[LabelledCompletion]
    heldout: list[LabelledCompletion]
    rule: Verifier | None
    judge: Verifier | None = None
    loggers: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=dict)


def build(cfg: DictConfig, closing: contextlib.ExitStack) -> Parts:
    """Data first, then models: what is cheap to get wrong fails first.

    Args:
        cfg: checked.
        closing: takes what gives processes back.

    Raises:
        CooperError: something that the user can mend.
    """
    check_trainer(cfg, [])
    training = instantiate(cfg.reward_training, "reward_training", RewardTraining)
    adapter = instantiate(cfg.adapter, "adapter", Adapter)
    head = instantiate(cfg.reward_head, "reward_head", RewardHead)
    template = instantiate(cfg.reward_template, "reward_template", RewardTemplate)
    loggers = build_loggers(cfg, 0)
    rule = None
    if training.swapped_share:
        rule = instantiate(cfg.verifier, "verifier", Verifier)
        closing.callback(rule.close)
    notes: list[str] = []
    counts: dict[str, int] = {}
    stage_seconds: dict[str, float] = {}
    judge = None
    given = None
    if cfg.data.heldout is not None:
        given = labelled(cfg, "heldout", head.per_step, notes, counts)
    if cfg.data.train is None:
        source, items, judge = embedded(cfg, closing, head, stage_seconds)
    else:
        items = labelled(cfg, "train", head.per_step, notes, counts)
        source = Pretrained(**{str(k): v for k, v in cfg.backbone.items()})
    if given is None:
        items, heldout = training.split(items, cfg.seed)
    else:
        items, heldout = apart(items, given, notes, counts), given
    counts |= {"train": len(items), "heldout": len(heldout)}
    reward_model = backbone(source, head, template, cfg.seed, notes)
    training.check(reward_model, items, heldout)
    return Parts(
        training, adapter, reward_model, items, heldout, rule, judge, loggers, notes, counts,
        stage_seconds,
    )  # fmt: skip


def labelled(
    cfg: DictConfig, name: str, steps: bool, notes: list[str], counts: dict[str, int]
) -> list[LabelledCompletion]:
    """Labelled completions of a file, without those that are too long.

    Raises:
        DataError: they cannot be read, or nothing is left of one kind.
    """
    path, longest = cfg.data[name], cfg.data.max_characters
    split = cfg.data.split if name == "train" else cfg.data.heldout_split
    found = read_labelled(path, split=split, skip_bad=cfg.data.skip_bad, steps=steps)
    if found.skipped:
        notes.append(f"{path}: {found.skipped} rows skipped; the first: {found.first_skipped}")
    items = [
        item
        for item in found.items
        if not longest or len(item.question + item.reference + item.completion) <= longest
    ]
    dropped = len(found.items) - len(items)
    if dropped:
        notes.append(f"{path}: {dropped} rows dropped, longer than data.max_characters={longest}")
        if not items:
            raise DataError(
                f"{path}: no row is left, all {dropped} are longer than data.max_characters="
                f"{longest}; raise it"
            )
        require_both(path, items)
    counts |= {f"{name}_skipped": found.skipped, f"{name}_too_long": dropped}
    return items


def apart(
    items: Sequence[LabelledCompletion],
    heldout: Sequence[LabelledCompletion],
    notes: list[str],
    counts: dict[str, int],
) -> list[LabelledCompletion]:
    """Leave out of the training what asks a held-out question."""
    asked = {item.question for item in heldout}
    kept = [item for item in items if item.question not in asked]
    counts["shares_heldout_question"] = len(items) - len(kept)
    if len(kept) < len(items):
        notes.append(
            f"data.train: {len(items) - len(kept)} rows dropped, data.heldout has their questions"
        )
    return kept


def embedded(
    cfg: DictConfig, closing: contextlib.ExitStack, head: RewardHead, seconds: dict[str, float]
) -> tuple[Pretrained, list[LabelledCompletion], Verifier]:
    """Policy, labels and judge of the embedded task: cooper-train's own first two stages.

    Raises:
        DataError: the head needs what they do not give.
    """
    if head.per_step:
        raise DataError(
            f"reward_head={head.name}: needs step labels, and the embedded task has none; give "
            "data.train=FILE with the column step_labels, or another reward_head"
        )
    stages = compose(
        "train",
        [
            f"seed={cfg.seed}",
            f"quiet={cfg.quiet}",
            f"trainer.threads={cfg.trainer.threads}",
            *(f"trainer.{name}={value}" for name, value in trainer_settings(cfg).items()),
            *cfg.embedded,
        ],
    )
    with open_dict(stages):
        stages.paths = cfg.paths
    check_parts(relevant(stages))
    builder = RunBuilder(stages, closing)
    source, labels, judge = builder.reward_labels()
    seconds |= builder.stage_seconds
    return source, list(read_labelled(labels / LABELLED).items), judge


def backbone(
    source: Pretrained, head: RewardHead, template: RewardTemplate, seed: int, notes: list[str]
) -> RewardModel:
    """Load what is trained, under the template and the head that were chosen.

    Raises:
        ModelError: it cannot be loaded, or does not fit the head.
    """
    key = "backbone.path"
    options: dict[str, Any] = {"attn_implementation": source.attn_implementation}
    origin: dict[str, Any] = {
        "revision": source.revision,
        "trust_remote_code": source.trust_remote_code,
        "key": key,
    }
    tokenizer = load_tokenizer(source.path, **origin)
    if isinstance(head, ImplicitHead):
        model = load_causal_lm(source.path, **origin, **options)
        if head.reference is None:
            local = Path(source.path).expanduser()
            head.reference = str(local.resolve()) if local.is_dir() else source.path
            head.reference_revision = source.revision
        attach_reference(head, source.path, key, **options)
    else:
        model = load_reward_model(source.path, new_head_seed=seed, **origin, **options)
    check_vocabulary(model, tokenizer, source.path, key)
    before = recorded_form(model.config, source.path)
    if before is not None:
        if (before[0], before[1].record()) != (template, head.record()):
            notes.append(f"{key}={source.path}: was trained with another template or head")
        setattr(model.config, RECORD, None)  # it is trained anew, under the chosen ones
    return RewardModel(model, tokenizer, template, head=head)


def fit(cfg: DictConfig, parts: Parts, folder: RunFolder) -> dict[str, float]:
    """Train, and write the model; its folder appears when it is whole.

    Raises:
        KeyboardInterrupt: Ctrl-C; no model is written.
    """

    def log(step: int, metrics: Mapping[str, float]) -> None:
        folder.append_metrics(step, metrics)

    seed_globals(cfg.seed, "reward_model")
    mend = "make room or give the folder back, and run the training again"
    # Of the first process alone.
    export = contextlib.nullcontext(Path())
    with export if rank() else appearing(folder.path / EXPORT, mend=mend) as part:
        return parts.training.run(
            part,
            labelled=parts.items,
            reward_model=parts.reward_model,
            rule=parts.rule,
            judge=parts.judge,
            seed=cfg.seed,
            trainer={**strategy_settings(cfg), "logger": parts.loggers or False},
            heldout=parts.heldout,
            adapter=parts.adapter,
            log=log,
            merge=cfg.export.form == "merged",
        )


def tell(measured: Mapping[str, float], folder: RunFolder) -> None:
    """Say how good it is and where it lies."""
    if "auroc" in measured:
        print(
            f"held out: accuracy {measured['accuracy']:.3f}, AUROC {measured['auroc']:.3f} on "
            f"{measured['examples']:.0f} completions, after {measured['kept_step']:.0f} of "
            f"{measured['steps']:.0f} steps"
        )
    print(f"reward model: {folder.path / EXPORT}", flush=True)
