"""A server beside one bad client: how long a valid request takes while an attack goes on, and whether any is lost.

Every attack meets a server of its own, which is started here. Honest clients send the same greedy requests over and
over, first with nobody else there; then an answer with other tokens, an error or a time-out is lost. The attack runs in
a process of its own, and from another loopback address where its requests are valid ones. Nothing leaves the machine.

    python benchmarks/server_under_attack.py --label after --write -- megaphi serve CHECKPOINT
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import multiprocessing
import os
import platform
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from multiprocessing.synchronize import Event
from pathlib import Path

import psutil
from machine import machine
from results_file import append_rows
from serving import listener, quantile, resident_bytes

RESULTS = Path(__file__).parent / "results" / "server_under_attack.csv"
TIMEOUT_SECONDS = 60.0
ATTACKER = "127.0.0.2"
LARGE = 7_800_000
Address = tuple[str, int]


@dataclass
class Tally:
    """Requests of honest clients: the seconds of each, and why some were lost."""

    seconds: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="+", help="that serves, without --port")
    parser.add_argument("--label", default="", help="of the rows: before, after")
    parser.add_argument("--commit", help="the server's (default: that of this tree)")
    parser.add_argument("--clients", type=int, default=1, help="honest ones (default 1)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each attack (default 10)")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS), metavar="NAME")
    parser.add_argument("--write", action="store_true", help=f"append to benchmarks/results/{RESULTS.name}")
    arguments = parser.parse_args()
    for name in arguments.attacks:
        with server(arguments.command) as address:
            row = {"label": arguments.label, "attack": name, "clients": arguments.clients}
            row |= under_attack(name, address, clients=arguments.clients, seconds=arguments.seconds)
        print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        if arguments.write:
            append(row, commit=arguments.commit)


@contextmanager
def server(command: Sequence[str]) -> Iterator[Address]:
    """A server on a free port of loopback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = ("127.0.0.1", free.getsockname()[1])
    process = subprocess.Popen([*command, "--port", str(address[1])], stderr=subprocess.DEVNULL, process_group=0)
    try:
        while True:
            assert process.poll() is None, f"the server ended with {process.returncode}"
            with suppress(OSError):
                socket.create_connection(address).close()
                break
            time.sleep(0.5)
        yield address
    finally:
        with suppress(ProcessLookupError):  # it did not start
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def append(row: dict[str, object], *, commit: str | None) -> None:
    from megaphi.checkpoint.versions import short_commit

    stamp = {"date": date.today().isoformat(), "device": machine(), "python": platform.python_version()}
    stamp["commit"] = commit or short_commit()
    append_rows(RESULTS, [*stamp, *row], [{**stamp, **row}])


def under_attack(name: str, address: Address, *, clients: int, seconds: float) -> dict[str, object]:
    """One row of the table."""
    process = psutil.Process(listener(address[1]))
    references = [ask(address, number) for number in range(8)]
    alone, before = measure(address, references, process, clients=clients, seconds=seconds)
    spawn = multiprocessing.get_context("spawn")
    has_begun = spawn.Event()
    attack = spawn.Process(target=run_attack, args=(name, address, has_begun), daemon=True)
    attack.start()
    has_begun.wait(60)
    time.sleep(3)  # it has its connections
    beside, peak = measure(address, references, process, clients=clients, seconds=seconds)
    attack.kill()
    attack.join()
    for reason in sorted(set(beside.lost))[:3]:
        print(f"    lost: {reason}")
    usual, ordered = sorted(alone.seconds), sorted(beside.seconds)
    return {
        "answered": len(ordered) - len(beside.lost),
        "lost": len(alone.lost) + len(beside.lost),
        "alone_p50_s": f"{quantile(usual, 0.5):.3f}",
        "p50_s": f"{quantile(ordered, 0.5):.3f}",
        "p50_ratio": f"{quantile(ordered, 0.5) / quantile(usual, 0.5):.2f}",
        "p99_s": f"{quantile(ordered, 0.99):.3f}",
        "memory_growth_mb": f"{(peak - before) / 1e6:.0f}",
    }


def measure(
    address: Address,
    references: Sequence[list[int]],
    process: psutil.Process,
    *,
    clients: int,
    seconds: float,
) -> tuple[Tally, int]:
    """(tally of the honest clients, the most memory that the server had)."""
    tally, lock, end = Tally(), threading.Lock(), time.monotonic() + seconds

    def client(first: int) -> None:
        for number in itertools.count(first):
            began = time.monotonic()
            if began > end:
                return
            try:
                found = ask(address, number % len(references))
                problem = "" if found == references[number % len(references)] else "other tokens"
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                problem = f"{type(error).__name__}: {error}"[:200]
                time.sleep(0.05)
            with lock:
                if problem:
                    tally.lost.append(problem)
                tally.seconds.append(time.monotonic() - began)

    threads = [threading.Thread(target=client, args=(first,)) for first in range(clients)]
    for thread in threads:
        thread.start()
    peak = 0
    while any(thread.is_alive() for thread in threads):
        peak = max(peak, resident_bytes(process))
        time.sleep(0.1)
    return tally, peak


def ask(address: Address, number: int) -> list[int]:
    """Tokens of the answer to a valid request. Raises RuntimeError for another status than 200."""
    body = {"prompt": f"Count to {number}: one, two,", "max_tokens": 16, "temperature": 0, "return_token_ids": True}
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"status {response.status}")
    return json.loads(content)["choices"][0]["token_ids"]


def run_attack(name: str, address: Address, has_begun: Event) -> None:
    """Attack until the process is killed."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16_384), hard))
    has_begun.set()
    ATTACKS[name](address)
    threading.Event().wait()


def head(*fields: str) -> bytes:
    lines = ["POST /v1/completions HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def post(body: bytes) -> bytes:
    return head(f"Content-Length: {len(body)}") + body


def repeat(address: Address, threads: int, message: Callable[[int], bytes], *, source: str = "127.0.0.1") -> None:
    """Send messages one after the other from many threads, each over a connection of its own, and read the answers."""

    def one(first: int) -> None:
        for number in itertools.count(first, threads):
            try:
                with socket.create_connection(address, TIMEOUT_SECONDS, source_address=(source, 0)) as connection:
                    connection.sendall(message(number))
                    connection.recv(1000)
            except OSError:
                time.sleep(0.01)

    for first in range(threads):
        threading.Thread(target=one, args=(first,), daemon=True).start()


def abandon(address: Address, threads: int, message: bytes) -> None:
    """Send a message over and over, and close each connection as soon as something has come back, or at once."""

    def one(number: int) -> None:
        for turn in itertools.count(number):
            with suppress(OSError), socket.create_connection(address, TIMEOUT_SECONDS) as connection:
                connection.sendall(message)
                if turn % 2:
                    connection.recv(1)

    for number in range(threads):
        threading.Thread(target=one, args=(number,), daemon=True).start()


def hold(
    address: Address,
    count: int,
    opening: bytes,
    *,
    drip: bytes = b"",
    buffer_bytes: int = 0,
    reads: bool = False,
    source: str = "127.0.0.1",
) -> None:
    """Hold connections open, opened once more when the server ends them.

    Args:
        drip: sent each second.
        buffer_bytes: of what is received and not read.
        reads: read what comes, as an honest client does.
    """

    def one() -> socket.socket:
        connection = socket.socket()
        connection.bind((source, 0))
        if buffer_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        connection.settimeout(1.0)
        connection.connect(address)
        connection.sendall(opening)
        connection.setblocking(False)
        return connection

    held: list[socket.socket] = []
    while True:
        alive = []
        for connection in held:
            try:
                if drip:
                    connection.send(drip)
                while reads:
                    assert connection.recv(2**20), "the server has ended it"
                if buffer_bytes or connection.recv(1, socket.MSG_PEEK):
                    alive.append(connection)
            except BlockingIOError:
                alive.append(connection)
            except (OSError, AssertionError):
                connection.close()
        held = alive
        while len(held) < count:
            try:
                held.append(one())
            except OSError:
                break
        time.sleep(0.1 if reads else 1.0)


def garbage(number: int) -> bytes:
    return bytes((number * 31 + place * 7) % 256 for place in range(2_000))


LETTERS = json.dumps({"prompt": "abcdefghij" * (LARGE // 10)}).encode()
FIELD = json.dumps({"prompt": "a", "x" * 7_000_000: 1}).encode()
VALUES = b'{"prompt": [' + b"[]," * (LARGE // 3) + b"[]]}"
DEEP = b'{"prompt": ' + b"[" * (LARGE // 2) + b"]" * (LARGE // 2) + b"}"
ENDLESS = json.dumps({"prompt": "a", "max_tokens": 10_000, "n": 8, "stream": True, "logprobs": 5}).encode()
LONG = json.dumps({"prompt": "a", "max_tokens": 10_000, "ignore_eos": True, "stream": True}).encode()
MEDIUM = json.dumps({"prompt": "abcdefghij" * 60_000}).encode()
PIPELINED = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 8_000
MANY = json.dumps({"prompt": "a", "max_tokens": 64, "n": 16}).encode()


def schema_body(number: int) -> bytes:
    """A schema that takes long to compile, and is another one each time."""
    fields = {f"field_{number}_{place}": {"type": "string"} for place in range(900)}
    schema = {"type": "object", "properties": fields}
    plain = {
        "prompt": "a",
        "max_tokens": 2,
        "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
    }
    return post(json.dumps(plain).encode())


ATTACKS: dict[str, Callable[[Address], None]] = {
    "none": lambda address: None,
    "large texts": lambda address: repeat(address, 16, lambda _: post(LETTERS)),
    "long field name": lambda address: repeat(address, 8, lambda _: post(FIELD)),
    "many values": lambda address: repeat(address, 8, lambda _: post(VALUES)),
    "deep lists": lambda address: repeat(address, 8, lambda _: post(DEEP)),
    "half-open connections": lambda address: hold(address, 1_100, b"POST /v1/comple"),
    "slow heads": lambda address: hold(address, 300, b"GET / HTTP/1.1\r\n", drip=b"A"),
    "slow bodies": lambda address: hold(address, 300, head("Content-Length: 7000000") + b"{", drip=b" "),
    "large parts of bodies": lambda address: hold(address, 64, post(LETTERS)[:-1]),
    "huge chunk announced": lambda address: hold(
        address, 1_100, head("Transfer-Encoding: chunked") + b"ffffffffffffffff\r\n{"
    ),
    "tiny chunks": lambda address: repeat(
        address, 4, lambda _: head("Transfer-Encoding: chunked") + b"1\r\n \r\n" * 300_000
    ),
    "answers not read": lambda address: hold(address, 32, post(ENDLESS), buffer_bytes=4_096),
    "long answers": lambda address: hold(address, 32, post(LONG), reads=True),
    "long answers of another address": lambda address: hold(address, 32, post(LONG), reads=True, source=ATTACKER),
    "streams opened and closed": lambda address: abandon(address, 16, post(LONG)),
    "medium texts": lambda address: repeat(address, 16, lambda _: post(MEDIUM)),
    "pipelined requests": lambda address: repeat(address, 16, lambda _: PIPELINED),
    "pipelined requests whose answers are read": lambda address: hold(address, 100, PIPELINED, reads=True),
    "idle connections": lambda address: hold(address, 2_000, b""),
    "costly schemas": lambda address: repeat(address, 8, schema_body),
    "garbage": lambda address: repeat(address, 16, garbage),
    "valid requests": lambda address: repeat(address, 64, lambda _: post(MANY), source=ATTACKER),
}


if __name__ == "__main__":
    main()
