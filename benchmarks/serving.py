"""A server under load: N clients for S seconds, every answer compared with the one that was given when it was alone.

First every request is asked once, one after the other: these are the reference answers. Then the clients stream the
same requests in random order, with the same seeds, all at once; an answer that differs by a token counts as mixed up.
Printed are requests and tokens a second, the time to an answer and to its first token, and how much the server's
memory grew from the tenth to the last second. Any server of OpenAI's protocol that returns token ids will do:

    megaphi serve runs/quickstart/run &
    python benchmarks/serving.py http://127.0.0.1:8000 --clients 32 --seconds 60 --write
"""

from __future__ import annotations

import argparse
import http.client
import json
import platform
import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from machine import machine
from results_file import append_rows

RESULTS = Path(__file__).parent / "results" / "serving.csv"
SUBJECTS = "rivers numbers birds engines islands poems bread glaciers maps violins".split()
SETTLED_SECONDS = 10.0
"""Load after which a server has allocated what it needs: growth counts from there."""


@dataclass(frozen=True)
class Reply:
    """One answer: its tokens, and the seconds until the first of them and until the end."""

    tokens: tuple[int, ...]
    first_token_s: float
    total_s: float


@dataclass
class Tally:
    """Counts and times as the clients saw them."""

    replies: list[Reply] = field(default_factory=list)
    mixed_up: int = 0
    sent_away: int = 0
    failures: list[str] = field(default_factory=list)


class SentAway(Exception):
    """Status 429: the server has enough to do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the server, without /v1")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--requests", type=int, default=48, help="different ones")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--pid", type=int, help="the server's process (default: who listens at the port)")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/serving.csv")
    arguments = parser.parse_args()
    bodies = [request_body(number, max_tokens=arguments.max_tokens) for number in range(arguments.requests)]
    process = psutil.Process(arguments.pid or listener(urlsplit(arguments.url).port or 80))
    began = time.monotonic()
    references = [ask(arguments.url, body).tokens for body in bodies]
    alone_s = time.monotonic() - began
    tally, memory, seconds = under_load(arguments, bodies, references, process)
    row = summarise(tally, memory, seconds) | {"alone_requests_per_s": f"{len(bodies) / alone_s:.2f}"}
    row = {"clients": arguments.clients, "seconds": f"{seconds:.0f}", "max_tokens": arguments.max_tokens, **row}
    print("\n".join(f"{name:>22}  {value}" for name, value in row.items()))
    if arguments.write:
        append(row, model=model_name(arguments.url))
    if tally.mixed_up or tally.failures:
        raise SystemExit("\n".join([f"{tally.mixed_up} answers differ from the reference", *tally.failures[:5]]))


def request_body(number: int, *, max_tokens: int) -> dict[str, Any]:
    """The same for the same number: prompts of many lengths, greedy and drawn."""
    draw = random.Random(number)
    lines = [
        f"A {subject} story, number {draw.randrange(1000)}." for subject in draw.choices(SUBJECTS, k=1 + number % 8)
    ]
    return {
        "prompt": " ".join(lines),
        "max_tokens": 1 + draw.randrange(max_tokens),
        "temperature": draw.choice([0.0, 1.0]),
        "seed": number,
        "stream": True,
        "return_token_ids": True,
    }


def ask(url: str, body: dict[str, Any]) -> Reply:
    """Stream one answer. Raises SentAway, OSError, or RuntimeError for what else is not an answer."""
    target = urlsplit(url)
    began = time.monotonic()
    connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=600)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status == 429:
            raise SentAway
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {response.read()[:300]!r}")
        return read_stream(response, began)
    finally:
        connection.close()


def read_stream(response: http.client.HTTPResponse, began: float) -> Reply:
    tokens: list[int] = []
    first_token_s = 0.0
    for line in response:
        if line.startswith(b"data: [DONE]"):
            return Reply(tuple(tokens), first_token_s, time.monotonic() - began)
        if line.startswith(b"data: "):
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(str(event["error"]))
            tokens += event["choices"][0]["token_ids"] or []
            first_token_s = first_token_s or time.monotonic() - began
    raise RuntimeError("the stream ended before its end")


def under_load(
    arguments: argparse.Namespace,
    bodies: Sequence[dict[str, Any]],
    references: Sequence[tuple[int, ...]],
    process: psutil.Process,
) -> tuple[Tally, list[int], float]:
    """(what was seen, resident bytes of the server each second, seconds it took)."""
    tally, lock = Tally(), threading.Lock()
    began = time.monotonic()
    end = began + arguments.seconds

    def client(number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < end:
            which = draw.randrange(len(bodies))
            try:
                reply = ask(arguments.url, bodies[which])
            except SentAway:
                with lock:
                    tally.sent_away += 1
                time.sleep(draw.uniform(0.5, 1.0))
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                with lock:
                    tally.failures.append(f"{type(error).__name__}: {error}")
                time.sleep(0.1)
            else:
                with lock:
                    tally.replies.append(reply)
                    tally.mixed_up += reply.tokens != references[which]

    clients = [threading.Thread(target=client, args=(number,)) for number in range(arguments.clients)]
    for one in clients:
        one.start()
    memory = []
    while time.monotonic() < end:
        memory.append(resident_bytes(process))
        time.sleep(1.0)
    for one in clients:
        one.join()
    return tally, [*memory, resident_bytes(process)], time.monotonic() - began


def summarise(tally: Tally, memory: Sequence[int], seconds: float) -> dict[str, Any]:
    settled = memory[min(int(SETTLED_SECONDS), len(memory) - 1)]
    total = sorted(reply.total_s for reply in tally.replies)
    first = sorted(reply.first_token_s for reply in tally.replies)
    return {
        "requests": len(total),
        "mixed_up": tally.mixed_up,
        "failed": len(tally.failures),
        "sent_away": tally.sent_away,
        "requests_per_s": f"{len(total) / seconds:.2f}",
        "tokens_per_s": f"{sum(len(reply.tokens) for reply in tally.replies) / seconds:.1f}",
        "answer_p50_s": f"{quantile(total, 0.5):.3f}",
        "answer_p95_s": f"{quantile(total, 0.95):.3f}",
        "first_token_p50_s": f"{quantile(first, 0.5):.3f}",
        "first_token_p95_s": f"{quantile(first, 0.95):.3f}",
        "rss_mb": f"{memory[-1] / 1e6:.0f}",
        "rss_growth_mb": f"{(memory[-1] - settled) / 1e6:.1f}",
    }


def quantile(ordered: Sequence[float], share: float) -> float:
    if len(ordered) < 2:
        return ordered[0] if ordered else float("nan")
    return statistics.quantiles(ordered, n=100, method="inclusive")[round(share * 100) - 1]


def resident_bytes(process: psutil.Process) -> int:
    """Resident memory of a server with all its ranks."""
    family = [process, *process.children(recursive=True)]
    return sum(one.memory_info().rss for one in family)


def listener(port: int) -> int:
    """The process that listens at a port of this machine."""
    for connection in psutil.net_connections("tcp"):
        is_it = connection.status == psutil.CONN_LISTEN and list(connection.laddr)[1:] == [port]
        if is_it and connection.pid:
            return connection.pid
    raise SystemExit(f"no process of this machine listens at port {port}: start the server, or give its --pid")


def model_name(url: str) -> str:
    target = urlsplit(url)
    connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
    connection.request("GET", "/v1/models")
    return json.loads(connection.getresponse().read())["data"][0]["id"]


def append(row: dict[str, Any], *, model: str) -> None:
    """One line per run: what was measured, where, with what."""
    from megaphi.checkpoint.versions import short_commit

    stamp = {"date": date.today().isoformat(), "device": machine()}
    stamp |= {"commit": short_commit(), "python": platform.python_version(), "model": model}
    append_rows(RESULTS, [*stamp, *row], [{**stamp, **row}])


if __name__ == "__main__":
    main()
