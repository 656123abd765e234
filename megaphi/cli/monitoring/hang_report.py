"""Say where the ranks of a job that hung part: rank, process group, operation, sequence number, line of the program.

Reads the dumps of torch's flight recorder that every rank of a run writes to RUN/hang when the job ends because a rank
was lost or none moved, or that NCCL's watchdog or any other PyTorch job has left. Nothing is unpickled. Exit code 0 if
the ranks agree, 1 if they part.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megaphi.config import user_path

HELP = "say at which operation the ranks of a hung job part"
EXAMPLE = """examples:
  megaphi hang-report runs/phi4                                  the dumps in runs/phi4/hang
  megaphi hang-report /tmp/nccl_trace_rank_*                     those of any PyTorch job, one per rank
"""
MOST_GROUPS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", type=user_path, metavar="PATH", nargs="+", help="a run folder, a folder of dumps, or the dumps"
    )


def run(arguments: argparse.Namespace) -> int:
    from megaphi.parallel.liveness.dumps import read_dumps
    from megaphi.parallel.liveness.hang_report import describe, missing_dumps, partings
    from megaphi.parallel.rendezvous.differences import named

    dumps = read_dumps([Path(path) for path in arguments.paths])
    collectives = sum(len(found) for dump in dumps for found in dump.operations.values())
    print(f"dumps of {named([dump.rank for dump in dumps], {})}: {collectives:,} collectives are compared", end="")
    messages = sum(dump.messages for dump in dumps)
    print(f"; {messages:,} messages between two ranks are not" if messages else "")
    if absent := missing_dumps(dumps):
        print(f"no dump of {named(absent, {})}: killed or stopped before it could write one, or kept elsewhere")
    found = partings(dumps)
    for parting in found[:MOST_GROUPS]:
        print("\n".join(describe(parting)))
    if len(found) > MOST_GROUPS:
        print(f"and {len(found) - MOST_GROUPS} more groups, which have waited for less long")
    if not found:
        print("all ranks have started the same collectives: the hang, if there is one, is outside of them")
    return 1 if found else 0
