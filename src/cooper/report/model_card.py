"""The model card of an exported model, from its run's folder alone.

It holds no time, command or path of the machine, so that a resumed run gives the same card and a
public one tells no more than the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from cooper.report.arms import reward_name
from cooper.report.summary import first_and_last_tenth, summarise
from cooper.run_folder import RunFolder

PAPER = "arXiv 2508.05613"
# What decides how a model came out, in the order in which one asks.
_SETTINGS = (
    "seed", "group_size", "data", "trainer", "policy", "policy_adapter", "reward_model",
    "reward_model_adapter", "reward", "verifier", "negatives", "pairs", "algorithm",
    "reward_objective", "policy_optimizer", "reward_model_optimizer", "sampler", "sampling",
    "prompt", "evaluation",
)  # fmt: skip
_PRIVATE = frozenset({"base_url", "api_key_env", "accelerator", "threads", "device"})
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FIGURE = re.compile(r"val/(?P<set>.+)/(?P<metric>(avg|pass|maj)_at_\d+|greedy)")
_REWARD_FIGURES = (
    ("reward_model/accuracy", "accuracy at 0.5, on the policy's rollouts"),
    ("reward_model/auroc", "AUROC, on the policy's rollouts"),
    ("reward_model/heldout_accuracy", "accuracy at 0.5, on held-out labels"),
    ("reward_model/heldout_auroc", "AUROC, on held-out labels"),
    ("hacking/gap", "mean score minus the verifier's accuracy"),
)


@dataclass(frozen=True)
class Exported:
    """What is written beside the card.

    Args:
        role: policy, reward_model or reward_model_average.
        steps: RL steps that it has taken.
        trained: by the run; false of a reward model that stayed frozen.
        adapter: a peft adapter, not a whole model.
        repository: on the hub, when it goes there.
    """

    role: str
    steps: int
    trained: bool = True
    adapter: bool = False
    repository: str | None = None


def model_card(run: RunFolder, exported: Exported) -> str:
    """Write the card of one model of a run.

    Args:
        run: with ``config.yaml``, ``environment.json`` and ``metrics.jsonl``.
        exported: the model.

    Returns:
        Markdown with the hub's YAML in front.
    """
    config = run.read_config()
    name = (exported.repository or f"{config.get('name', 'run')}-{exported.role}").split("/")[-1]
    base = base_model(config, exported.role)
    hub_base = base if base is not None and is_hub_id(base) else None
    data = sorted(set(data_names(config.get("data", {}).get("train"))))
    policy = exported.role == "policy"
    results = list(_results(run, config)) if policy else []
    metadata = ModelCardData(
        model_name=name if results else None,
        base_model=hub_base,
        datasets=[path for path in data if is_hub_id(path) and "/" in path] or None,
        library_name="peft" if exported.adapter else "transformers",
        pipeline_tag="text-generation" if policy else "text-classification",
        tags=["cooper", "reinforcement-learning", "grpo", *([] if policy else ["reward-model"])],
        eval_results=results or None,
    )
    parts = [
        f"# {name}",
        _origin(config, exported, base, data),
        *_figures(run, config, policy),
        *_warnings(run),
        _use(exported, name, hub_base),
        *_settings(config),
        *_versions(run),
        "The base model's and the data's licences hold for this model too; this card states none.",
    ]
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def is_hub_id(path: str) -> bool:
    """Whether a model's or data set's path names it on the hub, for all that can be told here."""
    return _HUB_ID.fullmatch(path) is not None and not Path(path).exists()


def public(path: str) -> str:
    """A path as a card may show it: a hub id whole, of a local one the last part."""
    return path if is_hub_id(path) else Path(path).name


def base_model(config: Mapping[str, Any], role: str) -> str | None:
    """Path or hub id of the model that the training began with; None: made by the run itself."""
    node = config.get("policy" if role == "policy" else "reward_model")
    path = node.get("path") if isinstance(node, dict) else None
    return str(path) if path else None


def data_names(node: Any) -> Iterator[str]:
    """Files, hub ids and components of a data setting, those of a mixture too."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        if isinstance(node.get("path"), str):
            yield node["path"]
        elif isinstance(node.get("sources"), dict):
            for source in node["sources"].values():
                yield from data_names(source)
        elif "_target_" in node:
            yield str(node["_target_"]).rpartition(".")[2]


# ---------------------------------------------------------------------- its parts


def _origin(
    config: Mapping[str, Any], exported: Exported, base: str | None, data: list[str]
) -> str:
    start = f"`{public(base)}`" if base else "a model made by the run's own first stages"
    what = {
        "policy": "A language model",
        "reward_model": "A reference-based reward model",
        "reward_model_average": "The moving average of a reference-based reward model's weights",
    }[exported.role]
    asked = config.get("trainer", {}).get("max_steps")
    length = f"{exported.steps} of {asked} RL steps"
    problems = ", ".join(f"`{public(name)}`" for name in data)
    if exported.trained:
        story = f"{what}: {start}, trained for {length} on {problems}"
    else:
        story = f"{what}: {start}, which {length} on {problems} were rewarded by and left as it was"
    form = "A peft adapter on the base model." if exported.adapter else "All weights, in float32."
    return (
        f"{story}. {form}\n\n"
        f'Made by cooper-rl, after "Cooper: Co-Optimizing Policy and Reward Models" ({PAPER}): '
        f"reward {reward_name(config)}, verifier {_class(config, 'verifier')}, negatives "
        f"{_class(config, 'negatives')}, advantages and loss by `algorithm` in the settings below."
    )


def _class(config: Mapping[str, Any], key: str) -> str:
    node = config.get(key)
    return str(node["_target_"]).rpartition(".")[2] if isinstance(node, dict) else "none"


def _results(run: RunFolder, config: Mapping[str, Any]) -> Iterator[EvalResult]:
    """The last figures of each whole evaluation set, in the hub's form."""
    paths = {**_named(config, "val"), **_named(config, "test")}
    evaluation = summarise(run)["evaluation"]
    found = {key: match for key in evaluation if (match := _FIGURE.fullmatch(key))}
    names = {match["set"] for match in found.values()}
    for key, match in found.items():
        name, metric = match["set"], match["metric"]
        if any(name.startswith(f"{other}.") for other in names):
            continue  # a part of a set, by evaluation.breakdown
        path = paths.get(name, name)
        yield EvalResult(
            task_type="text-generation",
            dataset_type=path if is_hub_id(path) else name,
            dataset_name=name,
            metric_type=metric,
            metric_name=metric.replace("_at_", "@"),
            metric_value=round(evaluation[key]["end"], 4),
        )


def _named(config: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Names of evaluation sets and where they come from."""
    node = config.get("data", {}).get(kind)
    if isinstance(node, str):
        return {Path(node).stem: node}
    if not isinstance(node, dict) or "_target_" in node:
        return {}
    return {str(name): path for name in node for path in list(data_names(node[name]))[:1]}


def _figures(run: RunFolder, config: Mapping[str, Any], policy: bool) -> Iterator[str]:
    if not policy:
        rows = run.read_metrics()
        ends = [(title, first_and_last_tenth(rows, key)) for key, title in _REWARD_FIGURES]
        lines = [f"| {title} | {e[0]:.3f} | {e[1]:.3f} |" for title, e in ends if e is not None]
        if lines:
            yield "## Figures of its training"
            yield "Means over the first and the last tenth of the steps; the verifier's verdicts "\
                "are the truth that it is measured by on rollouts."  # fmt: skip
            yield "\n".join(("| | start | end |", "| --- | --- | --- |", *lines))
        return
    evaluation = summarise(run)["evaluation"]
    figures = {key: values for key, values in evaluation.items() if _FIGURE.fullmatch(key)}
    if figures:
        how = config.get("evaluation", {})
        yield "## Evaluation"
        yield (
            f"By the run itself: temperature {how.get('temperature')}, top-p {how.get('top_p')}, "
            f"{how.get('samples')} samples a problem, at most {how.get('max_new_tokens')} tokens."
        )
        lines = [
            f"| {key.removeprefix('val/').replace('/', ' ').replace('_at_', '@')} | "
            f"{v['start']:.3f} | {v['end']:.3f} | {v['end_step']} |"
            for key, v in figures.items()
        ]
        head = ("| | start | end | after step |", "| --- | --- | --- | --- |")
        yield "\n".join((*head, *lines))


def _warnings(run: RunFolder) -> Iterator[str]:
    alarms = run.read_alarms()
    if alarms:
        yield "## Alarms of the reward-hacking monitor"
        yield "\n".join(f"- step {a['step']}: {a['message']}" for a in alarms)


def _use(exported: Exported, name: str, hub_base: str | None) -> str:
    path = exported.repository or name
    if exported.role == "policy":
        kind = "AutoPeftModelForCausalLM" if exported.adapter else "AutoModelForCausalLM"
        library = "peft" if exported.adapter else "transformers"
        code = (
            f"from {library} import {kind}\nfrom transformers import AutoTokenizer\n\n"
            f'model = {kind}.from_pretrained("{path}")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{path}")'
        )
    else:
        code = (
            "from cooper.models import RewardModel\n\n"
            f'model = RewardModel.from_pretrained("{path}")\n'
            "model.probabilities([question], [reference_answer], [completion])"
        )
    lost = "" if hub_base or not exported.adapter else (
        "\n\nThe base model was a local folder: `adapter_config.json` names it by its path."
    )  # fmt: skip
    return f"## Use\n\n```python\n{code}\n```{lost}"


def _settings(config: Mapping[str, Any]) -> Iterator[str]:
    kept = {key: _without_places(config[key]) for key in _SETTINGS if config.get(key) is not None}
    if kept:
        text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100)
        yield f"## Settings\n\n```yaml\n{text}```"


def _without_places(node: Any) -> Any:
    """A setting without addresses, and with local paths cut to their last part."""
    if isinstance(node, dict):
        return {k: _without_places(v) for k, v in node.items() if k not in _PRIVATE}
    if isinstance(node, list):
        return [_without_places(item) for item in node]
    if isinstance(node, str) and node.startswith(("/", "~", "./", "../")):
        return Path(node).name
    return node


def _versions(run: RunFolder) -> Iterator[str]:
    machine = run.read_environment()
    packages = {k: v for k, v in (machine.get("packages") or {}).items() if v}
    if packages:
        lines = [f"- {name} {version}" for name, version in packages.items()]
        if machine.get("python"):
            lines.insert(0, f"- Python {machine['python']}")
        yield "## Versions\n\n" + "\n".join(lines)
