"""One annotation, from a composed configuration to its folder."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, cast, get_args

from omegaconf import DictConfig, OmegaConf

from cooper.annotation.folder import AnnotationFolder
from cooper.annotation.generation import CompletionGenerator, Failure
from cooper.annotation.items import Item, digest_of, read_items
from cooper.annotation.labelling import Labelling
from cooper.annotation.report import render, summarise
from cooper.chat.base import ChatModel
from cooper.config.parts import instantiate, leaves, plain
from cooper.config.validate import check_parts, check_writable
from cooper.data.tables import BadRows
from cooper.environment import cpu_seconds, environment
from cooper.errors import ConfigError, Terminated
from cooper.files import write_atomically
from cooper.progress import set_quiet
from cooper.verifiers.base import Verifier
from cooper.verifiers.hybrid import Policy

# Settings that say how verdicts and completions are got, not which: they may be changed when an
# annotation goes on. The number of completions is one of them: each has a seed of its own.
# So is an endpoint's address, which moves when a server starts anew: its model's name stays.
_HOW = frozenset(
    {
        "workers", "wall_seconds", "batch_size", "n", "cache", "base_url", "api_key_env",
        "timeout", "retries", "backoff", "concurrency", "device",
    }
)  # fmt: skip


def annotate(cfg: DictConfig) -> int:
    """Run it.

    Args:
        cfg: composed by Hydra.

    Returns:
        the exit code: 0, 130 after Ctrl-C, or 143 after SIGTERM.

    Raises:
        CooperError: something that the user can mend.
    """
    began = time.monotonic()
    cfg = checked(cfg)
    set_quiet(cfg.quiet)
    folder = AnnotationFolder(cfg.output)
    bad = BadRows(cfg.data.skip_bad)
    # All rows are read and checked before anything is asked.
    items = read(cfg, bad)
    with ExitStack() as closing:
        parts = Parts(cfg, closing)
        closing.enter_context(folder.claimed())
        folder.settle(settings_of(cfg, items))
        print(f"annotation folder: {folder.path}", flush=True)
        describe(cfg, folder)
        failures: Sequence[Failure] = ()
        labelling: Labelling | None = None
        try:
            if parts.generate is not None and parts.generator is not None:
                with folder.journal("completions.journal") as journal:
                    items, failures = parts.generate.run(
                        items, parts.generator, journal, cfg.retry_failed
                    )
                parts.generator.close()  # its memory, before a local judge takes its own
            with folder.journal("verdicts.journal") as journal:
                labelling = Labelling(
                    items,
                    rule=parts.rule,
                    judge=parts.judge,
                    policy=cfg.combine,
                    journal=journal,
                    batch_size=cfg.batch_size,
                    retry_failed=cfg.retry_failed,
                )
                labelling.run()
        except KeyboardInterrupt as error:
            done = f"{labelling.done} of {len(items)} rows labelled" if labelling else "generating"
            print(
                f"cooper-annotate: interrupted: {done}; the same command goes on from there",
                file=sys.stderr,
                flush=True,
            )
            return 143 if isinstance(error, Terminated) else 130
        finish(cfg, folder, labelling, failures, bad, time.monotonic() - began)
    return 0


class Parts:
    """What an annotation is made of.

    Args:
        cfg: checked.
        closing: gives back what was built, also when a later part fails.
    """

    def __init__(self, cfg: DictConfig, closing: ExitStack) -> None:
        self.rule = instantiate(cfg.rule, "rule", Verifier)
        closing.callback(self.rule.close)
        self.judge: Verifier | None = None
        self.generate: CompletionGenerator | None = None
        self.generator: ChatModel | None = None
        if cfg.completions is not None:
            self.generate = instantiate(cfg.completions, "completions", CompletionGenerator)
            self.generator = instantiate(cfg.generator, "generator", ChatModel)
            closing.callback(self.generator.close)
        if cfg.judge is not None:  # the last one, since its cache makes the folder
            self.judge = instantiate(cfg.judge, "judge", Verifier)
            closing.callback(self.judge.close)


def checked(cfg: DictConfig) -> DictConfig:
    """Check the configuration, and leave out what this annotation does not use.

    Raises:
        ConfigError: one line that names the key, the value, the rule and the mend.
    """
    cfg = cast(DictConfig, OmegaConf.create(OmegaConf.to_container(cfg)))
    if cfg.completions is None:
        cfg.generator = None
    check_parts(cfg)
    policies = get_args(Policy)
    if cfg.combine not in policies:
        raise ConfigError(f"combine={cfg.combine}: must be one of {', '.join(policies)}")
    if cfg.batch_size < 1:
        raise ConfigError(f"batch_size={cfg.batch_size}: give 1 or more")
    if not cfg.output:
        raise ConfigError("output='': is empty; give a folder")
    if cfg.completions is not None and cfg.data.completion_column is not None:
        raise ConfigError(
            f"data.completion_column={cfg.data.completion_column}: completions=generate makes "
            "completions and reads none; leave it out, or give completions=file"
        )
    check_writable("output", AnnotationFolder(cfg.output).path)
    return cfg


def read(cfg: DictConfig, bad: BadRows) -> list[Item]:
    """Read the rows, problems alone where completions are made.

    Raises:
        DataError: a row cannot be used.
    """
    data = plain(cfg.data)
    path = data.pop("path")
    data.pop("skip_bad")
    return read_items(path, completions=cfg.completions is None, bad=bad, **data)


def settings_of(cfg: DictConfig, items: Sequence[Item]) -> dict[str, str]:
    """All that decides verdicts and completions, as flat texts."""
    parts = {name: plain(cfg[name]) for name in ("rule", "judge", "completions", "generator")}
    settings = {k: v for k, v in leaves(parts).items() if k.rpartition(".")[2] not in _HOW}
    return {"data": f"{len(items)} rows with digest {digest_of(items)[:12]}", **settings}


def describe(cfg: DictConfig, folder: AnnotationFolder) -> None:
    """Write ``config.yaml`` and ``environment.json``."""
    write_atomically(folder.path / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True).encode())
    text = json.dumps(environment(), indent=1)
    write_atomically(folder.path / "environment.json", text.encode())


def finish(
    cfg: DictConfig,
    folder: AnnotationFolder,
    labelling: Labelling,
    failures: Sequence[Failure],
    bad: BadRows,
    seconds: float,
) -> None:
    """Write the results and print the table."""
    outcomes = list(labelling.outcomes())
    summary: dict[str, Any] = summarise(
        outcomes,
        failures=failures,
        skipped=bad.count,
        first_skipped=bad.first,
        combine=None if cfg.judge is None else cfg.combine,
        asked=dict(labelling.asked),
        seconds=round(seconds, 1),
        cpu_seconds=round(cpu_seconds(), 1),
    )
    lost = [
        {
            "id": failure.item.id,
            "question": failure.item.question,
            "reference_answer": failure.item.reference,
            "completion": None,
            "label": None,
            "source": failure.item.source,
            "rule": None,
            "judge": None,
            "dropped": f"no completion: {failure.reason}",
        }
        for failure in failures
    ]
    folder.write(outcomes, lost, summary)
    if not cfg.quiet:
        render(summary)
        print(f"labelled rows: {folder.labelled}", flush=True)
