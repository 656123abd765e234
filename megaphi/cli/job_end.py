"""The end of a verb that runs as one rank of a job: an error on one rank ends all of them, and is reported once.

Bad input that a rank meets before it joins is told to the others, who would wait for it. Whatever fails later goes
through the heartbeat, so that every rank says which one was lost, and none waits for it in its clean-up.

torchrun itself ends with 1 whatever its ranks ended with, and restarts whatever failed. A rank that refuses its input
says so in the file that torchrun reads; launch/torchrun.sh finds it there, and so do the ranks that torchrun restarts.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from megaphi.errors import CannotWrite, InputError, ReportedElsewhere, RunFailed
from megaphi.files import read_json, write_text

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Variable by which torchrun names a rank's error file: LOGS/attempt_RESTARTS/LOCAL_RANK/error.json."""


def tell_torchrun(reason: str, environment: Mapping[str, str] = os.environ) -> None:
    """Leave the reason why this rank refuses its input in torchrun's error file; elsewhere do nothing."""
    if path := environment.get(ERROR_FILE):
        message = {"message": reason, "errorCode": 2, "extraInfo": {"timestamp": str(int(time.time()))}}
        with suppress(CannotWrite):
            write_text(Path(path), json.dumps({"message": message}))


def check_not_refused_before(environment: Mapping[str, str] = os.environ) -> None:
    """Raise InputError if torchrun has restarted ranks of this host that had refused their input."""
    restarts, path = environment.get("TORCHELASTIC_RESTART_COUNT", ""), environment.get(ERROR_FILE)
    if not path or not restarts.isdigit() or int(restarts) == 0:
        return
    for told in Path(path).parents[1].with_name(f"attempt_{int(restarts) - 1}").glob("*/error.json"):
        if reason := _refusal(told):
            raise InputError(reason) if environment.get("LOCAL_RANK") == "0" else ReportedElsewhere(reason)


def _refusal(error_file: Path) -> str | None:
    """The reason that a rank has left; None for another failure, which torch's own handler writes there."""
    with suppress(InputError, KeyError, TypeError):
        message = read_json(error_file, what="error file")["message"]
        return message["message"] if message["errorCode"] == 2 else None
    return None


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
