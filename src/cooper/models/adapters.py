"""Which of a model's weights are trained: all, or low-rank additions."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from cooper.checks import at_least, at_most
from cooper.errors import CheckpointError, ModelError
from cooper.models.roles import Roles
from cooper.rng import seed_of


class Weights:
    """A model's weights as an adapter left them: here all are trained.

    Args:
        model: in Hugging Face form.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    @property
    def trained(self) -> list[nn.Parameter]:
        """What an optimizer gets."""
        return list(self.model.parameters())

    def acting(self) -> AbstractContextManager[None]:
        """Compute with these weights."""
        return nullcontext()

    def start(self) -> AbstractContextManager[None] | None:
        """Compute as before the training without a second copy; None: that needs one."""
        return None

    @property
    def mixes(self) -> bool:
        """Whether one batch may hold rows of the start beside others; see :meth:`partly`."""
        return False

    def partly(self, rows: Tensor) -> AbstractContextManager[None]:
        """Compute some rows of a batch with these weights, the others as before the training.

        Args:
            rows: [B] bool: which rows compute with these weights.

        Raises:
            RuntimeError: the weights do not mix.
        """
        raise RuntimeError("these weights and those at the start are two copies: no batch has both")

    def checkpoint_gradients(self) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        self._checkpoint({})

    def _checkpoint(self, options: dict[str, Any]) -> None:
        if not self.model.supports_gradient_checkpointing:
            raise ModelError(
                f"gradient_checkpointing=true: {type(self.model).__name__} does not support it; "
                "give false"
            )
        # transformers' name for it from 5.23 on, and the one before.
        enable = getattr(self.model, "activation_checkpointing_enable", None)
        enable = enable or self.model.gradient_checkpointing_enable
        enable({"use_reentrant": False, **options})

    def merged(self) -> PreTrainedModel:
        """The model as transformers alone loads it; ends the training."""
        return self.model

    def save(self, folder: str | Path) -> None:
        """Write them in Hugging Face form."""
        self.model.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: it cannot be read, or does not fit.
        """
        try:
            saved = type(self.model).from_pretrained(
                folder, dtype=self.model.dtype, use_safetensors=True
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise _unreadable(folder, error) from error
        try:
            self.model.load_state_dict(saved.state_dict())
        except RuntimeError as error:
            raise _misfit(folder) from error


class LoraWeights(Weights):
    """A frozen base with trained low-rank additions, and a classifier's score layer.

    Args:
        model: the base, with peft's layers in it.
        wrapped: peft's view of it.
        roles: the switch over its layers.
        role: name of the additions.
    """

    def __init__(self, model: PreTrainedModel, wrapped: Any, roles: Roles, role: str) -> None:
        super().__init__(model)
        self.wrapped = wrapped
        self.roles = roles
        self.role = role
        # By name: a shared base holds the other role's additions too.
        self._names = [
            n for n, p in model.named_parameters() if p.requires_grad and f".{role}." in f"{n}."
        ]

    @property
    def trained(self) -> list[nn.Parameter]:
        """The additions, and a classifier's score layer."""
        # As they are now: a strategy may have put sharded ones in their place.
        weights = dict(self.model.named_parameters())
        return [weights[name] for name in self._names]

    def acting(self) -> AbstractContextManager[None]:
        """Compute with the additions."""
        return self.roles.acting(self.role)

    def start(self) -> AbstractContextManager[None]:
        """Compute as the base alone; the additions began at zero."""
        return self.roles.acting(None)

    @property
    def mixes(self) -> bool:
        """Whether the additions can be left out row by row."""
        return self.roles.mixes(self.role)

    def partly(self, rows: Tensor) -> AbstractContextManager[None]:
        """See the base class."""
        return self.roles.partly(self.role, rows)

    def checkpoint_gradients(self) -> None:
        """See the base class; a recomputation takes the role of its forward."""
        self._checkpoint({"context_fn": self.roles.for_checkpointing})

    def merged(self) -> PreTrainedModel:
        """The base with the additions added to its own weights."""
        return self.wrapped.merge_and_unload()

    def save(self, folder: str | Path) -> None:
        """Write the additions as peft's ``save_pretrained`` does."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        Path(folder).mkdir(parents=True, exist_ok=True)
        # Of a shared base peft would give the other role's additions too.
        own = {n: t for n, t in self.wrapped.state_dict().items() if f".{self.role}." in f"{n}."}
        state = cast(
            "dict[str, Tensor]",
            get_peft_model_state_dict(
                self.wrapped, state_dict=own, adapter_name=self.role, save_embedding_layers=False
            ),
        )
        tensors = {name: tensor.contiguous().cpu() for name, tensor in state.items()}
        save_file(tensors, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})
        config = copy.deepcopy(self.wrapped.peft_config[self.role])
        config.inference_mode = True
        base = Path(config.base_model_name_or_path or "").expanduser()
        if config.base_model_name_or_path and base.is_dir():
            # A relative path would only be found from the folder that this run was started in.
            config.base_model_name_or_path = str(base.resolve())
        config.save_pretrained(str(folder))

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: it cannot be read, or does not fit.
        """
        from safetensors.torch import load_file

        try:
            state = load_file(folder / "adapter_model.safetensors")
        except (OSError, SafetensorError) as error:
            raise _unreadable(folder, error) from error
        self.take(state, folder)

    def take(self, state: dict[str, Tensor], folder: Path) -> None:
        """Put additions into the model, by peft's names.

        Args:
            state: all of them, and a classifier's score layer.
            folder: where they come from, for messages.

        Raises:
            CheckpointError: they do not fit.
        """
        from peft import set_peft_model_state_dict

        try:
            found: Any = set_peft_model_state_dict(self.wrapped, state, adapter_name=self.role)
        except RuntimeError as error:
            raise _misfit(folder) from error
        missing = [name for name in found.missing_keys if f".{self.role}." in f"{name}."]
        if found.unexpected_keys or missing:
            raise _misfit(folder)


def _unreadable(folder: Path, error: Exception) -> CheckpointError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(f"{folder}: cannot be loaded ({first}); use an earlier step")


def _misfit(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"{folder}: its weights do not fit this run's model; resume with the run's own settings"
    )


class Adapter(ABC):
    """Prepares a model for training."""

    trains_base = True  # whether the base's own weights move, and so have to be float32

    @abstractmethod
    def attach(self, model: PreTrainedModel, seed: int) -> Weights:
        """Mark what is trained; the model computes what it did before.

        Args:
            model: changed in place.
            seed: of new weights.

        Raises:
            ModelError: the model does not take it.
        """


class FullAdapter(Adapter):
    """All weights are trained."""

    def attach(self, model: PreTrainedModel, seed: int) -> Weights:
        """Nothing is added."""
        model.requires_grad_(True)
        return Weights(model)


class LoraAdapter(Adapter):
    """Low-rank additions to frozen layers (LoRA, arXiv 2106.09685), by peft.

    A classifier's score layer is trained whole, in float32. The additions start at zero, in
    float32 whatever the base has.

    Args:
        rank: of the additions.
        alpha: their scale is alpha / rank.
        dropout: on their input.
        target_modules: names of the layers, or "all-linear".
    """

    trains_base = False

    def __init__(
        self,
        rank: int = 16,
        alpha: float = 32.0,
        dropout: float = 0.0,
        target_modules: str | Sequence[str] = "all-linear",
    ) -> None:
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.target_modules = target_modules
        at_least("adapter", self, rank=1, alpha=1e-6, dropout=0)
        at_most("adapter", self, dropout=0.9)

    def attach(self, model: PreTrainedModel, seed: int) -> LoraWeights:
        """Freeze the layers and add the low-rank ones."""
        # peft's own name for a single adapter, so that a folder has its plain form.
        wrapped = self.wrap(model, seed, "default")
        return LoraWeights(model, wrapped, Roles(model, "default"), "default")

    def wrap(self, model: PreTrainedModel, seed: int, name: str) -> Any:
        """Put the additions into a model, under a name.

        Returns:
            peft's view of the model.

        Raises:
            ModelError: the model has no layers of these names.
        """
        from peft import LoraConfig, TaskType, get_peft_model

        names = self.target_modules
        if not isinstance(names, str):
            self._require_layers(model)
        score = getattr(model, "score", None)
        if isinstance(score, nn.Linear) and score.weight.dtype != torch.float32:
            # A trained layer of 16 bits would not move at RL's learning rates.
            score.to(torch.float32)
            score.register_forward_pre_hook(to_weights_dtype)
        config = LoraConfig(
            task_type=TaskType.CAUSAL_LM if score is None else TaskType.SEQ_CLS,
            r=self.rank,
            lora_alpha=cast(Any, self.alpha),
            lora_dropout=self.dropout,
            target_modules=names if isinstance(names, str) else list(names),
            # The commit of a base from the hub, so that the additions keep to its weights.
            revision=getattr(model.config, "_commit_hash", None),
        )
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(seed, "lora"))
                return get_peft_model(model, config, adapter_name=name)
        except ValueError as error:
            raise ModelError(
                f"adapter.target_modules={names}: {str(error).splitlines()[0]}"
            ) from error

    def _require_layers(self, model: PreTrainedModel) -> None:
        """Check that every name names a layer: peft is content with one of them."""
        layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        for wanted in self.target_modules:
            if not any(f".{name}".endswith(f".{wanted}") for name in layers):
                known = sorted({name.rpartition(".")[2] for name in layers} - {"score", "lm_head"})
                raise ModelError(
                    f"adapter.target_modules={list(self.target_modules)}: {type(model).__name__} "
                    f"has no layer {wanted}; it has {', '.join(known)}, or give all-linear"
                )


def to_weights_dtype(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give a float32 layer on a 16-bit base its own kind of input (a forward pre-hook)."""
    return (inputs[0].to(cast(nn.Linear, layer).weight.dtype), *inputs[1:])
