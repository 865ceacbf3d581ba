"""One frozen base in memory for policy, reward model, reference and assistant.

The policy is the base with low-rank additions, the reward model the same base with others and a
score layer, the reference and the assistant are the base alone. The two trained ones are views
over one backbone object; :class:`~cooper.models.roles.Roles` says as which of them it computes.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from cooper.errors import CheckpointError, ModelError
from cooper.models.adapters import LoraAdapter, LoraWeights, to_weights_dtype
from cooper.models.loading import adapter_base, load_json, load_tokenizer
from cooper.models.policy import Policy
from cooper.models.reward_model import RECORD, RECORD_FILE, RewardModel
from cooper.models.roles import Roles
from cooper.models.sources import Pretrained

POLICY, REWARD = "policy", "reward"

_HOW = (
    "`cooper-train-reward adapter=lora export.form=adapter backbone.path={base}` makes one; or "
    "give model=separate"
)


def share_base(
    policy: Policy, base: str, adapter: LoraAdapter, reward: Pretrained | None, seed: int
) -> RewardModel | None:
    """Make a loaded base the policy's and the reward model's.

    Args:
        policy: the base alone; gets the adapter's additions.
        base: its path, as the additions of the reward model have to name it.
        adapter: of the policy.
        reward: where the reward model's additions stand; None: no reward model.
        seed: of the policy's additions.

    Returns:
        the reward model over the same weights, all of it frozen but its additions and score layer.

    Raises:
        ModelError: the reward model's folder holds no additions to this base.
    """
    model = policy.model
    parts = None if reward is None else _reward_view(model, base, reward)
    views = {POLICY: (model, adapter.wrap(model, seed, POLICY))}
    if parts is not None:
        from peft import get_peft_model

        classifier, config = parts
        views[REWARD] = (classifier, get_peft_model(classifier, config, adapter_name=REWARD))
    for role, (view, _) in views.items():
        # peft leaves the adapter trainable that came last.
        for name, parameter in view.named_parameters():
            if f".{role}." in f"{name}.":
                parameter.requires_grad_(True)
    roles = Roles(model, resting=POLICY)
    weights = {
        role: LoraWeights(view, wrapped, roles, role) for role, (view, wrapped) in views.items()
    }
    policy.weights = weights[POLICY]
    if reward is None or parts is None:
        return None
    _load_additions(weights[REWARD], reward, base)
    tokenizer = load_tokenizer(
        reward.path,
        revision=reward.revision,
        trust_remote_code=reward.trust_remote_code,
        key="reward_model.path",
    )
    reward_model = RewardModel(parts[0], tokenizer)
    reward_model.weights = weights[REWARD]
    # Scores in another role would be wrong without a word.
    parts[0].register_forward_pre_hook(lambda *_: _require_role(roles))
    return reward_model.eval()


def _reward_view(model: PreTrainedModel, base: str, reward: Pretrained) -> tuple[Any, Any]:
    """A classifier over the base's own backbone, and peft's configuration of its additions."""
    from peft import PeftConfig

    where = f"reward_model.path={reward.path}"
    how = _HOW.format(base=base)
    found = adapter_base(reward.path, revision=reward.revision, key="reward_model.path")
    if found is None:
        raise ModelError(
            f"{where}: a whole model, and model=shared needs additions to policy.path={base}; {how}"
        )
    if not _same(found[0], base):
        raise ModelError(
            f"{where}: its additions belong to {found[0]}, and model=shared has the base "
            f"policy.path={base}; {how}"
        )
    record = load_json(reward.path, RECORD_FILE, revision=reward.revision)
    if record is not None and record.get("head", {}).get("name") == "implicit":
        raise ModelError(
            f"{where}: the implicit head reads a causal language model and a reference of its own; "
            "give model=separate"
        )
    peft_config: Any = PeftConfig.from_pretrained(
        str(Path(reward.path).expanduser()), revision=reward.revision
    )
    if str(peft_config.task_type) not in ("SEQ_CLS", "TaskType.SEQ_CLS"):
        raise ModelError(
            f"{where}: holds no trained reward head (task_type={peft_config.task_type} where "
            f"SEQ_CLS is needed); {how}"
        )
    peft_config.inference_mode = False
    peft_config.base_model_name_or_path = model.name_or_path  # the same, by the name used here
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    setattr(config, RECORD, record)
    with torch.device("meta"):
        classifier: Any = AutoModelForSequenceClassification.from_config(config)
    prefix = model.base_model_prefix
    if classifier.base_model_prefix != prefix or not isinstance(classifier.score, nn.Linear):
        raise ModelError(
            f"policy.path={base}: {type(model).__name__} and {type(classifier).__name__} have no "
            "backbone in common; give model=separate"
        )
    setattr(classifier, prefix, getattr(model, prefix))
    classifier.score = nn.Linear(classifier.score.in_features, 1, bias=False)
    classifier.score.register_forward_pre_hook(to_weights_dtype)
    classifier.name_or_path = model.name_or_path
    return classifier, peft_config


def _load_additions(weights: LoraWeights, reward: Pretrained, base: str) -> None:
    from peft.utils.save_and_load import load_peft_weights

    try:
        state = load_peft_weights(
            str(Path(reward.path).expanduser()), device="cpu", revision=reward.revision
        )
        weights.take(state, Path(reward.path))
    except (CheckpointError, OSError, ValueError) as error:
        raise ModelError(
            f"reward_model.path={reward.path}: its additions and score layer do not fit the base "
            f"policy.path={base}; {_HOW.format(base=base)}"
        ) from error


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    folders = [Path(path).expanduser() for path in (one, other)]
    return all(f.is_dir() for f in folders) and folders[0].resolve() == folders[1].resolve()


def _require_role(roles: Roles) -> None:
    if roles.current != REWARD:
        raise RuntimeError(
            f"the reward model was called while the shared base computes as {roles.current}; call "
            "RewardModel.forward or score, not its model"
        )
