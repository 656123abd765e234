"""`megaphi doctor --node`: the table of a node's health, by which launch scripts refuse a node before a job starts.

Every row names what was looked at, what was found, and ok, unknown or FAIL; a row that could not be looked at never
fails a node. torch is imported for `--bandwidth` only.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from megaphi.config import user_path
from megaphi.errors import InputError
from megaphi.foreign.visible_text import one_message
from megaphi.planning.node.finding import Finding

FOLDER_GB = 20.0
"""Room for some checkpoints of a small run; one of the 14B with its optimizer takes about 200."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    node = parser.add_argument_group("health of this node")
    node.add_argument(
        "--node", action="store_true", help="check this node and nothing else; exit code 1 if it is unfit"
    )
    node.add_argument("--gpus", type=int, metavar="N", help="GPUs that it must have (default: any number)")
    node.add_argument("--folder", type=user_path, metavar="PATH", help="run folder, which must take checkpoints")
    node.add_argument("--folder-gb", type=float, metavar="GB", help="room that it must have (default: 20)")
    node.add_argument("--scratch", type=user_path, metavar="PATH", help="local scratch folder (default: TMPDIR)")
    node.add_argument(
        "--bandwidth", action="store_true", default=None, help="measure an all-reduce between its GPUs, too"
    )


def is_asked(arguments: argparse.Namespace) -> bool:
    """Return whether the node is to be checked. Raises InputError for words that do not go together."""
    own = ("bandwidth", "folder", "folder_gb", "gpus", "scratch")
    given = [f"--{name.replace('_', '-')}" for name in own if getattr(arguments, name) is not None]
    if given and not arguments.node:
        raise InputError(f"{', '.join(given)}: a check of the node alone, which --node asks for")
    if arguments.node and arguments.recipe is not None:
        raise InputError(f"--node checks this node and no recipe: leave out {arguments.recipe}")
    return arguments.node


def run(arguments: argparse.Namespace) -> int:
    from megaphi.planning.node.gpus import check_gpus
    from megaphi.planning.node.host import GIGABYTE, check_host

    findings = check_gpus(arguments.gpus or 0)
    findings += check_host(
        folder=Path(arguments.folder or "."),
        folder_bytes=int((arguments.folder_gb or FOLDER_GB) * GIGABYTE),
        scratch=None if arguments.scratch is None else Path(arguments.scratch),
        with_gpus=bool(arguments.gpus),
    )
    if arguments.bandwidth:
        findings.append(_bandwidth(arguments.gpus))
    return show(findings, node=platform.node())


def _bandwidth(gpus: int | None) -> Finding:
    from megaphi.parallel.devices import gpus as count_gpus
    from megaphi.planning.node.bandwidth import check_bandwidth

    found = gpus or count_gpus() or min(2, os.cpu_count() or 1)
    if found == 1:
        return Finding(check="all-reduce", found="one device: nothing to exchange")
    return check_bandwidth(found)


def show(findings: Sequence[Finding], *, node: str) -> int:
    """Print the table, every line with the node's name, as logs of many nodes run together; returns the exit code."""
    failed = [finding.check for finding in findings if finding.verdict == "FAIL"]
    for finding in findings:
        print(f"{node}  {finding.check:<14} {finding.verdict:<8} {one_message(finding.found)}")
    print(f"{node}  {'unfit: ' + ', '.join(failed) if failed else 'fit'}", flush=True)
    return 1 if failed else 0
