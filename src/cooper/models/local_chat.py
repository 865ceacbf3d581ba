"""A chat model in this process: any causal language model in Hugging Face form."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from cooper.chat.base import ChatModel, ChatReply, Conversation
from cooper.functional import pad_sequences
from cooper.models.loading import (
    DType,
    check_vocabulary,
    load_causal_lm,
    load_tokenizer,
    pad_id,
)
from cooper.types import SamplingParams

OnReply = Callable[[int, ChatReply], None]


class SeededChoice(LogitsProcessor):
    """Draws each row's next token from its own uniform numbers, by the inverse of the distribution.

    ``generate`` draws all rows from one generator, so that a row's tokens depend on which others
    stand beside it and on how many there are. Here everything but the drawn token is ruled out,
    and greedy decoding takes it.

    Args:
        uniforms: [B, T] in [0, 1): one number for each row and step.
    """

    def __init__(self, uniforms: Tensor) -> None:
        self.uniforms = uniforms
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """[B, V] scores, of which one token a row is left."""
        # A vocabulary's small probabilities vanish in a sum of float32; MPS has nothing better.
        wide = torch.float32 if scores.device.type == "mps" else torch.float64
        total = scores.softmax(-1, dtype=torch.float32).to(wide).cumsum(-1)
        drawn = self.uniforms[:, self.step, None].to(total) * total[:, -1:]
        # The first token whose cumulative share lies above the draw, so never one of share 0.
        token = torch.searchsorted(total, drawn, right=True).clamp(max=scores.shape[-1] - 1)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(-1, token, 0.0)


class LocalChat(ChatModel):
    """Answers conversations by transformers' generate, in batches of similar length.

    The weights are loaded with the first conversation, for a model that is never asked should
    take no memory. One thread generates at a time.

    With seeds, a reply's draws depend on its seed alone, not on the batch or its place in it. What
    remains is rounding: kernels add up in another order for another batch shape, so that a draw or
    a greedy choice on the edge between two tokens may fall to the other side, rarely in float32
    and more often in bfloat16. ``batch_tokens=1`` (one conversation at a time) rules that out.

    A special token spelt in a message ("<|im_end|>") is broken up by a space, so that what a
    policy writes cannot end its turn in a judge's prompt.
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        dtype: DType = "bfloat16",
        device: str = "auto",
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        batch_tokens: int = 32768,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        """Load the tokenizer, which tells whether the model can be had; no weights yet.

        Args:
            path: folder in ``save_pretrained`` form, or hub id.
            revision: commit, tag or branch on the hub.
            dtype: of the weights.
            device: as torch names it; "auto": the GPU where there is one.
            attn_implementation: as in transformers ("sdpa", "flash_attention_2", "eager").
            trust_remote_code: run code from the model's repository; only where you trust it.
            batch_tokens: most tokens of a batch, prompts padded and longest replies included; a
                single conversation may be longer.
            template: keywords of the chat template, such as ``{"enable_thinking": False}``.

        Raises:
            ModelError: the tokenizer cannot be loaded.
            ValueError: a setting is out of its range.
        """
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens={batch_tokens}: must be at least 1")
        self.device = _device(device)
        self.template = dict(template or {})
        self.batch_tokens = batch_tokens
        self._where = {
            "revision": revision,
            "trust_remote_code": trust_remote_code,
            "key": "chat.path",
        }
        self._weights = {"dtype": dtype, "attn_implementation": attn_implementation}
        self.path = path
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(path, **self._where)
        shown = sorted((name, repr(value)) for name, value in self.template.items())
        self.identity = f"{path} {revision} {dtype} {shown} {_fingerprint(path)}"
        special = {str(t) for t in self.tokenizer.added_tokens_decoder.values() if t.special}
        special.update(map(str, self.tokenizer.all_special_tokens))
        words = sorted((word for word in special if len(word) > 1), key=lambda w: (-len(w), w))
        self._special = re.compile("|".join(map(re.escape, words))) if words else None
        self._model: PreTrainedModel | None = None
        self._ends: list[int] = []
        self._lock = threading.Lock()

    def complete(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        seeds: Sequence[int] | None = None,
        on_reply: OnReply | None = None,
        seconds: float | None = None,
    ) -> list[ChatReply]:
        """See :meth:`cooper.chat.base.ChatModel.complete`.

        Without seeds each reply draws a fresh one. A batch that has begun ends, whatever the
        `seconds`; no further one begins. Out of memory: the batch is halved; a single
        conversation that does not fit fails.

        Raises:
            ModelError: the weights cannot be loaded.
        """
        replies: list[ChatReply | None] = [None] * len(conversations)
        end = None if seconds is None else time.monotonic() + seconds

        def say(index: int, reply: ChatReply) -> None:
            replies[index] = reply
            if on_reply is not None:
                on_reply(index, reply)

        if conversations:
            with self._lock:
                model = self._load()
                self._complete(model, conversations, params, seeds, say, end)
        late = ChatReply(None, f"no reply within the {seconds or 0:.3g} s for all conversations", 0)
        return [reply or late for reply in replies]

    def close(self) -> None:
        """Let the weights go; another :meth:`complete` would load them again."""
        with self._lock:
            self._model = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    # ------------------------------------------------------------------ inside

    def _load(self) -> PreTrainedModel:
        if self._model is None:
            model = load_causal_lm(self.path, **self._where, **cast(Any, self._weights))
            check_vocabulary(model, self.tokenizer, self.path, self._where["key"])
            listed = getattr(model.generation_config, "eos_token_id", None)
            listed = listed if isinstance(listed, list) else [listed]
            ids = [self.tokenizer.eos_token_id, *listed]
            self._ends = sorted({int(i) for i in ids if i is not None})
            # generate() fills what we leave open from here: a repetition penalty, for one.
            model.generation_config = GenerationConfig()
            self._model = cast(PreTrainedModel, model.to(cast(Any, self.device)).eval())
            self._model.requires_grad_(False)
        return self._model

    def _complete(
        self,
        model: PreTrainedModel,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        seeds: Sequence[int] | None,
        say: OnReply,
        end: float | None,
    ) -> None:
        prompts: dict[int, list[int]] = {}
        longest = getattr(model.config, "max_position_embeddings", None)
        room = None if longest is None else longest - params.max_new_tokens
        for index, conversation in enumerate(conversations):
            try:
                ids = self._ids(conversation)
            except TemplateError as error:
                say(index, ChatReply(None, f"the chat template refuses the messages: {error}"))
                continue
            if room is not None and len(ids) > room:
                why = f"the prompt has {len(ids)} tokens, and {room} is the most"
                say(index, ChatReply(None, f"{why} with max_new_tokens={params.max_new_tokens}"))
                continue
            prompts[index] = ids
        if seeds is None:
            seeds = [secrets.randbits(63) for _ in conversations]
        batches = self._batches(prompts, params.max_new_tokens)
        while batches and (end is None or time.monotonic() < end):
            batch = batches.pop()
            try:
                texts = self._generate(
                    model, [prompts[i] for i in batch], params, [seeds[i] for i in batch]
                )
            except torch.OutOfMemoryError as error:
                if len(batch) == 1:
                    say(batch[0], ChatReply(None, f"out of memory: {str(error)[:120]}"))
                else:
                    half = len(batch) // 2
                    batches += [batch[:half], batch[half:]]
                continue
            for index, (text, cut) in zip(batch, texts, strict=True):
                empty = not text.strip()
                say(index, ChatReply(None, "an empty reply") if empty else ChatReply(text, cut=cut))

    def _ids(self, conversation: Conversation) -> list[int]:
        """The prompt's tokens: chat template applied, or plain texts where there is none."""
        messages = [
            {"role": turn["role"], "content": self._harmless(turn["content"])}
            for turn in conversation
        ]
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self.template
            )
        else:
            text = "\n\n".join(message["content"] for message in messages) + "\n"
        # A template brings its own special tokens.
        return list(cast(Any, self.tokenizer(str(text), add_special_tokens=False)["input_ids"]))

    def _harmless(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode()  # tokenizers refuse lone surrogates
        if self._special is None:
            return text
        return self._special.sub(lambda word: f"{word[0][0]} {word[0][1:]}", text)

    def _batches(self, prompts: Mapping[int, Sequence[int]], new: int) -> list[list[int]]:
        """Indices by ascending length, as many to a batch as the budget holds.

        They are taken from the end: the longest come first, so that what does not fit into memory
        shows at once.
        """
        batches: list[list[int]] = []
        for index in sorted(prompts, key=lambda i: len(prompts[i])):
            size = len(prompts[index]) + new  # of this row and, padded, of all before it
            if batches and (len(batches[-1]) + 1) * size <= self.batch_tokens:
                batches[-1].append(index)
            else:
                batches.append([index])
        return batches

    @torch.no_grad()
    def _generate(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        seeds: Sequence[int],
    ) -> list[tuple[str, bool]]:
        """Texts, and whether each breaks off at the length limit."""
        pad = pad_id(self.tokenizer)
        ids, mask = pad_sequences(prompts, pad, side="left", device=self.device)
        config = GenerationConfig(
            max_new_tokens=params.max_new_tokens,
            do_sample=False,  # drawing is SeededChoice's
            eos_token_id=self._ends,
            pad_token_id=pad,
            use_cache=True,
        )
        processors: list[LogitsProcessor] = []
        if params.temperature > 0:
            if params.temperature != 1:
                processors.append(TemperatureLogitsWarper(params.temperature))
            if params.top_k:
                processors.append(TopKLogitsWarper(params.top_k))
            if params.top_p < 1:
                processors.append(TopPLogitsWarper(params.top_p))
            # Drawn on the CPU: the same numbers on any device.
            rows = [
                torch.rand(
                    params.max_new_tokens, generator=torch.Generator().manual_seed(seed)
                ).clamp(max=1 - 2**-20)
                for seed in seeds
            ]
            processors.append(SeededChoice(torch.stack(rows).to(self.device)))
        sequences = cast(Any, model).generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList(processors),
        )
        # Behind an end token stands padding, which may be no special token: cut there.
        texts = []
        ends = torch.tensor(self._ends)
        for row in sequences[:, ids.shape[1] :].cpu():
            hits = torch.isin(row, ends).nonzero()
            row = row[: int(hits[0])] if len(hits) else row
            text = str(self.tokenizer.decode(row.tolist(), skip_special_tokens=True))
            texts.append((text, not len(hits)))
        return texts


def _fingerprint(path: str) -> str:
    """What tells a local folder's weights from those that stood there before; a hub id has none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return ""
    files = sorted(folder.glob("*.safetensors*")) + sorted(folder.glob("*.bin*"))
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _device(name: str) -> torch.device:
    """The device of a name; "auto": this process's GPU where there is one.

    Raises:
        ValueError: torch knows no such device.
    """
    if name != "auto":
        try:
            return torch.device(name)
        except RuntimeError as error:
            raise ValueError(
                f"device={name}: torch knows no such device; give auto, cpu or cuda"
            ) from error
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
