"""Kill cooper-annotate at random moments, start it again, and count what is lost or doubled.

    python experiments/verifiers/annotate.py FOLDER_OF_DATA --out annotation.json

The rule is Math-Verify (verifier math), the judge is tests/stand_in_endpoint.py: it knows the
labels of the rows, and answers, lies, fails and stalls at set rates. One annotation is left alone;
another one is killed (SIGKILL to its process group) just before the endpoint answers a request
drawn by the seed, several times, and started again with the same command until it ends by itself.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from stand_in_endpoint import StandIn  # noqa: E402

FILES = (
    "judged_processbench.jsonl",
    "judged_gsm8k_openai_examples.jsonl",
    "judged_omnimath_judged.jsonl",
)
RATES = {
    "lie": 0.05, "garbage": 0.03, "rate_limit": 0.05, "error": 0.10, "close": 0.02, "stall": 0.01
}  # fmt: skip


class Killer(StandIn):
    """Kills a process group just before it answers a given request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.answers_given = 0
        self.at = 0
        self.victim: subprocess.Popen[str] | None = None
        self._counting = threading.Lock()

    def text(self, messages: list[dict[str, str]], lie: bool, rng: random.Random) -> str:
        """Count an answer, and kill when it is the one."""
        with self._counting:
            self.answers_given += 1
            if self.victim is not None and self.answers_given == self.at:
                os.killpg(self.victim.pid, signal.SIGKILL)
        return super().text(messages, lie, rng)


def read_rows(folder: Path, count: int) -> list[dict[str, Any]]:
    """Rows of the files in turn, as long as each has some; every tenth one a second time."""
    texts = [(folder / name).read_text(encoding="utf-8").splitlines() for name in FILES]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*texts))
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(line for line in turns if line is not None):
        rows.append(json.loads(line))
        if number % 10 == 0:
            rows.append({**rows[-1], "id": f"{rows[-1]['id']} again"})
        if len(rows) >= count:
            break
    return rows[:count]


def command(data: Path, output: Path, url: str, more: list[str]) -> list[str]:
    """The command, the same for each start."""
    return [
        sys.executable, "-m", "cooper.cli.annotate", f"data.path={data}", f"output={output}",
        f"judge.chat.base_url={url}", "judge.chat.model=stand-in", "judge.chat.timeout=2", *more,
    ]  # fmt: skip


def run(server: Killer, arguments: list[str], at: int = 0) -> dict[str, Any]:
    """Let one process live until it ends, or is killed at a request."""
    began, asked = time.monotonic(), server.counts()["requests"]
    server.at = server.answers_given + at if at else 0
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    server.victim = process
    out, _ = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"exit code {process.returncode}:\n{out}")
    return {
        "killed": process.returncode != 0,
        "seconds": round(time.monotonic() - began, 1),
        "requests": server.counts()["requests"] - asked,
        "output": out,
    }


def said_in(output: Path) -> list[dict[str, Any]]:
    """All rows with what was said, without the judge's words, which it draws for each request."""
    rows = []
    for name in ("labelled.jsonl", "dropped.jsonl"):
        with (output / name).open(encoding="utf-8") as lines:
            rows += [json.loads(line) for line in lines]
    for row in rows:
        del row["judge"]["reason"]
    return rows


def main() -> None:
    """Run both and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="with the files named above")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds that an answer takes")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("more", nargs="*", help="further settings of cooper-annotate")
    given = parser.parse_args()
    rows = read_rows(given.folder, given.rows)
    results: dict[str, Any] = {
        "rows": len(rows),
        "distinct": len({(r["question"], r["reference_answer"], r["completion"]) for r in rows}),
        "rates": RATES,
        "seed": given.seed,
    }
    with tempfile.TemporaryDirectory() as work:
        home = Path(work)
        data = home / "completions.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

        def server() -> Killer:
            return Killer(
                RATES, seed=given.seed, table=rows, stall_seconds=5.0, latency=given.latency
            )

        with server() as endpoint:
            arguments = command(data, home / "alone", endpoint.base_url, given.more)
            alone = run(endpoint, arguments)
            print(alone.pop("output"))
            results["left alone"] = {
                **alone, **endpoint.counts(), **cut(home / "alone" / "summary.json")
            }  # fmt: skip
            again = run(endpoint, arguments)
            del again["output"]
            results["left alone, a second start"] = again
        with server() as endpoint:
            arguments = command(data, home / "killed", endpoint.base_url, given.more)
            rng = random.Random(given.seed)
            lives = []
            for _ in range(given.kills):
                at = rng.randrange(1, results["distinct"] // (given.kills + 1))
                lives.append(run(endpoint, arguments, at=at))
            lives.append(run(endpoint, arguments))
            print(lives[-1]["output"])
            for life in lives:
                del life["output"]
            twice = endpoint.answered_twice()
            counts = endpoint.counts()
        found = said_in(home / "killed")
        ids = Counter(row["id"] for row in found)
        wanted = [row["id"] for row in rows]
        results["killed"] = {
            "lives": lives,
            "seconds": round(sum(life["seconds"] for life in lives), 1),
            **counts,
            **cut(home / "killed" / "summary.json"),
        }
        results["lost"] = sum(id not in ids for id in wanted)
        results["doubled"] = sum(times > 1 for times in ids.values())
        results["invented"] = sum(id not in wanted for id in ids)
        results["answered twice"] = len(twice)
        # After a reply without a verdict the judge is asked in another conversation, about which
        # the endpoint draws lies anew; whether it comes to that depends on how often it was asked.
        results["rows with other verdicts than left alone"] = sum(
            row not in found for row in said_in(home / "alone")
        )
    text = json.dumps(results, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


def cut(path: Path) -> dict[str, Any]:
    """The figures of a summary."""
    summary = json.loads(path.read_text())
    names = (
        "kept", "dropped", "agreement", "judge_undecided", "rule_undecided", "input_labels",
        "cpu_seconds",
    )  # fmt: skip
    return {"summary": {name: summary[name] for name in names}}


if __name__ == "__main__":
    main()
