"""The processes of one run: started here, by torchrun or by SLURM, and how they find each other."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import IO

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from cooper.collectives import alone
from cooper.errors import ConfigError, CooperError

_PARENT = "COOPER_PARENT"  # a pipe whose other end the starting process holds
_TOGETHER = 3.0  # seconds in which processes that fail alike do so
_TOLD = (2, 130, 143)  # exit codes that come with a line of ours


def started_by() -> ClusterEnvironment | None:
    """Who started this process as one of several; None: nobody."""
    if TorchElasticEnvironment.detect():  # first, since srun may have started torchrun
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)  # Lightning would save as it does for itself
    return None


def run_in(
    processes: int,
    nodes: int,
    timeout: float,
    on_gpu: bool,
    command: Sequence[str],
    environment: Mapping[str, str],
    work: Callable[[], int],
) -> int:
    """Work in several processes: become one of them, or start them on this machine.

    Args:
        processes: on each machine.
        nodes: machines.
        timeout: minutes that a process waits for the others.
        on_gpu: use GPUs, where there are any.
        command: starts this program again.
        environment: of what is started.
        work: what each process does.

    Returns:
        the exit code.

    Raises:
        ConfigError: the processes that there are, are not those that are asked for.
    """
    found = started_by()
    if found is not None and found.world_size() == 1 and processes > 1 and nodes == 1:
        found = None  # a batch script's only task
    if found is None and nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={nodes}: processes on several machines are started from outside; "
            "run this command on each by torchrun, or by srun"
        )
    if found is None and processes > 1:
        return start(processes, command, environment)
    if found is None:
        os.environ.update(_variables(0, 1, free_port()))
        found = TorchElasticEnvironment()
    if found.world_size() != processes * nodes:
        raise ConfigError(
            f"trainer.devices={processes}, trainer.num_nodes={nodes}: {processes * nodes} processes"
            f" are asked for, and {found.world_size()} were started; let both agree"
        )
    _end_with_parent()
    with group(found, timeout, on_gpu), contextlib.ExitStack() as stack:
        if found.global_rank():
            # The first one tells how it goes, for all.
            nothing = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(contextlib.redirect_stdout(nothing))
        try:
            return work()
        except CooperError:
            raise
        except Exception:
            # If this only follows from another's end, this process is ended before it tells it.
            time.sleep(_TOGETHER if found.world_size() > 1 else 0)
            raise


@contextlib.contextmanager
def group(found: ClusterEnvironment, timeout: float, on_gpu: bool) -> Iterator[None]:
    """Be one of the processes that talk to each other.

    Args:
        found: says which.
        timeout: minutes after which a process that waits for the others fails.
        on_gpu: use GPUs, where there are any.

    Raises:
        ConfigError: there is no GPU for this process.
    """
    os.environ["MASTER_ADDR"] = found.main_address
    os.environ["MASTER_PORT"] = str(found.main_port)
    os.environ["LOCAL_RANK"] = str(found.local_rank())  # SLURM has another name for it
    backend = "gloo"
    if on_gpu and torch.cuda.is_available():
        if found.local_rank() >= torch.cuda.device_count():
            raise ConfigError(
                f"trainer.devices: process {found.local_rank()} of this machine sees "
                f"{torch.cuda.device_count()} GPUs; let all processes see as many GPUs as there "
                "are processes (SLURM: --gres=gpu:N, not --gpus-per-task)"
            )
        torch.cuda.set_device(found.local_rank())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend,
        rank=found.global_rank(),
        world_size=found.world_size(),
        timeout=timedelta(minutes=timeout),
    )
    yield
    # Not after an error: the others may never come.
    dist.destroy_process_group()


def free_port() -> int:
    """A port that nobody listens to now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _variables(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": f"cooper-{port}",
    }  # fmt: skip


def start(processes: int, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Start the processes on this machine, and wait for all of them.

    The first one has the screen. If one fails the others are ended, and what it said is shown.

    Args:
        processes: how many.
        command: of each.
        environment: of each, to which its number is added.

    Returns:
        the exit code of the one that failed first, or 0.
    """
    port = free_port()
    ours, theirs = os.pipe()  # closed by the system, however this process ends
    started: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, theirs)
        said = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(processes)]
        stack.enter_context(_passing_on(started))
        try:
            for rank in range(processes):
                beside = said[rank] if rank else None
                own = {**_variables(rank, processes, port), _PARENT: str(ours)}
                started.append(
                    subprocess.Popen(
                        command, stdout=beside, stderr=beside, pass_fds=[ours],
                        stdin=None if rank == 0 else subprocess.DEVNULL,
                        env={**environment, **own},
                    )
                )  # fmt: skip
            os.close(ours)
            return _wait(started, said)
        finally:
            for process in started:
                if process.poll() is None:
                    process.kill()
                process.wait()


@contextlib.contextmanager
def _passing_on(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """SIGTERM goes to the processes, which save and end; Ctrl-C reaches them by itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(signum: int, frame: object) -> None:
        for process in started:
            process.send_signal(signum)

    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
        signal.SIGINT: signal.signal(signal.SIGINT, lambda signum, frame: None),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(started: Sequence[subprocess.Popen[bytes]], said: Sequence[IO[bytes]]) -> int:
    """Wait for all, or until one has failed."""
    while True:
        codes = [process.poll() for process in started]
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed:
            break
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.05)
    first = failed[0]
    code = started[first].returncode
    if code in _TOLD:
        # A mistake in a setting ends all of them, and so does a signal; the first one tells it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            started[0].wait(_TOGETHER)
    who = f"process {first} of {len(started)}"
    if first > 0 and not (code in _TOLD and started[0].returncode == code):
        said[first].seek(0)
        text = said[first].read().decode(errors="replace").strip()
        print(f"{who}: {text}" if text else f"{who} failed", file=sys.stderr, flush=True)
    if code < 0:
        print(f"{who}: killed by {signal.Signals(-code).name}", file=sys.stderr, flush=True)
    # The others wait for it, and cannot go on: what they would say is no more than that.
    return code if code > 0 else 128 - code


def _end_with_parent() -> None:
    """End at once when the process that started this one is gone: nobody would wait for it."""
    pipe = os.environ.pop(_PARENT, None)
    if pipe is None:
        return

    def watch() -> None:
        os.read(int(pipe), 1)  # returns when the other end is closed
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="parent").start()


# ---------------------------------------------------------------------- before the run


_builds = itertools.count()


def first_builds(name: str, build: Callable[[], Path]) -> Path:
    """Let the first process build something in a folder; the others wait, however long.

    Args:
        name: of what is built.
        build: on the others it must find what the first has built.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return build()
    store = dist.distributed_c10d._get_default_store()
    key = f"cooper built {next(_builds)} {name}"
    if dist.get_rank() == 0:
        with alone():
            found = build()
        store.set(key, str(found))
        return found
    while not store.check([key]):  # no time-out: a stage may take hours
        time.sleep(0.2)
    path = Path(store.get(key).decode())
    if not path.is_dir():
        raise ConfigError(
            f"paths.cache_dir: {path} was built by the first process and is not seen by process "
            f"{dist.get_rank()}; give a folder that all machines share"
        )
    return path
