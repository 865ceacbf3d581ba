"""Models built from their configs without a weight: parameters, and what their code holds."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from cooper.errors import ModelError
from cooper.models.adapters import Adapter, Weights
from cooper.models.loading import DType
from cooper.models.packing import can_pack
from cooper.models.policy import Policy
from cooper.models.reward_heads import RewardHead, Row
from cooper.models.row_batch import RowBatch
from cooper.models.token_scores import PLAIN_HEADS
from cooper.planning.tracing import Style, Traced, autocast, fake, trace
from cooper.samplers.slots import SlotCache
from cooper.types import Rollouts

T = TypeVar("T")

Kind = Literal["causal_lm", "classifier"]


@dataclass(frozen=True, eq=False)
class Source:
    """Where a model's form comes from; compared by identity."""

    config: PretrainedConfig
    key: str  # of the setting, for error messages
    kind: Kind = "causal_lm"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    head: RewardHead | None = None  # of a reward model


@dataclass(frozen=True)
class Count:
    """Parameters of a model; shared ones (tied embeddings) once."""

    total: int
    trained: int
    added: int  # by LoRA, among the trained
    linear: int  # in layers that multiply every token; without the language-model head
    head: int  # language-model head
    largest: int  # in the largest piece that a sharded run gathers: a decoder layer or an embedding
    attention: int  # layers x heads x head size

    @property
    def frozen(self) -> int:
        """Those that nothing trains."""
        return self.total - self.trained


class _Longest:
    """Rollouts that are all as long as they may be; what :class:`Policy` reads of them."""

    def __init__(self, rows: int, group: int, prompt: int, completion: int) -> None:
        self.owners = [row // group for row in range(rows)]
        self.prompt_ids = [(0,) * prompt] * (self.owners[-1] + 1)
        self.completion = completion

    def tokens(self, row: int) -> Tensor:
        return torch.zeros(self.completion, dtype=torch.long)


class Skeleton:
    """A model without weights.

    Args:
        source: its form.
        adapter: which weights are trained; None: none.
        dtype: of the weights that the adapter did not add.
        style: how it computes.
        checkpointing: recompute activations in the backward pass.

    Raises:
        ModelError: transformers cannot build it.
    """

    def __init__(
        self,
        source: Source,
        adapter: Adapter | None,
        dtype: DType,
        style: Style,
        checkpointing: bool,
    ) -> None:
        self.source = source
        self.style: Style = style
        self._traced: dict[Any, Any] = {}  # what was traced already, by its name and sizes
        with torch.device("meta"):
            self.model = _build(source, dtype)
            own = sum(p.numel() for p in self.model.parameters())
            self.weights = Weights(self.model)
            if adapter is None:
                self.model.requires_grad_(False)
            else:
                self.weights = adapter.attach(self.model, 0)
                if checkpointing:
                    self.weights.checkpoint_gradients()
        _make_fake(self.model)
        self.model.eval()
        # A cap or scale of the logits takes no memory that counts, and cannot be found out here.
        PLAIN_HEADS[self.model] = True
        self.count = self._count(own)

    def _count(self, own: int) -> Count:
        model = self.model
        parameters = list(model.parameters())
        total = sum(p.numel() for p in parameters)
        head = model.get_output_embeddings()
        embedding = cast(nn.Module, model.get_input_embeddings())
        linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
        names = set(getattr(model, "_no_split_modules", None) or ())
        pieces = [m for m in model.modules() if type(m).__name__ in names] + [embedding]
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return Count(
            total=total,
            trained=sum(p.numel() for p in parameters if p.requires_grad),
            added=total - own,
            linear=sum(m.weight.numel() for m in linear),
            head=0 if head is None else cast(Tensor, head.weight).numel(),
            largest=max(sum(p.numel() for p in m.parameters()) for m in pieces),
            attention=config.num_hidden_layers * heads * size,
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights and buffers."""
        return sum(t.untyped_storage().nbytes() for t in _unique(self._held()))

    @property
    def trained_bytes(self) -> int:
        """Bytes of the trained weights."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)

    def _held(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.model.buffers()]

    # ------------------------------------------------------------------ what its code holds

    def micro(self, tokens: int, rows: int, group: int, prompt: int, completion: int) -> int:
        """Rows of the longest, so many that they fill a micro-batch's budget of tokens."""
        shared = group if can_pack(self.model) else 1
        fits = [
            n for n in range(1, rows + 1) if -(-n // shared) * prompt + n * completion <= tokens
        ]
        return max(fits, default=1)

    def policy_update(
        self, rows: int, group: int, prompt: int, completion: int, *, entropy: bool, gradients: bool
    ) -> Traced:
        """A micro-batch's forward and backward of log-probabilities.

        Args:
            rows: of the micro-batch.
            group: rows with one prompt.
            prompt: tokens of each.
            completion: tokens of each.
            entropy: a figure is made of the entropy.
            gradients: those of an earlier micro-batch are there; they are not counted.
        """
        policy = self._policy()

        def run() -> None:
            given = _rollouts(rows, group, prompt, completion)
            scores = policy(given, range(rows), entropy=entropy)
            scores.logprobs.sum().backward()

        key = ("policy_update", rows, group, prompt, completion, entropy, gradients)
        return self._once(key, lambda: self._backward(run, gradients))

    def logprobs(self, rows: int, group: int, prompt: int, completion: int) -> Traced:
        """A micro-batch's log-probabilities without gradient."""
        policy = self._policy()

        def run() -> Tensor:
            with torch.no_grad():
                return policy(_rollouts(rows, group, prompt, completion), range(rows)).logprobs

        return self._once(("logprobs", rows, group, prompt, completion), lambda: self._trace(run))

    def reward_update(self, rows: int, length: int, *, gradients: bool) -> Traced:
        """A micro-batch's forward and backward of logits."""

        def run() -> None:
            self._units(rows, length).sum().backward()

        key = ("reward_update", rows, length, gradients)
        return self._once(key, lambda: self._backward(run, gradients))

    def score(self, rows: int, length: int) -> Traced:
        """A batch's logits without gradient."""

        def run() -> Tensor:
            with torch.no_grad():
                return self._units(rows, length)

        return self._once(("score", rows, length), lambda: self._trace(run))

    def sample(self, rows: int, prompt: int, completion: int) -> tuple[Traced, int]:
        """Generation of one batch, at its two largest moments: reading the prompts, the last token.

        Returns:
            what it holds, and the bytes of the keys and values among that.
        """
        return self._once(
            ("sample", rows, prompt, completion), lambda: self._sample(rows, prompt, completion)
        )

    def _sample(self, rows: int, prompt: int, completion: int) -> tuple[Traced, int]:
        with torch.no_grad(), fake(), autocast(self.style):
            # How a cache is laid out is the model's matter: it fills one by reading.
            before = self._read(rows, prompt + completion - 1).past_key_values
        whole = _cache_bytes(before) * (prompt + completion) // (prompt + completion - 1)
        with torch.no_grad():
            reading = self._trace(lambda: self._read(rows, prompt))
            # Each layer's keys and values are copied to a longer place, and the old ones go.
            step = self._trace(
                lambda: self._next(rows, prompt + completion, before), there=_cached(before)
            )
        return Traced(max(reading.peak, step.peak), whole), whole

    def decode_in_slots(
        self, rows: int, group: int, prompt: int, completion: int
    ) -> tuple[Traced, int]:
        """Decoding in slots, at its two largest moments: reading the prompts, the last token.

        Args:
            rows: slots.
            group: rows with one prompt.
            prompt: tokens of each.
            completion: tokens of each.

        Returns:
            what it holds, and the bytes of the slots' keys and values among that.
        """
        key = ("decode_in_slots", rows, group, prompt, completion)
        return self._once(key, lambda: self._decode(rows, group, prompt, completion))

    def _decode(self, rows: int, group: int, prompt: int, completion: int) -> tuple[Traced, int]:
        layers = self.model.config.get_text_config().num_hidden_layers
        caches: list[SlotCache] = []

        def read() -> Tensor:
            cache = SlotCache(layers, rows, prompt + completion)
            caches.append(cache)
            places = torch.arange(rows)
            starts = places // group * prompt
            cache.write_prompts(places, starts[:, None] + torch.arange(prompt))
            ids = torch.zeros(-(-rows // group), prompt, dtype=torch.long)
            return self._logits(ids, cache, logits_to_keep=1)

        def step() -> Any:
            (cache,) = caches
            view = cache.view
            view.places, view.positions = None, torch.zeros(rows, dtype=torch.long)
            view.longest = prompt + completion
            mask = torch.ones(rows, 1, 1, view.longest, dtype=torch.bool)
            ids = torch.zeros(rows, 1, dtype=torch.long)
            logits = self._logits(ids, cache, attention_mask=mask)[:, -1]
            # As cooper.samplers.drawing.draw has them.
            scores = logits.float()
            mass = (scores - scores.amax(-1, keepdim=True)).exp()
            return scores, mass, mass.cumsum(-1, dtype=torch.float64)

        with torch.no_grad():
            reading = self._trace(read)
            (cache,) = caches
            last = self._trace(step, there=_cached(cache))
        whole = sum(t.untyped_storage().nbytes() for t in _cached(cache))
        return Traced(max(reading.peak, last.peak), whole), whole

    def _logits(self, ids: Tensor, cache: SlotCache, **given: Any) -> Tensor:
        with self.weights.acting():
            return self.model(
                input_ids=ids,
                position_ids=torch.zeros_like(ids),
                past_key_values=cache,
                use_cache=True,
                **given,
            ).logits

    @functools.cached_property
    def cache_bytes_per_token(self) -> int:
        """Bytes of the keys and values of one token."""
        with torch.no_grad(), fake(), autocast(self.style):
            return _cache_bytes(self._read(1, 64).past_key_values) // 64

    def _once(self, key: Any, run: Callable[[], T]) -> T:
        if key not in self._traced:
            self._traced[key] = run()
        return self._traced[key]

    def _policy(self) -> Policy:
        policy = Policy(self.model, cast(Any, SimpleNamespace(pad_token_id=0)))
        policy.weights = self.weights
        return policy

    def _units(self, rows: int, length: int) -> Tensor:
        head = self.source.head
        assert head is not None
        with self.weights.acting():
            # No two begin alike: in the worst case nothing is shared.
            known = [Row([row] + [0] * (length - 1)) for row in range(rows)]
            return head.units(self.model, known, RowBatch.of(self.model, known, 0))

    def _read(self, rows: int, length: int) -> Any:
        ids = torch.zeros(rows, length, dtype=torch.long)
        with self.weights.acting():
            return self.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, logits_to_keep=1
            )

    def _next(self, rows: int, length: int, cache: Any) -> Any:
        """The last token, with the sampler's four tables of rows x vocabulary beside the logits."""
        with self.weights.acting():
            logits = self.model(
                input_ids=torch.zeros(rows, 1, dtype=torch.long),
                attention_mask=torch.ones(rows, length, dtype=torch.long),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        before = torch.zeros(logits.shape)  # the recorder's of the token before
        scores = logits.to(torch.float32, copy=True)
        recorded = scores.log_softmax(-1)
        chances = scores.softmax(-1)
        return before, recorded, chances

    def _backward(self, run: Any, gradients: bool) -> Traced:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.model.train()
        with fake():
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter) if gradients else None
        try:
            return self._trace(run, [p.grad for p in trained if p.grad is not None])
        finally:
            for parameter in trained:
                parameter.grad = None
            self.model.eval()

    def _trace(self, run: Any, more: Iterable[Tensor] = (), there: Iterable[Tensor] = ()) -> Traced:
        return trace(run, [*self._held(), *more], self.style, there)


def _rollouts(rows: int, group: int, prompt: int, completion: int) -> Rollouts:
    return cast(Rollouts, _Longest(rows, group, prompt, completion))


def _cached(cache: Any) -> Iterator[Tensor]:
    return (t for layer in cache.layers for t in vars(layer).values() if isinstance(t, Tensor))


def _cache_bytes(cache: Any) -> int:
    return sum(t.untyped_storage().nbytes() for t in _unique(list(_cached(cache))))


def _unique(tensors: Sequence[Tensor]) -> list[Tensor]:
    return list({t.untyped_storage()._cdata: t for t in tensors}.values())


def _build(source: Source, dtype: DType) -> PreTrainedModel:
    loader: Any = (
        AutoModelForCausalLM if source.kind == "causal_lm" else AutoModelForSequenceClassification
    )
    config = copy.deepcopy(source.config)
    if source.kind == "classifier":
        config.num_labels = 1
    attention = source.attn_implementation
    if attention not in (None, "eager", "sdpa"):
        attention = "sdpa"  # other kernels need not be here, and keep as much
    options = {} if attention is None else {"attn_implementation": attention}
    try:
        return loader.from_config(
            config,
            dtype=getattr(torch, dtype),
            trust_remote_code=source.trust_remote_code,
            **options,
        )
    except (ValueError, ImportError, AttributeError, TypeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{source.key}: cannot build the model from its config: {first}"
        ) from error


def _make_fake(model: nn.Module) -> None:
    """Turn meta tensors into fake ones, which say that they are on the CPU; ties stay."""
    made: dict[int, Tensor] = {}
    with fake():
        for module in model.modules():
            places: list[Any] = [module._parameters, module._buffers, vars(module)]
            for held in places:
                for name, old in list(held.items()):
                    if not isinstance(old, Tensor):
                        continue
                    if id(old) not in made:
                        new = torch.empty(old.shape, dtype=old.dtype)
                        if isinstance(old, nn.Parameter):
                            new = nn.Parameter(new, requires_grad=old.requires_grad)
                        made[id(old)] = new
                    held[name] = made[id(old)]


@functools.lru_cache(maxsize=64)
def skeleton(
    source: Source,
    adapter: Adapter | None,
    dtype: DType,
    style: Style,
    checkpointing: bool,
) -> Skeleton:
    """A :class:`Skeleton`, made once."""
    return Skeleton(source, adapter, dtype, style, checkpointing)
