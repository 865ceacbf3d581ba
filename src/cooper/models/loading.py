"""The only place where weights come from disk or hub: a local folder and a hub id alike."""

from __future__ import annotations

import json
from dataclasses import dataclass
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
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from cooper.errors import ModelError
from cooper.rng import generator

ADAPTER_CONFIG = "adapter_config.json"

DType = Literal["float32", "bfloat16", "float16"]

_CAUSAL_NAMES = ("ForCausalLM", "LMHeadModel")
# What has to be run first where a reward model is wanted and none is there.
_TRAIN_FIRST = (
    "train one: `cooper-annotate` labels completions, `cooper-train-reward "
    "experiment=verifyrm_qwen` learns from them; or use reward=rule, which needs none"
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
    folder = _folder(path, key)
    try:
        return loader.from_pretrained(folder, **kwargs)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        mend = ""
        if isinstance(error, OSError) and not Path(folder).exists():
            mend = (
                "; check the id, the network and, for a gated model, HF_TOKEN, or give a local "
                "folder"
            )
        raise ModelError(
            f"{key}={path}: cannot load the {what}: {_first_line(error).rstrip('.')}{mend}"
        ) from error


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


@dataclass(frozen=True)
class _Stored:
    """How a folder's weights fit its model."""

    missing: frozenset[str]
    other_sizes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]  # stored, needed

    def require(self, path: str, key: str, but: str = "") -> None:
        """Check that no weight is left to chance, except those whose names begin with `but`.

        Raises:
            ModelError: weights are missing, or have other sizes than config.json says.
        """
        for name, (stored, needed) in sorted(self.other_sizes.items()):
            raise ModelError(
                f"{key}={path}: {name} is stored as {stored} where config.json makes it {needed}; "
                "give a folder whose config.json belongs to its weights"
            )
        missing = sorted(n for n in self.missing if not (but and n.startswith(but)))
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ModelError(
                f"{key}={path}: weights are missing ({missing[0]}{more}) and would be random; give "
                "a folder with all of them"
            )


def _weigh(loader: Any, what: str, path: str, key: str, **options: Any) -> tuple[Any, _Stored]:
    model, info = _load(
        loader,
        what,
        path,
        key,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # transformers' own error does not say which
        **options,
    )
    sizes = {name: (tuple(a), tuple(b)) for name, a, b in info["mismatched_keys"]}
    return model, _Stored(frozenset(info["missing_keys"]), sizes)


def _model(loader: Any, what: str, path: str, key: str, **options: Any) -> tuple[Any, _Stored]:
    """Load a model, or a base with peft's additions merged into it.

    Returns:
        the model, and how what was stored fits it.

    Raises:
        ModelError: it cannot be loaded.
    """
    base = adapter_base(path, revision=options["revision"], key=key)
    if base is None:
        return _weigh(loader, what, path, key, **options)
    from peft import PeftModel

    where = f"{key}={path}: base_model_name_or_path"
    revision = options.pop("revision")
    if loader is AutoModelForSequenceClassification:
        options["num_labels"] = 1
    model, stored = _weigh(loader, what, base[0], where, revision=base[1], **options)
    try:
        wrapped = PeftModel.from_pretrained(model, _folder(path, key), revision=revision)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"{key}={path}: the adapter does not fit {base[0]} ({_first_line(error)}); give it "
            "its own base"
        ) from error
    if wrapped.active_peft_config.task_type == "SEQ_CLS":  # brings the head that the base lacks
        own = [n for n in (*stored.missing, *stored.other_sizes) if n.startswith("score.")]
        stored = _Stored(
            stored.missing.difference(own),
            {n: sizes for n, sizes in stored.other_sizes.items() if n not in own},
        )
    return wrapped.merge_and_unload(), stored


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
        ModelError: it cannot be loaded, has no vocabulary, or no end-of-sequence token.
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
    model, stored = _model(
        AutoModelForCausalLM,
        "causal language model",
        path,
        key,
        dtype=getattr(torch, dtype),
        attn_implementation=attn_implementation,
        **origin,
    )
    stored.require(path, key)
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
    model, stored = _model(
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
    if not hasattr(model, "score"):
        raise ModelError(
            f"{key}={path}: a {type(model).__name__} has no score layer on the last token; give a "
            "classifier on a decoder, such as Qwen2ForSequenceClassification"
        )
    head_missing = "score.weight" in stored.missing
    if head_missing and new_head_seed is None:
        raise ModelError(
            f"{key}={path}: holds no trained reward head (score.weight is missing); {_TRAIN_FIRST}"
        )
    sizes = stored.other_sizes.get("score.weight")
    labels = sizes[0][0] if sizes else model.config.num_labels
    if labels != 1:
        raise ModelError(
            f"{key}={path}: the classifier has {labels} labels where a reward model has 1; "
            f"{_TRAIN_FIRST}"
        )
    stored.require(path, key, but="score.")
    if head_missing and new_head_seed is not None:
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
