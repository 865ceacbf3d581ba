"""One evaluation of a model on sets of problems, from a composed configuration to its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

from cooper.config.build import content_of
from cooper.config.parts import instantiate, leaves, plain
from cooper.config.train import quieten
from cooper.config.validate import check_parts, check_writable, require
from cooper.data.prompts import BOXED_INSTRUCTION, PromptBuilder
from cooper.data.table_problems import TableProblems
from cooper.environment import environment
from cooper.errors import ConfigError, DataError, ModelError
from cooper.evaluation.answers import Answerer
from cooper.evaluation.benchmark import BenchmarkRun, summarise_answers
from cooper.files import write_atomically
from cooper.models import Policy, load_causal_lm, load_tokenizer
from cooper.models.loading import DType, check_vocabulary
from cooper.progress import set_quiet
from cooper.report.benchmarks import markdown, narrow, side_by_side, unlike
from cooper.report.markdown import markdown_table
from cooper.resumable import ResumableFolder
from cooper.run_folder import RunFolder
from cooper.samplers import Sampler
from cooper.types import Problem, SamplingParams
from cooper.verifiers.base import Verifier

AUTO = "auto"


def evaluate(cfg: DictConfig) -> int:
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
    check_writable("output", Path(cfg.output).expanduser())
    if cfg.compare:
        return compare(cfg)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    path, prompt = origin(cfg)
    sets = read_sets(cfg)  # before a model is loaded
    params = SamplingParams(cfg.max_new_tokens, cfg.temperature, cfg.top_p, stop=tuple(cfg.stop))
    folder = ResumableFolder(cfg.output, "answers")
    with ExitStack() as closing:
        verifier = instantiate(cfg.verifier, "verifier", Verifier)
        closing.callback(verifier.close)
        sampler = instantiate(cfg.sampler, "sampler", Sampler)
        closing.callback(sampler.close)
        closing.enter_context(folder.claimed())
        policy = load(cfg, path)
        folder.settle(settings(cfg, path, prompt, policy))
        sampler.sync(policy, 0)
        journal = closing.enter_context(folder.journal("completions.jsonl"))
        run = BenchmarkRun(
            Answerer(verifier, sampler, params, cfg.samples, cfg.greedy),
            PromptBuilder(policy.tokenizer, **prompt),
            journal,
            cfg.batch_size,
            cfg.seed,
        )
        figures = {
            name: summarise_answers(run.answers(name, problems), cfg.bootstrap, cfg.seed, name)
            for name, problems in sets.items()
        }
    write(cfg, folder.path, path, figures)
    return 0


def check(cfg: DictConfig) -> None:
    """Check the configuration before anything is read.

    Raises:
        ConfigError: the first rule that is broken.
    """
    if cfg.model.path is None and not cfg.compare:
        raise ConfigError(
            "model.path=null: there is nothing to evaluate; give model.path=FOLDER_OR_HUB_ID, a "
            "run folder, or compare=[FOLDER,FOLDER]"
        )
    unknown = [name for name in cfg.only or [] if name not in cfg.sets]
    if unknown:
        raise ConfigError(
            f"only={list(cfg.only)}: no set is called {unknown[0]}; there are "
            f"{', '.join(map(str, cfg.sets))}; another one: +sets.{unknown[0]}=FILE"
        )
    check_parts(cast(DictConfig, OmegaConf.create(OmegaConf.to_container(cfg))))
    require(
        [
            (cfg.only != [], "only=[]: names no set; leave it out for all"),
            (cfg.samples >= 1, f"samples={cfg.samples}: give 1 or more"),
            (cfg.batch_size >= 1, f"batch_size={cfg.batch_size}: give 1 or more"),
            (cfg.bootstrap >= 0, f"bootstrap={cfg.bootstrap}: 0 (no intervals) or more"),
            (cfg.max_new_tokens >= 1, f"max_new_tokens={cfg.max_new_tokens}: give 1 or more"),
            (cfg.temperature >= 0, f"temperature={cfg.temperature}: 0 (greedy) or more"),
            (0 < cfg.top_p <= 1, f"top_p={cfg.top_p}: must lie in (0, 1]"),
            (
                cfg.model.dtype in (AUTO, "float32", "bfloat16", "float16"),
                f"model.dtype={cfg.model.dtype}: must be auto, float32, bfloat16 or float16",
            ),
        ]
    )


def origin(cfg: DictConfig) -> tuple[str, dict[str, Any]]:
    """Where the model's weights stand, and the prompt settings that go with them.

    Returns:
        folder or hub id, and keywords of :class:`PromptBuilder`.

    Raises:
        ModelError: a run folder without a policy.
    """
    path = str(cfg.model.path)
    given = Path(path).expanduser()
    if given.name == "policy" and _run_around(given.parent).metrics.is_file():
        given = given.parent  # the run's own weights by their folder: the same prompts
    inside = given.parent.name == "checkpoints"
    run = _run_around(given)
    own: dict[str, Any] = {}
    if run.config.is_file() and not (given / "config.json").is_file():
        saved = OmegaConf.load(run.config)
        own = plain(OmegaConf.select(saved, "prompt", default=None)) or {}
        steps = run.checkpoint_steps()
        whole = run.path / "policy"
        folder = given if inside else whole.parent
        if not inside and not whole.is_dir() and steps:
            folder = run.checkpoint(steps[-1])
        if not (folder / "policy").is_dir():
            raise ModelError(
                f"model.path={path}: the run has no policy there; it has the checkpoints "
                f"{', '.join(f'{step:06d}' for step in steps) or 'none'}"
            )
        path = str(folder / "policy")
    defaults: dict[str, Any] = {
        "system_prompt": None,
        "instruction": BOXED_INSTRUCTION,
        "template": {},
    }
    prompt = {
        key: own.get(key, default) if cfg.prompt[key] == AUTO else plain(cfg.prompt[key])
        for key, default in defaults.items()
    }
    return path, prompt


def _run_around(folder: Path) -> RunFolder:
    """The run that a folder is, or is a checkpoint of; it need not be there."""
    return RunFolder(folder.parent.parent if folder.parent.name == "checkpoints" else folder)


def read_sets(cfg: DictConfig) -> dict[str, Sequence[Problem]]:
    """The sets to evaluate on.

    Raises:
        DataError: one cannot be read, or holds nothing.
        ConfigError: one is no set.
    """
    sets: dict[str, Sequence[Problem]] = {}
    for name in cfg.only or cfg.sets:
        node = cfg.sets[name]
        key = f"sets.{name}"
        found = TableProblems(node) if isinstance(node, str) else instantiate(node, key, Sequence)
        if not len(found) or not isinstance(found[0], Problem):
            raise DataError(f"{key}: holds no problems; at least one is needed")
        sets[str(name)] = found
    return sets


def load(cfg: DictConfig, path: str) -> Policy:
    """Load the model to its device.

    Raises:
        ModelError: it cannot be loaded, or there is no such device.
    """
    model = cfg.model
    device = model.device
    if device == AUTO:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = model.dtype
    if dtype == AUTO:
        dtype = "float32" if device == "cpu" else "bfloat16"
    source: dict[str, Any] = {
        "revision": model.revision,
        "trust_remote_code": model.trust_remote_code,
        "key": "model.path",
    }
    tokenizer = load_tokenizer(path, **source)
    weights = load_causal_lm(
        path, dtype=cast(DType, dtype), attn_implementation=model.attn_implementation, **source
    )
    check_vocabulary(weights, tokenizer, path, "model.path")
    policy = Policy(weights, tokenizer)
    policy.freeze()
    try:
        return policy.to(device)
    except (RuntimeError, AssertionError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"model.device={device}: not to be had ({first}); give cpu, or auto"
        ) from error


def settings(cfg: DictConfig, path: str, prompt: dict[str, Any], policy: Policy) -> dict[str, str]:
    """What decides the answers, flat. Not the sets: more of them may come to a folder later."""
    decides = {
        "model": content_of(path),
        "model.revision": cfg.model.revision,
        "model.dtype": str(policy.model.dtype),
        "device": policy.model.device.type,
        "prompt": prompt,
        "verifier": plain(cfg.verifier),
        "sampler": plain(cfg.sampler),
        **{
            key: cfg[key]
            for key in (
                "samples", "temperature", "top_p", "max_new_tokens", "stop", "greedy", "batch_size",
                "seed",
            )
        },
    }  # fmt: skip
    return leaves(decides)


def write(cfg: DictConfig, folder: Path, path: str, figures: dict[str, Any]) -> None:
    """Write the results and show them."""
    shares = [key for key, value in next(iter(figures.values())).items() if key != "interval_95"]
    mean: dict[str, Any] = {}
    for key in shares:
        values = [one[key] for one in figures.values()]
        if None not in values:
            mean[key] = sum(values) if key == "problems" else sum(values) / len(values)
    results: dict[str, Any] = {
        "model": str(cfg.model.path),
        "weights": path,
        "samples": cfg.samples,
        "temperature": cfg.temperature,
        "top_p": cfg.top_p,
        "max_new_tokens": cfg.max_new_tokens,
        "bootstrap": cfg.bootstrap,
        "seed": cfg.seed,
        "sets": figures,
        "mean": mean,
    }
    for file, text in (
        ("report.md", markdown(results)),
        ("results.json", json.dumps(results, indent=1)),
        ("config.yaml", OmegaConf.to_yaml(cfg, resolve=True)),
        ("environment.json", json.dumps(environment(), indent=1)),
    ):
        write_atomically(folder / file, text.encode("utf-8", "surrogatepass"))
    if not cfg.quiet:
        show(*narrow(results), title=f"{cfg.model.path} (percent)")
    print(f"results: {folder}  (report.md, completions.jsonl)", flush=True)


def compare(cfg: DictConfig) -> int:
    """Put earlier results side by side.

    Raises:
        DataError: a folder holds none.
    """
    results: dict[str, Any] = {}
    for given in cfg.compare:
        file = Path(given).expanduser() / "results.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            label, _, _ = found["model"], found["sets"], found["samples"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"compare: {file}: holds no results of cooper-eval ({type(error).__name__}); give "
                "the folder that an evaluation has written to its end"
            ) from error
        results[label if label not in results else f"{label} ({given})"] = found
    folder = Path(cfg.output).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    heading, rows = side_by_side(results)
    counts = sorted({found["samples"] for found in results.values()})
    title = f"avg@{'/'.join(map(str, counts))}, percent"
    text = f"# {title}\n\n{markdown_table(heading, rows)}"
    notes = unlike(results)
    if notes:
        text += "\nThe rows differ in more than the model:\n\n" + "".join(f"- {n}\n" for n in notes)
    write_atomically(folder / "comparison.md", text.encode())
    write_atomically(folder / "comparison.json", json.dumps(results, indent=1).encode())
    if not cfg.quiet:
        show(heading, rows, title)
    for note in notes:
        print(f"the rows differ in more than the model: {note}")
    print(f"comparison: {folder / 'comparison.md'}", flush=True)
    return 0


def show(heading: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Print a table."""
    shown = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for position, name in enumerate(heading):
        shown.add_column(name, justify="right" if position else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    Console().print(shown)
