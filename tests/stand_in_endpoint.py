"""A chat endpoint in the OpenAI form that answers, lies, fails and stalls at set rates.

Tests start it in this process::

    with StandIn(rates={"error": 0.2, "lie": 0.1}, seed=3) as server:
        ... base_url=server.base_url ...
        assert server.answered_twice() == []

Experiments start it in a process of its own, which prints its address and goes on until it is
ended; ``GET /counts`` and ``GET /log`` tell what it was asked::

    python tests/stand_in_endpoint.py --port 0 --rates lie=0.1,error=0.1,stall=0.02 --table FILE

A conversation with a judge's data blocks gets a verdict, any other one a solution. What is right
comes from the rows of `table` (question, reference_answer or answer, completion, label) or else
from plain text: the last box or the last number against the reference. What happens to a request
depends on the seed, its content and how often that came, never on the order of arrival; whether
the answer lies depends on the content alone. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What may become of a request, beside a right answer; the rest of the probability is "right".
OUTCOMES = ("lie", "garbage", "rate_limit", "error", "close", "stall", "cut")
# The ways of "garbage"; each counts as no answer.
GARBAGE = ("no json", "cut json", "no choices", "null", "empty", "chatter", "both")

_BLOCK = re.compile(r"<(question|reference_answer|completion)-([0-9a-f]+)>\n(.*?)\n</\1-\2>", re.S)
_MARKER = re.compile(r"(VERDICT\S*): <CORRECT or INCORRECT>")
_NUMBER = re.compile(r"-?\d+(?:[.,/]\d+)*")
_STYLES = (
    "The final answers agree or not as follows.\n{}: {}",
    "**{}: {}**",
    "<think>It might be CORRECT or INCORRECT; let me see.</think>\n\n{}: {}.",
    "{}: {}",
)


def blocks(text: str) -> dict[str, str]:
    """The data of a judge's prompt by name, or nothing."""
    return {name: inside for name, _, inside in _BLOCK.findall(text)}


def plainly_right(reference: str, completion: str) -> bool:
    """Whether the last box, or else the last number, is the reference's text."""
    _, box, inside = completion.rpartition("\\boxed{")
    numbers = _NUMBER.findall(completion)
    answer = numbers[-1] if numbers else ""
    if box:
        depth, end = 1, 0
        while end < len(inside) and depth:
            depth += {"{": 1, "}": -1}.get(inside[end], 0)
            end += 1
        answer = inside[: end - 1] if not depth else inside
    return answer.strip() == reference.strip()


class StandIn:
    """The server with its log, in threads of this process.

    Args:
        rates: probability of each of OUTCOMES; together at most 1.
        seed: of all that it draws.
        table: rows that say what is right; see above.
        answer: gives the text for a conversation, in the place of all the above; may raise
            nothing. Failures are drawn all the same.
        stall_seconds: how long a stalled request waits before it is answered after all.
        retry_after: seconds in the Retry-After header of a 429; None: no header.
        latency: seconds that every answer takes.
        key: the API key wanted; None: any.
        model: the model served; None: any.
        port: 0: a free one.
    """

    def __init__(
        self,
        rates: Mapping[str, float] | None = None,
        *,
        seed: int = 0,
        table: Sequence[Mapping[str, Any]] = (),
        answer: Callable[[list[dict[str, str]]], str] | None = None,
        stall_seconds: float = 30.0,
        retry_after: float | None = 0.0,
        latency: float = 0.0,
        key: str | None = None,
        model: str | None = None,
        port: int = 0,
    ) -> None:
        self.rates = dict(rates or {})
        unknown = sorted(set(self.rates) - set(OUTCOMES))
        if unknown or sum(self.rates.values()) > 1 + 1e-9:
            raise ValueError(f"rates={self.rates}: of {', '.join(OUTCOMES)}, at most 1 together")
        self.seed = seed
        self.answer = answer
        self.stall_seconds, self.retry_after, self.latency = stall_seconds, retry_after, latency
        self.key, self.model = key, model
        self.labels = {
            (_reference(row), str(row["completion"])): bool(row["label"])
            for row in table
            if "completion" in row and "label" in row
        }
        self.answers = {str(row["question"]): _reference(row) for row in table if "question" in row}
        self.log: list[dict[str, Any]] = []  # one entry a request, in the order of arrival
        self.most_at_once = 0
        self._seen: Counter[str] = Counter()
        self._now = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.stand_in = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="stand-in endpoint", daemon=True
        )

    @property
    def base_url(self) -> str:
        """What a client takes as base_url."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def start(self) -> StandIn:
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop; stalled requests are let go."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> StandIn:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ what it was asked

    @property
    def prompts(self) -> list[list[dict[str, str]]]:
        """The conversations received, in the order of arrival."""
        with self._lock:
            return [entry["messages"] for entry in self.log]

    def answered_twice(self) -> list[str]:
        """Contents that got a usable answer more than once."""
        with self._lock:
            good = Counter(e["content"] for e in self.log if e["outcome"] in ("right", "lie"))
        return sorted(content for content, times in good.items() if times > 1)

    def counts(self) -> dict[str, Any]:
        """Figures of all requests."""
        with self._lock:
            outcomes = Counter(entry["outcome"].split(":")[0] for entry in self.log)
            contents = len({entry["content"] for entry in self.log})
        return {
            "requests": sum(outcomes.values()),
            "contents": contents,
            "answered_twice": len(self.answered_twice()),
            "most_at_once": self.most_at_once,
            "outcomes": dict(sorted(outcomes.items())),
        }

    # ------------------------------------------------------------------ what it does

    def draw(self, body: Mapping[str, Any]) -> tuple[str, random.Random]:
        """What becomes of a request, and what its details are drawn from; logs it."""
        asked = {name: body.get(name) for name in ("messages", "seed", "temperature", "max_tokens")}
        content = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
        with self._lock:
            attempt = self._seen[content]
            self._seen[content] += 1
        rng = random.Random(f"{self.seed}:{content}:{attempt}")
        outcome = "right"
        draw = rng.random()
        for name in OUTCOMES[1:]:
            draw -= self.rates.get(name, 0.0)
            if draw < 0:
                outcome = name
                break
        failing = sum(self.rates.get(name, 0.0) for name in OUTCOMES[1:])
        share = self.rates.get("lie", 0.0) / max(1 - failing, 1e-9)
        if outcome == "right" and random.Random(f"{self.seed}:{content}").random() < share:
            outcome = "lie"
        if outcome == "garbage":
            outcome = f"garbage:{rng.choice(GARBAGE)}"
        entry = {
            "content": content,
            "attempt": attempt,
            "outcome": outcome,
            "time": time.time(),
            "messages": body.get("messages"),
        }
        with self._lock:
            self.log.append(entry)
        return outcome, rng

    def text(self, messages: list[dict[str, str]], lie: bool, rng: random.Random) -> str:
        """The model's text."""
        if self.answer is not None:
            return self.answer(messages)
        prompt = "\n".join(str(message.get("content")) for message in messages)
        data = blocks(prompt)
        if "completion" in data and "reference_answer" in data:
            pair = (data["reference_answer"], data["completion"])
            right = self.labels[pair] if pair in self.labels else plainly_right(*pair)
            marker = (_MARKER.findall(prompt) or ["VERDICT"])[-1]
            return rng.choice(_STYLES).format(marker, "CORRECT" if right != lie else "INCORRECT")
        last = str(messages[-1].get("content")) if messages else ""
        answer = next((a for q, a in self.answers.items() if q in last), "0")
        return f"Let me think step by step.\nSo the answer is \\boxed{{{'1' * lie}{answer}}}."

    def enter(self, by: int) -> None:
        """Count the requests that are under way."""
        with self._lock:
            self._now += by
            self.most_at_once = max(self.most_at_once, self._now)

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond the server's end."""
        self._closing.wait(seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    stand_in: StandIn

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        stand_in = self.server.stand_in
        if self.path == "/counts":
            self.send(200, stand_in.counts())
        elif self.path == "/log":
            with stand_in._lock:
                log = list(stand_in.log)
            self.send(200, log)
        else:
            self.send(404, {"error": {"message": "not found"}})

    def do_POST(self) -> None:
        stand_in = self.server.stand_in
        if stand_in._closing.is_set():  # a connection that the client has kept open
            self.close_connection = True
            return
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if not self.path.endswith("/chat/completions"):
            self.send(404, {"error": {"message": f"no such path: {self.path}"}})
            return
        stand_in.enter(1)
        try:
            if stand_in.key and self.headers.get("Authorization") != f"Bearer {stand_in.key}":
                self.refuse(body, 401, "Incorrect API key provided")
            elif stand_in.model and body.get("model") != stand_in.model:
                self.refuse(body, 404, f"The model {body.get('model')!r} does not exist")
            else:
                self.reply(body)
        finally:
            stand_in.enter(-1)

    def refuse(self, body: Mapping[str, Any], status: int, message: str) -> None:
        stand_in = self.server.stand_in
        with stand_in._lock:
            stand_in.log.append(
                {"content": "", "outcome": str(status), "messages": body.get("messages")}
            )
        self.send(status, {"error": {"message": message, "type": "invalid_request_error"}})

    def reply(self, body: Mapping[str, Any]) -> None:
        stand_in = self.server.stand_in
        outcome, rng = stand_in.draw(body)
        stand_in.wait(stand_in.latency)
        if outcome == "rate_limit":
            wait = stand_in.retry_after
            headers = {} if wait is None else {"Retry-After": f"{wait:g}"}
            self.send(429, {"error": {"message": "slow down"}}, headers)
        elif outcome == "error":
            self.send(rng.choice((500, 502, 503)), {"error": {"message": "internal error"}})
        elif outcome == "close":
            # Reset the connection instead of ending it in good order.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
        elif outcome.startswith("garbage:"):
            self.garbage(outcome.partition(":")[2])
        else:
            if outcome == "stall":
                stand_in.wait(stand_in.stall_seconds)
            text = stand_in.text(list(body.get("messages", [])), outcome == "lie", rng)
            why = "length" if outcome == "cut" else "stop"
            self.send(200, completion(text, why))

    def garbage(self, kind: str) -> None:
        if kind == "no json":
            self.send(200, "<html>Bad gateway</html>")
        elif kind == "cut json":
            self.send(200, json.dumps(completion("VERDICT: CORRECT"))[:60])
        elif kind == "no choices":
            self.send(200, {"object": "chat.completion"})
        else:
            texts = {
                "null": None,
                "empty": " \n",
                "chatter": "I would rather talk about the weather.",
                "both": "VERDICT: CORRECT\nVERDICT: INCORRECT",
            }
            self.send(200, completion(texts[kind]))

    def send(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def completion(text: str | None, why: str = "stop") -> dict[str, Any]:
    """A chat completion in the API's form."""
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": "stand-in",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": why,
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def _reference(row: Mapping[str, Any]) -> str:
    return str(next((row[k] for k in ("reference_answer", "reference", "answer") if k in row), ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0: a free one, which is printed")
    parser.add_argument("--rates", default="", help=f"NAME=SHARE,... of {', '.join(OUTCOMES)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", help="JSON Lines file that says what is right")
    parser.add_argument("--stall-seconds", type=float, default=30.0)
    parser.add_argument("--retry-after", type=float, default=0.0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that an answer takes")
    given = parser.parse_args()
    rows = []
    if given.table:
        with open(given.table, encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines if line.strip()]
    pairs = (pair.split("=") for pair in given.rates.split(",") if pair)
    server = StandIn(
        {name.strip(): float(share) for name, share in pairs},
        seed=given.seed,
        table=rows,
        stall_seconds=given.stall_seconds,
        retry_after=given.retry_after,
        latency=given.latency,
        port=given.port,
    ).start()
    print(server.base_url, flush=True)
    try:
        server._thread.join()
    except KeyboardInterrupt:
        server.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
