"""Ask a run that is going on for a profile of its next steps: a trace, a table of operators, and memory on a GPU.

The ranks of `profile.ranks` write it into profiles/ of the run folder. The run looks for requests every two seconds,
between two steps; nothing else of it changes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from megaphi.config import user_path
from megaphi.errors import InputError

HELP = "ask a running job for a profile of its next steps"
EXAMPLE = """examples:
  megaphi profile runs/quickstart/run --steps 3       the next three steps
  megaphi train RECIPE profile.steps=100-102          steps that are known beforehand
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=user_path, metavar="RUN", help="folder of a run that is going on")
    parser.add_argument("--steps", type=int, default=3, metavar="N", help="steps to profile (default: %(default)s)")
    parser.add_argument(
        "--wait", type=float, default=60.0, metavar="SECONDS", help="for the run to take it (default: %(default)g)"
    )


def run(arguments: argparse.Namespace) -> int:
    from megaphi.engine.reporting.profile_request import is_waiting, write_request
    from megaphi.engine.run_lock import holder_of

    folder = Path(arguments.run)
    holder = holder_of(folder)
    if holder is None or holder.alive is False:
        raise InputError(
            f"no job holds {folder}: only a run that is going on can be asked. profile.steps=FIRST-LAST of "
            "`megaphi train` profiles steps that are known beforehand"
        )
    write_request(folder, steps=arguments.steps)
    ends = time.monotonic() + arguments.wait
    while is_waiting(folder) and time.monotonic() < ends:
        time.sleep(0.2)
    taken = f"not taken within {arguments.wait:g} s, and waits for" if is_waiting(folder) else "taken by"
    print(
        f"the request of {arguments.steps} steps was {taken} {holder.described}; profiles go to {folder / 'profiles'}"
    )
    return 0
