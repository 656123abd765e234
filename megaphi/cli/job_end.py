"""The end of a verb that runs as one rank of a job: an error on one rank ends all of them, and is reported once.

Bad input that a rank meets before it joins is told to the others, who would wait for it. Whatever fails later goes
through the heartbeat, so that every rank says which one was lost, and none waits for it in its clean-up.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from megaphi.errors import InputError, RunFailed


@contextmanager
def told_to_all_ranks() -> Iterator[None]:
    """Bad input that one rank meets before it joins the job: the others must not wait for it."""
    from megaphi.parallel.rendezvous.place import detect

    try:
        yield
    except InputError as error:
        if detect().world_size > 1:
            from megaphi.parallel.world import decline

            decline(str(error))
        raise


def ending_together(work: Callable[[], int]) -> int:
    """Run a rank's work; an unexpected error ends this process here, and the job."""
    from megaphi.log import logger

    try:
        return work()
    except (InputError, RunFailed, KeyboardInterrupt) as error:
        logger.debug("this rank ends: %s", error, exc_info=True)
        raise
    except Exception as error:
        end_job(error)


def end_job(error: Exception) -> NoReturn:
    """Say why this rank ends, let the others know, and end it; from any thread."""
    from megaphi.log import logger
    from megaphi.parallel.launcher import LOST_RANK_CODE
    from megaphi.parallel.world import end_in_error

    logger.debug("this rank ends", exc_info=error)
    if message := end_in_error(error):
        print(f"megaphi: {message}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    # A rank whose neighbours are gone must not wait for them in the interpreter's clean-up.
    sys.stderr.flush()
    os._exit(LOST_RANK_CODE if message else 1)


def end_of_job() -> Callable[[Exception], NoReturn] | None:
    """`end_job` for the failure of an engine in a job of several ranks; None where there is one rank."""
    from megaphi.parallel.rendezvous.place import detect

    return end_job if detect().world_size > 1 else None
