"""The only place where weights come from disk or hub: a local folder and a hub id alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as _CAUSAL_LMS,
)

from cooper.errors import ModelError
from cooper.rng import generator

DType = Literal["float32", "bfloat16", "float16"]

_CAUSAL_NAMES = ("ForCausalLM", "LMHeadModel")
# What has to be run first where a reward model is wanted and none is there.
_TRAIN_FIRST = (
    "train a reward model first (cooper-annotate makes its labels, then cooper-train-reward "
    "experiment=verifyrm_qwen data.train=LABELS), or use reward=rule, which needs none"
)


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
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{key}={path}: holds a peft adapter and no whole model; give a folder with the merged "
            "model, as export.form=merged writes it"
        )
    if not (folder / "config.json").is_file():
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
    folder = _folder(path, key)
    try:
        return loader.from_pretrained(folder, **kwargs)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        mend = ""
        if isinstance(error, OSError) and not Path(folder).exists():
            mend = (
                "; check the id, the network and, for a gated model, HF_TOKEN, or give a local "
                "folder"
            )
        raise ModelError(
            f"{key}={path}: cannot load the {what}: {first.rstrip('.')}{mend}"
        ) from error


def _whole(info: dict[str, Any], path: str, key: str) -> None:
    """Check that no weight was left to chance.

    Raises:
        ModelError: weights are missing, or have other sizes than config.json says.
    """
    for name, stored, wanted in sorted(info["mismatched_keys"]):
        raise ModelError(
            f"{key}={path}: {name} is stored as {tuple(stored)} where config.json makes it "
            f"{tuple(wanted)}; give a folder whose config.json belongs to its weights"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(
            f"{key}={path}: weights are missing ({missing[0]}{more}) and would be random; give a "
            "folder with all of them"
        )


def _require_writer(config: PretrainedConfig, path: str, key: str) -> None:
    """Check that a model writes text from left to right, which transformers does not.

    It loads an encoder or a classifier as a causal language model too, with weights left out.

    Raises:
        ModelError: it is of another architecture.
    """
    names = [str(name) for name in getattr(config, "architectures", None) or ()]
    own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    known = {*_CAUSAL_LMS.values()}
    writes = own_code or not names
    writes = writes or any(name in known or name.endswith(_CAUSAL_NAMES) for name in names)
    if not writes or getattr(config, "is_encoder_decoder", False):
        held = ", ".join(names) or config.model_type
        raise ModelError(
            f"{key}={path}: holds a {held}, which does not write text from left to right; give a "
            "causal language model (...ForCausalLM)"
        )


def load_config(
    path: str, *, revision: str | None = None, trust_remote_code: bool = False, key: str = "path"
) -> PretrainedConfig:
    """Load a model's config alone.

    Raises:
        ModelError: it cannot be loaded.
    """
    return _load(
        AutoConfig, "config", path, key, revision=revision, trust_remote_code=trust_remote_code
    )


def load_tokenizer(
    path: str, *, revision: str | None = None, trust_remote_code: bool = False, key: str = "path"
) -> PreTrainedTokenizerBase:
    """Load a tokenizer, and give it a padding token where it has none.

    Padding is masked everywhere, so the id does not matter; the end-of-sequence token serves.

    Raises:
        ModelError: it cannot be loaded, has no vocabulary, or no end-of-sequence token.
    """
    tokenizer = _load(
        AutoTokenizer,
        "tokenizer",
        path,
        key,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    if not tokenizer("What is 1 + 1?", add_special_tokens=False)["input_ids"]:
        # Where its files are missing, transformers makes an empty one of the model's class.
        raise ModelError(
            f"{key}={path}: the tokenizer has no vocabulary; give a folder with its files "
            "(tokenizer.json, tokenizer_config.json)"
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{key}={path}: the tokenizer has no end-of-sequence token, so no completion would "
            "end; name its eos_token in tokenizer_config.json"
        )
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
        ModelError: it cannot be loaded, is of another architecture, or lacks weights.
    """
    origin: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    _require_writer(load_config(path, key=key, **origin), path, key)
    model, info = _load(
        AutoModelForCausalLM,
        "causal language model",
        path,
        key,
        dtype=getattr(torch, dtype),
        attn_implementation=attn_implementation,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # told below, by name
        **origin,
    )
    _whole(info, path, key)
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
    origin: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    labels = load_config(path, key=key, **origin).num_labels
    model, info = _load(
        AutoModelForSequenceClassification,
        "reward model",
        path,
        key,
        dtype=getattr(torch, dtype),
        attn_implementation=attn_implementation,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # told below, by name
        **origin,
        **({} if new_head_seed is None else {"num_labels": 1}),
    )
    if not hasattr(model, "score"):
        raise ModelError(
            f"{key}={path}: a {type(model).__name__} has no score layer on the last token; give a "
            "classifier on a decoder, such as Qwen2ForSequenceClassification"
        )
    heads = {name for name in info["missing_keys"] if name.startswith("score.")}
    if heads and new_head_seed is None:
        raise ModelError(
            f"{key}={path}: the folder holds no trained reward head (score.weight is missing); "
            f"{_TRAIN_FIRST}"
        )
    if (labels if not heads else model.config.num_labels) != 1:
        raise ModelError(
            f"{key}={path}: the classifier has {labels} labels where a reward model has 1; "
            f"{_TRAIN_FIRST}"
        )
    _whole({**info, "missing_keys": set(info["missing_keys"]) - heads}, path, key)
    if heads and new_head_seed is not None:
        rng = generator(new_head_seed, "reward head")
        weight = torch.empty(model.score.weight.shape).normal_(
            std=getattr(model.config, "initializer_range", 0.02), generator=rng
        )
        with torch.no_grad():
            model.score.weight.copy_(weight)
    return model


def check_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str, key: str
) -> None:
    """Check that the model has a row of its embedding for every token.

    Raises:
        ModelError: it has not; such a token would end the run when it first comes.
    """
    rows = cast(Any, model.get_input_embeddings()).weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(
            f"{key}={path}: the tokenizer has {len(tokenizer)} tokens and the model's embedding "
            f"{rows} rows; give the model's own tokenizer, or resize the embedding with "
            "model.resize_token_embeddings(len(tokenizer)) and save it"
        )


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills up padded views; it is masked everywhere, so any will do."""
    return tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0
