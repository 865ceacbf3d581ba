"""The only place where weights come from disk or hub: a local folder and a hub id alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from cooper.errors import ModelError
from cooper.rng import generator

ADAPTER_CONFIG = "adapter_config.json"

DType = Literal["float32", "bfloat16", "float16"]


def _looks_local(path: str) -> bool:
    """Whether the user meant a folder: absolute, relative with a dot, or more than owner/name."""
    return path.startswith((".", "~", "/")) or path.count("/") != 1 or Path(path).exists()


def _folder(path: str, key: str) -> str:
    """Expand a local folder and check that it holds a model; pass a hub id through.

    Raises:
        ModelError: a local folder that does not exist or holds no config.json.
    """
    if not _looks_local(path):
        return path
    folder = Path(path).expanduser()
    if not folder.is_dir() and "/" not in path:
        return path  # hub ids without an owner, such as "gpt2"
    if not folder.is_dir():
        raise ModelError(f"{key}={path}: no such folder; give a Hugging Face folder or a hub id")
    if not any((folder / name).is_file() for name in ("config.json", ADAPTER_CONFIG)):
        raise ModelError(
            f"{key}={path}: the folder holds no config.json; give a folder written by "
            "save_pretrained, or a hub id"
        )
    return str(folder)


def _load(loader: Any, what: str, path: str, key: str, **kwargs: Any) -> Any:
    """Call a from_pretrained and turn its many failures into one line.

    Raises:
        ModelError: the model, tokenizer or revision cannot be loaded.
    """
    try:
        return loader.from_pretrained(_folder(path, key), **kwargs)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{key}={path}: cannot load the {what}: {_first_line(error)}") from error


def adapter_base(
    path: str, *, revision: str | None = None, key: str = "path"
) -> tuple[str, str | None] | None:
    """Base model and its revision that peft's additions in a folder or on the hub belong to.

    Returns:
        None where `path` holds a whole model.

    Raises:
        ModelError: the additions do not say what they belong to.
    """
    try:
        file = find_adapter_config_file(_folder(path, key), revision=revision)
    except (OSError, ValueError):
        return None  # loading says better what is wrong
    if file is None:
        return None
    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
        base = config["base_model_name_or_path"]
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(f"{key}={path}: {ADAPTER_CONFIG} cannot be read ({error})") from error
    if not base:
        raise ModelError(
            f"{key}={path}: {ADAPTER_CONFIG} names no base model (base_model_name_or_path); "
            "write it in, or merge the adapter"
        )
    return str(base), config.get("revision")


def _model(loader: Any, what: str, path: str, key: str, **options: Any) -> tuple[Any, set[str]]:
    """Load a model, or a base with peft's additions merged into it.

    Returns:
        the model, and the names of weights that it needs and were not there.

    Raises:
        ModelError: it cannot be loaded.
    """
    base = adapter_base(path, revision=options["revision"], key=key)
    if base is None:
        model, info = _load(loader, what, path, key, output_loading_info=True, **options)
        return model, set(info["missing_keys"])
    from peft import PeftModel

    where = f"{key}={path}: base_model_name_or_path"
    revision = options.pop("revision")
    if loader is AutoModelForSequenceClassification:
        options["num_labels"] = 1
    model, info = _load(
        loader, what, base[0], where, output_loading_info=True, revision=base[1], **options
    )
    try:
        wrapped = PeftModel.from_pretrained(model, _folder(path, key), revision=revision)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"{key}={path}: the adapter does not fit {base[0]} ({_first_line(error)}); give it "
            "its own base"
        ) from error
    heads = set[str]() if wrapped.active_peft_config.task_type == "SEQ_CLS" else {"score"}
    missing = {name for name in info["missing_keys"] if name.split(".")[0] in heads}
    return wrapped.merge_and_unload(), missing


def load_json(path: str, name: str, *, revision: str | None = None) -> dict[str, Any] | None:
    """Read a small JSON file beside a model's weights, in a folder or on the hub; None: none."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        file: Any = folder / name if (folder / name).is_file() else None
    else:
        file = cached_file(
            path, name, revision=revision, _raise_exceptions_for_missing_entries=False
        )
    return None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def load_config(
    path: str, *, revision: str | None = None, trust_remote_code: bool = False, key: str = "path"
) -> PretrainedConfig:
    """Load a model's config alone.

    Raises:
        ModelError: it cannot be loaded.
    """
    base = adapter_base(path, revision=revision, key=key)
    if base is not None:
        path, revision = base
    return _load(
        AutoConfig, "config", path, key, revision=revision, trust_remote_code=trust_remote_code
    )


def load_tokenizer(
    path: str, *, revision: str | None = None, trust_remote_code: bool = False, key: str = "path"
) -> PreTrainedTokenizerBase:
    """Load a tokenizer, and give it a padding token where it has none.

    Padding is masked everywhere, so the id does not matter; the end-of-sequence token serves.

    Raises:
        ModelError: it cannot be loaded, or has no end-of-sequence token.
    """
    base = adapter_base(path, revision=revision, key=key)
    folder = Path(path).expanduser()
    if base is not None and folder.is_dir() and not any(folder.glob("tokenizer*")):
        path, revision = base
    tokenizer = _load(
        AutoTokenizer,
        "tokenizer",
        path,
        key,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{key}={path}: the tokenizer has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_causal_lm(
    path: str,
    *,
    revision: str | None = None,
    dtype: DType = "float32",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    key: str = "policy.path",
) -> PreTrainedModel:
    """Load a causal language model from a folder or the hub.

    Args:
        path: folder in ``save_pretrained`` form, or hub id.
        revision: commit, tag or branch on the hub.
        dtype: of the weights. Trained weights are float32: pure bfloat16 weights do not move at
            RL's learning rates.
        attn_implementation: as in transformers ("sdpa", "flash_attention_2", "eager").
        trust_remote_code: run code from the model's repository; only where you trust it.
        key: the setting's name, for error messages.

    Raises:
        ModelError: it cannot be loaded.
    """
    model, _ = _model(
        AutoModelForCausalLM,
        "causal language model",
        path,
        key,
        revision=revision,
        dtype=getattr(torch, dtype),
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
    )
    return model


def load_reward_model(
    path: str,
    *,
    revision: str | None = None,
    dtype: DType = "float32",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    new_head_seed: int | None = None,
    key: str = "reward_model.path",
) -> PreTrainedModel:
    """Load a one-label sequence classifier from a folder or the hub.

    Args:
        path: folder in ``save_pretrained`` form, or hub id.
        revision: commit, tag or branch on the hub.
        dtype: of the weights.
        attn_implementation: as in transformers.
        trust_remote_code: run code from the model's repository; only where you trust it.
        new_head_seed: accept a backbone whose head is missing and draw the head from this seed,
            as transformers would; only for the reward model's own first training. (A head of
            zeros was measured to learn more slowly.)
        key: the setting's name, for error messages.

    Raises:
        ModelError: it cannot be loaded, has more than one label, or its head is missing.
    """
    model, missing = _model(
        AutoModelForSequenceClassification,
        "reward model",
        path,
        key,
        revision=revision,
        dtype=getattr(torch, dtype),
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
        **({} if new_head_seed is None else {"num_labels": 1}),
    )
    head_missing = any("score" in name for name in missing)
    if head_missing and new_head_seed is None:
        raise ModelError(
            f"{key}={path}: holds no trained reward head (score.weight is missing); train one: "
            "`cooper-annotate` labels completions, `cooper-train-reward "
            "experiment=verifyrm_qwen` learns from them; or use reward=rule, which needs none"
        )
    if model.config.num_labels != 1:
        raise ModelError(
            f"{key}={path}: the classifier has {model.config.num_labels} labels where a reward "
            "model has 1; give a one-label sequence classifier"
        )
    if head_missing and new_head_seed is not None:
        rng = generator(new_head_seed, "reward head")
        weight = torch.empty(model.score.weight.shape).normal_(
            std=getattr(model.config, "initializer_range", 0.02), generator=rng
        )
        with torch.no_grad():
            model.score.weight.copy_(weight)
    return model


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills up padded views; it is masked everywhere, so any will do."""
    return tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0
