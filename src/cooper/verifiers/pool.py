"""Killable worker processes for work that may hang, crash or eat memory.

Computer algebra on text that a model wrote cannot be bounded from inside the process: one power
tower keeps big-integer C code busy for hours, holding the interpreter lock, and signal-based
time-outs need the main thread. So each item runs in a worker process that can be killed.

Why it is built like this:

* Workers are started by ``subprocess`` (fork and exec at once) and talk JSON over pipes. A plain
  fork is unsafe under torch threads and CUDA; ``multiprocessing``'s spawn imports the user's
  ``__main__`` again, which starts a training script without a main guard a second time; pickle
  would let a worker's bytes run code in the trainer.
* The CPU limit of an item is ``setitimer(ITIMER_PROF)`` with SIGPROF's *default* action, which
  is to kill. The kernel does that in the middle of C code, where a Python handler would wait for
  the next bytecode; it has a resolution of milliseconds, where RLIMIT_CPU knows whole seconds.
  RLIMIT_CPU stands behind it, in case that something resets the timer.
* CPU time, not wall-clock time, so that a busy machine does not change verdicts. The much larger
  wall-clock limit, kept by the parent, only catches an item that sleeps.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import queue
import resource
import selectors
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from cooper.tracing import span

__all__ = ["Reply", "WorkerPool"]

_HEADER = struct.Struct("!I")  # length of the JSON text that follows, in bytes
_START_SECONDS = 120.0  # to import the work's libraries; a cold file system takes several seconds
_START_TRIES = 3

# sys.path first, so that a worker finds what its parent finds, in an editable install, under
# pytest, or with a path that a notebook added.
_BOOT = "import sys; sys.path[:] = sys.argv[4:]; from cooper.verifiers.pool import _work; _work()"


@dataclass(frozen=True)
class Reply:
    """What became of an item: the function's value, or why there is none."""

    value: Any = None
    failure: str = ""  # empty: `value` holds

    @property
    def ok(self) -> bool:
        """Whether the function returned."""
        return not self.failure


class _Batch:
    """Collects the replies of one `submit` and sets its future when the last one is in."""

    def __init__(self, size: int) -> None:
        self.future: Future[list[Reply]] = Future()
        # Running from the start: a future that can be cancelled cannot be set safely later.
        self.future.set_running_or_notify_cancel()
        self._replies: list[Reply | None] = [None] * size
        self._missing = size
        self._lock = threading.Lock()
        if not size:
            self.future.set_result([])

    def put(self, index: int, reply: Reply) -> None:
        with self._lock:
            if self._replies[index] is not None or self.future.done():
                return
            self._replies[index] = reply
            self._missing -= 1
            complete = not self._missing
        if complete:
            self.future.set_result([r for r in self._replies if r is not None])

    def fail(self, error: BaseException) -> None:
        with self._lock:
            if self.future.done() or not self._missing:
                return
            self._missing = 0
        self.future.set_exception(error)


class _Died(Exception):
    """The worker is gone; the text says why."""


class _Worker:
    """One worker process, owned by one thread."""

    def __init__(self, factory: str, memory_mb: int) -> None:
        if not sys.executable:
            raise RuntimeError("sys.executable is empty: no interpreter to start a worker with")
        self.items = 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, factory, str(memory_mb), str(os.getpid()), *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # antlr and sympy write there, in the worker; nothing of it is for the user.
            stderr=subprocess.DEVNULL,
            # Fixed, so that whatever order a set has is the same in each worker.
            env={**os.environ, "PYTHONHASHSEED": "0"},
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in = self.process.stdin.fileno()
        self._out = self.process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def start(self) -> None:
        """Wait for the first message, which says that the function is imported.

        Raises:
            _Died: the process ended or took too long.
            RuntimeError: importing the function failed; trying again would not help.
        """
        hello = self.receive(time.monotonic() + _START_SECONDS)
        if "error" in hello:
            raise RuntimeError(f"a worker could not start: {hello['error']}")

    def send(self, message: Any, deadline: float) -> None:
        data = json.dumps(message).encode("ascii")
        data = memoryview(_HEADER.pack(len(data)) + data)
        while data:
            self._wait(self._in, selectors.EVENT_WRITE, deadline)
            try:
                data = data[os.write(self._in, data) :]
            except BlockingIOError:
                continue
            except OSError:
                raise _Died(self._cause()) from None

    def receive(self, deadline: float) -> Any:
        (size,) = _HEADER.unpack(self._read(_HEADER.size, deadline))
        return json.loads(self._read(size, deadline))

    def kill(self) -> None:
        """End the process, whatever it does, and leave no zombie."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def _read(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait(self._out, selectors.EVENT_READ, deadline)
            try:
                part = os.read(self._out, size - len(data))
            except BlockingIOError:
                continue
            if not part:
                raise _Died(self._cause())
            data += part
        return bytes(data)

    def _wait(self, fd: int, event: int, deadline: float) -> None:
        # A selector and not select(), which refuses descriptors above 1023.
        with selectors.DefaultSelector() as selector:
            selector.register(fd, event)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise _Died("out of wall-clock time")

    def _cause(self) -> str:
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "the worker closed its pipe"
        if code in (-signal.SIGPROF, -signal.SIGXCPU):
            return "out of CPU time"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"the worker died of {signal.Signals(-code).name}"
        return f"the worker ended with exit code {code}"


class WorkerPool:
    """Runs a function on items in worker processes with limits on time and memory.

    Workers start when the first item comes, are reused, and are replaced when they die; only the
    item at which one died fails. Usable from any thread and from several at once. After a fork
    the child's copy starts workers of its own.
    """

    def __init__(
        self,
        factory: str,
        cpu_seconds: float = 5.0,
        wall_seconds: float = 60.0,
        workers: int = 1,
        memory_mb: int = 2048,
        recycle_after: int = 2000,
    ) -> None:
        """Set up; no process is started yet.

        Args:
            factory: "package.module:name" of a function without arguments. A worker calls it once,
                before any limit holds, and applies what it returns to each item. Items and values
                are JSON.
            cpu_seconds: CPU time of an item, user and system, in seconds.
            wall_seconds: wall-clock time of an item, in seconds; a backstop.
            workers: number of processes.
            memory_mb: address space of a worker in MiB (not enforced by macOS).
            recycle_after: items after which a worker is replaced, since caches grow.

        Raises:
            ValueError: a limit is not positive.
        """
        for name, value in (
            ("cpu_seconds", cpu_seconds),
            ("wall_seconds", wall_seconds),
            ("workers", workers),
            ("memory_mb", memory_mb),
            ("recycle_after", recycle_after),
        ):
            if not value > 0:
                raise ValueError(f"{name}={value}: must be greater than 0")
        self.factory = factory
        self.cpu_seconds = cpu_seconds
        self.wall_seconds = wall_seconds
        self.workers = workers
        self.memory_mb = memory_mb
        self.recycle_after = recycle_after
        self._closed = False
        self._reset()

    def submit(self, items: Sequence[Any]) -> Future[list[Reply]]:
        """Queue a batch.

        Args:
            items: JSON values; each distinct one is run once.

        Returns:
            A future of one reply per item, in order. It raises RuntimeError when no worker can be
            started at all (a missing package, no more processes).

        Raises:
            RuntimeError: the pool is closed.
        """
        if self._pid != os.getpid():
            self._reset()  # forked: threads and workers stayed with the parent
        first: dict[str, int] = {}
        order = [first.setdefault(json.dumps(item), len(first)) for item in items]
        batch = _Batch(len(first))
        with self._lock:
            if self._closed:
                raise RuntimeError("the worker pool is closed")
            for index, key in enumerate(first):
                self._queue.put((batch, index, json.loads(key)))
            while len(self._threads) < min(self.workers, self._queue.qsize()):
                thread = threading.Thread(
                    target=self._drive, name=f"worker-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
        return mapped(batch.future, lambda replies: [replies[i] for i in order])

    def close(self) -> None:
        """End all workers. Items not yet run fail with the reason "closed". May be called twice."""
        for thread in self._stop():
            if thread is not threading.current_thread():
                thread.join()

    def _stop(self) -> list[threading.Thread]:
        """Close without waiting; for finalizers, which may run in any thread at any time."""
        self._closed = True
        if self._pid != os.getpid():
            return []
        with self._lock:
            for worker in self._living:
                # The owning thread sees the end of the pipe and cleans up.
                worker.process.kill()
            for _ in self._threads:
                self._queue.put(None)
            threads, self._threads = self._threads, []
        _LIVING_POOLS.discard(self)
        return threads

    def _reset(self) -> None:
        self._pid = os.getpid()
        # Re-entrant: a finalizer may run in a thread that holds it.
        self._lock = threading.RLock()
        self._queue: queue.SimpleQueue[tuple[_Batch, int, Any] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._living: set[_Worker] = set()
        _LIVING_POOLS.add(self)

    def _drive(self) -> None:
        """Feed one worker. Runs in a thread of its own until the pool closes."""
        worker: _Worker | None = None
        try:
            while (task := self._queue.get()) is not None:
                batch, index, item = task
                if batch.future.done():
                    continue  # another of its items could get no worker
                if self._closed:
                    batch.put(index, Reply(failure="closed"))
                    continue
                try:
                    worker = self._ready(worker)
                    worker.items += 1
                    with span("verify"):
                        reply = self._run(worker, item)
                except _Died as death:
                    reply = Reply(failure="closed" if self._closed else str(death))
                    worker = self._end(worker)
                except (RuntimeError, OSError) as error:
                    # No worker can be had. That is no verdict on an item: whoever waits is told.
                    worker = self._end(worker)
                    batch.fail(RuntimeError(str(error)))
                    continue
                batch.put(index, reply)
        finally:
            self._end(worker)

    def _run(self, worker: _Worker, item: Any) -> Reply:
        deadline = time.monotonic() + self.wall_seconds
        worker.send([self.cpu_seconds, item], deadline)
        answer = worker.receive(deadline)
        return Reply(failure=answer["error"]) if "error" in answer else Reply(answer["value"])

    def _ready(self, worker: _Worker | None) -> _Worker:
        """Return a worker that waits for an item: the old one, or a fresh one."""
        if worker is not None and worker.alive and worker.items < self.recycle_after:
            return worker
        self._end(worker)
        for tries_left in reversed(range(_START_TRIES)):
            fresh = _Worker(self.factory, self.memory_mb)
            with self._lock:
                self._living.add(fresh)
            if self._closed:  # close() may have run before this worker was known
                self._end(fresh)
                raise _Died("closed")
            try:
                fresh.start()
            except _Died as death:
                self._end(fresh)
                if self._closed:
                    raise
                if not tries_left:
                    raise RuntimeError(f"a worker could not start: {death}") from None
            except RuntimeError:
                self._end(fresh)
                raise
            else:
                return fresh
        raise AssertionError("not reached")

    def _end(self, worker: _Worker | None) -> None:
        if worker is not None:
            with self._lock:
                self._living.discard(worker)
            worker.kill()


def mapped(source: Future[Any], change: Callable[[Any], Any]) -> Future[Any]:
    """Return a future of ``change(result)``, without a thread that waits for it."""
    target: Future[Any] = Future()
    target.set_running_or_notify_cancel()

    def pass_on(done: Future[Any]) -> None:
        try:
            target.set_result(change(done.result()))
        except BaseException as error:
            target.set_exception(error)

    source.add_done_callback(pass_on)
    return target


# Weak: whoever drops a pool unused leaves nothing behind.
_LIVING_POOLS: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for pool in list(_LIVING_POOLS):
        pool.close()


# ---------------------------------------------------------------- what runs in a worker process


def _work() -> None:
    """Be a worker: read items from standard input until it ends."""
    factory, memory_mb, parent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    # Ctrl-C goes to the whole process group; the parent decides, and this process then sees the
    # end of its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # An ignored or blocked signal is inherited through exec, and would disarm the limits.
    for number in (signal.SIGPROF, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF, signal.SIGXCPU})
    _die_with(parent)
    # The pipe keeps to itself: whatever prints to standard output cannot break the protocol.
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    try:
        module, _, name = factory.partition(":")
        function = getattr(importlib.import_module(module), name)()
    except BaseException as error:
        _write(sink, {"error": f"{type(error).__name__}: {error}"[:500]})
        return
    _limit(resource.RLIMIT_CORE, 0)
    # After the imports, which are the library's own and may map what they like.
    _limit(resource.RLIMIT_AS, memory_mb * 2**20)
    _write(sink, {"ready": True})
    while (message := _read(source)) is not None:
        cpu_seconds, item = message
        used = time.process_time()
        _limit(resource.RLIMIT_CPU, int(used + cpu_seconds) + 2, soft_only=True)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            answer = {"value": function(item)}
        except MemoryError:
            answer = {"error": "out of memory"}
        except RecursionError:
            answer = {"error": "nested too deeply"}
        except Exception as error:
            # The type alone: the text of some errors is computed from the expression, at length.
            answer = {"error": f"{type(error).__name__} in the worker"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(sink, answer)


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when the thread that started it ends.

    Elsewhere, and whenever nothing runs, the end of standard input does it.
    """
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):  # a C library without prctl
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it ended before the request
        sys.exit(0)


def _limit(kind: int, value: int, soft_only: bool = False) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    # macOS refuses RLIMIT_AS; the other limits still hold.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (value, hard if soft_only else value))


def _read(source: int) -> Any:
    header = _read_exactly(source, _HEADER.size)
    if header is None:
        return None
    data = _read_exactly(source, _HEADER.unpack(header)[0])
    return None if data is None else json.loads(data)


def _read_exactly(source: int, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        part = os.read(source, size - len(data))
        if not part:
            return None
        data += part
    return bytes(data)


def _write(sink: int, message: Any) -> None:
    data = json.dumps(message).encode("ascii")
    data = _HEADER.pack(len(data)) + data
    while data:
        data = data[os.write(sink, data) :]
