"""Serve a model to clients of OpenAI's protocol, and to people through a chat page.

Completions, chats, streaming, log-probabilities, JSON of a schema; /health says whether the engine works, and /metrics
tells Prometheus what it does, both without a key. The page is at the server's address itself. Only this machine can
reach the server unless --host says otherwise; then give it a key. One bad client cannot keep the others out: bodies,
connections and the time they may take are limited, and clients take turns, also while long answers run. --replicas puts
copies of the model behind
the one address. A process that dies, stops or cannot be reached is named by the others, and all end
(--heartbeat-seconds). Ctrl-C or SIGTERM ends it; answers that are under way get five seconds. Needs megaphi[serve].
"""

from __future__ import annotations

import argparse
import ipaddress
import math
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megaphi.cli.engine_options import Opened, add_engine_arguments, on_every_rank, on_first_rank
from megaphi.cli.job_end import end_of_job, told_to_all_ranks
from megaphi.config import user_path
from megaphi.errors import InputError
from megaphi.foreign.key_file import read_key

if TYPE_CHECKING:
    from fastapi import FastAPI

HELP = "a server that speaks OpenAI's protocol, with a chat page"
EXAMPLE = """examples:
  megaphi serve runs/quickstart/run                              then open http://127.0.0.1:8000
  megaphi serve downloads/phi-4 --tensor 2 --batch 32 --port 9000
  megaphi serve downloads/phi-4 --tensor 2 --replicas 4
  megaphi serve runs/phi4_14b --host 0.0.0.0 --api-key-file secrets/key
  curl -H 'Content-Type: application/json' http://127.0.0.1:8000/v1/completions -d '{"prompt": "The answer is"}'
"""
GRACE_SECONDS = 5
LIMITS: tuple[tuple[str, int | float, str], ...] = (
    ("--max-connections", 1024, "connections; a new one takes the place of one that waits for its client"),
    ("--max-client-connections", 512, "connections of one address"),
    ("--requests-per-second", 500, "requests that begin, of all clients, who take turns where more come"),
    ("--max-body-bytes", 8 * 2**20, "bytes of a request's body"),
    ("--head-seconds", 10.0, "seconds for the head of a request"),
    ("--body-seconds", 20.0, "seconds for its body, and one more for every 16 KiB that have come"),
    ("--write-seconds", 20.0, "seconds for a client who does not read his answer; it waits meanwhile"),
)
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_arguments(parser, batch=16)
    parser.add_argument(
        "--replicas",
        "--data",
        type=int,
        default=1,
        metavar="N",
        help="copies of the model behind one address (default 1); each takes --tensor x --pipeline processes",
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="NAME", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default 8000; 0 takes a free one")
    parser.add_argument("--model-name", metavar="NAME", help="model name (default: the checkpoint's folder)")
    parser.add_argument(
        "--api-key-file", type=user_path, metavar="FILE", help="a file whose one line is the key that clients must send"
    )
    parser.add_argument(
        "--max-waiting",
        type=int,
        default=256,
        metavar="N",
        help="answers that may wait for a slot before 429 (default 256)",
    )
    limits = parser.add_argument_group("limits of clients")
    for option, default, meaning in LIMITS:
        kind = type(default)
        name = "N" if kind is int else "SECONDS"
        limits.add_argument(option, type=kind, default=default, metavar=name, help=f"{meaning} (default {default})")


def run(arguments: argparse.Namespace) -> int:
    require_serving_packages()
    if arguments.max_waiting < 1:
        raise InputError(f"--max-waiting {arguments.max_waiting}: must be at least 1")
    for option, *_ in LIMITS:
        value = getattr(arguments, option[2:].replace("-", "_"))
        if not 0 < value < math.inf:
            raise InputError(f"{option} {value:g}: must be above 0")
    if not 0 <= arguments.port <= 65535:
        raise InputError(f"--port {arguments.port}: must lie between 0 and 65535")
    _key(arguments)
    return on_every_rank(arguments, _serve)


def require_serving_packages() -> None:
    """Raises InputError that says what to install."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(f"serving needs {error.name}: pip install 'megaphi[serve]'") from None


def _key(arguments: argparse.Namespace) -> str | None:
    path = arguments.api_key_file
    return None if path is None else read_key(path, option="--api-key-file")


def bind(host: str, port: int) -> socket.socket:
    """A socket with the address that was asked for, before a model is opened for it. Raises InputError.

    It says that its protocol is TCP: asyncio sets TCP_NODELAY on such connections only, and without that every answer
    over a connection that is kept waits 40 ms for the client's delayed acknowledgement.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise InputError(f"cannot listen at {host} port {port}: {error.strerror}: choose another") from None
    return bound


def _serve(arguments: argparse.Namespace) -> int:
    from megaphi.log import set_up_logging
    from megaphi.parallel.rendezvous.place import detect

    set_up_logging()
    with told_to_all_ranks():
        key = _key(arguments)
        # The address may be one that only the first rank's host has.
        bound = bind(arguments.host, arguments.port) if detect().rank == 0 else None
    return on_first_rank(arguments, lambda opened: _listen(opened, arguments, key, bound))


def _listen(opened: Opened, arguments: argparse.Namespace, key: str | None, bound: socket.socket | None) -> int:
    """Answer at `bound`, the first rank's socket, until a signal."""
    from megaphi.log import logger

    assert bound is not None
    with bound:
        address, port = bound.getsockname()[:2]
        is_loopback = ipaddress.ip_address(address).is_loopback
        if key is None and not is_loopback:
            logger.warning("WARNING: everybody who can reach %s port %d can use this server: no key", address, port)
            logger.warning("WARNING: give it one with --api-key-file, or leave --host out")
        app = make_app(opened, arguments, key, hosts=LOOPBACK if is_loopback else frozenset())
        bound.listen()  # who has read the next line may come, even before the server's first accept
        logger.info("serving at http://%s:%d", f"[{address}]" if ":" in address else address, port)
        return _run_until_signal(app, bound, arguments)


def make_app(opened: Opened, arguments: argparse.Namespace, key: str | None, *, hosts: frozenset[str]) -> FastAPI:
    """The application around a model; `hosts` as in `Serving`."""
    import time

    from megaphi.generation.server.app import create_app
    from megaphi.generation.server.handlers import Serving
    from megaphi.generation.workers import GenerationService

    serving = Serving(
        service=GenerationService(*opened.generators, max_waiting=arguments.max_waiting, on_failure=end_of_job()),
        tokenizer=opened.tokenizer,
        constraints=opened.constraints,
        model=arguments.model_name or Path(arguments.checkpoint).resolve().name,
        api_key=key,
        hosts=hosts | {arguments.host.lower()} if hosts else hosts,
        largest_body_bytes=arguments.max_body_bytes,
        created=int(time.time()),
    )
    return create_app(serving)


def _run_until_signal(app: FastAPI, bound: socket.socket, arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM, both of which are a good end."""
    import signal
    from contextlib import suppress

    import uvicorn

    from megaphi.generation.server.connections import ConnectionLimits, connections_that_fit, http_config

    limits = ConnectionLimits(
        connections=connections_that_fit(arguments.max_connections),
        per_client=arguments.max_client_connections,
        requests_per_second=arguments.requests_per_second,
        head_seconds=arguments.head_seconds,
        body_seconds=arguments.body_seconds,
        write_seconds=arguments.write_seconds,
        largest_body_bytes=arguments.max_body_bytes,
    )
    config = http_config(app, limits, grace_seconds=GRACE_SECONDS)

    def carry_on(*_: Any) -> None:
        """uvicorn raises the signal that ended it once more, for us."""

    signal.signal(signal.SIGTERM, carry_on)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[bound])
    return 0
