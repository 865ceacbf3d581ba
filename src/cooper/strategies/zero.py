"""DeepSpeed's ZeRO (arXiv 1910.02054) with an engine for each trained model."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cooper.collectives import rank, ranks
from cooper.errors import ConfigError
from cooper.models.adapted import Adapted
from cooper.strategies.ddp import ProcessesStrategy
from cooper.strategies.engine import MASTER, Engine, OptimizerState, make_plain, weights_of

_MOMENTS = ("exp_avg", "exp_avg_sq")


class ZeroEngine(Engine):
    """A model in an engine of DeepSpeed's.

    Args:
        model: that DeepSpeed computes with.
        optimizer: of torch's; None: the model is frozen, and its weights are sharded.
        weights: that the optimizer was made for: DeepSpeed has put flat parts in their place.
        engine: DeepSpeed's, over both.
        stage: 1, 2 or 3.
        apply: steps through Lightning, which counts.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        weights: list[nn.Parameter],
        engine: Any,
        stage: int,
        apply: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__(model, optimizer, apply=apply)
        self.deepspeed, self.stage = engine, stage
        self._weights = weights

    @property
    def trained(self) -> list[nn.Parameter]:
        """See the base class."""
        return self._weights

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Through DeepSpeed: what calls the model itself gets no gradient under stage 3."""
        return self.deepspeed(*args, **kwargs)

    def zero_grad(self) -> None:
        """DeepSpeed does so at each step's end."""

    def backward(self, loss: Tensor) -> None:
        """See the base class; DeepSpeed takes means over processes, and this is a sum."""
        # Without it stage 3 loses all but one of the gradients that a step accumulates, silently.
        self.deepspeed.optimizer.clear_backward_seen_flag()
        self.deepspeed.backward(loss * ranks())

    def step(self, clip_norm: float, finite: bool) -> tuple[float, bool]:
        """See the base class; DeepSpeed clips, and skips a gradient that is not finite."""
        (self._apply or self.deepspeed.step)()
        return float(self.deepspeed.get_global_grad_norm()), self.deepspeed.was_step_applied()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """See the base class. The hooks are off meanwhile: they would let go of weights again."""
        if self.stage < 3:
            yield
            return
        import deepspeed

        offload = self._offload()
        offload._remove_module_hooks()
        offload.forward_hooks.clear()
        offload.backward_hooks.clear()
        try:
            with deepspeed.zero.GatheredParameters(list(self.model.parameters())):
                yield
        finally:
            offload.setup_zero_stage3_hooks()

    def _offload(self) -> Any:
        """The part of DeepSpeed that brings weights and lets them go."""
        optimizer = self.deepspeed.optimizer
        return getattr(optimizer, "parameter_offload", optimizer)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """See the base class; the exact weights are taken over besides."""
        if self.stage < 3:
            yield
        else:
            import deepspeed

            # All processes write the same; the first one's are cut into parts.
            with deepspeed.zero.GatheredParameters(list(self.model.parameters()), modifier_rank=0):
                yield
        self._take_masters({})

    @torch.no_grad()
    def optimizer_state(self) -> OptimizerState:
        """See the base class; beside the means the float32 weights, where there are others."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        state: OptimizerState = {}
        steps = [s["step"] for s in self.optimizer.state.values() if "step" in s]
        if not steps:
            return state
        for index, weight in enumerate(self._weights):
            found: dict[str, Any] = {
                name: safe_get_full_optimizer_state(weight, name) for name in _MOMENTS
            }
            if weight.dtype != torch.float32:
                found[MASTER] = safe_get_full_fp32_param(weight)
            if rank() == 0:
                state[index] = {
                    "step": steps[0].cpu().clone(),
                    **{name: value.cpu().clone() for name, value in found.items()},
                }
        return state

    @torch.no_grad()
    def load_optimizer_state(self, state: OptimizerState) -> None:
        """See the base class."""
        self._take_masters(state)
        if not state:
            return
        held = self.deepspeed.optimizer
        # No step has made them yet.
        for flat in (
            held.fp32_partitioned_groups_flat
            if self.stage == 3
            else held.single_partition_of_fp32_groups
        ):
            self.optimizer.state[flat] = {
                "step": state[0]["step"].to(flat.device, copy=True),
                **{name: torch.zeros_like(flat) for name in _MOMENTS},
            }
        if self.stage < 3:
            held._lazy_init_hp_params_optimizer_state()
        for index, weight in enumerate(self._weights):
            for name in _MOMENTS:
                self._put(weight, state[index][name], name)

    def _put(self, weight: nn.Parameter, value: Tensor, moment: str | None = None) -> None:
        """Put a whole tensor in place of a weight's float32 form, or of one of its moments."""
        from deepspeed import utils

        value = value.detach().to(self.deepspeed.device, torch.float32)
        if self.stage < 3:
            if moment is None:
                utils.safe_set_full_fp32_param(weight, value)
            else:
                utils.safe_set_full_optimizer_state(weight, value, moment)
            return
        # Each process its part of the same size; the last one's may reach beyond the end.
        size = -(-value.numel() // ranks())
        padded = torch.nn.functional.pad(value.flatten(), (0, size * ranks() - value.numel()))
        own = padded[size * rank() : size * (rank() + 1)]
        if moment is None:
            utils.safe_set_local_fp32_param(weight, own)
        else:
            utils.safe_set_local_optimizer_state(weight, own, moment)

    def _take_masters(self, state: OptimizerState) -> None:
        """Put float32 weights in: the saved ones, else what the model computes with."""
        import deepspeed

        for index, weight in enumerate(self._weights):
            exact = state.get(index, {}).get(MASTER)
            if exact is None:
                with deepspeed.zero.GatheredParameters([weight], enabled=self.stage == 3):
                    exact = weight.detach().clone()
            self._put(weight, exact)

    def release(self) -> None:
        """See the base class."""
        if self.stage == 3:
            with self.whole():
                found = {
                    name: p.detach().cpu().clone() if rank() == 0 else None
                    for name, p in self.model.named_parameters(remove_duplicate=False)
                }
            if rank() == 0:
                make_plain(self.model, found)
        self.deepspeed.destroy()


class ZeroStrategy(ProcessesStrategy):
    """``strategy=zero1``, ``zero2``, ``zero3`` and those with offload.

    Under ``trainer.precision=bf16-mixed`` DeepSpeed computes with bfloat16 weights, adds up their
    gradients in float32, and keeps float32 weights beside the optimizer's means. What does so under
    its stage 1 cannot be resumed, so that stage 1 is its stage 2 then: the same figures, and less
    memory.

    Args:
        stage: what is sharded: 1 the optimizer, 2 the gradients too, 3 the weights too.
        offload: keep the optimizer, and under stage 3 the weights, in the host's memory.
        zero_optimization: more settings of that section of DeepSpeed's configuration.
        timeout: minutes that a process waits for the others before it gives up.

    Raises:
        ConfigError: DeepSpeed is not installed.
    """

    strategy_name = "cooper_zero"

    def __init__(
        self,
        stage: Literal[1, 2, 3] = 2,
        offload: bool = False,
        zero_optimization: Mapping[str, Any] | None = None,
        timeout: float = 120.0,
    ) -> None:
        super().__init__(timeout)
        if stage not in (1, 2, 3):
            raise ValueError(f"strategy.stage={stage}: give 1, 2 or 3")
        if importlib.util.find_spec("deepspeed") is None:
            raise ConfigError(
                "strategy: ZeRO needs DeepSpeed, which is not installed (it is for Linux alone); "
                "pip install deepspeed, or give strategy=ddp or fsdp2"
            )
        self.stage, self.offload, self.more = stage, offload, dict(zero_optimization or {})
        self._engines: dict[int, Any] = {}

    def model_to_device(self) -> None:
        """DeepSpeed moves each model as it takes it: whole ones need not fit beside each other."""

    def setup_environment(self) -> None:
        """Bring DeepSpeed up in the group that there is."""
        super().setup_environment()
        on_cpu = self.root_device.type == "cpu"
        if on_cpu:
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        if on_cpu:
            # An extension for processes of one CPU that would be compiled first, for minutes.
            backend: Any = importlib.import_module("deepspeed.comm.torch")
            backend.build_shm_op = lambda: None
        deepspeed.init_distributed(dist_init_required=False)

    def engine(
        self, model: nn.Module, optimizer: Any, clip_norm: float, **lightning: Callable[..., Any]
    ) -> Engine:
        """See the base class."""
        # Not all that need a gradient: a shared base holds another model's additions too.
        trained = weights_of(optimizer)
        held = self._initialised(
            model,
            {"gradient_clipping": clip_norm, **self._zero(self.offload)},
            optimizer=optimizer,
            model_parameters=trained,
        )
        self._engines[id(optimizer)] = held
        return ZeroEngine(model, optimizer, trained, held, self.done_by, lightning.get("apply"))

    def frozen(self, model: nn.Module) -> Engine:
        """See the base class; only stage 3 shards what is not trained."""
        if self.stage < 3:
            model.to(self.root_device)
            return Engine(model)
        return ZeroEngine(model, None, [], self._initialised(model, self._zero(False)), 3)

    def optimizer_step(
        self, optimizer: Any, closure: Callable[[], Any], model: Any = None, **kwargs: Any
    ) -> Any:
        """Lightning's hook."""
        closure()
        return self._engines[id(optimizer)].step()

    def _zero(self, offload: bool) -> dict[str, Any]:
        section: dict[str, Any] = {"stage": self.done_by, "overlap_comm": False}
        if offload:
            section["offload_optimizer"] = {"device": "cpu", "pin_memory": self.on_gpu}
            if self.stage == 3:
                section["offload_param"] = {"device": "cpu", "pin_memory": self.on_gpu}
        return {"zero_optimization": {**section, **self.more}}

    @property
    def half(self) -> bool:
        """Whether the models compute in bfloat16."""
        return self.precision_plugin.precision == "bf16-mixed"

    @property
    def done_by(self) -> int:
        """DeepSpeed's stage."""
        return max(self.stage, 2) if self.half else self.stage

    @property
    def on_gpu(self) -> bool:
        """Whether the models compute on GPUs."""
        return self.root_device.type == "cuda"

    def _initialised(self, model: nn.Module, settings: dict[str, Any], **parts: Any) -> Any:
        import deepspeed

        if isinstance(model, Adapted):
            model.prepare()
        engine, *_ = deepspeed.initialize(
            model=model,
            config={
                "train_micro_batch_size_per_gpu": 1,
                # How many micro-batches a step has is ours to know, and differs.
                "gradient_accumulation_steps": 1,
                "managed_gradient_accumulation": False,
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                "bf16": {"enabled": self.half},
                **({"data_types": {"grad_accum_dtype": "fp32"}} if self.half else {}),
                **settings,
            },
            dist_init_required=False,
            **parts,
        )
        return engine
