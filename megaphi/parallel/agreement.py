"""Agreement of ranks: bad input on one, or input that differs between them, ends the job on all with one message."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable
from typing import NoReturn, TypeVar

from megaphi.errors import InputError, ReportedElsewhere
from megaphi.parallel.exchange import gathered
from megaphi.parallel.rendezvous.differences import Facts, differences
from megaphi.parallel.world import World

Answer = TypeVar("Answer")


def agreed(world: World, action: Callable[[], Answer]) -> Answer:
    """Run `action` on every rank; if it fails with an `InputError` anywhere, all ranks stop, and one reports for
    all.
    """
    answer, message = None, None
    try:
        answer = action()
    except InputError as error:
        message = str(error)
    messages = gathered(message, str | None)
    failed = [rank for rank, text in enumerate(messages) if text is not None]
    if failed:
        where = f" (on rank {failed[0]} of {world.size})" if failed[0] else ""
        refuse(world, f"{messages[failed[0]]}{where}")
    return answer  # pyright: ignore[reportReturnType]


def agree_on(world: World, facts: Facts) -> None:
    """End the job unless these facts are the same on all ranks. Collective."""
    if world.size == 1:
        return
    digests = gathered(hashlib.sha256(json.dumps([*facts.items()]).encode()).hexdigest(), str)
    if len(set(digests)) == 1:
        return
    found = gathered((socket.gethostname(), dict(facts)), tuple[str, Facts])
    hosts = {rank: host for rank, (host, _) in enumerate(found)}
    text = differences({rank: one for rank, (_, one) in enumerate(found)}, hosts) or "  in the order of their facts"
    refuse(world, f"what the ranks of this job have read differs:\n{text}\nGive all of them the same files")


def refuse(world: World, message: str) -> NoReturn:
    """End the job for a reason that every rank knows; rank 0 reports it."""
    if world.is_main:
        raise InputError(message)
    raise ReportedElsewhere
