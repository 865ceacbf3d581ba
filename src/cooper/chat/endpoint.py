"""Chat models behind an OpenAI-compatible endpoint: OpenAI itself, vLLM, SGLang, llama.cpp, ..."""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib.util
import json
import os
import random
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from cooper.chat.base import ChatModel, ChatReply, Conversation
from cooper.checks import at_least
from cooper.types import SamplingParams

T = TypeVar("T")

_MAX_BYTES = 16 * 2**20  # of a reply's body; a server gone wrong may send without an end
_LONGEST_WAIT = 30.0  # seconds of back-off
_LONGEST_RETRY_AFTER = 120.0  # seconds that a server may make us wait
_PASSING = (408, 409, 425, 429)  # and 5xx: worth asking again


class _Failure(Exception):
    """An attempt gave no text.

    Attributes:
        final: asking again would give the same.
        wait: seconds that the server asked us to wait, if it did.
        stalled: the server took the request and did not answer in time.
    """

    def __init__(
        self, text: str, final: bool = False, wait: float | None = None, stalled: bool = False
    ) -> None:
        super().__init__(text)
        self.final = final
        self.wait = wait
        self.stalled = stalled


class _Line:
    """An event loop in a thread of its own, with the client and the bound on what is under way.

    A loop, and no pool of threads: a task can be cancelled while it waits for a server, and its
    socket is closed then; a thread cannot. It is the same for all threads that ask.
    """

    def __init__(self, make_client: Callable[[], Any], concurrency: int) -> None:
        self.pid = os.getpid()
        self.client: Any = None
        self._make_client = make_client
        self._concurrency = concurrency
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="chat endpoint", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.slots = asyncio.Semaphore(self._concurrency)
        try:
            self.client = self._make_client()
        except BaseException as error:
            self._error = error
            return
        finally:
            self._ready.set()
        await self._stopping.wait()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.client.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it.

        Raises:
            concurrent.futures.CancelledError: the line was closed meanwhile.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C here: nothing goes on in the other thread
            future.cancel()
            raise

    def stop(self) -> None:
        """End all that is under way and the thread. May be called twice, in any thread."""
        if os.getpid() != self.pid or not self._thread.is_alive():
            return  # a forked child has no such thread
        try:
            self.loop.call_soon_threadsafe(self._stopping.set)
        except RuntimeError:
            return  # the loop has ended in the meantime
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=10)


class EndpointChat(ChatModel):
    """A model behind an OpenAI-compatible endpoint, asked by the `openai` client library.

    What may pass is tried again after exponential back-off with jitter, or after what the server's
    Retry-After says: connection errors, time-outs, 408, 409, 425, 429, 5xx, and replies that are
    empty or malformed. Other refusals (a wrong key, an unknown model, a prompt too long) are
    reported at once. While the endpoint is down, that is, once `concurrency` conversations in a
    row have failed for good, the others are not retried, so that a large batch does not wait for
    each one's back-off; the first answer ends that. Where as many in a row have run out of time,
    the rest of the batch is not asked at all, so that an endpoint that takes requests and never
    answers costs a batch one time-out; the next batch asks again.

    The library's own retries are switched off: they know nothing of malformed replies, and nothing
    interrupts their sleep. Everything runs in one daemon thread; :meth:`close` and Ctrl-C cancel
    what is under way.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str | None = None,
        timeout: float = 120.0,
        retries: int = 5,
        backoff: float = 0.5,
        concurrency: int = 16,
        extra: Mapping[str, Any] | None = None,
        identity: str | None = None,
    ) -> None:
        """Set up; no connection is opened yet.

        Args:
            base_url: with the version: ``http://localhost:8000/v1``.
            model: its name at the endpoint.
            api_key_env: environment variable that holds the key, so that no configuration does;
                None: the endpoint wants none.
            timeout: seconds for one attempt, its whole reply included.
            retries: further attempts after a failed one.
            backoff: seconds before the first retry; doubled for each further one, up to 30.
            concurrency: most requests under way at once, whatever number of threads asks.
            extra: more fields of each request, such as ``{"reasoning_effort": "low"}`` or vLLM's
                ``{"chat_template_kwargs": {"enable_thinking": False}}``; they win over ours, and
                None leaves one out (``{"max_tokens": None, "max_completion_tokens": 1024}``).
            identity: what caches file answers under; None: `base_url`, `model` and `extra`. Give
                one where the same model moves between addresses.

        Raises:
            ImportError: the `openai` package is not installed.
            ValueError: a setting is out of its range, or there is no such environment variable.
        """
        if importlib.util.find_spec("openai") is None:
            raise ImportError(
                "an endpoint needs the openai package: pip install 'cooper-rl[openai]'"
            )
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"base_url={base_url}: must start with http:// or https://, such as "
                "http://localhost:8000/v1"
            )
        if not model:
            raise ValueError("model='': is empty; give the model's name at the endpoint")
        key = None if api_key_env is None else os.environ.get(api_key_env)
        if api_key_env is not None and not key:
            raise ValueError(
                f"api_key_env={api_key_env}: there is no such environment variable; set it to the "
                "key, or give null for an endpoint without keys"
            )
        if not timeout > 0:
            raise ValueError(f"timeout={timeout}: must be above 0 seconds")
        self.base_url, self.model, self.timeout = base_url, model, timeout
        self.retries, self.backoff, self.concurrency = retries, backoff, concurrency
        at_least("chat", self, retries=0, backoff=0, concurrency=1)
        self.extra = dict(extra or {})
        described = json.dumps(self.extra, sort_keys=True, default=str)
        self.identity = identity or f"{base_url} {model} {described}"
        self._key = key or "none"  # the library insists on one
        self._line: _Line | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._jitter = random.Random()  # not the global one, whose state a run keeps
        self._failed_in_a_row = 0  # read and written in the loop's thread only
        self._stalled_in_a_row = 0  # of those, by time-out, within the batch

    def complete(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        seeds: Sequence[int] | None = None,
        on_reply: Callable[[int, ChatReply], None] | None = None,
        seconds: float | None = None,
    ) -> list[ChatReply]:
        """See :meth:`cooper.chat.base.ChatModel.complete`.

        Requests that are under way when the time is over are cancelled. Seeds are passed on;
        whether they decide the reply is the server's matter.

        Raises:
            RuntimeError: the chat model was closed before.
        """
        if not conversations:
            return []
        line = self._open()
        replies: list[ChatReply | None] = [None] * len(conversations)
        jobs = iter(range(len(conversations)))

        async def work() -> None:
            for index in jobs:  # shared by the workers, each in the same thread
                body = self._body(conversations[index], params, seeds[index] if seeds else None)
                async with line.slots:
                    if self._stalled_in_a_row >= self.concurrency:
                        reply = ChatReply(None, "the endpoint takes requests and never answers", 0)
                    else:
                        reply = await self._ask(line.client, body)
                replies[index] = reply
                if on_reply is not None:
                    on_reply(index, reply)

        async def work_together() -> None:
            self._stalled_in_a_row = 0
            count = min(self.concurrency, len(conversations))
            workers = [asyncio.ensure_future(work()) for _ in range(count)]
            try:
                ended, _ = await asyncio.wait(
                    workers, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION
                )
                for worker in ended:
                    worker.result()
                answered = any(reply and reply.text is not None for reply in replies)
                if len(ended) < count and not answered:  # the time is over: it is down
                    self._failed_in_a_row = max(self._failed_in_a_row, self.concurrency)
            finally:
                for worker in workers:
                    worker.cancel()

        try:
            line.run(work_together())
        except concurrent.futures.CancelledError:
            if not self._closed:
                raise
        why = "the chat model was closed"
        if not self._closed and seconds is not None:
            why = f"no reply within the {seconds:.3g} s for all conversations"
        none = ChatReply(None, why, attempts=0)
        return [reply or none for reply in replies]

    def close(self) -> None:
        """End what is under way, which then says so, and close the connections."""
        with self._lock:
            self._closed = True
            line, self._line = self._line, None
        if line is not None:
            line.stop()

    # ------------------------------------------------------------------ inside

    def _open(self) -> _Line:
        with self._lock:
            if self._closed:
                raise RuntimeError("the chat model was closed")
            if self._line is None or self._line.pid != os.getpid():
                base_url, key, timeout = self.base_url, self._key, self.timeout

                def make_client() -> Any:
                    import openai

                    return openai.AsyncOpenAI(
                        base_url=base_url, api_key=key, max_retries=0, timeout=timeout
                    )

                self._line = _Line(make_client, self.concurrency)
                weakref.finalize(self, self._line.stop)
            return self._line

    def _body(
        self, conversation: Conversation, params: SamplingParams, seed: int | None
    ) -> dict[str, Any]:
        """One request as keywords of the library's create()."""
        body: dict[str, Any] = {
            "model": self.model,
            # JSON over HTTP is UTF-8, which has no halves of surrogate pairs.
            "messages": [
                {name: str(text).encode("utf-8", "replace").decode() for name, text in turn.items()}
                for turn in conversation
            ],
            "max_tokens": params.max_new_tokens,
            "temperature": params.temperature,
        }
        if params.top_p < 1:
            body["top_p"] = params.top_p
        if seed is not None:
            body["seed"] = seed
        more = {"top_k": params.top_k} if params.top_k else {}  # no field of OpenAI's own API
        more.update(self.extra)
        body = {name: value for name, value in body.items() if name not in more}
        body["extra_body"] = {name: value for name, value in more.items() if value is not None}
        return body

    async def _ask(self, client: Any, body: dict[str, Any]) -> ChatReply:
        """One conversation with its retries."""
        attempts = 0
        while True:
            attempts += 1
            try:
                text, cut = await asyncio.wait_for(_attempt(client, body), self.timeout)
            except asyncio.TimeoutError:  # before Python 3.11 not the builtin one
                failure = _Failure(f"no reply within {self.timeout:g} s", stalled=True)
            except _Failure as error:
                failure = error
            except Exception as error:
                # Anything that the other side may cause below the library, which lets some of
                # httpx's errors through.
                failure = _Failure(_described(error))
            else:
                self._failed_in_a_row = self._stalled_in_a_row = 0
                return ChatReply(text, attempts=attempts, cut=cut)
            if failure.final:
                return ChatReply(None, str(failure), attempts)
            down = self._failed_in_a_row >= self.concurrency
            if attempts > self.retries or down:
                self._failed_in_a_row += 1
                self._stalled_in_a_row = self._stalled_in_a_row + 1 if failure.stalled else 0
                return ChatReply(None, str(failure), attempts)
            wait = failure.wait
            if wait is None:
                full = min(self.backoff * 2.0 ** min(attempts - 1, 30), _LONGEST_WAIT)
                wait = full * self._jitter.uniform(0.5, 1.0)  # so that clients do not come in step
            await asyncio.sleep(wait)


async def _attempt(client: Any, body: dict[str, Any]) -> tuple[str, bool]:
    """Ask once: the text, and whether it breaks off at the length limit.

    Raises:
        _Failure: there is no text to be had.
    """
    import openai

    try:
        # Streamed as bytes and read here, so that neither length nor form is taken on trust.
        async with client.chat.completions.with_streaming_response.create(**body) as response:
            data = bytearray()
            async for chunk in response.iter_bytes():
                data += chunk
                if len(data) > _MAX_BYTES:
                    raise _Failure(f"a reply of more than {_MAX_BYTES} bytes")
    except openai.APIStatusError as error:
        code = error.status_code
        passing = code in _PASSING or code >= 500
        text = f"HTTP {code}: {_described(error)}"
        raise _Failure(text, not passing, _retry_after(error.response.headers)) from error
    except openai.APIConnectionError as error:
        cause = error.__cause__ or error
        raise _Failure(f"{type(error).__name__}: {_described(cause)}") from error
    try:
        choice = json.loads(bytes(data))["choices"][0]
        text, why = choice["message"].get("content"), choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        start = bytes(data[:80]).decode("utf-8", "replace")
        raise _Failure(f"a malformed reply: {start!r}") from error
    if not isinstance(text, str) or not text.strip():
        raise _Failure(f"an empty reply (finish_reason: {why})")
    return text, why == "length"


def _retry_after(headers: Any) -> float | None:
    """The seconds of a Retry-After header; None where it is missing, a date or no number."""
    try:
        wait = float(headers.get("retry-after"))
    except (TypeError, ValueError):
        return None
    return min(wait, _LONGEST_RETRY_AFTER) if wait >= 0 else None


def _described(error: BaseException) -> str:
    """An error on one line of a bearable length."""
    return " ".join((str(error) or type(error).__name__).split())[:200]
