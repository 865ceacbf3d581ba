"""One evaluation of scorers, from a composed configuration to its folder."""

from __future__ import annotations

import contextlib
import gzip
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from cooper.config.parts import instantiate, plain
from cooper.config.train import quieten
from cooper.config.validate import check_parts, check_writable, is_target
from cooper.data.labelled import LabelledSet, read_labelled
from cooper.environment import environment
from cooper.errors import ConfigError, ModelError
from cooper.evaluation.attacks import ATTACKS, attacked, targets, wilson
from cooper.evaluation.reward_quality import (
    Scored,
    Scorer,
    Triple,
    bootstrap,
    figures,
    score,
    slices,
)
from cooper.files import write_atomically
from cooper.models import RewardModel
from cooper.models.reward_model import NoRecord
from cooper.progress import progress, set_quiet
from cooper.report.reward_quality import COLUMNS, cell, draw_attacks, draw_quality, markdown
from cooper.verifiers.base import Verifier

MAX_REASONS = 8


def eval_reward(cfg: DictConfig) -> int:
    """Run it.

    Args:
        cfg: composed by Hydra.

    Returns:
        the exit code.

    Raises:
        CooperError: something that the user can mend.
    """
    check(cfg)
    set_quiet(cfg.quiet)
    quieten()
    folder = Path(cfg.output).expanduser()
    check_writable("output", folder)
    # All rows are read and checked before a model is loaded.
    sets = read_sets(cfg)
    with ExitStack() as closing:
        scorers = build_scorers(cfg, closing)
        results: dict[str, Any] = {"resamples": cfg.bootstrap, "sets": {}, "attacks": {}}
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_gzip(folder / "scores.jsonl.gz") as rows:
            for name, data in sets.items():
                results["sets"][name] = evaluate(cfg, folder, name, data, scorers, rows)
        if cfg.attacks:
            results["attacks"] = attack(cfg, next(iter(sets.values())), scorers)
            if results["attacks"]:
                draw_attacks(folder / "figures" / "attacks", results["attacks"])
    for file, text in (
        ("report.md", markdown(results)),
        ("results.json", json.dumps(results, indent=1)),
        ("config.yaml", OmegaConf.to_yaml(cfg, resolve=True)),
        ("environment.json", json.dumps(environment(), indent=1)),
    ):
        write_atomically(folder / file, text.encode("utf-8", "surrogatepass"))
    if not cfg.quiet:
        show(results)
    print(f"results: {folder}  (report.md, figures/)", flush=True)
    return 0


def check(cfg: DictConfig) -> None:
    """Check the configuration before anything is read.

    Raises:
        ConfigError: the first rule that is broken.
    """
    check_parts(cast(DictConfig, OmegaConf.create(OmegaConf.to_container(cfg))))
    paths = plain(cfg.data.path)
    several = isinstance(paths, list) and paths and all(isinstance(path, str) for path in paths)
    if not isinstance(paths, str) and not several:
        raise ConfigError(
            f"data.path={paths}: give a file, or several as data.path=[a.jsonl,b.jsonl]"
        )
    if cfg.reward_model.path is None and not is_target(cfg.verifier) and not cfg.scorers:
        raise ConfigError(
            "verifier=null: there is nothing to evaluate; give verifier=math, "
            "reward_model.path=FOLDER_OR_HUB_ID, or both"
        )
    for key in ("bootstrap", "length_bins", "attacks"):
        if cfg[key] < 0:
            raise ConfigError(f"{key}={cfg[key]}: 0 (none) or more")
    if cfg.reward_model.batch_tokens < 1:
        raise ConfigError(f"reward_model.batch_tokens={cfg.reward_model.batch_tokens}: 1 or more")


def read_sets(cfg: DictConfig) -> dict[str, LabelledSet]:
    """The labelled sets under the names of their files.

    Raises:
        DataError: one cannot be read.
        ConfigError: two have one name.
    """
    given = plain(cfg.data.path)
    paths = [given] if isinstance(given, str) else given
    sets: dict[str, LabelledSet] = {}
    for path in paths:
        name = Path(path).stem
        if name in sets:
            raise ConfigError(f"data.path={paths}: two are called {name}; rename one")
        sets[name] = read_labelled(
            path, split=cfg.data.split, skip_bad=cfg.data.skip_bad, both=False
        )
        if sets[name].skipped:
            print(
                f"{path}: {sets[name].skipped} rows skipped; the first: {sets[name].first_skipped}",
                flush=True,
            )
    return sets


def build_scorers(cfg: DictConfig, closing: ExitStack) -> dict[str, Scorer]:
    """The scorers by name, the reward model first.

    Raises:
        CooperError: one cannot be had.
    """
    scorers: dict[str, Scorer] = {}
    source = plain(cfg.reward_model)
    device = source.pop("device")
    if source["path"] is not None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", NoRecord)
            model = RewardModel.from_pretrained(key="reward_model.path", **source)
        for warning in caught:
            print(warning.message, flush=True)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            scorers["reward model"] = model.to(device)
        except (RuntimeError, AssertionError) as error:
            first = (str(error).splitlines() or [""])[0]
            raise ModelError(
                f"reward_model.device={device}: not to be had ({first}); give cpu, or auto"
            ) from error
    if is_target(cfg.verifier):
        name = HydraConfig.get().runtime.choices.get("verifier") or "verifier"
        scorers[str(name)] = _verifier(cfg.verifier, "verifier", closing)
    for name in cfg.scorers:
        if str(name) in scorers:
            raise ConfigError(f"scorers.{name}: there is one of this name; call it otherwise")
        scorers[str(name)] = _verifier(cfg.scorers[name], f"scorers.{name}", closing)
    return scorers


def _verifier(node: Any, key: str, closing: ExitStack) -> Verifier:
    verifier = instantiate(node, key, Verifier)
    closing.callback(verifier.close)
    return verifier


def evaluate(
    cfg: DictConfig,
    folder: Path,
    name: str,
    data: LabelledSet,
    scorers: dict[str, Scorer],
    rows: Any,
) -> dict[str, Any]:
    """Score one set by all scorers: figures, intervals, slices, the page of curves."""
    triples: list[Triple] = [(i.question, i.reference, i.completion) for i in data.items]
    labels = torch.tensor([item.label for item in data.items])
    questions = [item.question for item in data.items]
    scored = score_all(scorers, triples, f"{name}: scoring")
    parts = slices(data.items, cfg.length_bins)
    found: dict[str, Any] = {}
    for scorer, one in scored.items():
        reasons = Counter(
            why for why, known in zip(one.reasons, one.decided.tolist(), strict=True) if not known
        )
        found[scorer] = {
            "all": figures(one, labels),
            "intervals": bootstrap(one, labels, questions, cfg.bootstrap, cfg.seed),
            "undecided_reasons": dict(reasons.most_common(MAX_REASONS)),
            "slices": {
                kind: {part: figures(one.take(at), labels[at]) for part, at in inside.items()}
                for kind, inside in parts.items()
            },
        }
        unreadable = first_unreadable(one, data)
        if unreadable:
            print(f"{name}: {scorer}: {unreadable}", flush=True)
    for row, item in enumerate(data.items):
        said = {
            scorer: {"score": round(float(one.scores[row]), 6), "reason": one.reasons[row]}
            for scorer, one in scored.items()
        }
        line = {"set": name, "row": row + 1, "id": item.id, "label": int(item.label), **said}
        rows.write((json.dumps(line) + "\n").encode())
    draw_quality(folder / "figures" / f"quality_{name}", scored, labels, name)
    return {
        "rows": len(triples),
        "questions": len(set(questions)),
        "skipped": data.skipped,
        "scorers": found,
    }


def first_unreadable(scored: Scored, data: LabelledSet) -> str:
    """A line on references that the scorer could not read: how many, and the first one's row."""
    rows = [
        row
        for row, (why, known) in enumerate(
            zip(scored.reasons, scored.decided.tolist(), strict=True)
        )
        if not known and "reference" in why
    ]
    if not rows:
        return ""
    distinct = len({data.items[row].reference for row in rows})
    first = rows[0]
    return (
        f"{distinct} references cannot be compared in some or all of their rows ({len(rows)} rows "
        f"UNDECIDED); the first: row {first + 1}, {data.items[first].reference[:60]!r} "
        f"({scored.reasons[first]})"
    )


def score_all(
    scorers: dict[str, Scorer], triples: Sequence[Triple], title: str
) -> dict[str, Scored]:
    """Score triples by every scorer, with a bar for each."""
    scored: dict[str, Scored] = {}
    for name, scorer in scorers.items():
        with progress(f"{title} by {name}", len(triples), "completion") as bar:
            scored[name] = score(name, scorer, triples, bar.advance)
    return scored


def attack(cfg: DictConfig, data: LabelledSet, scorers: dict[str, Scorer]) -> dict[str, Any]:
    """Share of each trick that each scorer accepts."""
    made = attacked(targets(data.items, cfg.attacks, cfg.seed))
    triples = [(target.question, target.reference, text) for _, target, text in made]
    scored = score_all(scorers, triples, "attacks: scoring")
    results: dict[str, Any] = {}
    for trick in ATTACKS:
        rows = [row for row, (one, _, _) in enumerate(made) if one is trick]
        if not rows:
            continue
        accepted: dict[str, Any] = {}
        for name, one in scored.items():
            hits = int(one.accepted[torch.tensor(rows)].sum())
            low, high = wilson(hits, len(rows))
            accepted[name] = {"share": hits / len(rows), "low": low, "high": high}
        results[trick.name] = {
            "wrong": trick.wrong,
            "source": trick.source,
            "n": len(rows),
            "accepted": accepted,
        }
    return results


def show(results: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console()
    for name, data in results["sets"].items():
        table = Table(title=f"{name}: {data['rows']} rows, {data['questions']} questions")
        table.add_column("scorer")
        for title in COLUMNS.values():
            table.add_column(title, justify="right")
        for scorer, found in data["scorers"].items():
            table.add_row(scorer, *(cell(found["all"], key) for key in COLUMNS))
        console.print(table)
    if results["attacks"]:
        table = Table(title="attacks: share accepted")
        table.add_column("attack")
        table.add_column("accepting is")
        table.add_column("n", justify="right")
        for scorer in next(iter(results["attacks"].values()))["accepted"]:
            table.add_column(scorer, justify="right")
        for name, found in results["attacks"].items():
            shares = (f"{one['share']:.2f}" for one in found["accepted"].values())
            table.add_row(name, "wrong" if found["wrong"] else "policy", str(found["n"]), *shares)
        console.print(table)


@contextlib.contextmanager
def atomic_gzip(path: Path) -> Any:
    """A gzip file that appears when it is whole."""
    part = path.with_name(f".{path.name}.part")
    try:
        # mtime=0: the same scores give the same bytes.
        with part.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as out:
            yield out
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
