"""The worker pool: limits hold, only the guilty item fails, and nothing is left behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cooper.verifiers.pool import WorkerPool

TASKS = """
import os, sys, time

calls = 0

def make():
    return run

def run(item):
    global calls
    calls += 1
    what, value = item
    if what == "echo": return value
    if what == "pid": return os.getpid()
    if what == "calls": return calls
    if what == "power": return (3 ** value) % 7  # one C call that no Python code can interrupt
    if what == "spin":
        while True: pass
    if what == "sleep": time.sleep(value)
    if what == "memory": return len(bytearray(value))
    if what == "exit": os._exit(value)
    if what == "signal": os.kill(os.getpid(), value)
    if what == "raise": raise KeyError("secret")
    if what == "print":
        print("noise"); print("noise", file=sys.stderr); sys.stdout.flush()
        os.write(1, b"noise"); os.write(2, b"noise")
    return None

def broken():
    raise OSError("no such library")

def dies():
    os._exit(7)
"""


@pytest.fixture
def make_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., WorkerPool]]:
    (tmp_path / "pool_tasks.py").write_text(TASKS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    pools: list[WorkerPool] = []

    def make(factory: str = "pool_tasks:make", **keywords: Any) -> WorkerPool:
        pools.append(WorkerPool(factory, **keywords))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def run(pool: WorkerPool, *items: Any) -> list[Any]:
    return [r.value if r.ok else r.failure for r in pool.submit(list(items)).result(timeout=60)]


def children_cpu() -> float:
    """CPU seconds of all children that ended; unlike wall-clock time, fair on a busy machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process that is no child of ours ends in time; a zombie has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            status = Path(f"/proc/{pid}/stat")
            if status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


def test_order_and_equal_items_once(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool(workers=2)
    assert run(pool) == []
    items = [["echo", i % 5] for i in range(20)]
    assert run(pool, *items) == [i % 5 for i in range(20)]
    single = make_pool()
    assert run(single, ["echo", 1], ["echo", 1], ["echo", 1], ["calls", 0]) == [1, 1, 1, 2]


def test_workers_start_late_and_are_reused(make_pool: Callable[..., WorkerPool]) -> None:
    before = threading.active_count()
    pool = make_pool(workers=4)
    assert threading.active_count() == before
    (first,) = run(pool, ["pid", 0])
    assert first != os.getpid()
    assert run(pool, ["pid", 0]) == [first]


def test_recycled(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool(recycle_after=2)
    pids = [run(pool, ["pid", i])[0] for i in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


@pytest.mark.parametrize("item", [["power", 10**9], ["spin", 0]], ids=["in C", "in Python"])
def test_cpu_limit(make_pool: Callable[..., WorkerPool], item: Any) -> None:
    pool = make_pool(cpu_seconds=0.3)
    before = children_cpu()
    assert run(pool, ["echo", 1], item, ["echo", 2]) == [1, "out of CPU time", 2]
    # Well below the two seconds at which the coarser limit behind it would come in.
    assert 0.3 <= children_cpu() - before < 1.5


def test_cpu_limit_is_per_item(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool(cpu_seconds=0.5)
    run(pool, ["echo", 0])
    items = [["power", 2_000_000 + i] for i in range(8)]
    start = time.process_time()
    for _, exponent in items:
        _ = (3**exponent) % 7
    if (time.process_time() - start) / len(items) > 0.3:
        pytest.skip("an item takes over 0.3 s here, so one alone may pass the limit of 0.5 s")
    pids = {run(pool, item, ["pid", item[1]])[1] for item in items}
    assert len(pids) == 1


def test_cpu_limit_holds_under_an_ignored_signal(make_pool: Callable[..., WorkerPool]) -> None:
    # An ignored signal stays ignored through exec.
    old = signal.signal(signal.SIGPROF, signal.SIG_IGN)
    try:
        pool = make_pool(cpu_seconds=0.3, wall_seconds=10)
        before = children_cpu()
        assert run(pool, ["spin", 0]) == ["out of CPU time"]
        assert children_cpu() - before < 1.5
    finally:
        signal.signal(signal.SIGPROF, old)


def test_wall_limit(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool(wall_seconds=0.5)
    start = time.monotonic()
    assert run(pool, ["sleep", 60], ["echo", 2]) == ["out of wall-clock time", 2]
    assert time.monotonic() - start < 10


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not enforce RLIMIT_AS")
def test_memory_limit(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool(memory_mb=300)
    assert run(pool, ["memory", 10**6], ["memory", 10**9]) == [10**6, "out of memory"]


def test_only_the_item_of_a_dead_worker_fails(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool()
    crash = ["signal", int(signal.SIGSEGV)]
    assert run(pool, ["echo", 1], ["exit", 3], ["echo", 2], crash, ["raise", 0], ["echo", 3]) == [
        1,
        "the worker ended with exit code 3",
        2,
        "the worker died of SIGSEGV",
        "KeyError in the worker",
        3,
    ]


def test_ctrl_c_leaves_items_alone(make_pool: Callable[..., WorkerPool]) -> None:
    """The terminal sends it to the workers too, while the run finishes its step with them."""
    pool = make_pool()
    (pid,) = run(pool, ["pid", 0])
    interrupt = ["signal", int(signal.SIGINT)]
    assert run(pool, interrupt, ["echo", 1], ["pid", 0]) == [None, 1, pid]


def test_a_worker_killed_while_idle_costs_no_item(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool()
    (pid,) = run(pool, ["pid", 0])
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert run(pool, ["echo", 5]) == [5]


def test_noise_stays_in_the_worker(
    make_pool: Callable[..., WorkerPool], capfd: pytest.CaptureFixture[str]
) -> None:
    pool = make_pool()
    assert run(pool, ["print", 0], ["echo", 1]) == [None, 1]
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_any_text_goes_through(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool()
    texts = ["\ud800", "\x00", "\u202e", "x" * 3_000_000, "\n"]
    assert run(pool, *[["echo", text] for text in texts]) == texts


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("pool_tasks:broken", "no such library"),
        ("pool_tasks:dies", "exit code 7"),
        ("no_such_module_here:make", "no_such_module_here"),
    ],
)
def test_no_worker_is_an_error_and_no_verdict(
    make_pool: Callable[..., WorkerPool], factory: str, words: str
) -> None:
    pool = make_pool(factory)
    with pytest.raises(RuntimeError, match=words):
        run(pool, ["echo", 1], ["echo", 2])


def test_several_threads(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool(workers=2)
    results: dict[int, list[Any]] = {}

    def ask(n: int) -> None:
        results[n] = run(pool, *[["echo", [n, i]] for i in range(30)])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert results == {n: [[n, i] for i in range(30)] for n in range(4)}


def test_close(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool()
    (pid,) = run(pool, ["pid", 0])
    pending = pool.submit([["sleep", 60], ["echo", 1]])
    time.sleep(0.2)
    start = time.monotonic()
    pool.close()
    pool.close()
    assert time.monotonic() - start < 10
    assert [r.failure for r in pending.result(timeout=10)] == ["closed", "closed"]
    assert gone(pid)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit([["echo", 1]])


@pytest.mark.parametrize("name", ["cpu_seconds", "wall_seconds", "workers", "memory_mb"])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        WorkerPool("pool_tasks:make", **{name: 0})


# No main guard, on purpose: that is how training scripts are written.
SCRIPT = """
import os, sys, time
sys.path.insert(0, {folder!r})
print("started", flush=True)
from cooper.verifiers.pool import WorkerPool
pool = WorkerPool("pool_tasks:make")
print(pool.submit([["pid", 0]]).result()[0].value, flush=True)
{then}
"""


def start_script(tmp_path: Path, then: str) -> tuple[subprocess.Popen[str], int]:
    """Run a script that uses a pool; return it with its worker's process id."""
    (tmp_path / "pool_tasks.py").write_text(TASKS, encoding="utf-8")
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(SCRIPT).format(folder=str(tmp_path), then=then), encoding="utf-8"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("how", ["exit", "sigkill", "sigkill busy", "ctrl-c", "ctrl-c busy"])
def test_workers_end_with_their_parent(tmp_path: Path, how: str) -> None:
    busy = 'pool.submit([["sleep", 100]]); time.sleep(0.2)'
    then = {
        "exit": "",
        "sigkill": 'print("now", flush=True); time.sleep(100)',
        "sigkill busy": f'{busy}; print("now", flush=True); time.sleep(100)',
        "ctrl-c": 'print("now", flush=True); time.sleep(100)',
        "ctrl-c busy": 'print("now", flush=True); pool.submit([["sleep", 100]]).result()',
    }[how]
    process, worker = start_script(tmp_path, then)
    assert process.stdout is not None
    if how != "exit":
        assert process.stdout.readline() == "now\n"
        time.sleep(0.1)
        if how.startswith("sigkill"):
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert gone(worker)
    assert (process.returncode == 0) == (how == "exit")


def test_a_forked_child_gets_workers_of_its_own(tmp_path: Path) -> None:
    then = textwrap.dedent(
        """
        child = os.fork()
        mine = pool.submit([["pid", 1]]).result(timeout=20)[0].value
        print("child" if child == 0 else "parent", mine, flush=True)
        pool.close()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        """
    )
    process, worker = start_script(tmp_path, then)
    out, _ = process.communicate(timeout=60)
    found = dict(line.split() for line in out.splitlines() if line.startswith(("child", "parent")))
    assert int(found["parent"]) == worker
    assert int(found["child"]) != worker
    assert gone(worker)
    assert gone(int(found["child"]))
