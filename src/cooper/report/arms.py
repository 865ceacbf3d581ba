"""Runs that differ in their seed alone are one arm; what sets arms apart is its label."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cooper.errors import ConfigError
from cooper.report.runs import Run

# Where a run stands, what it is called and what it writes down: none of it moves a curve.
IGNORED = ("name", "ckpt_path", "quiet", "paths", "logger", "rollouts", "checkpoints", "export")
NOT_SET, VARIES = "not set", "varies"
_LONG = 3  # keys in a label

Settings = dict[str, str]


@dataclass(frozen=True)
class Arm:
    """Runs of the same settings.

    Attributes:
        label: short, unique in the report.
        settings: plain values under dotted keys; "varies" where its runs differ.
        runs: that count, in the natural order of their paths.
        doubled: runs left out: of the same settings and the same seed as one that counts.
    """

    label: str
    settings: Settings
    runs: tuple[Run, ...]
    doubled: tuple[Run, ...] = ()


def reward_name(config: Mapping[str, Any]) -> str | None:
    """The option of the group ``reward``; a resolved configuration names only its class."""
    reward = config.get("reward")
    if not isinstance(reward, Mapping) or "_target_" not in reward:
        return None
    name = str(reward["_target_"]).rsplit(".", 1)[-1]
    if name == "ModelReward":
        return "cooper" if reward.get("train_model") else "static"
    return {"RuleReward": "rule", "HybridReward": "hybrid"}.get(name, name)


def seed_of(run: Run, seed_key: str) -> str:
    """The run's seed as text; "-" when its configuration names none."""
    return _leaves(run.config).get(seed_key, "-")


def group(runs: Sequence[Run], seed_key: str = "seed", by: Sequence[str] = ()) -> list[Arm]:
    """Put runs together that differ in their seed alone.

    Of several runs with the same settings and the same seed one counts: taken as independent, they
    would make intervals too narrow. It is the one that got furthest, and a finished one rather
    than another.

    Args:
        runs: in the order in which their arms are to come.
        seed_key: setting that tells the runs of an arm apart.
        by: settings, or groups of them, that make the arms; empty: all but the seed.

    Raises:
        ConfigError: no run has such a setting.
    """
    settings = _comparable(runs, seed_key)
    _check(runs, "--seed-key", [seed_key])
    _check(runs, "--by", by)
    members: dict[tuple[Any, ...], list[int]] = {}
    for number, (run, found) in enumerate(zip(runs, settings, strict=True)):
        chosen = {k: v for k, v in found.items() if not by or _below(k, by)}
        # Without settings nobody can say that two runs are alike.
        identity = tuple(sorted(chosen.items())) if run.config else (run.name,)
        members.setdefault(identity, []).append(number)
    common, kept, doubled = [], [], []
    for numbers in members.values():
        inside = [settings[n] for n in numbers]
        common.append({**inside[0], **dict.fromkeys(differing(inside), VARIES)})
        best: dict[tuple[Any, ...], int] = {}
        for n in numbers:
            identity = (seed_of(runs[n], seed_key), *sorted(settings[n].items()))
            rival = best.setdefault(identity, n)
            if _worth(runs[n]) > _worth(runs[rival]):
                best[identity] = n
        kept.append(tuple(runs[n] for n in numbers if n in best.values()))
        doubled.append(tuple(runs[n] for n in numbers if n not in best.values()))
    told = [{k: v for k, v in found.items() if not by or _below(k, by)} for found in common]
    labels = _labels([arm[0] for arm in kept], told, seed_key)
    return [Arm(*parts) for parts in zip(labels, common, kept, doubled, strict=True)]


def differing(settings: Sequence[Settings]) -> list[str]:
    """Keys in which some settings differ, in the order of the configuration."""
    keys = list(dict.fromkeys(key for found in settings for key in found))
    return [key for key in keys if len({found.get(key) for found in settings}) > 1]


def shown(key: str, value: str | None) -> str:
    """A value for people: a class by its name alone, no line breaks, not too long."""
    if value is None:
        return NOT_SET
    if key.endswith("_target_"):
        value = value.rsplit(".", 1)[-1]
    value = " ".join(value.split())
    return value if len(value) <= 48 else f"{value[:45]}..."


def _worth(run: Run) -> tuple[int, bool]:
    return run.steps, run.state == "finished"


def _leaves(node: Any, key: str = "") -> Settings:
    """Plain values under their dotted keys, written as in YAML."""
    if not isinstance(node, Mapping):
        words = {None: "null", True: "true", False: "false"}
        return {key: words[node] if node is None or isinstance(node, bool) else str(node)}
    found: Settings = {}
    for name, child in node.items():
        found.update(_leaves(child, f"{key}.{name}" if key else str(name)))
    return found


def _comparable(runs: Sequence[Run], seed_key: str) -> list[Settings]:
    """The settings that may tell arms apart.

    In a resolved configuration the seed and the run's folder stand wherever they were referred
    to: ``data.train.seed`` is that of the run, a logger's folder lies in the run's.
    """
    found = []
    for run in runs:
        settings = _leaves(run.config)
        own = settings.get("paths.run_dir", "null")
        if own != "null":
            settings = {
                k: "in the run's folder" if v == own or v.startswith(f"{own}/") else v
                for k, v in settings.items()
            }
        found.append(settings)
    keys = dict.fromkeys(key for settings in found for key in settings)
    follows = {
        key
        for key in keys
        if "seed" in key.rsplit(".", 1)[-1]
        and all(s[key] == s.get(seed_key) for s in found if key in s)
    }
    dropped = {key for key in keys if _below(key, (*IGNORED, seed_key)) or key in follows}
    return [{k: v for k, v in settings.items() if k not in dropped} for settings in found]


def _below(key: str, tops: Sequence[str]) -> bool:
    return any(key == top or key.startswith(f"{top}.") for top in tops)


def _check(runs: Sequence[Run], option: str, wanted: Sequence[str]) -> None:
    known = dict.fromkeys(key for run in runs for key in _leaves(run.config))
    groups = dict.fromkeys(key[:i] for key in known for i in range(len(key)) if key[i] == ".")
    for key in wanted:
        if known and key not in known and key not in groups:
            close = difflib.get_close_matches(key, [*known, *groups], n=1)
            mend = f"did you mean {close[0]}?" if close else "config.yaml of a run lists them"
            raise ConfigError(f"{option}={key}: no run has such a setting; {mend}")


def _labels(firsts: Sequence[Run], settings: Sequence[Settings], seed_key: str) -> list[str]:
    """Name each arm by the settings in which it differs from others."""
    read = [number for number, run in enumerate(firsts) if run.config]
    names = [reward_name(run.config) for run in firsts]
    found = [dict(s) for s in settings]
    for number, name in enumerate(names):
        if name is not None and "reward._target_" in found[number]:
            found[number] = {"reward": name, **found[number]}
    differ = differing([found[number] for number in read])
    # Which part was chosen comes first: it explains the options that only this part has.
    differ.sort(key=lambda key: (key != "reward", not _is_choice(key)))
    told: list[str] = []
    for key in differ:
        top = key.split(".", 1)[0]
        choice = [k for k in told if k == top or (k.endswith("_target_") and _under(key, k))]
        if not choice or not _follows(key, choice, [found[number] for number in read]):
            told.append(key)
    if len(told) > _LONG:
        told = _enough(told, [found[number] for number in read])
    short = _short(told, [seed_key, *(key for number in read for key in found[number])])
    usual = {key: _usual([found[number].get(key) for number in read]) for key in told}
    begins = ["reward"] if "reward" in told else [key for key in told if _is_choice(key)]
    labels, full = [], []
    for number, run in enumerate(firsts):
        texts = {k: f"{short[k]}={shown(k, found[number].get(k))}" for k in told}
        # What most arms have goes without saying, except the choice that the label begins with.
        said = [
            k for k in told if k in found[number] and (k in begins or found[number][k] != usual[k])
        ]
        parts = [texts[k] for k in said]
        full.append(", ".join(texts.values()))
        labels.append(", ".join(parts))
        if not run.config:
            labels[number] = full[number] = f"{run.name} (settings unknown)"
        elif not told:
            labels[number] = f"reward={names[number]}" if names[number] else "all runs"
    once = Counter(labels)
    labels = [
        label if label and once[label] == 1 else whole or label
        for label, whole in zip(labels, full, strict=True)
    ]
    seen = Counter[str]()
    for number, label in enumerate(labels):
        seen[label] += 1
        if seen[label] > 1:
            labels[number] = f"{label} ({seen[label]})"
    return labels


def _usual(values: Sequence[str | None]) -> str | None:
    """The value of more than half of the arms."""
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def _is_choice(key: str) -> bool:
    return key == "reward" or key.endswith("_target_")


def _under(key: str, target: str) -> bool:
    return key.startswith(target.removesuffix("_target_"))


def _follows(key: str, choice: Sequence[str], settings: Sequence[Settings]) -> bool:
    """Whether what was chosen says the value of `key` already."""
    values: dict[tuple[str | None, ...], str | None] = {}
    return all(
        values.setdefault(tuple(s.get(k) for k in choice), s.get(key)) == s.get(key)
        for s in settings
    )


def _enough(keys: Sequence[str], settings: Sequence[Settings]) -> list[str]:
    """The first keys that tell all arms apart; the table of settings has the others."""
    told: list[str] = []
    for key in keys:
        before = {tuple(s.get(k) for k in told) for s in settings}
        if len({tuple(s.get(k) for k in (*told, key)) for s in settings}) > len(before):
            told.append(key)
    return told


def _short(keys: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """The last names of keys, with as much in front as keeps them apart from all others."""
    ends = Counter[str]()
    for key in dict.fromkeys(known):
        ends.update(_ends(key))
    return {
        key: next((end for end in _ends(key) if ends[end] == 1), _ends(key)[-1]) for key in keys
    }


def _ends(key: str) -> list[str]:
    """``c``, ``b.c``, ``a.b.c`` of ``a.b.c``."""
    parts = key.removesuffix("._target_").split(".")
    return [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
