"""Bad input on one rank ends the job on all of them, with one message."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

import torch.distributed as distributed

from megaphi.errors import InputError, ReportedElsewhere
from megaphi.parallel.world import World

Answer = TypeVar("Answer")


def agreed(world: World, action: Callable[[], Answer]) -> Answer:
    """Run `action` on every rank; if it fails with an `InputError` anywhere, all ranks stop, and one speaks for all."""
    answer, message = None, None
    try:
        answer = action()
    except InputError as error:
        message = str(error)
    messages: list[str | None] = [None] * world.size
    distributed.all_gather_object(messages, message)
    failed = [rank for rank, text in enumerate(messages) if text is not None]
    if failed:
        where = f" (on rank {failed[0]} of {world.size})" if failed[0] else ""
        refuse(world, f"{messages[failed[0]]}{where}")
    return answer  # pyright: ignore[reportReturnType]


def refuse(world: World, message: str) -> NoReturn:
    """End the job for a reason that every rank knows: rank 0 says it."""
    if world.is_main:
        raise InputError(message)
    raise ReportedElsewhere
