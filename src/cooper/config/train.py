"""One training run, from a composed configuration to its folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from torch.utils.data import DataLoader

from cooper.callbacks import (
    Checkpointing,
    Evaluation,
    GracefulStop,
    MetricsLog,
    Monitor,
    Restore,
    RolloutLog,
    StepProgress,
)
from cooper.checkpoints import load_weights, read_state
from cooper.collectives import from_first, gathered, rank
from cooper.config.build import Run, RunBuilder, strategy_settings
from cooper.config.export import export, push_models
from cooper.config.parts import leaves, plain
from cooper.config.validate import check_writable, validate
from cooper.environment import cpu_seconds, environment, peak_memory_mb
from cooper.errors import CheckpointError, ConfigError, Terminated, interruption
from cooper.files import write_atomically
from cooper.fitting import QUIET
from cooper.hub import check_account
from cooper.progress import set_quiet
from cooper.report import render_summary, reward_name, summarise, training_dynamics
from cooper.rng import seed_globals
from cooper.run_folder import FolderBeside, RunFolder, find_checkpoint
from cooper.tracing import recording

# The shell's convention: 128 and the number of the signal.
INTERRUPTED, TERMINATED = 130, 143


def train(cfg: DictConfig) -> int:
    """Run it.

    Args:
        cfg: composed by Hydra.

    Returns:
        the exit code: 0, 130 after Ctrl-C, or 143 after SIGTERM.

    Raises:
        CooperError: something that the user can mend.
    """
    validate(cfg)
    if cfg.export.push_to_hub:
        check_account(cfg.export.push_to_hub)
    folder, resume = chosen_by_first(cfg)
    settle(cfg)
    with contextlib.ExitStack() as closing:
        run = RunBuilder(cfg, closing, int(resume.name) if resume else 0).build()
        closing.enter_context(folder.claimed())
        open_folder(cfg, folder, resume)
        if run.data and rank() == 0:
            write_atomically(folder.data, json.dumps(run.data, indent=1).encode())
        # Everything of ours draws from named generators; of the rest each process draws its own.
        seed_globals(cfg.seed, f"global {rank()}" if rank() else "global")
        return fit(cfg, run, folder, resume)


def chosen_by_first(cfg: DictConfig) -> tuple[RunFolder, Path | None]:
    """The run's folder and its checkpoint, as the first process has chosen them."""
    require_alike(cfg)
    if rank() == 0:
        folder, resume = choose_folder(cfg)
        check_writable("paths.run_dir", folder.path)
        from_first((folder.path, resume))
        return folder, resume
    path, resume = from_first((Path(), None))
    return beside(cfg, path), resume


def require_alike(cfg: DictConfig) -> None:
    """Find out whether all processes were started alike.

    Raises:
        ConfigError: they were not.
    """
    mine = leaves(cfg)
    for number, theirs in enumerate(gathered(mine)):
        for key in sorted({*mine, *theirs}):
            if mine.get(key) != theirs.get(key):
                raise ConfigError(
                    f"{key}={mine.get(key)}: of process {rank()}, and process {number} has "
                    f"{theirs.get(key)}; start all of them by the same command"
                )


def beside(cfg: DictConfig, path: Path) -> RunFolder:
    """The folder that the first process has chosen, for one of the others."""
    with open_dict(cfg):
        cfg.paths.run_dir = str(path)
    return FolderBeside(path)


def choose_folder(cfg: DictConfig) -> tuple[RunFolder, Path | None]:
    """Find the run's folder, and the checkpoint to go on from; nothing is written yet.

    Raises:
        CheckpointError: there is no such checkpoint, or the folder holds another run.
    """
    experiment = Path(cfg.paths.root).expanduser() / cfg.name
    given = Path(cfg.paths.run_dir).expanduser() if cfg.paths.run_dir else None
    resume = None
    if cfg.ckpt_path:
        path, step = find_checkpoint(cfg.ckpt_path, experiment, given)
        folder = RunFolder(path)
        resume = folder.checkpoint(step)
        read_state(resume)  # a broken one is refused before anything is built
        if step >= cfg.trainer.max_steps and not only_its_end_is_missing(cfg, folder, step):
            raise CheckpointError(
                f"ckpt_path={cfg.ckpt_path}: the run has done {step} of trainer.max_steps="
                f"{cfg.trainer.max_steps} steps; raise trainer.max_steps to go on"
            )
    else:
        path = given or experiment / datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f")[:-3]
        if given and RunFolder(path).metrics.exists():
            held = RunFolder(given).checkpoint_steps()
            mend = ", or ckpt_path=last to go on with it" if held else ", or remove it"
            raise CheckpointError(
                f"paths.run_dir={given}: holds a run already; give another folder{mend}"
            )
        folder = RunFolder(path)
    with open_dict(cfg):
        cfg.paths.run_dir = str(folder.path)
    return folder, resume


def only_its_end_is_missing(cfg: DictConfig, folder: RunFolder, step: int) -> bool:
    """Whether a run has done all its steps, but was ended before its models were written."""
    if step != cfg.trainer.max_steps:
        return False
    if folder.config.is_file():
        length = OmegaConf.select(OmegaConf.load(folder.config), "trainer.max_steps")
        if length != step:
            return False  # ended before its time: its last evaluation has not been made
    ended = folder.read_summary()
    return (ended.get("status"), ended.get("steps")) != ("finished", step)


def open_folder(cfg: DictConfig, folder: RunFolder, resume: Path | None) -> None:
    """Make the folder, or take an earlier run's up and say what is different from then."""
    print(f"run folder: {folder.path}", flush=True)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.remove_leftovers()
    if resume is not None:
        step = int(resume.name)
        left = "" if step < cfg.trainer.max_steps else ", the last one: writing what is missing"
        print(f"resuming after step {step}{left}", flush=True)
        for line in changed_settings(folder, cfg):
            print(f"  changed: {line}", flush=True)


def changed_settings(folder: RunFolder, cfg: DictConfig) -> list[str]:
    """Settings in which a resumed run differs from what its folder says, as "key: old -> new"."""
    if not folder.config.is_file():
        return []
    old, new = leaves(OmegaConf.load(folder.config)), leaves(cfg)
    return [
        f"{key}: {old.get(key, 'not set')} -> {new.get(key, 'not set')}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and key != "ckpt_path"
    ]


def settle(cfg: DictConfig) -> None:
    """Put the process in order: threads, and what others print."""
    set_quiet(cfg.quiet or rank() > 0)
    if cfg.quiet:
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # read when it is imported
    if cfg.trainer.threads:
        os.environ["OMP_NUM_THREADS"] = str(cfg.trainer.threads)  # else Lightning chooses
        torch.set_num_threads(cfg.trainer.threads)
    quieten()


def quieten() -> None:
    """Silence what others say to people who call them themselves."""
    import logging

    import transformers

    for name in ("lightning.pytorch", "lightning.fabric", "lightning", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    monitoring = logging.getLogger("cooper.monitoring")
    if not monitoring.handlers:
        # The display shows alarms; a log that the user has set up gets them besides.
        monitoring.addHandler(logging.NullHandler())
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # which DeepSpeed would find, and warn of
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for message in (
        r".*does not have many workers.*",
        r".*GPU available but not used.*",
        r".*`IterableDataset` has `__len__` defined.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*No device id is provided.*",
        r".*module\(s\) in eval mode at the start of training.*",
        r".*`is_gradient_checkpointing` is deprecated.*",  # by peft
        r".*returned a view tensor.*",  # by FSDP2; nothing is changed in place
        r"`torch\.distributed\.\w+` is deprecated.*",  # by DeepSpeed
        r".*modify a model with PEFT for a second time.*",  # on purpose: two views of one base
    ):
        warnings.filterwarnings("ignore", message=message)


def fit(cfg: DictConfig, run: Run, folder: RunFolder, resume: Path | None) -> int:
    """Train with Lightning, export, summarise."""
    for note in run.notes:
        print(note, flush=True)
    if resume is not None:
        run.stream.start = int(resume.name)
    stop, shown = GracefulStop(), StepProgress(folder, f"RL ({cfg.name})")
    monitor = [] if run.monitor is None else [Monitor(folder, run.monitor, cfg.seed)]
    # Restoring comes first, saving last: what is measured and logged lies between.
    callbacks = [
        Restore(resume, folder, OmegaConf.to_yaml(cfg, resolve=True), environment()),
        stop,
        Evaluation(
            run.evaluator,
            run.val,
            run.test,
            cfg.evaluation.every,
            folder,
            test_last=cfg.evaluation.test_last,
        ),
        *monitor,
        MetricsLog(folder),
        RolloutLog(folder, **plain(cfg.rollouts)),
        shown,
        *run.callbacks,
        Checkpointing(folder, **plain(cfg.checkpoints)),
    ]
    trainer = L.Trainer(
        max_epochs=1,
        callbacks=callbacks,
        **strategy_settings(cfg),
        **{**QUIET, "logger": run.loggers or False},
    )
    code, exported = 0, []
    try:
        if len(run.stream):
            first = int(resume.name) if resume else 0
            with recording(folder.trace(first)) if cfg.trace else contextlib.nullcontext():
                trainer.fit(run.module, DataLoader(run.stream, batch_size=None))
        elif resume is not None:
            load_weights(run.module, resume)
            run.module.rl_step = int(resume.name)
            folder.cut_after(run.module.rl_step)
        if rank() == 0:
            exported = export(cfg, run.module, folder)
        whole = run.module.rl_step == cfg.trainer.max_steps
        # Ended by Ctrl-C or SIGTERM, by a callback of the user's, or by its length.
        status = "finished" if whole else "interrupted" if stop.asked else "stopped"
        if status == "interrupted":
            code = TERMINATED if stop.asked == signal.SIGTERM else INTERRUPTED
    except (SystemExit, KeyboardInterrupt) as error:
        # Lightning turns a second Ctrl-C into exit(1).
        status = "interrupted"
        terminated = isinstance(interruption(error), Terminated)
        code = TERMINATED if terminated else INTERRUPTED
    except BaseException:
        if rank():
            raise
        try:
            finish(cfg, run, folder, "failed")
        except Exception as second:
            # What ended the run is what has to be told; this comes beside it.
            print(f"no summary could be written: {second}", file=sys.stderr, flush=True)
        raise
    finally:
        shown.close()
        stop.restore()
    if rank():
        return 0  # how it ended is told by the first, which is not at its end yet
    finish(cfg, run, folder, status)
    if cfg.export.push_to_hub:
        push_models(cfg, folder, exported, status)
    return code


def finish(cfg: DictConfig, run: Run, folder: RunFolder, status: str) -> None:
    """Write figures and summary, print the table."""
    training_dynamics(folder, title=f"{cfg.name}, {reward_name(plain(cfg))}, seed {cfg.seed}")
    facts: dict[str, Any] = {"name": cfg.name, "status": status}
    if status == "stopped" and (reasons := stopping_alarms(folder, run.module.rl_step)):
        facts["reason"] = "; ".join(reasons)
    summary: dict[str, Any] = summarise(
        folder,
        **facts,
        seed=cfg.seed,
        cpu_seconds=round(cpu_seconds(), 1),
        stage_cpu_seconds=run.stage_seconds,
        peak_memory_mb=round(peak_memory_mb()),
    )
    write_atomically(folder.summary, json.dumps(summary, indent=1).encode())
    if not cfg.quiet:
        render_summary(summary)
        if "reason" in summary:
            print(f"stopped by the monitor: {summary['reason']}", flush=True)
        print(f"run folder: {folder.path}  (figures/training_dynamics.png)", flush=True)


def stopping_alarms(folder: RunFolder, step: int) -> list[str]:
    """What the alarms say that ended the run after a step."""
    alarms = folder.read_alarms()
    return [a["message"] for a in alarms if a["step"] == step and a["action"] == "stop"]
