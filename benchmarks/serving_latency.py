"""Overhead of the server itself: round trips over one kept connection, against a minimal application.

The peer is the smallest application that starlette and uvicorn can make, started here on a port of uvicorn's choice. It
answers with the very bytes that the server at URL gives for the list of its models, so that nothing but the two servers
differs. One client asks both in turn, and sends no request before it has the answer to the last.

    megaphi serve runs/quickstart/run &
    python benchmarks/serving_latency.py http://127.0.0.1:8000 --write
"""

from __future__ import annotations

import argparse
import http.client
import multiprocessing
import os
import platform
import statistics
import time
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

from results_file import append_rows

RESULTS = Path(__file__).parent / "results" / "serving_latency.csv"
PATH = "/v1/models"
WARM_UP = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of the server, without /v1")
    parser.add_argument("--requests", type=int, default=500, help="to each of the two")
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/serving_latency.csv")
    arguments = parser.parse_args()
    target = urlsplit(arguments.url)
    ours = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
    content = answer_of(ours)
    reader, writer = multiprocessing.Pipe(duplex=False)
    peer = multiprocessing.get_context("spawn").Process(target=serve_minimal, args=(content, writer), daemon=True)
    peer.start()
    theirs = http.client.HTTPConnection("127.0.0.1", reader.recv(), timeout=60)
    seconds = [(round_trip(ours), round_trip(theirs)) for _ in range(WARM_UP + arguments.requests)][WARM_UP:]
    peer.terminate()
    megaphi, minimal = (statistics.median(column) * 1e3 for column in zip(*seconds, strict=True))
    row = {"requests": arguments.requests, "megaphi_ms": f"{megaphi:.3f}", "minimal_ms": f"{minimal:.3f}"}
    row["ratio"] = f"{megaphi / minimal:.2f}"
    print("\n".join(f"{name:>12}  {value}" for name, value in row.items()))
    if arguments.write:
        append(row)


def serve_minimal(content: bytes, port: Connection) -> None:
    """The peer, in a process of its own; tells the port that it took."""
    import asyncio

    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    async def models(_: object) -> Response:
        return Response(content, media_type="application/json")

    async def serve() -> None:
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=[Route(PATH, models)]), port=0, log_level="warning"))
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port.send(server.servers[0].sockets[0].getsockname()[1])
        await serving

    asyncio.run(serve())


def round_trip(connection: http.client.HTTPConnection) -> float:
    """In seconds."""
    began = time.perf_counter()
    answer_of(connection)
    return time.perf_counter() - began


def answer_of(connection: http.client.HTTPConnection) -> bytes:
    connection.request("GET", PATH)
    return connection.getresponse().read()


def append(row: dict[str, object]) -> None:
    """One line per run: what was measured, where, with what."""
    from megaphi.checkpoint.versions import short_commit

    stamp = {"date": date.today().isoformat(), "device": f"CPU, {len(os.sched_getaffinity(0))} processors"}
    stamp |= {"commit": short_commit(), "python": platform.python_version()}
    append_rows(RESULTS, [*stamp, *row], [{**stamp, **row}])


if __name__ == "__main__":
    main()
